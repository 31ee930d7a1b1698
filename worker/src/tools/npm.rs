//! Running npm, and saying in words what went wrong: without scripts, without sudo, nothing outside one folder.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use super::Package;

/// Longest that npm may take: 60 MB over a slow line take a quarter of an hour.
const NPM_WITHIN: Duration = Duration::from_secs(30 * 60);
/// Between two looks at npm.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How much of npm's last words is read, in bytes.
const LAST_WORDS_BYTES: i64 = 8 * 1024;
/// How many of npm's last lines an error shows.
const LAST_LINES: usize = 4;

/// Why npm did not bring the package.
#[derive(Debug, thiserror::Error)]
pub enum NpmError {
    /// There is no npm on the `PATH`, or no node for it.
    #[error("npm is missing: install Node.js 18 or newer, which brings it, then run `millhand setup` again")]
    Missing,
    /// The registry cannot be reached.
    #[error(
        "npm cannot reach its registry ({0}): check the network and `npm config get registry` (and `proxy`), then run \
         `millhand setup` again"
    )]
    Offline(String),
    /// No space left.
    #[error("the disk is full: free some space for npm's cache (`npm config get cache`) and for {}, then run `millhand setup` again", .0.display())]
    DiskFull(PathBuf),
    /// The registry does not have it.
    #[error(
        "npm's registry has no {name} {release}: if `npm config get registry` names a mirror, ask for the package there, \
         or use another registry"
    )]
    NotInRegistry {
        /// The package.
        name: String,
        /// The version.
        release: &'static str,
    },
    /// The registry asks for a login.
    #[error(
        "npm's registry refused ({0}): log in with `npm login`, or use another registry, then run `millhand setup` again"
    )]
    Denied(String),
    /// It took too long.
    #[error("npm took longer than {} minutes: check the network, then run `millhand setup` again", .0.as_secs() / 60)]
    TooSlow(Duration),
    /// It could not be run, or watched.
    #[error("npm could not be run: {0}")]
    NotRun(#[from] io::Error),
    /// Something else.
    #[error("npm failed ({status}): {said}")]
    Failed {
        /// How it ended.
        status: ExitStatus,
        /// Its last words.
        said: String,
    },
}

/// npm, and the `PATH` that it runs with.
#[derive(Debug)]
pub(super) struct Npm {
    program: PathBuf,
    path: OsString,
}

impl Npm {
    /// npm in the folders of a `PATH`.
    pub(super) fn find(path: Option<OsString>) -> Result<Self, NpmError> {
        let path = path.ok_or(NpmError::Missing)?;
        let program = std::env::split_paths(&path)
            .filter(|folder| folder.is_absolute())
            .map(|folder| folder.join("npm"))
            .find(|program| program.is_file())
            .ok_or(NpmError::Missing)?;
        Ok(Self { program, path })
    }

    /// Installs one package below an empty folder, and returns the package's folder. `look` is called a few times a second.
    pub(super) fn install(
        &self,
        package: &Package,
        folder: &Path,
        mut look: impl FnMut(),
    ) -> Result<PathBuf, NpmError> {
        // Makes the folder a project, so that npm looks for none above it.
        fs::write(folder.join("package.json"), r#"{"private": true}"#)?;
        let said = folder.join("npm.log");
        let mut child = self.command(package, folder).stderr(File::create(&said)?).spawn().map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound { NpmError::Missing } else { NpmError::NotRun(error) }
        })?;
        let status = wait(&mut child, &mut look)?;
        if !status.success() {
            return Err(explain(package, status, &last_words(&said), folder));
        }
        let brought = folder.join("node_modules").join(&package.name);
        if brought.is_dir() {
            Ok(brought)
        } else {
            Err(NpmError::Failed { status, said: format!("it left no {}", package.name) })
        }
    }

    /// The user's npm configuration counts (registry, proxy, certificates); where and what to install does not come from it.
    fn command(&self, package: &Package, folder: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(["install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-save", "--no-package-lock"])
            .args(["--no-global", "--no-workspaces", "--no-update-notifier", "--no-progress", "--no-dry-run"])
            .args(["--install-strategy=hoisted", "--prefer-offline", "--loglevel=error", "--color=false"])
            .arg("--prefix")
            .arg(folder)
            .arg(format!("{}@{}", package.name, package.release))
            .current_dir(folder)
            .env("PATH", &self.path)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }
}

