// The page's views in a notebook (anywidget): the same modules, whose requests the kernel forwards to the engine. A
// widget's model is one session, however many views of it are shown; what is clicked goes back to Python as traits.
import {readSafetensors} from '../../serve/page/logic/arrays.js';
import {Model, debounced} from '../../serve/page/logic/model.js';
import {jsonOf} from '../../serve/page/logic/requests.js';
import {routesOfTrace} from '../../serve/page/logic/routes.js';
import {Session} from '../../serve/page/logic/session.js';
import {exactJson} from '../../serve/page/logic/sse.js';
import {Tree} from '../../serve/page/logic/tree.js';
import {renderBoard} from '../../serve/page/views/board.js';
import {renderCell} from '../../serve/page/views/cell.js';
import {h, surrounding} from '../../serve/page/views/dom.js';
import {renderForks} from '../../serve/page/views/forks.js';
import {renderRoutes} from '../../serve/page/views/routes.js';
import {renderSteering} from '../../serve/page/views/steering.js';
import {renderTokens} from '../../serve/page/views/tokens.js';

/** The parts of each widget, by columns. */
const partsOf = {
  RouteView: [[['tokens', renderTokens], ['routes', renderRoutes]], [['cell', renderCell]]],
  ExpertSelector: [[['board', renderBoard]]],
  Steering: [[['steering', renderSteering]]],
  ForkTree: [[['forks', renderForks]], [['tokens', renderTokens]], [['cell', renderCell]]],
};
/** Traits that are values of the page's model too: trait → value. */
const sharedTraits = {
  layer: 'layer',
  position: 'position',
  colour: 'tokenColour',
  switches: 'switches',
  scope: 'boardScope',
  steering: 'steering',
  vectors: 'vectors'
};

const patience = 4000;  // ms without a word of the kernel before a view says so
const noAnswer =
  'The kernel has not answered yet: it runs a cell, or it is gone and the cell that made this wants to be run again.';

/** The engine, asked through the kernel. As logic/api.js, without a network. */
class KernelApi {
  /** `waits(true)` when an answer is slow in coming, `waits(false)` when it came. */
  constructor(widget, waits) {
    this.widget = widget;
    this.waits = waits;
    this.asked = new Map();
    this.count = 0;
    // Messages of the kernel reach every front end that shows the widget.
    this.name = Array.from(crypto.getRandomValues(new Uint32Array(2))).join('-');
    this.hear = content => this.take(content);
    widget.on('msg:custom', this.hear);
  }
  close() {
    this.widget.off('msg:custom', this.hear);
    for (const one of [...this.asked.values()]) one.cancel();
  }
  take({id, kind, text, status}) {
    const one = this.asked.get(id);
    if (!one) return;
    clearTimeout(one.timer);
    this.waits(false);
    if (kind === 'event') {
      one.each(text);
      return;
    }
    this.asked.delete(id);
    if (kind === 'answer') one.resolve(text);
    if (kind === 'error') one.reject(Object.assign(new Error(text), {status}));
  }
  ask(path, body, signal, each = null) {
    const id = `${this.name}/${++this.count}`;
    return new Promise((resolve, reject) => {
      const cancel = () => {
        if (!this.asked.has(id)) return;
        clearTimeout(this.asked.get(id).timer);
        this.asked.delete(id);
        this.widget.send({kind: 'cancel', id});
        reject(Object.assign(new Error('cancelled'), {name: 'AbortError'}));
      };
      if (signal?.aborted) {
        reject(Object.assign(new Error('cancelled'), {name: 'AbortError'}));
        return;
      }
      signal?.addEventListener('abort', cancel, {once: true});
      const taken = text => {
        try {
          each?.(text);
        } catch (error) {
          cancel();
          reject(error);
        }
      };
      this.asked.set(id, {resolve, reject, cancel, each: taken, timer: setTimeout(() => this.waits(true), patience)});
      this.widget.send({kind: 'ask', id, path, body: body === undefined ? null : jsonOf(body), stream: each !== null});
    });
  }
  async get(path, signal) { return exactJson(await this.ask(path, undefined, signal)); }
  async post(path, body, signal) { return exactJson(await this.ask(path, body, signal)); }
  async stream(path, body, each, signal) { await this.ask(path, body, signal, text => each(exactJson(text))); }
}

