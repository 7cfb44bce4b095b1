// Document 004's panel, live: experts by domain, over the tokens, and from each token to the next, at the slider's
// layer.
import {sizeTable} from '../logic/colours.js';
import {cramersV, domainShares, stickiness, transitions} from '../logic/patterns.js';
import {definitions, quoted} from '../logic/words.js';
import {CellGrid} from './cells.js';
import {button, fill, h, isDark, listen, number, onFrame} from './dom.js';

export const domainPrompts = [
  ['code', 'def binary_search(values, wanted):\n    """Index of wanted in the sorted list values, or -1."""\n'],
  [
    'mathematics',
    'A train leaves at nine and travels 60 kilometres an hour. A second one leaves an hour later and travels 90. They meet after'
  ],
  ['creative', 'The lighthouse had been dark for a year when the boy first heard it sing.'],
  ['factual', 'Bacteria keep a record of the viruses that attacked them. The enzyme that reads it and cuts DNA'],
  [
    'mixed',
    'Merge sort is stable and needs memory; quicksort needs none and is not. In Python the first one is\n\ndef merge_sort(values):\n'
  ],
];

export function renderPatterns({model, el, session}) {
  const problem = h('p', {class: 'problem', role: 'alert'}), domainNote = h('p', {class: 'small', role: 'status'}),
        stayNote = h('p', {class: 'small'});
  const places = {domains: h('div'), time: h('div'), moves: h('div')};
  const go = button(
    'Run five domains', () => domains(), {title: 'Code, mathematics, creative, factual and mixed: 100 tokens each'});
  const figure = (title, about, place, ...more) =>
    h('section', {class: 'figure', 'aria-label': title}, h('h3', {text: title}),
      h('p', {class: 'note small', text: about}), place, ...more);
  fill(
    el,
    h('div', {class: 'bar'}, h('h2', {text: 'Patterns'}), go,
      h('span', {class: 'soft small', text: 'at the layer of the slider above'})),
    problem, figure('Domain × expert', definitions.domain, places.domains, domainNote),
    figure(
      'Experts over the tokens', 'Dark: the expert was applied to the token, the darker the more weight it had.',
      places.time),
    figure('From one token to the next', definitions.transition, places.moves, stayNote));
  const runs = () =>
    model.get('tree').order().filter(node => node.domain && node.parent === null && node.run?.routes.rows);
  let shares = null, moves = null;
  const at = () => model.get('layer');
  const cells = {
    domains: new CellGrid(places.domains, {
      label: 'Domains by experts',
      tools: false,
      head: 92,
      leastWidth: 12,
      cellHeight: 22,
      describe: (e, d) => shares?.domains.length ?
        `${shares.domains[d]}, expert ${e}: ${number(100 * shares.shares[d * shares.nExperts + e], 1)} % of ${
          shares.selections[d]} selections` :
        'no domains yet'
    }),
    time: new CellGrid(places.time, {
      label: 'Experts over tokens',
      tools: true,
      leastWidth: 6,
      cellHeight: 9,
      mostHeight: 300,
      describe: (t, e) => {
        const run = model.get('node')?.run, l = run?.routes.layerIndex(at()) ?? -1;
        if (l < 0 || t >= run.routes.rows) return 'no route';
        const slot = run.routes.experts(t, l).indexOf(e);
        return `token ${t} ${quoted(run.pieces[t] ?? '')}, expert ${e}: ${
          slot < 0 ? 'not applied' : `weight ${number(run.routes.weightsAt(t, l)[slot], 3)}`}`;
      },
      focus: t => model.set('position', t)
    }),
    moves: new CellGrid(places.moves, {
      label: 'Transitions',
      tools: false,
      leastWidth: 12,
      cellHeight: 16,
      mostHeight: 420,
      describe: (b, a) => moves ? `from expert ${a} to ${b}: ${moves.counts[a * moves.nExperts + b]} of ${
                                    moves.from[a]}, P ${number(moves.probabilities[a * moves.nExperts + b], 3)}` :
                                  ''
    }),
  };
  const painter = value => {
    const table = sizeTable(isDark());
    const rgb = (c, r) => {
      const i = 3 * Math.round(255 * Math.max(0, Math.min(1, value(c, r))));
      return [table[i], table[i + 1], table[i + 2]];
    };
    return rgb;
  };
  const show = (grid, columns, rows, value, rowLabel, columnLabel) => {
    const rgb = painter(value);
    grid.show({
      columns,
      rows,
      rowLabel,
      columnLabel,
      rgb,
      number: null,
      colours: (from, to, pixels) => {
        for (let r = 0; r < rows; ++r)
          for (let c = from; c < to; ++c) {
            const [red, g, b] = rgb(c, r), i = 4 * (r * (to - from) + c - from);
            pixels[i] = red;
            pixels[i + 1] = g;
            pixels[i + 2] = b;
            pixels[i + 3] = 255;
          }
      }
    });
  };
  const draw = () => {
    if (!el.offsetWidth) return;
    const texts = runs(), layer = at(), run = model.get('node')?.run;
    shares = domainShares(texts.map(node => ({domain: node.domain, routes: node.run.routes})), layer);
    places.domains.hidden = !texts.length;
    if (texts.length) {
      const most = Math.max(...shares.shares);
      show(
        cells.domains, shares.nExperts, shares.domains.length, (e, d) => shares.shares[d * shares.nExperts + e] / most,
        d => shares.domains[d].slice(0, 14), String);
      domainNote.textContent = `Layer ${layer}, ${texts.length} texts, ${
        shares.tokens.reduce((a, b) => a + b, 0)} tokens; Cramér’s V ${
        number(
          cramersV(shares),
          3)}. One text a domain says little about the domain: \`signalbox domains\` runs eight of each and tests it.`;
    } else {
      domainNote.textContent = 'No text has a domain yet: run the five, or name one beside the prompt.';
    }
    const l = run?.routes.layerIndex(layer) ?? -1;
    places.time.hidden = places.moves.hidden = l < 0;
    if (l < 0) {
      stayNote.textContent = '';
      return;
    }
    const {routes} = run, E = routes.nExperts, most = 1;
    const weight = new Float32Array(routes.rows * E);
    for (let t = 0; t < routes.rows; ++t)
      routes.experts(t, l).forEach((e, slot) => {
        weight[t * E + e] = 0.15 + 0.85 * routes.weightsAt(t, l)[slot] / most;
      });
    show(cells.time, routes.rows, E, (t, e) => weight[t * E + e], String, String);
    moves = transitions(routes, layer);
    show(cells.moves, E, E, (b, a) => moves.probabilities[a * E + b], String, String);
    const {stay, chance} = stickiness(routes, layer);
    stayNote.textContent = `Rows: this token’s first expert; columns: the next one’s. Stickiness ${
      number(stay, 3)}, chance ${number(chance, 3)}.`;
  };
  const domains = async () => {
    problem.textContent = '';
    go.disabled = true;
    try {
      const {maxPositions} = model.get('facts');
      for (const [domain, prompt] of domainPrompts)
        await session.start(
          {prompt}, {
            maxTokens: Math.min(100, Math.floor((maxPositions || 512) / 2)),
            temperature: 0,
            topP: 1,
            seed: 0,
            ignoreEos: true
          },
          {domain, name: domain});
    } catch (error) { problem.textContent = error.message; }
    go.disabled = false;
  };
  const ask = onFrame(draw), stop = listen(model, 'node run tree layer theme view', ask);
  ask();
  return () => {
    stop();
    ask.cancel();
    Object.values(cells).forEach(grid => grid.close());
  };
}
