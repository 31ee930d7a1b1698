//! The worker's side: starting shims, and handles of the children behind them.

use std::{
    collections::VecDeque,
    ffi::OsString,
    io,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{ChildStdin, ChildStdout, Command},
    sync::{broadcast, mpsc, watch},
    time::timeout,
};
use uuid::Uuid;

use super::{
    Alive, BootTime, ChildSpec, Exit, Lifeline, Line,
    family::KILL_LIMIT,
    wire::{self, Event, Request, Spec},
};

/// How long a shim may take to start its child: it is our own small program, but the machine may be busy.
const START_WITHIN: Duration = Duration::from_secs(30);
/// Lines that a slow listener may lag behind.
const LINES: usize = 1024;
/// Requests under way to the owner of a child.
const REQUESTS: usize = 8;
/// How long a child without turns may live without a word from its worker.
const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// What the shim needs beside the grace: the kill, the last lines, its own end.
const STOP_MARGIN: Duration = Duration::from_secs(5);

/// Starts children of one home.
#[derive(Clone, Debug)]
pub struct Supervisor {
    millhand: PathBuf,
    scope: String,
    lifeline: Option<Lifeline>,
}

/// Why a child was not started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The shim could not be started.
    #[error("cannot start {} as a shim: {source}; is millhand installed completely?", path.display())]
    Shim {
        /// Millhand's own program.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The child could not be started.
    #[error("cannot start {name}: {message}")]
    Child {
        /// Its name.
        name: String,
        /// Why.
        message: String,
    },
    /// The shim said something else than that the child runs, or nothing.
    #[error("the shim of {name} did not start it: {message}")]
    Silent {
        /// Its name.
        name: String,
        /// What happened.
        message: String,
    },
}

/// Why a line did not come.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WaitError {
    /// The time is over.
    #[error("it did not come within {0:?}")]
    Late(Duration),
    /// The child ended before.
    #[error("it ended before: {0}")]
    Ended(Exit),
}

impl Supervisor {
    /// A supervisor that runs shims from this program, which must be `millhand` (under test the running program is another).
    ///
    /// `scope` names the home in the markers of its families, for [`find_family`](super::find_family): it is the same at each start
    /// of a worker of this home, and no other home's.
    pub fn new(millhand: impl Into<PathBuf>, scope: impl Into<String>) -> Self {
        Self { millhand: millhand.into(), scope: scope.into(), lifeline: None }
    }

    /// The same, whose children are ended when the lifeline tears: those with turns when it says so, others a while after the last
    /// word from this process.
    #[must_use]
    pub fn with_lifeline(self, lifeline: Lifeline) -> Self {
        Self { lifeline: Some(lifeline), ..self }
    }

    /// The scope of its families.
    pub fn scope(&self) -> &str {
        &self.scope
    }

    /// Starts a child, and returns when it runs.
    pub async fn spawn(&self, spec: ChildSpec) -> Result<Child, SpawnError> {
        let name = spec.name.clone();
        let silent = |message: &str| SpawnError::Silent { name: name.clone(), message: message.to_owned() };
        let marker = format!("{}.{}", self.scope, Uuid::new_v4().simple());
        let tail_lines = spec.output.tail_lines;
        let kill_grace = spec.kill_grace;
        let first = wire::line(&Request::Start(Box::new(to_wire(spec, &marker))))
            .map_err(|error| silent(&error.to_string()))?;

        let mut shim = Command::new(&self.millhand)
            .arg("shim")
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|source| SpawnError::Shim { path: self.millhand.clone(), source })?;
        let (Some(mut stdin), Some(stdout)) = (shim.stdin.take(), shim.stdout.take()) else {
            return Err(silent("no pipes"));
        };
        let mut events = BufReader::new(stdout);
        let started = async {
            // A shim that is gone already says so by its closed stdout.
            let _ = stdin.write_all(&first).await;
            next_event(&mut events).await
        };
        let pid = match timeout(START_WITHIN, started).await {
            Ok(Some(Event::Started { pid })) => pid,
            Ok(Some(Event::Failed { message })) => return Err(SpawnError::Child { name, message }),
            Ok(Some(other)) => return Err(silent(&format!("it began with {other:?}"))),
            Ok(None) => return Err(silent("it ended at once")),
            Err(_) => return Err(silent("it said nothing in time")),
        };
        let (requests, inbox) = mpsc::channel(REQUESTS);
        let shared = Arc::new(Shared {
            name,
            pid,
            marker,
            kill_grace,
            output: Mutex::new(Output { tail: VecDeque::new(), listeners: broadcast::Sender::new(LINES) }),
            tail_lines,
            state: watch::Sender::new(None),
            turns: watch::Sender::new(Turns { running: 0, told: self.lifeline.is_none() }),
        });
        let word = self.lifeline.as_ref().map(|lifeline| Word::new(lifeline, &shared));
        tokio::spawn(own(shim, stdin, events, inbox, word, Arc::clone(&shared)));
        Ok(Child { shared, requests })
    }
}

