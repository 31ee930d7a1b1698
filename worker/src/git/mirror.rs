//! The mirror: our bare clone of a project, which only the supervisor writes.
//!
//! The source's refs live below `refs/mirror/`, ours below `refs/millhand/`, so that pruning the one never touches the other.
//! Objects are hard links to the user's where the file system allows. Links share their times, so nothing here may "freshen" an
//! object that exists already: see [`store_object`](super::store_object).

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use git2::{ErrorCode, Repository};

use super::{
    Git, GitError, Progress, Source, SourceKind, blocking,
    command::{QUERY_LIMIT, REMOTE_LIMIT, without_credentials},
    error::{Context, PathContext},
    lock::Lock,
    write_whole,
};

/// What a source has checked out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Head {
    /// A branch with commits.
    Branch(String),
    /// A branch without a commit yet.
    Unborn(String),
    /// A commit (40 hex digits).
    Detached(String),
}

/// An up-to-date bare clone of a project.
#[derive(Clone, Debug)]
pub struct Mirror {
    /// Whose it is.
    pub project_id: i64,
    /// Where it is.
    pub path: PathBuf,
    /// What the source has checked out.
    pub head: Head,
    /// Something new had to be fetched.
    pub fetched: bool,
}

/// What a session starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// The branch; none if the source has a commit checked out.
    pub branch: Option<String>,
    /// The commit (40 hex digits). On an unborn branch an empty root commit of ours.
    pub commit: String,
}

const REFSPECS: [&str; 3] =
    ["+refs/heads/*:refs/mirror/heads/*", "+refs/tags/*:refs/mirror/tags/*", "+refs/remotes/*:refs/mirror/remotes/*"];
const DETACHED: &str = "refs/mirror/HEAD";

impl Git {
    /// Makes the mirror, or brings it up to date. For a path with nothing new this reads refs only.
    pub async fn ensure_mirror(
        &self,
        project_id: i64,
        source: &str,
        progress: Option<&Progress>,
    ) -> Result<Mirror, GitError> {
        let source = self.locate(source).await?;
        let path = self.home().mirror(project_id);
        let mirror = |fetched| Mirror { project_id, path: path.clone(), head: source.head.clone(), fetched };
        if self.is_fresh(&path, &source).await? {
            return Ok(mirror(false));
        }
        let lock = self.lock_mirror(project_id).await?;
        // Another process may have done it while we waited.
        if self.is_fresh(&path, &source).await? {
            return Ok(mirror(false));
        }
        if path.join("HEAD").is_file() {
            self.fetch(&path, &source, &lock, progress).await?;
        } else {
            self.clone_mirror(&path, &source, &lock, progress).await?;
        }
        Ok(mirror(true))
    }

    /// The mirror as it is, without a look at its source; none if it is not there or lacks the commit.
    pub async fn mirror_with(&self, project_id: i64, commit: &str) -> Result<Option<Mirror>, GitError> {
        let path = self.home().mirror(project_id);
        let commit = commit.to_owned();
        blocking(move || {
            if !path.join("HEAD").is_file() {
                return Ok(None);
            }
            let repository = open(&path)?;
            let found = git2::Oid::from_str(&commit).is_ok_and(|id| repository.find_commit(id).is_ok());
            drop(repository);
            Ok(found.then_some(Mirror { project_id, path, head: Head::Detached(commit), fetched: false }))
        })
        .await
    }

    /// The same, if it has this tree too, whatever commit that belongs to.
    pub async fn mirror_with_tree(&self, project_id: i64, base: &str, tree: &str) -> Result<Option<Mirror>, GitError> {
        let Some(mirror) = self.mirror_with(project_id, base).await? else { return Ok(None) };
        let (path, tree) = (mirror.path.clone(), tree.to_owned());
        let has_it = blocking(move || {
            let repository = open(&path)?;
            Ok(git2::Oid::from_str(&tree).is_ok_and(|id| repository.find_tree(id).is_ok()))
        })
        .await?;
        Ok(has_it.then_some(mirror))
    }

