// A record's tokens under the baseline and under an intervention, side by side, in the colours of their experts.
const openTrace = ({name, block}) => {
  const index = box.json(block), bytes = box.bytes(block + '-ids');
  const ids = index.id_bytes === 2
    ? Uint16Array.from({length: bytes.length / 2}, (_, i) => bytes[2 * i] | bytes[2 * i + 1] << 8) : bytes;
  const unused = index.id_bytes === 2 ? 0xFFFF : 0xFF, n_layers = index.layers.length, k = index.n_slots;
  return {name, index,
    find: (id, nth) => index.samples.find(sample => sample.id === id && sample.nth === nth),
    textOf: (sample, t) => sample.texts ? sample.texts[t] : `\u27e8${sample.tokens[t]}\u27e9`,
    route: (sample, t, place) => {
      const begin = ((sample.row + t) * n_layers + place) * k;
      return [...ids.subarray(begin, begin + k)].filter(expert => expert !== unused);
    }};
};

const sameSet = (a, b) => a.length === b.length && a.every(one => b.includes(one));

// The traces of the page, the baseline's first; of a page without them none.
let opened = null;
box.openTraces = () => opened = opened || (document.getElementById('run-traces') ? box.json('run-traces').map(openTrace) : []);

// Are the tokens of a record's first sample shown, of the baseline and of this intervention?
box.hasTokens = (id, intervention) => {
  const traces = box.openTraces(), of = traces.find(trace => trace.name === intervention);
  return of !== undefined && of !== traces[0] && Boolean(traces[0].find(id, 0)) && Boolean(of.find(id, 0));
};
// A link within the page that first makes the figure it leads to show what it is about.
box.linkTo = (parent, figure, text, prepare) => {
  const link = document.createElement('a');
  link.href = '#' + figure;
  link.textContent = text;
  link.addEventListener('click', prepare);
  parent.append(link);
};

box.draw.run_tokens = ({place, controls}) => {
  const traces = box.openTraces(), base = traces[0], layers = base.index.layers;
  const samples = base.index.samples;
  const state = {trace: 1, sample: 0, place: Math.floor(layers.length / 2)};

  // Of the two, the first token that is not the same, and the tokens before it whose sets of experts are not.
  const comparison = (one, other) => {
    const fork = one.tokens.findIndex((token, t) => t >= other.n || token !== other.tokens[t]);
    const until = fork >= 0 ? fork : Math.min(one.n, other.n), moved = new Set();
    for (let t = 0; t < until; ++t)
      if (!sameSet(base.route(one, t, state.place), traces[state.trace].route(other, t, state.place))) moved.add(t);
    return {fork: fork >= 0 ? fork : other.n > one.n ? one.n : -1, moved};
  };

  const addSide = (parent, trace, sample, fork, moved) => {
    const side = document.createElement('div'), name = document.createElement('div'), text = document.createElement('div');
    side.className = 'side';
    name.className = 'note small';
    name.textContent = trace.name;
    text.className = 'run-tokens';
    for (let t = 0; t < sample.n; ++t) {
      const span = document.createElement('span'), route = trace.route(sample, t, state.place);
      span.textContent = trace.textOf(sample, t);
      span.title = `token ${t} ${JSON.stringify(trace.textOf(sample, t))} ` +
        `(${t >= sample.given ? 'generated' : 'given'}), layer ${layers[state.place]}: ` +
        route.map(expert => `E${expert}`).join(', ');
      if (route.length > 0) {
        const colour = box.anyColour(route[0], trace.index.n_experts);
        span.style.background = colour;
        span.style.color = box.inkOn(colour);
      }
      if (t >= sample.given) span.classList.add('generated');
      if (t === fork) span.classList.add('fork');
      if (moved.has(t)) span.classList.add('moved');
      text.append(span);
    }
    side.append(name, text);
    parent.append(side);
  };

  const redraw = () => {
    place.textContent = '';
    const one = samples[state.sample], trace = traces[state.trace], other = trace.find(one.id, one.nth);
    const line = document.createElement('p');
    line.className = 'small';
    line.setAttribute('role', 'status');
    place.append(line);
    if (!other) {
      line.textContent = `${one.id} is not among the samples of ${trace.name} that are shown.`;
      return;
    }
    const {fork, moved} = comparison(one, other), first = moved.size > 0 ? Math.min(...moved) : -1;
    line.textContent = `${one.id}${one.condition ? ', ' + one.condition : ''}. In layer ${layers[state.place]} ` +
      (first < 0 ? 'the sets of experts are the same' : moved.size === 1 ? `one token, ${first}, has another set of experts`
        : `${moved.size} tokens have another set of experts, from token ${first} on`) +
      (fork < 0 ? '; the texts are the same.' : `; the texts part at token ${fork}.`);
    if (one.nth === 0 && box.hasText(one.id, trace.name)) {
      line.append(' ');
      box.linkTo(line, 'texts-shown', 'texts and scores of this record', () => box.showText(one.id, trace.name));
    }
    const sides = document.createElement('div');
    sides.className = 'sides';
    addSide(sides, base, one, fork, new Set());
    addSide(sides, trace, other, fork, moved);
    place.append(sides);
  };
  const choose = key => value => { state[key] = Number(value); redraw(); };
  const interventions = box.choice(controls, 'intervention', traces.map((trace, i) => [i, trace.name]).slice(1), 1, choose('trace'));
  const records = box.choice(controls, 'record', samples.map((sample, i) => [i, box.nameOf(sample)]), 0, choose('sample'));
  box.choice(controls, 'layer', layers.map((layer, i) => [i, layer]), state.place, choose('place'));
  box.onTheme(redraw);
  // The first record whose texts part, where there is one.
  const parting = samples.findIndex(one => {
    const other = traces[1].find(one.id, one.nth);
    return other && comparison(one, other).fork >= 0;
  });
  if (parting > 0) state.sample = parting;
  records.value = state.sample;
  redraw();
  box.showTokens = (id, intervention) => {
    state.sample = samples.findIndex(sample => sample.id === id && sample.nth === 0);
    state.trace = traces.findIndex(trace => trace.name === intervention);
    records.value = state.sample;
    interventions.value = state.trace;
    redraw();
  };
  return {table: () => ({columns: ['id', 'intervention', 'token', 'text', 'phase', 'layer', 'experts'],
    rows: [base, traces[state.trace]].flatMap(trace => {
      const sample = trace.find(samples[state.sample].id, samples[state.sample].nth);
      return !sample ? [] : sample.tokens.map((_, t) => [sample.id, trace.name, t, trace.textOf(sample, t),
        t >= sample.given ? 'generated' : 'given', layers[state.place], trace.route(sample, t, state.place).join(' ')]);
    })})};
};
