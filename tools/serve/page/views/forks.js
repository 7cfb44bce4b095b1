// The tree of forks: each text by its edit in words. Arrows walk it, Enter selects; undo goes to the parent.
import {parting} from '../logic/tree.js';
import {wordsOfEdits} from '../logic/words.js';
import {button, fill, focusOf, h, listen, onFrame} from './dom.js';

const clip = (text, most) => text.length > most ? text.slice(0, most - 1) + '…' : text;
/** What a node is called. */
export function nameOf(node) {
  if (node.name) return node.name;
  if (node.parent !== null)
    return node.added?.length ? wordsOfEdits(node.added) : node.edits.length ? wordsOfEdits(node.edits) : 'fork';
  const {prompt, messages} = node.record;
  return clip((prompt ?? messages?.at(-1).content ?? 'tokens').replace(/\s+/g, ' '), 60);
}

export function renderForks({model, el, session}) {
  const tree = h('div', {class: 'tree', role: 'tree', 'aria-label': 'Texts and their forks'}),
        note = h('input', {type: 'text', placeholder: 'a note on the selected text', 'aria-label': 'Note'});
  const compare = button('Compare with…', () => {
    picking = !picking;
    draw();
  }, {title: 'Choose the text that stands beside the selected one'});
  const again = button('Run again', () => {
    if (session.node) session.run(session.node);
  }), hint = h('p', {class: 'small note', role: 'status'});
  const undo = button('Undo', () => session.undo(), {title: 'Back to the text that this one was made from (Ctrl+Z)'});
  const remove = button('Delete', () => {
    if (session.node) session.remove(session.node.id);
  });
  fill(el, h('h2', {text: 'Forks'}), tree, hint, h('div', {class: 'buttons'}, undo, compare, again, remove), note);
  let focused = null, picking = false;

  const itemOf = (node, forest) => {
    const selected = node.id === forest.selected, beside = node.id === forest.compared,
          parent = forest.get(node.parent), {run} = node;
    const at = parent?.run && run ? parting(run, parent.run) : null;
    const state = node.opened ? `recorded, ${run.tokens.length} tokens` :
      session.running.has(node.id) ? 'running' :
      run?.done                    ? (at === null ? `${run.tokens.length - run.given} tokens` :
                                        at < 0 ? 'same text' :
                                                 `differs at ${at}`) :
                         run                   ? 'stopped' :
                         node.expect           ? 'imported, not run' :
                                                 'not run';
    const item =
      h('div', {
        class: 'fork',
        role: 'treeitem',
        'aria-level': String(forest.depth(node.id) + 1),
        'aria-selected': String(selected),
        'data-id': node.id,
        tabIndex: (focused ?? forest.selected) === node.id ? 0 : -1,
        style: {paddingInlineStart: `${0.5 + 1.1 * forest.depth(node.id)}rem`}
      },
        h('span', {class: 'fork-name', text: nameOf(node)}), h('span', {
          class: 'fork-state small',
          text: [node.domain, state, node.same, beside ? 'beside' : null].filter(Boolean).join(' · ')
        }),
        node.note ? h('span', {class: 'fork-note small', text: node.note}) : null);
    item.classList.toggle('beside', beside);
    return item;
  };
  const draw = () => {
    const forest = model.get('tree'), within = tree.contains(focusOf(tree));
    const nodes = forest.order();
    if (!nodes.length)
      fill(
        tree,
        h('div',
          {class: 'empty small', role: 'treeitem', 'aria-selected': 'false', tabIndex: 0, text: 'No text yet.'}));
    else
      fill(tree, nodes.map(node => itemOf(node, forest)));
    if (within) tree.querySelector('[tabindex="0"]')?.focus();
    const node = forest.get(forest.selected);
    undo.disabled = !node || node.parent === null;
    compare.setAttribute('aria-pressed', String(picking));
    compare.disabled = nodes.length < 2;
    hint.textContent = picking ? 'Choose the text that should stand beside the selected one.' : '';
    if (focusOf(note) !== note) note.value = node?.note ?? '';
    note.disabled = remove.disabled = !node;
    again.disabled = !node || Boolean(node.opened);
  };
  const take = id => {
    focused = id;
    if (picking) {
      picking = false;
      session.compare(id);
    } else {
      session.select(id);
    }
    draw();
  };
  tree.addEventListener('click', event => {
    const item = event.target.closest('[data-id]');
    if (item) {
      item.focus();
      take(item.dataset.id);
    }
  });
  tree.addEventListener('keydown', event => {
    const nodes = model.get('tree').order(), i = nodes.findIndex(node => node.id === focusOf(tree)?.dataset?.id);
    if (i < 0) return;
    const forest = model.get('tree'), child = forest.children(nodes[i].id)[0], go = {
      ArrowDown: nodes[i + 1],
      ArrowUp: nodes[i - 1],
      Home: nodes[0],
      End: nodes.at(-1),
      ArrowRight: child,
      ArrowLeft: forest.get(nodes[i].parent)
    }[event.key];
    if (go) {
      event.preventDefault();
      focused = go.id;
      draw();
      return;
    }
    if (event.key === 'Enter' || event.key === ' ') {
      event.preventDefault();
      take(nodes[i].id);
    }
    if (event.key === 'Delete') {
      event.preventDefault();
      focused = null;
      session.remove(nodes[i].id);
    }
  });
  note.addEventListener('change', () => session.annotate(model.get('tree').selected, {note: note.value}));
  const ask = onFrame(draw), stop = listen(model, 'tree node other busy', ask);
  ask();
  return () => {
    stop();
    ask.cancel();
  };
}
