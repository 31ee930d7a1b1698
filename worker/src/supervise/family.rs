//! A child's family: itself, its descendants, and whoever carries its marker in the environment.
//!
//! Descendants of a shim stay its descendants, since it is their reaper when a parent in between dies. The marker finds those
//! whose shim was killed. Processes are signalled through a descriptor, after checking that they are still the ones looked at: a
//! process id may be another process's a moment later.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

/// The variable that marks a family.
pub const FAMILY_VARIABLE: &str = "MILLHAND_FAMILY";
/// Between two looks at a family that is ending.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long killed processes may take to be gone, before we give up on them.
pub(super) const KILL_LIMIT: Duration = Duration::from_secs(10);

/// A process: its id, and when it started, which together are never another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Member {
    pid: i32,
    started: u64,
}

impl Member {
    /// Whether this is the process of that id.
    pub(super) fn is(&self, pid: u32) -> bool {
        u32::try_from(self.pid) == Ok(pid)
    }
}

/// What of `/proc/<pid>/stat` matters here.
struct Stat {
    parent: i32,
    started: u64,
    dead: bool,
}

/// Process ids of living processes with a marker of this scope, wherever they hang in the process tree.
pub fn find_family(scope: &str) -> Vec<u32> {
    let members = find(None, &|marker| in_scope(marker, scope));
    members.into_iter().filter_map(|member| u32::try_from(member.pid).ok()).collect()
}

/// Ends all processes with a marker of this scope: asks, waits for `grace`, kills. Answers with how many there were.
///
/// For the start of a worker that holds its home's lock: whatever carries the home's scope then is left over.
pub async fn end_family(scope: &str, grace: Duration) -> usize {
    end_family_except(scope, &[], grace).await
}

/// The same, without the families with these markers.
pub async fn end_family_except(scope: &str, kept: &[String], grace: Duration) -> usize {
    let is_left = |marker: &str| in_scope(marker, scope) && !kept.iter().any(|kept| kept == marker);
    let mut ending = Ending::new(grace);
    while ending.step(&find(None, &is_left)) {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    ending.seen()
}

/// How many processes the family of a child has, of which this is the whole marker.
pub fn family_size(child: u32, marker: &str) -> usize {
    // Descendants of its shim: what has left its parents is adopted by that.
    let shim = i32::try_from(child).ok().and_then(stat).and_then(|stat| u32::try_from(stat.parent).ok());
    find(shim.filter(|shim| *shim > 1), &|found| found == marker).len()
}

pub(super) fn in_scope(marker: &str, scope: &str) -> bool {
    marker.strip_prefix(scope).is_some_and(|rest| rest.starts_with('.'))
}

/// Living descendants of a process, and living processes with a marker; without this process itself.
pub(super) fn find(root: Option<u32>, marked: &dyn Fn(&str) -> bool) -> BTreeSet<Member> {
    let stats = stats();
    let mut family = BTreeSet::new();
    if let Some(root) = root.and_then(|root| i32::try_from(root).ok()) {
        let mut parents = vec![root];
        while let Some(parent) = parents.pop() {
            for (pid, stat) in stats.iter().filter(|(_, stat)| stat.parent == parent) {
                if family.insert(Member { pid: *pid, started: stat.started }) {
                    parents.push(*pid);
                }
            }
        }
    }
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    for (pid, stat) in &stats {
        let member = Member { pid: *pid, started: stat.started };
        if *pid != own && !family.contains(&member) && marker(*pid).is_some_and(|marker| marked(&marker)) {
            family.insert(member);
        }
    }
    family.retain(|member| stats.get(&member.pid).is_some_and(|stat| !stat.dead));
    family
}

fn stats() -> BTreeMap<i32, Stat> {
    let Ok(entries) = fs::read_dir("/proc") else { return BTreeMap::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| Some((pid, stat(pid)?))).collect()
}

fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold anything; what follows the last bracket is plain.
    let after = text.iter().rposition(|byte| *byte == b')')? + 1;
    let fields: Vec<_> = std::str::from_utf8(&text[after..]).ok()?.split_ascii_whitespace().collect();
    // A process goes on whose first thread has ended: that one alone is dead.
    let has_other_threads = fields.get(17)?.parse::<u32>().is_ok_and(|threads| threads > 1);
    let dead = matches!(*fields.first()?, "Z" | "X" | "x") && !has_other_threads;
    Some(Stat { parent: fields.get(1)?.parse().ok()?, started: fields.get(19)?.parse().ok()?, dead })
}

/// The marker in a process's environment, as far as we may read it.
fn marker(pid: i32) -> Option<String> {
    variable(pid, FAMILY_VARIABLE)
}

/// Whether a process was started with this variable.
pub(super) fn has_variable(pid: u32, name: &str) -> bool {
    i32::try_from(pid).is_ok_and(|pid| variable(pid, name).is_some())
}

fn variable(pid: i32, name: &str) -> Option<String> {
    let environment = environment(pid)?;
    let value = environment
        .split(|byte| *byte == 0)
        .find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
    String::from_utf8(value.to_vec()).ok()
}

/// A process's environment as it was started with. Where its first thread has ended, another one has it.
fn environment(pid: i32) -> Option<Vec<u8>> {
    match fs::read(format!("/proc/{pid}/environ")) {
        // By the kernel, one without memory has either no environment or an empty one.
        Ok(whole) if !whole.is_empty() => Some(whole),
        Err(error) if Errno::from_io_error(&error) != Some(Errno::SRCH) => None,
        Ok(_) | Err(_) => {
            let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
            let mut read = threads.filter_map(|thread| fs::read(thread.path().join("environ")).ok());
            read.find(|whole| !whole.is_empty())
        }
    }
}

fn signal(member: Member, signal: Signal) {
    let Some(pid) = Pid::from_raw(member.pid) else { return };
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { return };
    if stat(member.pid).is_some_and(|stat| stat.started == member.started) {
        // It may have ended meanwhile; then there is nothing to do.
        let _ = pidfd_send_signal(process, signal);
    }
}

/// A family that is being ended, look by look.
pub(super) struct Ending {
    kill_at: Instant,
    asked: BTreeSet<Member>,
}

impl Ending {
    pub(super) fn new(grace: Duration) -> Self {
        Self { kill_at: Instant::now() + grace, asked: BTreeSet::new() }
    }

    /// Shortens the grace; never lengthens it.
    pub(super) fn hurry(&mut self, grace: Duration) {
        self.kill_at = self.kill_at.min(Instant::now() + grace);
    }

    /// How many processes were seen.
    pub(super) fn seen(&self) -> usize {
        self.asked.len()
    }

    /// Signals those that are still there, each as far as it is due. Answers whether to look again.
    pub(super) fn step(&mut self, family: &BTreeSet<Member>) -> bool {
        let now = Instant::now();
        for member in family {
            if now >= self.kill_at {
                self.asked.insert(*member);
                signal(*member, Signal::KILL);
            } else if self.asked.insert(*member) {
                signal(*member, Signal::TERM);
            }
        }
        !family.is_empty() && now < self.kill_at + KILL_LIMIT
    }
}