/// Waits for the end; whatever goes wrong, the child is gone afterwards.
fn wait(child: &mut Child, look: &mut impl FnMut()) -> Result<ExitStatus, NpmError> {
    let started = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) if started.elapsed() < NPM_WITHIN => {}
            other => {
                // It may have ended by itself meanwhile.
                let _ = child.kill();
                let _ = child.wait();
                return Err(other.map_or_else(NpmError::NotRun, |_| NpmError::TooSlow(NPM_WITHIN)));
            }
        }
        look();
        std::thread::sleep(LOOK_EVERY);
    }
}

fn last_words(log: &Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let length = i64::try_from(file.metadata()?.len()).unwrap_or(i64::MAX);
        file.seek(SeekFrom::End(-LAST_WORDS_BYTES.min(length)))?;
        let mut words = Vec::new();
        file.take(LAST_WORDS_BYTES.unsigned_abs()).read_to_end(&mut words)?;
        Ok(words)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

/// What npm's exit means, by the error codes in its words.
fn explain(package: &Package, status: ExitStatus, said: &str, folder: &Path) -> NpmError {
    // Addresses may hold a registry's password.
    let line = |line: &str| {
        let words = line.split_whitespace().filter(|word| !matches!(*word, "npm" | "ERR!" | "error"));
        let hidden = words.map(|word| if word.contains("://") { "<address>" } else { word });
        hidden.collect::<Vec<_>>().join(" ")
    };
    let lines: Vec<String> = said.lines().map(line).filter(|line| !line.is_empty()).collect();
    let names = |codes: &[&str]| {
        let has = |line: &&String| line.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| codes.contains(&word));
        lines.iter().find(has).cloned()
    };
    // 127: the first line of npm asks for node, and there is none.
    if status.code() == Some(127) {
        return NpmError::Missing;
    }
    if names(&["ENOSPC", "EDQUOT"]).is_some() {
        return NpmError::DiskFull(folder.parent().unwrap_or(folder).to_owned());
    }
    if names(&["E404", "ETARGET", "ENOVERSIONS"]).is_some() {
        return NpmError::NotInRegistry { name: package.name.clone(), release: package.release };
    }
    if let Some(line) = names(&["E401", "E403", "ENEEDAUTH"]) {
        return NpmError::Denied(line);
    }
    let network = [
        "ENOTFOUND",
        "EAI_AGAIN",
        "EAI",
        "ECONNREFUSED",
        "ECONNRESET",
        "ETIMEDOUT",
        "ENETUNREACH",
        "EHOSTUNREACH",
        "ENOTCACHED",
        "EPROTO",
        "ERR_SOCKET_TIMEOUT",
        "E502",
        "E503",
        "E504",
    ];
    if let Some(line) = names(&network) {
        return NpmError::Offline(line);
    }
    let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("; ");
    NpmError::Failed { status, said: if last.is_empty() { "it said nothing".to_owned() } else { last } }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn explained(code: i32, said: &str) -> NpmError {
        let package = Package { name: "opencode-x".to_owned(), release: "1.0.0", unpacked_bytes: 0 };
        explain(&package, ExitStatus::from_raw(code << 8), said, Path::new("/tools"))
    }

    #[test]
    fn errors_of_npm_say_what_to_do() {
        let offline = "npm error code ENOTFOUND\nnpm error request to https://user:secret@host/x failed";
        assert!(matches!(explained(1, offline), NpmError::Offline(_)));
        assert!(matches!(explained(1, "npm ERR! code EAI_AGAIN"), NpmError::Offline(_)));
        assert!(matches!(explained(127, "env: 'node': No such file"), NpmError::Missing));
        assert!(matches!(explained(228, "npm error code ENOSPC\nnpm error errno -28"), NpmError::DiskFull(_)));
        assert!(matches!(explained(1, "npm error code E404"), NpmError::NotInRegistry { .. }));
        assert!(matches!(explained(1, "npm error code E401"), NpmError::Denied(_)));
        assert!(matches!(explained(1, "npm error code EWHAT"), NpmError::Failed { .. }));
    }

    #[test]
    fn addresses_of_a_registry_are_in_no_error() {
        let said = "npm error what\nnpm error at https://user:secret@host/x failed";
        let words = explained(1, said).to_string();
        assert!(words.contains("at <address> failed") && !words.contains("secret"), "{words}");
    }
}
