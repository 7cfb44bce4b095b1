// Edits and numbers in words.

const list = (names, most = 4) =>
  names.length <= most ? names.join(', ') : `${names.slice(0, most).join(', ')} and ${names.length - most} more`;
const experts = edit => {
  if (Array.isArray(edit.experts)) return `${edit.experts.length === 1 ? 'expert' : 'experts'} ${list(edit.experts)}`;
  const names = Object.entries(edit.experts ?? {}).flatMap(([layer, ids]) => ids.map(id => `L${layer}·${id}`));
  return names.length ? list(names) : 'experts';
};
const where = edit => {
  const parts = [];
  if (edit.layers) parts.push(edit.layers === 'all' ? 'all layers' : `layer ${edit.layers}`);
  const {positions, phase, ...rest} = edit.tokens ?? {};
  if (positions) {
    const [a, b] = positions.split(':').map(Number);
    parts.push(b === a + 1 ? `token ${a}` : `tokens ${a} to ${b - 1}`);
  }
  if (phase && phase !== 'all') parts.push(`${phase} tokens`);
  for (const [key, value] of Object.entries(rest)) parts.push(`${key} ${value}`);
  return parts.length ? ` at ${parts.join(', ')}` : '';
};
const rounded = value => String(Math.round(value * 1000) / 1000).replace('-', '−');

/** One edit in words. */
export function wordsOfEdit(edit) {
  const at = where(edit), weights = edit.weights && edit.weights !== 'model' ? ` (${edit.weights})` : '';
  switch (edit.op) {
    case 'deactivate':
      return (edit.mode === 'ban' ? 'ban ' : `${edit.mode} down `) + experts(edit) + at + weights;
    case 'activate':
      return (edit.mode === 'force' ? 'force ' : `${edit.mode} up `) + experts(edit) + at + weights;
    case 'misroute':
      return (edit.policy === 'fixed' ? `route to ${experts(edit)}` : `${edit.policy.replace('_', ' ')} experts`) + at +
        weights;
    case 'scale_expert':
      return `scale ${experts(edit)} by ${rounded(edit.by)}${at}`;
    case 'add': {
      const name = typeof edit.vector === 'string' ? edit.vector.replace(/^asset:/, '') : 'a vector';
      return `add ${rounded(edit.scale ?? 1)} × ${name} at ${edit.point}${
               edit.layers ? ', layer ' + edit.layers : ''}` +
        (edit.tokens?.phase ? `, ${edit.tokens.phase} tokens` : '');
    }
    default:
      return edit.op.replace('_', ' ') + (edit.experts ? ' ' + experts(edit) : '') + at;
  }
}
export const wordsOfEdits = edits => edits.length ? edits.map(wordsOfEdit).join('; ') : 'no edit';

/** A token as it can be seen: spaces and line ends drawn, an empty one named. */
export function shown(piece) {
  if (piece === '') return '∅';
  return piece.replaceAll('\n', '⏎').replaceAll('\t', '⇥').replaceAll('\r', '␍').replace(
    /[\u0000-\u001f\u007f\u200b-\u200f\ufeff]/g, c => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`);
}
/** For one line: the blank at its ends as an open box. */
export const quoted = piece => `“${shown(piece).replace(/^ +| +$/g, blanks => '␣'.repeat(blanks.length))}”`;

export const definitions = {
  logprob:
    'log p: natural logarithm of the probability that the model gave to this token, before temperature and top p. The first token has none.',
  entropy:
    'Entropy, in nats, of the next-token distribution that this token was chosen from: of the listed alternatives, the rest counted as one outcome. A lower bound.',
  margin: 'Margin: the router’s k-th largest logit minus the next one, before edits. Near 0 the choice was close.',
  weight: 'Weight: the largest weight among the experts applied in this cell, as applied.',
  routeEntropy: 'Entropy, in nats, of the weights of the experts applied in this cell, scaled to sum to one.',
  expert: 'Expert: the one of the highest weight. Colours group; the number names.',
  changed: 'Changed: how many of this cell’s experts the text beside it did not use at the same position and layer.',
  delta: 'Δ log p: log p of this token under the edits minus the same without, both given the same words before it.',
  kl:
    'KL: mean over tokens of the divergence, in nats, from the distributions of the text beside it to those under these edits, given the same words.',
  usage: 'Usage: the share of this text’s tokens that selected the expert (N_e / T).',
  domain: 'Share of a domain’s selections at this layer that went to each expert.',
  transition:
    'P(next | this): of the tokens whose first expert was the row’s, the share whose next token’s first expert was the column’s.',
  stay:
    'Stickiness: P(expert at the next token | expert at this one), over all experts of the layer; chance: what their rates alone would give.',
  hash: 'Hash of the unmodified logits that each new token was chosen from: equal hashes mean equal bits.',
};
