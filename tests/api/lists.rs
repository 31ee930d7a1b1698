//! Lists: pages that hold still while rows are inserted.

use anyhow::Result;
use serde_json::Value;

use super::Rig;

fn ids(page: &Value) -> Vec<i64> {
    page["items"].as_array().expect("items").iter().map(|item| item["id"].as_i64().expect("id")).collect()
}

#[tokio::test]
async fn pages_neither_repeat_nor_miss_a_task_while_others_are_inserted() -> Result<()> {
    let rig = Rig::new(&[]).await?;
    let mut expected = Vec::new();
    for n in 0..7 {
        expected.insert(0, rig.world.queue(&format!("task {n}")).await?);
    }
    let mut found = Vec::new();
    let mut page = rig.get("/api/tasks?limit=3").await?;
    loop {
        found.extend(ids(&page));
        rig.world.queue("meanwhile").await?;
        let Some(next) = page["next"].as_str() else { break };
        page = rig.get(&format!("/api/tasks?limit=3&cursor={next}")).await?;
    }
    assert_eq!(found, expected);
    assert!(page["next"].is_null());
    Ok(())
}

#[tokio::test]
async fn the_inbox_is_paged_through_items_of_one_moment() -> Result<()> {
    let rig = Rig::new(&[]).await?;
    for n in 0..5 {
        rig.world.queue(&format!("task {n}")).await?;
    }
    // All at once, and one without a time.
    rig.world.sql("UPDATE millhand.tasks SET state = 'failed', error_class = 'agent_failed', finished_at = now(), holds_line = true").await?;
    let mut found = Vec::new();
    let mut path = "/api/inbox?limit=2".to_owned();
    loop {
        let page = rig.get(&path).await?;
        found.extend(page["items"].as_array().expect("items").iter().map(|item| item["task_id"].as_i64().expect("id")));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/api/inbox?limit=2&cursor={next}");
    }
    let mut expected = found.clone();
    expected.sort_unstable_by(|a, b| b.cmp(a));
    expected.dedup();
    assert_eq!(found, expected);
    assert_eq!(found.len(), 5);
    Ok(())
}

#[tokio::test]
async fn filters_narrow_a_list_and_unknown_ones_are_refused() -> Result<()> {
    let rig = Rig::new(&[]).await?;
    let first = rig.world.queue("one").await?;
    rig.world.queue("two").await?;
    rig.world.sql(&format!("SELECT millhand.cancel_task({first})")).await?;
    assert_eq!(ids(&rig.get("/api/tasks?state=cancelled,failed").await?), [first]);
    let session = rig.get(&format!("/api/tasks/t{first}")).await?["session_id"].as_i64().expect("session");
    assert_eq!(ids(&rig.get(&format!("/api/tasks?session=s{session}&project=acme")).await?), [first]);
    for wrong in
        ["state=done", "stat=failed", "limit=0", "limit=501", "limit=x", "cursor=%20", "session=t7", "project=nobody"]
    {
        let (status, problem) = rig.send(reqwest::Method::GET, &format!("/api/tasks?{wrong}"), None).await?;
        let expected = if wrong.starts_with("project") { 404 } else { 400 };
        assert_eq!(status.as_u16(), expected, "{wrong}: {problem}");
        assert_eq!(problem["status"], expected, "{wrong}");
    }
    Ok(())
}
