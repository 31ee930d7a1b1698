//! Following a task live on the screen.

use std::collections::HashMap;

use owo_colors::OwoColorize as _;
use serde_json::Value;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{
    Context,
    args::Attach,
    database,
    failure::{Exit, Outcome},
    screen::{Progress, Screen, bold, dim, green, red, state_style, yellow},
    text::{cost, count, safe, safe_line, short, span, tokens},
};
use crate::{
    actions::{self, Followed, Follower, Look},
    model::ids::{SessionId, TaskId},
    store::{
        Store,
        reads_turns::{AttemptRow, TurnEventRow},
    },
};

/// `millhand attach`.
pub(super) async fn attach(context: &Context, arguments: &Attach) -> Outcome {
    let store = database::open(context).await?;
    let task = actions::resolve_task(&store, arguments.id).await?;
    follow(context, &store, task, arguments.reasoning, interrupts()?).await
}

/// Listens to Ctrl-C from here on.
pub(super) fn interrupts() -> std::io::Result<Signal> {
    signal(SignalKind::interrupt())
}

/// Follows a task to its end, or to Ctrl-C, which leaves the task alone. One that came since `interrupts` are listened to, or comes while
/// something is being shown, counts too.
pub(super) async fn follow(
    context: &Context,
    store: &Store,
    task: TaskId,
    reasoning: bool,
    mut interrupts: Signal,
) -> Outcome {
    let mut follower = Follower::new(store.clone(), task, context.window());
    let mut view = View::new(context.screen, reasoning);
    loop {
        let news = tokio::select! {
            news = follower.next() => news?,
            _ = interrupts.recv() => {
                view.settle()?;
                context.screen.note(&format!("Detached; {task} goes on. Attach again: millhand attach {task}"));
                return Ok(Exit::Detached);
            }
        };
        for item in news {
            if let Followed::Ended(look) = &item {
                view.settle()?;
                return ended(context, store, look, view.said_error.as_deref()).await;
            }
            view.show(&item)?;
        }
    }
}

/// The outcome, the cost, and the next command.
async fn ended(context: &Context, store: &Store, look: &Look, said_error: Option<&str>) -> Outcome {
    let screen = context.screen;
    let task = &look.task;
    screen.object("task", look)?;
    let id = TaskId(task.id);
    let took = match (task.started_at, task.finished_at) {
        (Some(start), Some(end)) => format!(" in {}", span((end - start).num_seconds())),
        _ => String::new(),
    };
    let cost = format!("{} tokens, {}", tokens(task.tokens), cost(task.cost_usd, task.unknown_steps));
    screen.line(&format!(
        "{} {}{took} {}",
        id.style(bold()),
        task.state.style(state_style(&task.state)),
        format!("({cost})").style(dim())
    ))?;
    if let Some(message) = task.error_message.as_deref().filter(|message| Some(*message) != said_error) {
        screen.line(&format!("  {}", safe(message).style(red())))?;
    }
    let changes = actions::changes(store, crate::model::ids::AnyId::Task(id)).await?;
    let changed = changes.as_ref().filter(|changes| changes.set.files > 0);
    if let Some(changes) = changed {
        let set = &changes.set;
        let files = count(set.files.into(), "file");
        screen.line(&format!("  {files} changed, +{} -{}: millhand diff {id}", set.additions, set.deletions))?;
    }
    let next = match task.state.as_str() {
        "completed" => format!("millhand send {} \"...\"", SessionId(task.session_id)),
        "failed" | "blocked" => format!("millhand retry {id}, or millhand dismiss {id}"),
        _ => format!("millhand retry {id}"),
    };
    screen.line(&format!("{}", format!("  Next: {next}").style(dim())))?;
    Ok(Exit::of_state(&task.state))
}

/// What was shown so far of a turn.
struct View {
    screen: Screen,
    reasoning: bool,
    /// What was printed of each text part that streams.
    printed: HashMap<String, usize>,
    /// The part that the open line belongs to.
    open: Option<String>,
    /// Ends of the text just printed.
    at_line_start: bool,
    progress: Option<Progress>,
    /// The error of the last attempt, which need not be said again at the end.
    said_error: Option<String>,
}

impl View {
    fn new(screen: Screen, reasoning: bool) -> Self {
        Self {
            screen,
            reasoning,
            printed: HashMap::new(),
            open: None,
            at_line_start: true,
            progress: None,
            said_error: None,
        }
    }

    fn show(&mut self, item: &Followed) -> Outcome<()> {
        match item {
            Followed::Waits(look) => {
                let why = look.why.as_deref().unwrap_or_default();
                self.screen.object("waits", look)?;
                self.status(why)
            }
            Followed::AttemptStarted(attempt) => {
                self.screen.object("attempt", attempt)?;
                self.printed.clear();
                if attempt.number > 1 { self.status(&format!("attempt {}", attempt.number)) } else { Ok(()) }
            }
            Followed::AttemptEnded(attempt) => {
                self.screen.object("attempt", attempt)?;
                self.attempt_ended(attempt)
            }
            Followed::Event(event) => {
                self.screen.object("event", event)?;
                self.event(event)
            }
            Followed::Ended(_) => Ok(()),
        }
    }

