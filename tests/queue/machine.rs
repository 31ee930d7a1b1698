//! The state machine of a line, over random interleavings: the pure one against what must hold whatever happens, and the
//! database's against the pure one, step by step.

use std::{collections::BTreeMap, time::Duration};

use millhand::{
    model::{
        line::{Done, Line, LinePolicy, LineTask, TaskState},
        outcome::Ending,
        retry::{self, Counts, RetryPolicy},
    },
    store::queue::{Claimed, Finish, Finished},
};
use proptest::{prelude::*, test_runner::TestRunner};
use tokio_postgres::Client;

use super::{HOST, LEASE, Queue};

const SESSIONS: usize = 3;
const MAX_ATTEMPTS: i32 = 3;
const RETRY: RetryPolicy = RetryPolicy {
    backoff_base: Duration::ZERO,
    backoff_cap: Duration::ZERO,
    max_infra_losses: 1,
    rate_limit_wait: Duration::ZERO,
    rate_limit_cap: Duration::ZERO,
};

/// What may happen next. A task is named by its place among all that there are by then.
#[derive(Clone, Debug)]
enum Act {
    Insert(usize),
    Advance,
    Claim(usize),
    Send(usize),
    Finish(usize, Ending),
    Lose(usize),
    Unanswered(usize),
    Cancel(usize),
    Retry(usize, bool),
    Dismiss(usize),
    Close(usize),
    Reopen(usize),
}

fn an_act() -> impl Strategy<Value = Act> {
    let session = 0..SESSIONS;
    let task = 0..20_usize;
    let ending = prop::sample::select(vec![
        Ending::Completed,
        Ending::Stalled,
        Ending::AskRejected,
        Ending::RateLimited { retry_after_seconds: None },
        Ending::ServerLost,
        Ending::Aborted,
        Ending::AsksToResend,
    ]);
    prop_oneof![
        4 => session.clone().prop_map(Act::Insert),
        6 => Just(Act::Advance),
        6 => session.clone().prop_map(Act::Claim),
        3 => session.clone().prop_map(Act::Send),
        6 => (session.clone(), ending).prop_map(|(session, ending)| Act::Finish(session, ending)),
        2 => session.clone().prop_map(Act::Lose),
        1 => session.clone().prop_map(Act::Unanswered),
        2 => task.clone().prop_map(Act::Cancel),
        4 => (task.clone(), any::<bool>()).prop_map(|(task, prompt)| Act::Retry(task, prompt)),
        2 => task.prop_map(Act::Dismiss),
        1 => session.clone().prop_map(Act::Close),
        1 => session.prop_map(Act::Reopen),
    ]
}

fn a_life() -> impl Strategy<Value = (bool, Vec<Act>)> {
    (any::<bool>(), prop::collection::vec(an_act(), 1..60))
}

fn policy(failure_holds: bool) -> LinePolicy {
    LinePolicy { failure_holds, retry: RETRY }
}

/// A few sessions, whose tasks are numbered together.
#[derive(Clone, Debug)]
struct World {
    lines: Vec<Line>,
}

impl World {
    fn line_of(&mut self, task: i64) -> Option<&mut Line> {
        self.lines.iter_mut().find(|line| line.tasks.contains_key(&task))
    }

    /// The task at a place, if there are any.
    fn task_at(&self, place: usize) -> Option<i64> {
        let ids: Vec<i64> = self.lines.iter().flat_map(|line| line.tasks.keys().copied()).collect();
        (!ids.is_empty()).then(|| ids[place % ids.len()])
    }

