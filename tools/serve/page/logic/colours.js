// Colours that mean something. Numbers name experts and colours group them: at most eight chosen experts have a colour
// and a mark of their own (Okabe and Ito's, told apart with any colour vision); all experts at once are a texture.
// Sizes run along one ramp that is even in lightness, differences along two with a neutral middle; both are made anew
// for dark.

export const chosenColours = ['#0072b2', '#e69f00', '#009e73', '#cc79a7', '#56b4e9', '#d55e00', '#f0e442', '#8a8f98'];
export const chosenMarks = ['A', 'B', 'C', 'D', 'E', 'F', 'G', 'H'];
export const mostChosen = chosenColours.length;

const stops = {
  light: {
    size: ['#f3f6fa', '#b5d0ec', '#5f9fd8', '#1d62ae', '#0a2c57'],
    change: ['#8f3a00', '#d98343', '#f2f2f2', '#6ba3dc', '#0f4f96'],
    none: '#ffffff',
    grey: '#dfe3ea',
    hatch: '#c3cad5'
  },
  dark: {
    size: ['#1b212b', '#204a78', '#2f7bc2', '#7fbaf2', '#e8f3ff'],
    change: ['#ffb67d', '#b0672c', '#2d3035', '#3b7cbd', '#a9d4ff'],
    none: '#12161d',
    grey: '#333b48',
    hatch: '#3d4655'
  },
};

/** '#rrggbb' to [r, g, b] of 0 to 255. */
export const rgbOf = hex => [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16));
export const hexOf = rgb =>
  '#' + rgb.map(v => Math.round(Math.max(0, Math.min(255, v))).toString(16).padStart(2, '0')).join('');

const linear = v => {
  v /= 255;
  return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
};
const coded = v => 255 * (v <= 0.0031308 ? 12.92 * v : 1.055 * v ** (1 / 2.4) - 0.055);

/** sRGB to Oklab (Ottosson 2020), whose first number is lightness of 0 to 1. */
export function labOf(rgb) {
  const [r, g, b] = rgb.map(linear);
  const l = Math.cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b);
  const m = Math.cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b);
  const s = Math.cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b);
  return [
    0.2104542553 * l + 0.793617785 * m - 0.0040720468 * s, 1.9779984951 * l - 2.428592205 * m + 0.4505937099 * s,
    0.0259040371 * l + 0.7827717662 * m - 0.808675766 * s
  ];
}
export function rgbOfLab([L, a, b]) {
  const l = (L + 0.3963377774 * a + 0.2158037573 * b) ** 3, m = (L - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (L - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s, -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s
  ].map(v => coded(Math.max(0, Math.min(1, v))));
}

const between = (colours, at) => {
  const labs = colours.map(c => labOf(rgbOf(c))), place = Math.max(0, Math.min(1, at)) * (labs.length - 1);
  const i = Math.min(labs.length - 2, Math.floor(place)), part = place - i;
  return rgbOfLab(labs[i].map((v, j) => v + part * (labs[i + 1][j] - v)));
};
const tables = new Map();
const table = (key, make) => {
  if (!tables.has(key)) tables.set(key, make());
  return tables.get(key);
};
const theme = dark => stops[dark ? 'dark' : 'light'];

/** 256 colours for sizes, 0 the background's, as bytes r, g, b. */
export const sizeTable = dark => table(
  'size' + dark,
  () =>
    Uint8Array.from({length: 768}, (_, i) => Math.round(between(theme(dark).size, Math.floor(i / 3) / 255)[i % 3])));
/** 256 colours for differences; 128 is none, below it orange, above blue. */
export const changeTable = dark => table(
  'change' + dark,
  () =>
    Uint8Array.from({length: 768}, (_, i) => Math.round(between(theme(dark).change, Math.floor(i / 3) / 255)[i % 3])));

/** A table of `n` colours, neighbours in it as far apart as may be: greedy, each the farthest from those before it. */
export function textureTable(n, dark) {
  return table(`texture${n}${dark}`, () => {
    const found = [], distance = [];
    const candidates = [];
    for (const L of dark ? [0.42, 0.5, 0.58, 0.66] : [0.68, 0.75, 0.82, 0.88])
      for (const C of [0.045, 0.085, 0.125])
        for (let h = 0; h < 360; h += 12) {
          const lab = [L, C * Math.cos(h * Math.PI / 180), C * Math.sin(h * Math.PI / 180)];
          const rgb = rgbOfLab(lab).map(Math.round), real = labOf(rgb);
          if (Math.hypot(...real.map((v, i) => v - lab[i])) < 0.02) candidates.push({rgb, lab: real});
        }
    for (const _ of candidates) distance.push(Infinity);
    let next = 0;
    for (let i = 0; i < n; ++i) {
      found.push(...candidates[next].rgb);
      let farthest = -1;
      for (let c = 0; c < candidates.length; ++c) {
        distance[c] =
          Math.min(distance[c], Math.hypot(...candidates[c].lab.map((v, j) => v - candidates[next].lab[j])));
        if (distance[c] > farthest) { farthest = distance[c]; }
      }
      next = distance.indexOf(farthest);
      if (farthest <= 0) distance.fill(Infinity);  // all used: once more from the beginning
    }
    return Uint8Array.from(found);
  });
}

export const sizeColour = (value, most, dark) => at(sizeTable(dark), most > 0 ? value / most : 0);
/** Blue above 0, orange below; `most` is the end of both. */
export const changeColour = (value, most, dark) => at(changeTable(dark), most > 0 ? 0.5 + value / (2 * most) : 0.5);
const at = (bytes, part) => {
  const i = 3 * Math.round(255 * Math.max(0, Math.min(1, part)));
  return [bytes[i], bytes[i + 1], bytes[i + 2]];
};
export const cssOf = ([r, g, b]) => `rgb(${r},${g},${b})`;
export const greyOf = dark => rgbOf(theme(dark).grey);
export const hatchOf = dark => theme(dark).hatch;
export const noneOf = dark => rgbOf(theme(dark).none);

const luminance = rgb => {
  const [r, g, b] = rgb.map(linear);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
/** WCAG's contrast of two colours. */
export function contrast(a, b) {
  const [high, low] = [luminance(a), luminance(b)].sort((x, y) => y - x);
  return (high + 0.05) / (low + 0.05);
}
/** Black or white, whichever is read better on a colour. */
export const inkOn = rgb => luminance(rgb) > 0.179 ? '#000000' : '#ffffff';
