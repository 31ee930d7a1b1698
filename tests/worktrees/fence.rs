//! What begins while a worktree is on its way out wins.

use std::{fs, time::Duration};

use millhand::{
    git::GateOf,
    model::worktree::Reason,
    worktrees::{Outcome, Taking},
};

use super::{Rig, assert_worked};
use crate::support::wait_until;

#[tokio::test]
async fn a_session_reopened_or_claimed_between_look_and_move_keeps_its_worktree() {
    for claimed in [false, true] {
        let rig = Rig::new().await;
        let (session, worktree) = rig.worked().await;
        rig.close(session).await;
        rig.later().await;
        let id = rig.row(session).await.id;
        assert!(rig.store.begin_reaping(id, Reason::SessionClosed, "s1-0123").await.expect("begin"));
        rig.store.reopen_session(session).await.expect("reopen");
        if claimed {
            rig.send(session).await;
            rig.claim().await;
        }
        let confirmed = rig.store.confirm_reaping(id, Reason::SessionClosed, "c0ffee", false).await;
        assert!(!confirmed.expect("confirm"), "claimed: {claimed}");
        rig.store.abandon_reaping(id, None).await.expect("abandon");
        assert_worked(&worktree.path, true);
        assert!(!rig.store.begin_reaping(id, Reason::SessionClosed, "s1-0123").await.expect("begin"));
    }
}

#[tokio::test]
async fn a_worktree_in_use_is_never_begun_with() {
    let rig = Rig::new().await;
    let session = rig.open().await;
    let (_claimed, _mirror, worktree) = rig.begin().await;
    let id = rig.row(session).await.id;
    // Even where its session was closed by hand under a running turn.
    rig.sql("UPDATE millhand.sessions SET state = 'closed'").await;
    rig.later().await;
    for reason in [Reason::SessionClosed, Reason::Quota, Reason::Asked] {
        assert!(!rig.store.begin_reaping(id, reason, "s1-0123").await.expect("begin"), "{reason:?}");
    }
    assert!(matches!(&rig.round().await[..], [Outcome::Stays(_)]));
    assert!(worktree.path.join("README.md").exists());
}

#[tokio::test]
async fn a_claim_that_is_not_committed_yet_is_waited_for_and_seen() {
    let rig = Rig::new().await;
    let (session, _) = rig.worked().await;
    rig.close(session).await;
    rig.later().await;
    let id = rig.row(session).await.id;
    let mut client = rig.db.client().await.expect("client");
    let transaction = client.transaction().await.expect("transaction");
    let sql =
        "INSERT INTO millhand.leases VALUES ($1, 1, gen_random_uuid(), gen_random_uuid(), now() + interval '1 hour')";
    transaction.execute(sql, &[&session]).await.expect("lease");
    let store = rig.store.clone();
    let begin = tokio::spawn(async move { store.begin_reaping(id, Reason::SessionClosed, "s1-0123").await });
    wait_until("the reaper waits for the session", Duration::from_secs(10), async || {
        rig.one::<i64>(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()",
        )
        .await
            == 1
    })
    .await
    .expect("waits");
    transaction.commit().await.expect("commit");
    assert!(!begin.await.expect("task").expect("begin"));
    assert_eq!(rig.row(session).await.state, "ready");
}

#[tokio::test]
async fn a_turn_waits_for_the_gate_and_finds_its_work() {
    let rig = Rig::new().await;
    let (session, worktree) = rig.worked().await;
    rig.store.ask_to_reap(&[rig.row(session).await.id]).await.expect("ask");
    rig.send(session).await;
    // The reaper has begun, and looks at processes just now.
    let gate = rig.worktrees.git.gate(GateOf::Session(session)).await.expect("gate");
    let claimed = rig.claim().await;
    let (mirror, base) = rig.mirror(&claimed).await;
    let taking = Taking { token: claimed.token, session_id: session };
    let (worktrees, of_turn) = (rig.worktrees.clone(), mirror.clone());
    let turn = tokio::spawn(async move { worktrees.take(taking, &of_turn, &base).await });
    rig.worktrees.git.trash_worktree(&mirror, session, "s1-0123").await.expect("trash");
    rig.sql("UPDATE millhand.worktrees SET state = 'trashed', slot = 's1-0123', trashed_at = now()").await;
    assert!(!turn.is_finished());
    drop(gate);
    assert_eq!(turn.await.expect("task").expect("worktree"), worktree);
    assert_worked(&worktree.path, true);
}

#[tokio::test]
async fn a_turn_whose_lease_is_lost_makes_and_moves_nothing() {
    let rig = Rig::new().await;
    let session = rig.open().await;
    let claimed = rig.claim().await;
    let (mirror, base) = rig.mirror(&claimed).await;
    rig.sql("DELETE FROM millhand.leases").await;
    let taking = Taking { token: claimed.token, session_id: session };
    assert!(rig.worktrees.take(taking, &mirror, &base).await.is_err());
    assert!(!rig.worktrees.home.worktree(1, session).exists());
    assert_eq!(rig.one::<i64>("SELECT count(*) FROM millhand.worktrees").await, 0);
}

#[tokio::test]
async fn reapers_and_turns_at_once_lose_nothing() {
    let rig = Rig::new().await;
    let (session, worktree) = rig.worked().await;
    for round in 0..12 {
        let id = rig.row(session).await.id;
        rig.store.ask_to_reap(&[id]).await.expect("ask");
        let reap = async {
            // Two reapers, such as a worker's and one of the command line.
            tokio::join!(rig.round(), rig.round());
        };
        let turn = async {
            rig.send(session).await;
            let name = format!("round-{round}");
            rig.turn(|path| fs::write(path.join(&name), "x").expect("write")).await;
        };
        tokio::join!(reap, turn);
        rig.restore(session).await;
        assert_worked(&worktree.path, true);
        for past in 0..=round {
            assert!(worktree.path.join(format!("round-{past}")).exists(), "round {past} is lost in {round}");
        }
    }
}
