// The routes of one text: for each token and layer with a router, the experts applied in slot order, their weights, and
// how near the choice was. Rows come in as tokens are generated; everything stays in typed arrays.

export class Routes {
  /** @param {{layers: number[], nExperts: number, nActive: number}} shape `layers`: absolute, those with a router */
  constructor({layers, nExperts, nActive}) {
    this.layers = Int32Array.from(layers);
    this.nExperts = nExperts;
    this.nActive = nActive;
    this.unused = nExperts < 256 ? 255 : 65535;  // an empty slot, where an edit chose fewer experts
    this.rows = 0;
    this.capacity = 0;
    this.ids = this.weights = this.margins = null;
    this.grow(64);
  }
  grow(rows) {
    if (rows <= this.capacity) return;
    const capacity = Math.max(rows, this.capacity * 2), cells = capacity * this.layers.length;
    const bigger = (old, next) => {
      if (old) next.set(old);
      return next;
    };
    this.ids = bigger(this.ids, new (this.nExperts < 256 ? Uint8Array : Uint16Array)(cells * this.nActive));
    this.weights = bigger(this.weights, new Float32Array(cells * this.nActive));
    this.margins = bigger(this.margins, new Float32Array(cells).fill(NaN));
    this.capacity = capacity;
  }
  /** Rows from position `first` on; `width` slots each, which may be more than the model's where an edit changes k. */
  put(first, count, ids, weights, margins, width = this.nActive) {
    const cells = count * this.layers.length;
    if (ids.length !== cells * width || weights.length !== cells * width)
      throw new Error(`routes: expected ${cells * width} ids and weights, found ${ids.length} and ${weights.length}`);
    if (width > this.nActive) this.widen(width);
    this.grow(first + count);
    const start = first * this.layers.length;
    for (let cell = 0; cell < cells; ++cell)
      for (let slot = 0; slot < this.nActive; ++slot) {
        const at = (start + cell) * this.nActive + slot;
        this.ids[at] = slot < width ? ids[cell * width + slot] : this.unused;
        this.weights[at] = slot < width ? weights[cell * width + slot] : 0;
      }
    if (margins) this.margins.set(margins, start);
    this.rows = Math.max(this.rows, first + count);
  }
  widen(width) {
    const old = {ids: this.ids, weights: this.weights, nActive: this.nActive};
    const cells = this.capacity * this.layers.length;
    this.nActive = width;
    this.ids = new old.ids.constructor(cells * width).fill(this.unused);
    this.weights = new Float32Array(cells * width);
    for (let cell = 0; cell < cells; ++cell)
      for (let slot = 0; slot < old.nActive; ++slot) {
        this.ids[cell * width + slot] = old.ids[cell * old.nActive + slot];
        this.weights[cell * width + slot] = old.weights[cell * old.nActive + slot];
      }
  }
  /** Which row of the layers an absolute layer is; −1: it has no router. */
  layerIndex(layer) { return this.layers.indexOf(layer); }
  cell(t, l) { return t * this.layers.length + l; }
  /** Experts of a cell, used slots only. */
  experts(t, l) {
    const start = this.cell(t, l) * this.nActive, out = [];
    for (let slot = 0; slot < this.nActive; ++slot)
      if (this.ids[start + slot] !== this.unused) out.push(this.ids[start + slot]);
    return out;
  }
  weightsAt(t, l) {
    const start = this.cell(t, l) * this.nActive;
    return Array.from(this.weights.subarray(start, start + this.experts(t, l).length));
  }
  /** The expert of the highest weight. */
  first(t, l) {
    const start = this.cell(t, l) * this.nActive;
    let best = 0;
    for (let slot = 1; slot < this.nActive; ++slot)
      if (this.weights[start + slot] > this.weights[start + best]) best = slot;
    return this.ids[start + best];
  }
  weight(t, l) {
    const start = this.cell(t, l) * this.nActive;
    let most = 0;
    for (let slot = 0; slot < this.nActive; ++slot) most = Math.max(most, this.weights[start + slot]);
    return most;
  }
  margin(t, l) { return this.margins[this.cell(t, l)]; }
  /** Entropy in nats of the cell's weights, scaled to sum to one. */
  entropy(t, l) {
    const start = this.cell(t, l) * this.nActive;
    let sum = 0, out = 0;
    for (let slot = 0; slot < this.nActive; ++slot) sum += Math.max(0, this.weights[start + slot]);
    for (let slot = 0; slot < this.nActive; ++slot) {
      const p = Math.max(0, this.weights[start + slot]) / sum;
      if (p > 0) out -= p * Math.log(p);
    }
    return out;
  }
  /** How many of this cell's experts the other route has not. */
  changed(other, t, l) {
    const start = this.cell(t, l) * this.nActive, begin = other.cell(t, l) * other.nActive;
    let changed = 0;
    for (let slot = 0; slot < this.nActive; ++slot) {
      const id = this.ids[start + slot];
      if (id === this.unused) continue;
      let found = false;
      for (let i = 0; i < other.nActive; ++i) found ||= other.ids[begin + i] === id;
      changed += found ? 0 : 1;
    }
    return changed;
  }
  has(t, l, expert) {
    const start = this.cell(t, l) * this.nActive;
    for (let slot = 0; slot < this.nActive; ++slot)
      if (this.ids[start + slot] === expert) return true;
    return false;
  }
  /** Plain copies that IndexedDB and files can hold. */
  pack() {
    const cells = this.rows * this.layers.length;
    return {
      layers: [...this.layers],
      nExperts: this.nExperts,
      nActive: this.nActive,
      rows: this.rows,
      ids: this.ids.slice(0, cells * this.nActive),
      weights: this.weights.slice(0, cells * this.nActive),
      margins: this.margins.slice(0, cells)
    };
  }
  static unpack({layers, nExperts, nActive, rows, ids, weights, margins}) {
    const routes = new Routes({layers, nExperts, nActive});
    routes.put(0, rows, ids, weights, margins);
    return routes;
  }
}

