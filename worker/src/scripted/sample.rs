//! The demo: a small repository, what is asked for in it, and the scripts that answer.
//!
//! The agent that runs these scripts is real, and so are the files that it changes: only what the model says is
//! written down beforehand. That everything applies, and that the tests of the sample pass, is tested with the real
//! agent.

use std::{fs, io, os::unix::fs::PermissionsExt, path::Path};

use super::script::{Script, ScriptError};

/// A file of the sample repository.
#[derive(Clone, Copy, Debug)]
pub struct SampleFile {
    /// Where it goes, relative to the repository's root.
    pub path: &'static str,
    /// What is in it.
    pub content: &'static str,
    /// Whether it can be run.
    pub executable: bool,
}

/// The sample repository: a command that greets, in plain shell, so that it runs wherever the demo does.
pub const SAMPLE_FILES: [SampleFile; 3] = [
    SampleFile { path: "README.md", content: include_str!("sample/README.md"), executable: false },
    SampleFile { path: "greet", content: include_str!("sample/greet"), executable: true },
    SampleFile { path: "test.sh", content: include_str!("sample/test.sh"), executable: true },
];

/// A task of the demo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DemoTask {
    /// Tasks with the same number share a session, in this order.
    pub session: usize,
    /// What is asked for.
    pub prompt: &'static str,
    /// The script that answers.
    pub script: &'static str,
}

/// The demo's tasks: two in one session, one beside it.
pub const DEMO_TASKS: [DemoTask; 3] = [
    DemoTask { session: 0, prompt: "Add a --json flag to greet", script: "greet-json" },
    DemoTask { session: 0, prompt: "Now add tests for --json", script: "greet-json" },
    DemoTask { session: 1, prompt: "Fix the typo in the README and document the usage", script: "greet-docs" },
];

/// The demo's scripts.
pub fn demo_scripts() -> Result<Vec<Script>, ScriptError> {
    Ok(vec![
        Script::parse("greet-json", include_str!("demo/greet-json.json"))?,
        Script::parse("greet-docs", include_str!("demo/greet-docs.json"))?,
    ])
}

/// Writes the sample's files into a folder, which is made if need be. Making it a repository is the caller's job.
pub fn write_sample(folder: &Path) -> Result<(), io::Error> {
    fs::create_dir_all(folder)?;
    for file in SAMPLE_FILES {
        let path = folder.join(file.path);
        fs::write(&path, file.content)?;
        if file.executable {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_demo_task_has_its_turn_in_a_script() {
        for script in demo_scripts().expect("scripts") {
            let tasks = DEMO_TASKS.iter().filter(|task| task.script == script.name()).count();
            assert_eq!(script.turns(), tasks, "{}", script.name());
        }
    }
}
