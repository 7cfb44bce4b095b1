// What was clicked, to run elsewhere: the spec, the request, the commands, an experiment, the whole tree, a link.
import {packFragment} from '../logic/api.js';
import {asCommand, asCurl, asExperiment, asPython, asSpec, wordsOfControls} from '../logic/requests.js';
import {textOf} from '../logic/results.js';
import {Tree} from '../logic/tree.js';
import {button, download, filePicker, fill, h, listen, onFrame, options} from './dom.js';

const exportKinds = [
  ['command', 'command'], ['curl', 'curl'], ['python', 'Python'], ['spec', 'edit spec'], ['experiment', 'experiment'],
  ['tree', 'all forks (JSON)'], ['link', 'link']
];
const files = {
  command: 'run.sh',
  curl: 'request.sh',
  python: 'request.py',
  spec: 'edits.json',
  experiment: 'experiment.sh',
  tree: 'forks.json',
  link: 'link.txt'
};

export function renderExports({model, el, session}) {
  const kind = options(h('select', {'aria-label': 'Form'}), exportKinds, 'command'),
        out = h('pre', {tabIndex: 0, 'aria-label': 'Export'}), said = h('p', {class: 'small', role: 'status'});
  const note = h('p', {class: 'note small'});
  const bring = filePicker('Import forks…', '.json,application/json', async file => {
    try {
      const tree = Tree.from(JSON.parse(await file.text()));
      await session.adopt(tree);
      said.textContent = `${tree.nodes.size} texts taken up. “Run again” says whether the bits are the same.`;
    } catch (error) { said.textContent = `${file.name}: ${error.message}`; }
  });
  fill(
    el, h('h2', {text: 'Take it with you'}),
    h('div', {class: 'buttons'}, kind, button('Copy', async () => {
        try {
          await navigator.clipboard.writeText(out.textContent);
          said.textContent = 'Copied.';
        } catch {
          getSelection().selectAllChildren(out);
          said.textContent = 'Selected: press Ctrl+C.';
        }
      }), button('Save', () => download(files[kind.value], out.textContent)), button('Make this an experiment', () => {
        kind.value = 'experiment';
        ask();
      }), bring), note, out, said);
  const notes = {
    experiment:
      'One fork shows that a text can change, not what did it. The experiment runs the same edits against drawn controls on the records that you add.',
    command: 'The server’s answer equals the command line’s, bit for bit.',
    link: 'The fork as a link: the spec stands behind #, which browsers send to no server.',
    tree:
      'Records, edits, seeds and what came out. Import it here and run again: it says “same bits”, or where it differs.',
  };
  const draw = async () => {
    const node = model.get('node');
    const controls = kind.value === 'experiment' && node && !node.opened ? wordsOfControls(node.edits) : [];
    note.textContent = [notes[kind.value] ?? '', ...controls].join(' ');
    if (!node || (node.opened && kind.value !== 'tree')) {
      out.textContent = node ? 'A recorded route: nothing was asked of this server.' : '–';
      return;
    }
    const argument = model.get('facts')?.argument ?? 'MODEL', base = location.origin;
    const bytes = {
      command: () => asCommand(argument, node),
      curl: () => asCurl(base, session.name, node),
      python: () => asPython(base, session.name, node),
      spec: () => asSpec(node),
      experiment: () => node.edits.length ? asExperiment(argument, node, textOf(node.run), model.get('facts')) :
                                            'This text has no edits: an experiment needs a fork.\n',
      tree: () => JSON.stringify(model.get('tree').toJSON(), null, 1) + '\n',
      link: async () => `${location.origin}${location.pathname}#fork=${
        await packFragment({record: node.record, generate: node.generate, edits: node.edits})}\n`
    }[kind.value];
    out.textContent = await bytes();
  };
  kind.addEventListener('change', () => draw());
  const ask = onFrame(() => {
    if (el.offsetWidth) draw();
  }),
        stop = listen(model, 'node run tree view', ask), toExport = () => {
          el.scrollIntoView({block: 'nearest'});
          kind.focus();
        };
  model.on('ask:export', toExport);
  ask();
  return () => {
    stop();
    model.off('ask:export', toExport);
    ask.cancel();
  };
}
