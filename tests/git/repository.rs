//! A home, a user's repository in it, and git as the user would run it.

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use millhand::{
    config::Home,
    git::{Base, Checkpoint, Git, Mirror, Worktree},
    model::change::ChangeSet,
};
use sha2::{Digest, Sha256};

/// The project that all tests use.
pub(super) const PROJECT: i64 = 1;

/// A temporary folder with a Millhand home and a user's repository.
pub(super) struct World {
    folder: tempfile::TempDir,
    pub(super) git: Git,
}

impl World {
    /// An initialised repository without a commit.
    pub(super) async fn empty() -> Self {
        let folder = tempfile::Builder::new().prefix("millhand-git-").tempdir().unwrap();
        fs::create_dir(folder.path().join("user")).unwrap();
        fs::write(
            folder.path().join("user/.gitconfig"),
            "[user]\n\tname = Ada\n\temail = ada@example.org\n[gc]\n\tauto = 0\n[maintenance]\n\tauto = false\n",
        )
        .unwrap();
        let git = Git::new(None, environment(folder.path()), Home::new(folder.path().join("home"))).await.unwrap();
        let world = Self { folder, git };
        fs::create_dir(world.source()).unwrap();
        world.user(&["init", "-q", "-b", "main"]);
        world
    }

    /// A repository with these files committed.
    pub(super) async fn with(files: &[(&str, &[u8])]) -> Self {
        let world = Self::empty().await;
        for (name, bytes) in files {
            world.write(name, bytes);
        }
        world.commit("first");
        world
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn home(&self) -> Home {
        Home::new(self.folder.path().join("home"))
    }

    pub(super) fn source(&self) -> PathBuf {
        self.folder.path().join("source")
    }

    pub(super) fn source_text(&self) -> String {
        self.source().to_str().unwrap().to_owned()
    }

    pub(super) fn write(&self, name: &str, bytes: &[u8]) {
        write(&self.source().join(name), bytes);
    }

    pub(super) fn commit(&self, message: &str) {
        self.user(&["add", "-A"]);
        self.user(&["commit", "-q", "--allow-empty", "-m", message]);
    }

    /// git in the user's repository.
    pub(super) fn user(&self, arguments: &[&str]) -> String {
        self.git_in(&self.source(), arguments)
    }

    /// git in any folder, which must succeed.
    pub(super) fn git_in(&self, folder: &Path, arguments: &[impl AsRef<OsStr>]) -> String {
        let output = self.try_git(folder, arguments);
        let shown: Vec<_> = arguments.iter().map(|argument| argument.as_ref().to_owned()).collect();
        assert!(output.status.success(), "git {shown:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    pub(super) fn try_git(&self, folder: &Path, arguments: &[impl AsRef<OsStr>]) -> Output {
        Command::new("git")
            .args(arguments)
            .current_dir(folder)
            .env_clear()
            .envs(environment(self.path()))
            .output()
            .unwrap()
    }

    pub(super) async fn mirror(&self) -> Mirror {
        self.git.ensure_mirror(PROJECT, &self.source_text(), None).await.unwrap()
    }

    pub(super) async fn session(&self, mirror: &Mirror, session_id: i64) -> (Worktree, Base) {
        let base = self.git.resolve_base(mirror, None).await.unwrap();
        (self.git.create_worktree(mirror, session_id, &base).await.unwrap(), base)
    }

    /// Checkpoint and diff; asserts that the patch, applied to the base by git, gives the checkpoint's tree.
    pub(super) async fn change_set(&self, mirror: &Mirror, worktree: &Worktree) -> (Checkpoint, ChangeSet) {
        let checkpoint = self.git.checkpoint(mirror, worktree, 1, "turn").await.unwrap();
        let set = self.git.diff(mirror, &worktree.base_commit, &checkpoint).await.unwrap();
        self.assert_applies(mirror, &set);
        (checkpoint, set)
    }

    pub(super) fn assert_applies(&self, mirror: &Mirror, set: &ChangeSet) {
        let control = tempfile::tempdir_in(self.path()).unwrap();
        self.git_in(control.path(), &["init", "-q"]);
        let alternates = control.path().join(".git/objects/info/alternates");
        fs::write(alternates, format!("{}\n", mirror.path.join("objects").display())).unwrap();
        self.git_in(control.path(), &["read-tree", "-u", "--reset", &set.base_commit]);
        // Objects that only the checkpoint has must come from the patch.
        fs::remove_file(control.path().join(".git/objects/info/alternates")).unwrap();
        let pack = self.git_in(&mirror.path, &["rev-list", "--objects", &set.base_commit]);
        let ids: String = pack.lines().map(|line| format!("{}\n", &line[..40])).collect();
        fs::write(control.path().join(".git/ids"), ids).unwrap();
        let script = format!(
            "git --git-dir={} pack-objects -q --stdout < .git/ids | git index-pack --stdin > /dev/null",
            mirror.path.display()
        );
        let packed = Command::new("sh").args(["-c", &script]).current_dir(control.path()).status().unwrap();
        assert!(packed.success());
        let patch: Vec<u8> = set.files.iter().flat_map(|file| file.patch.clone()).collect();
        assert_eq!(Sha256::digest(&patch).as_slice(), set.patch_sha256);
        if !patch.is_empty() {
            let file = control.path().join(".git/patch");
            fs::write(&file, &patch).unwrap();
            let output = self.try_git(control.path(), &["apply", "--index", "--binary", ".git/patch"]);
            assert!(
                output.status.success(),
                "{}\n{}",
                String::from_utf8_lossy(&output.stderr),
                String::from_utf8_lossy(&patch[..patch.len().min(4000)])
            );
        }
        assert_eq!(self.git_in(control.path(), &["write-tree"]), set.tree_id);
    }
}

/// The environment of the test's user: nothing of the machine's.
pub(super) fn environment(folder: &Path) -> Vec<(OsString, OsString)> {
    let path = std::env::var_os("PATH").unwrap();
    [("HOME", folder.join("user").into_os_string()), ("PATH", path), ("GIT_CONFIG_NOSYSTEM", "1".into())]
        .into_iter()
        .map(|(name, value)| (name.into(), value))
        .collect()
}

/// Writes a file and the folders it lies in.
pub(super) fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// A path of odd bytes below a folder.
pub(super) fn odd(folder: &Path, name: &[u8]) -> PathBuf {
    folder.join(OsStr::from_bytes(name))
}

/// Everything about a folder that a user could see: names, types, modes, times, owners, content.
pub(super) fn fingerprint(folder: &Path) -> String {
    fn add(hash: &mut Sha256, path: &Path) {
        let found = fs::symlink_metadata(path).unwrap();
        hash.update(path.as_os_str().as_bytes());
        hash.update(format!(
            "{:o} {} {}.{} {}",
            found.mode(),
            found.uid(),
            found.mtime(),
            found.mtime_nsec(),
            found.size()
        ));
        if found.is_symlink() {
            hash.update(fs::read_link(path).unwrap().as_os_str().as_bytes());
        } else if found.is_dir() {
            let mut names: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
            names.sort();
            names.iter().for_each(|name| add(hash, name));
        } else {
            hash.update(fs::read(path).unwrap());
        }
    }
    let mut hash = Sha256::new();
    add(&mut hash, folder);
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
