//! The dead-man's switch: what a shim does when nothing more is heard of a worker whose pipe stays open.

use millhand::supervise::{Alive, BootTime, Lifeline};

use super::*;

fn alive(within: Duration) -> Alive {
    Alive::new(BootTime::now().plus(within), SHORT)
}

#[tokio::test]
async fn turns_end_at_the_deadline_and_an_idle_child_lives_on() -> Result<()> {
    let folder = TempDir::new()?;
    let lifeline = Lifeline::new(alive(LONG));
    let supervisor = supervisor().with_lifeline(lifeline.clone());
    let (child, pids) = stubborn(&supervisor, &folder).await?;
    let idle = start(&supervisor, shell(&folder, "exec sleep 1000")).await?;
    let once_busy = start(&supervisor, shell(&folder, "exec sleep 1000")).await?;
    drop(once_busy.busy(String::new()).await);
    let _busy = child.busy(String::new()).await;
    let before = Instant::now();
    lifeline.set(alive(SHORT));
    assert_eq!(child.exited().await, Exit::Signal(9), "it ignores being asked");
    assert!(before.elapsed() >= SHORT * 2, "{:?}: not before the deadline, and with a grace", before.elapsed());
    assert!(!pids.iter().any(|pid| lives(*pid)), "the whole family");
    assert!(child.tail().iter().any(|line| line.text.contains("not heard of in time")), "{:?}", child.tail());
    assert!(lives(idle.pid()) && lives(once_busy.pid()));
    Ok(())
}

#[tokio::test]
async fn each_word_of_the_worker_puts_the_deadline_off() -> Result<()> {
    let folder = TempDir::new()?;
    let lifeline = Lifeline::new(alive(SHORT * 3));
    let child = start(&supervisor().with_lifeline(lifeline.clone()), shell(&folder, "exec sleep 1000")).await?;
    let _busy = child.busy(String::new()).await;
    let mut words = tokio::time::interval(SHORT / 3);
    for _ in 0..15 {
        words.tick().await;
        lifeline.set(alive(SHORT * 3));
    }
    assert!(lives(child.pid()), "five times the first deadline has passed");
    Ok(())
}

#[tokio::test]
async fn a_turn_that_begins_late_is_bound_by_the_deadline_at_once() -> Result<()> {
    let folder = TempDir::new()?;
    let lifeline = Lifeline::new(alive(Duration::ZERO));
    let child = start(&supervisor().with_lifeline(lifeline), shell(&folder, "exec sleep 1000")).await?;
    assert!(lives(child.pid()), "without a turn it may live");
    // Ended before, or told and then ended; it never hangs.
    let _busy = tokio::time::timeout(LONG, child.busy(String::new())).await?;
    assert_eq!(tokio::time::timeout(LONG, child.exited()).await?, Exit::Signal(15));
    Ok(())
}

/// Turns come and go at every moment; whoever was told that its turn may begin is bound by the deadline.
#[tokio::test(flavor = "multi_thread")]
async fn no_turn_slips_through_between_two_words() -> Result<()> {
    let folder = TempDir::new()?;
    let lifeline = Lifeline::new(alive(LONG));
    let child = start(&supervisor().with_lifeline(lifeline.clone()), shell(&folder, "exec sleep 1000")).await?;
    for _ in 0..300 {
        let (one, two) = tokio::join!(child.busy(String::new()), child.busy(String::new()));
        drop(one);
        tokio::task::yield_now().await;
        drop(two);
    }
    let _busy = child.busy(String::new()).await;
    lifeline.set(alive(Duration::ZERO));
    assert_eq!(tokio::time::timeout(LONG, child.exited()).await?, Exit::Signal(15));
    Ok(())
}
