// Reads one file's part of a unified patch, and lays it out: inline, or side by side.

export type LineKind = 'same' | 'add' | 'remove' | 'note';

/** A part of a line; `is` says whether it is what differs from the line beside it. */
export interface Piece {
  text: string;
  is: boolean;
}

export interface Line {
  kind: LineKind;
  /** Line number before, and after. */
  before: number | null;
  after: number | null;
  text: string;
  pieces: Piece[] | null;
}

export interface Hunk {
  header: string;
  lines: Line[];
}

export interface Patch {
  /** Modes, renames: what is not in the hunks. */
  notes: string[];
  hunks: Hunk[];
  isBinary: boolean;
}

/** A row of two columns; what is missing on a side is `null`. */
export interface Pair {
  left: Line | null;
  right: Line | null;
}

const HUNK = /^@@ -(\d+)(?:,\d+)? \+(\d+)(?:,\d+)? @@(.*)$/;

export function parsePatch(text: string): Patch {
  const patch: Patch = { notes: [], hunks: [], isBinary: false };
  const lines = text.split('\n');
  if (lines.at(-1) === '') lines.pop();
  let hunk: Hunk | null = null;
  let before = 0;
  let after = 0;
  for (const raw of lines) {
    const start = HUNK.exec(raw);
    // Inside a hunk each line begins with its mark, so a line that begins with @@ is never content.
    if (start) {
      before = Number(start[1]);
      after = Number(start[2]);
      hunk = { header: raw.slice(0, raw.indexOf('@@', 2) + 2) + (start[3] ?? ''), lines: [] };
      patch.hunks.push(hunk);
    } else if (hunk) {
      const mark = raw[0];
      const rest = raw.slice(1);
      if (mark === '+') hunk.lines.push({ kind: 'add', before: null, after: after++, text: rest, pieces: null });
      else if (mark === '-') hunk.lines.push({ kind: 'remove', before: before++, after: null, text: rest, pieces: null });
      else if (mark === '\\') hunk.lines.push({ kind: 'note', before: null, after: null, text: rest.trim(), pieces: null });
      else hunk.lines.push({ kind: 'same', before: before++, after: after++, text: rest, pieces: null });
    } else if (raw.startsWith('GIT binary patch') || raw.startsWith('Binary files ')) {
      patch.isBinary = true;
      return patch;
    } else if (/^(old mode|new mode|new file mode|deleted file mode|rename |similarity )/.test(raw)) {
      patch.notes.push(raw);
    }
  }
  for (const one of patch.hunks) markWords(one.lines);
  return patch;
}

/** Marks what differs within lines that were replaced one for one. */
function markWords(lines: Line[]): void {
  for (const { removed, added } of runs(lines)) {
    if (removed.length !== added.length) continue;
    removed.forEach((old, at) => {
      const now = added[at];
      if (now) markPair(old, now);
    });
  }
}

interface Run {
  removed: Line[];
  added: Line[];
}

function runs(lines: Line[]): Run[] {
  const found: Run[] = [];
  let at = 0;
  while (at < lines.length) {
    const removed: Line[] = [];
    const added: Line[] = [];
    while (lines[at]?.kind === 'remove' || (removed.length > 0 && lines[at]?.kind === 'note' && lines[at + 1]?.kind === 'add')) {
      const line = lines[at++];
      if (line?.kind === 'remove') removed.push(line);
    }
    while (lines[at]?.kind === 'add') {
      const line = lines[at++];
      if (line) added.push(line);
    }
    if (removed.length > 0 && added.length > 0) found.push({ removed, added });
    else if (removed.length === 0 && added.length === 0) at++;
  }
  return found;
}

const WORD = /[\p{L}\p{N}_]/u;

function markPair(old: Line, now: Line): void {
  const a = old.text;
  const b = now.text;
  if (a.length > 2000 || b.length > 2000) return;
  let from = 0;
  while (from < a.length && from < b.length && a[from] === b[from]) from++;
  let tail = 0;
  while (tail < a.length - from && tail < b.length - from && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail++;
  // Whole words: half a word in another colour is hard to read.
  while (from > 0 && WORD.test(a[from - 1] ?? '') && (WORD.test(a[from] ?? '') || WORD.test(b[from] ?? ''))) from--;
  while (tail > 0 && WORD.test(a[a.length - tail] ?? '') && (WORD.test(a[a.length - tail - 1] ?? '') || WORD.test(b[b.length - tail - 1] ?? '')))
    tail--;
  const shared = from + tail;
  if (shared === 0 || shared < Math.min(a.length, b.length) * 0.3) return;
  old.pieces = cut(a, from, tail);
  now.pieces = cut(b, from, tail);
}

function cut(text: string, from: number, tail: number): Piece[] {
  const end = Math.max(from, text.length - tail);
  return [
    { text: text.slice(0, from), is: false },
    { text: text.slice(from, end), is: true },
    { text: text.slice(end), is: false },
  ].filter((piece) => piece.text !== '');
}

/** The rows of the view with two columns. */
export function sideBySide(lines: Line[]): Pair[] {
  const pairs: Pair[] = [];
  let left: Line[] = [];
  let right: Line[] = [];
  const flush = () => {
    for (let at = 0; at < Math.max(left.length, right.length); at++) {
      pairs.push({ left: left[at] ?? null, right: right[at] ?? null });
    }
    left = [];
    right = [];
  };
  for (const line of lines) {
    if (line.kind === 'remove') {
      if (right.length > 0) flush();
      left.push(line);
    } else if (line.kind === 'add') {
      right.push(line);
    } else if (line.kind === 'note') {
      // "No newline at end of file" is about the line before it.
      (right.length > 0 ? right : left).push(line);
    } else {
      flush();
      pairs.push({ left: line, right: line });
    }
  }
  flush();
  return pairs;
}

/** A patch of our own for what a tool replaced, so that an edit reads as one. */
export function patchOfEdit(before: string, after: string): Patch {
  const a = before === '' ? [] : before.replace(/\n$/, '').split('\n');
  const b = after === '' ? [] : after.replace(/\n$/, '').split('\n');
  let from = 0;
  while (from < a.length && from < b.length && a[from] === b[from]) from++;
  let tail = 0;
  while (tail < a.length - from && tail < b.length - from && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail++;
  const lines: Line[] = [];
  const same = (text: string) => lines.push({ kind: 'same', before: null, after: null, text, pieces: null });
  a.slice(Math.max(0, from - 3), from).forEach(same);
  for (const text of a.slice(from, a.length - tail)) lines.push({ kind: 'remove', before: null, after: null, text, pieces: null });
  for (const text of b.slice(from, b.length - tail)) lines.push({ kind: 'add', before: null, after: null, text, pieces: null });
  a.slice(a.length - tail, a.length - tail + 3).forEach(same);
  markWords(lines);
  return { notes: [], hunks: lines.length > 0 ? [{ header: '', lines }] : [], isBinary: false };
}
