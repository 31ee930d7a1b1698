//! opencode and Postgres for the tests: what the machine has, else what Millhand's own installer brings, once per clone.

use std::{env, fs, path::PathBuf, sync::OnceLock};

use anyhow::Result;
use millhand::tools::{self, InstallError, Opencode, PostgresBinaries, Progress, Search, ToolError};

/// Where programs are installed for tests, once per clone: `target/test-tools`.
///
/// Postgres runs as another user when the tests run as root: then, and if that user cannot get there, it is a folder of the
/// system's.
pub fn tools_folder() -> PathBuf {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let folder = super::binary::target_folder().join("test-tools");
    let is_root = fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    let closed = |path: &std::path::Path| fs::metadata(path).is_ok_and(|m| m.permissions().mode() & 0o001 == 0);
    if is_root && folder.ancestors().skip(1).any(closed) {
        PathBuf::from("/var/tmp/millhand-test-tools")
    } else {
        folder
    }
}

/// Where to look: a variable of the test run, the `PATH`, the system, the tests' own folder.
pub fn search(variable: &str) -> Search {
    Search {
        setting: env::var_os(variable).map(PathBuf::from),
        path: env::var_os("PATH"),
        tools: tools_folder(),
        memory: None,
    }
}

/// Says on the test run's output what takes so long.
fn report(what: &str) -> impl FnMut(Progress) {
    let mut last = None;
    move |progress| {
        let kind = std::mem::discriminant(&progress);
        if last.replace(kind) != Some(kind) {
            eprintln!("{what} for the tests: {progress:?}");
        }
    }
}

fn or_install<T: Clone>(
    found: Result<T, ToolError>,
    setting: Option<&PathBuf>,
    install: impl FnOnce() -> Result<T, InstallError>,
) -> Result<T, String> {
    match found {
        Ok(found) => Ok(found),
        // What the run names explicitly must work.
        Err(problem) if setting.is_some() => Err(problem.to_string()),
        Err(problem) => install().map_err(|error| format!("{problem}; and it could not be installed: {error}")),
    }
}

/// Postgres's server binaries; `MILLHAND_TEST_POSTGRES` names others.
pub fn postgres() -> Result<PostgresBinaries> {
    static FOUND: OnceLock<Result<PostgresBinaries, String>> = OnceLock::new();
    let find = || {
        let search = search("MILLHAND_TEST_POSTGRES");
        let install = || tools::install_postgres(&search, &mut report("Postgres"));
        or_install(tools::find_postgres(&search), search.setting.as_ref(), install)
    };
    FOUND.get_or_init(find).clone().map_err(anyhow::Error::msg)
}

/// opencode; `MILLHAND_TEST_OPENCODE` names another.
pub fn opencode() -> Result<Opencode> {
    static FOUND: OnceLock<Result<Opencode, String>> = OnceLock::new();
    let find = || {
        let search = search("MILLHAND_TEST_OPENCODE");
        let install = || tools::install_opencode(&search, &mut report("opencode"));
        or_install(tools::find_opencode(&search), search.setting.as_ref(), install)
    };
    FOUND.get_or_init(find).clone().map_err(anyhow::Error::msg)
}

/// The Postgres that `millhand setup` installs.
pub fn installed_postgres() -> Result<PostgresBinaries> {
    let search = Search { setting: None, ..search("MILLHAND_TEST_POSTGRES") };
    Ok(tools::install_postgres(&search, &mut report("Postgres"))?)
}

/// All versions of Postgres that the private one is tested on: the installed one, and what else the machine has.
pub fn postgres_versions() -> Result<Vec<PostgresBinaries>> {
    let (own, installed) = (postgres()?, installed_postgres()?);
    Ok(if own.folder == installed.folder { vec![installed] } else { vec![own, installed] })
}

/// Which Node is there, by its first number.
pub async fn node_major() -> Option<u32> {
    let told = tokio::process::Command::new("node").arg("--version").output().await.ok()?;
    String::from_utf8_lossy(&told.stdout).trim_start_matches('v').split('.').next()?.parse().ok()
}