    /// Whether the source has a branch of this name of its own `origin`, from which one of its own is made.
    pub async fn has_remote_branch(&self, mirror: &Mirror, branch: &str) -> Result<bool, GitError> {
        let (path, name) = (mirror.path.clone(), format!("refs/mirror/remotes/origin/{branch}"));
        blocking(move || Ok(open(&path)?.find_reference(&name).is_ok())).await
    }

    /// Resolves a branch by name; without one, what the source has checked out.
    pub async fn resolve_base(&self, mirror: &Mirror, branch: Option<&str>) -> Result<Base, GitError> {
        let (path, head, branch) = (mirror.path.clone(), mirror.head.clone(), branch.map(str::to_owned));
        blocking(move || {
            let repository = open(&path)?;
            match (branch, head) {
                (Some(name), Head::Unborn(unborn)) if name == unborn => Ok(unborn_base(&repository, name)?),
                (None, Head::Unborn(name)) => Ok(unborn_base(&repository, name)?),
                (Some(name), _) | (None, Head::Branch(name)) => branch_base(&repository, name),
                (None, Head::Detached(commit)) => Ok(Base { branch: None, commit }),
            }
        })
        .await
    }

    /// Nothing to fetch? Only a path can tell without asking a server.
    async fn is_fresh(&self, mirror: &Path, source: &Source) -> Result<bool, GitError> {
        let Some(git_dir) = source.git_dir.clone() else { return Ok(false) };
        if !mirror.join("HEAD").is_file() {
            return Ok(false);
        }
        let (mirror, head) = (mirror.to_owned(), source.head.clone());
        blocking(move || {
            let (mirror, source) = (open(&mirror)?, Repository::open(git_dir).doing("open the repository")?);
            if let Head::Detached(id) = &head
                && mirror.find_reference(DETACHED).ok().and_then(|found| found.target()).map(|id| id.to_string())
                    != Some(id.clone())
            {
                return Ok(false);
            }
            let theirs = refs(&source, "refs/", &["heads/", "tags/", "remotes/"])?;
            let ours = refs(&mirror, "refs/mirror/", &["heads/", "tags/", "remotes/"])?;
            Ok(theirs == ours)
        })
        .await
    }

