// The canvas of the viewer: as large as its room allows, sharp on any screen, with a scale bar.

import { byId, say } from "./dom.js";
import { roundLength } from "./format.js";
import { compose, paletteOf } from "./paint.js";

/** Draws frames, or says why there is none. */
export class Stage {
  #room = byId("stage");
  #canvas = byId("canvas");
  #composed = document.createElement("canvas"); // a frame in colour, a pixel for each of its own
  #frame = null;
  #entry = null;
  #palette = paletteOf([], new Set());
  #opacity = 0;
  #due = null;

  constructor() {
    new ResizeObserver(() => this.#later()).observe(this.#room);
  }

  /** Draw with these colours and this opacity. */
  paint(palette, opacity) {
    this.#palette = palette;
    this.#opacity = opacity;
    this.#later();
  }

  /** Show a frame of an entry. */
  draw(frame, entry, caption) {
    this.#frame = frame;
    this.#entry = entry;
    this.stale(false);
    this.#canvas.setAttribute("aria-label", caption);
    this.#later();
  }

  /** Say that something is on its way. */
  busy(yes) {
    this.#room.classList.toggle("busy", yes);
  }

  /** Dim a picture that is not of the tomogram whose name stands above it. */
  stale(yes) {
    this.#room.classList.toggle("stale", yes);
  }

  /** Put a line over the picture; none if it is empty. */
  note(text, bad) {
    const pill = byId("viewer-note");
    pill.hidden = text === "" || !this.#frame;
    pill.classList.toggle("bad", bad);
    say(pill, text);
  }

  /** Say why there is no picture. */
  blank(title, text, bad = false) {
    this.#frame = null;
    this.#canvas.hidden = byId("scale").hidden = byId("viewer-note").hidden = true;
    byId("blank").hidden = false;
    byId("blank").classList.toggle("bad", bad);
    say(byId("blank-title"), title);
    say(byId("blank-text"), text);
  }

  /** Draw once before the screen is next refreshed, however much has changed until then. */
  #later() {
    this.#due ??= requestAnimationFrame(() => {
      this.#due = null;
      if (this.#frame) this.#now();
    });
  }

  #now() {
    const { width, height } = this.#frame;
    if (this.#composed.width !== width || this.#composed.height !== height) {
      Object.assign(this.#composed, { width, height });
    }
    const context = this.#composed.getContext("2d", { willReadFrequently: true });
    const image = context.createImageData(width, height);
    compose(this.#frame, this.#palette, this.#opacity, image.data);
    context.putImageData(image, 0, 0);

    byId("blank").hidden = true;
    this.#canvas.hidden = false;
    // The shape of the voxels' grid, for the picture may be smaller and rounded.
    const [columns, rows] = this.#entry.shape ? [this.#entry.shape[2], this.#entry.shape[1]] : [width, height];
    this.#room.style.setProperty("--aspect", `${columns} / ${rows}`);
    const scale = Math.min(this.#room.clientWidth / columns, this.#room.clientHeight / rows);
    const shown = { width: Math.floor(columns * scale), height: Math.floor(rows * scale) };
    const dots = Math.min(3, window.devicePixelRatio || 1);
    Object.assign(this.#canvas.style, { width: `${shown.width}px`, height: `${shown.height}px` });
    const target = { width: Math.round(shown.width * dots), height: Math.round(shown.height * dots) };
    const { width: dotsX, height: dotsY } = this.#canvas;
    if (dotsX !== target.width || dotsY !== target.height) Object.assign(this.#canvas, target);
    const screen = this.#canvas.getContext("2d");
    screen.imageSmoothingQuality = "high";
    screen.drawImage(this.#composed, 0, 0, target.width, target.height);
    this.#drawScale(shown.width, columns);
  }

  /** A bar of a round length, at most a fifth of the picture. */
  #drawScale(shown, columns) {
    const size = this.#entry.voxel_size?.[0] || 0;
    const unit = size / 10 || 1; // nm, or voxels where their size is not known
    const length = roundLength((columns * unit) / 5);
    byId("scale").hidden = false;
    byId("scale-bar").style.width = `${(length / unit / columns) * shown}px`;
    say(byId("scale-text"), size ? `${length} nm` : `${length} voxels`);
  }
}
