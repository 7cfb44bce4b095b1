// Edits, forks, requests and layout of the page's modules (tools/serve/page/logic), and how they are put together.
import assert from 'node:assert/strict';
import {webcrypto} from 'node:crypto';
import {readFileSync, readdirSync} from 'node:fs';
import test from 'node:test';
import {fragmentOf, packFragment, unpackFragment} from '../../tools/serve/page/logic/api.js';
import {GridLayout, blocksOf, fittingStep, minimapScroll, minimapWindow, moved, tilesOf, zoomed} from '../../tools/serve/page/logic/layout.js';
import {exactJson} from '../../tools/serve/page/logic/sse.js';
import {Model} from '../../tools/serve/page/logic/model.js';
import {asCommand, asCurl, asExperiment, asPython, experimentSpec, idsOf, jsonOf, seedAfter, settingsOf, streamBody, wordsOfControls} from '../../tools/serve/page/logic/requests.js';
import {Session, cellKey, factsOf, rankingOf} from '../../tools/serve/page/logic/session.js';
import * as spec from '../../tools/serve/page/logic/spec.js';
import {Store} from '../../tools/serve/page/logic/store.js';
import {Tree, firstDifference, parting, sameBits} from '../../tools/serve/page/logic/tree.js';
import {quoted, wordsOfEdit} from '../../tools/serve/page/logic/words.js';

globalThis.crypto ??= webcrypto;  // Node 18 has it under this name only
const here = {
  scope: 'token',
  from: 5,
  to: 6,
  layers: [3]
};

test('a cell becomes a misroute to fixed experts, its weights said', () => {
  assert.deepEqual(spec.routeEdit([4, 9], here, 'renormalize'), {
    op: 'misroute',
    policy: 'fixed',
    experts: [4, 9],
    layers: '3',
    tokens: {positions: '5:6'},
    weights: 'renormalize'
  });
  assert.deepEqual(
    spec.banEdit([4], {...here, scope: 'layer'}), {op: 'deactivate', mode: 'ban', experts: [4], layers: '3'});
  assert.deepEqual(
    spec.forceEdit([4], {...here, scope: 'generated', layers: [1, 2, 3, 7]}),
    {op: 'activate', mode: 'force', experts: [4], layers: '1-3,7', tokens: {phase: 'generated'}});
  assert.deepEqual(spec.policyEdit('random', {...here, scope: 'tokens', to: 9}, 'hole'), {
    op: 'misroute',
    policy: 'random',
    exclude_original: true,
    layers: '3',
    tokens: {positions: '5:9'},
    weights: 'hole'
  });
  assert.throws(() => spec.routeEdit([4, 4], here, 'model'), /each once/);
  assert.throws(() => spec.banEdit([1], {...here, from: 6}), /from a to b/);
});

test('layers and slots', () => {
  assert.deepEqual(
    [spec.rangesOf([9, 3, 4, 5, 4]), spec.numbersOf('3-5, 9', []), spec.numbersOf('all', [1, 2])],
    ['3-5,9', [3, 4, 5, 9], [1, 2]]);
  for (const text of ['', '3-', 'a', '5-3', '1,,2']) assert.throws(() => spec.numbersOf(text, []), /layers/);
  assert.deepEqual([spec.swapped([7, 8, 9], 0, 5), spec.swapped([7, 8, 9], 0, 9)], [[5, 8, 9], [9, 8, 7]]);
});

test('a board becomes one edit for each kind of switch', () => {
  const state = new Map([
    ['10:2', {op: 'ban'}], ['3:7', {op: 'ban'}], ['3:5', {op: 'ban'}], ['4:1', {op: 'force'}],
    ['4:2', {op: 'scale', by: 0}], ['5:2', {op: 'scale', by: 0}], ['5:3', {op: 'scale', by: 2}]
  ]);
  assert.deepEqual(spec.boardEdits(state), [
    {op: 'deactivate', mode: 'ban', experts: {3: [5, 7], 10: [2]}}, {op: 'activate', mode: 'force', experts: {4: [1]}},
    {op: 'scale_expert', by: 0, experts: {4: [2], 5: [2]}}, {op: 'scale_expert', by: 2, experts: {5: [3]}}
  ]);
  assert.deepEqual(
    spec.boardEdits(new Map([['1:1', {op: 'ban'}]]), {scope: 'generated'})[0].tokens, {phase: 'generated'});
});

