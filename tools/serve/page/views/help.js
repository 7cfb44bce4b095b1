// The keys, under "?".
import {definitions} from '../logic/words.js';
import {button, fill, h} from './dom.js';

export const keys = [
  ['Ctrl Enter', 'in the prompt: run it'],
  ['g', 'to the grid'],
  ['t', 'to the text'],
  ['c', 'to the cell’s experts'],
  ['f', 'to the forks'],
  ['p', 'to the prompt'],
  ['x', 'to the exports'],
  ['1 2 3 4', 'routes, experts, steering, patterns'],
  ['[ ]', 'layer down, up'],
  ['← → ↑ ↓', 'in the grid, the text, the forks: move'],
  ['Home End', 'first and last column; with Ctrl: first and last cell'],
  ['PgUp PgDn', 'sixteen tokens back, forth'],
  ['Shift', 'with arrows or a click: a range of tokens'],
  ['Enter', 'in the grid: to the experts of the cell'],
  ['Space', 'among the experts: swap the highlighted one into the slot'],
  ['b  f  m', 'among the experts: ban, force, mark with a colour'],
  ['1 … k', 'among the experts: the slot'],
  ['Enter', 'among the experts: run the fork'],
  ['Ctrl Z', 'undo: to the text that this one was made from'],
  ['+ −', 'in a grid: zoom'],
  ['?', 'this help'],
  ['Esc', 'close, back to the grid'],
];

export function makeHelp() {
  const dialog = h('dialog', {class: 'help', 'aria-label': 'Keys and definitions'});
  fill(
    dialog, h('div', {class: 'bar'}, h('h2', {text: 'Keys'}), button('Close', () => dialog.close())),
    h('dl', {class: 'keys'},
      keys.flatMap(([key, words]) => [h('dt', {}, h('kbd', {text: key})), h('dd', {text: words})])),
    h('h2', {text: 'What the numbers are'}),
    h('ul', {class: 'definitions small'}, Object.values(definitions).map(text => h('li', {text}))));
  return dialog;
}
