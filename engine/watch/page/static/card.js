// A tomogram in the gallery.

import { pictures } from "./api.js";
import { draw, make, middle, say } from "./dom.js";
import { clock, fileName, percent, STATES, voxelsOf } from "./format.js";

const GLYPHS = {
  arriving: "M12 4v11m-5-5 5 5 5-5M5 20h14",
  quarantined: "M12 4 21 20H3zM12 10v5m0 2.6v.1",
  gone: "M6 6l12 12M18 6 6 18",
};
const LAYERS = "M12 4 21 9l-9 5-9-5zM3 14l9 5 9-5";

const glyph = (state) => draw("svg", { viewBox: "0 0 24 24", class: "glyph", "aria-hidden": "true" },
  draw("path", { d: GLYPHS[state] ?? LAYERS }));

/** A list item with a button: thumbnail, name, and what the gallery is sorted by. */
export class Card {
  #entry = null;
  #button;
  #picture = null;
  #frame = make("span", { class: "thumb" });
  #name = make("span", { class: "name" });
  #state = make("span", { class: "state" });
  #told = make("span", { class: "told" });
  #mix = make("span", { class: "mix", "aria-hidden": "true" });

  constructor(number, choose) {
    this.#button = make("button", { type: "button", class: "card", "data-number": number, tabindex: -1 },
      this.#frame, this.#mix, this.#name, make("span", { class: "line" }, this.#state, this.#told));
    this.#button.addEventListener("click", choose);
    this.item = make("li", {}, this.#button);
  }

  /** Take in an entry as the server tells it. */
  change(entry, wanted, classes) {
    const before = this.#entry;
    this.#entry = entry;
    if (before?.path !== entry.path) {
      this.#name.replaceChildren(middle(fileName(entry.path)));
      this.#button.title = entry.path;
    }
    this.#button.dataset.state = entry.state;
    this.#illustrate();
    this.update(wanted, classes);
  }

  /** Say what the gallery is sorted by, and show what there is of each class. */
  update(wanted, classes) {
    const entry = this.#entry;
    const voxels = voxelsOf(entry);
    const working = entry.state === "running" && entry.shape;
    const state = entry.state === "done" ? "" : STATES[entry.state];
    say(this.#state, working ? `${entry.slices} / ${entry.shape[0]}` : state);
    const found = entry.counts?.[wanted.class];
    const problems = entry.warnings.length;
    if (wanted.sort === "class" && voxels && found !== undefined) say(this.#told, percent(found / voxels));
    else if (problems && entry.state === "done") say(this.#told, `${problems} warning${problems > 1 ? "s" : ""}`);
    else say(this.#told, clock(entry.finished ?? entry.complete ?? entry.noticed));
    this.#told.classList.toggle("warned", problems > 0 && wanted.sort !== "class");
    const said = [fileName(entry.path), STATES[entry.state], this.#told.textContent];
    this.#button.setAttribute("aria-label", said.join(", "));
    this.#mix.replaceChildren(...classes.filter(({ name }) => entry.counts?.[name]).map(({ name, colour }) => {
      const part = make("span");
      part.style.flexGrow = entry.counts[name];
      part.style.backgroundColor = colour;
      return part;
    }));
  }

  mark(shown) {
    if (shown) this.#button.setAttribute("aria-current", "true");
    else this.#button.removeAttribute("aria-current");
  }

  #illustrate() {
    const { previewed, state } = this.#entry;
    const source = previewed === null && state !== "done" ? null : pictures.thumbnail(this.#entry);
    const key = source ?? this.#entry.state;
    if (key === this.#picture) return;
    this.#picture = key;
    if (source === null) {
      this.#frame.replaceChildren(glyph(this.#entry.state));
      return;
    }
    const image = make("img", { src: source, alt: "", loading: "lazy", decoding: "async" });
    // The picture may not be made yet; the next change of the entry asks for it again.
    image.addEventListener("error", () => {
      if (this.#picture !== source) return;
      this.#picture = null;
      this.#frame.replaceChildren(glyph(this.#entry.state));
    });
    this.#frame.replaceChildren(image);
  }
}
