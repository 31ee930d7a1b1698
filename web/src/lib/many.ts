// Acting on many tasks at once: what could not be done to some of them is said, and the rest is done.

import { send } from './api.ts';
import { count } from './format.ts';
import { attempt, toasts } from './toasts.svelte.ts';
import type { BulkDone, BulkRequest } from './rows.ts';

const DONE = { retry: 'will run again', dismiss: 'dismissed' } as const;

export async function actOnMany(verb: keyof typeof DONE, tasks: number[], more: Pick<BulkRequest, 'model' | 'agent'> = {}): Promise<boolean> {
  return await attempt(async () => {
    const { items } = await send<BulkDone>('POST', `/api/tasks/${verb}`, { tasks, ...more } satisfies BulkRequest);
    const bad = items.filter((item) => item.problem);
    if (items.length > bad.length) toasts.done(`${count(items.length - bad.length, 'task')} ${DONE[verb]}.`);
    for (const item of bad.slice(0, 3)) toasts.problem(`t${item.task_id}: ${item.problem?.detail ?? ''}`);
  });
}
