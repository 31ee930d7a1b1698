//! Where a database is and how to talk to it: a URL or `key=value` words and `PG*` variables, as libpq understands them.
//!
//! tokio-postgres knows neither `verify-ca` and `verify-full`, nor `sslrootcert`, nor variables, nor password files. The
//! environment is not read here: its variables are passed in. No error and no debug output holds a password.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use secrecy::{ExposeSecret, SecretString};
use tokio_postgres::{
    Config,
    config::{Host, SslMode},
};

use super::{
    passfile,
    tls::{Roots, Tls},
    words::{self, Words},
};

/// How long one address may take to answer, unless `connect_timeout` says otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Where servers put their sockets, in the order in which they are tried.
const SOCKET_FOLDERS: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// The variables that stand for a word, as in libpq.
const VARIABLES: [(&str, &str); 16] = [
    ("PGHOST", "host"),
    ("PGHOSTADDR", "hostaddr"),
    ("PGPORT", "port"),
    ("PGUSER", "user"),
    ("PGPASSWORD", "password"),
    ("PGDATABASE", "dbname"),
    ("PGOPTIONS", "options"),
    ("PGAPPNAME", "application_name"),
    ("PGSSLMODE", "sslmode"),
    ("PGSSLROOTCERT", "sslrootcert"),
    ("PGSSLNEGOTIATION", "sslnegotiation"),
    ("PGPASSFILE", "passfile"),
    ("PGCONNECT_TIMEOUT", "connect_timeout"),
    ("PGTARGETSESSIONATTRS", "target_session_attrs"),
    ("PGCHANNELBINDING", "channel_binding"),
    ("PGLOADBALANCEHOSTS", "load_balance_hosts"),
];

/// Words that tokio-postgres takes as they are.
const PASSED_ON: [&str; 15] = [
    "user",
    "dbname",
    "options",
    "application_name",
    "sslnegotiation",
    "host",
    "hostaddr",
    "port",
    "connect_timeout",
    "tcp_user_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "target_session_attrs",
    "channel_binding",
];

/// Words of libpq that change nothing here.
const WITHOUT_EFFECT: [&str; 5] =
    ["fallback_application_name", "client_encoding", "sslcompression", "sslsni", "gssencmode"];

/// Why a database's address cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// Not of the form.
    #[error("{0}; a database is named like postgres://user@host:5432/name, with %2F for a / in a name or password")]
    Syntax(&'static str),
    /// A word that nobody knows.
    #[error("unknown setting {0:?} of the connection: correct or remove it")]
    Unknown(String),
    /// A value that is none of its kind.
    #[error("{key} is not right: {expected}")]
    Invalid {
        /// The setting.
        key: String,
        /// What it can be.
        expected: String,
    },
    /// Something that libpq can do, and Millhand cannot.
    #[error("{key} is not supported: {instead}")]
    Unsupported {
        /// The setting or variable.
        key: String,
        /// What to do instead.
        instead: &'static str,
    },
    /// The file of `sslrootcert` cannot be used.
    #[error("sslrootcert {path}: {reason}", path = path.display())]
    RootCertificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

impl AddressError {
    fn invalid(key: &str, expected: impl Into<String>) -> Self {
        Self::Invalid { key: key.to_owned(), expected: expected.into() }
    }
}

/// What names a database.
#[derive(Clone, Copy, Default)]
pub struct Source<'a> {
    /// A URL, or `key=value` words; it goes before the variables.
    pub url: Option<&'a str>,
    /// The `PG*` variables of the environment.
    pub variables: Option<&'a BTreeMap<String, SecretString>>,
    /// The user's home folder, with `.pgpass` and `.postgresql/root.crt`.
    pub user_home: Option<&'a Path>,
}

/// Where a database is, and how to talk to it.
#[derive(Clone)]
pub struct Address {
    /// For tokio-postgres; goes with `tls`.
    pub config: Config,
    /// The connector.
    pub tls: Tls,
}