    /// Does an act; `next` is the number of the next task.
    fn act(&mut self, act: &Act, next: i64) -> Option<Done> {
        match act {
            Act::Insert(session) => Some(self.lines[*session].insert(next, MAX_ATTEMPTS)),
            Act::Advance => {
                self.lines.iter_mut().for_each(Line::advance);
                None
            }
            Act::Claim(session) => {
                self.lines[*session].claim();
                None
            }
            Act::Send(session) => {
                self.lines[*session].send();
                None
            }
            Act::Finish(session, ending) => {
                self.lines[*session].finish(ending);
                None
            }
            Act::Lose(session) => {
                self.lines[*session].lose(1);
                None
            }
            Act::Unanswered(session) => {
                self.lines[*session].lose(0);
                None
            }
            Act::Cancel(place) => self.task_at(*place).and_then(|task| Some(self.line_of(task)?.cancel(task))),
            Act::Retry(place, prompt) => {
                self.task_at(*place).and_then(|task| Some(self.line_of(task)?.retry(task, *prompt)))
            }
            Act::Dismiss(place) => self.task_at(*place).and_then(|task| Some(self.line_of(task)?.dismiss(task))),
            Act::Close(session) => Some(self.lines[*session].close()),
            Act::Reopen(session) => Some(self.lines[*session].reopen()),
        }
    }
}

/// What must hold after every step, and how a step may change things. Told by what people were promised, not by how it is done.
fn judge(before: &Line, act: &Act, after: &Line) -> Result<(), TestCaseError> {
    let heads = after.tasks.values().filter(|task| task.state.is_head()).count();
    prop_assert!(heads <= 1, "{heads} heads");
    // Whoever waits is either waited for (a head), held by a failed task, or about to be looked at.
    if let Some(waiting) = after.first_waiting() {
        let stuck = after.head().is_none() && !after.is_held(waiting) && !after.is_nudged;
        prop_assert!(!stuck, "t{waiting} waits for nothing");
        prop_assert!(after.is_open, "t{waiting} waits in a closed session");
        if let Some(head) = after.head().filter(|head| *head > waiting) {
            let task = &after.tasks[&head];
            let has_begun = task.state != TaskState::Pending || task.is_sent;
            prop_assert!(has_begun || after.is_nudged, "t{head} is ahead of t{waiting}");
        }
    }
    for (id, task) in &after.tasks {
        let (counts, state) = (task.counts, task.state);
        prop_assert!(counts.attempts <= counts.max_attempts, "t{id} has {} charged attempts", counts.attempts);
        prop_assert!(counts.infra_losses <= RETRY.max_infra_losses + 1);
        prop_assert!(!task.holds_line || state == TaskState::Failed, "t{id} holds its line and is {state:?}");
        let Some(was) = before.tasks.get(id) else { continue };
        let step = task.last_attempt - was.last_attempt;
        let claimed = was.state == TaskState::Pending && state == TaskState::Running;
        prop_assert_eq!(step, i32::from(claimed), "attempts count up by one, at a claim");
        let retried = matches!(act, Act::Retry(..)) && state == TaskState::Waiting;
        if was.state.is_final() && state != was.state {
            prop_assert!(retried && was.state != TaskState::Completed, "t{id}: {:?} to {state:?}", was.state);
        }
        if !retried {
            prop_assert!((0..=1).contains(&(counts.attempts - was.counts.attempts)), "charged once at most");
            prop_assert!(counts.infra_losses >= was.counts.infra_losses);
        }
        if was.state == TaskState::Waiting && state == TaskState::Pending {
            prop_assert!(matches!(act, Act::Advance) && !before.is_held(*id), "t{id} was promoted by {act:?}");
            prop_assert_eq!(before.first_waiting(), Some(*id));
        }
    }
    Ok(())
}

#[test]
fn in_a_line_nothing_gets_stuck_or_overtakes_or_is_charged_too_often() {
    let config = ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() };
    TestRunner::new(config)
        .run(&a_life(), |(holds, acts)| {
            let lines = (0..SESSIONS).map(|n| Line::open(policy(holds), n as i64 + 1, MAX_ATTEMPTS)).collect();
            let mut world = World { lines };
            for (next, act) in (100_i64..).zip(&acts) {
                let before = world.clone();
                world.act(act, next);
                for (before, after) in before.lines.iter().zip(&world.lines) {
                    judge(before, act, after)?;
                }
            }
            work_off(world)
        })
        .unwrap_or_else(|error| panic!("{error}"));
}

