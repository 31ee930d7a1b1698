//! Adoption: a child whose worker is gone, and who may have it.

use std::{os::unix::fs::PermissionsExt, path::PathBuf};

use millhand::supervise::{Alive, BootTime, Doors, Lifeline};
use secrecy::{ExposeSecret, SecretString};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    runtime::Runtime,
};

use super::*;

fn alive(within: Duration) -> Alive {
    Alive::new(BootTime::now().plus(within), SHORT)
}

/// A home with its doors.
struct Home {
    folder: TempDir,
    scope: String,
}

impl Home {
    fn new() -> Result<Self> {
        Ok(Self { folder: TempDir::new()?, scope: format!("test-{}", uuid::Uuid::new_v4().simple()) })
    }

    fn doors(&self) -> PathBuf {
        self.folder.path().join("private/shims")
    }

    /// The supervisor of one of its workers: turns live as long as the lifeline says, idle children for `idle`.
    fn supervisor(&self, lifeline: Lifeline, idle: Duration) -> Result<Supervisor> {
        let supervisor = Supervisor::new(millhand(), &self.scope).with_lifeline(lifeline.with_idle(idle));
        Ok(supervisor.with_doors(Doors::open(&self.doors())?))
    }

    fn child(&self, script: &str) -> ChildSpec {
        let mut spec = shell(&self.folder, script);
        spec.hand_over = Some(SecretString::from("canary-5d1f"));
        spec.log = Some(self.folder.path().join("log"));
        spec
    }

    /// The sockets.
    fn sockets(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.doors()).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| !path.ends_with("key")).collect()
    }

    async fn logged(&self, words: &str) -> Result<()> {
        let log = self.folder.path().join("log");
        let has = async || fs::read_to_string(&log).is_ok_and(|log| log.contains(words));
        wait_until(&format!("logged: {words}"), LONG, has).await
    }
}

/// A worker: nothing of it goes on when it dies, nor gets a chance to say goodbye.
struct Worker(Option<Runtime>);

impl Worker {
    fn new() -> Result<Self> {
        Ok(Self(Some(tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?)))
    }

    async fn does<T: Send + 'static>(&self, what: impl Future<Output = T> + Send + 'static) -> Result<T> {
        Ok(self.0.as_ref().context("alive")?.spawn(what).await?)
    }

    fn die(mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Starts a child by a worker that has turns with these notes, and dies. The child prints `ready` at first.
async fn left_by_a_dead_worker(
    home: &Home,
    script: &str,
    turns_for: Duration,
    idle: Duration,
    notes: &'static [&'static str],
) -> Result<Child> {
    let worker = Worker::new()?;
    let supervisor = home.supervisor(Lifeline::new(alive(turns_for)), idle)?;
    let spec = home.child(&format!("echo ready; {script}"));
    let (child, busy) = worker
        .does(async move {
            let child = supervisor.spawn(spec).await?;
            child.wait_line(LONG, |line| line.text == "ready").await?;
            // Over before the others begin: the word that tells of those says so.
            drop(child.busy("over".to_owned()).await);
            let mut busy = Vec::new();
            for note in notes {
                busy.push(child.busy((*note).to_owned()).await);
            }
            anyhow::Ok((child, busy))
        })
        .await??;
    worker.die();
    home.logged("the worker is gone").await?;
    drop(busy);
    Ok(child)
}

#[tokio::test]
async fn a_child_outlives_its_worker_and_the_next_one_has_it_with_its_turns() -> Result<()> {
    let home = Home::new()?;
    let dead = left_by_a_dead_worker(
        &home,
        "while [ ! -e go ]; do sleep 0.05; done; echo went; exec sleep 1000",
        LONG,
        LONG,
        &["one", "two"],
    )
    .await?;
    assert!(lives(dead.pid()));
    let lifeline = Lifeline::new(alive(LONG));
    let supervisor = home.supervisor(lifeline.clone(), LONG)?;
    let mut leftovers = supervisor.leftovers().await;
    let leftover = leftovers.pop().context("a leftover")?;
    assert!(leftovers.is_empty() && leftover.speaks_as_we_do() && !leftover.is_ending());
    assert_eq!((leftover.name(), leftover.pid(), leftover.adoptions(LONG)), ("script", dead.pid(), 0));
    assert_eq!(leftover.hand_over().expose_secret(), "canary-5d1f");
    let (child, turns) = supervisor.adopt(leftover).await.context("adopted")?;
    assert_eq!((child.pid(), child.marker()), (dead.pid(), dead.marker()));
    assert_eq!(
        turns.iter().map(|(note, _)| note.as_str()).collect::<Vec<_>>(),
        ["one", "two"],
        "the one that is over is not"
    );
    fs::write(home.folder.path().join("go"), "")?;
    child.wait_line(LONG, |line| line.text == "went").await.context("what it prints is heard again")?;

    // It lives by the new worker's word, and its death is noticed.
    lifeline.set(alive(SHORT));
    assert_eq!(tokio::time::timeout(LONG, child.exited()).await?, Exit::Signal(15));
    assert!(!lives(child.pid()));
    wait_until("the door is closed", LONG, async || home.sockets().is_empty()).await?;
    let _still = turns;
    Ok(())
}

