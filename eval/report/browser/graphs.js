// Who works together: pairs of one layer as a graph, pairs of neighbouring layers as a flow.
const strongest = (rows, kind, n) => [...rows].sort((a, b) => b[kind] - a[kind]).slice(0, n);

// Places on a circle, or where a simulation of springs settles; both the same at every opening of the page.
const placesOf = (nodes, links, layout, size) => {
  nodes.forEach((node, i) => {
    const angle = 2 * Math.PI * i / nodes.length - Math.PI / 2;
    node.x = size / 2 + (size / 2 - 30) * Math.cos(angle);
    node.y = size / 2 + (size / 2 - 30) * Math.sin(angle);
  });
  if (layout !== 'springs') return;
  const simulation = d3.forceSimulation(nodes).stop().force('link', d3.forceLink(links).distance(60).strength(0.3))
    .force('charge', d3.forceManyBody().strength(-60)).force('centre', d3.forceCenter(size / 2, size / 2))
    .force('apart', d3.forceCollide(13));
  for (let i = 0; i < 200; ++i) simulation.tick();
  for (const node of nodes) {
    node.x = Math.max(16, Math.min(size - 16, node.x));
    node.y = Math.max(16, Math.min(size - 16, node.y));
  }
};

// The community of each expert of a layer, from 1, and how separate the layer's are; of a page without them nothing.
const openCommunities = () => {
  const rowsOf = id => { const block = box.json(id); return block === null ? [] : box.rowsOf(block); };
  const groups = new Map(), separate = new Map(rowsOf('modularity').map(row => [row.layer, row]));
  for (const {layer, expert, community} of rowsOf('communities')) {
    if (!groups.has(layer)) groups.set(layer, new Map());
    if (community !== null) groups.get(layer).set(expert, community);
  }
  return {of: layer => groups.get(layer) || new Map(), separate: layer => separate.get(layer), any: groups.size > 0};
};
// Colours for the seven that have most of the nodes; the numbers name them all.
const coloursOf = nodes => {
  const sizes = d3.nest().key(node => node.community).rollup(all => all.length).entries(nodes.filter(node => node.community));
  const largest = sizes.sort((a, b) => b.value - a.value || a.key - b.key).slice(0, 7).map(({key}) => Number(key)).sort((a, b) => a - b);
  return new Map(largest.map((community, i) => [community, box.chosenColour(i)]));
};
const tellCommunities = (line, layer, nodes, colours, {separate, of}) => {
  line.textContent = '';
  const sizes = d3.nest().key(([, community]) => community).rollup(all => all.length).object([...of(layer)]);
  const numbers = box.distinct(nodes.map(node => node.community).filter(one => one)).sort((a, b) => a - b);
  for (const community of numbers) {
    const mark = document.createElement('span'), colour = colours.get(community);
    mark.className = 'key';
    mark.textContent = `c${community}: ${nodes.filter(node => node.community === community).length} of ${sizes[community]} experts`;
    if (colour) { mark.style.background = colour; mark.style.color = box.inkOn(colour); }
    line.append(mark, ' ');
  }
  const row = separate(layer);
  if (row && row.modularity !== null)
    line.append(`modularity ${box.number(row.modularity)}` + (row.held_out === null ? '' :
      `; of groups found in one half of the records, in the other half ${box.number(row.held_out)}, q ${box.number(row.q)}`));
};

box.draw.coactivation = ({figure, place, controls}) => {
  const rows = box.rowsOf(box.json('coactivation')), layers = box.layersOf(rows), say = box.readout(place);
  const communities = openCommunities(), legend = document.createElement('p');
  legend.className = 'small';
  if (communities.any) place.before(legend);
  let layer = layers[Math.floor(layers.length / 2)], kind = 'count', n = 40, layout = 'circle';
  const shown = () => strongest(rows.filter(row => row.layer === layer && row[kind] !== null), kind, n);
  const redraw = box.keepDrawn(place, () => {
    const size = box.widthOf(place, 560), links = shown().map(row => ({row})), totals = new Map();
    for (const {row} of links)
      for (const e of [row.expert_a, row.expert_b]) totals.set(e, (totals.get(e) || 0) + row.count);
    const groups = communities.of(layer), nodes = [...totals.keys()]
      .map(expert => ({expert, total: totals.get(expert), community: groups.get(expert)}))
      .sort((a, b) => (a.community || 1e9) - (b.community || 1e9) || a.expert - b.expert);
    const colours = coloursOf(nodes);
    const placeOf = new Map(nodes.map((node, i) => [node.expert, i]));
    for (const link of links) { link.source = placeOf.get(link.row.expert_a); link.target = placeOf.get(link.row.expert_b); }
    placesOf(nodes, links.map(({source, target}) => ({source, target})), layout, size);
    const svg = box.picture(place, size, size, `${figure.dataset.label}, layer ${layer}`);
    const width = d3.scaleSqrt().domain([0, d3.max(links, l => l.row[kind])]).range([0.5, 7]);
    svg.selectAll(null).data(links).enter().append('line').attr('class', 'edge').attr('stroke-width', l => width(l.row[kind]))
      .attr('x1', l => nodes[l.source].x).attr('y1', l => nodes[l.source].y).attr('x2', l => nodes[l.target].x).attr('y2', l => nodes[l.target].y)
      .on('mousemove', ({row}) => say(`Layer ${layer}, experts ${row.expert_a} and ${row.expert_b}: ${row.count} tokens, lift ${box.number(row.lift)}; P(${row.expert_b} given ${row.expert_a}) ${box.number(row.p_b_given_a)}, P(${row.expert_a} given ${row.expert_b}) ${box.number(row.p_a_given_b)}`));
    const radius = d3.scaleSqrt().domain([0, d3.max(nodes, node => node.total)]).range([9, 16]);
    const lit = node => svg.selectAll('.edge').classed('lit', l => l.row.expert_a === node.expert || l.row.expert_b === node.expert);
    const marks = svg.selectAll(null).data(nodes).enter().append('g').attr('transform', node => `translate(${node.x},${node.y})`)
      .on('mousemove', node => {
        lit(node);
        say(`Layer ${layer}, expert ${node.expert}: ${node.total} co-selections in the pairs shown` + (node.community ? `; community c${node.community}` : ''));
      })
      .on('mouseleave', () => svg.selectAll('.edge').classed('lit', false));
    marks.append('circle').attr('class', 'node').attr('r', node => radius(node.total)).style('fill', node => colours.get(node.community) || null);
    marks.append('text').attr('class', 's').attr('text-anchor', 'middle').attr('y', 4)
      .style('fill', node => colours.has(node.community) ? box.inkOn(colours.get(node.community)) : null).text(node => node.expert);
    marks.filter(node => node.community).append('text').attr('class', 's community').attr('text-anchor', 'middle')
      .attr('y', node => radius(node.total) + 10).text(node => `c${node.community}`);
    tellCommunities(legend, layer, nodes, colours, communities);
  });
  box.slider(controls, 'layer', layers, layer, now => { layer = now; redraw(); });
  box.choice(controls, 'by', [['count', 'number of tokens'], ['lift', 'lift']], kind, k => { kind = k; redraw(); });
  box.slider(controls, 'pairs', [10, 20, 40, 80, 160, 320], n, now => { n = now; redraw(); });
  box.choice(controls, 'layout', [['circle', 'circle'], ['springs', 'springs']], layout, k => { layout = k; redraw(); });
  return {table: () => box.tableOfRows(shown())};
};