/// Whatever happened before, once people have let go of what failed and workers do their work, all comes to rest in order.
fn work_off(mut world: World) -> Result<(), TestCaseError> {
    for line in &mut world.lines {
        let mut last = (0, 0);
        for _ in 0..200 {
            let ids: Vec<i64> = line.tasks.keys().copied().collect();
            for id in ids {
                line.dismiss(id);
            }
            line.advance();
            let Some(id) = line.claim().or_else(|| line.head()) else { break };
            let task = &line.tasks[&id];
            prop_assert!(last.0 < id || last.1 > 0, "t{id} ran after t{}", last.0);
            // One that was ahead of an older one for good reason may be followed by it.
            last = (id, i32::from(line.first_waiting().is_some_and(|first| first < id)));
            prop_assert!(task.last_attempt > 0);
            line.finish(&Ending::Completed);
        }
        let open: Vec<_> = line.tasks.iter().filter(|(_, task)| !task.state.is_final()).collect();
        prop_assert!(open.is_empty(), "{open:?}");
    }
    Ok(())
}

/// The same sessions in the database; each in a project of its own, so that it has a lane of its own.
struct Real<'a> {
    queue: &'a Queue,
    client: &'a Client,
    /// (project, session)
    sessions: Vec<(String, i64)>,
    running: BTreeMap<i64, Claimed>,
}

impl<'a> Real<'a> {
    async fn open(queue: &'a Queue, client: &'a Client, policy: LinePolicy) -> (Self, Vec<i64>) {
        let mut sessions = Vec::new();
        let mut tasks = Vec::new();
        let on_failure = if policy.failure_holds { "hold" } else { "continue" };
        for _ in 0..SESSIONS {
            let project = format!("p{}", uuid::Uuid::new_v4().simple());
            let sql = format!(
                "INSERT INTO millhand.projects (name, source, on_failure) VALUES ('{project}', '/src', '{on_failure}')"
            );
            client.batch_execute(&sql).await.expect("project");
            let sql = "INSERT INTO millhand.tasks (project, prompt) VALUES ($1, 'x') RETURNING session_id, id";
            let row = client.query_one(sql, &[&project]).await.expect("task");
            sessions.push((project, row.get(0)));
            tasks.push(row.get(1));
        }
        (Self { queue, client, sessions, running: BTreeMap::new() }, tasks)
    }

    /// The number that the next inserted task gets.
    async fn next_task(&self) -> i64 {
        let sql = "SELECT last_value + 1 FROM millhand.tasks_id_seq";
        self.client.query_one(sql, &[]).await.expect("sequence").get(0)
    }

