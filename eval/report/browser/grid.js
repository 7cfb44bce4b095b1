// A heat map: rows and columns of cells, with labels, a legend, and a cursor for pointer and keys. Few cells are
// rectangles with their number, many one picture with a pixel for each, which browsers scale in no time.
const margin = {top: 34, right: 12, bottom: 44};
const fewCells = 1500;

// Every so many labels, so that they do not run into each other.
const stepFor = (n, size, needed) => Math.max(1, Math.ceil(needed / size));

const imageOf = (rows, columns, colourOf) => {
  const canvas = document.createElement('canvas');
  canvas.width = columns;
  canvas.height = rows;
  const context = canvas.getContext('2d'), image = context.createImageData(columns, rows);
  for (let r = 0, at = 0; r < rows; ++r)
    for (let c = 0; c < columns; ++c) {
      const {r: red, g, b} = d3.rgb(colourOf(r, c));
      image.data[at++] = red; image.data[at++] = g; image.data[at++] = b; image.data[at++] = 255;
    }
  context.putImageData(image, 0, 0);
  return canvas.toDataURL();
};

const legendWords = ({from, to, unit}) => `${box.number(from)} to ${box.number(to)} ${unit}`;
const legend = (svg, x, y, {colour, from, to, unit}) => {
  const steps = 40, width = 160;
  for (let i = 0; i < steps; ++i)
    svg.append('rect').attr('x', x + i * width / steps).attr('y', y).attr('width', width / steps + 0.5).attr('height', 10)
      .attr('fill', colour(from + (to - from) * i / (steps - 1)));
  svg.append('text').attr('class', 's').attr('x', x + width + 6).attr('y', y + 9).text(legendWords({from, to, unit}));
};

// options: rows, columns (labels), row, column (what they are), value(r, c) (null: none), colour, from, to, unit,
// cell(value) (text in a cell; none where there is no room), hover(r, c), say, label, most (height), pick(r, c).
box.grid = (place, options) => {
  const {rows, columns} = options, left = 14 + 7 * Math.max(...rows.map(row => Math.min(24, String(row).length)), 5);
  const width = box.widthOf(place, 1100), wide = width - left - margin.right;
  const cellWidth = Math.max(rows.length * columns.length <= fewCells ? Math.min(12, 700 / columns.length) : 1,
    Math.min(32, wide / columns.length));
  const cellHeight = Math.max(1, Math.min(24, (options.most || 560) / rows.length));
  const across = cellWidth * columns.length, down = cellHeight * rows.length;
  const forLegend = options.noLegend ? 0 : 172 + 6 * legendWords(options).length;
  const total = Math.max(left + across + margin.right, left + forLegend), high = margin.top + down + margin.bottom;
  const svg = box.picture(place, total, high, options.label);
  const text = (x, y, anchor, words, style = 's') => svg.append('text').attr('class', style).attr('x', x).attr('y', y)
    .attr('text-anchor', anchor).text(words);
  text(left + across / 2, 12, 'middle', options.column);
  text(left - 6, margin.top - 6, 'end', options.row);
  const columnStep = stepFor(columns.length, cellWidth, 7 * Math.max(...columns.map(c => String(c).length)) + 4);
  for (let c = 0; c < columns.length; c += columnStep)
    text(left + (c + 0.5) * cellWidth, margin.top - 6, 'middle', columns[c]);
  for (let r = 0; r < rows.length; r += stepFor(rows.length, cellHeight, 12)) {
    const name = String(rows[r]);
    text(left - 6, margin.top + (r + 0.5) * cellHeight + 4, 'end', name.length > 24 ? name.slice(0, 23) + '\u2026' : name);
  }
  const colourAt = (r, c) => {
    const value = options.value(r, c);
    return value === null || value === undefined ? box.noValue() : options.colour(value);
  };
  if (rows.length * columns.length <= fewCells) {
    const room = cellWidth >= 26 && cellHeight >= 15 && options.cell;
    for (let r = 0; r < rows.length; ++r)
      for (let c = 0; c < columns.length; ++c) {
        const x = left + c * cellWidth, y = margin.top + r * cellHeight, fill = colourAt(r, c);
        svg.append('rect').attr('x', x).attr('y', y).attr('width', cellWidth).attr('height', cellHeight).attr('fill', fill)
          .attr('class', 'cell');
        if (room && options.value(r, c) !== null)
          text(x + cellWidth / 2, y + cellHeight / 2 + 4, 'middle', options.cell(options.value(r, c))).style('fill', box.inkOn(fill));
      }
  } else {
    svg.append('image').attr('x', left).attr('y', margin.top).attr('width', across).attr('height', down)
      .attr('preserveAspectRatio', 'none').style('image-rendering', 'pixelated')
      .attr('href', imageOf(rows.length, columns.length, colourAt));
    svg.append('rect').attr('x', left).attr('y', margin.top).attr('width', across).attr('height', down).attr('class', 'cell')
      .attr('fill', 'none');
  }
  if (!options.noLegend) legend(svg, left, margin.top + down + 14, options);
  const cursor = svg.append('rect').attr('class', 'cursor').attr('width', Math.max(cellWidth, 3))
    .attr('height', Math.max(cellHeight, 3)).attr('visibility', 'hidden');
  let at = [0, 0];
  const go = (r, c) => {
    at = [Math.max(0, Math.min(rows.length - 1, r)), Math.max(0, Math.min(columns.length - 1, c))];
    cursor.attr('visibility', 'visible').attr('x', left + at[1] * cellWidth).attr('y', margin.top + at[0] * cellHeight);
    options.say(options.hover(at[0], at[1]));
  };
  const hit = svg.append('rect').attr('class', 'hit').attr('x', left).attr('y', margin.top).attr('width', across)
    .attr('height', down);
  hit.on('mousemove', () => {
    const [x, y] = d3.mouse(svg.node());
    go(Math.floor((y - margin.top) / cellHeight), Math.floor((x - left) / cellWidth));
  });
  hit.on('mouseleave', () => cursor.attr('visibility', 'hidden'));
  if (options.pick) hit.on('click', () => options.pick(at[0], at[1])).style('cursor', 'pointer');
  svg.attr('tabindex', 0).on('focus', () => go(at[0], at[1])).on('keydown', () => {
    const key = d3.event.key, page = 10;
    const moves = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], PageUp: [-page, 0],
      PageDown: [page, 0], Home: [0, -columns.length], End: [0, columns.length]};
    if (key === 'Enter' && options.pick) options.pick(at[0], at[1]);
    else if (moves[key]) go(at[0] + moves[key][0], at[1] + moves[key][1]);
    else return;
    d3.event.preventDefault();
  });
  return svg;
};
