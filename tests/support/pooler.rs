//! PgBouncer in transaction mode, in front of a test's database: each transaction runs on whichever of its few connections is free.

use std::{env, fs, path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context, Result};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::{TestDb, db, wait_until};

/// Connections to the server: fewer than who uses them.
const POOL: usize = 3;

/// One that runs.
pub struct Pooler {
    folder: TempDir,
    port: u16,
    database: String,
    _process: Child,
}

impl Pooler {
    /// Starts one. None, with the reason told, where there is none that knows prepared statements: `MILLHAND_TEST_PGBOUNCER` names one.
    pub async fn before(db: &TestDb) -> Result<Option<Self>> {
        let Some(binary) = find().await else {
            super::not_run!(
                "behind PgBouncer in transaction mode: pgbouncer 1.21 or newer is not there (MILLHAND_TEST_PGBOUNCER names one)"
            );
            return Ok(None);
        };
        let folder = db::scratch_folder("mhpb-")?;
        let as_user = db::server_user()?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let settings = folder.path().join("pgbouncer.ini");
        let (host, name) = (db.socket_folder().display(), db.name());
        let text = format!(
            "[databases]\n{name} = host={host} user={user}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = any\npool_mode = transaction\ndefault_pool_size = {POOL}\nmax_prepared_statements = 200\nserver_lifetime = 5\n",
            user = db::USER
        );
        fs::write(&settings, text)?;
        if let Some((uid, gid)) = as_user {
            for path in [folder.path(), &settings] {
                std::os::unix::fs::chown(path, Some(uid), Some(gid))?;
            }
        }
        let mut command = Command::new(binary);
        let log = fs::File::create(folder.path().join("log"))?;
        command
            .arg(&settings)
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true);
        if let Some((uid, gid)) = as_user {
            command.uid(uid).gid(gid);
        }
        let pooler = Self { port, database: name.to_owned(), _process: command.spawn()?, folder };
        let is_up = async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok();
        let up = wait_until("PgBouncer is up", Duration::from_secs(20), is_up).await;
        up.with_context(|| fs::read_to_string(pooler.folder.path().join("log")).unwrap_or_default())?;
        Ok(Some(pooler))
    }

    /// How to connect through it.
    pub fn url(&self) -> String {
        format!("postgres://{}@127.0.0.1:{}/{}", db::USER, self.port, self.database)
    }
}

/// One that can be used.
async fn find() -> Option<PathBuf> {
    if let Some(named) = env::var_os("MILLHAND_TEST_PGBOUNCER") {
        return Some(named.into());
    }
    for path in ["pgbouncer", "/usr/sbin/pgbouncer"] {
        let Ok(output) = Command::new(path).arg("--version").output().await else { continue };
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut numbers = told.split_whitespace().nth(1)?.split('.').map_while(|number| number.parse::<u32>().ok());
        if (numbers.next()?, numbers.next()?) >= (1, 21) {
            return Some(path.into());
        }
    }
    None
}
