//! Ten thousand worktrees: a round and a list take seconds.

use std::{
    fs,
    time::{Duration, Instant},
};

use millhand::worktrees::Outcome;

use super::Rig;

/// Open, and idle.
const OPEN: i64 = 9_000;
/// In the trash, for long enough.
const TRASHED: i64 = 900;
/// Closed, and due.
const DUE: usize = 100;
/// For the round that moves a thousand of them, in a debug build beside other tests on a busy machine; the look takes a third at most, and a
/// round without work a tenth.
const WITHIN: Duration = Duration::from_secs(60);

#[tokio::test]
async fn ten_thousand_worktrees_are_handled_in_seconds() {
    let rig = Rig::new().await;
    let mut due = Vec::new();
    for _ in 0..DUE {
        due.push(rig.worked().await.0);
    }
    rig.sql("UPDATE millhand.sessions SET state = 'closed'").await;
    let home = &rig.worktrees.home;
    let folders = home.agent_folder(1).join("worktrees");
    rig.sql(&format!(
        "WITH opened AS (INSERT INTO millhand.sessions (project) SELECT 'acme' FROM generate_series(1, {OPEN}) RETURNING id) \
         INSERT INTO millhand.worktrees (session_id, last_session_id, project, project_id, host_id, path, branch, base_commit, state, \
         measured_at) SELECT id, id, 'acme', 1, '{}', '{}/s' || id, 'b', repeat('ab', 20), 'ready', now() FROM opened",
        super::HOST,
        folders.display(),
    ))
    .await;
    rig.sql(&format!(
        "INSERT INTO millhand.worktrees (last_session_id, project, project_id, host_id, path, branch, base_commit, state, slot, \
         trashed_at, checkpoint, measured_at) SELECT n, 'acme', 1, '{}', '{}/s' || n, 'b', \
         (SELECT base_commit FROM millhand.worktrees ORDER BY id LIMIT 1), 'trashed', 's' || n || '-x', now() - interval '8 days', \
         repeat('ab', 20), now() FROM generate_series(1000001, 1000000 + {TRASHED}) n",
        super::HOST,
        folders.display(),
    ))
    .await;
    for row in rig.sql("SELECT path, state, slot FROM millhand.worktrees WHERE last_session_id > 100").await {
        let folder = match row.get::<_, Option<String>>(2) {
            Some(slot) => home.trash().join(slot).join("worktree"),
            None => row.get::<_, String>(0).into(),
        };
        fs::create_dir_all(&folder).expect("folder");
        fs::write(folder.join("file"), "x").expect("write");
    }
    rig.later().await;

    let began = Instant::now();
    let outcomes = rig.round().await;
    let round = began.elapsed();
    let count = |wanted: &Outcome| outcomes.iter().filter(|outcome| *outcome == wanted).count();
    assert_eq!(count(&Outcome::Trashed), DUE);
    assert_eq!(count(&Outcome::Removed), usize::try_from(TRASHED).expect("count"));
    assert_eq!(outcomes.len(), DUE + usize::try_from(TRASHED).expect("count"));
    let open = fs::read_dir(&folders).expect("folders").count();
    assert_eq!(open, usize::try_from(OPEN).expect("count"), "no folder of an open session is touched");

    let began = Instant::now();
    assert_eq!(rig.worktrees.plan(None, false, false).await.expect("plan").len(), open + DUE);
    assert_eq!(rig.worktrees.unknown_folders().await.expect("folders"), []);
    let look = began.elapsed();
    let began = Instant::now();
    assert_eq!(rig.round().await, []);
    let quiet = began.elapsed();
    println!("round: {round:?}, plan and folders: {look:?}, quiet round: {quiet:?}");
    assert!(round < WITHIN && look < WITHIN / 3 && quiet < WITHIN / 10, "{round:?} {look:?} {quiet:?}");
}
