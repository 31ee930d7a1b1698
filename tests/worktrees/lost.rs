//! What the mirror or the database does not know any more is moved aside or taken up, and never removed.

use std::fs;

use millhand::{
    git::GateOf,
    model::worktree::Reason,
    worktrees::{Outcome, Taking},
};

use super::{HOST, Rig, assert_worked, git, work};

#[tokio::test]
async fn a_session_whose_mirror_was_removed_goes_on_with_its_files() {
    let rig = Rig::new().await;
    let (session, worktree) = rig.worked().await;
    fs::remove_dir_all(rig.worktrees.home.mirror(1)).expect("remove");
    rig.send(session).await;
    assert_eq!(rig.turn(|path| assert_worked(path, true)).await, worktree);
    assert_eq!(rig.trash().len(), 0);
}

#[tokio::test]
async fn a_session_of_a_new_database_gets_nothing_of_the_one_that_had_its_number() {
    let rig = Rig::new().await;
    let (session, worktree) = rig.worked().await;
    let mirror = rig.worktrees.home.mirror(1);
    let old = git(&mirror, &["for-each-ref", "--format=%(objectname)", "refs/millhand/sessions/1/"]).expect("refs");
    rig.sql("DELETE FROM millhand.worktrees").await;
    rig.sql("DELETE FROM millhand.sessions").await;
    rig.sql("ALTER TABLE millhand.sessions ALTER id RESTART WITH 1").await;
    assert_eq!(rig.open().await, session);
    let again = rig
        .turn(|path| {
            assert!(!path.join("new.txt").exists() && !path.join("ignored").exists());
            assert_eq!(git(path, &["status", "--porcelain"]).expect("status"), "");
        })
        .await;
    assert_eq!(again.path, worktree.path);
    assert_eq!(rig.trash().len(), 1);
    assert_worked(&rig.trash()[0].join("worktree"), true);
    let aside = git(&mirror, &["for-each-ref", "--format=%(objectname) %(refname)", "refs/millhand/aside/"]);
    let aside = aside.expect("refs");
    assert!(aside.contains(&old) && aside.contains("/sessions/1/"), "{aside}");
}

#[tokio::test]
async fn a_session_whose_worktree_is_not_whole_goes_on_from_its_last_checkpoint() {
    for with_row in [true, false] {
        let rig = Rig::new().await;
        let (session, worktree) = rig.worked().await;
        fs::remove_file(rig.worktrees.home.mirror(1).join("worktrees/s1/millhand-ready")).expect("marker");
        if !with_row {
            rig.sql("DELETE FROM millhand.worktrees").await;
        }
        rig.send(session).await;
        assert_eq!(rig.turn(|path| assert_worked(path, false)).await, worktree);
        assert_worked(&rig.trash()[0].join("worktree"), true);
    }
}

#[tokio::test]
async fn a_lost_worktree_in_the_trash_is_rebuilt_from_the_last_turn() {
    let rig = Rig::new().await;
    let (session, worktree) = rig.worked().await;
    // Gone, and nobody recorded a checkpoint before.
    rig.sql("UPDATE millhand.worktrees SET state = 'gone', checkpoint = NULL").await;
    fs::remove_dir_all(&worktree.path).expect("remove");
    fs::remove_dir_all(rig.worktrees.home.mirror(1).join("worktrees/s1")).expect("remove");
    rig.send(session).await;
    rig.turn(|path| assert_worked(path, false)).await;
}

#[tokio::test]
async fn a_session_is_recorded_with_the_base_that_its_worktree_has() {
    let rig = Rig::new().await;
    let session = rig.open().await;
    let claimed = rig.claim().await;
    let (mirror, base) = rig.mirror(&claimed).await;
    // Killed between the worktree and its record; the branch has moved meanwhile.
    let path = rig.worktrees.home.worktree(1, session);
    let path = path.to_str().expect("path");
    let begun = rig.store.begin_worktree(claimed.token, HOST, path, "millhand/s1", &base.commit).await;
    assert!(begun.expect("begin").is_some_and(|begun| begun.is_new && !begun.has_base));
    rig.worktrees.git.create_worktree(&mirror, session, &base).await.expect("worktree");
    let source = rig.worktrees.home.root().parent().expect("root").join("acme");
    fs::write(source.join("README.md"), "later\n").expect("write");
    git(&source, &["commit", "-qam", "later"]).expect("commit");
    let (mirror, later) = rig.mirror(&claimed).await;
    assert_ne!(later.commit, base.commit);
    let taking = Taking { token: claimed.token, session_id: session };
    let worktree = rig.worktrees.take(taking, &mirror, &later).await.expect("worktree");
    assert_eq!(worktree.base_commit, base.commit);
    assert_eq!(rig.one::<String>("SELECT base_commit FROM millhand.sessions").await, base.commit);
    assert_eq!(rig.row(session).await.base_commit, base.commit);
}

