// What is asked of the server for a node of the tree, and the same as a spec, a command, curl and Python.
import {drawnDirection, drawnSlot} from './controls.js';

export const watched = '*.router.ids,*.router.weights,*.router.margin';
const alternatives = 10;

/**
 * Seeds are whole numbers of 63 bits, of which a JavaScript number holds 53: a larger one is kept as its digits, and
 * goes into a request as a BigInt.
 */
export const largestSeed = 2n ** 63n - 1n;
export const keptSeed = big => big <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(big) : String(big);
const sentSeed = seed => typeof seed === 'string' ? BigInt(seed) : seed;
/** The seed `i` places after another. Throws past the largest. */
export function seedAfter(seed, i) {
  const next = BigInt(seed) + BigInt(i);
  if (next > largestSeed) throw new Error(`Seed: expected one from 0 to ${largestSeed} for each sample, found ${next}`);
  return keptSeed(next);
}
/** As the command line writes it: numbers below zero, which the API takes, are there those of the same 64 bits. */
const writtenSeed = seed => String(BigInt.asUintN(64, BigInt(seed ?? 0)));

/** JSON of a value that may hold BigInts. */
export function jsonOf(value) {
  if (typeof value === 'bigint') return String(value);
  if (Array.isArray(value)) return `[${value.map(one => jsonOf(one) ?? 'null').join(',')}]`;
  if (value === null || typeof value !== 'object') return JSON.stringify(value);
  const fields = Object.entries(value).filter(([, one]) => one !== undefined);
  return `{${fields.map(([name, one]) => `${JSON.stringify(name)}:${jsonOf(one)}`).join(',')}}`;
}

/** JSON for a reader: short values in one line. */
export function indented(value, margin = '') {
  const line = jsonOf(value), inner = margin + '  ';
  if (value === null || typeof value !== 'object' || margin.length + line.length <= 100) return line;
  const end = Array.isArray(value) ? ']' : '}',
        fields = Array.isArray(value) ? value.map(one => indented(one, inner)) :
                                        Object.entries(value)
                                          .filter(([, one]) => one !== undefined)
                                          .map(([name, one]) => `${JSON.stringify(name)}: ${indented(one, inner)}`);
  return `${line[0]}\n${fields.map(field => inner + field).join(',\n')}\n${margin}${end}`;
}

/** '[1, 2, 3]', with or without brackets, as token ids. */
export function idsOf(text) {
  const inner = /^\s*(?:\[([\s\d,]*)\]|([\s\d,]*))\s*$/.exec(text);
  const ids = (inner?.[1] ?? inner?.[2] ?? '').split(',').map(part => part.trim());
  if (!ids.every(id => /^\d{1,9}$/.test(id)))
    throw new Error(`Prompt: expected token ids as [1, 2, 3], found “${text.slice(0, 60)}”`);
  return ids.map(Number);
}

/** What the fields of the form say, which are text. Throws with the field's name where one cannot be sent. */
export function settingsOf({maxTokens, temperature, topP, seed, samples, ignoreEos}) {
  const bad = (name, expected, found) => new Error(`${name}: expected ${expected}, found “${found}”`);
  const whole = (name, text, low, high) => {
    if (!/^\d+$/.test(text.trim()) || BigInt(text) < BigInt(low) || BigInt(text) > BigInt(high))
      throw bad(name, `a whole number from ${low} to ${high}`, text);
    return BigInt(text);
  };
  const real = (name, text, expected, good) => {
    if (!text.trim() || !good(Number(text))) throw bad(name, expected, text);
    return Number(text);
  };
  const first = keptSeed(whole('Seed', seed, 0, largestSeed)), count = Number(whole('Samples', samples, 1, 128));
  seedAfter(first, count - 1);
  return {
    samples: count,
    generate: {
      maxTokens: Number(whole('Max tokens', maxTokens, 1, 2 ** 31 - 1)),
      temperature: real('Temperature', temperature, 'a number from 0 to 2', v => v >= 0 && v <= 2),
      topP: real('Top p', topP, 'a number above 0, at most 1', v => v > 0 && v <= 1),
      seed: first,
      ignoreEos
    }
  };
}

