//! The sandbox that the shim puts a child into, between fork and exec: Landlock, no new privileges, no capabilities.
//!
//! Landlock is a list of what is allowed; there is no taking back below a folder that is. So a folder with something in it that
//! must not be read is allowed child by child. What it does not govern: connecting to pathname sockets, TCP, and the modes,
//! owners and times of files that the child's user owns.

mod places;

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, Scope,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs,
};
use serde::{Deserialize, Serialize};

pub use places::{Places, readable_places};

/// What we ask of the kernel: 6 brought the scopes for signals and abstract sockets (Linux 6.12).
const WANTED: ABI = ABI::V6;
/// Devices that everything needs. No others: a disk may belong to the user that we run as, and so do the terminals in `/dev/pts`, in
/// which that user types.
const DEVICES: [&str; 8] =
    ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx", "/dev/fd"];
/// Deepest that a folder is taken apart to leave something out of it.
const DEEPEST: usize = 16;

/// What a child may reach. Paths that do not exist are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// Files and folders (with all that is in them) to read and execute.
    pub read: Vec<PathBuf>,
    /// Files and folders to read, execute and write.
    pub write: Vec<PathBuf>,
    /// Left out of folders in `read`.
    pub withheld: Vec<PathBuf>,
}

/// Whether this kernel has all that the sandbox needs.
pub fn is_supported() -> bool {
    ruleset().is_ok()
}

fn ruleset() -> Result<RulesetCreated, RulesetError> {
    let wanted = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let wanted = wanted.handle_access(AccessFs::from_all(WANTED))?.scope(BitFlags::<Scope>::all())?;
    // Privileges are given up before, by ourselves.
    Ok(wanted.create()?.no_new_privs(false))
}

/// A sandbox whose paths are opened, ready to be entered.
pub(super) struct Prepared {
    ruleset: RulesetCreated,
}

impl Prepared {
    /// Opens all paths.
    pub(super) fn new(sandbox: &Sandbox) -> io::Result<Self> {
        let mut rules = Rules { ruleset: ruleset().map_err(io::Error::other)?, withheld: canonical(&sandbox.withheld) };
        for device in DEVICES {
            rules.allow(Path::new(device), AccessFs::from_all(WANTED))?;
        }
        for path in &sandbox.write {
            rules.allow(path, AccessFs::from_all(WANTED))?;
        }
        for path in canonical(&sandbox.read) {
            rules.allow_reading(&path, 0)?;
        }
        Ok(Self { ruleset: rules.ruleset })
    }

    /// Confines the calling thread for good. It must be the only one, and about to exec.
    pub(super) fn enter(self) -> io::Result<()> {
        set_no_new_privs(true)?;
        drop_capabilities()?;
        self.ruleset.restrict_self().map(drop).map_err(io::Error::other)
    }
}

fn canonical(paths: &[PathBuf]) -> Vec<PathBuf> {
    paths.iter().filter_map(|path| path.canonicalize().ok()).collect()
}

/// With an empty bounding set, not even root gets one back by exec.
fn drop_capabilities() -> io::Result<()> {
    for number in 0..u64::BITS {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            // Beyond the last one that the kernel has; or we have none to give up.
            Err(rustix::io::Errno::INVAL) => break,
            Err(rustix::io::Errno::PERM) if !rustix::process::geteuid().is_root() => break,
            done => done?,
        }
    }
    clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    Ok(set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?)
}

struct Rules {
    ruleset: RulesetCreated,
    withheld: Vec<PathBuf>,
}

impl Rules {
    fn allow(&mut self, path: &Path, access: BitFlags<AccessFs>) -> io::Result<()> {
        let Ok(metadata) = fs::metadata(path) else { return Ok(()) };
        let access = if metadata.is_dir() { access } else { access & AccessFs::from_file(WANTED) };
        // Gone by now, or not for us to open: then it is not for the child either.
        let Ok(handle) = PathFd::new(path) else { return Ok(()) };
        let rule = PathBeneath::new(handle, access).set_compatibility(CompatLevel::HardRequirement);
        (&mut self.ruleset).add_rule(rule).map(drop).map_err(io::Error::other)
    }

    /// Allows to read what is at a path, without what is withheld. A path that is itself below something withheld was named on
    /// purpose.
    fn allow_reading(&mut self, path: &Path, depth: usize) -> io::Result<()> {
        if self.withheld.iter().any(|withheld| withheld == path) && depth > 0 {
            return Ok(());
        }
        let has_withheld = self.withheld.iter().any(|withheld| withheld != path && withheld.starts_with(path));
        let has_secrets = path.starts_with("/etc") && holds_secrets(path, 0);
        if !has_withheld && !has_secrets {
            return self.allow(path, AccessFs::from_read(WANTED));
        }
        if depth > DEEPEST {
            return Ok(());
        }
        let Ok(entries) = fs::read_dir(path) else { return Ok(()) };
        for entry in entries.flatten() {
            let inner = entry.path();
            let Ok(metadata) = fs::symlink_metadata(&inner) else { continue };
            if metadata.is_symlink() {
                // Where it leads is allowed or not by itself; a link into the same tree must not bring in what is left out.
                continue;
            }
            if path.starts_with("/etc") && is_secret(&metadata) {
                continue;
            }
            self.allow_reading(&inner, depth + 1)?;
        }
        Ok(())
    }
}

/// Whether something in the system's configuration is for some only. Our user may be one of these (as root it is), an agent is not.
fn holds_secrets(path: &Path, depth: usize) -> bool {
    let Ok(entries) = fs::read_dir(path) else { return false };
    entries.flatten().any(|entry| {
        let inner = entry.path();
        fs::symlink_metadata(&inner).is_ok_and(|metadata| {
            !metadata.is_symlink()
                && ((is_secret(&metadata) && may_read(&inner))
                    || (metadata.is_dir() && depth < DEEPEST && holds_secrets(&inner, depth + 1)))
        })
    })
}

fn is_secret(metadata: &fs::Metadata) -> bool {
    metadata.mode() & 0o004 == 0
}

fn may_read(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::READ_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_for_some_only_is_seen_however_deep_it_lies() -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir()?;
        let inner = folder.path().join("ssl/private");
        fs::create_dir_all(&inner)?;
        fs::write(inner.join("key"), "secret")?;
        assert!(!holds_secrets(folder.path(), 0));
        fs::set_permissions(inner.join("key"), fs::Permissions::from_mode(0o600))?;
        assert!(holds_secrets(folder.path(), 0));
        Ok(())
    }
}
