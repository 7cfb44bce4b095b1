// What the views share: named values and who wants to hear of their changes. It speaks the interface that notebook
// widgets are given (`get`, `set`, `on`, `off`, `save_changes`), so that a view runs in either.

export class Model {
  constructor(values = {}) {
    this.values = {...values};
    this.listeners = new Map();
  }
  get(name) { return this.values[name]; }
  set(name, value) {
    if (typeof name === 'object') {
      for (const [key, v] of Object.entries(name)) this.set(key, v);
      return;
    }
    if (Object.is(this.values[name], value)) return;
    this.values[name] = value;
    this.tell(`change:${name}`);
  }
  /** Says that a value changed inside. */
  touch(name) { this.tell(`change:${name}`); }
  on(events, listener) {
    for (const event of events.split(' ')) {
      if (!this.listeners.has(event)) this.listeners.set(event, new Set());
      this.listeners.get(event).add(listener);
    }
  }
  off(events, listener) {
    for (const event of events.split(' ')) this.listeners.get(event)?.delete(listener);
  }
  tell(event) {
    for (const listener of [...(this.listeners.get(event) ?? [])]) listener();
  }
  save_changes() {}
}

/** Calls `act` at most once in `wait` ms, and once after the last call. */
export function debounced(act, wait) {
  let timer = null;
  const call = (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      timer = null;
      act(...values);
    }, wait);
  };
  call.cancel = () => clearTimeout(timer);
  return call;
}
