//! Commands that put tasks into the queue and act on them.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

use owo_colors::OwoColorize as _;
use tokio::signal::unix::Signal;

use super::{
    Context,
    apply::applier,
    args::{ChatChoice, Prompt, Run, Send, TaskOptions},
    database,
    failure::{Exit, Failure, Outcome},
    live, project,
    screen::{bold, dim, state_style},
    text::safe_line,
};
use crate::{
    actions::{self, Acted, ActionError, Chat, Queued, Target, TaskRequest},
    model::ids::{AnyId, ChatId, SessionId, TaskId},
    store::{Store, reads::TaskRow},
};

/// The longest prompt that the queue takes; the database holds to the same.
const LONGEST_PROMPT: u64 = 1024 * 1024;

/// `millhand run`.
pub(super) async fn run(context: &Context, arguments: Run) -> Outcome {
    let prompt = read_prompt(arguments.prompt)?;
    let store = database::open(context).await?;
    let project = project::for_run(context, &store, arguments.project.as_deref(), arguments.yes).await?;
    let request = request(prompt, &arguments.options);
    let mut interrupts = live::interrupts()?;
    let queue = actions::enqueue(&store, &project.row.name, &request);
    let Some(done) = unless_interrupted(context, &mut interrupts, queue).await? else { return Ok(Exit::Detached) };
    project::say_base(context, &project).await?;
    queued(context, &store, &done.task, &arguments.options, interrupts).await
}

/// `millhand send`.
pub(super) async fn send(context: &Context, arguments: Send) -> Outcome {
    let prompt = match (&arguments.prompt, &arguments.file) {
        (None, None) if arguments.review || arguments.conflicts => None,
        _ => Some(read_prompt(Prompt { prompt: arguments.prompt, file: arguments.file })?),
    };
    let database = database::open(context).await?;
    let store = &database.store;
    let mut chat = match arguments.chat {
        None => Chat::First,
        Some(ChatChoice::New) => Chat::New,
        Some(ChatChoice::Id(id)) => Chat::Existing(id),
    };
    let session = match arguments.session {
        AnyId::Session(id) => id.0,
        AnyId::Task(id) => actions::show_task(store, id.0, context.window()).await?.session.id,
        AnyId::Chat(id) => {
            if arguments.chat.is_none() {
                chat = Chat::Existing(id.0);
            }
            actions::session_of_chat(store, id.0).await?
        }
    };
    if arguments.conflicts {
        let target = arguments.to.map_or(Target::Base, Target::Branch);
        let applier = applier(context, &database).await?;
        let conflict = applier.prompt_of_conflicts(session, target, prompt.as_deref()).await?;
        let mut request = request(conflict.prompt, &arguments.options);
        request.merge_commit = Some(conflict.merge_commit);
        request.merge_branch = conflict.merge_branch;
        request.idempotency_key.get_or_insert(conflict.key);
        let mut interrupts = live::interrupts()?;
        let queue = actions::send(store, session, chat, &request);
        let Some(done) = unless_interrupted(context, &mut interrupts, queue).await? else { return Ok(Exit::Detached) };
        return queued(context, store, &done.task, &arguments.options, interrupts).await;
    }
    let (review, prompt) = match (arguments.review, prompt) {
        (false, prompt) => (None, prompt.unwrap_or_default()),
        (true, more) => {
            let review = actions::prompt_of_review(store, session, more.as_deref()).await?;
            let prompt = review.prompt.clone();
            (Some(review), prompt)
        }
    };
    let mut request = request(prompt, &arguments.options);
    if let Some(review) = &review {
        // Queued once, however often this is tried: the comments are marked as sent after that.
        request.idempotency_key.get_or_insert_with(|| review.key.clone());
    }
    let mut interrupts = live::interrupts()?;
    let queue = async {
        let done = actions::send(store, session, chat, &request).await?;
        if let Some(review) = &review {
            actions::review_was_sent(store, review, done.task.id).await?;
        }
        Ok(done)
    };
    let Some(done) = unless_interrupted(context, &mut interrupts, queue).await? else { return Ok(Exit::Detached) };
    queued(context, store, &done.task, &arguments.options, interrupts).await
}

fn request(prompt: String, options: &TaskOptions) -> TaskRequest {
    TaskRequest {
        prompt,
        agent: options.agent.clone(),
        model: options.model.clone(),
        variant: options.variant.clone(),
        priority: options.priority,
        idempotency_key: options.idempotency_key.clone(),
        merge_commit: None,
        merge_branch: None,
    }
}

/// What was queued; none if Ctrl-C came before the database had answered.
async fn unless_interrupted(
    context: &Context,
    interrupts: &mut Signal,
    queue: impl Future<Output = Result<Queued, ActionError>>,
) -> Outcome<Option<Queued>> {
    tokio::select! {
        biased;
        done = queue => Ok(Some(done?)),
        _ = interrupts.recv() => {
            context.screen.note("Interrupted while the task was being queued. See whether it was: millhand ls");
            Ok(None)
        }
    }
}

