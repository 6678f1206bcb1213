/* What `pack.rs` has packed: how far each row is written in each column, what happened in its cells, and in each column in all. */
const FULL = 200, UNKNOWN = 251, IDLE = 252, USED = 253;
const [WRITES, READS, RESETS, FINISHES, OTHERS, REFUSED] = [0, 1, 2, 3, 4, 5];

const packed = text => {
  const bytes = Uint8Array.from(atob(text), one => one.charCodeAt(0));
  let at = 0;
  return () => {
    let value = 0, unit = 1;
    for (;;) {
      const byte = bytes[at++];
      value += (byte & 0x7f) * unit;
      if (byte < 0x80) return value;
      unit *= 128;
    }
  };
};

const levelOf = (row, value) => {
  if (row.conventional) return IDLE;
  if (value === 0) return UNKNOWN;
  const written = (value - 1) * 512;
  if (written === 0) return 0;
  return written >= row.capacity ? FULL : Math.max(1, Math.min(FULL - 1, Math.round(FULL * written / row.capacity)));
};

const unpackCells = (rows, columns, text) => {
  const next = packed(text);
  const levels = new Uint8Array(rows.length * columns);
  const occurs = {reset: false, finish: false, refused: false, unknown: false, used: false, sequential: false};
  const lines = rows.map((row, r) => {
    let value = next(), from = 0;
    const line = {begin: value, cells: []};
    const fill = to => levels.fill(levelOf(row, value), r * columns + from, r * columns + to);
    for (let gap = next(); gap > 0; gap = next()) {
      const column = (line.cells.length ? line.cells[line.cells.length - 1].column + 1 : 0) + gap - 1;
      fill(column);
      const by = next();
      value += by % 2 ? -Math.floor(by / 2) : by / 2;
      const cell = {column, value, counts: [0, 0, 0, 0, 0, 0], bytes: 0, reason: 0};
      const present = next();
      for (let at = 0; at < cell.counts.length; at++) if (present >> at & 1) cell.counts[at] = next();
      if (cell.counts[WRITES]) cell.bytes = next() * 512;
      if (cell.counts[REFUSED]) cell.reason = next();
      occurs.reset ||= cell.counts[RESETS] > 0;
      occurs.finish ||= cell.counts[FINISHES] > 0;
      occurs.refused ||= cell.counts[REFUSED] > 0;
      line.cells.push(cell);
      from = column;
    }
    fill(columns);
    if (row.conventional) for (const cell of line.cells) if (cell.counts[WRITES]) levels[r * columns + cell.column] = USED;
    occurs.used ||= row.conventional;
    occurs.sequential ||= !row.conventional;
    return line;
  });
  occurs.unknown = levels.includes(UNKNOWN);
  return {levels, lines, occurs};
};

const unpackColumns = (columns, text) => {
  const next = packed(text);
  return Array.from({length: columns}, () => ({changes: next(), others: next(), refused: next(), flushes: next()}));
};

