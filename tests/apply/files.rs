//! Some files now, the others later or never; and what the session is measured against afterwards.

use std::fs;

use millhand::{
    actions::reject_changes,
    model::ids::{AnyId, SessionId},
};

use super::{Rig, only, request, work, write};
use crate::support::world::git;

#[tokio::test]
async fn what_is_left_over_is_what_the_next_turns_changes_are() {
    let rig = Rig::new().await;
    let session = rig.session(work).await;
    rig.commit("src/a.sh", "echo theirs\n");
    fs::create_dir_all(rig.worktree(session).join("ignored")).expect("folder");
    write(&rig.worktree(session), "ignored/cache", "cache\n");
    let applied = rig.try_apply(session, &only(&["README.md", "docs/c.md"])).await.expect("two files");
    assert_eq!(applied.not_rebased, None);
    assert_eq!(applied.set.state, "open");
    assert_eq!(rig.user(&["show", "--stat", "--format=", "--name-status", "main"]), "M\tREADME.md\nD\tdocs/c.md");
    let states = rig.decided(session).await;
    let of = |path: &str| states.iter().find(|(found, _)| found == path).expect("path").1.clone();
    assert_eq!(
        (of("README.md"), of("docs/c.md"), of("new/file.txt")),
        ("applied".into(), "applied".into(), "pending".into())
    );

    let worktree = rig.worktree(session);
    assert_eq!(
        fs::read_to_string(worktree.join("src/a.sh")).expect("read"),
        "echo theirs\n",
        "what the user did is there"
    );
    assert_eq!(fs::read_to_string(worktree.join("ignored/cache")).expect("read"), "cache\n", "ignored files stay");
    let status = git(&worktree, &["status", "--porcelain"]).expect("the agent's repository works");
    assert_eq!(status, "D src/b.txt\n?? new/\n?? src/moved.txt", "on top of the new commit");
    rig.send(session, |path| write(path, "later.txt", "later\n")).await;
    let paths: Vec<_> = rig.decided(session).await.into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths, ["later.txt", "new/file.txt", "src/moved.txt"]);
    rig.apply(session).await;
    assert_eq!(rig.user(&["status", "--porcelain"]), "");
    rig.send(session, |path| write(path, "last.txt", "last\n")).await;
    assert_eq!(rig.decided(session).await, [("last.txt".to_owned(), "pending".to_owned())]);
}

#[tokio::test]
async fn files_of_one_change_set_can_be_taken_one_after_another() {
    let rig = Rig::new().await;
    let session = rig.session(work).await;
    let (_, _, tree) = rig.open_set(session).await;
    for path in ["new/file.txt", "src", "README.md", "docs"] {
        rig.try_apply(session, &only(&[path])).await.expect(path);
    }
    assert_eq!(rig.user(&["rev-parse", "main^{tree}"]), tree, "all of them together are the whole");
    assert_eq!(rig.open_set(session).await.1, "applied");
    assert_eq!(rig.user(&["rev-list", "--count", "main"]), "5");
}

#[tokio::test]
async fn a_file_that_becomes_a_folder_is_taken_whole_or_not() {
    let rig = Rig::new().await;
    let session = rig
        .session(|path| {
            fs::remove_file(path.join("src/b.txt")).expect("remove");
            write(path, "src/b.txt/now", "a folder\n");
            fs::remove_dir_all(path.join("docs")).expect("remove");
            write(path, "docs", "a file\n");
        })
        .await;
    let why = rig.refusal(session, &only(&["src/b.txt/now"])).await;
    assert!(why.contains("take both changes together"), "{why}");
    let (_, _, tree) = rig.open_set(session).await;
    rig.apply(session).await;
    assert_eq!(rig.user(&["rev-parse", "main^{tree}"]), tree);
    assert_eq!(rig.user(&["status", "--porcelain"]), "");
    assert_eq!(rig.read("docs").as_deref(), Some("a file\n"));
}

#[tokio::test]
async fn what_is_rejected_is_not_applied_and_the_work_stays() {
    let rig = Rig::new().await;
    let session = rig.session(work).await;
    let id = AnyId::Session(SessionId(session));
    let (set, paths) = reject_changes(&rig.store, id, &["new".to_owned()], None, "ada").await.expect("reject");
    assert_eq!((set.state.as_str(), paths), ("open", vec!["new/file.txt".to_owned()]));
    rig.apply(session).await;
    assert_eq!(rig.read("new/file.txt"), None);
    assert_eq!(rig.open_set(session).await.1, "applied");
    assert_eq!(fs::read_to_string(rig.worktree(session).join("new/file.txt")).expect("read"), "new\n");
    let row = &rig
        .sql("SELECT decided_by, decided_at IS NOT NULL FROM millhand.pending_changes WHERE state = 'rejected'")
        .await[0];
    assert_eq!((row.get::<_, String>(0), row.get::<_, bool>(1)), ("ada".to_owned(), true));

    let other = rig.session(|path| write(path, "x", "x\n")).await;
    let rejected: i64 = rig
        .one(&format!("SELECT millhand.reject_changes(id) FROM millhand.change_sets WHERE session_id = {other}"))
        .await;
    assert_eq!(rejected, 1, "by plain SQL");
    assert_eq!(rig.open_set(other).await.1, "rejected");
    assert!(rig.refusal(other, &request()).await.contains("rejected already"));
}

#[tokio::test]
async fn while_a_turn_runs_the_session_keeps_its_base_and_moves_later() {
    let rig = Rig::new().await;
    let session = rig.session(work).await;
    rig.sql(&format!("INSERT INTO millhand.tasks (session_id, prompt) VALUES ({session}, 'and then')")).await;
    let (claimed, mirror, worktree) = rig.begin().await;
    let applied = rig.try_apply(session, &only(&["README.md"])).await.expect("apply");
    assert!(applied.not_rebased.is_some_and(|why| why.contains("a turn runs")));
    write(&worktree.path, "later.txt", "later\n");
    rig.end(&claimed, &mirror, &worktree).await;
    assert_eq!(rig.open_set(session).await.1, "open");
    let (_, _, tree) = rig.open_set(session).await;
    // What the target has already is no conflict, and the base catches up.
    rig.apply(session).await;
    assert_eq!(rig.user(&["rev-parse", "main^{tree}"]), tree);
    assert_eq!(rig.one::<i64>("SELECT count(*) FROM millhand.applies WHERE state <> 'done'").await, 0);
    assert_eq!(git(&rig.worktree(session), &["status", "--porcelain"]).expect("status"), "");
}

#[tokio::test]
async fn a_worktree_that_cannot_be_moved_stays_as_it_is() {
    let rig = Rig::new().await;
    let session = rig.session(work).await;
    // What is not applied conflicts with what the user did.
    rig.commit("README.md", "# acme\none\ntwo\nthree\nfour\nfive\nsix, mine\n");
    let applied = rig.try_apply(session, &only(&["new"])).await.expect("apply");
    assert!(applied.not_rebased.is_some_and(|why| why.contains("README.md")));
    let readme = fs::read_to_string(rig.worktree(session).join("README.md")).expect("read");
    assert!(readme.ends_with("SIX\n"), "{readme}");
    rig.send(session, |path| write(path, "later.txt", "later\n")).await;
    rig.try_apply(session, &only(&["later.txt"])).await.expect("apply");
}
