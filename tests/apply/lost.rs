//! A worktree that is lost between two turns is made again as it was: on top of what was applied, and not as it was before a rollback. And
//! what waits: for a turn that may still be at work, for a disk that has room again.

use std::fs;

use millhand::model::ids::{AnyId, TaskId};

use super::{Rig, only, work, write};
use crate::support::world::git;

/// The folder goes, as when somebody clears a disk, and the next turn finds another one.
async fn lose_and_go_on(rig: &Rig, session: i64) -> Vec<String> {
    fs::remove_dir_all(rig.worktree(session)).expect("lose");
    rig.send(session, |path| write(path, "more.txt", "more\n")).await;
    rig.decided(session).await.into_iter().map(|(path, _)| path).collect()
}

#[tokio::test]
async fn a_worktree_lost_after_an_apply_has_what_others_did_meanwhile() {
    let rig = Rig::new().await;
    let session = rig.session(work).await;
    rig.commit("src/a.sh", "echo theirs\n");
    assert_eq!(rig.apply(session).await.not_rebased, None);
    assert_eq!(lose_and_go_on(&rig, session).await, ["more.txt"], "nothing of theirs is undone");
    rig.apply(session).await;
    assert_eq!(rig.read("src/a.sh").as_deref(), Some("echo theirs\n"));

    // What was not applied is still there.
    let rig = Rig::new().await;
    let session = rig.session(work).await;
    rig.commit("src/a.sh", "echo theirs\n");
    rig.try_apply(session, &only(&["docs"])).await.expect("apply");
    let changed = lose_and_go_on(&rig, session).await;
    assert_eq!(changed, ["README.md", "more.txt", "new/file.txt", "src/moved.txt"]);
}

#[tokio::test]
async fn a_worktree_lost_after_a_rollback_stays_rolled_back() {
    let rig = Rig::new().await;
    let session = rig.session(|path| write(path, "one.txt", "one\n")).await;
    rig.send(session, |path| write(path, "two.txt", "two\n")).await;
    rig.applier.roll_back(session, AnyId::Task(TaskId(1)), "ada").await.expect("back");
    assert_eq!(lose_and_go_on(&rig, session).await, ["more.txt", "one.txt"]);
    // And one that is lost after a turn is as that turn left it.
    fs::remove_dir_all(rig.worktree(session)).expect("lose");
    rig.send(session, |path| write(path, "last.txt", "last\n")).await;
    let paths: Vec<_> = rig.decided(session).await.into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths, ["last.txt", "more.txt", "one.txt"]);
}

#[tokio::test]
async fn a_session_whose_lost_turn_may_still_be_at_work_is_not_touched() {
    let rig = Rig::new().await;
    let session = rig.session(work).await;
    rig.sql(&format!("INSERT INTO millhand.tasks (session_id, prompt) VALUES ({session}, 'and then')")).await;
    let (claimed, ..) = rig.begin().await;
    rig.sql(&format!("UPDATE millhand.tasks SET message_id = 'msg_1' WHERE id = {}", claimed.task_id)).await;
    rig.store.rescue_host(&rig.host, 10, uuid::Uuid::new_v4()).await.expect("rescue");
    let why = rig.applier.roll_back(session, AnyId::Task(TaskId(1)), "ada").await.expect_err("not now").to_string();
    assert!(why.contains("about to go on"), "{why}");
    assert!(rig.apply(session).await.not_rebased.is_some());
    let landed = "SELECT count(*) FROM millhand.applies WHERE state = 'landed'";
    assert_eq!(rig.one::<i64>(landed).await, 1, "it is re-based later");
    rig.turn(|path| write(path, "more.txt", "more\n")).await;
    rig.applier.recover_all().await.expect("settle");
    assert_eq!(rig.one::<i64>(landed).await, 0);
    let base: String = rig.one("SELECT base_commit FROM millhand.sessions").await;
    assert_eq!(base, rig.user(&["rev-parse", "main"]));
}

#[tokio::test]
async fn a_rebase_that_fails_is_tried_again_and_the_agents_repository_stays() {
    let rig = Rig::new().await;
    let session = rig.session(work).await;
    let worktree = rig.worktree(session);
    git(&worktree, &["commit", "-q", "--allow-empty", "-m", "the agent's own"]).expect("commit");
    let own = git(&worktree, &["rev-parse", "HEAD"]).expect("head");
    rig.commit("src/a.sh", "echo theirs\n");
    // As with a full disk: nothing can be built.
    let building = rig.root.join("home/private/git/building");
    fs::rename(&building, rig.root.join("aside")).expect("aside");
    fs::write(&building, "").expect("in its place");
    assert!(rig.apply(session).await.not_rebased.is_some());
    assert_eq!(git(&worktree, &["rev-parse", "HEAD"]).expect("head"), own);
    fs::remove_file(&building).expect("remove");
    fs::rename(rig.root.join("aside"), &building).expect("back");
    rig.applier.recover_all().await.expect("settle");
    let base: String = rig.one("SELECT base_commit FROM millhand.sessions").await;
    assert_eq!(base, rig.user(&["rev-parse", "main"]));
    assert_eq!(fs::read_to_string(worktree.join("src/a.sh")).expect("read"), "echo theirs\n");
    git(&worktree, &["--git-dir=.git/before-apply", "cat-file", "-e", &own])
        .expect("the earlier repository is kept inside");
}
