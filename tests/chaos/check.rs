//! The zeros: what must not have happened, counted from outside.

use std::{collections::BTreeMap, fs, path::Path, time::SystemTime};

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use millhand::{scripted::ScriptedModel, supervise::find_family};
use tokio_postgres::{Client, Config};

use super::{
    LEFT_BEHIND, Plan,
    faults::{Kind, Struck},
    host::ChaosHost,
    report::Report,
    review,
};
use crate::support::db::connect;

/// Where the run happened.
pub(super) struct Ground<'a> {
    pub(super) folder: &'a Path,
    pub(super) hosts: &'a [ChaosHost],
    pub(super) model: &'a ScriptedModel,
    /// The user's.
    pub(super) repository: &'a Path,
    /// Prompts that were to be acknowledged.
    pub(super) turns: usize,
}

/// Where attempts are noted that are given another outcome than they had: each is over once, whoever comes late.
const ENDED_AGAIN: &str = "public.ended_again";

/// Lets the database note what would leave no trace otherwise.
pub(super) async fn watch(client: &Client) -> Result<()> {
    let sql = format!(
        "CREATE TABLE {ENDED_AGAIN} (attempt_id bigint, was text, became text); \
         CREATE FUNCTION public.note_ended_again() RETURNS trigger LANGUAGE plpgsql AS $$ \
         BEGIN INSERT INTO {ENDED_AGAIN} VALUES (OLD.id, OLD.outcome, NEW.outcome); RETURN NULL; END $$; \
         CREATE TRIGGER ended_again AFTER UPDATE ON millhand.attempts FOR EACH ROW \
         WHEN (OLD.ended_at IS NOT NULL AND (OLD.outcome, OLD.ended_at) IS DISTINCT FROM (NEW.outcome, NEW.ended_at)) \
         EXECUTE FUNCTION public.note_ended_again()"
    );
    client.batch_execute(&sql).await.context("watch the attempts")
}

/// Counts everything. All workers have stopped.
pub(super) async fn check(plan: Plan, ground: &Ground<'_>, database: &Config, struck: &[Struck]) -> Result<Report> {
    let client = connect(database).await?;
    let acknowledged = fs::read_to_string(ground.folder.join("acknowledged"))?;
    let mut report = Report::new(plan.seed, ground.turns);
    for fault in struck {
        *report.faults.entry(fault.what.name().to_owned()).or_default() += 1;
    }
    lost_and_doubled(&client, &acknowledged, &mut report).await?;
    trees(&client, &acknowledged, ground, &mut report).await?;
    let prompts: Vec<&str> = acknowledged.lines().filter_map(|line| line.split(' ').nth(2)).collect();
    review::check(&client, ground, &prompts, &mut report).await?;
    leftovers(&client, ground, &mut report).await?;
    report.recovery = recovery(&client, ground, struck).await?;
    let (recorded, steps): (i64, i64) = {
        let row = client
            .query_one(
                "SELECT coalesce(sum(input_tokens + output_tokens + reasoning_tokens + cache_read_tokens), 0)::bigint, count(*) \
                 FROM millhand.usage",
                &[],
            )
            .await?;
        (row.get(0), row.get(1))
    };
    report.tokens_billed = ground.model.billed().total();
    report.tokens_recorded = u64::try_from(recorded)?;
    report.steps_recorded = u64::try_from(steps)?;
    if report.tokens_recorded > report.tokens_billed {
        report.zeros.insert("tokens recorded that nobody billed", report.tokens_recorded - report.tokens_billed);
    }
    Ok(report)
}

async fn count(client: &Client, sql: &str) -> Result<u64> {
    let count: i64 = client.query_one(sql, &[]).await.with_context(|| sql.to_owned())?.get(0);
    Ok(u64::try_from(count)?)
}