    async fn clone_mirror(
        &self,
        path: &Path,
        source: &Source,
        lock: &Lock,
        progress: Option<&Progress>,
    ) -> Result<(), GitError> {
        let unfinished = path.with_extension("git.unfinished");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).on("remove an unfinished clone", &unfinished)?;
        }
        let remote = source.promisor.as_deref().unwrap_or(&source.location);
        let command = match (source.kind, path_of(remote)) {
            (SourceKind::Path, Some(_)) => self.plain("clone the repository"),
            _ => self.with_credentials("clone the repository"),
        };
        command
            .args(["clone", "--bare", "--dissociate", "--template=", "--no-recurse-submodules"])
            .args(progress.map(|_| "--progress"))
            .args(["--", path_of(remote).unwrap_or(remote)])
            .arg(&unfinished)
            .holding(lock)?
            .limit(REMOTE_LIMIT)
            .progress(progress)
            .run()
            .await?;
        move_refs(&unfinished)?;
        write_whole(&unfinished.join("HEAD"), b"ref: refs/heads/none\n")?;
        self.fetch(&unfinished, source, lock, progress).await?;
        let made = fs::File::open(&unfinished).on("open", &unfinished)?;
        made.sync_all().on("flush", &unfinished)?;
        fs::rename(&unfinished, path).on("put the mirror in its place", path)
    }

    async fn fetch(
        &self,
        mirror: &Path,
        source: &Source,
        lock: &Lock,
        progress: Option<&Progress>,
    ) -> Result<(), GitError> {
        self.write_mirror_config(mirror, source).await?;
        remove_stale_locks(mirror)?;
        if let Some(remote) = &source.promisor {
            self.fetch_from(mirror, remote, &["+refs/heads/*:refs/millhand/promisor/*"], lock, progress).await?;
        }
        let mut refspecs = REFSPECS.to_vec();
        let detached = format!("+HEAD:{DETACHED}");
        if matches!(source.head, Head::Detached(_)) {
            refspecs.push(&detached);
        }
        self.fetch_from(mirror, &source.location, &refspecs, lock, progress).await
    }

    async fn fetch_from(
        &self,
        mirror: &Path,
        remote: &str,
        refspecs: &[&str],
        lock: &Lock,
        progress: Option<&Progress>,
    ) -> Result<(), GitError> {
        let local = path_of(remote);
        let command = match local {
            Some(_) => self.plain("fetch from the repository"),
            None => self.with_credentials("fetch from the repository"),
        };
        command
            .git_dir(mirror)
            .args(["fetch", "--prune", "--no-auto-gc", "--update-shallow", "--no-write-fetch-head", "--no-tags"])
            .args(["--no-recurse-submodules", "--force"])
            .arg(if progress.is_some() { "--progress" } else { "--quiet" })
            .args(["--", local.unwrap_or(remote)])
            .args(refspecs)
            .holding(lock)?
            .limit(REMOTE_LIMIT)
            .progress(progress)
            .run()
            .await?;
        Ok(())
    }

    /// The mirror's configuration is ours from the first to the last line; a clone's own is thrown away.
    async fn write_mirror_config(&self, mirror: &Path, source: &Source) -> Result<(), GitError> {
        let mut text = String::from(
            "# Written by Millhand; changes are lost.\n[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n\
             \tlogallrefupdates = false\n[gc]\n\tauto = 0\n[maintenance]\n\tauto = false\n[millhand]\n",
        );
        let origin = source.origin.as_deref().unwrap_or(&source.location);
        text += &config_line("origin", &without_credentials(origin));
        for (key, name) in [("userName", "user.name"), ("userEmail", "user.email")] {
            if let Some(value) = self.user_setting(source, name).await {
                text += &config_line(key, &value);
            }
        }
        write_whole(&mirror.join("config"), text.as_bytes())
    }

    /// One value of the user's git configuration, as git sees it in the source.
    async fn user_setting(&self, source: &Source, name: &str) -> Option<String> {
        let mut command = self.with_credentials("read the user's name for commits");
        if let Some(git_dir) = &source.git_dir {
            command = command.git_dir(git_dir);
        }
        let value = command.args(["config", "--get", name]).limit(QUERY_LIMIT).run().await.ok()?;
        let value = String::from_utf8(value).ok()?.trim().to_owned();
        (!value.is_empty()).then_some(value)
    }
}

/// Opens a mirror, never anything above it.
pub(super) fn open(mirror: &Path) -> Result<Repository, GitError> {
    Repository::open_bare(mirror).doing("open the mirror")
}

/// A line of a git configuration file, quoted so that a value cannot end it.
pub(super) fn config_line(key: &str, value: &str) -> String {
    let quoted = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("\t{key} = \"{quoted}\"\n")
}

/// The path that a remote names, if it is on this machine.
fn path_of(remote: &str) -> Option<&str> {
    let path = remote.strip_prefix("file://").unwrap_or(remote);
    path.starts_with('/').then_some(path)
}

/// Refs below `below` with one of these prefixes, without `below`. Of ours, which grow with every turn, none is read that is elsewhere.
fn refs(repository: &Repository, below: &str, prefixes: &[&str]) -> Result<BTreeMap<Vec<u8>, git2::Oid>, GitError> {
    let mut found = BTreeMap::new();
    for reference in repository.references_glob(&format!("{below}*")).doing("list refs")? {
        let reference = reference.doing("list refs")?;
        let Some(name) = reference.name_bytes().strip_prefix(below.as_bytes()) else { continue };
        if prefixes.iter().any(|prefix| name.starts_with(prefix.as_bytes()))
            && let Ok(resolved) = reference.resolve()
            && let Some(target) = resolved.target()
        {
            found.insert(name.to_owned(), target);
        }
    }
    Ok(found)
}

