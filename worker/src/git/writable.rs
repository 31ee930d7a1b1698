//! What may be written to a person's repository at all, whoever approved it.

use git2::Repository;

use super::{GitError, diff::Change, error::Context, names};

const LINK: u32 = 0o120_000;

/// Refuses what must not be written to a person's repository, however it got into the mirror.
pub(super) fn check(repository: &Repository, change: &Change) -> Result<(), GitError> {
    let Some(new) = &change.new else { return Ok(()) };
    let shown = new.path.escape_ascii();
    let bad = |name: &[u8]| matches!(name, b"" | b"." | b"..") || !names::is_valid_name(name);
    if new.path.split(|byte| *byte == b'/').any(bad) {
        return Err(GitError::refused(format!("{shown} is no path that may be written")));
    }
    if new.mode == LINK && change.old.as_ref().is_none_or(|old| old.id != new.id || old.mode != new.mode) {
        let target = repository.find_blob(new.id).doing("read a link")?;
        if leads_outside(&new.path, target.content()) {
            let target = target.content().escape_ascii();
            return Err(GitError::refused(format!(
                "{shown} is a link that leads outside of the repository, to {target}"
            )));
        }
    }
    Ok(())
}

fn leads_outside(path: &[u8], target: &[u8]) -> bool {
    let mut depth = path.iter().filter(|byte| **byte == b'/').count();
    let mut named = false;
    if target.starts_with(b"/") {
        return true;
    }
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            // Behind a name it leads up from wherever that leads, which may be a link.
            b".." if depth == 0 || named => return true,
            b".." => depth -= 1,
            // Its own folder of git's, or of the agent's.
            part if part.eq_ignore_ascii_case(b".git") => return true,
            _ => named = true,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_that_lead_outside_are_told_from_those_that_do_not() {
        for (path, target) in [
            ("a", "/etc/passwd"),
            ("a", ".."),
            ("d/a", "../../x"),
            ("d/a", "../d/../../x"),
            ("a", ".git/config"),
            ("y", "up/../secret"),
            ("a", "b/../c"),
        ] {
            assert!(leads_outside(path.as_bytes(), target.as_bytes()), "{path} {target}");
        }
        for (path, target) in
            [("a", "b"), ("d/a", "../x"), ("d/e/a", "../../x/./y"), ("a", ".github/x"), ("d/e/a", ".././../x")]
        {
            assert!(!leads_outside(path.as_bytes(), target.as_bytes()), "{path} {target}");
        }
    }
}
