//! What a user names as a project: a path or a URL, made canonical, or refused with a reason.
//!
//! A source is the user's own repository. It is only read here, and with libgit2, which runs nothing and writes nothing.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    Git, GitError, blocking,
    command::{QUERY_LIMIT, without_credentials},
    error::Context,
    mirror::Head,
};

/// Where a project comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// A repository on this machine.
    Path,
    /// A repository behind https, http, ssh or git.
    Url,
}

/// A source that Millhand can work on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Path or URL.
    pub kind: SourceKind,
    /// The canonical path of the worktree's top (of the repository if bare), or the URL as given.
    pub location: String,
    /// What is checked out.
    pub head: Head,
    /// A name for the project: the last part of the path.
    pub suggested_name: String,
    /// Files that are changed, staged or untracked: they are not part of what agents start from. 0 for a URL.
    pub uncommitted: usize,
    /// It has no worktree.
    pub is_bare: bool,
    /// Its history was cut off when it was cloned.
    pub is_shallow: bool,
    /// A partial clone's remote, from which it is completed.
    pub(super) promisor: Option<String>,
    /// Its git folder, for a path.
    pub(super) git_dir: Option<PathBuf>,
    /// The URL of its own `origin`, for a path; may hold credentials.
    pub(super) origin: Option<String>,
}

impl Source {
    /// The branch that is checked out, also if it has no commit yet.
    pub fn branch(&self) -> Option<&str> {
        match &self.head {
            Head::Branch(name) | Head::Unborn(name) => Some(name),
            Head::Detached(_) => None,
        }
    }

    /// The location without user and password, to show or to hand to agents.
    pub fn public_location(&self) -> String {
        without_credentials(&self.location)
    }
}

impl Git {
    /// Looks at a path or URL; says what it is, or why it cannot be a project.
    pub async fn inspect(&self, given: &str) -> Result<Source, GitError> {
        let mut source = self.locate(given).await?;
        if source.kind == SourceKind::Path && !source.is_bare {
            let top = source.location.clone();
            source.uncommitted = blocking(move || count_uncommitted(Path::new(&top))).await?;
        }
        Ok(source)
    }

    /// Whether a project's source is a path or a URL, without a look at it.
    pub fn kind_of(&self, given: &str) -> Result<SourceKind, GitError> {
        classify(given)
    }

    /// Like [`inspect`](Self::inspect), without counting uncommitted files.
    pub(super) async fn locate(&self, given: &str) -> Result<Source, GitError> {
        let given = given.to_owned();
        match classify(&given)? {
            SourceKind::Url => self.locate_url(given).await,
            SourceKind::Path => {
                let home = self.home().root().to_owned();
                blocking(move || locate_path(&given, &home)).await
            }
        }
    }

    async fn locate_url(&self, url: String) -> Result<Source, GitError> {
        let listing = self
            .with_credentials("reach the remote repository")
            .args(["ls-remote", "--symref", "--", &url, "HEAD"])
            .limit(QUERY_LIMIT)
            .run()
            .await?;
        let listing = String::from_utf8_lossy(&listing);
        let branch = listing.lines().find_map(|line| line.strip_prefix("ref: refs/heads/")?.split('\t').next());
        let commit = listing.lines().find_map(|line| line.strip_suffix("\tHEAD").filter(|id| is_object_id(id)));
        if commit.is_some_and(|id| id.len() != 40) {
            return Err(refuse(&url, SHA256));
        }
        let head = match (branch, commit) {
            (Some(name), Some(_)) => Head::Branch(name.to_owned()),
            (Some(name), None) => Head::Unborn(name.to_owned()),
            (None, Some(id)) => Head::Detached(id.to_owned()),
            // An empty repository tells old gits nothing.
            (None, None) => Head::Unborn("main".to_owned()),
        };
        Ok(Source {
            kind: SourceKind::Url,
            suggested_name: suggest_name(&url),
            head,
            uncommitted: 0,
            is_bare: true,
            is_shallow: false,
            promisor: None,
            git_dir: None,
            origin: None,
            location: url,
        })
    }
}

const SHA256: &str = "uses SHA-256 object ids, which are not supported: convert it to SHA-1, or use another repository";

