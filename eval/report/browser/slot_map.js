// A causal map: for a record its text, and tokens by layers in the colours of what taking slots out does.
let map = null;
const floats = id => { const bytes = box.bytes(id); return new Float32Array(bytes.buffer, 0, bytes.length >> 2); };
const load = () => {
  if (map) return map;
  const index = box.json('map'), ids = box.bytes('map-ids'), {n_slots: k} = index, n = index.layers.length;
  const unused = index.id_bytes === 2 ? 65535 : 255;
  const effects = floats('map-effects'), estimates = index.sampled ? floats('map-estimates') : null;
  // The slots of a token in a layer that have a number: {slot, expert, effect, exact}.
  const cells = (sample, t, l) => {
    const first = ((sample.row + t) * n + l) * k, out = [];
    for (let slot = 0; slot < k; ++slot) {
      const at = first + slot, expert = index.id_bytes === 2 ? ids[2 * at] + 256 * ids[2 * at + 1] : ids[at];
      const exact = !Number.isNaN(effects[at]), effect = exact ? effects[at] : estimates ? estimates[at] : NaN;
      if (expert !== unused && !Number.isNaN(effect)) out.push({slot, expert, effect, exact});
    }
    return out;
  };
  const textOf = (sample, t) => sample.texts ? sample.texts[t] : `[${sample.tokens[t]}]`;
  return map = {index, cells, textOf};
};

// What a cell of the map shows of the slots of its token and layer; null where none has a number.
const shows = {
  sum: cells => d3.sum(cells, c => c.effect),
  strongest: cells => cells.reduce((a, b) => Math.abs(b.effect) > Math.abs(a.effect) ? b : a).effect,
};
const shown = (cells, what) => {
  if (shows[what]) return cells.length > 0 ? shows[what](cells) : null;
  const one = cells.find(c => c.slot === Number(what));
  return one ? one.effect : null;
};

// In a cell's room: "\u2212.47", "12"; nothing for what rounds to 0.
const short = v => Math.abs(v) < 0.005 ? '' : (Math.abs(v) < 10 ? v.toFixed(2) : v.toFixed(0)).replace('-', '\u2212').replace('0.', '.');

box.draw.slot_map = ({figure, place, controls}) => {
  const {index, cells, textOf} = load(), {layers, n_slots: k, samples, metric} = index, say = box.readout(place);
  let sample = samples[0], what = 'sum';
  const text = document.createElement('p');
  text.className = 'text';
  place.before(text);
  const label = t => { const words = textOf(sample, t).trim(); return words.length > 8 ? words.slice(0, 7) + '\u2026' : words; };
  const tell = (l, t) => `Token ${t} ${box.quoted(textOf(sample, t))}, layer ${layers[l]}: ` + (cells(sample, t, l)
    .map(c => `E${c.expert} ${box.number(c.effect)}` + (index.sampled && !c.exact ? ' (estimate)' : '')).join(', ') || 'not computed');
  const redraw = box.keepDrawn(place, () => {
    const value = (l, t) => shown(cells(sample, t, l), what), columns = d3.range(sample.n);
    const of = columns.map(t => layers.map((_, l) => value(l, t)));
    const most = d3.max(of.flat(), v => v === null ? 0 : Math.abs(v)) || 1;
    const sums = of.map(row => row.some(v => v !== null) ? d3.sum(row) : null), mostSum = d3.max(sums, v => Math.abs(v || 0)) || 1;
    text.textContent = '';
    const colour = box.changeColour(mostSum);
    for (const t of columns) {
      const span = document.createElement('span'), words = box.visible(textOf(sample, t));
      span.textContent = words;
      span.title = `token ${t}: ` + (sums[t] === null ? 'not computed' : box.number(sums[t]));
      if (sums[t] !== null) {
        span.style.background = colour(sums[t]);
        span.style.color = box.inkOn(colour(sums[t]));
      }
      text.append(span, words.endsWith('\n') ? '\n' : '');
    }
    box.grid(place, {rows: layers, columns: columns.map(label), row: 'layer', value, say, label: figure.dataset.label,
      column: `token of ${sample.id}` + (sample.n < sample.of ? `, the first ${sample.n} of ${sample.of}` : ''),
      colour: box.changeColour(most), from: -most, to: most, unit: `change of ${metric}, which is ${box.number(sample.base)}`,
      cell: short, hover: tell});
  });
  box.choice(controls, 'record', samples.map((s, i) => [String(i), s.id]), '0', i => { sample = samples[i]; redraw(); });
  box.choice(controls, 'show', [['sum', 'sum over slots'], ['strongest', 'strongest slot'],
    ...d3.range(k).map(slot => [String(slot), `slot ${slot + 1}`])], 'sum', now => { what = now; redraw(); });
  return {table: () => ({columns: ['record', 'token', 'text', 'layer', 'slot', 'expert', 'effect', 'exact'],
    rows: d3.range(sample.n).flatMap(t => layers.flatMap((layer, l) => cells(sample, t, l)
      .map(c => [sample.id, t, textOf(sample, t), layer, c.slot, c.expert, c.effect, c.exact ? 1 : 0])))})};
};
