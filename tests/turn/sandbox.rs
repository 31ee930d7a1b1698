//! What an agent can reach, tried by the real opencode's bash tool.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::support::world::{World, stop};

/// A turn that runs one command.
fn runs(command: &str) -> String {
    json!([
        {"type": "tool_call", "id": "c1", "name": "bash", "arguments": {"command": command, "description": "Try"}},
        {"type": "text", "content": "tried"},
        {"type": "done"},
    ])
    .to_string()
}

/// A script that names those tries that succeed.
fn tries(tries: &[(&str, String)]) -> String {
    let tries =
        tries.iter().map(|(name, script)| format!("if ( {script} ) >/dev/null 2>&1; then echo \"+ {name}\"; fi"));
    tries.collect::<Vec<_>>().join("\n")
}

/// What the bash tool of the last attempt printed, its lines with a plus.
async fn succeeded(world: &World, task: i64) -> Result<Vec<String>> {
    let output: String = world
        .one(&format!(
            "SELECT e.data->'call'->>'output' FROM millhand.turn_events e JOIN millhand.attempts a ON a.id = e.attempt_id \
             WHERE a.task_id = {task} AND e.kind = 'tool' AND e.data->'call'->>'status' = 'completed' ORDER BY e.seq DESC"
        ))
        .await?;
    Ok(output.lines().filter_map(|line| line.strip_prefix("+ ")).map(str::to_owned).collect())
}

