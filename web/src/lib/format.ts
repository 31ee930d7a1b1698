// Numbers and times, as people read them.

/** `$0.0042`, `$12.30`; with `+?` where a part of it is not known. */
export function money(usd: number | null | undefined, unknownSteps = 0): string {
  if (usd == null) return 'unknown';
  if (usd === 0 && unknownSteps > 0) return 'unknown';
  const digits = usd === 0 || usd >= 1 ? 2 : usd >= 0.01 ? 3 : 4;
  return `$${usd.toFixed(digits)}${unknownSteps > 0 ? ' + ?' : ''}`;
}

/** `950`, `12.3k`, `4.1M`. */
export function short(count: number): string {
  if (count < 1000) return String(count);
  if (count < 999_950) return `${trim(count / 1000)}k`;
  if (count < 999_950_000) return `${trim(count / 1_000_000)}M`;
  return `${trim(count / 1_000_000_000)}G`;
}

function trim(value: number): string {
  return value >= 100 ? value.toFixed(0) : value.toFixed(1);
}

/** `512 B`, `1.4 GB`. */
export function bytes(count: number | null | undefined): string {
  if (count == null) return 'not measured';
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let value = count;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 ? value : trim(value)} ${units[unit]}`;
}

/** `8s`, `3m 20s`, `2h 05m`, `4d 3h`. */
export function span(seconds: number): string {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole}s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}m ${pad(whole % 60)}s`;
  if (whole < 86_400) return `${Math.floor(whole / 3600)}h ${pad(Math.floor((whole % 3600) / 60))}m`;
  return `${Math.floor(whole / 86_400)}d ${Math.floor((whole % 86_400) / 3600)}h`;
}

function pad(value: number): string {
  return String(value).padStart(2, '0');
}

/** `just now`, `5 min ago`, `in 3 h`, `12 Nov`. */
export function ago(time: string, now: number): string {
  const seconds = (now - Date.parse(time)) / 1000;
  const far = Math.abs(seconds);
  if (Number.isNaN(far)) return '';
  if (far < 10) return 'just now';
  const say = (count: number, unit: string) => (seconds >= 0 ? `${count} ${unit} ago` : `in ${count} ${unit}`);
  if (far < 60) return say(Math.floor(far), 's');
  if (far < 3600) return say(Math.floor(far / 60), 'min');
  if (far < 86_400) return say(Math.floor(far / 3600), 'h');
  if (far < 14 * 86_400) return say(Math.floor(far / 86_400), 'd');
  return new Date(time).toLocaleDateString(undefined, { day: 'numeric', month: 'short', year: 'numeric' });
}

/** Seconds between two times, or until now. */
export function seconds(from: string | null | undefined, to: string | null | undefined, now: number): number {
  if (!from) return 0;
  return ((to ? Date.parse(to) : now) - Date.parse(from)) / 1000;
}

export function exact(time: string): string {
  return new Date(time).toLocaleString();
}

/** `1 file`, `3 files`. */
export function count(many: number, word: string): string {
  return `${many.toLocaleString('en')} ${word}${many === 1 ? '' : 's'}`;
}

/** Words of the database as people read them: `agent_failed` is `agent failed`. */
export function words(name: string | null | undefined): string {
  return (name ?? '').replaceAll('_', ' ');
}

// Controls, and what draws nothing or turns the direction of what follows.
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\u{e0000}-\u{e007f}]/gu;
const PICTURE = /[\p{Extended_Pictographic}\ufe0f]$/u;

/** A text with what cannot be seen made visible: names and code must not lie. */
export function visible(text: string): string {
  return text.replace(UNSEEN, (found, at: number) => {
    const code = found.codePointAt(0) ?? 0;
    if (code < 0x20) return String.fromCharCode(0x2400 + code);
    if (code === 0x7f) return '\u2421';
    // Joins two pictures to one.
    if (code === 0x200d && PICTURE.test(text.slice(Math.max(0, at - 2), at))) return found;
    return `\u27e8${code.toString(16).toUpperCase().padStart(4, '0')}\u27e9`;
  });
}

/** The first line of a text that is not empty. */
export function firstLine(text: string): string {
  return visible(text.split('\n').find((line) => line.trim() !== '')?.trim() ?? '');
}
