// One tomogram large: which slice is wanted, which one is there, and what is drawn of it.

import { pictures } from "./api.js";
import { byId, middle, say } from "./dom.js";
import { clock, duration, fileName, folderOf, reasonOf, short, whole } from "./format.js";
import { Frames } from "./frames.js";
import { Stage } from "./stage.js";

const AHEAD = [1, -1, 2, 3, -2]; // slices to fetch next, in the direction of the slider
const NOTCH = 60; // pixels: less than a notch of a mouse's wheel, many events of a touch pad

const LOST = {
  gone: "The tomogram's file is gone; these are its labels",
  changed: "The tomogram's file has changed since; these are the labels of what it was",
};

/** The viewer; `moved` is called when the user slides. */
export class Viewer {
  #frames = new Frames();
  #stage = new Stage();
  #slider = byId("z");
  #entry = null;
  #detail = null;
  #z = 0;
  #step = 1;
  #drawn = null; // number, z, and what there was of the tomogram, of what is on the canvas
  #loading = null;
  #turned = 0; // pixels that the wheel was turned since the last slice
  #failed = new Set(); // what could not be had, so that it is not asked for again and again

  constructor(moved) {
    this.#slider.addEventListener("input", () => {
      moved();
      this.#slide(this.#slider.valueAsNumber);
    });
    for (const [id, step] of [["z-down", -1], ["z-up", 1]]) {
      byId(id).addEventListener("click", () => {
        moved();
        this.#slide(this.#z + step);
      });
    }
    byId("stage").addEventListener("wheel", (event) => {
      // Where there is a page to scroll, the wheel does that.
      if (document.documentElement.scrollHeight > window.innerHeight || this.#slider.disabled || event.ctrlKey) return;
      event.preventDefault();
      const pixels = event.deltaY * (event.deltaMode === WheelEvent.DOM_DELTA_PIXEL ? 1 : NOTCH);
      this.#turned += Math.max(-NOTCH, Math.min(NOTCH, pixels));
      if (Math.abs(this.#turned) < NOTCH) return;
      moved();
      this.#slide(this.#z - Math.sign(this.#turned));
      this.#turned = 0;
    }, { passive: false });
  }

  /** Draw with these colours and this opacity. */
  paint(palette, opacity) {
    this.#stage.paint(palette, opacity);
  }

  /** Say why there is nothing to show. */
  empty(name, title, text) {
    this.#entry = this.#detail = this.#drawn = null;
    say(byId("viewer-name"), name);
    byId("viewer-name").removeAttribute("aria-label");
    say(byId("viewer-facts"), "");
    this.#enable(false);
    this.#stage.blank(title, text);
  }

  /** Show a tomogram by what the server says of it alone; the slice that one was at stays where it is the same one. */
  show(detail) {
    const other = this.#entry?.number !== detail.number;
    this.#entry = this.#detail = detail;
    this.#failed.clear();
    this.#stage.stale(other && this.#drawn !== null);
    const depth = detail.shape?.[0] ?? 1;
    if (other || this.#z >= depth) this.#z = detail.preview_z ?? Math.floor(depth / 2);
    if (!detail.slices_available && detail.preview_z !== null) this.#z = detail.preview_z;
    this.#slider.max = depth - 1;
    this.#slider.value = this.#z;
    this.describe(detail);
    this.#enable(detail.slices_available);
    if (this.#addresses(this.#z)) this.#fetch();
    else this.#nothing(detail);
  }

  /** Say what has changed about the tomogram that is shown. */
  describe(entry) {
    this.#entry = entry;
    const [depth, height, width] = entry.shape ?? [];
    const size = entry.voxel_size?.[0];
    if (byId("viewer-name").textContent !== fileName(entry.path)) {
      byId("viewer-name").replaceChildren(middle(fileName(entry.path)));
      byId("viewer-name").setAttribute("aria-label", fileName(entry.path));
    }
    say(byId("viewer-facts"), [
      folderOf(entry.path) && `${folderOf(entry.path)}/`,
      entry.shape && `${width} × ${height} × ${depth}`,
      size && `${size.toFixed(2)} Å`,
      clock(entry.complete ?? entry.noticed),
    ].filter(Boolean).join("  ·  "));
    this.#note();
  }

  #enable(slides) {
    const depth = this.#entry?.shape?.[0] ?? 1;
    this.#slider.disabled = byId("z-down").disabled = byId("z-up").disabled = !slides || depth < 2;
    this.#sayZ();
  }

  #sayZ() {
    const depth = this.#entry?.shape?.[0];
    const known = depth && this.#detail && (this.#detail.slices_available || this.#detail.preview_z !== null);
    say(byId("z-text"), known ? `${this.#z} / ${depth - 1}` : "–");
    this.#slider.setAttribute("aria-valuetext", known ? `slice ${this.#z} of 0 to ${depth - 1}` : "no slices yet");
  }

  #slide(z) {
    const wanted = Math.max(0, Math.min(Number(this.#slider.max), z));
    if (wanted === this.#z) return;
    this.#step = Math.sign(wanted - this.#z);
    this.#z = wanted;
    this.#slider.value = wanted;
    this.#sayZ();
    this.#fetch();
  }

  /** Where slice z is to be had; null where it is not. */
  #addresses(z) {
    if (this.#detail?.slices_available) return pictures.slice(this.#entry, z);
    return this.#detail?.preview_z === z ? pictures.preview(this.#entry) : null;
  }

  /** Fetch the wanted slice, then its neighbours, one at a time: the slider never waits for a queue of its own. */
  async #fetch() {
    const here = this.#frames.peek(this.#addresses(this.#z));
    if (here) this.#draw(this.#entry, this.#z, here);
    if (this.#loading) {
      // Another tomogram's slice is of no use any more; one of this tomogram shows that the slider moves.
      if (this.#loading.number !== this.#entry.number) this.#loading.abort.abort();
      return;
    }
    for (let next = this.#next(); next; next = this.#next()) {
      const { entry, z, addresses } = next;
      this.#loading = { number: entry.number, abort: new AbortController() };
      this.#stage.busy(z === this.#z && !this.#frames.peek(addresses));
      try {
        const frame = await this.#frames.load(addresses, this.#loading.abort.signal);
        if (this.#isNearer(entry, z)) this.#draw(entry, z, frame);
      } catch (error) {
        if (error.name === "AbortError") continue;
        this.#failed.add(addresses.labels);
        if (entry.number === this.#entry?.number && z === this.#z) this.#broken(error);
      } finally {
        this.#loading = null;
        this.#stage.busy(false);
      }
    }
  }

  /** The slice that is wanted most and is not here. */
  #next() {
    if (!this.#entry) return null;
    const last = (this.#entry.shape?.[0] ?? 1) - 1;
    for (const offset of [0, ...AHEAD]) {
      const z = this.#z + offset * this.#step;
      const addresses = z < 0 || z > last ? null : this.#addresses(z);
      if (addresses && !this.#failed.has(addresses.labels) && !this.#frames.peek(addresses)) {
        return { entry: this.#entry, z, addresses };
      }
    }
    return null;
  }

  #isNearer(entry, z) {
    if (entry.number !== this.#entry?.number || this.#failed.has(this.#addresses(this.#z)?.labels)) return false;
    if (this.#drawn?.number !== entry.number) return true;
    return Math.abs(z - this.#z) <= Math.abs(this.#drawn.z - this.#z);
  }

  #draw(entry, z, frame) {
    this.#drawn = { number: entry.number, z, tomogram: frame.tomogram };
    this.#stage.draw(frame, entry, `${fileName(entry.path)}, slice ${z} with its labels`);
    this.#note();
  }

  /** A line over the picture: what it is, where that is not a labelled tomogram's slice. */
  #note() {
    const entry = this.#entry;
    const running = entry.state === "running" && entry.shape;
    const note = {
      running: running && `First look: slice ${this.#z}. Labelling ${entry.slices} of ${entry.shape[0]} slices`,
      quarantined: reasonOf(entry),
      waiting: "First look; waiting to be labelled",
      done: LOST[this.#drawn?.tomogram],
    }[entry.state];
    this.#stage.note(note || "", entry.state === "quarantined");
  }

  #nothing(entry) {
    this.#drawn = null;
    const took = entry.size ? `${short(entry.size, "B")} so far` : "";
    this.#stage.blank(...{
      arriving: ["Being written", reasonOf(entry) ?? took],
      waiting: ["Waiting", "Its first picture comes as soon as a watcher takes it."],
      running: ["Opening", "Its central slice is labelled first."],
      quarantined: ["Cannot be labelled", `${reasonOf(entry) ?? ""}\nIt is tried again when the file changes.`, true],
      gone: ["Gone", "The file was deleted before it was labelled."],
      done: ["Labelled", entry.seconds === null ? "" : `${whole(entry.slices)} slices in ${duration(entry.seconds)}`],
    }[entry.state]);
  }

  #broken(error) {
    this.#drawn = null;
    const gone = "The labels of this slice are not there any more.";
    this.#stage.blank("No picture", error.status === 404 ? gone : "The server did not send it.");
  }
}
