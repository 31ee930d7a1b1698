//! Files of the operator's on their way into a worktree.

use crate::{agent::command::Commands, git::CopiedFile, model::command::refused_path};

/// Reads the files that a project copies (where in the worktree, and from where), as the operator. Why one cannot be read, in words
/// without its content.
pub async fn read_copied(commands: &Commands, files: Vec<(String, String)>) -> Result<Vec<CopiedFile>, String> {
    let commands = commands.clone();
    let read = move |(path, source): (String, String)| {
        if let Some(problem) = refused_path(&path) {
            return Err(format!("no file can be copied to \"{path}\": it {problem}"));
        }
        let read = commands.read_file(source.as_ref());
        let (bytes, executable) = read.map_err(|why| format!("{path} cannot be copied into the worktree: {why}"))?;
        Ok(CopiedFile { path, bytes, executable })
    };
    let read = tokio::task::spawn_blocking(move || files.into_iter().map(read).collect());
    read.await.map_err(|error| error.to_string())?
}
