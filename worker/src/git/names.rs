//! Names that must not be in a tree: git takes them for its own folder, here or on another system.

/// Whether git, on any system, takes this for a name and not for its own folder.
pub(super) fn is_valid_name(name: &[u8]) -> bool {
    // On Windows a backslash separates, too, and a colon starts a stream.
    name.split(|byte| *byte == b'\\').all(|part| {
        let part = part.split(|byte| *byte == b':').next().unwrap_or(part);
        let end = part.iter().rposition(|byte| !matches!(byte, b'.' | b' ')).map_or(0, |at| at + 1);
        let part = &part[..end];
        !part.eq_ignore_ascii_case(b".git") && !part.eq_ignore_ascii_case(b"git~1")
    }) && !is_hfs_dot_git(name)
}

/// macOS leaves some characters out when it compares names.
fn is_hfs_dot_git(name: &[u8]) -> bool {
    let Ok(name) = std::str::from_utf8(name) else { return false };
    let ignored = |c: &char| matches!(c, '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{206a}'..='\u{206f}' | '\u{feff}');
    name.chars().filter(|c| !ignored(c)).collect::<String>().eq_ignore_ascii_case(".git")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_gits_own_somewhere_are_refused() {
        for bad in
            [".git", ".GIT", "git~1", "GIT~1", ".git.", ".git ", ".git::$INDEX_ALLOCATION", "a\\.git", ".g\u{200c}it"]
        {
            assert!(!is_valid_name(bad.as_bytes()), "{bad}");
        }
        for good in [".gitignore", ".github", "git", "a.git", "git~2", ".gitx", "\\", "a\\b", "...", " ", "\u{feff}"] {
            assert!(is_valid_name(good.as_bytes()), "{good}");
        }
        assert!(is_valid_name(b"\xff\xfe"));
    }
}
