// From token to token: which expert follows which, and how long tokens stay with one.
box.layersOf = rows => box.distinct(rows.map(row => row.layer)).sort((a, b) => a - b);
const columnsOf = rows => rows.length > 0 ? Object.keys(rows[0]) : [];
box.tableOfRows = rows => ({columns: columnsOf(rows), rows: rows.map(row => columnsOf(rows).map(name => row[name]))});

box.draw.transitions = ({figure, place, controls}) => {
  const rows = box.rowsOf(box.json('transitions')), layers = box.layersOf(rows), say = box.readout(place);
  const n = 1 + d3.max(rows, row => Math.max(row.from, row.to));
  let layer = layers[Math.floor(layers.length / 2)], kind = 'probability';
  const ofLayer = () => rows.filter(row => row.layer === layer);
  const redraw = box.keepDrawn(place, () => {
    const cells = new Map(ofLayer().map(row => [row.from * n + row.to, row])), at = (r, c) => cells.get(r * n + c);
    const relative = kind === 'ratio';
    const value = (r, c) => {
      const row = at(r, c);
      if (!row) return null;
      return relative ? (row.expected > 0 ? Math.max(-4, Math.min(4, Math.log2(row.count / row.expected))) : null) : row.probability;
    };
    box.grid(place, {rows: d3.range(n), columns: d3.range(n), row: 'from', column: `to expert, layer ${layer}`, value, say,
      label: figure.dataset.label, colour: relative ? box.changeColour(4) : box.sizeColour(0, 1), from: relative ? -4 : 0, to: relative ? 4 : 1,
      unit: relative ? 'log2 of count over expected' : 'probability', cell: v => relative ? box.number(Math.round(10 * v) / 10) : Math.round(100 * v),
      hover: (r, c) => {
        const row = at(r, c);
        return row ? `Layer ${layer}: expert ${r} then ${c}: ${row.count} times, probability ${box.number(row.probability)}` +
          (row.expected === undefined ? '' : `, expected ${box.number(row.expected)} times, q ${box.number(row.q)}`) : `Layer ${layer}: expert ${r} then ${c}: no row`;
      }});
  });
  box.slider(controls, 'layer', layers, layer, now => { layer = now; redraw(); });
  if (rows[0].expected !== undefined)
    box.choice(controls, 'show', [['probability', 'probability'], ['ratio', 'count against expected']], kind, k => { kind = k; redraw(); });
  return {table: () => box.tableOfRows(ofLayer())};
};

// What stands where a figure would have nothing to show.
box.nothing = place => {
  place.textContent = 'Nothing to draw: the table has no row with a defined value.';
  return {table: () => ({columns: [], rows: []})};
};

// Points with a number across and one upwards, filled where a test rejects.
box.points = (place, {points, x, y, xLabel, yLabel, filled, name, label, say, diagonal, xDomain, yDomain}) => {
  const width = box.widthOf(place, 640), left = 56, top = 28, height = 380;
  const svg = box.picture(place, width, height + 44, label);
  const scaleX = d3.scaleLinear().domain(xDomain || d3.extent(points, x)).nice().range([left + 8, width - 14]);
  const scaleY = d3.scaleLinear().domain(yDomain || d3.extent(points, y)).nice().range([height, top]);
  box.axes(svg, {x: scaleX, y: scaleY, width: width - 14, height, left, top, xLabel, yLabel});
  const end = Math.min(scaleX.domain()[1], scaleY.domain()[1]);
  if (diagonal) svg.append('line').attr('class', 'zero').attr('x1', scaleX(0)).attr('y1', scaleY(0)).attr('x2', scaleX(end)).attr('y2', scaleY(end));
  svg.selectAll(null).data(points).enter().append('circle').attr('class', p => filled(p) ? 'dot' : 'hollow').attr('r', 4)
    .attr('cx', p => scaleX(x(p))).attr('cy', p => scaleY(y(p))).on('mousemove', p => say(name(p)));
  return {svg, scaleX, scaleY};
};

box.draw.persistence = ({figure, place, controls}) => {
  const rows = box.rowsOf(box.json('persistence')).filter(row => row.p_stay !== null), layers = box.layersOf(rows);
  if (rows.length === 0) return box.nothing(place);
  const say = box.readout(place);
  let layer = 'all';
  const shown = () => rows.filter(row => layer === 'all' || row.layer === layer);
  const redraw = box.keepDrawn(place, () => {
    box.points(place, {points: shown(), x: row => row.rate, y: row => row.p_stay, xLabel: 'share of tokens that select the expert',
      yLabel: 'P(selected at the next token too)', filled: row => row.lag1_q !== null && row.lag1_q < 0.05, diagonal: true,
      xDomain: [0, d3.max(rows, r => r.rate)], yDomain: [0, d3.max(rows, r => r.p_stay)],
      label: figure.dataset.label, say, name: row => `Layer ${row.layer}, expert ${row.expert}: selected by ${box.percent(row.rate)}, after itself by ${box.percent(row.p_stay)}; lag-1 correlation ${box.number(row.lag1)}, q ${box.number(row.lag1_q)}; mean run ${box.number(row.dwell_mean)} tokens`});
  });
  box.slider(controls, 'layer', ['all', ...layers], 'all', now => { layer = now; redraw(); });
  return {table: () => box.tableOfRows(shown())};
};
