//! At most once: two at the same time, a kill at each step, a kill at any moment, and a git that was killed half way through the files.

use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

use millhand::{
    git::Step,
    model::ids::{AnyId, SessionId},
};

use super::{Rig, request, work};
use crate::support::world::git;

const STEPS: [Step; 9] = [
    Step::Fetched,
    Step::Merged,
    Step::Begun,
    Step::Brought,
    Step::Checked,
    Step::Moved,
    Step::Written,
    Step::Landed,
    Step::Rebased,
];

/// Applies up to a step, and is gone there: nothing of ours is done after it.
async fn killed_at(rig: &Rig, session: i64, at: Step) {
    let applier = rig.applier.clone();
    let killed = tokio::spawn(async move {
        let die = move |step| {
            if step == at {
                std::panic::resume_unwind(Box::new("killed"));
            }
        };
        applier.apply(AnyId::Session(SessionId(session)), &request(), &die).await
    });
    assert!(killed.await.expect_err("killed").is_panic());
}

async fn assert_applied_once(rig: &Rig, session: i64, tree: &str, when: &str) {
    assert_eq!(rig.user(&["rev-parse", "main^{tree}"]), tree, "{when}");
    assert_eq!(rig.user(&["rev-list", "--count", "main"]), "2", "{when}");
    assert_eq!(rig.user(&["status", "--porcelain"]), "", "{when}");
    assert_eq!(rig.open_set(session).await.1, "applied", "{when}");
    let unfinished = "SELECT count(*) FROM millhand.applies WHERE state IN ('begun', 'landed')";
    assert_eq!(rig.one::<i64>(unfinished).await, 0, "{when}");
    assert_eq!(rig.one::<i64>("SELECT count(*) FROM millhand.audit_log WHERE action = 'apply'").await, 1, "{when}");
    let base: String = rig.one("SELECT base_commit FROM millhand.sessions").await;
    assert_eq!(base, rig.user(&["rev-parse", "main"]), "{when}");
    let mirror = rig.root.join("home/mirrors/1.git");
    assert_eq!(git(&mirror, &["for-each-ref", "refs/millhand/applying"]).expect("refs"), "", "{when}");
}

#[tokio::test]
async fn a_kill_at_any_step_applies_once_or_not_at_all() {
    for at in STEPS {
        let rig = Rig::new().await;
        let session = rig.session(work).await;
        let (_, _, tree) = rig.open_set(session).await;
        let before = rig.user(&["rev-parse", "main"]);
        killed_at(&rig, session, at).await;
        let moved = rig.user(&["rev-parse", "main"]) != before;
        assert_eq!(moved, matches!(at, Step::Moved | Step::Written | Step::Landed | Step::Rebased), "{at:?}");
        // The next one settles it. What had landed is applied, and not a second time.
        let again = rig.try_apply(session, &request()).await;
        assert_eq!(again.is_err(), moved, "{at:?}: {again:?}");
        assert_applied_once(&rig, session, &tree, &format!("killed at {at:?}")).await;
    }
}

#[tokio::test]
async fn a_worker_settles_what_was_interrupted() {
    for at in STEPS {
        let rig = Rig::new().await;
        let session = rig.session(work).await;
        let (_, _, tree) = rig.open_set(session).await;
        let before = rig.everything().await;
        killed_at(&rig, session, at).await;
        rig.applier.recover_all().await.expect("recover");
        if rig.open_set(session).await.1 == "open" {
            assert_eq!(rig.everything().await, before, "{at:?}");
        } else {
            assert_applied_once(&rig, session, &tree, &format!("killed at {at:?}")).await;
        }
    }
}

#[tokio::test]
async fn a_git_that_was_killed_among_the_files_is_finished() {
    let rig = Rig::new().await;
    let session = rig.session(work).await;
    let (_, _, tree) = rig.open_set(session).await;
    killed_at(&rig, session, Step::Moved).await;
    // Some of the files are written, and the index is not.
    rig.write("README.md", "# acme\none\ntwo\nthree\nfour\nfive\nSIX\n");
    rig.write("new/file.txt", "new\n");
    fs::remove_file(rig.source().join("docs/c.md")).expect("remove");
    rig.applier.recover_all().await.expect("recover");
    assert_applied_once(&rig, session, &tree, "half written").await;
}

