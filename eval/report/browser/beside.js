// Two traces of the same records: a map of where their experts differ, and the tokens at one layer in rows of both.
box.draw.beside = ({figure, place, controls}) => {
  const [a, b] = box.openTraces(), layers = a.index.layers, say = box.readout(place);
  const samples = a.index.samples.filter(sample => b.find(sample.id, sample.nth));
  const state = {sample: 0, place: Math.floor(layers.length / 2), only: '0'};
  const table = document.createElement('div'), line = document.createElement('p');
  table.className = 'wide';
  line.className = 'small';
  line.setAttribute('role', 'status');
  place.before(line);
  const both = () => { const one = samples[state.sample]; return [one, b.find(one.id, one.nth)]; };
  const partAt = (one, other) => {
    const at = one.tokens.findIndex((token, t) => t >= other.n || token !== other.tokens[t]);
    return at >= 0 ? at : one.n;
  };
  const missing = (route, from) => route.filter(expert => !from.includes(expert));
  // Slots of the longer route, and those that hold no expert of both.
  const counted = (one, other, t, l) => {
    const ra = a.route(one, t, l), rb = b.route(other, t, l), slots = Math.max(ra.length, rb.length);
    return {slots, differ: slots - ra.length + missing(ra, rb).length};
  };
  const names = route => route.map(expert => `E${expert}`).join(' ');

  const addExperts = (row, route, other) => {
    const cell = row.insertCell();
    route.forEach((expert, i) => {
      if (i > 0) cell.append(' ');
      const name = document.createElement(other && !other.includes(expert) ? 'mark' : 'span');
      name.textContent = `E${expert}`;
      cell.append(name);
    });
  };
  const addRows = () => {
    const [one, other] = both(), until = partAt(one, other), rows = document.createElement('table'), head = rows.createTHead().insertRow();
    for (const name of ['position', 'token in A', 'token in B', 'experts in A', 'experts in B', 'differ']) {
      const cell = document.createElement('th');
      cell.textContent = name;
      head.append(cell);
    }
    const body = rows.createTBody();
    for (let t = 0; t < Math.max(one.n, other.n); ++t) {
      const compared = t < until, now = compared ? counted(one, other, t, state.place) : null, changed = compared && now.differ > 0;
      if (state.only === '1' && !changed) continue;
      const row = body.insertRow(), ra = t < one.n ? a.route(one, t, state.place) : [], rb = t < other.n ? b.route(other, t, state.place) : [];
      row.dataset.token = t;
      row.insertCell().textContent = t;
      row.insertCell().textContent = t < one.n ? box.quoted(a.textOf(one, t)) : '';
      row.insertCell().textContent = t < other.n ? box.quoted(b.textOf(other, t)) : '';
      addExperts(row, ra, compared ? rb : null);
      addExperts(row, rb, compared ? ra : null);
      row.insertCell().textContent = !compared ? 'not compared' : changed ? `\u2260 ${now.differ} of ${now.slots}` : '';
    }
    table.replaceChildren(rows);
  };
  const redraw = box.keepDrawn(place, () => {
    if (samples.length === 0) { line.textContent = 'No sample of both is short enough to be shown.'; return; }
    const [one, other] = both(), until = partAt(one, other);
    let slots = 0, apart = 0;
    for (let t = 0; t < Math.min(until, other.n); ++t)
      layers.forEach((_, l) => { const now = counted(one, other, t, l); slots += now.slots; apart += now.differ; });
    line.textContent = `${box.nameOf(one)}: ${apart} of ${slots} slots differ (${box.percent(slots ? apart / slots : null)})` +
      (until < one.n || other.n > one.n ? `, before the texts part at token ${until}.` : '; the texts are the same.');
    box.grid(place, {rows: layers, columns: d3.range(one.n), row: 'layer', column: `token of ${box.nameOf(one)}`, say,
      value: (l, t) => t < until ? counted(one, other, t, l).differ : null, colour: box.sizeColour(0, a.index.n_slots), from: 0, to: a.index.n_slots,
      unit: 'slots that differ', cell: n => n > 0 ? n : '', label: figure.dataset.label,
      hover: (l, t) => `token ${t} ${box.quoted(a.textOf(one, t))}, layer ${layers[l]}: A ${names(a.route(one, t, l))}` +
        (t < until ? `; B ${names(b.route(other, t, l))}` : '; not compared'),
      pick: (l, t) => {
        state.place = l;
        slider.show(layers[l]);
        addRows();
        const row = table.querySelector(`tr[data-token="${t}"]`);
        if (row) row.scrollIntoView({block: 'nearest'});
      }});
    addRows();
  });
  place.after(table);
  box.choice(controls, 'sample', samples.map((sample, i) => [i, box.nameOf(sample)]), 0, i => { state.sample = Number(i); redraw(); });
  const slider = box.slider(controls, 'layer', layers, layers[state.place], layer => { state.place = layers.indexOf(layer); addRows(); });
  box.choice(controls, 'rows', [['0', 'all tokens'], ['1', 'tokens that differ']], '0', only => { state.only = only; addRows(); });
  return {table: () => {
    if (samples.length === 0) return {columns: ['sample'], rows: []};
    const [one, other] = both(), until = partAt(one, other), rows = [];
    for (let t = 0; t < until; ++t)
      layers.forEach((layer, l) => rows.push([one.id, one.nth, t, a.textOf(one, t), layer, names(a.route(one, t, l)),
        names(b.route(other, t, l)), counted(one, other, t, l).differ]));
    return {columns: ['sample', 'nth', 'token', 'text', 'layer', 'experts_a', 'experts_b', 'differing'], rows};
  }};
};
