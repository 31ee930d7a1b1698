//! `millhand webhook`, as people run it.

use anyhow::Result;
use serde_json::Value;

use crate::{
    cli::Cli,
    support::receiver::{Receiver, Reply},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_added_tested_listed_turned_off_and_removed() -> Result<()> {
    let there = Receiver::answering(|number, _| match number {
        0 => Reply::status(200),
        _ => Reply::Status(410, String::new(), String::new()),
    })
    .await?;
    let cli = Cli::new().await?;
    let none = cli.run(&["webhook", "ls"]).await?;
    assert!(none.text().contains("millhand webhook add"), "{}", none.text());
    let url = there.url();
    let refused = cli.run(&["webhook", "add", &url]).await?;
    assert_eq!((refused.code, refused.stderr.contains("--allow-private")), (2, true), "{}", refused.stderr);

    let added = cli.run(&["webhook", "add", &url, "--allow-private", "--json"]).await?;
    assert_eq!(added.code, 0, "{}", added.stderr);
    let row = &added.objects()[0];
    let secret = row["secret"].as_str().expect("secret").to_owned();
    assert!(secret.starts_with("whsec_"), "{secret}");
    assert_eq!(row["events"], serde_json::json!(["task.failed", "task.blocked", "task.needs_you", "host.gone"]));
    let twice = cli.run(&["webhook", "add", &url, "--allow-private"]).await?;
    assert_eq!((twice.code, twice.stderr.contains("already")), (2, true), "{}", twice.stderr);
    let nowhere = cli.run(&["webhook", "add", &url, "--allow-private", "--project", "nope"]).await?;
    assert_eq!(nowhere.code, 6, "{}", nowhere.stderr);

    let tested = cli.run(&["webhook", "test", "wh1"]).await?;
    assert_eq!((tested.code, tested.text().contains("answered 200")), (0, true), "{}", tested.text());
    assert_eq!(there.posts()[0].json()["data"]["webhook"], "wh1");
    let gone = cli.run(&["webhook", "test", "1"]).await?;
    assert_eq!((gone.code, gone.text().contains("410")), (1, true), "{}", gone.text());

    let listed = cli.run(&["webhook", "ls"]).await?;
    assert!(listed.text().contains("off: the receiver answered 410 Gone"), "{}", listed.text());
    let sent = cli.run(&["webhook", "deliveries"]).await?;
    assert!(sent.text().contains("dead") && sent.text().contains("delivered"), "{}", sent.text());
    let dead = cli.run(&["webhook", "deliveries", "wh1", "--state", "dead", "--json"]).await?.objects();
    assert_eq!((dead.len(), &dead[0]["last_status"], &dead[0]["event"]), (1, &410.into(), &"webhook.test".into()));
    let status = cli.run(&["status"]).await?;
    assert!(status.text().contains("1 delivery was given up"), "{}", status.text());
    let status: Value = cli.run(&["status", "--json"]).await?.objects().remove(0);
    assert_eq!((&status["dead_deliveries"], &status["webhooks_off"]), (&1.into(), &1.into()));
    let all = cli.run(&["webhook", "ls", "--json"]).await?.text()
        + &cli.run(&["webhook", "deliveries", "--json"]).await?.text();
    assert!(!all.contains(&secret) && !all.contains("whsec_"), "shown once only: {all}");

    assert!(cli.run(&["webhook", "enable", "wh1"]).await?.text().contains("is on"));
    let again = cli.run(&["webhook", "retry", "d2", "--json"]).await?;
    assert_eq!((again.code, &again.objects()[0]["deliveries"]), (0, &1.into()), "{}", again.stderr);
    let nothing = cli.run(&["webhook", "retry", "--dead"]).await?;
    assert!(nothing.text().contains("Nothing"), "{}", nothing.text());
    assert_eq!(cli.run(&["webhook", "retry", "d99"]).await?.code, 6);
    assert_eq!(cli.run(&["webhook", "retry"]).await?.code, 2);
    assert_eq!(cli.run(&["webhook", "test", "wh9"]).await?.code, 6);
    assert!(cli.run(&["webhook", "disable", "wh1"]).await?.text().contains("1 pending delivery wait"));
    assert!(cli.run(&["webhook", "rm", "wh1"]).await?.text().contains("removed"));
    assert_eq!(cli.run(&["webhook", "rm", "wh1"]).await?.code, 6);
    Ok(())
}
