// What a turn does, by the last that was heard of it.

import { firstLine, visible } from './format.ts';
import type { RunningTurn } from './rows.ts';

const text = (value: unknown): string => (typeof value === 'string' ? value : '');

export function doing(turn: RunningTurn): string {
  if (turn.is_cancelled) return 'is being cancelled';
  if (turn.asks) return visible(turn.asks);
  const data = (turn.doing_data ?? {}) as Record<string, unknown>;
  switch (turn.doing) {
    case null:
    case undefined:
      return 'starts';
    case 'text_delta':
    case 'text':
      return 'answers';
    case 'reasoning_delta':
    case 'reasoning':
    case 'plan':
      return 'thinks';
    case 'tool': {
      const call = (data.call ?? {}) as Record<string, unknown>;
      if (call.status === 'completed' || call.status === 'error') return 'thinks';
      return `${text(call.tool)} ${firstLine(text(call.title) || argument(call.input))}`.trim();
    }
    case 'retry':
      return `waits for the provider: ${firstLine(text(data.message))}`;
    case 'status':
    case 'warning':
      return firstLine(text(data.message));
    default:
      return 'works';
  }
}

/** The argument of a tool that says most. */
export function argument(input: unknown): string {
  if (typeof input !== 'object' || input === null) return '';
  const fields = input as Record<string, unknown>;
  for (const name of ['command', 'filePath', 'path', 'pattern', 'query', 'url', 'description', 'prompt']) {
    if (typeof fields[name] === 'string') return fields[name];
  }
  return '';
}
