/** The board: a drawing made with a pointer or the keyboard, or a picture. */

import { make, showPixels } from "./dom.js";
import { pixelsOf } from "./ink.js";

const STEP = 0.04; // of the board, per arrow key; five times as much with Shift
const WAYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const PAPER = "#ffffff"; // also in the dark theme
const INK = "#1d2733";

export class Board {
  /** `changed` is called when the ink or the shown picture has changed. */
  constructor(canvas, changed) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.changed = changed;
    this.strokes = []; // lists of points [x, y] in the canvas' pixels
    this.width = 36; // of the pen
    this.shown = null; // instead of the ink: `{ pixels }`, or `{ picture }`
    this.keys = { x: 0.5, y: 0.5, down: false, seen: false }; // the keyboard's pen
    this.#followPointer();
    this.#followKeys();
    this.#draw();
  }

  /** The ink as the networks see it: 28 rows of 28 whole numbers. */
  pixels() {
    return pixelsOf(this.strokes, this.width);
  }

  /** Whether there is something to undo. */
  get undoable() {
    return this.shown !== null || this.strokes.length > 0;
  }

  /** Show `{ pixels }` or `{ picture }` instead of the ink, if given; null shows the ink. */
  show(shown) {
    this.shown = shown;
    this.#draw();
    this.changed();
  }

  setWidth(width) {
    this.width = width;
    this.show(null);
  }

  /** Undo the last stroke, or show the ink again. */
  undo() {
    if (this.shown === null) this.strokes.pop();
    this.show(null);
  }

  clear() {
    this.strokes = [];
    this.show(null);
  }

  #draw() {
    const { canvas, context } = this;
    context.fillStyle = PAPER;
    context.fillRect(0, 0, canvas.width, canvas.height);
    if (this.shown?.pixels) this.#drawPixels(this.shown.pixels);
    else if (this.shown?.picture) this.#drawPicture(this.shown.picture);
    else if (this.shown === null) this.#drawInk();
  }

  #drawPixels(pixels) {
    const small = make("canvas");
    showPixels(small, pixels);
    this.context.imageSmoothingEnabled = false;
    this.context.drawImage(small, 0, 0, this.canvas.width, this.canvas.height);
  }

  #drawPicture(picture) {
    const scale = Math.min(this.canvas.width / picture.width, this.canvas.height / picture.height);
    const [width, height] = [picture.width * scale, picture.height * scale];
    const [x, y] = [(this.canvas.width - width) / 2, (this.canvas.height - height) / 2];
    this.context.drawImage(picture, x, y, width, height);
  }

  #drawInk() {
    const { context, keys } = this;
    context.lineWidth = this.width;
    context.lineCap = context.lineJoin = "round";
    context.strokeStyle = INK;
    for (const stroke of this.strokes) {
      context.beginPath();
      context.moveTo(...stroke[0]);
      for (const point of stroke) context.lineTo(...point);
      context.stroke();
    }
    if (!keys.seen) return;
    context.lineWidth = 3;
    context.strokeStyle = keys.down ? "#d9772b" : "#2563a8";
    context.beginPath();
    context.arc(...this.#keysPlace(), this.width / 2, 0, 2 * Math.PI);
    context.stroke();
  }

  #followPointer() {
    const { canvas } = this;
    const place = (event) => {
      const { left, top } = canvas.getBoundingClientRect();
      const [x, y] = [event.clientX - left - canvas.clientLeft, event.clientY - top - canvas.clientTop];
      return [(x * canvas.width) / canvas.clientWidth, (y * canvas.height) / canvas.clientHeight];
    };
    let stroke = null;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || stroke) return;
      canvas.setPointerCapture(event.pointerId);
      stroke = [place(event)];
      this.strokes.push(stroke);
      this.keys.seen = false;
      this.show(null);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!stroke || !canvas.hasPointerCapture(event.pointerId)) return;
      const events = event.getCoalescedEvents?.() ?? [];
      stroke.push(...(events.length ? events : [event]).map(place));
      this.show(null);
    });
    const lift = () => (stroke = null);
    canvas.addEventListener("pointerup", lift);
    canvas.addEventListener("pointercancel", lift);
  }

  #keysPlace() {
    return [this.keys.x * this.canvas.width, this.keys.y * this.canvas.height];
  }

  #followKeys() {
    const { canvas, keys } = this;
    const acts = {
      " ": () => {
        keys.down = !keys.down;
        if (keys.down) this.strokes.push([this.#keysPlace()]);
        this.show(null);
      },
      Backspace: () => {
        keys.down = false;
        this.undo();
      },
      Delete: () => {
        keys.down = false;
        this.clear();
      },
    };
    for (const [key, [x, y]] of Object.entries(WAYS)) {
      acts[key] = (far) => {
        keys.x = Math.max(0, Math.min(1, keys.x + x * far));
        keys.y = Math.max(0, Math.min(1, keys.y + y * far));
        if (keys.down) this.strokes.at(-1).push(this.#keysPlace());
        this.show(null);
      };
    }
    canvas.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in acts)) return;
      event.preventDefault();
      keys.seen = true;
      acts[event.key](STEP * (event.shiftKey ? 5 : 1));
    });
    canvas.addEventListener("blur", () => {
      keys.seen = keys.down = false;
      this.#draw();
    });
  }
}
