// Which tokens an expert takes, as a table to search.
box.draw.vocabulary = ({place, controls}) => {
  const rows = box.rowsOf(box.json('vocabulary')), layers = box.layersOf(rows);
  const most = 60, wanted = {layer: layers[Math.floor(layers.length / 2)], expert: '', text: ''};
  const fitting = () => rows.filter(row => row.layer === wanted.layer && (wanted.expert === '' || row.expert === Number(wanted.expert)) &&
    (wanted.text === '' || row.text.includes(wanted.text) || String(row.token) === wanted.text));
  const fill = () => {
    const found = fitting().sort((a, b) => b.count * b.pmi - a.count * a.pmi);
    const table = box.tableOfRows(found.length > 0 ? found.slice(0, most) : rows.slice(0, 1));
    if (found.length === 0) table.rows = [];
    table.rows = table.rows.map(row => row.map(cell => typeof cell === 'number' ? box.number(cell) : cell));
    place.textContent = '';
    const note = document.createElement('p');
    note.className = 'note small';
    note.textContent = `${Math.min(most, found.length)} of ${found.length} rows, the largest count \u00d7 pmi first`;
    place.append(note, box.tableOf(table));
  };
  const input = (text, key) => {
    const label = document.createElement('label'), element = document.createElement('input');
    element.type = 'search';
    element.addEventListener('input', () => { wanted[key] = element.value.trim(); fill(); });
    label.append(text + ' ', element);
    controls.append(label);
  };
  box.slider(controls, 'layer', layers, wanted.layer, now => { wanted.layer = now; fill(); });
  input('expert', 'expert');
  input('token has', 'text');
  fill();
  return {table: () => box.tableOfRows(rows)};
};
