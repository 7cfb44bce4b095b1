// The server, over fetch. The key stands in the URL's fragment, is taken out of it, and stays in memory.
import {jsonOf} from './requests.js';
import {exactJson, readEvents} from './sse.js';

/** '#key=…&fork=…' as a map. */
export const fragmentOf = hash => new Map(new URLSearchParams(hash.replace(/^#/, '')));

export class Api {
  constructor(base, key = null) {
    this.base = base;
    this.key = key;
  }
  headers(body) {
    return {
      ...(body === undefined ? {} : {'Content-Type': 'application/json'}),
      ...(this.key ? {Authorization: `Bearer ${this.key}`} : {})
    };
  }
  async ask(path, body, signal) {
    const response = await fetch(this.base + path, {
      method: body === undefined ? 'GET' : 'POST',
      signal,
      headers: this.headers(body),
      body: body === undefined ? undefined : jsonOf(body)
    });
    if (!response.ok) throw Object.assign(new Error(await failure(response)), {status: response.status});
    return response;
  }
  async get(path, signal) { return exactJson(await (await this.ask(path, undefined, signal)).text()); }
  async post(path, body, signal) { return exactJson(await (await this.ask(path, body, signal)).text()); }
  /** Calls `each` with every event; throws where the stream breaks off. */
  async stream(path, body, each, signal) {
    const response = await this.ask(path, body, signal);
    await readEvents(response.body, each);
  }
}

/** What a refusal says, in one line. */
async function failure(response) {
  const text = await response.text();
  try {
    const {message, param} = JSON.parse(text).error;
    return param && !message.includes(param) ? `${param}: ${message}` : message;
  } catch { return `${response.status} ${response.statusText || 'from the server'}`; }
}

/** An object in a URL's fragment: JSON, compressed, base64 as in file names. */
export async function packFragment(value) {
  const stream = new Blob([JSON.stringify(value)]).stream().pipeThrough(new CompressionStream('deflate'));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  let binary = '';
  for (const byte of bytes) binary += String.fromCharCode(byte);
  return btoa(binary).replaceAll('+', '-').replaceAll('/', '_').replace(/=+$/, '');
}
export async function unpackFragment(text) {
  const binary = atob(text.replaceAll('-', '+').replaceAll('_', '/'));
  const bytes = Uint8Array.from(binary, c => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('deflate'));
  return JSON.parse(await new Response(stream).text());
}
