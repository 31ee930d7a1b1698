//! Addresses of databases: how they are read, and TLS against a real server.

use std::{collections::BTreeMap, fs, net::TcpListener, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use anyhow::{Context, Result};
use millhand::{
    postgres::{Address, Source},
    store::{
        Connect, Store,
        listen::{Wakes, listen},
    },
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use secrecy::SecretString;
use tokio_postgres::config::{Host, SslMode};

use crate::support::{
    TestDb,
    db::{OwnCluster, ServerTls},
};

fn resolve(url: Option<&str>, pairs: &[(&str, &str)]) -> Result<Address, String> {
    let variables: BTreeMap<_, _> =
        pairs.iter().map(|(name, value)| ((*name).to_owned(), SecretString::from(*value))).collect();
    let source = Source { url, variables: Some(&variables), user_home: None };
    Address::resolve(&source).map_err(|error| error.to_string())
}

#[test]
fn urls_and_words_name_what_libpq_says_they_name() -> Result<()> {
    let cases = [
        ("postgres://me:pw@db.example:6000/app", "postgres://me@db.example:6000/app"),
        ("postgresql://me@db.example", "postgres://me@db.example:5432/me"),
        ("postgres://me@[::1]:6000/app", "postgres://me@[::1]:6000/app"),
        ("postgres://me@[::1]/app", "postgres://me@[::1]:5432/app"),
        ("postgres://me@a:1,b:2/app", "postgres://me@a:1,b:2/app"),
        ("postgres://m%40e:p%2Fw@a/a%20b", "postgres://m@e@a:5432/a b"),
        ("postgres://me:p@w@a/app", "postgres://me@a:5432/app"),
        ("postgres://me@%2Frun%2Fpg/app", "postgres://me@%2Frun%2Fpg:5432/app"),
        ("postgres:///app?host=/run/pg&user=me&port=7", "postgres://me@%2Frun%2Fpg:7/app"),
        ("postgres://me@a/app?host=b", "postgres://me@b:5432/app"),
        ("host=a port=6 user=me dbname='a \\'b\\\\'", "postgres://me@a:6/a 'b\\"),
        ("hostaddr=127.0.0.1 user=me", "postgres://me@127.0.0.1:5432/me"),
        (" host = a  user = me ", "postgres://me@a:5432/me"),
    ];
    for (text, shown) in cases {
        let address = Address::parse(text).with_context(|| text.to_owned())?;
        assert_eq!(address.display_safe(), shown, "{text}");
    }
    let address = Address::parse("postgres://me:p%2Fw%ff@a/app?application_name=x&connect_timeout=3")?;
    assert_eq!(address.config.get_password(), Some(b"p/w\xff".as_slice()));
    assert_eq!(address.config.get_application_name(), Some("x"));
    assert_eq!(address.config.get_connect_timeout(), Some(&Duration::from_secs(3)));
    Ok(())
}

#[test]
fn variables_fill_in_what_the_url_leaves_out() -> Result<(), String> {
    let all = [("PGHOST", "h"), ("PGPORT", "6"), ("PGUSER", "u"), ("PGDATABASE", "d"), ("PGPASSWORD", "p")];
    let address = resolve(None, &all)?;
    assert_eq!(address.display_safe(), "postgres://u@h:6/d");
    assert_eq!(address.config.get_password(), Some(b"p".as_slice()));
    let address = resolve(Some("postgres://me:mine@a/x"), &[all.as_slice(), &[("PGHOSTADDR", "127.0.0.1")]].concat())?;
    assert_eq!(address.display_safe(), "postgres://me@a:6/x");
    assert_eq!(address.config.get_password(), Some(b"mine".as_slice()));
    assert!(address.config.get_hostaddrs().is_empty(), "the variables' host is another one");
    let address =
        resolve(None, &[("PGHOST", "/run/pg"), ("PGUSER", "u"), ("PGSSLMODE", "verify-full"), ("PGTZ", "UTC")])?;
    assert!(matches!(address.config.get_hosts(), [Host::Unix(folder)] if folder == Path::new("/run/pg")));
    assert_eq!(address.config.get_ssl_mode(), SslMode::Disable, "as in libpq, a socket needs no TLS");
    let address = resolve(Some("postgres://me@a/x"), &[("PGSERVICE", "s")])?;
    assert_eq!(address.display_safe(), "postgres://me@a:5432/x");
    Ok(())
}

#[test]
fn what_is_wrong_is_said_without_the_password() {
    let cases = [
        ("postgres://me:geheim/x@a/app", "%2F"),
        ("postgres://me:geheim%2@a/app", "two hexadecimal digits"),
        ("postgres://me:geheim@a:port/app", "port"),
        ("mysql://me:geheim@a/app", "postgres://"),
        ("postgres://me:geheim@a/app?sslmode=full", "verify-full"),
        ("postgres://me:geheim@a/app?sslcert=x", "log in with a password"),
        ("postgres://me:geheim@a/app?schema=x", "\"schema\""),
        ("postgres://me:geheim@a/app?service=x", "service"),
        ("postgres://me:geheim@a/app?sslmode=verify-ca", "sslrootcert"),
        ("postgres://me:geheim@a/app?sslmode=require&sslrootcert=system", "verify-full"),
        ("postgres://me:geheim@a/app?sslrootcert=/nonexistent&sslmode=verify-full", "/nonexistent"),
        ("postgres://me:geheim@a/app?sslrootcert=/etc/passwd&sslmode=verify-full", "no certificate"),
        ("host=a password='geheim", "no end"),
        ("host=a geheim", "without ="),
        ("geheim", "without ="),
    ];
    for (text, words) in cases {
        let error = Address::parse(text).err().map(|error| format!("{error} {error:?}")).unwrap_or_default();
        assert!(error.contains(words) && !error.contains("geheim"), "{text}: {error}");
    }
    let service = resolve(None, &[("PGSERVICE", "s")]).err().unwrap_or_default();
    assert!(service.contains("PGSERVICE is not supported"), "{service}");
    let address = Address::parse("postgres://me:geheim@a/app?password=geheim2").expect("address");
    let shown = format!("{address:?} {} {:?}", address.display_safe(), Connect::to(address.clone(), 1));
    assert!(!shown.contains("geheim"), "{shown}");
}

#[test]
fn the_password_file_counts_only_if_it_is_the_users_alone() -> Result<()> {
    let home = tempfile::tempdir()?;
    let file = home.path().join(".pgpass");
    fs::write(&file, "*:*:app:me:from the file\n")?;
    let resolve = |url| Address::resolve(&Source { url: Some(url), user_home: Some(home.path()), variables: None });
    for (mode, password) in [(0o600, Some(b"from the file".as_slice())), (0o644, None)] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode))?;
        assert_eq!(resolve("postgres://me@a/app")?.config.get_password(), password, "{mode:o}");
    }
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    assert_eq!(resolve("postgres://me:mine@a/app")?.config.get_password(), Some(b"mine".as_slice()));
    Ok(())
}

