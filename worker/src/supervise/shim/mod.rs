//! The shim: `millhand shim`, a small process between a worker and one child.
//!
//! It reads the child's specification from stdin, starts it, reports what it prints and how it ends on stdout, and ends the
//! whole family when it is told to, when the child ends, when it is asked to end itself, and when the worker's pipe closes: at once, or, if
//! it has a door by which the next worker can come in and adopt the child, at the deadline that it was told last. Meanwhile what the child
//! prints goes to its log only. It lives
//! in a session of its own, so that Ctrl-C reaches the worker only, and it is the reaper of all descendants, so that none
//! of them gets away. If it is killed itself, the child has a parent-death signal, and a worker's sweep finds the rest.
//!
//! It stays small: one thread, no pool. What it must not do: decide anything about turns, touch the database, or wait for the
//! worker to take its output (a stopped worker must not stop the child's output, nor the watch over it).

mod deadline;
mod door;
mod events;
mod start;

use std::{collections::BTreeSet, os::fd::BorrowedFd, process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use rustix::{
    io::FdFlags,
    process::{DumpableBehavior, Pid, WaitOptions},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader},
    net::unix::{OwnedWriteHalf, pipe},
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};

use self::{
    deadline::Deadline,
    door::{OpenDoor, Successor},
    events::{Events, Link},
    start::Started,
};
use super::{
    Alive, BootTime, Exit, Stream,
    family::{self, Ending, Member},
    log::BoundedLog,
    splitter::Splitter,
    wire::{Event, Left, Request, Spec},
};

/// Chunks of output under way from the readers to the loop; when it is full, the child has to wait.
const CHUNKS: usize = 16;
/// Bytes per chunk.
const CHUNK_BYTES: usize = 16 * 1024;
/// How long what was printed last may take to arrive, once the family is gone.
const DRAIN: Duration = Duration::from_millis(500);
/// How long a worker may take to read the last events.
const FLUSH: Duration = Duration::from_secs(2);

/// Runs the shim to its end. For `millhand shim`, before any other thread exists: the parent-death signal of the child is
/// bound to the thread that starts it.
pub fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // There is no one else to tell; the worker reports that its shim said nothing.
            let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("millhand shim: {error:#}\n").as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    keep_descriptors_to_ourselves();
    // Already a leader of a session: just as well.
    let _ = rustix::process::setsid();
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).context("be unreadable for others")?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).context("become the reaper")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let result = runtime.block_on(async {
        let by_hand = "millhand shim is for millhand itself: it talks to a worker over pipes";
        // Closed on exec: a child with these could speak in our name, and would keep the worker waiting after our death.
        let stdin = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
        let stdout = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?;
        let mut requests = BufReader::new(pipe::Receiver::from_owned_fd(stdin).context(by_hand)?);
        let events = Events::new(Link::Pipe(pipe::Sender::from_owned_fd(stdout).context(by_hand)?));
        match read_request(&mut requests).await {
            Some(Request::Start(spec)) => serve(*spec, requests, events).await,
            Some(Request::Alive { .. } | Request::Stop { .. } | Request::Adopt(_)) | None => Ok(()),
        }
    });
    runtime.shutdown_background();
    result
}

/// Closes on exec whatever we were started with beside the three standard streams: someone may have leaked a descriptor to the
/// worker, and an agent must not get it.
#[expect(unsafe_code, reason = "a descriptor known by number only")]
pub(crate) fn keep_descriptors_to_ourselves() {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return };
    let numbers: Vec<i32> = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for number in numbers.into_iter().filter(|number| *number > 2) {
        // SAFETY: nothing else runs yet that could close it meanwhile, and the borrow ends here. The folder's own descriptor
        // is closed by now: then the call fails, which is harmless.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        let _ = rustix::io::fcntl_setfd(descriptor, FdFlags::CLOEXEC);
    }
}

async fn read_request<R: AsyncRead + Unpin>(requests: &mut BufReader<R>) -> Option<Request> {
    let mut line = String::new();
    match requests.read_line(&mut line).await {
        Ok(count) if count > 0 => serde_json::from_str(&line).ok(),
        _ => None,
    }
}

/// What the readers send to the loop.
enum Input {
    /// From the worker of this number: the first one, or one that came by the door.
    Request(u32, Request),
    /// That worker closed its pipe, or died.
    WorkerGone(u32),
    /// A visitor with the key asks what there is.
    Asked(oneshot::Sender<Left>),
    /// A visitor with the key takes the worker's place.
    Succeeded(Box<Successor>),
    /// A visitor with the key wants the family gone, and waits until it is.
    EndedByVisitor {
        grace_ms: u64,
        until_gone: OwnedWriteHalf,
    },
    Output(Stream, Vec<u8>),
    OutputEnded,
}

