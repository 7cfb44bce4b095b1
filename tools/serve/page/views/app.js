// The page: its parts, its keys, its theme, and what it takes up when it opens.
import {Api, fragmentOf, unpackFragment} from '../logic/api.js';
import {readSafetensors} from '../logic/arrays.js';
import {Model} from '../logic/model.js';
import {routesOfTrace} from '../logic/routes.js';
import {Session} from '../logic/session.js';
import {Store} from '../logic/store.js';
import {renderBoard} from './board.js';
import {renderCell, renderTokenTable} from './cell.js';
import {renderCompose, wordsOfFacts} from './compose.js';
import {button, filePicker, fill, h, options} from './dom.js';
import {renderExports} from './exports.js';
import {renderForks} from './forks.js';
import {makeHelp} from './help.js';
import {renderPatterns} from './patterns.js';
import {renderRoutes} from './routes.js';
import {renderSteering} from './steering.js';
import {renderTokens} from './tokens.js';

const tabs = [['routes', 'Routes'], ['board', 'Experts'], ['steering', 'Steering'], ['patterns', 'Patterns']];

/** Views by name: each is `({model, el, session}) → clean-up`, as notebook widgets are. */
export const views = {
  tokens: renderTokens,
  routes: renderRoutes,
  cell: renderCell,
  tokenTable: renderTokenTable,
  forks: renderForks,
  board: renderBoard,
  steering: renderSteering,
  patterns: renderPatterns,
  compose: renderCompose,
  exports: renderExports
};

