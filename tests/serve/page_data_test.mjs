// Numbers, streams, colours and routes of the page's modules (tools/serve/page/logic).
import assert from 'node:assert/strict';
import test from 'node:test';
import {arrayOfResponse, base64OfBytes, bytesOfBase64, halfToNumber, readSafetensors, typedArray} from '../../tools/serve/page/logic/arrays.js';
import * as colours from '../../tools/serve/page/logic/colours.js';
import {cramersV, domainShares, stickiness, transitions} from '../../tools/serve/page/logic/patterns.js';
import {emptyRun, listedEntropy, putChoice, textOf} from '../../tools/serve/page/logic/results.js';
import {Routes, routesOfTrace, usage} from '../../tools/serve/page/logic/routes.js';
import {EventReader, readEvents} from '../../tools/serve/page/logic/sse.js';

const bytesOf = text => new TextEncoder().encode(text);
/** A safetensors file of {name: [dtype, shape, typed array]}. */
export function safetensors(tensors, metadata = {}) {
  const header = {__metadata__: metadata}, parts = [];
  let at = 0;
  for (const [name, [dtype, shape, values]] of Object.entries(tensors)) {
    header[name] = {dtype, shape, data_offsets: [at, at + values.byteLength]};
    parts.push(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
    at += values.byteLength;
  }
  const head = bytesOf(JSON.stringify(header)), file = new Uint8Array(8 + head.length + at);
  new DataView(file.buffer).setBigUint64(0, BigInt(head.length), true);
  file.set(head, 8);
  let to = 8 + head.length;
  for (const part of parts) {
    file.set(part, to);
    to += part.length;
  }
  return file;
}

test('half floats', () => {
  for (const [bits, value] of [
         [0x3c00, 1], [0xc000, -2], [0x7bff, 65504], [0x0001, 2 ** -24], [0x0400, 2 ** -14], [0x3555, 0.333251953125],
         [0, 0], [0x7c00, Infinity], [0xfc00, -Infinity]])
    assert.equal(halfToNumber(bits), value);
  assert.ok(Number.isNaN(halfToNumber(0x7e00)));
  assert.deepEqual([...typedArray(new Uint8Array([0, 0x3c, 0, 0xc0]), 'F16')], [1, -2]);
  assert.deepEqual([...typedArray(new Uint8Array([0x80, 0x3f, 0x20, 0xc0]), 'BF16')], [1, -2.5]);
});

test('base64 and arrays of a response', () => {
  const values = Float32Array.of(0.25, -3, 7.5, 0), bytes = new Uint8Array(values.buffer);
  assert.deepEqual(bytesOfBase64(base64OfBytes(bytes)), bytes);
  assert.equal(base64OfBytes(bytesOf('signalbox')), Buffer.from('signalbox').toString('base64'));
  const long = Uint8Array.from({length: 20001}, (_, i) => i * 7);
  assert.equal(base64OfBytes(long), Buffer.from(long).toString('base64'));
  assert.deepEqual([...arrayOfResponse({dtype: 'F32', shape: [2, 2], data: base64OfBytes(bytes)}).values], [...values]);
  assert.deepEqual(
    [...arrayOfResponse({dtype: 'U8', shape: [1, 2, 2], data: [[[1, 2], [3, 4]]]}).values], [1, 2, 3, 4]);
  assert.throws(
    () => arrayOfResponse({dtype: 'F32', shape: [3], data: base64OfBytes(bytes)}), /expected 3 values, found 4/);
  assert.throws(() => typedArray(new Uint8Array(3), 'F32'), /multiple of 4/);
  assert.throws(() => typedArray(new Uint8Array(4), 'F4'), /dtype/);
});

test('safetensors', () => {
  const file = readSafetensors(safetensors(
    {
      a: ['U8', [3], Uint8Array.of(1, 2, 3)],
      b: ['F32', [1, 2], Float32Array.of(0.5, -1)],
      c: ['I64', [1], BigInt64Array.of(-5n)]
    },
    {model: 'x'}));
  assert.equal(file.metadata.model, 'x');
  assert.deepEqual([...file.tensor('b').values], [0.5, -1]);  // at an offset that is no multiple of four
  assert.equal(Number(file.tensor('c').values[0]), -5);
  assert.throws(() => file.tensor('d'), /expected a tensor d, found a, b, c/);
  assert.throws(() => readSafetensors(new Uint8Array(4)), /at least 8/);
  const cut = safetensors({a: ['F32', [4], new Float32Array(4)]});
  assert.throws(() => readSafetensors(cut.subarray(0, cut.length - 1)).tensor('a'), /inside the file/);
});

test('events whatever the pieces', () => {
  const stream = bytesOf(': ping\n\ndata: {"a":"é\u{1F600}"}\n\ndata:{"b":1}\r\n\r\ndata: [DONE]\n\n');
  for (let size = 1; size <= stream.length; ++size) {
    const found = [], reader = new EventReader(data => found.push(data));
    for (let i = 0; i < stream.length; i += size) reader.push(stream.subarray(i, i + size));
    reader.end();
    assert.deepEqual(found, ['{"a":"é\u{1F600}"}', '{"b":1}', '[DONE]'], `pieces of ${size}`);
  }
});

test('a stream that breaks off is no short answer', async () => {
  const body = text => new Response(text).body, found = [];
  await readEvents(body('data: {"x":1}\n\ndata: [DONE]\n\n'), event => found.push(event));
  assert.deepEqual(found, [{x: 1}]);
  await assert.rejects(readEvents(body('data: {"x":1}\n\n'), () => {}), /ended before its end/);
  await assert.rejects(readEvents(body('data: {"error":{"message":"stopping"}}\n\n'), () => {}), /stopping/);
});

test('ramps are even in lightness, and differences have a neutral middle', () => {
  for (const dark of [false, true]) {
    const lightness = table =>
      Array.from({length: 256}, (_, i) => colours.labOf([table[3 * i], table[3 * i + 1], table[3 * i + 2]])[0]);
    const size = lightness(colours.sizeTable(dark)), steps = [];
    for (let i = 32; i < 256; i += 32) steps.push((size[i] - size[i - 32]) * (dark ? 1 : -1));
    assert.ok(Math.min(...steps) > 0.03, `steps ${steps}`);
    assert.ok(Math.abs(size[255] - size[0]) > 0.6);
    const change = colours.changeTable(dark), [, a, b] = colours.labOf([change[384], change[385], change[386]]);
    assert.ok(Math.hypot(a, b) < 0.02, 'no colour at no difference');
    assert.ok(colours.changeColour(1, 1, dark)[2] > colours.changeColour(1, 1, dark)[0], 'more is blue');
    assert.ok(colours.changeColour(-1, 1, dark)[0] > colours.changeColour(-1, 1, dark)[2], 'less is orange');
  }
});

test('text on every colour can be read', () => {
  for (const dark of [false, true])
    for (const table of [colours.sizeTable(dark), colours.changeTable(dark), colours.textureTable(128, dark)])
      for (let i = 0; i < table.length; i += 3) {
        const rgb = [table[i], table[i + 1], table[i + 2]];
        assert.ok(colours.contrast(rgb, colours.rgbOf(colours.inkOn(rgb))) >= 4.5, `${rgb}`);
      }
  for (const colour of colours.chosenColours)
    assert.ok(colours.contrast(colours.rgbOf(colour), colours.rgbOf(colours.inkOn(colours.rgbOf(colour)))) >= 4.5);
});

test('the texture keeps neighbours apart', () => {
  const table = colours.textureTable(16, false),
        labs = Array.from({length: 16}, (_, i) => colours.labOf([...table.slice(3 * i, 3 * i + 3)]));
  let nearest = Infinity;
  for (let i = 0; i < 16; ++i)
    for (let j = 0; j < i; ++j) nearest = Math.min(nearest, Math.hypot(...labs[i].map((v, c) => v - labs[j][c])));
  assert.ok(nearest > 0.06, `${nearest}`);
  assert.equal(colours.textureTable(300, true).length, 900);
});

const shape = {
  layers: [1, 3],
  nExperts: 6,
  nActive: 2
};
const small = () => {
  const routes = new Routes(shape);
  routes.put(
    0, 3, Uint8Array.of(0, 1, 2, 3, 1, 0, 4, 5, 2, 0, 4, 3),
    Float32Array.of(.6, .4, .7, .3, .9, .1, .5, .5, .2, .8, .4, .6), Float32Array.of(1, 2, 3, 4, 5, 6));
  return routes;
};

test('routes', () => {
  const routes = small();
  assert.deepEqual([routes.rows, routes.experts(1, 0), routes.first(2, 0), routes.first(2, 1)], [3, [1, 0], 0, 3]);
  assert.ok(Math.abs(routes.weight(1, 0) - 0.9) < 1e-6 && routes.margin(2, 1) === 6);
  assert.ok(Math.abs(routes.entropy(1, 1) - Math.log(2)) < 1e-6);
  const other = small();
  other.put(1, 1, Uint8Array.of(0, 1, 4, 2), Float32Array.of(.5, .5, .5, .5), null);
  assert.deepEqual(
    [routes.changed(other, 1, 0), routes.changed(other, 1, 1), routes.changed(other, 0, 0)],
    [0, 1, 0]);  // order is no change
  const again = Routes.unpack(structuredClone(routes.pack()));
  assert.deepEqual([again.experts(2, 1), again.margin(1, 0), again.rows], [[4, 3], 3, 3]);
  const {counts, most} = usage(routes);
  assert.deepEqual([...counts], [3, 2, 1, 0, 0, 0, 0, 0, 1, 2, 2, 1]);
  assert.equal(most, 3);
});

test('routes grow by rows and, where an edit changes k, by slots', () => {
  const routes = small();
  for (let t = 3; t < 500; ++t) routes.put(t, 1, Uint8Array.of(t % 6, 5, 1, 2), Float32Array.of(1, 0, 1, 0), null);
  assert.deepEqual([routes.rows, routes.experts(400, 0), routes.experts(1, 1)], [500, [4, 5], [4, 5]]);
  routes.put(500, 1, Uint8Array.of(1, 2, 3, 4, 5, 0), Float32Array.of(.5, .3, .2, .5, .3, .2), null, 3);
  assert.deepEqual(
    [routes.nActive, routes.experts(500, 1), routes.experts(1, 1), routes.weightsAt(1, 1).length],
    [3, [4, 5, 0], [4, 5], 2]);
  routes.put(501, 1, Uint8Array.of(2, 3), Float32Array.of(1, 1), null, 1);
  assert.deepEqual(routes.experts(501, 0), [2]);
  assert.throws(() => routes.put(0, 1, Uint8Array.of(1), Float32Array.of(1), null), /expected 6 ids/);
});

test('a trace file', () => {
  const file =
    readSafetensors(
      safetensors(
        {
          sample_offsets: ['I64', [3], BigInt64Array.of(0n, 2n, 3n)],
          layers: ['I32', [2], Int32Array.of(1, 3)],
          tokens: ['I32', [3], Int32Array.of(7, 8, 9)],
          phase: ['U8', [3], Uint8Array.of(0, 1, 0)],
          'router.ids': ['U8', [3, 2, 2], Uint8Array.of(0, 1, 2, 3, 1, 0, 4, 5, 2, 0, 4, 3)],
          'router.weights': ['F32', [3, 2, 2], new Float32Array(12).fill(.5)]
        },
        {n_experts: '6'}));
  const first = routesOfTrace(file, 0), second = routesOfTrace(file, 1);
  assert.deepEqual([[...first.tokens], first.given, first.routes.experts(1, 1)], [[7, 8], 1, [4, 5]]);
  assert.deepEqual(
    [[...second.tokens], second.given, second.routes.rows, second.routes.experts(0, 0)], [[9], 1, 1, [2, 0]]);
  assert.throws(() => routesOfTrace(file, 2), /samples 0 to 1/);
});

test('patterns are those of analyze', () => {
  const routes = small(), {counts, probabilities} = transitions(routes, 1);  // first experts 0, 1, 0
  assert.deepEqual([counts[0 * 6 + 1], counts[1 * 6 + 0], probabilities[1]], [1, 1, 1]);
  const {stay, chance} = stickiness(routes, 1);  // {0,1} {1,0} {2,0}: three of four stay
  assert.equal(stay, 0.75);
  assert.ok(Math.abs(chance - (3 / 6 * 1 + 2 / 6 * 2 / 3 + 1 / 6 * 1 / 3)) < 1e-12);
  const table = domainShares([{domain: 'a', routes}, {domain: 'b', routes: small()}], 1);
  assert.deepEqual([table.domains, table.selections[0], table.shares[0]], [['a', 'b'], 6, 0.5]);
  assert.ok(Math.abs(cramersV(table)) < 1e-12);  // equal domains
  const apart =
    {domains: ['a', 'b'], nExperts: 2, counts: Float64Array.of(5, 0, 0, 5), selections: Float64Array.of(5, 5)};
  assert.ok(Math.abs(cramersV(apart) - 1) < 1e-12);
  assert.ok(Number.isNaN(
    cramersV({domains: ['a'], nExperts: 2, counts: Float64Array.of(1, 1), selections: Float64Array.of(2)})));
});

test('an answer in pieces', () => {
  const run = emptyRun(shape), ids = {dtype: 'U8', shape: [2, 2, 2], data: [[[0, 1], [2, 3]], [[1, 0], [4, 5]]]},
        weights = {dtype: 'F32', shape: [2, 2, 2], data: new Array(8).fill(.5)};
  putChoice(run, {
    logprobs: {tokens: ['a', 'b'], token_logprobs: [null, -1], top_logprobs: [null, {c: -2, b: -1}]},
    finish_reason: null,
    signalbox:
      {prompt_token_ids: [4, 5], points: {'router.ids': ids, 'router.weights': weights}, positions: [0, 2], seed: 9}
  });
  putChoice(
    run, {logprobs: {tokens: ['d'], token_logprobs: [-0.5], top_logprobs: [{d: -0.5}]}, signalbox: {token_ids: [6]}});
  putChoice(run, {
    finish_reason: 'stop',
    signalbox: {
      logits_hash: 'ff',
      points: {
        'router.ids': {dtype: 'U8', shape: [1, 2, 2], data: [[[5, 1], [2, 3]]]},
        'router.weights': {dtype: 'F32', shape: [1, 2, 2], data: [[[1, 0], [1, 0]]]}
      },
      positions: [2, 3]
    }
  });
  assert.deepEqual(
    [run.tokens, run.given, run.pieces, run.logprobs.slice(1), run.top[1][0], run.hash, run.seed, run.finish],
    [[4, 5, 6], 2, ['a', 'b', 'd'], [-1, -0.5], ['b', -1], 'ff', 9, 'stop']);
  assert.equal(textOf({...run, tokens: [4, 5, 6, 7, 2], pieces: [...run.pieces, ' e', '<eos>'], specials: [2]}), 'd e');
  assert.deepEqual([run.routes.rows, run.routes.experts(2, 0)], [3, [5, 1]]);
  assert.ok(
    Math.abs(listedEntropy([Math.log(.5), Math.log(.25)]) - (.5 * Math.log(2) + 2 * .25 * Math.log(4))) < 1e-12);
  assert.throws(
    () => putChoice(run, {signalbox: {points: {'router.ids': ids, 'router.weights': weights}, positions: [3, 4]}}),
    /expected 1 rows, found 2/);
});
