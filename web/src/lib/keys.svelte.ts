// The keyboard. Rows of lists are marked in the page itself: `data-row` is one that j and k go to, `data-open` in it is what o
// opens, and `data-key="a"` is the button that a presses, in the row if there is one, else on the page. So no page needs code for it.

import { router } from './router.svelte.ts';

/** For the help, in the order in which it is shown. */
export const KEYS: { keys: string[]; says: string }[] = [
  { keys: ['j', 'k'], says: 'Next and previous row or file' },
  { keys: ['o'], says: 'Open it' },
  { keys: ['a'], says: 'Approve the file; answer the ask' },
  { keys: ['r'], says: 'Reject the file; retry the task' },
  { keys: ['d'], says: 'Dismiss the item' },
  { keys: ['x'], says: 'Select the row' },
  { keys: ['n'], says: 'New task' },
  { keys: ['/'], says: 'Filter' },
  { keys: ['g', 'f'], says: 'Go to the fleet' },
  { keys: ['g', 'i'], says: 'Go to the inbox' },
  { keys: ['g', 'q'], says: 'Go to the queue' },
  { keys: ['g', 's'], says: 'Go to the sessions' },
  { keys: ['g', 'c'], says: 'Go to the costs' },
  { keys: ['?'], says: 'This help' },
  { keys: ['Esc'], says: 'Close; leave a field' },
];

const PLACES: Record<string, string> = { f: '/', i: '/inbox', q: '/queue', s: '/sessions', c: '/costs' };

class Keys {
  helpIsOpen = $state(false);
  taskIsOpen = $state(false);
  private afterG = 0;

  start(): void {
    addEventListener('keydown', (event) => this.press(event));
  }

  private press(event: KeyboardEvent): void {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    const target = event.target instanceof HTMLElement ? event.target : null;
    if (target?.closest('input, textarea, select, [contenteditable]')) {
      if (event.key === 'Escape' && !target.closest('dialog')) target.blur();
      return;
    }
    if (document.querySelector('dialog[open]')) return;
    if (event.timeStamp - this.afterG < 1500 && this.afterG > 0) {
      this.afterG = 0;
      const place = PLACES[event.key];
      if (place) {
        event.preventDefault();
        router.go(place);
      }
      return;
    }
    if (this.act(event)) event.preventDefault();
  }

  private act(event: KeyboardEvent): boolean {
    switch (event.key) {
      case 'g':
        this.afterG = event.timeStamp;
        return true;
      case '?':
        this.helpIsOpen = true;
        return true;
      case 'n':
        this.taskIsOpen = true;
        return true;
      case '/': {
        const filter = document.querySelector<HTMLElement>('main [data-filter]');
        filter?.focus();
        return filter !== null;
      }
      case 'j':
        return step(1);
      case 'k':
        return step(-1);
      case 'o':
        return press(row()?.querySelector('[data-open]') ?? null);
      case 'a':
      case 'c':
      case 'd':
      case 'r':
      case 'x':
        return press((row() ?? document).querySelector(`[data-key="${event.key}"]`));
      default:
        return false;
    }
  }
}

function row(): Element | null {
  return document.activeElement?.closest('[data-row]') ?? null;
}

function press(button: Element | null): boolean {
  if (!(button instanceof HTMLElement) || (button instanceof HTMLButtonElement && button.disabled)) return false;
  button.click();
  return true;
}

function step(by: 1 | -1): boolean {
  const rows = [...document.querySelectorAll<HTMLElement>('main [data-row]')];
  if (rows.length === 0) return false;
  const at = rows.findIndex((one) => one === row());
  const next = rows[at < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.min(rows.length - 1, Math.max(0, at + by))];
  next?.focus({ preventScroll: true });
  next?.scrollIntoView({ block: 'nearest' });
  return true;
}

export const keys = new Keys();
