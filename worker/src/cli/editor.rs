//! The user's editor.

use std::{io, io::Write as _, process::Command};

use crate::config::Environment;

/// Lets the user change a text in their editor, and gives what they saved.
pub(super) fn edit(environment: &Environment, text: &str) -> io::Result<String> {
    let names = ["VISUAL", "EDITOR"].into_iter();
    let editor = names.filter_map(|name| environment.text(name)).find(|name| !name.trim().is_empty());
    let editor = editor.map_or_else(|| "vi".to_owned(), |name| name.to_string());
    let mut file = tempfile::Builder::new().prefix("millhand-prompt-").suffix(".md").tempfile()?;
    file.write_all(text.as_bytes())?;
    file.flush()?;
    // An editor is a command line, as git takes it.
    let status = Command::new("sh").arg("-c").arg(format!("{editor} \"$1\"")).arg(&editor).arg(file.path()).status()?;
    if !status.success() {
        return Err(io::Error::other(format!("{editor} ended with {status}")));
    }
    // Read by name: editors write a new file in its place.
    let after = std::fs::read_to_string(file.path())?;
    let keeps_end = text.ends_with('\n');
    Ok(if keeps_end { after } else { after.trim_end_matches('\n').to_owned() })
}
