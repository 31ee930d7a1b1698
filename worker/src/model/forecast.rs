//! What would come of applying open change sets one after another: which could get in each other's way, which order works, and the prompt
//! that sends a conflict back to the agent.

use std::{collections::HashSet, fmt::Write as _};

/// The paths that a change set would change, old names included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    paths: HashSet<String>,
    folders: HashSet<String>,
    /// Files were moved: git then may move what others add beside them.
    moves: bool,
}

impl Footprint {
    /// Of these files: each one's path, and the one that it had before.
    pub fn new<'a>(files: impl IntoIterator<Item = (&'a str, Option<&'a str>)>) -> Self {
        let mut all = Self::default();
        for (path, old) in files {
            all.moves |= old.is_some_and(|old| old != path);
            for path in [Some(path), old].into_iter().flatten() {
                all.folders.extend(folders(path).map(str::to_owned));
                all.paths.insert(path.to_owned());
            }
        }
        all
    }

    /// Whether the two could conflict at all: they touch the same path, the one makes a folder of what is a file for the other, or one moves files.
    pub fn may_conflict(&self, other: &Self) -> bool {
        self.moves
            || other.moves
            || other.paths.iter().any(|path| {
                self.paths.contains(path)
                    || self.folders.contains(path)
                    || folders(path).any(|folder| self.paths.contains(folder))
            })
    }
}

/// The folders that a path is in: `a/b/c` is in `a` and `a/b`.
fn folders(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}

/// The order in which change sets are tried one after another: those that conflict with the fewest others first, so that one wide change does not
/// keep many small ones out; among equals, the older. `pairs` are those that conflict with each other, by their places in a list of `count`.
pub fn order(count: usize, pairs: &[(usize, usize)]) -> Vec<usize> {
    let mut degrees = vec![0_usize; count];
    for (a, b) in pairs {
        for place in [a, b] {
            if let Some(degree) = degrees.get_mut(*place) {
                *degree += 1;
            }
        }
    }
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by_key(|place| (degrees[*place], *place));
    order
}

/// The prompt for an agent in whose working copy a commit was merged, and conflicts with what is there: each path with git's words on it.
pub fn conflict_prompt(branch: &str, commit: &str, conflicts: &[(&str, &str)], more: Option<&str>) -> String {
    let short = commit.get(..12).unwrap_or(commit);
    let mut prompt = format!(
        "The branch {branch} has moved on. Its commit {short} was merged into your working copy, and conflicts with your changes:\n"
    );
    for (path, message) in conflicts {
        let message = message.trim();
        let _ = match message.is_empty() {
            true => write!(prompt, "\n- {path}"),
            false => write!(prompt, "\n- {path}: {message}"),
        };
    }
    let _ = write!(
        prompt,
        "\n\nIn files that both sides changed, git's conflict markers show both: between <<<<<<< and ======= is what {branch} has, between ======= and \
         >>>>>>> is yours. Resolve every conflict so that what {branch} brought and what you were asked for both hold, leave no marker behind, and \
         do not take back anything else that {branch} brought. Then check that the result works.\n"
    );
    if let Some(more) = more.map(str::trim).filter(|more| !more.is_empty()) {
        let _ = write!(prompt, "\n{more}\n");
    }
    prompt
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(files: &[&str]) -> Footprint {
        Footprint::new(files.iter().map(|path| match path.split_once(" <- ") {
            Some((path, old)) => (path, Some(old)),
            None => (*path, None),
        }))
    }

    #[test]
    fn only_what_meets_can_conflict() {
        for (one, other, may) in [
            (&["a"][..], &["b"][..], false),
            (&["a"], &["a"], true),
            (&["d/a", "x"], &["d/b"], false),
            (&["d"], &["d/b"], true),
            (&["d/e/f"], &["d"], true),
            (&["da"], &["d/b"], false),
            (&["d"], &["da"], false),
            (&["new <- old"], &["old"], true),
            (&["e/a <- d/a"], &["d/b"], true),
            (&["a <- a"], &["b"], false),
            (&[], &["a"], false),
        ] {
            assert_eq!(of(one).may_conflict(&of(other)), may, "{one:?} {other:?}");
            assert_eq!(of(other).may_conflict(&of(one)), may, "{other:?} {one:?}");
        }
    }

    #[test]
    fn those_in_nobodys_way_come_first_then_the_older() {
        for (count, pairs, expected) in [
            (0, &[][..], vec![]),
            (3, &[], vec![0, 1, 2]),
            (3, &[(0, 1)], vec![2, 0, 1]),
            // The widest comes last, although it is the oldest.
            (4, &[(0, 1), (0, 2), (0, 3)], vec![1, 2, 3, 0]),
            (2, &[(0, 7)], vec![1, 0]),
        ] {
            assert_eq!(order(count, pairs), expected, "{count} {pairs:?}");
        }
    }

    #[test]
    fn the_prompt_names_every_conflict_and_both_sides() {
        let conflicts = [("a.txt", "CONFLICT (content): Merge conflict in a.txt"), ("b", "")];
        let prompt = conflict_prompt("main", "0123456789abcdef", &conflicts, Some(" Keep it short. "));
        for words in ["commit 0123456789ab was", "\n- a.txt: CONFLICT (content)", "\n- b\n", "\nKeep it short.\n"] {
            assert!(prompt.contains(words), "{words}: {prompt}");
        }
        assert!(!conflict_prompt("main", "0", &[], Some(" ")).ends_with("\n\n"));
    }
}
