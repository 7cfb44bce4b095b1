// A text token by token in the colours of its experts at one layer; the token under the pointer or the keys is read out
// with its whole route.
// The experts of a sample at the layer and slot, those of most tokens first.
const ranked = ({sample, layer, slot}) => {
  const samples = box.samples(), place = samples.index.layers.indexOf(layer), counts = new Map();
  for (let t = 0; t < sample.n; ++t)
    for (const one of samples.route(sample, t, place))
      if (one.slot === slot) counts.set(one.expert, (counts.get(one.expert) || 0) + 1);
  return [...counts].sort((a, b) => b[1] - a[1] || a[0] - b[0]);
};

const paint = (span, colour, border) => {
  span.style.background = colour || '';
  span.style.color = colour ? box.inkOn(colour) : '';
  span.classList.toggle('changed', border);
};

const colourText = (text, legend) => {
  const samples = box.samples(), now = box.reading, place = samples.index.layers.indexOf(now.layer);
  const order = ranked(now), names = new Map(order.slice(0, 8).map(([expert], i) => [expert, i]));
  const [lo, hi] = samples.index.weights || [0, 1], size = box.sizeColour(Math.min(0, lo), hi);
  for (const span of text.children) {
    const token = Number(span.dataset.token), one = samples.route(now.sample, token, place).find(r => r.slot === now.slot);
    const expert = one ? one.expert : null;
    let colour = null;
    if (expert !== null)
      colour = now.look === 'weight' ? size(one.weight) : now.look === 'all' ? box.anyColour(expert, samples.index.n_experts) :
        names.has(expert) ? box.chosenColour(names.get(expert)) : null;
    paint(span, colour, samples.changed(now.sample, token, place) > 0);
    span.querySelector('small').textContent = expert === null ? '\u2013' : expert;
  }
  legend.textContent = '';
  if (now.look === 'weight') legend.append(`weight: ${box.number(lo)} (pale) to ${box.number(hi)} (strong)`);
  else
    for (const [expert, n] of order.slice(0, 8)) {
      const mark = document.createElement('span');
      mark.className = 'key';
      mark.textContent = `E${expert}: ${n}`;
      paint(mark, now.look === 'all' ? box.anyColour(expert, samples.index.n_experts) : box.chosenColour(names.get(expert)), false);
      legend.append(mark, ' ');
    }
  if (now.look === 'expert' && order.length > 8) legend.append(`and ${order.length - 8} other experts, without colour`);
};

const fillText = text => {
  const samples = box.samples(), {sample} = box.reading;
  text.textContent = '';
  for (let t = 0; t < sample.n; ++t) {
    const span = document.createElement('span'), words = document.createElement('bdi'), number = document.createElement('small');
    span.dataset.token = t;
    span.className = t >= sample.given ? 'token generated' : 'token';
    span.tabIndex = t === 0 ? 0 : -1;
    const shown = box.visible(samples.textOf(sample, t)), line = shown.endsWith('\n') ? '\n' : '';
    words.textContent = line ? shown.slice(0, -1) : shown;
    span.append(words, number, line);  // a line ends behind the number
    text.append(span);
  }
};

// What the text of the panel and of the aria-live line says of a token.
const tellToken = (panel, say) => {
  const samples = box.samples(), {sample, token, layer} = box.reading;
  const describe = route => route.map(r => `E${r.expert}` + (r.weight === null ? '' : ` ${box.number(r.weight)}`)).join(', ');
  const here = samples.route(sample, token, samples.index.layers.indexOf(layer));
  const words = box.quoted(samples.textOf(sample, token));
  say(`Token ${token} ${words} (id ${sample.tokens[token]}, ${token >= sample.given ? 'generated' : 'given'}), layer ${layer}: ${describe(here)}`);
  panel.textContent = '';
  const rows = samples.index.layers.map((l, place) => {
    const route = samples.route(sample, token, place), changed = samples.changed(sample, token, place);
    return [l, route.map(r => `E${r.expert}`).join(' '), route.map(r => box.number(r.weight)).join(' '), changed];
  });
  const columns = ['layer', 'experts', 'weights'];
  if (samples.index.edited) columns.push('slots changed by the edit');
  const table = box.tableOf({columns, rows: rows.map(row => row.slice(0, columns.length))});
  [...table.tBodies[0].rows].forEach((row, place) => row.classList.toggle('base', samples.index.layers[place] === layer));
  const title = document.createElement('p');
  title.className = 'small';
  title.textContent = `The route of token ${token}, ${words}, through all layers:`;
  panel.append(title, table);
};

