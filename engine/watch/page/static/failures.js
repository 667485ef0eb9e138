// What could not be labelled, and why.

import { byId, make, middle, say } from "./dom.js";
import { clock, fileName, reasonOf, whole } from "./format.js";

const SHOWN = 3;

/** How the page asks for failures. */
export const FAILED = { states: "quarantined", sort: "time", descending: true, limit: SHOWN };

/** Show the newest failures, of `total`; `choose(number)` shows one large. */
export function showFailures(entries, total, choose) {
  byId("failures").hidden = total === 0;
  byId("failures-list").replaceChildren(...entries.slice(0, SHOWN).map((entry) => {
    const name = make("button", { type: "button", class: "name", "aria-label": fileName(entry.path) },
    middle(fileName(entry.path)));
    name.addEventListener("click", () => choose(entry.number));
    const reason = reasonOf(entry) ?? "No reason was given.";
    return make("li", {}, name, make("time", { class: "dim" }, clock(entry.finished ?? entry.noticed)),
      make("p", { title: reason }, reason));
  }));
  byId("failures-all").hidden = total <= SHOWN;
  say(byId("failures-all"), `Show all ${whole(total)}`);
}
