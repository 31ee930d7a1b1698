// What was done, or was not, said at the edge of the screen.

import { Problem } from './api.ts';

export interface Toast {
  id: number;
  kind: 'done' | 'problem';
  text: string;
  hint: string | null;
}

class Toasts {
  shown = $state<Toast[]>([]);
  private last = 0;

  private add(kind: Toast['kind'], text: string, hint: string | null, seconds: number): void {
    const id = ++this.last;
    this.shown = [...this.shown.slice(-3), { id, kind, text, hint }];
    setTimeout(() => this.drop(id), seconds * 1000);
  }

  done(text: string): void {
    this.add('done', text, null, 6);
  }

  problem(error: unknown): void {
    if (error instanceof Problem) this.add('problem', error.detail || error.title, error.hint, 15);
    else this.add('problem', String(error), null, 15);
  }

  drop(id: number): void {
    this.shown = this.shown.filter((toast) => toast.id !== id);
  }
}

export const toasts = new Toasts();

/** Does something; says so if it could not be done. True if it was. */
export async function attempt(what: () => Promise<unknown>, done?: string): Promise<boolean> {
  try {
    await what();
    if (done) toasts.done(done);
    return true;
  } catch (error) {
    toasts.problem(error);
    return false;
  }
}
