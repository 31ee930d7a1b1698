//! Tests of: the private Postgres, on each of the Postgres versions at hand.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        process::CommandExt,
    },
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use millhand::{
    config::Home,
    postgres::{Private, PrivateError, Running},
    tools::PostgresBinaries,
};
use secrecy::ExposeSecret;
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

use crate::support::{
    db::{connect, scratch_folder, server_user},
    millhand,
    programs::postgres_versions,
    wait_until,
};

/// Long enough for a busy machine; nothing here waits for it to pass.
const LONG: Duration = Duration::from_secs(60);
/// How long a cluster goes on after its last user in these tests.
const LINGER: Duration = Duration::from_millis(200);

/// A home in a temporary folder, whose Postgres is stopped at the end.
struct TestHome {
    folder: TempDir,
    home: Home,
}

impl TestHome {
    fn new() -> Result<Self> {
        let folder = scratch_folder("home-")?;
        // Another user, who Postgres runs as, must pass.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let home = Home::new(folder.path().join("home"));
        Ok(Self { folder, home })
    }

    fn private(&self, binaries: &PostgresBinaries) -> Private {
        Private::new(self.home.clone(), binaries.clone(), millhand()).with_linger(LINGER)
    }

    fn postmaster(&self) -> Result<u32> {
        let file = fs::read_to_string(self.home.postgres().join("data/postmaster.pid"))?;
        Ok(file.lines().next().context("pid")?.trim().parse()?)
    }

    async fn stopped(&self) -> Result<()> {
        wait_until("the cluster is stopped", LONG, async || !Private::is_running(&self.home)).await?;
        ensure!(!self.home.postgres().join("data/postmaster.pid").exists(), "it was stopped cleanly");
        Ok(())
    }

    /// The keeper: who holds its lock.
    fn keeper(&self) -> Result<u32> {
        let inode = fs::metadata(self.home.postgres_private().join("pg.keeper"))?.ino().to_string();
        let locks = fs::read_to_string("/proc/locks")?;
        let line = locks.lines().find(|line| line.contains("WRITE") && line.contains(&format!(":{inode} ")));
        Ok(line.and_then(|line| line.split_whitespace().nth(4)).context("no keeper")?.parse()?)
    }
}

