//! The oldest git that is safe to run on what others wrote.
//!
//! CVE-2025-48384: a carriage return in a submodule's path runs a planted hook at checkout. It was mended in each release line apart.

use std::path::Path;

use super::GitError;

/// The oldest good version of all.
pub(super) const OLDEST: &str = "2.43.7";

/// First good patch of each release line that got one.
const MENDED: [(u32, u32); 8] = [(43, 7), (44, 4), (45, 4), (46, 4), (47, 3), (48, 2), (49, 1), (50, 1)];

/// Reads `git version 2.47.3 …`; the version if it is good.
pub(super) fn check(path: &Path, output: &str) -> Result<String, GitError> {
    let text = output.trim().strip_prefix("git version ").unwrap_or(output.trim());
    let version = text.split_whitespace().next().unwrap_or("").to_owned();
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let (major, minor, patch) = (numbers.next(), numbers.next(), numbers.next());
    let (major, minor, patch) = (major.unwrap_or(0), minor.unwrap_or(0), patch.unwrap_or(0));
    let too_old = |needs: String| GitError::TooOld { path: path.to_owned(), found: text.to_owned(), needs };
    if major > 2 || (major == 2 && minor > 50) {
        return Ok(version);
    }
    match MENDED.iter().find(|(line, _)| major == 2 && *line == minor) {
        Some((_, first)) if patch >= *first => Ok(version),
        Some((line, first)) => Err(too_old(format!("2.{line}.{first}"))),
        None => Err(too_old(OLDEST.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_release_line_has_its_own_floor() {
        for (output, good) in [
            ("git version 2.43.7\n", true),
            ("git version 2.43.6\n", false),
            ("git version 2.47.3\n", true),
            ("git version 2.47.2\n", false),
            ("git version 2.50.1 (Apple Git-155)\n", true),
            ("git version 2.50.0\n", false),
            ("git version 2.51.0\n", true),
            ("git version 2.51.0.rc1\n", true),
            ("git version 2.39.5\n", false),
            ("git version 3.0.0\n", true),
            ("something else\n", false),
        ] {
            assert_eq!(check(Path::new("/usr/bin/git"), output).is_ok(), good, "{output}");
        }
    }
}
