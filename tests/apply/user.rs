//! The user's repository: what an apply writes there, and what keeps it from it.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
};

use millhand::{
    actions::{ActionError, Target},
    git::Step,
    model::ids::{AnyId, SessionId},
};

use super::{FILES, Rig, only, request, work, write};
use crate::support::world::git;

#[tokio::test]
async fn the_whole_change_set_becomes_one_commit_with_the_checkpoints_tree() {
    let rig = Rig::new().await;
    let before = rig.user(&["rev-parse", "main"]);
    let session = rig.session(work).await;
    let (_, _, tree) = rig.open_set(session).await;
    let applied = rig.apply(session).await;
    let commit = applied.commit.expect("a commit");
    assert_eq!(rig.user(&["rev-parse", "main"]), commit);
    assert_eq!(rig.user(&["rev-parse", "main^{tree}"]), tree, "the identical tree");
    assert_eq!(rig.user(&["rev-parse", "main^"]), before, "one commit on top");
    assert_eq!(rig.user(&["status", "--porcelain"]), "", "files and index are the commit's");
    assert_eq!(rig.read("new/file.txt").as_deref(), Some("new\n"));
    assert!(!rig.source().join("docs").exists(), "an empty folder goes, as with git");
    let said = rig.user(&["log", "-1", "--format=%an <%ae>|%cn|%B"]);
    assert_eq!(said, "Ada <ada@example.org>|Ada|Do it\n\nMillhand-Session: s1\nMillhand-Task: t1");
    assert_eq!(applied.set.state, "applied");
    assert_eq!(applied.worktree.as_deref(), Some(format!("{}/", rig.source().display()).as_str()));
    assert_eq!(applied.not_rebased, None);
    let row = &rig.sql("SELECT decided_by, state FROM millhand.pending_changes").await[0];
    assert_eq!((row.get::<_, String>(0), row.get::<_, String>(1)), ("ada".to_owned(), "applied".to_owned()));
    let audited: i64 =
        rig.one("SELECT count(*) FROM millhand.audit_log WHERE action = 'apply' AND details->>'by' = 'ada'").await;
    assert_eq!(audited, 1);
    let why = rig.refusal(session, &request()).await;
    assert!(why.contains("applied already"), "{why}");
}

#[tokio::test]
async fn it_is_merged_with_what_the_branch_has_by_now_and_the_users_own_changes_stay() {
    let rig = Rig::new().await;
    let session = rig.session(work).await;
    let tip = rig.commit("README.md", "# ACME\none\ntwo\nthree\nfour\nfive\nsix\n");
    rig.write("src/a.sh", "echo mine\n");
    rig.write("untracked", "mine\n");
    rig.apply(session).await;
    assert_eq!(rig.user(&["rev-parse", "main^"]), tip);
    assert_eq!(rig.read("README.md").as_deref(), Some("# ACME\none\ntwo\nthree\nfour\nfive\nSIX\n"));
    assert_eq!(rig.read("src/a.sh").as_deref(), Some("echo mine\n"));
    assert_eq!(rig.user(&["status", "--porcelain"]), "M src/a.sh\n?? untracked");
}

#[tokio::test]
async fn conflicts_are_listed_and_nothing_is_half_done() {
    let rig = Rig::new().await;
    let session = rig.session(work).await;
    rig.commit("README.md", "# acme\none\ntwo\nthree\nfour\nfive\nsix and a half\n");
    let before = rig.everything().await;
    let Err(ActionError::Conflicts { branch, conflicts, .. }) = rig.try_apply(session, &request()).await else {
        panic!("conflicts")
    };
    assert_eq!((branch.as_str(), conflicts.len(), conflicts[0].path.as_str()), ("main", 1, "README.md"));
    assert!(conflicts[0].message.contains("Merge conflict"), "{conflicts:?}");
    assert_eq!(rig.everything().await, before);
    rig.try_apply(session, &only(&["new", "docs"])).await.expect("what does not conflict");
    assert_eq!(rig.read("new/file.txt").as_deref(), Some("new\n"));
}

