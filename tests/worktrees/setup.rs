//! What was copied into a worktree and what its setup made: in no checkpoint, through no link, and gone with the worktree unless the
//! project says otherwise.

use std::{fs, os::unix::fs::symlink};

use millhand::{git::CopiedFile, worktrees::Outcome};

use super::{Rig, git, names};

fn file(path: &str, text: &str) -> CopiedFile {
    CopiedFile { path: path.to_owned(), bytes: text.into(), executable: false }
}

impl Rig {
    /// The paths of a session's last checkpoint.
    fn kept(&self, session: i64, task: i64) -> String {
        let reference = format!("refs/millhand/sessions/{session}/{task}");
        git(&self.worktrees.home.mirror(1), &["ls-tree", "-r", "--name-only", &reference]).expect("ls-tree")
    }
}

#[tokio::test]
async fn copied_files_are_in_no_checkpoint_also_after_the_mirror_forgot_the_worktree() {
    let rig = Rig::new().await;
    let session = rig.open().await;
    let (claimed, mirror, worktree) = rig.begin().await;
    let git_of = &rig.worktrees.git;
    let files = vec![file(".env", "SECRET"), file("config/deep/.env", "SECRET"), file("ignored/token", "SECRET")];
    git_of.copy_in(&mirror, session, files.clone()).await.expect("copy");
    // What the agent makes of them does not matter, and a kill while they were copied leaves nothing either.
    fs::write(worktree.path.join(".env"), "SECRET and more").expect("write");
    fs::write(worktree.path.join("config/.millhand-copying"), "not a copy").expect("write");
    fs::write(worktree.path.join("config/deep/.millhand-copying"), "SEC").expect("write");
    fs::write(worktree.path.join("config/mine"), "work").expect("write");
    git(&worktree.path, &["add", "-Af"]).expect("add");
    git(&worktree.path, &["commit", "-qm", "all of it"]).expect("commit");
    let expected = ".gitignore\nREADME.md\nconfig/.millhand-copying\nconfig/mine\nsrc/a.sh";
    git_of.checkpoint(&mirror, &worktree, claimed.task_id, "turn").await.expect("checkpoint");
    assert_eq!(rig.kept(session, claimed.task_id), expected);

    fs::remove_dir_all(mirror.path.join(format!("worktrees/s{session}"))).expect("remove");
    let base = millhand::git::Base { branch: None, commit: worktree.base_commit.clone() };
    let again = git_of.create_worktree(&mirror, session, &base).await.expect("adopt");
    assert_eq!(fs::read(again.path.join(".env")).expect("read"), b"SECRET and more");
    git_of.checkpoint(&mirror, &again, claimed.task_id, "turn").await.expect("checkpoint");
    assert_eq!(rig.kept(session, claimed.task_id), expected);
    // Once more, as a retry does.
    git_of.copy_in(&mirror, session, files).await.expect("copy");
    assert_eq!(fs::read(again.path.join(".env")).expect("read"), b"SECRET");
}

#[tokio::test]
async fn files_are_copied_through_no_link_and_over_nothing_of_the_session() {
    let rig = Rig::new().await;
    let session = rig.open().await;
    let (claimed, mirror, worktree) = rig.begin().await;
    let outside = rig.worktrees.home.root().join("outside");
    fs::create_dir_all(&outside).expect("folder");
    fs::write(outside.join("precious"), "precious").expect("write");
    let at = |name: &str| worktree.path.join(name);
    symlink(&outside, at("config")).expect("link");
    symlink(outside.join("precious"), at(".env")).expect("link");
    fs::create_dir(at("folder")).expect("folder");
    fs::write(at("untracked"), "work").expect("write");
    let git = &rig.worktrees.git;
    for path in ["config/.env", "config/a/b", "folder", "src/a.sh", "src", "README.md/x"] {
        assert!(git.copy_in(&mirror, session, vec![file(path, "SECRET")]).await.is_err(), "{path}");
    }
    assert_eq!(names(&outside), [outside.join("precious")]);
    // A link that has the file's own name is replaced.
    git.copy_in(&mirror, session, vec![file(".env", "SECRET")]).await.expect("copy");
    assert_eq!(fs::read(outside.join("precious")).expect("read"), b"precious");
    assert!(at(".env").symlink_metadata().expect("env").is_file());
    // Work of an earlier turn is not overwritten.
    git.checkpoint(&mirror, &worktree, claimed.task_id, "turn").await.expect("checkpoint");
    let refused = git.copy_in(&mirror, session, vec![file("untracked", "SECRET")]).await.expect_err("refused");
    assert!(refused.to_string().contains("the session's work"), "{refused}");
    assert_eq!(fs::read(at("untracked")).expect("read"), b"work");
}