test('the first token that can differ', () => {
  assert.equal(spec.firstThatCanDiffer([spec.routeEdit([1], here, 'model')], 3), 6);
  assert.equal(spec.firstThatCanDiffer([spec.routeEdit([1], here, 'model')], 20), 20);  // given tokens stay
  assert.equal(spec.firstThatCanDiffer([{op: 'top_k', k: 1, tokens: {phase: 'generated'}}], 20), 21);
});

test('presets from a ranking', () => {
  const csv = 'layer,expert,a1_n,rd\n3,5,1,0.5\n3,6,1,-0.7\n4,1,2,0.5\n2,9,2,0.1\n';
  assert.deepEqual(spec.topOfRanking(csv, 2, '+').map(row => [row.layer, row.expert]), [[3, 5], [4, 1]]);
  assert.deepEqual(spec.topOfRanking(csv, 1, 'both').map(row => row.expert), [6]);
  assert.deepEqual(spec.topOfRanking(csv, 9, '-').length, 1);
  assert.throws(() => spec.topOfRanking('layer,expert\n1,2', 1, '+'), /column rd/);
});

test('words', () => {
  assert.equal(wordsOfEdit(spec.routeEdit([4, 9], here, 'hole')), 'route to experts 4, 9 at layer 3, token 5 (hole)');
  assert.equal(wordsOfEdit({op: 'deactivate', mode: 'ban', experts: {3: [5, 7]}}), 'ban L3·5, L3·7');
  assert.equal(
    wordsOfEdit({op: 'add', point: 'resid_out', layers: '3', vector: 'asset:d.safetensors:x', scale: -2}),
    'add −2 × d.safetensors:x at resid_out, layer 3');
  assert.deepEqual([quoted(' a\n'), quoted('  '), quoted(''), quoted('\u0007')], ['“␣a⏎”', '“␣␣”', '“∅”', '“\\u0007”']);
});

const treeOf = () => {
  const tree = new Tree(), generate = {maxTokens: 4, temperature: 0, topP: 1, seed: 0};
  tree.add({id: 'a', record: {prompt: 'x'}, generate, created: 1});
  tree.add({id: 'b', parent: 'a', record: {prompt: 'x'}, generate, edits: [spec.banEdit([1], here)], created: 2});
  tree.add({
    id: 'c',
    parent: 'b',
    record: {prompt: 'x'},
    generate,
    edits: [spec.banEdit([1], here), spec.banEdit([2], here)],
    created: 3
  });
  tree.add({id: 'd', parent: 'a', record: {prompt: 'x'}, generate, created: 4});
  return tree;
};

test('the tree: order, undo, removal', () => {
  const tree = treeOf();
  assert.deepEqual(tree.order().map(node => node.id), ['a', 'b', 'c', 'd']);
  tree.select('c');
  assert.deepEqual(
    [tree.compared, tree.depth('c'), tree.root('c').id, tree.undo(), tree.selected, tree.undo(), tree.undo()],
    ['b', 2, 'a', true, 'b', true, false]);
  tree.select('c');
  tree.compare('d');
  assert.deepEqual(tree.remove('b'), ['c', 'b']);
  assert.deepEqual([tree.selected, tree.compared, tree.nodes.size], ['a', null, 2]);
  assert.throws(() => tree.add({parent: 'zz', record: {}, generate: {}}), /parent zz/);
});

