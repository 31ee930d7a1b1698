//! The quota of a project: the largest that nobody uses go first, and nothing is lost.

use std::fs;

use millhand::worktrees::Outcome;

use super::{Rig, assert_worked, work};

const MEGABYTE: usize = 1_000_000;

async fn of_size(rig: &Rig, megabytes: usize) -> i64 {
    let session = rig.open().await;
    rig.turn(|path| {
        work(path);
        fs::write(path.join("ignored/large"), vec![b'x'; megabytes * MEGABYTE]).expect("write");
    })
    .await;
    session
}

#[tokio::test]
async fn over_quota_the_largest_idle_worktree_goes_first_and_comes_back_with_its_next_turn() {
    let mut rig = Rig::new().await;
    let small = of_size(&rig, 2).await;
    let large = of_size(&rig, 8).await;
    let in_use = rig.open().await;
    let (_claimed, _mirror, worktree) = rig.begin().await;
    fs::write(worktree.path.join("huge"), vec![b'x'; 20 * MEGABYTE]).expect("write");
    assert_eq!(rig.round().await, [], "without a quota nothing goes, but all is measured");
    let bytes = rig.row(large).await.bytes.expect("measured");
    assert!((8_000_000..9_000_000).contains(&bytes), "{bytes}");
    assert_eq!(rig.row(in_use).await.bytes, None, "what is in use is not measured");

    rig.worktrees.settings.quota = Some(9 * 1_000_000);
    assert_eq!(rig.round().await, [], "just used");
    rig.later().await;
    assert_eq!(rig.round().await, [Outcome::Trashed]);
    assert_eq!((rig.row(large).await.state, rig.row(small).await.state), ("trashed".to_owned(), "ready".to_owned()));
    assert_eq!(rig.round().await, [], "room is promised");
    // While it is in the trash it comes back whole.
    rig.send(large).await;
    rig.turn(|path| assert_worked(path, true)).await;

    rig.later().await;
    assert_eq!(rig.round().await, [Outcome::Trashed]);
    rig.later().await;
    assert_eq!(
        rig.round().await,
        [Outcome::Removed],
        "its grace in the trash is over, and its checkpoint has its work"
    );
    assert_eq!(rig.row(large).await.state, "gone");
    assert_eq!(rig.round().await, []);
    rig.send(large).await;
    rig.turn(|path| assert_worked(path, false)).await;
    assert!(worktree.path.join("huge").exists());
}

#[tokio::test]
async fn measuring_is_bounded() {
    let rig = Rig::new().await;
    let (_, worktree) = rig.worked().await;
    for folder in 0..10 {
        let folder = worktree.path.join(format!("ignored/{folder}"));
        fs::create_dir_all(&folder).expect("folder");
        for file in 0..50 {
            fs::write(folder.join(file.to_string()), "x").expect("write");
        }
    }
    let git = &rig.worktrees.git;
    let insert = "INSERT INTO millhand.worktrees (last_session_id, project, project_id, host_id, path, branch, base_commit, state) \
                  SELECT n, 'acme', 1, $1, '/nowhere/s' || n, 'b', repeat('ab', 20), 'ready' FROM generate_series(1001, 1100) n";
    rig.db.client().await.expect("client").execute(insert, &[&super::HOST]).await.expect("insert");
    rig.round().await;
    let unmeasured = "SELECT count(*) FROM millhand.worktrees WHERE measured_at IS NULL";
    assert_eq!(rig.one::<i64>(unmeasured).await, 0, "many small ones in one round");
    let whole = git.disk_use(&worktree.path, 100_000).await.expect("measure");
    assert!(!whole.at_least && whole.entries > 500, "{whole:?}");
    let part = git.disk_use(&worktree.path, 100).await.expect("measure");
    assert!(part.at_least && part.entries <= 100 && part.bytes < whole.bytes, "{part:?}");
}

#[tokio::test]
async fn without_grace_what_was_moved_aside_to_make_room_keeps_its_own() {
    let mut rig = Rig::new().await;
    let session = of_size(&rig, 8).await;
    rig.round().await;
    rig.worktrees.settings.quota = Some(1_000_000);
    rig.later().await;
    assert_eq!(rig.round().await, [Outcome::Trashed]);
    let plan = rig.worktrees.plan(None, false, true).await.expect("plan");
    for one in plan {
        let outcome = rig.worktrees.reap(&one.row, None).await.expect("reap");
        assert!(matches!(outcome, Outcome::Stays(_)), "{outcome:?}");
    }
    assert_eq!(rig.restore(session).await, "trash");
    // One that is closed goes at once.
    rig.worktrees.settings.quota = None;
    rig.close(session).await;
    let plan = rig.worktrees.plan(None, false, true).await.expect("plan");
    assert_eq!(rig.worktrees.reap(&plan[0].row, None).await.expect("reap"), Outcome::Trashed);
}