/** The sampling fields of the API, of the page's settings. */
const sampling = ({maxTokens, temperature, topP, seed, ignoreEos}) => ({
  max_tokens: maxTokens,
  temperature,
  ...(topP < 1 ? {top_p: topP} : {}),
  ...(seed === null ? {} : {seed: sentSeed(seed)}),
  ...(ignoreEos ? {ignore_eos: true} : {}),
});

/**
 * POST /v1/completions for a node whose prompt is `tokens`: text, probabilities and routes of every token, streamed.
 */
export const streamBody = (model, tokens, node) => ({
  model,
  prompt: [...tokens],
  echo: true,
  logprobs: alternatives,
  stream: true,
  ...sampling(node.generate),
  signalbox:
    {points: watched, rows: 'all', format: 'base64', hash: true, ...(node.edits.length ? {edits: node.edits} : {})},
});
/** The same words under edits: nothing is generated, each token gets its log p. */
export const sameWordsBody = (model, tokens, edits) => ({
  model,
  prompt: [...tokens],
  echo: true,
  logprobs: alternatives,
  max_tokens: 0,
  temperature: 0,
  signalbox: {points: watched, rows: 'given', format: 'base64', ...(edits.length ? {edits} : {})},
});
/** How far the distributions over the same words are from those under `baseline`. */
export const klBody = (tokens, baseline, edits) => ({record: {id: 'prompt', tokens: [...tokens]}, baseline, edits});
/** The router's view of the last of `tokens` at a layer: its logits and the scores that its selection sees. */
export const rankingBody = (model, tokens, layer, edits) => ({
  model,
  prompt: [...tokens],
  echo: true,
  logprobs: 0,
  max_tokens: 0,
  temperature: 0,
  signalbox: {
    points: `layer.${layer}.router.logits,layer.${layer}.router.scores`,
    rows: 'given',
    format: 'base64',
    ...(edits.length ? {edits} : {})
  },
});
/** Several versions of one text in one stream. */
export const branchesBody = (node, tokens, branches) => ({
  record: {id: 'prompt', tokens: [...tokens]},
  generate: sampling(node.generate),
  branches,
});

/** What a user would send: the record in words, without what only the page needs. */
export function plainRequest(model, node) {
  const own = node.edits.length ? {signalbox: {edits: node.edits}} : {}, how = sampling(node.generate);
  const {prompt, messages, tokens} = node.record;
  return messages ? {path: '/v1/chat/completions', body: {model, messages, ...how, ...own}} :
                    {path: '/v1/completions', body: {model, prompt: prompt ?? tokens, ...how, ...own}};
}

const shellQuoted = text => `'${text.replaceAll('\'', `'\\''`)}'`;
export function asCurl(base, model, node) {
  const {path, body} = plainRequest(model, node);
  return `curl ${base}${path} -H 'Content-Type: application/json' -d ${shellQuoted(jsonOf(body))}\n`;
}

const pythonOf = value => {
  if (value === null || value === undefined) return 'None';
  if (value === true) return 'True';
  if (value === false) return 'False';
  if (typeof value === 'bigint') return String(value);
  if (Array.isArray(value)) return `[${value.map(pythonOf).join(', ')}]`;
  if (typeof value === 'object')
    return `{${Object.entries(value).map(([k, v]) => `${JSON.stringify(k)}: ${pythonOf(v)}`).join(', ')}}`;
  return JSON.stringify(value);  // JSON's strings are Python's
};
export function asPython(base, model, node) {
  const {path, body} = plainRequest(model, node), {signalbox, ignore_eos: ignoreEos, ...fields} = body;
  const extra = {...(signalbox ? {signalbox} : {}), ...(ignoreEos ? {ignore_eos: true} : {})};
  const call = path.includes('chat') ? 'chat.completions' : 'completions';
  const text = path.includes('chat') ? 'choices[0].message.content' : 'choices[0].text';
  return `from openai import OpenAI

