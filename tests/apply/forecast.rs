//! What would come of applying, known before: conflicts with the branch, with each other, and an order that works.

use std::fs;

use millhand::{actions::Target, store::forecasts::ForecastRow, worktrees::Taking};
use proptest::{prelude::*, strategy::ValueTree as _, test_runner::TestRunner};

use super::{Rig, only, write};

const LINES: &str = "# acme\none\ntwo\nthree\nfour\nfive\nsix\n";

impl Rig {
    /// Looks at everything, and what is recorded then.
    async fn forecast(&self) -> Vec<ForecastRow> {
        for outlook in self.applier.outlooks("acme", true).await.expect("outlooks") {
            self.applier.forecast(&outlook).await.expect("forecast");
        }
        self.store.forecasts(Some("acme"), None).await.expect("forecasts")
    }

    async fn readme(&self, from: &str, to: &str) -> i64 {
        let text = LINES.replace(from, to);
        self.session(move |path| write(path, "README.md", &text)).await
    }
}

/// Session, verdict, place, and with whom it conflicts.
fn brief(rows: &[ForecastRow]) -> Vec<(i64, &str, Option<i32>, Vec<i64>)> {
    let mut brief: Vec<_> = rows
        .iter()
        .map(|row| {
            let others = row.others.iter().map(|other| other.session_id).collect();
            (row.session_id.expect("session"), row.verdict.as_str(), row.place, others)
        })
        .collect();
    brief.sort();
    brief
}

#[tokio::test]
async fn what_conflicts_is_marked_before_anyone_applies_and_the_order_works() {
    let rig = Rig::new().await;
    // The oldest is in everybody's way; the others go together, although two change the same file.
    let wide = rig.readme("one\ntwo\nthree\nfour\nfive\nsix", "all\nof\nit").await;
    let top = rig.readme("one", "ONE").await;
    let end = rig.readme("six", "SIX").await;
    let beside = rig.session(|path| write(path, "src/b.txt", "beside\n")).await;
    let rows = rig.forecast().await;
    assert_eq!(
        brief(&rows),
        [
            (wide, "clean", None, vec![top, end]),
            (top, "clean", Some(2), vec![wide]),
            (end, "clean", Some(3), vec![wide]),
            (beside, "clean", Some(1), vec![]),
        ]
    );
    let paths = &rows.iter().find(|row| row.session_id == Some(wide)).expect("row").others[0].paths;
    assert_eq!(paths, &["README.md"]);
    let order: Vec<_> = rows.iter().filter(|row| row.place.is_some()).map(|row| row.session_id.expect("id")).collect();
    assert_eq!(order, [beside, top, end], "listed in the order that works");
    for session in order {
        rig.apply(session).await;
    }
    assert_eq!(rig.read("README.md").as_deref(), Some("# acme\nONE\ntwo\nthree\nfour\nfive\nSIX\n"));
    // What is left conflicts with the branch now, and says where.
    let rows = rig.forecast().await;
    assert_eq!(brief(&rows), [(wide, "conflicts", None, vec![])]);
    assert_eq!(rows[0].conflicts[0].path, "README.md");
    assert_eq!(rows[0].target_commit.as_deref(), Some(rig.user(&["rev-parse", "HEAD"]).as_str()));
    assert!(rig.try_apply(wide, &super::request()).await.is_err(), "as was forecast");
}

#[tokio::test]
async fn it_follows_the_branch_and_what_was_decided() {
    let rig = Rig::new().await;
    let session = rig
        .session(|path| {
            write(path, "README.md", &LINES.replace("six", "SIX"));
            write(path, "docs/new.md", "new\n");
        })
        .await;
    assert_eq!(brief(&rig.forecast().await), [(session, "clean", Some(1), vec![])]);
    rig.commit("README.md", &LINES.replace("six", "sechs"));
    assert_eq!(brief(&rig.forecast().await), [(session, "conflicts", None, vec![])]);
    // Without the file that conflicts, the rest applies.
    let (set, ..) = rig.open_set(session).await;
    let reject = ["README.md".to_owned()];
    rig.store.reject_changes(set, Some(&reject), "ada").await.expect("reject");
    assert_eq!(brief(&rig.forecast().await), [(session, "clean", Some(1), vec![])]);
    rig.apply(session).await;
    assert_eq!(rig.forecast().await, [], "nothing waits");

    // A branch that is gone, and one that comes back.
    let session = rig.readme("one", "ONE").await;
    rig.user(&["checkout", "-q", "-b", "other"]);
    rig.user(&["branch", "-m", "main", "away"]);
    let rows = rig.forecast().await;
    assert_eq!((rows[0].verdict.as_str(), &rows[0].target_commit), ("clean", &None), "{rows:?}");
    rig.user(&["branch", "-m", "away", "main"]);
    rig.user(&["checkout", "-q", "main"]);
    rig.commit("README.md", "other\n");
    assert_eq!(brief(&rig.forecast().await), [(session, "conflicts", None, vec![])]);
}

