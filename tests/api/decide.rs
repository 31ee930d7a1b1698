//! Deciding by the API: what is meant is said, and nobody decides about what they have not seen.

use std::time::Duration;

use anyhow::{Context, Result};
use millhand::{
    model::{change::ChangeSet, retry::Verdict},
    store::{Store, queue::Claimed},
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use super::Rig;
use crate::{
    queue::{
        claim_as, finish_as,
        recording::{changes, owner},
        register,
    },
    support::wait_until,
};

/// How long a test waits for two to be at the same row.
const WITHIN: Duration = Duration::from_secs(30);

/// A session with an open change set of two files, and a worker to run its next turns.
struct Reviewed {
    rig: Rig,
    store: Store,
    worker: Uuid,
    session: i64,
    /// The change set.
    set: i64,
}

impl Reviewed {
    async fn new() -> Result<Self> {
        let rig = Rig::new(&[]).await?;
        let (store, worker) = (rig.world.db.store()?, Uuid::new_v4());
        register(&store, worker, "h1").await;
        rig.world.queue("do it").await?;
        let claimed = claim_as(&store, worker, "h1", 1).await.pop().context("something to claim")?;
        store.draft_changes(owner(&claimed), &changes(&[b"a", b"b"])).await?;
        finish_as(&store, &claimed, Verdict::Completed).await;
        let session = claimed.session_id;
        let set = rig.world.one("SELECT id FROM millhand.change_sets").await?;
        Ok(Self { rig, store, worker, session, set })
    }

    /// The session's next turn, with all it has changed, about to finish.
    async fn next_turn(&self, hash: u8) -> Result<Claimed> {
        let sql =
            format!("INSERT INTO millhand.tasks (session_id, prompt) VALUES ({}, 'go on') RETURNING id", self.session);
        self.rig.world.sql(&sql).await?;
        let claimed = claim_as(&self.store, self.worker, "h1", 1).await.pop().context("something to claim")?;
        let set = ChangeSet { patch_sha256: [hash; 32], ..changes(&[b"a", b"b", b"c"]) };
        self.store.draft_changes(owner(&claimed), &set).await?;
        Ok(claimed)
    }

    async fn decide(&self, set: i64, what: &str, body: Value) -> Result<(StatusCode, Value)> {
        self.rig.send(Method::POST, &format!("/api/change-sets/{set}/{what}"), Some(body)).await
    }

    /// The change sets and how many of their files are in which state, in order.
    async fn states(&self) -> Result<Vec<(String, String, i64)>> {
        let sql = "SELECT c.state, p.state, count(*) FROM millhand.change_sets c \
                   JOIN millhand.pending_changes p ON p.change_set_id = c.id GROUP BY c.id, 1, 2 ORDER BY c.id, 2";
        Ok(self.rig.world.sql(sql).await?.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect())
    }

    /// Waits until so many wait for a lock.
    async fn waiting(&self, count: i64) -> Result<()> {
        let sql =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        let waits = async || self.rig.world.one::<i64>(sql).await.is_ok_and(|waiting| waiting >= count);
        wait_until(&format!("{count} wait for a lock"), WITHIN, waits).await
    }
}

fn state(set: &str, file: &str, count: i64) -> (String, String, i64) {
    (set.to_owned(), file.to_owned(), count)
}

#[tokio::test]
async fn who_has_chosen_no_file_does_not_mean_all() -> Result<()> {
    let reviewed = Reviewed::new().await?;
    for what in ["apply", "reject"] {
        let (status, problem) = reviewed.decide(reviewed.set, what, json!({ "only": [] })).await?;
        assert_eq!((status.as_u16(), &problem["type"]), (422, &json!("urn:millhand:refused")), "{what}: {problem}");
        assert!(problem["hint"].as_str().is_some_and(|hint| hint.contains("leave \"only\" out")), "{problem}");
    }
    assert_eq!(reviewed.states().await?, [state("open", "pending", 2)]);
    let (status, done) = reviewed.decide(reviewed.set, "reject", json!({ "only": null })).await?;
    assert_eq!((status.as_u16(), &done["paths"]), (200, &json!(["a", "b"])));
    assert_eq!(reviewed.states().await?, [state("rejected", "rejected", 2)]);
    Ok(())
}

#[tokio::test]
async fn a_rejection_is_held_against_the_hash_that_was_seen() -> Result<()> {
    let reviewed = Reviewed::new().await?;
    for expect in ["08".repeat(32), "0707".to_owned(), String::new()] {
        let (status, problem) = reviewed.decide(reviewed.set, "reject", json!({ "expect": expect })).await?;
        assert_eq!(status.as_u16(), 422, "{expect}: {problem}");
        assert!(problem["detail"].as_str().is_some_and(|why| why.contains("looked at")), "{problem}");
    }
    assert_eq!(reviewed.states().await?, [state("open", "pending", 2)]);
    let seen = json!({ "expect": "07".repeat(8), "only": ["a"] });
    assert_eq!(reviewed.decide(reviewed.set, "reject", seen).await?.0.as_u16(), 200);
    assert_eq!(reviewed.states().await?, [state("open", "pending", 1), state("open", "rejected", 1)]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_never_reaches_a_change_set_that_is_recorded_meanwhile() -> Result<()> {
    let reviewed = Reviewed::new().await?;
    let (mut set, mut rejected) = (reviewed.set, 0);
    for round in 1..=20 {
        let claimed = reviewed.next_turn(round).await?;
        let mut client = reviewed.rig.world.db.client().await?;
        // Both come to the older change set while somebody else has it.
        let held = client.transaction().await?;
        held.query_one("SELECT id FROM millhand.change_sets WHERE id = $1 FOR UPDATE", &[&set]).await?;
        let decide = async {
            if round % 2 == 0 {
                reviewed.waiting(1).await?;
            }
            reviewed.decide(set, "reject", json!({})).await
        };
        let finish = async {
            if round % 2 == 1 {
                reviewed.waiting(1).await?;
            }
            finish_as(&reviewed.store, &claimed, Verdict::Completed).await;
            anyhow::Ok(())
        };
        let release = async {
            reviewed.waiting(2).await?;
            Ok(held.commit().await?)
        };
        let ((status, answer), (), ()) = tokio::try_join!(decide, finish, release)?;
        assert!(matches!(status.as_u16(), 200 | 422), "{status} {answer}");
        rejected += u8::from(status == StatusCode::OK);
        let states = reviewed.states().await?;
        assert_eq!(states.last(), Some(&state("open", "pending", 3)), "round {round}: {states:?}");
        let older = &states[states.len() - 2];
        let decided = if status == StatusCode::OK { "rejected" } else { "superseded" };
        assert_eq!((older.0.as_str(), older.1.as_str()), (decided, decided), "round {round}");
        set = reviewed.rig.world.one("SELECT max(id) FROM millhand.change_sets").await?;
    }
    assert_eq!(rejected, 10, "whoever comes first has it");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_on_its_way_is_refused_when_its_task_is_run_again() -> Result<()> {
    let reviewed = Reviewed::new().await?;
    let world = &reviewed.rig.world;
    // A second result of the same task, about to be opened.
    let sql = "WITH again AS (INSERT INTO millhand.change_sets (session_id, task_id, attempt_id, project, agent, base_commit, \
               commit_id, tree_id, patch_sha256, files, additions, deletions, notes) SELECT session_id, task_id, NULL, project, \
               agent, base_commit, commit_id, tree_id, decode(repeat('09', 32), 'hex'), 1, 1, 0, notes FROM millhand.change_sets \
               RETURNING *) \
               INSERT INTO millhand.pending_changes (change_set_id, session_id, task_id, agent, path, kind, old_mode, new_mode, \
               is_binary, flags, additions, deletions, patch) SELECT again.id, p.session_id, p.task_id, p.agent, p.path, p.kind, \
               p.old_mode, p.new_mode, p.is_binary, p.flags, p.additions, p.deletions, p.patch FROM again, millhand.pending_changes p";
    world.sql(sql).await?;
    let mut client = world.db.client().await?;
    let held = client.transaction().await?;
    held.batch_execute("LOCK TABLE millhand.tasks IN ACCESS EXCLUSIVE MODE").await?;
    let decide = reviewed.decide(reviewed.set, "reject", json!({}));
    let again = async {
        reviewed.waiting(1).await?;
        for table in ["change_sets", "pending_changes"] {
            let id = if table == "change_sets" { "id" } else { "change_set_id" };
            let (before, after) = if table == "change_sets" { ("open", "open") } else { ("pending", "pending") };
            held.batch_execute(&format!(
                "UPDATE millhand.{table} SET state = 'superseded' WHERE state = '{before}'; \
                 UPDATE millhand.{table} SET state = '{after}' WHERE {id} <> {}",
                reviewed.set
            ))
            .await?;
        }
        Ok(held.commit().await?)
    };
    let ((status, problem), ()) = tokio::try_join!(decide, again)?;
    assert_eq!(status.as_u16(), 422, "{problem}");
    assert_eq!(reviewed.states().await?, [state("superseded", "superseded", 2), state("open", "pending", 2)]);
    Ok(())
}
