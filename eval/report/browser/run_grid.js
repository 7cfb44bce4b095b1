// The points of a grid as a heat map of two of its keys; the values of further keys are small multiples beside it. Rows
// without any change are folded into a line.
const side = 74, high = 40, left = 110, top = 40;

const signed = value => (value > 0 ? '+' : '') + box.short(value);
box.short = value => {
  if (value === null) return 'undefined';
  const size = Math.abs(value);
  if (size === 0) return '0';
  return size >= 100 ? value.toFixed(0) : size >= 0.0005 ? String(+value.toPrecision(3)) : value.toExponential(1);
};
const interval = cell => cell.lo === null ? '' : ` [${signed(cell.lo)}, ${signed(cell.hi)}]`;

const hover = (name, cell, shown) => {
  if (!cell) return name + '\nnot in the grid';
  if (cell.base) return `${name}\nno token is edited: the baseline, mean ${box.short(cell.mean)}`;
  const place = cell.place ? `\nplace ${cell.place} of ${cell.of} by size` : '';
  return `${name}\nmean ${box.short(cell.mean)}, difference ${cell.diff === null ? 'undefined' : signed(cell.diff)}` +
    `${interval(cell)}\np ${box.short(cell.p)}, q ${cell.q === null ? '-' : box.short(cell.q)}, n ${cell.n}${place}`;
};

