// The sample that is being read, as maps: experts over its tokens at one layer, and layers over its tokens.
const tokenLabel = (samples, sample, t) => `token ${t} ${box.quoted(samples.textOf(sample, t))}`;

const followed = (place, draw) => {
  const redraw = box.keepDrawn(place, draw);
  let due = 0;
  box.onRead(change => {
    if (!('sample' in change || 'layer' in change || 'slot' in change)) return;
    cancelAnimationFrame(due);
    due = requestAnimationFrame(redraw);
  });
};

box.draw.experts_over_tokens = ({figure, place}) => {
  const samples = box.samples(), {index} = samples, say = box.readout(place);
  const experts = d3.range(index.n_experts), [lo, hi] = index.weights || [0, 1];
  const used = () => {
    const {sample, layer} = box.reading, l = index.layers.indexOf(layer);
    return d3.range(sample.n).map(t => new Map(samples.route(sample, t, l).map(r => [r.expert, r.weight === null ? 1 : r.weight])));
  };
  followed(place, () => {
    const {sample, layer} = box.reading, map = used();
    const value = (e, t) => map[t].has(e) ? map[t].get(e) : null;
    box.grid(place, {rows: experts, columns: d3.range(sample.n), row: 'expert', value, say,
      column: `token of ${box.nameOf(sample)}, layer ${layer}`, colour: box.sizeColour(Math.min(0, lo), hi), from: Math.min(0, lo), to: hi,
      unit: index.weights ? 'weight; no colour: not selected' : '(selected)', label: figure.dataset.label, most: 480,
      hover: (e, t) => `${tokenLabel(samples, sample, t)}: expert ${e} ` + (map[t].has(e) ? `selected, weight ${box.number(map[t].get(e))}` : 'not selected'),
      pick: (e, token) => box.read({token})});
  });
  return {table: () => {
    const {sample, layer} = box.reading, rows = [];
    used().forEach((route, t) => { for (const [e, w] of route) rows.push([sample.id, layer, t, e, w]); });
    return {columns: ['sample', 'layer', 'token', 'expert', 'weight'], rows};
  }};
};

box.draw.layers_over_tokens = ({figure, place}) => {
  const samples = box.samples(), {index} = samples, say = box.readout(place);
  const expertAt = (l, t) => samples.route(box.reading.sample, t, l).find(r => r.slot === box.reading.slot);
  followed(place, () => {
    const {sample, slot} = box.reading;
    const svg = box.grid(place, {rows: index.layers, columns: d3.range(sample.n), row: 'layer',
      column: `token of ${box.nameOf(sample)}; in the cells the expert of slot ${slot + 1}`, say, label: figure.dataset.label,
      value: (l, t) => { const one = expertAt(l, t); return one ? one.expert : null; },
      colour: e => box.anyColour(e, index.n_experts), noLegend: true,
      cell: e => e, hover: (l, t) => `${tokenLabel(samples, sample, t)}, layer ${index.layers[l]}: ` +
        samples.route(sample, t, l).map(r => `E${r.expert} ${box.number(r.weight)}`).join(', '),
      pick: (l, token) => box.read({token, layer: index.layers[l]})});
    return svg;
  });
  return {table: () => {
    const {sample, slot} = box.reading;
    return {columns: ['sample', 'layer', 'token', 'slot', 'expert'],
      rows: index.layers.flatMap((layer, l) => d3.range(sample.n).map(t => [sample.id, layer, t, slot, (expertAt(l, t) || {}).expert]))};
  }};
};