async fn serve(spec: Spec, requests: BufReader<pipe::Receiver>, mut events: Events) -> Result<()> {
    let mut children = signal(SignalKind::child())?;
    let mut asked = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?, signal(SignalKind::hangup())?);
    let started = match start::start(&spec) {
        Ok(started) => started,
        Err(error) => {
            events.send(&Event::Failed { message: format!("{error:#}") });
            events.flush(FLUSH).await;
            return Ok(());
        }
    };
    let (input, mut inputs) = mpsc::channel(CHUNKS);
    tokio::spawn(read_requests(requests, 0, input.clone()));
    let Started { pid, stdout, stderr, log } = started;
    tokio::spawn(read(stdout, Stream::Stdout, input.clone()));
    tokio::spawn(read(stderr, Stream::Stderr, input.clone()));
    // Without a door it ends with its worker; that is no reason not to run.
    let door = spec.door.as_ref().and_then(|door| door::open(door, input.clone()).ok());
    events.send(&Event::Started { pid: pid.as_raw_nonzero().get().unsigned_abs() });

    let mut shim = Shim::new(spec, pid, events, log, Deadline::new().context("a timer")?, door, input);
    loop {
        tokio::select! {
            Some(input) = inputs.recv() => shim.take(input),
            _ = children.recv() => shim.reap(),
            () = any(&mut asked) => shim.end(shim.grace),
            grace = shim.deadline.passed() => shim.give_worker_up(grace),
            () = sleep_until(shim.look_at.unwrap_or_else(Instant::now)), if shim.look_at.is_some() => {
                if !shim.look() {
                    break;
                }
            }
            () = shim.events.write_some(), if shim.events.waiting() => {}
        }
    }
    // What the last ones printed is still in the pipes.
    let drained = async {
        while shim.open_outputs > 0
            && let Some(input) = inputs.recv().await
        {
            shim.take(input);
        }
    };
    let _ = tokio::time::timeout(DRAIN, drained).await;
    shim.finish().await;
    Ok(())
}

async fn read_requests<R: AsyncRead + Unpin>(mut from: BufReader<R>, worker: u32, into: mpsc::Sender<Input>) {
    while let Some(request) = read_request(&mut from).await {
        if into.send(Input::Request(worker, request)).await.is_err() {
            return;
        }
    }
    let _ = into.send(Input::WorkerGone(worker)).await;
}

/// Standard input and output are the dead worker's pipes, standard error may be one that somebody reads to its end.
fn let_go_of_standard_streams() -> std::io::Result<()> {
    let nothing = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&nothing)?;
    rustix::stdio::dup2_stdout(&nothing)?;
    rustix::stdio::dup2_stderr(&nothing)?;
    Ok(())
}

async fn any(signals: &mut (Signal, Signal, Signal)) {
    tokio::select! {
        _ = signals.0.recv() => {}
        _ = signals.1.recv() => {}
        _ = signals.2.recv() => {}
    }
}

async fn read(mut from: pipe::Receiver, stream: Stream, into: mpsc::Sender<Input>) {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let input = match from.read(&mut chunk).await {
            Ok(count) if count > 0 => Input::Output(stream, chunk[..count].to_vec()),
            _ => Input::OutputEnded,
        };
        let ended = matches!(input, Input::OutputEnded);
        if into.send(input).await.is_err() || ended {
            return;
        }
    }
}

/// The state of the loop.
struct Shim {
    name: String,
    child: Pid,
    marker: String,
    grace: Duration,
    exit: Option<Exit>,
    /// The family, while it is being ended.
    ending: Option<Ending>,
    /// When to look at the ending family again.
    look_at: Option<Instant>,
    events: Events,
    stdout: Splitter,
    stderr: Splitter,
    open_outputs: u32,
    log: Option<BoundedLog>,
    /// When the worker has to be heard of again.
    deadline: Deadline,
    /// Nobody may adopt it as it is now.
    ends_with_worker: bool,
    /// Where the next worker can come in.
    door: Option<OpenDoor>,
    /// For those who come by the door.
    inputs: mpsc::Sender<Input>,
    /// The worker's number; what earlier ones still say does not count.
    worker: u32,
    hand_over: String,
    /// What the worker said last of the turns that run.
    turns: Vec<String>,
    /// When it was adopted.
    adopted: Vec<BootTime>,
    /// Closed when all is over, which is what these wait for.
    waiting: Vec<OwnedWriteHalf>,
}

