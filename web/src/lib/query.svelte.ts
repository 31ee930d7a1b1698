// Something that is asked of the server, shown, and asked for again when it may have changed.

import { onDestroy } from 'svelte';

import { Problem } from './api.ts';
import { live, type Notice } from './live.svelte.ts';

/** Between two times that the same is asked for. */
const QUIET = 250;
/** Notices are hints: what is on the screen is also asked for now and then, and often while none come. */
const ANYWAY = 60_000;
const AWAY = 6_000;
/** What moves on a host without a notice (checks, forecasts, worktrees that go, deliveries) is asked for so often while it does. */
export const MOVES = 1_500;
const TICK = 500;

export class Query<T> {
  data = $state.raw<T | undefined>(undefined);
  problem = $state.raw<Problem | null>(null);
  loading = $state(false);
  private key: string | null = null;
  private abort: AbortController | null = null;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private lastAsked = 0;
  private isUnderWay = false;
  private again = false;
  private stopped = false;

  constructor(private readonly load: (signal: AbortSignal) => Promise<T>) {}

  /** Asks now. What was there stays until the answer comes. */
  async refresh(): Promise<void> {
    clearTimeout(this.timer);
    this.timer = undefined;
    this.abort?.abort();
    const abort = new AbortController();
    this.abort = abort;
    this.lastAsked = Date.now();
    this.loading = true;
    this.isUnderWay = true;
    this.again = false;
    try {
      const data = await this.load(abort.signal);
      if (abort.signal.aborted || this.stopped) return;
      this.data = data;
      this.problem = null;
    } catch (error) {
      if (abort.signal.aborted || this.stopped) return;
      this.problem = error instanceof Problem ? error : new Problem(0, 'The answer cannot be read', String(error), null, {});
    } finally {
      if (this.abort === abort) {
        this.loading = false;
        this.isUnderWay = false;
        if (this.again) this.soon();
      }
    }
  }

  /** Asks soon: many notices are one question. */
  soon(): void {
    if (this.timer !== undefined || this.stopped) return;
    // What is under way is not broken off: notices may come faster than answers.
    if (this.isUnderWay) {
      this.again = true;
      return;
    }
    this.timer = setTimeout(() => void this.refresh(), Math.max(0, QUIET - (Date.now() - this.lastAsked)));
  }

  /** Something else is meant from now on. */
  retarget(key: string): void {
    if (key === this.key) return;
    if (this.key !== null) this.data = undefined;
    this.key = key;
    void this.refresh();
  }

  isOlderThan(age: number): boolean {
    return Date.now() - this.lastAsked >= age;
  }

  stop(): void {
    this.stopped = true;
    clearTimeout(this.timer);
    this.abort?.abort();
  }
}

/**
 * A question of a component. `key` names what is asked, and is asked anew when it changes; `matters` says which notices concern it,
 * `anyway` after how long it is asked again without one.
 */
export function query<T>(
  key: () => string,
  load: (signal: AbortSignal) => Promise<T>,
  matters: (notice: Notice) => boolean = () => true,
  anyway: (data: T | undefined) => number = () => ANYWAY,
): Query<T> {
  const made = new Query(load);
  $effect(() => {
    const now = key();
    made.retarget(now);
  });
  const deaf = live.listen((notice) => {
    if (notice === null || matters(notice)) made.soon();
  });
  const timer = setInterval(() => {
    if (!document.hidden && made.isOlderThan(live.state === 'on' ? anyway(made.data) : AWAY)) made.soon();
  }, TICK);
  onDestroy(() => {
    deaf();
    clearInterval(timer);
    made.stop();
  });
  return made;
}
