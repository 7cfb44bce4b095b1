// Runs the tests of the page's modules by Node's own runner, and ends with "N passed, N failed, N skipped".
//   node tests/serve/run.mjs
import {readdirSync} from 'node:fs';
import {fileURLToPath} from 'node:url';
import {run} from 'node:test';

const files = readdirSync(new URL('.', import.meta.url))
                .filter(name => name.endsWith('_test.mjs'))
                .map(name => fileURLToPath(new URL(name, import.meta.url)));
let passed = 0, failed = 0;
const stream = run({files, concurrency: 1});
stream.on('test:pass', ({details, name}) => {
  if (details.type !== 'suite' && !name.endsWith('.mjs')) ++passed;
});
stream.on('test:fail', ({details, name}) => {
  if (!name.endsWith('.mjs') || failed === 0) ++failed;
  console.log(`${name}: ${details.error?.cause?.stack ?? details.error?.message ?? 'failed'}`);
});
stream.on('end', () => {
  console.log(`${passed} passed, ${failed} failed, 0 skipped`);
  process.exitCode = failed || !passed ? 1 : 0;
});
stream.resume();