#[tokio::test]
async fn an_adopted_child_that_dies_or_is_stopped_is_known_to_be_gone() -> Result<()> {
    let home = Home::new()?;
    for how in ["killed", "stopped", "dropped", "ended at the door"] {
        let dead = left_by_a_dead_worker(&home, "exec sleep 1000", LONG, LONG, &[]).await?;
        let supervisor = home.supervisor(Lifeline::new(alive(LONG)), LONG)?;
        let leftover = supervisor.leftovers().await.pop().context("a leftover")?;
        if how == "ended at the door" {
            leftover.end().await;
        } else {
            let (child, _) = supervisor.adopt(leftover).await.context("adopted")?;
            match how {
                "killed" => {
                    send("-KILL", child.pid())?;
                    assert_eq!(tokio::time::timeout(LONG, child.exited()).await?, Exit::Signal(9));
                }
                "stopped" => assert_eq!(child.stop(SHORT).await, Some(Exit::Signal(15))),
                _ => drop(child),
            }
        }
        all_gone(&[dead.pid()]).await.context(how)?;
        wait_until("the door is closed", LONG, async || home.sockets().is_empty()).await?;
        fs::remove_file(home.folder.path().join("log"))?;
    }
    Ok(())
}

#[tokio::test]
async fn what_nobody_adopts_in_time_ends_by_itself_with_its_whole_family() -> Result<()> {
    let idle = Home::new()?;
    let began = Instant::now();
    let dead = left_by_a_dead_worker(&idle, "setsid sleep 1000 & exec sleep 1000", SHORT, SHORT * 4, &[]).await?;
    all_gone(&[dead.pid()]).await?;
    assert!(began.elapsed() >= SHORT * 3, "{:?}: an idle one has longer", began.elapsed());
    wait_until("the family is gone", LONG, async || find_family(&idle.scope).is_empty()).await?;

    let busy = Home::new()?;
    let dead =
        left_by_a_dead_worker(&busy, "setsid sleep 1000 & exec sleep 1000", SHORT * 4, LONG * 10, &["turn"]).await?;
    all_gone(&[dead.pid()]).await.context("its deadline is that of its turns")?;
    wait_until("the family is gone", LONG, async || find_family(&busy.scope).is_empty()).await?;
    let supervisor = busy.supervisor(Lifeline::new(alive(LONG)), LONG)?;
    wait_until("the door is closed", LONG, async || busy.sockets().is_empty()).await?;
    assert!(supervisor.leftovers().await.is_empty());
    Ok(())
}

#[tokio::test]
async fn it_is_too_late_once_the_family_is_being_ended() -> Result<()> {
    let home = Home::new()?;
    let script = "trap 'echo asked; sleep 2' TERM; while :; do sleep 0.05; done";
    let mut spec_grace = home.child(script);
    spec_grace.kill_grace = LONG;
    let worker = Worker::new()?;
    let supervisor = home.supervisor(Lifeline::new(Alive::new(BootTime::now().plus(SHORT), LONG)), LONG)?;
    let (child, busy) = worker
        .does(async move {
            let child = supervisor.spawn(spec_grace).await?;
            let busy = child.busy("turn".to_owned()).await;
            anyhow::Ok((child, busy))
        })
        .await??;
    worker.die();
    drop(busy);
    home.logged("asked").await?;
    let supervisor = home.supervisor(Lifeline::new(alive(LONG)), LONG)?;
    let leftover = supervisor.leftovers().await.pop().context("it still answers")?;
    assert!(leftover.is_ending());
    assert!(supervisor.adopt(leftover).await.is_none(), "not even if asked");
    send("-KILL", child.pid())?;
    all_gone(&[child.pid()]).await
}

#[tokio::test]
async fn adoptions_are_counted_and_the_last_worker_is_the_one() -> Result<()> {
    let home = Home::new()?;
    let dead = left_by_a_dead_worker(&home, "exec sleep 1000", LONG, LONG, &[]).await?;
    let mut before = None;
    for count in 0..4 {
        let supervisor = home.supervisor(Lifeline::new(alive(LONG)), LONG)?;
        let leftover = supervisor.leftovers().await.pop().context("a leftover")?;
        assert_eq!(leftover.adoptions(LONG), count);
        // The one before lives on, in vain: it has the key no more than it has the child.
        let (child, _) = supervisor.adopt(leftover).await.context("adopted")?;
        if let Some(before) = before.replace(child) {
            let before: Child = before;
            assert_eq!(tokio::time::timeout(LONG, before.exited()).await?, Exit::Lost);
        }
    }
    assert!(lives(dead.pid()), "whatever those before said when they went");
    before.context("the last")?.stop(SHORT).await.context("stopped")?;
    Ok(())
}

