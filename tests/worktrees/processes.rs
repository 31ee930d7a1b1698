//! Who is in a worktree when it goes: our processes end, those of a person keep it where it is.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use millhand::worktrees::Outcome;

use super::{HOST, Rig, assert_worked};
use crate::support::{headless, wait_until};

/// Ended when the test is.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A shell that is nobody's child of ours in the eyes of the reaper, unless it is marked: its parent, started in a session of its own, has ended.
fn stray(folder: &Path, script: &str, variables: &[(&str, &str)]) -> u32 {
    let pid_file = tempfile::NamedTempFile::new().expect("file");
    let command =
        format!("setsid sh -c 'echo $$ > {}; {script}' >/dev/null 2>&1 </dev/null &", pid_file.path().display());
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", &command]).current_dir(folder).env_clear().env("PATH", "/usr/bin:/bin");
    shell.envs(variables.iter().copied()).stdin(Stdio::null());
    assert!(shell.status().expect("shell").success());
    for _ in 0..500 {
        if let Ok(pid) = fs::read_to_string(pid_file.path()).unwrap_or_default().trim().parse() {
            return pid;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("it did not start");
}

fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.trim().is_empty() && !rest.trim().starts_with('Z'))
}

async fn closed(rig: &Rig) -> (i64, millhand::git::Worktree) {
    let (session, worktree) = rig.worked().await;
    rig.close(session).await;
    rig.later().await;
    (session, worktree)
}

#[tokio::test]
async fn processes_that_agents_left_in_a_worktree_are_ended_before_it_goes() {
    for pool in [0, 1] {
        let mut rig = Rig::new().await;
        rig.worktrees.settings.pool = pool;
        let (_, worktree) = closed(&rig).await;
        let marker = format!("{HOST}.0123");
        let ours = [("MILLHAND_FAMILY", marker.as_str()), ("OPENCODE_PID", "1")];
        let in_it = stray(&worktree.path, "trap \"\" TERM; while :; do sleep 0.1; done", &ours);
        let elsewhere = format!("cd /; exec 3>>{}/ignored/log; while :; do sleep 0.1; done", worktree.path.display());
        let holds_a_file = stray(&worktree.path, &elsewhere, &ours);
        let wanted = if pool == 0 { Outcome::Trashed } else { Outcome::Pooled };
        assert_eq!(rig.round().await, [wanted]);
        assert!(!is_alive(in_it) && !is_alive(holds_a_file), "pool: {pool}");
    }
}

#[tokio::test]
async fn a_process_without_its_first_thread_is_ended_before_its_worktree_goes() {
    let rig = Rig::new().await;
    let (_, worktree) = closed(&rig).await;
    let folder = tempfile::tempdir().expect("folder");
    let Some(command) = headless::command(folder.path()).expect("script") else { return };
    let marker = format!("{HOST}.0123");
    let pid = stray(&worktree.path, &format!("exec {command}"), &[("MILLHAND_FAMILY", marker.as_str())]);
    wait_until("its first thread has ended", Duration::from_secs(20), async || headless::runs(pid))
        .await
        .expect("headless");
    assert_eq!(rig.round().await, [Outcome::Trashed]);
    assert!(!headless::runs(pid));
}

#[tokio::test]
async fn a_persons_process_in_a_worktree_keeps_it_where_it_is() {
    let rig = Rig::new().await;
    let (session, worktree) = closed(&rig).await;
    let pid = stray(&worktree.path, "exec sleep 1000", &[]);
    // It has to be seen as nobody's of ours: whoever adopts orphans here must not be this process.
    let outcome = rig.round().await;
    assert!(matches!(&outcome[..], [Outcome::Problem(why)] if why.contains(&pid.to_string())), "{outcome:?}");
    assert!(is_alive(pid));
    assert_worked(&worktree.path, true);
    let row = rig.row(session).await;
    assert_eq!(row.state, "ready");
    assert!(row.problem.is_some_and(|problem| problem.contains("not ours")));
    rustix_kill(pid);
    wait_until("it is gone", Duration::from_secs(10), async || !is_alive(pid)).await.expect("gone");
    rig.later().await;
    assert_eq!(rig.round().await, [Outcome::Trashed], "it is tried again");
}

fn rustix_kill(pid: u32) {
    let killed = Command::new("/bin/sh").args(["-c", &format!("kill -KILL {pid}")]).status().expect("kill");
    assert!(killed.success());
}

#[tokio::test]
async fn a_server_that_serves_other_worktrees_too_is_not_ended_for_an_open_file() {
    let mut rig = Rig::new().await;
    rig.worktrees.settings.pool = 1;
    let (_, worktree) = closed(&rig).await;
    // Ours, with its folder elsewhere, and not one of the agent's tools.
    let file = fs::File::create(worktree.path.join("ignored/open")).expect("file");
    let mut server = Command::new("/bin/sh");
    server.args(["-c", "while :; do sleep 0.1; done"]).current_dir("/").stdout(file).stdin(Stdio::null());
    let server = Process(server.spawn().expect("server"));
    assert_eq!(rig.round().await, [Outcome::Trashed], "nobody gets it while somebody may write to it");
    assert!(is_alive(server.0.id()));
}

#[tokio::test]
async fn a_link_in_the_place_of_a_worktree_does_not_have_others_processes_ended() {
    let rig = Rig::new().await;
    let (_, worktree) = closed(&rig).await;
    let others = rig.worktrees.home.agent_folder(2);
    fs::create_dir_all(&others).expect("folder");
    let marker = format!("{HOST}.0123");
    let pid = stray(&others, "exec sleep 1000", &[("MILLHAND_FAMILY", marker.as_str()), ("OPENCODE_PID", "1")]);
    fs::rename(&worktree.path, worktree.path.with_file_name("moved")).expect("rename");
    std::os::unix::fs::symlink(rig.worktrees.home.root().join("agents"), &worktree.path).expect("link");
    let outcome = rig.round().await;
    assert!(matches!(&outcome[..], [Outcome::Problem(_)]), "{outcome:?}");
    assert!(is_alive(pid));
    rustix_kill(pid);
}
