// A turn's transcript: events as they come become blocks as people read them.

import type { TurnEvent } from './rows.ts';

export interface ToolCall {
  call_id?: string;
  tool?: string;
  status?: string;
  title?: string;
  input?: unknown;
  output?: string;
  error?: string;
  exit_code?: number;
}

type Data = Record<string, unknown>;

/** One thing on the page. Its text grows while it streams, and only it is drawn again. */
export class Block {
  text = $state('');
  call = $state.raw<ToolCall>({});
  data = $state.raw<Data>({});
  isStreaming = $state(false);

  constructor(
    readonly key: string,
    readonly kind: 'text' | 'reasoning' | 'tool' | 'step' | 'plan' | 'ask' | 'retry' | 'status' | 'warning' | 'unknown',
    readonly at: string,
    /** Where it is among the others. */
    readonly place: number,
  ) {}
}

const text = (data: Data, field: string): string => (typeof data[field] === 'string' ? data[field] : '');

/** The transcript of one attempt. */
export class Transcript {
  blocks = $state.raw<Block[]>([]);
  /** The last that the agent was said to do, while nothing else is to be seen. */
  status = $state('');
  lastSeq = -1;
  private byPart = new Map<string, Block>();
  private pending: Block[] = [];
  /** Of what is pending, something goes before what came before it. */
  private isAhead = false;

  constructor(readonly attemptId: number) {}

  /** Takes events, in any number; those that are known already are left out. */
  take(events: readonly TurnEvent[]): void {
    for (const event of events) {
      if (event.attempt_id !== this.attemptId || event.seq <= this.lastSeq) continue;
      this.lastSeq = event.seq;
      this.one(event);
    }
    if (this.pending.length > 0) {
      const blocks = [...this.blocks, ...this.pending];
      // A text that became whole after what came meanwhile is where it began, as for those who saw it stream.
      if (this.isAhead) blocks.sort((one, other) => one.place - other.place);
      this.blocks = blocks;
      this.isAhead = false;
      this.pending = [];
    }
  }

  private one(event: TurnEvent): void {
    const data = (typeof event.data === 'object' && event.data !== null ? event.data : {}) as Data;
    switch (event.kind) {
      case 'text_delta':
      case 'reasoning_delta': {
        const block = this.part(event, event.kind === 'text_delta' ? 'text' : 'reasoning');
        block.text += text(data, 'delta');
        block.isStreaming = true;
        this.status = '';
        break;
      }
      case 'text':
      case 'reasoning': {
        const block = this.part(event, event.kind);
        block.text = text(data, 'text');
        block.isStreaming = false;
        break;
      }
      case 'tool': {
        const call = (data.call ?? {}) as ToolCall;
        this.part(event, 'tool').call = call;
        this.status = '';
        break;
      }
      case 'step_finish':
        this.part(event, 'step').data = (data.usage ?? {}) as Data;
        break;
      case 'status':
        this.status = text(data, 'message');
        break;
      case 'warning':
      case 'retry':
      case 'ask':
      case 'plan':
      case 'unknown': {
        const block = this.add(`${event.kind}-${event.seq}`, event.kind, event);
        block.data = data;
        block.text = text(data, 'message');
        break;
      }
      default:
        break;
    }
  }

  private part(event: TurnEvent, kind: Block['kind']): Block {
    const key = `${kind}-${event.part ?? event.seq}`;
    return this.byPart.get(key) ?? this.add(key, kind, event);
  }

  private add(key: string, kind: Block['kind'], event: TurnEvent): Block {
    const { began } = (event.data ?? {}) as { began?: unknown };
    const block = new Block(key, kind, event.created_at, typeof began === 'number' ? began : event.seq);
    this.isAhead ||= typeof began === 'number';
    this.byPart.set(key, block);
    this.pending.push(block);
    return block;
  }
}
