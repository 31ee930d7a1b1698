//! `ops/roles.sql`: what each role may do in the database, all of it, and nothing else.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use tokio_postgres::{Client, error::SqlState};

use crate::support::TestDb;

pub(super) const ROLES_SQL: &str = include_str!("../../ops/roles.sql");

/// What each role may do with each table and view: Select, Insert, Update, Delete; in small letters, with some of its columns only.
const TABLES: &str = "
    table            worker reviewer reader enqueue
    agent_sessions   SIU    S        S      -
    agents           SIU    S        S      -
    api_tokens       SIUD   s        s      -
    applies          SIU    S        S      -
    asks             SIU    S        S      -
    attempts         SIU    S        S      -
    audit_log        SI     S        S      -
    budget_state     S      S        S      -
    budgets          SIUD   S        S      -
    change_sets      SIUD   S        S      -
    chats            SI     Si       S      -
    check_feedback   SIU    S        S      -
    check_runs       SIU    S        S      -
    checks           SIUD   S        S      -
    cost_by_agent    S      S        S      -
    cost_by_day      S      S        S      -
    cost_by_model    S      S        S      -
    cost_by_project  S      S        S      -
    deliveries       SIUD   S        S      -
    forecasts        SIU    S        S      -
    inbox            S      S        S      -
    leases           SIUD   S        S      -
    login_codes      SIUD   -        -      -
    nudges           SIUD   S        S      -
    pending_changes  SIU    S        S      -
    prices           SIUD   S        S      -
    project_files    SIUD   S        S      -
    projects         SIUD   S        S      -
    review_comments  SIU    Siu      S      -
    review_looks     SIU    Siu      S      -
    schema_history   S      S        S      -
    sessions         SIUD   S        S      -
    spending         SIU    S        S      -
    tasks            SIUD   Si       S      si
    turn_events      SID    S        S      -
    usage            SIU    S        S      -
    webhooks         SIUD   s        s      -
    workers          SIU    S        S      -
    worktrees        SIUD   S        S      -
";

/// The columns behind the small letters.
const COLUMNS: &[(&str, &str, &str, &str)] = &[
    (
        "api_tokens",
        "SELECT",
        "reader reviewer",
        "created_at created_by expires_at id kind last_used_at name revoked_at scopes",
    ),
    ("chats", "INSERT", "reviewer", "session_id"),
    ("review_comments", "INSERT", "reviewer", "body change_set_id line path session_id who"),
    ("review_comments", "UPDATE", "reviewer", "task_id"),
    ("review_looks", "INSERT", "reviewer", "change_set_id session_id who"),
    ("review_looks", "UPDATE", "reviewer", "at change_set_id"),
    (
        "tasks",
        "INSERT",
        "reviewer",
        "agent chat_id idempotency_key max_attempts merge_branch merge_commit model parent_task_id priority project prompt run_at session_id variant",
    ),
    (
        "tasks",
        "INSERT",
        "enqueue",
        "agent chat_id idempotency_key max_attempts model parent_task_id priority project prompt run_at session_id variant",
    ),
    ("tasks", "SELECT", "enqueue", "chat_id id idempotency_key session_id"),
    (
        "webhooks",
        "SELECT",
        "reader reviewer",
        "allow_private created_at disabled_reason enabled enabled_at events id project url watermark",
    ),
];

/// Who may call what; nobody else may, and triggers' functions nobody.
const FUNCTIONS: &[(&str, &str)] = &[
    ("add_project", "worker"),
    ("advance", "worker"),
    ("answer_ask", "worker reviewer"),
    ("budget_words", "worker reviewer reader"),
    ("cancel_task", "worker reviewer"),
    ("close_session", "worker"),
    ("dismiss_task", "worker reviewer"),
    ("drop_event_day", "worker"),
    ("forget_roll_back", "worker"),
    ("lane_of", "worker reviewer reader"),
    ("limits_now", "worker reviewer reader"),
    ("make_event_day", "worker"),
    ("oldest_program", "worker reviewer reader"),
    ("over_budget", "worker reviewer reader"),
    ("rebuild_spending", ""),
    ("reject_changes", "worker reviewer"),
    ("release_budget", "worker"),
    ("reopen_session", "worker"),
    ("retry_task", "worker reviewer"),
    ("settle_change_set", "worker"),
    ("sweep_lines", "worker"),
];