/// libpq's levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl Address {
    /// Reads what names a database. Reads files: a password file, a root certificate, the system's certificates.
    ///
    /// # Errors
    ///
    /// What is named cannot be used; the words say what to change.
    pub fn resolve(source: &Source<'_>) -> Result<Self, AddressError> {
        let mut words = match source.url {
            Some(url) => words::parse(url)?,
            None => Words::default(),
        };
        add_variables(&mut words, source)?;
        let mut config = plain_config(&words)?;
        set_hosts(&mut config);
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        let password = words.get("password").map(<[u8]>::to_vec).filter(|password| !password.is_empty());
        let passfile = words.text("passfile")?.map(PathBuf::from);
        let passfile = passfile.or_else(|| source.user_home.map(|home| home.join(".pgpass")));
        if let Some(password) = password.or_else(|| passfile::password(&passfile?, &config)) {
            config.password(password);
        }
        let tls = set_tls(&mut config, &words, source)?;
        Ok(Self { config, tls })
    }

    /// The same for a URL or `key=value` words alone.
    ///
    /// # Errors
    ///
    /// As for [`Address::resolve`].
    pub fn parse(url: &str) -> Result<Self, AddressError> {
        Self::resolve(&Source { url: Some(url), ..Source::default() })
    }

    /// For messages: user, hosts and database, without password.
    pub fn display_safe(&self) -> String {
        let hosts: Vec<_> = (0..self.config.get_hosts().len()).map(|at| host_and_port(&self.config, at)).collect();
        let user = self.config.get_user().map(|user| format!("{user}@")).unwrap_or_default();
        let database = self.config.get_dbname().or(self.config.get_user()).unwrap_or_default();
        format!("postgres://{user}{}/{database}", hosts.join(","))
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Address").field("at", &self.display_safe()).field("tls", &self.tls).finish()
    }
}

fn host_and_port(config: &Config, at: usize) -> String {
    let ports = config.get_ports();
    let port = ports.get(at).or(ports.first()).copied().unwrap_or(5432);
    match config.get_hosts().get(at) {
        Some(Host::Tcp(host)) if host.contains(':') => format!("[{host}]:{port}"),
        Some(Host::Tcp(host)) => format!("{host}:{port}"),
        Some(Host::Unix(folder)) => format!("{}:{port}", folder.display().to_string().replace('/', "%2F")),
        None => String::new(),
    }
}

fn add_variables(words: &mut Words, source: &Source<'_>) -> Result<(), AddressError> {
    let service = "name the database by a URL, or by PGHOST, PGUSER and so on";
    if words.get("service").is_some() || words.get("servicefile").is_some() {
        return Err(AddressError::Unsupported { key: "service".to_owned(), instead: service });
    }
    let Some(variables) = source.variables else { return Ok(()) };
    let value = |name: &str| variables.get(name).map(ExposeSecret::expose_secret).filter(|value| !value.is_empty());
    // A service only fills in what a URL leaves out.
    if source.url.is_none() && value("PGSERVICE").is_some() {
        return Err(AddressError::Unsupported { key: "PGSERVICE".to_owned(), instead: service });
    }
    if value("PGSSLCERT").is_some() || value("PGSSLKEY").is_some() {
        return Err(client_certificates("PGSSLCERT"));
    }
    let has_host = words.get("host").is_some() || words.get("hostaddr").is_some();
    for (variable, word) in VARIABLES {
        // The variables' host is another one than the URL's.
        if has_host && matches!(word, "host" | "hostaddr") {
            continue;
        }
        if let Some(value) = value(variable) {
            words.add_default(word, value.as_bytes());
        }
    }
    Ok(())
}

fn client_certificates(key: &str) -> AddressError {
    AddressError::Unsupported {
        key: key.to_owned(),
        instead: "there are no client certificates; log in with a password",
    }
}

