//! Files of the operator's that are copied to where agents work, such as `.env`. Read only from where no agent could have put another
//! file, or a link to one, in its place.

use std::{
    fs::File,
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

/// Larger ones are no settings.
const LARGEST: u64 = 16 << 20;

/// Reads a file that lies outside these folders, through no link; and whether it is a program.
pub(super) fn read(path: &Path, forbidden: &[PathBuf]) -> Result<(Vec<u8>, bool), String> {
    let shown = path.display();
    if !path.is_absolute() {
        return Err(format!("{shown} is not an absolute path"));
    }
    for folder in forbidden {
        let real = folder.canonicalize().unwrap_or_else(|_| folder.clone());
        if path.starts_with(folder) || path.starts_with(&real) {
            return Err(format!("{shown} is where agents can write, or Millhand keeps its data: keep it elsewhere"));
        }
    }
    // Not blocking: it could be a pipe.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS);
    let mut file = match opened {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::LOOP) => {
            return Err(format!("{shown} is a link, or behind one: name the file itself"));
        }
        Err(error) => return Err(format!("{shown} cannot be read on this host: {error}")),
    };
    let failed = |error: std::io::Error| format!("{shown} cannot be read on this host: {error}");
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() {
        return Err(format!("{shown} is no plain file"));
    }
    if found.len() > LARGEST {
        return Err(format!("{shown} is larger than {LARGEST} bytes"));
    }
    let mut bytes = Vec::new();
    std::io::Read::by_ref(&mut file).take(LARGEST).read_to_end(&mut bytes).map_err(failed)?;
    Ok((bytes, found.mode() & 0o100 != 0))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn only_plain_files_that_no_agent_could_have_placed_are_read() -> std::io::Result<()> {
        let folder = tempfile::tempdir()?;
        let root = folder.path().canonicalize()?;
        std::fs::create_dir_all(root.join("home/agents/1"))?;
        std::fs::create_dir_all(root.join("user/folder"))?;
        for name in ["home/agents/1/env", "user/env", "user/folder/inner"] {
            std::fs::write(root.join(name), "A=1\n")?;
        }
        std::fs::write(root.join("user/tool"), "x")?;
        std::fs::set_permissions(root.join("user/tool"), std::fs::Permissions::from_mode(0o755))?;
        symlink(root.join("user/env"), root.join("user/link"))?;
        symlink(root.join("user/folder"), root.join("user/elsewhere"))?;
        let forbidden = [root.join("home")];
        assert_eq!(read(&root.join("user/env"), &forbidden), Ok((b"A=1\n".to_vec(), false)));
        assert_eq!(read(&root.join("user/tool"), &forbidden), Ok((b"x".to_vec(), true)));
        for (name, words) in [
            ("home/agents/1/env", "where agents can write"),
            ("user/link", "is a link"),
            ("user/elsewhere/inner", "is a link"),
            ("user/folder", "no plain file"),
            ("user/none", "cannot be read on this host"),
        ] {
            let refused = read(&root.join(name), &forbidden).err().unwrap_or_default();
            assert!(refused.contains(words), "{name}: {refused}");
        }
        assert!(read(Path::new("/dev/zero"), &forbidden).is_err());
        assert!(read(Path::new("user/env"), &forbidden).is_err());
        Ok(())
    }
}
