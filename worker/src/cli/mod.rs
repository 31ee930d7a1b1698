//! The command line: reads words, calls [`crate::actions`] and [`crate::service`], prints what they say.
//!
//! No logic lives here. Everything printed goes through [`screen`], and every text that comes from an agent, a repository or
//! another person is made safe for terminals by [`text`] first.

mod api;
mod apply;
mod args;
mod args_check;
mod args_costs;
mod args_host;
mod args_inbox;
mod args_review;
mod args_token;
mod args_webhook;
mod args_worktree;
mod bench;
mod check;
mod costs;
mod database;
mod demo;
mod diff;
mod doctor;
mod editor;
mod failure;
mod forecast;
mod inbox;
mod lists;
mod live;
mod pager;
mod project;
mod review;
mod screen;
mod setup;
mod shell;
mod show;
mod signals;
mod tasks;
mod text;
mod token;
mod top;
mod uninstall;
mod webhook;
mod worker;
mod worktree;

use std::{ffi::OsString, process::ExitCode, time::Duration};

use clap::{CommandFactory as _, FromArgMatches as _};

use self::{
    args::{Cli, Command, Global},
    failure::{Exit, Failure, Outcome},
    screen::Screen,
};
use crate::{
    config::{self, Settings, Sources},
    git::Git,
    supervise::hide_this_process,
};

/// What every command is given.
#[derive(Clone, Debug)]
struct Context {
    settings: Settings,
    screen: Screen,
    /// What was said for all commands, to be said again to a worker in the background.
    global: Global,
}

impl Context {
    /// git, as the user's environment has it.
    async fn git(&self) -> Outcome<Git> {
        let environment = self.settings.environment.0.iter().map(|(name, value)| (name.clone(), value.clone()));
        Ok(Git::new(None, environment.collect(), self.settings.home.clone()).await?)
    }

    /// The id of this host.
    fn host_id(&self) -> Outcome<String> {
        config::host_id(&self.settings.home).map_err(|error| {
            let home = self.settings.home.root().display();
            Failure::usage(
                format!("{home}: {error}"),
                "choose a folder that you may write: --home FOLDER, or MILLHAND_HOME",
            )
        })
    }

    /// A worker not heard of for this long counts as gone.
    fn window(&self) -> Duration {
        self.settings.timings.lease
    }
}

/// Runs the command that the arguments name.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<_> = arguments.into_iter().collect();
    let wants_json = arguments.iter().take_while(|word| *word != "--").any(|word| word == "--json");
    let cli = match Cli::command().try_get_matches_from(arguments).and_then(|found| Cli::from_arg_matches(&found)) {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(misused(&error, wants_json) as u8),
    };
    let screen = Screen::new(cli.global.json);
    let exit = run(cli, screen).unwrap_or_else(|failure| screen.fail(failure));
    ExitCode::from(exit as u8)
}

/// Prints help, the version, or what is wrong with the arguments.
fn misused(error: &clap::Error, wants_json: bool) -> Exit {
    use clap::error::ErrorKind;
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // A reader that has seen enough is no error.
        let _ = error.print();
        return Exit::Done;
    }
    if !wants_json || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
        return Exit::Usage;
    }
    let message = error.render().to_string();
    let first = message.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    Screen::new(true).fail(Failure::usage(first, "see: millhand --help"))
}

fn run(cli: Cli, screen: Screen) -> Outcome {
    // Who asks for these may have no settings yet.
    match &cli.command {
        Command::Completions { shell } => return shell::completions(*shell, screen),
        Command::Man { folder } => return shell::man(folder, screen),
        _ => {}
    }
    let sources = sources(&cli);
    let settings = config::load(&sources)?;
    if matches!(&cli.command, Command::Worker(_) | Command::Up(args::Up { detach: false, .. })) {
        hide_this_process();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::broken(format!("cannot start: {error}"), None))?;
    let context = Context { settings, screen, global: cli.global.clone() };
    let outcome = runtime.block_on(dispatch(&context, cli.command));
    // A read of stdin cannot be taken back; it must not keep the process.
    runtime.shutdown_timeout(Duration::from_millis(100));
    outcome
}