fn put(path: &Path, content: &str) -> Result<()> {
    fs::create_dir_all(path.parent().context("parent")?)?;
    Ok(fs::write(path, content)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_works_in_its_own_folder_and_reaches_nothing_of_ours() -> Result<()> {
    // The script is known once the folders are.
    let world = World::new(&[("tries", &runs("sh \"$PWD/tries\""))]).await?;
    let root = world.path().canonicalize()?;
    let (home, user) = (root.join("home"), root.join("user"));
    let auth = user.join(".local/share/opencode/auth.json");
    put(&auth, "{}")?;
    for secret in [".ssh/id_ed25519", ".gitconfig", "notes", ".aws/credentials"] {
        put(&user.join(secret), "secret")?;
    }
    put(&home.join("private/secret"), "secret")?;
    put(&home.join("agents/99/worktrees/s99/file"), "secret")?;
    put(&home.join("mirrors/99.git/objects/x"), "secret")?;
    let (home, user) = (home.display(), user.display());
    let us = std::process::id();
    let script = tries(&[
        ("write the worktree", "echo x >made".to_owned()),
        ("git", "git log --oneline && git add -A && git commit -qm mine && git gc -q".to_owned()),
        ("node", r#"node -e 'require("fs").writeFileSync(process.env.TMPDIR + "/x", "x")'"#.to_owned()),
        ("write tmp", "mktemp".to_owned()),
        ("cargo's folder", "mkdir -p $CARGO_HOME && echo x >$CARGO_HOME/x".to_owned()),
        ("logins", format!("cat {} && echo '{{}}' >{}", auth.display(), auth.display())),
        ("ssh", format!("cat {user}/.ssh/id_ed25519")),
        ("aws", format!("cat {user}/.aws/credentials")),
        ("notes", format!("cat {user}/notes")),
        ("list the user's home", format!("ls {user}")),
        ("write the user's home", format!("echo x >{user}/x")),
        ("private", format!("cat {home}/private/secret")),
        ("list private", format!("ls {home}/private")),
        ("write private", format!("echo x >{home}/private/x")),
        ("make private", format!("mkdir {home}/private/x")),
        ("mirror's objects", format!("ls {home}/mirrors/1.git/objects/pack || ls {home}/mirrors/1.git/objects")),
        ("mirror's config", format!("cat {home}/mirrors/1.git/config")),
        ("write the mirror", format!("echo x >{home}/mirrors/1.git/objects/x")),
        ("other mirror", format!("cat {home}/mirrors/99.git/objects/x")),
        ("other project", format!("cat {home}/agents/99/worktrees/s99/file")),
        ("repository", format!("cat {}/README.md", world.repository().display())),
        ("signal", format!("kill -CONT {us}")),
        ("environ", format!("cat /proc/{us}/environ")),
        ("kill all", "kill -CONT -1".to_owned()),
    ]);
    put(&world.repository().join("tries"), &script)?;
    crate::support::world::git(&world.repository(), &["add", "-A"])?;
    crate::support::world::git(&world.repository(), &["commit", "-qm", "tries"])?;

    let host = world.start().await?;
    let task = world.queue("x").await?;
    ensure!(world.settled(task).await? == "completed", "{:?}", world.verdict(task).await?);
    let expected = [
        "write the worktree",
        "git",
        "node",
        "write tmp",
        "cargo's folder",
        "logins",
        "mirror's objects",
        // It signals its own family, and nobody else.
        "kill all",
    ];
    assert_eq!(succeeded(&world, task).await?, expected);
    stop(host).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn links_that_an_agent_planted_are_not_followed_when_its_server_starts_again() -> Result<()> {
    let plant = "cd \"$XDG_DATA_HOME\"/.. && rm -rf data config && ln -s \"$HOME/.local/share\" data && ln -s \"$HOME/x\" config";
    let world = World::new(&[("plants", &runs(plant))]).await?;
    let user = world.path().join("user");
    let auth = user.join(".local/share/opencode/auth.json");
    put(&auth, r#"{"kept": {}}"#)?;
    put(&user.join("x/opencode/config.json"), "kept")?;
    let host = world.start().await?;
    // Its server loses its own database under itself: how the turn ends is not the point.
    let task = world.queue("x").await?;
    world.settled(task).await?;
    stop(host).await;
    ensure!(world.path().join("home/agents/1/opencode/data").is_symlink(), "planted");

    let host = world.start().await?;
    let again = world.queue("x").await?;
    world.settled(again).await?;
    stop(host).await;
    assert!(auth.symlink_metadata()?.is_file(), "the user's logins are what they were");
    assert_eq!(fs::read_to_string(&auth)?, r#"{"kept": {}}"#);
    assert_eq!(fs::read_to_string(user.join("x/opencode/config.json"))?, "kept");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_sandbox_an_agent_reaches_what_its_user_does() -> Result<()> {
    let mut world = World::new(&[("tries", &runs(&tries(&[("home", "ls ~ && echo x >~/x".to_owned())])))]).await?;
    world.settings.sandbox.mode = millhand::config::SandboxMode::Off;
    let host = world.start().await?;
    let task = world.queue("x").await?;
    ensure!(world.settled(task).await? == "completed", "{:?}", world.verdict(task).await?);
    assert_eq!(succeeded(&world, task).await?, ["home"]);
    stop(host).await;
    Ok(())
}

/// A user of every machine, without rights or a home.
const NOBODY: &str = "nobody";

/// Who owns what is in a folder, by user id, links not followed.
fn owners(folder: &Path) -> Result<std::collections::BTreeSet<u32>> {
    use std::os::unix::fs::MetadataExt as _;
    let mut owners = std::collections::BTreeSet::from([fs::symlink_metadata(folder)?.uid()]);
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        owners.insert(entry.metadata()?.uid());
        if entry.file_type()?.is_dir() {
            owners.extend(self::owners(&entry.path())?);
        }
    }
    Ok(owners)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_root_runs_agents_as_the_user_that_is_named() -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    if !rustix::process::geteuid().is_root() {
        crate::support::not_run!("agents of another user: it takes root");
        return Ok(());
    }
    let nobody = millhand::supervise::AgentUser::find(NOBODY)?.run_as.uid;
    // It works on files that root checked out, with git in a repository that root made, and leaves a file that only it may read.
    let work = "id -un && echo more >>README.md && rm src/main.sh && mkdir new && echo x >new/x && chmod 600 new/x && chmod 700 new \
                && git add -A && git commit -qm mine && git status --porcelain && mktemp >/dev/null && mkdir -p $CARGO_HOME \
                && ! mv ../s1 ../gone && ! touch ../../x && echo + $(id -un) || echo + failed";
    let more = "cat new/x && echo again >new/x && echo more >>README.md && echo + $(id -un) || echo + failed";
    let scripts = [("work", &*runs("sh ./work")), ("more", &*runs("sh ./more"))];
    let files = [("README.md", "# acme\n"), ("src/main.sh", "echo acme\n"), ("work", work), ("more", more)];
    let mut world = World::with_files(&scripts, &files).await?;
    fs::set_permissions(world.path(), fs::Permissions::from_mode(0o755))?;
    let reaches = |path: &Path| {
        path.ancestors().all(|folder| fs::metadata(folder).is_ok_and(|m| m.permissions().mode() & 1 != 0))
    };
    let binary = world.settings.opencode.binary.clone().context("opencode")?;
    if !reaches(world.path()) || !reaches(&binary) {
        crate::support::not_run!(
            "agents of another user: {} or {} is closed to others",
            world.path().display(),
            binary.display()
        );
        return Ok(());
    }
    let root = world.settings.home.root().to_owned();
    let worktree = root.join("agents/1/worktrees/s1");

    for (user, uid) in [(Some(NOBODY), nobody), (None, 0)] {
        // And back again: what the user left is root's then.
        world.settings.sandbox.user = user.map(str::to_owned);
        let host = world.start().await?;
        let (session, script): (Option<i64>, _) = if user.is_some() { (None, "work") } else { (Some(1), "more") };
        let row = world
            .one::<i64>(&format!(
                "INSERT INTO millhand.tasks (project, session_id, prompt, model) VALUES ({}, {}, 'x', 'scripted/{script}') RETURNING id",
                if session.is_none() { "'acme'" } else { "NULL" },
                session.map_or("NULL".to_owned(), |session| session.to_string()),
            ))
            .await?;
        ensure!(world.settled(row).await? == "completed", "{:?}", world.verdict(row).await?);
        let told = "SELECT e.data::text FROM millhand.turn_events e ORDER BY e.attempt_id, e.seq";
        let told: Vec<String> = world.sql(told).await?.iter().map(|row| row.get(0)).collect();
        let said = succeeded(&world, row).await.with_context(|| told.join("\n"))?;
        assert_eq!(said, [user.unwrap_or("root")], "{}", told.join("\n"));
        assert_eq!(owners(&worktree)?, [uid].into(), "{user:?}");
        assert_eq!(owners(&root.join("agents/1/opencode"))?, [uid].into(), "{user:?}");
        let patch = String::from_utf8_lossy(&world.patch(row).await?).into_owned();
        assert!(patch.contains("+more") && patch.contains("new/x") && patch.contains("src/main.sh"), "{patch}");
        stop(host).await;
    }
    // What was found out on the way is not to be trusted to a user that is not there, or is root.
    for (name, why) in [("nobody-at-all", "no user"), ("root", "is root")] {
        world.settings.sandbox.user = Some(name.to_owned());
        let error = format!("{:#}", world.start().await.err().context("refused")?);
        assert!(error.contains(why) && error.contains("sandbox.user"), "{error}");
    }
    Ok(())
}