fn authority(name: &str) -> Result<CertifiedIssuer<'static, KeyPair>> {
    let mut params = CertificateParams::new([])?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
}

/// A server whose certificate is for `localhost` only, and files with its CA's, another CA's and its own certificate.
struct Server {
    folder: tempfile::TempDir,
    port: u16,
    cluster: OwnCluster,
}

impl Server {
    fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let ours = authority("ours")?;
        fs::write(folder.path().join("ours"), ours.pem())?;
        fs::write(folder.path().join("other"), authority("other")?.pem())?;
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(["localhost".to_owned()])?.signed_by(&key, &ours)?.pem();
        fs::write(folder.path().join("own"), &certificate)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let cluster = OwnCluster::start(Some(&ServerTls { certificate, key: key.serialize_pem(), port }))?;
        Ok(Self { folder, port, cluster })
    }

    /// `root=` in the settings names one of the files.
    fn url(&self, host: &str, settings: &str) -> String {
        let settings = settings.replace("root=", &format!("sslrootcert={}/", self.folder.path().display()));
        format!("postgres://postgres@{host}:{}/postgres?hostaddr=127.0.0.1&{settings}", self.port)
    }
}

/// Connects as Millhand does, and tells whether the connection is encrypted.
async fn encrypted(url: &str) -> Result<bool, String> {
    let address = Address::parse(url).map_err(|error| error.to_string())?;
    let (config, tls) = (address.config.clone(), address.tls.clone());
    let store = Store::new(Connect::to(address, 1)).map_err(|error| error.to_string())?;
    let pinged = store.ping().await;
    store.close();
    if let Err(error) = pinged {
        assert!(error.is_unreachable(), "{error:?}");
        return Err(error.to_string());
    }
    let (client, connection) = config.connect(tls).await.map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    let asked = client.query_one("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &[]).await;
    asked.map(|row| row.get(0)).map_err(|error| error.to_string())
}

#[tokio::test]
async fn each_level_of_tls_refuses_what_it_must_and_takes_the_rest() -> Result<()> {
    let server = Server::start()?;
    let taken = [
        ("localhost", "sslmode=disable", false),
        ("localhost", "sslmode=allow", true),
        ("localhost", "sslmode=prefer", true),
        ("localhost", "sslmode=prefer&root=other", true),
        ("elsewhere", "sslmode=require", true),
        ("elsewhere", "sslmode=require&root=ours", true),
        ("elsewhere", "sslmode=verify-ca&root=ours", true),
        ("localhost", "sslmode=verify-full&root=ours", true),
        ("localhost", "sslmode=verify-full&root=own", true),
    ];
    for (host, settings, is) in taken {
        assert_eq!(encrypted(&server.url(host, settings)).await, Ok(is), "{host} {settings}");
    }
    let refused = [
        ("elsewhere", "sslmode=verify-full&root=ours", "verify-ca"),
        ("127.0.0.1", "sslmode=verify-full&root=ours", "the name that it is for"),
        ("elsewhere", "sslmode=verify-full&root=own", "the name that it is for"),
        ("localhost", "sslmode=verify-full&root=other", "the CA's file"),
        ("localhost", "sslmode=verify-ca&root=other", "the CA's file"),
        ("localhost", "sslmode=require&root=other", "the CA's file"),
    ];
    for (host, settings, words) in refused {
        let error = encrypted(&server.url(host, settings)).await.err().unwrap_or_default();
        assert!(error.contains("certificate") && error.contains(words), "{host} {settings}: {error}");
    }
    // A machine without certificates of its own has another error; never a connection.
    for settings in ["sslmode=verify-full", "sslrootcert=system"] {
        assert!(encrypted(&server.url("localhost", settings)).await.is_err(), "{settings}");
    }

    server.cluster.client().await?.batch_execute("CREATE ROLE locked LOGIN PASSWORD 'right'").await?;
    let at = |login: &str| format!("postgres://{login}@127.0.0.1:{}/postgres?sslmode=require", server.port);
    assert_eq!(encrypted(&at("locked:right")).await, Ok(true));
    let wrong = encrypted(&at("locked:geheim")).await.err().unwrap_or_default();
    assert!(wrong.contains("password authentication failed") && wrong.contains("PGPASSWORD"), "{wrong}");
    assert!(!wrong.contains("geheim"), "{wrong}");
    let missing = encrypted(&at("locked")).await.err().unwrap_or_default();
    assert!(missing.contains("asks for a password"), "{missing}");
    Ok(())
}

#[tokio::test]
async fn migrations_and_the_listener_use_tls_too() -> Result<()> {
    let server = Server::start()?;
    let connect = Connect::to(Address::parse(&server.url("localhost", "sslmode=verify-full&root=ours"))?, 2);
    let store = Store::new(connect.clone())?;
    store.migrate().await?;
    let stop = tokio_util::sync::CancellationToken::new();
    let wakes = Wakes::default();
    let woken = wakes.tasks.clone();
    let listener = tokio::spawn(listen(connect, wakes, Duration::from_secs(5), stop.clone()));
    tokio::time::timeout(Duration::from_secs(20), woken.notified()).await?;
    let listening = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                     WHERE ssl AND application_name = 'millhand listener'";
    let count: i64 = server.cluster.client().await?.query_one(listening, &[]).await?.get(0);
    assert_eq!(count, 1);
    stop.cancel();
    listener.await?;
    store.close();

    let stranger = Connect::to(Address::parse(&server.url("localhost", "sslmode=verify-full&root=other"))?, 2);
    let error = Store::new(stranger)?.migrate().await.err().context("migrated")?;
    assert!(error.is_unreachable() && error.to_string().contains("certificate"), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn a_server_without_tls_is_refused_or_taken_as_the_level_says() -> Result<()> {
    let db = TestDb::new().await?;
    let proxy = db.proxy().await?;
    let url = |mode: &str| format!("{}?sslmode={mode}", db.url_through(&proxy));
    for mode in ["disable", "allow", "prefer"] {
        assert_eq!(encrypted(&url(mode)).await, Ok(false), "{mode}");
    }
    let error = encrypted(&url("require")).await.err().unwrap_or_default();
    assert!(error.contains("does not support TLS") && error.contains("sslmode=prefer"), "{error}");
    assert_eq!(encrypted(&db.url()).await, Ok(false), "a socket");
    Ok(())
}

#[tokio::test]
async fn an_unreachable_database_is_told_apart_by_reason() -> Result<()> {
    let db = TestDb::new().await?;
    let closed = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let cases = [
        (db.url().replace(db.name(), "nosuchdb"), "createdb"),
        (format!("postgres://me@127.0.0.1:{closed}/app"), "is Postgres running there"),
        ("postgres://me@host.invalid/app".to_owned(), "host's name"),
        ("postgres://me@%2Fnonexistent/app".to_owned(), "no socket"),
    ];
    for (url, words) in cases {
        let error = encrypted(&url).await.err().unwrap_or_default();
        assert!(error.contains(words), "{url}: {error}");
    }
    Ok(())
}
