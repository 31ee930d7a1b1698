//! Commands of the operator's: how one ended, what is kept of what it printed, and which paths files may be copied to.

use std::time::Duration;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself.
    Code(i32),
    /// By a signal.
    Signal(i32),
    /// It took too long, and was ended.
    TimedOut,
    /// It had too many processes at once, and was ended.
    TooManyProcesses,
    /// The worker ended it.
    Stopped,
    /// Nobody saw how: what watched over it died.
    Lost,
}

impl Ended {
    /// In words, for people.
    pub fn words(self, took: Duration) -> String {
        let seconds = took.as_secs();
        match self {
            Self::Code(code) => format!("ended with exit code {code} after {seconds} s"),
            Self::Signal(signal) => format!("was ended by signal {signal} after {seconds} s"),
            Self::TimedOut => format!("took longer than it may, and was ended after {seconds} s"),
            Self::TooManyProcesses => format!("had too many processes at once, and was ended after {seconds} s"),
            Self::Stopped => "was stopped with the worker".to_owned(),
            Self::Lost => "was lost: what watched over it died".to_owned(),
        }
    }
}

/// A command that was run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// How it ended.
    pub ended: Ended,
    /// How long it took.
    pub took: Duration,
    /// The end of what it printed.
    pub output: String,
}

/// The last lines as far as they fit into so many bytes; `cut`: some were left out before.
pub fn last_lines<'a>(lines: impl DoubleEndedIterator<Item = &'a str>, at_most: usize, cut: bool) -> String {
    let (mut kept, mut bytes, mut cut) = (Vec::new(), 0, cut);
    for line in lines.rev() {
        bytes += line.len() + 1;
        if bytes > at_most {
            cut = true;
            break;
        }
        kept.push(line);
    }
    let mut text = String::new();
    if cut {
        text.push_str("[… what it printed before is left out]\n");
    }
    for line in kept.into_iter().rev() {
        // Postgres takes no NUL.
        text.push_str(&line.replace('\0', "\u{fffd}"));
        text.push('\n');
    }
    text
}

/// What is wrong with a path that a file is to be copied to, if anything: it must lie in the worktree, and not in git's folder.
pub fn refused_path(path: &str) -> Option<&'static str> {
    if path.is_empty() || path.len() > 1024 {
        return Some("is empty, or too long");
    }
    if path.chars().any(char::is_control) {
        return Some("has control characters");
    }
    for part in path.split('/') {
        match part {
            "" => return Some("is not relative to the worktree, or has an empty part"),
            "." | ".." => return Some("leads out of the worktree, or has a . in it"),
            _ if part.eq_ignore_ascii_case(".git") || part.to_ascii_lowercase().starts_with("git~") => {
                return Some("is in git's own folder");
            }
            _ => {}
        }
    }
    None
}

/// What a person reads of a setup that failed.
pub fn setup_failure(command: &str, ran: &Ran) -> String {
    let first = command.trim().lines().next().unwrap_or_default();
    let first: String = first.chars().take(200).collect();
    let tail = last_lines(ran.output.lines(), 2000, false);
    let said = if tail.is_empty() { "It printed nothing.".to_owned() } else { format!("Its last lines:\n{tail}") };
    format!("the project's setup command {}: {first}\n{said}", ran.ended.words(ran.took))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_and_what_is_missing_is_said() {
        let lines = ["one", "two", "a\0b"];
        assert_eq!(last_lines(lines.into_iter(), 100, false), "one\ntwo\na\u{fffd}b\n");
        assert_eq!(
            last_lines(lines.into_iter(), 8, false),
            "[… what it printed before is left out]\ntwo\na\u{fffd}b\n"
        );
        assert!(last_lines(lines.into_iter(), 100, true).starts_with("[…"));
        assert_eq!(last_lines([].into_iter(), 100, false), "");
    }

    #[test]
    fn files_are_copied_into_the_worktree_and_nowhere_else() {
        for path in [".env", "config/local/.env", "a b", "..x", "x..", ".gitx"] {
            assert_eq!(refused_path(path), None, "{path}");
        }
        for path in
            ["", "/etc/passwd", "../x", "a/../x", "a//b", "./a", "a/", ".git/config", "a/.GIT", "git~1/x", "a\nb"]
        {
            assert!(refused_path(path).is_some(), "{path}");
        }
    }

    #[test]
    fn a_failed_setup_says_how_it_ended_and_shows_its_last_lines() {
        let ran = Ran { ended: Ended::Code(3), took: Duration::from_secs(2), output: "one\ntwo\n".to_owned() };
        assert_eq!(
            setup_failure("npm ci\necho", &ran),
            "the project's setup command ended with exit code 3 after 2 s: npm ci\nIts last lines:\none\ntwo\n"
        );
    }
}
