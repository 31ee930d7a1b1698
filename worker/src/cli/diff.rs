//! `millhand diff`: what a task or session changed, for reading or for `git apply`.

use owo_colors::OwoColorize as _;
use serde_json::json;

use super::{
    Context,
    args::Diff,
    check, database,
    failure::{Exit, Failure, Outcome},
    forecast,
    pager::Paged,
    review,
    screen::{bold, dim, green, red, yellow},
    tasks::shown,
    text::{self, count, safe, safe_line},
};
use crate::{
    actions::{self, Changes},
    store::{
        Store,
        reads_turns::{ChangeSetRow, PendingChangeRow},
    },
};

/// `millhand diff`.
pub(super) async fn diff(context: &Context, arguments: &Diff) -> Outcome {
    if let Some(other) = arguments.other {
        return review::between(context, arguments.id, other).await;
    }
    let store = database::open(context).await?;
    let screen = context.screen;
    let id = shown(arguments.id);
    let Some(changes) = actions::changes(&store, arguments.id).await? else {
        return Err(Failure {
            exit: Exit::NotFound,
            code: "no_changes",
            message: format!("{id} has no result yet"),
            hint: Some(format!("see: millhand show {id}")),
        });
    };
    if screen.json && !arguments.patch {
        for file in &changes.files {
            screen.object("pending_change", file)?;
        }
        for run in &changes.checks {
            screen.object("check_run", run)?;
        }
        screen.object("change_set", &changes.set)?;
        return Ok(Exit::Done);
    }
    if !arguments.patch || screen.is_terminal && !screen.json {
        let mut paged = Paged::start(context).await;
        let shown = match (arguments.patch, arguments.stat) {
            (true, _) => print_patches(&mut paged, &store, &changes).await,
            (false, true) => print_summary(&mut paged, &id, &changes),
            (false, false) => print_changes(&mut paged, &store, &id, &changes).await,
        };
        paged.end(shown)?;
        if arguments.patch {
            screen.note(&format!("{}", format!("To apply it: millhand apply {id}").style(dim())));
        }
        return Ok(Exit::Done);
    }
    let mut after = 0;
    loop {
        let patches = actions::next_patches(&store, &changes.set, after).await?;
        let Some((last, _)) = patches.last() else { return Ok(Exit::Done) };
        after = *last;
        for (file, patch) in &patches {
            if screen.json {
                screen
                    .object("patch", &json!({ "pending_change_id": file, "patch": String::from_utf8_lossy(patch) }))?;
            } else {
                screen.bytes(patch)?;
            }
        }
    }
}

/// A result for reading: its files, then its patch.
pub(super) async fn print_changes(paged: &mut Paged, store: &Store, id: &str, changes: &Changes) -> Outcome<()> {
    print_summary(paged, id, changes)?;
    paged.line("")?;
    print_patches(paged, store, changes).await
}

/// The patches of a result, coloured and safe for the terminal.
pub(super) async fn print_patches(paged: &mut Paged, store: &Store, changes: &Changes) -> Outcome<()> {
    let mut after = 0;
    loop {
        let patches = actions::next_patches(store, &changes.set, after).await?;
        let Some((last, _)) = patches.last() else { return Ok(()) };
        after = *last;
        for (_, patch) in &patches {
            paged.lines(&patch_lines(patch))?;
        }
    }
}

fn print_summary(paged: &mut Paged, id: &str, changes: &Changes) -> Outcome<()> {
    paged.line(&format!("{} {}", id.style(bold()), summary(&changes.set)))?;
    Ok(paged.lines(&summary_lines(changes))?)
}

/// One line on a result.
pub(super) fn summary(set: &ChangeSetRow) -> String {
    let state = if set.state == "superseded" { ", superseded by a later task of the session" } else { "" };
    let size = format!("{}, +{} -{}", count(set.files.into(), "file"), set.additions, set.deletions);
    format!("{size} against {}{state}", text::commit(&set.base_commit))
}

/// The files of a result, and what a reviewer should know.
pub(super) fn print_files(context: &Context, changes: &Changes) -> Outcome<()> {
    for line in summary_lines(changes) {
        context.screen.line(&line)?;
    }
    Ok(())
}

/// The same as lines.
pub(super) fn summary_lines(changes: &Changes) -> Vec<String> {
    let mut lines = Vec::new();
    for file in &changes.files {
        let name = match &file.old_path {
            Some(old) => format!("{} → {}", safe_line(old), safe_line(&file.path)),
            None => safe_line(&file.path),
        };
        let size = if file.is_binary {
            "binary".style(dim()).to_string()
        } else {
            format!("{} {}", format!("+{}", file.additions).style(green()), format!("-{}", file.deletions).style(red()))
        };
        let mode = match (file.old_mode, file.new_mode) {
            (old, new) if old == new || old == 0 || new == 0 => String::new(),
            (old, new) => format!("  {}", format!("mode {old:06o} → {new:06o}").style(dim())),
        };
        let flags = if file.flags.is_empty() {
            String::new()
        } else {
            format!("  {}", format!("[{}]", safe_line(&file.flags.join(", "))).style(yellow()))
        };
        let state = match file.state.as_str() {
            "applied" => format!("  {}", "applied".style(green())),
            "rejected" => format!("  {}", "rejected".style(red())),
            _ => String::new(),
        };
        lines.push(format!("    {} {name}  {size}{mode}{flags}{state}", letter(file)));
    }
    for note in changes.set.notes.as_array().into_iter().flatten().filter_map(serde_json::Value::as_str) {
        lines.push(format!("    {} {}", "!".style(yellow()), safe_line(note)));
    }
    lines.extend(changes.checks.iter().map(check::line_of));
    lines.extend(changes.forecast.iter().map(forecast::line_of));
    lines
}

fn letter(file: &PendingChangeRow) -> &'static str {
    match file.kind.as_str() {
        "added" => "A",
        "deleted" => "D",
        "renamed" => "R",
        "type_changed" => "T",
        _ => "M",
    }
}

/// A patch for reading: coloured, and safe for the terminal, so not for `git apply`.
pub(super) fn patch_lines(patch: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(patch);
    let styled = |line: &str| {
        let line = safe(line);
        let style = match line.as_bytes() {
            [b'+', b'+', b'+', ..] | [b'-', b'-', b'-', ..] => bold(),
            [b'+', ..] => green(),
            [b'-', ..] => red(),
            [b'@', b'@', ..] => dim(),
            [b'd', b'i', b'f', b'f', b' ', ..] => bold(),
            _ => return line.into_owned(),
        };
        line.style(style).to_string()
    };
    text.lines().map(styled).collect()
}
