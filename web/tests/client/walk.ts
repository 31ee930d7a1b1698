// All that can be done with the API, done with the client that was made from its document. `run.mjs` compiles and starts it.
import { client } from './client/client.gen.js';
import * as api from './client/index.js';
import type { Problem, TaskDetail } from './client/index.js';

interface Given {
  url: string;
  token: string;
  repository: string;
  document: { paths: Record<string, Record<string, { operationId: string }>> };
}

const WITHIN = 120_000;
/** Operations that were used, by what they answered. */
const used = new Map<string, Set<number>>();

function check(holds: boolean, what: string): asserts holds {
  if (!holds) throw new Error(what);
}

/** What an operation answers, which must be well. */
async function ok<T>(call: Promise<{ data?: T; error?: unknown; response: Response }>): Promise<T> {
  const { data, error, response } = await call;
  // A request or an answer that is not as the document says is thrown or has no response.
  check(response !== undefined && response.ok, `${response?.status} ${response?.url}: ${JSON.stringify(error) ?? error}`);
  return data as T;
}

/** What is said by an operation that refuses. */
async function refused(status: number, call: Promise<{ data?: unknown; error?: unknown; response: Response }>): Promise<Problem> {
  const { error, response } = await call;
  check(response?.status === status, `${response?.status} rather than ${status}: ${JSON.stringify(error)}`);
  check(response.headers.get('content-type') === 'application/problem+json', 'a problem is told as one');
  const { zProblem } = await import('./client/zod.gen.js');
  return zProblem.parse(error) as Problem;
}

