//! What npm leaves undone without install scripts: the links between libraries, and modes.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Component, Path, PathBuf},
};

use serde::Deserialize;

/// The package's own list of its links: npm's archives cannot hold any.
const LINKS: &str = "pg-symlinks.json";
/// Longest list that is read, in bytes.
const MAX_LINKS_BYTES: u64 = 256 * 1024;

#[derive(Deserialize)]
struct Link {
    /// What it leads to, from the package's root.
    source: PathBuf,
    /// The link itself, from the package's root.
    target: PathBuf,
}

/// Makes the links that the list in `<package>/<inner>` names. Ends and links must lie inside `inner`, which is moved later.
///
/// # Errors
///
/// The list cannot be read, or something in it leads outside: then the package is not to be used.
pub(super) fn make_links(package: &Path, inner: &str) -> io::Result<()> {
    let list = package.join(inner).join(LINKS);
    let size = match list.symlink_metadata() {
        Ok(found) => found.len(),
        // A package without links.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if size > MAX_LINKS_BYTES {
        return Err(io::Error::other(format!("{LINKS} has {size} bytes")));
    }
    let links: Vec<Link> = serde_json::from_slice(&fs::read(&list)?)?;
    let root = package.join(inner).canonicalize()?;
    for link in &links {
        let refuse =
            || io::Error::other(format!("{LINKS} names a link that leaves the package: {}", link.target.display()));
        let source = inside(&link.source, inner).ok_or_else(refuse)?;
        let target = inside(&link.target, inner).ok_or_else(refuse)?;
        let at = root.join(target);
        let folder = at.parent().ok_or_else(refuse)?;
        // Folders on the way may be links by now, too.
        if !folder.canonicalize()?.starts_with(&root) || !root.join(source).canonicalize()?.starts_with(&root) {
            return Err(refuse());
        }
        match symlink(way_between(target, source), &at) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other?,
        }
        if !at.canonicalize()?.starts_with(&root) {
            return Err(refuse());
        }
    }
    Ok(())
}

/// The path within `inner`, if it is plainly there: nothing but names.
fn inside<'a>(path: &'a Path, inner: &str) -> Option<&'a Path> {
    let rest = path.strip_prefix(inner).ok()?;
    let plain = rest.components().all(|part| matches!(part, Component::Normal(_)));
    (plain && rest.components().next().is_some()).then_some(rest)
}

/// How a link at `from` says `to`, both from the same root.
fn way_between(from: &Path, to: &Path) -> PathBuf {
    let folder = from.parent().unwrap_or(Path::new(""));
    let shared = folder.components().zip(to.components()).take_while(|(one, other)| one == other).count();
    let up = folder.components().skip(shared).map(|_| Component::ParentDir);
    up.chain(to.components().skip(shared)).collect()
}

/// Makes everything below readable for all, programs executable, and nothing writable for others: Postgres runs as another
/// user when Millhand runs as root, whatever the umask was.
pub(super) fn set_modes(folder: &Path) -> io::Result<()> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    let programs = folder.ends_with("bin");
    for entry in folder.read_dir()? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            set_modes(&entry.path())?;
        } else if metadata.is_file() {
            let executable = programs || metadata.permissions().mode() & 0o111 != 0;
            fs::set_permissions(entry.path(), fs::Permissions::from_mode(if executable { 0o755 } else { 0o644 }))?;
        }
    }
    Ok(())
}

/// Bytes of the files below; what vanishes meanwhile does not count.
pub(super) fn bytes_below(folder: &Path) -> u64 {
    let Ok(entries) = folder.read_dir() else { return 0 };
    entries
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok()?, entry.path())))
        .map(|(metadata, path)| if metadata.is_dir() { bytes_below(&path) } else { metadata.len() })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(links: &str) -> io::Result<tempfile::TempDir> {
        let package = tempfile::tempdir()?;
        fs::create_dir_all(package.path().join("native/lib/deep"))?;
        fs::create_dir_all(package.path().join("outside"))?;
        fs::write(package.path().join("native/lib/a.so.1"), "a")?;
        fs::write(package.path().join("native").join(LINKS), links)?;
        Ok(package)
    }

    #[test]
    fn links_are_made_and_survive_a_move_of_the_folder() -> io::Result<()> {
        let package = package(
            r#"[{"source":"native/lib/a.so.1","target":"native/lib/a.so"},
                {"source":"native/lib/a.so.1","target":"native/lib/deep/a.so"},
                {"source":"native/lib/a.so.1","target":"native/a.so"}]"#,
        )?;
        make_links(package.path(), "native")?;
        // Again: what is there stays.
        make_links(package.path(), "native")?;
        let moved = package.path().join("moved");
        fs::rename(package.path().join("native"), &moved)?;
        for link in ["lib/a.so", "lib/deep/a.so", "a.so"] {
            assert!(moved.join(link).is_symlink(), "{link}");
            assert_eq!(fs::read_to_string(moved.join(link))?, "a", "{link}");
        }
        Ok(())
    }

    #[test]
    fn a_link_that_leaves_the_package_is_refused() -> io::Result<()> {
        for (source, target) in [
            ("/etc/passwd", "native/lib/a.so"),
            ("native/../outside", "native/lib/a.so"),
            ("outside", "native/lib/a.so"),
            ("native/lib/a.so.1", "../a.so"),
            ("native/lib/a.so.1", "/tmp/millhand-a.so"),
            ("native/lib/a.so.1", "native"),
            ("native/lib/a.so.1", "outside/a.so"),
            ("native/lib/out", "native/lib/a.so"),
            ("native/lib/a.so.1", "native/lib/out/a.so"),
        ] {
            let links = serde_json::json!([{"source": source, "target": target}]).to_string();
            let package = package(&links)?;
            // As if the archive had brought a link after all.
            symlink(package.path().join("outside"), package.path().join("native/lib/out"))?;
            assert!(make_links(package.path(), "native").is_err(), "{source} <- {target}");
            assert_eq!(fs::read_dir(package.path().join("outside"))?.count(), 0, "{source} <- {target}");
            assert!(!Path::new("/tmp/millhand-a.so").is_symlink());
        }
        Ok(())
    }

    #[test]
    fn modes_do_not_depend_on_the_umask() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let file = |name: &str, mode| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap_or(folder.path()))?;
            fs::write(&path, "")?;
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))
        };
        file("bin/program", 0o600)?;
        file("lib/a.so", 0o700)?;
        file("lib/a.txt", 0o666)?;
        set_modes(folder.path())?;
        for (name, mode) in [("bin", 0o755), ("bin/program", 0o755), ("lib/a.so", 0o755), ("lib/a.txt", 0o644)] {
            assert_eq!(fs::metadata(folder.path().join(name))?.permissions().mode() & 0o7777, mode, "{name}");
        }
        Ok(())
    }
}