    /// Does an act; says what became of it where that can be said.
    async fn act(&mut self, act: &Act, world: &World) -> Option<Done> {
        let task = |place: &usize| world.task_at(*place);
        match act {
            Act::Insert(session) => {
                let sql = "INSERT INTO millhand.tasks (session_id, prompt) VALUES ($1, 'y')";
                let done = self.client.execute(sql, &[&self.sessions[*session].1]).await;
                Some(if done.is_ok() { Done::Yes } else { Done::Refused })
            }
            Act::Advance => {
                self.queue.store.advance_and_list_lanes().await.expect("advance");
                None
            }
            Act::Claim(session) => {
                self.claim(*session).await;
                None
            }
            Act::Send(session) => {
                if let Some(claimed) = self.running.get(&self.sessions[*session].1) {
                    let sql = "UPDATE millhand.tasks SET message_id = 'msg_1', resend_allowed = false WHERE id = $1";
                    self.client.execute(sql, &[&claimed.task_id]).await.expect("send");
                }
                None
            }
            Act::Finish(session, ending) => {
                if let Some(claimed) = self.running.remove(&self.sessions[*session].1) {
                    let finished = self.finish(&claimed, ending).await;
                    assert!(matches!(finished, Finished::Recorded(_)), "{finished:?}");
                }
                None
            }
            Act::Lose(session) => {
                if let Some(claimed) = self.running.remove(&self.sessions[*session].1) {
                    let sql = "UPDATE millhand.leases SET expires_at = now() - interval '1 minute' WHERE token = $1";
                    self.client.execute(sql, &[&claimed.token]).await.expect("expire");
                    let lost = self.queue.store.rescue_expired(Duration::ZERO, RETRY.max_infra_losses, 100).await;
                    assert_eq!(lost.expect("rescue").len(), 1);
                    assert_eq!(self.finish(&claimed, &Ending::Completed).await, Finished::Fenced);
                }
                None
            }
            Act::Unanswered(session) => {
                if let Some(claimed) = self.running.remove(&self.sessions[*session].1) {
                    let held: Vec<_> = self.running.values().map(|claimed| claimed.token).collect();
                    let (queue, most) = (self.queue, RETRY.max_infra_losses);
                    let given = queue.store.release_unheld(queue.worker, &held, most).await.expect("release");
                    assert_eq!(given.iter().map(|task| task.task_id).collect::<Vec<_>>(), [claimed.task_id]);
                }
                None
            }
            Act::Cancel(place) => self.call("cancel_task($1)", task(place)?).await,
            Act::Retry(place, false) => self.call("retry_task($1)", task(place)?).await,
            Act::Retry(place, true) => self.call("retry_task($1, 'another')", task(place)?).await,
            Act::Dismiss(place) => self.call("dismiss_task($1)", task(place)?).await,
            Act::Close(session) => self.call("close_session($1)", self.sessions[*session].1).await,
            Act::Reopen(session) => self.call("reopen_session($1)", self.sessions[*session].1).await,
        }
    }

    async fn call(&self, function: &str, id: i64) -> Option<Done> {
        match self.client.query_one(&format!("SELECT millhand.{function}"), &[&id]).await {
            Ok(row) if row.get(0) => Some(Done::Yes),
            Ok(_) => Some(Done::Nothing),
            Err(_) => Some(Done::Refused),
        }
    }

    async fn claim(&mut self, session: usize) {
        let (project, id) = &self.sessions[session];
        let sql = "SELECT DISTINCT lane FROM millhand.tasks WHERE project = $1 AND state = 'pending'";
        let rows = self.client.query(sql, &[&project]).await.expect("lane");
        let lanes: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        let queue = self.queue;
        let claimed = queue.store.claim(&lanes, 5, queue.worker, HOST, LEASE).await.expect("claim");
        assert!(claimed.len() <= 1, "two at once in one session");
        self.running.extend(claimed.into_iter().map(|claimed| (*id, claimed)));
    }

    async fn finish(&self, claimed: &Claimed, ending: &Ending) -> Finished {
        let finish = Finish {
            token: claimed.token,
            outcome: ending.as_str(),
            error_class: ending.error_class(),
            error_message: None,
            verdict: retry::decide(ending, false, claimed.counts, &RETRY, 0.0),
            summary: None,
            host_id: HOST,
        };
        self.queue.store.finish(&finish).await.expect("finish")
    }

