// What the page does: texts, forks, readings of them, and where they are kept. No DOM: views call it and hear of
// changes by the model.
import {emptyRun, putChoice} from './results.js';
import {branchesBody, klBody, rankingBody, sameWordsBody, streamBody} from './requests.js';
import {arrayOfResponse} from './arrays.js';
import {Tree, sameBits} from './tree.js';

/** What `GET /signalbox/v1/model` says, as the page uses it. */
export function factsOf(inspected) {
  const routed = inspected.layers.filter(layer => layer.router);
  if (!routed.length) throw new Error('expected a model with routers, found none');
  return {
    hash: inspected.model_hash,
    argument: inspected.model,
    nLayers: inspected.n_layers,
    dModel: inspected.d_model,
    layers: routed.map(layer => layer.layer),
    chat: Boolean(inspected.chat_template),
    nExperts: Math.max(...routed.map(layer => layer.router.n_experts)),
    nActive: Math.max(...routed.map(layer => layer.router.n_active)),
    router: new Map(routed.map(layer => [layer.layer, layer.router])),
    maxPositions: inspected.max_positions,
    parameters: inspected.parameters,
    activeParameters: inspected.active_parameters,
  };
}

export class Session {
  /** @param {Api} api @param {Model} model */
  constructor(api, model) {
    this.api = api;
    this.model = model;
    this.store = null;
    this.tree = new Tree();
    this.running = new Map();  // node id → AbortController
    this.rankings = new Map();
    this.names = new Map();  // of tokens that stand for no text
    model.set('tree', this.tree);
  }
  /** Asks what model there is. */
  async connect() {
    const [{data}, inspected] = [await this.api.get('/v1/models'), await this.api.get('/signalbox/v1/model')];
    this.name = data[0].id;
    this.facts = factsOf(inspected);
    this.model.set({facts: this.facts, modelName: this.name, layer: this.facts.layers[0]});
    return this.facts;
  }
  /** Takes up the tree that the database holds. */
  async restore(store) {
    this.store = store;
    const selected = await store.setting('selected'), tree = await store.tree();
    this.setTree(tree, selected);
  }
  setTree(tree, selected = tree.selected) {
    this.tree = tree;
    const first = tree.roots()[0]?.id ?? null;
    if (selected && tree.nodes.has(selected))
      tree.select(selected);
    else if (first !== null && tree.selected === null)
      tree.select(first);
    this.model.set('tree', tree);
    this.show();
  }
  /** Takes up what somebody exported, beside what is there; a node of the same id is replaced, and waits to be run. */
  async adopt(tree) {
    for (const node of tree.order()) {
      const known = this.tree.get(node.id);
      if (known)
        Object.assign(known, node, {run: null, sameWords: null, same: null});
      else
        this.tree.add(node);
      await this.store?.saveNode(this.tree.get(node.id));
    }
    if (tree.selected !== null) this.tree.select(tree.selected);
    this.show();
  }
  get node() { return this.tree.get(this.tree.selected); }
  get other() { return this.tree.get(this.tree.compared); }
  /** Tells the views which node is selected and which one stands beside it. */
  show() {
    const changed = this.model.get('node') !== this.node;
    if (changed) this.model.set('pending', []);
    this.model.set({node: this.node, other: this.other});
    this.model.touch('tree');
    this.model.touch('run');
    this.store?.saveSetting('selected', this.tree.selected);
  }
  select(id) {
    this.tree.select(id);
    this.show();
    this.readSameWords(this.node);
  }
  compare(id) {
    this.tree.compare(id);
    this.show();
    this.readSameWords(this.node);
  }
  undo() {
    const gone = this.tree.undo();
    if (gone) this.show();
    return gone;
  }
  remove(id) {
    const gone = this.tree.remove(id);
    for (const one of gone) this.running.get(one)?.abort();
    this.store?.remove(gone);
    this.show();
  }
  annotate(id, values) {
    const node = this.tree.get(id);
    Object.assign(node, values);
    this.model.touch('tree');
    this.store?.saveNode(node);
  }
  say(text) { this.model.set('status', text); }
  /** A field was refused before anything was asked: what was said of an earlier text holds no more. */
  refuse() {
    this.model.set('error', null);
    this.say('Nothing was run.');
  }
  fail(error) {
    if (error.name === 'AbortError') return;
    this.model.set('error', error.message);
    this.say(error.message);
  }

