//! What turns changed, for review.

use super::{ActionError, Result, no_session, no_task};
use crate::{
    model::ids::AnyId,
    store::{
        Store,
        checks::CheckRunRow,
        forecasts::ForecastRow,
        reads_turns::{ChangeSetRow, ChangesOf, PendingChangeRow},
    },
};

/// A result with its files.
#[derive(Clone, Debug, PartialEq)]
pub struct Changes {
    /// The result.
    pub set: ChangeSetRow,
    /// Its files, in the order of the patch.
    pub files: Vec<PendingChangeRow>,
    /// What the project's checks said of it.
    pub checks: Vec<CheckRunRow>,
    /// What would come of applying it now, if it is open and that is known.
    pub forecast: Option<ForecastRow>,
}

/// The result of a task, or a session's newest; none if there is none yet.
pub async fn changes(store: &Store, id: AnyId) -> Result<Option<Changes>> {
    let of = match id {
        AnyId::Task(id) => {
            if store.task(id.0).await?.is_none() {
                return Err(no_task(id.0));
            }
            ChangesOf::Task(id.0)
        }
        AnyId::Session(id) => {
            if store.session(id.0).await?.is_none() {
                return Err(no_session(id.0));
            }
            ChangesOf::Session(id.0)
        }
        AnyId::Chat(id) => {
            return Err(ActionError::Refused {
                what: format!("changes belong to tasks and sessions, and {id} is a chat"),
                hint: Some("name a task (t42) or a session (s7)".to_owned()),
            });
        }
    };
    let Some(set) = store.change_set(of).await? else {
        return Ok(None);
    };
    let forecast = async {
        match set.state == "open" {
            true => Ok(store.forecasts(None, Some(set.id)).await?.pop()),
            false => Ok(None),
        }
    };
    let (files, checks, forecast) = tokio::try_join!(store.changed_files(set.id), store.check_runs(set.id), forecast)?;
    Ok(Some(Changes { set, files, checks, forecast }))
}

/// The patches of the next files behind the one with this id (0: the first), with those files' ids; none: there are no more. One after another they
/// are what `git apply` takes.
pub async fn next_patches(store: &Store, set: &ChangeSetRow, after: i64) -> Result<Vec<(i64, Vec<u8>)>> {
    Ok(store.next_patches(set.id, after).await?)
}
