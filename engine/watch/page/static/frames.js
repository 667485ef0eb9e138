// Slices as the page keeps them: grey values and label numbers, fetched once and kept while there is room.

import { ask } from "./api.js";

const ROOM = 96 * 2 ** 20; // bytes

/** Slices by the addresses of their pictures; those that were not looked at for longest are dropped. */
export class Frames {
  #kept = new Map(); // address of the labels: frame, in the order of use
  #bytes = 0;

  /** The frame `{width, height, grey, labels, tomogram}` if it is here. */
  peek({ labels }) {
    const frame = this.#kept.get(labels);
    if (frame) {
      this.#kept.delete(labels);
      this.#kept.set(labels, frame);
    }
    return frame;
  }

  /** The frame, from the server where need be. */
  async load(addresses, signal) {
    const kept = this.peek(addresses);
    if (kept) return kept;
    const [grey, labels] = await Promise.all([ask(addresses.grey, signal), ask(addresses.labels, signal)]);
    const [values, numbers] = await Promise.all([decode(grey), decode(labels)]);
    // "gone" or "changed" where there are only labels, and the grey values are black.
    const tomogram = grey.headers.get("X-Tomogram");
    const frame = { width: numbers.width, height: numbers.height, grey: values.data, labels: numbers.data, tomogram };
    if (values.width !== numbers.width || values.height !== numbers.height) {
      throw new Error(`${addresses.labels}: expected the size of the grey picture`);
    }
    this.#keep(addresses.labels, frame);
    return frame;
  }

  #keep(key, frame) {
    if (this.#kept.has(key)) return;
    this.#kept.set(key, frame);
    this.#bytes += frame.grey.length * 2;
    for (const [oldest, old] of this.#kept) {
      if (this.#bytes <= ROOM) break;
      this.#kept.delete(oldest);
      this.#bytes -= old.grey.length * 2;
    }
  }
}

/** One byte a pixel of a grey picture; nothing may change the values, for they may be label numbers. */
async function decode(answer) {
  const picture = await createImageBitmap(await answer.blob(), {
    colorSpaceConversion: "none", premultiplyAlpha: "none",
  });
  const { width, height } = picture;
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, 0, 0);
  picture.close();
  const pixels = context.getImageData(0, 0, width, height).data;
  const data = new Uint8Array(width * height);
  for (let at = 0; at < data.length; at += 1) data[at] = pixels[at * 4];
  return { width, height, data };
}
