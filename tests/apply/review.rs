//! Reviewing: what is shown, what was seen, what is said about it, and going back.

use std::fs;

use millhand::{
    actions,
    model::ids::{AnyId, SessionId, TaskId},
};

use super::{Rig, only, request, work, write};
use crate::support::world::git;

fn id(session: i64) -> AnyId {
    AnyId::Session(SessionId(session))
}

async fn run(rig: &Rig, arguments: &[&str]) -> (Option<i32>, String) {
    let ran = rig.program(arguments).output().await.expect("ran");
    let text = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    (ran.status.code(), text)
}

#[tokio::test]
async fn an_interdiff_shows_what_is_new_since_the_last_look_and_nothing_else() {
    let rig = Rig::new().await;
    let session = rig.session(work).await;
    let first = actions::review(&rig.store, id(session), "ada").await.expect("review");
    assert_eq!(first.seen, None);
    actions::looked_at(&rig.store, &first.changes.set, "ada").await.expect("looked");
    // The base moves in between: what came with it is not the agent's.
    rig.commit("src/a.sh", "echo theirs\n");
    rig.try_apply(session, &only(&["docs"])).await.expect("apply");
    rig.send(session, |path| write(path, "new/file.txt", "newer\n")).await;
    let second = actions::review(&rig.store, id(session), "ada").await.expect("review");
    let seen = second.seen.expect("another one was seen");
    assert_eq!(seen.id, first.changes.set.id);
    let interdiff = rig.applier.interdiff(&seen, &second.changes.set).await.expect("interdiff");
    let paths: Vec<_> = interdiff.files.iter().map(|file| String::from_utf8_lossy(&file.path).into_owned()).collect();
    assert_eq!((paths, interdiff.mixed), (vec!["new/file.txt".to_owned()], false));
    assert_eq!(
        actions::review(&rig.store, id(session), "bob").await.expect("review").seen,
        None,
        "he has not looked yet"
    );
    let (code, text) = run(&rig, &["diff", "t1", "t2"]).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("+newer") && text.contains("-new\n") && !text.contains("theirs"), "{text}");
}

#[tokio::test]
async fn comments_become_the_next_prompt_once() {
    let rig = Rig::new().await;
    let session = rig.session(work).await;
    let s = format!("s{session}");
    for (place, text) in [("README.md:7", "Why in capitals?"), ("new/file.txt", "Say what it is for.")] {
        let (code, said) = run(&rig, &["review", &s, "--comment", place, text]).await;
        assert_eq!(code, Some(0), "{said}");
    }
    let (code, said) = run(&rig, &["review", &s, "--comment", "elsewhere", "x"]).await;
    assert!(code == Some(2) && said.contains("not among the changes"), "{said}");
    let (_, shown) = run(&rig, &["review", &s]).await;
    assert!(shown.contains("README.md:7: Why in capitals?"), "{shown}");
    assert!(shown.contains("R src/b.txt → src/moved.txt") && shown.contains("+SIX"), "{shown}");

    // Tried twice, as after a lost reply: one task.
    let review = actions::prompt_of_review(&rig.store, session, Some("Then stop.")).await.expect("prompt");
    let send = actions::TaskRequest {
        prompt: review.prompt.clone(),
        idempotency_key: Some(review.key.clone()),
        ..actions::TaskRequest::default()
    };
    let task = actions::send(&rig.store, session, actions::Chat::First, &send).await.expect("send").task;
    let (code, said) = run(&rig, &["send", &s, "--review", "--detach"]).await;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(rig.one::<i64>("SELECT count(*) FROM millhand.tasks").await, 2);
    assert!(
        task.prompt.contains("- README.md:7: Why in capitals?\n- new/file.txt: Say what it is for."),
        "{}",
        task.prompt
    );
    let sent: i64 =
        rig.one(&format!("SELECT count(*) FROM millhand.review_comments WHERE task_id = {}", task.id)).await;
    assert_eq!(sent, 2);
    let (code, said) = run(&rig, &["send", &s, "--review", "--detach"]).await;
    assert!(code == Some(2) && said.contains("no comments"), "{said}");
}

#[tokio::test]
async fn a_session_goes_back_to_what_it_was_after_a_task() {
    let rig = Rig::new().await;
    let session = rig.session(work).await;
    let s = format!("s{session}");
    write(&rig.worktree(session), "ignored/cache", "cache\n");
    rig.send(session, |path| {
        fs::remove_dir_all(path.join("new")).expect("remove");
        write(path, "new", "a file now\n");
        write(path, "later.txt", "later\n");
    })
    .await;
    let (code, said) = run(&rig, &["checkpoints", &s, "--json"]).await;
    assert!(code == Some(0) && said.lines().count() == 2, "{said}");
    let (code, said) = run(&rig, &["rollback", &s, "t1"]).await;
    assert_eq!(code, Some(0), "{said}");
    let worktree = rig.worktree(session);
    assert_eq!(fs::read_to_string(worktree.join("new/file.txt")).expect("read"), "new\n");
    assert!(!worktree.join("later.txt").exists());
    assert_eq!(fs::read_to_string(worktree.join("ignored/cache")).expect("read"), "cache\n");
    rig.send(session, |path| write(path, "other.txt", "other\n")).await;
    let paths: Vec<_> = rig.decided(session).await.into_iter().map(|(path, _)| path).collect();
    assert_eq!(
        paths,
        ["README.md", "docs/c.md", "new/file.txt", "other.txt", "src/moved.txt"],
        "visible to the next turn"
    );
    assert_eq!(rig.one::<i64>("SELECT count(*) FROM millhand.audit_log WHERE action = 'roll_back'").await, 1);

    // Not while a turn runs, and not to somebody else's task.
    rig.sql(&format!("INSERT INTO millhand.tasks (session_id, prompt) VALUES ({session}, 'and then')")).await;
    let (claimed, mirror, taken) = rig.begin().await;
    let why = rig.applier.roll_back(session, AnyId::Task(TaskId(1)), "ada").await.expect_err("leased").to_string();
    assert!(why.contains("a turn runs"), "{why}");
    rig.end(&claimed, &mirror, &taken).await;
    let other = rig.session(|path| write(path, "x", "x\n")).await;
    let why = rig.applier.roll_back(other, AnyId::Task(TaskId(1)), "ada").await.expect_err("another's").to_string();
    assert!(why.contains("not a task of"), "{why}");
}

