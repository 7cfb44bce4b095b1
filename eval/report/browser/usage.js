// How often experts are used: all layers at once, and the domains of one layer.
let usage = null;
const data = () => usage = usage || box.json('usage');
const nameOf = domain => domain.name === '' ? 'all records' : domain.name;
const share = (domain, l, e) => domain.share[l * data().experts + e];
// As a list for CSV: every domain, layer and expert of the page.
const usageTable = domains => ({columns: ['domain', 'layer', 'expert', 'share', 'tokens'],
  rows: domains.flatMap(d => data().layers.flatMap((layer, l) => d3.range(data().experts)
    .filter(e => share(d, l, e) !== null).map(e => [d.name, layer, e, share(d, l, e), d.tokens])))});

box.draw.usage_layers = ({figure, place, controls}) => {
  const {layers, experts, domains} = data(), say = box.readout(place);
  let domain = domains[0], kind = 'share';
  const meanOf = l => d3.mean(d3.range(experts).map(e => share(domain, l, e)).filter(v => v !== null));
  const redraw = box.keepDrawn(place, () => {
    const means = layers.map((_, l) => meanOf(l));
    const value = (l, e) => {
      const s = share(domain, l, e);
      return s === null ? null : kind === 'share' ? s : s > 0 ? Math.max(-4, Math.min(4, Math.log2(s / means[l]))) : -4;
    };
    const most = d3.max(domain.share), relative = kind !== 'share';
    box.grid(place, {rows: layers, columns: d3.range(experts), row: 'layer', column: 'expert', value, say, label: figure.dataset.label,
      colour: relative ? box.changeColour(3) : box.sizeColour(0, most), from: relative ? -3 : 0, to: relative ? 3 : most,
      unit: relative ? 'log2 of share over the mean of the layer' : 'of tokens', cell: v => relative ? box.number(Math.round(10 * v) / 10) : Math.round(100 * v),
      hover: (l, e) => `Layer ${layers[l]}, expert ${e}: selected by ${box.percent(share(domain, l, e))} of ${domain.tokens} tokens (${nameOf(domain)}); mean of the layer ${box.percent(means[l])}`});
  });
  box.choice(controls, 'records', domains.map((d, i) => [String(i), nameOf(d)]), '0', i => { domain = domains[i]; redraw(); });
  box.choice(controls, 'show', [['share', 'share of tokens'], ['relative', 'against the mean of the layer']], 'share', k => { kind = k; redraw(); });
  return {table: () => usageTable([domain])};
};

box.draw.usage_domains = ({figure, place, controls}) => {
  const {layers, experts, domains} = data(), say = box.readout(place), rows = domains.slice(1);
  let layer = layers[Math.floor(layers.length / 2)], kind = 'share';
  const redraw = box.keepDrawn(place, () => {
    const l = layers.indexOf(layer), relative = kind !== 'share';
    const value = (d, e) => {
      const s = share(rows[d], l, e), all = share(domains[0], l, e);
      return s === null ? null : relative ? s - all : s;
    };
    const values = rows.flatMap((_, d) => d3.range(experts).map(e => value(d, e)));
    const most = relative ? d3.max(values, Math.abs) : d3.max(values);
    box.grid(place, {rows: rows.map(nameOf), columns: d3.range(experts), row: 'domain', column: `expert of layer ${layer}`, value, say,
      label: figure.dataset.label, colour: relative ? box.changeColour(most) : box.sizeColour(0, most), from: relative ? -most : 0, to: most,
      unit: relative ? 'share minus that over all records' : 'of tokens', cell: v => box.number(Math.round(100 * v)),
      hover: (d, e) => `${nameOf(rows[d])}, layer ${layer}, expert ${e}: selected by ${box.percent(share(rows[d], l, e))} of ${rows[d].tokens} tokens; over all records ${box.percent(share(domains[0], l, e))}`});
  });
  box.slider(controls, 'layer', layers, layer, now => { layer = now; redraw(); });
  box.choice(controls, 'show', [['share', 'share of tokens'], ['relative', 'difference from all records']], 'share', k => { kind = k; redraw(); });
  return {table: () => usageTable(rows)};
};
