//! Who is in a folder: processes whose current folder, program or open files lie below it; and ending those that are ours.
//!
//! Ours are this process's descendants and whoever carries the host's marker. Others are a person's, and are never touched: the caller
//! leaves the folder alone.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use super::family::{self, Ending, LOOK_EVERY, Member};

/// A process that is in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occupant {
    /// Its id.
    pub pid: u32,
    /// Its name, for people.
    pub name: String,
    /// Whether we, or our agents, started it.
    pub is_ours: bool,
}

/// What came of emptying a folder of processes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Emptied {
    /// How many were ended.
    pub ended: usize,
    /// Who is still in it.
    pub left: Vec<Occupant>,
}

/// How a process is in a folder.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Its current folder or program is there.
    Lives,
    /// It has a file open there.
    Holds,
}

/// Looks that a process gets to go by itself: between fork and exec, one holds whatever its parent had open at that moment.
const LOOKS_AGAIN: u32 = 5;

/// Ends our processes in a folder: asks, waits for `grace`, kills. `scope` is the host's marker, `folder` a path without links: none is
/// followed, or an agent could have one lead to where others work.
///
/// An agent's server, which serves other folders too, may have a file open here for a moment: it is not ended for that, its tools'
/// processes are.
pub async fn end_inside(folder: &Path, scope: &str, grace: Duration) -> Emptied {
    let mut ending = Ending::new(grace);
    let mut looks_again = 0..LOOKS_AGAIN;
    loop {
        let (folder, scope) = (folder.to_owned(), scope.to_owned());
        let looked = tokio::task::spawn_blocking(move || look(&folder, &scope)).await;
        let Ok((to_end, left)) = looked else { return Emptied { ended: ending.seen(), left: Vec::new() } };
        if !ending.step(&to_end) && (left.is_empty() || looks_again.next().is_none()) {
            return Emptied { ended: ending.seen(), left };
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Those to end, and all.
fn look(folder: &Path, scope: &str) -> (BTreeSet<Member>, Vec<Occupant>) {
    let inside: Vec<(u32, Way)> = processes().filter_map(|pid| Some((pid, way_in(pid, folder)?))).collect();
    if inside.is_empty() {
        return (BTreeSet::new(), Vec::new());
    }
    let ours = family::find(Some(std::process::id()), &|marker| family::in_scope(marker, scope));
    let mut to_end = BTreeSet::new();
    let mut all = Vec::new();
    for (pid, way) in inside {
        let member = ours.iter().find(|member| member.is(pid));
        if let Some(member) = member
            && (way == Way::Lives || family::has_variable(pid, "OPENCODE_PID"))
        {
            to_end.insert(*member);
        }
        // One that has ended meanwhile is in neither list, and nobody's.
        if member.is_none() && way_in(pid, folder).is_none() {
            continue;
        }
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned();
        all.push(Occupant { pid, name, is_ours: member.is_some() });
    }
    (to_end, all)
}

fn processes() -> impl Iterator<Item = u32> {
    let own = std::process::id();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(move |pid| *pid != own)
}

/// Where the kernel tells of a process: where its first thread has ended, by another one.
fn living(process: PathBuf) -> PathBuf {
    let is_there = |path: &Path| fs::read_link(path.join("cwd")).is_ok();
    if is_there(&process) {
        return process;
    }
    let threads = fs::read_dir(process.join("task")).into_iter().flatten().flatten();
    threads.map(|thread| thread.path()).find(|path| is_there(path)).unwrap_or(process)
}

fn way_in(pid: u32, folder: &Path) -> Option<Way> {
    let link = |path: PathBuf| fs::read_link(path).is_ok_and(|target| target.starts_with(folder));
    let process = living(PathBuf::from(format!("/proc/{pid}")));
    if link(process.join("cwd")) || link(process.join("exe")) {
        return Some(Way::Lives);
    }
    let files = fs::read_dir(process.join("fd")).ok()?;
    files.flatten().any(|file| link(file.path())).then_some(Way::Holds)
}
