// Numbers, times and names as people read them.

const SPACE = "\u00a0"; // does not break
const DIGITS = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const DAY = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });

/** What the page calls the states of an entry. */
export const STATES = {
  arriving: "arriving", waiting: "waiting", running: "running", done: "labelled", quarantined: "failed", gone: "gone",
};

/** 1234567 as `1 234 567`. */
export const whole = (number) => DIGITS.format(number).replaceAll(",", "\u2009");

/** Three significant digits and a prefix: 1.23 M. */
export function short(number, unit = "") {
  const [scale, prefix] = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]].find(([least]) => number >= least * 0.9995)
    ?? [1, ""];
  const value = number / scale;
  const digits = scale === 1 && Number.isInteger(number) ? 0 : value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
  const joint = prefix || unit ? SPACE : "";
  return `${value.toFixed(digits)}${joint}${prefix}${unit}`;
}

/** A part of one as a percentage. */
export function percent(part) {
  const value = part * 100;
  if (value > 0 && value < 0.01) return `<${SPACE}0.01${SPACE}%`;
  return `${value.toFixed(value < 9.995 ? 2 : 1)}${SPACE}%`;
}

/** Seconds as 0.84 s, 12 s, 3 min 20 s, 2 h 5 min. */
export function duration(seconds) {
  if (seconds < 9.95) return `${seconds.toFixed(1)}${SPACE}s`;
  if (seconds < 99.5) return `${Math.round(seconds)}${SPACE}s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 10) {
    const rounded = Math.round(seconds);
    return `${Math.floor(rounded / 60)}${SPACE}min ${rounded % 60}${SPACE}s`;
  }
  if (minutes < 100) return `${minutes}${SPACE}min`;
  return `${Math.floor(minutes / 60)}${SPACE}h ${minutes % 60}${SPACE}min`;
}

/** The time of day of seconds since the epoch, with its date where that is not today's. */
export function clock(seconds) {
  const date = new Date(seconds * 1000);
  const today = date.toDateString() === new Date().toDateString();
  return today ? CLOCK.format(date) : `${DAY.format(date)}, ${CLOCK.format(date)}`;
}

/** The file name of an entry without folders and the extensions that every tomogram has. */
export const fileName = (path) => {
  const name = path.slice(path.lastIndexOf("/") + 1);
  return name.replace(/\.(mrc|rec|map|st)(\.gz|\.bz2)?$/i, "") || name;
};

/** Why an entry cannot be labelled, or what it is waited for; without its name, which stands beside it. */
export const reasonOf = ({ path, reason }) => {
  const name = `${path.slice(path.lastIndexOf("/") + 1)}: `;
  const at = reason?.indexOf(name) ?? -1;
  return at < 0 ? reason : reason.slice(at + name.length);
};

/** The folders above an entry's file, empty at the top. */
export const folderOf = (path) => path.slice(0, Math.max(0, path.lastIndexOf("/")));

/** The largest of 1, 2 and 5 times a power of ten that is not longer than what is wanted. */
export function roundLength(wanted) {
  const power = 10 ** Math.floor(Math.log10(wanted));
  return [5, 2, 1].map((step) => step * power).find((length) => length <= wanted * (1 + 1e-9));
}

/** Voxels of an entry's volume, null before it was opened. */
export const voxelsOf = (entry) => entry.shape && entry.shape.reduce((product, length) => product * length, 1);
