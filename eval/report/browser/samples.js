// The samples of the page, their routes, and which sample, token, layer and slot the reader is at: what the figures about
// single tokens share.
const unused = () => packed.index.id_bytes === 2 ? 0xFFFF : 0xFF;
let packed = null;
const listeners = [];

const load = () => {
  const index = box.json('samples'), bytes = box.bytes('sample-ids');
  const ids = index.id_bytes === 2 ? Uint16Array.from({length: bytes.length / 2}, (_, i) => bytes[2 * i] | bytes[2 * i + 1] << 8) : bytes;
  packed = {index, ids, weights: index.weights ? box.bytes('sample-weights') : null,
    changed: index.edited ? box.bytes('sample-changed') : null};
  const layers = index.layers;
  box.reading = {sample: index.samples[0], token: 0, layer: layers[Math.floor(layers.length / 2)], slot: 0, look: 'expert'};
};

box.samples = () => {
  if (!packed) load();
  const {index} = packed, n_layers = index.layers.length, k = index.n_slots;
  return {
    index,
    // [{expert, weight, slot}] of a token of a sample in the layer of this place in index.layers, without unused slots.
    route(sample, token, place) {
      const out = [], begin = ((sample.row + token) * n_layers + place) * k;
      for (let slot = 0; slot < k; ++slot) {
        if (packed.ids[begin + slot] === unused()) continue;
        const [lo, hi] = index.weights || [0, 0];
        out.push({slot, expert: packed.ids[begin + slot],
          weight: packed.weights ? lo + packed.weights[begin + slot] * (hi - lo) / 255 : null});
      }
      return out;
    },
    changed: (sample, token, place) => packed.changed ? packed.changed[(sample.row + token) * n_layers + place] : 0,
    textOf: (sample, token) => sample.texts ? sample.texts[token] : `\u27e8${sample.tokens[token]}\u27e9`,
  };
};
box.nameOf = sample => sample.nth > 0 ? `${sample.id} (sample ${sample.nth + 1})` : sample.id;

// Changes where the reader is; every figure that has asked is told.
box.read = change => {
  Object.assign(box.reading, change);
  for (const listener of listeners) listener(change);
};
box.onRead = listener => listeners.push(listener);

// Signs that cannot be seen, or that turn what stands around them, as their numbers; line ends and tabs with an arrow.
box.visible = text => text.replace(/\n/g, '\u21b5\n').replace(/\t/g, '\u2192\t')
  .replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g,
    c => `\u2039${c.charCodeAt(0).toString(16)}\u203a`);
// A token in a line of words, apart from their direction.
box.quoted = text => `\u2068"${box.visible(text).replace(/[\n\t]/g, '')}"\u2069`;
