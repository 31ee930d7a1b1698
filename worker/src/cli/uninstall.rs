//! `millhand uninstall`: takes away what Millhand has put on this machine, and nothing else.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use owo_colors::OwoColorize as _;
use serde_json::json;

use super::{
    Context,
    args::Uninstall,
    failure::{Exit, Failure, Outcome},
    screen::{bold, dim, green},
    setup::blocking,
    text::safe_line,
};
use crate::{config::Home, postgres::Private, supervise::HostLock};

/// The private Postgres stops some seconds after its last user.
const POSTGRES_GONE_WITHIN: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// `millhand uninstall`.
pub(super) async fn uninstall(context: &Context, arguments: &Uninstall) -> Outcome {
    let screen = context.screen;
    let home = &context.settings.home;
    let root = safe_line(&home.root().display().to_string());
    if let Some(pid) = HostLock::holder(&home.private()) {
        return Err(Failure::usage(format!("a worker runs (process {pid})"), "stop it first: millhand down"));
    }
    let parts = parts(home);
    if parts.is_empty() {
        screen.line(&format!("There is nothing of Millhand in {root}"))?;
        return Ok(Exit::Done);
    }
    screen.line(&format!("In {}, this will be removed for good:", root.style(bold())))?;
    for (path, what) in &parts {
        screen.line(&format!("  {}  {}", safe_line(&path.display().to_string()), what.style(dim())))?;
    }
    screen.line("Your repositories are left as they are.")?;
    if !context.settings.database.is_private() {
        screen.line("The database that you named keeps its data; to remove it: DROP SCHEMA millhand CASCADE;")?;
    }
    screen.line("The program itself stays; remove it with: cargo uninstall millhand, or rm")?;
    if !arguments.yes {
        let hint = "run again with --yes";
        if !screen.can_ask {
            return Err(Failure::usage("nothing was removed: there is nobody to ask", hint));
        }
        if !screen.ask("Changes that were not reviewed are lost. Remove it?")? {
            return Err(Failure::usage("nothing was removed", hint));
        }
    }
    wait_for_postgres(context).await?;
    let progress = screen.progress("removing");
    let (paths, home_root) = (parts.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>(), home.root().to_owned());
    blocking(move || remove(&paths, &home_root))
        .await?
        .map_err(|(path, error)| Failure::broken(format!("{}: {error}", path.display()), None))?;
    drop(progress);
    screen.object("uninstalled", &json!({ "home": home.root() }))?;
    screen.line(&format!("{} Removed", "✓".style(green())))?;
    Ok(Exit::Done)
}

/// What of a home is there. Only what we make ourselves is named: a home may have been set to a folder with other things.
fn parts(home: &Home) -> Vec<(PathBuf, &'static str)> {
    let known = [
        (home.agents(), "worktrees and agents' data"),
        (home.mirrors(), "copies of your repositories"),
        (home.trash(), "worktrees that were moved aside"),
        (home.root().join("pool"), "worktrees that wait for a session"),
        (home.root().join("demo"), "the demo's database and worktrees"),
        (home.root().join("demo-repository"), "the demo's sample repository"),
        (home.tools(), "opencode and PostgreSQL, as far as setup installed them"),
        (home.postgres(), "the private database: tasks, results, costs"),
        (home.private(), "settings, keys, logs"),
    ];
    let demo = Home::new(home.root().join("demo"));
    let sockets = [&demo, home].into_iter().filter_map(Private::folder_outside);
    let known = sockets.map(|path| (path, "the private database's socket")).chain(known);
    known.filter(|(path, _)| fs::symlink_metadata(path).is_ok()).collect()
}

/// Removes folders, and the home itself if nothing else is in it.
fn remove(paths: &[PathBuf], root: &Path) -> Result<(), (PathBuf, io::Error)> {
    for path in paths {
        // A symlink is removed, and what it points to is not ours.
        let is_link = fs::symlink_metadata(path).is_ok_and(|meta| !meta.is_dir());
        let removed = if is_link { fs::remove_file(path) } else { fs::remove_dir_all(path) };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err((path.clone(), error)),
            _ => {}
        }
    }
    match fs::remove_dir(root) {
        Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
            Err((root.to_owned(), error))
        }
        _ => Ok(()),
    }
}

async fn wait_for_postgres(context: &Context) -> Outcome<()> {
    let progress = context.screen.progress("waiting for the private Postgres to stop");
    let deadline = Instant::now() + POSTGRES_GONE_WITHIN;
    let demo = Home::new(context.settings.home.root().join("demo"));
    while Private::is_running(&context.settings.home) || Private::is_running(&demo) {
        if Instant::now() > deadline {
            return Err(Failure::usage("the private Postgres is in use", "end what uses it, such as millhand db psql"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    drop(progress);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_ours_is_removed() {
        let folder = tempfile::tempdir().expect("folder");
        let home = Home::new(folder.path().join("home"));
        let theirs = folder.path().join("theirs");
        for path in [home.private(), home.mirrors(), home.pool(1), theirs.clone(), home.root().join("notes")] {
            fs::create_dir_all(path).expect("folder");
        }
        fs::write(theirs.join("file"), "x").expect("file");
        std::os::unix::fs::symlink(&theirs, home.tools()).expect("link");
        let paths: Vec<_> = parts(&home).into_iter().map(|(path, _)| path).collect();
        assert_eq!(paths, [home.mirrors(), home.root().join("pool"), home.tools(), home.private()]);
        remove(&paths, home.root()).expect("removed");
        assert!(theirs.join("file").exists() && home.root().join("notes").exists());
        assert!(!home.private().exists() && fs::symlink_metadata(home.tools()).is_err());
    }
}
