// The tree in the browser's database, so that a reload loses nothing: a record a node, with its text and routes.
// Without a database (private windows of some browsers) everything works and a reload begins anew.
import {Routes} from './routes.js';
import {Tree} from './tree.js';

const version = 1;

const asked = request => new Promise((resolve, reject) => {
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});

/** A run as a database can hold it. */
export const packRun = run => run &&
  {...run, tokens: Int32Array.from(run.tokens), logprobs: Float64Array.from(run.logprobs), routes: run.routes.pack()};
export const unpackRun = run =>
  run && {...run, tokens: [...run.tokens], logprobs: [...run.logprobs], routes: Routes.unpack(run.routes)};

export class Store {
  /** `name`: one for each model, so that trees do not mix. */
  static async open(name, factory = globalThis.indexedDB) {
    const store = new Store();
    store.database = null;
    try {
      const request = factory.open(`signalbox ${name}`, version);
      request.onupgradeneeded = () => {
        request.result.createObjectStore('nodes', {keyPath: 'id'});
        request.result.createObjectStore('settings');
      };
      store.database = await asked(request);
    } catch { store.database = null; }
    return store;
  }
  place(mode, name) { return this.database?.transaction(name, mode).objectStore(name); }
  async saveNode(node) {
    await this.done(
      this.place('readwrite', 'nodes')?.put({...node, run: packRun(node.run), sameWords: null, ranking: null}));
  }
  async remove(ids) {
    for (const id of ids) await this.done(this.place('readwrite', 'nodes')?.delete(id));
  }
  async clear() { await this.done(this.place('readwrite', 'nodes')?.clear()); }
  async saveSetting(key, value) { await this.done(this.place('readwrite', 'settings')?.put(value, key)); }
  async setting(key) {
    const request = this.place('readonly', 'settings')?.get(key);
    return request ? asked(request) : undefined;
  }
  async done(request) {
    if (request) await asked(request).catch(() => {});
  }
  /** The tree as it was; nodes whose parents are gone are left out. */
  async tree() {
    const tree = new Tree(), request = this.place('readonly', 'nodes')?.getAll();
    const waiting = request ? (await asked(request)).map(node => ({...node, run: unpackRun(node.run)})) : [];
    for (let added = true; added;) {
      added = false;
      for (const node of waiting)
        if (!tree.nodes.has(node.id) && (node.parent === null || tree.nodes.has(node.parent))) {
          tree.add(node);
          added = true;
        }
    }
    return tree;
  }
}
