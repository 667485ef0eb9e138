// What the server tells by itself, over server-sent events.

const SILENCE = 35_000; // ms; a status comes every 10 s, so the connection is broken though nobody said so
const LONGEST_PAUSE = 15_000; // ms between two attempts

/**
 * Listen for ever. `heard` has `status(status)` and `tomogram(entry)`; `linked("live" | "lost")` is called when that
 * changes, and with "live" after every interruption, when what was missed is to be asked for.
 */
export function listen(heard, linked) {
  let source = null;
  let pause = 1000;
  let retry = null;
  let last = performance.now();
  let state = "connecting";

  const become = (next) => {
    if (state !== next) linked(state = next);
  };
  const on = (name) => source.addEventListener(name, (event) => {
    last = performance.now();
    heard[name](JSON.parse(event.data));
  });
  const open = () => {
    clearTimeout(retry);
    source?.close();
    last = performance.now();
    source = new EventSource("events");
    source.addEventListener("open", () => {
      last = performance.now();
      pause = 1000;
      become("live");
    });
    on("status");
    on("tomogram");
    source.addEventListener("error", () => {
      become("lost");
      // The browser tries again by itself unless the server answered with an error.
      if (source.readyState !== EventSource.CLOSED) return;
      retry = setTimeout(open, pause);
      pause = Math.min(LONGEST_PAUSE, pause * 2);
    });
  };
  const check = () => {
    if (performance.now() - last < SILENCE) return;
    become("lost");
    open();
  };
  setInterval(check, 5000);
  // A phone that slept has lost its connection, and may not know it.
  document.addEventListener("visibilitychange", () => document.hidden || check());
  window.addEventListener("online", open);
  open();
}
