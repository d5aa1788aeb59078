/**
 * From ink to pixels: strokes as they were drawn -> 28 x 28 pixels in MNIST's framing.
 *
 * MNIST's digits fill a box of 20 x 20 pixels and stand with their centre of mass in the middle of
 * 28 x 28 (http://yann.lecun.com/exdb/mnist/). Their lines are about two and a half pixels wide,
 * whatever the size of the hand that wrote them; so the lines are drawn anew, with one pen, after
 * the drawing was scaled. Nothing is read from a canvas, which some browsers blur on purpose.
 */

export const SIDE = 28;
const BOX = 20;
const PEN = 2.5; // pixels
const FINE = 4; // samples of a pixel along each side

/**
 * @param strokes lists of points [x, y], in any unit, y downwards. A stroke of one point is a dot.
 * @param pen the width of the drawn lines, in the same unit; what is smaller than it is a dot.
 * @returns 28 rows of 28 whole numbers, 0 (ground) to 255 (ink); all 0 where there is no stroke.
 */
export function pixelsOf(strokes, pen) {
  const points = strokes.flat();
  if (!points.length) return blank(SIDE, SIDE);
  const xs = points.map(([x]) => x);
  const ys = points.map(([, y]) => y);
  const [left, top] = [Math.min(...xs), Math.min(...ys)];
  const [width, height] = [Math.max(...xs) - left, Math.max(...ys) - top];
  const scale = (BOX - PEN) / Math.max(width, height, 3 * pen);
  const middle = SIDE / 2;
  const place = (dx, dy) =>
    strokes.map((stroke) =>
      stroke.map(([x, y]) => [
        (x - left - width / 2) * scale + middle + dx,
        (y - top - height / 2) * scale + middle + dy,
      ]),
    );
  const [x, y] = centreOfMass(drawn(place(0, 0)));
  return drawn(place(within(middle - x), within(middle - y))).map((row) => row.map(Math.round));
}

/** Half of what lies beside the box: further, a part of the digit would leave the picture. */
const within = (shift) => Math.max(-(SIDE - BOX) / 2, Math.min((SIDE - BOX) / 2, shift));

const blank = (rows, columns) => Array.from({ length: rows }, () => new Array(columns).fill(0));

/** Lines of one pen, 0 to 255 for each pixel: the share of it that is covered. */
function drawn(strokes) {
  const side = SIDE * FINE;
  const inked = new Uint8Array(side * side);
  for (const stroke of strokes) {
    stroke.forEach((point, index) => ink(inked, side, stroke[Math.max(index - 1, 0)], point));
  }
  const pixels = blank(SIDE, SIDE);
  inked.forEach((covered, index) => {
    if (!covered) return;
    const [row, column] = [Math.floor(index / side), index % side];
    pixels[Math.floor(row / FINE)][Math.floor(column / FINE)] += 255 / FINE ** 2;
  });
  return pixels;
}

/** Mark every sample that is nearer than half a pen to the line from `a` to `b`. */
function ink(inked, side, a, b) {
  const radius = (PEN * FINE) / 2;
  const [ax, ay, bx, by] = [...a, ...b].map((value) => value * FINE);
  const length = (bx - ax) ** 2 + (by - ay) ** 2;
  const from = (value) => Math.max(0, Math.floor(value - radius));
  const to = (value) => Math.min(side - 1, Math.ceil(value + radius));
  for (let row = from(Math.min(ay, by)); row <= to(Math.max(ay, by)); row++) {
    for (let column = from(Math.min(ax, bx)); column <= to(Math.max(ax, bx)); column++) {
      const [x, y] = [column + 0.5, row + 0.5];
      const along = length ? ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length : 0;
      const t = Math.max(0, Math.min(1, along));
      const apart = (x - ax - t * (bx - ax)) ** 2 + (y - ay - t * (by - ay)) ** 2;
      if (apart <= radius ** 2) inked[row * side + column] = 1;
    }
  }
}

/** The mean place of the ink, [x, y] in pixels. */
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
