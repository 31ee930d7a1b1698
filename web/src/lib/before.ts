// Whom a session's next prompt goes to.

import { get } from './api.ts';
import type { Page, Task } from './rows.ts';

/** The agent and model of a session's newest task: what follows goes on with them, whatever the project's are. */
export async function asBefore(sessionId: number): Promise<{ agent: string | null; model: string | null }> {
  const [last] = (await get<Page<Task>>('/api/tasks', { session: sessionId, limit: 1 })).items;
  return { agent: last?.agent ?? null, model: last?.model ?? null };
}