/// What acts with the rights of the owner, because who may call it has few.
const DEFINERS: &[&str] = &[
    "announce_tasks",
    "answer_ask",
    "cancel_task",
    "dismiss_task",
    "drop_event_day",
    "fill_task",
    "forget_roll_back",
    "make_event_day",
    "reject_changes",
    "retry_task",
];

const ROLES: [&str; 4] = ["worker", "reviewer", "reader", "enqueue"];

/// Whether the session's role may run this; what else there is to be said against it does not count. It is planned only, which is when
/// Postgres looks at privileges.
async fn may(client: &Client, sql: &str) -> Result<bool> {
    match client.batch_execute(&format!("EXPLAIN {sql}")).await {
        Ok(()) => Ok(true),
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Ok(false),
        // A view that cannot be written: said before anyone looks at privileges, and as good as a no.
        Err(error) if error.code() == Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE) => Ok(false),
        Err(error) => Err(error).context(sql.to_owned()),
    }
}

/// What a role may do with a table, by trying it column by column.
async fn tried(client: &Client, table: &str, columns: &[String]) -> Result<(String, BTreeMap<&'static str, String>)> {
    let mut letters = String::new();
    let mut parts = BTreeMap::new();
    let statement = |verb: &str, columns: &[&str]| match verb {
        "SELECT" => format!("SELECT {} FROM millhand.{table}", columns.join(", ")),
        "INSERT" => {
            let defaults = vec!["DEFAULT"; columns.len()].join(", ");
            format!("INSERT INTO millhand.{table} ({}) VALUES ({defaults})", columns.join(", "))
        }
        _ => format!("UPDATE millhand.{table} SET {} = DEFAULT", columns.join(" = DEFAULT, ")),
    };
    for (verb, letter) in [("SELECT", 'S'), ("INSERT", 'I'), ("UPDATE", 'U')] {
        let all: Vec<_> = columns.iter().map(String::as_str).collect();
        if may(client, &statement(verb, &all)).await? {
            letters.push(letter);
            continue;
        }
        let mut some = Vec::new();
        for column in all {
            if may(client, &statement(verb, &[column])).await? {
                some.push(column);
            }
        }
        if !some.is_empty() {
            letters.push(letter.to_ascii_lowercase());
            parts.insert(verb, some.join(" "));
        }
    }
    if may(client, &format!("DELETE FROM millhand.{table}")).await? {
        letters.push('D');
    }
    if letters.is_empty() {
        letters.push('-');
    }
    Ok((letters, parts))
}

#[tokio::test]
async fn each_role_may_do_what_is_said_of_it_and_nothing_else() -> Result<()> {
    let db = TestDb::new().await?;
    let client = db.client().await?;
    client.batch_execute(ROLES_SQL).await?;
    // What somebody granted by hand goes, and the second time changes nothing.
    client
        .batch_execute(
            "GRANT DELETE ON millhand.tasks TO millhand_reader; GRANT SELECT (sha256) ON millhand.api_tokens TO millhand_reader; \
             GRANT EXECUTE ON FUNCTION millhand.retry_task(bigint, text, text, text) TO PUBLIC; \
             GRANT CREATE ON SCHEMA millhand TO millhand_worker",
        )
        .await?;
    client.batch_execute(ROLES_SQL).await?;

    let sql = "SELECT c.relname::text, array_agg(a.attname::text ORDER BY a.attname) FROM pg_class c \
               JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
               WHERE c.relnamespace = 'millhand'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition \
               GROUP BY 1 ORDER BY 1";
    let tables: Vec<(String, Vec<String>)> =
        client.query(sql, &[]).await?.iter().map(|row| (row.get(0), row.get(1))).collect();
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut columns: BTreeMap<(String, &str, String), Vec<&str>> = BTreeMap::new();
    for role in ROLES {
        client.batch_execute(&format!("SET ROLE millhand_{role}")).await?;
        for (table, its_columns) in &tables {
            let (letters, parts) = tried(&client, table, its_columns).await?;
            found.entry(table.clone()).or_default().push(letters);
            for (verb, part) in parts {
                columns.entry((table.clone(), verb, part)).or_default().push(role);
            }
        }
        client.batch_execute("RESET ROLE").await?;
    }
    let found: Vec<_> = found.into_iter().map(|(table, letters)| format!("{table} {}", letters.join(" "))).collect();
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let expected: Vec<_> = TABLES.lines().map(words).filter(|line| !line.is_empty()).skip(1).collect();
    assert_eq!(found, expected, "a table that is new belongs into ops/roles.sql and into this test");
    let found: Vec<_> = columns
        .into_iter()
        .map(|((table, verb, columns), mut roles)| {
            roles.sort_unstable();
            (table, verb.to_owned(), roles.join(" "), columns)
        })
        .collect();
    let expected: Vec<_> = COLUMNS
        .iter()
        .map(|(a, b, c, d)| ((*a).to_owned(), (*b).to_owned(), (*c).to_owned(), (*d).to_owned()))
        .collect();
    assert_eq!(found, expected);
    Ok(())
}

