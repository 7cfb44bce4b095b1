// Steering: a vector added to the stream, by how much, where and when; and five doses of it side by side.
import {readSafetensors} from '../logic/arrays.js';
import {debounced} from '../logic/model.js';
import {textOf} from '../logic/results.js';
import {dosesOf, steeringEdit} from '../logic/spec.js';
import {button, field, filePicker, fill, h, listen, number, onFrame, options} from './dom.js';

export function renderSteering({model, el, session}) {
  const asset = h('input', {type: 'text', placeholder: 'directions.safetensors:layer.3.resid_out', spellcheck: false});
  const tensor = h('select', {}),
        point = options(
          h('select', {}),
          [
            ['resid_out', 'resid_out'], ['moe.out', 'moe.out'], ['attn.out', 'attn.out'], ['router.in', 'router.in'],
            ['resid_mid', 'resid_mid']
          ],
          'resid_out');
  const layers = h('input', {type: 'text', value: '', spellcheck: false}),
        scale = h('input', {type: 'range', min: -8, max: 8, step: 0.25, value: '1'}),
        scaleOut = h('output', {class: 'number'});
  const phase = options(
    h('select', {}), [['all', 'every token'], ['given', 'given tokens'], ['generated', 'generated tokens']], 'all');
  const known = options(h('select', {}), [], ''), knownField = field('Vector', known, {hidden: true});
  const strip = h('div', {class: 'doses', 'aria-live': 'off'}), problem = h('p', {class: 'problem', role: 'alert'}),
        note = h('p', {class: 'note small'});
  const tensorField = field('Tensor', tensor, {hidden: true});
  let file = null, control = null;
  const load = filePicker(
    'Read vectors from a file…', '.safetensors',
    async chosen => attempt(async () => {
      file = {name: chosen.name, content: readSafetensors(new Uint8Array(await chosen.arrayBuffer()))};
      const d = model.get('facts').dModel,
            names = Object.keys(file.content.tensors)
                      .filter(
                        name => file.content.tensors[name].shape.at(-1) === d &&
                          file.content.tensors[name].shape.reduce((a, b) => a * b, 1) === d);
      if (!names.length) {
        file = null;
        throw new Error(`${chosen.name}: expected a tensor of ${d} numbers, found none`);
      }
      options(tensor, names.map(name => [name, name]), names[0]);
      asset.value = '';
      follow();
    }));
  fill(
    el, h('div', {class: 'bar'}, h('h2', {text: 'Steering'})), h('p', {
      class: 'note small',
      text: 'Adds scale × vector at a point of the chosen layers.' +
        (model.get('vectors') ?
           '' :
           ' Vectors come from a file on this machine and travel inside the edit, or are named among the server’s assets (NAME:tensor).')
    }),
    h('div', {class: 'row'}, knownField, field('Asset', asset, {class: 'field grow'}), load, tensorField),
    h('div', {class: 'row'}, field('Point', point), field('Layers', layers), field('Tokens', phase)),
    h('div', {class: 'row'}, h('label', {class: 'inline grow'}, 'Scale ', scale, scaleOut),
      button('Five doses', () => run(), {class: 'primary'}), button('Stop', () => control?.abort())),
    note, problem, strip);
  const attempt = async act => {
    try {
      problem.textContent = '';
      await act();
    } catch (error) {
      if (error.name !== 'AbortError') problem.textContent = error.message;
    }
  };
  const follow = () => {
    tensorField.hidden = !file || asset.value !== '';
    const named =
      /(?:^|:)layer\.(\d+)\.(.+?)(?:\.(?:router|rest))?$/.exec(file && !asset.value ? tensor.value : asset.value);
    if (named) {
      layers.value = named[1];
      if ([...point.options].some(option => option.value === named[2])) point.value = named[2];
    }
    note.textContent = file && !asset.value ? `${tensor.value} of ${file.name}` : '';
  };
  const vector = () => {
    if (asset.value.trim()) return `asset:${asset.value.trim().replace(/^asset:/, '')}`;
    if (!file) throw new Error('vector: name an asset, or read a file');
    return Array.from(file.content.tensor(tensor.value).values);
  };
  const edit = dose => steeringEdit({
    point: point.value,
    layers: layers.value || String(model.get('layer')),
    vector: vector(),
    scale: dose,
    phase: phase.value
  });
  const run = () => attempt(async () => {
    const node = model.get('node');
    if (!node?.run?.done || node.opened) throw new Error('Run a text first: the doses are versions of it.');
    if (Number(scale.value) === 0) throw new Error('scale: expected another than 0');
    control?.abort();
    control = new AbortController();
    const doses = dosesOf(Number(scale.value));
    const branches =
      doses.map(dose => ({name: `dose ${dose}`, edits: [...node.edits, ...(dose === 0 ? [] : [edit(dose)])]}));
    const places = doses.map(dose => {
      const text = h('div', {class: 'text-box'});
      return {
        text,
        card:
          h('section', {class: 'dose', 'aria-label': `dose ${dose}`},
            h('h3', {text: `${dose > 0 ? '+' : ''}${number(dose, 2)}`}), text,
            dose === 0 || model.get('noForks') ?
              null :
              button('Keep as a fork', () => session.fork([edit(dose)], {parent: node})))
      };
    });
    fill(strip, places.map(place => place.card));
    const base = textOf(node.run).trim();
    await session.doses(node, branches, (i, text) => {
      places[i].text.textContent = text.trim();
    }, control.signal);
    for (const {text, card} of places) card.classList.toggle('same', text.textContent === base);
  });
  // What is set here, in the model: a notebook names the vectors, and wants to hear of it.
  const tell = () => model.set(
    'steering',
    {asset: asset.value, point: point.value, layers: layers.value, scale: Number(scale.value), phase: phase.value});
  const adopt = () => {
    const now = model.get('steering');
    if (!now) return;
    asset.value = now.asset ?? '';
    known.value = asset.value;
    scale.max = String(Math.max(8, Math.abs(now.scale)));
    scale.min = String(-Number(scale.max));
    for (const [name, input] of Object.entries({point, layers, scale, phase})) input.value = String(now[name]);
    ask();
  };
  const nameVectors = () => {
    const named = model.get('vectors') ?? [];
    knownField.hidden = !named.length;
    asset.parentElement.hidden = load.hidden = named.length > 0;
    options(known, named.map(([name, place]) => [place, name]), asset.value);
  };
  // Doses that are shown follow the controls; where a notebook asks for it they are there from the start.
  const again = debounced(() => {
    const live = strip.childElementCount || model.get('liveDoses');
    if (live && model.get('node')?.run?.done && Number(scale.value) !== 0) run();
  }, 150);
  const begin = () => {
    if (model.get('liveDoses') && !strip.childElementCount && model.get('node')?.run?.done) again();
  };
  known.addEventListener('change', () => {
    asset.value = known.value;
    follow();
  });
  asset.addEventListener('input', follow);
  tensor.addEventListener('change', follow);
  scale.addEventListener('input', () => {
    scaleOut.textContent = number(Number(scale.value));
  });
  for (const input of [known, asset, tensor, point, layers, scale, phase])
    input.addEventListener(input === scale ? 'input' : 'change', () => {
      tell();
      again();
    });
  const ask = onFrame(() => {
    scaleOut.textContent = number(Number(scale.value));
    layers.placeholder = String(model.get('layer') ?? '');
  });
  const stop = listen(model, 'layer facts', ask),
        stops = [listen(model, 'steering', adopt), listen(model, 'vectors', nameVectors), listen(model, 'run', begin)];
  nameVectors();
  adopt();
  begin();
  ask();
  return () => {
    stop();
    stops.forEach(one => one());
    again.cancel();
    ask.cancel();
    control?.abort();
  };
}
