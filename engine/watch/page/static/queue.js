// What is being labelled, and what comes next.

import { byId, make, middle, say } from "./dom.js";
import { duration, fileName, short, STATES, whole } from "./format.js";

const NEXT = 4; // names of those that wait

/** How the page asks for those that wait. */
export const WAITING = { states: "waiting,arriving", sort: "time", descending: true, limit: NEXT };

/** Show what runs, with its progress. */
export function showRunning(running, choose) {
  const list = byId("running");
  const names = running.map((entry) => String(entry.number));
  if (names.join() !== [...list.children].map((item) => item.dataset.number).join()) {
    list.replaceChildren(...running.map((entry) => item(entry, choose)));
  }
  running.forEach((entry, at) => update(list.children[at], entry));
}

function item(entry, choose) {
  const name = make("button", { type: "button", class: "name", "aria-label": fileName(entry.path) },
    middle(fileName(entry.path)));
  name.addEventListener("click", () => choose(entry.number));
  const bar = make("div", { class: "progress", role: "progressbar", "aria-valuemin": 0,
    "aria-label": `Slices of ${fileName(entry.path)}` }, make("span"));
  return make("li", { "data-number": entry.number }, name, make("span", { class: "slices" }), bar,
    make("p", { class: "dim" }));
}

function update(line, entry) {
  const depth = entry.shape?.[0];
  const bar = line.querySelector(".progress");
  say(line.querySelector(".slices"), depth ? `${entry.slices} / ${depth}` : "opening");
  bar.setAttribute("aria-valuemax", depth ?? 1);
  bar.setAttribute("aria-valuenow", entry.slices);
  bar.firstElementChild.style.width = `${depth ? (entry.slices / depth) * 100 : 0}%`;
  const left = entry.slices_per_second > 0 && depth ? (depth - entry.slices) / entry.slices_per_second : null;
  say(line.querySelector("p"), [
    entry.voxels_per_second > 0 ? short(entry.voxels_per_second, "voxel/s") : null,
    left === null ? null : `${duration(left)} left`,
    entry.attempts > 1 ? `attempt ${entry.attempts}` : null,
  ].filter(Boolean).join("  ·  "));
}

/** Show those that wait, of `total`. */
export function showWaiting(entries, total, choose) {
  byId("waiting").replaceChildren(...entries.slice(0, NEXT).map((entry) => {
    const name = make("button", { type: "button", class: "name", "aria-label": fileName(entry.path) },
    middle(fileName(entry.path)));
    name.addEventListener("click", () => choose(entry.number));
    const told = entry.state === "arriving" ? `${STATES.arriving}, ${short(entry.size, "B")}` : STATES.waiting;
    return make("li", {}, name, make("span", { class: "dim" }, told));
  }));
  const more = total - Math.min(NEXT, entries.length);
  const idle = byId("running").children.length === 0 && total === 0;
  const rest = more > 0 ? `and ${whole(more)} more` : "";
  say(byId("queue-note"), idle ? "Nothing to do; waiting for the next reconstruction." : rest);
}
