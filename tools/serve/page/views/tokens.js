// The text, token by token, each coloured by a number of its own or of the layer that the slider names; beside it,
// where one is chosen, the text that it is compared with.
import {changeColour, chosenColours, chosenMarks, cssOf, greyOf, inkOn, rgbOf, sizeColour, textureTable} from '../logic/colours.js';
import {blockHeight, blocksOf} from '../logic/layout.js';
import {listedEntropy, looksSpecial} from '../logic/results.js';
import {parting} from '../logic/tree.js';
import {definitions, quoted, shown} from '../logic/words.js';
import {button, fill, h, isDark, listen, number, onFrame, options, set} from './dom.js';

export const tokenColours = [
  ['logprob', 'log p'], ['entropy', 'entropy'], ['margin', 'margin at layer'], ['expert', 'first expert at layer'],
  ['delta', 'Δ log p'], ['none', 'nothing']
];

/** What a token's colour says: {value, most, kind} or an expert. */
export function tokenValue(kind, node, other, t, l) {
  const {run} = node;
  switch (kind) {
    case 'logprob':
      return {value: -run.logprobs[t], most: 10, words: `log p ${number(run.logprobs[t])}`};
    case 'entropy': {
      const value = t > 0 ? listedEntropy((run.top[t] ?? []).map(([, lp]) => lp)) : NaN;
      return {value, most: 4, words: `entropy ${number(value)}`};
    }
    case 'margin': {
      const value = t < run.routes.rows ? run.routes.margin(t, l) : NaN;
      return {value: Number.isNaN(value) ? NaN : Math.exp(-2 * value), most: 1, words: `margin ${number(value, 3)}`};
    }
    case 'expert':
      return t < run.routes.rows ? {expert: run.routes.first(t, l), words: `expert ${run.routes.first(t, l)}`} :
                                   {value: NaN, words: ''};
    case 'delta': {
      const value = deltaOf(node, other, t);
      return {value, most: 2, signed: true, words: `Δ log p ${number(value)}`};
    }
    default:
      return {value: NaN, words: ''};
  }
}
/** Δ log p of a token that both texts have, given the same words before it; NaN otherwise. */
export function deltaOf(node, other, t) {
  if (!node?.run || !other?.run || t >= other.run.tokens.length || t < 1) return NaN;
  if (node.sameWords?.of === other.id && node.sameWords.run === node.run)
    return node.sameWords.logprobs[t] - other.run.logprobs[t];
  const at = parting(node.run, other.run);
  return at < 0 || t < at ? node.run.logprobs[t] - other.run.logprobs[t] : NaN;
}
/** Of its own where the expert is marked, else of the table of `nExperts`. */
export function expertColour(model, layer, expert, dark, nExperts) {
  const chosen = model.get('chosen') ?? [], at = chosen.indexOf(`${layer}:${expert}`);
  if (at >= 0) return rgbOf(chosenColours[at]);
  if (chosen.length) return greyOf(dark);
  const table = textureTable(Math.max(nExperts, expert + 1), dark), i = 3 * expert;
  return [table[i], table[i + 1], table[i + 2]];
}

const examples = [
  'Document: Delcru was born in Quodri. Delcru lives in Rulfar. The capital of Rulfar is Tolnisbra. The capital of Quodri is Niscru.\nQuestion: What is the capital of the place where Delcru lives? Think step by step.',
  'def fibonacci(n):', 'The three primary colours are'
];

