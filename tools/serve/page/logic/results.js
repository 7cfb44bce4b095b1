// A text as it comes in: tokens, their words and log-probabilities, alternatives, and the routes.
import {arrayOfResponse} from './arrays.js';
import {Routes} from './routes.js';

/** @param {{layers: number[], nExperts: number, nActive: number}} shape */
export const emptyRun = shape => ({
  tokens: [],
  pieces: [],
  logprobs: [],
  top: [],
  given: 0,
  finish: null,
  stoppedBy: null,
  hash: null,
  seed: null,
  timeline: null,
  specials: [],
  routes: new Routes(shape),
  done: false,
});

const named = /^<[^<>\s]+>$/;
/** Does a token stand for no text, as <eos> does? Of an opened trace only the look of its name is known. */
export const isSpecial = (run, t) =>
  run.specials ? run.specials.includes(run.tokens[t]) : named.test(run.pieces[t] ?? '');
/** Is it drawn as such? Special tokens of a prompt come with their names. */
export const looksSpecial = (run, t) => isSpecial(run, t) || (t < run.given && named.test(run.pieces[t] ?? ''));
/** What was generated, without the tokens that stand for no text. */
export const textOf = run => run ? run.pieces.filter((_, t) => t >= run.given && !isSpecial(run, t)).join('') : '';

/** The rows of a response's `points`, which stand at positions [a, b). */
export function putPoints(run, points, positions) {
  const ofPoint = suffix => Object.entries(points).filter(([name]) => name === suffix || name.endsWith('.' + suffix));
  const read = suffix => {
    const found = ofPoint(suffix);
    if (found.length === 0) return null;
    if (found.length === 1) return arrayOfResponse(found[0][1]);
    throw new Error(`points: expected one ${suffix}, found ${found.map(([name]) => name).join(', ')}`);
  };
  const ids = read('router.ids'), weights = read('router.weights'), margins = read('router.margin');
  if (!ids || !weights) return;
  const [rows, , width] = ids.shape;
  if (positions && positions[1] - positions[0] !== rows)
    throw new Error(`points: expected ${positions[1] - positions[0]} rows, found ${rows}`);
  run.routes.put(
    positions ? positions[0] : run.routes.rows, rows, ids.values, weights.values, margins?.values ?? null, width);
}

/** Entropy in nats of the listed log-probabilities, what is left counted as one outcome. */
export function listedEntropy(logprobs) {
  let rest = 1, out = 0;
  for (const lp of logprobs) {
    const p = Math.exp(lp);
    if (p > 0) out -= p * lp;
    rest -= p;
  }
  return rest > 1e-9 ? out - rest * Math.log(rest) : out;
}

/** The choice of an answer of /v1/completions, or of a piece of a streamed one, added to `run`. */
export function putChoice(run, choice) {
  const {logprobs, signalbox: own = {}} = choice;
  if (own.prompt_token_ids && run.tokens.length === 0) {
    run.tokens.push(...own.prompt_token_ids);
    run.given = run.tokens.length;
  }
  if (logprobs) {
    run.pieces.push(...logprobs.tokens.map(pieceOf));
    run.logprobs.push(...logprobs.token_logprobs.map(v => v ?? NaN));
    for (const top of logprobs.top_logprobs ?? logprobs.tokens.map(() => null))
      run.top.push(top ? Object.entries(top).map(([text, lp]) => [pieceOf(text), lp]).sort((a, b) => b[1] - a[1]) : []);
  }
  if (own.token_ids) run.tokens.push(...own.token_ids);
  if (own.points) putPoints(run, own.points, own.positions);
  if (own.logits_hash) run.hash = own.logits_hash;
  if (own.seed !== undefined && own.seed !== null) run.seed = own.seed;
  if (own.timeline) run.timeline = own.timeline;
  if (own.stopped_by) run.stoppedBy = own.stopped_by;
  if (choice.finish_reason) run.finish = choice.finish_reason;
}
/** A fragment of a character comes as `bytes:\xe2\x80`. */
const pieceOf = text => text.startsWith('bytes:') ? text.slice(6) : text;
