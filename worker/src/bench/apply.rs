//! Applying: a large change set to the user's repository, from the request to the session's being on the new commit.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    Bench, Figure, Samples,
    place::{Place, write_file},
};
use crate::{
    actions::{Applier, ApplyRequest},
    config::{ApplySettings, Timings, WorktreeSettings},
    git::Git,
    model::{
        ids::{AnyId, SessionId},
        outcome::Ending,
        retry::Verdict,
    },
    store::{
        Store,
        queue::{Finish, WorkerRow},
        turns::Owner,
    },
    worktrees::{Taking, Worktrees},
};

const GROUP: &str = "apply";
const HOST: &str = "bench";
const PROJECT: &str = "bench";
const LEASE: Duration = Duration::from_secs(600);

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Files of the repository.
    pub files: usize,
    /// Files of a change set.
    pub changed: usize,
    /// How often.
    pub rounds: usize,
}

impl Size {
    /// What the README's figures are made with.
    pub const FULL: Self = Self { files: 30_000, changed: 1_000, rounds: 10 };
    /// A quick look.
    pub const QUICK: Self = Self { files: 30_000, changed: 1_000, rounds: 3 };
}

/// Measures, in a folder below the home and a database that is made for it, see [`in_scratch`](super::in_scratch).
pub async fn run(bench: &Bench<'_>, store: &Store, size: Size, report: &mut dyn FnMut(Figure)) -> Result<()> {
    let place = Place::new(bench.settings)?;
    let measured = bench.unless_stopped(measure(&place, store, size)).await;
    place.remove().await?;
    let Size { files, changed, .. } = size;
    report(measured?.figure(GROUP, format!("apply, {changed} files of {files}")).aim("under 1 s"));
    Ok(())
}

async fn measure(place: &Place, store: &Store, size: Size) -> Result<Samples> {
    let git = Git::new(None, place.environment().0.into_iter().collect(), place.home()).await?;
    let source = place.repository(git.binary(), "source", size.files).await?;
    store.load_repository(PROJECT, &source.to_string_lossy()).await?;
    let worker = Uuid::new_v4();
    store
        .register_worker(&WorkerRow { id: worker, host_id: HOST, hostname: HOST, version: "bench", capacity: 1 })
        .await?;
    let timings = Timings::default();
    let worktrees = Worktrees {
        store: store.clone(),
        git: git.clone(),
        home: place.home(),
        host_id: HOST.to_owned(),
        settings: WorktreeSettings { pool: 0, quota: None },
        timings,
    };
    let applier = Applier {
        store: store.clone(),
        git,
        worktrees,
        host_id: HOST.to_owned(),
        settings: ApplySettings::default(),
        timings,
    };
    let mut samples = Samples::default();
    // The first one warms the caches.
    for round in 0..=size.rounds {
        let session = turn(&applier, worker, size, round).await?;
        let request = ApplyRequest { who: "bench".to_owned(), ..ApplyRequest::default() };
        let began = Instant::now();
        let applied = applier.apply(AnyId::Session(SessionId(session)), &request, &|_| {}).await?;
        if round > 0 {
            samples.push(began.elapsed());
        }
        ensure!(applied.taken.len() == size.changed && applied.not_rebased.is_none(), "{applied:?}");
    }
    Ok(samples)
}

/// A turn in a session of its own, as a worker does it around its agent. Returns the session.
async fn turn(applier: &Applier, worker: Uuid, size: Size, round: usize) -> Result<i64> {
    let (store, git) = (&applier.store, &applier.git);
    store.load_one(PROJECT).await?;
    let (_, lanes, _) = store.advance_and_list_lanes().await?;
    let claimed = store.claim(&lanes, 1, worker, HOST, LEASE).await?.pop().context("nothing to claim")?;
    let mirror = git.ensure_mirror(claimed.project_id, &claimed.source, None).await?;
    let base = git.resolve_base(&mirror, None).await?;
    let taking = Taking { token: claimed.token, session_id: claimed.session_id };
    let worktree = applier.worktrees.take(taking, &mirror, &base).await?;
    let folder = worktree.path.clone();
    let write = move || {
        let step = (size.files / size.changed.max(1)).max(1);
        (0..size.changed).try_for_each(|n| write_file(&folder, n * step, &format!("as round {round} left it")))
    };
    tokio::task::spawn_blocking(write).await??;
    let checkpoint = git.checkpoint(&mirror, &worktree, claimed.task_id, "bench").await?;
    let changes = git.diff(&mirror, &worktree.base_commit, &checkpoint).await?;
    let owner = Owner {
        attempt_id: claimed.attempt_id,
        task_id: claimed.task_id,
        session_id: claimed.session_id,
        project: PROJECT,
        agent: "opencode",
    };
    store.draft_changes(owner, &changes).await?;
    let finish = Finish {
        token: claimed.token,
        outcome: Ending::Completed.as_str(),
        error_class: None,
        error_message: None,
        verdict: Verdict::Completed,
        summary: None,
        host_id: HOST,
    };
    store.finish(&finish).await?;
    Ok(claimed.session_id)
}