#[tokio::test]
async fn what_is_the_users_is_never_overwritten() {
    let rig = Rig::new().await;
    let session = rig
        .session(|path| {
            work(path);
            write(path, "made/deep", "made\n");
            git(path, &["add", "-f", "made"]).expect("add");
        })
        .await;
    rig.write("README.md", "# mine\n");
    assert!(rig.refusal(session, &request()).await.contains("changes of yours"));
    rig.user(&["add", "README.md"]);
    assert!(rig.refusal(session, &request()).await.contains("changes of yours"), "staged");
    rig.user(&["reset", "-q", "--hard"]);
    rig.write("new/file.txt", "mine\n");
    assert!(rig.refusal(session, &request()).await.contains("new/file.txt is there already"));
    rig.user(&["clean", "-qfdx"]);
    fs::write(rig.source().join(".git/info/exclude"), "made\nnew\n").expect("exclude");
    rig.write("new", "an ignored file where a folder is to be\n");
    assert!(
        rig.refusal(session, &request()).await.contains("new is there already"),
        "git would overwrite what is ignored"
    );
    fs::remove_file(rig.source().join("new")).expect("remove");
    fs::create_dir(rig.root.join("elsewhere")).expect("folder");
    symlink(rig.root.join("elsewhere"), rig.source().join("made")).expect("link");
    assert!(
        rig.refusal(session, &request()).await.contains("made is there already"),
        "nothing is written through a link"
    );
    fs::remove_file(rig.source().join("made")).expect("remove");
    // Only touched, and read-only: no reason to refuse.
    rig.write("README.md", FILES[0].1);
    rig.apply(session).await;
    assert_eq!(fs::read_dir(rig.root.join("elsewhere")).expect("list").count(), 0);
}

#[tokio::test]
async fn a_branch_in_the_middle_of_something_is_left_alone() {
    let rig = Rig::new().await;
    let session = rig.session(work).await;
    rig.user(&["checkout", "-qb", "other"]);
    rig.commit("src/a.sh", "echo other\n");
    rig.user(&["checkout", "-q", "main"]);
    rig.commit("src/a.sh", "echo main\n");
    assert!(git(&rig.source(), &["merge", "other"]).is_err());
    assert!(rig.refusal(session, &request()).await.contains("in the middle of a merge"));
    fs::remove_file(rig.source().join(".git/MERGE_HEAD")).expect("forget the merge");
    assert!(rig.refusal(session, &request()).await.contains("unmerged"));
    rig.user(&["reset", "-q", "--hard"]);
    assert!(git(&rig.source(), &["rebase", "other"]).is_err());
    assert!(rig.refusal(session, &request()).await.contains("in the middle of a rebase"), "its HEAD is detached");
    rig.user(&["rebase", "--abort"]);
    rig.user(&["bisect", "start"]);
    assert!(rig.refusal(session, &request()).await.contains("in the middle of a bisect"));
    rig.user(&["bisect", "reset"]);
    rig.apply(session).await;
}

#[tokio::test]
async fn a_lock_is_waited_for_and_never_removed() {
    let rig = Rig::new().await;
    let session = rig.session(work).await;
    for lock in [".git/index.lock", ".git/refs/heads/main.lock"] {
        let lock = rig.source().join(lock);
        fs::write(&lock, "").expect("lock");
        let why = match rig.try_apply(session, &request()).await {
            Err(error) => error.to_string(),
            Ok(applied) => panic!("{applied:?}"),
        };
        assert!(why.contains("lock"), "{why}");
        assert!(lock.exists());
        fs::remove_file(&lock).expect("unlock");
        assert_eq!(rig.user(&["status", "--porcelain"]), "");
    }
    let lock = rig.source().join(".git/index.lock");
    fs::write(&lock, "").expect("lock");
    // It is let go while the apply waits for it, at the next lock too.
    let waited = std::sync::atomic::AtomicUsize::new(0);
    let unlock = |step| {
        if step == Step::Waiting {
            waited.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            fs::remove_file(&lock).expect("unlock");
        }
    };
    let applied = rig.applier.apply(AnyId::Session(SessionId(session)), &request(), &unlock).await;
    applied.expect("after the lock");
    assert_eq!(waited.into_inner(), 1, "it did wait");
}

