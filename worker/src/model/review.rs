//! Comments of a reviewer, as the prompt that an agent gets.

use std::fmt::Write as _;

/// One comment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remark<'a> {
    /// The file.
    pub path: &'a str,
    /// A line of it, as the agent left it.
    pub line: Option<i32>,
    /// What was said.
    pub text: &'a str,
}

/// The prompt: what was said about which place, in the order it was said, then what is said besides.
pub fn review_prompt(remarks: &[Remark<'_>], more: Option<&str>) -> String {
    let mut prompt = String::from("A reviewer has looked at your changes. Please see to each of these comments:\n");
    for Remark { path, line, text } in remarks {
        let line = line.map(|line| format!(":{line}")).unwrap_or_default();
        // Further lines of a comment stay below it.
        let text = text.trim().replace('\n', "\n  ");
        let _ = write!(prompt, "\n- {path}{line}: {text}");
    }
    prompt.push('\n');
    if let Some(more) = more.map(str::trim).filter(|more| !more.is_empty()) {
        let _ = write!(prompt, "\n{more}\n");
    }
    prompt
}

/// A place in a file, as `path`, or `path:12`.
pub fn place(text: &str) -> (&str, Option<i32>) {
    match text.rsplit_once(':') {
        Some((path, line)) if !path.is_empty() => match line.parse() {
            Ok(line) if line > 0 => (path, Some(line)),
            _ => (text, None),
        },
        _ => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_become_a_list_in_order() {
        let remarks = [
            Remark { path: "src/a.rs", line: Some(12), text: "Wrong.\nUse b." },
            Remark { path: "README.md", line: None, text: " Say why. " },
        ];
        assert_eq!(
            review_prompt(&remarks, Some("Then run the tests.")),
            "A reviewer has looked at your changes. Please see to each of these comments:\n\n\
             - src/a.rs:12: Wrong.\n  Use b.\n- README.md: Say why.\n\nThen run the tests.\n"
        );
        assert!(!review_prompt(&remarks, Some("  ")).ends_with("\n\n"));
    }

    #[test]
    fn places_are_paths_with_or_without_a_line() {
        for (text, parsed) in [
            ("a.rs", ("a.rs", None)),
            ("a.rs:12", ("a.rs", Some(12))),
            ("a:b:3", ("a:b", Some(3))),
            ("a:b", ("a:b", None)),
            ("a:0", ("a:0", None)),
            (":3", (":3", None)),
        ] {
            assert_eq!(place(text), parsed, "{text}");
        }
    }
}
