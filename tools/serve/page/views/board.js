// Experts × layers: how often this text used each, and switches. The text is made again as one sets them.
import {noneOf, sizeTable} from '../logic/colours.js';
import {debounced} from '../logic/model.js';
import {textOf} from '../logic/results.js';
import {usage} from '../logic/routes.js';
import {boardEdits, topOfRanking} from '../logic/spec.js';
import {definitions, wordsOfEdits} from '../logic/words.js';
import {CellGrid} from './cells.js';
import {button, field, filePicker, fill, h, isDark, listen, onFrame, options} from './dom.js';

export function renderBoard({model, el, session}) {
  const op = options(h('select', {}), [['ban', 'ban'], ['force', 'force'], ['scale', 'scale']], 'ban'),
        by = h('input', {type: 'number', value: '0', step: '0.1'});
  const scope = options(h('select', {}), [['layer', 'every token'], ['generated', 'generated tokens']], 'layer');
  const top = h('input', {type: 'number', value: '8', min: 1}),
        sign = options(h('select', {}), [['+', 'rd > 0'], ['-', 'rd < 0'], ['both', 'largest |rd|']], '+');
  const words = h('p', {class: 'small', role: 'status'}), problem = h('p', {class: 'problem', role: 'alert'}),
        place = h('div');
  const byField = field('by', by), base = h('div', {class: 'text-box'}), live = h('div', {class: 'text-box'});
  const preset =
    filePicker('Preset from rd.csv…', '.csv,text/csv', async file => attempt(async () => {
                                                         const rows = topOfRanking(
                                                           await file.text(), Number(top.value), sign.value);
                                                         for (const {layer, expert} of rows)
                                                           switches.set(`${layer}:${expert}`, setting());
                                                         changed();
                                                       }));
  fill(
    el,
    h('div', {class: 'bar'}, h('h2', {text: 'Experts × layers'}), field('A click', op), byField, field('for', scope),
      button(
        'Clear board',
        () => {
          switches.clear();
          changed();
        })),
    h('p',
      {class: 'note small', text: `${definitions.usage} A click switches an expert; the text is made again at once.`}),
    place, words, problem,
    h('div', {class: 'two'}, h('section', {'aria-label': 'Without the board'}, h('h3', {text: 'Without'}), base),
      h('section', {'aria-label': 'With the board'}, h('h3', {text: 'With'}), live)),
    h('div', {class: 'bar small'}, preset, field('top', top), field('sign', sign),
      model.get('noForks') ? null : button('Keep as a fork', () => keep())));
  // In the model, as {'layer:expert': {op, by}}, so that another view, or a notebook, can set them too.
  const switches = new Map(Object.entries(model.get('switches') ?? {}));
  let baseNode = null;
  const attempt = async act => {
    try {
      problem.textContent = '';
      await act();
    } catch (error) { problem.textContent = error.message; }
  };
  const setting = () => op.value === 'scale' ? {op: 'scale', by: Number(by.value)} : {op: op.value};
  const source = () => {
    const node = model.get('node');
    return node?.live ? model.get('tree').get(node.parent) : node;
  };
  const regenerate = debounced(() => {
    if (!baseNode?.run || baseNode.opened || !session) return;
    session.live(baseNode, boardEdits(switches, {scope: scope.value}));
  }, 150);
  const changed = () => {
    baseNode = source();
    model.set({switches: Object.fromEntries(switches), boardScope: scope.value});
    regenerate();
    draw();
  };
  // Set elsewhere; here nothing changes where they are the same.
  const adopt = () => {
    const now = model.get('switches') ?? {}, place = model.get('boardScope') ?? 'layer';
    if (JSON.stringify(now) === JSON.stringify(Object.fromEntries(switches)) && place === scope.value) return;
    switches.clear();
    for (const [cell, state] of Object.entries(now)) switches.set(cell, state);
    scope.value = place;
    changed();
  };
  const keep = () => {
    const node = model.get('node');
    if (node?.live) session.annotate(node.id, {live: false});
    switches.clear();
    model.set('switches', {});
    draw();
  };
  const layers = () => model.get('facts')?.layers ?? [];
  const describe = (expert, l) => {
    const node = source(), layer = layers()[l], found = node?.run ? usage(node.run.routes) : null,
          state = switches.get(`${layer}:${expert}`);
    return `layer ${layer}, expert ${expert}` +
      (found ? `: used by ${found.counts[l * node.run.routes.nExperts + expert]} of ${found.tokens} tokens` : '') +
      (state ? `, ${
                 state.op === 'scale' ? `scaled by ${state.by}` :
                   state.op === 'ban' ? 'banned' :
                                        'forced'}` :
                                        '');
  };
  const cells = new CellGrid(place, {
    label: 'Experts by layers',
    minimap: false,
    leastWidth: 8,
    cellHeight: 20,
    mostHeight: 420,
    describe,
    pick: (expert, l) => {
      const cell = `${layers()[l]}:${expert}`, now = switches.get(cell), next = setting();
      if (now && now.op === next.op && now.by === next.by)
        switches.delete(cell);
      else
        switches.set(cell, next);
      changed();
      cells.say();
    }
  });
  const draw = () => {
    const node = source(), facts = model.get('facts');
    byField.hidden = op.value !== 'scale';
    if (!facts || !el.offsetWidth) return;
    const E = facts.nExperts,
          found =
            node?.run ? usage(node.run.routes) : {counts: new Uint32Array(E * layers().length), tokens: 0, most: 1};
    const dark = isDark(), table = sizeTable(dark), none = noneOf(dark);
    const rgb = (expert, l) => {
      if (expert >= facts.router.get(layers()[l]).n_experts) return none;
      const i = 3 * Math.round(255 * Math.min(1, found.counts[l * E + expert] / Math.max(1, found.most)));
      return [table[i], table[i + 1], table[i + 2]];
    };
    cells.show({
      columns: E,
      rows: layers().length,
      rowLabel: l => `L${layers()[l]}`,
      columnLabel: e => String(e),
      rgb,
      number: null,
      colours: (from, to, pixels) => {
        for (let l = 0; l < layers().length; ++l)
          for (let e = from; e < to; ++e) {
            const [r, g, b] = rgb(e, l), i = 4 * (l * (to - from) + e - from);
            pixels[i] = r;
            pixels[i + 1] = g;
            pixels[i + 2] = b;
            pixels[i + 3] = 255;
          }
      },
      mark: (e, l) => {
        const state = switches.get(`${layers()[l]}:${e}`);
        return state ? {
          text: state.op === 'ban' ? '×' :
            state.op === 'force'   ? '+' :
                                     '~',
          colour: state.op === 'force' ? '--pos' : '--neg'
        } :
                       null;
      }
    });
    const edits = boardEdits(switches, {scope: scope.value});
    words.textContent = switches.size ? `Board: ${wordsOfEdits(edits)}.` : 'Nothing is switched.';
    const after = run => textOf(run).trim();
    base.textContent = after(node?.run) || '–';
    live.textContent = model.get('node')?.live ? after(model.get('node').run) || '…' : '–';
  };
  for (const input of [op, scope])
    input.addEventListener('change', () => {
      if (switches.size && input === scope) changed();
      draw();
    });
  const ask = onFrame(draw), stop = listen(model, 'node run facts theme view', ask),
        unfollow = listen(model, 'switches boardScope', adopt);
  // A notebook may open with switches set: they hold as soon as there is a text.
  const begin = () => {
    const node = model.get('node');
    if (!model.get('liveBoard') || !switches.size || !node?.run?.done || node.live) return;
    model.set('liveBoard', false);
    changed();
  };
  const unready = listen(model, 'run', begin);
  ask();
  return () => {
    stop();
    unfollow();
    unready();
    ask.cancel();
    regenerate.cancel();
    cells.close();
  };
}
