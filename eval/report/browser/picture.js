// What drawings share: an SVG in its place, drawn again when colours or the width change; controls; a line that reads out
// what the pointer or the keys are at.
box.picture = (place, width, height, label) => d3.select(place).append('svg')
  .attr('viewBox', `0 0 ${width} ${height}`).attr('width', width).attr('height', height)
  .attr('role', 'img').attr('aria-label', label);

// The width that a picture has here, of at most `most`.
box.widthOf = (place, most) => Math.max(300, Math.min(most, place.clientWidth || most));

// Calls draw() now and whenever the page's colours or width have changed; returns what draws it again.
box.keepDrawn = (place, draw) => {
  let width = 0;
  const redraw = () => {
    for (const svg of place.querySelectorAll('svg')) svg.remove();
    width = place.clientWidth;
    draw();
  };
  box.onTheme(redraw);
  addEventListener('resize', () => { if (Math.abs(place.clientWidth - width) > 20) redraw(); });
  redraw();
  return redraw;
};

const labelled = (controls, text, element) => {
  const label = document.createElement('label');
  label.append(text + ' ', element);
  controls.append(label);
  return element;
};

// A list to choose from; options: [[value, text], ...], of which action gets the value as a text. Nothing to choose: no
// list.
box.choice = (controls, text, options, value, action) => {
  const select = document.createElement('select');
  for (const [key, name] of options) select.add(new Option(name, key, false, String(key) === String(value)));
  select.addEventListener('change', () => action(select.value));
  if (options.length > 1) labelled(controls, text, select);
  return select;
};

// A slider over a list of values, here layers; it says which it is at.
box.slider = (controls, text, values, value, action) => {
  const input = document.createElement('input'), shown = document.createElement('output');
  input.type = 'range';
  input.min = 0;
  input.max = values.length - 1;
  input.value = Math.max(0, values.indexOf(value));
  const say = () => {
    shown.textContent = values[input.value];
    input.setAttribute('aria-valuetext', `${text} ${values[input.value]}`);
  };
  input.addEventListener('input', () => { say(); action(values[input.value]); });
  say();
  if (values.length > 1) labelled(controls, text, input).after(' ', shown);
  input.show = now => { input.value = Math.max(0, values.indexOf(now)); say(); };
  return input;
};

box.readout = place => {
  const line = document.createElement('p');
  line.className = 'readout small';
  line.setAttribute('aria-live', 'polite');
  place.after(line);
  return text => { line.textContent = text; };
};

// Numbers as people read them: a true minus, about three figures.
box.number = value => {
  if (value === null || value === undefined || Number.isNaN(value)) return '\u2013';
  const size = Math.abs(value);
  const text = Number.isInteger(value) ? String(value) : size >= 100 ? value.toFixed(0) : size >= 10 ? value.toFixed(1) :
    size >= 1 ? value.toFixed(2) : size >= 0.001 ? value.toFixed(3) : value.toPrecision(2);
  return text.replace('-', '\u2212');
};
box.percent = share => share === null || share === undefined ? '\u2013' : box.number(Math.round(share * 1e4) / 100) + ' %';

// Rows of a block of columns, {columns: {name: [...]}}; texts with few values are {levels, codes}.
box.rowsOf = block => {
  const names = Object.keys(block.columns);
  const lists = names.map(name => {
    const column = block.columns[name];
    return Array.isArray(column) ? column : column.codes.map(code => column.levels[code]);
  });
  return Array.from({length: block.rows}, (_, r) => Object.fromEntries(names.map((name, c) => [name, lists[c][r]])));
};
box.distinct = list => [...new Set(list)];
