//! Projects that are named by a URL: https with a log-in of the user's, git's own protocol, ssh.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
};

use anyhow::{Context, Result};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{Request, Response, StatusCode, header},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    process::Command,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, pki_types::PrivateKeyDer},
    server::TlsStream,
};

use super::{
    repository::{PROJECT, World},
    sources::assert_works,
};
use crate::support::not_run;

const PASSWORD: &str = "geheim";

/// Accepts connections with TLS.
struct Tls {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Ok((stream, address)) = self.listener.accept().await else { continue };
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// Serves the repositories in a folder over https, by git's own CGI program, to who knows the password. Its certificate is put into the
/// folder.
async fn serve_https(folder: &Path) -> Result<SocketAddr> {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(vec!["localhost".to_owned()])?;
    fs::write(folder.join("certificate"), cert.pem())?;
    let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![cert.der().clone()], key)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let tls = Tls { listener, acceptor: TlsAcceptor::from(Arc::new(config)) };
    let router = Router::new().fallback(answer).with_state(folder.to_owned());
    tokio::spawn(async move { axum::serve(tls, router).await });
    Ok(address)
}

async fn answer(State(folder): State<PathBuf>, request: Request<Body>) -> Response<Body> {
    let expected = format!("Basic {}", BASE64_STANDARD.encode(format!("ada:{PASSWORD}")));
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if given != Some(expected.as_str()) {
        let refused = Response::builder().status(StatusCode::UNAUTHORIZED);
        let refused = refused.header(header::WWW_AUTHENTICATE, "Basic realm=\"git\"").body(Body::empty());
        return refused.expect("a response");
    }
    match backend(&folder, request).await {
        Ok(response) => response,
        Err(error) => panic!("git http-backend: {error:?}"),
    }
}

async fn backend(folder: &Path, request: Request<Body>) -> Result<Response<Body>> {
    let (head, body) = request.into_parts();
    let body: Bytes = axum::body::to_bytes(body, 1 << 24).await?;
    let header =
        |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let mut child = Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", folder)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REQUEST_METHOD", head.method.as_str())
        .env("PATH_INFO", head.uri.path())
        .env("QUERY_STRING", head.uri.query().unwrap_or_default())
        .env("CONTENT_TYPE", header("content-type"))
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("HTTP_GIT_PROTOCOL", header("git-protocol"))
        .env("CONTENT_LENGTH", body.len().to_string())
        .env("REMOTE_USER", "ada")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("stdin")?.write_all(&body).await?;
    let output = child.wait_with_output().await?.stdout;
    let end = output.windows(4).position(|bytes| bytes == b"\r\n\r\n").context("headers")?;
    let mut response = Response::builder();
    for line in std::str::from_utf8(&output[..end])?.lines() {
        let (name, value) = line.split_once(": ").context("a header")?;
        response = match name {
            "Status" => response.status(value.split(' ').next().unwrap_or_default()),
            _ => response.header(name, value),
        };
    }
    Ok(response.body(Body::from(output[end + 4..].to_vec()))?)
}

/// Adds to what the user has set for git.
fn configure(world: &World, text: &str) -> Result<()> {
    let path = world.path().join("user/.gitconfig");
    Ok(fs::write(&path, fs::read_to_string(&path)? + text)?)
}

/// A new commit of the source is seen.
async fn assert_follows(world: &World, url: &str) -> Result<()> {
    world.write("later", b"later\n");
    world.commit("later");
    let mirror = world.git.ensure_mirror(PROJECT, url, None).await?;
    assert!(mirror.fetched);
    let base = world.git.resolve_base(&mirror, None).await?;
    assert_eq!((base.branch.as_deref(), base.commit), (Some("main"), world.user(&["rev-parse", "HEAD"])));
    Ok(())
}

