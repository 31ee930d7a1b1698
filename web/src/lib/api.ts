// One place that talks to the server.

/** Why the server did not do what it was asked. */
export class Problem extends Error {
  constructor(
    readonly status: number,
    readonly title: string,
    readonly detail: string,
    readonly hint: string | null,
    readonly body: Record<string, unknown>,
  ) {
    super(detail || title);
  }

  /** Nobody is logged in, or not any more. */
  get isLogin(): boolean {
    return this.status === 401;
  }
}

type Query = Record<string, string | number | boolean | null | undefined | readonly string[]>;

export function withQuery(path: string, query: Query = {}): string {
  const parts = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value === null || value === undefined || value === '') continue;
    const text = typeof value === 'object' ? value.join(',') : String(value);
    if (text !== '') parts.set(name, text);
  }
  const text = parts.toString();
  return text ? `${path}?${text}` : path;
}

async function problemOf(answer: Response): Promise<Problem> {
  let body: Record<string, unknown> = {};
  try {
    body = (await answer.json()) as Record<string, unknown>;
  } catch {
    // A proxy in between may answer in its own words.
  }
  const text = (name: string) => (typeof body[name] === 'string' ? body[name] : null);
  return new Problem(answer.status, text('title') ?? `HTTP ${answer.status}`, text('detail') ?? '', text('hint'), body);
}

/** Most times that something is asked that the server wants asked later. */
const TIMES = 4;
/** Longest, in seconds, that a page waits for that. */
const PATIENCE = 5;

async function ask(path: string, init: RequestInit): Promise<Response> {
  let answer: Response;
  try {
    answer = await fetch(path, { credentials: 'same-origin', ...init });
    for (let time = 1; answer.status === 429 && time < TIMES; time++) {
      const wait = Number(answer.headers.get('Retry-After') ?? 1);
      if (!(wait <= PATIENCE)) break;
      await new Promise((resolve) => setTimeout(resolve, wait * 1000));
      answer = await fetch(path, { credentials: 'same-origin', ...init });
    }
  } catch (error) {
    if (error instanceof DOMException && error.name === 'AbortError') throw error;
    throw new Problem(0, 'Millhand does not answer', 'The server cannot be reached.', 'Is it running? millhand status', {});
  }
  if (!answer.ok) throw await problemOf(answer);
  return answer;
}

export async function get<T>(path: string, query: Query = {}, signal?: AbortSignal): Promise<T> {
  const answer = await ask(withQuery(path, query), { headers: { Accept: 'application/json' }, signal: signal ?? null });
  return (await answer.json()) as T;
}

export async function getText(path: string, query: Query = {}, signal?: AbortSignal): Promise<string> {
  return await (await ask(withQuery(path, query), { signal: signal ?? null })).text();
}

/** A list that is short by nature, and given whole. */
export async function getWhole<T>(path: string, query: Query = {}, signal?: AbortSignal): Promise<T[]> {
  return (await get<{ items: T[] }>(path, query, signal)).items;
}

/** Every page of a list, up to a bound. */
export async function getAll<T>(path: string, query: Query = {}, signal?: AbortSignal, atMost = 20_000): Promise<T[]> {
  const found: T[] = [];
  let cursor: string | null = null;
  do {
    const page: { items: T[]; next?: string | null } = await get(path, { ...query, limit: 500, cursor }, signal);
    found.push(...page.items);
    cursor = page.next ?? null;
  } while (cursor && found.length < atMost);
  return found;
}

export async function send<T>(
  method: 'POST' | 'PUT' | 'PATCH' | 'DELETE',
  path: string,
  body?: unknown,
  key?: string,
): Promise<T> {
  const headers: Record<string, string> = { Accept: 'application/json' };
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  if (key) headers['Idempotency-Key'] = key;
  const answer = await ask(path, { method, headers, body: body === undefined ? null : JSON.stringify(body) });
  const text = await answer.text();
  return (text ? JSON.parse(text) : null) as T;
}

/** A key for one thing to be made, however often its making is tried. */
export function newKey(): string {
  // Not crypto.randomUUID: that is there in secure contexts only, and a host in the local network may not be one.
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** Tells the server something while the page goes; nobody waits for the answer. */
export function tell(path: string): void {
  void fetch(path, { method: 'POST', keepalive: true, credentials: 'same-origin' }).catch(() => undefined);
}
