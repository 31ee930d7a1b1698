//! `millhand review`, `checkpoints` and `rollback`; and `diff` between two tasks.

use owo_colors::OwoColorize as _;
use serde_json::json;

use super::{
    Context,
    apply::{applier, who},
    args_review::{Checkpoints, Review, Rollback},
    database,
    diff::{patch_lines, print_patches, summary, summary_lines},
    failure::{Exit, Failure, Outcome},
    pager::Paged,
    screen::{bold, dim, green, red, state_style, yellow},
    tasks::shown,
    text::{ago, commit, count, safe_line, short},
};
use crate::{
    actions::{self, Interdiff},
    model::{ids::AnyId, review::place},
    store::{Store, reads_turns::ChangeSetRow},
};

/// `millhand review`.
pub(super) async fn review(context: &Context, arguments: Review) -> Outcome {
    let database = database::open(context).await?;
    let who = who(context);
    if let Some(words) = &arguments.comment {
        return comment(context, &database.store, arguments.id, words, &who).await;
    }
    let screen = context.screen;
    let id = shown(arguments.id);
    let review = actions::review(&database.store, arguments.id, &who).await?;
    if arguments.interdiff {
        let Some(seen) = &review.seen else {
            return Err(Failure {
                exit: Exit::NotFound,
                code: "not_found",
                message: format!(
                    "{id} has nothing that is new since you looked: it has not changed, or you had not looked"
                ),
                hint: Some(format!("look at all of it: millhand review {id}")),
            });
        };
        let interdiff = applier(context, &database).await?.interdiff(seen, &review.changes.set).await?;
        show_interdiff(context, &interdiff).await?;
        if screen.is_terminal {
            actions::looked_at(&database.store, &review.changes.set, &who).await?;
        }
        return Ok(Exit::Done);
    }
    for file in &review.changes.files {
        screen.object("pending_change", file)?;
    }
    for comment in &review.comments {
        screen.object("review_comment", comment)?;
    }
    for run in &review.changes.checks {
        screen.object("check_run", run)?;
    }
    if let Some(forecast) = &review.changes.forecast {
        screen.object("forecast", forecast)?;
    }
    screen.object("change_set", &review.changes.set)?;
    if screen.json {
        return Ok(Exit::Done);
    }
    let mut paged = Paged::start(context).await;
    let shown = async {
        paged.lines(&head(&id, &review))?;
        match arguments.stat {
            true => Ok(()),
            false => print_patches(&mut paged, &database.store, &review.changes).await,
        }
    };
    let shown = shown.await;
    paged.end(shown)?;
    if screen.is_terminal {
        actions::looked_at(&database.store, &review.changes.set, &who).await?;
    }
    Ok(Exit::Done)
}

/// What there is to know before the patch.
fn head(id: &str, review: &actions::Review) -> Vec<String> {
    let set = &review.changes.set;
    let mut lines = vec![
        format!("{} {}", id.style(bold()), summary(set)),
        format!(
            "{}",
            format!("    {}, {}, sha256 {}", safe_line(&set.agent), set.state, start_of(&set.patch_sha256))
                .style(dim())
        ),
    ];
    lines.extend(summary_lines(&review.changes));
    let flagged =
        |with: &str| review.changes.files.iter().filter(|file| file.flags.iter().any(|flag| flag == with)).count();
    let (risky, unresolved) = (flagged("executes"), flagged("conflict_markers"));
    if unresolved > 0 {
        let files = count(i64::try_from(unresolved).unwrap_or(i64::MAX), "file");
        lines
            .push(format!("    {} {files} with git's conflict markers: nobody has resolved them", "!".style(yellow())));
    }
    if risky > 0 {
        let words = match risky {
            1 => "a file that runs on your machine once you take it: look at it twice".to_owned(),
            many => format!("{many} files that run on your machine once you take them: look at them twice"),
        };
        lines.push(format!("    {} {words}", "!".style(yellow())));
    }
    for comment in &review.comments {
        let line = comment.line.map(|line| format!(":{line}")).unwrap_or_default();
        let sent = comment.task_id.map(|task| format!(" (sent in t{task})")).unwrap_or_default();
        lines.push(format!(
            "    {} {}{line}: {}{}",
            "“".style(dim()),
            safe_line(&comment.path),
            safe_line(&comment.body),
            sent.style(dim())
        ));
    }
    if review.seen.is_some() {
        let hint = format!("    What has changed since you looked: millhand review {id} --interdiff");
        lines.push(format!("{}", hint.style(dim())));
    }
    if set.state == "open" {
        let conflicts = review.changes.forecast.as_ref().is_some_and(|forecast| forecast.verdict == "conflicts");
        let hint = match conflicts {
            true => format!(
                "    Have it resolved: millhand send {id} --conflicts   or take the rest: millhand apply {id} --only PATH"
            ),
            false => format!(
                "    Take it: millhand apply {id} --expect {}   or not: millhand reject {id}",
                start_of(&set.patch_sha256)
            ),
        };
        lines.push(format!("{}", hint.style(dim())));
    }
    lines
}

/// As much of a hash as `--expect` needs.
fn start_of(hash: &str) -> &str {
    hash.get(..16).unwrap_or(hash)
}

