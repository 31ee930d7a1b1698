//! The pool: a worktree that another session gets carries nothing of the one before.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use millhand::worktrees::Outcome;

use super::{Rig, assert_worked, git, names, work};

async fn pooled_rig(room: i32) -> Rig {
    let mut rig = Rig::new().await;
    rig.worktrees.settings.pool = room;
    rig
}

/// All that an agent could leave behind for the next one.
fn plant(path: &Path, outside: &Path) {
    work(path);
    fs::create_dir_all(path.join("ignored/node_modules")).expect("folder");
    fs::write(path.join("ignored/node_modules/evil.js"), "evil\n").expect("write");
    // Configuration, hooks, stashes and branches of its own.
    git(path, &["branch", "mine"]).expect("branch");
    fs::write(path.join("README.md"), "stashed\n").expect("write");
    git(path, &["stash"]).expect("stash");
    fs::write(path.join(".git/hooks/post-checkout"), "#!/bin/sh\ntouch ran\n").expect("hook");
    fs::set_permissions(path.join(".git/hooks/post-checkout"), fs::Permissions::from_mode(0o755)).expect("mode");
    // A tracked folder that leads outside, and a link to a folder outside.
    fs::remove_dir_all(path.join("src")).expect("remove");
    symlink(outside, path.join("src")).expect("link");
    symlink(outside, path.join("ignored/link")).expect("link");
    let monitor = format!("touch {}/never", outside.display());
    git(path, &["config", "core.fsmonitor", &monitor]).expect("config");
    // Folders that nobody may write or even read.
    for (name, mode) in [("read-only", 0o555), ("closed", 0o000)] {
        fs::create_dir(path.join(name)).expect("folder");
        fs::write(path.join(name).join("file"), "x\n").expect("write");
        fs::set_permissions(path.join(name), fs::Permissions::from_mode(mode)).expect("mode");
    }
}