#[tokio::test]
async fn functions_are_for_those_who_need_them_and_none_finds_what_others_put_in_its_way() -> Result<()> {
    let db = TestDb::new().await?;
    let client = db.client().await?;
    client.batch_execute(ROLES_SQL).await?;
    let sql = "SELECT p.proname::text, p.prorettype = 'trigger'::regtype, p.prosecdef, coalesce(array_to_string(p.proconfig, ' '), ''), \
               array_to_string(ARRAY(SELECT r FROM unnest($1::text[]) WITH ORDINALITY AS r (r, n) \
                                     WHERE has_function_privilege('millhand_' || r, p.oid, 'EXECUTE') ORDER BY n), ' '), \
               pg_get_userbyid(p.proowner)::text \
               FROM pg_proc p WHERE p.pronamespace = 'millhand'::regnamespace ORDER BY 1";
    let rows = client.query(sql, &[&ROLES.as_slice()]).await?;
    let mut callable = Vec::new();
    let mut definers = Vec::new();
    for row in &rows {
        let (name, is_trigger, is_definer): (&str, bool, bool) = (row.get(0), row.get(1), row.get(2));
        let (settings, roles, owner): (&str, &str, &str) = (row.get(3), row.get(4), row.get(5));
        assert_eq!(owner, "millhand_owner", "{name}");
        let is_fixed = settings.contains("search_path=millhand, pg_catalog, pg_temp");
        assert!(is_fixed, "{name} takes names for those that its caller has put in the way: {settings}");
        if is_definer {
            definers.push(name);
        }
        if is_trigger {
            assert_eq!(roles, "", "{name} is for triggers of ours");
        } else {
            callable.push((name, roles));
        }
    }
    assert_eq!(callable, FUNCTIONS, "a function that is new belongs into ops/roles.sql and into this test");
    assert_eq!(definers, DEFINERS);

    let sql = "SELECT c.relname::text FROM pg_class c WHERE c.relnamespace = 'millhand'::regnamespace \
               AND (c.relkind = 'S' OR c.relispartition) AND c.relkind <> 'i' AND c.relkind <> 'I' AND EXISTS ( \
                   SELECT 1 FROM unnest($1::text[]) r WHERE CASE c.relkind WHEN 'S' THEN has_sequence_privilege('millhand_' || r, c.oid, 'USAGE') \
                   ELSE has_table_privilege('millhand_' || r, c.oid, 'SELECT, INSERT, UPDATE, DELETE') END)";
    client.execute("SELECT millhand.make_event_day('2020-01-01')", &[]).await?;
    client.batch_execute(ROLES_SQL).await?;
    let reachable: Vec<String> = client.query(sql, &[&ROLES.as_slice()]).await?.iter().map(|row| row.get(0)).collect();
    assert!(reachable.is_empty(), "neither sequences nor days' tables are anybody's to use: {reachable:?}");
    for role in ROLES {
        let sql = "SELECT has_schema_privilege($1, 'millhand', 'USAGE'), has_schema_privilege($1, 'millhand', 'CREATE'), \
                   has_database_privilege($1, current_database(), 'CREATE'), pg_has_role($1, 'millhand_owner', 'MEMBER')";
        let row = client.query_one(sql, &[&format!("millhand_{role}")]).await?;
        let may: Vec<bool> = (0..4).map(|column| row.get(column)).collect();
        assert_eq!(may, [true, false, false, false], "{role}");
    }
    Ok(())
}
