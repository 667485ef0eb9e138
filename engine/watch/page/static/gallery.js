// Every tomogram there is, a page at a time.

import { askJson, Refused } from "./api.js";
import { Card } from "./card.js";
import { byId, calmly, make, say } from "./dom.js";
import { whole } from "./format.js";

const PAGE = 48;
const FILTERS = [
  ["All", ""], ["Labelled", "done"], ["Queue", "arriving,waiting,running"], ["Failed", "quarantined"],
];

/** The gallery; `choose(number)` is called with the tomogram that the user picks. */
export class Gallery {
  #cards = new Map();
  #order = [];
  #wanted = { sort: "time", class: "", descending: true, states: "", search: "", offset: 0 };
  #total = 0;
  #shown = null;
  #states = new Map(); // what each tomogram was when it was last heard of
  #classes = [];
  #asking = null;
  #choose;
  #refresh = calmly(() => this.load(), 1000);

  constructor(choose) {
    this.#choose = choose;
    const filters = FILTERS.map(([text, states]) => {
      const radio = make("input", { type: "radio", name: "filter", value: states, checked: states === "" });
      radio.addEventListener("change", () => this.#change({ states }));
      return make("label", {}, radio, make("span", {}, text, make("b", { "data-states": states })));
    });
    byId("filter").append(...filters);
    let typed = null;
    byId("search").addEventListener("input", (event) => {
      clearTimeout(typed);
      typed = setTimeout(() => this.#change({ search: event.target.value.trim() }), 200);
    });
    byId("sort").addEventListener("change", ({ target }) => {
      const [sort, name = ""] = JSON.parse(target.value);
      this.#turn(sort !== "name");
      this.#change({ sort, class: name });
    });
    byId("direction").addEventListener("click", () => {
      this.#turn(!this.#wanted.descending);
      this.#change({});
    });
    byId("page-back").addEventListener("click", () => this.#page(-1));
    byId("page-on").addEventListener("click", () => this.#page(1));
    byId("cards").addEventListener("keydown", (event) => this.#step(event));
    byId("cards").addEventListener("focusin", ({ target }) => this.#reachable(target.closest("button")));
    document.addEventListener("visibilitychange", () => document.hidden || this.#refresh());
    this.#sorts();
  }

  /** Set the model's classes, which one can sort by. */
  use(classes) {
    if (JSON.stringify(classes) === JSON.stringify(this.#classes)) return;
    this.#classes = classes;
    this.#sorts();
    for (const card of this.#cards.values()) card.update(this.#wanted, this.#classes);
  }

  /** Say how many there are of each state. */
  count(states) {
    for (const number of byId("filter").querySelectorAll("b")) {
      const names = number.dataset.states ? number.dataset.states.split(",") : Object.keys(states);
      say(number, whole(names.reduce((sum, name) => sum + (states[name] ?? 0), 0)));
    }
  }

  /** Mark the tomogram that is shown large. */
  mark(number) {
    this.#shown = number;
    for (const [of, card] of this.#cards) card.mark(of === number);
  }

  /** Show only those of these states, as the filter does. */
  filter(states) {
    byId("filter").querySelector(`input[value="${states}"]`).click();
    byId("gallery").scrollIntoView({ block: "start" });
  }

  /** Take in what has changed about a tomogram. */
  heard(entry) {
    const card = this.#cards.get(entry.number);
    card?.change(entry, this.#wanted, this.#classes);
    // Progress changes nothing about what is where; another state does.
    if (this.#states.get(entry.number) !== entry.state && !document.hidden) this.#refresh();
    this.#states.set(entry.number, entry.state);
  }

  /** Ask for the page that is wanted. */
  async load() {
    this.#asking?.abort();
    this.#asking = new AbortController();
    const given = Object.entries({ ...this.#wanted, limit: PAGE }).filter(([, value]) => value !== "");
    try {
      const { total, items } = await askJson("api/tomograms", Object.fromEntries(given), this.#asking.signal);
      if (items.length === 0 && this.#wanted.offset > 0) {
        this.#wanted.offset = Math.max(0, Math.floor((total - 1) / PAGE) * PAGE);
        await this.load();
        return;
      }
      this.#total = total;
      this.#fill(items);
    } catch (error) {
      // Without an answer the list stays, and the banner says how old it is.
      if (error.name !== "AbortError" && !(error instanceof Refused || error instanceof TypeError)) throw error;
    }
  }

  #change(wanted) {
    Object.assign(this.#wanted, wanted, { offset: 0 });
    this.load();
  }

  #page(step) {
    this.#wanted.offset = Math.max(0, this.#wanted.offset + step * PAGE);
    this.load().then(() => byId("gallery-title").scrollIntoView({ block: "nearest" }));
    byId("shelf").scrollTop = 0;
  }

  #turn(descending) {
    this.#wanted.descending = descending;
    say(byId("direction"), descending ? "↓" : "↑");
    const [is, other] = descending ? ["Descending", "ascending"] : ["Ascending", "descending"];
    byId("direction").setAttribute("aria-label", `${is}; press for ${other}`);
  }

  #sorts() {
    const option = (text, ...value) => make("option", { value: JSON.stringify(value) }, text);
    const before = byId("sort").value;
    byId("sort").replaceChildren(option("Time", "time"), option("Name", "name"), option("Problem", "problem"),
      ...(this.#classes.length ? [make("optgroup", { label: "Most of a class" },
        ...this.#classes.map(({ name }) => option(name, "class", name)))] : []));
    if (before) byId("sort").value = before;
  }

  #fill(items) {
    const focused = document.activeElement?.closest?.(".card")?.dataset.number;
    const before = this.#cards;
    this.#cards = new Map(items.map((entry) => {
      const card = before.get(entry.number) ?? new Card(entry.number, () => this.#choose(entry.number));
      card.change(entry, this.#wanted, this.#classes);
      card.mark(entry.number === this.#shown);
      this.#states.set(entry.number, entry.state);
      return [entry.number, card];
    }));
    this.#order = [...this.#cards.values()].map((card) => card.item);
    const list = byId("cards");
    if (this.#order.some((item, at) => list.children[at] !== item) || list.children.length !== this.#order.length) {
      list.replaceChildren(...this.#order);
      if (focused !== undefined) list.querySelector(`[data-number="${focused}"]`)?.focus({ preventScroll: true });
    }
    this.#reachable(list.querySelector(`[data-number="${focused ?? this.#shown}"]`) ?? list.querySelector("button"));
    this.#say();
  }

  #say() {
    const { offset, search, states } = this.#wanted;
    const pages = Math.ceil(this.#total / PAGE);
    byId("pages").hidden = pages < 2;
    const last = Math.min(this.#total, offset + PAGE);
    say(byId("page-text"), `${whole(offset + 1)}–${whole(last)} of ${whole(this.#total)}`);
    byId("page-back").disabled = offset === 0;
    byId("page-on").disabled = offset + PAGE >= this.#total;
    byId("nothing").hidden = this.#total > 0;
    const all = "Every reconstruction that lands in the folder appears here.";
    say(byId("nothing"), search || states ? "None fits." : all);
  }

  /** One card at a time can be tabbed to; the arrows lead to the others. */
  #reachable(button) {
    if (!button) return;
    for (const other of byId("cards").querySelectorAll("button")) other.tabIndex = other === button ? 0 : -1;
  }

  #step(event) {
    const at = this.#order.indexOf(document.activeElement.closest("li"));
    if (at < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
    const columns = Math.max(1, this.#order.filter((item) => item.offsetTop === this.#order[0].offsetTop).length);
    const last = this.#order.length - 1;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -last, End: last };
    const to = at + steps[event.key];
    if (Number.isNaN(to)) return;
    event.preventDefault();
    this.#order[Math.max(0, Math.min(last, to))].firstElementChild.focus();
  }
}
