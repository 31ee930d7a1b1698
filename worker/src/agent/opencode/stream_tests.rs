use std::{convert::Infallible, fmt::Write as _};

use super::*;

fn event(name: &str, session: &str) -> String {
    format!("data: {{\"payload\":{{\"type\":\"{name}\",\"properties\":{{\"sessionID\":\"{session}\"}}}}}}\n\n")
}

async fn feed(hub: &Hub, chunks: Vec<Vec<u8>>) -> StreamEnd {
    let chunks = chunks.into_iter().map(|chunk| Ok::<_, Infallible>(Bytes::from(chunk)));
    read_events(LineCap::new(futures::stream::iter(chunks)), hub, Duration::from_secs(5), || {}).await
}

async fn next(subscription: &mut Subscription) -> String {
    match tokio::time::timeout(Duration::from_secs(5), subscription.next()).await.expect("a delivery") {
        Delivery::Event(event) => event.name,
        Delivery::Lost => "lost".to_owned(),
    }
}

#[tokio::test]
async fn events_reach_the_turn_of_their_session_and_subagents_theirs_of_the_parent() {
    let hub = Arc::new(Hub::default());
    let mut one = hub.subscribe("one");
    let mut two = hub.subscribe("two");
    let created = "data: {\"payload\":{\"type\":\"session.created\",\"properties\":{\"sessionID\":\"child\",\
        \"info\":{\"id\":\"child\",\"parentID\":\"one\"}}}}\n\n";
    let stream =
        [created, &event("session.idle", "child"), &event("session.idle", "two"), &event("odd", "one")].concat();
    // Cut at every byte.
    let end = feed(&hub, stream.bytes().map(|byte| vec![byte]).collect()).await;
    assert!(matches!(end, StreamEnd::Closed));
    assert_eq!(next(&mut one).await, "session.created");
    assert_eq!(next(&mut one).await, "session.idle");
    assert_eq!(next(&mut one).await, "odd");
    assert_eq!(next(&mut two).await, "session.idle");
    assert_eq!(hub.unknown_events(), 1);
    drop((one, two));
    assert!(hub.routes().by_session.is_empty(), "nothing is left of turns that are over");
}

#[tokio::test]
async fn a_turn_that_does_not_keep_up_is_told_to_read_by_get_and_holds_nobody_up() {
    let hub = Arc::new(Hub::default());
    let mut slow = hub.subscribe("slow");
    let mut other = hub.subscribe("other");
    let mut stream = String::new();
    for _ in 0..TURN_QUEUE + 10 {
        write!(stream, "{}", event("session.idle", "slow")).expect("a string");
    }
    stream.push_str(&event("session.status", "other"));
    feed(&hub, vec![stream.into_bytes()]).await;
    assert_eq!(next(&mut other).await, "session.status");
    assert!(slow.has_lost() && !other.has_lost(), "it is known before what came behind them is taken");
    for _ in 0..TURN_QUEUE {
        assert_eq!(next(&mut slow).await, "session.idle");
    }
    assert_eq!(next(&mut slow).await, "lost");
}

#[tokio::test]
async fn endless_lines_and_bytes_that_are_no_text_end_the_stream() {
    let hub = Arc::new(Hub::default());
    let mut chunks = vec![b"data: ".to_vec()];
    chunks.extend(std::iter::repeat_n(vec![b'x'; 1 << 20], 17));
    assert!(matches!(feed(&hub, chunks).await, StreamEnd::Broken(why) if why.contains("16 MB")));
    assert!(matches!(feed(&hub, vec![b"data: \xff\xfe\n\n".to_vec()]).await, StreamEnd::Broken(_)));
    let mut turn = hub.subscribe("s");
    feed(&hub, vec![b"data: {\"half\n\n".to_vec()]).await;
    assert_eq!(next(&mut turn).await, "lost");
}

#[tokio::test]
async fn a_silent_stream_ends() {
    let hub = Hub::default();
    let bytes = futures::stream::pending::<Result<Bytes, Infallible>>();
    let end = read_events(LineCap::new(bytes), &hub, Duration::from_millis(20), || {}).await;
    assert!(matches!(end, StreamEnd::Silent));
}
