//! What a shell and `man` know of the commands: made from the same words as the help.

use std::{io, path::Path};

use clap::CommandFactory as _;

use super::{
    args::Cli,
    failure::{Exit, Failure, Outcome},
    screen::Screen,
};

/// `millhand completions`.
pub(super) fn completions(shell: clap_complete::Shell, screen: Screen) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "millhand", &mut script);
    screen.bytes(&script)?;
    Ok(Exit::Done)
}

/// `millhand man`.
pub(super) fn man(folder: &Path, screen: Screen) -> Outcome {
    let written = std::fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(Cli::command(), folder));
    let hint = "name a folder that you may write, such as ~/.local/share/man/man1";
    written.map_err(|error: io::Error| Failure::usage(format!("{}: {error}", folder.display()), hint))?;
    screen.line(&format!(
        "Manual pages are in {}; read one: man {}",
        folder.display(),
        folder.join("millhand.1").display()
    ))?;
    Ok(Exit::Done)
}
