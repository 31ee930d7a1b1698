//! The roles of `ops/roles.sql` at their work: each as a login that has no other privilege.

use anyhow::{Context as _, Result};
use millhand::{
    actions,
    model::access::Scope,
    store::{Connect, Store},
};
use tokio_postgres::{Client, Config};

use super::roles::ROLES_SQL;
use crate::{
    cli::{Cli, Ran, finish},
    support::{TestDb, db::connect, worker, world::World},
};

const WRITES: &str = r##"[
  {"type": "tool_call", "id": "call_1", "name": "write", "arguments": {"filePath": "NEW.md", "content": "# new\n"}},
  {"type": "text", "content": "Wrote NEW.md."},
  {"type": "done"},
  {"type": "text", "content": "It is there."},
  {"type": "done"}
]"##;

/// A login that has this role and no other.
async fn login(db: &TestDb, role: &str) -> Result<Config> {
    let client = db.client().await?;
    client.batch_execute(ROLES_SQL).await?;
    let name = format!("{}_{role}", db.name());
    client.batch_execute(&format!("CREATE ROLE {name} LOGIN IN ROLE millhand_{role}")).await?;
    let mut config = db.config();
    config.user(&name);
    Ok(config)
}

/// Why Postgres refuses this; none: it does not.
async fn refusal(client: &Client, sql: &str) -> Option<String> {
    client
        .batch_execute(sql)
        .await
        .err()
        .map(|error| error.as_db_error().map_or(error.to_string(), |db| db.message().to_owned()))
}