impl Drop for TestHome {
    fn drop(&mut self) {
        // A failed test may leave a running one behind.
        for _ in 0..500 {
            if !Private::is_running(&self.home) {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

async fn open(running: &Running) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(running.url().expose_secret(), NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

fn kill(pid: u32) -> Result<()> {
    ensure!(Command::new("kill").args(["-KILL", &pid.to_string()]).status()?.success(), "kill {pid}");
    Ok(())
}

async fn count(running: &Running) -> Result<i64> {
    Ok(open(running).await?.query_one("SELECT count(*) FROM kept", &[]).await?.get(0))
}

async fn write_one(running: &Running) -> Result<()> {
    open(running).await?.batch_execute("CREATE TABLE IF NOT EXISTS kept (n int); INSERT INTO kept VALUES (1)").await?;
    Ok(())
}

#[tokio::test]
async fn it_is_made_used_stopped_and_used_again() -> Result<()> {
    for binaries in postgres_versions()? {
        let home = TestHome::new()?;
        let running = home.private(&binaries).connect().await?;
        write_one(&running).await?;
        let client = open(&running).await?;
        let shown = async |setting: &str| -> Result<String> {
            Ok(client.query_one(&format!("SHOW {setting}"), &[]).await?.get(0))
        };
        assert_eq!(shown("listen_addresses").await?, "");
        assert_eq!(shown("fsync").await?, "on");
        assert_eq!(shown("synchronous_commit").await?, "on");
        assert_eq!(shown("password_encryption").await?, "scram-sha-256");
        assert_eq!(shown("server_encoding").await?, "UTF8");
        assert!(shown("server_version").await?.starts_with(&binaries.version.major.to_string()));
        drop(client);
        drop(running);
        home.stopped().await?;
        let again = home.private(&binaries).connect().await?;
        assert_eq!(count(&again).await?, 1);
        drop(again);
        home.stopped().await?;
    }
    Ok(())
}

#[tokio::test]
async fn without_the_password_nobody_gets_in() -> Result<()> {
    let home = TestHome::new()?;
    let running = home.private(&postgres_versions()?[0]).connect().await?;
    let mut config = running.config().clone();
    config.password("guess");
    assert!(connect(&config).await.is_err());
    let mut without = tokio_postgres::Config::new();
    without.host_path(home.home.postgres().join("run")).user("millhand").dbname("millhand");
    assert!(connect(&without).await.is_err());
    let password = home.home.postgres_private().join("password");
    assert_eq!(fs::metadata(&password)?.mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(home.home.postgres())?.mode() & 0o777, 0o700);
    let secret = fs::read_to_string(password)?;
    let keeper = fs::read(format!("/proc/{}/cmdline", home.keeper()?))?;
    assert!(!String::from_utf8_lossy(&keeper).contains(&secret));
    Ok(())
}

#[tokio::test]
async fn many_starting_at_once_share_one_cluster() -> Result<()> {
    for binaries in postgres_versions()? {
        let home = TestHome::new()?;
        let starts = (0..8).map(|_| {
            let private = home.private(&binaries);
            tokio::spawn(async move { private.connect().await })
        });
        let mut running = Vec::new();
        for start in starts.collect::<Vec<_>>() {
            running.push(start.await??);
        }
        for one in &running {
            write_one(one).await.or_else(|error| {
                // Two may make the table at the same moment; the row is what counts.
                if error.to_string().contains("db error") { Ok(()) } else { Err(error) }
            })?;
        }
        let postmaster = home.postmaster()?;
        running.truncate(1);
        tokio::time::sleep(LINGER * 5).await;
        assert_eq!(home.postmaster()?, postmaster, "it goes on while one user is left");
        drop(running);
        home.stopped().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_killed_postgres_is_started_again_with_all_that_was_committed() -> Result<()> {
    for binaries in postgres_versions()? {
        let home = TestHome::new()?;
        let running = home.private(&binaries).connect().await?;
        write_one(&running).await?;
        let before = home.postmaster()?;
        kill(before)?;
        wait_until("it is back for its users", LONG, async || count(&running).await.is_ok_and(|count| count == 1))
            .await?;
        assert_ne!(home.postmaster()?, before);
        kill(home.postmaster()?)?;
        let second = home.private(&binaries).connect().await?;
        assert_eq!(count(&second).await?, 1);
        drop((running, second));
        home.stopped().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_killed_keeper_is_replaced_and_postgres_goes_on() -> Result<()> {
    for binaries in postgres_versions()? {
        let home = TestHome::new()?;
        let running = home.private(&binaries).connect().await?;
        write_one(&running).await?;
        let (postmaster, keeper) = (home.postmaster()?, home.keeper()?);
        kill(keeper)?;
        wait_until("the keeper is gone", LONG, async || !Private::is_running(&home.home)).await?;
        assert_eq!(count(&running).await?, 1, "Postgres goes on");
        let second = home.private(&binaries).connect().await?;
        assert_eq!(home.postmaster()?, postmaster, "the same server");
        assert_ne!(home.keeper()?, keeper);
        drop((running, second));
        home.stopped().await?;
        // Both killed.
        let third = home.private(&binaries).connect().await?;
        kill(home.keeper()?)?;
        kill(home.postmaster()?)?;
        drop(third);
        let fourth = home.private(&binaries).connect().await?;
        assert_eq!(count(&fourth).await?, 1);
        drop(fourth);
        home.stopped().await?;
    }
    Ok(())
}

#[tokio::test]
async fn while_it_is_used_a_killed_keeper_and_postgres_both_come_back() -> Result<()> {
    for binaries in postgres_versions()? {
        let home = TestHome::new()?;
        let running = home.private(&binaries).connect().await?;
        write_one(&running).await?;
        kill(home.keeper()?)?;
        kill(home.postmaster()?)?;
        wait_until("both are back", LONG, async || count(&running).await.is_ok_and(|count| count == 1)).await?;
        wait_until("a keeper minds it", LONG, async || Private::is_running(&home.home)).await?;
        drop(running);
        home.stopped().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_keeper_whose_home_was_removed_ends_when_nobody_uses_it_any_more() -> Result<()> {
    let binaries = postgres_versions()?.into_iter().next().context("a Postgres")?;
    let home = TestHome::new()?;
    // With the usual time to linger, which is longer than any pause between tries to start Postgres again.
    let running = Private::new(home.home.clone(), binaries, millhand()).connect().await?;
    let (keeper, postmaster) = (home.keeper()?, home.postmaster()?);
    fs::remove_dir_all(home.home.root())?;
    kill(postmaster)?;
    drop(running);
    // It may be our child, which nobody has collected.
    let line = format!("/proc/{keeper}/cmdline");
    wait_until("the keeper is gone", LONG, async || fs::read(&line).map_or(true, |line| line.is_empty())).await
}

/// Starts a keeper from a shell, as a process would that is then killed.
fn start_keeper(home: &TestHome, binaries: &PostgresBinaries) -> Result<std::process::Child> {
    fs::create_dir_all(home.home.root())?;
    let order = serde_json::json!({"home": home.home.root(), "binaries": binaries.folder, "linger_ms": 2000});
    let file = home.folder.path().join("order");
    fs::write(&file, format!("{order}\n"))?;
    let script = r#""$0" postgres-shim <"$1"; exit 1"#;
    let mut starter = Command::new("/bin/sh");
    starter.args(["-c", script]).arg(millhand()).arg(file).stdout(Stdio::null());
    Ok(starter.process_group(0).spawn()?)
}

#[tokio::test]
async fn the_cluster_goes_on_when_its_starter_is_killed() -> Result<()> {
    let home = TestHome::new()?;
    let binaries = &postgres_versions()?[0];
    let mut starter = start_keeper(&home, binaries)?;
    wait_until("it runs", LONG, async || home.postmaster().is_ok()).await?;
    // The whole group, as when a terminal is closed for good.
    ensure!(Command::new("kill").args(["-KILL", "--", &format!("-{}", starter.id())]).status()?.success());
    starter.wait()?;
    let postmaster = home.postmaster()?;
    let running = home.private(binaries).connect().await?;
    write_one(&running).await?;
    assert_eq!(home.postmaster()?, postmaster);
    drop(running);
    home.stopped().await
}

#[tokio::test]
async fn keepers_killed_at_any_moment_of_the_first_start_do_no_harm() -> Result<()> {
    let home = TestHome::new()?;
    let binaries = &postgres_versions()?[0];
    for step in 1..12 {
        let mut starter = start_keeper(&home, binaries)?;
        wait_until("there is a keeper", LONG, async || home.keeper().is_ok()).await?;
        tokio::time::sleep(Duration::from_millis(step * 150)).await;
        if let Ok(keeper) = home.keeper() {
            kill(keeper)?;
        }
        starter.wait()?;
    }
    let running = home.private(binaries).connect().await?;
    write_one(&running).await?;
    drop(running);
    home.stopped().await?;
    drop(home.private(binaries).connect().await?);
    home.stopped().await?;
    let left = fs::read_dir(home.home.postgres())?
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with("data.new"));
    assert_eq!(left.count(), 0);
    Ok(())
}

/// A process of the server's user, whose id a dead Postgres's file may name.
fn stranger() -> Result<std::process::Child> {
    let mut command = Command::new("sleep");
    command.arg("1000").current_dir("/").stdin(Stdio::null());
    if let Some((uid, gid)) = server_user()? {
        command.uid(uid).gid(gid);
    }
    Ok(command.spawn()?)
}

#[tokio::test]
async fn a_process_id_that_is_another_programs_by_now_does_not_stop_it() -> Result<()> {
    for binaries in postgres_versions()? {
        let home = TestHome::new()?;
        let running = home.private(&binaries).connect().await?;
        write_one(&running).await?;
        kill(home.keeper()?)?;
        let old = home.postmaster()?;
        kill(old)?;
        drop(running);
        let mut stranger = stranger()?;
        let file = home.home.postgres().join("data/postmaster.pid");
        let text = fs::read_to_string(&file)?.replacen(&old.to_string(), &stranger.id().to_string(), 1);
        fs::write(&file, text)?;
        let again = home.private(&binaries).connect().await;
        let alive = stranger.try_wait()?.is_none();
        stranger.kill()?;
        stranger.wait()?;
        assert_eq!(count(&again?).await?, 1);
        assert!(alive, "the stranger was left alone");
        home.stopped().await?;
    }
    Ok(())
}

#[tokio::test]
async fn half_made_data_is_thrown_away() -> Result<()> {
    let home = TestHome::new()?;
    let binaries = &postgres_versions()?[0];
    drop(home.private(binaries).connect().await?);
    home.stopped().await?;
    // As after a kill in the middle of initdb.
    let unfinished = home.home.postgres().join("data.new-0");
    fs::rename(home.home.postgres().join("data"), &unfinished)?;
    fs::remove_file(unfinished.join("PG_VERSION"))?;
    let running = home.private(binaries).connect().await?;
    write_one(&running).await?;
    assert!(!unfinished.exists());
    Ok(())
}

#[tokio::test]
async fn another_major_version_never_runs_on_the_data() -> Result<()> {
    let versions = postgres_versions()?;
    let newest = versions.iter().max_by_key(|binaries| binaries.version).context("none")?;
    let home = TestHome::new()?;
    drop(home.private(newest).connect().await?);
    home.stopped().await?;
    let other = PostgresBinaries {
        folder: "/nowhere".into(),
        version: millhand::tools::Version::new(newest.version.major + 1, 0, 0),
        ..newest.clone()
    };
    // The binaries that it was made with are still there: those are used.
    drop(home.private(&other).connect().await?);
    home.stopped().await?;
    // They are gone.
    fs::remove_file(home.home.postgres_private().join("cluster.json"))?;
    let error = home.private(&other).connect().await.err().context("started")?;
    assert!(matches!(error, PrivateError::OtherMajor { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(&format!("PostgreSQL {}", newest.version.major)) && text.contains("pg_dump"), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_deep_home_has_its_socket_elsewhere() -> Result<()> {
    let outer = TestHome::new()?;
    let deep = outer.folder.path().join("a long name of a folder, with spaces/".repeat(4));
    let home = TestHome { folder: scratch_folder("unused-")?, home: Home::new(&deep) };
    let running = home.private(&postgres_versions()?[0]).connect().await?;
    write_one(&running).await?;
    let socket = open(&running).await?.query_one("SHOW unix_socket_directories", &[]).await?.get::<_, String>(0);
    assert!(socket.starts_with("/tmp/millhand-"), "{socket}");
    assert_eq!(fs::metadata(&socket)?.mode() & 0o777, 0o700);
    assert_eq!(Private::folder_outside(&home.home).as_deref(), Some(Path::new(&socket)), "uninstall finds it");
    drop(running);
    home.stopped().await?;
    fs::remove_dir_all(socket)?;
    Ok(())
}

#[tokio::test]
async fn as_root_a_home_that_the_servers_user_cannot_enter_is_refused() -> Result<()> {
    if server_user()?.is_none() {
        crate::support::not_run!(
            "the private Postgres of root, in a home that its user cannot enter: this is not root"
        );
        return Ok(());
    }
    let folder = scratch_folder("closed-")?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700))?;
    let home = Home::new(folder.path().join("home"));
    let error =
        Private::new(home, postgres_versions()?[0].clone(), millhand()).connect().await.err().context("started")?;
    let PrivateError::Unreachable { folder: closed, .. } = &error else { anyhow::bail!("{error}") };
    assert_eq!(closed, &folder.path().canonicalize()?);
    assert!(error.to_string().contains("/var/lib/millhand"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_postgres_that_cannot_start_says_why() -> Result<()> {
    let home = TestHome::new()?;
    let binaries = &postgres_versions()?[0];
    drop(home.private(binaries).connect().await?);
    home.stopped().await?;
    let settings = home.home.postgres().join("data/postgresql.conf");
    fs::write(&settings, "no_such_setting = 1\n")?;
    let error = home.private(binaries).connect().await.err().context("started")?;
    assert!(error.to_string().contains("no_such_setting"), "{error}");
    Ok(())
}
