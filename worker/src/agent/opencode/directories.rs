//! The worktrees that a server has loaded.
//!
//! Each costs memory and watchers until it is let go of (`instance/dispose`), which aborts what runs in it. So one in which
//! a turn runs is never let go of, and a turn that wants to begin waits until that is done.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::OwnedMutexGuard;

/// The directories of one server.
#[derive(Debug, Default)]
pub(super) struct Directories {
    loaded: Mutex<HashMap<PathBuf, Loaded>>,
}

#[derive(Debug)]
struct Loaded {
    turns: usize,
    /// It has had its first turn.
    warm: bool,
    used: Instant,
    /// Held while it is let go of.
    door: Arc<tokio::sync::Mutex<()>>,
}

/// A turn that runs in a directory.
#[derive(Debug)]
pub(super) struct InUse {
    directories: Arc<Directories>,
    directory: PathBuf,
}

impl Drop for InUse {
    fn drop(&mut self) {
        if let Some(loaded) = self.directories.loaded().get_mut(&self.directory) {
            loaded.turns = loaded.turns.saturating_sub(1);
            loaded.used = Instant::now();
        }
    }
}

/// A directory that is to be let go of; until this is dropped no turn begins in it.
#[derive(Debug)]
pub(super) struct Leaving {
    pub(super) directory: PathBuf,
    _door: OwnedMutexGuard<()>,
}

impl Directories {
    fn loaded(&self) -> MutexGuard<'_, HashMap<PathBuf, Loaded>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a directory has had its first turn.
    pub(super) fn is_warm(&self, directory: &Path) -> bool {
        self.loaded().get(directory).is_some_and(|loaded| loaded.warm)
    }

    /// Notes that a directory has had its first turn.
    pub(super) fn set_warm(&self, directory: &Path) {
        if let Some(loaded) = self.loaded().get_mut(directory) {
            loaded.warm = true;
        }
    }

    /// Notes that a directory is about to be used, and waits until it can be.
    pub(super) async fn touch(&self, directory: &Path) {
        self.wait_for(directory, 0).await;
    }

    /// The same, for a turn, which keeps it from being let go of.
    pub(super) async fn enter(self: &Arc<Self>, directory: &Path) -> InUse {
        let in_use = InUse { directories: Arc::clone(self), directory: directory.to_owned() };
        self.wait_for(directory, 1).await;
        in_use
    }

    async fn wait_for(&self, directory: &Path, turns: usize) {
        let door = {
            let mut loaded = self.loaded();
            let loaded = loaded.entry(directory.to_owned()).or_insert_with(|| Loaded {
                turns: 0,
                warm: false,
                used: Instant::now(),
                door: Arc::default(),
            });
            loaded.turns += turns;
            loaded.used = Instant::now();
            Arc::clone(&loaded.door)
        };
        drop(door.lock().await);
    }

    /// One directory, to be let go of if no turn runs in it.
    pub(super) fn leave(&self, directory: &Path) -> Option<Leaving> {
        let mut loaded = self.loaded();
        let found = loaded.get_mut(directory).filter(|loaded| loaded.turns == 0)?;
        let door = Arc::clone(&found.door).try_lock_owned().ok()?;
        found.warm = false;
        Some(Leaving { directory: directory.to_owned(), _door: door })
    }

    /// Whether a directory is loaded.
    pub(super) fn is_loaded(&self, directory: &Path) -> bool {
        self.loaded().contains_key(directory)
    }

    /// Those to be let go of: unused for `idle`, and the least recently used of more than `most`. Never one in which a turn runs.
    pub(super) fn leave_idle(&self, idle: Duration, most: usize) -> Vec<Leaving> {
        let now = Instant::now();
        let due: Vec<PathBuf> = {
            let loaded = self.loaded();
            let mut free: Vec<(&PathBuf, Duration)> = loaded
                .iter()
                .filter(|(_, loaded)| loaded.turns == 0)
                .map(|(path, loaded)| (path, now.duration_since(loaded.used)))
                .collect();
            free.sort_by_key(|(_, unused)| std::cmp::Reverse(*unused));
            let over = loaded.len().saturating_sub(most);
            let due = free.iter().enumerate().filter(|(n, (_, unused))| *n < over || *unused >= idle);
            due.map(|(_, (path, _))| (*path).clone()).collect()
        };
        due.iter().filter_map(|directory| self.leave(directory)).collect()
    }

    /// Forgets a directory that was let go of, unless somebody wants it again already.
    pub(super) fn forget(&self, left: Leaving) {
        let mut loaded = self.loaded();
        // Whoever waits at the door holds it too.
        if loaded.get(&left.directory).is_some_and(|found| found.turns == 0 && Arc::strong_count(&found.door) <= 2) {
            loaded.remove(&left.directory);
        }
    }

    /// How many are loaded.
    pub(super) fn len(&self) -> usize {
        self.loaded().len()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn the_least_recently_used_go_first_and_never_one_with_a_turn() {
        let directories = Arc::new(Directories::default());
        let busy = directories.enter(Path::new("/busy")).await;
        for name in ["/a", "/b", "/c"] {
            directories.touch(Path::new(name)).await;
            directories.set_warm(Path::new(name));
        }
        let hour = Duration::from_secs(3600);
        let left = directories.leave_idle(hour, 3);
        assert_eq!(left.iter().map(|left| left.directory.to_str()).collect::<Vec<_>>(), [Some("/a")]);
        assert!(!directories.is_warm(Path::new("/a")) && directories.is_warm(Path::new("/b")));
        left.into_iter().for_each(|left| directories.forget(left));
        assert_eq!(directories.len(), 3);
        // Idle ones, however few there are.
        let left = directories.leave_idle(Duration::ZERO, 50);
        assert_eq!(left.len(), 2, "{left:?}");
        left.into_iter().for_each(|left| directories.forget(left));
        assert_eq!(directories.len(), 1);
        assert!(directories.leave(Path::new("/busy")).is_none());
        drop(busy);
        assert!(directories.leave(Path::new("/busy")).is_some());
    }

    #[tokio::test]
    async fn a_turn_waits_until_its_directory_has_been_let_go_of() {
        let directories = Arc::new(Directories::default());
        directories.touch(Path::new("/a")).await;
        let left = directories.leave(Path::new("/a")).expect("free");
        let mut enters = Box::pin(directories.enter(Path::new("/a")));
        assert!((&mut enters).now_or_never().is_none());
        assert!(directories.leave(Path::new("/a")).is_none(), "it is being let go of");
        directories.forget(left);
        let _in_use = enters.await;
        assert!(directories.leave(Path::new("/a")).is_none(), "a turn runs in it");
    }
}