export async function startPage(root) {
  const model = new Model({
    tokenColour: 'logprob',
    cellColour: 'expert',
    chosen: [],
    pending: [],
    range: null,
    position: null,
    view: 'routes'
  });
  const fragment = fragmentOf(location.hash);
  if (fragment.has('key'))
    history.replaceState(null, '', location.pathname + (fragment.has('fork') ? `#fork=${fragment.get('fork')}` : ''));
  const session = new Session(new Api(location.origin, fragment.get('key') ?? null), model), place = {};
  const section = (name, tag = 'section', properties = {}) =>
    (place[name] = h(tag, {class: `part part-${name}`, ...properties}));
  const status = h('p', {class: 'status', role: 'status'}), problem = h('p', {class: 'problem', role: 'alert'}),
        about = h('p', {class: 'model-line'}), help = makeHelp();
  const theme = options(
    h('select', {'aria-label': 'Colours of the page'}), [['', 'as the system'], ['light', 'light'], ['dark', 'dark']],
    '');
  const table =
    h('details', {class: 'part'}, h('summary', {text: 'This token at every layer'}),
      section('tokenTable', 'div', {class: 'token-table'}));
  const traces = filePicker('Open a trace…', '.safetensors,.jsonl', files => openTrace(files), {multiple: true});
  const tabButtons = tabs.map(([key, text]) => h('button', {
                                type: 'button',
                                role: 'tab',
                                id: `tab-${key}`,
                                'aria-controls': `panel-${key}`,
                                text,
                                onclick: () => show(key)
                              }));
  const panels = tabs.map(
    ([key]) => h('div', {role: 'tabpanel', id: `panel-${key}`, 'aria-labelledby': `tab-${key}`, tabIndex: -1}));
  fill(panels[0], section('routes'));
  fill(panels[1], section('board'));
  fill(panels[2], section('steering'));
  fill(panels[3], section('patterns'));
  fill(
    root,
    h('header', {class: 'top'}, h('h1', {}, h('span', {class: 'mark', 'aria-hidden': 'true'}), 'Signalbox'), about,
      status, traces, theme,
      button('?', () => help.showModal(), {'aria-label': 'Keys and definitions', class: 'round'})),
    problem,
    h('main', {}, h('div', {class: 'left'}, section('compose'), section('forks')),
      h('div', {class: 'middle'}, section('tokens', 'section', {'aria-label': 'Text'}),
        h('div', {class: 'tabs', role: 'tablist', 'aria-label': 'Views'}, tabButtons), panels),
      h('div', {class: 'right'}, section('cell'), table, section('exports'))),
    help);
  const show = key => {
    model.set('view', key);
    tabs.forEach(([name], i) => {
      panels[i].hidden = name !== key;
      tabButtons[i].setAttribute('aria-selected', String(name === key));
      tabButtons[i].tabIndex = name === key ? 0 : -1;
    });
  };
  tabButtons.forEach((tab, i) => tab.addEventListener('keydown', event => {
    const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (!step) return;
    event.preventDefault();
    const next = (i + step + tabs.length) % tabs.length;
    show(tabs[next][0]);
    tabButtons[next].focus();
  }));
  for (const [name, render] of Object.entries(views)) render({model, el: place[name], session});
  show('routes');

  model.on('change:status', () => {
    status.textContent = model.get('status') ?? '';
  });
  model.on('change:error', () => {
    problem.textContent = model.get('error') ?? '';
  });
  model.on('change:busy', () => root.classList.toggle('busy', session.running.size > 0));
  theme.addEventListener('change', () => {
    document.documentElement.classList.remove('light', 'dark');
    if (theme.value) document.documentElement.classList.add(theme.value);
    model.touch('theme');
    session.store?.saveSetting('theme', theme.value);
  });
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => model.touch('theme'));
  addEventListener('keydown', event => shortcut(event));
  // Half of an edit's words is where it holds: a new text begins without a selected token.
  model.on('change:node', () => {
    const node = model.get('node'), position = model.get('position');
    if (position !== null && node?.run && position >= node.run.tokens.length) model.set('position', null);
  });

  const shortcut = event => {
    if (event.key.toLowerCase() === 'z' && event.ctrlKey && !event.shiftKey && !typing(event.target)) {
      event.preventDefault();
      session.undo();
      return;
    }
    if (event.ctrlKey || event.altKey || event.metaKey || typing(event.target) || event.defaultPrevented || help.open)
      return;
    const to = {
      t: () => place.tokens.querySelector('.token[tabindex="0"]')?.focus(),
      g: () => {
        show('routes');
        model.tell('ask:grid');
      },
      c: () => model.tell('ask:cell'),
      f: () => place.forks.querySelector('[role=treeitem][tabindex="0"]')?.focus(),
      p: () => place.compose.querySelector('textarea').focus(),
      x: () => model.tell('ask:export'),
      '?': () => help.showModal(),
      '[': () => layerBy(-1),
      ']': () => layerBy(1),
      1: () => show('routes'),
      2: () => show('board'),
      3: () => show('steering'),
      4: () => show('patterns')
    }[event.key];
    if (!to) return;
    event.preventDefault();
    to();
  };
  const typing = target => target.matches?.('input:not([type=range]):not([type=checkbox]), textarea, select') ?? false;
  const layerBy = step => {
    const layers = [...(model.get('node')?.run?.routes.layers ?? model.get('facts')?.layers ?? [])],
          i = layers.indexOf(model.get('layer'));
    if (layers[i + step] !== undefined) model.set('layer', layers[i + step]);
  };
  const openTrace = async files => {
    try {
      problem.textContent = '';
      const tensors = files.find(file => file.name.endsWith('.safetensors')),
            texts = files.find(file => file.name === 'texts.jsonl');
      if (!tensors) throw new Error('expected trace.safetensors, beside it texts.jsonl for the words');
      const file = readSafetensors(new Uint8Array(await tensors.arrayBuffer()));
      const lines = texts ? (await texts.text()).split('\n').filter(Boolean).map(line => JSON.parse(line)) : [];
      const samples = file.tensors.sample_offsets ? file.tensors.sample_offsets.shape[0] - 1 : 1;
      for (let sample = 0; sample < samples; ++sample) {
        const {routes, tokens, given} = routesOfTrace(file, sample), line = lines[sample];
        const pieces = line?.pieces ? line.pieces.map(wordOf) : Array.from(tokens, id => ` ${id}`);
        const none = () => new Float64Array(tokens.length).fill(NaN);
        const run = {
          tokens: [...tokens],
          pieces,
          logprobs: none(),
          top: [],
          given,
          finish: line?.finish_reason ?? null,
          hash: line?.logits_hash ?? null,
          seed: null,
          routes,
          done: true
        };
        const node = session.tree.add({
          parent: null,
          record: {tokens: [...tokens.subarray(0, given)]},
          generate: {maxTokens: Math.max(1, tokens.length - given), temperature: 0, topP: 1, seed: 0},
          name: `${tensors.name}${samples > 1 ? `, sample ${sample}` : ''}`,
          run,
          opened: true
        });
        if (sample === 0) session.tree.select(node.id);
      }
      if (model.get('tokenColour') === 'logprob') model.set('tokenColour', 'expert');
      session.show();
      model.set('layer', session.node.run.routes.layers[0]);
    } catch (error) { problem.textContent = `Trace: ${error.message}`; }
  };

  try {
    session.say('Asking the server for its model…');
    const facts = await connected(session);
    about.textContent = `${session.name} · ${wordsOfFacts(facts)}`;
    const store = await Store.open(facts.hash), kept = await store.setting('theme');
    if (kept) {
      theme.value = kept;
      theme.dispatchEvent(new Event('change'));
    }
    await session.restore(store);
    session.say('Ready.');
    if (fragment.has('fork')) {
      const {record, generate, edits} = await unpackFragment(fragment.get('fork'));
      const base = await session.start(record, generate);
      if (base && edits?.length) await session.fork(edits, {parent: base});
    }
  } catch (error) { session.fail(error); }
  return {model, session};
}

/** The facts of the model, also of a server that is still loading it. */
async function connected(session) {
  for (;;) {
    try {
      return await session.connect();
    } catch (error) {
      if (error.status === 401)
        throw new Error('This server wants a key: open the page as ' + location.origin + '/#key=… with it.');
      if (error.status !== 503) throw error;
      session.say('The server is still loading its model…');
      await new Promise(resolve => setTimeout(resolve, 1000));
    }
  }
}

/** A tokenizer's piece of texts.jsonl as words. */
const wordOf = piece => piece.replaceAll('Ġ', ' ').replaceAll('▁', ' ').replaceAll('Ċ', '\n').replaceAll('ĉ', '\t');