#[tokio::test]
async fn going_back_behind_an_apply_keeps_what_was_applied() {
    let rig = Rig::new().await;
    let session = rig.session(work).await;
    rig.commit("src/a.sh", "echo theirs\n");
    rig.try_apply(session, &only(&["docs"])).await.expect("apply");
    rig.send(session, |path| write(path, "new/file.txt", "newer\n")).await;
    rig.applier.roll_back(session, AnyId::Task(TaskId(1)), "ada").await.expect("back");
    let worktree = rig.worktree(session);
    let read = |name: &str| fs::read_to_string(worktree.join(name)).ok();
    assert_eq!((read("new/file.txt").as_deref(), read("src/a.sh").as_deref()), (Some("new\n"), Some("echo theirs\n")));
    assert!(!worktree.join("docs/c.md").exists());
    git(&worktree, &["status"]).expect("the agent's repository works");
}

#[tokio::test]
async fn nothing_is_written_through_a_link_that_an_agent_planted() {
    let rig = Rig::new().await;
    let outside = rig.root.join("outside");
    fs::create_dir(&outside).expect("folder");
    let session = rig.session(work).await;
    // Between turns, as a process of the agent's that lives on could.
    let worktree = rig.worktree(session);
    fs::remove_dir_all(worktree.join("src")).expect("remove");
    std::os::unix::fs::symlink(&outside, worktree.join("src")).expect("link");
    rig.commit("src/new.sh", "echo new\n");
    let applied = rig.try_apply(session, &only(&["docs"])).await.expect("apply");
    assert!(applied.not_rebased.is_some(), "{applied:?}");
    assert_eq!(fs::read_dir(&outside).expect("list").count(), 0);
}

#[tokio::test]
async fn what_was_rolled_back_is_not_applied_and_what_was_gone_back_to_is() {
    let rig = Rig::new().await;
    let session = rig.session(|path| write(path, "one.txt", "one\n")).await;
    rig.send(session, |path| write(path, "two.txt", "two\n")).await;
    let set = rig.applier.roll_back(session, AnyId::Task(TaskId(1)), "ada").await.expect("back");
    assert_eq!(set.state, "open");
    let why =
        rig.applier.apply(AnyId::Task(TaskId(2)), &request(), &|_| {}).await.expect_err("rolled back").to_string();
    assert!(why.contains("going back"), "{why}");
    rig.apply(session).await;
    assert_eq!((rig.read("one.txt").as_deref(), rig.read("two.txt")), (Some("one\n"), None));
    let newest =
        actions::changes(&rig.store, AnyId::Session(SessionId(session))).await.expect("look").expect("changes");
    assert_eq!(
        (newest.set.id, newest.set.state.as_str()),
        (set.id, "applied"),
        "it is the session's newest, decided too"
    );

    // Killed before the files were all there: the same call finishes, and what was there at first is what is kept.
    let rig = Rig::new().await;
    let session = rig.session(|path| write(path, "one.txt", "one\n")).await;
    rig.send(session, |path| {
        write(path, "two.txt", "two\n");
        fs::remove_file(path.join("one.txt")).expect("remove");
    })
    .await;
    let worktree = rig.worktree(session);
    let mirror = rig.root.join("home/mirrors/1.git");
    let before = git(&mirror, &["rev-parse", &format!("refs/millhand/sessions/{session}/2")]).expect("checkpoint");
    git(&mirror, &["update-ref", &format!("refs/millhand/rolling-back/{session}"), &before]).expect("as if begun");
    fs::remove_file(worktree.join("two.txt")).expect("half way");
    rig.store.begin_rollback(session, 1, "acme", "ada", &rig.host).await.expect("intent");
    rig.applier.roll_back(session, AnyId::Task(TaskId(1)), "ada").await.expect("back");
    assert!(worktree.join("one.txt").exists() && !worktree.join("two.txt").exists());
    let kept = git(&mirror, &["rev-parse", &format!("refs/millhand/rolled-back/{session}")]).expect("kept");
    assert_eq!(kept, before);
    assert_eq!(rig.decided(session).await, [("two.txt".to_owned(), "superseded".to_owned())]);
}
