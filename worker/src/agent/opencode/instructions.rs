//! A repository's AGENTS.md or CLAUDE.md, passed on with each prompt.
//!
//! With a repository's own configuration off (which is code), opencode does not read its instructions either (which are text), so
//! we read them. Per prompt, as one server works in many worktrees whose instructions differ. The worktree is the agent's to
//! write: a link that leads out of it is not followed, or a file of ours would go to the model.

use std::{
    fs, io,
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

/// The first of these that there is, as opencode has it.
const NAMES: [&str; 3] = ["AGENTS.md", "CLAUDE.md", "CONTEXT.md"];
/// Longest instructions that are passed on, in bytes.
const MAX_LENGTH: usize = 256 << 10;

/// Instructions, or why there are none.
#[derive(Debug, Default)]
pub(super) struct Instructions {
    /// To be added to the system prompt.
    pub(super) text: Option<String>,
    /// What people should know.
    pub(super) warning: Option<String>,
}

/// Reads the instructions of a worktree.
pub(super) fn read(directory: &Path) -> Instructions {
    for name in NAMES {
        let path = directory.join(name);
        match read_inside(directory, &path) {
            Ok(text) => return shortened(&path, text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Instructions {
                    text: None,
                    warning: Some(format!("{name} was not passed on to the agent: {error}")),
                };
            }
        }
    }
    Instructions::default()
}

fn shortened(path: &Path, mut text: String) -> Instructions {
    let mut warning = None;
    if text.len() > MAX_LENGTH {
        let end = (0..=MAX_LENGTH).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        warning = Some(format!(
            "{} is longer than {} kB: only its beginning was passed on",
            path.display(),
            MAX_LENGTH >> 10
        ));
    }
    if text.trim().is_empty() {
        return Instructions::default();
    }
    // The words that opencode itself puts in front.
    Instructions { text: Some(format!("Instructions from: {}\n{text}", path.display())), warning }
}

/// Reads a file that must lie in the directory, whatever links lead to it.
fn read_inside(directory: &Path, path: &Path) -> io::Result<String> {
    use io::Read;
    // Not blocking, as it could be a pipe that nobody writes to.
    let flags = OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut options = fs::OpenOptions::new();
    options.read(true).custom_flags(i32::try_from(flags.bits()).unwrap_or(0));
    let file = options.open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    if !real_path(&file, path)?.starts_with(directory.canonicalize()?) {
        return Err(io::Error::other("it is a link to somewhere outside the repository"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_LENGTH as u64 + 4).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Where an open file really is: asked of the kernel, as the path could lead elsewhere by now.
fn real_path(file: &fs::File, path: &Path) -> io::Result<PathBuf> {
    if cfg!(target_os = "linux") {
        fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
    } else {
        path.canonicalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_come_from_the_worktree_and_from_nowhere_else() {
        let place = tempfile::tempdir().expect("a folder");
        let directory = place.path().join("worktree");
        fs::create_dir(&directory).expect("a folder");
        assert!(read(&directory).text.is_none());

        fs::write(directory.join("CLAUDE.md"), "use tabs").expect("a file");
        assert!(read(&directory).text.is_some_and(|text| text.ends_with("CLAUDE.md\nuse tabs")));
        // A link within the repository is usual.
        std::os::unix::fs::symlink("CLAUDE.md", directory.join("AGENTS.md")).expect("a link");
        assert!(read(&directory).text.is_some_and(|text| text.ends_with("AGENTS.md\nuse tabs")));

        fs::write(place.path().join("secret"), "key").expect("a file");
        fs::remove_file(directory.join("AGENTS.md")).expect("removed");
        std::os::unix::fs::symlink("../secret", directory.join("AGENTS.md")).expect("a link");
        let outside = read(&directory);
        assert!(outside.text.is_none() && outside.warning.is_some(), "{outside:?}");

        fs::remove_file(directory.join("AGENTS.md")).expect("removed");
        fs::write(directory.join("AGENTS.md"), "ü".repeat(MAX_LENGTH)).expect("a file");
        let long = read(&directory);
        assert!(long.text.is_some_and(|text| text.len() < MAX_LENGTH + 500) && long.warning.is_some());
    }
}
