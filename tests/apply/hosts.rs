//! Several hosts: a session that moves between them while changes of it are applied and taken back.

use std::{fs, sync::Arc};

use millhand::{
    actions::Applier,
    config::Home,
    git::{Git, Step},
    model::ids::{AnyId, SessionId, TaskId},
    store::rehome::AwaySession,
};
use uuid::Uuid;

use super::{Rig, applier, only, quiet, request, work, write};
use crate::queue::register;

/// Another host on the same database.
struct There {
    applier: Applier,
    worker: Uuid,
    host: String,
}

async fn there(rig: &Rig, host: &str) -> There {
    let home = Home::new(rig.root.join(host));
    let environment = vec![
        ("PATH".into(), std::env::var_os("PATH").expect("PATH")),
        ("HOME".into(), rig.root.join("user").into_os_string()),
    ];
    let git = Git::new(None, environment, home.clone()).await.expect("git");
    let worker = Uuid::new_v4();
    register(&rig.store, worker, host).await;
    There { applier: applier(&rig.store, git, home, host), worker, host: host.to_owned() }
}

impl There {
    /// From now on turns run on this host, and what ran them before is the other one.
    fn swap(&mut self, rig: &mut Rig) {
        std::mem::swap(&mut self.applier, &mut rig.applier);
        std::mem::swap(&mut self.worker, &mut rig.worker);
        std::mem::swap(&mut self.host, &mut rig.host);
    }
}

/// The session's host has had no worker for long.
async fn away(rig: &Rig, session: i64) -> AwaySession {
    rig.sql(
        "UPDATE millhand.workers SET heartbeat_at = now() - interval '1 h', stopped_at = now() - interval '1 h' \
         WHERE host_id = (SELECT home_host FROM millhand.sessions LIMIT 1)",
    )
    .await;
    let row = &rig
        .sql(&format!("SELECT base_commit, home_host, base_branch FROM millhand.sessions WHERE id = {session}"))
        .await[0];
    AwaySession {
        session_id: session,
        project_id: 1,
        project: "acme".to_owned(),
        source: rig.source().display().to_string(),
        base_branch: row.get(2),
        base_commit: row.get(0),
        home_host: row.get(1),
    }
}

async fn home_of(rig: &Rig, session: i64) -> String {
    rig.one(&format!("SELECT home_host FROM millhand.sessions WHERE id = {session}")).await
}

async fn paths(rig: &Rig, session: i64) -> Vec<String> {
    rig.decided(session).await.into_iter().map(|(path, _)| path).collect()
}

#[tokio::test]
async fn a_session_that_comes_back_starts_from_what_was_applied_and_not_from_an_earlier_stay() {
    let mut rig = Rig::new().await;
    let session = rig.session(work).await;
    let mut other = there(&rig, "host-b").await;
    let gone = away(&rig, session).await;
    assert!(other.applier.worktrees.rehome(&gone).await.expect("rehome"));
    other.swap(&mut rig);
    rig.send(session, |path| write(path, "from-b.txt", "b\n")).await;
    rig.commit("src/a.sh", "echo theirs\n");
    assert_eq!(rig.apply(session).await.not_rebased, None);

    let gone = away(&rig, session).await;
    // What it had there is in the trash, for a week, and not in the way.
    let stop = tokio_util::sync::CancellationToken::new();
    other.applier.worktrees.timings.reap_grace = std::time::Duration::ZERO;
    let round = other.applier.worktrees.round(None, &stop).await.expect("reap");
    assert_eq!(round.done.len(), 1, "{round:?}");
    assert!(other.applier.worktrees.rehome(&gone).await.expect("back"));
    other.swap(&mut rig);
    // It is lost once more before a turn has ended here.
    rig.sql(&format!("INSERT INTO millhand.tasks (session_id, prompt) VALUES ({session}, 'and then')")).await;
    let (claimed, mirror, worktree) = rig.begin().await;
    assert!(worktree.path.join("from-b.txt").exists());
    fs::remove_dir_all(&worktree.path).expect("lose");
    let base = millhand::git::Base { branch: Some("main".to_owned()), commit: worktree.base_commit.clone() };
    let worktree = rig.applier.git.create_worktree(&mirror, session, &base).await.expect("again");
    assert!(worktree.path.join("from-b.txt").exists());
    write(&worktree.path, "from-a.txt", "a\n");
    rig.end(&claimed, &mirror, &worktree).await;
    assert_eq!(paths(&rig, session).await, ["from-a.txt"], "nothing that was applied is undone");
    rig.applier.worktrees.timings.trash_kept = std::time::Duration::ZERO;
    let round = rig.applier.worktrees.round(None, &stop).await.expect("empty the trash");
    assert_eq!(round.done.len(), 1, "what is in the trash still goes its way: {round:?}");
}