/// What tokio-postgres understands by itself, checked by its own parser, without the password.
fn plain_config(words: &Words) -> Result<Config, AddressError> {
    let mut text = String::new();
    for key in words.keys() {
        let passed_on = match key {
            "sslmode" | "ssl" | "sslrootcert" | "passfile" | "password" => continue,
            key if WITHOUT_EFFECT.contains(&key) => continue,
            "sslcert" | "sslkey" | "sslpassword" => return Err(client_certificates(key)),
            "keepalives_count" => "keepalives_retries",
            key if PASSED_ON.contains(&key) || matches!(key, "keepalives_retries" | "load_balance_hosts") => key,
            key => return Err(AddressError::Unknown(key.to_owned())),
        };
        let value = words.text(key)?.unwrap_or_default();
        // libpq has a newer name for it.
        let value = if key == "target_session_attrs" && value == "primary" { "read-write" } else { value };
        let one = format!("{passed_on}='{}' ", value.replace('\\', r"\\").replace('\'', r"\'"));
        // By itself first, so that an error names it.
        one.parse::<Config>().map_err(|_| match passed_on {
            "port" => AddressError::invalid(
                "the port",
                "a number is expected; if that is a part of the password, write its / ? : @ % as %2F %3F %3A %40 %25",
            ),
            _ => AddressError::invalid(key, "PostgreSQL's documentation of connection strings names its values"),
        })?;
        text.push_str(&one);
    }
    text.parse().map_err(|_| AddressError::Syntax("the connection's settings do not go together"))
}

/// Every host has a name: what a server is reached by is what its certificate is checked against.
fn set_hosts(config: &mut Config) {
    if !config.get_hosts().is_empty() {
        return;
    }
    let addresses = config.get_hostaddrs().to_vec();
    if !addresses.is_empty() {
        for address in addresses {
            config.host(address.to_string());
        }
        return;
    }
    let port = config.get_ports().first().copied().unwrap_or(5432);
    let socket = SOCKET_FOLDERS.iter().find(|folder| Path::new(folder).join(format!(".s.PGSQL.{port}")).exists());
    match socket {
        Some(folder) => config.host_path(folder),
        None => config.host("localhost"),
    };
}

fn level(words: &Words) -> Result<Option<Level>, AddressError> {
    let mode = match (words.text("sslmode")?, words.text("ssl")?) {
        (Some(mode), _) => mode,
        (None, Some("true")) => "require",
        (None, _) => return Ok(None),
    };
    Ok(Some(match mode {
        "disable" => Level::Disable,
        "allow" => Level::Allow,
        "prefer" => Level::Prefer,
        "require" => Level::Require,
        "verify-ca" => Level::VerifyCa,
        "verify-full" => Level::VerifyFull,
        _ => {
            let expected = "it is one of disable, allow, prefer, require, verify-ca, verify-full";
            return Err(AddressError::invalid("sslmode", expected));
        }
    }))
}

fn set_tls(config: &mut Config, words: &Words, source: &Source<'_>) -> Result<Tls, AddressError> {
    let given = words.text("sslrootcert")?;
    let system = given == Some("system");
    let level = level(words)?.unwrap_or(if system { Level::VerifyFull } else { Level::Prefer });
    // As in libpq: a socket needs no encryption.
    if level == Level::Disable || config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_))) {
        config.ssl_mode(SslMode::Disable);
        return Ok(Tls::unused());
    }
    if system && level < Level::VerifyFull {
        let expected =
            "with sslrootcert=system it must be verify-full, as anyone can have a certificate of a public CA";
        return Err(AddressError::invalid("sslmode", expected));
    }
    if config.get_ssl_negotiation() == tokio_postgres::config::SslNegotiation::Direct && level < Level::Require {
        return Err(AddressError::invalid("sslmode", "with sslnegotiation=direct it must be require or stronger"));
    }
    config.ssl_mode(if level < Level::Require { SslMode::Prefer } else { SslMode::Require });
    let own = || source.user_home.map(|home| home.join(".postgresql/root.crt")).filter(|path| path.is_file());
    let roots = match given {
        _ if system => Roots::System,
        Some(path) => Roots::File(PathBuf::from(path)),
        None if level >= Level::VerifyCa => own().map_or(Roots::System, Roots::File),
        None => Roots::None,
    };
    match (level, roots) {
        (Level::VerifyFull, roots) => Tls::verified(roots, true),
        (Level::VerifyCa, Roots::System) => Err(AddressError::invalid(
            "sslmode",
            "verify-ca needs sslrootcert, the file of the CA's certificate; or use verify-full, which asks the system's CAs",
        )),
        (Level::VerifyCa | Level::Require, roots @ Roots::File(_)) => Tls::verified(roots, false),
        _ => Tls::unverified(),
    }
}