client = OpenAI(base_url="${base}/v1", api_key="none")
answer = client.${call}.create(
${Object.entries(fields).map(([key, value]) => `    ${key}=${pythonOf(value)},`).join('\n')}
${Object.keys(extra).length ? `    extra_body=${pythonOf(extra)},\n` : ''})
print(answer.${text})
`;
}

/** The edits as a file. Vectors that were read in the browser stand inline. */
export const asSpec = node => indented({edits: node.edits}) + '\n';

/** Does the seed decide what an edit does? */
const drawnBySeed = edit => edit.seed === undefined &&
  (['random', 'permute', 'gumbel', 'frequency_matched'].includes(edit.policy) || edit.tokens?.fraction !== undefined);
const flags = ({maxTokens, temperature, topP, seed, ignoreEos}, edits) => ` --max-tokens ${maxTokens}` +
  (temperature > 0 ? ` --temperature ${temperature}` : '') +
  (temperature > 0 || edits.some(drawnBySeed) ? ` --seed ${writtenSeed(seed)}` : '') +
  (topP < 1 ? ` --top-p ${topP}` : '') + (ignoreEos ? ' --ignore-eos' : '');
/** `argument`: the MODEL that the server was started with, as far as the page knows. */
export function asCommand(argument, node) {
  const {prompt, messages, tokens} = node.record;
  const edits = node.edits.length ? `cat > edits.json <<'END'\n${asSpec(node)}END\n` : '';
  const chat = messages && messages.length === 1 && messages[0].role === 'user' ? messages[0].content : null;
  const zero = (prompt ?? chat ?? '').includes('\0');
  const record = zero    ? '--input record.jsonl' :
    prompt !== undefined ? `--prompt ${shellQuoted(prompt)}` :
    chat !== null ? `--chat ${shellQuoted(chat)}` :
                    '--input record.jsonl';
  const given = messages ? {messages} : prompt !== undefined ? {prompt} : {tokens};
  const why = zero ? '# No shell passes the character NUL in an argument: the prompt stands in a file.\n' : '';
  const file = record.startsWith('--input') ?
    `${why}cat > record.jsonl <<'END'\n${JSON.stringify({id: 'prompt', ...given})}\nEND\n` :
    '';
  return `${edits}${file}signalbox generate ${argument} ${record}${flags(node.generate, node.edits)}` +
    `${node.edits.length ? ' --edits edits.json' : ''} --json\n`;
}

// Of a fixed route the run draws others as of every edit with names.
const isRoute = edit => edit.op === 'misroute', swapsLast = edit => isRoute(edit) && edit.policy === 'swap_last';
const namesExperts = edit => edit.policy === 'fixed' || ['deactivate', 'activate', 'scale_expert'].includes(edit.op);
const ownVector = edit => edit.op === 'add' && Array.isArray(edit.vector);
/** What stands beside a fork in its experiment, in words; a line each. */
export function wordsOfControls(edits, draws = 20) {
  const out = [];
  if (edits.some(edit => isRoute(edit) && !swapsLast(edit)))
    out.push(`Drawn routes: at the same places as many other experts, drawn with each of ${draws} seeds.`);
  if (edits.some(edit => edit.policy === 'random')) out.push('The fork keeps its own draw, which is none of them.');
  if (edits.some(swapsLast))
    out.push(`Drawn slots: ${draws} times one drawn expert of each layer takes the last slot, as the next best does here.`);
  if (edits.some(namesExperts))
    out.push(`Drawn experts: ${draws} times as many others of the same layers, and the bottom ones.`);
  if (edits.some(ownVector)) out.push(`Drawn directions: ${draws} of the same length, at the same places.`);
  if (edits.some(edit => edit.op === 'add' && !ownVector(edit)))
    out.push('No direction is drawn beside a vector of an asset, whose numbers this page has not: read it from its file.');
  return out;
}

/**
 * A fork as an experiment: the same edits against their controls, on records of the user's. One fork shows that a text
 * can change; whether these experts did it is what controls are for. Edits that name experts of a layer get the run's
 * own controls (as many others in the same layers); a route at a place, however it was chosen, gets drawn routes at the
 * same place, one that changes a slot drawn slots, and an added vector drawn directions. A fork whose route was drawn
 * keeps that draw (its seed, and the record's id), beside those of other seeds. `facts`: layers and routers of the model.
 */
export function experimentSpec(argument, node, facts, draws = 20) {
  const seed = node.run?.seed ?? node.generate.seed ?? 0, seeds = [];
  for (let i = 0; seeds.length < draws; ++i)
    if (i !== seed || !node.edits.some(drawnBySeed)) seeds.push(i);
  const own = node.edits.map(edit => drawnBySeed(edit) ? {...edit, seed: sentSeed(seed)} : edit);
  const interventions = [{name: 'baseline'}, {name: 'fork', edits: own}];
  const drawsRoutes = node.edits.some(edit => isRoute(edit) && !swapsLast(edit));
  if (drawsRoutes) {
    const place = ['op', 'layers', 'tokens', 'weights', 'within'];
    const drawn = node.edits.map(
      edit => isRoute(edit) ? {
        ...Object.fromEntries(Object.entries(edit).filter(([key]) => place.includes(key))),
        policy: 'random',
        exclude_original: true
      } :
                              edit);
    interventions.push({name: 'drawn routes', edits: drawn, controls: false});
  }
  const one = (name, which, of) => {
    for (let i = 0; node.edits.some(which) && i < draws; ++i)
      interventions.push({
        name: `${name} ${i}`,
        edits: own.map((edit, at) => which(node.edits[at]) ? of(edit, i * node.edits.length + at) : edit),
        controls: false
      });
  };
  one('drawn slot', swapsLast, (edit, i) => drawnSlot(edit, facts, i));
  one('drawn direction', ownVector, (edit, i) => ({...edit, vector: drawnDirection(edit.vector, i)}));
  // Teacher-forced, so that positions mean the same in every version; edits of generated tokens need text.
  const needsText = node.edits.some(edit => edit.tokens?.phase === 'generated'),
        {maxTokens, temperature, topP} = node.generate;
  const generate = {
    max_tokens: maxTokens,
    ...(temperature > 0 ? {temperature} : {}),
    ...(topP < 1 ? {top_p: topP} : {})
  };
  const metrics = needsText ? ['length', 'repetition', 'answer_agreement'] : ['nll', 'kl', 'top1'];
  return {
    model: argument,
    data: 'records.jsonl',
    ...(needsText ? {generate} : {}),
    interventions,
    ...(drawsRoutes || (needsText && temperature > 0) ? {seeds} : {}),
    ...(node.edits.some(namesExperts) ? {controls: {random: draws, bottom: true}} : {}),
    metrics,
  };
}
/** The experiment as commands: its record, to which more belong, the spec, and the run. */
export function asExperiment(argument, node, text, facts) {
  const {prompt, messages, tokens} = node.record;
  const record = {id: 'prompt', ...(messages ? {messages} : prompt !== undefined ? {prompt} : {tokens}), target: text};
  return `# One record shows that a text can change. Add the others that the claim is about, a line each.
${wordsOfControls(node.edits).map(line => `# ${line}\n`).join('')}mkdir -p experiment
cat > experiment/records.jsonl <<'END'
${JSON.stringify(record)}
END
cat > experiment/spec.json <<'END'
${indented(experimentSpec(argument, node, facts))}
END
signalbox run experiment/spec.json --out experiment/run
signalbox report experiment/run
`;
}
