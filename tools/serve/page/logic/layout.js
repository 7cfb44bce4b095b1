// Where cells, tiles and blocks of tokens lie. No drawing.

export const tileWidth = 4096;  // browsers cap canvases between 32,767 and 65,535 pixels
export const tilesOf = columns => Array.from(
  {length: Math.ceil(columns / tileWidth)},
  (_, i) => ({from: i * tileWidth, to: Math.min(columns, (i + 1) * tileWidth)}));

/** Steps of the zoom, in pixels a column. */
export const zoomSteps = [1, 2, 3, 4, 6, 8, 12, 18, 24, 32];
/** The next step from `width`, in or out; the same at the ends. */
export function zoomed(width, steps) {
  let i = zoomSteps.findIndex(step => step >= width);
  if (i < 0) i = zoomSteps.length - 1;
  return zoomSteps[Math.max(0, Math.min(zoomSteps.length - 1, i + steps))];
}
/** The step at which `columns` just fit into `room`, at least `least`. */
export function fittingStep(columns, room, least = 1) {
  let best = zoomSteps[0];
  for (const step of zoomSteps)
    if (step * columns <= room) best = step;
  return Math.max(best, least);
}

/** The grid's geometry: cells from the left edge of what scrolls, headers aside. */
export class GridLayout {
  constructor({columns, rows, cellWidth, cellHeight, width, height}) {
    Object.assign(this, {columns, rows, cellWidth, cellHeight, width, height});
  }
  get fullWidth() { return this.columns * this.cellWidth; }
  get fullHeight() { return this.rows * this.cellHeight; }
  /** Columns [from, to) that a scroll position shows, partly shown ones too. */
  visibleColumns(scrollX) { return this.span(scrollX, this.width, this.cellWidth, this.columns); }
  visibleRows(scrollY) { return this.span(scrollY, this.height, this.cellHeight, this.rows); }
  span(scroll, room, size, count) {
    const from = Math.max(0, Math.min(count, Math.floor(scroll / size)));
    return [from, Math.max(from, Math.min(count, Math.ceil((scroll + room) / size)))];
  }
  /** The cell below a point of the viewport; null beside them. */
  cellAt(x, y, scrollX, scrollY) {
    const column = Math.floor((x + scrollX) / this.cellWidth), row = Math.floor((y + scrollY) / this.cellHeight);
    return column >= 0 && column < this.columns && row >= 0 && row < this.rows ? {column, row} : null;
  }
  rectangle(column, row) {
    return {x: column * this.cellWidth, y: row * this.cellHeight, width: this.cellWidth, height: this.cellHeight};
  }
  /** Where to scroll so that a cell is seen, with a little of its neighbours. */
  scrollTo(column, row, scrollX, scrollY) {
    const fit = (at, size, scroll, room, full) => {
      const margin = Math.min(size, room / 4);
      let to = scroll;
      if (at - margin < scroll) to = at - margin;
      if (at + size + margin > to + room) to = at + size + margin - room;
      return Math.max(0, Math.min(to, Math.max(0, full - room)));
    };
    return {
      x: fit(column * this.cellWidth, this.cellWidth, scrollX, this.width, this.fullWidth),
      y: fit(row * this.cellHeight, this.cellHeight, scrollY, this.height, this.fullHeight)
    };
  }
  /** Numbers are drawn where they can be read. */
  get numbersFit() { return this.cellWidth >= 18 && this.cellHeight >= 14; }
}

/** A minimap of `columns` in `width` pixels: the window that is seen, and which column a pixel means. */
export const minimapWindow = (layout, scrollX, width) => ({
  x: width * scrollX / Math.max(1, layout.fullWidth),
  width: Math.max(3, width * Math.min(1, layout.width / Math.max(1, layout.fullWidth))),
});
export const minimapScroll = (layout, x, width) =>
  Math.max(0, Math.min(layout.fullWidth - layout.width, layout.fullWidth * x / width - layout.width / 2));

/** Moves of a grid's focus, as the ARIA practice has them. Null for other keys. */
export function moved({column, row}, key, ctrl, {columns, rows, page}) {
  const at = (c, r) => ({column: Math.max(0, Math.min(columns - 1, c)), row: Math.max(0, Math.min(rows - 1, r))});
  switch (key) {
    case 'ArrowLeft':
      return at(column - 1, row);
    case 'ArrowRight':
      return at(column + 1, row);
    case 'ArrowUp':
      return at(column, row - 1);
    case 'ArrowDown':
      return at(column, row + 1);
    case 'PageUp':
      return at(column - page, row);
    case 'PageDown':
      return at(column + page, row);
    case 'Home':
      return ctrl ? at(0, 0) : at(0, row);
    case 'End':
      return ctrl ? at(columns - 1, rows - 1) : at(columns - 1, row);
    default:
      return null;
  }
}

/**
 * Tokens in blocks of about `size`, ending behind a line where there is one near: a block that is out of sight is not
 * in the document.
 */
export function blocksOf(pieces, size = 240, from = 0) {
  const blocks = [];
  for (let start = from; start < pieces.length;) {
    let end = Math.min(pieces.length, start + size);
    if (end < pieces.length)
      for (let i = end; i > start + size / 2; --i)
        if (pieces[i - 1].includes('\n')) {
          end = i;
          break;
        }
    blocks.push({from: start, to: end});
    start = end;
  }
  return blocks;
}
/** About how high a block is before it is drawn. */
export function blockHeight(pieces, {from, to}, width, line = 34, character = 8.2) {
  let lines = 1, x = 0;
  for (let i = from; i < to; ++i) {
    x += pieces[i].length * character + 3;
    if (x > width || pieces[i].includes('\n')) {
      ++lines;
      x = 0;
    }
  }
  return lines * line;
}