#[tokio::test]
async fn what_was_taken_before_is_no_conflict_and_renames_are_seen() {
    let rig = Rig::new().await;
    let session = rig
        .session(|path| {
            write(path, "README.md", &LINES.replace("six", "SIX"));
            write(path, "new.txt", "one\n");
        })
        .await;
    rig.try_apply(session, &only(&["new.txt"])).await.expect("apply");
    assert_eq!(brief(&rig.forecast().await), [(session, "clean", Some(1), vec![])]);
    // One moves a folder, the other adds a file to it: git puts the question.
    let moves = rig.session(|path| fs::rename(path.join("src"), path.join("lib")).expect("rename")).await;
    let adds = rig.session(|path| write(path, "src/c.txt", "c\n")).await;
    let rows = rig.forecast().await;
    let found = brief(&rows);
    assert!(found.contains(&(moves, "clean", Some(2), vec![adds])), "{found:?}");
    assert!(found.contains(&(adds, "clean", None, vec![moves])), "{found:?}");
    rig.apply(moves).await;
    assert!(rig.try_apply(adds, &super::request()).await.is_err(), "as was forecast");
}

#[tokio::test]
async fn whatever_the_changes_are_those_with_a_place_apply_in_that_order() {
    let mut runner = TestRunner::new(prop::test_runner::Config { failure_persistence: None, ..Default::default() });
    let edits = prop::collection::vec(prop::collection::vec((0_usize..3, 1_usize..7, 0_u8..3), 1..4), 4..7);
    for _ in 0..4 {
        let rig = Rig::with(&[("a", LINES), ("b", LINES), ("c", LINES)]).await;
        let edits = edits.new_tree(&mut runner).expect("edits").current();
        for edits in &edits {
            rig.session(|path| {
                for (file, line, how) in edits {
                    let name = path.join(["a", "b", "c"][*file]);
                    let Ok(text) = fs::read_to_string(&name) else { continue };
                    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
                    match how {
                        0 => fs::remove_file(&name).expect("remove"),
                        _ => {
                            let line = (*line).min(lines.len() - 1);
                            lines[line] = format!("{how} of {edits:?}");
                            fs::write(&name, lines.join("\n") + "\n").expect("write");
                        }
                    }
                }
            })
            .await;
        }
        let rows = rig.forecast().await;
        let mut applied = 0;
        for row in rows.iter().filter(|row| row.place.is_some()) {
            let session = row.session_id.expect("session");
            // It may have come to nothing with what came before it, which is no conflict.
            if let Err(error) = rig.try_apply(session, &super::request()).await {
                panic!("{edits:?} {rows:?}: {error}");
            }
            applied += 1;
        }
        assert!(applied > 0, "{rows:?}");
        // Who has no place, has it for a reason.
        for row in rows.iter().filter(|row| row.place.is_none()) {
            let refused = rig.try_apply(row.session_id.expect("session"), &super::request()).await;
            assert!(refused.is_err(), "{edits:?} {row:?}");
        }
    }
}

#[tokio::test]
async fn a_conflict_is_merged_into_the_worktree_and_what_was_resolved_applies() {
    let rig = Rig::new().await;
    let session = rig
        .session(|path| {
            write(path, "README.md", &LINES.replace("six", "SIX"));
            write(path, "new.txt", "new\n");
            fs::remove_file(path.join("docs/c.md")).expect("remove");
        })
        .await;
    let refused = rig.applier.prompt_of_conflicts(session, Target::Base, None).await.expect_err("nothing conflicts");
    assert!(refused.to_string().contains("nothing of s1 conflicts with main"), "{refused}");
    rig.commit("README.md", &LINES.replace("six", "sechs"));
    rig.write("src/b.txt", "theirs\n");
    let tip = rig.commit("docs/c.md", "changed where it was deleted\n");

    let s = format!("s{session}");
    let run = rig.program(&["send", &s, "--conflicts", "Keep it short.", "--detach"]).output().await.expect("ran");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let row = &rig.sql("SELECT merge_commit, prompt FROM millhand.tasks WHERE id = 2").await[0];
    let (commit, prompt): (String, String) = (row.get(0), row.get(1));
    assert_eq!(commit, tip);
    for words in ["- README.md: CONFLICT (content)", "- docs/c.md: CONFLICT (modify/delete)", "Keep it short."] {
        assert!(prompt.contains(words), "{words}: {prompt}");
    }
    // The same conflict is sent once.
    rig.program(&["send", &s, "--conflicts", "--detach"]).output().await.expect("ran");
    assert_eq!(rig.one::<i64>("SELECT count(*) FROM millhand.tasks").await, 2);

    // As the turn does it; and again, as after a kill in between.
    let (claimed, mirror, worktree) = rig.begin().await;
    let onto = millhand::git::Base { branch: claimed.base_branch.clone(), commit };
    let taking = Taking { token: claimed.token, session_id: session };
    let merged = rig.applier.worktrees.merge(taking, &mirror, &worktree, &onto).await.expect("merged");
    let path = merged.path.clone();
    let marked = fs::read_to_string(path.join("README.md")).expect("read");
    assert!(marked.contains("<<<<<<<") && marked.contains("sechs\n=======\nSIX\n>>>>>>>"), "{marked}");
    assert_eq!(
        fs::read_to_string(path.join("src/b.txt")).expect("read"),
        "theirs\n",
        "what does not conflict is there"
    );
    assert_eq!(fs::read_to_string(path.join("new.txt")).expect("read"), "new\n");
    let again = rig.applier.worktrees.merge(taking, &mirror, &merged, &onto).await.expect("again");
    assert_eq!((fs::read_to_string(path.join("README.md")).expect("read"), &again), (marked, &merged));
    let base: String = rig.one(&format!("SELECT base_commit FROM millhand.sessions WHERE id = {session}")).await;
    assert_eq!((&base, &again.base_commit), (&tip, &tip));
    assert_eq!(super::git(&path, &["rev-parse", "HEAD"]).expect("git"), tip, "the agent's repository says so, too");

    write(&path, "README.md", &LINES.replace("six", "sechs, SIX"));
    fs::remove_file(path.join("docs/c.md")).expect("the merge left what was changed");
    rig.end(&claimed, &mirror, &again).await;
    assert_eq!(brief(&rig.forecast().await), [(session, "clean", Some(1), vec![])]);
    rig.apply(session).await;
    assert_eq!(rig.read("README.md").as_deref(), Some(&*LINES.replace("six", "sechs, SIX")));
    assert_eq!((rig.read("src/b.txt").as_deref(), rig.read("docs/c.md")), (Some("theirs\n"), None));
}

