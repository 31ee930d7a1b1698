//! Where a branch of the user's repository is checked out, and whether its files can be brought from one commit to another without
//! touching anything that is the user's.

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use git2::{Delta, DiffOptions, Oid, Repository, Tree};

use super::{GitError, error::Context, error::PathContext, mirror};

/// A worktree of the user's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Checkout {
    /// Its HEAD and index.
    pub(super) git_dir: PathBuf,
    /// Its files.
    pub(super) path: PathBuf,
}

/// The user's repository.
#[derive(Clone, Debug)]
pub(super) struct Checkouts {
    /// Refs and objects.
    pub(super) common: PathBuf,
    all: Vec<Checkout>,
}

/// What says that a worktree is in the middle of something.
const UNDER_WAY: [(&str, &str); 6] = [
    ("MERGE_HEAD", "a merge"),
    ("rebase-merge", "a rebase"),
    ("rebase-apply", "a rebase"),
    ("CHERRY_PICK_HEAD", "a cherry-pick"),
    ("REVERT_HEAD", "a revert"),
    ("BISECT_LOG", "a bisect"),
];

/// Where a worktree in the middle of something remembers which branch it is about.
const REMEMBERED: [&str; 3] = ["rebase-merge/head-name", "rebase-apply/head-name", "BISECT_START"];

impl Checkouts {
    /// Looks at the repository that a git folder belongs to.
    pub(super) fn of(git_dir: &Path) -> Result<Self, GitError> {
        let repository = Repository::open(git_dir).doing("open the repository")?;
        let common = repository.commondir().to_owned();
        let mut all = Vec::new();
        let main = Repository::open(&common).doing("open the repository")?;
        if let Some(path) = main.workdir().filter(|path| path.is_dir()) {
            all.push(Checkout { git_dir: common.clone(), path: path.to_owned() });
        }
        for entry in fs::read_dir(common.join("worktrees")).into_iter().flatten() {
            let git_dir = entry.on("list the worktrees of", &common)?.path();
            let Ok(pointer) = fs::read(git_dir.join("gitdir")) else { continue };
            let pointer = pointer.strip_suffix(b"\n").unwrap_or(&pointer);
            let pointer = git_dir.join(OsStr::from_bytes(pointer));
            if let Some(path) = pointer.parent().filter(|_| pointer.exists()) {
                all.push(Checkout { git_dir: git_dir.clone(), path: path.to_owned() });
            }
        }
        Ok(Self { common, all })
    }

    /// The worktree that has this branch checked out; an error if one cannot be touched now.
    pub(super) fn with_branch(&self, branch: &str) -> Result<Option<&Checkout>, GitError> {
        let repository = Repository::open(&self.common).doing("open the repository")?;
        let name = final_name(&repository, &format!("refs/heads/{branch}"));
        let mut found = None;
        for checkout in &self.all {
            let read = |file: &str| fs::read_to_string(checkout.git_dir.join(file)).unwrap_or_default();
            let shown = checkout.path.display();
            let has_it =
                read("HEAD").trim_end().strip_prefix("ref: ").is_some_and(|head| final_name(&repository, head) == name);
            let short = name.strip_prefix("refs/heads/").unwrap_or(branch);
            let remembers = REMEMBERED.iter().any(|file| {
                let text = read(file);
                [name.as_str(), short, branch].contains(&text.trim_end())
            });
            if !has_it && !remembers {
                continue;
            }
            if let Some((_, what)) = UNDER_WAY.iter().find(|(file, _)| checkout.git_dir.join(file).exists()) {
                return Err(GitError::refused(format!("{branch} is in the middle of {what} in {shown}")));
            }
            if has_it && found.replace(checkout).is_some() {
                return Err(GitError::refused(format!("{branch} is checked out in more than one worktree")));
            }
        }
        Ok(found)
    }

    /// The commit that a branch is at.
    pub(super) fn tip(&self, branch: &str) -> Result<Option<String>, GitError> {
        let repository = Repository::open(&self.common).doing("open the repository")?;
        let found = repository.find_reference(&format!("refs/heads/{branch}")).and_then(|found| found.peel_to_commit());
        Ok(found.ok().map(|commit| commit.id().to_string()))
    }
}

/// The ref that moves when this one is moved: a branch may be another name of a branch, and git goes through it.
fn final_name(repository: &Repository, name: &str) -> String {
    let mut name = name.to_owned();
    // As deep as git goes.
    for _ in 0..5 {
        let target = repository.find_reference(&name).ok().and_then(|found| {
            let target = found.symbolic_target().ok().flatten()?;
            Some(target.to_owned())
        });
        let Some(target) = target else { break };
        name = target;
    }
    name
}

/// A path that differs between two commits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) path: Vec<u8>,
    /// Mode and blob before; none: it is added.
    pub(super) old: Option<(u32, Oid)>,
    /// Mode and blob after; none: it goes.
    pub(super) new: Option<(u32, Oid)>,
}

