//! Tests of: supervise. Real processes, real signals.

mod adoption;
mod deadline;
mod sandbox;

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use millhand::supervise::{Child, ChildSpec, Exit, SpawnError, Stream, Supervisor, WaitError, end_family, find_family};
use tempfile::TempDir;

use crate::support::{headless, millhand, wait_until};

/// Long enough for a busy machine; nothing here waits for it to pass.
const LONG: Duration = Duration::from_secs(30);
/// A grace that is certainly shorter than what a test waits.
const SHORT: Duration = Duration::from_millis(300);

/// A shell script as a child, in a folder of its own.
fn shell(folder: &TempDir, script: &str) -> ChildSpec {
    let mut spec = ChildSpec::new("script", "/bin/sh", folder.path());
    spec.args = vec!["-c".into(), script.into()];
    spec.env.insert("PATH".into(), std::env::var_os("PATH").unwrap_or_default());
    spec.kill_grace = SHORT;
    spec
}

fn supervisor() -> Supervisor {
    Supervisor::new(millhand(), format!("test-{}", uuid::Uuid::new_v4().simple()))
}

async fn start(supervisor: &Supervisor, spec: ChildSpec) -> Result<Child> {
    Ok(supervisor.spawn(spec).await?)
}

/// Whether a process lives; one that is dead but not yet collected does not.
fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

/// Whether a process is stopped, which it may not be yet when `kill -STOP` has returned.
fn is_stopped(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
}

fn shim_of(child: &Child) -> Result<u32> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.pid()))?;
    Ok(stat.rsplit(") ").next().context("stat")?.split(' ').nth(1).context("parent")?.parse()?)
}

fn send(signal: &str, pid: u32) -> Result<()> {
    ensure!(Command::new("kill").args([signal, &pid.to_string()]).status()?.success(), "kill {signal} {pid}");
    Ok(())
}

/// Waits for a line `<name> <pid>` and gives the number.
async fn announced(child: &Child, name: &str) -> Result<u32> {
    let prefix = format!("{name} ");
    let line = child.wait_line(LONG, |line| line.text.starts_with(&prefix)).await?;
    Ok(line.text[prefix.len()..].trim().parse()?)
}

/// A family that does not want to die: a child and grandchildren that ignore TERM, in sessions of their own, orphaned, and
/// one without the marker.
const STUBBORN: &str = r#"
    trap '' TERM
    (trap '' TERM; setsid sh -c 'trap "" TERM; echo away $$; while :; do sleep 1; done' &)
    setsid env -i PATH="$PATH" sh -c 'echo unmarked $$; trap "" TERM; while :; do sleep 1; done' &
    echo child $$
    while :; do sleep 1; done
"#;

async fn stubborn(supervisor: &Supervisor, folder: &TempDir) -> Result<(Child, Vec<u32>)> {
    let child = start(supervisor, shell(folder, STUBBORN)).await?;
    let mut pids = Vec::new();
    for name in ["child", "away", "unmarked"] {
        pids.push(announced(&child, name).await?);
    }
    assert!(pids.iter().all(|pid| lives(*pid)));
    Ok((child, pids))
}

async fn all_gone(pids: &[u32]) -> Result<()> {
    wait_until("the family is gone", LONG, async || !pids.iter().any(|pid| lives(*pid))).await
}

#[tokio::test]
async fn a_child_has_exactly_the_environment_it_was_given() -> Result<()> {
    let folder = TempDir::new()?;
    let mut spec = ChildSpec::new("env", "/usr/bin/env", folder.path());
    spec.env.insert("SECRET".into(), "with = and spaces, ünïcode".into());
    let child = start(&supervisor(), spec).await?;
    assert_eq!(child.exited().await, Exit::Code(0));
    let mut lines: Vec<_> = child.tail().into_iter().map(|line| line.text).collect();
    lines.sort();
    assert_eq!(lines, [format!("MILLHAND_FAMILY={}", child.marker()), "SECRET=with = and spaces, ünïcode".to_owned()]);
    Ok(())
}

