// One task, followed: what was said is read at once; what comes, from its stream. A cut stream goes on behind the last event that came.

import { get, getAll, Problem } from './api.ts';
import { Transcript } from './transcript.svelte.ts';
import type { Attempt, TaskDetail, TurnEvent } from './rows.ts';

const RETRY_FIRST = 500;
const RETRY_LAST = 15_000;

export class Follow {
  attempts = $state.raw<Attempt[]>([]);
  transcripts = $state.raw<Transcript[]>([]);
  /** Why it does not run yet. */
  why = $state('');
  isOver = $state(false);
  problem = $state.raw<Problem | null>(null);
  private stopped = false;
  private source: EventSource | null = null;
  private lastId = '';
  private pause = RETRY_FIRST;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private waiting: TurnEvent[] = [];
  private frame = 0;
  private readonly onVisible = () => {
    if (document.hidden) this.close();
    else if (!this.isOver) this.open();
  };

  constructor(
    private readonly taskId: number,
    private readonly ended: () => void,
  ) {}

  /** Begins to follow; of a task that is at rest it reads the last attempt. */
  async start(isAtRest: boolean): Promise<void> {
    if (!isAtRest) {
      document.addEventListener('visibilitychange', this.onVisible);
      this.open();
    }
    try {
      const task = await get<TaskDetail>(`/api/tasks/${this.taskId}`);
      for (const row of task.attempt_rows) this.attempt(row);
      const newest = task.attempt_rows.at(-1);
      if (isAtRest && newest) await this.read(newest);
      if (isAtRest) this.isOver = true;
    } catch (error) {
      this.problem = error instanceof Problem ? error : new Problem(0, 'The transcript cannot be read', String(error), null, {});
    }
  }

  /** Reads the transcript of an attempt that is over. */
  async read(row: Attempt): Promise<void> {
    const events = await getAll<TurnEvent>(`/api/tasks/${this.taskId}/events`, { attempt: row.number }, undefined, 200_000);
    this.transcript(row.id).take(events);
  }

  stop(): void {
    this.stopped = true;
    document.removeEventListener('visibilitychange', this.onVisible);
    cancelAnimationFrame(this.frame);
    this.close();
  }

  private close(): void {
    clearTimeout(this.timer);
    this.source?.close();
    this.source = null;
  }

  private open(): void {
    this.close();
    if (this.stopped) return;
    const path = `/api/tasks/${this.taskId}/stream`;
    const source = new EventSource(this.lastId ? `${path}?last_event_id=${encodeURIComponent(this.lastId)}` : path);
    this.source = source;
    source.onopen = () => (this.pause = RETRY_FIRST);
    for (const name of ['waits', 'attempt', 'event', 'ended']) {
      source.addEventListener(name, (event: MessageEvent<string>) => {
        if (event.lastEventId) this.lastId = event.lastEventId;
        this.take(name, event.data);
      });
    }
    source.onerror = () => {
      if (this.isOver) return this.close();
      if (source.readyState !== EventSource.CLOSED) return;
      this.close();
      this.timer = setTimeout(() => this.open(), this.pause);
      this.pause = Math.min(this.pause * 2, RETRY_LAST);
    };
  }

  private take(name: string, text: string): void {
    let data: Record<string, unknown>;
    try {
      data = JSON.parse(text) as Record<string, unknown>;
    } catch {
      return;
    }
    if (name === 'waits') {
      this.why = typeof data.why === 'string' ? data.why : '';
    } else if (name === 'attempt') {
      this.attempt(data as unknown as Attempt);
    } else if (name === 'event') {
      this.waiting.push(data as unknown as TurnEvent);
      // What comes between two frames is drawn at once.
      if (this.frame === 0) this.frame = requestAnimationFrame(() => this.flush());
    } else {
      this.flush();
      this.isOver = true;
      this.close();
      this.ended();
    }
  }

  private attempt(row: Attempt): void {
    this.why = '';
    const others = this.attempts.filter((one) => one.id !== row.id);
    this.attempts = [...others, row].sort((a, b) => a.number - b.number);
  }

  of(attemptId: number): Transcript | undefined {
    return this.transcripts.find((one) => one.attemptId === attemptId);
  }

  private transcript(attemptId: number): Transcript {
    const found = this.of(attemptId);
    if (found) return found;
    const made = new Transcript(attemptId);
    this.transcripts = [...this.transcripts, made];
    return made;
  }

  private flush(): void {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    const events = this.waiting;
    this.waiting = [];
    const groups = new Map<number, TurnEvent[]>();
    for (const event of events) {
      const some = groups.get(event.attempt_id);
      if (some) some.push(event);
      else groups.set(event.attempt_id, [event]);
    }
    for (const [attemptId, some] of groups) this.transcript(attemptId).take(some);
  }
}