fn sources(cli: &Cli) -> Sources {
    let mut sources = Sources { file: cli.global.config.clone(), ..Sources::of_process() };
    let concurrency = match &cli.command {
        Command::Up(args::Up { concurrency, .. }) | Command::Worker(args::Worker { concurrency, .. }) => *concurrency,
        _ => None,
    };
    let listen = match &cli.command {
        Command::Api(arguments) => arguments.listen.clone(),
        _ => None,
    };
    let flags = [
        ("home", "--home", cli.global.home.clone()),
        ("database.url", "--database-url", cli.global.database_url.clone()),
        ("worker.concurrency", "--concurrency", concurrency.map(|turns| turns.to_string())),
        ("api.listen", "--listen", listen),
    ];
    sources.flags = flags.into_iter().filter_map(|(key, flag, text)| Some((key, flag, text?))).collect();
    sources
}

async fn dispatch(context: &Context, command: Command) -> Outcome {
    match command {
        Command::Setup => setup::setup(context).await,
        Command::Up(arguments) => worker::up(context, &arguments).await,
        Command::Status => worker::status(context).await,
        Command::Top => top::top(context).await,
        Command::Down(arguments) => worker::down(context, &arguments).await,
        Command::Demo(args::Demo {}) => demo::demo(context).await,
        Command::Doctor => doctor::doctor(context).await,
        Command::Models(arguments) => doctor::models(context, &arguments).await,
        Command::Worker(arguments) => worker::worker(context, &arguments).await,
        Command::Api(_) => api::api(context).await,
        Command::Uninstall(arguments) => uninstall::uninstall(context, &arguments).await,
        Command::Run(arguments) => tasks::run(context, arguments).await,
        Command::Send(arguments) => tasks::send(context, arguments).await,
        Command::Ls(arguments) => lists::ls(context, arguments).await,
        Command::Show(arguments) => show::show(context, arguments.id).await,
        Command::Attach(arguments) => live::attach(context, &arguments).await,
        Command::Diff(arguments) => diff::diff(context, &arguments).await,
        Command::Forecast(arguments) => forecast::forecast(context, arguments).await,
        Command::Apply(arguments) => apply::apply(context, arguments).await,
        Command::Reject(arguments) => apply::reject(context, arguments).await,
        Command::Review(arguments) => review::review(context, arguments).await,
        Command::Checkpoints(arguments) => review::checkpoints(context, arguments).await,
        Command::Rollback(arguments) => review::rollback(context, arguments).await,
        Command::Inbox(arguments) => inbox::inbox(context, arguments).await,
        Command::Answer(arguments) => inbox::answer(context, arguments).await,
        Command::Retry(arguments) => inbox::retry(context, arguments).await,
        Command::Dismiss(arguments) => inbox::dismiss(context, arguments).await,
        Command::Cancel(arguments) => tasks::cancel(context, arguments.task).await,
        Command::Close(arguments) => worktree::close(context, arguments.session).await,
        Command::Reopen(arguments) => worktree::reopen(context, arguments.session).await,
        Command::Worktree(command) => worktree::worktree(context, command).await,
        Command::Project(command) => project::project(context, command).await,
        Command::Check(command) => check::check(context, command).await,
        Command::Webhook(command) => webhook::webhook(context, command).await,
        Command::Token(command) => token::token(context, command).await,
        Command::Stats(args_costs::Stats { command: Some(args_costs::StatsCommand::Costs(arguments)), .. })
        | Command::Stats(args_costs::Stats { command: None, costs: arguments }) => {
            costs::stats(context, arguments).await
        }
        Command::Budget(arguments) => costs::budget(context, arguments).await,
        Command::Migrate(arguments) => database::migrate(context, &arguments).await,
        Command::Db(command) => database::db(context, command).await,
        Command::Bench(arguments) => bench::bench(context, &arguments).await,
        Command::Completions { shell } => shell::completions(shell, context.screen),
        Command::Man { folder } => shell::man(&folder, context.screen),
    }
}
