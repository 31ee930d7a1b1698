//! Moving a session to another base, and taking it back to a checkpoint: only while no turn runs in it.

use super::{WorktreeError, Worktrees};
use crate::{
    git::{Base, Gate, GateOf, Mirror, Rebased, Worktree},
    model::worktree::State,
    store::worktrees::WorktreeRow,
};

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Moved {
    /// It is there.
    Yes,
    /// It is in use: to be tried again later.
    Later(String),
    /// It stays where it is, and why.
    No(String),
}

/// A worktree that nobody else touches for now.
struct Held {
    _gate: Gate,
    row: WorktreeRow,
    mirror: Mirror,
    worktree: Worktree,
}

impl Worktrees {
    /// Measures a session against another commit from now on; what its agent changed stays, on top of it.
    pub async fn rebase(&self, session_id: i64, onto: &Base) -> Result<Moved, WorktreeError> {
        let held = match self.hold(session_id).await? {
            Ok(held) => held,
            Err(not) => return Ok(not),
        };
        match self.git.rebase_worktree(&held.mirror, &held.worktree, onto).await? {
            Rebased::Stays(why) => Ok(Moved::No(why)),
            Rebased::Yes => {
                self.store.move_base(session_id, held.row.id, &onto.commit).await?;
                Ok(Moved::Yes)
            }
        }
    }

    /// Takes the files of a session back to the tree of a checkpoint that was measured against `base`, for its next turn.
    pub async fn roll_back(&self, session_id: i64, base: &str, tree: &str) -> Result<Moved, WorktreeError> {
        let held = match self.hold(session_id).await? {
            Ok(held) => held,
            Err(not) => return Ok(not),
        };
        Ok(match self.git.roll_back_worktree(&held.mirror, &held.worktree, base, tree).await? {
            Rebased::Yes => Moved::Yes,
            Rebased::Stays(why) => Moved::No(why),
        })
    }

    /// A turn takes its lease first and the gate second: whoever has the gate, and sees no lease, is alone.
    async fn hold(&self, session_id: i64) -> Result<Result<Held, Moved>, WorktreeError> {
        let Some(gate) = self.git.try_gate(GateOf::Session(session_id)).await? else {
            return Ok(Err(Moved::Later("its worktree is in use".to_owned())));
        };
        let Some(row) = self.store.worktree_of_session(session_id, &self.host_id).await? else {
            return Ok(Err(Moved::No("it has no worktree".to_owned())));
        };
        if row.host_id != self.host_id {
            return Ok(Err(Moved::No(format!("its worktree is on another host, {}", row.host_id))));
        }
        if row.facts.leased {
            return Ok(Err(Moved::Later("a turn runs in it".to_owned())));
        }
        if !matches!(row.facts.state, State::Ready | State::InUse) {
            return Ok(Err(Moved::No(format!("its worktree is {}", row.state))));
        }
        let place = self.place(&row).await?;
        let worktree = Worktree {
            session_id,
            path: row.path.clone().into(),
            branch: row.branch.clone(),
            base_commit: row.base_commit.clone(),
        };
        Ok(Ok(Held { _gate: gate, row, mirror: place.mirror, worktree }))
    }
}