impl Shim {
    fn new(
        spec: Spec,
        child: Pid,
        events: Events,
        log: Option<BoundedLog>,
        deadline: Deadline,
        door: Option<OpenDoor>,
        inputs: mpsc::Sender<Input>,
    ) -> Self {
        Self {
            name: spec.name,
            child,
            marker: spec.marker,
            grace: Duration::from_millis(spec.kill_grace_ms),
            exit: None,
            ending: None,
            look_at: None,
            events,
            stdout: Splitter::new(spec.output.line_bytes),
            stderr: Splitter::new(spec.output.line_bytes),
            open_outputs: 2,
            log,
            deadline,
            ends_with_worker: false,
            door,
            inputs,
            worker: 0,
            hand_over: spec.door.map(|door| door.hand_over).unwrap_or_default(),
            turns: Vec::new(),
            adopted: Vec::new(),
            waiting: Vec::new(),
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Request(worker, request) if worker == self.worker => self.obey(request),
            Input::WorkerGone(worker) if worker == self.worker => self.wait_for_the_next(),
            // Somebody else has taken its place.
            Input::Request(..) | Input::WorkerGone(_) => {}
            Input::Asked(answer) => {
                // The visitor may be gone again.
                let _ = answer.send(door::describe(self));
            }
            Input::Succeeded(successor) => self.follow(*successor),
            Input::EndedByVisitor { grace_ms, until_gone } => {
                self.waiting.push(until_gone);
                self.end(Duration::from_millis(grace_ms));
            }
            Input::Output(stream, bytes) => {
                let splitter = match stream {
                    Stream::Stdout => &mut self.stdout,
                    Stream::Stderr => &mut self.stderr,
                };
                for line in splitter.feed(&bytes) {
                    self.print(stream, line);
                }
            }
            Input::OutputEnded => self.open_outputs -= 1,
        }
    }

    fn obey(&mut self, request: Request) {
        match request {
            Request::Stop { grace_ms } => self.end(Duration::from_millis(grace_ms)),
            Request::Alive { alive, turns } => {
                self.turns = turns;
                self.live_until(alive);
            }
            // A confused worker; the child that runs is not its concern.
            Request::Start(_) | Request::Adopt(_) => {}
        }
    }

    fn live_until(&mut self, alive: Alive) {
        self.ends_with_worker = alive.ends_with_worker();
        if let Err(error) = self.deadline.set(alive) {
            // Without a timer there is no switch: better no child than one that nobody watches.
            self.print(Stream::Stderr, format!("millhand shim: cannot set its timer: {error}"));
            self.end(self.grace);
        }
    }

    /// The worker is gone. If another may come, what it said last decides how long that is waited for.
    fn wait_for_the_next(&mut self) {
        if self.ending.is_some() {
            return;
        }
        if self.ends_with_worker {
            // What it would still do, it would pay for.
            return self.end(Duration::ZERO);
        }
        if self.door.is_none() || !self.deadline.is_set() {
            return self.end(self.grace);
        }
        // Whoever waits for the end of these would wait for us.
        if let Err(error) = let_go_of_standard_streams() {
            self.print(Stream::Stderr, format!("millhand shim: {error}"));
        }
        self.events.hang_up();
        self.print(Stream::Stderr, "millhand shim: the worker is gone; the next one may adopt this".to_owned());
    }

    /// Another worker takes over, unless it is too late.
    fn follow(&mut self, successor: Successor) {
        if self.ending.is_some() {
            return;
        }
        self.worker += 1;
        self.adopted.push(BootTime::now());
        self.events = Events::new(Link::Socket(successor.events));
        self.events.send(&Event::Adopted);
        tokio::spawn(read_requests(successor.requests, self.worker, self.inputs.clone()));
        self.live_until(successor.alive);
    }

    /// The worker may be stopped, or asleep. Its leases run out, and what runs on them must be gone before.
    fn give_worker_up(&mut self, grace: Duration) {
        self.print(Stream::Stderr, "millhand shim: the worker was not heard of in time: ending all of this".to_owned());
        self.end(grace);
    }

    fn print(&mut self, stream: Stream, text: String) {
        if let Some(log) = &mut self.log {
            // A full disk costs lines of the log, not the turn.
            let _ = log.append(&text);
        }
        self.events.send_line(stream, text);
    }

    /// Collects whoever died. Descendants whose parent died are our children too.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if pid != self.child {
                continue;
            }
            let exit = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Exit::Code(code),
                (None, Some(signal)) => Exit::Signal(signal),
                (None, None) => continue,
            };
            self.exit = Some(exit);
            self.end(self.grace);
        }
    }

    /// Begins to end the family, or hurries.
    fn end(&mut self, grace: Duration) {
        match &mut self.ending {
            Some(ending) => ending.hurry(grace),
            None => self.ending = Some(Ending::new(grace)),
        }
        self.look_at = Some(Instant::now());
    }

    /// Looks who of the family is still there, and signals them. Answers whether to go on.
    fn look(&mut self) -> bool {
        self.look_at = Some(Instant::now() + family::LOOK_EVERY);
        let family = self.family();
        self.ending.as_mut().is_some_and(|ending| ending.step(&family))
    }

    fn family(&self) -> BTreeSet<Member> {
        family::find(Some(std::process::id()), &|marker| marker == self.marker)
    }

    /// Says the last words. The exit comes after the last line.
    async fn finish(mut self) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let rest = match stream {
                Stream::Stdout => self.stdout.finish(),
                Stream::Stderr => self.stderr.finish(),
            };
            if let Some(text) = rest {
                self.print(stream, text);
            }
        }
        self.reap();
        drop(self.door.take());
        self.events.send(&Event::Exited { exit: self.exit.unwrap_or(Exit::Lost) });
        self.events.flush(FLUSH).await;
    }
}
