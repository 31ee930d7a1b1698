//! What a turn writes: transcript, usage, drafts of changes; seen once its finish has won.

use millhand::{
    model::{
        change::{ChangeKind, ChangeSet, FileChange},
        event::AgentEvent,
        retry::Verdict,
        usage::StepUsage,
    },
    store::{
        queue::{AgentRow, Claimed},
        turns::{EventRow, Owner},
    },
};
use rust_decimal::Decimal;

use super::{AGAIN, Queue};

pub(crate) fn owner(claimed: &Claimed) -> Owner<'_> {
    Owner {
        attempt_id: claimed.attempt_id,
        task_id: claimed.task_id,
        session_id: claimed.session_id,
        project: &claimed.project,
        agent: "opencode",
    }
}

pub(crate) fn changes(paths: &[&[u8]]) -> ChangeSet {
    let file = |path: &&[u8]| FileChange {
        path: path.to_vec(),
        old_path: None,
        kind: ChangeKind::Added,
        old_mode: 0,
        new_mode: 0o100_644,
        old_blob: None,
        new_blob: Some("b".repeat(40)),
        is_binary: false,
        flags: vec!["executes".to_owned()],
        additions: 2,
        deletions: 1,
        patch: b"diff \xff\0 bytes".to_vec(),
    };
    ChangeSet {
        base_commit: "a".repeat(40),
        commit_id: "c".repeat(40),
        tree_id: "d".repeat(40),
        patch_sha256: [7; 32],
        files: paths.iter().map(file).collect(),
        notes: vec!["skipped \0".to_owned()],
    }
}

pub(crate) fn step(message: &str, output: i64, cost: i64) -> StepUsage {
    StepUsage {
        agent_session: "ses_1".to_owned(),
        message_id: message.to_owned(),
        model: "scripted/m".to_owned(),
        input_tokens: 10,
        output_tokens: output,
        cost_usd: Some(Decimal::new(cost, 9)),
        ..StepUsage::default()
    }
}

#[tokio::test]
async fn changes_are_drafts_until_the_finish_wins_and_then_replace_the_sessions_open_ones() {
    let q = Queue::new().await;
    let (session, _) = q.open().await;
    q.append(session).await;
    let states = async || -> Vec<(String, String)> {
        q.sql("SELECT s.state, p.state FROM millhand.change_sets s JOIN millhand.pending_changes p ON p.change_set_id = s.id ORDER BY p.id")
            .await.iter().map(|r| (r.get(0), r.get(1))).collect()
    };
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());

    let first = q.claim_one().await;
    q.store.draft_changes(owner(&first), &changes(&[b"old"])).await.expect("draft");
    // Writing the draft again replaces it.
    q.store.draft_changes(owner(&first), &changes(&[b"a", b"caf\xe9"])).await.expect("draft");
    assert_eq!(states().await, [pair("draft", "draft"), pair("draft", "draft")]);
    q.finish(&first, Verdict::Completed).await;
    assert_eq!(states().await, [pair("open", "pending"), pair("open", "pending")]);
    let row = &q.sql("SELECT path, path_bytes, patch, flags FROM millhand.pending_changes ORDER BY id").await[1];
    assert_eq!(row.get::<_, &str>(0), "caf\u{fffd}");
    assert_eq!(row.get::<_, Option<&[u8]>>(1), Some(b"caf\xe9".as_slice()));
    assert_eq!(row.get::<_, &[u8]>(2), b"diff \xff\0 bytes");

    let second = q.claim_one().await;
    q.store.draft_changes(owner(&second), &changes(&[b"a"])).await.expect("draft");
    q.finish(&second, Verdict::Completed).await;
    assert_eq!(
        states().await,
        [pair("superseded", "superseded"), pair("superseded", "superseded"), pair("open", "pending")]
    );
}

#[tokio::test]
async fn an_attempt_that_is_tried_again_or_fenced_opens_nothing() {
    let q = Queue::new().await;
    q.open().await;
    let first = q.claim_one().await;
    q.store.draft_changes(owner(&first), &changes(&[b"a"])).await.expect("draft");
    q.finish(&first, AGAIN).await;
    let second = q.claim_one().await;
    q.store.draft_changes(owner(&second), &changes(&[b"b"])).await.expect("draft");
    q.sql("UPDATE millhand.leases SET expires_at = now() - interval '1 second'").await;
    q.store.rescue_expired(std::time::Duration::ZERO, 10, 10).await.expect("rescue");
    q.finish(&second, Verdict::Completed).await;
    assert_eq!(q.one::<i64>("SELECT count(*) FROM millhand.pending_changes WHERE state <> 'draft'").await, 0);
}

#[tokio::test]
async fn a_large_change_set_is_written_whole() {
    let q = Queue::new().await;
    q.open().await;
    let claimed = q.claim_one().await;
    let paths: Vec<Vec<u8>> = (0..1500).map(|n| format!("dir/{n}").into_bytes()).collect();
    let paths: Vec<&[u8]> = paths.iter().map(Vec::as_slice).collect();
    q.store.draft_changes(owner(&claimed), &changes(&paths)).await.expect("draft");
    q.finish(&claimed, Verdict::Completed).await;
    let row = &q
        .sql(
            "SELECT count(*), (SELECT files FROM millhand.change_sets), (SELECT additions FROM millhand.change_sets) \
              FROM millhand.pending_changes WHERE state = 'pending'",
        )
        .await[0];
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i32>(1), row.get::<_, i32>(2)), (1500, 1500, 3000));
}