#[tokio::test]
async fn a_child_inherits_nothing_but_its_own_pipes() -> Result<()> {
    let folder = TempDir::new()?;
    // The listing itself has one more open: the folder.
    let child = start(&supervisor(), shell(&folder, "ls /proc/self/fd | tr '\\n' ' '")).await?;
    assert_eq!(child.exited().await, Exit::Code(0));
    let [line] = &child.tail()[..] else { anyhow::bail!("{:?}", child.tail()) };
    assert_eq!(line.text.trim(), "0 1 2 3");
    Ok(())
}

#[tokio::test]
async fn what_a_child_prints_arrives_before_its_exit() -> Result<()> {
    let folder = TempDir::new()?;
    let child = start(&supervisor(), shell(&folder, "echo out; echo err >&2; printf 'no end'; exit 7")).await?;
    assert_eq!(child.exited().await, Exit::Code(7));
    let tail = child.tail();
    let has = |stream, text: &str| tail.iter().any(|line| line.stream == stream && line.text == text);
    assert!(has(Stream::Stdout, "out") && has(Stream::Stderr, "err") && has(Stream::Stdout, "no end"), "{tail:?}");
    let late = child.wait_line(LONG, |line| line.text == "never").await;
    assert!(matches!(late, Err(WaitError::Ended(Exit::Code(7)))), "{late:?}");
    Ok(())
}

#[tokio::test]
async fn a_program_that_cannot_be_started_is_an_error_with_its_name() -> Result<()> {
    let folder = TempDir::new()?;
    let missing = ChildSpec::new("ghost", "/nowhere/ghost", folder.path());
    let error = supervisor().spawn(missing).await.err().context("started")?;
    assert!(
        matches!(&error, SpawnError::Child { name, message } if name == "ghost" && message.contains("/nowhere")),
        "{error}"
    );
    let nowhere = ChildSpec::new("lost", "/bin/true", "/nowhere/at/all");
    let error = supervisor().spawn(nowhere).await.err().context("started")?;
    assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
    let no_shim = Supervisor::new("/nowhere/millhand", "test");
    let error = no_shim.spawn(ChildSpec::new("x", "/bin/true", "/")).await.err().context("started")?;
    assert!(matches!(error, SpawnError::Shim { .. }), "{error}");
    Ok(())
}

#[tokio::test]
async fn stop_ends_the_whole_family_even_who_ignores_it() -> Result<()> {
    let folder = TempDir::new()?;
    let (child, pids) = stubborn(&supervisor(), &folder).await?;
    let before = Instant::now();
    assert_eq!(child.stop(SHORT).await, Some(Exit::Signal(9)));
    assert!(before.elapsed() >= SHORT, "the grace was given");
    assert!(!pids.iter().any(|pid| lives(*pid)), "gone when stop returns");
    Ok(())
}

#[tokio::test]
async fn who_listens_to_term_is_not_killed_and_stop_does_not_wait_longer() -> Result<()> {
    let folder = TempDir::new()?;
    let script = "trap 'echo tidied; exit 3' TERM; echo ready; while :; do sleep 0.05; done";
    let child = start(&supervisor(), shell(&folder, script)).await?;
    child.wait_line(LONG, |line| line.text == "ready").await?;
    let before = Instant::now();
    assert_eq!(child.stop(LONG).await, Some(Exit::Code(3)));
    assert!(before.elapsed() < LONG / 2);
    assert!(child.tail().iter().any(|line| line.text == "tidied"));
    Ok(())
}

#[tokio::test]
async fn the_family_ends_when_the_last_handle_is_dropped() -> Result<()> {
    let folder = TempDir::new()?;
    let (child, pids) = stubborn(&supervisor(), &folder).await?;
    let other = child.clone();
    drop(child);
    assert!(lives(other.pid()));
    drop(other);
    all_gone(&pids).await
}

