// Tables of class "sort": a heading sorts by its column, again the other way round. Numbers as numbers, undefined last.
box.sortable = table => {
  const heads = [...table.rows[0].cells];
  const keyOf = (row, c) => {
    const text = row.cells[c].textContent.trim();
    if (!heads[c].classList.contains('n')) return text;
    const value = parseFloat(text.replace(/^</, '').replace('\u2212', '-'));
    return isNaN(value) ? null : value;
  };
  heads.forEach((head, c) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener('click', () => {
      const down = head.getAttribute('aria-sort') !== 'descending';
      heads.forEach(other => other.removeAttribute('aria-sort'));
      head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
      const rows = [...table.rows].slice(1).map(row => [keyOf(row, c), row]);
      const undefinedLast = (x, y) => (x === null ? 1 : 0) - (y === null ? 1 : 0);
      rows.sort(([x], [y]) => x === null || y === null ? undefinedLast(x, y) : (x < y ? -1 : x > y ? 1 : 0) * (down ? -1 : 1));
      for (const [, row] of rows) row.parentNode.append(row);
    });
  });
};

// A new table of texts and numbers; columns whose cells are all numbers, as they are or as box.number writes them, or empty,
// are numeric.
box.tableOf = ({columns, rows}) => {
  const table = document.createElement('table');
  table.className = 'sort';
  const isNumber = cell => cell === null || cell === undefined ||
    isFinite(String(cell).replace(/^\u2013$/, '').replace('\u2212', '-'));
  const numeric = columns.map((_, c) => rows.every(row => isNumber(row[c])));
  const addRow = (parent, tag, cells) => {
    const row = parent.insertRow();
    cells.forEach((cell, c) => {
      const element = document.createElement(tag);
      element.textContent = cell;
      if (numeric[c]) element.className = 'n';
      if (tag === 'th') element.scope = 'col';
      row.append(element);
    });
  };
  addRow(table.createTHead(), 'th', columns);
  const body = table.createTBody();
  for (const row of rows) addRow(body, 'td', row);
  box.sortable(table);
  return table;
};
