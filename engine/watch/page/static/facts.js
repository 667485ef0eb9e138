// What is known of the tomogram that is shown.

import { byId, describe, make } from "./dom.js";
import { clock, duration, short, STATES, voxelsOf } from "./format.js";

const NO_COMMAND = "no command was given"; // what a watcher without --on-done takes down

/** Show the facts of an entry; null hides them. */
export function showFacts(entry) {
  byId("facts").hidden = entry === null;
  if (entry === null) return;
  byId("warnings").replaceChildren(...entry.warnings.map((warning) => make("li", {}, warning)));
  const [depth, height, width] = entry.shape ?? [];
  const size = entry.voxel_size;
  const waited = entry.complete !== null && entry.finished !== null && entry.state === "done"
    ? entry.finished - entry.complete : null;
  describe(byId("facts-list"), [
    ["File", entry.path],
    ["State", STATES[entry.state] + (entry.attempts > 1 ? `, ${entry.attempts} attempts` : "")],
    ["Size", entry.shape && `${width} × ${height} × ${depth}, ${short(entry.size, "B")}`],
    ["Extent", size?.every(Boolean) ? extent([width, height, depth], size) : entry.shape && "voxel size not known"],
    ["Complete", entry.complete && clock(entry.complete)],
    ["Labelled", waited === null ? null : labelled(waited, entry.seconds)],
    ["Speed", entry.seconds && entry.shape ? short(voxelsOf(entry) / entry.seconds, "voxel/s") : null],
    ["Model", entry.model],
    ["Ran on", entry.backend],
    ["Labels", entry.outputs?.labels],
    ["Command", entry.hook === NO_COMMAND ? null : entry.hook],
  ]);
}

function labelled(waited, seconds) {
  const later = `${duration(waited)} later`;
  return seconds === null ? later : `${later}, ${duration(seconds)} of work`;
}

function extent(lengths, size) {
  return `${lengths.map((length, axis) => Math.round((length * size[axis]) / 10)).join(" × ")} nm`;
}