#[tokio::test]
async fn children_of_a_child_that_died_are_ended() -> Result<()> {
    let folder = TempDir::new()?;
    let (child, pids) = stubborn(&supervisor(), &folder).await?;
    send("-KILL", child.pid())?;
    assert_eq!(child.exited().await, Exit::Signal(9));
    assert!(!pids.iter().any(|pid| lives(*pid)), "gone when the exit is known");
    Ok(())
}

#[tokio::test]
async fn a_killed_shim_takes_the_child_along_and_the_sweep_finds_the_rest() -> Result<()> {
    let folder = TempDir::new()?;
    let supervisor = supervisor();
    let (child, pids) = stubborn(&supervisor, &folder).await?;
    send("-KILL", shim_of(&child)?)?;
    assert_eq!(child.exited().await, Exit::Lost);
    wait_until("the child is gone", LONG, async || !lives(child.pid())).await?;
    let [_, away, unmarked] = pids[..] else { anyhow::bail!("three") };
    assert!(find_family(supervisor.scope()).contains(&away), "found by its marker");
    assert!(find_family("test-another").is_empty(), "other homes' are not ours");
    assert!(end_family(supervisor.scope(), SHORT).await > 0);
    assert!(!lives(away) && find_family(supervisor.scope()).is_empty());
    // Without shim and marker there is nothing to know it by.
    send("-KILL", unmarked)?;
    Ok(())
}

#[tokio::test]
async fn a_stopped_family_is_ended_too() -> Result<()> {
    let folder = TempDir::new()?;
    let child = start(&supervisor(), shell(&folder, "echo ready; exec sleep 1000")).await?;
    child.wait_line(LONG, |line| line.text == "ready").await?;
    send("-STOP", child.pid())?;
    wait_until("it is stopped", LONG, async || is_stopped(child.pid())).await?;
    assert_eq!(child.stop(SHORT).await, Some(Exit::Signal(9)));
    Ok(())
}

#[tokio::test]
async fn a_process_without_its_first_thread_is_ended_too_and_found_by_its_marker() -> Result<()> {
    for kills_shim in [false, true] {
        let folder = TempDir::new()?;
        let Some(command) = headless::command(folder.path())? else { return Ok(()) };
        let supervisor = supervisor();
        let script = format!("setsid {command} & echo ready; exec sleep 1000");
        let child = start(&supervisor, shell(&folder, &script)).await?;
        let pid = announced(&child, "headless").await?;
        wait_until("its first thread has ended", LONG, async || headless::runs(pid)).await?;
        if kills_shim {
            send("-KILL", shim_of(&child)?)?;
            assert_eq!(child.exited().await, Exit::Lost);
            assert!(find_family(supervisor.scope()).contains(&pid), "found by its marker");
            assert!(end_family(supervisor.scope(), SHORT).await > 0);
        } else {
            assert!(child.stop(SHORT).await.is_some(), "it ends");
        }
        assert!(!headless::runs(pid), "gone when its family is");
    }
    Ok(())
}

#[tokio::test]
async fn a_shim_asked_to_end_ends_its_family_first() -> Result<()> {
    let folder = TempDir::new()?;
    let (child, pids) = stubborn(&supervisor(), &folder).await?;
    send("-TERM", shim_of(&child)?)?;
    assert_eq!(child.exited().await, Exit::Signal(9));
    all_gone(&pids).await
}

