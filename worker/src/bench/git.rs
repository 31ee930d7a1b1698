//! Worktrees and diffs of a large repository, beside the git command line on a clone of the same.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;

use super::{
    Bench, Figure, Samples,
    place::{Place, write_file},
};
use crate::git::{Base, Git, Mirror, Worktree};

const GROUP: &str = "git";
const PROJECT: i64 = 1;
/// Ids of sessions whose worktrees come from the pool begin here.
const POOLED: i64 = 1_000;

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Files of the repository.
    pub files: usize,
    /// Files that a turn changes.
    pub changed: usize,
    /// How often each thing is done.
    pub rounds: usize,
}

impl Size {
    /// What the README's figures are made with.
    pub const FULL: Self = Self { files: 30_000, changed: 100, rounds: 15 };
    /// A quick look.
    pub const QUICK: Self = Self { files: 30_000, changed: 100, rounds: 4 };
}

#[derive(Default)]
struct Measured {
    new: Samples,
    pooled: Samples,
    git_worktree: Samples,
    checkpoint: Samples,
    diff: Samples,
    both: Samples,
    git_both: Samples,
}

/// Measures, in a folder below the home.
pub async fn run(bench: &Bench<'_>, size: Size, report: &mut dyn FnMut(Figure)) -> Result<()> {
    let place = Place::new(bench.settings)?;
    let measured = bench.unless_stopped(measure(&place, size)).await;
    place.remove().await?;
    tell(&measured?, size, report);
    Ok(())
}

fn tell(measured: &Measured, size: Size, report: &mut dyn FnMut(Figure)) {
    let Size { files, changed, .. } = size;
    report(measured.new.figure(GROUP, format!("worktree, new, {files} files")));
    report(measured.pooled.figure(GROUP, format!("worktree, pooled, {files} files, {changed} to reset")));
    report(measured.git_worktree.figure(GROUP, format!("git worktree add, {files} files")));
    report(measured.checkpoint.figure(GROUP, format!("checkpoint, {files} files, {changed} changed")));
    report(measured.diff.figure(GROUP, format!("diff, {files} files, {changed} changed")));
    report(
        measured
            .both
            .figure(GROUP, format!("checkpoint and diff, {files} files, {changed} changed"))
            .aim("no slower than git"),
    );
    report(measured.git_both.figure(GROUP, format!("git add -A; git diff --cached, {files} files, {changed} changed")));
    report(Figure::ratio(GROUP, "checkpoint and diff / git", &measured.both, &measured.git_both));
    report(Figure::ratio(GROUP, "worktree, new / git worktree add", &measured.new, &measured.git_worktree));
}

/// What is measured with.
struct Rig<'a> {
    place: &'a Place,
    git: Git,
    mirror: Mirror,
    base: Base,
    /// The control: a clone that nothing but git works in.
    clone: PathBuf,
    size: Size,
}

async fn measure(place: &Place, size: Size) -> Result<Measured> {
    let git = Git::new(None, place.environment().0.into_iter().collect(), place.home()).await?;
    let source = place.repository(git.binary(), "source", size.files).await?;
    let source = source.to_string_lossy();
    place.git(git.binary(), place.root(), &["clone", "-q", &source, "clone"]).await?;
    let mirror = git.ensure_mirror(PROJECT, &source, None).await?;
    let base = git.resolve_base(&mirror, None).await?;
    let rig = Rig { place, git, mirror, base, clone: place.root().join("clone"), size };
    let mut measured = Measured::default();
    rig.worktrees(&mut measured).await?;
    rig.pool(&mut measured).await?;
    rig.diffs(&mut measured).await?;
    Ok(measured)
}

impl Rig<'_> {
    /// New worktrees, ours and git's in turn. The first of each warms the caches.
    async fn worktrees(&self, measured: &mut Measured) -> Result<()> {
        for round in 0..=self.size.rounds {
            let session = i64::try_from(round)? + 1;
            let began = Instant::now();
            self.create(session).await?;
            let ours = began.elapsed();
            let folder = self.place.root().join("git-worktree");
            let name = folder.to_string_lossy();
            let began = Instant::now();
            self.git(&self.clone, &["worktree", "add", "-q", "--detach", &name]).await?;
            let gits = began.elapsed();
            if round > 0 {
                measured.new.push(ours);
                measured.git_worktree.push(gits);
            }
            self.git(&self.clone, &["worktree", "remove", "--force", &name]).await?;
            self.git.remove_worktree(&self.mirror, session).await?;
            self.empty_trash().await?;
        }
        Ok(())
    }

    /// One worktree that goes from session to session, each of which changed something.
    async fn pool(&self, measured: &mut Measured) -> Result<()> {
        let mut worktree = self.create(POOLED).await?;
        for round in 0..=self.size.rounds {
            self.change(&worktree.path, round).await?;
            self.git.checkpoint(&self.mirror, &worktree, i64::try_from(round)? + 1, "bench").await?;
            let next = POOLED + i64::try_from(round)? + 1;
            let began = Instant::now();
            worktree = self.git.reset_worktree(&self.mirror, &worktree, next, &self.base).await?;
            if round > 0 {
                measured.pooled.push(began.elapsed());
            }
        }
        self.git.remove_worktree(&self.mirror, worktree.session_id).await?;
        self.empty_trash().await
    }

    /// The same files change again and again, in a worktree and in the clone; both indexes are warm from the second time on.
    async fn diffs(&self, measured: &mut Measured) -> Result<()> {
        let worktree = self.create(1).await?;
        for round in 0..=self.size.rounds {
            self.change(&worktree.path, round).await?;
            self.change(&self.clone, round).await?;
            let began = Instant::now();
            let checkpoint = self.git.checkpoint(&self.mirror, &worktree, i64::try_from(round)? + 1, "bench").await?;
            let kept = began.elapsed();
            let set = self.git.diff(&self.mirror, &worktree.base_commit, &checkpoint).await?;
            let both = began.elapsed();
            anyhow::ensure!(set.files.len() == self.size.changed, "the diff names {} files", set.files.len());
            let began = Instant::now();
            self.git(&self.clone, &["add", "-A"]).await?;
            self.git(&self.clone, &["diff", "--cached", "--binary", "--full-index", "-M"]).await?;
            let gits = began.elapsed();
            if round > 0 {
                measured.checkpoint.push(kept);
                measured.diff.push(both - kept);
                measured.both.push(both);
                measured.git_both.push(gits);
            }
        }
        Ok(())
    }

    async fn create(&self, session: i64) -> Result<Worktree> {
        Ok(self.git.create_worktree(&self.mirror, session, &self.base).await?)
    }

    async fn git(&self, folder: &Path, arguments: &[&str]) -> Result<()> {
        self.place.git(self.git.binary(), folder, arguments).await
    }

    /// Changes files that lie apart.
    async fn change(&self, folder: &Path, round: usize) -> Result<()> {
        let (folder, Size { files, changed, .. }) = (folder.to_owned(), self.size);
        let work = move || {
            let step = (files / changed.max(1)).max(1);
            (0..changed).try_for_each(|n| write_file(&folder, n * step, &format!("as round {round} left it")))
        };
        Ok(tokio::task::spawn_blocking(work).await??)
    }

    async fn empty_trash(&self) -> Result<()> {
        let trash = self.place.home().trash();
        tokio::task::spawn_blocking(move || match std::fs::remove_dir_all(trash) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        })
        .await??;
        Ok(())
    }
}