#[tokio::test]
async fn what_the_user_did_after_a_kill_is_not_overwritten() {
    let rig = Rig::new().await;
    let session = rig.session(work).await;
    killed_at(&rig, session, Step::Moved).await;
    rig.write("README.md", "# mine\n");
    let why = rig.try_apply(session, &request()).await.expect_err("refused").to_string();
    assert!(why.contains("interrupted") && why.contains("README.md"), "{why}");
    assert_eq!(rig.read("README.md").as_deref(), Some("# mine\n"));
    rig.user(&["checkout", "HEAD", "--", "."]);
    rig.applier.recover_all().await.expect("recover");
    assert_eq!(rig.open_set(session).await.1, "applied");

    // The user goes on from it, or takes it back.
    for (gone_on, state) in [(true, "applied"), (false, "open")] {
        let rig = Rig::new().await;
        let session = rig.session(work).await;
        let before = rig.user(&["rev-parse", "main"]);
        killed_at(&rig, session, Step::Written).await;
        if !gone_on {
            rig.user(&["reset", "-q", "--hard", &before]);
        }
        rig.commit("x", "x\n");
        rig.applier.recover_all().await.expect("recover");
        assert_eq!(rig.open_set(session).await.1, state);
        assert_eq!(rig.user(&["status", "--porcelain"]), "");
    }
}

#[tokio::test]
async fn files_that_cannot_be_written_take_the_branch_back() {
    let rig = Rig::new().await;
    // As with a full disk, or a filter that fails: git writes some files, and then it cannot.
    let session = rig
        .session(|path| {
            work(path);
            super::write(path, "zz.bin", "version https://git-lfs.github.com/spec/v1\n");
            super::write(path, ".gitattributes", "zz.bin filter=broken\n");
        })
        .await;
    fs::write(
        rig.root.join("user/.gitconfig"),
        "[filter \"broken\"]\n\tsmudge = false\n\tclean = cat\n\trequired = true\n",
    )
    .expect("config");
    let why = rig.refusal(session, &request()).await;
    assert!(why.contains("all is as it was"), "{why}");
    fs::remove_file(rig.root.join("user/.gitconfig")).expect("config");
    rig.apply(session).await;
    assert_eq!(rig.user(&["status", "--porcelain"]), "");
}

#[tokio::test]
async fn two_processes_at_once_apply_once() {
    for _ in 0..3 {
        let rig = Rig::new().await;
        let session = rig.session(work).await;
        let (_, _, tree) = rig.open_set(session).await;
        let id = format!("s{session}");
        let run = || rig.program(&["apply", &id]).output();
        let (first, second, third) = tokio::join!(run(), run(), run());
        let mut codes: Vec<_> = [first, second, third].into_iter().map(|ran| ran.expect("ran").status.code()).collect();
        codes.sort_unstable();
        assert_eq!(codes, [Some(0), Some(2), Some(2)], "one applies, the others are told");
        assert_applied_once(&rig, session, &tree, "two at once").await;
    }
}

#[tokio::test]
async fn a_process_killed_at_any_moment_applies_once_or_not_at_all() {
    for round in 0..6_u64 {
        let rig = Rig::new().await;
        let session = rig.session(work).await;
        let (_, _, tree) = rig.open_set(session).await;
        let id = format!("s{session}");
        let mut running = rig.program(&["apply", &id]).spawn().expect("start");
        let _ = tokio::time::timeout(Duration::from_millis(60 + round * 60), running.wait()).await;
        let _ = running.kill().await;
        let again = rig.program(&["apply", &id]).output().await.expect("ran");
        let said = String::from_utf8_lossy(&again.stderr).into_owned();
        assert!(again.status.code() == Some(0) || said.contains("applied already"), "round {round}: {said}");
        assert_applied_once(&rig, session, &tree, &format!("killed in round {round}")).await;
    }
}

#[tokio::test]
async fn after_a_kill_modes_are_finished_too_and_what_came_to_be_there_is_not_overwritten() {
    let rig = Rig::new().await;
    let session = rig
        .session(|path| {
            work(path);
            let script = path.join("src/a.sh");
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("mode");
            super::write(path, "made/by/agent", "made\n");
        })
        .await;
    killed_at(&rig, session, Step::Moved).await;
    fs::write(rig.source().join(".git/info/exclude"), "made\n").expect("exclude");
    rig.write("made/by/agent", "the user's own, and ignored\n");
    let why = rig.try_apply(session, &request()).await.expect_err("refused").to_string();
    assert!(why.contains("made/by/agent"), "{why}");
    assert_eq!(rig.read("made/by/agent").as_deref(), Some("the user's own, and ignored\n"));
    fs::remove_dir_all(rig.source().join("made")).expect("remove");
    rig.applier.recover_all().await.expect("recover");
    assert_eq!(rig.open_set(session).await.1, "applied");
    assert_eq!(rig.user(&["status", "--porcelain"]), "");
    let mode = fs::metadata(rig.source().join("src/a.sh")).expect("script").permissions().mode();
    assert_eq!(mode & 0o111, 0o111);
}