fn to_wire(spec: ChildSpec, marker: &str) -> Spec {
    Spec {
        program: spec.program,
        args: spec.args,
        cwd: spec.cwd,
        env: spec.env.into_iter().collect::<Vec<(OsString, OsString)>>(),
        marker: marker.to_owned(),
        output: spec.output,
        log: spec.log,
        run_as: spec.run_as,
        sandbox: spec.sandbox,
        kill_grace_ms: wire::millis(spec.kill_grace),
    }
}

async fn next_event(events: &mut BufReader<ChildStdout>) -> Option<Event> {
    let mut line = String::new();
    match events.read_line(&mut line).await {
        Ok(count) if count > 0 => serde_json::from_str(&line).ok(),
        _ => None,
    }
}

/// Owns a child until its shim is gone. Ends, and with it the family, when all handles are gone.
async fn own(
    mut shim: tokio::process::Child,
    stdin: ChildStdin,
    mut events: BufReader<ChildStdout>,
    mut requests: mpsc::Receiver<Request>,
    mut word: Option<Word>,
    shared: Arc<Shared>,
) {
    let writer = async move {
        let mut stdin = stdin;
        loop {
            let request = tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => request,
                    None => break,
                },
                () = due(&mut word) => Request::Alive(word.as_mut().map_or_else(idle, Word::begin)),
            };
            let Ok(line) = wire::line(&request) else { continue };
            if stdin.write_all(&line).await.is_err() {
                break;
            }
            if let Some(word) = &mut word {
                word.was_said();
            }
        }
        // Closing the pipe is what ends the family.
        drop(stdin);
        std::future::pending::<()>().await
    };
    let reader = async {
        let mut exit = Exit::Lost;
        while let Some(event) = next_event(&mut events).await {
            match event {
                Event::Line { stream, text } => shared.print(Line { stream, text }),
                Event::Dropped { lines } => tracing::warn!(child = shared.name, lines, "output was dropped"),
                Event::Exited { exit: how } => exit = how,
                Event::Started { .. } | Event::Failed { .. } => {}
            }
        }
        exit
    };
    let exit = tokio::select! {
        exit = reader => exit,
        () = writer => Exit::Lost,
    };
    // Its stdout is closed: it is gone, or about to be.
    let _ = shim.wait().await;
    shared.state.send_replace(Some(exit));
}

/// What a child is told that has no turns.
fn idle() -> Alive {
    Alive::new(BootTime::now().plus(IDLE_LIMIT), super::KILL_GRACE)
}

async fn due(word: &mut Option<Word>) {
    match word {
        Some(word) => word.due().await,
        None => std::future::pending().await,
    }
}

/// Turns on a child, and whether its shim knows that there are some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Turns {
    running: usize,
    told: bool,
}

/// What keeps a shim told that the worker lives.
struct Word {
    lifeline: watch::Receiver<Alive>,
    shared: Arc<Shared>,
    turns: watch::Receiver<Turns>,
    /// So that an idle child lives as long as this process, whatever becomes of heartbeats.
    ticks: tokio::time::Interval,
    /// Turns run, and the shim is being told.
    telling: bool,
}

impl Word {
    fn new(lifeline: &Lifeline, shared: &Arc<Shared>) -> Self {
        let mut ticks = tokio::time::interval(IDLE_LIMIT / 4);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let turns = shared.turns.subscribe();
        Self { lifeline: lifeline.subscribe(), shared: Arc::clone(shared), turns, ticks, telling: false }
    }

    /// Waits until there is something to say.
    async fn due(&mut self) {
        tokio::select! {
            Ok(()) = self.lifeline.changed() => {}
            Ok(()) = self.turns.changed() => {}
            _ = self.ticks.tick() => {}
        }
    }

    /// What to say. Before an idle child's longer time is said, it stops counting as told of turns, so that one which begins at this
    /// moment waits for the next word.
    fn begin(&mut self) -> Alive {
        self.turns.mark_unchanged();
        let mut running = 0;
        self.shared.turns.send_if_modified(|turns| {
            running = turns.running;
            turns.told &= running > 0;
            false
        });
        self.telling = running > 0;
        if self.telling { *self.lifeline.borrow_and_update() } else { idle() }
    }

    /// It is in the pipe, where the shim finds it even if this process is stopped now.
    fn was_said(&mut self) {
        if std::mem::take(&mut self.telling) {
            self.shared.turns.send_if_modified(|turns| !std::mem::replace(&mut turns.told, true));
        }
    }
}

