// Fields by which a figure's reader chooses what it shows.
box.addChoice = (parent, label, options, chosen, onChange) => {
  const field = document.createElement('label'), select = document.createElement('select');
  for (const [value, text] of options) {
    const option = document.createElement('option');
    option.value = value;
    option.textContent = text;
    select.append(option);
  }
  select.value = chosen;
  select.addEventListener('change', () => onChange(select.value));
  field.append(label + ' ', select, ' ');
  parent.append(field);
  return select;
};

// The text of a condition: "" stands for all records together.
box.conditionText = condition => condition === '' ? 'all records' : condition;