export function renderTokens({model, el, session}) {
  const kind = options(h('select', {'aria-label': 'Colour of tokens'}), tokenColours, model.get('tokenColour'));
  const layer = h('input', {type: 'range', min: 0, step: 1, 'aria-label': 'Layer'});
  const layerOut = h('output', {class: 'number'}), legend = h('span', {class: 'legend', 'aria-hidden': 'true'});
  const reading = options(
    h('select', {'aria-label': 'Reading of the fork'}), [['continued', 'continued'], ['words', 'same words']],
    'continued');
  const readingField = h('label', {class: 'inline'}, 'Reading ', reading);
  const about = h('p', {class: 'note small'});
  const text = h('div', {class: 'tokens', role: 'group', 'aria-label': 'Text'});
  const verdict = h('p', {class: 'verdict', role: 'status'});
  const tip = h('div', {class: 'tip', role: 'tooltip', hidden: true});
  fill(
    el,
    h('div', {class: 'bar'}, h('label', {class: 'inline'}, 'Colour ', kind),
      h('label', {class: 'inline grow'}, 'Layer ', layer, layerOut), readingField, legend),
    about, verdict, text, tip);

  let blocks = [], spans = new Map(), drawn = {}, observer = null;
  const layers = () => model.get('node')?.run?.routes.layers ?? model.get('facts')?.layers ?? [];
  const layerAt = () => Math.max(0, [...layers()].indexOf(model.get('layer')));
  const words = () => reading.value === 'words' && model.get('other')?.run;
  const shownNode = () => words() ? {...model.get('node'), run: model.get('other').run} : model.get('node');

  // What all tokens of one painting share.
  const paintContext = () => ({
    node: model.get('node'),
    other: model.get('other'),
    dark: isDark(),
    source: words() ? model.get('node') : shownNode(),
    kind: words() ? 'delta' : kind.value,
    l: layerAt(),
    layer: model.get('layer'),
    position: model.get('position') ?? null,
    range: model.get('range') ?? { from: -1, to: -1 }
  });
  const paint = (span, t, {other, dark, source, kind: what, l, layer: at, position, range}) => {
    const {value, most, signed, expert} = tokenValue(what, source, other, t, l);
    const rgb = expert !== undefined ? expertColour(model, at, expert, dark, source.run.routes.nExperts) :
      !Number.isFinite(value)        ? null :
      signed                         ? changeColour(value, most, dark) :
                                       sizeColour(value, most, dark);
    const key = rgb ? cssOf(rgb) : '';
    if (span.painted !== key) {
      span.painted = key;
      span.style.backgroundColor = key;
      span.style.color = rgb ? inkOn(rgb) : '';
    }
    const letter =
      expert !== undefined ? chosenMarks[(model.get('chosen') ?? []).indexOf(`${at}:${expert}`)] : undefined;
    if (span.dataset.mark !== letter) {
      if (letter)
        span.dataset.mark = letter;
      else
        delete span.dataset.mark;
    }
    if (span.classList.contains('here') !== (t === position)) span.classList.toggle('here');
    if (span.classList.contains('ranged') !== (t >= range.from && t < range.to)) span.classList.toggle('ranged');
    const stop = t === (position ?? 0) ? 0 : -1;
    if (span.tabIndex !== stop || !span.hasAttribute('tabindex')) span.tabIndex = stop;
  };
  const spanOf = (run, t, at) => {
    const piece = run.pieces[t] ?? '', isLine = piece.includes('\n');
    const span = h('span', {class: 'token', role: 'button', 'data-t': String(t)}, shown(piece) + (isLine ? '\n' : ''));
    if (looksSpecial(run, t)) span.classList.add('special');
    if (t === run.given) span.classList.add('begin');
    if (t < run.given) span.classList.add('given');
    if (t === at) {
      span.classList.add('first');
      span.title = 'first difference';
    }
    span.setAttribute('aria-label', `token ${t} ${quoted(piece)}${t === at ? ', first difference' : ''}`);
    return span;
  };
  // From the first difference on, the other text's token stands above; where both readings are of the same words, Δ
  // below.
  const cellOf = (t, at, context) => {
    const node = model.get('node'), other = model.get('other'), run = shownNode().run, span = spanOf(run, t, at);
    spans.set(t, span);
    paint(span, t, context);
    if (!other?.run || (!words() && node.parent === null)) return span;
    const delta = deltaOf(node, other, t), changedHere = at >= 0 && t >= at && !words();
    const shows = Number.isFinite(delta) && Math.abs(delta) >= 0.05 && (words() || !changedHere);
    const greedy = words() && node.sameWords?.of === other.id && node.sameWords.sameTop[t] === false;
    if (!changedHere && !shows && !greedy) return span;
    const above = changedHere ?
      h('span', {class: 'was', text: t < other.run.tokens.length ? shown(other.run.pieces[t] ?? '') : '\u00a0'}) :
      null;
    const below = shows ? h('span', {class: 'delta', text: (delta > 0 ? '+' : '') + number(delta)}) : null;
    const pair = h('span', {class: shows ? 'pair spaced' : 'pair'}, above, span, below);
    if (greedy) {
      pair.classList.add('greedy');
      span.title = 'the greedy token changes here';
    }
    return pair;
  };
  const drawBlock = block => {
    if (block.drawn) return;
    block.drawn = true;
    const at = difference(), context = paintContext();
    block.element.style.minHeight = '';
    fill(block.element, Array.from({length: block.to - block.from}, (_, i) => cellOf(block.from + i, at, context)));
  };
  const dropBlock = block => {
    if (!block.drawn || !block.far) return;
    block.element.style.minHeight = `${block.element.offsetHeight}px`;
    for (let t = block.from; t < block.to; ++t) spans.delete(t);
    block.drawn = false;
    block.element.replaceChildren();
  };
  const difference = () => {
    const node = model.get('node'), other = model.get('other');
    return other?.run && node?.run ? parting(node.run, other.run) : -1;
  };
  const welcome = () =>
    [h('p', {
       class: 'empty',
       text:
         'Write a prompt and press Run. Every token will stand here with the experts that it went through; choose one, send it elsewhere, and see what the text becomes. Or begin with one of these:'
     }),
     h('div', {class: 'buttons'},
       examples.map(
         prompt => button(
           prompt.length > 46 ? prompt.slice(0, 45) + '…' : prompt,
           () => session?.start({prompt}, {maxTokens: 48, temperature: 0, topP: 1, seed: 0, ignoreEos: false}))))];
  const redraw = () => {
    const node = shownNode(), run = node?.run;
    tip.hidden = true;
    readingField.hidden = !model.get('other')?.run;
    text.classList.toggle('compared', Boolean(model.get('other')?.run));
    spans = new Map();
    observer?.disconnect();
    observer = null;
    if (!run) {
      const now = model.get('node'), waits = now && session?.running.has(now.id);
      fill(text, !now ? welcome() : h('p', {
             class: 'empty',
             text: waits ? 'Waiting for the first tokens…' : 'This text was not run yet: “Run again” makes it.'
           }));
      fill(verdict);
      blocks = [];
      return;
    }
    const long = run.pieces.length > 3000, width = text.clientWidth || 800;
    blocks =
      blocksOf(run.pieces, 240)
        .map(block => ({...block, drawn: false, far: long, element: h('div', {class: long ? 'block far' : 'block'})}));
    fill(text, blocks.map(block => block.element));
    if (long) {
      observer = new IntersectionObserver(entries => {
        for (const entry of entries) {
          const block = blocks.find(one => one.element === entry.target);
          if (!block) continue;
          if (entry.isIntersecting)
            drawBlock(block);
          else
            dropBlock(block);
        }
      }, {root: text, rootMargin: '400px'});
      for (const block of blocks) {
        block.element.style.minHeight = `${blockHeight(run.pieces, block, width)}px`;
        observer.observe(block.element);
      }
    } else {
      blocks.forEach(drawBlock);
    }
    say();
  };
  const say = () => {
    const node = model.get('node'), other = model.get('other');
    if (!other?.run || !node?.run) {
      verdict.textContent = '';
      return;
    }
    const at = difference(), sum = [];
    for (let t = 1; t < other.run.tokens.length; ++t) {
      const d = deltaOf(node, other, t);
      if (Number.isFinite(d)) sum.push(d);
    }
    const total = sum.reduce((a, b) => a + b, 0);
    const forced = node.sameWords?.of === other.id ? node.sameWords : null;
    const kl = forced ? forced.kl.slice(1).reduce((a, b) => a + b, 0) / Math.max(1, forced.kl.length - 1) : NaN;
    verdict.textContent = (at < 0 ? 'Same text' : `First difference at token ${at}`) +
      (forced ?
         `; over the same words Σ Δ log p ${number(total)} nats in ${sum.length} tokens, mean KL ${number(kl, 3)}` :
         '') +
      '.';
  };
  const extend = (from, to, at) => {
    const context = paintContext(), long = Boolean(observer);
    for (let t = from; t < to; ++t) {
      let block = blocks.at(-1);
      if (block.to - block.from >= 240) {
        block = {from: t, to: t, drawn: true, far: long, element: h('div', {class: long ? 'block far' : 'block'})};
        blocks.push(block);
        text.append(block.element);
        observer?.observe(block.element);
      }
      if (block.drawn) block.element.append(cellOf(t, at, context));
      block.to = t + 1;
    }
  };
  // While a text grows only what is new is added.
  const grow = () => {
    const node = shownNode(), run = node?.run,
          key = `${model.get('node')?.id} ${model.get('other')?.id} ${reading.value} ${run?.done} ${
    !run && session?.running.has(model.get('node')?.id)}`;
    const total = run?.pieces.length ?? 0, known = blocks.at(-1)?.to ?? 0, at = difference();
    const sameStart = key === drawn.key && run === drawn.run && total > known && known > 0 && at === drawn.at &&
      model.get('node').sameWords === drawn.sameWords && (total > 3000) === Boolean(observer);
    if (sameStart) {
      const atEnd = text.scrollTop + text.clientHeight >= text.scrollHeight - 40;
      extend(known, total, at);
      repaint();
      if (atEnd) text.scrollTop = text.scrollHeight;
    } else if (
      key !== drawn.key || run !== drawn.run || total !== known || at !== drawn.at ||
      model.get('node')?.sameWords !== drawn.sameWords) {
      redraw();
    } else {
      repaint();
    }
    drawn = {key, run, at, sameWords: model.get('node')?.sameWords, position: drawn.position};
    controls();
  };
  const repaint = () => {
    const context = paintContext();
    if (!context.source?.run) return;  // a new text whose tokens are still to come
    for (const [t, span] of spans) paint(span, t, context);
  };
  const controls = () => {
    const all = layers();
    set(layer, {max: Math.max(0, all.length - 1)});
    layer.value = String(layerAt());
    layerOut.textContent = all.length ? String(all[layerAt()]) : '–';
    layer.setAttribute('aria-valuetext', `layer ${all[layerAt()]}`);
    about.textContent = words() ? definitions.delta : kind.value === 'none' ? '' : definitions[kind.value];
    const dark = isDark(), signed = kind.value === 'delta' || words();
    fill(legend, ['expert', 'none'].includes(kind.value) && !words() ? [] : [
      h('span', {text: signed ? 'less likely' : {logprob: 'expected', entropy: 'sure', margin: 'clear'}[kind.value]}),
      ...Array.from(
        {length: 9},
        (_, i) =>
          h('i', {style: {backgroundColor: cssOf(signed ? changeColour(i - 4, 4, dark) : sizeColour(i, 8, dark))}})),
      h('span', {text: signed ? 'more' : {logprob: 'surprising', entropy: 'open', margin: 'close'}[kind.value]})
    ]);
  };
  const ask = onFrame(grow), askPaint = onFrame(() => {
                               repaint();
                               controls();
                               follow();
                             });
  // Keeps the chosen token in sight of the text's own window; the page does not move.
  const follow = () => {
    const t = model.get('position') ?? null;
    if (t === null || t === drawn.position) return;
    drawn.position = t;
    const block = blocks.find(one => t >= one.from && t < one.to);
    if (!block) return;
    drawBlock(block);
    const span = spans.get(t), box = text.getBoundingClientRect(), mine = span.getBoundingClientRect();
    if (mine.top < box.top)
      text.scrollTop -= box.top - mine.top + 20;
    else if (mine.bottom > box.bottom)
      text.scrollTop += mine.bottom - box.bottom + 20;
  };
  const positionOf = event => {
    const span = event.target.closest?.('.token');
    return span && text.contains(span) ? Number(span.dataset.t) : null;
  };
  const showTip = (t, target) => {
    const run = shownNode()?.run;
    if (!run || t >= run.pieces.length) return;  // of a text that is just leaving
    fill(tip, tipOf(run, t));
    tip.hidden = false;
    const box = target.getBoundingClientRect(), mine = tip.getBoundingClientRect();
    const left = Math.max(8, Math.min(innerWidth - mine.width - 8, box.left));
    const below = box.bottom + 8 + mine.height < innerHeight;
    const top = below ? box.bottom + 8 : Math.max(8, box.top - mine.height - 8);
    set(tip, {style: {left: `${left}px`, top: `${top}px`}});
    const there = tip.getBoundingClientRect();  // a transformed ancestor moves what is fixed
    if (there.left !== left || there.top !== top)
      set(tip, {style: {left: `${2 * left - there.left}px`, top: `${2 * top - there.top}px`}});
  };
  text.addEventListener('pointerover', event => {
    const t = positionOf(event);
    if (t !== null && event.pointerType === 'mouse') showTip(t, event.target.closest('.token'));
  });
  text.addEventListener('pointerleave', () => {
    tip.hidden = true;
  });
  text.addEventListener('scroll', () => {
    tip.hidden = true;
  });
  text.addEventListener('click', event => {
    const t = positionOf(event);
    if (t === null) return;
    const p = model.get('position') ?? t;
    model.set('range', event.shiftKey ? {from: Math.min(p, t), to: Math.max(p, t) + 1} : null);
    model.set('position', t);
    spans.get(t)?.focus();
  });
  text.addEventListener('keydown', event => {
    const t = positionOf(event);
    if (t === null) return;
    const total = shownNode()?.run?.pieces.length ?? 0,
          step = {ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20}[event.key];
    const to = event.key === 'Home' ? 0 :
      event.key === 'End'           ? total - 1 :
      step                          ? Math.max(0, Math.min(total - 1, t + step)) :
                                      null;
    if (event.key === 'Enter' || event.key === ' ') {
      event.preventDefault();
      model.set('position', t);
      model.tell('ask:cell');
      return;
    }
    if (event.key === 'Escape') tip.hidden = true;
    if (to === null) return;
    event.preventDefault();
    if (event.shiftKey) {
      const {from = t} = model.get('range') ?? {};
      model.set('range', {from: Math.min(from, to), to: Math.max(from, to) + 1});
    }
    model.set('position', to);
    const block = blocks.find(one => to >= one.from && to < one.to);
    if (block) drawBlock(block);
    spans.get(to)?.focus();
  });
  kind.addEventListener('change', () => {
    model.set('tokenColour', kind.value);
    askPaint();
  });
  reading.addEventListener('change', ask);
  layer.addEventListener('input', () => model.set('layer', layers()[Number(layer.value)]));
  const stops = [
    listen(model, 'node other run', ask), listen(model, 'layer position range chosen theme', askPaint),
    listen(
      model, 'tokenColour',
      () => {
        kind.value = model.get('tokenColour');
        askPaint();
      })
  ];
  ask();
  return () => {
    stops.forEach(stop => stop());
    observer?.disconnect();
    ask.cancel();
    askPaint.cancel();
  };
}

