// A grid of many cells: one pixel each in pictures off the screen, of which what is seen is enlarged. One cell is in
// the document, and has the focus; arrows move it, and a line that is read aloud says what it holds.
import {cssOf, hatchOf, inkOn} from '../logic/colours.js';
import {GridLayout, fittingStep, minimapScroll, minimapWindow, moved, tilesOf, zoomed} from '../logic/layout.js';
import {button, fill, h, isDark, onFrame, set, sized} from './dom.js';

const headHeight = 20;

/**
 * options: label; columnName, rowName; describe(c, r) → text; pick(c, r, event); key(event, c, r) → true if taken;
 * focus(c, r); minimap; leastWidth, mostHeight, cellHeight.
 */
export class CellGrid {
  constructor(el, options) {
    Object.assign(this, {
      el,
      options,
      data: null,
      tiles: [],
      at: {column: 0, row: 0},
      rested: true,
      cellWidth: 0,
      fitted: true,
      head: options.head ?? 46
    });
    this.canvas = h('canvas', {'aria-hidden': 'true'});
    this.cell = h('div', {class: 'cell-focus', role: 'gridcell', tabIndex: 0});
    this.row = h('div', {role: 'row'}, this.cell);
    this.grid = h('div', {role: 'grid', 'aria-label': options.label, class: 'cell-layer'}, this.row);
    this.space = h('div', {class: 'cell-space'});
    this.view = h('div', {class: 'cell-view'}, h('div', {class: 'cell-stick'}, this.canvas), this.space, this.grid);
    this.mini = h('canvas', {class: 'minimap', 'aria-hidden': 'true'});
    this.out = h('p', {class: 'read small', 'aria-live': 'polite'});
    this.zoomOut = h('span', {class: 'soft small'});
    const tools =
      h('div', {class: 'bar small'}, button('−', () => this.zoom(-1), {'aria-label': 'Zoom out'}),
        button('+', () => this.zoom(1), {'aria-label': 'Zoom in'}),
        button('Fit', () => this.fit(), {'aria-label': 'Fit to width'}), this.zoomOut);
    fill(el, options.tools === false ? null : tools, options.minimap ? this.mini : null, this.view, this.out);
    this.draw = onFrame(() => this.paint());
    this.view.addEventListener('scroll', () => {
      this.moving();
      this.draw();
    });
    this.view.addEventListener('pointermove', event => this.hover(event));
    this.view.addEventListener('pointerleave', () => {
      this.view.title = '';
    });
    this.view.addEventListener('click', event => this.click(event));
    this.view.addEventListener('wheel', event => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      this.zoom(event.deltaY < 0 ? 1 : -1);
    }, {passive: false});
    this.cell.addEventListener('keydown', event => this.keydown(event));
    this.cell.addEventListener('focus', () => this.say());
    const slide = event => {
      if (!(event.buttons & 1) && event.type !== 'click') return;
      const box = this.mini.getBoundingClientRect();
      this.view.scrollLeft = minimapScroll(this.layout(), event.clientX - box.left, box.width);
    };
    this.mini.addEventListener('pointerdown', slide);
    this.mini.addEventListener('pointermove', slide);
    this.resizer = new ResizeObserver(() => {
      this.measured = 0;
      this.draw();
    });
    this.resizer.observe(this.el);
  }
  close() {
    this.resizer.disconnect();
    this.draw.cancel();
    clearTimeout(this.timer);
    clearTimeout(this.speaker);
  }

  /**
   * data: columns, rows; rowLabel(r), columnLabel(c); colours(from, to, pixels): RGBA of columns [from, to), row by
   * row; number(c, r) or null; rgb(c, r) for ink on numbers; hatched: set of rows; lines: [{column, words}]; mark(c,
   * r). `keep`: columns painted before are still right.
   */
  show(data, keep = false) {
    this.data = data;
    if (!keep || this.tiles.length === 0 || this.tiles[0].rows !== data.rows) this.tiles = [];
    this.refit();
    this.at.column = Math.min(this.at.column, Math.max(0, data.columns - 1));
    this.at.row = Math.min(this.at.row, Math.max(0, data.rows - 1));
    set(this.grid, {'aria-rowcount': String(data.rows), 'aria-colcount': String(data.columns)});
    this.draw();
    if (this.out.textContent) this.say();  // what was read holds no more: another text, or more of it
  }
  /** Until somebody zooms the columns fill the room. */
  refit() {
    if (this.fitted) this.cellWidth = fittingStep(this.data.columns, this.room(), this.options.leastWidth ?? 6);
  }
  // Asked for at each frame: measured again only where the size changed.
  room() {
    this.measured ||= this.view.clientWidth;
    return Math.max(100, (this.measured || 800) - this.head);
  }
  layout() {
    const {columns, rows} = this.data, most = this.options.mostHeight ?? 460;
    const cellHeight = this.options.cellHeight ??
      Math.max(this.cellWidth >= 18 ? 18 : 7, Math.min(22, Math.floor(most / Math.max(1, rows))));
    return new GridLayout({
      columns,
      rows,
      cellWidth: this.cellWidth,
      cellHeight,
      width: this.room(),
      height: Math.min(most, rows * cellHeight)
    });
  }
  zoom(steps) {
    if (!this.data) return;
    const before = this.layout(), middle = (this.view.scrollLeft + before.width / 2) / before.cellWidth;
    this.fitted = false;
    this.cellWidth = zoomed(this.cellWidth, steps);
    this.place();
    this.view.scrollLeft = middle * this.cellWidth - before.width / 2;
    this.draw();
  }
  fit() {
    if (!this.data) return;
    this.fitted = false;
    this.cellWidth = fittingStep(this.data.columns, this.room(), 1);
    this.draw();
  }
  place() {
    const layout = this.layout();
    set(this.view, {style: {height: `${layout.height + headHeight + 14}px`}});
    set(
      this.space, {style: {width: `${this.head + layout.fullWidth}px`, height: `${headHeight + layout.fullHeight}px`}});
    return layout;
  }
  moving() {
    this.rested = false;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.rested = true;
      this.draw();
    }, 120);
  }
  makeTiles() {
    const {columns, rows, colours} = this.data;
    for (const [i, {from, to}] of tilesOf(columns).entries()) {
      const tile = this.tiles[i] ??= {canvas: document.createElement('canvas'), from, to: from, room: 0, rows};
      if (tile.to >= to) continue;
      if (tile.room < to - from) {  // grows with the text, by doubling
        const old = tile.to > from ? tile.canvas : null;
        tile.room = Math.min(4096, Math.max(to - from, 2 * tile.room, 256));
        tile.canvas = document.createElement('canvas');
        tile.canvas.width = tile.room;
        tile.canvas.height = rows;
        if (old) tile.canvas.getContext('2d').drawImage(old, 0, 0);
      }
      const image = new ImageData(to - tile.to, rows);
      colours(tile.to, to, image.data);
      tile.canvas.getContext('2d').putImageData(image, tile.to - from, 0);
      tile.to = to;
    }
  }
  paint() {
    if (!this.data || !this.el.isConnected || !this.el.offsetWidth) return;
    this.refit();
    const layout = this.place(),
          {columns, rows, rowLabel, columnLabel, number, rgb, hatched, lines = [], mark, band} = this.data;
    const style = getComputedStyle(this.el), dark = isDark(), x0 = this.view.scrollLeft, y0 = this.view.scrollTop;
    const width = this.head + layout.width, height = headHeight + layout.height;
    const context = sized(this.canvas, width, height);
    this.makeTiles();
    context.clearRect(0, 0, width, height);
    const [from, to] = layout.visibleColumns(x0), [top, bottom] = layout.visibleRows(y0),
                 {cellWidth, cellHeight} = layout;
    const left = c => this.head + c * cellWidth - x0, above = r => headHeight + r * cellHeight - y0;
    context.save();
    context.beginPath();
    context.rect(this.head, headHeight, layout.width, layout.height);
    context.clip();
    context.imageSmoothingEnabled = false;
    for (const tile of this.tiles) {
      const a = Math.max(from, tile.from), b = Math.min(to, tile.to);
      if (a < b)
        context.drawImage(
          tile.canvas, a - tile.from, top, b - a, bottom - top, left(a), above(top), (b - a) * cellWidth,
          (bottom - top) * cellHeight);
    }
    if (hatched?.size) {
      context.strokeStyle = hatchOf(dark);
      for (const r of hatched) {
        if (r < top || r >= bottom) continue;
        context.save();
        context.beginPath();
        context.rect(left(from), above(r), (to - from) * cellWidth, cellHeight);
        context.clip();
        context.beginPath();
        for (let x = left(from) - cellHeight; x < left(to); x += 7) {
          context.moveTo(x, above(r) + cellHeight);
          context.lineTo(x + cellHeight, above(r));
        }
        context.stroke();
        context.restore();
      }
    }
    if (cellWidth >= 8 && cellHeight >= 8) {  // a hair between cells
      context.strokeStyle = style.getPropertyValue('--back');
      context.lineWidth = 1;
      context.beginPath();
      for (let c = from; c <= to; ++c) {
        context.moveTo(left(c), above(top));
        context.lineTo(left(c), above(bottom));
      }
      for (let r = top; r <= bottom; ++r) {
        context.moveTo(left(from), above(r));
        context.lineTo(left(to), above(r));
      }
      context.stroke();
    }
    if (layout.numbersFit && this.rested && number) {
      context.font = `${Math.min(11, cellHeight - 5)}px system-ui, sans-serif`;
      context.textAlign = 'center';
      context.textBaseline = 'middle';
      for (let c = from; c < to; ++c)
        for (let r = top; r < bottom; ++r) {
          const words = number(c, r);
          if (words === null) continue;
          context.fillStyle = inkOn(rgb(c, r));
          context.fillText(words, left(c) + cellWidth / 2, above(r) + cellHeight / 2 + 0.5, cellWidth - 2);
        }
    }
    if (mark && cellWidth >= 6)
      this.marks(context, mark, {from, to, top, bottom, left, above, cellWidth, cellHeight, style});
    context.strokeStyle = style.getPropertyValue('--strong');
    for (const {column, row} of band ?? []) {
      context.lineWidth = 1.5;
      if (column !== undefined && column >= from && column < to)
        context.strokeRect(left(column) - 0.75, headHeight - 2, Math.max(3, cellWidth) + 1.5, layout.height + 4);
      if (row !== undefined && row >= top && row < bottom)
        context.strokeRect(
          this.head - 2, above(row) - 0.75, Math.min(layout.width, layout.fullWidth - x0) + 4, cellHeight + 1.5);
    }
    for (const {column} of lines) {
      if (column < from || column > to) continue;
      context.strokeStyle = style.getPropertyValue('--neg');
      context.lineWidth = 2;
      context.beginPath();
      context.moveTo(left(column), headHeight);
      context.lineTo(left(column), height);
      context.stroke();
    }
    context.restore();
    this.heads(context, layout, {from, to, top, bottom, left, above, rowLabel, columnLabel, style, lines});
    this.zoomOut.textContent = `${columns.toLocaleString('en')} × ${rows}`;
    this.placeFocus(layout);
    this.mini.hidden = layout.fullWidth <= layout.width;
    if (this.options.minimap && !this.mini.hidden) this.paintMini(layout, x0, dark, style);
  }
  /** Letters on cells: on a colour of their own (`colour`, a name of the style), or on the cell's (`rgb`). */
  marks(context, mark, {from, to, top, bottom, left, above, cellWidth, cellHeight, style}) {
    context.textAlign = 'center';
    context.textBaseline = 'middle';
    context.font = `700 ${Math.min(13, cellHeight - 2, cellWidth + 2)}px system-ui, sans-serif`;
    for (let c = from; c < to; ++c)
      for (let r = top; r < bottom; ++r) {
        const found = mark(c, r);
        if (!found) continue;
        context.fillStyle = found.rgb ? cssOf(found.rgb) : style.getPropertyValue(found.colour);
        context.fillRect(left(c) + 0.5, above(r) + 0.5, cellWidth - 1, cellHeight - 1);
        context.fillStyle = found.rgb ? inkOn(found.rgb) : style.getPropertyValue('--back');
        context.fillText(found.text, left(c) + cellWidth / 2, above(r) + cellHeight / 2 + 0.5);
      }
  }
  heads(context, layout, {from, to, top, bottom, left, above, rowLabel, columnLabel, style, lines}) {
    context.fillStyle = style.getPropertyValue('--soft');
    context.font = '11px system-ui, sans-serif';
    context.textBaseline = 'middle';
    context.textAlign = 'right';
    const rowStep = Math.max(1, Math.ceil(12 / layout.cellHeight));
    for (let r = Math.ceil(top / rowStep) * rowStep; r < bottom; r += rowStep)
      if (above(r) >= headHeight - 4)
        context.fillText(rowLabel(r), this.head - 5, above(r) + layout.cellHeight / 2, this.head - 6);
    context.textAlign = 'center';
    const needed = 8 + 7 * Math.max(String(columnLabel(Math.max(0, to - 1))).length, 2);
    let step = 1;
    for (const next of [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000]) {
      step = next;
      if (next * layout.cellWidth >= needed) break;
    }
    for (let c = Math.ceil(from / step) * step; c < to; c += step) {
      const x = left(c) + layout.cellWidth / 2;
      if (x >= this.head) context.fillText(columnLabel(c), x, headHeight / 2);
    }
    for (const {column, words} of lines) {
      if (column < from || column > to) continue;
      context.fillStyle = style.getPropertyValue('--neg');
      context.fillText(words, Math.max(this.head + 4, left(column)), headHeight - 4);
    }
  }
  paintMini(layout, x0, dark, style) {
    const width = this.measured || 800, height = Math.max(12, Math.min(40, this.data.rows * 2)),
          context = sized(this.mini, width, height);
    context.imageSmoothingEnabled = true;
    const scale = width / Math.max(1, this.data.columns);
    for (const tile of this.tiles)
      context.drawImage(
        tile.canvas, 0, 0, tile.to - tile.from, tile.rows, tile.from * scale, 0, (tile.to - tile.from) * scale, height);
    const {x, width: wide} = minimapWindow(layout, x0, width);
    context.fillStyle = dark ? 'rgba(255,255,255,.14)' : 'rgba(20,30,50,.10)';
    context.fillRect(0, 0, x, height);
    context.fillRect(x + wide, 0, width - x - wide, height);
    context.strokeStyle = style.getPropertyValue('--strong');
    context.lineWidth = 1.5;
    context.strokeRect(x + 0.75, 0.75, Math.max(2, wide - 1.5), height - 1.5);
  }
  placeFocus(layout) {
    const {x, y, width, height} = layout.rectangle(this.at.column, this.at.row);
    set(this.cell, {
      style: {
        left: `${this.head + x}px`,
        top: `${headHeight + y}px`,
        width: `${Math.max(4, width)}px`,
        height: `${height}px`
      },
      'aria-colindex': String(this.at.column + 1)
    });
    set(this.row, {'aria-rowindex': String(this.at.row + 1)});
    if (this.data.columns && this.data.rows)
      this.cell.setAttribute('aria-label', this.options.describe(this.at.column, this.at.row));
  }
  /** Moves the focused cell; scrolls to it. */
  go(column, row, quiet = false) {
    if (!this.data?.columns) return;
    this.at = {
      column: Math.max(0, Math.min(this.data.columns - 1, column)),
      row: Math.max(0, Math.min(this.data.rows - 1, row))
    };
    const layout = this.place(),
          to = layout.scrollTo(this.at.column, this.at.row, this.view.scrollLeft, this.view.scrollTop);
    if (to.x !== this.view.scrollLeft) this.view.scrollLeft = to.x;
    if (to.y !== this.view.scrollTop) this.view.scrollTop = to.y;
    this.placeFocus(layout);
    this.draw();
    if (!quiet) {
      this.options.focus?.(this.at.column, this.at.row);
      this.say();
    }
  }
  say() {
    clearTimeout(this.speaker);
    this.speaker = setTimeout(() => {
      const words = this.data?.columns ? this.options.describe(this.at.column, this.at.row) : '';
      if (this.out.textContent !== words) this.out.textContent = words;  // read once
    }, 150);
  }
  cellOf(event) {
    if (!this.data?.columns) return null;
    const box = this.view.getBoundingClientRect();
    const x = event.clientX - box.left - this.head, y = event.clientY - box.top - headHeight;
    return x < 0 || y < 0 ? null : this.layout().cellAt(x, y, this.view.scrollLeft, this.view.scrollTop);
  }
  hover(event) {
    const found = event.buttons ? null : this.cellOf(event);
    this.view.title = found ? this.options.describe(found.column, found.row) : '';
  }
  click(event) {
    const found = this.cellOf(event);
    if (!found) return;
    this.go(found.column, found.row);
    this.cell.focus({preventScroll: true});
    this.options.pick?.(found.column, found.row, event);
  }
  keydown(event) {
    const {column, row} = this.at;
    if (this.options.key?.(event, column, row)) {
      event.preventDefault();
      return;
    }
    if (event.key === '+' || event.key === '-') {
      event.preventDefault();
      this.zoom(event.key === '+' ? 1 : -1);
      return;
    }
    const to = this.data &&
      moved(this.at, event.key, event.ctrlKey, {columns: this.data.columns, rows: this.data.rows, page: 16});
    if (to && !event.altKey) {
      event.preventDefault();
      this.go(to.column, to.row);
      return;
    }
    if (event.key === 'Enter' || event.key === ' ') {
      event.preventDefault();
      this.options.pick?.(column, row, event);
    }
  }
}
