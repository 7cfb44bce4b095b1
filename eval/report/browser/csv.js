// CSV as RFC 4180 says it: to a table of texts, and back.
box.readCsv = text => {
  const records = [];
  let record = [], field = '', quoted = false;
  const endField = () => { record.push(field); field = ''; };
  const endRecord = () => { endField(); records.push(record); record = []; };
  for (let i = 0; i < text.length; ++i) {
    const c = text[i];
    if (quoted) {
      if (c !== '"') field += c;
      else if (text[i + 1] === '"') { field += '"'; ++i; }
      else quoted = false;
    } else if (c === '"') quoted = true;
    else if (c === ',') endField();
    else if (c === '\n') endRecord();
    else if (c !== '\r') field += c;
  }
  if (field !== '' || record.length > 0) endRecord();
  return {columns: records[0] || [], rows: records.slice(1)};
};

// A text that a spreadsheet would take for a formula gets an apostrophe before it.
const csvField = value => {
  let text = value === null || value === undefined ? '' : String(value);
  if (/^[=+\-@\t]/.test(text) && !isFinite(text)) text = "'" + text;
  return /[",\r\n]/.test(text) ? '"' + text.replace(/"/g, '""') + '"' : text;
};
box.writeCsv = ({columns, rows}) => [columns, ...rows].map(row => row.map(csvField).join(',') + '\r\n').join('');