/// The session's own branch has moved on from it, so that its tip is in the history of the base.
#[tokio::test]
async fn a_conflict_with_another_branch_goes_to_the_agent_too() {
    let rig = Rig::new().await;
    rig.user(&["branch", "release"]);
    rig.commit("README.md", &LINES.replace("six", "sechs"));
    let session = rig.readme("six", "SIX, after").await;
    let s = format!("s{session}");
    let asked = rig.program(&["apply", &s, "--to", "release"]).output().await.expect("ran");
    let told = String::from_utf8_lossy(&asked.stderr).into_owned();
    assert!(!asked.status.success() && told.contains(&format!("millhand send {s} --conflicts --to release")), "{told}");

    let sent = rig.program(&["send", &s, "--conflicts", "--to", "release", "--detach"]).output().await.expect("ran");
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    let row = &rig.sql("SELECT merge_commit, merge_branch, prompt FROM millhand.tasks WHERE id = 2").await[0];
    let (commit, branch, prompt): (String, String, String) = (row.get(0), row.get(1), row.get(2));
    assert_eq!((commit, branch.as_str()), (rig.user(&["rev-parse", "release"]), "release"));
    assert!(prompt.contains("The branch release has moved on") && prompt.contains("- README.md"), "{prompt}");

    let none = rig.program(&["send", &s, "--conflicts", "--to", "nowhere", "--detach"]).output().await.expect("ran");
    let told = String::from_utf8_lossy(&none.stderr).into_owned();
    assert!(!none.status.success() && told.contains("the branch nowhere is not there"), "{told}");
    let alone = rig.program(&["send", &s, "more", "--to", "release", "--detach"]).output().await.expect("ran");
    assert!(String::from_utf8_lossy(&alone.stderr).contains("--conflicts"), "--to is for conflicts");
}

#[tokio::test]
async fn a_merge_that_was_killed_half_way_is_finished_without_merging_its_marks() {
    let rig = Rig::new().await;
    let session = rig.readme("six", "SIX").await;
    let tip = rig.commit("README.md", &LINES.replace("six", "sechs"));
    rig.commit("src/b.txt", "theirs\n");
    rig.sql(&format!(
        "INSERT INTO millhand.tasks (session_id, prompt, merge_commit) VALUES ({session}, 'resolve', '{tip}')"
    ))
    .await;
    let (claimed, mirror, worktree) = rig.begin().await;
    let onto = millhand::git::Base { branch: claimed.base_branch.clone(), commit: tip.clone() };
    let taking = Taking { token: claimed.token, session_id: session };
    // What it is about to write is kept, and some of it written, when the worker is killed: nothing of the rest is done.
    let merged =
        rig.applier.git.merge(&mirror, &worktree.base_commit, Some(&tip), &rig.open_set(session).await.2).await;
    let millhand::git::Merged::Conflicts { marked, .. } = merged.expect("merge") else { panic!("they conflict") };
    let commit = rig.applier.git.merging_commit(&mirror, &marked, &tip).await.expect("commit");
    super::git(&mirror.path, &["update-ref", &format!("refs/millhand/merging/{session}"), &commit]).expect("kept");
    let text = super::git(&mirror.path, &["show", &format!("{marked}:README.md")]).expect("show") + "\n";
    write(&worktree.path, "README.md", &text);

    let merged = rig.applier.worktrees.merge(taking, &mirror, &worktree, &onto).await.expect("merged");
    assert_eq!(fs::read_to_string(merged.path.join("README.md")).expect("read"), text, "marked once");
    assert!(text.contains("<<<<<<<"), "{text}");
    let left = super::git(&mirror.path, &["for-each-ref", "refs/millhand/merging"]).expect("git");
    assert_eq!(left, "", "let go");
}
