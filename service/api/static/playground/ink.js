/**
 * Convert drawn strokes to 28 x 28 pixels in MNIST's framing.
 *
 * MNIST's digits fill a box of 20 x 20 pixels and stand with their centre of mass in the middle of
 * 28 x 28 (http://yann.lecun.com/exdb/mnist/). Their lines are about two and a half pixels wide,
 * whatever the size of the hand that wrote them; so the lines are drawn anew, with one pen, after
 * the drawing was scaled. Nothing is read from a canvas, which some browsers blur on purpose.
 *
 * Pen, edge and middle were set by the means of MNIST's 60,000 training images; in brackets is what
 * the hundred drawings of tests/support/strokes.json come to:
 * - ink, by the length of its skeleton (the pixels from 128, thinned as by Zhang and Suen): 2.58
 *   pixels (2.56); pixels that are not all ground, by the same: 3.76 (3.79);
 * - of those pixels, the share that is full, 252 or more: 0.35 (0.36); their mean: 172.4 (172.2);
 * - centre of mass from the left and from the top: 14.51, 14.50 pixels (14.50, 14.50), which is
 *   half a pixel past the middle.
 */

export const SIDE = 28;
const BOX = 20;
const PEN = 2.5; // pixels
const EDGE = 1.2; // pixels from background to ink, across a line's edge
const MIDDLE = 14.5; // pixels, position of the centre of mass

/**
 * @param strokes lists of points [x, y], in any unit, y downwards. A stroke of one point is a dot.
 * @param pen the width of the drawn lines, in the same unit; a smaller stroke is a dot.
 * @returns 28 rows of 28 whole numbers, 0 (background) to 255 (ink); all 0 without strokes.
 */
export function pixelsOf(strokes, pen) {
  let [left, top, right, bottom] = [Infinity, Infinity, -Infinity, -Infinity];
  for (const [x, y] of strokes.flat()) {
    [left, right] = [Math.min(left, x), Math.max(right, x)];
    [top, bottom] = [Math.min(top, y), Math.max(bottom, y)];
  }
  const scale = (BOX - PEN) / Math.max(right - left, bottom - top, pen);
  const place = (middleX, middleY) =>
    strokes.map((stroke) =>
      stroke.map(([x, y]) => [
        (x - (left + right) / 2) * scale + middleX,
        (y - (top + bottom) / 2) * scale + middleY,
      ]),
    );
  const half = SIDE / 2;
  const [x, y] = centreOfMass(drawn(place(half, half)));
  const placed = place(half + within(MIDDLE - x), half + within(MIDDLE - y));
  return drawn(placed).map((row) => row.map(Math.round));
}

/** Half of the margin of the box: a larger shift would move part of the digit out of the picture. */
const within = (shift) => Math.max(-(SIDE - BOX) / 2, Math.min((SIDE - BOX) / 2, shift));

/** Draw lines of one pen: 0 to 255 per pixel, by the distance of its centre to the nearest line. */
function drawn(strokes) {
  const apart = Array.from({ length: SIDE }, () => new Array(SIDE).fill(Infinity));
  for (const stroke of strokes) {
    stroke.forEach((point, index) => approach(apart, stroke[Math.max(index - 1, 0)], point));
  }
  const share = (distance) => Math.max(0, Math.min(1, (PEN / 2 - distance) / EDGE + 0.5));
  return apart.map((row) => row.map((squared) => 255 * share(Math.sqrt(squared))));
}

/** Lower the squared distances of the pixels that the line from `a` to `b` can ink. */
function approach(apart, [ax, ay], [bx, by]) {
  const reach = (PEN + EDGE) / 2;
  const from = (value) => Math.max(0, Math.floor(value - reach));
  const to = (value) => Math.min(SIDE - 1, Math.floor(value + reach));
  const [dx, dy] = [bx - ax, by - ay];
  const squaredLength = dx ** 2 + dy ** 2;
  for (let row = from(Math.min(ay, by)); row <= to(Math.max(ay, by)); row++) {
    for (let column = from(Math.min(ax, bx)); column <= to(Math.max(ax, bx)); column++) {
      const [x, y] = [column + 0.5 - ax, row + 0.5 - ay];
      const along = squaredLength ? (x * dx + y * dy) / squaredLength : 0;
      const t = Math.max(0, Math.min(1, along));
      apart[row][column] = Math.min(apart[row][column], (x - t * dx) ** 2 + (y - t * dy) ** 2);
    }
  }
}

/** The centre of mass of the ink, [x, y] in pixels. */
function centreOfMass(pixels) {
  let [mass, x, y] = [0, 0, 0];
  pixels.forEach((row, index) =>
    row.forEach((value, column) => {
      mass += value;
      x += value * (column + 0.5);
      y += value * (index + 0.5);
    }),
  );
  return [x / mass, y / mass];
}
