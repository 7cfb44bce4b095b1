// A graph of parts of a model: a column a layer, what is of no layer at either end.
box.draw.graph = ({figure, place, controls}) => {
  const {nodes, edges} = box.json('graph'), say = box.readout(place);
  const kinds = box.distinct(edges.map(edge => edge.relation)).filter(kind => kind !== '');
  const number = value => value === null || value === undefined ? null : value;
  const told = of => Object.entries(of).filter(([, value]) => value !== null)
    .map(([key, value]) => `${key.replace(/_/g, ' ')} ${typeof value === 'number' ? box.number(value) : value}`).join(', ');
  let kind = '', which = nodes.some(node => node.faint) && nodes.some(node => !node.faint) ? 'in' : 'all';
  const shownNodes = () => nodes.filter(node => which === 'all' || !node.faint);
  const shownEdges = () => {
    const here = new Set(shownNodes().map(node => node.id));
    return edges.filter(edge => (kind === '' || edge.relation === kind) && (which === 'all' || !edge.faint) &&
      here.has(edge.source) && here.has(edge.target));
  };
  const redraw = box.keepDrawn(place, () => {
    const drawn = shownNodes(), links = shownEdges();
    const inner = box.distinct(drawn.filter(node => node.layer >= 0).map(node => node.layer)).sort((a, b) => a - b);
    const outside = drawn.filter(node => node.layer < 0), entered = new Set(links.map(edge => edge.target));
    const last = node => entered.has(node.id) || node.id === 'logits';
    const columns = [outside.filter(node => !last(node)), ...inner.map(l => drawn.filter(node => node.layer === l)),
      outside.filter(last)].filter(column => column.length > 0);
    const step = Math.max(150, Math.min(230, box.widthOf(place, 1150) / columns.length));
    const width = step * columns.length, height = 40 + 40 * Math.max(1, d3.max(columns, column => column.length) || 1);
    const svg = box.picture(place, width, height, figure.dataset.label), at = new Map();
    columns.forEach((column, c) => {
      const x = step * (c + 0.5), layer = column[0].layer;
      if (layer >= 0)
        svg.append('text').attr('class', 's').attr('x', x).attr('y', 16).attr('text-anchor', 'middle').text(`layer ${layer}`);
      column.forEach((node, i) => at.set(node.id, [x, 40 + (height - 40) * (i + 0.5) / column.length]));
    });
    const most = d3.max(links, edge => Math.abs(number(edge.weight) || 0)) || 1, half = 58;
    const wide = d3.scaleSqrt().domain([0, most]).range([0.7, 8]);
    svg.selectAll(null).data(links).enter().append('path').attr('fill', 'none')
      .attr('class', edge => edge.faint ? 'edge unsure' : 'edge').attr('stroke-width', edge => wide(Math.abs(number(edge.weight) || 0)))
      .style('stroke', edge => (number(edge.weight) || 0) < 0 ? 'var(--neg)' : null)
      .attr('d', edge => {
        const [x1, y1] = at.get(edge.source), [x2, y2] = at.get(edge.target);
        if (x1 === x2) return `M${x1 + half},${y1}C${x1 + half + 40},${y1} ${x2 + half + 40},${y2} ${x2 + half},${y2}`;
        return `M${x1 + half},${y1}C${(x1 + x2) / 2},${y1} ${(x1 + x2) / 2},${y2} ${x2 - half},${y2}`;
      })
      .on('mousemove', edge => say(`${edge.source} ${edge.relation || 'to'} ${edge.target}: ${told(edge.metadata)}`));
    const lit = node => svg.selectAll('.edge').classed('lit', edge => edge.source === node.id || edge.target === node.id);
    const groups = svg.selectAll(null).data(drawn).enter().append('g').attr('transform', node => `translate(${at.get(node.id)})`)
      .on('mousemove', node => { lit(node); say(`${node.label}: ${told(node.metadata)}`); })
      .on('mouseleave', () => svg.selectAll('.edge').classed('lit', false));
    groups.append('rect').attr('class', 'node').attr('x', -half).attr('y', -13).attr('width', 2 * half).attr('height', 26).attr('rx', 5)
      .attr('stroke-dasharray', node => node.faint ? '3 3' : null);
    groups.append('text').attr('class', 's').attr('text-anchor', 'middle').attr('y', 4).text(node => node.id);
  });
  box.choice(controls, 'edges', [['', 'all'], ...kinds.map(name => [name, name])], kind, k => { kind = k; redraw(); });
  if (nodes.some(node => node.faint))
    box.choice(controls, 'show', [['in', 'what is in the circuit'], ['all', 'all that was measured']], which, k => { which = k; redraw(); });
  return {table: () => {
    const links = shownEdges(), keys = box.distinct(links.flatMap(edge => Object.keys(edge.metadata)));
    return {columns: ['source', 'target', ...keys], rows: links.map(edge => [edge.source, edge.target, ...keys.map(key => edge.metadata[key])])};
  }};
};
