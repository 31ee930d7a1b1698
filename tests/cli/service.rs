//! The worker as people handle it, with a private Postgres and the real agent: up, status, run, down, uninstall; and the demo.

use std::process::Stdio;

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};

use super::{Cli, Ran, WITHIN, finish};
use crate::support::{TestDb, opencode::find_opencode, wait_until};

/// The program without a database named, so that it runs its own.
async fn private(cli: &Cli, arguments: &[&str]) -> Result<Ran> {
    let mut command = cli.command(arguments);
    command
        .env_remove("DATABASE_URL")
        .env("MILLHAND_AGENT_OPENCODE_BINARY", find_opencode()?.path)
        .env("MILLHAND_POSTGRES_BINARIES", crate::support::programs::postgres()?.folder)
        .env("MILLHAND_API_LISTEN", "127.0.0.1:0")
        .env("MILLHAND_TIMINGS_DRAIN", "1s");
    finish(command).await
}

/// Postgres does not run as root, and must get at its data.
fn open_to_all(cli: &Cli) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(std::fs::set_permissions(cli.folder(), std::fs::Permissions::from_mode(0o755))?)
}

#[tokio::test]
async fn worker_goes_up_and_down_and_leaves_nothing() -> Result<()> {
    let cli = Cli::on(TestDb::empty().await?)?;
    open_to_all(&cli)?;
    let before = private(&cli, &["status"]).await?;
    assert!(before.text().contains("private, not running"), "{}", before.text());

    let up = private(&cli, &["up", "--detach"]).await?;
    assert_eq!(up.code, 0, "{}{}", up.text(), up.stderr);
    dashboard_opens(&cli, &up.text()).await?;
    let again = private(&cli, &["up", "--detach", "--json"]).await?;
    assert_eq!((again.code, &again.objects()[0]["already_running"]), (0, &true.into()), "{}", again.stderr);
    let status = private(&cli, &["status", "--json"]).await?.objects().remove(0);
    assert_eq!((status["workers"].as_array().map(Vec::len), &status["schema_is_current"]), (Some(1), &true.into()));
    let second = private(&cli, &["worker"]).await?;
    assert_eq!((second.code, second.stderr.contains("millhand down")), (1, true), "{}", second.stderr);
    let refused = private(&cli, &["uninstall", "--yes"]).await?;
    assert_eq!((refused.code, refused.stderr.contains("millhand down")), (2, true), "{}", refused.stderr);

    let down = private(&cli, &["down"]).await?;
    assert_eq!((down.code, down.text().contains("Stopped")), (0, true), "{}", down.stderr);
    assert!(private(&cli, &["down"]).await?.text().contains("No worker runs"));
    let asked = private(&cli, &["uninstall"]).await?;
    assert_eq!((asked.code, cli.home().exists()), (2, true), "it asks first");
    let removed = private(&cli, &["uninstall", "--yes"]).await?;
    assert_eq!((removed.code, cli.home().exists()), (0, false), "{}", removed.stderr);
    Ok(())
}

/// The link that `up` prints logs a browser in, once, and is nowhere else.
async fn dashboard_opens(cli: &Cli, said: &str) -> Result<()> {
    let link = said.split_whitespace().find(|word| word.contains("/login?code=")).context(said.to_owned())?;
    let (url, code) = link.split_once("/login?code=").context("a code")?;
    let status = private(cli, &["status"]).await?.text();
    assert!(status.contains(url) && !status.contains(code), "{status}");
    let browser = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build()?;
    let answer = browser.get(link).send().await?;
    assert_eq!(answer.status().as_u16(), 303);
    let cookie = answer.headers()["set-cookie"].to_str()?.split(';').next().context("cookie")?.to_owned();
    let me = browser.get(format!("{url}/api/me")).header("cookie", &cookie).send().await?;
    assert_eq!(me.json::<serde_json::Value>().await?["scopes"], serde_json::json!(["admin"]));
    assert_eq!(browser.get(link).send().await?.status().as_u16(), 401, "once");
    let log = std::fs::read_to_string(cli.home().join("private/logs/worker.log"))?;
    assert!(log.contains(url) && !log.contains(code) && !log.contains("login?code"), "{log}");
    Ok(())
}