/// A bare clone's heads and tags are the source's: `refs/heads/x` becomes `refs/mirror/heads/x`. One file, sorted before as after.
fn move_refs(mirror: &Path) -> Result<(), GitError> {
    let packed = mirror.join("packed-refs");
    match fs::read(&packed) {
        Ok(bytes) => {
            let mut moved = Vec::with_capacity(bytes.len() + bytes.len() / 4);
            for line in bytes.split_inclusive(|byte| *byte == b'\n') {
                match line.get(40..).and_then(|rest| rest.strip_prefix(b" refs/")) {
                    Some(name) if name.starts_with(b"heads/") || name.starts_with(b"tags/") => {
                        moved.extend_from_slice(&line[..40]);
                        moved.extend_from_slice(b" refs/mirror/");
                        moved.extend_from_slice(name);
                    }
                    _ => moved.extend_from_slice(line),
                }
            }
            write_whole(&packed, &moved)?;
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).on("read", packed),
    }
    for kind in ["heads", "tags"] {
        let loose = mirror.join("refs").join(kind);
        if loose.exists() {
            fs::remove_dir_all(&loose).on("remove", &loose)?;
        }
    }
    fs::create_dir_all(mirror.join("refs/heads")).on("create", mirror)
}

/// A fetch that was killed can leave lock files behind; whoever holds the mirror's lock knows that no git is at work on these.
fn remove_stale_locks(mirror: &Path) -> Result<(), GitError> {
    for name in ["packed-refs.lock", "shallow.lock", "config.lock", "HEAD.lock"] {
        remove_stale_lock(&mirror.join(name))?;
    }
    let mut folders = vec![mirror.join("refs/mirror")];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.on("list", &folder)?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "lock") {
                remove_stale_lock(&path)?;
            }
        }
    }
    Ok(())
}

/// Removes a lock file, if it is there.
pub(super) fn remove_stale_lock(path: &Path) -> Result<(), GitError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).on("remove", path),
        _ => Ok(()),
    }
}

fn branch_base(repository: &Repository, name: String) -> Result<Base, GitError> {
    // A NUL fits into no name that libgit2 could look up.
    let places: &[&str] = if name.contains('\0') { &[] } else { &["heads", "remotes/origin"] };
    for place in places {
        match repository.find_reference(&format!("refs/mirror/{place}/{name}")) {
            Ok(found) => {
                let commit = found.peel_to_commit().doing("read the base branch")?.id().to_string();
                return Ok(Base { branch: Some(name), commit });
            }
            Err(error) if matches!(error.code(), ErrorCode::NotFound | ErrorCode::InvalidSpec) => {}
            Err(source) => return Err(GitError::Library { what: "read the base branch", source }),
        }
    }
    let known = refs(repository, "refs/mirror/heads/", &[""])?;
    let mut near: Vec<(usize, String)> = known
        .into_keys()
        .filter_map(|known| String::from_utf8(known).ok())
        .map(|known| (distance(&name, &known), known))
        .filter(|(distance, known)| *distance <= 3 || known.contains(&name) || name.contains(known.as_str()))
        .collect();
    near.sort();
    Err(GitError::NoSuchBranch { branch: name, near: near.into_iter().take(5).map(|(_, name)| name).collect() })
}

/// Levenshtein, over bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// The same empty root commit each time: a session on an unborn branch has something to measure against.
pub(super) fn unborn_base(repository: &Repository, name: String) -> Result<Base, GitError> {
    let make = || {
        let tree = repository.treebuilder(None)?.write()?;
        let who = git2::Signature::new("Millhand", "millhand@localhost", &git2::Time::new(0, 0))?;
        repository.commit(None, &who, &who, "Nothing yet\n", &repository.find_tree(tree)?, &[])
    };
    let commit = make().doing("make an empty base commit")?.to_string();
    Ok(Base { branch: Some(name), commit })
}
