//! What is refused at the insert, in words that say what to do; and nothing of it stays behind.

use super::Queue;

async fn refusal(q: &Queue, sql: &str) -> (String, String) {
    let error = q.client().await.batch_execute(sql).await.expect_err(sql);
    let db = error.as_db_error().expect("a refusal by the database");
    (db.message().to_owned(), db.hint().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn bad_inserts_are_refused_in_words_and_leave_nothing() {
    let q = Queue::new().await;
    let cases = [
        (
            "INSERT INTO millhand.tasks (project, prompt) VALUES ('nosuch', 'x')",
            "unknown project \"nosuch\"",
            "add_project",
        ),
        ("INSERT INTO millhand.tasks (prompt) VALUES ('x')", "needs a project or a session_id", "INSERT INTO"),
        ("INSERT INTO millhand.tasks (project, prompt) VALUES ('acme', E' \\n ')", "the prompt is empty", ""),
        (
            "INSERT INTO millhand.tasks (project, prompt) VALUES ('acme', repeat('x', 2000000))",
            "the prompt has 2000000 bytes; at most 1048576",
            "Put the long part into a file",
        ),
        (
            "INSERT INTO millhand.tasks (session_id, prompt) VALUES (99, 'x')",
            "there is no session s99",
            "ls --sessions",
        ),
        ("INSERT INTO millhand.tasks (chat_id, prompt) VALUES (99, 'x')", "there is no chat c99", "chat_id"),
        ("SELECT millhand.retry_task(99)", "there is no task t99", ""),
        ("SELECT millhand.cancel_task(99)", "there is no task t99", ""),
        ("SELECT millhand.dismiss_task(99)", "there is no task t99", ""),
        ("SELECT millhand.add_project('acme', '/elsewhere')", "already registered with /src/acme", "another name"),
        ("SELECT millhand.add_project('-x', '/y')", "projects_name_form", ""),
        ("SELECT millhand.add_project('x', '--upload-pack=evil')", "projects_source_form", ""),
    ];
    for (sql, message, hint) in cases {
        let (said, advised) = refusal(&q, sql).await;
        assert!(said.contains(message), "{sql}\nsaid {said}");
        assert!(advised.contains(hint), "{sql}\nadvised {advised}");
    }
    let left: i64 = q
        .one(
            "SELECT (SELECT count(*) FROM millhand.tasks) + (SELECT count(*) FROM millhand.sessions) \
              + (SELECT count(*) FROM millhand.chats)",
        )
        .await;
    assert_eq!(left, 0);
}

#[tokio::test]
async fn a_prompt_with_nul_is_refused_and_never_cut() {
    let q = Queue::new().await;
    let client = q.client().await;
    let error = client
        .execute("INSERT INTO millhand.tasks (project, prompt) VALUES ('acme', $1)", &[&"before\0after"])
        .await
        .expect_err("NUL");
    assert!(error.as_db_error().expect("refused").message().contains("invalid byte sequence"));
}

#[tokio::test]
async fn what_only_the_queue_may_say_is_not_taken_from_an_insert() {
    let q = Queue::new().await;
    let row = &q
        .sql(
            "INSERT INTO millhand.tasks (project, prompt, state, attempts, message_id, cost_usd, holds_line, lane) \
             VALUES ('acme', 'x', 'completed', 7, 'msg_x', 9, true, 'mine') \
             RETURNING state, attempts, message_id, cost_usd::text, holds_line, lane",
        )
        .await[0];
    assert_eq!(row.get::<_, &str>(0), "pending");
    assert_eq!(row.get::<_, i32>(1), 0);
    assert_eq!(row.get::<_, Option<&str>>(2), None);
    assert_eq!(row.get::<_, &str>(3), "0.000000000");
    assert!(!row.get::<_, bool>(4));
    assert_eq!(row.get::<_, &str>(5), "*/1/opencode");
}

#[tokio::test]
async fn the_same_idempotency_key_is_taken_once() {
    let q = Queue::new().await;
    let sql = "INSERT INTO millhand.tasks (project, prompt, idempotency_key) VALUES ('acme', 'x', 'k')";
    q.sql(sql).await;
    let (said, _) = refusal(&q, sql).await;
    assert!(said.contains("tasks_idempotency_key"), "{said}");
    assert_eq!(q.one::<i64>("SELECT count(*) FROM millhand.sessions").await, 1, "the refused insert opened no session");
}

#[tokio::test]
async fn a_chat_belongs_to_its_session() {
    let q = Queue::new().await;
    let (first, _) = q.open().await;
    let (second, _) = q.open().await;
    let chat: i64 = q.one(&format!("SELECT id FROM millhand.chats WHERE session_id = {first}")).await;
    let (said, _) = refusal(
        &q,
        &format!("INSERT INTO millhand.tasks (session_id, chat_id, prompt) VALUES ({second}, {chat}, 'x')"),
    )
    .await;
    assert!(said.contains("belongs to session"), "{said}");
    let session: i64 =
        q.one(&format!("INSERT INTO millhand.tasks (chat_id, prompt) VALUES ({chat}, 'x') RETURNING session_id")).await;
    assert_eq!(session, first);
}

#[tokio::test]
async fn renaming_a_project_takes_its_tasks_along_and_costs_stay() {
    let q = Queue::new().await;
    let (_, task) = q.open().await;
    q.sql(
        "INSERT INTO millhand.usage (task_id, project, agent, model, agent_session, message_id, cost_usd) \
           VALUES (1, 'acme', 'opencode', 'm', 's', 'm1', 0.5)",
    )
    .await;
    q.sql("UPDATE millhand.projects SET name = 'acme2'").await;
    assert_eq!(q.one::<String>(&format!("SELECT project FROM millhand.tasks WHERE id = {task}")).await, "acme2");
    q.sql("DELETE FROM millhand.projects").await;
    assert_eq!(q.one::<i64>("SELECT count(*) FROM millhand.tasks").await, 0);
    assert_eq!(
        q.one::<String>("SELECT project || ' ' || cost_usd::text FROM millhand.cost_by_project").await,
        "acme 0.500000000"
    );
}

#[tokio::test]
async fn a_project_with_changes_that_nobody_has_reviewed_is_deleted_by_force_only() {
    let q = Queue::new().await;
    let (session, _) = q.open().await;
    q.sql(
        "INSERT INTO millhand.change_sets (session_id, project, agent, base_commit, commit_id, tree_id, patch_sha256, files, additions, \
           deletions, state) VALUES (1, 'acme', 'opencode', 'b', 'c', 't', 'p', 1, 1, 1, 'open')",
    )
    .await;
    q.sql(&format!(
        "INSERT INTO millhand.pending_changes (change_set_id, session_id, agent, path, kind, old_mode, new_mode, patch, state) \
           VALUES (1, {session}, 'opencode', 'a', 'added', 0, 33188, 'p', 'pending')"
    ))
    .await;
    let delete = "DELETE FROM millhand.projects";
    let (why, hint) = refusal(&q, delete).await;
    assert!(why.contains("\"acme\" has changes that nobody has reviewed"), "{why}");
    assert!(hint.contains("SET millhand.force"), "{hint}");
    assert_eq!(q.one::<i64>("SELECT count(*) FROM millhand.sessions").await, 1);
    let error = q.store.remove_project("acme", false).await.expect_err("refused").to_string();
    assert!(error.contains("nobody has reviewed"), "{error}");
    // A client that has removed one by force forces nothing later.
    let client = q.client().await;
    client.batch_execute("BEGIN; SET LOCAL millhand.force = 'on'; ROLLBACK").await.expect("rolled back");
    client.batch_execute(delete).await.expect_err("refused");
    assert!(q.store.remove_project("acme", true).await.expect("removed"));
    assert_eq!(q.one::<i64>("SELECT count(*) FROM millhand.projects").await, 0);
}