/// A turn that runs on a child: until this is dropped, the child lives no longer than the lifeline says.
#[derive(Debug)]
pub struct Busy {
    shared: Arc<Shared>,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.shared.turns.send_modify(|turns| turns.running -= 1);
    }
}

/// What all handles share.
#[derive(Debug)]
struct Shared {
    name: String,
    pid: u32,
    marker: String,
    kill_grace: Duration,
    output: Mutex<Output>,
    tail_lines: usize,
    state: watch::Sender<Option<Exit>>,
    turns: watch::Sender<Turns>,
}

#[derive(Debug)]
struct Output {
    tail: VecDeque<Line>,
    listeners: broadcast::Sender<Line>,
}

impl Shared {
    fn print(&self, line: Line) {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        if output.tail.len() >= self.tail_lines.max(1) {
            output.tail.pop_front();
        }
        output.tail.push_back(line.clone());
        // Nobody may be listening.
        let _ = output.listeners.send(line);
    }

    /// What was printed, and what will be, without a gap between.
    fn listen(&self) -> (Vec<Line>, broadcast::Receiver<Line>) {
        let output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        (output.tail.iter().cloned().collect(), output.listeners.subscribe())
    }
}

/// A handle of a running child. When the last one is dropped, the child's family is ended.
#[derive(Clone)]
pub struct Child {
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
}

impl std::fmt::Debug for Child {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Child").field("name", &self.shared.name).field("pid", &self.shared.pid).finish_non_exhaustive()
    }
}

impl Child {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.shared.pid
    }

    /// Its name, as its specification has it.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// The marker that its family carries in the environment.
    pub fn marker(&self) -> &str {
        &self.shared.marker
    }

    /// The lines that it prints from now on. A listener that lags behind misses some, and is told how many.
    pub fn lines(&self) -> broadcast::Receiver<Line> {
        self.shared.listen().1
    }

    /// The last lines that it printed.
    pub fn tail(&self) -> Vec<Line> {
        self.shared.listen().0
    }

    /// Waits for a line that the predicate takes, among those it has printed (as far as they are kept) and will print.
    pub async fn wait_line(&self, within: Duration, mut wanted: impl FnMut(&Line) -> bool) -> Result<Line, WaitError> {
        let search = async {
            let mut state = self.shared.state.subscribe();
            loop {
                let (tail, mut lines) = self.shared.listen();
                if let Some(line) = tail.into_iter().find(|line| wanted(line)) {
                    return Ok(line);
                }
                loop {
                    tokio::select! {
                        biased;
                        line = lines.recv() => match line {
                            Ok(line) if wanted(&line) => return Ok(line),
                            Ok(_) => {}
                            // Behind: look at the tail again.
                            Err(_) => break,
                        },
                        exit = state.wait_for(Option::is_some) => {
                            return Err(WaitError::Ended(exit.ok().and_then(|exit| *exit).unwrap_or(Exit::Lost)));
                        }
                    }
                }
            }
        };
        timeout(within, search).await.unwrap_or(Err(WaitError::Late(within)))
    }

    /// How it ended, if its whole family is gone.
    pub fn exit(&self) -> Option<Exit> {
        *self.shared.state.borrow()
    }

    /// Waits until it and its whole family are gone.
    pub async fn exited(&self) -> Exit {
        let mut state = self.shared.state.subscribe();
        state.wait_for(Option::is_some).await.ok().and_then(|exit| *exit).unwrap_or(Exit::Lost)
    }

    /// Says that a turn runs on it, until the answer is dropped. Returns once its shim knows.
    pub async fn busy(&self) -> Busy {
        self.shared.turns.send_modify(|turns| turns.running += 1);
        let busy = Busy { shared: Arc::clone(&self.shared) };
        let (mut turns, mut state) = (self.shared.turns.subscribe(), self.shared.state.subscribe());
        tokio::select! {
            _ = turns.wait_for(|turns| turns.told) => {}
            _ = state.wait_for(Option::is_some) => {}
        }
        busy
    }

    /// Ends its whole family: asks, waits for `grace`, kills. Returns when it is gone; none if it cannot be ended, which
    /// takes a process stuck in the kernel.
    pub async fn stop(&self, grace: Duration) -> Option<Exit> {
        // If the owner is gone, so is the child.
        let _ = self.requests.send(Request::Stop { grace_ms: wire::millis(grace) }).await;
        timeout(grace + KILL_LIMIT + STOP_MARGIN, self.exited()).await.ok()
    }

    /// The same, with the grace of its specification.
    pub async fn stop_gently(&self) -> Option<Exit> {
        self.stop(self.shared.kill_grace).await
    }
}