/** The task, once it is at rest. */
async function settled(id: number): Promise<TaskDetail> {
  const until = Date.now() + WITHIN;
  for (;;) {
    const task = await ok(api.tasksShow({ path: { id: `t${id}` } }));
    if (['completed', 'failed', 'blocked', 'cancelled'].includes(task.state)) return task;
    check(Date.now() < until, `t${id} is ${task.state}`);
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

export async function walk({ url, token, repository, document }: Given): Promise<void> {
  client.setConfig({ baseUrl: url, auth: () => token });
  client.interceptors.response.use((response, _request, options) => {
    const name = `${options.method} ${options.url}`;
    used.set(name, (used.get(name) ?? new Set()).add(response.status));
    return response;
  });
  const session = await queue();
  await review(session);
  await people();
  await manage(repository);
  await look();
  all(document);
}

async function queue(): Promise<number> {
  const headers = { 'Idempotency-Key': 'client-1' };
  const body = { project: 'acme', prompt: 'make files', priority: 2 };
  const first = await api.tasksCreate({ body, headers });
  check(first.response.status === 201, 'it is queued');
  const again = await api.tasksCreate({ body, headers });
  check(again.response.status === 200 && again.data?.id === first.data?.id, 'the same key is the same task');
  const { id, session_id: session } = await ok(api.tasksCreate({ body, headers }));
  await refused(409, api.tasksCreate({ body: { ...body, prompt: 'another' }, headers }));
  const missing = await refused(404, api.tasksCreate({ body: { project: 'nobody', prompt: 'x' } }));
  check(missing.type === 'urn:millhand:not_found' && missing.status === 404, missing.type);

  // Followed to its end, by the generated reader of events.
  const kinds = new Set<string>();
  const { stream } = await api.tasksStream({ path: { id: `t${id}` }, sseMaxRetryAttempts: 1, onSseError: fail, onSseEvent: (event) => void kinds.add(event.event ?? '') });
  for await (const said of stream) check(typeof said === 'object', 'an event is an object');
  for (const kind of ['attempt', 'event', 'ended']) check(kinds.has(kind), `${[...kinds]} has ${kind}`);
  used.set('GET /api/tasks/{id}/stream', new Set([200]));

  const task = await settled(id);
  check(task.state === 'completed' && task.attempt_rows.length === 1, `${task.state}: ${task.error_message}`);
  const chat = task.chat_id;
  const second = await ok(api.sessionsSend({ path: { id: `s${session}` }, body: { prompt: 'again', chat } }));
  check((await settled(second.id)).state === 'completed', 'the second turn');

  // Page by page it is the same list.
  const whole = await ok(api.tasksList({ query: { limit: 500, project: 'acme' } }));
  const pages: number[] = [];
  for (let cursor: string | undefined; ; ) {
    const page = await ok(api.tasksList({ query: { limit: 1, project: 'acme', cursor } }));
    pages.push(...page.items.map((item) => item.id));
    if (page.next === null) break;
    cursor = page.next;
  }
  check(JSON.stringify(pages) === JSON.stringify(whole.items.map((item) => item.id)) && pages.length === 2, `${pages}`);
  const done = await ok(api.tasksList({ query: { state: 'completed,failed', session: `s${session}` } }));
  check(done.items.length === 2, 'filters hold');
  const events = await ok(api.tasksEvents({ path: { id: String(id) }, query: { limit: 2, attempt: 1 } }));
  check(events.items.length === 2 && events.next !== null, 'a transcript has pages');
  await ok(api.sessionsList({ query: { state: 'open', project: 'acme' } }));
  await ok(api.sessionsShow({ path: { id: `s${session}` } }));
  await ok(api.sessionsChats({ path: { id: `s${session}` } }));
  await ok(api.sessionsAgentSessions({ path: { id: `s${session}` } }));
  await ok(api.sessionsChat({ path: { id: `c${chat}` } }));
  return session;
}

async function review(session: number): Promise<void> {
  const sets = await ok(api.changesList({ query: { session: `s${session}` } }));
  const [newest, older] = sets.items;
  check(newest !== undefined && older !== undefined, 'two turns, two change sets');
  const path = { id: newest.id };
  await ok(api.changesShow({ path }));
  const files = await ok(api.changesFiles({ path, query: { limit: 1 } }));
  const file = files.items[0];
  check(file !== undefined && files.next !== null, 'files have pages');
  await ok(api.changesFile({ path: { ...path, file: file.id } }));
  const patch = await ok(api.changesPatch({ path }));
  check(typeof patch === 'string' ? patch.startsWith('diff --git') : false, 'the patch is text');
  await ok(api.changesInterdiff({ path, query: { from: older.id } }));
  await ok(api.changesLooked({ path }));
  await ok(api.changesComment({ path, body: { path: file.path, line: 1, body: 'why?' } }));
  await ok(api.changesComments({ path }));
  await ok(api.sessionsComments({ path: { id: `s${session}` } }));
  await ok(api.changesChecks({ path }));
  const none = await refused(422, api.changesRunChecks({ path }));
  check(none.detail !== '', 'it says why');
  await ok(api.changesReject({ path, body: { only: ['other.txt'], expect: newest.patch_sha256 } }));
  const applied = await ok(api.changesApply({ path, body: { only: ['made.txt'], message: 'made' } }));
  check(applied.taken.includes('made.txt'), 'it is applied');
  await ok(api.changesApplies({ path }));
  await ok(api.changesForecasts({ query: { project: 'acme' } }));
  await refused(422, api.sessionsSendConflicts({ path: { id: `s${session}` }, body: {} }));
  await ok(api.sessionsCheckpoints({ path: { id: `s${session}` } }));
  check(older.task_id !== null, 'of a task');
  await ok(api.sessionsRollback({ path: { id: `s${session}` }, body: { task: older.task_id } }));
  const sent = await ok(api.sessionsSendReview({ path: { id: `s${session}` }, body: { prompt: 'as I said' } }));
  await settled(sent.id);
  await ok(api.sessionsClose({ path: { id: `s${session}` } }));
  await ok(api.sessionsReopen({ path: { id: `s${session}` } }));
}

async function people(): Promise<void> {
  const failed = await ok(api.tasksCreate({ body: { project: 'acme', prompt: 'no such model', model: 'scripted/none' } }));
  await settled(failed.id);
  const inbox = await ok(api.inboxList({ query: { project: 'acme' } }));
  check(inbox.items.some((item) => item.task_id === failed.id), 'it is in the inbox');
  const many = await ok(api.tasksRetryMany({ body: { tasks: [failed.id, 999_999] } }));
  check(many.items[0]?.problem === null && many.items[1]?.problem?.status === 404, 'each has its own answer');
  await settled(failed.id);
  await ok(api.tasksRetry({ path: { id: String(failed.id) }, body: { prompt: 'anew', model: 'scripted/none' } }));
  await settled(failed.id);
  await ok(api.tasksDismiss({ path: { id: String(failed.id) } }));
  await ok(api.tasksDismissMany({ body: { all: true, project: 'acme' } }));
  await refused(409, api.tasksCancel({ path: { id: String(failed.id) } }));
  const asking = await ok(api.tasksCreate({ body: { project: 'acme', prompt: 'ask me', model: 'scripted/asks' } }));
  const until = Date.now() + WITHIN;
  let asks = await ok(api.inboxAsks({ query: { state: 'open', task: `t${asking.id}` } }));
  while (asks.items.length === 0) {
    check(Date.now() < until, 'nothing is asked');
    await new Promise((resolve) => setTimeout(resolve, 200));
    asks = await ok(api.inboxAsks({ query: { state: 'open', task: `t${asking.id}` } }));
  }
  const path = { id: `a${asks.items[0]?.id}` };
  await ok(api.inboxAsk({ path }));
  await ok(api.inboxAnswer({ path, body: { answer: 'once' } }));
  await settled(asking.id);
}

async function manage(repository: string): Promise<void> {
  await ok(api.costsSetBudgets({ body: { project: 'acme', limits: [{ per: 'day', limit: '20' }, { per: 'task', limit: '200ktok' }] } }));
  const budgets = await ok(api.costsBudgets({ query: { project: 'acme' } }));
  check(budgets.items.length === 2, 'two limits');
  await ok(api.costsClearBudgets({ query: { project: 'acme', per: 'task' } }));
  await ok(api.costsSetPrice({ body: { model: 'scripted/*', input: 1.5, output: 3 } }));
  await ok(api.costsPrices());
  await ok(api.costsClearPrice({ query: { model: 'scripted/*' } }));
  for (const by of ['day', 'project', 'model', 'agent', 'session', 'task'] as const) await ok(api.costsCosts({ query: { by, since: '7d' } }));

  await ok(api.projectsAddProject({ body: { source: repository, name: 'second', asks: 'inbox' } }));
  const name = { name: 'second' };
  const set = await ok(api.projectsSetProject({ path: name, body: { max_attempts: 5 } }));
  check(set.max_attempts === 5 && set.ask_policy === 'inbox', 'what is not named stays');
  const of = { name: 'second', check: 'unit' };
  await ok(api.projectsAddCheck({ path: of, body: { command: 'true' } }));
  await ok(api.projectsChecks({ path: name }));
  await ok(api.projectsRemoveCheck({ path: of }));
  await ok(api.projectsList());
  await ok(api.projectsShow({ path: name }));
  await ok(api.projectsRemoveProject({ path: name }));

  const hook = await ok(api.webhooksAdd({ body: { url: 'http://127.0.0.1:9/hook', allow_private: true, events: ['task.failed'] } }));
  const path = { id: `wh${hook.id}` };
  await ok(api.webhooksList());
  await ok(api.webhooksShow({ path }));
  await ok(api.webhooksTest({ path }));
  await ok(api.webhooksDeliveries({ query: { webhook: `wh${hook.id}` } }));
  await ok(api.webhooksRetry({ body: { dead: true, webhook: hook.id } }));
  await ok(api.webhooksSwitch({ path, body: { enabled: false } }));
  await ok(api.webhooksRemove({ path }));

  const worktrees = await ok(api.fleetWorktrees({ query: { gone: true, project: 'acme' } }));
  const worktree = worktrees.items[0];
  check(worktree !== undefined, 'sessions have worktrees');
  await ok(api.fleetReap({ body: { ids: [worktree.id], dry_run: true } }));
  await ok(api.fleetRestore({ path: { id: `w${worktree.id}` } }));

  const token = await ok(api.accessAdd({ body: { name: 'other', scopes: ['read'], expires: '1d' } }));
  const lesser = { auth: () => token.secret };
  check((await ok(api.accessMe(lesser))).name === 'other', 'a token is who it was made for');
  const kept = await refused(403, api.accessList(lesser));
  check(kept.scope === 'admin', 'it says what it would take');
  const tokens = await ok(api.accessList({ query: { all: true, limit: 1 } }));
  check(tokens.items.length === 1 && tokens.next !== null, 'tokens have pages');
  await ok(api.accessRevoke({ path: { id: `tok${token.id}` } }));
  await refused(401, api.accessMe(lesser));
  await ok(api.fleetAudit({ query: { limit: 5 } }));
}

async function look(): Promise<void> {
  await ok(api.healthHealthz());
  await ok(api.healthReadyz());
  check(String(await ok(api.healthMetrics())).includes('millhand_worker_up'), 'figures are text');
  await ok(api.documentOpenapi());
  await ok(api.documentDocs());
  await ok(api.documentDocsScript());
  await ok(api.documentDocsStyle());
  await ok(api.fleetOverview());
  await ok(api.fleetActivity());
  await ok(api.fleetWorkers());
  await ok(api.fleetAgents());
  await ok(api.fleetServers());
  await refused(400, api.tasksShow({ path: { id: 's1' } }));

  // The fleet's stream has no end: until what runs was told, and something changed.
  const stop = new AbortController();
  const names = new Set<string>();
  const { stream } = await api.fleetStream({ signal: stop.signal, sseMaxRetryAttempts: 1, onSseError: (error) => stop.signal.aborted || fail(error), onSseEvent: (event) => void names.add(event.event ?? '') });
  for await (const said of stream) {
    check(typeof said === 'object', 'an event is an object');
    if (names.has('change')) stop.abort();
    else if (names.size === 1) await ok(api.tasksCreate({ body: { project: 'acme', prompt: 'one more' } }));
  }
  check(names.has('activity') && names.has('change'), `${[...names]}`);
  used.set('GET /api/stream', new Set([200]));
  // Of a browser: a link that is none, and the way out of a cookie that nobody has.
  await api.accessLogin({ query: { code: 'wrong' } });
  await ok(api.accessLogout());
}

let failure: unknown;
/** What the generated reader would only try again. */
function fail(error: unknown): void {
  failure ??= error;
}

/** Everything that the document has was used, and nearly all of it with success. */
function all(document: Given['document']): void {
  if (failure !== undefined) throw failure;
  // Nothing to run, nothing in conflict, nothing to cancel, no link to log in with: refused above, each for its reason.
  const refuses = ['POST /api/change-sets/{id}/checks', 'POST /api/sessions/{id}/conflicts', 'POST /api/tasks/{id}/cancel', 'GET /login'];
  const wrong: string[] = [];
  let count = 0;
  for (const [path, item] of Object.entries(document.paths)) {
    for (const [method, { operationId }] of Object.entries(item)) {
      const name = `${method.toUpperCase()} ${path}`;
      const answers = [...(used.get(name) ?? [])];
      const isWell = refuses.includes(name) ? answers.length > 0 : answers.some((status) => status < 300);
      if (!isWell) wrong.push(`${operationId} (${name}): ${answers.join(', ') || 'not used'}`);
      count += 1;
    }
  }
  check(wrong.length === 0, `not used with success:\n${wrong.join('\n')}`);
  console.log(`${count} operations used`);
}
