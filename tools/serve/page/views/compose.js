// The prompt and how text is generated.
import {idsOf, seedAfter, settingsOf} from '../logic/requests.js';
import {button, field, fill, h, listen, number, options, set} from './dom.js';

export function renderCompose({model, el, session}) {
  const mode = options(h('select', {}), [['raw', 'raw text'], ['chat', 'chat'], ['ids', 'token ids']], 'raw');
  const prompt = h('textarea', {rows: 5, spellcheck: false}), system = h('input', {type: 'text'}),
        prefill = h('input', {type: 'text'});
  const maxTokens = h('input', {type: 'number', value: '48', min: 1}),
        temperature = h('input', {type: 'number', value: '0', min: 0, max: 2, step: 0.1}),
        topP = h('input', {type: 'number', value: '1', min: 0.01, max: 1, step: 0.01});
  const seed = h('input', {type: 'text', value: '0', inputMode: 'numeric', spellcheck: false, autocomplete: 'off'}),
        lock = h('input', {type: 'checkbox', checked: true}),
        samples = h('input', {type: 'number', value: '1', min: 1, max: 128}), ends = h('input', {type: 'checkbox'}),
        domain = h('input', {type: 'text', placeholder: 'none'});
  const run = h('button', {type: 'submit', class: 'primary', text: 'Run', title: 'Ctrl+Enter'}),
        stop = button('Stop', () => session.stop());
  const systemField = field('System', system, {hidden: true}),
        prefillField = field('Answer begins with', prefill, {hidden: true}),
        words = h('p', {class: 'problem', role: 'alert'});
  const form =
    h('form', {class: 'compose'}, field('Input', mode), systemField, field('Prompt', prompt), prefillField,
      h('div', {class: 'row three'}, field('Max tokens', maxTokens), field('Temperature', temperature),
        field('Top p', topP)),
      h('div', {class: 'row three'}, field('Seed', seed), field('Samples', samples), field('Domain', domain)),
      h('div', {class: 'checks small'}, h('label', {}, lock, ' keep this seed'),
        h('label', {}, ends, ' go on past an end token')),
      words, h('div', {class: 'buttons'}, run, stop));
  fill(el, h('h2', {text: 'Prompt'}), form);
  form.noValidate = true;  // said in words, by whichever key the text is run
  const settings = () => settingsOf({
    maxTokens: maxTokens.value,
    temperature: temperature.value,
    topP: topP.value,
    seed: seed.value,
    samples: samples.value,
    ignoreEos: ends.checked
  });
  const record = () => mode.value === 'ids' ?
    {tokens: idsOf(prompt.value)} :
    mode.value === 'raw' ?
    {prompt: prompt.value} :
    {
      messages: [
        ...(system.value ? [{role: 'system', content: system.value}] : []), {role: 'user', content: prompt.value},
        ...(prefill.value ? [{role: 'assistant', content: prefill.value}] : [])
      ]
    };
  const submit = async () => {
    words.textContent = '';
    try {
      if (!prompt.value) throw new Error('Prompt: expected some text.');
      if (!lock.checked) seed.value = String(crypto.getRandomValues(new Uint32Array(1))[0]);
      const {generate, samples: count} = settings(), given = record();
      const extra = domain.value.trim() ? {domain: domain.value.trim()} : {};
      for (let i = 0; i < count; ++i) {
        const own = seedAfter(generate.seed, i);
        const made =
          await session.start(given, {...generate, seed: own}, {...extra, ...(count > 1 ? {name: `seed ${own}`} : {})});
        if (!made?.run?.done) break;  // refused or stopped: so would the others be
      }
    } catch (error) {
      words.textContent = error.message;
      session.refuse();
      const wrong =
        [...form.querySelectorAll('label')].find(label => error.message.startsWith(`${label.textContent}:`));
      (wrong ? document.getElementById(wrong.htmlFor) : prompt).focus();
    }
  };
  form.addEventListener('submit', event => {
    event.preventDefault();
    submit();
  });
  prompt.addEventListener('keydown', event => {
    if (event.key === 'Enter' && event.ctrlKey) {
      event.preventDefault();
      submit();
    }
  });
  const show = () => {
    systemField.hidden = prefillField.hidden = mode.value !== 'chat';
  };
  mode.addEventListener('change', show);
  const busy = () => {
    stop.disabled = !session.running.size;
  };
  // A text that is taken up (a link, a reload) shows what it was made of.
  const follow = () => {
    const node = model.get('node');
    if (!node || node.opened || document.activeElement === prompt) return;
    const root = model.get('tree').root(node.id);
    if (root === follow.shown) return;
    follow.shown = root;
    const {prompt: text, messages, tokens} = root.record;
    mode.value = messages ? 'chat' : tokens ? 'ids' : 'raw';
    prompt.value = text ?? messages?.findLast(message => message.role === 'user')?.content ??
      (tokens ? JSON.stringify([...tokens]) : prompt.value);
    system.value = messages?.find(message => message.role === 'system')?.content ?? '';
    prefill.value = messages?.at(-1).role === 'assistant' ? messages.at(-1).content : '';
    set(maxTokens, {value: String(root.generate.maxTokens)});
    temperature.value = String(root.generate.temperature);
    topP.value = String(root.generate.topP ?? 1);
    if (root.generate.seed !== null) seed.value = String(root.generate.seed);
    ends.checked = Boolean(root.generate.ignoreEos);
    domain.value = root.domain ?? '';
    show();
  };
  const facts = () => {
    if (!model.get('facts')?.chat) mode.querySelector('[value=chat]').disabled = true;
  };
  const stops = [listen(model, 'busy run', busy), listen(model, 'node tree', follow), listen(model, 'facts', facts)];
  busy();
  follow();
  return () => stops.forEach(one => one());
}

/** What was said of a model in one line. */
export const wordsOfFacts = facts => `${facts.nLayers} layers, ${facts.layers.length} with a router · ${
  facts.nExperts} experts, ${facts.nActive} active · ${number(facts.parameters / 1e6, 1)} M parameters, ${
  number(facts.activeParameters / 1e6, 1)} M active`;
