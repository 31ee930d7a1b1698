//! Under fire: whole hosts as processes of their own, real Postgres, real opencode, and faults at random.
//!
//! A run is a seed and a number of turns. Two homes on one machine share a database that is killed, cut off and swallowed, while
//! workers and agent servers are killed and stopped. Meanwhile people commit to a branch, and apply to it what is finished. What was acknowledged is written down outside Postgres; in the end every zero is
//! counted against that (see [`check`]).
//!
//! `ops/chaos` runs it for long and keeps the results; the test here is a short one.

mod check;
mod faults;
mod host;
mod load;
mod report;
mod review;

use std::{env, time::Duration};

use anyhow::{Context, Result, ensure};
use millhand::{postgres::Private, scripted::Prices};
use serde_json::json;

use self::{faults::Faults, host::ChaosHost, report::Report, review::People};
use crate::support::{self, millhand};

/// What the agent does in each turn: four model calls, a file, a command that leaves a process behind, in a second or two. The file is
/// written twice, and a third time where it is not there, from the second time on in one step: a tool that a kill cut off is not called again by
/// a scripted model, as a real one would, one turn may be struck twice, and a shell that is killed between opening a file and writing it leaves an
/// empty one.
const SCRIPT: &str = r#"{"chunk_delay_ms": 12, "steps": [
    {"type": "text", "content": "I write the file that was asked for, and nothing else."},
    {"type": "tool_call", "id": "w", "name": "write", "arguments": {"filePath": "{{prompt}}.txt", "content": "{{prompt}}\n"}},
    {"type": "text", "content": "Now a moment of work, with a server that stays."},
    {"type": "tool_call", "id": "b", "name": "bash", "arguments": {"command": "setsid sleep 3071 >/dev/null 2>&1 & echo {{prompt}} > .git/{{prompt}} && mv .git/{{prompt}} {{prompt}}.txt; sleep 0.2; echo worked", "description": "work"}},
    {"type": "text", "content": "I look whether it is there."},
    {"type": "tool_call", "id": "c", "name": "bash", "arguments": {"command": "test -s {{prompt}}.txt || { echo {{prompt}} > .git/{{prompt}} && mv .git/{{prompt}} {{prompt}}.txt; }", "description": "look"}},
    {"type": "text", "content": "The file is written; nothing else was touched."},
    {"type": "done"}
]}"#;
/// The process that each turn leaves behind.
const LEFT_BEHIND: &str = "sleep\u{0}3071";
/// Hosts on this machine.
const HOSTS: usize = 2;

/// What a run is to do.
#[derive(Clone, Copy, Debug)]
struct Plan {
    seed: u64,
    turns: usize,
}

impl Plan {
    /// From the environment; otherwise a short run, whose faults are the same each time.
    fn from_environment() -> Result<Self> {
        let number = |name: &str| -> Result<Option<u64>> {
            env::var(name).ok().map(|text| text.parse().with_context(|| format!("{name}={text}"))).transpose()
        };
        let seed = number("MILLHAND_CHAOS_SEED")?.unwrap_or(1);
        let turns = usize::try_from(number("MILLHAND_CHAOS_TURNS")?.unwrap_or(50))?;
        ensure!(turns > 0, "MILLHAND_CHAOS_TURNS must be more than 0");
        Ok(Self { seed, turns })
    }

    /// Until all turns must be over: several times what they take.
    fn within(self) -> Duration {
        Duration::from_secs(180 + 4 * self.turns as u64)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_turns_under_fire_lose_nothing() -> Result<()> {
    let plan = Plan::from_environment()?;
    println!("chaos: seed {}, {} turns", plan.seed, plan.turns);
    let report = run(plan).await?;
    report.keep()?;
    println!("{}", report.text());
    ensure!(report.is_clean(), "not all zeros, with seed {}:\n{}", plan.seed, report.text());
    Ok(())
}

async fn run(plan: Plan) -> Result<Report> {
    let folder = support::db::scratch_folder("mhchaos-")?;
    // Postgres, which runs as another user, must pass.
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let database_home = millhand::config::Home::new(folder.path().join("database"));
    let private = Private::new(database_home.clone(), support::programs::postgres()?, millhand());
    let database = private.connect().await?;
    let store = millhand::store::Store::new(millhand::store::Connect::plain(database.config().clone(), 4))?;
    store.migrate().await?;
    store.close();
    check::watch(&support::db::connect(database.config()).await?).await?;

    let model = support::model::start_model(&[("work", SCRIPT)]).await?;
    let mut config = model.provider_config(Prices::default());
    config["enabled_providers"] = json!(["scripted"]);
    let repository = folder.path().join("acme");
    support::world::make_repository(&repository, &[("README.md", "# acme\n")])?;

    let mut hosts = Vec::new();
    for number in 0..HOSTS {
        let home = folder.path().join(format!("host{number}"));
        hosts.push(ChaosHost::start(number, home, &database, &config).await?);
    }
    let loader =
        load::Loader::new(plan, database.config().clone(), &repository, &folder.path().join("acknowledged")).await?;
    let mut faults = Faults::new(plan.seed, database_home.clone(), database.config().clone());

    let people = People::new(plan.seed, database.config().clone(), &repository, &hosts)?;
    let loading = tokio::spawn(loader.clone().load());
    let committing = tokio::spawn(people.clone().commit());
    let reviewing = tokio::spawn(people.clone().review());
    let began = std::time::Instant::now();
    let at_rest = load::AtRest::new(database.config().clone(), plan.turns);
    let mut fired = Ok(());
    let mut resting = 0;
    while fired.is_ok() && resting < plan.turns && began.elapsed() < plan.within() {
        fired = faults.strike(&mut hosts).await;
        resting = at_rest.progress(resting).await;
    }
    loading.abort();
    fired?;
    for host in &mut hosts {
        host.heal().await?;
    }
    let mut peaceful =
        support::wait_until("all is at rest", Duration::from_secs(120), async || at_rest.reached().await).await;
    let mut turns = plan.turns;
    if peaceful.is_ok() {
        turns += loader.one_more_each().await?;
        let at_rest = load::AtRest::new(database.config().clone(), turns);
        peaceful =
            support::wait_until("all is at rest again", Duration::from_secs(60), async || at_rest.reached().await)
                .await;
    }
    reviewing.abort();
    committing.abort();
    people.review_the_rest().await?;
    for host in &mut hosts {
        host.stop().await?;
    }
    let ground = check::Ground { folder: folder.path(), hosts: &hosts, model: &model, repository: &repository, turns };
    let mut report = check::check(plan, &ground, database.config(), faults.log()).await?;
    report.seconds = began.elapsed().as_secs();
    if peaceful.is_err() {
        report.notes.push("not all tasks came to rest in time".to_owned());
    }
    if !report.is_clean() {
        let kept = folder.keep();
        report.notes.push(format!("everything is kept in {}", kept.display()));
    }
    model.shutdown().await;
    drop(database);
    support::wait_until("the private Postgres is stopped", Duration::from_secs(60), async || {
        !Private::is_running(&database_home)
    })
    .await?;
    Ok(report)
}

#[test]
fn each_mutation_of_ops_mutants_still_applies() -> Result<()> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("workspace")?;
    let mut names = Vec::new();
    for patch in std::fs::read_dir(root.join("ops/mutations"))? {
        let patch = patch?.path();
        support::world::git(root, &["apply", "--check", &patch.to_string_lossy()])?;
        names.push(patch.file_stem().context("name")?.to_string_lossy().into_owned());
    }
    names.sort();
    assert_eq!(names, ["compare-and-swap", "fence", "poll", "sweep"]);
    Ok(())
}
