//! `millhand top`: the fleet, live.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use chrono::{DateTime, Utc};
use comfy_table::Cell;
use owo_colors::OwoColorize as _;
use serde_json::Value;

use super::{
    Context, database,
    failure::{Exit, Outcome},
    screen::{at_least, bold, dim, keep_whole, yellow},
    signals::Told,
    text::{count, money, safe_line, short, span, tokens},
};
use crate::{
    actions::{self, Activity},
    model::ids::{SessionId, TaskId},
    store::{
        Store,
        fleet::{RunningTurn, ServerRow},
    },
};

/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// Turns that are shown at most.
const TURNS: i64 = 200;
/// Enter and leave the terminal's other screen, without its cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// `millhand top`. Without a terminal it looks once.
pub(super) async fn top(context: &Context) -> Outcome {
    let store = database::open(context).await?;
    let screen = context.screen;
    if screen.json || !screen.is_terminal {
        let activity = actions::activity(&store, TURNS, context.window()).await?;
        screen.object("top", &activity)?;
        let servers = actions::servers(&store, context.window()).await?;
        for line in lines(context, &activity, &servers) {
            screen.line(&line)?;
        }
        return Ok(Exit::Done);
    }
    live(context, &store).await
}

/// The terminal's other screen; what was there before comes back when this is dropped.
struct Alternate;

impl Alternate {
    fn enter() -> io::Result<Self> {
        let mut out = io::stdout();
        out.write_all(ENTER.as_bytes())?;
        out.flush()?;
        Ok(Self)
    }
}

impl Drop for Alternate {
    fn drop(&mut self) {
        let mut out = io::stdout();
        let _ = out.write_all(LEAVE.as_bytes());
        let _ = out.flush();
    }
}

async fn live(context: &Context, store: &Store) -> Outcome {
    // Heard from before the screen is entered: what ends us otherwise would leave the terminal in it.
    let mut told = Told::listen()?;
    let _alternate = Alternate::enter()?;
    loop {
        let window = context.window();
        let shown = match tokio::try_join!(actions::activity(store, TURNS, window), actions::servers(store, window)) {
            Ok((activity, servers)) => lines(context, &activity, &servers),
            Err(error) if error.is_unreachable() => {
                vec![format!("{}", "the database cannot be reached; waiting for it".style(yellow()))]
            }
            Err(error) => return Err(error.into()),
        };
        draw(&shown)?;
        tokio::select! {
            () = told.told() => return Ok(Exit::Done),
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// Draws over what was there, line by line, so that nothing flickers.
fn draw(lines: &[String]) -> io::Result<()> {
    // Some terminals say that they have no rows at all, when they do not know.
    let rows = rustix::termios::tcgetwinsize(io::stdout()).map_or(0, |size| usize::from(size.ws_row));
    let rows = if rows == 0 { 24 } else { rows.max(5) };
    let mut out = anstream::stdout().lock();
    write!(out, "\x1b[H")?;
    for (at, line) in lines.iter().take(rows - 1).enumerate() {
        let line = if at + 2 == rows && lines.len() >= rows { "..." } else { line };
        write!(out, "{line}\x1b[K\r\n")?;
    }
    write!(out, "\x1b[J")?;
    out.flush()
}

fn lines(context: &Context, activity: &Activity, servers: &[ServerRow]) -> Vec<String> {
    let now = Utc::now();
    let waiting = &activity.waiting;
    let capacity: i64 = activity.workers.iter().map(|worker| i64::from(worker.capacity)).sum();
    let workers = match activity.workers.len() {
        0 => "no worker runs (millhand up --detach)".style(yellow()).to_string(),
        n => {
            let n = count(i64::try_from(n).unwrap_or(i64::MAX), "worker");
            format!("{n}, {} of {capacity} turns", activity.turns.len())
        }
    };
    let inbox = match waiting.inbox {
        0 => "0 in the inbox".to_owned(),
        n => format!("{n} in the inbox").style(yellow()).to_string(),
    };
    let mut lines = vec![
        format!("{}  {workers}", "Millhand".style(bold())),
        format!(
            "{} pending, {} waiting, {inbox}, today (UTC) {}, {} tokens",
            waiting.pending,
            waiting.waiting,
            money(waiting.today_usd),
            tokens(waiting.today_tokens),
        ),
        String::new(),
    ];
    if activity.turns.is_empty() {
        lines.push("No turn runs.".style(dim()).to_string());
    } else {
        lines.extend(turns(context, activity, now));
    }
    if !servers.is_empty() {
        lines.push(String::new());
        lines.extend(super::worker::servers(context, servers).lines().map(|line| line.trim_end().to_owned()));
    }
    lines
}

fn turns(context: &Context, activity: &Activity, now: DateTime<Utc>) -> Vec<String> {
    let mut table =
        context.screen.table(&["TASK", "SESSION", "PROJECT", "HOST", "FOR", "COST", "MODEL", "DOES", "PROMPT"]);
    for turn in &activity.turns {
        table.add_row(vec![
            Cell::new(TaskId(turn.task_id)),
            Cell::new(SessionId(turn.session_id)),
            Cell::new(safe_line(&turn.project)),
            Cell::new(safe_line(turn.hostname.as_deref().unwrap_or("?"))),
            Cell::new(span((now - turn.started_at).num_seconds())),
            Cell::new(if turn.unknown_steps > 0 {
                format!("{}+?", money(turn.cost_usd))
            } else {
                money(turn.cost_usd)
            }),
            Cell::new(short(turn.model.as_deref().unwrap_or_default(), 30)),
            Cell::new(short(&doing(turn), 60)),
            Cell::new(short(&turn.prompt, 40)),
        ]);
    }
    keep_whole(&mut table, &[0, 1, 3, 4, 5]);
    at_least(&mut table, 7, 20);
    table.lines().map(|line| line.trim_end().to_owned()).collect()
}

/// What a turn does, by the last that was heard of it.
fn doing(turn: &RunningTurn) -> String {
    if turn.is_cancelled {
        return "is being cancelled".to_owned();
    }
    if let Some(asks) = &turn.asks {
        return format!("asks: {asks}");
    }
    let data = turn.doing_data.as_ref().unwrap_or(&Value::Null);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    match turn.doing.as_deref() {
        None => "starts".to_owned(),
        Some("text_delta" | "text") => "answers".to_owned(),
        Some("reasoning_delta" | "reasoning" | "plan") => "thinks".to_owned(),
        Some("tool") => {
            let call = &data["call"];
            let is_over = matches!(call["status"].as_str(), Some("completed" | "error"));
            match is_over {
                true => "thinks".to_owned(),
                false => format!("{} {}", text(&call["tool"]), text(&call["title"])),
            }
        }
        Some("retry") => format!("waits for the provider: {}", text(&data["message"])),
        Some("status" | "warning") => text(&data["message"]),
        Some(_) => "works".to_owned(),
    }
}
