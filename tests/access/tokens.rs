//! Tokens and login codes: shown once, kept as hashes, worth nothing once they are taken back, used or old.

use std::time::Duration;

use anyhow::Result;
use millhand::{
    actions::{self, WhichToken},
    model::access::Scope,
    store::access::Shown,
};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;

use crate::{cli::Cli, support::TestDb};

const HOUR: Duration = Duration::from_secs(3600);

/// All rows of the schema as text, so that a secret which is kept anywhere is found.
pub async fn dump(db: &TestDb) -> Result<String> {
    let client = db.client().await?;
    let sql = "SELECT relname::text FROM pg_class WHERE relnamespace = 'millhand'::regnamespace AND relkind = 'r'";
    let mut all = String::new();
    for row in client.query(sql, &[]).await? {
        let sql = format!("SELECT coalesce(string_agg(t::text, E'\\n'), '') FROM millhand.{} t", row.get::<_, &str>(0));
        all.push_str(client.query_one(&sql, &[]).await?.get(0));
    }
    Ok(all)
}

/// What the audit log has, oldest first: the action and its details.
async fn audit(db: &TestDb) -> Result<Vec<(String, Value)>> {
    let rows = db.client().await?.query("SELECT action, details FROM millhand.audit_log ORDER BY id", &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_made_listed_and_taken_back() -> Result<()> {
    let cli = Cli::new().await?;
    let none = cli.run(&["token", "ls"]).await?;
    assert!(none.text().contains("millhand token add"), "{}", none.text());
    assert_eq!(cli.run(&["token", "add", "ci"]).await?.code, 2, "a token without a scope is refused");
    assert_eq!(cli.run(&["token", "add", "ci", "--scope", "root"]).await?.code, 2);
    assert_eq!(cli.run(&["token", "add", "ci", "--scope", "read", "--expires", "0s"]).await?.code, 2);
    assert_eq!(cli.run(&["token", "add", "a\nb", "--scope", "read"]).await?.code, 2);

    let added = cli.run(&["token", "add", "ci", "--scope", "review", "--scope", "enqueue", "--expires", "90d"]).await?;
    assert_eq!(added.code, 0, "{}", added.stderr);
    let said = added.text();
    assert!(said.contains("ci may enqueue, review for") && said.contains("(shown only now)"), "{said}");
    let secret = said.split_whitespace().find(|word| word.starts_with("mh_")).expect("secret").to_owned();
    assert_eq!(secret.len(), 46, "{secret}");
    let twice = cli.run(&["token", "add", "ci", "--scope", "read"]).await?;
    assert_eq!((twice.code, twice.stderr.contains("token rm ci")), (2, true), "{}", twice.stderr);
    let other = cli.run(&["token", "add", "nightly", "--scope", "admin", "--json"]).await?.objects().remove(0);
    assert_eq!((&other["expires_at"], &other["state"]), (&Value::Null, &"in use".into()));

    let listed = cli.run(&["token", "ls"]).await?.text();
    assert!(listed.contains("tok1") && listed.contains("enqueue review") && listed.contains("never"), "{listed}");
    let all = listed + &cli.run(&["token", "ls", "--all", "--json"]).await?.text() + &dump(&cli.db).await?;
    let other_secret = other["secret"].as_str().expect("secret");
    assert!(!all.contains(&secret) && !all.contains(other_secret), "hashes only: {all}");

    assert!(cli.run(&["token", "rm", "ci"]).await?.text().contains("tok1 ci is taken back"));
    assert_eq!(cli.run(&["token", "rm", "ci"]).await?.code, 6, "none in use has this name");
    assert_eq!(cli.run(&["token", "rm", "tok9"]).await?.code, 6);
    let left = cli.run(&["token", "ls", "--json"]).await?.objects();
    assert_eq!(left.iter().map(|row| row["name"].clone()).collect::<Vec<_>>(), ["nightly"]);
    assert_eq!(cli.run(&["token", "ls", "--all", "--json"]).await?.objects().len(), 2);
    assert_eq!(cli.run(&["token", "add", "ci", "--scope", "read"]).await?.code, 0, "the name is free again");

    let noted = audit(&cli.db).await?;
    let actions: Vec<_> = noted.iter().map(|(action, _)| action.as_str()).collect();
    assert_eq!(actions, ["add_token", "add_token", "remove_token", "add_token"]);
    assert_eq!((&noted[0].1["name"], &noted[0].1["scopes"]), (&"ci".into(), &serde_json::json!(["enqueue", "review"])));
    Ok(())
}

#[tokio::test]
async fn a_secret_is_worth_something_until_it_expires_or_is_taken_back() -> Result<()> {
    let db = TestDb::new().await?;
    let store = db.store()?;
    let of = async |shown, secret: &SecretString| actions::principal_of(&store, shown, secret).await;
    let (row, secret) = actions::add_token(&store, " ada's laptop ", &[Scope::Review], None).await?;
    let found = of(Shown::Token, &secret).await?.expect("in use");
    assert_eq!((found.id.0, found.name.as_str()), (row.id, "ada's laptop"));
    assert!(
        found.may(Scope::Read) && found.may(Scope::Review) && !found.may(Scope::Enqueue) && !found.may(Scope::Admin)
    );
    assert_eq!(of(Shown::Browser, &secret).await?, None, "a token is no cookie");
    let used = actions::tokens(&store, false, None, 10).await?.remove(0);
    assert!(used.last_used_at.is_some());
    for bad in ["", "mh_", &secret.expose_secret()[..45], &format!("{}x", secret.expose_secret()), "x' OR ''='"] {
        assert_eq!(of(Shown::Token, &SecretString::from(bad)).await?, None, "{bad}");
    }
    actions::revoke_token(&store, &WhichToken::Id(found.id)).await?;
    assert_eq!(of(Shown::Token, &secret).await?, None);

    let (_, short) = actions::add_token(&store, "short", &[Scope::Read], Some(HOUR)).await?;
    assert!(of(Shown::Token, &short).await?.is_some());
    let client = db.client().await?;
    let expire = "UPDATE millhand.api_tokens SET expires_at = clock_timestamp() WHERE name = 'short'";
    client.execute(expire, &[]).await?;
    assert_eq!(of(Shown::Token, &short).await?, None);
    assert!(actions::tokens(&store, false, None, 10).await?.is_empty());
    assert_eq!(actions::tokens(&store, true, None, 10).await?[0].state, "expired");
    actions::add_token(&store, "short", &[Scope::Read], Some(HOUR)).await?;
    assert_eq!(
        of(Shown::Token, &short).await?,
        None,
        "one that has expired gives its name away, and is not renewed by it"
    );
    Ok(())
}

#[tokio::test]
async fn a_login_code_logs_one_browser_in_once_and_soon() -> Result<()> {
    let db = TestDb::new().await?;
    let store = db.store()?;
    let code = actions::add_login_code(&store, "ada", &[Scope::Admin], HOUR).await?;
    let (id, secret) = actions::log_in(&store, code.expose_secret(), HOUR).await?.expect("logged in");
    let found = actions::principal_of(&store, Shown::Browser, &secret).await?.expect("principal");
    assert_eq!((found.id, found.name.as_str(), found.scopes.as_slice()), (id, "ada", &[Scope::Admin][..]));
    let as_token = SecretString::from(format!("mh_{}", secret.expose_secret()));
    assert_eq!(actions::principal_of(&store, Shown::Token, &as_token).await?, None, "a cookie is no token");
    assert_eq!(actions::log_in(&store, code.expose_secret(), HOUR).await?.map(|it| it.0), None, "used");
    assert!(actions::log_in(&store, secret.expose_secret(), HOUR).await?.is_none(), "a cookie is no code");
    for bad in ["", "x", code.expose_secret().trim_end_matches(char::is_alphanumeric)] {
        assert!(actions::log_in(&store, bad, HOUR).await?.is_none(), "{bad}");
    }

    let late = actions::add_login_code(&store, "late", &[Scope::Read], HOUR).await?;
    let client = db.client().await?;
    client.execute("UPDATE millhand.login_codes SET expires_at = clock_timestamp() WHERE name = 'late'", &[]).await?;
    assert!(actions::log_in(&store, late.expose_secret(), HOUR).await?.is_none(), "too late");

    let dump = dump(&db).await?;
    for secret in [&code, &late, &secret] {
        assert!(!dump.contains(secret.expose_secret()), "hashes only");
    }
    let noted = audit(&db).await?;
    assert_eq!(noted.len(), 1, "{noted:?}");
    assert_eq!((noted[0].0.as_str(), &noted[0].1["name"]), ("login", &"ada".into()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_at_once_with_one_code_one_is_logged_in() -> Result<()> {
    let db = TestDb::new().await?;
    let store = db.store()?;
    for round in 0..20 {
        let code = actions::add_login_code(&store, "raced", &[Scope::Read], HOUR).await?;
        let tries = (0..8).map(|_| actions::log_in(&store, code.expose_secret(), HOUR));
        let won = futures::future::try_join_all(tries).await?.into_iter().flatten().count();
        assert_eq!(won, 1, "round {round}");
    }
    let browsers: i64 = db.client().await?.query_one("SELECT count(*) FROM millhand.api_tokens", &[]).await?.get(0);
    assert_eq!(browsers, 20);
    Ok(())
}

#[tokio::test]
async fn changes_of_webhooks_are_noted_without_what_is_secret() -> Result<()> {
    let db = TestDb::new().await?;
    let client = db.client().await?;
    client
        .batch_execute(
            "INSERT INTO millhand.webhooks (url, secret, allow_private) \
                 VALUES ('https://user:pass@hooks.example.com/T0K3N', 'whsec_' || repeat('A', 43) || '=', true); \
             UPDATE millhand.webhooks SET watermark = now() + interval '1 s'; \
             UPDATE millhand.webhooks SET enabled = enabled; \
             UPDATE millhand.webhooks SET enabled = false; \
             DELETE FROM millhand.webhooks",
        )
        .await?;
    let noted = audit(&db).await?;
    let actions: Vec<_> = noted.iter().map(|(action, _)| action.as_str()).collect();
    assert_eq!(actions, ["add_webhook", "change_webhook", "remove_webhook"]);
    assert_eq!((&noted[0].1["host"], &noted[0].1["enabled"]), (&"hooks.example.com".into(), &true.into()));
    assert_eq!(noted[1].1["enabled"], false);
    let all = format!("{noted:?}");
    assert!(!all.contains("T0K3N") && !all.contains("whsec_") && !all.contains("pass"), "{all}");
    Ok(())
}
