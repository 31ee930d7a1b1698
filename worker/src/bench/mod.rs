//! `millhand bench`: how fast it is, on this machine, now.
//!
//! Every figure is measured in one run beside what it is compared with, since machines are noisy. Nothing here is used by a worker, and
//! nothing is printed here that was not measured in this run.
//!
//! - [`queue`]: the queue alone. [`turns`]: whole turns, beside bare ones and `opencode run`. [`git`]: worktrees and diffs, beside the git
//!   command line. [`memory`]: what a worker occupies. [`views`]: what people look at, by the command line and in the dashboard (`pages`).
//!   [`apply`]: a large change set. [`streams`]: many who watch turns. [`recovery`]: turns whose worker is killed.
//! - `cold`: `opencode run`. `place`: the folder that a part works in. `served`: the API of this program. [`figures`]: samples, and what is said of them.
//!
//! Each part works in a folder and a database of its own, and removes both, whatever happens.

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use crate::{
    config::Settings,
    store::{Store, StoreError},
};

pub mod apply;
mod cold;
pub mod figures;
pub mod git;
pub mod memory;
mod pages;
mod place;
pub mod queue;
pub mod recovery;
mod served;
pub mod streams;
pub mod turns;
pub mod views;

pub use figures::{Figure, Samples};

/// What the parts are given.
pub struct Bench<'a> {
    /// The user's settings: where to work, and which programs to use.
    pub settings: &'a Settings,
    /// libpq's variables that lead to the user's database, over those of the settings. They hold its password.
    pub database: Vec<(&'static str, String)>,
    /// The program itself, which the shims and the measured worker are.
    pub millhand: PathBuf,
    /// Cancelled when the user has seen enough: what was made is removed, and [`Interrupted`] returned.
    pub stop: CancellationToken,
}

/// The user has seen enough.
#[derive(Debug, thiserror::Error)]
#[error("interrupted; what the benchmark had made is removed")]
pub struct Interrupted;

impl Bench<'_> {
    /// Does some work, unless it is interrupted.
    pub async fn unless_stopped<T>(&self, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        tokio::select! {
            done = work => done,
            () = self.stop.cancelled() => Err(Interrupted.into()),
        }
    }
}

/// Does some work on a scratch database on the server of `store`, which is removed again.
pub async fn in_scratch<T>(store: &Store, work: impl AsyncFnOnce(&Store) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let scratch = store.scratch().await?;
    let done = work(&scratch).await;
    let dropped: Result<(), StoreError> = store.drop_scratch(scratch).await;
    let done = done?;
    dropped?;
    Ok(done)
}
