//! The screen: everything that commands print goes through here.
//!
//! For people, styles (dropped where the output is no terminal, or `NO_COLOR` is set) and tables fitted to its width; for
//! scripts, JSON. Texts from agents and repositories are made safe by the callers, with [`super::text`].

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use comfy_table::{Attribute, Cell, Color, ColumnConstraint, ContentArrangement, Table, Width, presets};
use indicatif::{ProgressBar, ProgressStyle};
use owo_colors::{OwoColorize as _, Style};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    failure::{Exit, Failure},
    text::safe_json,
};

/// Version of the JSON that we print. Fields are only ever added.
const JSON_VERSION: i32 = 1;

/// Where output goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Screen {
    pub(super) json: bool,
    /// stdout is a terminal.
    pub(super) is_terminal: bool,
    /// A person can be asked.
    pub(super) can_ask: bool,
}

/// Tables are never made narrower than this; the terminal wraps them then.
const NARROWEST: u16 = 80;

impl Screen {
    pub(super) fn new(json: bool) -> Self {
        let is_terminal = io::stdout().is_terminal();
        Self { json, is_terminal, can_ask: !json && io::stdin().is_terminal() && io::stderr().is_terminal() }
    }

    /// A line for people; nothing under `--json`.
    pub(super) fn line(self, line: &str) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        let mut out = anstream::stdout().lock();
        out.write_all(line.as_bytes())?;
        out.write_all(b"\n")
    }

    /// A part of a line, shown at once.
    pub(super) fn part(self, text: &str) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        let mut out = anstream::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    /// A remark beside the output, on stderr; nothing under `--json`.
    pub(super) fn note(self, line: &str) {
        if !self.json {
            // Whether anyone reads remarks is not ours to fail on.
            let _ = writeln!(anstream::stderr().lock(), "{line}");
        }
    }

    /// A warning, on stderr, as JSON under `--json`.
    pub(super) fn warn(self, message: &str) {
        if self.json {
            let mut fields = Map::new();
            fields.insert("message".to_owned(), Value::from(message));
            let _ = writeln!(io::stderr().lock(), "{}", object("warning", fields));
        } else {
            let _ = writeln!(anstream::stderr().lock(), "{} {message}", "warning:".style(yellow()));
        }
    }

    /// Bytes exactly as they are.
    pub(super) fn bytes(self, bytes: &[u8]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        out.flush()
    }

    /// An object of one line, under `--json` only. `kind` tells objects of a stream apart.
    pub(super) fn object(self, kind: &str, value: &impl Serialize) -> io::Result<()> {
        if !self.json {
            return Ok(());
        }
        let fields = match serde_json::to_value(value)? {
            Value::Object(fields) => fields,
            other => Map::from_iter([("value".to_owned(), other)]),
        };
        let mut line = object(kind, fields);
        line.push('\n');
        self.bytes(line.as_bytes())
    }

    /// Says what went wrong and what to do, and gives the exit code.
    pub(super) fn fail(self, failure: Failure) -> Exit {
        let Some(failure) = failure.report() else {
            return Exit::Done;
        };
        if self.json {
            let fields = Map::from_iter([
                ("code".to_owned(), Value::from(failure.code)),
                ("message".to_owned(), Value::from(failure.message)),
                ("hint".to_owned(), Value::from(failure.hint)),
            ]);
            let _ = writeln!(io::stderr().lock(), "{}", object("error", fields));
        } else {
            let mut err = anstream::stderr().lock();
            let _ = writeln!(err, "{} {}", "error:".style(red()), super::text::safe(&failure.message));
            if let Some(hint) = failure.hint {
                let _ = writeln!(err, "  {} {}", "→".style(dim()), super::text::safe(&hint));
            }
        }
        failure.exit
    }

    /// Shows that something slow goes on, on a terminal, until it is dropped.
    pub(super) fn progress(self, message: impl Into<String>) -> Progress {
        if self.json {
            return Progress(ProgressBar::hidden());
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg:.dim} {elapsed:.dim}") {
            bar.set_style(style);
        }
        bar.set_message(message.into());
        bar.enable_steady_tick(Duration::from_millis(100));
        Progress(bar)
    }

    /// Asks; no on anything but y or yes.
    pub(super) fn ask(self, question: &str) -> io::Result<bool> {
        let mut err = anstream::stderr().lock();
        write!(err, "{question} [y/N] ")?;
        err.flush()?;
        drop(err);
        let mut answer = String::new();
        io::stdin().read_line(&mut answer)?;
        Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
    }

    /// A table that fits the terminal; the columns named first are the ones that may not be cut.
    pub(super) fn table(self, head: &[&str]) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).enforce_styling();
        table.style_text_only();
        table.set_header(head.iter().map(|name| Cell::new(name).add_attribute(Attribute::Dim)));
        let arrangement = if self.is_terminal { ContentArrangement::Dynamic } else { ContentArrangement::Disabled };
        table.set_content_arrangement(arrangement);
        // Some terminals say that they have no columns at all, when they do not know.
        if self.is_terminal && table.width().is_some_and(|width| width < NARROWEST) {
            table.set_width(NARROWEST);
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        table
    }

    /// Prints a table without spaces at the ends of its lines.
    pub(super) fn print_table(self, table: &Table) -> io::Result<()> {
        for line in table.lines() {
            self.line(line.trim_end())?;
        }
        Ok(())
    }
}

/// Keeps a column from being wrapped.
pub(super) fn keep_whole(table: &mut Table, columns: &[usize]) {
    for index in columns {
        if let Some(column) = table.column_mut(*index) {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
}

/// Leaves room for the others.
pub(super) fn at_least(table: &mut Table, index: usize, width: u16) {
    if let Some(column) = table.column_mut(index) {
        column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(width)));
    }
}

fn object(kind: &str, fields: Map<String, Value>) -> String {
    let mut whole =
        Map::from_iter([("v".to_owned(), Value::from(JSON_VERSION)), ("type".to_owned(), Value::from(kind))]);
    whole.extend(fields);
    safe_json(&Value::Object(whole).to_string()).into_owned()
}

/// A spinner, cleared when dropped.
#[derive(Debug)]
pub(super) struct Progress(ProgressBar);

impl Progress {
    pub(super) fn say(&self, message: impl Into<String>) {
        self.0.set_message(message.into());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

pub(super) fn dim() -> Style {
    Style::new().dimmed()
}

pub(super) fn bold() -> Style {
    Style::new().bold()
}

pub(super) fn red() -> Style {
    Style::new().red().bold()
}

pub(super) fn yellow() -> Style {
    Style::new().yellow().bold()
}

pub(super) fn green() -> Style {
    Style::new().green()
}

/// The colour that a state has everywhere.
pub(super) fn state_style(state: &str) -> Style {
    match state {
        "running" => Style::new().cyan(),
        "completed" => green(),
        "failed" => red(),
        "blocked" => yellow(),
        "cancelled" => dim(),
        _ => Style::new(),
    }
}

/// The same for a table.
pub(super) fn state_cell(state: &str) -> Cell {
    let cell = Cell::new(state);
    match state {
        "running" => cell.fg(Color::Cyan),
        "completed" => cell.fg(Color::Green),
        "failed" => cell.fg(Color::Red),
        "blocked" => cell.fg(Color::Yellow),
        "cancelled" => cell.add_attribute(Attribute::Dim),
        _ => cell,
    }
}
