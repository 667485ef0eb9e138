// What the page asks its server for. Addresses are relative, so that a proxy may put the page anywhere.

/** The server's answer is not what was asked for; `status` is HTTP's. */
export class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.name = "Refused";
    this.status = status;
  }
}

/** Ask once, and again where the server says that there were too many questions. */
export async function ask(address, signal) {
  for (let attempt = 0; ; attempt += 1) {
    const answer = await fetch(address, { signal, credentials: "same-origin" });
    if (answer.ok) return answer;
    if (answer.status !== 429 || attempt === 4) throw new Refused(answer.status, `${address}: ${answer.status}`);
    const seconds = Number(answer.headers.get("Retry-After")) || 1;
    await new Promise((resolve) => { setTimeout(resolve, Math.min(10, seconds) * 1000); });
    signal?.throwIfAborted();
  }
}

/** The JSON at an address. */
export async function askJson(path, query = {}, signal = undefined) {
  const search = new URLSearchParams(query).toString();
  const answer = await ask(search ? `${path}?${search}` : path, signal);
  return answer.json();
}

// Another content under the same number has to get other addresses, because pictures are kept by the browser.
const version = (entry) => `?v=${entry.size}-${entry.complete ?? 0}-${entry.previewed ?? 0}-${entry.finished ?? 0}`;

/** Where the pictures of an entry are. */
export const pictures = {
  thumbnail: (entry) => `api/tomograms/${entry.number}/thumbnail.webp?v=${entry.size}-${entry.complete ?? 0}`,
  preview: (entry) => ({
    grey: `api/tomograms/${entry.number}/preview/grey.webp${version(entry)}`,
    labels: `api/tomograms/${entry.number}/preview/labels.png${version(entry)}`,
  }),
  slice: (entry, z) => ({
    grey: `api/tomograms/${entry.number}/slices/${z}/grey.webp${version(entry)}`,
    labels: `api/tomograms/${entry.number}/slices/${z}/labels.png${version(entry)}`,
  }),
};