#[tokio::test]
async fn a_port_in_use_takes_the_dashboard_and_not_the_worker() -> Result<()> {
    let cli = Cli::new().await?;
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let listen = taken.local_addr()?.to_string();
    let with = async |arguments: &[&str]| -> Result<Ran> {
        let mut command = cli.command(arguments);
        command.env("MILLHAND_AGENT_OPENCODE_BINARY", find_opencode()?.path).env("MILLHAND_API_LISTEN", &listen);
        finish(command).await
    };
    let up = with(&["up", "--detach"]).await?;
    assert_eq!(up.code, 0, "{}{}", up.text(), up.stderr);
    assert!(up.stderr.contains("no dashboard") && up.stderr.contains(&listen), "{}", up.stderr);
    let status = with(&["status", "--json"]).await?.objects().remove(0);
    assert_eq!((status["workers"].as_array().map(Vec::len), &status["api"]), (Some(1), &serde_json::Value::Null));
    let log = std::fs::read_to_string(cli.home().join("private/logs/worker.log"))?;
    assert!(log.contains("api.listen names another address"), "{log}");
    let alone = with(&["api"]).await?;
    assert_eq!((alone.code, alone.stderr.contains("--listen")), (2, true), "{}", alone.stderr);
    assert_eq!(with(&["down"]).await?.code, 0);
    Ok(())
}

#[tokio::test]
async fn a_worker_waits_for_a_database_that_comes_later() -> Result<()> {
    let cli = Cli::new().await?;
    // A port where nobody listens any more.
    let proxy = cli.db.proxy().await?;
    let (port, url) = (proxy.port(), cli.db.url_through(&proxy));
    drop(proxy);
    let log = cli.folder().join("log");
    let mut command = cli.command(&["worker"]);
    command
        .env("DATABASE_URL", &url)
        .env("MILLHAND_AGENT_OPENCODE_BINARY", find_opencode()?.path)
        .stderr(std::fs::File::create(&log)?);
    let mut worker = command.spawn()?;
    let said = || std::fs::read_to_string(&log).unwrap_or_default();
    wait_until("it says that it waits", WITHIN, async || said().contains("waiting for it")).await?;
    let _proxy = cli.db.proxy_on(port).await?;
    wait_until("it runs", WITHIN, async || said().contains("worker started")).await?;
    assert_eq!(said().matches("waiting for it").count(), 1, "said once: {}", said());
    let pid = worker.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)).context("its process id")?;
    kill_process(pid, Signal::TERM)?;
    assert_eq!(tokio::time::timeout(WITHIN, worker.wait()).await??.code(), Some(0), "{}", said());
    Ok(())
}

#[tokio::test]
async fn a_service_manager_is_told_of_the_start_of_life_and_of_the_end() -> Result<()> {
    let cli = Cli::new().await?;
    let socket = cli.folder().join("notify");
    let listener = tokio::net::UnixDatagram::bind(&socket)?;
    let next = async || {
        let mut told = [0; 512];
        let count = tokio::time::timeout(WITHIN, listener.recv(&mut told)).await??;
        anyhow::Ok(String::from_utf8_lossy(&told[..count]).into_owned())
    };
    let mut command = cli.command(&["worker"]);
    command
        .env("NOTIFY_SOCKET", &socket)
        .env("WATCHDOG_USEC", "300000")
        .env("MILLHAND_AGENT_OPENCODE_BINARY", find_opencode()?.path)
        .stderr(Stdio::null());
    let mut worker = command.spawn()?;
    while !next().await?.starts_with("READY=1\n") {}
    assert_eq!(next().await?, "WATCHDOG=1");
    let pid = worker.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)).context("its process id")?;
    kill_process(pid, Signal::TERM)?;
    while !next().await?.starts_with("STOPPING=1\n") {}
    assert_eq!(tokio::time::timeout(WITHIN, worker.wait()).await??.code(), Some(0));
    Ok(())
}

