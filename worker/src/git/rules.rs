//! `.gitignore` and `.gitattributes` of a worktree, as data: parsed and matched, nothing is ever run.
//!
//! libgit2 could do this too, but it opens these files by path, and would follow a link or wait on a pipe that an agent put there.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use gix_attributes::{
    StateRef,
    search::{MetadataCollection, Outcome},
};
use gix_glob::pattern::Case;

/// The attributes that decide what `git add` stores.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) text: Text,
    /// `ident`: `$Id$` is filled in at checkout.
    pub(super) ident: bool,
    /// The name of an external filter.
    pub(super) filter: Option<Vec<u8>>,
    /// `working-tree-encoding`, other than UTF-8.
    pub(super) encoding: Option<Vec<u8>>,
}

/// Whether line ends are normalised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Text {
    /// Never: what is not said to be text, and what is said not to be.
    #[default]
    No,
    /// Always.
    Yes,
    /// If it looks like text.
    Auto,
}

const NAMES: [&str; 6] = ["text", "crlf", "eol", "ident", "filter", "working-tree-encoding"];

/// The rules that hold in a folder: its own and those of the folders above it.
pub(super) struct Rules {
    ignore: gix_ignore::Search,
    attributes: gix_attributes::Search,
    names: MetadataCollection,
    outcome: Outcome,
}

/// How many lists there were before a folder was entered.
pub(super) struct Entered {
    ignore: bool,
    attributes: bool,
}

impl Rules {
    pub(super) fn new() -> Self {
        let mut names = MetadataCollection::default();
        let mut attributes = gix_attributes::Search::default();
        // Reads from memory, which cannot fail.
        let _ = attributes.add_patterns_buffer(
            b"[attr]binary -diff -merge -text",
            PathBuf::from("[builtin]"),
            None,
            &mut names,
            true,
        );
        let mut rules = Self { ignore: gix_ignore::Search::default(), attributes, names, outcome: Outcome::default() };
        rules.select();
        rules
    }

    /// Adds the rules of `folder`, whose files have this content.
    pub(super) fn enter(&mut self, folder: &[u8], ignore: Option<&[u8]>, attributes: Option<&[u8]>) -> Entered {
        let root = Path::new("/w");
        let source = |name: &str| root.join(OsStr::from_bytes(folder)).join(name);
        let entered = Entered { ignore: ignore.is_some(), attributes: attributes.is_some() };
        if let Some(bytes) = ignore {
            let parse = gix_ignore::search::Ignore { support_precious: false };
            let _ = self.ignore.add_patterns_buffer(bytes, source(".gitignore"), Some(root), parse);
        }
        if let Some(bytes) = attributes {
            let source = source(".gitattributes");
            // Macros count only in the top folder, as in git.
            let _ = self.attributes.add_patterns_buffer(bytes, source, Some(root), &mut self.names, folder.is_empty());
            self.select();
        }
        entered
    }

    /// Takes the rules of a folder away again.
    pub(super) fn leave(&mut self, entered: &Entered) {
        if entered.ignore {
            self.ignore.patterns.pop();
        }
        if entered.attributes {
            self.attributes.pop_pattern_list();
        }
    }

    /// Whether an untracked path is ignored, given that the folder it lies in is not.
    pub(super) fn is_ignored(&self, path: &[u8], is_folder: bool) -> bool {
        self.ignore
            .pattern_matching_relative_path(path.into(), Some(is_folder), Case::Sensitive)
            .is_some_and(|found| !found.pattern.is_negative())
    }

    /// The attributes of a file.
    pub(super) fn attributes(&mut self, path: &[u8]) -> Attributes {
        if self.attributes.num_pattern_lists() <= 1 {
            return Attributes::default();
        }
        self.outcome.reset();
        self.attributes.pattern_matching_relative_path(path.into(), Case::Sensitive, Some(false), &mut self.outcome);
        let mut states = [StateRef::Unspecified; NAMES.len()];
        for (state, found) in states.iter_mut().zip(self.outcome.iter_selected()) {
            *state = found.assignment.state;
        }
        read(states)
    }

    fn select(&mut self) {
        self.outcome = Outcome::default();
        self.outcome.initialize_with_selection(&self.names, NAMES);
    }
}

/// git's rules for what the attributes mean together (convert.c), without any configuration.
fn read([text, crlf, eol, ident, filter, encoding]: [StateRef<'_>; 6]) -> Attributes {
    let value = |state: StateRef<'_>| match state {
        StateRef::Value(value) => Some(value.as_bstr().to_vec()),
        StateRef::Set | StateRef::Unset | StateRef::Unspecified => None,
    };
    let as_text = |state: StateRef<'_>| match state {
        StateRef::Set => Some(Text::Yes),
        StateRef::Unset => Some(Text::No),
        StateRef::Unspecified => None,
        StateRef::Value(_) => match value(state).as_deref() {
            Some(b"auto") => Some(Text::Auto),
            Some(b"input") => Some(Text::Yes),
            _ => None,
        },
    };
    let eol_makes_text = matches!(value(eol).as_deref(), Some(b"lf" | b"crlf"));
    let text = as_text(text).or_else(|| as_text(crlf));
    Attributes {
        text: text.unwrap_or(if eol_makes_text { Text::Yes } else { Text::No }),
        ident: matches!(ident, StateRef::Set),
        filter: value(filter),
        encoding: value(encoding).filter(|name| !name.is_empty() && !is_utf8(name)),
    }
}

fn is_utf8(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"utf-8") || name.eq_ignore_ascii_case(b"utf8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_of_deeper_folders_win() {
        let mut rules = Rules::new();
        let top = rules.enter(b"", None, Some(b"* text=auto\n*.bin binary\n*.u16 working-tree-encoding=UTF-16\n"));
        assert_eq!(rules.attributes(b"a.txt").text, Text::Auto);
        assert_eq!(rules.attributes(b"sub/a.bin").text, Text::No);
        assert_eq!(rules.attributes(b"a.u16").encoding.as_deref(), Some(b"UTF-16".as_slice()));
        let sub = rules.enter(b"sub", None, Some(b"*.bin text ident\n*.x filter=lfs eol=crlf\n"));
        assert_eq!(rules.attributes(b"sub/a.bin").text, Text::Yes);
        assert!(rules.attributes(b"sub/a.bin").ident);
        assert_eq!(rules.attributes(b"sub/deep/a.x").filter.as_deref(), Some(b"lfs".as_slice()));
        assert_eq!(rules.attributes(b"other/a.bin").text, Text::No);
        rules.leave(&sub);
        assert_eq!(rules.attributes(b"sub/a.bin").text, Text::No);
        rules.leave(&top);
        assert_eq!(rules.attributes(b"a.txt"), Attributes::default());
    }

    #[test]
    fn ignore_rules_hold_below_their_folder() {
        let mut rules = Rules::new();
        let _top = rules.enter(b"", Some(b"*.log\n!keep.log\n/build/\n"), None);
        assert!(rules.is_ignored(b"a.log", false));
        assert!(rules.is_ignored(b"x/y/a.log", false));
        assert!(!rules.is_ignored(b"keep.log", false));
        assert!(rules.is_ignored(b"build", true));
        assert!(!rules.is_ignored(b"build", false));
        let _sub = rules.enter(b"x", Some(b"!a.log\n/only\n"), None);
        assert!(!rules.is_ignored(b"x/a.log", false));
        assert!(rules.is_ignored(b"x/only", false));
        assert!(!rules.is_ignored(b"x/y/only", false));
        assert!(rules.is_ignored(b"a.log", false));
    }
}