/// What is saved, or comes to be there, between the look and the writing is nobody's to take away.
#[tokio::test]
async fn what_the_user_saves_while_the_branch_moves_is_kept() {
    let rig = Rig::new().await;
    let session = rig.session(work).await;
    let before = rig.user(&["rev-parse", "main"]);
    let source = rig.source();
    let saves = |step| {
        if step == Step::Moved {
            write(&source, "README.md", "# saved a moment ago\n");
            write(&source, "new/file.txt", "made a moment ago\n");
        }
    };
    let refused = rig.applier.apply(AnyId::Session(SessionId(session)), &request(), &saves).await;
    let why = refused.expect_err("it cannot be written").to_string();
    assert!(why.contains("README.md") && why.contains("new/file.txt"), "{why}");
    assert_eq!(rig.read("README.md").as_deref(), Some("# saved a moment ago\n"));
    assert_eq!(rig.read("new/file.txt").as_deref(), Some("made a moment ago\n"));
    assert_eq!(rig.user(&["rev-parse", "main"]), before);
    assert_eq!(rig.user(&["status", "--porcelain"]), "M README.md\n?? new/");
    rig.user(&["checkout", "-q", "--", "README.md"]);
    fs::remove_dir_all(rig.source().join("new")).expect("remove");
    rig.apply(session).await;
}

#[tokio::test]
async fn a_branch_by_another_name_is_found_where_it_is_checked_out() {
    let rig = Rig::new().await;
    let session = rig.session(work).await;
    rig.user(&["symbolic-ref", "refs/heads/alias", "refs/heads/main"]);
    let mut to = request();
    to.target = Target::Branch("alias".to_owned());
    let applied = rig.try_apply(session, &to).await.expect("applied");
    assert!(applied.worktree.is_some());
    assert_eq!(rig.user(&["status", "--porcelain"]), "");
    assert_eq!(rig.read("new/file.txt").as_deref(), Some("new\n"));
}

#[tokio::test]
async fn hooks_do_not_run_and_line_ends_are_the_users() {
    let rig = Rig::new().await;
    for hook in
        ["post-checkout", "reference-transaction", "post-merge", "pre-commit", "post-index-change", "post-commit"]
    {
        let path = rig.source().join(".git/hooks").join(hook);
        fs::create_dir_all(path.parent().expect("hooks")).expect("hooks");
        fs::write(&path, format!("#!/bin/sh\ntouch {}/ran\n", rig.root.display())).expect("hook");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("hook");
    }
    let session = rig.session(work).await;
    fs::write(rig.root.join("user/.gitconfig"), "[core]\n\tautocrlf = true\n").expect("config");
    rig.apply(session).await;
    assert!(!rig.root.join("ran").exists());
    assert_eq!(rig.read("new/file.txt").as_deref(), Some("new\r\n"), "as the user's own git would write it");
    assert_eq!(rig.user(&["-c", "core.autocrlf=true", "status", "--porcelain"]), "");
    assert_eq!(rig.user(&["show", "main:new/file.txt"]), "new");
}

#[tokio::test]
async fn branches_elsewhere_bare_and_unborn_repositories_take_changes_too() {
    // The branch is in a linked worktree.
    let rig = Rig::new().await;
    let session = rig.session(work).await;
    rig.user(&["checkout", "-qb", "other"]);
    rig.user(&["worktree", "add", "-q", "../linked", "main"]);
    let applied = rig.apply(session).await;
    let linked = rig.root.join("linked");
    assert_eq!(applied.worktree, Some(linked.display().to_string()));
    assert_eq!(fs::read_to_string(linked.join("new/file.txt")).ok().as_deref(), Some("new\n"));
    assert_eq!(git(&linked, &["status", "--porcelain"]).expect("status"), "");
    assert_eq!(rig.read("new/file.txt"), None);
    assert_eq!(rig.user(&["status", "--porcelain"]), "");

    // It is nowhere.
    let rig = Rig::new().await;
    let session = rig.session(work).await;
    rig.user(&["checkout", "-q", "--detach"]);
    assert_eq!(rig.apply(session).await.worktree, None);
    assert_eq!(rig.user(&["show", "main:new/file.txt"]), "new");
    assert_eq!(rig.read("new/file.txt"), None);

    // There is no worktree at all.
    let folder = tempfile::tempdir().expect("folder");
    crate::support::world::make_repository(&folder.path().join("first"), FILES).expect("repository");
    git(folder.path(), &["clone", "-q", "--bare", "first", "bare.git"]).expect("clone");
    let rig = Rig::on(folder, "bare.git").await;
    let session = rig.session(work).await;
    let commit = rig.apply(session).await.commit.expect("commit");
    assert_eq!(git(&rig.root.join("bare.git"), &["rev-parse", "main"]).expect("main"), commit);

    // There is no commit yet.
    let folder = tempfile::tempdir().expect("folder");
    fs::create_dir(folder.path().join("acme")).expect("folder");
    git(&folder.path().join("acme"), &["init", "-q", "-b", "main"]).expect("init");
    let rig = Rig::on(folder, "acme").await;
    let session = rig.session(|path| write(path, "first", "first\n")).await;
    rig.apply(session).await;
    assert_eq!(rig.user(&["log", "--format=%s"]), "Do it");
    assert_eq!(rig.user(&["status", "--porcelain"]), "");
    assert_eq!(rig.read("first").as_deref(), Some("first\n"));

    // Its history is cut off.
    let folder = tempfile::tempdir().expect("folder");
    let first = folder.path().join("first");
    crate::support::world::make_repository(&first, FILES).expect("repository");
    for number in 0..3 {
        write(&first, "number", &number.to_string());
        git(&first, &["add", "-A"]).and_then(|_| git(&first, &["commit", "-qm", "more"])).expect("commit");
    }
    let url = format!("file://{}", first.display());
    git(folder.path(), &["clone", "-q", "--depth=2", &url, "acme"]).expect("clone");
    let rig = Rig::on(folder, "acme").await;
    let session = rig.session(work).await;
    rig.apply(session).await;
    assert_eq!(rig.user(&["status", "--porcelain"]), "");
    assert_eq!(rig.user(&["rev-list", "--count", "HEAD"]), "3");
}