box.draw.run_grid = ({figure, place, controls}) => {
  const data = box.json(figure.dataset.block), keys = data.keys;
  // First of all the first metric and condition in which anything changed.
  const moves = cells => cells.some(cell => cell && cell.diff !== null && cell.diff !== 0);
  const metric = Math.max(0, data.cells.findIndex(conditions => conditions.some(moves)));
  const condition = Math.max(0, data.cells[metric].findIndex(moves));
  const state = {row: 0, column: keys.length - 1, metric, condition, value: 'diff'};
  const names = list => list.map((text, i) => [i, text]);
  // Every key's values, with 0 where that is the baseline and the grid does not have it.
  const values = keys.map(key => {
    const has = key.values.map(text => ({text, value: key.values.indexOf(text)}));
    return key.from_zero && !key.values.some(text => Number(text) === 0) ? [{text: '0', value: null}, ...has] : has;
  });
  const cells = () => data.cells[state.metric][state.condition];
  const cellAt = places => {
    if (places.includes(null)) return {base: true, diff: 0, mean: data.baseline[state.metric][state.condition]};
    const found = data.points.findIndex(point => point.every((value, k) => value === places[k]));
    return found < 0 ? null : cells()[found];
  };
  const others = () => keys.map((_, k) => k).filter(k => k !== state.row && k !== state.column);
  // All combinations of the values of the keys that are no axis.
  const panels = () => others().reduce(
    (list, k) => list.flatMap(panel => keys[k].values.map((text, v) => [...panel, {key: k, value: v, text}])), [[]]);
  const placesOf = (panel, row, column) => {
    const places = keys.map(() => 0);
    for (const one of panel) places[one.key] = one.value;
    places[state.row] = row.value;
    if (state.column !== state.row) places[state.column] = column.value;
    return places;
  };

  const drawPanel = (panel, scale) => {
    const panel_place = document.createElement('div');
    place.append(panel_place);
    const columns = state.column === state.row ? [{text: '', value: 0}] : values[state.column];
    const all = values[state.row].map(row => ({row, cells: columns.map(column => ({
      column, cell: cellAt(placesOf(panel, row, column)),
      name: [`${keys[state.row].name} = ${row.text}`,
        ...(state.column === state.row ? [] : [`${keys[state.column].name} = ${column.text}`]),
        ...panel.map(one => `${keys[one.key].name} = ${one.text}`)].join(', ')}))}));
    const flat = all.filter(one => one.row.value !== null && one.cells.every(({cell}) => !cell || cell.diff === 0));
    const rows = all.filter(one => !flat.includes(one));
    const title = panel.map(one => `${keys[one.key].name} = ${one.text}`).join(', ');
    if (title) {
      const heading = document.createElement('h4');
      heading.textContent = title;
      panel_place.append(heading);
    }
    if (rows.length > 0) {
      const width = left + side * columns.length + 8, height = top + high * rows.length + 8;
      const svg = d3.select(panel_place).append('svg').attr('viewBox', `0 0 ${width} ${height}`).attr('width', width)
        .attr('height', height).attr('role', 'img')
        .attr('aria-label', `${data.metrics[state.metric]} by ${keys[state.row].name} and ${keys[state.column].name}`);
      const text = (x, y, anchor, content, style) => svg.append('text').attr('x', x).attr('y', y)
        .attr('text-anchor', anchor).attr('class', style).text(content);
      if (state.column !== state.row)
        text(left + side * columns.length / 2, 12, 'middle', keys[state.column].name, 's');
      text(left - 8, top - 8, 'end', keys[state.row].name, 's');
      columns.forEach((column, c) => text(left + side * (c + 0.5), 30, 'middle', column.text, ''));
      rows.forEach((one, r) => {
        text(left - 8, top + high * (r + 0.5) + 4, 'end', box.clipped(one.row.text, 14), '').append('title')
          .text(one.row.text);
        one.cells.forEach(({cell, name}, c) => {
          const value = cell ? cell[state.value] : null, base = data.baseline[state.metric][state.condition];
          const from = cell ? (cell.base ? 0 : cell.diff) : null;
          const share = from === null || scale === 0 ? 0 : Math.min(1, Math.abs(from) / scale);
          svg.append('rect').attr('x', left + side * c + 1).attr('y', top + high * r + 1).attr('width', side - 2)
            .attr('height', high - 2).attr('class', 'cell ' + (from < 0 ? 'down' : 'up'))
            .attr('fill-opacity', 0.75 * share).append('title').text(hover(name, cell, base));
          text(left + side * (c + 0.5), top + high * (r + 0.5) + 4, 'middle',
            !cell ? '' : value === null ? 'undef.' : state.value === 'diff' ? signed(value) : box.short(value),
            'in' + (cell && cell.shows && !cell.base ? ' b' : ''));
        });
      });
    }
    if (flat.length > 0) {
      const line = document.createElement('p');
      line.className = 'small';
      line.textContent = `${keys[state.row].name} = ${flat.map(one => one.row.text).join('; ')}: no change at all` +
        (rows.length > 0 ? ` (${flat.length} ${flat.length === 1 ? 'row' : 'rows'} folded).` : '.');
      panel_place.append(line);
    }
  };

  const redraw = () => {
    place.textContent = '';
    const sizes = cells().map(cell => cell && cell.diff !== null ? Math.abs(cell.diff) : 0);
    for (const panel of panels()) drawPanel(panel, Math.max(...sizes));
  };
  const choose = key => value => { state[key] = key === 'value' ? value : Number(value); redraw(); };
  place.classList.add('row');
  box.choice(controls, 'rows', names(keys.map(key => key.name)), state.row, choose('row'));
  box.choice(controls, 'columns', names(keys.map(key => key.name)), state.column, choose('column'));
  box.choice(controls, 'metric', names(data.metrics), metric, choose('metric'));
  box.choice(controls, 'records', names(data.conditions.map(name => name === '' ? 'all records' : name)), condition,
    choose('condition'));
  box.choice(controls, 'shown', [['diff', 'difference to the baseline'], ['mean', 'mean']], 'diff', choose('value'));
  redraw();

  return {table: () => ({
    columns: [...keys.map(key => key.name), 'metric', 'records', 'mean', 'difference', 'ci_lo', 'ci_hi', 'p', 'q', 'n'],
    rows: data.points.map((point, i) => {
      const cell = cells()[i];
      return [...point.map((value, k) => keys[k].values[value]), data.metrics[state.metric],
        data.conditions[state.condition],
        ...['mean', 'diff', 'lo', 'hi', 'p', 'q', 'n'].map(name => cell && cell[name] !== null ? cell[name] : '')];
    })})};
};

box.clipped = (text, most) => text.length <= most ? text : text.slice(0, most - 1) + '\u2026';