async fn lost_and_doubled(client: &Client, acknowledged: &str, report: &mut Report) -> Result<()> {
    let mut lost = 0;
    let mut unfinished = 0;
    for line in acknowledged.lines() {
        let id: i64 = line.split(' ').next().context("a task")?.parse()?;
        let row = client.query_opt("SELECT state, error_message FROM millhand.tasks WHERE id = $1", &[&id]).await?;
        match row.map(|row| (row.get::<_, String>(0), row.get::<_, Option<String>>(1))) {
            None => lost += 1,
            Some((state, _)) if state == "completed" => {}
            Some((state, error)) => {
                unfinished += 1;
                report.notes.push(format!("t{id} is {state}: {}", error.unwrap_or_default()));
            }
        }
    }
    let zeros = &mut report.zeros;
    zeros.insert("acknowledged tasks lost", lost);
    zeros.insert("tasks that did not complete", unfinished);
    zeros.insert("turns not acknowledged", (report.turns as u64).saturating_sub(acknowledged.lines().count() as u64));
    let doubled = "SELECT count(*) FROM (SELECT 1 FROM millhand.attempts WHERE outcome = 'completed' \
                   GROUP BY task_id HAVING count(*) > 1) AS doubled";
    zeros.insert("results recorded twice", count(client, doubled).await?);
    let open = "SELECT count(*) FROM (SELECT 1 FROM millhand.change_sets WHERE state = 'open' \
                GROUP BY session_id HAVING count(*) > 1) AS doubled";
    zeros.insert("sessions with two open change sets", count(client, open).await?);
    let sets = "SELECT count(*) FROM (SELECT 1 FROM millhand.change_sets WHERE state <> 'draft' \
                GROUP BY task_id HAVING count(*) > 1) AS doubled";
    zeros.insert("tasks with two change sets", count(client, sets).await?);
    let again = format!("SELECT count(*) FROM {ENDED_AGAIN}");
    zeros.insert("attempts that were over and ended again", count(client, &again).await?);
    zeros.insert("leases left", count(client, "SELECT count(*) FROM millhand.leases").await?);
    let unended = "SELECT count(*) FROM millhand.attempts WHERE ended_at IS NULL";
    zeros.insert("attempts without an end", count(client, unended).await?);
    let files = "SELECT count(*) FROM millhand.change_sets c WHERE c.state = 'open' AND c.files <> \
                 (SELECT count(*) FROM millhand.pending_changes p WHERE p.change_set_id = c.id AND p.state = 'pending')";
    zeros.insert("change sets without all their files", count(client, files).await?);
    report.attempts = count(client, "SELECT count(*) FROM millhand.attempts").await?;
    Ok(())
}

/// Each session's newest change set must be exactly the files of its prompts, and its commit must be there.
async fn trees(client: &Client, acknowledged: &str, ground: &Ground<'_>, report: &mut Report) -> Result<()> {
    let mut prompts: BTreeMap<i64, Vec<&str>> = BTreeMap::new();
    for line in acknowledged.lines() {
        let mut words = line.split(' ').skip(1);
        let session = words.next().context("a session")?.parse()?;
        prompts.entry(session).or_default().push(words.next().context("a prompt")?);
    }
    let scratch = git2::Repository::init_bare(ground.folder.join("expected.git"))?;
    let (mut altered, mut missing) = (0, 0);
    for (session, prompts) in prompts {
        let mut tree = scratch.treebuilder(None)?;
        tree.insert("README.md", scratch.blob(b"# acme\n")?, 0o100_644)?;
        for prompt in prompts {
            tree.insert(format!("{prompt}.txt"), scratch.blob(format!("{prompt}\n").as_bytes())?, 0o100_644)?;
        }
        let expected = tree.write()?.to_string();
        let newest = "SELECT c.tree_id, c.commit_id, s.home_host FROM millhand.change_sets c \
                      JOIN millhand.sessions s ON s.id = c.session_id \
                      WHERE c.session_id = $1 AND c.state IN ('open', 'applied') ORDER BY c.id DESC LIMIT 1";
        let Some(row) = client.query_opt(newest, &[&session]).await? else {
            altered += 1;
            report.notes.push(format!("s{session} has no change set"));
            continue;
        };
        let (found, commit, home): (String, String, Option<String>) = (row.get(0), row.get(1), row.get(2));
        if found != expected {
            altered += 1;
            report.notes.push(format!("s{session} has tree {found}, not {expected}"));
        }
        let home = ground.hosts.iter().find(|host| host.scope() == home);
        let kept = home.is_some_and(|host| {
            fs::read_dir(host.home().join("mirrors")).into_iter().flatten().flatten().any(|mirror| {
                let mirror = git2::Repository::open_bare(mirror.path());
                mirror.is_ok_and(|mirror| {
                    let id = git2::Oid::from_str(&commit);
                    id.and_then(|id| mirror.find_commit(id)?.tree()).is_ok_and(|tree| tree.id().to_string() == found)
                })
            })
        });
        if !kept {
            missing += 1;
            report.notes.push(format!("s{session}: the commit {commit} is not in its home's mirror"));
        }
    }
    report.zeros.insert("trees lost or altered", altered);
    report.zeros.insert("checkpoints missing", missing);
    Ok(())
}

