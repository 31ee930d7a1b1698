//! Figures for a large repository, beside the git command line. Printed, and held to loose bounds that only a blunder breaks.

use std::{
    fs,
    time::{Duration, Instant},
};

use super::repository::{World, write};

const FILES: usize = 30_000;

fn file(number: usize) -> String {
    format!("d{}/e{}/file{number}.txt", number % 100, number % 1000)
}

/// Processor time of this process and of the children it waited for. On a busy machine it says more than the clock.
fn processor_time() -> Duration {
    let text = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11..15].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

async fn large() -> World {
    let world = World::empty().await;
    for number in 0..FILES {
        world.write(&file(number), format!("file {number}\nsome content\n").as_bytes());
    }
    world.commit("many");
    world.user(&["gc", "-q"]);
    world
}

#[tokio::test]
#[ignore = "takes minutes; run it to see figures"]
async fn thirty_thousand_files_beside_git() {
    let world = large().await;
    let show = |what: &str, took: Duration, busy: Duration| {
        eprintln!("{what:40} {:9.1} ms, processor {:7} ms", took.as_secs_f64() * 1e3, busy.as_millis());
    };
    macro_rules! timed {
        ($what:expr, $work:expr) => {{
            let (start, busy) = (Instant::now(), processor_time());
            let result = $work;
            let busy = processor_time() - busy;
            show($what, start.elapsed(), busy);
            (result, busy)
        }};
    }
    let (mirror, _) = timed!("ensure_mirror, first", world.mirror().await);
    let _ = timed!("ensure_mirror, nothing new", world.mirror().await);
    let ((one, base), _) = timed!("create_worktree", world.session(&mirror, 1).await);
    let _ = timed!("create_worktree, there already", world.session(&mirror, 1).await);
    let _ = timed!("git worktree add", world.user(&["worktree", "add", "-q", "../git-worktree", "-b", "x"]));
    let control = world.path().join("git-worktree");
    world.git_in(&control, &["status", "--porcelain"]);

    let checkpoint = |task: i64| world.git.checkpoint(&mirror, &one, task, "turn");
    let _ = timed!("checkpoint, fresh checkout", checkpoint(1).await.unwrap());
    let _ = timed!("checkpoint, nothing changed", checkpoint(1).await.unwrap());
    for folder in [&one.path, &control] {
        for number in (0..FILES).step_by(3000) {
            write(&folder.join(file(number)), b"changed\n");
        }
    }
    let (few, _) = timed!("checkpoint, 10 changed", checkpoint(2).await.unwrap());
    let (set, _) = timed!("diff, 10 changed", world.git.diff(&mirror, &base.commit, &few).await.unwrap());
    assert_eq!(set.files.len(), 10);
    let _ = timed!("git add -A, 10 changed", world.git_in(&control, &["add", "-A"]));
    let _ = timed!("git diff --cached, 10 changed", world.git_in(&control, &["diff", "--cached", "--binary", "-M"]));
    for folder in [&one.path, &control] {
        for number in 0..FILES {
            write(&folder.join(file(number)), format!("other {number}\nsome content\n").as_bytes());
        }
    }
    let (all, _) = timed!("checkpoint, all changed", checkpoint(3).await.unwrap());
    let (set, ours) = timed!("diff, all changed", world.git.diff(&mirror, &base.commit, &all).await.unwrap());
    assert_eq!(set.files.len(), FILES);
    let _ = timed!("git add -A, all changed", world.git_in(&control, &["add", "-A"]));
    let (_, gits) =
        timed!("git diff --cached, all changed", world.git_in(&control, &["diff", "--cached", "--binary", "-M"]));
    eprintln!("diff of all: {:.2} of git's time", ours.as_secs_f64() / gits.as_secs_f64());

    let (two, _) =
        timed!("reset_worktree, all changed", world.git.reset_worktree(&mirror, &one, 2, &base).await.unwrap());
    let (three, _) =
        timed!("reset_worktree, nothing changed", world.git.reset_worktree(&mirror, &two, 3, &base).await.unwrap());
    for number in (0..FILES).step_by(300) {
        write(&three.path.join(file(number)), b"changed\n");
        write(&three.path.join(format!("target/{number}")), b"x\n");
    }
    let _ = timed!("reset_worktree, 100 changed", world.git.reset_worktree(&mirror, &three, 4, &base).await.unwrap());
    let _ = timed!("git reset --hard && clean, all changed", {
        world.git_in(&control, &["reset", "-q", "--hard"]);
        world.git_in(&control, &["clean", "-qffdx"]);
    });
}

#[tokio::test]
async fn small_repository_takes_milliseconds() {
    let world = World::with(&[("a", b"a\n"), ("b/c", b"c\n")]).await;
    let mirror = world.mirror().await;
    let (worktree, _) = world.session(&mirror, 1).await;
    let mut took = Vec::new();
    for round in 0..50 {
        fs::write(worktree.path.join("a"), format!("{round}\n")).unwrap();
        let start = Instant::now();
        let checkpoint = world.git.checkpoint(&mirror, &worktree, round, "turn").await.unwrap();
        world.git.diff(&mirror, &worktree.base_commit, &checkpoint).await.unwrap();
        took.push(start.elapsed());
    }
    took.sort();
    eprintln!("checkpoint and diff: median {:?}, slowest {:?}", took[25], took[49]);
    // Others build on this machine at the same time: the bound is wide.
    assert!(took[25] < Duration::from_millis(100), "{took:?}");
}
