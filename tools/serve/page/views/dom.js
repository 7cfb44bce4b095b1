// Elements. Text is text and never markup: tokens contain what looks like it.

/** An element with properties, listeners (`onclick`), attributes, and children: nodes or text. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  set(element, properties);
  element.append(...children.flat().filter(child => child !== null && child !== undefined && child !== false));
  return element;
}
export function set(element, properties) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith('on'))
      element.addEventListener(name.slice(2), value);
    else if (name === 'text')
      element.textContent = value;
    else if (name === 'class')
      element.className = value;
    else if (name === 'style')
      Object.assign(element.style, value);
    else if (name.startsWith('aria-') || name === 'role' || name === 'for' || name === 'list')
      element.setAttribute(name, value);
    else if (name in element)
      element[name] = value;
    else
      element.setAttribute(name, value === true ? '' : value);
  }
  return element;
}
export const fill = (element, ...children) => element.replaceChildren(...children.flat().filter(Boolean));
export const button = (text, onclick, properties = {}) => h('button', {type: 'button', text, onclick, ...properties});

let labels = 0;
/** A field with its label. */
export function field(label, input, properties = {}) {
  input.id ||= `field-${++labels}`;
  return h('div', {class: 'field', ...properties}, h('label', {for: input.id, text: label
           }), input);
}
export const options = (select, entries, value) => {
  fill(select, entries.map(([key, words]) => h('option', {value: key, text: words, selected: key === value})));
  return select;
};

/** Calls `draw` once before the next frame, however often it is asked for. */
export function onFrame(draw) {
  let asked = 0;
  const ask = () => {
    asked ||= requestAnimationFrame(() => {
      asked = 0;
      draw();
    });
  };
  ask.cancel = () => {
    cancelAnimationFrame(asked);
    asked = 0;
  };
  return ask;
}
/** Listens to a model; what it gives stops that. */
export function listen(model, names, act) {
  const events = names.split(' ').map(name => `change:${name}`).join(' ');
  model.on(events, act);
  return () => model.off(events, act);
}

/** A surrounding that knows (a notebook) says it in `dark`; else the page's own choice and the system's hold. */
export const surrounding = {
  dark: null
};
export const isDark = () => {
  if (surrounding.dark !== null) return surrounding.dark;
  const {classList} = document.documentElement;
  return classList.contains('dark') ||
    (!classList.contains('light') && matchMedia('(prefers-color-scheme: dark)').matches);
};
/** The element with the focus, also where a view stands in a shadow tree. */
export const focusOf = el => el.getRootNode().activeElement;
export const number = (value, digits = 2) => Number.isFinite(value) ? value.toFixed(digits).replace('-', '−') : '–';

/** A canvas of a size in CSS pixels, sharp on any screen; gives its context. */
export function sized(canvas, width, height) {
  const ratio = Math.min(3, devicePixelRatio || 1), w = Math.max(1, Math.round(width * ratio)),
        t = Math.max(1, Math.round(height * ratio));
  if (canvas.width !== w || canvas.height !== t) {
    canvas.width = w;
    canvas.height = t;
  }
  Object.assign(canvas.style, {width: `${width}px`, height: `${height}px`});
  const context = canvas.getContext('2d');
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return context;
}
export const download = (name, content, type = 'text/plain') => {
  const link = h('a', {href: URL.createObjectURL(new Blob([content], {type})), download: name});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
};
/** A file that the user chooses; `read(file)` may be asynchronous. */
export function filePicker(text, accept, read, properties = {}) {
  const input = h('input', {type: 'file', accept, class: 'hidden', tabIndex: -1, 'aria-hidden': 'true', ...properties});
  input.addEventListener('change', async () => {
    const files = [...input.files];
    input.value = '';
    if (files.length) await read(properties.multiple ? files : files[0]);
  });
  return h('span', {class: 'picker'}, button(text, () => input.click()), input);
}