/** Is the notebook dark? JupyterLab and VS Code say so; elsewhere what the system prefers. */
function isNotebookDark() {
  const {body} = document, lab = body.dataset.jpThemeLight, code = body.dataset.vscodeThemeKind;
  if (lab !== undefined) return lab === 'false';
  if (code !== undefined) return code.includes('dark') || code === 'vscode-high-contrast';
  if (document.documentElement.hasAttribute('theme'))  // Colab
    return document.documentElement.getAttribute('theme') === 'dark';
  return matchMedia('(prefers-color-scheme: dark)').matches;
}

/** What all views of one widget share. */
class Shared {
  constructor(widget) {
    this.widget = widget;
    this.model =
      new Model({cellColour: 'expert', chosen: [], pending: [], range: null, position: null, tokenColour: 'expert'});
    this.api = new KernelApi(widget, late => this.waits(late));
    this.session = new Session(this.api, this.model);
    this.stops = [];
    this.taking = false;
    for (const name of Object.keys(sharedTraits)) {
      const take = () => this.takeUp(name);
      widget.on(`change:${name}`, take);
      this.stops.push(() => widget.off(`change:${name}`, take));
    }
    const takeForks = () => this.takeForks();
    widget.on('change:forks', takeForks);
    this.stops.push(() => widget.off('change:forks', takeForks));
    this.tell = debounced(() => this.tellForks(), 60);
    for (const [name, value] of Object.entries(sharedTraits)) {
      const tell = () => this.give(name, value);
      this.model.on(`change:${value}`, tell);
    }
    this.model.on('change:tree change:run change:node', this.tell);
    const kind = widget.get('kind');
    this.keepsForks = kind === 'RouteView' || kind === 'ForkTree';
    this.model.set({liveDoses: kind === 'Steering', liveBoard: kind === 'ExpertSelector', noForks: !this.keepsForks});
  }
  waits(late) {
    if (late || this.model.get('status') === noAnswer) this.session.say(late ? noAnswer : '');
  }
  /** From Python. */
  takeUp(name) {
    const value = this.widget.get(name);
    if (value === undefined || (value === null && name !== 'position')) return;
    this.taking = true;
    if (JSON.stringify(this.model.get(sharedTraits[name])) !== JSON.stringify(value))
      this.model.set(sharedTraits[name], value);
    this.taking = false;
  }
  /** To Python. */
  give(name, value) {
    const now = this.model.get(value);
    if (this.taking || now === undefined || JSON.stringify(now) === JSON.stringify(this.widget.get(name))) return;
    this.widget.set(name, now);
    this.widget.save_changes();
  }
  tellForks() {
    const {session} = this;
    if (!this.keepsForks || !session.tree.selected || this.widget.get('recording')?.byteLength) return;
    const now = JSON.parse(jsonOf(session.tree.toJSON()));
    if (JSON.stringify(now) === JSON.stringify(this.widget.get('forks'))) return;
    this.told = JSON.stringify(now);
    this.widget.set('forks', now);
    this.widget.save_changes();
  }
  /** Forks that Python made; those of ours come back as they went. */
  async takeForks() {
    const json = this.widget.get('forks');
    if (!json?.nodes || JSON.stringify(json) === this.told) return;
    try {
      const tree = Tree.from(json), {session} = this, known = session.tree;
      for (const node of tree.order()) {
        const old = known.get(node.id);
        if (old && JSON.stringify([old.edits, old.record, old.generate]) === JSON.stringify([
              node.edits, node.record, node.generate
            ]))
          Object.assign(node, {run: old.run, live: old.live, added: old.added, name: node.name || old.name});
      }
      session.setTree(tree);
      for (const node of tree.order())
        if (!node.run) await session.run(node);
      session.show();
      await session.readSameWords(session.node);
    } catch (error) { this.session.fail(error); }
  }
  async start() {
    for (const name of Object.keys(sharedTraits)) this.takeUp(name);
    try {
      const recording = this.widget.get('recording');
      if (recording?.byteLength) {
        this.open(recording);
      } else {
        const layer = this.widget.get('layer');
        await this.session.connect();
        if (layer !== null && layer >= 0) this.model.set('layer', layer);
        await this.takeForks();
      }
      this.session.say('');
    } catch (error) { this.session.fail(error); }
  }
  /** A recorded text: nothing is run. */
  open(bytes) {
    const file = readSafetensors(new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength));
    const {routes, tokens, given} = routesOfTrace(file), pieces = this.widget.get('pieces');
    const run = {
      tokens: [...tokens],
      pieces: pieces.length ? pieces : Array.from(tokens, id => ` ${id}`),
      logprobs: new Float64Array(tokens.length).fill(NaN),
      top: [],
      given,
      finish: null,
      hash: null,
      seed: null,
      routes,
      done: true
    };
    const layers = [...routes.layers], facts = {layers, nExperts: routes.nExperts, nActive: routes.nActive};
    facts.nLayers = 1 + Math.max(...layers);
    facts.router = new Map(layers.map(layer => [layer, {n_experts: routes.nExperts}]));
    const layer = this.widget.get('layer');
    this.model.set({facts, layer: layers.includes(layer) ? layer : layers[0]});
    this.session.facts = facts;
    const node = this.session.tree.add({
      parent: null,
      record: {tokens: run.tokens.slice(0, given)},
      generate: {maxTokens: Math.max(1, tokens.length - given), temperature: 0, topP: 1, seed: 0},
      run,
      opened: true
    });
    this.session.tree.select(node.id);
    this.session.show();
  }
  close() {
    this.stops.forEach(stop => stop());
    this.tell.cancel();
    this.session.stop();
    this.api.close();
  }
}

