// What stands beside a fork in its experiment: the same gesture with its choice drawn.

/** Numbers from 0 to below 1, the same ones for a seed (mulberry32). */
export function drawsOf(seed) {
  let state = (seed * 0x9e3779b1 + 0x6d2b79f5) | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A direction drawn evenly, as long as `vector`. */
export function drawnDirection(vector, seed) {
  const next = drawsOf(seed), normal = () => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next());
  const drawn = Array.from(vector, normal), length = values => Math.hypot(...values);
  const by = length(vector) / length(drawn);
  return drawn.map(value => Number((value * by).toPrecision(7)));
}

/** Layers of an edit, '3-5,9' or 'all', that have a router. */
export function routedLayers(edit, routed) {
  const text = edit.layers ?? 'all';
  if (text === 'all') return routed;
  const named = text.split(',').map(part => part.split('-').map(Number));
  return routed.filter(layer => named.some(([from, to = from]) => from <= layer && layer <= to));
}

/**
 * In place of “swap last”, whose last slot goes to the next best: one drawn expert of each layer, forced. It takes the
 * last slot, and where the router has chosen it anyway nothing changes.
 * @param {object} edit @param {{layers: number[], router: Map<number, {n_experts: number}>}} facts @param {number} seed
 */
export function drawnSlot(edit, facts, seed) {
  const next = drawsOf(seed), experts = {};
  for (const layer of routedLayers(edit, facts.layers))
    experts[layer] = [Math.floor(next() * facts.router.get(layer).n_experts)];
  const {tokens, weights} = edit;
  return {op: 'activate', mode: 'force', experts, ...(tokens ? {tokens} : {}), ...(weights ? {weights} : {})};
}