/// Says what was queued, and follows it unless told not to.
async fn queued(
    context: &Context,
    store: &Store,
    task: &TaskRow,
    options: &TaskOptions,
    interrupts: Signal,
) -> Outcome {
    let screen = context.screen;
    let id = TaskId(task.id);
    screen.line(&format!(
        "{} queued in {} {}",
        id.style(bold()),
        SessionId(task.session_id),
        format!("({}, {})", ChatId(task.chat_id), safe_line(&task.project)).style(dim()),
    ))?;
    if actions::workers(store, context.window()).await?.is_empty() {
        screen.warn("no worker is running, so the task waits; start one with: millhand up --detach");
    }
    if options.detach {
        screen.object("task", task)?;
        screen.line(&format!("{}", format!("Follow it: millhand attach {id}").style(dim())))?;
        return Ok(Exit::Done);
    }
    screen.object("task", task)?;
    live::follow(context, store, id, options.reasoning, interrupts).await
}

/// The prompt, from wherever it comes.
fn read_prompt(from: Prompt) -> Outcome<String> {
    match (from.prompt, from.file) {
        (Some(text), _) if text == "-" => read_bounded(std::io::stdin().lock(), Path::new("stdin")),
        (Some(text), _) => Ok(text),
        (None, Some(file)) => read_file(&file),
        (None, None) => Err(Failure::usage("there is no prompt", "give one, or --file FILE")),
    }
}

/// A prompt that was given as an argument; - is stdin.
pub(super) fn read_prompt_text(text: String) -> Outcome<String> {
    read_prompt(Prompt { prompt: Some(text), file: None })
}

fn read_file(file: &PathBuf) -> Outcome<String> {
    let open = std::fs::File::open(file);
    let open =
        open.map_err(|error| Failure::usage(format!("{}: {error}", file.display()), "name a file that can be read"))?;
    read_bounded(open, file)
}

fn read_bounded(from: impl std::io::Read, name: &Path) -> Outcome<String> {
    let mut bytes = Vec::new();
    from.take(LONGEST_PROMPT + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::usage(format!("{}: {error}", name.display()), "name a file that can be read"))?;
    if bytes.len() as u64 > LONGEST_PROMPT {
        return Err(Failure::usage(
            format!("the prompt in {} is longer than {LONGEST_PROMPT} bytes (1 MiB)", name.display()),
            "put the long part into a file of the repository and name it in the prompt",
        ));
    }
    String::from_utf8(bytes).map_err(|error| {
        let place = error.utf8_error().valid_up_to();
        Failure::usage(
            format!("the prompt in {} is not UTF-8 at byte {place}", name.display()),
            "a prompt is text in UTF-8",
        )
    })
}

/// The task that an argument names; only a task can be acted on.
pub(super) fn task_id(id: AnyId) -> Outcome<i64> {
    match id {
        AnyId::Task(id) => Ok(id.0),
        other @ (AnyId::Session(_) | AnyId::Chat(_)) => Err(Failure::usage(
            format!("{} is not a task", shown(other)),
            format!("name a task (t42); see: millhand show {}", shown(other)),
        )),
    }
}

pub(super) fn shown(id: AnyId) -> String {
    match id {
        AnyId::Task(id) => id.to_string(),
        AnyId::Session(id) => id.to_string(),
        AnyId::Chat(id) => id.to_string(),
    }
}

/// `millhand cancel`.
pub(super) async fn cancel(context: &Context, id: AnyId) -> Outcome {
    let store = database::open(context).await?;
    let acted = actions::cancel(&store, task_id(id)?).await?;
    let done =
        if acted.task.state == "running" { "is being cancelled; its changes so far are kept" } else { "cancelled" };
    report(context, &acted, done, "cancel")
}

pub(super) fn report(context: &Context, acted: &Acted, done: &str, verb: &str) -> Outcome {
    let task = &acted.task;
    let id = TaskId(task.id);
    let screen = context.screen;
    if !acted.changed {
        return Err(Failure {
            exit: Exit::Usage,
            code: "nothing_to_do",
            message: format!("there is nothing to {verb}: {id} is {}", state_in_words(task)),
            hint: Some(format!("see: millhand show {id}")),
        });
    }
    screen.object("task", task)?;
    screen.line(&format!("{} {}", id.style(state_style(&task.state)), done))?;
    Ok(Exit::Done)
}

fn state_in_words(task: &TaskRow) -> &str {
    match task.state.as_str() {
        "failed" if task.dismissed_at.is_some() => "dismissed",
        "running" if task.cancel_requested_at.is_some() => "being cancelled already",
        state => state,
    }
}
