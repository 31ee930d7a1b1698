//! `millhand apply` and `millhand reject`.

use owo_colors::OwoColorize as _;
use serde_json::json;

use super::{
    Context,
    args_review::{Apply, Reject},
    database::{self, Database},
    failure::{Exit, Outcome},
    screen::{bold, dim, green, yellow},
    tasks::shown,
    text::{self, count, safe, safe_line},
};
use crate::{
    actions::{self, ActionError, Applied, Applier, ApplyRequest, Target},
    git::Step,
    worktrees::Worktrees,
};

/// What applying needs, from what this command was given.
pub(super) async fn applier(context: &Context, database: &Database) -> Outcome<Applier> {
    let git = context.git().await?;
    let host_id = context.host_id()?;
    let settings = &context.settings;
    let worktrees = Worktrees {
        store: database.store.clone(),
        git: git.clone(),
        home: settings.home.clone(),
        host_id: host_id.clone(),
        settings: settings.worktrees,
        timings: settings.timings,
    };
    Ok(Applier {
        store: database.store.clone(),
        git,
        worktrees,
        host_id,
        settings: settings.apply.clone(),
        timings: settings.timings,
    })
}

/// Who decides: the user of this machine, for the record.
pub(super) fn who(context: &Context) -> String {
    let name = ["USER", "LOGNAME"].iter().find_map(|name| context.settings.environment.text(name));
    name.map_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()), str::to_owned)
}

/// `millhand apply`.
pub(super) async fn apply(context: &Context, arguments: Apply) -> Outcome {
    let database = database::open(context).await?;
    let applier = applier(context, &database).await?;
    let request = ApplyRequest {
        only: arguments.only,
        expect: arguments.expect,
        target: arguments.to.map_or(Target::Base, Target::Branch),
        push: arguments.push,
        message: arguments.message,
        require_checks: arguments.require_checks,
        who: who(context),
    };
    let progress = context.screen.progress("applying");
    let say = |step: Step| progress.say(in_words(step));
    let applied = applier.apply(arguments.id, &request, &say).await;
    drop(progress);
    match applied {
        Ok(applied) => report(context, &shown(arguments.id), &applied),
        Err(ActionError::Conflicts { session, is_base, branch, conflicts }) => {
            for conflict in &conflicts {
                let fields = json!({ "branch": branch, "path": conflict.path, "message": conflict.message });
                context.screen.object("conflict", &fields)?;
                let path = safe_line(&conflict.path);
                context.screen.line(&format!(
                    "    {} {path}  {}",
                    "!".style(yellow()),
                    safe_line(&conflict.message).style(dim())
                ))?;
            }
            Err(ActionError::Conflicts { session, is_base, branch, conflicts }.into())
        }
        Err(error) => Err(error.into()),
    }
}

fn in_words(step: Step) -> &'static str {
    match step {
        Step::Waiting => "waiting for another apply, or another git, to end",
        Step::Fetched => "merging",
        Step::Merged => "writing the journal",
        Step::Begun => "bringing the commit to the repository",
        Step::Brought => "looking whether anything is in the way",
        Step::Checked => "moving the branch",
        Step::Moved => "updating the files",
        Step::Written => "recording it",
        Step::Landed => "moving the session to the new commit",
        Step::Rebased => "done",
    }
}

fn report(context: &Context, id: &str, applied: &Applied) -> Outcome {
    let screen = context.screen;
    screen.object("applied", applied)?;
    if let Some(objection) = &applied.unchecked {
        screen.warn(&safe_line(objection));
    }
    let files = count(i64::try_from(applied.taken.len()).unwrap_or(i64::MAX), "file");
    let branch = safe_line(&applied.branch);
    match (&applied.commit, &applied.remote) {
        (None, _) => screen.line(&format!("{id}: {branch} has all of it already"))?,
        (Some(commit), None) => screen.line(&format!(
            "{} {files} of {} on {} as {}",
            "applied".style(green()),
            id.style(bold()),
            branch.style(bold()),
            text::commit(commit)
        ))?,
        (Some(commit), Some(remote)) => screen.line(&format!(
            "{} {files} of {} to {} of {} as {}",
            "pushed".style(green()),
            id.style(bold()),
            branch.style(bold()),
            safe_line(remote),
            text::commit(commit)
        ))?,
    }
    if let Some(worktree) = &applied.worktree {
        screen.line(&format!("  {}", format!("updated {}", safe_line(worktree)).style(dim())))?;
    }
    match (&applied.pull_request, &applied.remote_message) {
        (Some(link), _) => screen.line(&format!("  Open a pull request: {}", safe_line(link)))?,
        (None, Some(message)) => screen.line(&safe(message))?,
        (None, None) => {}
    }
    if applied.set.state == "open" {
        screen.line(&format!("  {}", format!("The rest waits: millhand review {id}").style(dim())))?;
    }
    if let Some(why) = &applied.not_rebased {
        let why = format!("its later changes will show these again: {why}");
        screen.line(&format!("  {}", safe_line(&why).style(dim())))?;
    }
    Ok(Exit::Done)
}

/// `millhand reject`.
pub(super) async fn reject(context: &Context, arguments: Reject) -> Outcome {
    let database = database::open(context).await?;
    let (expect, who) = (arguments.expect.as_deref(), who(context));
    let (set, paths) = actions::reject_changes(&database.store, arguments.id, &arguments.only, expect, &who).await?;
    let screen = context.screen;
    screen.object("rejected", &json!({ "change_set": set, "paths": paths }))?;
    let files = count(i64::try_from(paths.len()).unwrap_or(i64::MAX), "file");
    let id = shown(arguments.id);
    screen.line(&format!("{} {files} of {}", "rejected".style(yellow()), id.style(bold())))?;
    if let Some(session) = set.session_id {
        let hint = format!("  Say why: millhand send s{session} \"...\"");
        screen.line(&format!("{}", hint.style(dim())))?;
    }
    Ok(Exit::Done)
}