/** The routes of one sample of a trace file (`readSafetensors`), with its tokens. */
export function routesOfTrace(file, sample = 0) {
  const ids = file.tensor('router.ids'), weights = file.tensor('router.weights');
  const [T, L, k] = ids.shape;
  const offsets = file.tensors.sample_offsets ? file.tensor('sample_offsets').values : [0, T];
  if (!(sample >= 0 && sample + 1 < offsets.length))
    throw new Error(`trace: expected samples 0 to ${offsets.length - 2}`);
  const from = Number(offsets[sample]), to = Number(offsets[sample + 1]);
  const nExperts = Number(file.metadata.n_experts) || 1 + ids.values.reduce((most, id) => Math.max(most, id), 0);
  const routes = new Routes({layers: [...file.tensor('layers').values], nExperts, nActive: k});
  const margins = file.tensors['router.margin'] ? file.tensor('router.margin').values.subarray(from * L, to * L) : null;
  routes.grow(to - from);
  routes.put(
    0, to - from, ids.values.subarray(from * L * k, to * L * k), weights.values.subarray(from * L * k, to * L * k),
    margins, k);
  const phase = file.tensors.phase ? file.tensor('phase').values.subarray(from, to) : new Uint8Array(to - from);
  let given = phase.indexOf(1);
  if (given < 0) given = to - from;
  return {routes, tokens: Int32Array.from(file.tensor('tokens').values.subarray(from, to)), given};
}

/** Times that each expert was selected: [layer][expert] flat, and the largest. */
export function usage(routes, from = 0, to = routes.rows) {
  const L = routes.layers.length, E = routes.nExperts, k = routes.nActive, counts = new Uint32Array(L * E);
  for (let t = from; t < to; ++t)
    for (let l = 0; l < L; ++l) {
      const start = (t * L + l) * k;
      for (let slot = 0; slot < k; ++slot)
        if (routes.ids[start + slot] < E) ++counts[l * E + routes.ids[start + slot]];
    }
  return {counts, tokens: to - from, most: counts.reduce((a, b) => Math.max(a, b), 0)};
}
