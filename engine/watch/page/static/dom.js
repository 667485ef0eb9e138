// Building the page's elements. Data goes in as text and attributes, never as markup: file names are strangers' input.

/** The element of the page that has this id. */
export const byId = (id) => document.getElementById(id);

/** A new element; an attribute that is false, null or undefined is left out. */
export function make(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** A new SVG element. */
export function draw(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    const absent = value === false || value === null || value === undefined;
    if (!absent) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Set a text that changes often; one that stays is not touched, so that a selection in it survives. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A name that is shortened in its middle where room is short: numbers stand at the end of file names. */
export function middle(text, tail = 7) {
  const cut = Math.max(0, text.length - tail);
  return make("span", { class: "middle", title: text },
    make("span", {}, text.slice(0, cut)), make("span", {}, text.slice(cut)));
}

/** The terms and descriptions of a `dl`; what has no description is left out. */
export function describe(list, pairs) {
  list.replaceChildren(...pairs.filter(([, value]) => value !== null && value !== undefined && value !== "")
    .map(([term, value]) => make("div", {}, make("dt", {}, term), make("dd", {}, value))));
}

/** Call `work` at most once in `pause` milliseconds, the last call always. */
export function calmly(work, pause) {
  let timer = null;
  let last = -Infinity;
  return () => {
    if (timer !== null) return;
    timer = setTimeout(() => {
      timer = null;
      last = performance.now();
      work();
    }, Math.max(0, last + pause - performance.now()));
  };
}
