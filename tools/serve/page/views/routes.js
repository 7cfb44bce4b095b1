// Tokens × layers of the selected text: what each token went through, and where the text beside it went elsewhere.
import {changeTable, chosenColours, chosenMarks, cssOf, greyOf, noneOf, rgbOf, sizeTable, textureTable} from '../logic/colours.js';
import {parting} from '../logic/tree.js';
import {definitions, quoted} from '../logic/words.js';
import {CellGrid} from './cells.js';
import {button, fill, h, isDark, listen, number, onFrame, options} from './dom.js';
import {expertColour} from './tokens.js';

const cellKinds = [
  ['expert', 'first expert'], ['weight', 'largest weight'], ['margin', 'margin'], ['entropy', 'entropy of weights'],
  ['changed', 'changed against the text beside it']
];

const chosenByLayer = list => {
  const out = new Map();
  for (const [i, cell] of list.entries()) {
    const [layer, expert] = cell.split(':').map(Number);
    if (!out.has(layer)) out.set(layer, new Map());
    out.get(layer).set(expert, {rgb: rgbOf(chosenColours[i]), text: chosenMarks[i]});
  }
  return out;
};

export function renderRoutes({model, el}) {
  const kind = options(h('select', {'aria-label': 'Colour of cells'}), cellKinds, model.get('cellColour') ?? 'expert');
  const about = h('p', {class: 'note small'}), place = h('div', {class: 'grid-place'}),
        chosen = h('div', {class: 'chosen'});
  fill(
    el,
    h('div', {class: 'bar'}, h('h2', {text: 'Tokens × layers'}), h('label', {class: 'inline'}, 'Colour ', kind),
      chosen),
    about, place);
  let painted = {};
  const run = () => model.get('node')?.run ?? null, other = () => model.get('other')?.run ?? null;
  const nLayers = () => Math.max(model.get('facts')?.nLayers ?? 0, 1 + Math.max(-1, ...(run()?.routes.layers ?? [])));
  const describe = (t, layer) => {
    if (!run()) return 'no text yet';  // a fork that has just begun
    const {routes, pieces} = run(), l = routes.layerIndex(layer),
                   name = `token ${t} ${quoted(pieces[t] ?? '')}, layer ${layer}: `;
    if (l < 0) return name + 'dense, no router';
    if (t >= routes.rows) return name + 'not routed yet';
    const weights = routes.weightsAt(t, l);
    const changed = other() && t < other().routes.rows ? routes.changed(other().routes, t, l) : 0;
    return name + `experts ${routes.experts(t, l).map((e, i) => `${e} (${number(weights[i])})`).join(', ')}` +
      (Number.isNaN(routes.margin(t, l)) ? '' : `, margin ${number(routes.margin(t, l), 3)}`) +
      (changed ? `, ${changed} changed` : '');
  };
  const cells = new CellGrid(place, {
    label: 'Routes, tokens by layers',
    minimap: true,
    leastWidth: 6,
    describe,
    focus: (t, layer) => {
      model.set('position', t);
      if ((run()?.routes.layerIndex(layer) ?? -1) >= 0) model.set('layer', layer);
    },
    pick: (t, layer, event) => {
      if (event.shiftKey) {
        const p = model.get('anchor') ?? t;
        model.set('range', {from: Math.min(p, t), to: Math.max(p, t) + 1});
      } else {
        model.set({range: null, anchor: t});
      }
      if (event.type === 'keydown') model.tell('ask:cell');
    },
  });
  const colourOf = (routes, t, l, layer, dark, tables) => {
    const pick = (table, part) => {
      const i = 3 * Math.round(255 * Math.max(0, Math.min(1, part)));
      return [table[i], table[i + 1], table[i + 2]];
    };
    switch (kind.value) {
      case 'weight':
        return pick(tables.size, routes.weight(t, l));
      case 'margin':
        return pick(tables.size, Math.exp(-2 * routes.margin(t, l)));
      case 'entropy':
        return pick(tables.size, routes.entropy(t, l) / Math.log(Math.max(2, routes.nActive)));
      case 'changed':
        return other() && t < other().routes.rows ?
          pick(tables.change, 0.5 - routes.changed(other().routes, t, l) / (2 * routes.nActive)) :
          tables.none;
      default: {
        if (!tables.chosen.size) {
          const i = 3 * routes.first(t, l);
          return [tables.texture[i], tables.texture[i + 1], tables.texture[i + 2]];
        }
        const here = tables.chosen.get(layer);
        return (here && here.get(routes.experts(t, l).find(e => here.has(e))))?.rgb ?? tables.grey;
      }
    }
  };
  const draw = () => {
    const now = run();
    el.hidden = !now;
    if (!now) return;
    const {routes} = now, dark = isDark(), rows = nLayers(), tables = {
      size: sizeTable(dark),
      change: changeTable(dark),
      none: noneOf(dark),
      grey: greyOf(dark),
      texture: textureTable(routes.nExperts, dark),
      chosen: chosenByLayer(model.get('chosen') ?? [])
    };
    const layerRow = Array.from({length: rows}, (_, layer) => routes.layerIndex(layer)),
          hatched = new Set(layerRow.flatMap((l, layer) => l < 0 ? [layer] : []));
    const rgb = (t, layer) =>
      layerRow[layer] < 0 ? tables.none : colourOf(routes, t, layerRow[layer], layer, dark, tables);
    const colours = (from, to, pixels) => {
      const wide = to - from;
      for (let layer = 0; layer < rows; ++layer)
        for (let t = from; t < to; ++t) {
          const [r, g, b] = rgb(t, layer), i = 4 * (layer * wide + t - from);
          pixels[i] = r;
          pixels[i + 1] = g;
          pixels[i + 2] = b;
          pixels[i + 3] = 255;
        }
    };
    const value = (t, layer) => {
      const l = layerRow[layer];
      if (l < 0) return null;
      return kind.value === 'weight' ?
        number(routes.weight(t, l)).replace(/^0/, '') :
        kind.value === 'margin' ?
        number(routes.margin(t, l), 1) :
        kind.value === 'entropy' ?
        number(routes.entropy(t, l), 1) :
        kind.value === 'changed' ?
        (other() && t < other().routes.rows ? String(routes.changed(other().routes, t, l) || '') : null) :
        String(routes.first(t, l));
    };
    const at = other() ? parting(now, other()) : -1;
    const key = [
      kind.value, dark, (model.get('chosen') ?? []).join(), kind.value === 'changed' ? other()?.routes.rows : 0
    ].join(' ');
    const keep = painted.run === now && painted.key === key && (kind.value !== 'changed' || painted.other === other());
    painted = {run: now, key, other: other()};
    cells.show(
      {
        columns: routes.rows,
        rows,
        rowLabel: layer => `L${layer}`,
        columnLabel: t => String(t),
        colours,
        number: value,
        rgb,
        hatched,
        // A letter beside the colour, for those who do not see it.
        mark: kind.value !== 'expert' || !tables.chosen.size ?
          null :
          (t, layer) => {
            const here = tables.chosen.get(layer), l = layerRow[layer];
            return here && l >= 0 && t < routes.rows ? here.get(routes.experts(t, l).find(e => here.has(e))) : null;
          },
        lines: [{column: now.given, words: '▸'}, ...(at >= 0 ? [{column: at, words: '≠'}] : [])],
        band: [{column: model.get('position')}, {row: model.get('layer')}]
      },
      keep);
    about.textContent =
      definitions[{entropy: 'routeEntropy'}[kind.value] ?? kind.value] + ' Hatched: layers without a router.';
  };
  const ask = onFrame(draw);
  const chosenList = () => {
    const list = model.get('chosen') ?? [], dark = isDark();
    fill(chosen, list.map((cell, i) => {
      const [layer, expert] = cell.split(':').map(Number);
      return h(
        'span', {class: 'chip'}, h('i', {style: {backgroundColor: cssOf(expertColour(model, layer, expert, dark, 0))}}),
        `${chosenMarks[i]} L${layer}·${expert}`,
        button(
          '×', () => model.set('chosen', list.filter(one => one !== cell)),
          {'aria-label': `Do not mark expert ${expert} of layer ${layer}`}));
    }));
  };
  kind.addEventListener('change', () => {
    model.set('cellColour', kind.value);
    ask();
  });
  const stops = [
    listen(model, 'node other run theme', ask),
    listen(
      model, 'chosen theme',
      () => {
        chosenList();
        ask();
      }),
    listen(
      model, 'position layer',
      () => {
        const now = run();
        const t = model.get('position') ?? 0, layer = model.get('layer') ?? 0;
        if (now && cells.data && (cells.at.column !== t || cells.at.row !== layer)) cells.go(t, layer, true);
        ask();
      }),
    listen(
      model, 'cellColour',
      () => {
        kind.value = model.get('cellColour');
        ask();
      })
  ];
  chosenList();
  ask();
  const toCell = () => cells.cell.focus();
  model.on('ask:grid', toCell);
  return () => {
    stops.forEach(stop => stop());
    model.off('ask:grid', toCell);
    ask.cancel();
    cells.close();
  };
}