#[tokio::test]
async fn a_cancelled_turn_holds_the_gate_until_its_worktree_is_whole() {
    let rig = Rig::new().await;
    let session = rig.open().await;
    let claimed = rig.claim().await;
    let (mirror, base) = rig.mirror(&claimed).await;
    let git = &rig.worktrees.git;
    let taking = Taking { token: claimed.token, session_id: session };
    tokio::select! {
        taken = rig.worktrees.take(taking, &mirror, &base) => panic!("it was not cancelled: {taken:?}"),
        () = async {
            while git.try_gate(GateOf::Session(session)).await.expect("gate").is_some() {
                tokio::task::yield_now().await;
            }
        } => {}
    }
    let _gate = git.gate(GateOf::Session(session)).await.expect("gate");
    assert!(git.is_whole(&mirror, session).await.expect("look"));
    assert_eq!(rig.row(session).await.base_commit, base.commit);
}

#[tokio::test]
async fn a_session_closed_by_hand_under_a_turn_is_reaped_after_it() {
    let rig = Rig::new().await;
    let session = rig.open().await;
    let claimed = rig.claim().await;
    let (mirror, base) = rig.mirror(&claimed).await;
    rig.sql("UPDATE millhand.sessions SET state = 'closed'").await;
    let taking = Taking { token: claimed.token, session_id: session };
    let worktree = rig.worktrees.take(taking, &mirror, &base).await.expect("worktree");
    work(&worktree.path);
    rig.end(&claimed, &mirror, &worktree).await;
    rig.later().await;
    assert_eq!(rig.round().await, [Outcome::Trashed]);
}

#[tokio::test]
async fn closed_sessions_that_have_to_stay_do_not_keep_others_from_going() {
    let rig = Rig::new().await;
    // More than are looked at together, each closed by hand with a task that needs a person.
    rig.sql(
        "WITH opened AS (INSERT INTO millhand.sessions (project) SELECT 'acme' FROM generate_series(1, 250) RETURNING id), \
         rows AS (INSERT INTO millhand.worktrees (session_id, last_session_id, project, project_id, host_id, path, branch, base_commit, \
         state, let_go_at, measured_at) SELECT id, id, 'acme', 1, 'h', '/nowhere/s' || id, 'b', repeat('ab', 20), 'ready', now(), now() \
         FROM opened) INSERT INTO millhand.tasks (session_id, prompt) SELECT id, 'x' FROM opened",
    )
    .await;
    rig.sql("UPDATE millhand.tasks SET state = 'blocked', finished_at = now(), lane = NULL").await;
    rig.sql(&format!("UPDATE millhand.worktrees SET host_id = '{HOST}'")).await;
    let (session, _) = rig.worked().await;
    rig.sql("UPDATE millhand.sessions SET state = 'closed'").await;
    rig.later().await;
    let outcomes: Vec<_> = [rig.round().await, rig.round().await].concat();
    assert!(outcomes.contains(&Outcome::Trashed), "{}", outcomes.len());
    assert_eq!(rig.row(session).await.state, "trashed");
    assert_eq!(rig.round().await, [], "and are not looked at in every round");
}

#[tokio::test]
async fn what_was_restored_to_be_kept_is_not_reaped_by_a_round_under_way() {
    let rig = Rig::new().await;
    let (session, worktree) = rig.worked().await;
    rig.sql("DELETE FROM millhand.projects WHERE name = 'acme'").await;
    rig.later().await;
    // A round has looked at it; it is restored before the round gets to it.
    let row = rig.row(session).await;
    assert_eq!(rig.restore(session).await, "place");
    assert!(matches!(rig.worktrees.reap(&row, None).await.expect("reap"), Outcome::Stays(_)));
    assert_worked(&worktree.path, true);
    let id = rig.row(session).await.id;
    assert!(!rig.store.begin_reaping(id, Reason::SessionDeleted, "s1-0123").await.expect("begin"));
    assert!(rig.store.begin_reaping(id, Reason::Asked, "s1-0123").await.expect("begin"));
}

#[tokio::test]
async fn trash_is_emptied_without_a_mirror_too() {
    let rig = Rig::new().await;
    let (session, _) = rig.worked().await;
    rig.close(session).await;
    rig.later().await;
    assert_eq!(rig.round().await, [Outcome::Trashed]);
    fs::remove_dir_all(rig.worktrees.home.mirror(1)).expect("remove");
    rig.much_later().await;
    assert_eq!(rig.round().await, [Outcome::Removed]);
    assert_eq!(rig.trash().len(), 0);
}
