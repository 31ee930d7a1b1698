//! Repositories whose code opencode would run although their configuration is off.
//!
//! `OPENCODE_DISABLE_PROJECT_CONFIG` turns a repository's configuration off, its MCP servers and tools too, but not its
//! plugins: opencode 1.18 imports `.opencode/plugin/*.js`, and what the repository's `opencode.json` names under `plugin`,
//! with the first prompt, whatever it is told (a second loader in it knows no such switch; `OPENCODE_PURE` does not help
//! either). So a repository that is not trusted and has any is refused. `tests/opencode/config.rs` tells when opencode has mended
//! this.

use std::{fs, path::Path};

/// Longest configuration that is looked into; a longer one is refused.
const MAX_CONFIG: u64 = 1 << 20;

/// What opencode would run of a repository, if anything: a path or words for people.
pub(super) fn code_in(directory: &Path) -> Option<String> {
    let own = directory.join(".opencode");
    for folder in ["plugin", "plugins"] {
        for entry in fs::read_dir(own.join(folder)).into_iter().flatten() {
            // What cannot be read now could be read later.
            let Ok(entry) = entry else { return Some(format!(".opencode/{folder}")) };
            let name = entry.file_name();
            let extension = Path::new(&name).extension().and_then(|extension| extension.to_str());
            if extension.is_some_and(|extension| ["js", "ts"].contains(&extension)) {
                return Some(format!(".opencode/{folder}/{}", name.to_string_lossy()));
            }
        }
    }
    for folder in ["", ".opencode/"] {
        for name in ["opencode.json", "opencode.jsonc"] {
            let path = directory.join(format!("{folder}{name}"));
            if names_plugins(&path) {
                return Some(format!("the plugins that {folder}{name} names"));
            }
        }
    }
    None
}

/// Whether a configuration file names plugins, or could hide that it does.
fn names_plugins(path: &Path) -> bool {
    let Ok(metadata) = fs::metadata(path) else { return false };
    if !metadata.is_file() || metadata.len() > MAX_CONFIG {
        return true;
    }
    let Ok(bytes) = fs::read(path) else { return true };
    let text = String::from_utf8_lossy(&bytes);
    // As text, because it may hold comments and be broken in other ways; `\u` could spell anything.
    text.contains("plugin") || text.contains("\\u")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_are_found_wherever_opencode_would_find_them() {
        let cases = [
            (".opencode/plugin/x.js", "", true),
            (".opencode/plugins/x.ts", "", true),
            (".opencode/plugin/README.md", "", false),
            (".opencode/agent/x.md", "", false),
            ("opencode.json", r#"{"plugin": ["some-package"]}"#, true),
            (".opencode/opencode.jsonc", r#"{/* */ "plugins": ["./x.js"]}"#, true),
            ("opencode.json", r#"{"\u0070lugin": ["x"]}"#, true),
            ("opencode.json", r#"{"model": "a/b"}"#, false),
        ];
        for (path, content, expected) in cases {
            let place = tempfile::tempdir().expect("a folder");
            let path = place.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
            fs::write(&path, content).expect("a file");
            assert_eq!(code_in(place.path()).is_some(), expected, "{} {content}", path.display());
        }
    }
}
