// Grey values and label numbers to colours, as `tomoscribe.engine.picture` draws them.

const SHADE = 0.55; // how bright a class is on black density; its colour follows the grey value above that

/** Colours of label numbers: `colours` (256 × 3) and `shown` (256), for `compose`. */
export function paletteOf(classes, hidden) {
  const colours = new Uint8ClampedArray(256 * 3);
  const shown = new Uint8Array(256);
  for (const { number, name, colour } of classes) {
    colours.set([1, 3, 5].map((at) => Number.parseInt(colour.slice(at, at + 2), 16)), number * 3);
    shown[number] = hidden.has(name) ? 0 : 1;
  }
  return { colours, shown };
}

/** Fill `pixels` (RGBA) with a frame: labels that are shown are tinted by `opacity`, 0 to 1, and outlined. */
export function compose({ width, height, grey, labels }, { colours, shown }, opacity, pixels) {
  const edge = 1 - (1 - opacity) ** 2;
  const last = { x: width - 1, y: height - 1 };
  for (let y = 0, at = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1, at += 1) {
      const value = grey[at];
      const label = labels[at];
      const pixel = at * 4;
      pixels[pixel + 3] = 255;
      if (!shown[label]) {
        pixels[pixel] = pixels[pixel + 1] = pixels[pixel + 2] = value;
        continue;
      }
      const outlined = (x > 0 && labels[at - 1] !== label) || (x < last.x && labels[at + 1] !== label)
        || (y > 0 && labels[at - width] !== label) || (y < last.y && labels[at + width] !== label);
      const alpha = outlined ? edge : opacity * 0.85;
      const light = outlined ? 1 : SHADE + ((1 - SHADE) * value) / 255;
      for (let channel = 0; channel < 3; channel += 1) {
        pixels[pixel + channel] = value + alpha * (colours[label * 3 + channel] * light - value);
      }
    }
  }
}