#[tokio::test]
async fn a_pooled_worktree_keeps_ignored_files_where_the_project_says_so_and_never_what_was_copied() {
    for keep in [false, true] {
        let mut rig = Rig::new().await;
        rig.worktrees.settings.pool = 1;
        rig.sql(&format!("UPDATE millhand.projects SET setup_kept = {keep}")).await;
        let one = rig.open().await;
        let (claimed, mirror, worktree) = rig.begin().await;
        let git_of = &rig.worktrees.git;
        let files = vec![file(".env", "SECRET"), file("ignored/token", "SECRET")];
        git_of.copy_in(&mirror, one, files).await.expect("copy");
        git_of.mark_set_up(&mirror, one).await.expect("mark");
        assert!(git_of.is_set_up(&mirror, one).await.expect("set up"));
        let at = |name: &str| worktree.path.join(name);
        fs::write(at("ignored/dependency"), "made").expect("write");
        // Rules of the agent's own say nothing, nor do its files.
        fs::write(at(".gitignore"), "*\n").expect("write");
        fs::write(at("hidden"), "left by the agent").expect("write");
        fs::create_dir(at("src/deep")).expect("folder");
        fs::write(at("src/deep/.gitignore"), "*\n").expect("write");
        fs::write(at("src/deep/hidden"), "left by the agent").expect("write");
        rig.end(&claimed, &mirror, &worktree).await;
        rig.close(one).await;
        rig.later().await;
        assert_eq!(rig.round().await, [Outcome::Pooled]);

        let two = rig.open().await;
        let given = rig
            .turn(|path| {
                let found: Vec<_> =
                    names(path).iter().filter_map(|path| path.file_name()?.to_str().map(str::to_owned)).collect();
                let expected: &[&str] = if keep {
                    &[".git", ".gitignore", "README.md", "ignored", "src"]
                } else {
                    &[".git", ".gitignore", "README.md", "src"]
                };
                assert_eq!(found, expected, "keep: {keep}");
                assert_eq!(names(&path.join("src")), [path.join("src/a.sh")]);
                if keep {
                    assert_eq!(names(&path.join("ignored")), [path.join("ignored/dependency")]);
                }
            })
            .await;
        assert_eq!(git(&given.path, &["status", "--porcelain"]).expect("status"), "");
        assert!(!git_of.is_set_up(&mirror, two).await.expect("set up"), "its setup runs again");
    }
}

#[tokio::test]
async fn what_the_next_base_does_not_ignore_is_not_kept() {
    let mut rig = Rig::new().await;
    rig.worktrees.settings.pool = 1;
    rig.sql("UPDATE millhand.projects SET setup_kept = true").await;
    let (one, _) = rig.worked().await;
    rig.close(one).await;
    rig.later().await;
    assert_eq!(rig.round().await, [Outcome::Pooled]);
    let source: String = rig.one("SELECT source FROM millhand.projects").await;
    let source = std::path::Path::new(&source);
    fs::write(source.join(".gitignore"), "other\n").expect("write");
    git(source, &["commit", "-qam", "ignores something else"]).expect("commit");
    let two = rig.open().await;
    let given = rig.turn(|_| {}).await;
    assert_eq!(git(&given.path, &["status", "--porcelain", "--ignored"]).expect("status"), "");
    let task: i64 = rig.one(&format!("SELECT id FROM millhand.tasks WHERE session_id = {two}")).await;
    assert_eq!(rig.kept(two, task), ".gitignore\nREADME.md\nsrc/a.sh");
}

#[tokio::test]
async fn a_worktree_that_comes_back_from_its_checkpoint_is_set_up_again_and_one_from_the_trash_is_as_it_was() {
    let rig = Rig::new().await;
    for (later, set_up) in [(false, true), (true, false)] {
        let session = rig.open().await;
        let (claimed, mirror, worktree) = rig.begin().await;
        let git = &rig.worktrees.git;
        git.copy_in(&mirror, session, vec![file(".env", "SECRET")]).await.expect("copy");
        git.mark_set_up(&mirror, session).await.expect("mark");
        rig.end(&claimed, &mirror, &worktree).await;
        rig.close(session).await;
        rig.later().await;
        assert_eq!(rig.round().await, [Outcome::Trashed]);
        if later {
            rig.much_later().await;
            assert_eq!(rig.round().await, [Outcome::Removed]);
        }
        rig.restore(session).await;
        assert_eq!(git.is_set_up(&mirror, session).await.expect("set up"), set_up);
        assert_eq!(worktree.path.join(".env").exists(), set_up);
    }
}
