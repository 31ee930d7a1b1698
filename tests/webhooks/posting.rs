//! How deliveries are posted: signed, at least once, each by one worker at a time, until the receiver has them.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use millhand::{
    config::Timings,
    model::retry::Verdict,
    store::{Connect, Store},
};
use secrecy::ExposeSecret as _;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::{Loops, deliveries, end_one, in_state, quick, receiver, some_deliveries, wait_until, webhook};
use crate::{
    queue::Queue,
    support::receiver::{Post, Receiver, Reply},
};

/// Base64, by the book.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let number = (0..3).fold(0_usize, |n, at| (n << 8) | usize::from(three.get(at).copied().unwrap_or(0)));
        for digit in 0..4 {
            let shown = digit <= three.len();
            text.push(if shown { char::from(DIGITS[(number >> (18 - 6 * digit)) & 63]) } else { '=' });
        }
    }
    text
}

fn unbase64(text: &str) -> Vec<u8> {
    let value = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let digits: Vec<u8> = text.bytes().filter(|c| *c != b'=').map(value).collect();
    let mut bytes = Vec::new();
    for four in digits.chunks(4) {
        let number = (0..4).fold(0_u32, |n, at| (n << 6) | u32::from(four.get(at).copied().unwrap_or(0)));
        bytes.extend(&number.to_be_bytes()[1..four.len()]);
    }
    bytes
}

