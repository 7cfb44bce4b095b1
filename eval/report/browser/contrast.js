// Use under two conditions: a map of all experts, size against certainty, and the largest with their intervals.
let contrast = null;
const data = () => contrast = contrast || box.rowsOf(box.json('contrast'));
const tell = row => `Layer ${row.layer}, expert ${row.expert}: ${box.number(100 * row.rd)} points [${box.number(100 * row.ci_lo)}, ${box.number(100 * row.ci_hi)}], p ${box.number(row.p)}, q ${box.number(row.q)}`;

box.draw.contrast_map = ({figure, place}) => {
  const rows = data(), layers = box.layersOf(rows), n = 1 + d3.max(rows, row => row.expert), say = box.readout(place);
  const cells = new Map(rows.map(row => [`${row.layer}:${row.expert}`, row])), at = (l, e) => cells.get(`${layers[l]}:${e}`);
  const most = d3.max(rows, row => Math.abs(row.rd)) * 100;
  box.keepDrawn(place, () => box.grid(place, {rows: layers, columns: d3.range(n), row: 'layer', column: 'expert', say,
    value: (l, e) => at(l, e) ? 100 * at(l, e).rd : null, colour: box.changeColour(most), from: -most, to: most, unit: 'points',
    cell: v => box.number(Math.round(v)), label: figure.dataset.label,
    hover: (l, e) => at(l, e) ? tell(at(l, e)) : `Layer ${layers[l]}, expert ${e}: no row`}));
  return {table: () => box.tableOfRows(rows)};
};

box.draw.volcano = ({figure, place}) => {
  const rows = data().filter(row => row.p !== null && row.p > 0), {a, b} = figure.dataset;
  if (rows.length === 0) return box.nothing(place);
  const say = box.readout(place);
  box.keepDrawn(place, () => {
    const {svg, scaleX, scaleY} = box.points(place, {points: rows, x: row => 100 * row.rd, y: row => -Math.log10(row.p),
      xLabel: `rd in points: more under ${b} (left), more under ${a} (right)`, yLabel: '\u2212log10 p', yDomain: [0, Math.max(0.1, d3.max(rows, row => -Math.log10(row.p)))],
      filled: row => row.q < 0.05, name: tell, label: figure.dataset.label, say});
    // Names of the largest, where they do not run into each other.
    const named = [];
    for (const row of [...rows].sort((x, y) => Math.abs(y.rd) - Math.abs(x.rd)).slice(0, 12)) {
      const x = scaleX(100 * row.rd), y = scaleY(-Math.log10(row.p)) - 8;
      if (named.some(other => Math.abs(other[0] - x) < 40 && Math.abs(other[1] - y) < 12)) continue;
      named.push([x, y]);
      svg.append('text').attr('class', 's').attr('x', x).attr('y', y).attr('text-anchor', 'middle').text(`L${row.layer}E${row.expert}`);
    }
  });
  return {table: () => box.tableOfRows(rows)};
};

box.draw.ranked = ({figure, place, controls}) => {
  const say = box.readout(place);
  let n = 20;
  const shown = () => [...data()].sort((x, y) => Math.abs(y.rd) - Math.abs(x.rd)).slice(0, n);
  const redraw = box.keepDrawn(place, () => {
    const rows = shown(), width = box.widthOf(place, 760), left = 80, top = 30, step = 22, height = top + step * rows.length;
    const svg = box.picture(place, width, height + 44, figure.dataset.label);
    const ends = rows.flatMap(row => [row.rd, row.ci_lo, row.ci_hi]).filter(v => v !== null);
    const x = d3.scaleLinear().domain([Math.min(0, d3.min(ends)) * 100, Math.max(0, d3.max(ends)) * 100]).nice().range([left, width - 14]);
    for (const tick of x.ticks(6)) {
      svg.append('line').attr('class', tick === 0 ? 'zero' : 'axis').attr('x1', x(tick)).attr('x2', x(tick)).attr('y1', top - 8).attr('y2', height);
      svg.append('text').attr('class', 's').attr('x', x(tick)).attr('y', height + 16).attr('text-anchor', 'middle').text(box.number(tick));
    }
    svg.append('text').attr('class', 's').attr('x', (left + width) / 2).attr('y', height + 34).attr('text-anchor', 'middle').text('rd in percentage points, 95 % interval');
    rows.forEach((row, i) => {
      const y = top + step * (i + 0.4);
      svg.append('text').attr('class', 's').attr('x', left - 8).attr('y', y + 4).attr('text-anchor', 'end').text(`L${row.layer} E${row.expert}`);
      if (row.ci_lo !== null)
        svg.append('line').attr('class', 'ci').attr('x1', x(100 * row.ci_lo)).attr('x2', x(100 * row.ci_hi)).attr('y1', y).attr('y2', y);
      svg.append('circle').attr('class', row.q < 0.05 ? 'dot' : 'hollow').attr('cx', x(100 * row.rd)).attr('cy', y).attr('r', 4);
      svg.append('rect').attr('class', 'hit').attr('x', 0).attr('y', y - step / 2).attr('width', width).attr('height', step).on('mousemove', () => say(tell(row)));
    });
  });
  box.slider(controls, 'experts', [10, 20, 40, 80], n, now => { n = now; redraw(); });
  return {table: () => box.tableOfRows(shown())};
};
