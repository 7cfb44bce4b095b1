// All texts of a run: chosen by intervention, condition, what changed and words in them; baseline and edited text side
// by side, with what differs marked.
const page = 20;

const element = (parent, tag, style, content) => {
  const out = document.createElement(tag);
  if (style) out.className = style;
  if (content !== undefined) out.textContent = content;
  if (parent) parent.append(out);
  return out;
};

// Where two texts begin to differ and, from their ends, where they end to: whole code points, so that no half of one is
// marked.
box.difference = (a, b) => {
  const x = [...a], y = [...b];
  let begin = 0, end = 0;
  while (begin < x.length && begin < y.length && x[begin] === y[begin]) ++begin;
  while (end < x.length - begin && end < y.length - begin && x[x.length - 1 - end] === y[y.length - 1 - end]) ++end;
  const cut = list => [list.slice(0, begin), list.slice(begin, list.length - end), list.slice(list.length - end)]
    .map(part => part.join(''));
  return [cut(x), cut(y)];
};

const addMarked = (parent, [before, changed, after]) => {
  parent.append(before);
  if (changed) element(parent, 'mark', '', changed);
  parent.append(after);
};

const scoreText = value => value === null ? 'undefined' : box.short(value);

let texts = null;
const openTexts = () => texts = texts || (document.getElementById('texts-data') ? box.json('texts-data') : null);

// Has the page the text of a record under this intervention?
box.hasText = (id, intervention) => {
  const all = openTexts();
  if (!all) return false;
  const record = all.records.find(one => one.id === id);
  return Boolean(record && record.texts[all.interventions.indexOf(intervention)]);
};