#[tokio::test]
async fn a_step_is_counted_once_however_often_it_is_recorded() {
    let q = Queue::new().await;
    let (_, task) = q.open().await;
    let claimed = q.claim_one().await;
    q.store.record_usage(owner(&claimed), &[step("m1", 5, 1_500_000)]).await.expect("usage");
    // The figure grows while the step is under way, and comes again at the end.
    q.store.record_usage(owner(&claimed), &[step("m1", 7, 2_000_000), step("m2", 1, 1)]).await.expect("usage");
    q.store.record_usage(owner(&claimed), &[step("m1", 0, 0)]).await.expect("usage");
    q.finish(&claimed, Verdict::Completed).await;
    let row = &q.sql(&format!("SELECT tokens, cost_usd FROM millhand.tasks WHERE id = {task}")).await[0];
    assert_eq!((row.get::<_, i64>(0), row.get::<_, Decimal>(1)), (28, Decimal::new(2_000_001, 9)));
    let row = &q.sql("SELECT steps, output_tokens, cost_usd FROM millhand.cost_by_model").await[0];
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (2, 8));
    for (view, key) in [("cost_by_agent", "agent"), ("cost_by_day", "(day = (now() AT TIME ZONE 'UTC')::date)::text")] {
        let rows = q.sql(&format!("SELECT {key}, tasks, steps, cost_usd FROM millhand.{view}")).await;
        let got = (rows[0].get::<_, &str>(0), rows[0].get::<_, i64>(1), rows[0].get::<_, i64>(2), rows[0].get(3));
        let key = if view == "cost_by_agent" { "opencode" } else { "true" };
        assert_eq!((rows.len(), got), (1, (key, 1, 2, Decimal::new(2_000_001, 9))), "{view}");
    }
    // What was paid stays when the task goes.
    q.sql("DELETE FROM millhand.sessions").await;
    assert_eq!(q.one::<Decimal>("SELECT cost_usd FROM millhand.cost_by_project").await, Decimal::new(2_000_001, 9));
}

#[tokio::test]
async fn deltas_are_dropped_when_their_part_is_whole_and_odd_bytes_are_kept_visible() {
    let q = Queue::new().await;
    q.open().await;
    let claimed = q.claim_one().await;
    let delta = |seq, part: &str, delta: &str| EventRow {
        seq,
        event: AgentEvent::TextDelta { part: part.to_owned(), delta: delta.to_owned() },
        began: None,
    };
    q.store
        .append_events(claimed.attempt_id, &[delta(1, "p1", "he"), delta(2, "p1", "llo"), delta(3, "p2", "x\0y")])
        .await
        .expect("events");
    let event = AgentEvent::Text { part: "p1".to_owned(), text: "hello \u{10ffff}".to_owned() };
    let whole = EventRow { seq: 4, event, began: Some(1) };
    q.store.append_events(claimed.attempt_id, std::slice::from_ref(&whole)).await.expect("events");
    // A lost reply: the same rows again.
    q.store.append_events(claimed.attempt_id, &[whole]).await.expect("events");
    let rows = q.sql("SELECT seq, kind, part, data::text FROM millhand.turn_events ORDER BY seq").await;
    let rows: Vec<(i32, String, String)> = rows.iter().map(|r| (r.get(0), r.get(1), r.get(3))).collect();
    assert_eq!(
        rows,
        [
            (3, "text_delta".to_owned(), "{\"delta\": \"x\u{fffd}y\"}".to_owned()),
            (4, "text".to_owned(), "{\"text\": \"hello \u{10ffff}\", \"began\": 1}".to_owned()),
        ]
    );
}

#[tokio::test]
async fn a_probe_that_fails_says_why_and_keeps_the_models_that_were_offered() {
    let q = Queue::new().await;
    let models = ["a/b".to_owned(), "c/d".to_owned()];
    let found = AgentRow { installed: true, version: Some("1.2.3"), problem: None, models: &models };
    q.store.record_agent("h1", "opencode", "opencode", &found).await.expect("record");
    let broken = AgentRow { installed: false, version: Some("1.2.3"), problem: Some("it did not start"), models: &[] };
    q.store.record_agent("h1", "opencode", "opencode", &broken).await.expect("record");
    let row = &q.store.agents().await.expect("agents")[0];
    assert_eq!(
        (row.installed, row.problem.as_deref(), row.version.as_deref()),
        (false, Some("it did not start"), Some("1.2.3"))
    );
    assert_eq!(row.models, serde_json::json!(["a/b", "c/d"]));
    let fewer = AgentRow { models: &models[..1], ..found };
    q.store.record_agent("h1", "opencode", "opencode", &fewer).await.expect("record");
    let row = &q.store.agents().await.expect("agents")[0];
    assert_eq!((row.installed, &row.problem, &row.models), (true, &None, &serde_json::json!(["a/b"])));
    assert!(row.probed_at > chrono::Utc::now() - chrono::TimeDelta::minutes(1));
}
