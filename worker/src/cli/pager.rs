//! Long output for reading, through the pager that the user's git would take if it goes to a terminal.

use std::{
    io::{self, Write as _},
    process::{Child, ChildStdin, Command, Stdio},
};

use super::{Context, failure::Outcome, screen::Screen};

/// Where the lines go: into a pager, or onto the screen.
pub(super) struct Paged {
    screen: Screen,
    pager: Option<(Child, ChildStdin)>,
    is_styled: bool,
}

impl Paged {
    /// Starts the pager, where there is a terminal and the user has one.
    pub(super) async fn start(context: &Context) -> Self {
        let screen = context.screen;
        let pager = match screen.is_terminal && !screen.json {
            true => pager(context).await.and_then(|pager| start(context, &pager)),
            false => None,
        };
        let is_styled = anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never;
        Self { screen, pager, is_styled }
    }

    /// Onto the screen, whatever that is.
    pub(super) fn onto(screen: Screen) -> Self {
        Self { screen, pager: None, is_styled: false }
    }

    /// A line. Fails as a broken pipe does once the reader has seen enough.
    pub(super) fn line(&mut self, line: &str) -> io::Result<()> {
        match &mut self.pager {
            None => self.screen.line(line),
            Some((_, input)) if self.is_styled => writeln!(input, "{line}"),
            Some((_, input)) => writeln!(input, "{}", anstream::adapter::strip_str(line)),
        }
    }

    /// Several lines.
    pub(super) fn lines(&mut self, lines: &[String]) -> io::Result<()> {
        lines.iter().try_for_each(|line| self.line(line))
    }

    /// That was all, or the reader has seen enough before: waits for the pager to end.
    pub(super) fn end(mut self, shown: Outcome<()>) -> Outcome<()> {
        self.wait();
        shown.or_else(|failure| failure.report().map_or(Ok(()), Err))
    }

    fn wait(&mut self) {
        if let Some((mut child, input)) = self.pager.take() {
            drop(input);
            let _ = child.wait();
        }
    }
}

impl Drop for Paged {
    /// The terminal belongs to the pager until that is gone, whatever happened here.
    fn drop(&mut self) {
        self.wait();
    }
}

/// As for git: its variable, its configuration, then less. None for `cat`.
async fn pager(context: &Context) -> Option<String> {
    let pager = match context.settings.environment.text("GIT_PAGER") {
        Some(pager) => pager.to_owned(),
        None => context.git().await.ok()?.pager().await?,
    };
    (!pager.is_empty() && pager != "cat").then_some(pager)
}

fn start(context: &Context, pager: &str) -> Option<(Child, ChildStdin)> {
    // A command line of the user's own, which git hands to a shell, too.
    let mut command = Command::new("sh");
    command.args(["-c", pager]).env_clear().envs(context.settings.environment.0.iter()).stdin(Stdio::piped());
    for (name, value) in [("LESS", "FRX"), ("LV", "-c")] {
        if context.settings.environment.get(name).is_none() {
            command.env(name, value);
        }
    }
    let mut child = command.spawn().ok()?;
    let input = child.stdin.take()?;
    Some((child, input))
}