/// What differs between two trees, path by path, in order. No tree: nothing is there.
pub(super) fn differences(
    repository: &Repository,
    old: Option<&Tree<'_>>,
    new: &Tree<'_>,
) -> Result<Vec<Difference>, GitError> {
    let mut options = DiffOptions::new();
    options.ignore_submodules(false);
    let diff = repository.diff_tree_to_tree(old, Some(new), Some(&mut options)).doing("compare two commits")?;
    let mut found: Vec<Difference> = Vec::new();
    for delta in diff.deltas() {
        let side = |file: git2::DiffFile<'_>| (u32::from(file.mode()), file.id());
        let (before, after) = (delta.old_file(), delta.new_file());
        let path = after.path_bytes().or(before.path_bytes()).unwrap_or_default().to_owned();
        let difference = Difference {
            path,
            old: (delta.status() != Delta::Added).then(|| side(before)),
            new: (delta.status() != Delta::Deleted).then(|| side(after)),
        };
        match found.last_mut() {
            // A file that becomes a link is listed twice.
            Some(last) if last.path == difference.path => {
                last.old = last.old.or(difference.old);
                last.new = last.new.or(difference.new);
            }
            _ => found.push(difference),
        }
    }
    Ok(found)
}

/// What stands where a path is to be added: an untracked or ignored file, or a link on the way. By `lstat`, for git overwrites
/// what is ignored.
pub(super) fn in_the_way(
    top: &Path,
    old: Option<&Tree<'_>>,
    differences: &[Difference],
) -> Result<Option<PathBuf>, GitError> {
    let tracked = |path: &[u8]| old.and_then(|tree| tree.get_path(Path::new(OsStr::from_bytes(path))).ok());
    let mut folders: HashSet<&[u8]> = HashSet::new();
    'paths: for difference in differences.iter().filter(|difference| difference.old.is_none()) {
        let path = difference.path.as_slice();
        for end in path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at) {
            let folder = &path[..end];
            if folders.contains(folder) {
                continue;
            }
            match kind(top, folder)? {
                Kind::Nothing => continue 'paths,
                Kind::Folder => {
                    folders.insert(folder);
                }
                // Tracked: it goes first, which git does only if it is unchanged.
                Kind::Other if tracked(folder).is_some() => continue 'paths,
                Kind::Other => return Ok(Some(PathBuf::from(OsStr::from_bytes(folder)))),
            }
        }
        match kind(top, path)? {
            Kind::Nothing => {}
            Kind::Folder => {
                if let Some(found) = untracked_below(top, path, &tracked, 0)? {
                    return Ok(Some(found));
                }
            }
            Kind::Other => return Ok(Some(PathBuf::from(OsStr::from_bytes(path)))),
        }
    }
    Ok(None)
}

enum Kind {
    Nothing,
    Folder,
    Other,
}

fn kind(top: &Path, path: &[u8]) -> Result<Kind, GitError> {
    let path = top.join(OsStr::from_bytes(path));
    match fs::symlink_metadata(&path) {
        Ok(found) if found.is_dir() => Ok(Kind::Folder),
        Ok(_) => Ok(Kind::Other),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Kind::Nothing),
        // A file is where a folder would be: that was looked at on the way.
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => Ok(Kind::Nothing),
        Err(error) => Err(error).on("look at", path),
    }
}

/// A file in a folder, at any depth, that is not tracked.
fn untracked_below<'t>(
    top: &Path,
    folder: &[u8],
    tracked: &impl Fn(&[u8]) -> Option<git2::TreeEntry<'t>>,
    depth: usize,
) -> Result<Option<PathBuf>, GitError> {
    let path = top.join(OsStr::from_bytes(folder));
    if depth > super::folder::DEEPEST || (depth == 0 && tracked(folder).is_none()) {
        return Ok(Some(PathBuf::from(OsStr::from_bytes(folder))));
    }
    for entry in fs::read_dir(&path).on("list", &path)? {
        let entry = entry.on("list", &path)?;
        let inner = [folder, b"/", entry.file_name().as_bytes()].concat();
        let found = if entry.file_type().on("look at", entry.path())?.is_dir() {
            untracked_below(top, &inner, tracked, depth + 1)?
        } else {
            tracked(&inner).is_none().then(|| PathBuf::from(OsStr::from_bytes(&inner)))
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// What stands where one of these paths would be added to a folder that has a commit checked out.
pub(super) fn obstacle(
    mirror: &Path,
    old: Option<&str>,
    differences: &[Difference],
    top: &Path,
) -> Result<Option<PathBuf>, GitError> {
    let repository = mirror::open(mirror)?;
    let old = old.map(|id| repository.find_object(Oid::from_str(id)?, None)?.peel_to_tree());
    in_the_way(top, old.transpose().doing("read a commit")?.as_ref(), differences)
}

/// The trees of two commits of a mirror, compared; with what would stand in the way of the new one in a folder.
pub(super) fn compare(
    mirror: &Path,
    old: Option<&str>,
    new: &str,
    top: Option<&Path>,
) -> Result<(Vec<Difference>, Option<PathBuf>), GitError> {
    let repository = mirror::open(mirror)?;
    let tree = |id: &str| repository.find_object(Oid::from_str(id)?, None)?.peel_to_tree();
    let (old, new) = (old.map(tree).transpose().doing("read a commit")?, tree(new).doing("read a commit")?);
    let differences = differences(&repository, old.as_ref(), &new)?;
    let obstacle = match top {
        Some(top) => in_the_way(top, old.as_ref(), &differences)?,
        None => None,
    };
    Ok((differences, obstacle))
}