test('the tree goes out and comes back', () => {
  const tree = treeOf(), run = {tokens: [1, 2, 3], given: 2, pieces: ['a', 'b', 'c'], hash: 'f0', seed: 0, done: true};
  tree.get('b').run = run;
  tree.get('b').note = 'a note';
  tree.select('b');
  const json = JSON.parse(JSON.stringify(tree)), back = Tree.from(json);
  assert.deepEqual(
    back.order().map(({id, parent, edits, note}) => ({id, parent, edits, note})),
    tree.order().map(({id, parent, edits, note}) => ({id, parent, edits, note})));
  assert.deepEqual([back.selected, back.compared, back.get('b').expect.tokens], ['b', 'a', [1, 2, 3]]);
  assert.deepEqual(
    [
      sameBits(run, back.get('b').expect), sameBits({...run, hash: 'f1'}, back.get('b').expect),
      sameBits({...run, tokens: [1, 2, 4]}, back.get('b').expect)
    ],
    ['same bits', 'same tokens, other logits', 'differs from token 2 on']);
  assert.deepEqual(JSON.parse(JSON.stringify(Tree.from({...json, nodes: [json.nodes[0]]}))).nodes.length, 1);
  for (const [broken, path] of [
         [{...json, schema: 'x'}, 'schema'], [{...json, nodes: [{...json.nodes[0], edits: 3}]}, 'nodes[0].edits'],
         [{...json, nodes: [json.nodes[1]]}, 'nodes[0].parent'], [{...json, nodes: 7}, 'nodes']])
    assert.throws(() => Tree.from(broken), error => error.message.startsWith(path));
  assert.deepEqual(
    [firstDifference([1, 2], [1, 2]), firstDifference([1, 2], [1, 3]), firstDifference([1], [1, 2])], [-1, 1, 1]);
});

test('where two texts part, while one is still written', () => {
  const whole = {tokens: [1, 2, 3], pieces: ['a', 'b', 'c'], done: true};
  assert.equal(parting({tokens: [1], pieces: ['a', 'b'], done: false}, whole), -1);
  assert.equal(parting({tokens: [1], pieces: ['a', 'x'], done: false}, whole), 1);
  assert.equal(parting({tokens: [1, 2], pieces: ['a', 'b'], done: true}, whole), 2);
});

test('a link holds the spec', async () => {
  const value = {record: {prompt: 'ä </script>'}, edits: [spec.banEdit([1], here)]}, text = await packFragment(value);
  assert.match(text, /^[A-Za-z0-9_-]+$/);
  assert.deepEqual(await unpackFragment(text), value);
  assert.deepEqual([fragmentOf('#key=s3cret&fork=ab').get('key'), fragmentOf('').has('key')], ['s3cret', false]);
});

const node = {
  record: {prompt: 'It\'s'},
  generate: {maxTokens: 4, temperature: 0, topP: 1, seed: 7, ignoreEos: false},
  edits: [spec.routeEdit([4, 9], here, 'model')]
};