#[tokio::test]
async fn a_host_that_comes_back_does_not_rebase_what_moved_away() {
    let mut rig = Rig::new().await;
    let session = rig.session(work).await;
    // Applied while a turn runs, so that the session is still to be re-based when the host goes.
    rig.sql(&format!("INSERT INTO millhand.tasks (session_id, prompt) VALUES ({session}, 'and then')")).await;
    let _turn = rig.begin().await;
    assert!(rig.apply(session).await.not_rebased.is_some());
    rig.store.rescue_host(&rig.host, 10, Uuid::new_v4()).await.expect("rescue");
    let mut other = there(&rig, "host-b").await;
    let gone = away(&rig, session).await;
    assert!(other.applier.worktrees.rehome(&gone).await.expect("rehome"));
    rig.applier.recover_all().await.expect("recover");
    let base: String = rig.one("SELECT base_commit FROM millhand.sessions").await;
    assert_eq!(base, gone.base_commit, "it is at home elsewhere");
    let why = rig.applier.roll_back(session, AnyId::Task(TaskId(1)), "ada").await.expect_err("not here").to_string();
    assert!(why.contains("another host"), "{why}");
    assert_eq!(rig.one::<i64>("SELECT count(*) FROM millhand.audit_log WHERE action = 'roll_back'").await, 0);
    // There it goes on, and what was applied is no conflict.
    other.swap(&mut rig);
    rig.turn(|path| write(path, "README.md", "# acme\none\ntwo\nthree\nfour\nfive\nSEVEN\n")).await;
    rig.apply(session).await;
    assert!(rig.read("README.md").is_some_and(|text| text.ends_with("SEVEN\n")));
}

#[tokio::test]
async fn a_session_that_was_changed_while_it_was_rebuilt_is_not_moved() {
    for what in ["apply", "roll back", "turn"] {
        let rig = Rig::new().await;
        let session = rig.session(|path| write(path, "one.txt", "one\n")).await;
        rig.send(session, |path| write(path, "two.txt", "two\n")).await;
        let other = there(&rig, "host-b").await;
        let gone = away(&rig, session).await;
        let recorded = rig.store.recorded_tree(session).await.expect("recorded").expect("a turn");
        match what {
            "apply" => {
                rig.apply(session).await;
            }
            "turn" => rig.send(session, |path| write(path, "three.txt", "three\n")).await,
            _ => {
                rig.applier.roll_back(session, AnyId::Task(TaskId(1)), "ada").await.expect("back");
            }
        }
        let gone_now = away(&rig, session).await;
        let to = millhand::store::rehome::NewHome {
            host_id: &other.host,
            path: "/elsewhere",
            branch: "millhand/s1",
            trash: "/trash",
            checkpoint: &gone.base_commit,
            change_set: Some(recorded.change_set_id),
        };
        let moved = rig.store.rehome_session(&gone, to, rig.applier.timings.rehome).await.expect("rehome");
        assert!(!moved, "{what}");
        // As it is now it can be moved, where all of it is recorded.
        if what != "roll back" {
            assert!(other.applier.worktrees.rehome(&gone_now).await.expect("rehome"), "{what}");
        }
    }
}

#[tokio::test]
async fn two_hosts_that_take_a_session_at_once_end_with_one_home() {
    for round in 0..20 {
        let rig = Rig::new().await;
        let session = rig.session(work).await;
        let (one, two) = (there(&rig, "host-b").await, there(&rig, "host-c").await);
        let gone = away(&rig, session).await;
        let (first, second) = tokio::join!(one.applier.worktrees.rehome(&gone), two.applier.worktrees.rehome(&gone));
        let moved = [first.expect("rehome"), second.expect("rehome")];
        assert_eq!(moved.iter().filter(|moved| **moved).count(), 1, "round {round}");
        let home = home_of(&rig, session).await;
        assert_eq!(home, if moved[0] { "host-b" } else { "host-c" }, "round {round}");
        let rows = format!("SELECT count(*) FROM millhand.worktrees WHERE session_id = {session}");
        assert_eq!(rig.one::<i64>(&rows).await, 1, "round {round}");
        assert_eq!(rig.one::<i64>("SELECT count(*) FROM millhand.audit_log WHERE action = 'rehome_session'").await, 1);
    }
}