function renderWidget(shared, widget, el) {
  const {model, session} = shared, stops = [], recorded = widget.get('recording')?.byteLength > 0;
  const root = el.shadowRoot ?? el.attachShadow({mode: 'open'});
  const status = h('span', {class: 'widget-status small soft', role: 'status'}),
        problem = h('p', {class: 'problem', role: 'alert'});
  const columns = partsOf[widget.get('kind')]
                    .map(parts => recorded ? parts.filter(([name]) => name !== 'cell') : parts)
                    .filter(parts => parts.length)
                    .map(parts => h('div', {class: 'widget-column'}, parts.map(([name, render]) => {
                           const part = h('section', {class: `part part-${name}`, 'aria-label': name});
                           stops.push(() => stopOf.get(part)?.());
                           waiting.push([part, render]);
                           return part;
                         })));
  const box =
    h('div', {class: `widget widget-${widget.get('kind')}`}, h('style', {text: styleOfWidget}), problem,
      h('div', {class: 'widget-columns'}, columns), status);
  const stopOf = new Map();
  // Letters are keys here: the notebook must not take them for its own. JupyterLab asks for the attribute.
  el.dataset.lmSuppressShortcuts = 'true';
  const keepKeys = event => event.stopPropagation();
  el.addEventListener('keydown', keepKeys);
  root.replaceChildren(box);
  for (const [part, render] of waiting.splice(0)) stopOf.set(part, render({model, el: part, session}));
  const follow = () => {
    surrounding.dark = isNotebookDark();
    box.classList.toggle('dark', surrounding.dark);
    box.classList.toggle('light', !surrounding.dark);
    model.touch('theme');
  };
  const watcher = new MutationObserver(follow), preference = matchMedia('(prefers-color-scheme: dark)');
  watcher.observe(
    document.body, {attributes: true, attributeFilter: ['data-jp-theme-light', 'data-vscode-theme-kind']});
  preference.addEventListener('change', follow);
  const say = () => {
    status.textContent = model.get('status') ?? '';
  }, fail = () => {
    problem.textContent = model.get('error') ?? '';
  };
  const busy = () => box.classList.toggle('busy', session.running.size > 0);
  model.on('change:status', say);
  model.on('change:error', fail);
  model.on('change:busy', busy);
  const shortcut = event => {
    if (event.key.toLowerCase() !== 'z' || !event.ctrlKey || event.target.matches?.('input, textarea, select')) return;
    event.preventDefault();
    session.undo();
  };
  box.addEventListener('keydown', shortcut);
  follow();
  say();
  fail();
  return () => {
    stops.forEach(stop => stop());
    watcher.disconnect();
    preference.removeEventListener('change', follow);
    model.off('change:status', say);
    model.off('change:error', fail);
    model.off('change:busy', busy);
    el.removeEventListener('keydown', keepKeys);
    root.replaceChildren();
  };
}
const waiting = [];

/** anywidget calls this once for each model, and `render` for each view of it. */
export default () => {
  let shared = null;
  return {
    initialize({model}) {
      shared = new Shared(model);
      shared.start();
      return () => shared.close();
    },
    render({model, el}) { return renderWidget(shared, model, el); }
  };
};