/** A token's route at every layer, its margin, and what else was probable. */
function tipOf(run, t) {
  const {routes} = run, rows = [];
  for (let l = 0; t < routes.rows && l < routes.layers.length; ++l) {
    const weights = routes.weightsAt(t, l);
    rows.push(h(
      'tr', {}, h('th', {text: `L${routes.layers[l]}`}),
      h('td', {text: routes.experts(t, l).map((e, i) => `${e}·${weights[i].toFixed(2).replace(/^0/, '')}`).join('  ')}),
      h('td', {class: 'soft', text: Number.isNaN(routes.margin(t, l)) ? '' : number(routes.margin(t, l), 2)})));
  }
  const top = (run.top[t] ?? []).slice(0, 5);
  return [
    h('div', {class: 'tip-head'}, h('b', {text: `${t}  ${quoted(run.pieces[t] ?? '')}`}),
      ` log p ${number(run.logprobs[t])}`),
    top.length ?
      h('div', {class: 'tip-top'},
        top.map(([piece, lp]) => h('span', {text: `${quoted(piece)} ${(100 * Math.exp(lp)).toFixed(1)} %`}))) :
      null,
    rows.length ? h('table', {class: rows.length > 16 ? 'wide' : ''},
                    h('thead', {}, h('tr', {}, h('th'), h('th', {text: 'expert·weight'}), h('th', {text: 'margin'}))),
                    h('tbody', {}, rows)) :
                  h('p', {class: 'soft', text: 'Its route comes with the next token.'})
  ].filter(Boolean);
}