fn assert_fresh(path: &Path, session: i64) {
    let found: Vec<_> = names(path).iter().map(|path| path.file_name().expect("name").to_owned()).collect();
    assert_eq!(found, [".git", ".gitignore", "README.md", "src"]);
    assert_eq!(fs::read_to_string(path.join("README.md")).expect("read"), "# acme\n");
    assert!(path.join("src").symlink_metadata().expect("src").is_dir());
    assert_eq!(names(&path.join("src")), [path.join("src/a.sh")]);
    let agent = |arguments: &[&str]| git(path, arguments).expect("git");
    assert_eq!(agent(&["status", "--porcelain", "--ignored"]), "");
    assert_eq!(agent(&["branch", "--show-current"]), format!("millhand/s{session}"));
    assert_eq!(agent(&["stash", "list"]), "");
    assert_eq!(agent(&["log", "--format=%s"]), "first");
    let branches = agent(&["branch", "--format=%(refname:short)"]);
    assert_eq!(branches, format!("main\nmillhand/s{session}"));
    assert!(!agent(&["config", "--list", "--local"]).contains("never"));
    assert_eq!(names(&path.join(".git/hooks")), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn a_pooled_worktree_carries_nothing_of_its_former_session() {
    let rig = pooled_rig(1).await;
    let outside = rig.worktrees.home.root().join("outside");
    fs::create_dir_all(&outside).expect("folder");
    fs::write(outside.join("precious"), "precious\n").expect("write");
    let one = rig.open().await;
    let worktree = rig.turn(|path| plant(path, &outside)).await;
    rig.close(one).await;
    rig.later().await;
    assert_eq!(rig.round().await, [Outcome::Pooled]);
    assert!(!worktree.path.exists());
    assert_eq!(names(&rig.worktrees.home.pool(1)).len(), 1);
    let ino = std::os::unix::fs::MetadataExt::ino(&fs::metadata(&names(&rig.worktrees.home.pool(1))[0]).expect("pool"));

    let two = rig.open().await;
    let given = rig.turn(|path| assert_fresh(path, two)).await;
    assert_eq!(std::os::unix::fs::MetadataExt::ino(&fs::metadata(&given.path).expect("folder")), ino, "it was reused");
    assert_eq!(names(&rig.worktrees.home.pool(1)).len(), 0);
    assert_eq!(rig.one::<i64>("SELECT count(*) FROM millhand.worktrees WHERE state = 'pooled'").await, 0);
    assert_eq!(fs::read_to_string(outside.join("precious")).expect("precious"), "precious\n");
    assert_eq!(names(&outside).len(), 1);

    // And the work of the first one is safe.
    assert_eq!(rig.restore(one).await, "checkpoint");
    assert_eq!(fs::read_to_string(worktree.path.join("new.txt")).expect("new"), "new\n");
}

#[tokio::test]
async fn a_pooled_worktree_is_brought_to_where_the_project_is_now() {
    let rig = pooled_rig(1).await;
    let (one, _) = rig.worked().await;
    rig.close(one).await;
    rig.later().await;
    assert_eq!(rig.round().await, [Outcome::Pooled]);
    let source = rig.worktrees.home.root().parent().expect("root").join("acme");
    fs::write(source.join("README.md"), "later\n").expect("write");
    git(&source, &["commit", "-qam", "later"]).expect("commit");
    rig.open().await;
    rig.turn(|path| {
        assert_eq!(fs::read_to_string(path.join("README.md")).expect("read"), "later\n");
        assert_eq!(git(path, &["status", "--porcelain", "--ignored"]).expect("status"), "");
    })
    .await;
}

#[tokio::test]
async fn the_pool_has_a_bound_and_takes_closed_sessions_only() {
    let rig = pooled_rig(1).await;
    let (one, _) = rig.worked().await;
    let (two, _) = rig.worked().await;
    let (three, _) = rig.worked().await;
    rig.close(one).await;
    rig.close(two).await;
    rig.sql(&format!("DELETE FROM millhand.sessions WHERE id = {three}")).await;
    rig.later().await;
    assert_eq!(rig.round().await, [Outcome::Pooled, Outcome::Trashed, Outcome::Trashed]);
    assert_eq!(rig.round().await, []);
    for session in [one, two, three] {
        rig.restore(session).await;
        assert_worked(&rig.worktrees.home.worktree(1, session), session != one);
    }
}

#[tokio::test]
async fn a_reopened_session_whose_worktree_was_pooled_is_built_again_from_its_checkpoint() {
    let rig = pooled_rig(1).await;
    let (one, worktree) = rig.worked().await;
    rig.close(one).await;
    rig.later().await;
    assert_eq!(rig.round().await, [Outcome::Pooled]);
    rig.store.reopen_session(one).await.expect("reopen");
    rig.send(one).await;
    assert_eq!(rig.turn(|path| assert_worked(path, false)).await, worktree);
    let two = rig.open().await;
    rig.turn(|path| assert_fresh(path, two)).await;
    assert_worked(&worktree.path, false);
}

#[tokio::test]
async fn what_cannot_be_reset_goes_to_the_trash_and_what_is_spoilt_in_the_pool_is_not_used() {
    let rig = pooled_rig(1).await;
    let (one, worktree) = rig.worked().await;
    // Its index is broken: nothing tells tracked files from others.
    fs::write(rig.worktrees.home.mirror(1).join(format!("worktrees/s{one}/index")), "broken").expect("write");
    rig.close(one).await;
    rig.later().await;
    let outcome = rig.round().await;
    assert!(matches!(&outcome[..], [Outcome::Problem(_) | Outcome::Trashed]), "{outcome:?}");
    assert_eq!(names(&rig.worktrees.home.pool(1)).len(), 0);
    rig.restore(one).await;
    assert_worked(&worktree.path, true);

    let (two, _) = rig.worked().await;
    rig.close(two).await;
    rig.later().await;
    assert_eq!(rig.round().await, [Outcome::Pooled]);
    fs::remove_dir_all(&names(&rig.worktrees.home.pool(1))[0]).expect("remove");
    let three = rig.open().await;
    rig.turn(|path| assert_fresh(path, three)).await;
    assert_eq!(rig.one::<i64>("SELECT count(*) FROM millhand.worktrees WHERE last_session_id IS NULL").await, 0);
}

#[tokio::test]
async fn a_reaper_killed_while_it_reset_a_worktree_is_finished_and_the_work_is_safe() {
    use millhand::model::worktree::Reason;
    for step in ["begun", "on its way", "half reset", "in the pool", "taken out of the pool"] {
        let rig = pooled_rig(1).await;
        let (one, worktree) = rig.worked().await;
        rig.close(one).await;
        rig.later().await;
        let row = rig.row(one).await;
        let reason = Reason::SessionClosed;
        assert!(rig.store.begin_reaping(row.id, reason, "p1-0123").await.expect("begin"));
        let git = &rig.worktrees.git;
        let mirror = git.mirror_with(1, &worktree.base_commit).await.expect("mirror").expect("mirror");
        let (kept, _) = git.checkpoint_before_reaping(&mirror, &worktree).await.expect("checkpoint");
        rig.store.confirm_reaping(row.id, reason, &kept.commit, false).await.expect("confirm");
        let base = millhand::git::Base { branch: None, commit: row.base_commit.clone() };
        let meta = mirror.path.join(format!("worktrees/s{one}"));
        match step {
            "begun" => {}
            "on its way" => {
                fs::remove_file(meta.join("millhand-ready")).expect("marker");
                fs::rename(&meta, mirror.path.join("worktrees/p1-0123")).expect("index");
            }
            "half reset" => {
                fs::remove_file(meta.join("millhand-ready")).expect("marker");
                fs::rename(&meta, mirror.path.join("worktrees/p1-0123")).expect("index");
                let pool = rig.worktrees.home.pool(1);
                fs::create_dir_all(&pool).expect("pool");
                fs::rename(&worktree.path, pool.join("p1-0123")).expect("folder");
                fs::remove_file(pool.join("p1-0123/new.txt")).expect("file");
            }
            _ => git.pool_worktree(&mirror, one, "p1-0123", &base, false).await.expect("pool"),
        }
        if step == "taken out of the pool" {
            let path = rig.worktrees.home.pool(1).join("p1-0123");
            rig.store.mark_pooled(row.id, &path.to_string_lossy()).await.expect("mark");
            let (pooled, _) = rig.store.pooled_worktrees(super::HOST, 1).await.expect("pooled").remove(0);
            assert!(rig.store.take_pooled(pooled).await.expect("take"));
        }
        rig.round().await;
        rig.later().await;
        rig.round().await;
        assert_eq!(
            rig.one::<i64>("SELECT count(*) FROM millhand.worktrees WHERE state = 'reaping'").await,
            0,
            "killed when {step}"
        );
        rig.restore(one).await;
        // Nothing was emptied yet where it was only on its way: it comes back from the trash.
        assert_worked(&worktree.path, step == "on its way");
        if step == "half reset" {
            let left = rig.trash().into_iter().find(|slot| slot.join("worktree/ignored/cache").exists());
            assert!(left.is_some(), "what was not emptied yet is in the trash");
        }
        let two = rig.open().await;
        rig.turn(|path| assert_fresh(path, two)).await;
    }
}

#[tokio::test]
async fn sessions_that_begin_at_once_share_no_pooled_worktree() {
    let rig = pooled_rig(2).await;
    for _ in 0..2 {
        let (session, _) = rig.worked().await;
        rig.close(session).await;
    }
    rig.later().await;
    assert_eq!(rig.round().await, [Outcome::Pooled, Outcome::Pooled]);
    for _ in 0..4 {
        rig.open().await;
    }
    let turn = async || {
        let (_, _, worktree) = rig.begin().await;
        assert_fresh(&worktree.path, worktree.session_id);
        fs::write(worktree.path.join("mine"), worktree.session_id.to_string()).expect("write");
        worktree
    };
    let (one, two, three, four) = tokio::join!(turn(), turn(), turn(), turn());
    for worktree in [one, two, three, four] {
        let mine = fs::read_to_string(worktree.path.join("mine")).expect("mine");
        assert_eq!(mine, worktree.session_id.to_string());
    }
    assert_eq!(names(&rig.worktrees.home.pool(1)).len(), 0);
}

#[tokio::test]
async fn what_a_checkpoint_does_not_hold_goes_to_the_trash_and_not_to_the_pool() {
    let rig = pooled_rig(5).await;
    // A repository in the repository: its history is in no checkpoint.
    let one = rig.open().await;
    let nested = rig
        .turn(|path| {
            work(path);
            fs::create_dir(path.join("nested")).expect("folder");
            git(&path.join("nested"), &["init", "-q"]).expect("init");
            fs::write(path.join("nested/file"), "nested\n").expect("write");
        })
        .await;
    // What came after the last turn.
    let (two, late) = rig.worked().await;
    fs::write(late.path.join("late.txt"), "late\n").expect("write");
    let (three, _) = rig.worked().await;
    for session in [one, two, three] {
        rig.close(session).await;
    }
    rig.later().await;
    assert_eq!(rig.round().await, [Outcome::Trashed, Outcome::Trashed, Outcome::Pooled]);
    for session in [one, two] {
        assert_eq!(rig.restore(session).await, "trash");
    }
    assert_worked(&nested.path, true);
    assert!(nested.path.join("nested/.git/HEAD").exists());
    assert_worked(&late.path, true);
}

#[tokio::test]
async fn a_session_that_is_restored_does_not_touch_the_pooled_folder_that_was_its_own() {
    let rig = pooled_rig(1).await;
    let (one, worktree) = rig.worked().await;
    rig.close(one).await;
    rig.later().await;
    assert_eq!(rig.round().await, [Outcome::Pooled]);
    assert_eq!(rig.row(one).await.slot, None);
    // As an older version recorded it.
    let slot = "(SELECT slot FROM millhand.worktrees WHERE state = 'pooled')";
    rig.sql(&format!("UPDATE millhand.worktrees SET slot = {slot} WHERE state = 'gone'")).await;
    assert_eq!(rig.restore(one).await, "checkpoint");
    assert_worked(&worktree.path, false);
    assert_eq!(names(&rig.worktrees.home.pool(1)).len(), 1, "it may be taken by another session at this moment");
    let two = rig.open().await;
    rig.turn(|path| assert_fresh(path, two)).await;
}
