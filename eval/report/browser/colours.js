// Colours that mean something, for light and for dark: a sequence for sizes, a diverging one around 0, and Okabe and Ito's
// eight, which people who see few colours tell apart, for at most eight chosen things.
const scales = {
  light: {size: ['#f1f4f8', '#8db9e6', '#1f6fc4', '#0a2c57'], change: ['#a34700', '#e0914f', '#f3f3f3', '#6ba3dc', '#0f4f96']},
  dark: {size: ['#1e242e', '#245488', '#5aa5f0', '#e3f0ff'], change: ['#ffb67d', '#b0672c', '#262c36', '#3474b5', '#9fd0ff']},
};
const scheme = () => scales[box.isDark() ? 'dark' : 'light'];
const through = stops => d3.piecewise(d3.interpolateLab, stops);

// 0 at lo, and the darkest (in dark mode the lightest) at hi.
box.sizeColour = (lo, hi) => {
  const colour = through(scheme().size);
  return value => colour(hi > lo ? Math.max(0, Math.min(1, (value - lo) / (hi - lo))) : 0);
};
// Orange below 0, blue above.
box.changeColour = most => {
  const colour = through(scheme().change);
  return value => colour(most > 0 ? Math.max(0, Math.min(1, 0.5 + value / (2 * most))) : 0.5);
};
box.noValue = () => box.isDark() ? '#14181f' : '#ffffff';

const chosen = ['#0072b2', '#e69f00', '#009e73', '#cc79a7', '#56b4e9', '#d55e00', '#f0e442', '#8a8f98'];
box.chosenColour = i => chosen[i % chosen.length];
// Evenly turned hues: a texture, not names; the number says which.
box.anyColour = (i, n) => d3.hcl(360 * ((i * 0.61803) % 1), 45, box.isDark() ? 45 + 12 * (i % 3) : 88 - 10 * (i % 3)).toString();
// Black or white, whichever is read better on a colour.
box.inkOn = colour => {
  const {r, g, b} = d3.rgb(colour), linear = v => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
  return 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b) > 0.18 ? '#000000' : '#ffffff';
};
