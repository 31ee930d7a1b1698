//! Bringing a commit to a branch of a remote, from the mirror: by compare-and-swap, and never by force.

use std::path::Path;

use super::{Applies, Git, GitError, Mirror, apply, blocking, command::REMOTE_LIMIT, command::without_credentials};

/// What is to be pushed.
#[derive(Clone, Debug)]
pub struct Push<'a> {
    /// The project's source: a URL, or a path, whose `origin` is meant then.
    pub source: &'a str,
    /// The branch.
    pub branch: &'a str,
    /// The commit that it must be at; none: it must not exist.
    pub old: Option<&'a str>,
    /// The commit that it is to be at.
    pub new: &'a str,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It is there.
    Yes {
        /// The remote, without credentials.
        remote: String,
        /// Where a pull request is opened: a link, if the remote's host is known.
        link: Option<String>,
        /// What the remote said.
        message: String,
    },
    /// Somebody else moved the branch: nothing was done.
    Moved,
    /// The remote would not have it: nothing was done.
    Refused(String),
}

impl Git {
    /// Pushes the commit.
    pub async fn push(&self, mirror: &Mirror, push: &Push<'_>, held: &Applies) -> Result<Pushed, GitError> {
        let remote = self.remote_of(push.source).await?;
        let name = format!("refs/heads/{}", push.branch);
        let ended = self
            .to_remote("push the branch", &remote)
            .git_dir(&mirror.path)
            .args(["push", "--porcelain", "--no-verify", "--no-follow-tags", "--recurse-submodules=no"])
            .arg(format!("--force-with-lease={name}:{}", push.old.unwrap_or_default()))
            .args(["--", &remote, &format!("{}:{name}", push.new)])
            .holding(&held.lock)?
            .limit(REMOTE_LIMIT)
            .run_to_end()
            .await?;
        let said = remote_words(&ended.message());
        if ended.status == Some(0) {
            let link = apply::pull_request(&remote, push.branch);
            return Ok(Pushed::Yes { remote: without_credentials(&remote), link, message: said });
        }
        let output = String::from_utf8_lossy(&ended.stdout).into_owned();
        let rejected = output.lines().find(|line| line.starts_with('!'));
        match rejected {
            Some(line) if line.contains("(stale info)") || line.contains("(fetch first)") => Ok(Pushed::Moved),
            Some(line) => {
                let reason = line.rsplit('\t').next().unwrap_or(line);
                Ok(Pushed::Refused(format!("the remote refused: {reason}{}", with_space(&said))))
            }
            None => Err(ended.failure("push the branch")),
        }
    }

    /// The commit that a branch of the remote is at; none if it has no such branch.
    pub async fn remote_tip(&self, source: &str, branch: &str) -> Result<Option<String>, GitError> {
        let remote = self.remote_of(source).await?;
        let name = format!("refs/heads/{branch}");
        let listed = self.to_remote("ask the remote for its branch", &remote).args(["ls-remote", "--", &remote, &name]);
        let listed = listed.limit(REMOTE_LIMIT).run().await?;
        let listed = String::from_utf8_lossy(&listed).into_owned();
        let found = listed.lines().filter_map(|line| line.split_once('\t')).find(|(_, found)| *found == name);
        Ok(found.map(|(id, _)| id.to_owned()))
    }

    /// Fetches a commit of a branch of the remote into the mirror, for the apply of this key.
    pub async fn fetch_remote_branch(
        &self,
        mirror: &Mirror,
        source: &str,
        branch: &str,
        key: i64,
        held: &Applies,
    ) -> Result<(), GitError> {
        let remote = self.remote_of(source).await?;
        let _lock = self.lock_mirror(mirror.project_id).await?;
        self.to_remote("fetch the remote's branch", &remote)
            .git_dir(&mirror.path)
            .args(["fetch", "--quiet", "--no-auto-gc", "--update-shallow", "--no-write-fetch-head", "--no-tags"])
            .args(["--no-recurse-submodules", "--force", "--", &remote])
            // One flat name: `feature` that was, and `feature/x` that is, could not lie beside one another.
            .arg(format!("+refs/heads/{branch}:refs/millhand/fetched/{key}"))
            .holding(&held.lock)?
            .limit(REMOTE_LIMIT)
            .run()
            .await?;
        Ok(())
    }

    fn to_remote<'a>(&self, what: &'a str, remote: &str) -> super::command::GitCommand<'a> {
        if remote.starts_with('/') { self.plain(what) } else { self.with_credentials(what) }
    }

    async fn remote_of(&self, source: &str) -> Result<String, GitError> {
        let source = self.locate(source).await?;
        let remote = match source.git_dir {
            None => Some(source.location),
            Some(git_dir) => blocking(move || Ok(push_url(&git_dir))).await?,
        };
        let remote = remote.ok_or_else(|| GitError::refused("the repository has no remote \"origin\" to push to"))?;
        Ok(remote.strip_prefix("file://").map(str::to_owned).unwrap_or(remote))
    }
}

/// Where a repository's own `git push` to `origin` would go.
fn push_url(git_dir: &Path) -> Option<String> {
    let repository = git2::Repository::open(git_dir).ok()?;
    let origin = repository.find_remote("origin").ok()?;
    let url = origin.pushurl().ok().flatten().or_else(|| origin.url().ok())?.to_owned();
    // As git tells a path from a host's: no scheme, and no colon before the first slash.
    let is_path = !url.contains("://") && !url.split('/').next().unwrap_or_default().contains(':');
    match is_path && !url.starts_with('/') {
        true => repository.workdir().unwrap_or(git_dir).join(&url).to_str().map(str::to_owned),
        false => Some(url),
    }
}

fn with_space(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" {text}") }
}

/// The lines that the remote itself wrote.
fn remote_words(message: &str) -> String {
    let lines = message.lines().filter_map(|line| line.strip_prefix("remote:"));
    lines.map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
}
