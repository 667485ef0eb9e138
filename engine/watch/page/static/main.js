// The page: what it asks for, what it hears, and who is told of it.

import { askJson } from "./api.js";
import { Classes } from "./classes.js";
import { byId, calmly, say } from "./dom.js";
import { showFacts } from "./facts.js";
import { FAILED, showFailures } from "./failures.js";
import { fileName } from "./format.js";
import { Gallery } from "./gallery.js";
import { showBanner, showHead, showLink, troubleOf } from "./header.js";
import { listen } from "./live.js";
import { showRunning, showWaiting, WAITING } from "./queue.js";
import { showChart, showLatency, showSparkline } from "./throughput.js";
import { Viewer } from "./viewer.js";

const STUDY = 15_000; // ms after a touch of the slider during which a newer tomogram does not take its place
const SAY = 10_000; // ms between two things said to a screen reader

const now = {
  status: null, // the last that was heard
  heard: Date.now() / 1000, // when that was, seconds
  link: "connecting",
  chosen: null, // the number of the tomogram that is to be shown
  key: null, // what that was like when it was last asked for
  asked: 0, // how often one was
  touched: -Infinity, // when the slider was, ms
  rest: null, // the timer until a newer tomogram may take its place
};
const follow = byId("follow");
const viewer = new Viewer(() => { now.touched = performance.now(); });
const classes = new Classes((palette, opacity) => viewer.paint(palette, opacity));
const gallery = new Gallery(choose);

/** Show the tomogram that the user picked, and stay with it. */
function choose(number) {
  follow.checked = false;
  show(number);
  // On a narrow screen the picture is above what was pressed.
  const top = byId("stage").getBoundingClientRect().top;
  if (top < 0 || top > window.innerHeight * 0.7) byId("viewer-name").scrollIntoView({ block: "start" });
}

/** What of an entry changes more than its progress. */
const keyOf = ({ size, state, complete, previewed, finished, objects, hook }) => (
  JSON.stringify([size, state, complete, previewed, finished, objects, hook]));

/** Show a tomogram large; an answer that comes after another was asked for is dropped. */
async function show(number) {
  now.chosen = number;
  now.asked += 1;
  const asked = now.asked;
  gallery.mark(number);
  try {
    const detail = await askJson(`api/tomograms/${number}`);
    if (asked !== now.asked) return;
    now.key = keyOf(detail);
    viewer.show(detail);
    classes.fill(detail);
    showFacts(detail);
    history.replaceState(null, "", follow.checked ? location.pathname : `#${number}`);
  } catch (error) {
    // Without an answer, what is shown stays, and the banner says how old it is.
    if (asked !== now.asked || error.status !== 404) return;
    viewer.empty(`Tomogram ${number}`, "Not here", "The watcher has no tomogram of this number.");
    classes.fill(null);
    showFacts(null);
  }
}

/** Show the newest where the user follows it, unless a slice is being studied this moment. */
function followNewest() {
  const newest = now.status?.newest;
  if (!newest) {
    if (now.status && now.chosen === null) {
      const text = `Whatever lands in ${now.status.folder} is labelled and shown here.`;
      viewer.empty("No tomogram yet", "Waiting for the first reconstruction", text);
      classes.fill(null);
      showFacts(null);
    }
    return;
  }
  if (!follow.checked || newest.number === now.chosen) return;
  const rest = now.touched + STUDY - performance.now();
  if (rest <= 0 || now.chosen === null) {
    show(newest.number);
    return;
  }
  now.rest ??= setTimeout(() => {
    now.rest = null;
    followNewest();
  }, rest);
}

function trouble() {
  const watched = (now.status?.watchers.length ?? 1) > 0;
  showLink(now.link, watched);
  showBanner(troubleOf(now.status, now.link, now.heard), now.link === "lost" ? "lost" : "warn");
}

function tellStatus(status) {
  const before = now.status;
  Object.assign(now, { status, heard: Date.now() / 1000 });
  classes.use(status.classes);
  gallery.use(status.classes);
  gallery.count(status.states);
  showHead(status);
  showRunning(status.running, choose);
  showLatency(status.latency);
  trouble();
  followNewest();
  const changed = (...names) => !before || names.some((name) => before.states[name] !== status.states[name]);
  if (changed("waiting", "arriving", "running")) askWaiting();
  if (changed("quarantined")) askFailures();
  if (changed("done")) askThroughput();
}

const announce = (() => {
  let last = -Infinity;
  return (text) => {
    if (performance.now() - last < SAY) return;
    last = performance.now();
    say(byId("said"), text);
  };
})();

function tellTomogram(entry) {
  now.heard = Date.now() / 1000;
  gallery.heard(entry);
  if (entry.state === "done" && entry.finished > now.heard - 60) announce(`${fileName(entry.path)} is labelled`);
  if (entry.state === "arriving") askWaiting();
  if (entry.number !== now.chosen) return;
  if (now.key === keyOf(entry)) viewer.describe(entry);
  else show(entry.number);
}

const quietly = (work) => async () => {
  try {
    await work();
  } catch {
    // The page says that it has lost its server, and asks again once that is back.
  }
};
const askWaiting = calmly(quietly(async () => {
  const { items, total } = await askJson("api/tomograms", WAITING);
  showWaiting(items, total, choose);
}), 1000);
const askFailures = calmly(quietly(async () => {
  const { items, total } = await askJson("api/tomograms", FAILED);
  showFailures(items, total, choose);
}), 1000);
const askThroughput = calmly(quietly(async () => {
  const spans = [byId("hours").value, 12, 1];
  const [chosen, day, hour] = await Promise.all(spans.map((hours) => askJson("api/throughput", { hours })));
  showChart(chosen.bins, now.status?.time ?? Date.now() / 1000);
  showSparkline(day.bins, hour.bins);
}), 2000);

function askAll() {
  askWaiting();
  askFailures();
  askThroughput();
  gallery.load();
}

async function begin() {
  // The tomogram that was chosen before the page was loaded anew.
  const wanted = Number(location.hash.slice(1));
  if (Number.isInteger(wanted) && wanted > 0) choose(wanted);
  try {
    tellStatus(await askJson("api/status"));
  } catch (error) {
    if (error.status === 401) {
      showBanner("This page needs its token: open the address that tomoscribe watch printed, with ?token=…", "lost");
      return;
    }
  }
  askAll();
  listen({ status: tellStatus, tomogram: tellTomogram }, (link) => {
    const again = now.link === "lost" && link === "live";
    now.link = link;
    trouble();
    if (again) {
      askAll();
      if (now.chosen !== null) show(now.chosen);
    }
  });
}

follow.addEventListener("change", () => {
  now.touched = -Infinity;
  if (follow.checked) followNewest();
});
byId("hours").addEventListener("change", askThroughput);
byId("failures-all").addEventListener("click", () => gallery.filter("quarantined"));
setInterval(askThroughput, 60_000);
begin();