    fn attempt_ended(&mut self, attempt: &AttemptRow) -> Outcome<()> {
        self.settle()?;
        if let (Some(outcome), Some(message)) = (&attempt.outcome, &attempt.error_message) {
            self.said_error = Some(message.clone());
            let said = format!("attempt {} ended: {outcome}: {}", attempt.number, safe(message));
            self.screen.line(&format!("{} {}", "!".style(yellow()), said))?;
        }
        Ok(())
    }

    /// Shown while it lasts on a terminal, as a line elsewhere.
    fn status(&mut self, message: &str) -> Outcome<()> {
        self.end_line()?;
        if self.screen.is_terminal {
            match &self.progress {
                Some(progress) => progress.say(message),
                None => self.progress = Some(self.screen.progress(message)),
            }
        } else {
            self.screen.line(&format!("{} {message}", "·".style(dim())))?;
        }
        Ok(())
    }

    /// Leaves the screen to what comes next.
    fn settle(&mut self) -> Outcome<()> {
        self.progress = None;
        self.end_line()
    }

    fn remark(&mut self, sign: impl std::fmt::Display, text: &str) -> Outcome<()> {
        self.settle()?;
        Ok(self.screen.line(&format!("{sign} {text}"))?)
    }

    fn event(&mut self, event: &TurnEventRow) -> Outcome<()> {
        let data = &event.data;
        let text = |field: &str| data.get(field).and_then(Value::as_str).unwrap_or_default();
        let part = event.part.as_deref().unwrap_or_default();
        match event.kind.as_str() {
            "text_delta" => self.stream(part, text("delta"), false),
            "text" => self.whole(part, text("text"), false),
            "reasoning_delta" if self.reasoning => self.stream(part, text("delta"), true),
            "reasoning" if self.reasoning => self.whole(part, text("text"), true),
            "reasoning_delta" | "reasoning" if self.screen.is_terminal => self.status("thinks"),
            "tool" => self.tool(data.get("call").unwrap_or(&Value::Null)),
            "retry" => {
                let attempt = data.get("attempt").and_then(Value::as_i64).unwrap_or_default();
                self.remark("!".style(yellow()), &format!("provider, try {attempt}: {}", safe_line(text("message"))))
            }
            "warning" => self.remark("!".style(yellow()), &safe_line(text("message"))),
            "ask" => {
                let patterns = data.get("patterns").map(ToString::to_string).unwrap_or_default();
                let asked = format!("{} {}", text("permission"), short(&patterns, 80));
                self.remark(
                    "?".style(yellow()),
                    &format!("asked for {}: {}", safe_line(&asked), safe_line(text("answer"))),
                )
            }
            "status" => self.status(&safe_line(text("message"))),
            // A step's cost is in the sum at the end; plans and unknown events are for --json.
            _ => Ok(()),
        }
    }

    fn tool(&mut self, call: &Value) -> Outcome<()> {
        let text = |field: &str| call.get(field).and_then(Value::as_str).unwrap_or_default();
        let name = safe_line(text("tool"));
        let title = short(text("title"), 100);
        match text("status") {
            "completed" => {
                let failed = call.get("exit_code").and_then(Value::as_i64).filter(|code| *code != 0);
                let exit =
                    failed.map(|code| format!(" {}", format!("exit {code}").style(yellow()))).unwrap_or_default();
                self.remark("✓".style(green()), &format!("{} {}{exit}", name.style(bold()), title.style(dim())))
            }
            "error" => {
                let error = short(text("error"), 200);
                self.remark("✗".style(red()), &format!("{} {} {error}", name.style(bold()), title.style(dim())))
            }
            "running" if self.screen.is_terminal => self.status(&format!("{name} {title}")),
            _ => Ok(()),
        }
    }

    /// Text as it comes.
    fn stream(&mut self, part: &str, delta: &str, is_reasoning: bool) -> Outcome<()> {
        if delta.is_empty() {
            return Ok(());
        }
        self.progress = None;
        if self.open.as_deref() != Some(part) {
            self.end_line()?;
            self.open = Some(part.to_owned());
        }
        *self.printed.entry(part.to_owned()).or_default() += delta.len();
        self.at_line_start = delta.ends_with('\n');
        let shown = safe(delta);
        if is_reasoning {
            self.screen.part(&shown.style(dim()).to_string())?
        } else {
            self.screen.part(&shown)?
        }
        Ok(())
    }

    /// A part that is whole now: what streamed of it is not printed again.
    fn whole(&mut self, part: &str, text: &str, is_reasoning: bool) -> Outcome<()> {
        let printed = self.printed.remove(part).unwrap_or(0);
        match text.get(printed..) {
            Some(rest) => self.stream(part, rest, is_reasoning)?,
            // It was changed under way: the final text counts.
            None => {
                self.end_line()?;
                self.stream(part, text, is_reasoning)?;
            }
        }
        self.printed.remove(part);
        self.end_line()
    }

    fn end_line(&mut self) -> Outcome<()> {
        self.open = None;
        if !self.at_line_start {
            self.at_line_start = true;
            self.screen.line("")?;
        }
        Ok(())
    }
}
