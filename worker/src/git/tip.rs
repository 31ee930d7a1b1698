//! What a session would start from: the newest commit of a branch of the user's repository, looked at and not touched.

use super::{Git, GitError, Source, blocking, error::Context, mirror::Head};

/// The newest commit of a branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tip {
    /// The branch; none: a detached HEAD.
    pub branch: Option<String>,
    /// The commit (40 hex digits); none: the branch has none yet.
    pub commit: Option<String>,
    /// First line of the commit's message.
    pub subject: String,
}

impl Git {
    /// The tip of a branch, or of what is checked out; none for a URL, which nobody asks just to name a commit.
    ///
    /// # Errors
    ///
    /// The repository has no such branch, or cannot be read.
    pub async fn tip(&self, source: &Source, branch: Option<&str>) -> Result<Option<Tip>, GitError> {
        let Some(git_dir) = source.git_dir.clone() else { return Ok(None) };
        let (head, branch) = (source.head.clone(), branch.map(str::to_owned));
        blocking(move || {
            let repository = git2::Repository::open(git_dir).doing("open the repository")?;
            let branch = match (branch, head) {
                (None, Head::Detached(id)) => {
                    let subject = subject(&repository, &id);
                    return Ok(Some(Tip { branch: None, commit: Some(id), subject }));
                }
                (Some(name), Head::Unborn(unborn)) if name == unborn => {
                    return Ok(Some(Tip { branch: Some(name), commit: None, subject: String::new() }));
                }
                (None, Head::Unborn(name)) => {
                    return Ok(Some(Tip { branch: Some(name), commit: None, subject: String::new() }));
                }
                (Some(name), _) | (None, Head::Branch(name)) => name,
            };
            let found = repository.find_reference(&format!("refs/heads/{branch}"));
            let commit = found.and_then(|found| found.peel_to_commit()).map(|commit| commit.id().to_string());
            let Ok(commit) = commit else {
                return Err(GitError::NoSuchBranch { branch, near: Vec::new() });
            };
            let subject = subject(&repository, &commit);
            Ok(Some(Tip { branch: Some(branch), commit: Some(commit), subject }))
        })
        .await
    }
}

/// A commit that cannot be read has no subject; the turn will say why.
fn subject(repository: &git2::Repository, id: &str) -> String {
    let commit = git2::Oid::from_str(id).and_then(|id| repository.find_commit(id));
    commit
        .ok()
        .and_then(|commit| commit.summary_bytes().map(|s| String::from_utf8_lossy(s).into_owned()))
        .unwrap_or_default()
}