async fn show_interdiff(context: &Context, interdiff: &Interdiff) -> Outcome<()> {
    let screen = context.screen;
    screen.object("interdiff", interdiff)?;
    for file in &interdiff.files {
        let fields = json!({
            "path": String::from_utf8_lossy(&file.path),
            "kind": file.kind.as_str(),
            "additions": file.additions,
            "deletions": file.deletions,
            "patch": String::from_utf8_lossy(&file.patch),
        });
        screen.object("file", &fields)?;
    }
    if screen.json {
        return Ok(());
    }
    let task =
        |set: &ChangeSetRow| set.task_id.map_or_else(|| format!("change set {}", set.id), |task| format!("t{task}"));
    let files = count(i64::try_from(interdiff.files.len()).unwrap_or(i64::MAX), "file");
    let mut lines =
        vec![format!("{} → {}: {files}", task(&interdiff.from).style(bold()), task(&interdiff.to).style(bold()))];
    if interdiff.mixed {
        let words = "the session has moved to another commit in between, and what came with that is in here, too";
        lines.push(format!("    {} {words}", "!".style(yellow())));
    }
    for file in &interdiff.files {
        let counts = format!(
            "{} {}",
            format!("+{}", file.additions).style(green()),
            format!("-{}", file.deletions).style(red())
        );
        lines.push(format!("    {}  {counts}", safe_line(&String::from_utf8_lossy(&file.path))));
    }
    lines.push(String::new());
    lines.extend(interdiff.files.iter().flat_map(|file| patch_lines(&file.patch)));
    let mut paged = Paged::start(context).await;
    let shown = paged.lines(&lines).map_err(Failure::from);
    paged.end(shown)
}

async fn comment(context: &Context, store: &Store, id: AnyId, words: &[String], who: &str) -> Outcome {
    let [at, text] = words else {
        return Err(Failure::usage("a comment is a place and a text", "such as: --comment src/a.rs:12 \"Why?\""));
    };
    let (path, line) = place(at);
    let made = actions::comment(store, id, path, line, text, who).await?;
    context.screen.object("review_comment", &made)?;
    context.screen.line(&format!("{} {}", "noted".style(green()), safe_line(at)))?;
    if let Some(session) = made.session_id {
        let hint = format!("  Send it with the others: millhand send s{session} --review");
        context.screen.line(&format!("{}", hint.style(dim())))?;
    }
    Ok(Exit::Done)
}

/// `millhand diff ID OTHER`.
pub(super) async fn between(context: &Context, from: AnyId, to: AnyId) -> Outcome {
    let database = database::open(context).await?;
    let mut sets = Vec::new();
    for id in [from, to] {
        let found = actions::changes(&database.store, id).await?;
        sets.extend(found.map(|found| found.set));
    }
    let [from, to] = sets.as_slice() else {
        return Err(Failure {
            exit: Exit::NotFound,
            code: "no_changes",
            message: "one of them has no result yet".to_owned(),
            hint: Some("see: millhand checkpoints SESSION".to_owned()),
        });
    };
    if from.project != to.project {
        return Err(Failure::usage("they are of different projects", "name two tasks of one project"));
    }
    let interdiff = applier(context, &database).await?.interdiff(from, to).await?;
    show_interdiff(context, &interdiff).await?;
    Ok(Exit::Done)
}

/// `millhand checkpoints`.
pub(super) async fn checkpoints(context: &Context, arguments: Checkpoints) -> Outcome {
    let database = database::open(context).await?;
    let session = session_id(arguments.session)?;
    let rows = actions::checkpoints(&database.store, session).await?;
    let screen = context.screen;
    for row in &rows {
        screen.object("checkpoint", row)?;
    }
    if rows.is_empty() {
        screen.line("No checkpoints yet.")?;
        return Ok(Exit::Done);
    }
    let mut table = screen.table(&["TASK", "COMMIT", "BASE", "FILES", "STATE", "MADE", "PROMPT"]);
    for row in &rows {
        table.add_row(vec![
            row.task_id.map(|task| format!("t{task}")).unwrap_or_default(),
            commit(&row.commit_id),
            commit(&row.base_commit),
            format!("{} +{} -{}", row.files, row.additions, row.deletions),
            row.state.clone(),
            ago(row.created_at, chrono::Utc::now()),
            short(row.prompt.as_deref().unwrap_or_default(), 50),
        ]);
    }
    screen.print_table(&table)?;
    Ok(Exit::Done)
}

/// `millhand rollback`.
pub(super) async fn rollback(context: &Context, arguments: Rollback) -> Outcome {
    let database = database::open(context).await?;
    let session = session_id(arguments.session)?;
    let set = applier(context, &database).await?.roll_back(session, arguments.to, &who(context)).await?;
    let screen = context.screen;
    screen.object("rolled_back", &set)?;
    let to = shown(arguments.to);
    let id = format!("s{session}");
    screen.line(&format!("{} is as it was after {}", id.style(state_style("completed")), to.style(bold())))?;
    let hint = format!("  Its next turn starts from there: millhand send {id} \"...\"");
    screen.line(&format!("{}", hint.style(dim())))?;
    Ok(Exit::Done)
}

fn session_id(id: AnyId) -> Outcome<i64> {
    match id {
        AnyId::Session(id) => Ok(id.0),
        other @ (AnyId::Task(_) | AnyId::Chat(_)) => {
            let message = format!("{} is not a session", shown(other));
            Err(Failure::usage(message, "name a session (s7); see: millhand ls --sessions"))
        }
    }
}
