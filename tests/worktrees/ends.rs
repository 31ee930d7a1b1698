//! However a session ends, its work can be brought back.

use std::fs;

use millhand::worktrees::Outcome;

use super::{Rig, assert_worked, git, work};

#[tokio::test]
async fn closed_sessions_worktree_goes_to_the_trash_after_the_grace_and_comes_back_whole() {
    let rig = Rig::new().await;
    let (session, worktree) = rig.worked().await;
    rig.close(session).await;
    assert_eq!(rig.round().await, []);
    assert_worked(&worktree.path, true);

    rig.later().await;
    assert_eq!(rig.round().await, [Outcome::Trashed]);
    assert!(!worktree.path.exists());
    let row = rig.row(session).await;
    assert_eq!((row.state.as_str(), row.reason.as_deref(), row.unrecorded), ("trashed", Some("session_closed"), false));
    let slot = rig.worktrees.home.trash().join(row.slot.expect("slot"));
    assert_worked_files(&slot.join("worktree"));
    assert!(!rig.worktrees.home.mirror(1).join(format!("worktrees/s{session}")).exists(), "the mirror's entry");
    assert_eq!(rig.round().await, [], "nothing more to do");

    assert_eq!(rig.restore(session).await, "trash");
    assert_worked(&worktree.path, true);
    assert_eq!(rig.one::<String>("SELECT state FROM millhand.sessions").await, "open");
    assert_eq!(rig.trash().len(), 0, "the slot is gone");
    rig.send(session).await;
    let again = rig.turn(|path| fs::write(path.join("more"), "more\n").expect("write")).await;
    assert_eq!(again, worktree);
    assert_worked(&again.path, true);
    rig.later().await;
    assert_eq!(rig.round().await, [], "its session is open");
}

fn assert_worked_files(path: &std::path::Path) {
    assert_eq!(fs::read_to_string(path.join("ignored/cache")).expect("ignored file"), "cache\n");
    assert_eq!(fs::read_to_string(path.join("new.txt")).expect("new file"), "new\n");
}

#[tokio::test]
async fn reopened_session_finds_its_worktree_again_without_asking() {
    let rig = Rig::new().await;
    let (session, worktree) = rig.worked().await;
    rig.close(session).await;
    rig.later().await;
    assert_eq!(rig.round().await, [Outcome::Trashed]);
    assert!(rig.store.reopen_session(session).await.expect("reopen"));
    assert!(!rig.store.reopen_session(session).await.expect("idempotent"));
    rig.send(session).await;
    let again = rig.turn(|path| assert_worked(path, true)).await;
    assert_eq!(again, worktree);
    assert_eq!(rig.row(session).await.state, "ready");
    assert_eq!(rig.trash().len(), 0);
}

#[tokio::test]
async fn emptied_trash_leaves_the_checkpoint_to_rebuild_from() {
    let rig = Rig::new().await;
    let (session, worktree) = rig.worked().await;
    // After the turn, and in no change set: a background process of the agent's, say.
    fs::write(worktree.path.join("late.txt"), "late\n").expect("write");
    rig.close(session).await;
    rig.later().await;
    assert_eq!(rig.round().await, [Outcome::Trashed]);
    assert!(rig.row(session).await.unrecorded, "it has what no turn recorded");
    rig.much_later().await;
    assert_eq!(rig.round().await, [Outcome::Removed]);
    assert_eq!((rig.row(session).await.state.as_str(), rig.trash().len()), ("gone", 0));

    assert_eq!(rig.restore(session).await, "checkpoint");
    assert_worked(&worktree.path, false);
    assert_eq!(fs::read_to_string(worktree.path.join("late.txt")).expect("late"), "late\n");
    rig.send(session).await;
    assert_eq!(rig.turn(|_| {}).await, worktree);
    // And once more, by a turn alone.
    rig.close(session).await;
    rig.later().await;
    rig.round().await;
    rig.much_later().await;
    rig.round().await;
    rig.store.reopen_session(session).await.expect("reopen");
    rig.send(session).await;
    rig.turn(|path| assert_worked(path, false)).await;
}

#[tokio::test]
async fn deleted_sessions_work_can_be_restored_into_a_session_of_the_same_number() {
    let rig = Rig::new().await;
    let (session, worktree) = rig.worked().await;
    rig.sql(&format!("DELETE FROM millhand.sessions WHERE id = {session}")).await;
    assert_eq!(rig.round().await, [], "within the grace");
    rig.later().await;
    assert_eq!(rig.round().await, [Outcome::Trashed]);
    assert_eq!(rig.row(session).await.reason.as_deref(), Some("session_deleted"));
    assert_eq!(rig.restore(session).await, "trash");
    assert_worked(&worktree.path, true);
    rig.send(session).await;
    assert_eq!(rig.turn(|path| assert_worked(path, true)).await, worktree);
    // A new session gets a number of its own.
    assert!(rig.open().await > session);
}

#[tokio::test]
async fn deleted_projects_work_can_be_restored_and_is_kept_then() {
    let rig = Rig::new().await;
    let (session, worktree) = rig.worked().await;
    rig.sql("DELETE FROM millhand.projects WHERE name = 'acme'").await;
    rig.later().await;
    assert_eq!(rig.round().await, [Outcome::Trashed]);
    rig.much_later().await;
    assert_eq!(rig.round().await, [Outcome::Removed]);
    assert_eq!(rig.restore(session).await, "checkpoint");
    assert_worked(&worktree.path, false);
    let row = rig.row(session).await;
    assert_eq!((row.state.as_str(), row.kept, row.session_id), ("ready", true, None));
    rig.later().await;
    assert_eq!(rig.round().await, [], "it is kept");
    rig.store.ask_to_reap(&[row.id]).await.expect("ask");
    assert_eq!(rig.round().await, [Outcome::Trashed], "until somebody asks");
}

