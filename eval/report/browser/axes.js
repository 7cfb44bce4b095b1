// Axes, and the figure of curves over a whole number: a layer, a lag.
box.axes = (svg, {x, y, width, height, left, top, xLabel, yLabel, wholeX}) => {
  const xTicks = Math.max(2, Math.floor((width - left) / 80)), words = (scale, n) => scale.tickFormat(n);
  const steps = x.ticks(xTicks), whole = wholeX ? steps.filter(Number.isInteger) : steps;
  for (const tick of y.ticks(5)) {
    svg.append('line').attr('class', 'axis').attr('x1', left).attr('x2', width).attr('y1', y(tick)).attr('y2', y(tick));
    svg.append('text').attr('class', 's').attr('x', left - 6).attr('y', y(tick) + 4).attr('text-anchor', 'end').text(words(y, 5)(tick));
  }
  for (const tick of whole)
    svg.append('text').attr('class', 's').attr('x', x(tick)).attr('y', height + 16).attr('text-anchor', 'middle').text(wholeX ? String(tick) : words(x, xTicks)(tick));
  // A label that has no room in one line has two.
  const room = (width - left) / 5.6, half = xLabel.length > room ? xLabel.lastIndexOf(' ', Math.ceil(xLabel.length / 2)) : -1;
  (half > 0 ? [xLabel.slice(0, half), xLabel.slice(half + 1)] : [xLabel]).forEach((line, i, all) =>
    svg.append('text').attr('class', 's').attr('x', (left + width) / 2).attr('y', height + (all.length > 1 ? 29 + 12 * i : 34))
      .attr('text-anchor', 'middle').text(line));
  svg.append('text').attr('class', 's').attr('x', left).attr('y', top - 10).attr('text-anchor', 'start').text(yLabel);
};

box.draw.lines = ({figure, place}) => {
  const {x: xLabel, y: yLabel, curves} = box.json(figure.dataset.source);
  const points = curves.flatMap(curve => curve.points);
  if (points.length === 0) return box.nothing(place);
  const most = 24, shown = curves.slice(0, most), say = box.readout(place);
  box.keepDrawn(place, () => {
    const names = shown.length > 1, width = box.widthOf(place, 760), left = 56, top = 28, height = 240;
    const keyWidth = names && width > 560 ? 190 : 0, across = width - 14 - keyWidth;
    const rowsOfKey = names && keyWidth === 0 ? shown.length : 0;
    const svg = box.picture(place, width, Math.max(height + 44 + 18 * rowsOfKey, keyWidth ? top + 18 * shown.length : 0), figure.dataset.label);
    const [xLo, xHi] = d3.extent(points, p => p[0]), [yLo, yHi] = d3.extent(points, p => p[1]);
    const x = d3.scaleLinear().domain(xLo < xHi ? [xLo, xHi] : [xLo - 1, xHi + 1]).range([left + 8, across]);
    const y = d3.scaleLinear().domain([Math.min(0, yLo), Math.max(yHi, yLo + 1e-9)]).nice().range([height, top]);
    box.axes(svg, {x, y, width: across, height, left, top, xLabel, yLabel, wholeX: true});
    shown.forEach((curve, i) => {
      const colour = curve.dashed ? getComputedStyle(place).getPropertyValue('--soft') : box.chosenColour(i);
      svg.append('path').attr('fill', 'none').attr('stroke', colour).attr('stroke-width', 2)
        .attr('stroke-dasharray', curve.dashed ? '5 4' : i >= 8 ? '2 3' : null)
        .attr('d', d3.line().x(p => x(p[0])).y(p => y(p[1]))(curve.points));
      svg.selectAll(null).data(curve.points).enter().append('circle').attr('cx', p => x(p[0])).attr('cy', p => y(p[1]))
        .attr('r', 3.5).attr('fill', colour).on('mousemove', p => say(`${curve.name}: ${xLabel} ${p[0]}, ${yLabel} ${box.number(p[1])}`));
      if (!names) return;
      const [kx, ky] = keyWidth ? [across + 16, top + 18 * i] : [left, height + 56 + 18 * i];
      svg.append('line').attr('x1', kx).attr('x2', kx + 18).attr('y1', ky - 4).attr('y2', ky - 4).attr('stroke', colour)
        .attr('stroke-width', 2).attr('stroke-dasharray', curve.dashed ? '5 4' : i >= 8 ? '2 3' : null);
      svg.append('text').attr('class', 's').attr('x', kx + 24).attr('y', ky).text(curve.name.length > 24 ? curve.name.slice(0, 23) + '\u2026' : curve.name);
    });
    if (curves.length > most) say(`${most} of ${curves.length} curves; the data table has all.`);
  });
  return {table: () => ({columns: ['curve', xLabel, yLabel], rows: curves.flatMap(c => c.points.map(p => [c.name, ...p]))})};
};
