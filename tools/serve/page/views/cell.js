// The selected cell: how the router ranked the experts, which it chose, and what to choose instead. What is picked here
// waits as edits until Enter runs the text again under them.
import {mostChosen} from '../logic/colours.js';
import {cellKey} from '../logic/session.js';
import {banEdit, firstThatCanDiffer, forceEdit, numbersOf, policyEdit, routeEdit, scaleEdit, swapped, weightPolicies} from '../logic/spec.js';
import {definitions, quoted, wordsOfEdit} from '../logic/words.js';
import {button, field, fill, h, listen, number, onFrame, options, set} from './dom.js';

const scopes =
  [['token', 'this token'], ['tokens', 'these tokens'], ['layer', 'every token'], ['generated', 'generated tokens']];

export function renderCell({model, el, session}) {
  const title = h('h2', {text: 'Cell'}), facts = h('p', {class: 'note small'}),
        alternatives = h('div', {class: 'alternatives'});
  const slots = h('div', {class: 'slots', role: 'radiogroup', 'aria-label': 'Slot that a picked expert goes to'});
  const weights = options(h('select', {}), Object.keys(weightPolicies).map(key => [key, key]), 'renormalize');
  const weightsNote = h('p', {class: 'note small'});
  const scope = options(h('select', {}), scopes, 'token'), from = h('input', {type: 'number', min: 0}),
        to = h('input', {type: 'number', min: 0});
  const layers = h('input', {type: 'text', spellcheck: false, autocomplete: 'off'});
  const range = h('div', {class: 'row'}, field('from token', from), field('to token', to));
  const list =
    h('div', {class: 'ranking', role: 'listbox', tabIndex: 0, 'aria-label': 'Experts by the router’s ranking'});
  const pending = h('ul', {class: 'pending'}), hint = h('p', {class: 'note small'});
  const run = h('button', {type: 'submit', class: 'primary', text: 'Run fork'});
  const words = h('p', {class: 'problem', role: 'alert'});
  const form = h(
    'form', {class: 'cell-form'}, slots,
    h('div', {class: 'list-head soft small', 'aria-hidden': 'true'}, h('span', {text: 'rank'}),
      h('span', {text: 'expert'}), h('span', {text: 'score'}), h('span', {text: 'logit'}), h('span', {text: 'weight'})),
    list,
    h('div', {class: 'buttons'},
      button('Swap in', () => pick('swap'), {title: 'The highlighted expert into the chosen slot (Space)'}),
      button('Ban', () => pick('ban'), {title: 'The router cannot choose the highlighted expert (B)'}),
      button('Force', () => pick('force'), {title: 'The highlighted expert first (F)'}),
      button('Scale ×½', () => pick('scale')),
      button('Mark', () => mark(), {title: 'Give the highlighted expert a colour of its own'})),
    h('div', {class: 'buttons'}, button('Next best', () => policy('next_best')),
      button('Swap last', () => policy('swap_last')), button('Worst', () => policy('worst')),
      button('Random', () => policy('random'))),
    h('div', {class: 'row'}, field('Scope', scope), field('Layers', layers)), range,
    h('div', {class: 'row'}, field('Weights', weights)), weightsNote, h('h3', {text: 'Edits to run'}), pending, hint,
    words, h('div', {class: 'buttons'}, run, button('Clear', () => {
               model.set('pending', []);
               reset();
             })));
  fill(el, title, facts, alternatives, form);

  let ranking = [], route = [], slot = 0, active = 0, key = '', touched = false, unranked = '';
  const cell = () => ({t: model.get('position') ?? null, layer: model.get('layer')});
  const node = () => model.get('node');
  const where = () => {
    const {t} = cell(), layersHere = numbersOf(layers.value, model.get('facts').layers);
    return {
      scope: scope.value,
      layers: layersHere,
      from: scope.value === 'token' ? t : Number(from.value),
      to: scope.value === 'token' ? t + 1 : Number(to.value) + 1
    };
  };
  const attempt = act => {
    try {
      act();
      words.textContent = '';
    } catch (error) { words.textContent = error.message; }
  };
  const add = (edit, replaces) => {
    const rest = (model.get('pending') ?? []).filter(one => !replaces?.(one));
    model.set('pending', [...rest, edit]);
  };
  const sameRoute = edit => one =>
    one.op === 'misroute' && one.layers === edit.layers && JSON.stringify(one.tokens) === JSON.stringify(edit.tokens);
  const setRoute = next => attempt(() => {
    route = next;
    const edit = routeEdit(route, where(), weights.value);
    add(edit, sameRoute(edit));
    touched = true;
    draw();
  });
  const policy = name => attempt(() => {
    const edit = policyEdit(name, where(), weights.value);
    add(edit, sameRoute(edit));
  });
  const pick = what => attempt(() => {
    const {expert} = ranking[active] ?? {};
    if (expert === undefined) throw new Error('Choose a token and a layer with a router first.');
    if (what === 'swap') setRoute(swapped(route, slot, expert));
    if (what === 'ban') add(banEdit([expert], where(), weights.value === 'model' ? undefined : weights.value));
    if (what === 'force') add(forceEdit([expert], where(), weights.value === 'model' ? undefined : weights.value));
    if (what === 'scale') add(scaleEdit([expert], 0.5, where()));
  });
  const mark = () => {
    const {expert} = ranking[active] ?? {}, name = `${cell().layer}:${expert}`, now = model.get('chosen') ?? [];
    if (expert === undefined) return;
    if (now.includes(name))
      model.set('chosen', now.filter(one => one !== name));
    else if (now.length < mostChosen)
      model.set('chosen', [...now, name]);
    else
      words.textContent = `At most ${mostChosen} experts have a colour of their own: take one away first.`;
  };
  const reset = () => {
    const {t, layer} = cell(), {routes} = node().run;
    route = routes.experts(t, routes.layerIndex(layer));
    touched = false;
    draw();
  };

  const update = async () => {
    const {t, layer} = cell(), now = node()?.run, l = now?.routes.layerIndex(layer) ?? -1;
    if (!now || t === null || t === undefined || t >= now.pieces.length) {
      title.textContent = 'Cell';
      facts.textContent = now ? 'Choose a token in the text, or a cell of the grid.' :
                                'Here stands the router’s ranking of a token at a layer, and what to choose instead.';
      form.hidden = true;
      fill(alternatives);
      return;
    }
    title.textContent = `${quoted(now.pieces[t])} · token ${t} · layer ${layer}`;
    facts.textContent = `log p ${number(now.logprobs[t])}` +
      (l >= 0 && t < now.routes.rows ?
         `, margin ${number(now.routes.margin(t, l), 3)}. A route here changes what is chosen after token ${t}.` :
         '.');
    fill(
      alternatives,
      t >= now.given && now.top[t]?.length ?
        [
          h('h3', {text: 'Instead of this token'}),
          h('div', {class: 'buttons'},
            now.top[t].slice(0, 6).map(
              ([piece, lp]) => button(
                `${quoted(piece)} ${(100 * Math.exp(lp)).toFixed(1)} %`, () => session?.continueFrom(t, piece),
                {disabled: piece === now.pieces[t], title: 'Go on from here with this token'})))
        ] :
        []);
    form.hidden = l < 0 || t >= now.routes.rows || Boolean(node().opened);
    if (node().opened)
      facts.textContent = 'A recorded route: its model does not run here, so nothing can be sent elsewhere.';
    if (form.hidden) {
      key = '';
      return;
    }
    const next = cellKey(node(), t, layer);
    if (next === key) {
      draw();
      return;
    }
    key = next;
    const kept = layers.value === '' || !layers.dataset.own;
    if (kept) layers.value = String(layer);
    slot = Math.min(slot, now.routes.nActive - 1);
    route = now.routes.experts(t, l);
    touched = false;
    ranking = [];
    unranked = '';
    draw();
    if (!session || !now.done) return;
    await new Promise(resolve => setTimeout(resolve, 120));  // arrows pass many cells
    if (key !== next) return;
    try {
      const found = await session.ranking(node(), t, layer);
      if (key !== next) return;
      ranking = found;
      active = Math.max(0, ranking.findIndex(row => !route.includes(row.expert)));
      draw();
    } catch (error) {
      if (key !== next) return;
      unranked = `No ranking: ${error.message}`;
      draw();
    }
  };
  const draw = () => {
    const {t, layer} = cell(), now = node()?.run;
    if (!now || form.hidden) return;
    const l = now.routes.layerIndex(layer), applied = now.routes.experts(t, l), given = now.routes.weightsAt(t, l);
    fill(
      slots, h('span', {class: 'soft small', text: touched ? 'New route ' : 'Route '}),
      route.map((expert, i) => h('button', {
                  type: 'button',
                  role: 'radio',
                  class: applied[i] === expert ? 'slot' : 'slot new',
                  'aria-checked': String(i === slot),
                  text: String(expert),
                  title: `slot ${i}`,
                  onclick: () => {
                    slot = i;
                    draw();
                  }
                })));
    const bans = new Set((model.get('pending') ?? [])
                           .filter(edit => edit.op === 'deactivate' && Array.isArray(edit.experts))
                           .flatMap(edit => edit.experts));
    fill(list, ranking.map((row, i) => {
      const at = applied.indexOf(row.expert), taken = route.includes(row.expert);
      const item =
        h('div', {
          class: 'expert',
          role: 'option',
          id: `rank-${i}`,
          'aria-selected': String(i === active),
          onclick: () => {
            active = i;
            draw();
          },
          ondblclick: () => pick('swap')
        },
          h('span', {text: String(row.rank)}), h('b', {text: String(row.expert)}),
          h('span', {text: number(row.score, 3)}), h('span', {text: number(row.logit, 2)}),
          h('span', {text: at >= 0 ? number(given[at], 3) : ''}));
      item.classList.toggle('chosen', at >= 0);
      item.classList.toggle('taken', taken && at < 0);
      item.classList.toggle('banned', bans.has(row.expert));
      item.setAttribute(
        'aria-label',
        `rank ${row.rank}, expert ${row.expert}, score ${number(row.score, 3)}` +
          (at >= 0 ? `, chosen, weight ${number(given[at], 3)}` : '') + (bans.has(row.expert) ? ', banned' : '') +
          (taken && at < 0 ? ', in the new route' : ''));
      return item;
    }));
    list.removeAttribute('aria-activedescendant');
    if (!ranking.length)
      fill(list, h('div', {
             class: 'soft small',
             role: 'option',
             'aria-selected': 'false',
             text: unranked || (now.done ? 'Asking the router…' : 'The ranking comes when the text is finished.')
           }));
    else
      list.setAttribute('aria-activedescendant', `rank-${active}`);
    // Kept in sight within the list; the page itself must not jump.
    const here = list.children[active];
    if (here && ranking.length) {
      if (here.offsetTop < list.scrollTop)
        list.scrollTop = here.offsetTop;
      else if (here.offsetTop + here.offsetHeight > list.scrollTop + list.clientHeight)
        list.scrollTop = here.offsetTop + here.offsetHeight - list.clientHeight;
    }
    range.hidden = scope.value !== 'tokens';
    weightsNote.textContent = weightPolicies[weights.value];
    showPending();
  };
  const showPending = () => {
    const edits = model.get('pending') ?? [], now = node()?.run;
    fill(
      pending,
      edits.length ?
        edits.map(
          (edit, i) => h(
            'li', {}, wordsOfEdit(edit), ' ', button('×', () => model.set('pending', edits.filter((_, j) => j !== i)), {
              'aria-label': `Take away: ${wordsOfEdit(edit)}`
            }))) :
        h('li', {class: 'soft', text: 'None yet: pick an expert and swap it in, ban it or force it.'}));
    run.disabled = !edits.length || !now?.done;
    hint.textContent = edits.length && now ?
      `The first token that can differ is ${firstThatCanDiffer(edits, now.given)}. Enter runs the text again under ${
        edits.length === 1 ? 'this edit' : 'these edits'}.` :
      '';
  };
  const runFork = async () => {
    const edits = model.get('pending') ?? [];
    if (!edits.length || !session || !node()?.run?.done) return;
    model.set('pending', []);
    key = '';
    if (!await session.fork(edits)) model.set('pending', edits);  // refused: to be mended
  };
  form.addEventListener('submit', event => {
    event.preventDefault();
    runFork();
  });
  list.addEventListener('keydown', event => {
    const step = {ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10}[event.key];
    const go = step ? active + step : event.key === 'Home' ? 0 : event.key === 'End' ? ranking.length - 1 : null;
    if (go !== null) {
      event.preventDefault();
      active = Math.max(0, Math.min(ranking.length - 1, go));
      draw();
      return;
    }
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const what = {' ': 'swap', b: 'ban', f: 'force'}[event.key];
    if (what) {
      event.preventDefault();
      pick(what);
      return;
    }
    if (event.key === 'm') {
      mark();
      return;
    }
    if (/^[1-9]$/.test(event.key) && Number(event.key) <= route.length) {
      slot = Number(event.key) - 1;
      draw();
      return;
    }
    if (event.key === 'Enter') {
      event.preventDefault();
      if (!(model.get('pending') ?? []).length) pick('swap');
      runFork();
    }
    if (event.key === 'Escape') model.tell('ask:grid');
  });
  slots.addEventListener('keydown', event => {
    const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (!step) return;
    event.preventDefault();
    slot = (slot + step + route.length) % route.length;
    draw();
    slots.querySelectorAll('button')[slot].focus();
  });
  weights.addEventListener('change', draw);
  layers.addEventListener('input', () => {
    layers.dataset.own = layers.value === String(cell().layer) ? '' : 'yes';
  });
  scope.addEventListener('change', () => {
    const {from: a, to: b} = model.get('range') ?? {from: cell().t, to: cell().t + 1};
    set(from, {value: String(a)});
    set(to, {value: String(b - 1)});
    draw();
  });
  const ask = onFrame(update), toList = () => {
    el.scrollIntoView({block: 'nearest'});
    (form.hidden ? title : list).focus();
  };
  const stops = [
    listen(model, 'node run position layer facts', ask), listen(model, 'pending', () => draw()),
    listen(
      model, 'range',
      () => {
        const {from: a, to: b} = model.get('range') ?? {};
        if (b - a > 1) {
          scope.value = 'tokens';
          from.value = String(a);
          to.value = String(b - 1);
        } else if (scope.value === 'tokens') {
          scope.value = 'token';
        }
        draw();
      })
  ];
  model.on('ask:cell', toList);
  model.on('ask:run', runFork);
  title.tabIndex = -1;
  ask();
  return () => {
    stops.forEach(stop => stop());
    model.off('ask:cell', toList);
    model.off('ask:run', runFork);
    ask.cancel();
  };
}
/** A token's route at every layer, as a table. */
export function renderTokenTable({model, el}) {
  const body = h('tbody'), caption = h('caption', {class: 'small soft'});
  fill(
    el,
    h('table', {class: 'numbers'}, caption,
      h('thead', {}, h('tr', {}, ['layer', 'experts · weights', 'margin'].map(text => h('th', {text, scope: 'col'})))),
      body));
  const draw = () => {
    const run = model.get('node')?.run, other = model.get('other')?.run, t = model.get('position') ?? -1;
    el.hidden = !run || t < 0 || t >= run.routes.rows;
    if (el.hidden || !el.closest('details')?.open) return;
    const {routes} = run;
    caption.textContent =
      `Token ${t} ${quoted(run.pieces[t] ?? '')} at every layer with a router. ${definitions.margin}`;
    fill(body, Array.from(routes.layers, (layer, l) => {
      const weights = routes.weightsAt(t, l);
      return h(
        'tr', {class: layer === model.get('layer') ? 'here' : ''}, h('th', {scope: 'row', text: String(layer)}),
        h('td', {},
          routes.experts(t, l).map(
            (e, i) => h('span', {
              class: other && t < other.routes.rows && !other.routes.has(t, l, e) ? 'pairing changed' : 'pairing',
              text: `${e} · ${number(weights[i], 3)}`
            }))),
        h('td', {text: number(routes.margin(t, l), 3)}));
    }));
  };
  const ask = onFrame(draw), stop = listen(model, 'node run position layer other', ask);
  el.closest('details')?.addEventListener('toggle', ask);
  ask();
  return () => {
    stop();
    ask.cancel();
  };
}
