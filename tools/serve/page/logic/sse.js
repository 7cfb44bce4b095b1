// Server-sent events as the server writes them: lines of `data:`, comments, and blank lines between events.

/** Takes bytes as they come and calls `each` with the data of every whole event. */
export class EventReader {
  constructor(each) {
    this.each = each;
    this.decoder = new TextDecoder('utf-8', {fatal: true});
    this.rest = '';
    this.data = [];
  }
  push(bytes) { this.take(this.decoder.decode(bytes, {stream: true})); }
  /** Ends the stream; an event without its blank line is none. */
  end() { this.take(this.decoder.decode()); }
  take(text) {
    this.rest += text;
    let from = 0;
    for (let at = this.rest.indexOf('\n'); at >= 0; at = this.rest.indexOf('\n', from)) {
      this.line(this.rest.slice(from, this.rest[at - 1] === '\r' && at > from ? at - 1 : at));
      from = at + 1;
    }
    this.rest = this.rest.slice(from);
  }
  line(line) {
    if (line === '') {
      if (this.data.length) this.each(this.data.join('\n'));
      this.data = [];
    } else if (line.startsWith('data:')) {
      this.data.push(line.slice(line[5] === ' ' ? 6 : 5));
    }
  }
}

/** A JSON text; seeds that a number cannot hold are given as their digits. */
export const exactJson = text => JSON.parse(text.replace(
  /([{,\s]"seed"\s*:\s*)(-?\d{16,})(?=[\s,}])/g,
  (whole, before, digits) => Number.isSafeInteger(Number(digits)) ? whole : `${before}"${digits}"`));

/**
 * Reads a response's events as JSON until `[DONE]`. An `error` event, and an end without `[DONE]`, throw: a stream that
 * was cut must not look like a short answer.
 * @param {ReadableStream<Uint8Array>} body @param {(event: any) => void} each
 */
export async function readEvents(body, each) {
  let done = false;
  const reader = new EventReader(data => {
    if (data === '[DONE]') {
      done = true;
      return;
    }
    const event = exactJson(data);
    if (event.error) throw new Error(event.error.message || 'the server stopped in mid-stream');
    each(event);
  });
  const stream = body.getReader();
  for (;;) {
    const {value, done: ended} = await stream.read();
    if (ended) break;
    reader.push(value);
  }
  reader.end();
  if (!done) throw new Error('the stream ended before its end: expected [DONE]');
}
