//! The conversations of a server whose turns were all followed here from beginning to end.
//!
//! Each request costs a server of opencode's some ten milliseconds, whatever is asked; what is known here need not be asked for. A turn
//! that was not seen through takes its conversation's entry with it, and the next one asks again.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Conversations that are known at most; beyond it all are forgotten, which costs each a request.
const MAX_KNOWN: usize = 1_000;
/// Messages of a conversation that are known at most; a longer one is asked about each time.
const MAX_MESSAGES: usize = 2_000;

/// What is known of the conversations of one server.
#[derive(Debug, Default)]
pub(super) struct Conversations {
    known: Mutex<HashMap<String, Known>>,
}

#[derive(Debug)]
struct Known {
    directory: PathBuf,
    /// Ids of all messages in it that anything may still be heard of.
    messages: HashSet<String>,
}

impl Conversations {
    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers what messages a conversation has.
    pub(super) fn remember(&self, id: &str, directory: &Path, messages: HashSet<String>) {
        let mut known = self.known();
        if messages.len() > MAX_MESSAGES {
            known.remove(id);
            return;
        }
        if known.len() >= MAX_KNOWN && !known.contains_key(id) {
            known.clear();
        }
        known.insert(id.to_owned(), Known { directory: directory.to_owned(), messages });
    }

    /// Whether a conversation is there, in this directory.
    pub(super) fn is_known(&self, id: &str, directory: &Path) -> bool {
        self.known().get(id).is_some_and(|known| known.directory == directory)
    }

    /// Takes out what messages a conversation has. Whoever sees a turn of it through puts it back.
    pub(super) fn take(&self, id: &str) -> Option<HashSet<String>> {
        self.known().remove(id).map(|known| known.messages)
    }

    /// Forgets all in a directory that the server lets go of. If it is used once more, that costs each a request.
    pub(super) fn forget_in(&self, directory: &Path) {
        self.known().retain(|_, known| known.directory != directory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_turn_took_and_did_not_put_back_is_not_known() {
        let conversations = Conversations::default();
        let place = Path::new("/worktrees/s1");
        conversations.remember("ses_1", place, HashSet::from(["msg_1".to_owned()]));
        assert!(conversations.is_known("ses_1", place));
        assert!(!conversations.is_known("ses_1", Path::new("/worktrees/s2")));
        assert_eq!(conversations.take("ses_1"), Some(HashSet::from(["msg_1".to_owned()])));
        assert!(!conversations.is_known("ses_1", place));
        assert_eq!(conversations.take("ses_1"), None);
    }

    #[test]
    fn what_is_in_a_directory_that_was_let_go_of_is_forgotten() {
        let conversations = Conversations::default();
        for (id, place) in [("ses_1", "/worktrees/s1"), ("ses_2", "/worktrees/s1"), ("ses_3", "/worktrees/s3")] {
            conversations.remember(id, Path::new(place), HashSet::new());
        }
        conversations.forget_in(Path::new("/worktrees/s1"));
        assert_eq!(conversations.known().keys().collect::<Vec<_>>(), ["ses_3"]);
    }

    #[test]
    fn what_is_known_is_bounded() {
        let conversations = Conversations::default();
        let place = Path::new("/worktrees/s1");
        conversations.remember("long", place, (0..=MAX_MESSAGES).map(|n| n.to_string()).collect());
        assert!(!conversations.is_known("long", place));
        for number in 0..=MAX_KNOWN {
            conversations.remember(&number.to_string(), place, HashSet::new());
        }
        assert!(conversations.is_known(&MAX_KNOWN.to_string(), place));
        assert!(conversations.known().len() <= MAX_KNOWN);
    }
}
