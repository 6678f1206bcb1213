(() => {
  const by = id => document.getElementById(id);
  const [picture, stage, tip] = ['picture', 'stage', 'tip'].map(by);
  const {rows, axis} = DATA;
  const columns = axis.columns;
  const at = (row, column) => row * columns + column;
  const cells = new Map(DATA.cells.map(([row, column, checked, failed]) => [at(row, column), {row, column, checked, failed}]));
  const all = new Map(DATA.columns.map(([column, checked, failed]) => [column, {checked, failed}]));
  const most = Math.max(1, ...[...all.values()].map(one => one.checked));
  let deepest = 1;
  for (const one of cells.values()) deepest = Math.max(deepest, one.checked);
  const FONT = '11px system-ui, -apple-system, "Segoe UI", sans-serif';
  const rgb = hex => [1, 3, 5].map(place => parseInt(hex.slice(place, place + 2), 16));
  const between = (from, to, share) => `rgb(${from.map((one, i) => Math.round(one + (to[i] - one) * share)).join(' ')})`;
  let colours, place, cursor = null;

  const shade = one => {
    const share = deepest > 1 ? Math.log(one.checked) / Math.log(deepest) : 1;
    return one.failed ? between(colours.someFailed, colours.allFailed, one.failed / one.checked) : between(colours.few, colours.many, share);
  };
  const range = row => row.first === row.last ? `zone ${whole(row.first)}` : `zones ${whole(row.first)} to ${whole(row.last)}`;
  const when = column => {
    const from = column * axis.step, to = Math.min(axis.len, from + axis.step) - 1;
    return from === to ? `record:${from}` : `record:${from} to record:${to}`;
  };
  const x = column => place.left + column * place.plot / columns;

  const layOut = () => {
    const width = Math.max(280, stage.clientWidth);
    const left = Math.max(38, 14 + (rows.length ? whole(rows[rows.length - 1].first).length : 1) * 6.5), right = 10;
    const rowHeight = Math.max(2, Math.min(24, Math.floor(480 / Math.max(1, rows.length))));
    const top = 58, bottom = top + rowHeight * rows.length;
    return {width, left, right, rowHeight, top, bottom, height: bottom + 40, plot: width - left - right};
  };
  const draw = () => {
    place = layOut();
    const scale = Math.min(3, devicePixelRatio || 1);
    picture.width = Math.round(place.width * scale);
    picture.height = Math.round(place.height * scale);
    picture.style.height = place.height + 'px';
    const to = picture.getContext('2d');
    to.setTransform(scale, 0, 0, scale, 0, 0);
    to.font = FONT;
    to.fillStyle = colours.page;
    to.fillRect(0, 0, place.width, place.height);
    /* A cell is seen however narrow a column is. */
    const wide = Math.max(3, place.plot / columns);
    for (const [column, one] of all) {
      const high = Math.max(1, 34 * one.checked / most), bad = one.failed ? Math.max(1.5, 34 * one.failed / most) : 0;
      to.fillStyle = between(colours.few, colours.many, .6);
      to.fillRect(x(column), 50 - high, wide, high);
      to.fillStyle = between(colours.allFailed, colours.allFailed, 1);
      to.fillRect(x(column), 50 - bad, wide, bad);
    }
    to.fillStyle = colours.line;
    to.fillRect(place.left, 50, place.plot, 1);
    const gap = place.rowHeight > 5 ? 1 : 0;
    rows.forEach((_, r) => {
      to.fillStyle = between(colours.empty, colours.empty, 1);
      to.fillRect(place.left, place.top + r * place.rowHeight, place.plot, place.rowHeight - gap);
    });
    for (const failed of [false, true]) {
      for (const one of cells.values()) {
        if (one.failed > 0 !== failed) continue;
        to.fillStyle = shade(one);
        to.fillRect(x(one.column), place.top + one.row * place.rowHeight, wide, place.rowHeight - gap);
      }
    }
    to.fillStyle = colours.soft;
    to.textBaseline = 'top';
    to.fillText(`states checked, up to ${whole(most)} at once`, place.left, 0);
    to.textBaseline = 'middle';
    to.textAlign = 'right';
    let free = -Infinity;
    rows.forEach((row, r) => {
      const middle = place.top + (r + .5) * place.rowHeight;
      if (middle < free) return;
      to.fillText(whole(row.first), place.left - 6, middle);
      free = middle + 13;
    });
    to.fillText('zone', place.left - 6, 44);
    to.fillStyle = colours.line;
    to.fillRect(place.left, place.bottom + 2, place.plot, 1);
    to.fillStyle = colours.soft;
    to.textBaseline = 'top';
    to.textAlign = 'center';
    const rough = Math.max(1, axis.len * 90 / place.plot), unit = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map(one => one * unit).find(one => one >= rough);
    for (let record = 0; record < axis.len; record += step) {
      const here = x(record / axis.step);
      to.fillRect(here, place.bottom + 2, 1, 4);
      if (here + 30 < place.width) to.fillText(whole(record), here, place.bottom + 8);
    }
    to.textAlign = 'right';
    to.fillText('records of the recording', place.width - place.right, place.bottom + 24);
    to.textAlign = 'left';
    if (cursor) {
      to.strokeStyle = colours.ink;
      to.lineWidth = 1.5;
      to.strokeRect(x(cursor.column) - .5, place.top + cursor.row * place.rowHeight - .5, wide + 1, place.rowHeight);
    }
  };

  const states = one => [plural(one.checked, 'state') + ' checked', one.failed ? `${whole(one.failed)} failed` : 'none failed'];
  const show = (title, told, to) => {
    tip.replaceChildren(...[title, ...told].map((text, i) => {
      const line = document.createElement('div');
      line.append(i ? text : Object.assign(document.createElement('b'), {textContent: text}));
      return line;
    }));
    tip.hidden = false;
    tip.style.left = Math.max(0, Math.min(to.x + 14, place.width - tip.offsetWidth)) + 'px';
    tip.style.top = Math.max(0, Math.min(to.y + 14, place.height - tip.offsetHeight)) + 'px';
  };
  const describe = ({row, column}) => {
    const one = cells.get(at(row, column));
    return [range(rows[row]), [when(column), ...(one ? states(one) : ['no state has lost anything of it here'])]];
  };
  const hide = () => {
    cursor = null;
    tip.hidden = true;
    draw();
  };
  const point = event => {
    const box = picture.getBoundingClientRect(), to = {x: event.clientX - box.left, y: event.clientY - box.top};
    let column = Math.floor((to.x - place.left) * columns / place.plot);
    const row = Math.floor((to.y - place.top) / place.rowHeight);
    if (column < 0 || column >= columns || to.y > place.bottom) return hide();
    if (row < 0 || row >= rows.length) {
      cursor = null;
      const one = all.get(column);
      return one ? show(when(column), states(one), to) : hide();
    }
    /* What is drawn wider than it is can be pointed at where it is drawn. */
    for (let back = 0; back <= 3 * columns / place.plot; back++) {
      if (cells.has(at(row, column - back))) {
        column -= back;
        break;
      }
    }
    cursor = {row, column};
    show(...describe(cursor), to);
    draw();
  };
  picture.addEventListener('pointermove', point);
  picture.addEventListener('pointerdown', point);
  picture.addEventListener('pointerleave', hide);
  picture.addEventListener('blur', hide);
  picture.addEventListener('keydown', event => {
    if (!rows.length || event.ctrlKey || event.metaKey || event.altKey) return;
    const next = cursor ? {...cursor} : {row: 0, column: -1};
    /* From one cell that has anything to the next of its row. */
    const along = by => {
      for (let column = next.column + by; column >= 0 && column < columns; column += by) {
        if (cells.has(at(next.row, column))) return column;
      }
      return Math.max(0, next.column);
    };
    const keys = {
      ArrowLeft: () => { next.column = along(-1); },
      ArrowRight: () => { next.column = along(1); },
      ArrowUp: () => { next.row -= 1; },
      ArrowDown: () => { next.row += 1; },
      Escape: () => {},
    };
    if (!keys[event.key]) return;
    event.preventDefault();
    if (event.key === 'Escape') return hide();
    keys[event.key]();
    cursor = {row: Math.max(0, Math.min(rows.length - 1, next.row)), column: Math.max(0, next.column)};
    const [title, told] = describe(cursor);
    by('told').textContent = [title, ...told].join('; ');
    show(title, told, {x: x(cursor.column + 1), y: place.top + (cursor.row + 1) * place.rowHeight});
    draw();
  });

  const refresh = () => {
    colours = {
      page: cssValue('--page'), line: cssValue('--line'), soft: cssValue('--soft'), ink: cssValue('--ink'), few: rgb(cssValue('--few')),
      many: rgb(cssValue('--many')), someFailed: rgb(cssValue('--some-failed')), allFailed: rgb(cssValue('--all-failed')), empty: rgb(cssValue('--empty')),
    };
    const entry = (from, to, text) => {
      const item = document.createElement('li'), swatch = document.createElement('span');
      swatch.className = 'swatch';
      swatch.style.background = `linear-gradient(to right, ${between(from, from, 1)}, ${between(to, to, 1)})`;
      item.append(swatch, text);
      return item;
    };
    const failed = DATA.columns.some(one => one[2] > 0);
    by('legend').replaceChildren(entry(colours.few, colours.many, 'few to many states'), ...(failed ? [entry(colours.someFailed, colours.allFailed, 'some to all have failed')] : []));
    draw();
  };
  picture.setAttribute('aria-label', DATA.summary);
  addEventListener('themechange', refresh);
  addEventListener('resize', () => requestAnimationFrame(draw));
  refresh();
})();
