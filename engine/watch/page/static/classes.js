// The classes: which are drawn, how strongly, and how much of each there is.

import { byId, make, say } from "./dom.js";
import { percent, short, voxelsOf, whole } from "./format.js";
import { paletteOf } from "./paint.js";

/** The table of classes and the opacity; `changed(palette, opacity)` is called when what is drawn changes. */
export class Classes {
  #classes = [];
  #hidden = new Set();
  #rows = new Map();
  #opacity = byId("opacity");
  #changed;

  constructor(changed) {
    this.#changed = changed;
    this.#opacity.addEventListener("input", () => this.#tell());
  }

  /** Set the model's classes; those that were hidden stay so. */
  use(classes) {
    if (JSON.stringify(classes) === JSON.stringify(this.#classes)) return;
    this.#classes = classes;
    this.#rows = new Map(classes.map((one) => [one.name, this.#row(one)]));
    byId("classes").replaceChildren(...[...this.#rows.values()].map(({ row }) => row));
    this.#tell();
  }

  /** Fill in the figures of a tomogram; null for none. */
  fill(entry) {
    const voxels = entry && voxelsOf(entry);
    const most = Math.max(1, ...Object.values(entry?.counts ?? {}));
    for (const [name, { volume, count, objects, bar }] of this.#rows) {
      const found = entry?.counts?.[name];
      const known = found !== undefined && found !== null && voxels;
      say(volume, known ? percent(found / voxels) : "–");
      say(count, known ? short(found) : "–");
      count.title = known ? `${whole(found)} voxels` : "";
      bar.style.width = known ? `${(found / most) * 100}%` : "0";
      const number = entry?.objects?.[name];
      say(objects, number === undefined || number === null ? "–" : whole(number));
    }
  }

  #row({ name, colour }) {
    const box = make("input", { type: "checkbox", checked: !this.#hidden.has(name) });
    box.style.setProperty("--colour", colour);
    box.addEventListener("change", () => {
      if (box.checked) this.#hidden.delete(name);
      else this.#hidden.add(name);
      this.#tell();
    });
    const [volume, count, objects] = [make("td"), make("td"), make("td")];
    const bar = make("span", { class: "bar" });
    bar.style.backgroundColor = colour;
    const head = make("th", { scope: "row" }, make("label", {}, box, make("span", {}, name)), bar);
    return { row: make("tr", {}, head, volume, count, objects), volume, count, objects, bar };
  }

  #tell() {
    const opacity = this.#opacity.valueAsNumber;
    say(byId("opacity-text"), `${opacity}\u00a0%`);
    this.#changed(paletteOf(this.#classes, this.#hidden), opacity / 100);
  }
}
