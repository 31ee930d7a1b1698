//! `millhand setup`: finds opencode and Postgres on the machine, or installs them into a folder of Millhand's own.

use owo_colors::OwoColorize as _;
use serde_json::json;

use super::{
    Context,
    failure::{Exit, Failure, Outcome},
    screen::{Screen, bold, dim, green},
    text::safe_line,
};
use crate::tools::{
    self, InstallError, Opencode, PostgresBinaries, Progress, Search, Tool, ToolError, find_opencode, find_postgres,
};

/// A program that is there.
struct Found {
    tool: Tool,
    version: tools::Version,
    path: String,
    origin: tools::Origin,
}

impl From<Opencode> for Found {
    fn from(found: Opencode) -> Self {
        let path = found.path.display().to_string();
        Self { tool: Tool::Opencode, version: found.version, path, origin: found.origin }
    }
}

impl From<PostgresBinaries> for Found {
    fn from(found: PostgresBinaries) -> Self {
        let path = found.folder.display().to_string();
        Self { tool: Tool::Postgres, version: found.version, path, origin: found.origin }
    }
}

/// Where to look for opencode.
pub(super) fn opencode_search(context: &Context) -> Search {
    search(context, context.settings.opencode.binary.clone())
}

/// Where to look for Postgres.
pub(super) fn postgres_search(context: &Context) -> Search {
    search(context, context.settings.postgres.binaries.clone())
}

fn search(context: &Context, setting: Option<std::path::PathBuf>) -> Search {
    let path = context.settings.environment.get("PATH").map(ToOwned::to_owned);
    Search { setting, path, tools: context.settings.home.tools(), memory: None }
}

/// `millhand setup`.
pub(super) async fn setup(context: &Context) -> Outcome {
    for found in ensure(context).await? {
        say(context.screen, &found)?;
    }
    if !context.settings.database.is_private() {
        let from = safe_line(&context.settings.database.url_from);
        let from = if from.is_empty() { "PG* variables".to_owned() } else { from };
        context.screen.line(&format!("{}", format!("Postgres is not needed: {from} names a database").style(dim())))?;
    }
    context.screen.line(&format!("{}", "Next: millhand up --detach".style(dim())))?;
    Ok(Exit::Done)
}

fn say(screen: Screen, found: &Found) -> Outcome<()> {
    let (name, version) = (name(found.tool), found.version.to_string());
    screen.object(
        "tool",
        &json!({ "name": name, "version": version, "path": found.path, "origin": found.origin.to_string() }),
    )?;
    let place = format!("{} ({})", safe_line(&found.path), found.origin);
    Ok(screen.line(&format!("{} {} {version} {}", "✓".style(green()), name.style(bold()), place.style(dim())))?)
}

fn name(tool: Tool) -> &'static str {
    match tool {
        Tool::Opencode => "opencode",
        Tool::Postgres => "PostgreSQL",
    }
}

/// Finds or installs what this host needs; Postgres only where no database is named.
async fn ensure(context: &Context) -> Outcome<Vec<Found>> {
    let mut found = Vec::new();
    let opencode = opencode_search(context);
    found.push(match blocking(move || find_opencode(&opencode)).await? {
        Ok(there) => Found::from(there),
        Err(error) => install(context, opencode_search(context), Tool::Opencode, error).await?,
    });
    if context.settings.database.is_private() {
        let postgres = postgres_search(context);
        found.push(match blocking(move || find_postgres(&postgres)).await? {
            Ok(there) => Found::from(there),
            Err(error) => install(context, postgres_search(context), Tool::Postgres, error).await?,
        });
    }
    Ok(found)
}

/// The same for the demo, where it is one step of many.
pub(super) async fn ensure_and_say(context: &Context) -> Outcome<()> {
    for found in ensure(context).await? {
        say(context.screen, &found)?;
    }
    Ok(())
}

/// Whether all is there; the error says what is not.
pub(super) async fn check(context: &Context) -> Outcome<()> {
    let (opencode, postgres) = (opencode_search(context), postgres_search(context));
    let is_private = context.settings.database.is_private();
    blocking(move || {
        find_opencode(&opencode)?;
        if is_private {
            find_postgres(&postgres)?;
        }
        Ok::<_, ToolError>(())
    })
    .await??;
    Ok(())
}

/// Installs what was not found. A program that a setting names is the user's to mend.
async fn install(context: &Context, search: Search, tool: Tool, missing: ToolError) -> Outcome<Found> {
    let screen = context.screen;
    if search.setting.is_some() {
        return Err(Failure::from(missing));
    }
    screen.note(&format!(
        "{} from npm into {}",
        format!("Installing {}", name(tool)).style(bold()),
        search.tools.display()
    ));
    let progress = screen.progress("asking npm");
    let installed = blocking(move || {
        let mut say = |news: Progress| progress.say(in_words(&news));
        match tool {
            Tool::Opencode => tools::install_opencode(&search, &mut say).map(Found::from),
            Tool::Postgres => tools::install_postgres(&search, &mut say).map(Found::from),
        }
    });
    installed.await?.map_err(Failure::from)
}

fn in_words(progress: &Progress) -> String {
    let megabytes = |bytes: u64| bytes / 1_000_000;
    match progress {
        Progress::Waiting => "another setup is at work; waiting for it".to_owned(),
        Progress::Fetching { bytes, of_bytes } => {
            format!("fetching: {} of about {} MB", megabytes(*bytes), megabytes(*of_bytes))
        }
        Progress::Checking => "checking that it runs".to_owned(),
        Progress::Installed { bytes } => format!("installed, {} MB", megabytes(*bytes)),
        Progress::Present => "it is there already".to_owned(),
    }
}

/// Runs something that blocks.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Outcome<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Failure::broken(format!("interrupted: {error}"), None))
}

impl From<ToolError> for Failure {
    fn from(error: ToolError) -> Self {
        Self { exit: Exit::Usage, code: "tool", message: error.to_string(), hint: None }
    }
}

impl From<InstallError> for Failure {
    fn from(error: InstallError) -> Self {
        Self { exit: Exit::Broken, code: "install", message: error.to_string(), hint: None }
    }
}
