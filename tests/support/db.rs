//! Databases for tests: one cluster per run, one migrated template in it, a database of its own for each test.
//!
//! The cluster belongs to a small shell that waits for the test process to end, however it ends (a SIGKILL too): then it
//! stops Postgres and removes the folder. So nothing is left behind, and no test has to clean up.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::{
        fs::{MetadataExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{ChildStdin, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use millhand::{
    store::{Connect, Store},
    tools::PostgresBinaries,
};
use tempfile::TempDir;
use tokio_postgres::{Client, Config, NoTls};

use super::proxy::{TcpProxy, Upstream};

/// The database that tests' databases are copies of.
const TEMPLATE: &str = "millhand_template";
/// The superuser of the cluster, who needs no password.
pub const USER: &str = "postgres";
/// Longest that the cluster may take to start.
const START_WITHIN: Duration = Duration::from_secs(60);

/// Runs Postgres until stdin ends, then stops it and removes its folder. `$0` is the folder.
const KEEPER: &str = r#"
    "$@" </dev/null &
    postgres=$!
    echo started
    cat >/dev/null
    kill -QUIT $postgres 2>/dev/null
    wait $postgres
    rm -rf "$0"
"#;

/// A running cluster.
pub struct Cluster {
    folder: PathBuf,
    /// Held open: its end tells the keeper that this process is gone.
    _alive: ChildStdin,
}

impl Cluster {
    /// The cluster of this run, started on first use.
    fn shared() -> &'static Self {
        static CLUSTER: OnceLock<Cluster> = OnceLock::new();
        CLUSTER.get_or_init(|| {
            blocking(async {
                let cluster = Self::start(&super::programs::postgres()?, None)?;
                cluster.make_template().await?;
                Ok(cluster)
            })
            .expect("a Postgres cluster for the tests")
        })
    }

    /// Makes and starts a cluster in a temporary folder, which listens with TLS where that is given.
    fn start(binaries: &PostgresBinaries, tls: Option<&ServerTls>) -> Result<Self> {
        let folder = scratch_folder("mhdb-")?.keep();
        let as_user = server_user()?;
        if let Some((uid, gid)) = as_user {
            chown(&folder, Some(uid), Some(gid))?;
        }
        let data = folder.join("data");
        let mut initdb = Command::new(binaries.initdb());
        initdb
            .arg("--pgdata")
            .arg(&data)
            .args(["--username", USER, "--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-sync"])
            .current_dir(&folder);
        let made = run_as(&mut initdb, as_user).output().context("initdb")?;
        if !made.status.success() {
            let _ = fs::remove_dir_all(&folder);
            bail!("initdb: {}", String::from_utf8_lossy(&made.stderr));
        }
        let listen = match tls {
            Some(tls) => tls.prepare(&folder, as_user)?,
            None => vec!["-c".to_owned(), "listen_addresses=".to_owned()],
        };
        let mut keeper = Command::new("/bin/sh");
        keeper
            .args(["-c", KEEPER])
            .arg(&folder)
            .arg(binaries.postgres())
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(&folder)
            .args(listen)
            .args(["-c", "fsync=off", "-c", "full_page_writes=off", "-c", "dynamic_shared_memory_type=mmap"])
            .args(["-c", "shared_buffers=64MB", "-c", "max_connections=400", "-c", "autovacuum_naptime=5s"])
            .current_dir(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(folder.join("log"))?)
            // Ctrl-C in the terminal must not reach Postgres before the tests.
            .process_group(0);
        let mut keeper = run_as(&mut keeper, as_user).spawn().context("the cluster's keeper")?;
        let alive = keeper.stdin.take().context("stdin")?;
        BufReader::new(keeper.stdout.take().context("stdout")?).read_line(&mut String::new())?;
        let cluster = Self { folder, _alive: alive };
        cluster.wait_until_ready()?;
        Ok(cluster)
    }

    fn wait_until_ready(&self) -> Result<()> {
        let deadline = Instant::now() + START_WITHIN;
        loop {
            // The last word in postmaster.pid is its state.
            let state = fs::read_to_string(self.folder.join("data/postmaster.pid")).unwrap_or_default();
            if state.lines().nth(7).is_some_and(|line| line.trim() == "ready") {
                return Ok(());
            }
            if Instant::now() > deadline {
                let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                bail!("the tests' Postgres did not start: {log}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends it, and waits until its folder is gone.
    fn stop(self) -> Result<()> {
        let Self { folder, _alive } = self;
        drop(_alive);
        let deadline = Instant::now() + START_WITHIN;
        while folder.exists() {
            anyhow::ensure!(Instant::now() < deadline, "{} is still there", folder.display());
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    async fn make_template(&self) -> Result<()> {
        let maintenance = connect(&self.config("postgres")).await?;
        maintenance.batch_execute(&format!("CREATE DATABASE {TEMPLATE}")).await?;
        let store = Store::new(Connect::plain(self.config(TEMPLATE), 2))?;
        store.migrate().await?;
        store.close();
        // Nobody may be connected to a template that is copied.
        let close = format!(
            "ALTER DATABASE {TEMPLATE} ALLOW_CONNECTIONS false; \
             SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{TEMPLATE}'"
        );
        maintenance.batch_execute(&close).await?;
        Ok(())
    }

    fn config(&self, database: &str) -> Config {
        let mut config = Config::new();
        config.host_path(&self.folder).user(USER).dbname(database);
        config
    }

    fn socket(&self) -> PathBuf {
        self.folder.join(".s.PGSQL.5432")
    }
}

/// A server's certificate and key, in PEM form, and a free port.
pub struct ServerTls {
    pub certificate: String,
    pub key: String,
    pub port: u16,
}

impl ServerTls {
    /// Puts the files where the server finds them. The user `locked` needs a password over TCP, others need none.
    fn prepare(&self, folder: &std::path::Path, as_user: Option<(u32, u32)>) -> Result<Vec<String>> {
        let hba = folder.join("data/pg_hba.conf");
        fs::write(&hba, format!("host all locked 127.0.0.1/32 scram-sha-256\n{}", fs::read_to_string(&hba)?))?;
        let mut arguments = vec!["-c".to_owned(), "listen_addresses=127.0.0.1".to_owned(), "-c".to_owned()];
        arguments.extend([format!("port={}", self.port), "-c".to_owned(), "ssl=on".to_owned()]);
        for (name, content) in [("ssl_cert_file", &self.certificate), ("ssl_key_file", &self.key)] {
            let path = folder.join(name);
            fs::write(&path, content)?;
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
            if let Some((uid, gid)) = as_user {
                chown(&path, Some(uid), Some(gid))?;
            }
            arguments.extend(["-c".to_owned(), format!("{name}={}", path.display())]);
        }
        Ok(arguments)
    }
}

/// A cluster of a test's own, gone at the end.
pub struct OwnCluster {
    cluster: Option<Cluster>,
    config: Config,
}

impl OwnCluster {
    /// Starts it; with TLS it listens on loopback as well.
    pub fn start(tls: Option<&ServerTls>) -> Result<Self> {
        let cluster = Cluster::start(&super::programs::postgres()?, tls)?;
        let mut config = cluster.config("postgres");
        if let Some(tls) = tls {
            config.port(tls.port);
        }
        Ok(Self { cluster: Some(cluster), config })
    }

    /// How to connect to it as its superuser, through its socket.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// A connection.
    pub async fn client(&self) -> Result<Client> {
        connect(&self.config).await
    }

    /// Has it crash: where one backend is killed, Postgres lets go of all memory that they share. What was committed is what the log has on
    /// disk.
    pub async fn crash(&self) -> Result<()> {
        let client = self.client().await?;
        let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
        let pid = rustix::process::Pid::from_raw(pid).context("a process id")?;
        rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
        super::wait_until("the connection is gone", START_WITHIN, async || client.is_closed()).await?;
        super::wait_until("it has recovered", START_WITHIN, async || self.client().await.is_ok()).await
    }
}

impl Drop for OwnCluster {
    fn drop(&mut self) {
        if let Some(cluster) = self.cluster.take() {
            cluster.stop().expect("ended");
        }
    }
}

/// Makes a cluster with these binaries, asks it for its version, and ends it.
pub fn make_cluster_once(binaries: &PostgresBinaries) -> Result<()> {
    let cluster = Cluster::start(binaries, None)?;
    let config = cluster.config("postgres");
    let asked = blocking(async move {
        let row = connect(&config).await?.query_one("SELECT current_setting('server_version_num')::int", &[]).await?;
        Ok(row.get::<_, i32>(0))
    });
    cluster.stop()?;
    anyhow::ensure!(asked? / 10_000 == i32::try_from(binaries.version.major)?);
    Ok(())
}

/// A database of its own, with Millhand's schema, dropped at the end.
pub struct TestDb {
    name: String,
    cluster: &'static Cluster,
}

impl TestDb {
    /// A copy of the migrated template.
    pub async fn new() -> Result<Self> {
        Self::copy_of(TEMPLATE).await
    }

    /// An empty database, without Millhand's schema.
    pub async fn empty() -> Result<Self> {
        Self::copy_of("template0").await
    }

    async fn copy_of(template: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let cluster = Cluster::shared();
        let name = format!("test_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let maintenance = connect(&cluster.config("postgres")).await?;
        maintenance.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE {template}")).await?;
        Ok(Self { name, cluster })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How to connect to it, as a URL.
    pub fn url(&self) -> String {
        let folder = self.cluster.folder.to_str().expect("a temporary folder in UTF-8").replace('/', "%2F");
        format!("postgres://{USER}@{folder}/{}", self.name)
    }

    /// Where the server's socket is.
    pub fn socket_folder(&self) -> &Path {
        &self.cluster.folder
    }

    /// How to connect to it.
    pub fn config(&self) -> Config {
        self.cluster.config(&self.name)
    }

    /// How to connect to it through a proxy made by [`TestDb::proxy`].
    pub fn config_through(&self, proxy: &TcpProxy) -> Config {
        let mut config = Config::new();
        config.host("127.0.0.1").port(proxy.port()).user(USER).dbname(&self.name);
        config
    }

    /// The same as a URL.
    pub fn url_through(&self, proxy: &TcpProxy) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/{}", proxy.port(), self.name)
    }

    /// A proxy in front of the server.
    pub async fn proxy(&self) -> Result<TcpProxy> {
        TcpProxy::start(Upstream::Unix(self.cluster.socket())).await
    }

    /// The same, from this port on.
    pub async fn proxy_on(&self, port: u16) -> Result<TcpProxy> {
        TcpProxy::start_on(port, Upstream::Unix(self.cluster.socket())).await
    }

    /// A connection.
    pub async fn client(&self) -> Result<Client> {
        connect(&self.config()).await
    }

    /// Millhand's own access to it.
    pub fn store(&self) -> Result<Store> {
        Ok(Store::new(Connect::plain(self.config(), 8))?)
    }
}

impl Drop for TestDb {
    fn drop(&mut self) {
        let (config, drop) =
            (self.cluster.config("postgres"), format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name));
        // Should it fail, it goes with the cluster.
        let _ = blocking(async move { Ok(connect(&config).await?.batch_execute(&drop).await?) });
    }
}

/// A connection whose driver runs in the background.
pub async fn connect(config: &Config) -> Result<Client> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// A temporary folder for a database: in memory where there is plenty, as making a cluster is mostly writing.
pub fn scratch_folder(prefix: &str) -> Result<TempDir> {
    const PLENTY_BYTES: u64 = 2_000_000_000;
    let memory = Path::new("/dev/shm");
    let free = rustix::fs::statvfs(memory).map_or(0, |space| space.f_bavail * space.f_frsize);
    let folder = if free > PLENTY_BYTES { memory.to_owned() } else { std::env::temp_dir() };
    Ok(tempfile::Builder::new().prefix(prefix).tempdir_in(folder)?)
}

/// Runs a future to its end on a thread and a runtime of its own: statics and destructors belong to no test's runtime.
fn blocking<T: Send>(future: impl Future<Output = Result<T>> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let run = || tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future);
        scope.spawn(run).join().unwrap_or_else(|_| bail!("panicked"))
    })
}

/// Whom Postgres runs as: it refuses to run as root.
pub fn server_user() -> Result<Option<(u32, u32)>> {
    if fs::metadata("/proc/self")?.uid() != 0 {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd")?;
    let ids = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut ids = line.split(':').skip(2).map_while(|id| id.parse::<u32>().ok());
        Some((ids.next()?, ids.next()?))
    };
    Ok(Some(ids("postgres").or_else(|| ids("nobody")).context("neither a user postgres nor nobody")?))
}

fn run_as(command: &mut Command, user: Option<(u32, u32)>) -> &mut Command {
    match user {
        Some((uid, gid)) => command.uid(uid).gid(gid),
        None => command,
    }
}
