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
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    process::Command,
    sync::{broadcast, mpsc, watch},
    time::timeout,
};
use uuid::Uuid;

use super::{
    Busy, ChildSpec, Doors, Exit, Leftover, Lifeline, Line, OutputLimits,
    family::KILL_LIMIT,
    wire::{self, Event, Request, Spec},
    word::{Turns, Word},
};

/// How long a shim may take to start its child: it is our own small program, but the machine may be busy.
const START_WITHIN: Duration = Duration::from_secs(30);
/// Lines that a slow listener may lag behind.
const LINES: usize = 1024;
/// Requests under way to the owner of a child.
const REQUESTS: usize = 8;
/// What the shim needs beside the grace: the kill, the last lines, its own end.
const STOP_MARGIN: Duration = Duration::from_secs(5);

/// What a shim says, by a pipe or a socket.
type Reads = BufReader<Box<dyn AsyncRead + Send + Unpin>>;
/// What it is told.
type Writes = Box<dyn AsyncWrite + Send + Unpin>;

/// Starts children of one home.
#[derive(Clone, Debug)]
pub struct Supervisor {
    millhand: PathBuf,
    scope: String,
    lifeline: Option<Lifeline>,
    doors: Option<Doors>,
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
        Self { millhand: millhand.into(), scope: scope.into(), lifeline: None, doors: None }
    }

    /// The same, whose children are ended when the lifeline tears: those with turns when it says so, others a while after the last
    /// word from this process.
    #[must_use]
    pub fn with_lifeline(self, lifeline: Lifeline) -> Self {
        Self { lifeline: Some(lifeline), ..self }
    }

    /// The same, whose children can be adopted by the next worker of the home if this process dies: those with a
    /// [`hand_over`](ChildSpec::hand_over), and only with a lifeline, as nothing else would end them.
    #[must_use]
    pub fn with_doors(self, doors: Doors) -> Self {
        Self { doors: Some(doors), ..self }
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
        let first = wire::line(&Request::Start(Box::new(self.to_wire(spec, &marker))))
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
        let mut events: Reads = BufReader::new(Box::new(stdout));
        let started = async {
            // A shim that is gone already says so by its closed stdout.
            let _ = stdin.write_all(&first).await;
            next_event(&mut events).await
        };
        let pid = match timeout(START_WITHIN, started).await {
            Ok(Some(Event::Started { pid })) => pid,
            Ok(Some(Event::Failed { message })) => return Err(SpawnError::Child { name, message }),
            Ok(Some(_)) => return Err(silent("it began with something else")),
            Ok(None) => return Err(silent("it ended at once")),
            Err(_) => return Err(silent("it said nothing in time")),
        };
        let known = Known { name, pid, marker, kill_grace, tail_lines };
        Ok(self.handle(known, Some(shim), Box::new(stdin), events, Turns::new(self.lifeline.is_some())))
    }

    /// The children that an earlier worker of this home left, and whose shims answer.
    pub async fn leftovers(&self) -> Vec<Leftover> {
        match &self.doors {
            Some(doors) => doors.knock_at_all().await,
            None => Vec::new(),
        }
    }

    /// Takes a child over, with the turns that run on it: each as it was noted. None if its shim does not agree.
    pub async fn adopt(&self, leftover: Leftover) -> Option<(Child, Vec<(String, Busy)>)> {
        let alive = self.lifeline.as_ref()?.get();
        let (left, events, requests) = leftover.take_over(alive).await?;
        let known = Known {
            name: left.name,
            pid: left.pid,
            marker: left.marker,
            kill_grace: Duration::from_millis(left.kill_grace_ms),
            tail_lines: OutputLimits::default().tail_lines,
        };
        let events: Reads = BufReader::new(Box::new(events));
        let turns = Turns::new(true);
        let busy = left.turns.into_iter().map(|note| (note.clone(), turns.begin(note))).collect();
        Some((self.handle(known, None, Box::new(requests), events, turns), busy))
    }

    /// The handle of a child that runs, whose shim is talked to by these.
    fn handle(
        &self,
        known: Known,
        shim: Option<tokio::process::Child>,
        writes: Writes,
        events: Reads,
        turns: Turns,
    ) -> Child {
        let (requests, inbox) = mpsc::channel(REQUESTS);
        let word = self.lifeline.as_ref().map(|lifeline| Word::new(lifeline, &turns));
        let shared = Arc::new(Shared {
            known,
            output: Mutex::new(Output { tail: VecDeque::new(), listeners: broadcast::Sender::new(LINES) }),
            state: watch::Sender::new(None),
            turns,
        });
        tokio::spawn(own(shim, writes, events, inbox, word, Arc::clone(&shared)));
        Child { shared, requests }
    }

    fn to_wire(&self, spec: ChildSpec, marker: &str) -> Spec {
        // One that nothing would end must not outlive us.
        let doors = self.lifeline.as_ref().and(self.doors.as_ref());
        let door = doors.zip(spec.hand_over).map(|(doors, hand_over)| doors.new_door(hand_over));
        Spec {
            name: spec.name,
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
            door,
        }
    }
}

