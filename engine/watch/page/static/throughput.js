// How fast it goes: tomograms over time, and how long the newest took from their last byte.

import { byId, describe, draw, say } from "./dom.js";
import { clock, duration, roundLength, short } from "./format.js";

const [WIDTH, HEIGHT, LEFT, BOTTOM, TOP] = [300, 112, 24, 18, 8];

/** Draw the bins `{start, tomograms, voxels}` of the chosen time span. */
export function showChart(bins, until) {
  const chart = byId("chart");
  chart.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  const most = Math.max(1, ...bins.map((bin) => bin.tomograms));
  const step = Math.max(1, roundLength(most / 2));
  const top = Math.ceil(most / step) * step;
  const height = (value) => ((HEIGHT - BOTTOM - TOP) * value) / top;
  const width = (WIDTH - LEFT) / Math.max(1, bins.length);
  const parts = [];
  for (let value = 0; value <= top; value += step) {
    const y = HEIGHT - BOTTOM - height(value);
    parts.push(draw("line", { x1: LEFT, x2: WIDTH, y1: y, y2: y, class: value ? "grid" : "axis" }),
      draw("text", { x: LEFT - 6, y: y + 3.5, "text-anchor": "end" }, String(value)));
  }
  bins.forEach((bin, at) => {
    const told = `${clock(bin.start)}: ${bin.tomograms} tomograms, ${short(bin.voxels, "voxel")}`;
    parts.push(draw("rect", {
      x: LEFT + at * width + 0.75, y: HEIGHT - BOTTOM - height(bin.tomograms), width: Math.max(0.5, width - 1.5),
      height: height(bin.tomograms), class: "column",
    }, draw("title", {}, told)));
  });
  if (bins.length) {
    const middle = (bins[0].start + until) / 2;
    const times = [[LEFT, "start", bins[0].start], [(LEFT + WIDTH) / 2, "middle", middle], [WIDTH, "end", until]];
    for (const [x, anchor, time] of times) {
      parts.push(draw("text", { x, y: HEIGHT - 4, "text-anchor": anchor }, time === until ? "now" : clock(time)));
    }
  }
  const sum = bins.reduce((total, bin) => total + bin.tomograms, 0);
  if (sum === 0) {
    const place = { x: (LEFT + WIDTH) / 2, y: HEIGHT / 2, "text-anchor": "middle" };
    parts.push(draw("text", place, "none labelled in this time"));
  }
  chart.replaceChildren(...parts);
  const since = clock(bins[0]?.start ?? until);
  chart.setAttribute("aria-label", `${sum} tomograms labelled since ${since}, at most ${most} in a column`);
}

/** Draw the line in the head of the page, and say how many there were in the last hour, whose bins come second. */
export function showSparkline(bins, hour) {
  const most = Math.max(1, ...bins.map((bin) => bin.voxels));
  const step = 96 / Math.max(1, bins.length - 1);
  const points = bins.map((bin, at) => `${at * step},${22.5 - (bin.voxels / most) * 20}`).join(" ");
  byId("sparkline").replaceChildren(draw("polygon", { points: `0,24 ${points} 96,24` }), draw("polyline", { points }));
  const number = hour.reduce((sum, bin) => sum + bin.tomograms, 0);
  say(byId("speed-hour"), `${number} in the last hour`);
}

/** Say how long it took from the last byte, `{preview: {p50, p90, p99}, labels: {…}}` in seconds. */
export function showLatency(latency) {
  const told = (name) => (latency?.[name]?.p50 === null || latency?.[name]?.p50 === undefined ? null
    : `${duration(latency[name].p50)}, at most ${duration(latency[name].p90)} for 9 of 10`);
  describe(byId("latency"), [["To first picture", told("preview")], ["To labels", told("labels")]]);
}
