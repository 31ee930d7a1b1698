//! People at work while the hosts are under fire: one commits to a branch, one applies to it whatever is finished, and is killed at that now
//! and then.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use git2::{Oid, Repository, Signature};
use tokio_postgres::{Client, Config};

use super::{
    check::Ground,
    faults::Dice,
    host::{ChaosHost, HomeCommand},
    load::LINE,
    report::Report,
};
use crate::support::{db::connect, world::git};

/// The branch that takes the changes.
const BRANCH: &str = "landing";
/// How long a person waits for an apply.
const PATIENCE: Duration = Duration::from_secs(30);
/// One apply of so many is killed.
const KILLED_OF: usize = 4;
/// Times that an apply is tried when nothing is in its way any more but the other host.
const TRIES: usize = 5;
/// What tells which task's changes a commit has.
const TRAILER: &str = "Millhand-Task: t";

/// Who works in the user's repository.
#[derive(Clone)]
pub(super) struct People {
    seed: u64,
    database: Config,
    repository: PathBuf,
    homes: Vec<HomeCommand>,
}

/// Where the ids of the user's own commits are written down.
fn own_commits(repository: &Path) -> PathBuf {
    repository.join(".git/own-commits")
}

impl People {
    /// Makes the branch.
    pub(super) fn new(seed: u64, database: Config, repository: &Path, hosts: &[ChaosHost]) -> Result<Self> {
        git(repository, &["branch", BRANCH])?;
        File::create(own_commits(repository))?;
        let homes = hosts.iter().map(ChaosHost::command).collect();
        Ok(Self { seed, database, repository: repository.to_owned(), homes })
    }

    /// Commits to the branch, again and again.
    pub(super) async fn commit(self) -> Result<()> {
        let mut dice = Dice(self.seed ^ 1);
        let mut file = File::options().append(true).open(own_commits(&self.repository))?;
        loop {
            tokio::time::sleep(dice.millis(100, 1500)).await;
            if let Ok(commit) = self.commit_once() {
                writeln!(file, "{commit}")?;
            }
        }
    }

    /// As git does it: the branch is moved from where it was seen, or not at all.
    fn commit_once(&self) -> Result<Oid> {
        let repository = Repository::open(&self.repository)?;
        let name = format!("refs/heads/{BRANCH}");
        let tip = repository.find_reference(&name)?.peel_to_commit()?;
        let ada = Signature::now("Ada", "ada@example.org")?;
        let commit = repository.commit(None, &ada, &ada, "mine", &tip.tree()?, &[&tip])?;
        repository.reference_matching(&name, commit, true, tip.id(), "commit: mine")?;
        Ok(commit)
    }

    /// Applies sessions whose prompts are all done, again and again.
    pub(super) async fn review(self) -> Result<()> {
        let mut dice = Dice(self.seed ^ 2);
        loop {
            tokio::time::sleep(dice.millis(200, 1000)).await;
            for (session, home) in self.finished(LINE).await.unwrap_or_default() {
                let patience = if dice.below(KILLED_OF) == 0 { dice.millis(50, 1500) } else { PATIENCE };
                self.apply(session, &home, patience).await?;
            }
        }
    }

    /// Applies what is left. Nothing is in the way any more.
    pub(super) async fn review_the_rest(&self) -> Result<()> {
        for _ in 0..TRIES {
            for (session, home) in self.finished(1).await? {
                self.apply(session, &home, PATIENCE).await?;
            }
        }
        Ok(())
    }

    async fn apply(&self, session: i64, home: &str, patience: Duration) -> Result<()> {
        let home = self.homes.iter().find(|command| command.scope().as_deref() == Some(home)).context("home")?;
        let mut apply = home.spawn(&["apply", &format!("s{session}"), "--to", BRANCH])?;
        // Whether it worked is asked of the database and of the branch, in the end.
        if tokio::time::timeout(patience, apply.wait()).await.is_err() {
            apply.kill().await?;
        }
        Ok(())
    }

    /// Sessions with so many prompts at least, all done, and changes that nobody applied; and their homes.
    async fn finished(&self, prompts: usize) -> Result<Vec<(i64, String)>> {
        let client = connect(&self.database).await?;
        let sql = "SELECT s.id, s.home_host FROM millhand.sessions s \
                   JOIN millhand.change_sets c ON c.session_id = s.id AND c.state = 'open' \
                   JOIN millhand.tasks t ON t.session_id = s.id WHERE s.home_host IS NOT NULL \
                   GROUP BY s.id HAVING count(*) >= $1 AND bool_and(t.state = 'completed') ORDER BY s.id";
        let rows = client.query(sql, &[&i64::try_from(prompts)?]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }
}

/// What was applied must be on the branch once, and what the user committed must still be there.
pub(super) async fn check(client: &Client, ground: &Ground<'_>, prompts: &[&str], report: &mut Report) -> Result<()> {
    let repository = Repository::open(ground.repository)?;
    let tip = repository.find_reference(&format!("refs/heads/{BRANCH}"))?.peel_to_commit()?;
    let mut walk = repository.revwalk()?;
    walk.push(tip.id())?;
    let mut commits = BTreeSet::new();
    let mut landed: BTreeMap<i64, u64> = BTreeMap::new();
    for id in walk {
        let commit = repository.find_commit(id?)?;
        commits.insert(commit.id().to_string());
        let message = commit.message().unwrap_or_default().to_owned();
        if let Some(task) = message.lines().find_map(|line| line.strip_prefix(TRAILER)) {
            *landed.entry(task.parse()?).or_default() += 1;
        }
    }
    let own = fs::read_to_string(own_commits(ground.repository))?;
    let lost = own.lines().filter(|commit| !commits.contains(*commit)).count();
    report.own_commits = own.lines().count() as u64;
    report.applied = landed.len() as u64;
    let applied = "SELECT task_id FROM millhand.change_sets WHERE state = 'applied'";
    let applied: BTreeSet<i64> = client.query(applied, &[]).await?.iter().map(|row| row.get(0)).collect();
    let missing = applied.iter().filter(|task| !landed.contains_key(task)).count();
    let unrecorded = landed.keys().filter(|task| !applied.contains(task)).count();
    let twice: u64 = landed.values().map(|times| times - 1).sum();
    let open = "SELECT count(*) FROM millhand.change_sets WHERE state = 'open'";
    let open: i64 = client.query_one(open, &[]).await?.get(0);
    let tree = tip.tree()?;
    let kept = |prompt: &&&str| {
        let entry = tree.get_name(&format!("{prompt}.txt"));
        let blob = entry.and_then(|entry| repository.find_blob(entry.id()).ok());
        blob.is_some_and(|blob| blob.content() == format!("{prompt}\n").as_bytes())
    };
    let gone = prompts.iter().filter(|prompt| !kept(prompt)).count();
    let zeros = &mut report.zeros;
    zeros.insert("commits of the user's lost", lost as u64);
    zeros.insert("changes applied twice", twice);
    zeros.insert("applied changes that the branch has no commit of", missing as u64);
    zeros.insert("changes on the branch that are not recorded as applied", unrecorded as u64);
    zeros.insert("change sets that could not be applied", u64::try_from(open)?);
    zeros.insert("files that the branch does not have as they were made", gone as u64);
    Ok(())
}
