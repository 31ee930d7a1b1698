//! External programs: opencode, and Postgres's server binaries.
//!
//! They are found on the machine, or installed by `millhand setup` into a folder of Millhand's own. Discovery only looks and
//! asks for versions: it changes nothing, and it never falls back on a program that the user did not choose when an explicit
//! setting names one. This module must not start anything that lives longer than a version query, apart from npm in the
//! installer.

mod discover;
mod install;
mod memory;
mod npm;
mod package;
mod unpacked;
mod version;

use std::{
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
};

pub use discover::{find_opencode, find_postgres};
pub use install::{InstallError, Progress, install_opencode, install_postgres};
pub use npm::NpmError;
pub use package::{Libc, Package, Platform};
pub use version::Version;

/// Oldest Postgres that Millhand works with.
pub const POSTGRES_FLOOR: Version = Version::new(15, 0, 0);
/// Oldest opencode that Millhand works with.
pub const OPENCODE_FLOOR: Version = Version::new(1, 14, 50);
/// Newest opencode that the tests have run against; a newer one works as long as its API stays.
pub const OPENCODE_TESTED: Version = Version::new(1, 18, 33);

/// Where to look for programs.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// What the configuration names: for opencode the program, for Postgres the folder with `initdb` and `postgres`.
    pub setting: Option<PathBuf>,
    /// The value of `PATH`.
    pub path: Option<OsString>,
    /// Where `millhand setup` installs.
    pub tools: PathBuf,
    /// A private file in which opencode's version is remembered, as long as the program stays what it is; none: it is asked each time.
    pub memory: Option<PathBuf>,
}

/// How a program was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The configuration names it.
    Setting,
    /// It is on the `PATH`.
    Path,
    /// It lies where the system's packages put it.
    System,
    /// `millhand setup` installed it.
    Installed,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Setting => "named in the configuration",
            Self::Path => "on the PATH",
            Self::System => "installed on the system",
            Self::Installed => "installed by millhand setup",
        })
    }
}

/// opencode, found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opencode {
    /// The program.
    pub path: PathBuf,
    /// What it says it is.
    pub version: Version,
    /// How it was found.
    pub origin: Origin,
}

/// Postgres's server binaries, found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresBinaries {
    /// The folder that holds `initdb` and `postgres`; symlinks resolved.
    pub folder: PathBuf,
    /// What they say they are.
    pub version: Version,
    /// How they were found.
    pub origin: Origin,
}

impl PostgresBinaries {
    /// The program that makes a cluster.
    pub fn initdb(&self) -> PathBuf {
        self.folder.join("initdb")
    }

    /// The server.
    pub fn postgres(&self) -> PathBuf {
        self.folder.join("postgres")
    }
}

/// Which program an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// opencode.
    Opencode,
    /// Postgres's `initdb` and `postgres`.
    Postgres,
}

impl Tool {
    /// Oldest version that Millhand works with.
    pub const fn floor(self) -> Version {
        match self {
            Self::Opencode => OPENCODE_FLOOR,
            Self::Postgres => POSTGRES_FLOOR,
        }
    }

    /// Where the installer puts it, below the tools folder.
    fn folder(self, tools: &Path) -> PathBuf {
        tools.join(match self {
            Self::Opencode => "opencode",
            Self::Postgres => "postgres",
        })
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Opencode => "opencode",
            Self::Postgres => "PostgreSQL's initdb and postgres",
        })
    }
}

/// Why a program cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// It is nowhere.
    #[error("{tool} not found: run `millhand setup`, which installs it into a folder of Millhand's own")]
    NotFound {
        /// Which.
        tool: Tool,
    },
    /// The newest one found is too old.
    #[error("{path} is version {version}, too old: {floor} or newer is needed; upgrade it, or run `millhand setup`",
        path = path.display(), floor = tool.floor())]
    TooOld {
        /// Which.
        tool: Tool,
        /// Where it is.
        path: PathBuf,
        /// What it says it is.
        version: Version,
    },
    /// It is there and does not work.
    #[error("{path} does not work: {reason}; mend it, or run `millhand setup`", path = path.display())]
    Broken {
        /// Which.
        tool: Tool,
        /// Where it is.
        path: PathBuf,
        /// What went wrong.
        reason: String,
    },
}