#[tokio::test]
async fn approval_is_bound_to_the_content() {
    let rig = Rig::new().await;
    let session = rig.session(work).await;
    let hash: String = rig.one("SELECT encode(patch_sha256, 'hex') FROM millhand.change_sets").await;
    let mut seen = request();
    seen.expect = Some("0123456789".to_owned());
    assert!(rig.refusal(session, &seen).await.contains("not those that were looked at"));
    // Somebody who can write to the database changes what is stored, and what is to be applied.
    rig.sql("UPDATE millhand.pending_changes SET patch = patch || '\\x20'::bytea WHERE path = 'README.md'").await;
    assert!(rig.refusal(session, &request()).await.contains("not those that were looked at"));
    rig.sql("UPDATE millhand.pending_changes SET patch = substr(patch, 1, length(patch) - 1) WHERE path = 'README.md'")
        .await;
    let (_, _, tree) = rig.open_set(session).await;
    let mirror = rig.root.join("home/mirrors/1.git");
    let other = git(&mirror, &["commit-tree", &format!("{}^{{tree}}", rig.user(&["rev-parse", "main"])), "-m", "x"])
        .expect("commit");
    let other_tree = git(&mirror, &["rev-parse", &format!("{other}^{{tree}}")]).expect("tree");
    rig.sql(&format!("UPDATE millhand.change_sets SET commit_id = '{other}'")).await;
    assert!(rig.refusal(session, &request()).await.contains("not the one that was recorded"));
    rig.sql(&format!("UPDATE millhand.change_sets SET tree_id = '{other_tree}'")).await;
    assert!(rig.refusal(session, &request()).await.contains("other changes"));
    let commit = git(&mirror, &["rev-parse", "refs/millhand/sessions/1/1"]).expect("checkpoint");
    rig.sql(&format!("UPDATE millhand.change_sets SET commit_id = '{commit}', tree_id = '{tree}'")).await;
    seen.expect = Some(hash[..12].to_owned());
    rig.try_apply(session, &seen).await.expect("the one that was seen");
}

#[tokio::test]
async fn links_that_lead_outside_are_refused_by_name() {
    let rig = Rig::new().await;
    let session = rig
        .session(|path| {
            write(path, "fine", "fine\n");
            symlink("../../../etc/passwd", path.join("out")).expect("link");
            symlink("README.md", path.join("in")).expect("link");
            symlink(".", path.join("up")).expect("link");
            symlink("up/../secret", path.join("by")).expect("link");
        })
        .await;
    let why = rig.refusal(session, &request()).await;
    assert!(why.contains("by is a link that leads outside"), "by way of another link: {why}");
    let why = rig.refusal(session, &only(&["out"])).await;
    assert!(why.contains("out is a link that leads outside"), "{why}");
    rig.try_apply(session, &only(&["fine", "in"])).await.expect("the others");
    assert_eq!(fs::read_link(rig.source().join("in")).expect("link").display().to_string(), "README.md");
    assert!(!rig.source().join("out").exists());
}
