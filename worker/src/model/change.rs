//! What a turn changed, as git sees it.

/// A checkpoint measured against the session's base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeSet {
    /// Commit that it is measured against (40 hex digits).
    pub base_commit: String,
    /// The checkpoint's commit in the mirror.
    pub commit_id: String,
    /// The checkpoint's tree. Applying the patch to the base gives exactly this tree.
    pub tree_id: String,
    /// SHA-256 of the files' patches, one after another.
    pub patch_sha256: [u8; 32],
    /// The files, in the order of the patch.
    pub files: Vec<FileChange>,
    /// What a reviewer should know: paths skipped, nested repositories, changed ignore rules.
    pub notes: Vec<String>,
}

/// What happened to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// Its content or mode changed.
    Modified,
    /// It is gone.
    Deleted,
    /// It moved, and may have changed.
    Renamed,
    /// File, symlink or submodule became another of them.
    TypeChanged,
}

impl ChangeKind {
    /// The value of `pending_changes.kind`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Modified => "modified",
            Self::Deleted => "deleted",
            Self::Renamed => "renamed",
            Self::TypeChanged => "type_changed",
        }
    }
}

/// One file of a change set. Paths are bytes: git's are not always UTF-8.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileChange {
    /// Path now, or the path that is gone.
    pub path: Vec<u8>,
    /// Where it was renamed from.
    pub old_path: Option<Vec<u8>>,
    /// What happened.
    pub kind: ChangeKind,
    /// git file mode before, 0 if absent.
    pub old_mode: i32,
    /// git file mode after, 0 if absent.
    pub new_mode: i32,
    /// Blob before (40 hex digits).
    pub old_blob: Option<String>,
    /// Blob after.
    pub new_blob: Option<String>,
    /// The patch is a binary one.
    pub is_binary: bool,
    /// What to look at twice: executes, ignore_rules, lfs, submodule, encoding, attributes.
    pub flags: Vec<String>,
    /// Lines added.
    pub additions: i32,
    /// Lines removed.
    pub deletions: i32,
    /// The file's part of the patch, as `git apply` reads it.
    pub patch: Vec<u8>,
}
