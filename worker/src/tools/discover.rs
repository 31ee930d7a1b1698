//! Finding programs: setting → `PATH` → where the system keeps them → what `millhand setup` installed.

use std::{
    env,
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::{Opencode, Origin, PostgresBinaries, Search, Tool, ToolError, Version, memory};

/// Longest that a program may take to say its version (opencode on a busy machine takes seconds).
const VERSION_WITHIN: Duration = Duration::from_secs(30);
/// Most that a program may print as its version.
const VERSION_BYTES: usize = 4096;
/// Debian's layout: one folder per major version.
const DEBIAN: &str = "/usr/lib/postgresql";
/// Homebrew's layouts: Apple silicon, Intel, Linux.
const HOMEBREW: [&str; 3] = ["/opt/homebrew/opt", "/usr/local/opt", "/home/linuxbrew/.linuxbrew/opt"];

/// Finds opencode. Blocks for as long as programs take to say their version.
pub fn find_opencode(search: &Search) -> Result<Opencode, ToolError> {
    if let Some(setting) = &search.setting {
        return probe_opencode(setting, Origin::Setting, search);
    }
    let on_path = path_folders(search).map(|folder| (folder.join("opencode"), Origin::Path));
    let installed = newest_first(&Tool::Opencode.folder(&search.tools), "")
        .into_iter()
        .map(|folder| (folder.join("bin/opencode"), Origin::Installed));
    best(Tool::Opencode, on_path.chain(installed).filter(|(path, _)| path.is_file()), |path, origin| {
        probe_opencode(path, origin, search)
    })
}

/// Finds Postgres's server binaries. Blocks for as long as programs take to say their version.
pub fn find_postgres(search: &Search) -> Result<PostgresBinaries, ToolError> {
    if let Some(setting) = &search.setting {
        return probe_postgres(setting, Origin::Setting, search);
    }
    // A link on the PATH may stand alone; where it leads to, initdb and postgres are together.
    let on_path = path_folders(search)
        .filter_map(|folder| folder.join("postgres").canonicalize().ok()?.parent().map(Path::to_owned))
        .map(|folder| (folder, Origin::Path));
    let debian = newest_first(Path::new(DEBIAN), "").into_iter();
    let homebrew = HOMEBREW.iter().flat_map(|opt| newest_first(Path::new(opt), "postgresql@"));
    let system = debian.chain(homebrew).map(|folder| (folder.join("bin"), Origin::System));
    let installed = newest_first(&Tool::Postgres.folder(&search.tools), "")
        .into_iter()
        .map(|folder| (folder.join("bin"), Origin::Installed));
    best(
        Tool::Postgres,
        on_path.chain(system).chain(installed).filter(|(folder, _)| holds_postgres(folder)),
        |folder, origin| probe_postgres(folder, origin, search),
    )
}

/// The first candidate that can be used; else what was wrong with the first that cannot.
fn best<T>(
    tool: Tool,
    candidates: impl Iterator<Item = (PathBuf, Origin)>,
    probe: impl Fn(&Path, Origin) -> Result<T, ToolError>,
) -> Result<T, ToolError> {
    let mut first_problem = None;
    for (path, origin) in candidates {
        match probe(&path, origin) {
            Ok(found) => return Ok(found),
            Err(problem) => {
                tracing::debug!(%problem, "passed over");
                first_problem.get_or_insert(problem);
            }
        }
    }
    Err(first_problem.unwrap_or(ToolError::NotFound { tool }))
}

pub(super) fn probe_opencode(path: &Path, origin: Origin, search: &Search) -> Result<Opencode, ToolError> {
    let version = checked_version(Tool::Opencode, path, search)?;
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    Ok(Opencode { path, version, origin })
}

pub(super) fn probe_postgres(folder: &Path, origin: Origin, search: &Search) -> Result<PostgresBinaries, ToolError> {
    let broken = |reason: String| ToolError::Broken { tool: Tool::Postgres, path: folder.to_owned(), reason };
    if !holds_postgres(folder) {
        return Err(broken("the folder does not hold both initdb and postgres".to_owned()));
    }
    let server = checked_version(Tool::Postgres, &folder.join("postgres"), search)?;
    let initdb = checked_version(Tool::Postgres, &folder.join("initdb"), search)?;
    if server != initdb {
        return Err(broken(format!("postgres is version {server}, initdb beside it {initdb}")));
    }
    let folder = folder.canonicalize().map_err(|error| broken(error.to_string()))?;
    Ok(PostgresBinaries { folder, version: server, origin })
}

fn holds_postgres(folder: &Path) -> bool {
    folder.join("initdb").is_file() && folder.join("postgres").is_file()
}

fn path_folders(search: &Search) -> impl Iterator<Item = PathBuf> {
    let path = search.path.clone().unwrap_or_default();
    // A relative entry means whatever folder we happen to be in: not for programs that we run unattended.
    env::split_paths(&path).filter(|folder| folder.is_absolute()).collect::<Vec<_>>().into_iter()
}

/// Folders named by a version (after a prefix), the newest first.
fn newest_first(parent: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = parent.read_dir() else { return Vec::new() };
    let mut found: Vec<_> = entries
        .flatten()
        .filter_map(|entry| {
            let version = Version::find_in(entry.file_name().to_str()?.strip_prefix(prefix)?)?;
            Some((version, entry.path()))
        })
        .collect();
    found.sort();
    found.into_iter().rev().map(|(_, path)| path).collect()
}

fn checked_version(tool: Tool, path: &Path, search: &Search) -> Result<Version, ToolError> {
    let broken = |reason| ToolError::Broken { tool, path: path.to_owned(), reason };
    let memory = search.memory.as_deref().filter(|_| tool == Tool::Opencode);
    let known = memory.and_then(|memory| memory::recall(memory, path));
    let is_known = known.is_some();
    let printed = known.map_or_else(|| ask_version(path, search), Ok).map_err(broken)?;
    let version = Version::find_in(&printed).ok_or_else(|| {
        let printed = printed.trim().chars().take(200).collect::<String>();
        broken(format!("it prints no version, but {printed:?}"))
    })?;
    if version < tool.floor() {
        return Err(ToolError::TooOld { tool, path: path.to_owned(), version });
    }
    if let Some(memory) = memory.filter(|_| !is_known) {
        memory::remember(memory, path, printed.trim());
    }
    Ok(version)
}

/// What `--version` prints. The environment is bare: a version query needs none of the user's settings.
fn ask_version(path: &Path, search: &Search) -> Result<String, String> {
    // opencode makes folders in its home, and unpacks a library, for that much already.
    let scratch = tempfile::tempdir().map_err(|error| format!("no temporary folder for it: {error}"))?;
    let mut child = Command::new(path)
        .arg("--version")
        .env_clear()
        .env("PATH", search.path.clone().unwrap_or_default())
        .env("LC_ALL", "C")
        .env("HOME", scratch.path())
        .env("TMPDIR", scratch.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| error.to_string())?;
    let printed = child.stdout.take().map_or(Ok(Vec::new()), |mut stdout| read_within(&mut stdout, VERSION_WITHIN));
    if printed.is_err() {
        // It may have ended by itself meanwhile.
        let _ = child.kill();
    }
    let status = child.wait().map_err(|error| error.to_string())?;
    let printed = printed?;
    if !status.success() {
        return Err(format!("--version ended with {status}"));
    }
    Ok(String::from_utf8_lossy(&printed).into_owned())
}

/// Reads until the end, a limit of bytes, or the time is over.
fn read_within(from: &mut (impl Read + std::os::fd::AsFd), within: Duration) -> Result<Vec<u8>, String> {
    let deadline = Instant::now() + within;
    let mut all = Vec::new();
    let mut chunk = [0_u8; 512];
    while all.len() < VERSION_BYTES {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(|error| error.to_string())?;
        let ready = rustix::event::poll(&mut [PollFd::new(&*from, PollFlags::IN)], Some(&timeout));
        match ready {
            Ok(0) => return Err(format!("--version took longer than {} s", within.as_secs())),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.to_string()),
        }
        match from.read(&mut chunk).map_err(|error| error.to_string())? {
            0 => return Ok(all),
            count => all.extend_from_slice(&chunk[..count]),
        }
    }
    Err(format!("--version printed more than {VERSION_BYTES} bytes"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    fn script(path: &Path, body: &str) -> Outcome {
        fs::create_dir_all(path.parent().unwrap_or(path))?;
        // Written by another process: a fork of a test beside this one would inherit the open file, and then it is busy.
        let written = Command::new("/bin/sh")
            .args(["-c", r#"printf '#!/bin/sh\n%s\n' "$1" >"$0" && chmod 755 "$0""#])
            .arg(path)
            .arg(body)
            .status()?;
        if written.success() { Ok(()) } else { Err("script".into()) }
    }

    fn search(path: &[PathBuf], tools: &Path) -> Result<Search, env::JoinPathsError> {
        let shell = [PathBuf::from("/usr/bin"), PathBuf::from("/bin")];
        Ok(Search {
            setting: None,
            path: Some(env::join_paths(path.iter().chain(&shell))?),
            tools: tools.to_owned(),
            memory: None,
        })
    }

    #[test]
    fn an_old_opencode_on_the_path_gives_way_to_the_installed_one() -> Outcome {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("path");
        script(&path.join("opencode"), "echo 1.2.3")?;
        let tools = folder.path().join("tools");
        let search = search(&[path], &tools)?;
        let error = find_opencode(&search).err().ok_or("found")?;
        assert!(matches!(&error, ToolError::TooOld { version, .. } if *version == Version::new(1, 2, 3)), "{error}");
        assert!(error.to_string().contains("millhand setup"), "{error}");
        script(&tools.join("opencode/1.9.0/bin/opencode"), "echo 1.9.0")?;
        script(&tools.join("opencode/1.18.33/bin/opencode"), "echo 1.18.33")?;
        let found = find_opencode(&search)?;
        assert_eq!((found.version, found.origin), (Version::new(1, 18, 33), Origin::Installed));
        Ok(())
    }

    #[test]
    fn a_setting_is_never_passed_over() -> Outcome {
        let folder = tempfile::tempdir()?;
        script(&folder.path().join("path/opencode"), "echo 1.18.33")?;
        let mut search = search(&[folder.path().join("path")], folder.path())?;
        search.setting = Some(folder.path().join("missing"));
        assert!(matches!(find_opencode(&search), Err(ToolError::Broken { .. })));
        Ok(())
    }

    #[test]
    fn a_lone_link_to_postgres_leads_to_the_folder_of_both() -> Outcome {
        let folder = tempfile::tempdir()?;
        let real = folder.path().join("real").join("bin");
        script(&real.join("postgres"), "echo 'postgres (PostgreSQL) 99.3'")?;
        script(&real.join("initdb"), "echo 'initdb (PostgreSQL) 99.3'")?;
        let path = folder.path().join("path");
        fs::create_dir(&path)?;
        std::os::unix::fs::symlink(real.join("postgres"), path.join("postgres"))?;
        let found = find_postgres(&search(&[path], folder.path())?)?;
        assert_eq!((found.folder, found.origin), (real.canonicalize()?, Origin::Path));
        Ok(())
    }

    #[test]
    fn a_postgres_whose_initdb_is_of_another_version_is_refused() -> Outcome {
        let folder = tempfile::tempdir()?;
        script(&folder.path().join("postgres"), "echo 'postgres (PostgreSQL) 16.1'")?;
        script(&folder.path().join("initdb"), "echo 'initdb (PostgreSQL) 15.9'")?;
        let search = Search { setting: Some(folder.path().to_owned()), ..search(&[], folder.path())? };
        assert!(matches!(find_postgres(&search), Err(ToolError::Broken { .. })));
        Ok(())
    }

    #[test]
    fn a_program_that_prints_without_end_is_ended() -> Outcome {
        let folder = tempfile::tempdir()?;
        script(&folder.path().join("opencode"), "exec yes")?;
        let search = Search { setting: Some(folder.path().join("opencode")), ..search(&[], folder.path())? };
        let error = find_opencode(&search).err().ok_or("found")?;
        assert!(error.to_string().contains("more than"), "{error}");
        Ok(())
    }

    #[test]
    fn folders_of_versions_are_ordered_by_number() -> Outcome {
        let folder = tempfile::tempdir()?;
        for name in ["9.6", "15", "100", "notes"] {
            fs::create_dir(folder.path().join(name))?;
        }
        let names: Vec<_> =
            newest_first(folder.path(), "").iter().filter_map(|p| p.file_name()).map(ToOwned::to_owned).collect();
        assert_eq!(names, ["100", "15", "9.6"]);
        Ok(())
    }
}