#[tokio::test]
async fn demo_shows_the_main_job_with_the_real_agent() -> Result<()> {
    let cli = Cli::on(TestDb::empty().await?)?;
    open_to_all(&cli)?;
    let demo = private(&cli, &["demo"]).await?;
    let text = demo.text();
    assert_eq!(demo.code, 0, "{text}{}", demo.stderr);
    for wanted in [
        "model of this demo is scripted",
        "t1 completed",
        "t2 completed",
        "t3 completed",
        "+++ b/greet",
        "scripted/greet-json",
    ] {
        assert!(text.contains(wanted), "{wanted:?} is missing in {text}");
    }
    // The commands that it ends with do what they say.
    let home = cli.home().join("demo");
    let home = home.to_str().context("UTF-8")?;
    let patch = private(&cli, &["--home", home, "diff", "--patch", "t2"]).await?.stdout;
    let repository = cli.home().join("demo-repository/greet");
    std::fs::write(cli.folder().join("patch"), patch)?;
    let apply =
        tokio::process::Command::new("git").args(["apply", "../../../patch"]).current_dir(&repository).output().await?;
    assert!(apply.status.success(), "{}", String::from_utf8_lossy(&apply.stderr));
    let tests = tokio::process::Command::new("sh").arg("test.sh").current_dir(&repository).output().await?;
    assert!(tests.status.success(), "{}", String::from_utf8_lossy(&tests.stdout));
    assert_eq!(private(&cli, &["uninstall", "--yes"]).await?.code, 0);
    assert!(!cli.home().exists());
    Ok(())
}

/// For its own user and, as far as the kernel asks us, for root too.
#[tokio::test]
async fn the_environment_of_a_worker_shows_no_secret() -> Result<()> {
    let cli = Cli::new().await?;
    let mut command = cli.command(&["worker"]);
    command.env("MILLHAND_AGENT_OPENCODE_BINARY", find_opencode()?.path).env("SOME_TOKEN", "canary-b41d");
    let mut worker = command.spawn()?;
    let pid = worker.id().context("its process id")?;
    crate::support::wait_until("the worker runs", super::WITHIN, async || {
        millhand::supervise::HostLock::holder(&cli.home().join("private")) == Some(pid)
    })
    .await?;
    let shown = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let shown = String::from_utf8_lossy(&shown);
    let url = cli.db.url();
    for secret in [url.as_str(), "canary-b41d"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    worker.kill().await?;
    Ok(())
}

#[tokio::test]
async fn missing_programs_are_named_by_up_and_doctor() -> Result<()> {
    let cli = Cli::new().await?;
    for (name, value, wanted) in [
        ("MILLHAND_AGENT_OPENCODE_BINARY", "/nonexistent/opencode", "/nonexistent/opencode"),
        ("PATH", "/nonexistent", "opencode not found"),
    ] {
        let mut up = cli.command(&["up", "--detach"]);
        let mut doctor = cli.command(&["doctor"]);
        let (up, doctor) = (finish_with(&mut up, name, value).await?, finish_with(&mut doctor, name, value).await?);
        assert_eq!((up.code, up.stderr.contains(wanted)), (2, true), "{}", up.stderr);
        assert_eq!((doctor.code, doctor.text().contains(wanted)), (1, true), "{}", doctor.text());
    }
    Ok(())
}

async fn finish_with(command: &mut tokio::process::Command, name: &str, value: &str) -> Result<Ran> {
    let output = tokio::time::timeout(super::WITHIN, command.env(name, value).output()).await??;
    Ok(Ran::of(output))
}