box.draw.run_texts = ({place, controls}) => {
  const data = openTexts(), string = i => data.strings[i];
  const state = {intervention: 1, condition: '', change: 'any', words: '', from: 0};
  const textOf = (record, i) => record.texts[i] && {
    text: string(record.texts[i][0]), finish: string(record.texts[i][1]), scores: record.texts[i].slice(2)};
  const changes = (record, m) => {
    const before = record.texts[0][2 + m], after = record.texts[state.intervention][2 + m];
    return before === after ? '' : before === null || after === null ? 'other' : after > before ? 'up' : 'down';
  };
  const wanted = record => {
    if (!record.texts[state.intervention]) return false;
    if (state.condition !== '' && record.condition !== Number(state.condition)) return false;
    const changed = record.texts[state.intervention][0] !== record.texts[0][0];
    const [what, metric] = state.change.split(' ');
    if (what === 'text' && !changed) return false;
    if (what === 'same' && changed) return false;
    if (what === 'score' && !data.metrics.some((_, m) => changes(record, m))) return false;
    if ((what === 'up' || what === 'down') && changes(record, Number(metric)) !== what) return false;
    if (state.words === '') return true;
    const all = [record.id, string(record.question), string(record.prompt), string(record.texts[0][0]),
      string(record.texts[state.intervention][0])].join('\n').toLowerCase();
    return all.includes(state.words);
  };

  const addText = (parent, name, one, marked) => {
    const side = element(parent, 'div', 'side');
    element(side, 'div', 'note small', name + (one.finish === 'length' ? ' \u2014 cut off by max_tokens' : ''));
    const text = element(side, 'div', 'text');
    if (one.text === '') element(text, 'span', 'note', 'empty');
    else addMarked(text, marked);
  };
  const addRecord = record => {
    const item = element(place, 'article', 'record'), head = element(item, 'div', 'small');
    element(head, 'b', '', record.id);
    const condition = data.conditions[record.condition];
    if (condition) element(head, 'span', 'note', ' ' + condition);
    const question = string(record.question), prompt = string(record.prompt);
    element(item, 'div', 'text', question);
    if (prompt && prompt !== question) {
      const folded = element(item, 'details', 'small');
      element(folded, 'summary', '', 'prompt');
      element(folded, 'div', 'text', prompt);
    }
    const base = textOf(record, 0), one = textOf(record, state.intervention);
    const [before, after] = box.difference(base.text, one.text), sides = element(item, 'div', 'sides');
    addText(sides, data.interventions[0], base, before);
    addText(sides, data.interventions[state.intervention] + (base.text === one.text ? ' (the same text)' : ''), one, after);
    const scores = data.metrics.map((metric, m) => changes(record, m)
      ? `${metric} ${scoreText(base.scores[m])} \u2192 ${scoreText(one.scores[m])}`
      : `${metric} ${scoreText(base.scores[m])}`);
    element(item, 'div', 'note small', scores.join(' \u00b7 '));
    const intervention = data.interventions[state.intervention];
    if (box.hasTokens(record.id, intervention))
      box.linkTo(element(item, 'div', 'small'), 'tokens-shown', 'these texts token by token',
        () => box.showTokens(record.id, intervention));
  };

  const found = () => data.records.filter(wanted);
  const redraw = () => {
    const records = found();
    place.textContent = '';
    const shown = records.slice(state.from, state.from + page);
    const line = element(place, 'p', 'small', records.length === 0 ? 'No record is like that.' :
      `${state.from + 1} to ${state.from + shown.length} of ${records.length} such records, of ${data.records.length}. `);
    line.setAttribute('role', 'status');
    const move = by => () => { state.from += by; redraw(); };
    shown.forEach(addRecord);
    const more = element(place, 'p', 'controls');
    if (state.from > 0) box.addButton(more, 'previous', move(-page));
    if (state.from + page < records.length) box.addButton(more, 'next', move(page));
  };
  const showOne = (record, told) => {
    place.textContent = '';
    element(place, 'p', 'small', told);
    addRecord(record);
    box.addButton(element(place, 'p', 'controls'), 'back to the list', redraw);
  };
  const choose = key => value => { state[key] = key === 'intervention' ? Number(value) : value; state.from = 0; redraw(); };

  const interventions = box.choice(controls, 'intervention', data.interventions.map((name, i) => [i, name]).slice(1), 1, choose('intervention'));
  if (data.conditions.length > 1)
    box.choice(controls, 'records', [['', 'all'], ...data.conditions.map((name, i) => [i, name || 'no condition'])], '',
      choose('condition'));
  const choices = [['text', 'whose text changed'], ['score', 'with a changed score'],
    ...data.metrics.flatMap((metric, m) => [[`up ${m}`, `${metric} went up`], [`down ${m}`, `${metric} went down`]]),
    ['same', 'whose text is the same'], ['any', 'all']];
  // What changed comes first, where anything did.
  state.change = ['score', 'text', 'any'].find(change => { state.change = change; return found().length > 0; }) || 'any';
  box.choice(controls, 'shown', choices, state.change, choose('change'));
  const field = element(controls, 'input');
  field.type = 'search';
  field.placeholder = 'words in prompt or text';
  field.setAttribute('aria-label', 'words in prompt or text');
  field.addEventListener('input', () => choose('words')(field.value.toLowerCase()));
  box.addButton(controls, 'one at random', () => {
    const records = found();
    if (records.length === 0) return;
    showOne(records[Math.floor(Math.random() * records.length)], `One of ${records.length} such records, drawn at random.`);
  });
  redraw();
  box.showText = (id, intervention) => {
    state.intervention = data.interventions.indexOf(intervention);
    state.from = 0;
    interventions.value = state.intervention;
    showOne(data.records.find(record => record.id === id), 'The record that is shown token by token.');
  };

  return {table: () => ({
    columns: ['id', 'condition', 'intervention', 'question', 'baseline_text', 'text',
      ...data.metrics.flatMap(metric => ['baseline_' + metric, metric])],
    rows: found().map(record => {
      const base = textOf(record, 0), one = textOf(record, state.intervention);
      const value = x => x === null ? '' : x;
      return [record.id, data.conditions[record.condition], data.interventions[state.intervention],
        string(record.question), base.text, one.text,
        ...data.metrics.flatMap((_, m) => [value(base.scores[m]), value(one.scores[m])])];
    })})};
};