fn is_object_id(text: &str) -> bool {
    text.len() >= 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn refuse(given: &str, problem: impl Into<String>) -> GitError {
    // Control characters would let a name write over the terminal.
    let given = without_credentials(given).chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    GitError::BadSource { given, problem: problem.into() }
}

/// Path or URL, by git's own rule; refuses what could make git run something.
fn classify(given: &str) -> Result<SourceKind, GitError> {
    if given.trim().is_empty() {
        return Err(refuse(given, "is empty: give a path or a URL"));
    }
    if given.chars().any(char::is_control) {
        return Err(refuse(given, "holds a control character"));
    }
    if given.starts_with('-') {
        return Err(refuse(given, "starts with a dash, which git would take for an option: write ./ before it"));
    }
    let colon = given.find(':');
    if colon.is_some_and(|at| given[at..].starts_with("::")) && !given[..colon.unwrap_or(0)].contains('/') {
        return Err(refuse(given, "names a remote helper, which can run any program: use https or ssh"));
    }
    if let Some((scheme, rest)) = given.split_once("://") {
        return match scheme.to_ascii_lowercase().as_str() {
            "https" | "http" | "ssh" | "git" if rest.starts_with('-') || rest.is_empty() => {
                Err(refuse(given, "has no host that git could reach"))
            }
            "https" | "http" | "ssh" | "git" => Ok(SourceKind::Url),
            "file" => Err(refuse(given, "is a file URL: give the path itself")),
            _ => Err(refuse(given, "has a scheme that is not supported: use https, http, ssh or git, or a path")),
        };
    }
    let is_host = colon.is_some_and(|at| at > 0 && !given[..at].contains('/')) && !Path::new(given).exists();
    if is_host && colon.is_some_and(|at| given[at + 1..].starts_with('-')) {
        return Err(refuse(given, "has a path that starts with a dash"));
    }
    Ok(if is_host { SourceKind::Url } else { SourceKind::Path })
}

fn locate_path(given: &str, home: &Path) -> Result<Source, GitError> {
    let path = fs::canonicalize(given).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => refuse(given, "does not exist"),
        _ => refuse(given, format!("cannot be read: {error}")),
    })?;
    let inside_home = |path: &Path| home.canonicalize().is_ok_and(|home| path.starts_with(home));
    if inside_home(&path) {
        return Err(refuse(given, "lies in Millhand's own folder: add the repository that it came from"));
    }
    if !path.is_dir() {
        return Err(refuse(given, "is not a folder"));
    }
    let not_a_repository = || refuse(given, "is not a git repository, nor inside one (git init makes one)");
    let git_dir = git2::Repository::discover_path(&path, std::iter::empty::<&str>()).map_err(|_| not_a_repository())?;
    if inside_home(&git_dir) {
        return Err(refuse(given, "is a worktree of Millhand's own: add the repository that it came from"));
    }
    let promisor = check_format(given, &git_dir)?;
    let repository = git2::Repository::open(&git_dir)
        .map_err(|error| refuse(given, format!("cannot be opened: {}", error.message())))?;
    let location = repository.workdir().unwrap_or(repository.path());
    let location = location.canonicalize().map_err(|_| not_a_repository())?;
    let Some(text) = location.to_str() else {
        return Err(refuse(given, "has a path that is not UTF-8, which the database cannot hold: move it"));
    };
    Ok(Source {
        kind: SourceKind::Path,
        location: text.to_owned(),
        head: read_head(&repository)?,
        suggested_name: suggest_name(text),
        uncommitted: 0,
        is_bare: repository.is_bare(),
        is_shallow: repository.is_shallow(),
        promisor,
        origin: repository.find_remote("origin").ok().and_then(|remote| remote.url().ok().map(str::to_owned)),
        git_dir: Some(repository.path().to_owned()),
    })
}