const keys = {ArrowLeft: -1, ArrowRight: 1, Home: -1e9, End: 1e9, PageUp: -20, PageDown: 20};

// The list of samples, narrowed by condition, domain and a part of the id.
const picker = controls => {
  const all = box.samples().index.samples, wanted = {condition: '', domain: '', id: ''};
  const list = document.createElement('select');
  const fill = () => {
    const fitting = all.filter(s => (!wanted.condition || s.condition === wanted.condition) &&
      (!wanted.domain || s.domain === wanted.domain) && s.id.includes(wanted.id));
    list.textContent = '';
    for (const s of fitting) list.add(new Option(box.nameOf(s), all.indexOf(s), false, s === box.reading.sample));
    if (fitting.length > 0 && !fitting.includes(box.reading.sample)) box.read({sample: fitting[0], token: 0});
  };
  for (const key of ['condition', 'domain']) {
    const values = box.distinct(all.map(s => s[key])).filter(value => value !== '');
    if (values.length > 0)
      box.choice(controls, key, [['', 'all'], ...values.map(v => [v, v])], '', value => { wanted[key] = value; fill(); });
  }
  const label = (text, element) => {
    const out = document.createElement('label');
    out.append(text + ' ', element);
    controls.append(out);
  };
  if (all.length > 8) {
    const search = document.createElement('input');
    search.type = 'search';
    search.addEventListener('input', () => { wanted.id = search.value; fill(); });
    label('id has', search);
  }
  list.addEventListener('change', () => box.read({sample: all[list.value], token: 0}));
  label('sample', list);
  fill();
};

box.draw.tokens = ({figure, place, controls}) => {
  const samples = box.samples(), {index} = samples;
  const text = document.createElement('div'), legend = document.createElement('p'), panel = document.createElement('div');
  text.className = 'tokens';
  text.setAttribute('role', 'group');
  text.setAttribute('aria-label', figure.dataset.label);
  legend.className = 'small';
  panel.className = 'wide';
  place.textContent = '';
  place.append(legend, text, panel);
  const say = box.readout(place);
  picker(controls);
  box.slider(controls, 'layer', index.layers, box.reading.layer, layer => box.read({layer}));
  box.choice(controls, 'slot', d3.range(index.n_slots).map(k => [String(k), `${k + 1} of ${index.n_slots}`]), '0',
    slot => box.read({slot: Number(slot)}));
  const looks = [['expert', 'the eight most frequent experts'], ['all', 'all experts']];
  if (index.weights) looks.push(['weight', 'the weight']);
  box.choice(controls, 'colour by', looks, 'expert', look => box.read({look}));
  const numbers = document.createElement('input'), label = document.createElement('label');
  numbers.type = 'checkbox';
  numbers.checked = true;
  numbers.addEventListener('change', () => text.classList.toggle('bare', !numbers.checked));
  label.append(numbers, ' numbers');
  controls.append(label);

  const at = target => {
    const span = target.closest('.token');
    if (span && Number(span.dataset.token) !== box.reading.token) box.read({token: Number(span.dataset.token)});
  };
  text.addEventListener('mouseover', event => at(event.target));
  text.addEventListener('focusin', event => at(event.target));
  text.addEventListener('keydown', event => {
    if (!(event.key in keys)) return;
    const next = Math.max(0, Math.min(box.reading.sample.n - 1, box.reading.token + keys[event.key]));
    text.children[next].focus();
    event.preventDefault();
  });
  box.onRead(change => {
    if ('sample' in change) fillText(text);
    if (!('token' in change) || 'sample' in change) colourText(text, legend);
    for (const span of text.querySelectorAll('.here')) { span.classList.remove('here'); span.tabIndex = -1; }
    const here = text.children[box.reading.token];
    if (here) { here.classList.add('here'); here.tabIndex = 0; }
    tellToken(panel, say);
  });
  box.onTheme(() => colourText(text, legend));
  box.read({sample: box.reading.sample, token: 0});
  return {table: () => {
    const {sample} = box.reading, rows = [];
    for (let t = 0; t < sample.n; ++t)
      index.layers.forEach((layer, l) => {
        for (const r of samples.route(sample, t, l))
          rows.push([sample.id, sample.nth, t, sample.tokens[t], samples.textOf(sample, t), t >= sample.given ? 'generated' : 'given', layer, r.slot, r.expert, r.weight]);
      });
    return {columns: ['sample', 'nth', 'token', 'id', 'text', 'phase', 'layer', 'slot', 'expert', 'weight'], rows};
  }};
};