#[tokio::test]
async fn a_repository_behind_https_works_with_the_users_login_which_is_written_nowhere() -> Result<()> {
    let world = World::with(&[("a", b"a\n")]).await;
    let address = serve_https(world.path()).await?;
    let url = format!("https://localhost:{}/source/.git", address.port());
    let refused = world.git.inspect(&url).await.err().context("reached")?.to_string();
    assert!(refused.contains("certificate"), "{refused}");
    configure(&world, &format!("[http]\n\tsslCAInfo = {}\n", world.path().join("certificate").display()))?;
    let refused = world.git.inspect(&url).await.err().context("reached")?.to_string();
    assert!(refused.contains("could not reach") && refused.contains("sername"), "{refused}");
    let helper = format!("!f() {{ echo username=ada; echo password={PASSWORD}; }}; f");
    configure(&world, &format!("[credential]\n\thelper = \"{helper}\"\n"))?;
    assert_works(&world, &url).await;
    assert_follows(&world, &url).await?;
    // A password in the URL itself is for reaching it only.
    configure(&world, "[credential]\n\thelper = \"\"\n")?;
    let with_login = url.replace("https://", &format!("https://ada:{PASSWORD}@"));
    world.git.ensure_mirror(PROJECT, &with_login, None).await?;
    let wrong = world.git.inspect(&url.replace("https://", "https://ada:falsch@")).await.err().context("reached")?;
    assert!(!wrong.to_string().contains("falsch"), "{wrong}");
    for encoded in [PASSWORD.to_owned(), BASE64_STANDARD.encode(format!("ada:{PASSWORD}"))] {
        let found = std::process::Command::new("grep").args(["-rl", &encoded]).arg(world.home().root()).output()?;
        assert_eq!(String::from_utf8_lossy(&found.stdout), "", "the password is on disk");
    }
    Ok(())
}

#[tokio::test]
async fn a_repository_behind_gits_own_protocol_works() -> Result<()> {
    let world = World::with(&[("a", b"a\n")]).await;
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    // The program itself, which goes with the test: `git daemon` would leave it behind.
    let programs = world.user(&["--exec-path"]);
    let program = Path::new(&programs).join("git-daemon");
    if !program.exists() {
        not_run!("a repository behind git's own protocol: this git has no daemon");
        return Ok(());
    }
    let mut daemon = Command::new(program);
    daemon.args(["--reuseaddr", "--export-all", "--verbose", "--listen=127.0.0.1"]).arg(format!("--port={port}"));
    daemon.arg(format!("--base-path={}", world.path().display())).stderr(Stdio::piped()).kill_on_drop(true);
    let mut daemon = daemon.spawn()?;
    // It says when it listens, and must be able to go on talking.
    let mut said = BufReader::new(daemon.stderr.take().context("stderr")?);
    said.read_line(&mut String::new()).await?;
    let url = format!("git://127.0.0.1:{port}/source/.git");
    assert_works(&world, &url).await;
    assert_follows(&world, &url).await
}

#[tokio::test]
async fn a_repository_behind_ssh_works_by_the_users_ssh_in_either_form_of_its_address() -> Result<()> {
    for form in ["ssh://git@example.org:2222", "git@example.org:"] {
        let world = World::with(&[("a", b"a\n")]).await;
        // In place of ssh: notes whom it is to reach, and runs here what it would have run there.
        let (ssh, reached) = (world.path().join("ssh"), world.path().join("reached"));
        let script = format!(
            "#!/bin/sh\necho \"$@\" >> {}\nfor command; do :; done\nexec sh -c \"$command\"\n",
            reached.display()
        );
        fs::write(&ssh, script)?;
        fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755))?;
        configure(&world, &format!("[core]\n\tsshCommand = {}\n[ssh]\n\tvariant = ssh\n", ssh.display()))?;
        let url = format!("{form}{}", world.source().join(".git").display());
        assert_works(&world, &url).await;
        assert_follows(&world, &url).await?;
        let reached = fs::read_to_string(&reached)?;
        assert!(reached.contains("git@example.org") && reached.contains("git-upload-pack"), "{reached}");
        assert_eq!(reached.contains("-p 2222"), form.starts_with("ssh:"), "{reached}");
    }
    Ok(())
}