/// Refuses formats that libgit2 cannot read; a partial clone's remote, if it is one.
fn check_format(given: &str, git_dir: &Path) -> Result<Option<String>, GitError> {
    let common = fs::read_to_string(git_dir.join("commondir"))
        .map_or_else(|_| git_dir.to_owned(), |below| git_dir.join(below.trim_end_matches('\n')));
    let config = git2::Config::open(&common.join("config")).and_then(|mut config| config.snapshot());
    let config = config.map_err(|error| refuse(given, format!("has a broken configuration: {}", error.message())))?;
    if config.get_str("extensions.objectformat").is_ok_and(|format| !format.eq_ignore_ascii_case("sha1")) {
        return Err(refuse(given, SHA256));
    }
    if config.get_str("extensions.refstorage").is_ok_and(|format| !format.eq_ignore_ascii_case("files")) {
        return Err(refuse(
            given,
            "stores its refs as a reftable, which is not supported: run `git refs migrate --ref-format=files` in it",
        ));
    }
    let by_extension = config.get_str("extensions.partialclone").ok().map(str::to_owned);
    let mut promisor = by_extension;
    if promisor.is_none() {
        let entries = config.entries(Some(r"^remote\..*\.promisor$")).doing("read the repository's configuration")?;
        entries
            .for_each(|entry| {
                if let (Ok(name), Ok("true")) = (entry.name(), entry.value()) {
                    let name = name.trim_start_matches("remote.").trim_end_matches(".promisor");
                    promisor.get_or_insert_with(|| name.to_owned());
                }
            })
            .doing("read the repository's configuration")?;
    }
    let Some(remote) = promisor else { return Ok(None) };
    let url = config.get_string(&format!("remote.{remote}.url"));
    url.map(Some).map_err(|_| {
        refuse(
            given,
            "is a partial clone without a remote to complete it from: run `git fetch --refetch --no-filter` in it",
        )
    })
}

fn read_head(repository: &git2::Repository) -> Result<Head, GitError> {
    let head = repository.find_reference("HEAD").doing("read HEAD")?;
    if let Ok(Some(target)) = head.symbolic_target() {
        let name = target.strip_prefix("refs/heads/").unwrap_or(target).to_owned();
        return Ok(if repository.find_reference(target).is_ok() { Head::Branch(name) } else { Head::Unborn(name) });
    }
    head.target().map(|id| Head::Detached(id.to_string())).ok_or_else(|| GitError::BadSource {
        given: repository.path().display().to_string(),
        problem: "has a HEAD that is not UTF-8 or points nowhere: check out a branch".to_owned(),
    })
}

fn count_uncommitted(top: &Path) -> Result<usize, GitError> {
    let repository = git2::Repository::open(top).doing("open the repository")?;
    let mut options = git2::StatusOptions::new();
    options.include_untracked(true).recurse_untracked_dirs(true).exclude_submodules(true).update_index(false);
    let statuses = repository.statuses(Some(&mut options)).doing("look for uncommitted files")?;
    Ok(statuses.iter().filter(|entry| !entry.status().is_ignored()).count())
}

fn suggest_name(location: &str) -> String {
    let trimmed = location.trim_end_matches('/').trim_end_matches(".git").trim_end_matches('/');
    let last = trimmed.rsplit(['/', ':']).next().unwrap_or("");
    let name: String =
        last.chars().map(|c| if c.is_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' }).collect();
    if name.is_empty() { "project".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_apart_as_git_does() {
        for (given, kind) in [
            ("https://u:p@host/x.git", SourceKind::Url),
            ("git@host:team/x.git", SourceKind::Url),
            ("host:x", SourceKind::Url),
            ("./a:b", SourceKind::Path),
            ("/srv/x", SourceKind::Path),
            ("x", SourceKind::Path),
        ] {
            assert_eq!(classify(given).ok(), Some(kind), "{given}");
        }
        for bad in ["", " ", "-x", "ext::sh -c id", "fd::3", "file:///x", "rsync://h/x", "https://-o/x", "a\nb", "h:-x"]
        {
            let error = classify(bad).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(!error.is_empty(), "{bad}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn names_come_from_the_last_part() {
        for (location, name) in
            [("/a/acme", "acme"), ("/a/acme.git/", "acme"), ("git@h:t/x.git", "x"), ("/a/b c", "b-c"), ("/", "project")]
        {
            assert_eq!(suggest_name(location), name);
        }
    }
}
