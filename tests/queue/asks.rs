//! An ask has one answer, however many give one, and whether or not its time is up at that moment.

use std::time::Duration;

use millhand::model::ask::{Answer, AnsweredBy, Asked, OpenAsk};

use super::Queue;

fn ask(id: &str) -> OpenAsk {
    OpenAsk {
        id: id.to_owned(),
        asked: Asked::Permission { permission: "bash".to_owned(), patterns: vec!["touch x".to_owned()] },
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_answers_given_at_once_one_counts_and_all_are_told_which() {
    let q = Queue::new().await;
    let (_, task) = q.open().await;
    let claimed = q.claim_one().await;
    for round in 0..30 {
        let id = q.store.open_ask(claimed.token, &ask(&format!("per_{round}")), Duration::from_secs(60)).await;
        let id = id.expect("open").expect("held");
        let answers = ["once", "always", "reject", "once"].map(|answer| {
            let store = q.store.clone();
            tokio::spawn(async move { (answer, store.answer_ask(id, answer, None, None).await.expect("answer")) })
        });
        let mut won = Vec::new();
        for answer in answers {
            let (answer, counted) = answer.await.expect("task");
            won.extend(counted.then_some(answer));
        }
        let decided = q.store.ask_answer(id).await.expect("read").expect("answered");
        let decided = match decided.answer {
            Answer::Once => "once",
            Answer::Always => "always",
            Answer::Reject { .. } => "reject",
            Answer::Replies(_) => "reply",
        };
        assert_eq!(won, [decided], "round {round}");
    }
    let noted: i64 =
        q.one(&format!("SELECT count(*) FROM millhand.audit_log WHERE action = 'answer' AND task_id = {task}")).await;
    assert_eq!(noted, 30, "each in the audit log once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_answer_at_the_deadline_counts_or_is_refused_and_the_turn_sees_the_same() {
    let q = Queue::new().await;
    q.open().await;
    let claimed = q.claim_one().await;
    let (mut people, mut deadlines) = (0, 0);
    for round in 0..60 {
        // So short that the answer and the turn's look for it come about when it ends.
        let deadline = Duration::from_millis(2 + round % 6);
        let id = q.store.open_ask(claimed.token, &ask(&format!("per_{round}")), deadline).await;
        let id = id.expect("open").expect("held");
        let store = q.store.clone();
        let answer = tokio::spawn(async move { store.answer_ask(id, "once", None, None).await.expect("answer") });
        let decided = loop {
            if let Some(decided) = q.store.ask_answer(id).await.expect("read") {
                break decided;
            }
        };
        let counted = answer.await.expect("task");
        assert_eq!(counted, decided.by != AnsweredBy::Deadline, "round {round}: {decided:?}");
        assert_eq!(counted, decided.answer == Answer::Once, "round {round}: {decided:?}");
        assert_eq!(q.store.ask_answer(id).await.expect("read").as_ref(), Some(&decided), "it stays");
        if counted { people += 1 } else { deadlines += 1 }
    }
    println!("{people} by a person, {deadlines} by the deadline");
}