#[tokio::test]
async fn work_of_a_session_deleted_in_the_middle_of_its_first_turn_is_not_lost() {
    let rig = Rig::new().await;
    let session = rig.open().await;
    let (_claimed, _mirror, worktree) = rig.begin().await;
    work(&worktree.path);
    rig.sql(&format!("DELETE FROM millhand.sessions WHERE id = {session}")).await;
    rig.later().await;
    assert_eq!(rig.round().await, [Outcome::Trashed]);
    assert!(rig.row(session).await.unrecorded);
    assert_eq!(rig.restore(session).await, "trash");
    assert_worked(&worktree.path, true);
}

#[tokio::test]
async fn a_folder_that_the_database_does_not_know_is_shown_and_left_alone() {
    let rig = Rig::new().await;
    let (session, worktree) = rig.worked().await;
    // The home is pointed at a database that knows neither session nor project.
    rig.sql("DELETE FROM millhand.worktrees").await;
    rig.sql(&format!("DELETE FROM millhand.sessions WHERE id = {session}")).await;
    rig.later().await;
    assert_eq!(rig.round().await, []);
    assert_worked(&worktree.path, true);
    let unknown = rig.worktrees.unknown_folders().await.expect("folders");
    let paths: Vec<_> = unknown.into_iter().map(|folder| folder.path).collect();
    assert_eq!(paths, [worktree.path.display().to_string()]);
}

#[tokio::test]
async fn a_row_that_means_a_folder_of_another_home_is_left_alone() {
    let rig = Rig::new().await;
    let (session, worktree) = rig.worked().await;
    rig.close(session).await;
    rig.sql("UPDATE millhand.worktrees SET path = '/elsewhere/agents/1/worktrees/s1'").await;
    rig.later().await;
    assert!(matches!(&rig.round().await[..], [Outcome::Problem(why)] if why.contains("/elsewhere/")));
    assert_worked(&worktree.path, true);
    assert!(rig.row(session).await.problem.is_some_and(|problem| problem.contains("not in this home")));
    assert_eq!(rig.round().await, [], "not tried again at once");
}

#[tokio::test]
async fn closing_is_refused_while_a_task_is_open_and_a_closed_session_takes_none() {
    let rig = Rig::new().await;
    let session = rig.open().await;
    let refused = rig.store.close_session(session).await.expect_err("a task waits");
    assert!(refused.to_string().contains("open tasks") && refused.to_string().contains("cancel"), "{refused}");
    let (claimed, mirror, worktree) = rig.begin().await;
    assert!(rig.store.close_session(session).await.is_err(), "a task runs");
    rig.end(&claimed, &mirror, &worktree).await;
    assert!(rig.store.close_session(session).await.expect("close"));
    assert!(!rig.store.close_session(session).await.expect("idempotent"));
    let client = rig.db.client().await.expect("client");
    let sql = format!("INSERT INTO millhand.tasks (session_id, prompt) VALUES ({session}, 'x')");
    assert!(client.execute(&sql, &[]).await.is_err());
    assert!(client.query("SELECT millhand.close_session(999)", &[]).await.is_err(), "no such session");
}

#[tokio::test]
async fn a_task_and_the_closing_of_its_session_never_both_succeed() {
    let rig = Rig::new().await;
    for _ in 0..20 {
        let (session, _) = rig.worked().await;
        let (one, two) = (rig.db.client().await.expect("client"), rig.db.client().await.expect("client"));
        let insert = format!("INSERT INTO millhand.tasks (session_id, prompt) VALUES ({session}, 'x')");
        let close = format!("SELECT millhand.close_session({session})");
        let (inserted, closed) = tokio::join!(one.execute(&insert, &[]), two.execute(&close, &[]));
        assert!(inserted.is_ok() != closed.is_ok(), "{inserted:?} {closed:?}");
        rig.sql("DELETE FROM millhand.sessions").await;
    }
}

#[tokio::test]
async fn an_open_session_is_never_touched_however_long_it_is_idle() {
    let rig = Rig::new().await;
    let (session, worktree) = rig.worked().await;
    rig.sql("UPDATE millhand.worktrees SET last_used_at = now() - interval '1 year'").await;
    assert_eq!(rig.round().await, []);
    // A person may ask for it; then it comes back with the next turn.
    rig.store.ask_to_reap(&[rig.row(session).await.id]).await.expect("ask");
    assert_eq!(rig.round().await, [Outcome::Trashed]);
    rig.send(session).await;
    rig.turn(|path| assert_worked(path, true)).await;
    // But not while a task is in its way.
    rig.send(session).await;
    rig.store.ask_to_reap(&[rig.row(session).await.id]).await.expect("ask");
    assert!(matches!(&rig.round().await[..], [Outcome::Stays(_)]));
    assert_worked(&worktree.path, true);
    assert_eq!(rig.round().await, [], "it was answered, and is not asked for any more");
}

#[tokio::test]
async fn a_worktree_that_is_missing_is_recorded_as_gone_with_its_last_checkpoint() {
    let rig = Rig::new().await;
    let (session, worktree) = rig.worked().await;
    fs::remove_dir_all(&worktree.path).expect("remove");
    rig.close(session).await;
    rig.later().await;
    assert_eq!(rig.round().await, [Outcome::Removed]);
    assert_eq!(rig.restore(session).await, "checkpoint");
    assert_worked(&worktree.path, false);
    git(&worktree.path, &["diff", "--stat"]).expect("git works");
}
