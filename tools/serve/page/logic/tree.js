// The tree of forks: texts, each made from its parent by edits. A node is a record, edits and a seed, from which its
// text can be made again bit by bit; the text and its routes are kept beside it. Undo is to go to the parent.

export const treeSchema = 'signalbox.forks/1';

export class Tree {
  constructor() {
    this.nodes = new Map();
    this.selected = this.compared = null;
  }
  /** @param {{parent?: string|null, record: object, generate: object, edits?: object[], name?: string}} node */
  add(node) {
    const id = node.id ?? freshId();
    if (this.nodes.has(id)) throw new Error(`tree: ${id} is there already`);
    const parent = node.parent ?? null;
    if (parent !== null && !this.nodes.has(parent)) throw new Error(`tree: expected the parent ${parent}, found none`);
    const made = {note: '', name: '', edits: [], run: null, created: Date.now(), ...node, id, parent};
    this.nodes.set(id, made);
    return made;
  }
  get(id) { return this.nodes.get(id) ?? null; }
  children(id) {
    return [...this.nodes.values()].filter(node => node.parent === id).sort((a, b) => a.created - b.created);
  }
  roots() { return this.children(null); }
  root(id) {
    let node = this.get(id);
    while (node && node.parent !== null) node = this.get(node.parent);
    return node;
  }
  depth(id) {
    let depth = 0;
    for (let node = this.get(id); node && node.parent !== null; node = this.get(node.parent)) ++depth;
    return depth;
  }
  /** In the order in which they are shown: each before its forks. */
  order() {
    const out = [], visit = node => {
      out.push(node);
      this.children(node.id).forEach(visit);
    };
    this.roots().forEach(visit);
    return out;
  }
  select(id) {
    if (!this.nodes.has(id)) throw new Error(`tree: expected a node, found ${id}`);
    this.selected = id;
    this.compared = this.get(id).parent;
  }
  compare(id) {
    if (id !== null && !this.nodes.has(id)) throw new Error(`tree: expected a node, found ${id}`);
    this.compared = id === this.selected ? null : id;
  }
  /** To the parent; false where there is none. */
  undo() {
    const parent = this.get(this.selected)?.parent ?? null;
    if (parent === null) return false;
    this.select(parent);
    return true;
  }
  /** Removes a node and its forks; gives their ids. */
  remove(id) {
    const node = this.get(id), gone = [];
    if (!node) return gone;
    const visit = n => {
      this.children(n.id).forEach(visit);
      gone.push(n.id);
    };
    visit(node);
    for (const one of gone) this.nodes.delete(one);
    if (gone.includes(this.selected)) {
      this.selected = this.compared = null;
      const next = node.parent ?? this.roots()[0]?.id ?? null;
      if (next !== null) this.select(next);
    }
    if (gone.includes(this.compared)) this.compared = null;
    return gone;
  }
  /**
   * As JSON: what makes each text again, and what is expected of it. Routes, which a run brings back, are left out,
   * and so are opened traces.
   */
  toJSON() {
    const nodes =
      this.order()
        .filter(node => !node.opened)
        .map(
          ({id, parent, name, note, created, record, generate, edits, domain, run, expect}) => ({
            id,
            parent,
            name,
            note,
            created,
            record,
            generate,
            edits,
            ...(domain ? {domain} : {}),
            ...(
              run?.done ? {
                expect:
                  {tokens: [...run.tokens], given: run.given, pieces: run.pieces, logits_hash: run.hash, seed: run.seed}
              } :
                expect ? {expect} :
                         {}),
          }));
    return {schema: treeSchema, selected: this.selected, compared: this.compared, nodes};
  }
  /** Reads what toJSON wrote. Throws with the path of what is wrong; nothing is added then. */
  static from(json) {
    const bad = (path, expected, found) =>
      new Error(`${path}: expected ${expected}, found ${JSON.stringify(found)?.slice(0, 60)}`);
    if (json?.schema !== treeSchema) throw bad('schema', treeSchema, json?.schema);
    if (!Array.isArray(json.nodes)) throw bad('nodes', 'a list', json.nodes);
    const tree = new Tree();
    json.nodes.forEach((node, i) => {
      const path = `nodes[${i}]`;
      if (typeof node?.id !== 'string') throw bad(`${path}.id`, 'a string', node?.id);
      if (node.parent !== null && !tree.nodes.has(node.parent))
        throw bad(`${path}.parent`, 'an earlier node or null', node.parent);
      if (typeof node.record !== 'object' || node.record === null)
        throw bad(`${path}.record`, 'an object', node.record);
      if (typeof node.generate !== 'object' || node.generate === null)
        throw bad(`${path}.generate`, 'an object', node.generate);
      const {seed = null} = node.generate;
      if (seed !== null && !Number.isInteger(seed) && !/^-?\d{1,19}$/.test(seed))
        throw bad(`${path}.generate.seed`, 'a whole number', seed);
      if (!Array.isArray(node.edits)) throw bad(`${path}.edits`, 'a list', node.edits);
      const {id, parent, record, generate, edits, expect} = node;
      if (expect && !(Array.isArray(expect.tokens) && expect.tokens.every(Number.isInteger)))
        throw bad(`${path}.expect.tokens`, 'a list of integers', expect.tokens);
      tree.add({
        id,
        parent,
        record,
        generate,
        edits,
        name: String(node.name ?? ''),
        note: String(node.note ?? ''),
        created: Number(node.created) || i,
        ...(node.domain ? {domain: String(node.domain)} : {}),
        ...(expect ? {expect} : {})
      });
    });
    if (tree.nodes.has(json.selected)) tree.select(json.selected);
    if (tree.nodes.has(json.compared)) tree.compare(json.compared);
    return tree;
  }
}

const freshId = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(8)), v => v.toString(16).padStart(2, '0')).join('');

/**
 * The first position where two texts have different tokens; −1 where the shorter is the longer's beginning or both are
 * equal.
 */
export function firstDifference(a, b) {
  const n = Math.min(a.length, b.length);
  for (let i = 0; i < n; ++i)
    if (a[i] !== b[i]) return i;
  return a.length === b.length ? -1 : n;
}
/** Where two runs part, as far as both are known: ids come at a stream's end, words before. −1: nowhere yet. */
export function parting(run, other) {
  const state = [run.pieces.length, other.pieces.length, run.done, other.done].join(), known = partings.get(run);
  if (known?.other === other && known.state === state) return known.at;  // asked for at each token
  const both = Math.min(run.pieces.length, other.pieces.length);
  const at = run.done && other.done ? firstDifference(run.tokens, other.tokens) :
                                      firstDifference(run.pieces.slice(0, both), other.pieces.slice(0, both));
  partings.set(run, {other, state, at});
  return at;
}
const partings = new WeakMap();
/** What became of a run that is held against what an import expects. */
export function sameBits(run, expect) {
  const at = firstDifference(run.tokens, expect.tokens);
  if (at >= 0) return `differs from token ${at} on`;
  return !expect.logits_hash || run.hash === expect.logits_hash ? 'same bits' : 'same tokens, other logits';
}