/// Says something at a door and gives what comes back until it is closed.
async fn say(socket: &Path, words: &[u8]) -> Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket).await?;
    // It may be closed before all is said.
    let _ = stream.write_all(words).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(LONG, stream.read_to_end(&mut answer)).await.context("closed")?;
    Ok(answer)
}

#[tokio::test]
async fn whoever_has_not_the_key_is_sent_away_without_a_word() -> Result<()> {
    let home = Home::new()?;
    let dead = left_by_a_dead_worker(&home, "exec sleep 1000", LONG, LONG, &[]).await?;
    let socket = home.sockets().pop().context("a door")?;
    let key_file = home.doors().join("key");
    let key = fs::read_to_string(&key_file)?;
    for (path, mode) in [(&key_file, 0o600), (&socket, 0o600), (&home.doors(), 0o700)] {
        assert_eq!(fs::metadata(path)?.permissions().mode() & 0o777, mode, "{}", path.display());
    }
    let wrong_case = key.to_ascii_uppercase();
    let knocks = [
        r#"{"protocol":1,"key":""}"#.to_owned(),
        r#"{"protocol":1,"key":"wrong"}"#.to_owned(),
        format!(r#"{{"protocol":1,"key":"{}"}}"#, &key[1..]),
        format!(r#"{{"protocol":1,"key":"{wrong_case}"}}"#),
        format!(r#"{{"protocol":1,"key":"{key}{key}"}}"#),
        key.clone(),
        "GET / HTTP/1.1\r\n".to_owned(),
        "x".repeat(1 << 20),
        // Says nothing, and waits.
        String::new(),
    ];
    for knock in &knocks {
        let line = if knock.is_empty() { String::new() } else { format!("{knock}\n{{\"stop\":{{\"grace_ms\":0}}}}\n") };
        assert_eq!(say(&socket, line.as_bytes()).await?, b"", "{}", &knock[..knock.len().min(80)]);
    }
    // Many at once keep nobody out who has it: each is gone within a moment.
    let crowd = futures::future::join_all((0..100).map(|_| UnixStream::connect(&socket))).await;
    let supervisor = home.supervisor(Lifeline::new(alive(LONG)), LONG)?;
    wait_until("the right key opens", LONG, async || !supervisor.leftovers().await.is_empty()).await?;
    drop(crowd);
    assert!(lives(dead.pid()));
    // With the right key, but of another version: told what there is, and no more.
    let knock = format!("{{\"protocol\":99,\"key\":\"{key}\"}}\n{{\"stop\":{{\"grace_ms\":0}}}}\n");
    let answer = String::from_utf8(say(&socket, knock.as_bytes()).await?)?;
    assert!(answer.contains("canary-5d1f") && lives(dead.pid()), "{answer}");
    let leftover = supervisor.leftovers().await.pop().context("a leftover")?;
    leftover.end().await;
    all_gone(&[dead.pid()]).await
}

#[tokio::test]
async fn a_home_that_lies_deep_has_doors_too() -> Result<()> {
    let mut home = Home::new()?;
    let deep = home.folder.path().join("a-long-name-of-a-folder/".repeat(12));
    fs::create_dir_all(&deep)?;
    let shallow = std::mem::replace(&mut home.folder, TempDir::new_in(&deep)?);
    assert!(home.doors().as_os_str().len() > 200);
    let dead = left_by_a_dead_worker(&home, "exec sleep 1000", LONG, LONG, &[]).await?;
    let supervisor = home.supervisor(Lifeline::new(alive(LONG)), LONG)?;
    supervisor.leftovers().await.pop().context("a leftover")?.end().await;
    all_gone(&[dead.pid()]).await?;
    drop((home, shallow));
    Ok(())
}

#[tokio::test]
async fn sockets_of_shims_that_were_killed_are_removed() -> Result<()> {
    let home = Home::new()?;
    let supervisor = home.supervisor(Lifeline::new(alive(LONG)), LONG)?;
    let child = supervisor.spawn(home.child("exec sleep 1000")).await?;
    wait_until("its door is open", LONG, async || home.sockets().len() == 1).await?;
    send("-KILL", shim_of(&child)?)?;
    assert_eq!(child.exited().await, Exit::Lost);
    assert!(supervisor.leftovers().await.is_empty() && home.sockets().is_empty());
    Ok(())
}
