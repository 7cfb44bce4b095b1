// Light or dark, as the reader's system has it; always light on paper and in saved pictures. Pictures whose colours are
// computed here are told to draw themselves again.
const dark = matchMedia('(prefers-color-scheme: dark)');
const redraws = [];
box.isDark = () => dark.matches && !document.documentElement.classList.contains('light');
box.onTheme = redraw => redraws.push(redraw);
const setLight = on => {
  document.documentElement.classList.toggle('light', on);
  if (dark.matches) for (const redraw of redraws) redraw();
};
box.inLight = make => {
  setLight(true);
  try { return make(); } finally { setLight(false); }
};

box.startTheme = () => {
  dark.addEventListener('change', () => { for (const redraw of redraws) redraw(); });
  let closed = [];
  addEventListener('beforeprint', () => {
    closed = [...document.querySelectorAll('details:not([open])')];
    for (const details of closed) details.open = true;
    setLight(true);
  });
  addEventListener('afterprint', () => {
    for (const details of closed) details.open = false;
    setLight(false);
  });
};