  /** A new text. Gives the node when it is finished; null where the server refuses. */
  async start(record, generate, extra = {}) {
    const node = this.tree.add({parent: null, record, generate, ...extra});
    return this.begin(node);
  }
  /** Shows a new node and runs it. One that the server refuses is taken back: it never was. Gives it, or null. */
  async begin(node) {
    const before = this.tree.selected;
    this.tree.select(node.id);
    this.show();
    if (await this.run(node)) return node;
    if (node.run?.pieces.length || !this.tree.get(node.id)) return node;  // stopped, or deleted meanwhile
    this.tree.remove(node.id);
    if (this.tree.get(before)) this.tree.select(before);
    this.show();
    return null;
  }
  /** The selected text again under edits: those that it has already, and these. */
  async fork(edits, {parent = this.node, ...extra} = {}) {
    const node = this.tree.add({
      parent: parent.id,
      record: parent.record,
      generate: {...parent.generate, seed: parent.run?.seed ?? parent.generate.seed},
      edits: [...parent.edits, ...edits],
      added: edits,
      ...extra
    });
    return this.begin(node);
  }
  /** Goes on from an alternative to a generated token: the text up to it is given then. */
  async continueFrom(position, piece) {
    const parent = this.node;
    try {
      const {tokens: [id, ...more]} = await this.api.post('/tokenize', {prompt: piece, add_special_tokens: false});
      if (more.length) throw new Error(`${JSON.stringify(piece)} is no token by itself`);
      const left = Math.max(1, parent.generate.maxTokens - (position - parent.run.given) - 1);
      return await this.fork([], {
        parent,
        record: {tokens: [...parent.run.tokens.slice(0, position), id]},
        generate: {...parent.generate, maxTokens: left},
        name: `“${piece.trim() || piece}” at token ${position}`
      });
    } catch (error) { return this.fail(error); }
  }
  /** One fork that follows a board: its edits change, its text is made anew, an older request ends. */
  async live(parent, edits) {
    let node = this.tree.children(parent.id).find(child => child.live);
    if (!node) node = this.tree.add({parent: parent.id, record: parent.record, generate: parent.generate, live: true});
    node.edits = [...parent.edits, ...edits];
    node.added = edits;
    this.tree.select(node.id);
    this.show();
    if (await this.run(node) || this.running.has(node.id) || !this.tree.get(node.id)) return node;
    if (!node.run) {  // refused at once: it never was
      this.remove(node.id);
      return null;
    }
    Object.assign(node, {edits: node.run.edits ?? node.edits, added: node.run.added});  // those of the text that stays
    this.show();
    return node;
  }

  async promptTokens(node, signal) {
    const {prompt, messages, tokens} = node.record, parent = this.tree.get(node.parent);
    if (tokens) return tokens;
    if (parent?.run && JSON.stringify(parent.record) === JSON.stringify(node.record))  // a fork's prompt is known
      return parent.run.tokens.slice(0, parent.run.given);
    if (prompt !== undefined) {
      try {
        return (await this.api.post('/tokenize', {prompt, add_special_tokens: true}, signal)).tokens;
      } catch (error) {
        if (lacksTokenizer(error)) error.message += '. Choose “token ids” under Input and write them as [1, 2, 3]';
        throw error;
      }
    }
    const prefilled =
      messages.at(-1).role === 'assistant' ? {continue_final_message: true, add_generation_prompt: false} : {};
    const answer = await this.api.post(
      '/v1/chat/completions',
      {model: this.name, messages, max_completion_tokens: 1, temperature: 0, ...prefilled, signalbox: {id: 'prompt'}},
      signal);
    return answer.choices[0].signalbox.prompt_token_ids;
  }
  /** Runs a node from its beginning; an earlier run of it is cancelled. Did it come to its end? */
  async run(node) {
    this.running.get(node.id)?.abort();
    const control = new AbortController(), began = performance.now();
    this.running.set(node.id, control);
    this.model.set('error', null);
    this.model.touch('busy');
    const run = {...emptyRun(this.facts), edits: node.edits, added: node.added}, before = node.run;
    let first = 0;
    try {
      run.tokens = [...await this.promptTokens(node, control.signal)];
      run.given = run.tokens.length;
      if (control.signal.aborted) return false;
      node.run = run;
      await this.api.stream('/v1/completions', streamBody(this.name, run.tokens.slice(), node), event => {
        for (const choice of event.choices ?? []) putChoice(run, choice);
        first ||= performance.now();
        this.model.touch('run');
      }, control.signal);
      await this.nameSpecials(run, control.signal);
      run.done = true;
      run.seconds = (performance.now() - began) / 1000;
      node.same = node.expect ? sameBits(run, node.expect) : null;
      this.say(
        `${run.tokens.length - run.given} tokens in ${run.seconds.toFixed(2)} s` + (node.same ? `: ${node.same}` : ''));
      await this.store?.saveNode(node);
    } catch (error) {
      this.fail(error);
      // A stopped text is kept as far as it came; one that was refused leaves what was there.
      if (node.run === run && run.pieces.length && this.tree.get(node.id) === node)
        await this.store?.saveNode(node);
      else if (node.run === run)
        node.run = before;
    } finally {
      if (this.running.get(node.id) === control) this.running.delete(node.id);
      this.model.touch('busy');
      this.model.touch('run');
      this.model.touch('tree');
    }
    if (run.done) await this.readSameWords(node);
    return run.done;
  }
  /** Tokens that add no text come without one: their names are asked for, once each. */
  async nameSpecials(run, signal) {
    const ids = new Set(run.tokens.filter((_, t) => run.pieces[t] === ''));
    try {
      for (const id of ids)
        if (!this.names.has(id))
          this.names.set(id, (await this.api.post('/detokenize', {tokens: [id]}, signal)).prompt);
    } catch (error) {
      if (!lacksTokenizer(error)) throw error;
      run.pieces = run.tokens.map(id => ` ${id}`);  // no token has words, and no alternative a name
      run.top = run.tokens.map(() => []);
      return;
    }
    run.specials = [...ids];
    for (let t = 0; t < run.pieces.length; ++t)
      if (run.pieces[t] === '' && ids.has(run.tokens[t])) run.pieces[t] = this.names.get(run.tokens[t]);
  }
  stop() {
    for (const control of this.running.values()) control.abort();
  }