box.draw.flow = ({figure, place, controls}) => {
  const rows = box.rowsOf(box.json('across')), say = box.readout(place);
  const layers = box.distinct(rows.flatMap(row => [row.layer_a, row.layer_b])).sort((a, b) => a - b);
  let kind = 'phi', n = 10;
  const shown = () => d3.nest().key(row => row.layer_a).entries(rows.filter(row => row[kind] !== null && row[kind] > 0))
    .flatMap(({values}) => strongest(values, kind, n));
  const redraw = box.keepDrawn(place, () => {
    const links = shown(), used = new Map(layers.map(layer => [layer, new Set()]));
    for (const row of links) { used.get(row.layer_a).add(row.expert_a); used.get(row.layer_b).add(row.expert_b); }
    const step = Math.max(90, Math.min(190, box.widthOf(place, 1100) / layers.length));
    const most = d3.max([...used.values()], set => set.size), height = 50 + 26 * most, width = 40 + step * (layers.length - 1) + 40;
    const svg = box.picture(place, width, height, figure.dataset.label), at = new Map();
    // A column of experts a layer; each below the mean of those it comes from, so that few lines cross.
    layers.forEach((layer, l) => {
      const x = 40 + step * l, from = new Map();
      for (const row of links)
        if (row.layer_b === layer && at.has(`${row.layer_a}:${row.expert_a}`))
          from.set(row.expert_b, [...(from.get(row.expert_b) || []), at.get(`${row.layer_a}:${row.expert_a}`)[1]]);
      const key = e => from.has(e) ? d3.mean(from.get(e)) : height / 2 + e / 1000;
      [...used.get(layer)].sort((a, b) => l === 0 ? a - b : key(a) - key(b)).forEach((e, i, all) =>
        at.set(`${layer}:${e}`, [x, 44 + (height - 60) * (i + 0.5) / all.length]));
      svg.append('text').attr('class', 's').attr('x', x).attr('y', 16).attr('text-anchor', 'middle').text(`layer ${layer}`);
    });
    const wide = d3.scaleLinear().domain([0, d3.max(links, row => row[kind])]).range([0.5, 9]);
    svg.selectAll(null).data(links).enter().append('path').attr('class', row => row.q !== undefined && !(row.q < 0.05) ? 'edge unsure' : 'edge')
      .attr('fill', 'none').attr('stroke-width', row => wide(row[kind]))
      .attr('d', row => {
        const [x1, y1] = at.get(`${row.layer_a}:${row.expert_a}`), [x2, y2] = at.get(`${row.layer_b}:${row.expert_b}`), mid = (x1 + x2) / 2;
        return `M${x1 + 12},${y1}C${mid},${y1} ${mid},${y2} ${x2 - 12},${y2}`;
      })
      .on('mousemove', row => say(`Layer ${row.layer_a} expert ${row.expert_a} and layer ${row.layer_b} expert ${row.expert_b}: phi ${box.number(row.phi)}, jaccard ${box.number(row.jaccard)}` + (row.q === undefined ? '' : `, q ${box.number(row.q)}`)));
    for (const [key, [x, y]] of at) {
      svg.append('rect').attr('class', 'node').attr('x', x - 12).attr('y', y - 9).attr('width', 24).attr('height', 18).attr('rx', 4);
      svg.append('text').attr('class', 's').attr('x', x).attr('y', y + 4).attr('text-anchor', 'middle').text(key.split(':')[1]);
    }
  });
  box.choice(controls, 'by', [['phi', 'phi'], ['jaccard', 'jaccard']], kind, k => { kind = k; redraw(); });
  box.slider(controls, 'pairs for each step', [5, 10, 20, 40, 80], n, now => { n = now; redraw(); });
  return {table: () => box.tableOfRows(shown())};
};