/// Processes and worktrees that nobody owns.
async fn leftovers(client: &Client, ground: &Ground<'_>, report: &mut Report) -> Result<()> {
    let marked: usize = ground.hosts.iter().filter_map(ChaosHost::scope).map(|scope| find_family(&scope).len()).sum();
    report.zeros.insert("processes left with our mark", marked as u64);
    report.zeros.insert("agents' processes left", left_behind(ground.folder));
    let mut unknown = 0;
    for host in ground.hosts {
        let scope = host.scope().unwrap_or_default();
        for project in fs::read_dir(host.home().join("agents")).into_iter().flatten().flatten() {
            for worktree in fs::read_dir(project.path().join("worktrees")).into_iter().flatten().flatten() {
                let path = worktree.path().to_string_lossy().into_owned();
                let row = "SELECT 1 FROM millhand.worktrees WHERE host_id = $1 AND path = $2";
                if client.query_opt(row, &[&scope, &path]).await?.is_none() {
                    unknown += 1;
                    report.notes.push(format!("nobody knows the worktree {path}"));
                }
            }
        }
    }
    report.worktrees_unknown = unknown;
    Ok(())
}

/// Commands of the agents that still run, marked or not.
fn left_behind(folder: &Path) -> u64 {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let left = processes.filter(|process| {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let place = fs::read_link(process.path().join("cwd")).unwrap_or_default();
        line.starts_with(LEFT_BEHIND.as_bytes()) && place.starts_with(folder)
    });
    left.count() as u64
}

/// From each kill of a worker to each of its turns running again, in milliseconds.
async fn recovery(client: &Client, ground: &Ground<'_>, struck: &[Struck]) -> Result<Vec<u64>> {
    let lost = "SELECT a.host_id, a.started_at, n.started_at FROM millhand.attempts a \
                JOIN millhand.attempts n ON n.task_id = a.task_id AND n.number = a.number + 1 WHERE a.outcome = 'lost'";
    let mut found = Vec::new();
    for row in client.query(lost, &[]).await? {
        let (scope, from, to): (String, DateTime<Utc>, DateTime<Utc>) = (row.get(0), row.get(1), row.get(2));
        let (from, to) = (SystemTime::from(from), SystemTime::from(to));
        let Some(host) = ground.hosts.iter().find(|host| host.scope().as_deref() == Some(&scope)) else { continue };
        let kills = struck.iter().filter(|fault| fault.what == Kind::WorkerKilled && fault.host == host.name);
        let kill = kills.map(|fault| fault.at).filter(|at| *at >= from && *at <= to).max();
        if let Some(passed) = kill.and_then(|kill| to.duration_since(kill).ok()) {
            found.push(u64::try_from(passed.as_millis())?);
        }
    }
    found.sort_unstable();
    Ok(found)
}
