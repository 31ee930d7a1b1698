//! The agent's repository: a real `.git` of the agent's own, written from nothing and never read.
//!
//! With one repository for several agents, one's `stash pop` takes the other's stash, and branch names and hooks are shared. So each
//! session gets its own refs, index, config and hooks, over the mirror's objects.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use git2::Repository;

use super::{
    GitError,
    error::{Context, PathContext},
    mirror::config_line,
};

/// What a new agent's repository starts with.
pub(super) struct Contents<'a> {
    /// The mirror, whose objects and refs it borrows.
    pub(super) mirror: &'a Repository,
    /// The session's index in the mirror: the same stat data, so that the agent's first `git status` is quick.
    pub(super) index: PathBuf,
    /// The branch that is checked out, without `refs/heads/`.
    pub(super) branch: &'a str,
    /// The commit that it is at.
    pub(super) commit: &'a str,
    /// The source's branch that it started from.
    pub(super) base_branch: Option<&'a str>,
}

/// Writes a whole `.git` into `folder`, which must not exist.
pub(super) fn write(folder: &Path, contents: &Contents<'_>) -> Result<(), GitError> {
    for below in ["objects/info", "objects/pack", "refs/heads", "refs/tags", "info", "hooks"] {
        let path = folder.join(below);
        fs::create_dir_all(&path).on("create", path)?;
    }
    let mirror = contents.mirror.path();
    let mut alternates = mirror.join("objects").into_os_string().into_encoded_bytes();
    alternates.push(b'\n');
    put(folder, "objects/info/alternates", &alternates)?;
    put(folder, "HEAD", format!("ref: refs/heads/{}\n", contents.branch).as_bytes())?;
    put(folder, "config", config(contents)?.as_bytes())?;
    put(folder, "packed-refs", &packed_refs(contents)?)?;
    put(folder, "info/exclude", b"")?;
    if let Ok(shallow) = fs::read(mirror.join("shallow")) {
        put(folder, "shallow", &shallow)?;
    }
    copy_with_times(&contents.index, &folder.join("index"))
}

fn put(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), GitError> {
    let path = folder.join(name);
    fs::write(&path, bytes).on("write", path)
}

/// The time matters: git takes files as new as the index for possibly changed.
fn copy_with_times(from: &Path, to: &Path) -> Result<(), GitError> {
    fs::copy(from, to).on("copy", from)?;
    let modified = fs::metadata(from).and_then(|found| found.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let file = fs::File::options().write(true).open(to).on("open", to)?;
    file.set_modified(modified).on("set the time of", to)
}

fn config(contents: &Contents<'_>) -> Result<String, GitError> {
    let ours = git2::Config::open(&contents.mirror.path().join("config"))
        .and_then(|mut config| config.snapshot())
        .doing("read the mirror's configuration")?;
    let origin = ours.get_str("millhand.origin").unwrap_or("");
    let mut text = String::from(
        "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\tlogallrefupdates = true\n\
         [gc]\n\tauto = 0\n[maintenance]\n\tauto = false\n[remote \"origin\"]\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n",
    );
    text += &config_line("url", origin);
    // Changes leave a session through review, not by a push.
    text += "\tpushurl = disabled://changes-are-applied-after-review\n[user]\n";
    text += &config_line("name", ours.get_str("millhand.userName").unwrap_or("Millhand agent"));
    text += &config_line("email", ours.get_str("millhand.userEmail").unwrap_or("agent@millhand.invalid"));
    if let Some(base) = contents.base_branch {
        let quoted = contents.branch.replace('\\', "\\\\").replace('"', "\\\"");
        let _ = write!(text, "[branch \"{quoted}\"]\n\tremote = origin\n");
        text += &config_line("merge", &format!("refs/heads/{base}"));
    }
    Ok(text)
}

/// The source's branches, tags, and remote branches as `origin`'s; sorted, as git wants it.
fn packed_refs(contents: &Contents<'_>) -> Result<Vec<u8>, GitError> {
    let own = format!("refs/heads/{}", contents.branch).into_bytes();
    let mut found: Vec<(Vec<u8>, git2::Oid)> = Vec::new();
    let mut has_origin = false;
    for reference in contents.mirror.references_glob("refs/mirror/*").doing("list the mirror's refs")? {
        let reference = reference.doing("list the mirror's refs")?;
        let (Some(target), name) = (reference.target(), reference.name_bytes()) else { continue };
        let name = &name[b"refs/mirror/".len()..];
        if let Some(branch) = name.strip_prefix(b"remotes/origin/") {
            has_origin = true;
            if branch != b"HEAD" {
                found.push((prefixed(b"refs/remotes/origin/", branch), target));
            }
        } else if name.starts_with(b"heads/") || name.starts_with(b"tags/") {
            found.push((prefixed(b"refs/", name), target));
        }
    }
    if !has_origin {
        let heads: Vec<_> =
            found.iter().filter_map(|(name, id)| Some((name.strip_prefix(b"refs/heads/")?, *id))).collect();
        let tracked: Vec<_> =
            heads.into_iter().map(|(name, id)| (prefixed(b"refs/remotes/origin/", name), id)).collect();
        found.extend(tracked);
    }
    // A branch of the source's that is in the way of ours: `millhand`, or `millhand/s7/x`.
    found.retain(|(name, _)| !collides(name, &own));
    found.push((own, git2::Oid::from_str(contents.commit).doing("read the base commit")?));
    found.sort();
    let mut text = b"# pack-refs with: sorted \n".to_vec();
    for (name, id) in found {
        text.extend_from_slice(id.to_string().as_bytes());
        text.push(b' ');
        text.extend_from_slice(&name);
        text.push(b'\n');
    }
    Ok(text)
}

fn prefixed(prefix: &[u8], name: &[u8]) -> Vec<u8> {
    [prefix, name].concat()
}

/// The same, or one is a folder of the other.
fn collides(a: &[u8], b: &[u8]) -> bool {
    let is_below = |long: &[u8], short: &[u8]| long.strip_prefix(short).is_some_and(|rest| rest.starts_with(b"/"));
    a == b || is_below(a, b) || is_below(b, a)
}