test('the same request in other words', () => {
  assert.equal(
    asCurl('http://h', 'm', node),
    `curl http://h/v1/completions -H 'Content-Type: application/json' -d '{"model":"m","prompt":"It'\\''s","max_tokens":4,"temperature":0,"seed":7,"signalbox":{"edits":[{"op":"misroute","policy":"fixed","experts":[4,9],"layers":"3","tokens":{"positions":"5:6"},"weights":"model"}]}}'\n`);
  assert.match(
    asPython('http://h', 'm', {...node, generate: {...node.generate, ignoreEos: true}}),
    /extra_body=\{"signalbox": \{"edits": .*\}, "ignore_eos": True\},/);
  assert.match(
    asCommand('builtin', {...node, generate: {...node.generate, temperature: 0.5, topP: 0.9}}),
    /signalbox generate builtin --prompt 'It'\\''s' --max-tokens 4 --temperature 0.5 --seed 7 --top-p 0.9 --edits edits.json/);
  assert.match(
    asCommand('builtin', {...node, edits: [], record: {messages: [{role: 'user', content: 'hi'}]}}),
    /^signalbox generate builtin --chat 'hi' --max-tokens 4 --json\n$/);
  assert.match(
    asCommand('m', {...node, edits: [], record: {tokens: [1, 2]}}),
    /\{"id":"prompt","tokens":\[1,2\]\}\nEND\nsignalbox generate m --input record.jsonl/);
});

test('no NUL stands in a command', () => {
  for (const record of [{prompt: 'a\0b'}, {messages: [{role: 'user', content: 'a\0b'}]}]) {
    const text = asCommand('m', {...node, record, edits: []});
    assert.ok(!text.includes('\0'));
    assert.match(text, /^# No shell .*\n.*\n.*a\\u0000b.*\nEND\nsignalbox generate m --input record\.jsonl --max-tokens 4 --json\n$/);
  }
});

test('the command of docs/page.md is the one that the page gives', () => {
  const text = readFileSync(new URL('../../docs/page.md', import.meta.url), 'utf8');
  const made = {
    record: {prompt: 'The capital of Rulfar is'},
    generate: {maxTokens: 6, temperature: 0, topP: 1, seed: 0, ignoreEos: false},
    edits: [spec.policyEdit('worst', {scope: 'token', from: 6, to: 7, layers: [1]}, 'renormalize')]
  };
  const block = asCommand('builtin', made).trimEnd().replace(/^/gm, '    ');
  assert.ok(text.includes(`\n\n    cd /tmp/\n${block}\n\n`), block);
});

test('a seed keeps its digits, and one that cannot be sent is refused', () => {
  const fields = {maxTokens: '4', temperature: '1', topP: '1', seed: '9007199254740993', samples: '2', ignoreEos: false};
  const {generate, samples} = settingsOf(fields), drawn = {record: {prompt: 'x'}, generate, edits: []};
  assert.deepEqual([generate.seed, samples, seedAfter(generate.seed, 1)], ['9007199254740993', 2, '9007199254740994']);
  assert.match(jsonOf(streamBody('m', [1], drawn)), /"seed":9007199254740993,/);
  assert.match(asCurl('http://h', 'm', drawn), /"seed":9007199254740993[,}]/);
  assert.match(asPython('http://h', 'm', drawn), /seed=9007199254740993,/);
  assert.match(asCommand('m', drawn), /--seed 9007199254740993 /);
  assert.match(asCommand('m', {...drawn, generate: {...generate, seed: -3}}), /--seed 18446744073709551613 /);
  assert.equal(settingsOf({...fields, seed: ' 7 '}).generate.seed, 7);
  for (const seed of ['-3', '', '1.5', '1e3', '9223372036854775808', '9223372036854775807'])
    assert.throws(() => settingsOf({...fields, seed}), /^Error: Seed: expected/, seed);
  for (const [name, wrong] of [['maxTokens', '0'], ['temperature', ''], ['topP', '0'], ['samples', '1.5']])
    assert.throws(() => settingsOf({...fields, [name]: wrong}), /: expected/, name);
  assert.deepEqual(
    exactJson('{"seed": 9007199254740993, "a": {"seed":7}, "text": ",\\"seed\\":9007199254740993,"}'),
    {seed: '9007199254740993', a: {seed: 7}, text: ',"seed":9007199254740993,'});
  const value = {a: [1, null, undefined, 'ä"'], b: undefined, c: {d: false}};
  assert.equal(jsonOf(value), JSON.stringify(value));
  // What an edit draws depends on the seed, of greedy text too.
  assert.match(asCommand('m', {...drawn, generate: {...generate, temperature: 0}, edits: [spec.policyEdit('random', here)]}), /--seed/);
});

test('an experiment has controls', () => {
  const routed = experimentSpec('builtin', node);
  assert.deepEqual(routed.interventions.map(one => one.name), ['baseline', 'fork', 'drawn routes']);
  assert.deepEqual(routed.interventions[2].edits, [{
                     op: 'misroute',
                     policy: 'random',
                     exclude_original: true,
                     layers: '3',
                     tokens: {positions: '5:6'},
                     weights: 'model'
                   }]);
  assert.equal(routed.seeds.length, 20);
  const banned = experimentSpec('builtin', {...node, edits: [spec.banEdit([1], {...here, scope: 'layer'})]});
  assert.deepEqual([banned.controls, banned.interventions.length], [{random: 20, bottom: true}, 2]);
  for (const policy of ['worst', 'next_best', 'random']) {
    const edit = spec.policyEdit(policy, here, 'model'), made = {...node, edits: [spec.banEdit([1], here), edit]},
          {interventions: [, fork, drawn], seeds} = experimentSpec('builtin', made);
    assert.deepEqual(drawn.edits, [made.edits[0], {...edit, policy: 'random', exclude_original: true}]);
    // A drawn route keeps its draw, which is not among the others.
    assert.deepEqual(
      [fork.edits[1].seed, seeds.length, seeds.includes(7)], policy === 'random' ? [7, 20, false] : [undefined, 20, true]);
    assert.match(wordsOfControls(made.edits).join(), /Drawn routes.*Drawn experts/);
  }
  // One slot against drawn single slots; a vector against others of its length.
  const facts = {layers: [1, 2, 3], router: new Map([1, 2, 3].map(layer => [layer, {n_experts: 8}]))};
  const last = spec.policyEdit('swap_last', here, 'model'), vector = [3, 0, -4, 0, 0, 0],
        added = {op: 'add', point: 'resid_out', layers: '2', vector, scale: 2},
        both = experimentSpec('builtin', {...node, edits: [last, added]}, facts);
  const named = name => both.interventions.filter(one => one.name.startsWith(name));
  assert.deepEqual([named('drawn slot').length, named('drawn direction').length, both.seeds], [20, 20, undefined]);
  for (const {edits: [slot, vectorOfFork], controls} of named('drawn slot')) {
    assert.deepEqual([controls, vectorOfFork, slot.op, slot.mode, slot.tokens, slot.weights], [false, added, 'activate', 'force', last.tokens, 'model']);
    assert.deepEqual(Object.keys(slot.experts), ['3']);
    assert.ok(slot.experts[3].length === 1 && slot.experts[3][0] >= 0 && slot.experts[3][0] < 8);
  }
  assert.ok(new Set(named('drawn slot').map(one => one.edits[0].experts[3][0])).size > 4);
  for (const {edits: [slot, drawn]} of named('drawn direction')) {
    assert.deepEqual([slot, drawn.scale, drawn.vector.length], [last, 2, 6]);
    assert.ok(Math.abs(Math.hypot(...drawn.vector) - 5) < 1e-5);
  }
  assert.notDeepEqual(named('drawn direction')[0].edits[1].vector, named('drawn direction')[1].edits[1].vector);
  assert.deepEqual(experimentSpec('builtin', {...node, edits: [last, added]}, facts), both);
  assert.match(wordsOfControls([last, added]).join(), /Drawn slots.*Drawn directions/);
  assert.match(wordsOfControls([{op: 'add', vector: 'asset:a:b'}]).join(), /No direction is drawn/);
  assert.match(asExperiment('builtin', node, 'out'), /signalbox run experiment\/spec.json --out experiment\/run/);
});

test('the grid', () => {
  const layout = new GridLayout({columns: 10000, rows: 48, cellWidth: 18, cellHeight: 10, width: 900, height: 200});
  assert.deepEqual(
    [layout.visibleColumns(0), layout.visibleColumns(9), layout.visibleColumns(1e9), layout.visibleRows(0)],
    [[0, 50], [0, 51], [10000, 10000], [0, 20]]);
  assert.deepEqual(
    [layout.cellAt(17, 9, 0, 0), layout.cellAt(18, 10, 0, 0), layout.cellAt(0, 0, 180000, 0)],
    [{column: 0, row: 0}, {column: 1, row: 1}, null]);
  assert.deepEqual(layout.scrollTo(0, 0, 0, 0), {x: 0, y: 0});
  assert.deepEqual(layout.scrollTo(9999, 47, 0, 0), {x: 180000 - 900, y: 280});
  assert.equal(tilesOf(10000).length, 3);
  assert.deepEqual([zoomed(18, 1), zoomed(32, 1), zoomed(1, -1), zoomed(5, 0)], [24, 32, 1, 6]);
  assert.deepEqual([fittingStep(100, 900), fittingStep(10000, 900), fittingStep(10000, 900, 6)], [8, 1, 6]);
  assert.deepEqual(minimapWindow(layout, 90000, 1000), {x: 500, width: 5});
  assert.equal(minimapScroll(layout, 500, 1000), 90000 - 450);
  const size = {columns: 10, rows: 4, page: 16};
  assert.deepEqual(
    ['ArrowLeft', 'ArrowDown', 'PageDown', 'End'].map(key => moved({column: 0, row: 3}, key, false, size)),
    [{column: 0, row: 3}, {column: 0, row: 3}, {column: 9, row: 3}, {column: 9, row: 3}]);
  assert.deepEqual(
    [moved({column: 5, row: 2}, 'Home', true, size), moved({column: 5, row: 2}, 'x', false, size)],
    [{column: 0, row: 0}, null]);
});

test('blocks cover every token once', () => {
  const pieces = Array.from({length: 5000}, (_, i) => i % 97 === 96 ? '\n' : ' w'), blocks = blocksOf(pieces, 240);
  let at = 0;
  for (const {from, to} of blocks) {
    assert.equal(from, at);
    assert.ok(to > from && to - from <= 240);
    at = to;
  }
  assert.equal(at, 5000);
  assert.equal(pieces[blocks[0].to - 1], '\n');
});

test('a model tells of changes, once and only of changes', () => {
  const model = new Model({a: 1}), heard = [];
  const listener = () => heard.push(model.get('a'));
  model.on('change:a change:b', listener);
  model.set('a', 1);
  model.set({a: 2, b: 3});
  model.off('change:a', listener);
  model.set('a', 4);
  assert.deepEqual(heard, [2, 2]);
});

// A server of one answer.
const inspected = {
  model: 'builtin',
  model_hash: 'h',
  n_layers: 3,
  d_model: 4,
  max_positions: 64,
  parameters: 1,
  active_parameters: 1,
  chat_template: true,
  layers: [{layer: 0}, {layer: 1, router: {n_experts: 6, n_active: 2}}, {layer: 2, router: {n_experts: 6, n_active: 2}}]
};
const answerOf = (prompt, made) => ({
  logprobs: {
    tokens: [...prompt, ...made].map(String),
    token_logprobs: [null, ...[...prompt, ...made].slice(1).map(() => -1)],
    top_logprobs: null
  },
  finish_reason: 'length',
  signalbox: {token_ids: made, logits_hash: 'ab', seed: 5}
});
const serverOf = log => ({
  get: async path => path === '/v1/models' ? {data: [{id: 'builtin'}]} : inspected,
  post: async (path, body) => {
    log.push([path, body]);
    if (path === '/tokenize') return {tokens: [1, 2]};
    if (path === '/signalbox/v1/score') return {kl: [0, .25], same_top: [true, false]};
    return {choices: [answerOf(body.prompt, [])]};
  },
  stream: async (path, body, each) => {
    log.push([path, body]);
    each({choices: [answerOf(body.prompt, body.signalbox.edits ? [7] : [8])]});
  },
});

test('a session: text, fork, undo, same words', async () => {
  const log = [], session = new Session(serverOf(log), new Model());
  await session.connect();
  assert.deepEqual([session.facts.layers, session.facts.nExperts], [[1, 2], 6]);
  const base =
    await session.start({prompt: 'x'}, {maxTokens: 1, temperature: 1, topP: 1, seed: null, ignoreEos: false});
  assert.deepEqual(
    [base.run.tokens, base.run.given, base.run.done, session.model.get('status').startsWith('1 tokens')],
    [[1, 2, 8], 2, true, true]);
  const edit = spec.banEdit([1], {...here, layers: [1]}), fork = await session.fork([edit]);
  const asked = log.find(([path, body]) => path === '/v1/completions' && body.stream && body.signalbox.edits)[1];
  assert.deepEqual(
    [asked.seed, asked.signalbox.edits, asked.prompt], [5, [edit], [1, 2]]);  // the seed that the server drew
  const forced = log.at(-2)[1], compared = log.at(-1)[1];
  assert.deepEqual([forced.prompt, forced.max_tokens, forced.signalbox.edits], [[1, 2, 8], 0, [edit]]);
  assert.deepEqual(compared, {record: {id: 'prompt', tokens: [1, 2, 8]}, baseline: [], edits: [edit]});
  assert.deepEqual([fork.sameWords.kl.slice(1), fork.sameWords.sameTop], [[0, .25], [true, true, false]]);
  assert.deepEqual([fork.sameWords.of, session.undo(), session.node.id], [base.id, true, base.id]);
  const further = await session.fork([edit], {parent: fork});
  assert.deepEqual(further.edits, [edit, edit]);
});

test('what is imported stands beside what is there', async () => {
  const session = new Session(serverOf([]), new Model());
  await session.connect();
  const kept = await session.start({prompt: 'mine'}, {maxTokens: 1, temperature: 0, topP: 1, seed: 0});
  const tree = treeOf();
  tree.get('b').run = {tokens: [1, 2, 7], given: 2, pieces: [], hash: 'ab', seed: 0, done: true};
  tree.select('b');
  await session.adopt(Tree.from(JSON.parse(JSON.stringify(tree))));
  assert.deepEqual([session.tree.nodes.size, session.node.id, session.tree.get(kept.id).run.done], [5, 'b', true]);
  await session.run(session.node);
  assert.equal(session.node.same, 'same bits');
  await session.adopt(Tree.from(JSON.parse(JSON.stringify(tree))));
  assert.deepEqual([session.tree.nodes.size, session.node.run], [5, null]);
});

test('a refusal is said, and leaves no fork behind', async () => {
  const api = serverOf([]), session = new Session(api, new Model());
  await session.connect();
  const base = await session.start({prompt: 'x'}, {maxTokens: 1, temperature: 0, topP: 1, seed: 0});
  api.stream = async () => {
    throw new Error('edits[0].layers: too high');
  };
  assert.equal(await session.fork([spec.banEdit([1], here)]), null);
  assert.deepEqual(
    [session.model.get('error'), session.node, session.tree.nodes.size, session.running.size],
    ['edits[0].layers: too high', base, 1, 0]);
});

test('a text that is stopped keeps what came, and is not taken for finished', async () => {
  const api = serverOf([]), session = new Session(api, new Model());
  await session.connect();
  api.stream = async (path, body, each) => {
    each({choices: [{logprobs: answerOf(body.prompt, [8]).logprobs}]});
    throw Object.assign(new Error('stopped'), {name: 'AbortError'});
  };
  const base = await session.start({prompt: 'x'}, {maxTokens: 1, temperature: 0, topP: 1, seed: 0});
  assert.deepEqual([base.run.pieces.length, base.run.done, session.model.get('error')], [3, false, null]);
  assert.ok(!('expect' in session.tree.toJSON().nodes[0]));  // a part of a text is not expected of another run
});

test('what is refused is not kept: no new text, no board, and a text that is run again stays', async () => {
  const api = serverOf([]), session = new Session(api, new Model()), saved = [];
  session.store = {saveNode: async node => saved.push(node.id), saveSetting() {}, remove() {}};
  await session.connect();
  const settings = {maxTokens: 1, temperature: 0, topP: 1, seed: 0}, good = api.stream;
  const bad = async () => { throw Object.assign(new Error('no'), {status: 400}); };
  api.stream = bad;
  assert.equal(await session.start({prompt: 'x'}, settings), null);
  assert.deepEqual([session.node, session.tree.toJSON().nodes, saved], [null, [], []]);
  api.stream = good;
  const base = await session.start({prompt: 'x'}, settings), {run} = base;
  api.stream = bad;
  assert.equal(await session.run(base), false);
  assert.equal(base.run, run);
  const edit = spec.banEdit([1], here);
  assert.equal(await session.live(base, [edit]), null);
  assert.deepEqual([session.tree.nodes.size, session.node], [1, base]);
  api.stream = good;
  const board = await session.live(base, [edit]);
  api.stream = bad;
  await session.live(base, [edit, spec.banEdit([2], here)]);
  assert.deepEqual([board.edits, board.run.done, session.tree.nodes.size], [[edit], true, 2]);
  assert.deepEqual([...new Set(saved)], [base.id, board.id]);
});

test('a model without a tokenizer takes ids', async () => {
  assert.deepEqual([idsOf('[1, 2,3]'), idsOf(' 7 '), idsOf('4,5')], [[1, 2, 3], [7], [4, 5]]);
  for (const text of ['', '[]', '[1', '1 2', '-1', '1.5', 'a', '[1,,2]']) assert.throws(() => idsOf(text), /^Error: Prompt/, text);
  const api = serverOf([]), session = new Session(api, new Model()), post = api.post, stream = api.stream;
  api.post = async (path, body) => {
    if (path.includes('tokenize'))
      throw Object.assign(new Error('model: expected one with a tokenizer, found none'), {status: 400});
    return post(path, body);
  };
  api.stream = (path, body, each) => stream(path, body, event => {
    event.choices[0].logprobs.tokens.fill('');
    each(event);
  });
  await session.connect();
  const settings = {maxTokens: 1, temperature: 0, topP: 1, seed: 0};
  assert.equal(await session.start({prompt: 'x'}, settings), null);
  assert.match(session.model.get('error'), /token ids/);
  const made = await session.start({tokens: [1, 2]}, settings);
  assert.deepEqual([made.run.done, made.run.pieces], [true, [' 1', ' 2', ' 8']]);
});

test('a ranking is asked for once the text is done, and again under other edits', () => {
  // Token ids come before the text is done: the words of the last are still asked for then.
  const run = {tokens: [1, 2, 8], done: false}, node = {id: 'a', edits: [], run}, before = cellKey(node, 1, 2);
  run.done = true;
  const done = cellKey(node, 1, 2);
  node.edits = [spec.banEdit([1], here)];
  assert.equal(new Set([before, done, cellKey(node, 1, 2), cellKey(node, 1, 1), cellKey(node, 0, 2)]).size, 5);
});

test('the ranking is that of the scores, ties to the lowest index', () => {
  assert.deepEqual(
    rankingOf([5, 1, 9], [.2, .2, .6]).map(row => [row.rank, row.expert, row.logit]),
    [[1, 2, 9], [2, 0, 5], [3, 1, 1]]);
  assert.throws(() => factsOf({layers: [{layer: 0}]}), /routers/);
});

test('without a database the page works and forgets', async () => {
  const store = await Store.open('x', {open() { throw new Error('refused'); }});
  await store.saveNode({id: 'a'});
  assert.deepEqual([(await store.tree()).nodes.size, await store.setting('selected')], [0, undefined]);
});

// The modules share one scope when they are put together (cmake/page.cmake).
test(
  'no name stands at the outermost level of two modules, none is missing from the list, and no text becomes markup',
  () => {
    const root = new URL('../../tools/serve/page/', import.meta.url), names = new Map(),
          listed = readFileSync(new URL('../../cmake/page.cmake', import.meta.url), 'utf8');
    for (const folder of ['logic', 'views'])
      for (const file of readdirSync(new URL(folder, root))) {
        const text = readFileSync(new URL(`${folder}/${file}`, root), 'utf8');
        assert.ok(listed.includes(`${folder}/${file}`), `cmake/page.cmake: ${folder}/${file}`);
        assert.doesNotMatch(
          text, /innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|<\/script/, file);
        assert.doesNotMatch(text, /export default|export \{|export \*|import\(/, file);
        for (const [, one] of text.matchAll(/^(?:export )?(?:async )?(?:const|let|class|function) (\w+)/gm)) {
          assert.ok(!names.has(one), `${one}: in ${names.get(one)} and ${file}`);
          names.set(one, file);
        }
        for (const [line] of text.matchAll(/^import .*$/gm))
          assert.match(line, /^import (\{[^}]*\}|\{) ?/, `${file}: ${line}`);
      }
  });
