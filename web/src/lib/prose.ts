// The little of Markdown that agents write: fences, headings, lists, bold, code. It becomes a tree of plain text, which Svelte escapes;
// links stay text on purpose, as an agent's words may lead anywhere.

export interface Span {
  kind: 'text' | 'code' | 'bold';
  text: string;
}

export interface Item {
  depth: number;
  mark: string;
  spans: Span[];
}

export type Prose =
  | { kind: 'code'; text: string; language: string }
  | { kind: 'heading'; spans: Span[] }
  | { kind: 'list'; items: Item[] }
  | { kind: 'paragraph'; spans: Span[] };

const SPAN = /`([^`\n]+)`|\*\*([^*\n]+)\*\*/g;

export function spans(text: string): Span[] {
  const found: Span[] = [];
  let from = 0;
  for (const match of text.matchAll(SPAN)) {
    if (match.index > from) found.push({ kind: 'text', text: text.slice(from, match.index) });
    found.push(match[1] !== undefined ? { kind: 'code', text: match[1] } : { kind: 'bold', text: match[2] ?? '' });
    from = match.index + match[0].length;
  }
  if (from < text.length) found.push({ kind: 'text', text: text.slice(from) });
  return found;
}

export function prose(text: string): Prose[] {
  const found: Prose[] = [];
  let paragraph: string[] = [];
  let items: Item[] = [];
  const flush = () => {
    if (paragraph.length > 0) found.push({ kind: 'paragraph', spans: spans(paragraph.join('\n')) });
    if (items.length > 0) found.push({ kind: 'list', items });
    paragraph = [];
    items = [];
  };
  const lines = text.split('\n');
  for (let at = 0; at < lines.length; at++) {
    const line = lines[at] ?? '';
    const fence = /^\s*(`{3,}|~{3,})\s*(\S*)/.exec(line);
    if (fence) {
      flush();
      const code: string[] = [];
      while (++at < lines.length && !(lines[at] ?? '').trim().startsWith(fence[1] ?? '```')) code.push(lines[at] ?? '');
      found.push({ kind: 'code', text: code.join('\n'), language: fence[2] ?? '' });
      continue;
    }
    const heading = /^#{1,6}\s+(.*)$/.exec(line);
    const item = /^(\s*)([-*+]|\d{1,3}[.)])\s+(.*)$/.exec(line);
    if (heading) {
      flush();
      found.push({ kind: 'heading', spans: spans(heading[1] ?? '') });
    } else if (item) {
      if (paragraph.length > 0) flush();
      const mark = item[2] ?? '-';
      items.push({ depth: Math.min(3, Math.floor((item[1] ?? '').length / 2)), mark: /\d/.test(mark) ? mark : '•', spans: spans(item[3] ?? '') });
    } else if (line.trim() === '') {
      flush();
    } else if (items.length > 0 && /^\s+/.test(line)) {
      items.at(-1)?.spans.push({ kind: 'text', text: ` ${line.trim()}` });
    } else {
      if (items.length > 0) flush();
      paragraph.push(line);
    }
  }
  flush();
  return found;
}
