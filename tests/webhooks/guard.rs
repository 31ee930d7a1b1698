//! What a webhook may not reach, and what of it is never told.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use millhand::{actions::Poster, model::webhook::Answer, store::webhooks::Due};
use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use secrecy::SecretString;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::{TlsAcceptor, rustls};

use super::{Loops, in_state, quick, receiver, some_deliveries, wait_until};
use crate::{
    cli::Cli,
    queue::Queue,
    support::{TestDb, receiver::Receiver, receiver::Reply, wait_until as wait, worker, world::World},
};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo=";

fn due(url: &str, allow_private: bool) -> Due {
    Due {
        id: 1,
        webhook_id: 1,
        dedupe_key: "test:1".to_owned(),
        tries: 1,
        body: "{}".to_owned(),
        url: SecretString::from(url),
        secret: SecretString::from(SECRET),
        allow_private,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_form_of_an_address_of_this_machine_is_connected_to() {
    let there = receiver().await;
    let poster = Poster::new(Duration::from_secs(10));
    let port = there.port;
    for (host, kind) in [
        ("127.0.0.1", "loopback"),
        ("2130706433", "loopback"),
        ("0x7f000001", "loopback"),
        ("0177.0.0.1", "loopback"),
        ("127.1", "loopback"),
        ("0", "unspecified"),
        ("[::1]", "loopback"),
        ("[::ffff:127.0.0.1]", "loopback"),
        ("[::ffff:7f00:1]", "loopback"),
        ("[64:ff9b::127.0.0.1]", "loopback"),
        // By name: what it leads to counts.
        ("localhost", "loopback"),
        ("LOCALHOST", "loopback"),
        ("169.254.169.254", "link-local"),
    ] {
        for scheme in ["https", "http"] {
            let answer = poster.post(&due(&format!("{scheme}://{host}:{port}/x"), false)).await;
            let Answer::Nothing { why } = answer else { panic!("{host}: {answer:?}") };
            assert!(why.contains(kind) || (scheme == "http" && why.contains("not encrypted")), "{host}: {why}");
        }
    }
    assert_eq!(there.connections(), 0);
    // Where it was allowed it goes there, by name too.
    let answer = poster.post(&due(&format!("http://localhost:{port}/x"), true)).await;
    assert!(matches!(answer, Answer::Status { status: 204, .. }), "{answer:?}");
    // And a row that was written past the command is looked at again.
    let q = Queue::new().await;
    q.sql(&format!("INSERT INTO millhand.webhooks (url, secret) VALUES ('https://localhost:{port}/x', '{SECRET}')"))
        .await;
    some_deliveries(&q, 1, 1).await;
    let loops = Loops::start(&q.store, quick());
    wait_until("it is given up", async || in_state(&q, "dead").await == 1).await;
    loops.stop().await;
    let error: String = q.one("SELECT last_error FROM millhand.deliveries").await;
    assert!(error.contains("loopback"), "{error}");
    assert_eq!(there.connections(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_of_the_environment_are_not_used() -> Result<()> {
    let (there, proxy) = (receiver().await, receiver().await);
    let cli = Cli::new().await?;
    let added = cli.run(&["webhook", "add", &there.url(), "--allow-private"]).await?;
    assert_eq!(added.code, 0, "{}", added.stderr);
    let mut command = cli.command(&["webhook", "test", "wh1"]);
    let address = format!("http://127.0.0.1:{}", proxy.port);
    for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
        command.env(name, &address);
    }
    let status = command.status().await?;
    assert!(status.success());
    assert_eq!((there.posts().len(), proxy.connections()), (1, 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_with_tls_needs_a_certificate_that_this_machine_trusts() -> Result<()> {
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(vec!["localhost".to_owned()])?.signed_by(&key, &ca)?;
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = listener.local_addr()?.port();
    let serving = tokio::spawn(async move {
        let mut served = 0;
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut bytes = vec![0; 65_536];
            if stream.read(&mut bytes).await.unwrap_or(0) > 0 {
                served += 1;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                let _ = stream.shutdown().await;
            }
        }
        served
    });
    let cli = Cli::new().await?;
    let roots = cli.folder().join("ca.pem");
    std::fs::write(&roots, ca.pem())?;
    let url = format!("https://localhost:{port}/x");
    assert_eq!(cli.run(&["webhook", "add", &url, "--allow-private"]).await?.code, 0);
    let mut trusts = cli.command(&["webhook", "test", "wh1"]);
    assert!(trusts.env("SSL_CERT_FILE", &roots).status().await?.success());
    let other = rcgen::generate_simple_self_signed(vec!["example.com".to_owned()])?;
    std::fs::write(&roots, other.cert.pem())?;
    let mut does_not = cli.command(&["webhook", "test", "wh1"]);
    let output = does_not.env("SSL_CERT_FILE", &roots).output().await?;
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("TLS") && text.contains("certificate"), "{text}");
    serving.abort();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_tells_what_failed_and_logs_no_secret() -> Result<()> {
    let world = World::new(&[("fails", r#"[{"type": "text", "content": "done"}, {"type": "done"}]"#)]).await?;
    let there = Receiver::answering(|number, _| match number {
        0 => Reply::Status(500, String::new(), "canary-in-answer".to_owned()),
        _ => Reply::status(200),
    })
    .await?;
    let client = world.db.client().await?;
    client
        .batch_execute(&format!(
            "INSERT INTO millhand.webhooks (url, secret, allow_private) VALUES ('{}', '{SECRET}', true); \
             INSERT INTO millhand.tasks (project, prompt, model) VALUES ('acme', 'canary-in-prompt', 'no/such-model')",
            there.url()
        ))
        .await?;
    let variables = [
        ("MILLHAND_LOG_LEVEL", "millhand=trace,hyper=trace,rustls=trace,info"),
        ("MILLHAND_TIMINGS_WEBHOOK_BACKOFF", "100ms"),
    ];
    let mut process = worker::start(&world, &variables)?;
    wait("it is posted twice", Duration::from_secs(120), async || there.posts().len() == 2).await?;
    let delivered = "SELECT count(*) FROM millhand.deliveries WHERE state = 'delivered'";
    wait("it is noted", Duration::from_secs(60), async || {
        client.query_one(delivered, &[]).await.is_ok_and(|row| row.get::<_, i64>(0) == 1)
    })
    .await?;
    process.kill().await?;
    let log = worker::log(&world);
    assert!(log.contains("posted again later"), "{log}");
    let key = SECRET.trim_start_matches("whsec_").trim_end_matches('=');
    for canary in [SECRET, key, "canary-in-url", "canary-in-answer"] {
        assert!(!log.contains(canary), "{canary} in {log}");
    }
    for post in there.posts() {
        assert!(!post.body.contains("canary-in-prompt"), "{}", post.body);
    }
    Ok(())
}

#[tokio::test]
async fn the_database_too_refuses_what_cannot_be_posted_to() {
    let db = TestDb::new().await.expect("database");
    let client = db.client().await.expect("client");
    for values in [
        format!("('http://example.com/', '{SECRET}')"),
        format!("('ftp://example.com/', '{SECRET}')"),
        "('https://example.com/', 'geheim')".to_owned(),
        "('https://example.com/', 'whsec_MfKQ')".to_owned(),
    ] {
        let sql = format!("INSERT INTO millhand.webhooks (url, secret) VALUES {values}");
        assert!(client.batch_execute(&sql).await.is_err(), "{values}");
    }
}