async fn next_event(events: &mut Reads) -> Option<Event> {
    let mut line = String::new();
    match events.read_line(&mut line).await {
        Ok(count) if count > 0 => serde_json::from_str(&line).ok(),
        _ => None,
    }
}

/// Owns a child until its shim is gone. Ends, and with it the family, when all handles are gone.
async fn own(
    shim: Option<tokio::process::Child>,
    mut writes: Writes,
    mut events: Reads,
    mut requests: mpsc::Receiver<Request>,
    mut word: Option<Word>,
    shared: Arc<Shared>,
) {
    let kill_grace = shared.known.kill_grace;
    let writer = async move {
        loop {
            let request = tokio::select! {
                request = requests.recv() => request,
                word = spoken(&mut word) => Some(word),
            };
            let is_last = request.is_none();
            // Closing the pipe does not end a family that may be adopted: it would be the same if we had died.
            let request = request.unwrap_or(Request::Stop { grace_ms: wire::millis(kill_grace) });
            let Ok(line) = wire::line(&request) else { continue };
            if writes.write_all(&line).await.is_err() || is_last {
                break;
            }
            if let (Some(word), Request::Alive { .. }) = (&mut word, &request) {
                word.was_said();
            }
        }
        drop(writes);
        std::future::pending::<()>().await
    };
    let reader = async {
        let mut exit = Exit::Lost;
        while let Some(event) = next_event(&mut events).await {
            match event {
                Event::Line { stream, text } => shared.print(Line { stream, text }),
                Event::Dropped { lines } => tracing::warn!(child = shared.known.name, lines, "output was dropped"),
                Event::Exited { exit: how } => exit = how,
                Event::Started { .. } | Event::Failed { .. } | Event::Left(_) | Event::Adopted => {}
            }
        }
        exit
    };
    let exit = tokio::select! {
        exit = reader => exit,
        () = writer => Exit::Lost,
    };
    // Its stdout is closed: it is gone, or about to be.
    if let Some(mut shim) = shim {
        let _ = shim.wait().await;
    }
    shared.state.send_replace(Some(exit));
}

/// What is to be said, once there is something.
async fn spoken(word: &mut Option<Word>) -> Request {
    match word {
        Some(word) => {
            word.due().await;
            word.begin()
        }
        None => std::future::pending().await,
    }
}

/// What is known of a child from its start.
#[derive(Debug)]
struct Known {
    name: String,
    pid: u32,
    marker: String,
    kill_grace: Duration,
    tail_lines: usize,
}

/// What all handles share.
#[derive(Debug)]
struct Shared {
    known: Known,
    output: Mutex<Output>,
    state: watch::Sender<Option<Exit>>,
    turns: Turns,
}

#[derive(Debug)]
struct Output {
    tail: VecDeque<Line>,
    listeners: broadcast::Sender<Line>,
}

impl Shared {
    fn print(&self, line: Line) {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        if output.tail.len() >= self.known.tail_lines.max(1) {
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
        f.debug_struct("Child")
            .field("name", &self.shared.known.name)
            .field("pid", &self.shared.known.pid)
            .finish_non_exhaustive()
    }
}

impl Child {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.shared.known.pid
    }

    /// Its name, as its specification has it.
    pub fn name(&self) -> &str {
        &self.shared.known.name
    }

    /// The marker that its family carries in the environment.
    pub fn marker(&self) -> &str {
        &self.shared.known.marker
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

    /// Says that a turn runs on it, until the answer is dropped. Returns once its shim knows. `note` is for the worker that may have to
    /// adopt it.
    pub async fn busy(&self, note: String) -> Busy {
        let busy = self.shared.turns.begin(note);
        let mut state = self.shared.state.subscribe();
        tokio::select! {
            () = busy.is_told() => {}
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
        self.stop(self.shared.known.kill_grace).await
    }
}
