// Every figure gets its tools: the picture as SVG and PNG, what is behind it as CSV and as a table on demand. A figure
// with data-draw is drawn here, by the function of that name in box.draw: it gets {figure, place, controls} and returns
// {table: () => ({columns, rows})} of what it shows at the moment; others have a block of CSV.
const addButton = (parent, text, action) => {
  const button = document.createElement('button');
  button.type = 'button';
  button.textContent = text;
  button.addEventListener('click', action);
  parent.append(button);
  return button;
};
box.addButton = addButton;

const addTable = (figure, tools, tableNow) => {
  let shown = null;
  const button = addButton(tools, 'data table', () => {
    if (shown) {
      shown.remove();
      shown = null;
    } else {
      const table = tableNow(), most = 2000;
      shown = document.createElement('div');
      shown.className = 'wide';
      shown.tabIndex = 0;  // keys scroll it
      shown.append(box.tableOf({columns: table.columns, rows: table.rows.slice(0, most)}));
      if (table.rows.length > most) shown.append(`The first ${most} of ${table.rows.length} rows; the CSV has all.`);
      figure.append(shown);
    }
    button.setAttribute('aria-expanded', shown ? 'true' : 'false');
  });
  button.setAttribute('aria-expanded', 'false');
};

const equip = (figure, drawing) => {
  const csv = figure.querySelector('script.csv');
  const tableNow = drawing && drawing.table ? drawing.table : csv ? () => box.readCsv(JSON.parse(csv.textContent)) : null;
  const tools = document.createElement('div');
  tools.className = 'tools';
  const name = figure.id || 'figure';
  const pictures = () => [...figure.querySelectorAll('svg')];
  // Of a picture for wide and one for narrow pages, the one that is seen.
  const seen = () => pictures().filter(svg => svg.getClientRects().length > 0);
  const each = save => seen().forEach((_, i, all) => save(all.length > 1 ? `${name}-${i + 1}` : name, () => seen()[i]));
  if (pictures().length > 0) {
    addButton(tools, 'save SVG', () => each((file, find) => box.saveFile(file + '.svg', box.svgText(find), 'image/svg+xml')));
    addButton(tools, 'save PNG', () => each((file, find) => box.savePng(file + '.png', find)));
  }
  if (tableNow) {
    addButton(tools, 'save CSV', () => box.saveFile(name + '.csv', box.writeCsv(tableNow()), 'text/csv'));
    addTable(figure, tools, tableNow);
  }
  figure.append(tools);
};

const drawn = figure => {
  const place = figure.querySelector('.place'), controls = document.createElement('div');
  controls.className = 'controls';
  place.before(controls);
  try {
    return box.draw[figure.dataset.draw]({figure, place, controls});
  } catch (error) {
    place.textContent = `This figure could not be drawn: ${error.message}`;
    console.error(error);
    return null;
  }
};

box.start = () => {
  box.startTheme();
  for (const table of document.querySelectorAll('table.sort')) box.sortable(table);
  for (const figure of document.querySelectorAll('figure')) equip(figure, figure.dataset.draw ? drawn(figure) : null);
  for (const wide of document.querySelectorAll('.wide'))  // so that keys scroll it
    if (wide.scrollWidth > wide.clientWidth) wide.tabIndex = 0;
  for (const text of document.querySelectorAll('pre')) text.tabIndex = 0;
  if (location.hash.length > 1) {  // figures have grown since the browser went there
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target) target.scrollIntoView();
  }
};
