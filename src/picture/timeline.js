(() => {
  const by = id => document.getElementById(id);
  const [picture, over, stage, tip] = ['picture', 'over', 'stage', 'tip'].map(by);
  const {rows, axis, ticks, reasons, zones, zone_size: zoneSize} = DATA;
  const columns = axis.columns;
  const inTime = DATA.unit === 'ns';
  const NAMES = [['write'], ['read'], ['reset'], ['finish', 'finishes'], ['other request'], ['refused', 'refused']];

  const {levels, lines, occurs} = unpackCells(rows, columns, DATA.cells);
  const totals = unpackColumns(columns, DATA.columns);
  const columnOf = at => Math.min(columns - 1, Math.floor(at / axis.step));
  for (const tick of ticks) tick.column = columnOf(tick.at);
  const flushed = totals.some(one => one.flushes);

  /* Zones that nothing happened to, before a row, or behind the last one. */
  const foldBefore = r => {
    const first = r > 0 ? rows[r - 1].last + 1 : 0;
    const end = r < rows.length ? rows[r].first : zones;
    return end > first ? {first, last: end - 1} : null;
  };

  /* Words. */
  const seconds = (ns, step) => {
    const [unit, name] = axis.len < 2e3 ? [1, 'ns'] : axis.len < 2e6 ? [1e3, 'µs'] : axis.len < 2e9 ? [1e6, 'ms'] : [1e9, 's'];
    const digits = Math.max(0, Math.min(9, Math.ceil(-Math.log10(step / unit))));
    return `${(ns / unit).toLocaleString('en', {minimumFractionDigits: digits, maximumFractionDigits: digits})} ${name}`;
  };
  const when = column => {
    const from = column * axis.step;
    if (inTime) return `${seconds(from, axis.step)} after the first request`;
    const to = Math.min(axis.len, from + axis.step) - 1;
    if (to === 0) return 'request:0, the beginning';
    return from === to ? `request:${from}` : `request:${from} to request:${to}`;
  };
  const TICKS = {
    mark: text => `mark: ${text}`, fault: text => `fault: ${text}`, cut: () => 'power cut', back: () => 'the power is back',
    reset: () => 'device reset', session: () => 'another daemon goes on', end: text => text,
  };
  const tickText = tick => TICKS[tick.kind](tick.text);
  const range = (first, last) => first === last ? `zone ${whole(first)}` : `zones ${whole(first)} to ${whole(last)}`;
  const percent = (part, all) => `${(100 * part / all).toFixed(1)} %`;
  const find = (cells, column) => {
    let low = 0, high = cells.length;
    while (low < high) {
      const middle = low + high >> 1;
      if (cells[middle].column <= column) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  };
  const stateOf = (row, value) => {
    if (row.conventional) return 'conventional: no write pointer';
    if (value === 0) return 'how far it is written is not known yet';
    const written = (value - 1) * 512;
    const share = `${inBytes(written)} of ${inBytes(row.capacity)} written (${percent(written, row.capacity)})`;
    if (row.zones > 1) return share;
    const state = written === 0 ? 'empty' : written >= row.capacity ? 'full' : 'active';
    return `${state}, ${share}; write pointer at sector ${whole((row.first * zoneSize + written) / 512)}`;
  };
  const describe = ({row: r, column}) => {
    const row = rows[r], line = lines[r], at = find(line.cells, column);
    const value = at < 0 ? line.begin : line.cells[at].value;
    const name = range(row.first, row.last) + (row.zones > 1 && row.zones < row.last - row.first + 1 ? `, ${whole(row.zones)} touched` : '');
    const told = [stateOf(row, value)];
    if (at >= 0 && line.cells[at].column === column) {
      const {counts, bytes, reason} = line.cells[at];
      counts.forEach((count, kind) => {
        if (!count) return;
        const extra = kind === WRITES ? `, ${inBytes(bytes)}` : kind === REFUSED ? `: ${count > 1 ? 'the last ' : ''}${reasons[reason] || ''}` : '';
        told.push(plural(count, ...NAMES[kind]) + extra);
      });
    }
    if (totals[column].flushes) told.push(plural(totals[column].flushes, 'flush', 'flushes') + ' of the disk');
    for (const tick of ticks.filter(one => one.column === column).slice(0, 4)) told.push(tickText(tick));
    return {name, when: when(column), told};
  };

  /* Drawing. */
  let colours;
  const rgb = hex => [1, 3, 5].map(at => parseInt(hex.slice(at, at + 2), 16));
  const readColours = () => {
    const list = name => cssValue(name).split(/\s+/);
    colours = {};
    for (const name of ['ink', 'soft', 'line', 'page', 'panel', 'reset', 'finish', 'refused', 'mark', 'cut', 'reads', 'changes', 'halo', 'focus']) colours[name] = cssValue('--' + name);
    const stops = list('--ramp').map(rgb);
    colours.ramp = [];
    for (let at = 0; at <= FULL; at++) {
      /* What holds anything is told from what is empty. */
      const place = at === 0 ? 0 : (0.12 + 0.88 * at / FULL) * (stops.length - 1);
      const low = Math.min(stops.length - 2, Math.floor(place));
      colours.ramp.push(stops[low].map((one, i) => Math.round(one + (stops[low + 1][i] - one) * (place - low))));
    }
    colours.unknown = list('--unknown').map(rgb);
    colours.conventional = list('--conventional').map(rgb);
  };
  const colourOf = (r, column) => {
    const one = levels[r * columns + column];
    return one <= FULL ? colours.ramp[one] : one === UNKNOWN ? colours.unknown[(column + r) >> 2 & 1] : colours.conventional[one - IDLE];
  };
  /* The cells in view: a pixel each, or the mean of those that share one. */
  const paint = most => {
    const count = view.c1 - view.c0, wide = Math.max(1, Math.min(count, most)), high = Math.max(1, view.r1 - view.r0);
    const image = new ImageData(wide, high);
    for (let r = view.r0; r < view.r1; r++) {
      for (let at = 0; at < wide; at++) {
        const from = view.c0 + Math.floor(at * count / wide), to = view.c0 + Math.floor((at + 1) * count / wide);
        let [red, green, blue] = [0, 0, 0];
        for (let column = from; column < to; column++) {
          const colour = colourOf(r, column);
          red += colour[0];
          green += colour[1];
          blue += colour[2];
        }
        const of = Math.max(1, to - from);
        image.data.set([red / of, green / of, blue / of, 255], ((r - view.r0) * wide + at) * 4);
      }
    }
    const canvas = document.createElement('canvas');
    canvas.width = wide;
    canvas.height = high;
    canvas.getContext('2d').putImageData(image, 0, 0);
    return canvas;
  };

  const everything = () => ({c0: 0, c1: columns, r0: 0, r1: rows.length});
  let view = everything(), place, cursor = null, drag = null;
  const FONT = '11px system-ui, -apple-system, "Segoe UI", sans-serif';

  const layOut = () => {
    const width = Math.max(280, stage.clientWidth);
    const last = rows.length ? whole(rows[rows.length - 1].first) : '0';
    const left = Math.max(34, 14 + last.length * 6.5), right = 10;
    const count = Math.max(1, view.r1 - view.r0);
    const folds = [];
    for (let r = view.r0; r <= view.r1; r++) {
      const fold = (r < view.r1 || r === rows.length) && (r > view.r0 || r === 0) ? foldBefore(r) : null;
      if (fold) folds.push({...fold, r});
    }
    const foldHeight = folds.length <= 12 ? 17 : folds.length <= 60 ? 5 : 0;
    const room = Math.max(300, Math.min(720, innerHeight - 330));
    const rowHeight = Math.max(2, Math.min(28, Math.floor(room / count)));
    const chart = 46, lane = ticks.length ? 19 : 4;
    const top = chart + lane;
    let y = top;
    const tops = [];
    for (let r = view.r0; r <= view.r1; r++) {
      const fold = folds.find(one => one.r === r);
      if (fold) {
        fold.y = y;
        y += foldHeight;
      }
      tops.push(y);
      if (r < view.r1) y += rowHeight;
    }
    const bottom = y;
    const height = bottom + (flushed ? 10 : 2) + 36;
    const scale = Math.min(3, devicePixelRatio || 1);
    return {scale, width, height, left, right, top, bottom, tops, folds, foldHeight, rowHeight, chart, lane, plot: width - left - right};
  };
  const x = column => place.left + (column - view.c0) * place.plot / (view.c1 - view.c0);
  const context = canvas => {
    const {scale} = place;
    canvas.width = Math.round(place.width * scale);
    canvas.height = Math.round(place.height * scale);
    canvas.style.height = place.height + 'px';
    const to = canvas.getContext('2d');
    to.setTransform(scale, 0, 0, scale, 0, 0);
    to.font = FONT;
    return to;
  };

  const shapes = {
    reset: (to, cx, cy, s) => { to.moveTo(cx - s, cy - s * .8); to.lineTo(cx + s, cy - s * .8); to.lineTo(cx, cy + s * .8); to.closePath(); },
    finish: (to, cx, cy, s) => { to.moveTo(cx - s, cy + s * .8); to.lineTo(cx + s, cy + s * .8); to.lineTo(cx, cy - s * .8); to.closePath(); },
  };
  const glyph = (to, kind, cx, cy, s) => {
    to.lineJoin = 'round';
    to.beginPath();
    if (kind === 'refused') {
      to.moveTo(cx - s * .8, cy - s * .8); to.lineTo(cx + s * .8, cy + s * .8);
      to.moveTo(cx + s * .8, cy - s * .8); to.lineTo(cx - s * .8, cy + s * .8);
      to.strokeStyle = colours.halo; to.lineWidth = 4.5; to.stroke();
      to.strokeStyle = colours.refused; to.lineWidth = 2.2; to.stroke();
      return;
    }
    shapes[kind](to, cx, cy, s);
    to.strokeStyle = colours.halo; to.lineWidth = 2; to.stroke();
    to.fillStyle = colours[kind]; to.fill();
  };

  const drawChart = to => {
    const base = place.chart - 4, height = base - 14;
    const sum = one => one.changes + one.others + one.refused;
    /* As many columns as there are pixels for are one bar. */
    const each = Math.max(1, Math.ceil((view.c1 - view.c0) / place.plot));
    const bars = [];
    for (let c = view.c0; c < view.c1; c += each) {
      const bar = {c, changes: 0, others: 0, refused: 0};
      for (const one of totals.slice(c, Math.min(view.c1, c + each))) for (const key of ['changes', 'others', 'refused']) bar[key] += one[key];
      bars.push(bar);
    }
    const most = Math.max(1, ...bars.map(sum));
    for (const bar of bars) {
      let y = base;
      const from = Math.round(x(bar.c)), to_ = Math.round(x(Math.min(view.c1, bar.c + each)));
      const wide = Math.max(1, to_ - from - (place.plot / bars.length > 8 ? 1 : 0));
      for (const [key, colour] of [['changes', colours.changes], ['others', colours.reads], ['refused', colours.refused]]) {
        if (!bar[key]) continue;
        const high = Math.max(1, height * bar[key] / most);
        to.fillStyle = colour;
        to.fillRect(from, y - high, wide, high);
        y -= high;
      }
    }
    to.fillStyle = colours.line;
    to.fillRect(place.left, base, place.plot, 1);
    to.fillStyle = colours.soft;
    to.textBaseline = 'top';
    to.textAlign = 'left';
    to.fillText(`requests${inTime || axis.step * each > 1 ? `, up to ${whole(most)} at once` : ''}`, place.left, 0);
  };

  const drawRows = to => {
    const cells = paint(Math.round(place.plot * place.scale));
    to.imageSmoothingEnabled = false;
    const gap = place.rowHeight >= 7 ? 1 : 0;
    for (let r = view.r0; r < view.r1; r++) {
      to.drawImage(cells, 0, r - view.r0, cells.width, 1, place.left, place.tops[r - view.r0], place.plot, place.rowHeight - gap);
    }
    to.textAlign = 'center';
    to.textBaseline = 'middle';
    for (const fold of place.folds) {
      const middle = fold.y + place.foldHeight / 2;
      const text = place.foldHeight > 9 ? `${plural(fold.last - fold.first + 1, 'zone')} untouched` : '';
      const half = text ? to.measureText(text).width / 2 + 8 : 0, centre = place.left + place.plot / 2;
      to.fillStyle = colours.line;
      if (place.foldHeight > 0) {
        to.fillRect(place.left, Math.floor(middle), place.plot / 2 - half, 1);
        to.fillRect(centre + half, Math.floor(middle), place.plot / 2 - half, 1);
      }
      to.fillStyle = colours.soft;
      if (text) to.fillText(text, centre, middle);
    }
    to.textAlign = 'right';
    let free = -Infinity;
    for (let r = view.r0; r < view.r1; r++) {
      const middle = place.tops[r - view.r0] + place.rowHeight / 2;
      if (middle < free) continue;
      to.fillText(whole(rows[r].first), place.left - 6, middle);
      free = middle + 13;
    }
    to.textBaseline = 'alphabetic';
    to.fillText('zone', place.left - 6, Math.min(place.chart, place.top - 8));
  };

  const drawMarks = to => {
    const wide = place.plot / (view.c1 - view.c0), large = place.rowHeight >= 9;
    const size = Math.min(4.5, place.rowHeight / 2 - 1.5);
    for (const [kind, count] of [['finish', FINISHES], ['reset', RESETS], ['refused', REFUSED]]) {
      for (let r = view.r0; r < view.r1; r++) {
        const y = place.tops[r - view.r0];
        let free = -Infinity;
        for (const cell of lines[r].cells) {
          if (!cell.counts[count] || cell.column < view.c0 || cell.column >= view.c1) continue;
          const at = x(cell.column);
          if (!large) {
            to.fillStyle = colours[kind];
            /* How far the zones are written can be seen beside what happened often. */
            const high = kind === 'refused' ? place.rowHeight : Math.ceil(place.rowHeight / 2);
            to.fillRect(at, y + place.rowHeight - high, Math.max(2, wide), high);
          } else if (at > free) {
            glyph(to, kind, Math.max(place.left + 4, Math.min(place.width - place.right - 4, at + wide / 2)), y + (place.rowHeight - 1) / 2, size);
            free = at + size * 1.2;
          }
        }
      }
    }
  };

  const drawTicks = to => {
    const seen = ticks.filter(one => one.column >= view.c0 && one.column < view.c1);
    const importance = {cut: 0, mark: 1, end: 3};
    const rank = one => importance[one.kind] ?? 2;
    const taken = [];
    const wide = place.plot / (view.c1 - view.c0);
    const middle = one => x(one.column) + Math.min(wide / 2, 20);
    to.textBaseline = 'middle';
    to.textAlign = 'left';
    for (const one of [...seen].sort((a, b) => rank(a) - rank(b))) {
      const at = middle(one), y = place.chart + 9;
      const colour = one.kind === 'cut' || one.kind === 'fault' ? colours.cut : one.kind === 'mark' ? colours.mark : colours.soft;
      to.globalAlpha = one.kind === 'cut' ? 1 : .75;
      to.fillStyle = colour;
      const dashed = rank(one) > 1;
      for (let from = place.chart + 3; from < place.bottom; from += dashed ? 6 : 1e9) {
        to.fillRect(at - (one.kind === 'cut' ? 1 : .5), from, one.kind === 'cut' ? 2 : 1, Math.min(dashed ? 3 : 1e9, place.bottom - from));
      }
      to.globalAlpha = 1;
      let text = one.kind === 'mark' ? one.text : tickText(one);
      if (text.length > 32) text = text.slice(0, 31) + '…';
      const length = to.measureText(text).width + 10;
      const from = at + length > place.width - place.right ? at - length : at;
      if (from < place.left || taken.some(([a, b]) => from < b && from + length > a)) continue;
      taken.push([from, from + length]);
      to.fillStyle = colours.page;
      to.fillRect(from + 1, y - 7, length - 1, 14);
      to.fillStyle = colour;
      to.fillText(text, from + 5, y);
    }
  };

  const niceStep = rough => {
    const unit = 10 ** Math.floor(Math.log10(rough));
    return [1, 2, 5, 10].map(one => one * unit).find(one => one >= rough);
  };
  const drawAxis = to => {
    if (flushed) {
      to.fillStyle = colours.soft;
      const each = place.plot / (view.c1 - view.c0);
      for (let c = view.c0; c < view.c1; c++) {
        if (totals[c].flushes) to.fillRect(Math.floor(x(c) + Math.min(each / 2, 20)), place.bottom + 2, 1, 7);
      }
    }
    const base = place.bottom + (flushed ? 11 : 2);
    const from = view.c0 * axis.step, to_ = Math.min(axis.len, view.c1 * axis.step);
    to.fillStyle = colours.line;
    to.fillRect(place.left, base, place.plot, 1);
    to.fillStyle = colours.soft;
    to.textBaseline = 'top';
    to.textAlign = 'center';
    const step = Math.max(1, niceStep(Math.max(1, (to_ - from) * 90 / place.plot)));
    for (let at = Math.ceil(from / step) * step; at < to_; at += step) {
      const here = place.left + (at / axis.step - view.c0) * place.plot / (view.c1 - view.c0) + (axis.step === 1 && !inTime ? Math.min(20, place.plot / (view.c1 - view.c0) / 2) : 0);
      to.fillRect(here, base, 1, 4);
      const text = inTime ? seconds(at, step) : whole(at);
      const half = to.measureText(text).width / 2;
      if (here - half < 2 || here + half > place.width) continue;
      to.fillText(text, here, base + 6);
    }
    to.textAlign = 'right';
    to.fillText(inTime ? 'time since the first request' : 'requests answered', place.width - place.right, base + 20);
  };

  const draw = () => {
    place = layOut();
    const to = context(picture);
    to.fillStyle = colours.page;
    to.fillRect(0, 0, place.width, place.height);
    drawChart(to);
    drawRows(to);
    drawMarks(to);
    drawTicks(to);
    drawAxis(to);
    const {c0, c1, r0, r1} = view;
    by('all').disabled = c0 === 0 && c1 === columns && r0 === 0 && r1 === rows.length;
    drawOver();
  };

  const drawOver = () => {
    const to = context(over);
    if (drag && drag.moved) {
      const [x0, x1] = [drag.x0, drag.x1].sort((a, b) => a - b), [y0, y1] = [drag.y0, drag.y1].sort((a, b) => a - b);
      to.fillStyle = colours.focus;
      to.globalAlpha = .18;
      to.fillRect(x0, y0, x1 - x0, y1 - y0);
      to.globalAlpha = 1;
      to.strokeStyle = colours.focus;
      to.strokeRect(x0 + .5, y0 + .5, x1 - x0, y1 - y0);
    } else if (cursor && cursor.row >= view.r0 && cursor.row < view.r1 && cursor.column >= view.c0 && cursor.column < view.c1) {
      const from = x(cursor.column), wide = Math.max(1, x(cursor.column + 1) - from), y = place.tops[cursor.row - view.r0];
      to.fillStyle = colours.ink;
      to.globalAlpha = .35;
      const middle = Math.round(from + wide / 2);
      to.fillRect(middle, 14, 1, place.bottom - 14);
      to.globalAlpha = 1;
      to.strokeStyle = colours.halo;
      to.lineWidth = 3;
      to.strokeRect(from - .5, y - .5, wide + 1, place.rowHeight);
      to.strokeStyle = colours.ink;
      to.lineWidth = 1.5;
      to.strokeRect(from - .5, y - .5, wide + 1, place.rowHeight);
    }
  };

  /* The cursor. */
  const showTip = (told, at) => {
    tip.replaceChildren();
    const add = (text, name) => {
      const line = document.createElement('div');
      if (name === 'b') line.append(Object.assign(document.createElement('b'), {textContent: text}));
      else line.textContent = text;
      if (name === 'when') line.className = name;
      tip.append(line);
    };
    add(told.name, 'b');
    if (told.when) add(told.when, 'when');
    for (const line of told.told) add(line);
    tip.hidden = false;
    const {offsetWidth: wide, offsetHeight: high} = tip;
    const left = at.x + 16 + wide > place.width ? at.x - 16 - wide : at.x + 16;
    tip.style.left = Math.max(0, Math.min(left, place.width - wide)) + 'px';
    tip.style.top = Math.max(0, Math.min(at.y + 14, place.height - high)) + 'px';
  };
  const hide = () => {
    cursor = null;
    tip.hidden = true;
    drawOver();
  };
  const pointed = event => {
    const box = picture.getBoundingClientRect();
    return {x: event.clientX - box.left, y: event.clientY - box.top};
  };
  const columnAt = at => Math.max(view.c0, Math.min(view.c1 - 1, Math.floor(view.c0 + (at.x - place.left) * (view.c1 - view.c0) / place.plot)));
  const rowAt = y => {
    const r = place.tops.findIndex((top, i) => i < view.r1 - view.r0 && y >= top && y < top + place.rowHeight);
    return r < 0 ? null : r + view.r0;
  };
  const hover = at => {
    const inside = at.x >= place.left - 2 && at.x <= place.width - place.right + 2;
    const fold = inside && place.folds.find(one => at.y >= one.y && at.y < one.y + place.foldHeight);
    const row = inside ? rowAt(at.y) : null;
    if (row !== null) {
      cursor = {row, column: columnAt(at)};
      showTip(describe(cursor), at);
    } else if (fold) {
      cursor = null;
      showTip({name: range(fold.first, fold.last), told: ['nothing happened to ' + (fold.first === fold.last ? 'it' : 'them')]}, at);
    } else if (inside && at.y < place.top) {
      cursor = null;
      const column = columnAt(at), one = totals[column];
      const told = [];
      if (one.changes) told.push(`${plural(one.changes, 'request')} changed zones`);
      if (one.others) told.push(plural(one.others, 'other request'));
      if (one.refused) told.push(`${whole(one.refused)} refused`);
      if (one.flushes) told.push(plural(one.flushes, 'flush', 'flushes'));
      for (const tick of ticks.filter(tick => tick.column === column).slice(0, 8)) told.push(tickText(tick));
      showTip({name: when(column), told: told.length ? told : ['nothing happened']}, at);
    } else return hide();
    drawOver();
  };
  const zoom = next => {
    view = {
      c0: Math.max(0, Math.floor(next.c0)), c1: Math.min(columns, Math.ceil(next.c1)),
      r0: Math.max(0, next.r0), r1: Math.min(rows.length, next.r1),
    };
    if (view.c1 <= view.c0) view.c1 = view.c0 + 1;
    tip.hidden = true;
    draw();
  };

  picture.addEventListener('pointerdown', event => {
    if (event.pointerType === 'mouse' && event.button === 0) {
      const at = pointed(event);
      drag = {x0: at.x, y0: at.y, x1: at.x, y1: at.y, moved: false};
      picture.setPointerCapture(event.pointerId);
    } else hover(pointed(event));
  });
  picture.addEventListener('pointermove', event => {
    const at = pointed(event);
    if (!drag) return hover(at);
    drag.x1 = Math.max(place.left, Math.min(place.width - place.right, at.x));
    drag.y1 = Math.max(place.top, Math.min(place.bottom, at.y));
    drag.moved ||= Math.abs(at.x - drag.x0) > 5 || Math.abs(at.y - drag.y0) > 5;
    if (drag.moved) tip.hidden = true;
    drawOver();
  });
  picture.addEventListener('pointerup', event => {
    const done = drag;
    drag = null;
    if (!done || !done.moved) return hover(pointed(event));
    const [x0, x1] = [done.x0, done.x1].sort((a, b) => a - b), [y0, y1] = [done.y0, done.y1].sort((a, b) => a - b);
    let r0 = view.r0, r1 = view.r1;
    /* A drag along a row is about time alone. */
    if (y1 - y0 > Math.max(12, place.rowHeight)) {
      r0 += place.tops.slice(0, view.r1 - view.r0).filter(top => top + place.rowHeight <= y0).length;
      r1 = view.r0 + place.tops.slice(0, view.r1 - view.r0).filter(top => top < y1).length;
      if (r1 <= r0) [r0, r1] = [view.r0, view.r1];
    }
    const narrow = x1 - x0 <= 5;
    zoom({c0: narrow ? view.c0 : columnAt({x: x0}), c1: narrow ? view.c1 : columnAt({x: x1}) + 1, r0, r1});
  });
  picture.addEventListener('pointerleave', () => { if (!drag) hide(); });
  picture.addEventListener('pointercancel', () => { drag = null; hide(); });
  picture.addEventListener('dblclick', () => zoom(everything()));
  by('all').addEventListener('click', () => { zoom(everything()); picture.focus(); });

  picture.addEventListener('keydown', event => {
    if (!rows.length) return;
    const at = cursor ? {...cursor} : {row: view.r0, column: view.c0};
    const cells = lines[at.row].cells;
    const nextCell = forward => {
      const found = forward ? cells[find(cells, at.column) + 1] : cells[find(cells, at.column - 1)];
      return found ? found.column : at.column;
    };
    const scale = factor => {
      const half = Math.max(2, (view.c1 - view.c0) * factor / 2);
      zoom({...view, c0: at.column - half, c1: at.column + half});
    };
    const keys = {
      ArrowLeft: () => { at.column = event.shiftKey ? nextCell(false) : at.column - 1; },
      ArrowRight: () => { at.column = event.shiftKey ? nextCell(true) : at.column + 1; },
      ArrowUp: () => { at.row -= 1; },
      ArrowDown: () => { at.row += 1; },
      PageUp: () => { at.row -= 10; },
      PageDown: () => { at.row += 10; },
      Home: () => { at.column = view.c0; },
      End: () => { at.column = view.c1 - 1; },
      '+': () => scale(.5),
      '-': () => scale(2),
      Escape: () => zoom(everything()),
    };
    const key = keys[event.key];
    if (!key || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    key();
    cursor = {row: Math.max(view.r0, Math.min(view.r1 - 1, at.row)), column: Math.max(view.c0, Math.min(view.c1 - 1, at.column))};
    const told = describe(cursor);
    by('told').textContent = [told.name, told.when, ...told.told].join('; ');
    showTip(told, {x: x(cursor.column + 1), y: place.tops[cursor.row - view.r0] + place.rowHeight});
    drawOver();
  });
  picture.addEventListener('blur', hide);

  /* The legend names what occurs. */
  const legend = () => {
    const entries = [];
    const swatch = (wide, paint, text) => {
      const item = document.createElement('li'), canvas = document.createElement('canvas');
      canvas.width = wide * 2;
      canvas.height = 28;
      canvas.style.width = wide + 'px';
      canvas.style.height = '14px';
      const to = canvas.getContext('2d');
      to.scale(2, 2);
      paint(to);
      item.append(canvas, text);
      entries.push(item);
    };
    const css = ([r, g, b]) => `rgb(${r} ${g} ${b})`;
    const box = colour => to => { to.fillStyle = colour; to.fillRect(0, 1, 14, 12); };
    if (occurs.sequential) swatch(90, to => {
      for (let at = 0; at < 90; at++) {
        to.fillStyle = css(colours.ramp[Math.round(at * FULL / 89)]);
        to.fillRect(at, 1, 1, 12);
      }
    }, 'empty to full');
    if (occurs.unknown) swatch(14, to => {
      for (let at = 0; at < 14; at++) {
        to.fillStyle = css(colours.unknown[at >> 2 & 1]);
        to.fillRect(at, 1, 1, 12);
      }
    }, 'not known yet');
    if (occurs.used) swatch(14, box(css(colours.conventional[1])), 'conventional, written');
    for (const [kind, text] of [['reset', 'reset'], ['finish', 'finish'], ['refused', 'refused']]) {
      if (occurs[kind]) swatch(14, to => glyph(to, kind, 7, 7, 4.5), text);
    }
    const line = (colour, wide) => to => { to.fillStyle = colour; to.fillRect(7 - wide / 2, 0, wide, 14); };
    const has = kind => ticks.some(one => one.kind === kind);
    if (flushed) swatch(14, to => { to.fillStyle = colours.soft; to.fillRect(7, 3, 1, 8); }, 'flush');
    if (has('mark')) swatch(14, line(colours.mark, 1), 'mark');
    if (has('cut')) swatch(14, line(colours.cut, 2), 'power cut');
    by('legend').replaceChildren(...entries);
  };

  const refresh = () => {
    readColours();
    legend();
    draw();
  };
  picture.setAttribute('aria-label', DATA.summary);
  addEventListener('themechange', refresh);
  let resized;
  addEventListener('resize', () => {
    cancelAnimationFrame(resized);
    resized = requestAnimationFrame(draw);
  });
  refresh();
})();