#[tokio::test]
async fn who_may_enqueue_queues_tasks_and_can_do_nothing_else() -> Result<()> {
    let db = TestDb::new().await?;
    let admin = db.client().await?;
    admin.batch_execute("SELECT millhand.add_project('acme', '/src/acme')").await?;
    admin.batch_execute("INSERT INTO millhand.tasks (project, prompt) VALUES ('acme', 'secret plan')").await?;
    let client = connect(&login(&db, "enqueue").await?).await?;

    let insert = "INSERT INTO millhand.tasks (project, prompt, idempotency_key) VALUES ('acme', 'mine', 'k1') \
                  ON CONFLICT (idempotency_key) DO NOTHING RETURNING id, session_id, chat_id";
    let row = client.query_one(insert, &[]).await?;
    let (task, session): (i64, i64) = (row.get(0), row.get(1));
    assert!(client.query_opt(insert, &[]).await?.is_none(), "once per key");
    client
        .execute("INSERT INTO millhand.tasks (session_id, prompt) VALUES ($1, 'and this')", &[&session])
        .await
        .context("in a session that there is")?;
    let unknown = refusal(&client, "INSERT INTO millhand.tasks (project, prompt) VALUES ('nope', 'x')").await;
    assert_eq!(unknown.as_deref(), Some("unknown project \"nope\""), "the queue's own words");

    // Tables of one's own are not taken for ours by what acts with the owner's rights.
    client
        .batch_execute(
            "CREATE TEMP TABLE sessions (id bigint, project text, title text, base_branch text, state text); \
             CREATE TEMP TABLE chats (id bigint, session_id bigint); CREATE TEMP TABLE nudges (session_id bigint); \
             CREATE TEMP TABLE projects (name text, base_branch text, default_agent text, default_model text, max_attempts int); \
             INSERT INTO pg_temp.projects VALUES ('nope', 'main', 'opencode', NULL, 3)",
        )
        .await?;
    assert!(refusal(&client, "INSERT INTO millhand.tasks (project, prompt) VALUES ('nope', 'x')").await.is_some());
    client.execute("INSERT INTO millhand.tasks (project, prompt) VALUES ('acme', 'still ours')", &[]).await?;
    let own: i64 = client.query_one("SELECT count(*) FROM pg_temp.sessions", &[]).await?.get(0);
    assert_eq!(own, 0);
    let prompts: Vec<String> = admin
        .query("SELECT prompt || ' ' || state FROM millhand.tasks ORDER BY id", &[])
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(prompts, ["secret plan pending", "mine pending", "and this waiting", "still ours pending"]);

    for sql in [
        "SELECT prompt FROM millhand.tasks".to_owned(),
        "SELECT * FROM millhand.tasks".to_owned(),
        "INSERT INTO millhand.tasks (project, prompt) VALUES ('acme', 'x') RETURNING prompt".to_owned(),
        "SELECT title FROM millhand.sessions".to_owned(),
        "SELECT * FROM millhand.inbox".to_owned(),
        "SELECT name FROM millhand.projects".to_owned(),
        "SELECT data FROM millhand.turn_events".to_owned(),
        "INSERT INTO millhand.tasks (project, prompt, state) VALUES ('acme', 'x', 'completed')".to_owned(),
        format!("UPDATE millhand.tasks SET priority = -9 WHERE id = {task}"),
        format!("DELETE FROM millhand.tasks WHERE id = {task}"),
        format!("SELECT millhand.cancel_task({task})"),
        format!("SELECT millhand.retry_task({task})"),
        "INSERT INTO millhand.sessions (project) VALUES ('acme')".to_owned(),
        "INSERT INTO millhand.nudges (session_id) VALUES (1)".to_owned(),
        "INSERT INTO millhand.audit_log (action) VALUES ('x')".to_owned(),
        "SELECT millhand.add_project('evil', '/etc')".to_owned(),
        "CREATE TABLE millhand.mine ()".to_owned(),
        "CREATE TEMP TABLE t (id int); CREATE TRIGGER t BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION millhand.fill_task()".to_owned(),
        "SET ROLE millhand_worker".to_owned(),
    ] {
        let why = refusal(&client, &sql).await.unwrap_or_else(|| panic!("not refused: {sql}"));
        assert!(why.contains("permission denied"), "{sql}: {why}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_with_its_role_alone_does_whole_turns_and_what_an_operator_does() -> Result<()> {
    let world = World::new(&[("writes", WRITES)]).await?;
    let config = login(&world.db, "worker").await?;
    let store = Store::new(Connect::plain(config.clone(), 8))?;
    assert!(store.migrate().await?.is_empty(), "there is nothing to do, which takes no right to do it");
    let url = url_of(&world.db, &config)?;
    let mut worker = worker::start(&world, &[("MILLHAND_DATABASE_URL", &url), ("MILLHAND_TIMINGS_PRUNE", "1s")])?;
    let task = world.queue("Write a file").await?;
    assert_eq!(world.settled(task).await?, "completed", "{}", worker::log(&world));
    let session: i64 = world.one(&format!("SELECT session_id FROM millhand.tasks WHERE id = {task}")).await?;
    let client = connect(&config).await?;
    client.execute("INSERT INTO millhand.tasks (session_id, prompt) VALUES ($1, 'again')", &[&session]).await?;
    let second: i64 = world.one("SELECT max(id) FROM millhand.tasks").await?;
    assert_eq!(world.settled(second).await?, "completed");
    assert!(!world.patch(second).await?.is_empty());
    assert!(world.one::<i64>("SELECT count(*) FROM millhand.usage").await? > 0);

    store.make_event_days(3).await?;
    client.execute("SELECT millhand.make_event_day('2020-01-01')", &[]).await?;
    // By this, unless the worker's pruner comes first.
    store.drop_event_days(30).await?;
    let old = "SELECT count(*) FROM pg_class WHERE relnamespace = 'millhand'::regnamespace AND relname LIKE 'turn_events%2020%'";
    assert_eq!(world.one::<i64>(old).await?, 0, "the old day is dropped");
    store.prune(1, 10).await?.context("nobody else prunes")?;
    store.advance_and_list_lanes().await?;
    let (row, _) = actions::add_token(&store, "ci", &[Scope::Read], None).await?;
    actions::revoke_token(&store, &actions::WhichToken::Id(millhand::model::ids::TokenId(row.id))).await?;
    for sql in [
        "DELETE FROM millhand.audit_log",
        "UPDATE millhand.audit_log SET who = 'x'",
        "DELETE FROM millhand.usage",
        "ALTER TABLE millhand.tasks DISABLE TRIGGER ALL",
        "DROP TABLE millhand.turn_events",
        "SELECT millhand.rebuild_spending()",
    ] {
        assert!(refusal(&client, sql).await.is_some(), "not refused: {sql}");
    }
    worker.kill().await?;
    let log = worker::log(&world);
    assert!(!log.contains("denied"), "{log}");
    Ok(())
}

/// The database as this login's URL has it.
fn url_of(db: &TestDb, config: &Config) -> Result<String> {
    let user = config.get_user().context("user")?;
    Ok(db.url().replace("postgres://postgres@", &format!("postgres://{user}@")))
}

/// The program with a login of this role.
async fn as_login(cli: &Cli, config: &Config, arguments: &[&str]) -> Result<Ran> {
    let mut command = cli.command(arguments);
    command.env("DATABASE_URL", url_of(&cli.db, config)?).env("USER", "ada");
    finish(command).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_sees_everything_by_the_command_line_and_changes_nothing() -> Result<()> {
    let cli = Cli::new().await?;
    cli.some_of_everything().await?;
    let config = login(&cli.db, "reader").await?;
    for arguments in [
        &["ls"][..],
        &["ls", "--sessions"],
        &["show", "t1"],
        &["show", "s1"],
        &["attach", "t1"],
        &["diff", "t1"],
        &["inbox"],
        &["checkpoints", "s1"],
        &["stats"],
        &["stats", "--by", "day"],
        &["budget"],
        &["budget", "price"],
        &["project", "ls"],
        &["check", "ls"],
        &["webhook", "ls"],
        &["webhook", "deliveries"],
        &["worktree", "ls"],
        &["token", "ls"],
        &["status"],
        &["migrate", "--status"],
    ] {
        let ran = as_login(&cli, &config, arguments).await?;
        assert_eq!(ran.code, 0, "{arguments:?}: {}{}", ran.text(), ran.stderr);
        assert!(!ran.stderr.contains("denied"), "{arguments:?}: {}", ran.stderr);
    }
    for arguments in [
        &["run", "-d", "--project", "acme", "x"][..],
        &["cancel", "t7"],
        &["retry", "t2"],
        &["dismiss", "t5"],
        &["close", "s1"],
        &["token", "add", "mine", "--scope", "admin"],
        &["budget", "set", "--day", "1000000"],
        &["webhook", "add", "https://example.com/"],
    ] {
        let ran = as_login(&cli, &config, arguments).await?;
        assert_eq!((ran.code, ran.stderr.contains("permission denied")), (2, true), "{arguments:?}: {}", ran.stderr);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reviewer_reviews_answers_and_retries_and_leaves_the_rest_alone() -> Result<()> {
    let cli = Cli::new().await?;
    cli.some_of_everything().await?;
    let config = login(&cli.db, "reviewer").await?;
    let client = connect(&config).await?;
    let admin = cli.db.client().await?;
    admin
        .execute(
            "WITH attempt AS (INSERT INTO millhand.attempts (task_id, number, prompt, worker_id, host_id, token, agent_requested) \
             VALUES (4, 1, 'x', gen_random_uuid(), 'h1', gen_random_uuid(), 'opencode') RETURNING id, task_id) \
             INSERT INTO millhand.asks (task_id, attempt_id, external_id, kind, what, summary, deadline_at) \
             SELECT task_id, id, 'ask', 'permission', '{}', 'bash', now() + interval '1 hour' FROM attempt",
            &[],
        )
        .await?;
    for arguments in [
        &["review", "s1"][..],
        &["review", "s1", "--comment", "README.md:1", "Shorter, please"],
        &["send", "s1", "--review", "-d"],
        &["send", "s1", "--chat", "new", "-d", "x"],
        &["reject", "s1", "--only", "README.md"],
        &["retry", "t2"],
        &["dismiss", "t5"],
        &["cancel", "t7"],
        &["run", "-d", "--project", "acme", "x"],
        &["answer", "a1", "once"],
        &["inbox"],
    ] {
        let ran = as_login(&cli, &config, arguments).await?;
        assert_eq!(ran.code, 0, "{arguments:?}: {}{}", ran.text(), ran.stderr);
    }
    let by: Vec<String> = admin
        .query("SELECT DISTINCT action FROM millhand.audit_log WHERE who = $1 ORDER BY 1", &[&config.get_user()])
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(by, ["answer", "cancel", "dismiss", "reject", "retry"], "the log has the login, not the owner");
    for sql in [
        "UPDATE millhand.tasks SET state = 'completed'",
        "UPDATE millhand.pending_changes SET patch = ''",
        "UPDATE millhand.review_comments SET body = 'x'",
        "INSERT INTO millhand.audit_log (action) VALUES ('x')",
        "INSERT INTO millhand.review_comments (change_set_id, path, body, who, created_at) VALUES (1, 'x', 'x', 'x', now())",
        "SELECT secret FROM millhand.webhooks",
        "SELECT sha256 FROM millhand.api_tokens",
        "SELECT millhand.close_session(1)",
        "SELECT millhand.advance()",
        "DELETE FROM millhand.tasks",
    ] {
        let why = refusal(&client, sql).await.unwrap_or_else(|| panic!("not refused: {sql}"));
        assert!(why.contains("permission denied"), "{sql}: {why}");
    }
    Ok(())
}