/// Whatever came first: the session has one home, whose next turn has all that was done, and nothing is applied twice.
#[tokio::test]
async fn an_apply_or_a_rollback_at_the_moment_of_a_move_loses_nothing() {
    for round in 0..20 {
        let mut rig = Rig::new().await;
        let session = rig.session(|path| write(path, "one.txt", "one\n")).await;
        rig.send(session, |path| write(path, "two.txt", "two\n")).await;
        let mut other = there(&rig, "host-b").await;
        let gone = away(&rig, session).await;
        let rolls_back = round % 2 == 1;
        let request = request();
        let done = async {
            match rolls_back {
                true => rig.applier.roll_back(session, AnyId::Task(TaskId(1)), "ada").await.map(|_| ()),
                false => rig.applier.apply(AnyId::Session(SessionId(session)), &request, &quiet).await.map(|_| ()),
            }
        };
        let (done, moved) = tokio::join!(done, other.applier.worktrees.rehome(&gone));
        // A move that comes later finds its worktree gone, or what it holds recorded nowhere.
        let moved = moved.unwrap_or(false);
        if done.is_err() {
            assert!(moved && rolls_back, "round {round}: {done:?}");
        }
        rig.applier.recover_all().await.expect("recover");
        if moved {
            other.swap(&mut rig);
        }
        assert_eq!(home_of(&rig, session).await, rig.host, "round {round}");
        rig.send(session, |path| write(path, "three.txt", "three\n")).await;
        let has_two = rig.worktree(session).join("two.txt").exists();
        assert_eq!(has_two, !(rolls_back && done.is_ok() && !moved), "round {round}, moved {moved}");
        rig.apply(session).await;
        assert_eq!(rig.read("one.txt").as_deref(), Some("one\n"), "round {round}");
        assert_eq!(rig.read("three.txt").as_deref(), Some("three\n"), "round {round}");
        assert_eq!(rig.read("two.txt").is_some(), has_two, "round {round}");
    }
}

#[tokio::test]
async fn an_open_change_set_is_applied_on_the_host_that_took_the_session_or_after_its_mirror_was_lost() {
    let mut rig = Rig::new().await;
    let session = rig.session(work).await;
    let (_, _, tree) = rig.open_set(session).await;
    fs::remove_dir_all(rig.root.join("home/mirrors/1.git")).expect("lose the mirror");
    rig.try_apply(session, &only(&["docs"])).await.expect("from what is recorded");
    let mut other = there(&rig, "host-b").await;
    other.swap(&mut rig);
    rig.apply(session).await;
    assert_eq!(rig.user(&["rev-parse", "main^{tree}"]), tree);
}

#[tokio::test]
async fn an_apply_that_cannot_be_settled_keeps_back_only_what_it_touches() {
    let rig = Arc::new(Rig::new().await);
    let stuck = rig.session(work).await;
    let killed = {
        let rig = Arc::clone(&rig);
        tokio::spawn(async move {
            let die = |step: Step| {
                if step == Step::Moved {
                    std::panic::resume_unwind(Box::new("killed"));
                }
            };
            let _ = rig.applier.apply(AnyId::Session(SessionId(stuck)), &request(), &die).await;
        })
    };
    assert!(killed.await.expect_err("killed").is_panic());
    rig.write("README.md", "# mine\n");
    let free = rig.session(|path| write(path, "free.txt", "free\n")).await;
    let why = rig.try_apply(free, &request()).await.expect_err("the same branch").to_string();
    assert!(why.contains("was interrupted"), "{why}");
    let mut elsewhere = request();
    elsewhere.target = millhand::actions::Target::Branch("other".to_owned());
    rig.try_apply(free, &elsewhere).await.expect("another branch");
    assert_eq!(rig.user(&["show", "other:free.txt"]), "free");
}
