// The fleet's stream: the picture of what runs, and small notices of what changed. Whoever shows something asks for it again when told.
//
// A notice is a hint. After every gap (a cut, a hidden tab) all that is shown is asked for again, so that none is needed.

import type { Activity } from './rows.ts';

export interface Notice {
  /** What changed: task, change_set, ask, worker, webhook, project, token, change. */
  kind: string;
  id?: number | null;
  task_id?: number | null;
  session_id?: number | null;
  project?: string | null;
}

type Listener = (notice: Notice | null) => void;

const RETRY_FIRST = 500;
const RETRY_LAST = 15_000;

class Live {
  /** `on`, or how it is not. */
  state = $state<'starting' | 'on' | 'away'>('starting');
  /** What runs now, as it was told last. */
  activity = $state.raw<Activity | undefined>(undefined);
  private listeners = new Set<Listener>();
  private source: EventSource | null = null;
  private lastId = '';
  private pause = RETRY_FIRST;
  private timer: ReturnType<typeof setTimeout> | undefined;

  start(): void {
    document.addEventListener('visibilitychange', () => {
      // A browser opens six connections to one server: those of tabs that nobody looks at are given back.
      if (document.hidden) this.close();
      else this.open();
    });
    addEventListener('online', () => this.open());
    this.open();
  }

  /** Calls back on each notice; with `null` after a gap, when anything may have changed. */
  listen(listener: Listener): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  private tell(notice: Notice | null): void {
    for (const listener of this.listeners) listener(notice);
  }

  private close(): void {
    clearTimeout(this.timer);
    this.source?.close();
    this.source = null;
  }

  private open(): void {
    this.close();
    const source = new EventSource(this.lastId ? `/api/stream?last_event_id=${encodeURIComponent(this.lastId)}` : '/api/stream');
    this.source = source;
    source.onopen = () => {
      const wasAway = this.state !== 'starting';
      this.state = 'on';
      this.pause = RETRY_FIRST;
      if (wasAway) this.tell(null);
    };
    const on = (name: string, take: (data: unknown) => void) => {
      source.addEventListener(name, (event: MessageEvent<string>) => {
        if (event.lastEventId) this.lastId = event.lastEventId;
        take(JSON.parse(event.data));
      });
    };
    on('activity', (data) => (this.activity = data as Activity));
    on('change', (data) => this.tell(data as Notice));
    on('reset', () => this.tell(null));
    source.onerror = () => {
      this.state = 'away';
      // The browser itself tries again after a cut, but not after an answer that is an error.
      if (source.readyState !== EventSource.CLOSED) return;
      this.close();
      this.timer = setTimeout(() => this.open(), this.pause);
      this.pause = Math.min(this.pause * 2, RETRY_LAST);
    };
  }
}

export const live = new Live();
