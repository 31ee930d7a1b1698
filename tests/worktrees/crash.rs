//! A kill between any two steps leaves something that the next round, or the next turn, finishes.

use std::fs;

use millhand::{git::Mirror, model::worktree::Reason, worktrees::Outcome};

use super::{Rig, assert_worked};

const SLOT: &str = "s1-0123";

/// How far a reaper came before it was killed.
const STEPS: [&str; 5] = ["begun", "confirmed", "half moved", "moved", "trashed"];

/// Does the reaper's steps up to and with this one, and no more.
async fn reap_up_to(rig: &Rig, session: i64, mirror: &Mirror, step: &str) {
    let row = rig.row(session).await;
    assert!(rig.store.begin_reaping(row.id, Reason::SessionClosed, SLOT).await.expect("begin"));
    if step == "begun" {
        return;
    }
    let worktree = millhand::git::Worktree {
        session_id: session,
        path: row.path.clone().into(),
        branch: row.branch.clone(),
        base_commit: row.base_commit.clone(),
    };
    let git = &rig.worktrees.git;
    let (checkpoint, differs) = git.checkpoint_before_reaping(mirror, &worktree).await.expect("checkpoint");
    let confirmed = rig.store.confirm_reaping(row.id, Reason::SessionClosed, &checkpoint.commit, differs).await;
    assert!(confirmed.expect("confirm"));
    if step == "confirmed" {
        return;
    }
    if step == "half moved" {
        let slot = rig.worktrees.home.trash().join(SLOT);
        fs::create_dir_all(&slot).expect("slot");
        fs::rename(&worktree.path, slot.join("worktree")).expect("rename");
        return;
    }
    git.trash_worktree(mirror, session, SLOT).await.expect("trash");
    if step == "trashed" {
        rig.store.mark_trashed(row.id).await.expect("mark");
    }
}

async fn closed(rig: &Rig) -> (i64, Mirror, millhand::git::Worktree) {
    let (session, worktree) = rig.worked().await;
    let mirror = rig.worktrees.git.mirror_with(1, &worktree.base_commit).await.expect("mirror").expect("mirror");
    rig.close(session).await;
    rig.later().await;
    (session, mirror, worktree)
}

#[tokio::test]
async fn a_reaper_that_was_killed_is_finished_by_the_next_round() {
    for step in STEPS {
        let rig = Rig::new().await;
        let (session, mirror, worktree) = closed(&rig).await;
        reap_up_to(&rig, session, &mirror, step).await;
        rig.round().await;
        assert_eq!(rig.row(session).await.state, "trashed", "killed when {step}");
        assert!(!worktree.path.exists(), "killed when {step}");
        assert_eq!(rig.trash().len(), 1, "killed when {step}");
        assert_eq!(rig.restore(session).await, "trash", "killed when {step}");
        assert_worked(&worktree.path, true);
        assert_eq!(rig.trash().len(), 0, "killed when {step}");
    }
}

#[tokio::test]
async fn a_turn_that_comes_after_a_killed_reaper_has_all_its_work() {
    for step in STEPS {
        let rig = Rig::new().await;
        let (session, mirror, worktree) = closed(&rig).await;
        reap_up_to(&rig, session, &mirror, step).await;
        rig.store.reopen_session(session).await.expect("reopen");
        rig.send(session).await;
        let again = rig.turn(|path| assert_worked(path, true)).await;
        assert_eq!(again, worktree, "killed when {step}");
        rig.round().await;
        let row = rig.row(session).await;
        assert_eq!((row.state.as_str(), row.slot, row.checkpoint), ("ready", None, None), "killed when {step}");
        assert_worked(&worktree.path, true);
    }
}

#[tokio::test]
async fn a_restore_by_hand_after_a_killed_reaper_has_all_its_work() {
    for step in STEPS {
        let rig = Rig::new().await;
        let (session, mirror, worktree) = closed(&rig).await;
        reap_up_to(&rig, session, &mirror, step).await;
        rig.restore(session).await;
        assert_worked(&worktree.path, true);
        assert_eq!(rig.row(session).await.state, "ready", "killed when {step}");
        assert_eq!(rig.trash().len(), 0, "killed when {step}");
    }
}

#[tokio::test]
async fn a_restore_that_was_killed_is_taken_up() {
    // What the mirror knows is moved back first, then the folder, then the row is written.
    for step in ["meta moved", "both moved"] {
        let rig = Rig::new().await;
        let (session, mirror, worktree) = closed(&rig).await;
        rig.round().await;
        let slot = rig.worktrees.home.trash().join(rig.row(session).await.slot.expect("slot"));
        fs::rename(slot.join("meta"), mirror.path.join(format!("worktrees/s{session}"))).expect("rename");
        if step == "both moved" {
            fs::rename(slot.join("worktree"), &worktree.path).expect("rename");
        }
        rig.restore(session).await;
        assert_worked(&worktree.path, true);
        assert_eq!(rig.row(session).await.state, "ready", "{step}");
    }
}

#[tokio::test]
async fn trash_is_not_emptied_over_a_restore_that_was_killed_before_it_was_recorded() {
    let rig = Rig::new().await;
    let (session, mirror, worktree) = closed(&rig).await;
    rig.round().await;
    let slot = rig.worktrees.home.trash().join(rig.row(session).await.slot.expect("slot"));
    fs::rename(slot.join("meta"), mirror.path.join(format!("worktrees/s{session}"))).expect("rename");
    fs::rename(slot.join("worktree"), &worktree.path).expect("rename");
    rig.much_later().await;
    assert_eq!(rig.round().await[0], Outcome::Settled);
    assert_eq!(rig.restore(session).await, "trash", "and then reaped again, as its session is closed");
    assert_worked(&worktree.path, true);
}

#[tokio::test]
async fn emptying_that_was_killed_is_finished_and_never_half_restored() {
    for round_first in [true, false] {
        let rig = Rig::new().await;
        let (session, _, worktree) = closed(&rig).await;
        rig.round().await;
        let slot = rig.worktrees.home.trash().join(rig.row(session).await.slot.expect("slot"));
        let emptying = slot.with_extension("emptying");
        fs::rename(&slot, &emptying).expect("rename");
        fs::remove_file(emptying.join("worktree/new.txt")).expect("half removed");
        rig.much_later().await;
        if round_first {
            assert_eq!(rig.round().await, [Outcome::Removed]);
            assert_eq!(rig.trash().len(), 0);
        }
        assert_eq!(rig.restore(session).await, "checkpoint");
        assert_worked(&worktree.path, false);
    }
}
