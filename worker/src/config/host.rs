//! Who this host is: an id that stays with one `MILLHAND_HOME` on one machine.
//!
//! The id file records what it is bound to. A home that was copied to another machine, or to another path, finds that the
//! binding does not match and takes a new id, so that two hosts never share one.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use sha2::{Digest as _, Sha256};

use super::Home;

/// What identifies a machine, most telling first.
const MACHINE_ID_FILES: [&str; 2] = ["/etc/machine-id", "/var/lib/dbus/machine-id"];

/// Makes a folder that only this user may enter, with all that is above it.
pub fn private_folder(path: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Makes the home and its private folder, and closes the latter to others.
pub fn prepare_home(home: &Home) -> std::io::Result<()> {
    // The home itself stays enterable: agents under another uid work below it.
    fs::DirBuilder::new().recursive(true).mode(0o755).create(home.root())?;
    private_folder(&home.private())?;
    private_folder(&home.logs())?;
    fs::set_permissions(home.private(), fs::Permissions::from_mode(0o700))
}

/// The id of this host, made on first use.
pub fn host_id(home: &Home) -> std::io::Result<String> {
    let machine =
        MACHINE_ID_FILES.iter().find_map(|file| fs::read_to_string(file).ok()).unwrap_or_default().trim().to_owned();
    host_id_on(home, &machine)
}

fn host_id_on(home: &Home, machine: &str) -> std::io::Result<String> {
    prepare_home(home)?;
    let binding = binding(machine, &fs::canonicalize(home.root())?);
    // The folder itself is the lock: two first starts at once must agree.
    let lock = fs::File::open(home.private())?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
    let file = home.private().join("host");
    match fs::read_to_string(&file) {
        Ok(text) => {
            if let Some((id, bound)) = text.trim().split_once(' ')
                && bound == binding
                && !id.is_empty()
            {
                return Ok(id.to_owned());
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let id = format!("h{}", &uuid::Uuid::new_v4().simple().to_string()[..12]);
    let temporary = home.private().join("host.new");
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?
        .write_all(format!("{id} {binding}\n").as_bytes())?;
    fs::rename(&temporary, &file)?;
    Ok(id)
}

fn binding(machine: &str, root: &Path) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    let mut hash = Sha256::new();
    hash.update(machine.as_bytes());
    hash.update([0]);
    hash.update(root.as_os_str().as_bytes());
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_keeps_its_id_and_a_copied_one_takes_a_new_one() {
        let folder = tempfile::tempdir().expect("folder");
        let home = Home::new(folder.path().join("a"));
        let id = host_id_on(&home, "machine").expect("id");
        assert_eq!(host_id_on(&home, "machine").expect("id"), id);
        assert_ne!(host_id_on(&home, "another machine").expect("id"), id, "same disk in another machine");

        let copy = Home::new(folder.path().join("b"));
        fs::create_dir_all(copy.private()).expect("folder");
        fs::copy(home.private().join("host"), copy.private().join("host")).expect("copy");
        let original = host_id_on(&home, "another machine").expect("id");
        assert_ne!(host_id_on(&copy, "another machine").expect("id"), original, "copied folder");
    }

    #[test]
    fn many_first_starts_at_once_agree_on_one_id() {
        let folder = tempfile::tempdir().expect("folder");
        let home = Home::new(folder.path());
        let ids: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| host_id_on(&home, "m").expect("id"))).collect();
            threads.into_iter().map(|t| t.join().expect("thread")).collect()
        });
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        let mut names: Vec<_> =
            fs::read_dir(home.private()).expect("folder").map(|entry| entry.expect("entry").file_name()).collect();
        names.sort();
        assert_eq!(names, ["host", "logs"], "no temporary files stay");
    }
}