    /// The lines as the database has them, in the words of the pure one.
    async fn lines(&self, policy: LinePolicy) -> Vec<Line> {
        let sessions: Vec<i64> = self.sessions.iter().map(|(_, id)| *id).collect();
        let sql = "SELECT s.state = 'open', EXISTS (SELECT 1 FROM millhand.nudges n WHERE n.session_id = s.id) \
                   FROM unnest($1::bigint[]) WITH ORDINALITY AS o (id, place) JOIN millhand.sessions s USING (id) ORDER BY place";
        let rows = self.client.query(sql, &[&sessions]).await.expect("sessions");
        let mut lines: Vec<Line> = rows
            .iter()
            .map(|row| Line { policy, is_open: row.get(0), is_nudged: row.get(1), tasks: BTreeMap::new() })
            .collect();
        let sql = "SELECT array_position($1, t.session_id) - 1, t.id, t.state, t.holds_line, t.attempts, t.max_attempts, t.infra_losses, \
                   t.last_attempt, t.message_id IS NOT NULL, t.resend_allowed, t.cancel_requested_at IS NOT NULL, t.dismissed_at IS NOT NULL, \
                   (t.state = 'running') = EXISTS (SELECT 1 FROM millhand.leases l WHERE l.task_id = t.id), \
                   (t.state = 'pending') = (t.lane IS NOT NULL), \
                   (t.state IN ('pending', 'waiting', 'running')) = (t.finished_at IS NULL), \
                   (SELECT count(*) FROM millhand.attempts a WHERE a.task_id = t.id AND a.ended_at IS NULL) = (t.state = 'running')::int \
                   FROM millhand.tasks t WHERE t.session_id = ANY ($1)";
        for row in &self.client.query(sql, &[&sessions]).await.expect("tasks") {
            let task = LineTask {
                state: state(row.get(2)),
                holds_line: row.get(3),
                counts: Counts { attempts: row.get(4), max_attempts: row.get(5), infra_losses: row.get(6) },
                last_attempt: row.get(7),
                is_sent: row.get(8),
                resend_allowed: row.get(9),
                cancel_requested: row.get(10),
                dismissed: row.get(11),
            };
            let id: i64 = row.get(1);
            for (column, what) in [(12, "lease"), (13, "lane"), (14, "end"), (15, "open attempts")] {
                assert!(row.get::<_, bool>(column), "t{id} is {:?}, and its {what} is not as it should be", task.state);
            }
            let place = usize::try_from(row.get::<_, i32>(0)).expect("place");
            lines[place].tasks.insert(id, task);
        }
        lines
    }
}

fn state(name: &str) -> TaskState {
    use TaskState::{Blocked, Cancelled, Completed, Failed, Pending, Running, Waiting};
    let all = [Pending, Waiting, Running, Blocked, Completed, Failed, Cancelled];
    all.into_iter().find(|state| state.as_str() == name).expect("a state")
}

#[test]
fn the_database_does_step_by_step_what_the_pure_line_does() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
    let (queue, client) = runtime.block_on(async {
        let queue = Queue::new().await;
        let client = queue.client().await;
        (queue, client)
    });
    let config =
        ProptestConfig { cases: 60, max_shrink_iters: 300, failure_persistence: None, ..ProptestConfig::default() };
    let outcome = TestRunner::new(config).run(&a_life(), |(holds, acts)| {
        // A broken promise is a failed case, which is then made smaller.
        let life =
            std::panic::AssertUnwindSafe(|| runtime.block_on(side_by_side(&queue, &client, policy(holds), &acts)));
        std::panic::catch_unwind(life).unwrap_or_else(|panic| {
            let words = panic.downcast_ref::<String>().cloned().unwrap_or_default();
            Err(TestCaseError::fail(words))
        })
    });
    runtime.block_on(async move { drop((queue, client)) });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

async fn side_by_side(queue: &Queue, client: &Client, policy: LinePolicy, acts: &[Act]) -> Result<(), TestCaseError> {
    let (mut real, first) = Real::open(queue, client, policy).await;
    let mut world = World { lines: first.iter().map(|id| Line::open(policy, *id, MAX_ATTEMPTS)).collect() };
    for (place, act) in acts.iter().enumerate() {
        let next = real.next_task().await;
        let done = real.act(act, &world).await;
        let expected = world.act(act, next);
        prop_assert_eq!(done, expected, "act {}: {:?}", place, act);
        for (real, pure) in real.lines(policy).await.iter().zip(&world.lines) {
            prop_assert_eq!(&real.tasks, &pure.tasks, "after act {}: {:?}", place, act);
            prop_assert_eq!((real.is_open, real.is_nudged), (pure.is_open, pure.is_nudged), "act {}: {:?}", place, act);
        }
    }
    // What is left over must not be in the way of the next life.
    for claimed in std::mem::take(&mut real.running).into_values() {
        real.finish(&claimed, &Ending::Completed).await;
    }
    queue.store.advance_and_list_lanes().await.expect("advance");
    prop_assert_eq!(queue.store.sweep_lines().await.expect("sweep"), 0, "a line had to be swept");
    Ok(())
}
