//! What a reviewer should look at twice: files that make other programs run, or that change what git sees.

/// Folders whose files are run by something other than the program under review.
const FOLDERS: [&[u8]; 10] = [
    b".github",
    b".gitlab",
    b".circleci",
    b".husky",
    b".vscode",
    b".idea",
    b".devcontainer",
    b".cargo",
    b".githooks",
    b".opencode",
];

/// Files that a build, a test run, an editor or a shell runs on its own.
const FILES: [&[u8]; 46] = [
    b".envrc",
    b".gitattributes",
    b".gitmodules",
    b".gitlab-ci.yml",
    b".travis.yml",
    b".pre-commit-config.yaml",
    b".npmrc",
    b".yarnrc",
    b".yarnrc.yml",
    b".mcp.json",
    b"opencode.json",
    b"opencode.jsonc",
    b"makefile",
    b"gnumakefile",
    b"cmakelists.txt",
    b"meson.build",
    b"build.rs",
    b"build.gradle",
    b"build.gradle.kts",
    b"settings.gradle",
    b"gradlew",
    b"gradlew.bat",
    b"pom.xml",
    b"mvnw",
    b"package.json",
    b"setup.py",
    b"setup.cfg",
    b"pyproject.toml",
    b"conftest.py",
    b"noxfile.py",
    b"tox.ini",
    b"sitecustomize.py",
    b"rakefile",
    b"gemfile",
    b"justfile",
    b"taskfile.yml",
    b"dockerfile",
    b"docker-compose.yml",
    b"compose.yml",
    b"compose.yaml",
    b"jenkinsfile",
    b"vagrantfile",
    b"build",
    b"build.bazel",
    b"configure",
    b"flake.nix",
];

/// Ends of names of scripts.
const ENDINGS: [&[u8]; 10] =
    [b".sh", b".bash", b".zsh", b".fish", b".ps1", b".bat", b".cmd", b".mk", b".cmake", b".pth"];

/// A change to this path can make something run.
pub(super) fn executes(path: &[u8]) -> bool {
    let lower = path.to_ascii_lowercase();
    let mut parts: Vec<&[u8]> = lower.split(|byte| *byte == b'/').collect();
    let name = parts.pop().unwrap_or_default();
    parts.iter().any(|part| FOLDERS.contains(part))
        || FOLDERS.contains(&name)
        || FILES.contains(&name)
        || ENDINGS.iter().any(|ending| name.ends_with(ending))
        || name.starts_with(b"vite.config.")
        || name.starts_with(b"jest.config.")
}

/// A change to this path changes which files git sees.
pub(super) fn is_ignore_rules(path: &[u8]) -> bool {
    path.rsplit(|byte| *byte == b'/').next() == Some(b".gitignore")
}

/// A text patch that brings git's conflict markers in: nobody has resolved them.
pub(super) fn adds_conflict_markers(patch: &[u8]) -> bool {
    let mut added = patch.split(|byte| *byte == b'\n').filter(|line| line.first() == Some(&b'+'));
    added.any(|line| line.starts_with(b"+<<<<<<< ")) && added.any(|line| line.starts_with(b"+>>>>>>> "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_by_itself_is_flagged_at_any_depth_and_in_any_case() {
        for path in [
            ".github/workflows/x.yml",
            "a/.husky/pre-commit",
            "Makefile",
            "x/MAKEFILE",
            "a/build.rs",
            "run.sh",
            ".envrc",
        ] {
            assert!(executes(path.as_bytes()), "{path}");
        }
        for path in ["src/main.rs", "README.md", "github/x", "sh"] {
            assert!(!executes(path.as_bytes()), "{path}");
        }
        assert!(is_ignore_rules(b"a/.gitignore"));
    }

    #[test]
    fn conflict_markers_count_where_they_are_added_and_both_are_there() {
        for (patch, counts) in [
            ("@@ -1 +1,5 @@\n+<<<<<<< main\n a\n+=======\n+b\n+>>>>>>> theirs\n", true),
            ("@@ -1,5 +1 @@\n-<<<<<<< main\n a\n-=======\n-b\n->>>>>>> theirs\n", false),
            (" <<<<<<< main\n+b\n >>>>>>> theirs\n", false),
            ("+<<<<<<< main\n", false),
            ("+>>>>>>> x\n+<<<<<<< main\n", false),
        ] {
            assert_eq!(adds_conflict_markers(patch.as_bytes()), counts, "{patch}");
        }
    }
}