/// HMAC-SHA256 as RFC 2104 has it.
fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    assert!(key.len() <= 64);
    let pad = |with: u8| -> Vec<u8> { (0..64).map(|at| key.get(at).copied().unwrap_or(0) ^ with).collect() };
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_task_is_posted_with_a_signature_that_anybody_can_check() {
    let q = Queue::new().await;
    let there = receiver().await;
    let (_, secret) = webhook(&q, &there.url(), &[]).await;
    let loops = Loops::start(&q.store, quick());
    let task = end_one(&q, Verdict::Failed).await;
    wait_until("it is delivered", async || in_state(&q, "delivered").await == 1).await;
    loops.stop().await;
    let posts = there.posts();
    assert_eq!(posts.len(), 1);
    let post = &posts[0];
    assert_eq!(post.path, "/hook?key=canary-in-url");
    assert_eq!(post.json()["data"]["task"], format!("t{task}"));
    assert_eq!(post.header("content-type"), "application/json");
    assert_eq!(post.header("host"), format!("127.0.0.1:{}", there.port));
    let key = unbase64(secret.expose_secret().strip_prefix("whsec_").expect("prefix"));
    assert_eq!(key.len(), 32);
    let signed = format!("{}.{}.{}", post.id(), post.header("webhook-timestamp"), post.body);
    assert_eq!(post.header("webhook-signature"), format!("v1,{}", base64(&hmac(&key, signed.as_bytes()))));
    let age = chrono::Utc::now().timestamp() - post.header("webhook-timestamp").parse::<i64>().expect("seconds");
    assert!((0..120).contains(&age), "{age}");
    assert_eq!(post.id(), q.one::<String>("SELECT dedupe_key FROM millhand.deliveries").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_at_once_post_each_delivery_once() {
    let q = Queue::new().await;
    let there = receiver().await;
    let (id, _) = webhook(&q, &there.url(), &[]).await;
    some_deliveries(&q, id, 120).await;
    let workers = [Loops::start(&q.store, quick()), Loops::start(&q.db.store().expect("store"), quick())];
    wait_until("all are delivered", async || in_state(&q, "delivered").await == 120).await;
    for worker in workers {
        worker.stop().await;
    }
    let mut seen: HashMap<String, usize> = HashMap::new();
    for post in there.posts() {
        *seen.entry(post.id().to_owned()).or_default() += 1;
    }
    assert_eq!((seen.len(), seen.values().max()), (120, Some(&1)));
    assert_eq!(q.one::<i64>("SELECT count(*) FROM millhand.deliveries WHERE tries <> 1").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_down_gets_it_later_with_the_same_id_and_body() {
    let q = Queue::new().await;
    let there = receiver().await;
    let port = there.port;
    webhook(&q, &there.url(), &[]).await;
    drop(there);
    let patient = Timings { webhook_backoff_cap: Duration::from_millis(500), ..quick() };
    let loops = Loops::start(&q.store, patient);
    end_one(&q, Verdict::Failed).await;
    wait_until("it was tried", async || {
        q.one::<i64>("SELECT count(*) FROM millhand.deliveries WHERE tries > 1 AND last_error LIKE '%connect%'").await
            == 1
    })
    .await;
    let there = Receiver::on(port, |number, _| Reply::status(if number == 0 { 500 } else { 200 })).await.expect("up");
    wait_until("it is delivered", async || in_state(&q, "delivered").await == 1).await;
    loops.stop().await;
    let posts = there.posts();
    assert_eq!(posts.len(), 2);
    assert_eq!((posts[0].id(), &posts[0].body), (posts[1].id(), &posts[1].body));
    let row = &q.sql("SELECT last_status, last_error, tries, ended_at IS NOT NULL FROM millhand.deliveries").await[0];
    assert_eq!((row.get::<_, Option<i32>>(0), row.get::<_, Option<&str>>(1)), (Some(200), None));
    assert!(row.get::<_, i32>(2) >= 3 && row.get::<_, bool>(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_never_taken_is_given_up_and_can_be_retried() {
    let q = Queue::new().await;
    let open = Arc::new(AtomicBool::new(false));
    let is_open = open.clone();
    let there = Receiver::answering(move |_, _| match is_open.load(Ordering::SeqCst) {
        true => Reply::status(200),
        false => Reply::Status(503, "retry-after: 1000000\r\n".to_owned(), "not\u{0} <b>now</b>".to_owned()),
    })
    .await
    .expect("receiver");
    let (id, _) = webhook(&q, &there.url(), &[]).await;
    some_deliveries(&q, id, 1).await;
    let loops = Loops::start(&q.store, quick());
    wait_until("it is dead", async || in_state(&q, "dead").await == 1).await;
    assert_eq!(there.posts().len(), 10, "the cap on waits holds for what a receiver asks, too");
    let error: String = q.one("SELECT last_error FROM millhand.deliveries").await;
    assert_eq!(error, "answered 503: not\u{fffd} <b>now</b>");
    assert_eq!(q.store.webhook_trouble().await.expect("trouble"), (1, 0));
    open.store(true, Ordering::SeqCst);
    assert_eq!(q.store.retry_dead_deliveries(Some(id + 1)).await.expect("retry"), 0);
    assert_eq!(q.store.retry_dead_deliveries(Some(id)).await.expect("retry"), 1);
    wait_until("it is delivered", async || in_state(&q, "delivered").await == 1).await;
    loops.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_between_the_post_and_the_note_of_it_lets_another_post_the_same_id() {
    let q = Queue::new().await;
    let there = Receiver::answering(|number, _| if number == 0 { Reply::Silence } else { Reply::status(200) })
        .await
        .expect("receiver");
    webhook(&q, &there.url(), &[]).await;
    end_one(&q, Verdict::Failed).await;
    let mut config = q.db.config();
    config.application_name("killed");
    let its_store = Store::new(Connect::plain(config, 8)).expect("store");
    let killed = Loops::start(&its_store, Timings { webhook_timeout: Duration::from_secs(60), ..quick() });
    wait_until("it was posted", async || there.posts().len() == 1).await;
    killed.kill();
    its_store.close();
    // What it asked for last may still be done, as after any kill: it could take the delivery once more.
    let left =
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'killed' AND datname = current_database()";
    wait_until("the database is done with it", async || q.one::<i64>(left).await == 0).await;
    let other = Loops::start(&q.db.store().expect("store"), quick());
    // Nobody else takes it before that time; here it has gone by.
    let waits: bool = q.one("SELECT next_try_at > now() + interval '60 seconds' FROM millhand.deliveries").await;
    assert!(waits);
    q.sql("UPDATE millhand.deliveries SET next_try_at = now()").await;
    wait_until("it is delivered", async || in_state(&q, "delivered").await == 1).await;
    other.stop().await;
    let posts = there.posts();
    assert_eq!((posts.len(), posts[0].id()), (2, posts[1].id()));
    assert_eq!(deliveries(&q).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_late_worker_notes_does_not_count() {
    let q = Queue::new().await;
    let there = receiver().await;
    let (id, _) = webhook(&q, &there.url(), &[]).await;
    some_deliveries(&q, id, 1).await;
    let lease = Duration::from_secs(60);
    let late = q.store.claim_deliveries(4, 8, lease, &[]).await.expect("claim").pop().expect("due");
    assert!(q.store.claim_deliveries(4, 8, lease, &[]).await.expect("claim").is_empty(), "it is somebody's");
    q.sql("UPDATE millhand.deliveries SET next_try_at = now()").await;
    assert!(q.store.claim_deliveries(4, 8, lease, &[id]).await.expect("claim").is_empty(), "enough under way");
    let now = q.store.claim_deliveries(4, 8, lease, &[]).await.expect("claim").pop().expect("due");
    assert_eq!((late.tries, now.tries), (1, 2));
    let posted = |tries, state| millhand::store::webhooks::Posted {
        id: late.id,
        tries,
        state,
        wait: Duration::ZERO,
        status: None,
        error: Some("x"),
        turn_off: Some("x"),
    };
    assert!(!q.store.end_delivery(&posted(1, "dead")).await.expect("note"));
    assert_eq!((in_state(&q, "pending").await, q.store.webhook_trouble().await.expect("trouble")), (1, (0, 0)));
    assert!(q.store.end_delivery(&posted(2, "dead")).await.expect("note"));
    assert_eq!(q.store.webhook_trouble().await.expect("trouble"), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_not_followed() {
    let q = Queue::new().await;
    let elsewhere = receiver().await;
    let target = elsewhere.url();
    let there = Receiver::answering(move |_, _| Reply::Status(307, format!("location: {target}\r\n"), String::new()))
        .await
        .expect("receiver");
    let (id, _) = webhook(&q, &there.url(), &[]).await;
    some_deliveries(&q, id, 1).await;
    let loops = Loops::start(&q.store, quick());
    wait_until("it is dead", async || in_state(&q, "dead").await == 1).await;
    loops.stop().await;
    assert_eq!((there.posts().len(), elsewhere.connections()), (10, 0));
    let error: String = q.one("SELECT last_error FROM millhand.deliveries").await;
    assert_eq!(error, "answered 307: redirects are not followed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_gone_turns_its_webhook_off() {
    let q = Queue::new().await;
    let there = Receiver::answering(|_, _| Reply::status(410)).await.expect("receiver");
    let (id, _) = webhook(&q, &there.url(), &[]).await;
    some_deliveries(&q, id, 1).await;
    let loops = Loops::start(&q.store, quick());
    wait_until("it is off", async || !q.store.webhooks(Some(id)).await.expect("webhook")[0].enabled).await;
    some_deliveries_later(&q, id).await;
    end_one(&q, Verdict::Failed).await;
    loops.stop().await;
    let row = &q.store.webhooks(Some(id)).await.expect("webhook")[0];
    assert_eq!((row.dead, row.pending, row.disabled_reason.as_deref()), (1, 1, Some("the receiver answered 410 Gone")));
    assert_eq!(there.posts().len(), 1);
}

async fn some_deliveries_later(q: &Queue, webhook: i64) {
    q.sql(&format!(
        "INSERT INTO millhand.deliveries (webhook_id, dedupe_key, event, payload) VALUES ({webhook}, 'later', 'webhook.test', '{{}}')"
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_and_endless_answers_are_bounded_and_hold_up_nobody_else() {
    let q = Queue::new().await;
    let slow = Receiver::answering(|number, _: &Post| match number % 5 {
        0 => Reply::Silence,
        1 => Reply::Endless(500),
        2 => Reply::EndlessHeaders,
        3 => Reply::Stall(500),
        _ => Reply::Endless(200),
    })
    .await
    .expect("receiver");
    let quick_one = receiver().await;
    let (slow_id, _) = webhook(&q, &slow.url(), &[]).await;
    let (quick_id, _) = webhook(&q, &quick_one.url(), &[]).await;
    some_deliveries(&q, slow_id, 5).await;
    some_deliveries(&q, quick_id, 20).await;
    let timings = Timings { webhook_timeout: Duration::from_secs(1), ..quick() };
    let began = Instant::now();
    let loops = Loops::start(&q.store, timings);
    wait_until("the others are delivered", async || quick_one.posts().len() == 20).await;
    wait_until("all have come to an end", async || in_state(&q, "pending").await == 0).await;
    loops.stop().await;
    // Every post ended within its time: none of up to 50 hung.
    assert!(began.elapsed() < Duration::from_secs(180), "{:?}", began.elapsed());
    let delivered: i64 = q
        .one(&format!("SELECT count(*) FROM millhand.deliveries WHERE state = 'delivered' AND webhook_id = {slow_id}"))
        .await;
    assert!(delivered > 0, "what an answer has beyond its status is not waited for");
    let longest: i32 = q.one("SELECT coalesce(max(length(last_error)), 0) FROM millhand.deliveries").await;
    assert!(longest < 400, "{longest}");
}