  /** The words of the text beside it, read under this node's edits: log p and alternatives of each token. */
  async readSameWords(node) {
    const other = this.other;
    if (!node?.run?.done || !other?.run?.done || node !== this.node || node.opened || other.opened) return;
    if (node.sameWords?.of === other.id && node.sameWords.run === node.run) return;
    try {
      const read = async edits => {
        const run = emptyRun(this.facts);
        run.tokens = [...other.run.tokens];
        run.given = run.tokens.length;
        const answer = await this.api.post('/v1/completions', sameWordsBody(this.name, run.tokens, edits));
        putChoice(run, answer.choices[0]);
        return run;
      };
      const [forced, compared] = await Promise.all(
        [read(node.edits), this.api.post('/signalbox/v1/score', klBody(other.run.tokens, other.edits, node.edits))]);
      // What a position says of the next token stands at that token.
      node.sameWords = {
        of: other.id,
        run: node.run,
        logprobs: forced.logprobs,
        top: forced.top,
        routes: forced.routes,
        kl: [NaN, ...compared.kl],
        sameTop: [true, ...compared.same_top]
      };
      this.model.touch('run');
    } catch (error) { this.fail(error); }
  }
  /** Logits and scores of every expert at a cell of the selected text, before edits of that route. */
  async ranking(node, position, layer) {
    const key = cellKey(node, position, layer);
    if (!this.rankings.has(key)) {
      const asked =
        this.api
          .post('/v1/completions', rankingBody(this.name, node.run.tokens.slice(0, position + 1), layer, node.edits))
          .then(answer => {
            const {points} = answer.choices[0].signalbox;
            const last = suffix => {
              const found = Object.entries(points).find(([name]) => name.endsWith(suffix));
              const {shape, values} = arrayOfResponse(found[1]), n = shape.at(-1);
              return Array.from(values.slice(values.length - n));
            };
            return rankingOf(last('router.logits'), last('router.scores'));
          });
      asked.catch(() => this.rankings.delete(key));
      this.rankings.set(key, asked);
      if (this.rankings.size > 200) this.rankings.delete(this.rankings.keys().next().value);
    }
    return this.rankings.get(key);
  }
  /** Versions side by side in one stream. `each(name, text)` gets the text of each as it grows. */
  async doses(node, branches, each, signal) {
    const texts = branches.map(() => '');
    await this.api.stream(
      '/signalbox/v1/branches', branchesBody(node, node.run.tokens.slice(0, node.run.given), branches), event => {
        const at =
          typeof event.branch === 'number' ? event.branch : branches.findIndex(branch => branch.name === event.branch);
        if (at < 0 || typeof event.text !== 'string') return;
        texts[at] += event.text;
        each(at, texts[at]);
      }, signal);
    return texts;
  }
}

/** Is this the refusal of a model that knows token ids alone? */
const lacksTokenizer = error => error.status === 400 && error.message.includes('with a tokenizer');
/** Which ranking a view shows: one of an unfinished text is none yet, and is asked for when the text is done. */
export const cellKey = (node, position, layer) =>
  JSON.stringify([node.id, position, layer, node.edits, node.run.tokens.length, node.run.done]);

/** Experts by what the selection sees, ties to the lowest index. */
export const rankingOf = (logits, scores) => scores.map((score, expert) => ({expert, score, logit: logits[expert]}))
                                               .sort((a, b) => b.score - a.score || a.expert - b.expert)
                                               .map((row, rank) => ({...row, rank: rank + 1}));