#[tokio::test]
async fn endless_output_stays_bounded_in_memory_and_on_disk() -> Result<()> {
    let folder = TempDir::new()?;
    let script = "head -c 5000000 /dev/zero | tr '\\0' x; echo; \
                  while [ ! -e go ]; do sleep 0.05; done; i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done; \
                  echo end; sleep 1000";
    let mut spec = shell(&folder, script);
    spec.output.line_bytes = 1000;
    spec.output.log_bytes = 5000;
    spec.output.tail_lines = 10;
    spec.log = Some(folder.path().join("log"));
    let child = start(&supervisor(), spec).await?;
    let giant = child.wait_line(LONG, |line| line.text.ends_with("[4999000 bytes left out]")).await?;
    assert!(giant.text.len() < 1100);
    fs::write(folder.path().join("go"), "")?;
    child.wait_line(LONG, |line| line.text == "end").await?;
    assert!(child.tail().len() <= 10);
    let memory = fs::read_to_string(format!("/proc/{}/status", shim_of(&child)?))?;
    let own: u64 = memory
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:")?.split_whitespace().next()?.parse().ok())
        .context("RssAnon")?;
    assert!(own < 6000, "the shim holds {own} kB");
    for name in ["log", "log.1"] {
        assert!(fs::metadata(folder.path().join(name))?.len() <= 5000, "{name}");
    }
    child.stop(SHORT).await.context("stopped")?;
    Ok(())
}

#[tokio::test]
async fn nobody_reads_what_a_shim_holds() -> Result<()> {
    let folder = TempDir::new()?;
    let mut spec = shell(&folder, "echo ready; exec sleep 1000");
    spec.env.insert("SECRET".into(), "canary-7f3a".into());
    let child = start(&supervisor(), spec).await?;
    let shim = shim_of(&child)?;
    let line = fs::read_to_string(format!("/proc/{shim}/cmdline"))?;
    assert!(line.ends_with("millhand\0shim\0"), "{line:?}");
    let environment = fs::read(format!("/proc/{shim}/environ")).unwrap_or_default();
    assert!(environment.is_empty(), "nothing is in its environment");
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(format!("/proc/{shim}/mem"))?);
    assert_eq!(owner, 0, "a process that cannot be dumped belongs to root in /proc");
    child.stop(SHORT).await.context("stopped")?;
    Ok(())
}

/// The worker's role in a process of its own, which a test can kill: it holds the pipe of a shim.
fn holder(folder: &Path) -> Result<(std::process::Child, u32)> {
    let spec = serde_json::json!({"start": {
        "program": "/bin/sh", "args": [bytes("-c"), bytes(STUBBORN_TO_FILE)], "cwd": folder,
        "env": [[bytes("PATH"), bytes("/usr/bin:/bin")]], "marker": "killed-worker.1",
        "output": {"line_bytes": 1000, "log_bytes": 1000, "tail_lines": 10}, "log": null, "run_as": null, "kill_grace_ms": 300,
    }});
    fs::write(folder.join("spec"), format!("{spec}\n"))?;
    // The shell keeps the write end open, as a worker does.
    let script =
        r#"mkfifo in; "$0" shim <in >/dev/null 2>&1 | cat >/dev/null & exec 3>in; cat spec >&3; exec sleep 1000"#;
    let script = script.replace(">/dev/null 2>&1 |", "|");
    let worker = Command::new("/bin/sh")
        .args(["-c", &script])
        .arg(millhand())
        .current_dir(folder)
        .stdin(Stdio::null())
        .spawn()?;
    let pid = worker.id();
    Ok((worker, pid))
}

fn bytes(text: &str) -> serde_json::Value {
    serde_json::json!({"Unix": text.as_bytes()})
}

const STUBBORN_TO_FILE: &str = r#"
    trap '' TERM
    setsid sh -c 'trap "" TERM; echo $$ >away; while :; do sleep 1; done' &
    while :; do sleep 1; done
"#;

#[tokio::test]
async fn a_killed_workers_family_is_ended() -> Result<()> {
    let folder = TempDir::new()?;
    let (mut worker, pid) = holder(folder.path())?;
    let away = folder.path().join("away");
    wait_until("the grandchild runs", LONG, async || fs::read_to_string(&away).is_ok_and(|pid| pid.ends_with('\n')))
        .await?;
    let away: u32 = fs::read_to_string(&away)?.trim().parse()?;
    send("-KILL", pid)?;
    assert_eq!(worker.wait()?.signal(), Some(9));
    all_gone(&[away]).await?;
    wait_until("no one is left", LONG, async || find_family("killed-worker").is_empty()).await
}
