//! `millhand diff`: what a task or session changed, for reading or for `git apply`.

use owo_colors::OwoColorize as _;
use serde_json::json;

use super::{
    Context,
    args::Diff,
    database,
    failure::{Exit, Failure, Outcome},
    screen::{Screen, bold, dim, green, red, yellow},
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
        screen.object("change_set", &changes.set)?;
        return Ok(Exit::Done);
    }
    if !arguments.patch && !arguments.stat {
        print_changes(context, &store, &id, &changes).await?;
        return Ok(Exit::Done);
    }
    if arguments.stat {
        print_summary(context, &id, &changes)?;
        return Ok(Exit::Done);
    }
    let mut after = 0;
    while let Some((file, patch)) = actions::next_patch(&store, &changes.set, after).await? {
        after = file;
        if screen.json {
            screen.object("patch", &json!({ "pending_change_id": file, "patch": String::from_utf8_lossy(&patch) }))?;
        } else if screen.is_terminal {
            print_patch(screen, &patch)?;
        } else {
            screen.bytes(&patch)?;
        }
    }
    if arguments.patch && screen.is_terminal && !screen.json {
        screen.note(&format!("{}", format!("To apply it: millhand diff --patch {id} | git apply").style(dim())));
    }
    Ok(Exit::Done)
}

/// A result for reading: its files, then its patch.
pub(super) async fn print_changes(context: &Context, store: &Store, id: &str, changes: &Changes) -> Outcome<()> {
    print_summary(context, id, changes)?;
    context.screen.line("")?;
    let mut after = 0;
    while let Some((file, patch)) = actions::next_patch(store, &changes.set, after).await? {
        after = file;
        print_patch(context.screen, &patch)?;
    }
    Ok(())
}

fn print_summary(context: &Context, id: &str, changes: &Changes) -> Outcome<()> {
    context.screen.line(&format!("{} {}", id.style(bold()), summary(&changes.set)))?;
    print_files(context, changes)
}

/// One line on a result.
pub(super) fn summary(set: &ChangeSetRow) -> String {
    let state = if set.state == "superseded" { ", superseded by a later task of the session" } else { "" };
    let size = format!("{}, +{} -{}", count(set.files.into(), "file"), set.additions, set.deletions);
    format!("{size} against {}{state}", text::commit(&set.base_commit))
}

/// The files of a result, and what a reviewer should know.
pub(super) fn print_files(context: &Context, changes: &Changes) -> Outcome<()> {
    let screen = context.screen;
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
        let flags = if file.flags.is_empty() {
            String::new()
        } else {
            format!("  {}", format!("[{}]", safe_line(&file.flags.join(", "))).style(yellow()))
        };
        screen.line(&format!("    {} {name}  {size}{flags}", letter(file)))?;
    }
    for note in changes.set.notes.as_array().into_iter().flatten().filter_map(serde_json::Value::as_str) {
        screen.line(&format!("    {} {}", "!".style(yellow()), safe_line(note)))?;
    }
    Ok(())
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
fn print_patch(screen: Screen, patch: &[u8]) -> Outcome<()> {
    let text = String::from_utf8_lossy(patch);
    for line in text.lines() {
        let line = safe(line);
        let style = match line.as_bytes() {
            [b'+', b'+', b'+', ..] | [b'-', b'-', b'-', ..] => bold(),
            [b'+', ..] => green(),
            [b'-', ..] => red(),
            [b'@', b'@', ..] => dim(),
            [b'd', b'i', b'f', b'f', b' ', ..] => bold(),
            _ => {
                screen.line(&line)?;
                continue;
            }
        };
        screen.line(&line.style(style).to_string())?;
    }
    Ok(())
}
