// The head of the page: where, with what, how many, how fast, and whether what is shown is up to date.

import { byId, describe, say } from "./dom.js";
import { clock, STATES, short, whole } from "./format.js";

const WORDS = { live: "live", lost: "reconnecting", connecting: "connecting" };

/** Say how the page is connected: "live", "lost" or "connecting". */
export function showLink(state, watched) {
  byId("link").dataset.link = state === "live" && !watched ? "idle" : state;
  say(byId("link-text"), state === "live" && !watched ? "no watcher" : WORDS[state]);
}

/** The line under the head: what the user has to know before anything else; empty for none. */
export function showBanner(text, kind = "warn") {
  const banner = byId("banner");
  banner.hidden = text === "";
  banner.dataset.kind = kind;
  say(banner, text);
}

/** What is wrong with the whole, in a line. */
export function troubleOf(status, link, heard) {
  if (link === "lost") {
    return `No answer from the watcher's page since ${clock(heard)}. What is shown may be old; trying again.`;
  }
  if (status?.paused) return `Paused: ${status.paused}`;
  if (status && status.watchers.length === 0) {
    return "No watcher runs on this folder, so nothing new is labelled. Start one with tomoscribe watch.";
  }
  return "";
}

/** Folder, model and counts. */
export function showHead(status) {
  const { states } = status;
  say(byId("folder"), status.folder);
  say(byId("model"), [status.model, status.backend].filter(Boolean).join("  ·  "));
  byId("model").title = byId("model").textContent;
  const queue = states.waiting + states.arriving;
  describe(byId("counts"), [
    [STATES.done, whole(states.done)],
    ["in queue", whole(queue + states.running)],
    [STATES.quarantined, whole(states.quarantined)],
  ]);
  byId("counts").lastElementChild.classList.toggle("bad", states.quarantined > 0);
  const speed = status.running.reduce((sum, entry) => sum + (entry.voxels_per_second ?? 0), 0);
  say(byId("speed-voxels"), speed ? short(speed, "voxel/s") : status.running.length ? "starting" : "idle");
  document.title = `${whole(states.done)} labelled${queue ? `, ${whole(queue)} to go` : ""} · ${status.folder}`;
}
