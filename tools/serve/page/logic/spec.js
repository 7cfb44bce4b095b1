// Edits in the words of the edit spec (docs/edits.md), made from what is clicked.

export const weightPolicies = {
  model: 'model: the router’s own rule; an expert outside the top k keeps the small score that it was given',
  keep_scores: 'keep_scores: the unedited scores at the new experts, then the model’s own renormalisation',
  renormalize: 'renormalize: the new experts’ scores, scaled to sum to one',
  preserve_mass: 'preserve_mass: scaled to the sum of the weights that were there',
  keep_slot: 'keep_slot: each slot keeps the weight that it had',
  hole: 'hole: changed slots add nothing',
};

/** [3, 4, 5, 9] as '3-5,9'. */
export function rangesOf(numbers) {
  const sorted = [...new Set(numbers)].sort((a, b) => a - b), out = [];
  for (let i = 0; i < sorted.length;) {
    let j = i;
    while (sorted[j + 1] === sorted[j] + 1) ++j;
    out.push(i === j ? `${sorted[i]}` : `${sorted[i]}-${sorted[j]}`);
    i = j + 1;
  }
  return out.join(',');
}
/** '3-5,9' as [3, 4, 5, 9]; 'all' as `everything`. Throws on anything else. */
export function numbersOf(text, everything) {
  if (text.trim() === 'all') return [...everything];
  const out = [];
  for (const part of text.split(',')) {
    const match = /^\s*(\d+)\s*(?:-\s*(\d+)\s*)?$/.exec(part);
    const from = match && Number(match[1]), to = match && Number(match[2] ?? match[1]);
    if (!match || to < from) throw new Error(`layers: expected numbers and ranges as 3-5,9, found "${text}"`);
    for (let i = from; i <= to; ++i) out.push(i);
  }
  return [...new Set(out)].sort((a, b) => a - b);
}

/**
 * Where an edit holds, as the spec's `tokens`.
 * @param {{scope: 'token'|'tokens'|'layer'|'generated', from: number, to: number}} where half-open positions
 */
export function tokensOf({scope, from, to}) {
  if (scope === 'layer') return undefined;
  if (scope === 'generated') return {phase: 'generated'};
  if (!(Number.isInteger(from) && Number.isInteger(to) && from >= 0 && to > from))
    throw new Error(`tokens: expected positions from a to b, found ${from} to ${to}`);
  return {positions: `${from}:${to}`};
}
const placed = (edit, where, weights) => {
  const tokens = tokensOf(where);
  return {...edit, layers: rangesOf(where.layers), ...(tokens ? {tokens} : {}), ...(weights ? {weights} : {})};
};

/** These experts, one a slot, instead of the ones that the router chose. */
export function routeEdit(experts, where, weights) {
  if (new Set(experts).size !== experts.length) throw new Error('experts: expected each once');
  return placed({op: 'misroute', policy: 'fixed', experts: [...experts]}, where, weights);
}
/** next_best, swap_last, worst: over the router's own ranking. random: seeded, others than the chosen ones. */
export const policyEdit = (policy, where, weights) =>
  placed({op: 'misroute', policy, ...(policy === 'random' ? {exclude_original: true} : {})}, where, weights);
export const banEdit = (experts, where, weights) =>
  placed({op: 'deactivate', mode: 'ban', experts: [...experts]}, where, weights);
export const forceEdit = (experts, where, weights) =>
  placed({op: 'activate', mode: 'force', experts: [...experts]}, where, weights);
export const scaleEdit = (experts, by, where) => placed({op: 'scale_expert', by, experts: [...experts]}, where);

/** A slot of a route gets another expert; where that one is chosen already the two change places. */
export function swapped(experts, slot, expert) {
  const out = [...experts], other = out.indexOf(expert);
  if (other >= 0) out[other] = out[slot];
  out[slot] = expert;
  return out;
}

/**
 * A board's switches as edits: `state` is 'layer:expert' → {op: 'ban'|'force'|'scale', by}.
 * @param {Map<string, {op: string, by?: number}>} state
 */
export function boardEdits(state, where = {
  scope: 'layer'
}) {
  const groups = new Map();
  for (const [cell, {op, by}] of [...state].sort(([a], [b]) => a.localeCompare(b, 'en', {numeric: true}))) {
    const key = op === 'scale' ? `scale ${by}` : op, [layer, expert] = cell.split(':').map(Number);
    if (!groups.has(key)) groups.set(key, {op, by, experts: {}});
    (groups.get(key).experts[layer] ??= []).push(expert);
  }
  const tokens = tokensOf(where), when = tokens ? {tokens} : {};
  return [...groups.values()].map(
    ({op, by, experts}) => op === 'ban' ? {op: 'deactivate', mode: 'ban', experts, ...when} :
      op === 'force'                    ? {op: 'activate', mode: 'force', experts, ...when} :
                                          {op: 'scale_expert', by, experts, ...when});
}

/** Steering: a vector added to the stream. `vector`: 'asset:NAME:tensor' or inline numbers. */
export const steeringEdit = ({point, layers, vector, scale, phase}) => ({
  op: 'add',
  point,
  layers,
  vector,
  scale,
  ...(phase && phase !== 'all' ? {tokens: {phase}} : {}),
});
/** Five doses around zero, the outer ones twice `scale`. */
export const dosesOf = scale => [-2, -1, 0, 1, 2].map(times => times * scale);

/** The first position that an edit acts at; 0 where it names none. Generated tokens begin at `given`. */
export function firstPosition(edit, given) {
  const {positions, phase} = edit.tokens ?? {};
  const from = positions ? Number(positions.split(':')[0]) || 0 : 0;
  return phase === 'generated' ? Math.max(from, given) : from;
}
/** The first token that can differ under these edits: routes act on what is chosen after them. */
export const firstThatCanDiffer = (edits, given) =>
  Math.max(given, Math.min(...edits.map(edit => firstPosition(edit, given))) + 1);

/**
 * Rows of an rd.csv, the largest `top` by |rd| of a sign, as the spec's `{"from", "top", "sign"}` sorts them.
 * @param {string} text @param {number} top @param {'+'|'-'|'both'} sign @returns {{layer: number, expert: number, rd:
 *   number}[]}
 */
export function topOfRanking(text, top, sign) {
  const [head, ...lines] = text.trim().split(/\r?\n/), names = head.split(',');
  const column = name => {
    const i = names.indexOf(name);
    if (i < 0) throw new Error(`rd.csv: expected a column ${name}, found ${names.join(', ')}`);
    return i;
  };
  const at = {layer: column('layer'), expert: column('expert'), rd: column('rd')};
  const rows = lines.map((line, i) => {
    const cells = line.split(','),
          row = {layer: Number(cells[at.layer]), expert: Number(cells[at.expert]), rd: Number(cells[at.rd])};
    if (!Object.values(row).every(Number.isFinite)) throw new Error(`rd.csv: line ${i + 2}: expected numbers`);
    return row;
  });
  const value = ({rd}) => sign === '+' ? rd : sign === '-' ? -rd : Math.abs(rd);
  return rows.filter(row => value(row) > 0)
    .sort((a, b) => value(b) - value(a) || a.layer - b.layer || a.expert - b.expert)
    .slice(0, top);
}
