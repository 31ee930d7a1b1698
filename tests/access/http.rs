//! The HTTP API, asked by those who may and by those who may not.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use millhand::{
    actions::{self, WhichToken},
    api::{self, Route},
    model::{
        access::{Scope, may},
        ids::TokenId,
    },
    store::Store,
};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, header};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::server::Server;

const HOUR: Duration = Duration::from_secs(3600);

/// A client that follows nothing, from an address of this machine of its own: wrong tokens are counted by address.
fn client_from(last: usize) -> Result<Client> {
    let from = [127, 0, u8::try_from(last / 250 + 1)?, u8::try_from(last % 250 + 1)?];
    Ok(Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .local_address(std::net::IpAddr::from(from))
        .timeout(Duration::from_secs(30))
        .build()?)
}

async fn token(store: &Store, name: &str, scopes: &[Scope]) -> Result<(TokenId, String)> {
    let (row, secret) = actions::add_token(store, name, scopes, None).await?;
    Ok((TokenId(row.id), secret.expose_secret().to_owned()))
}

/// A request of a route, for things that are not there.
fn request(client: &Client, server: &Server, route: &Route) -> RequestBuilder {
    let parts = route.path.split('/').map(|part| if part.starts_with('{') { "999999" } else { part });
    let path = parts.collect::<Vec<_>>().join("/");
    let method = Method::from_bytes(route.method.as_str().as_bytes()).expect("a method");
    let is_safe = method.is_safe();
    let request = client.request(method, server.url(&path));
    if is_safe { request } else { request.header(header::CONTENT_TYPE, "application/json").body("{\"nothing\": 1}") }
}

async fn problem(answer: Response) -> Result<Value> {
    let kind = answer.headers().get(header::CONTENT_TYPE).context("Content-Type")?.to_str()?.to_owned();
    ensure!(kind == "application/problem+json", "{kind}");
    Ok(answer.json().await?)
}

fn check_headers(what: &str, answer: &Response) {
    let headers = answer.headers();
    let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().expect("text");
    assert!(policy.contains("default-src 'none'") && policy.contains("script-src 'self'"), "{what}: {policy}");
    assert!(!policy.contains("unsafe") && policy.contains("frame-ancestors 'none'"), "{what}: {policy}");
    assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff", "{what}");
    assert_eq!(headers[header::REFERRER_POLICY], "no-referrer", "{what}");
    assert_eq!(headers["cross-origin-resource-policy"], "same-origin", "{what}");
    assert!(headers.contains_key(header::CACHE_CONTROL), "{what}");
    let cors: Vec<_> = headers.keys().filter(|name| name.as_str().starts_with("access-control")).collect();
    assert!(cors.is_empty(), "{what}: {cors:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_route_takes_its_scope_and_nothing_else_will_do() -> Result<()> {
    let server = Server::start().await?;
    let mut holders = Vec::new();
    for scope in Scope::ALL {
        holders.push((Some(scope), token(&server.store, scope.as_str(), &[scope]).await?.1));
    }
    let (revoked, secret) = token(&server.store, "revoked", &[Scope::Admin]).await?;
    actions::revoke_token(&server.store, &WhichToken::Id(revoked)).await?;
    holders.push((None, secret));
    holders.push((None, token(&server.store, "expired", &[Scope::Admin]).await?.1));
    let sql = "UPDATE millhand.api_tokens SET expires_at = clock_timestamp() WHERE name = 'expired'";
    server.db.client().await?.execute(sql, &[]).await?;
    holders.push((None, format!("mh_{}", "A".repeat(43))));
    holders.push((None, "mh_short".to_owned()));

    let routes = api::routes();
    assert!(routes.len() > 30, "{}", routes.len());
    let open: BTreeSet<_> =
        routes.iter().filter(|route| route.scope.is_none()).map(|route| route.path.as_str()).collect();
    assert!(open.is_subset(&BTreeSet::from(["/healthz", "/readyz", "/login"])), "{open:?}");
    for (number, route) in routes.iter().enumerate() {
        let client = client_from(number)?;
        let what = format!("{} {}", route.method, route.path);
        assert!(
            route.method.is_safe() || route.scope != Some(Scope::Read) || route.path == "/api/logout",
            "{what} only reads?"
        );
        let answer = request(&client, &server, route).send().await?;
        check_headers(&what, &answer);
        let Some(wanted) = route.scope else {
            let is_login = route.path == "/login";
            assert_eq!(answer.status() == StatusCode::UNAUTHORIZED, is_login, "{what}");
            continue;
        };
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{what} without a token");
        assert!(answer.headers()[header::WWW_AUTHENTICATE].to_str()?.starts_with("Bearer"), "{what}");
        assert_eq!(problem(answer).await?["type"], "urn:millhand:unauthorized", "{what}");
        for (has, secret) in &holders {
            if route.path == "/api/logout" && has.is_some_and(|has| may(&[has], wanted)) {
                continue;
            }
            let answer = request(&client, &server, route).bearer_auth(secret).send().await?;
            check_headers(&what, &answer);
            let status = answer.status();
            match has {
                None => assert_eq!(status, StatusCode::UNAUTHORIZED, "{what} with {secret}"),
                Some(has) if may(&[*has], wanted) => {
                    let refused = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::TOO_MANY_REQUESTS];
                    assert!(
                        !refused.contains(&status) && status != StatusCode::INTERNAL_SERVER_ERROR,
                        "{what} with {has}: {status}"
                    );
                }
                Some(has) => {
                    assert_eq!(status, StatusCode::FORBIDDEN, "{what} with {has}");
                    assert_eq!(problem(answer).await?["scope"], wanted.as_str(), "{what} with {has}");
                }
            }
        }
    }
    // What is no route says nothing to strangers either, and a method that a route does not take is no way around its scope.
    let client = client_from(routes.len())?;
    for (method, path) in [
        (Method::GET, "/api/nothing"),
        (Method::GET, "/api"),
        (Method::OPTIONS, "/api/tasks"),
        (Method::PUT, "/api/tasks"),
        (Method::POST, "/"),
        (Method::HEAD, "/api/tasks"),
        (Method::GET, "/api/tasks/"),
    ] {
        let answer = client.request(method.clone(), server.url(path)).send().await?;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{method} {path}");
        check_headers(path, &answer);
    }
    server.stop().await;
    Ok(())
}

/// The status that a request as it stands is answered with.
async fn raw(address: SocketAddr, request: &str) -> Result<u16> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await??;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    Ok(answer.split(' ').nth(1).context(answer.clone())?.parse()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_not_ours_is_refused_even_with_a_token() -> Result<()> {
    let server = Server::start().await?;
    let (_, secret) = token(&server.store, "admin", &[Scope::Admin]).await?;
    let port = server.address.port();
    for (hosts, expected) in [
        (vec![format!("127.0.0.1:{port}")], 200),
        (vec![format!("localhost:{port}")], 200),
        (vec!["LOCALHOST".to_owned()], 200),
        (vec!["[::1]".to_owned()], 200),
        (vec!["mill.example.org".to_owned()], 200),
        // A page whose name was made to lead here (DNS rebinding).
        (vec![format!("evil.example.com:{port}")], 421),
        (vec!["127.0.0.1.nip.io".to_owned()], 421),
        (vec!["localhost.evil.example.com".to_owned()], 421),
        (vec!["10.0.0.7".to_owned()], 421),
        (vec![String::new()], 421),
        (vec![], 400),
        (vec!["localhost".to_owned(), "evil.example.com".to_owned()], 400),
    ] {
        for path in ["/api/me", "/healthz"] {
            let lines: String = hosts.iter().map(|host| format!("Host: {host}\r\n")).collect();
            let request =
                format!("GET {path} HTTP/1.1\r\n{lines}Authorization: Bearer {secret}\r\nConnection: close\r\n\r\n");
            assert_eq!(raw(server.address, &request).await?, expected, "{path} as {hosts:?}");
        }
    }
    let absolute = format!(
        "GET http://evil.example.com/api/me HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {secret}\r\nConnection: close\r\n\r\n"
    );
    assert_eq!(raw(server.address, &absolute).await?, 421, "named in the first line");
    let forwarded = format!(
        "GET /api/me HTTP/1.1\r\nHost: evil.example.com\r\nX-Forwarded-Host: localhost\r\nAuthorization: Bearer {secret}\r\nConnection: close\r\n\r\n"
    );
    assert_eq!(raw(server.address, &forwarded).await?, 421, "what others say of the name does not count");
    server.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_becomes_a_cookie_once_and_pages_of_others_cannot_use_it() -> Result<()> {
    let server = Server::start().await?;
    let client = client_from(0)?;
    let code = actions::add_login_code(&server.store, "ada", &[Scope::Admin], HOUR).await?;
    let link = server.url(&format!("/login?code={}", code.expose_secret()));
    let first = client.get(&link).send().await?;
    check_headers("login", &first);
    assert_eq!(
        (first.status(), &first.headers()[header::LOCATION]),
        (StatusCode::SEE_OTHER, &header::HeaderValue::from_static("/"))
    );
    let set = first.headers()[header::SET_COOKIE].to_str()?.to_owned();
    for part in ["millhand_session=", "; Path=/", "; HttpOnly", "; SameSite=Strict", "; Max-Age=2592000"] {
        assert!(set.contains(part), "{set}");
    }
    let cookie = set.split(';').next().context("cookie")?;
    let again = client.get(&link).send().await?;
    check_headers("login again", &again);
    assert_eq!((again.status(), again.headers().get(header::SET_COOKIE)), (StatusCode::UNAUTHORIZED, None));
    let page = again.text().await?;
    assert!(page.contains("millhand token login") && !page.contains("<script") && !page.contains("style="), "{page}");
    let reloaded = client.get(&link).header(header::COOKIE, cookie).send().await?;
    assert_eq!(reloaded.status(), StatusCode::SEE_OTHER, "who is logged in may load the page again");

    let late = actions::add_login_code(&server.store, "ada", &[Scope::Admin], HOUR).await?;
    let sql = "UPDATE millhand.login_codes SET expires_at = clock_timestamp() WHERE used_at IS NULL";
    server.db.client().await?.execute(sql, &[]).await?;
    let late = client.get(server.url(&format!("/login?code={}", late.expose_secret()))).send().await?;
    assert_eq!(late.status(), StatusCode::UNAUTHORIZED);
    for _ in 0..5 {
        let code = actions::add_login_code(&server.store, "raced", &[Scope::Read], HOUR).await?;
        let link = server.url(&format!("/login?code={}", code.expose_secret()));
        let (one, two) = tokio::join!(client.get(&link).send(), client.get(&link).send());
        let statuses = BTreeSet::from([one?.status(), two?.status()]);
        assert_eq!(statuses, BTreeSet::from([StatusCode::SEE_OTHER, StatusCode::UNAUTHORIZED]));
    }

    let own = server.url("");
    let get = || client.get(server.url("/api/me")).header(header::COOKIE, cookie);
    let me: Value = get().send().await?.json().await?;
    assert_eq!((&me["name"], &me["scopes"]), (&"ada".into(), &serde_json::json!(["admin"])));
    let post = || {
        let body = "{\"name\": \"made\", \"scopes\": [\"read\"]}";
        let request = client.post(server.url("/api/tokens")).header(header::COOKIE, cookie);
        request.header(header::CONTENT_TYPE, "application/json").body(body)
    };
    let port = server.address.port();
    for (origin, site) in [
        (None, None),
        (Some("http://evil.example.com".to_owned()), Some("cross-site")),
        (Some("null".to_owned()), None),
        // A server of an agent's on this machine.
        (Some(format!("http://127.0.0.1:{}", port ^ 1)), Some("same-site")),
        (Some(format!("http://localhost:{port}")), None),
        (None, Some("same-site")),
        (None, Some("none")),
    ] {
        let mut request = post();
        for (name, value) in [("origin", origin.clone()), ("sec-fetch-site", site.map(str::to_owned))] {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        let answer = request.send().await?;
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{origin:?} {site:?}");
        assert_eq!(problem(answer).await?["type"], "urn:millhand:cross_origin");
    }
    let foreign = get().header("sec-fetch-site", "same-site").header("sec-fetch-mode", "no-cors").send().await?;
    assert_eq!(foreign.status(), StatusCode::FORBIDDEN, "nor reads");
    assert_eq!(server.one::<i64>("SELECT count(*) FROM millhand.api_tokens WHERE kind = 'token'").await?, 0);
    assert_eq!(post().header("origin", &own).send().await?.status(), StatusCode::CREATED);

    let out =
        client.post(server.url("/api/logout")).header(header::COOKIE, cookie).header("origin", &own).send().await?;
    assert_eq!(out.status(), StatusCode::OK);
    assert!(out.headers()[header::SET_COOKIE].to_str()?.contains("Max-Age=0"));
    assert_eq!(get().send().await?.status(), StatusCode::UNAUTHORIZED);
    server.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_and_too_often_are_refused_and_said_when_to_come_again() -> Result<()> {
    let server = Server::start().await?;
    let client = client_from(0)?;
    let (_, secret) = token(&server.store, "busy", &[Scope::Admin]).await?;
    let post = |body: reqwest::Body| {
        let request = client.post(server.url("/api/tokens")).bearer_auth(&secret);
        request.header(header::CONTENT_TYPE, "application/json").body(body).send()
    };
    let large = format!("{{\"name\": \"{}\", \"scopes\": []}}", "x".repeat(4 * 1024 * 1024));
    let answer = post(large.clone().into()).await?;
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(problem(answer).await?["type"], "urn:millhand:payload_too_large");
    // Without saying how much there is.
    let mut chunked = TcpStream::connect(server.address).await?;
    let head = format!(
        "POST /api/tokens HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {secret}\r\nContent-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n{:x}\r\n",
        large.len()
    );
    chunked.write_all(head.as_bytes()).await?;
    // The server may hang up before it has all.
    let _ = chunked.write_all(large.as_bytes()).await;
    let _ = chunked.write_all(b"\r\n0\r\n\r\n").await;
    let mut answer = vec![0; 12];
    tokio::time::timeout(Duration::from_secs(10), chunked.read_exact(&mut answer)).await??;
    assert_eq!(String::from_utf8_lossy(&answer), "HTTP/1.1 413");

    // A stranger who tries tokens is told to wait, and keeps nobody out.
    let wrong = || client.get(server.url("/api/me")).bearer_auth(format!("mh_{}", "A".repeat(43))).send();
    let mut refused = None;
    for _ in 0..60 {
        let answer = wrong().await?;
        if answer.status() == StatusCode::TOO_MANY_REQUESTS {
            refused = Some(answer);
            break;
        }
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    }
    let refused = refused.context("never told to wait")?;
    check_headers("wrong tokens", &refused);
    let link = client.get(server.url("/login?code=wrong")).send().await?;
    assert_eq!(link.status(), StatusCode::TOO_MANY_REQUESTS, "wrong links count, too");
    let wait: u64 = refused.headers()[header::RETRY_AFTER].to_str()?.parse()?;
    assert!((1..=2).contains(&wait), "{wait}");
    let mine = || client.get(server.url("/api/me")).bearer_auth(&secret).send();
    assert_eq!(mine().await?.status(), StatusCode::OK, "who has a token is not kept out");

    // One who asks without end is told to wait, and nobody else is.
    let (_, other) = token(&server.store, "other", &[Scope::Read]).await?;
    let mut refused = None;
    for _ in 0..100 {
        let answers = futures::future::try_join_all((0..20).map(|_| mine())).await?;
        refused = answers.into_iter().find(|answer| answer.status() == StatusCode::TOO_MANY_REQUESTS);
        if refused.is_some() {
            break;
        }
    }
    let refused = refused.context("never told to wait")?;
    assert_eq!(refused.headers()[header::RETRY_AFTER], "1");
    assert_eq!(problem(refused).await?["type"], "urn:millhand:too_many_requests");
    assert_eq!(client.get(server.url("/api/me")).bearer_auth(&other).send().await?.status(), StatusCode::OK);
    server.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_something_is_noted_with_who_did_it() -> Result<()> {
    let server = Server::start().await?;
    let client = client_from(0)?;
    let (id, secret) = token(&server.store, "ci", &[Scope::Enqueue]).await?;
    let noted = async || -> Result<Vec<(String, Option<i64>, Value)>> {
        let sql = "SELECT who, task_id, details FROM millhand.audit_log WHERE action = 'api_call' ORDER BY id";
        let rows = server.db.client().await?.query(sql, &[]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect())
    };
    server.sql("SELECT millhand.add_project('acme', '/src/acme')").await?;
    let answer = client
        .post(server.url("/api/tasks?note=secret"))
        .bearer_auth(&secret)
        .json(&serde_json::json!({"project": "acme", "prompt": "Do it"}))
        .send()
        .await?;
    ensure!(
        answer.status() == StatusCode::CREATED || answer.status() == StatusCode::BAD_REQUEST,
        "{}",
        answer.text().await?
    );
    let status = answer.status().as_u16();
    let rows = noted().await?;
    assert_eq!(rows.len(), 1);
    let expected = serde_json::json!({"method": "POST", "path": "/api/tasks", "status": status, "token": id.0});
    assert_eq!(rows[0], ("ci".to_owned(), None, expected));
    let (_, admin) = token(&server.store, "boss", &[Scope::Admin]).await?;
    client.post(server.url("/api/tasks/t99/cancel")).bearer_auth(&admin).send().await?;
    let rows = noted().await?;
    assert_eq!((rows[1].0.as_str(), rows[1].1, &rows[1].2["status"]), ("boss", Some(99), &404.into()));
    client.get(server.url("/api/tasks")).bearer_auth(&admin).send().await?;
    client.post(server.url("/api/tasks/t99/cancel")).bearer_auth(&secret).send().await?;
    client.post(server.url("/api/tasks/t99/cancel")).send().await?;
    assert_eq!(noted().await?.len(), 2, "neither what reads nor what was refused at the gate");
    server.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_when_its_reader_may_read_no_more() -> Result<()> {
    let server = Server::start_with(|settings| settings.timings.access_recheck = Duration::from_millis(100)).await?;
    let client = client_from(0)?;
    let (id, secret) = token(&server.store, "reader", &[Scope::Read]).await?;
    let (_, other) = token(&server.store, "other", &[Scope::Read]).await?;
    let follow = async |secret: &str| -> Result<Response> {
        let answer = client.get(server.url("/api/stream")).bearer_auth(secret).send().await?;
        ensure!(answer.status() == StatusCode::OK, "{}", answer.status());
        Ok(answer)
    };
    let (mut revoked, mut stays) = (follow(&secret).await?, follow(&other).await?);
    check_headers("a stream", &revoked);
    assert!(revoked.chunk().await?.is_some(), "it tells something");
    actions::revoke_token(&server.store, &WhichToken::Id(id)).await?;
    let until_its_end = async {
        while revoked.chunk().await?.is_some() {}
        anyhow::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(20), until_its_end).await.context("it goes on")??;
    let goes_on = async {
        while stays.chunk().await?.is_some() {}
        anyhow::Ok(())
    };
    assert!(tokio::time::timeout(Duration::from_secs(1), goes_on).await.is_err(), "another's goes on");
    server.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_run_scripts_of_ours_alone_and_are_open_without_what_is_in_them() -> Result<()> {
    let server = Server::start().await?;
    let client = client_from(0)?;
    let (_, secret) = token(&server.store, "reader", &[Scope::Read]).await?;
    for path in ["/", "/sessions/7", "/login", "/docs"] {
        let answer = client.get(server.url(path)).bearer_auth(&secret).header("accept", "text/html").send().await?;
        check_headers(path, &answer);
        assert!(answer.headers()[header::CONTENT_TYPE].to_str()?.starts_with("text/html"), "{path}");
        let page = answer.text().await?;
        let inline =
            page.split("<script").skip(1).any(|rest| !rest.split('>').next().is_some_and(|tag| tag.contains("src=")));
        assert!(!inline && !page.contains(" onload=") && !page.contains("javascript:"), "{path}: {page}");
    }
    // The dashboard's files tell nothing; what it shows is asked for, by those who may.
    let open = client.get(server.url("/")).header("accept", "text/html").send().await?;
    assert_ne!(open.status(), StatusCode::UNAUTHORIZED);
    for path in ["/docs", "/openapi.json", "/metrics", "/api/stream", "/api/audit"] {
        assert_eq!(client.get(server.url(path)).send().await?.status(), StatusCode::UNAUTHORIZED, "{path}");
    }
    server.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_in_no_log_no_argument_and_no_row() -> Result<()> {
    let cli = crate::cli::Cli::new().await?;
    let added = cli.run(&["token", "add", "canary", "--scope", "admin", "--json"]).await?.objects().remove(0);
    let token = added["secret"].as_str().context("secret")?.to_owned();
    let mut command = cli.command(&["api", "--listen", "127.0.0.1:0", "--json"]);
    command.env("MILLHAND_LOG_LEVEL", "trace");
    let mut child = command.spawn()?;
    let mut stdout = tokio::io::BufReader::new(child.stdout.take().context("stdout")?);
    let mut line = String::new();
    tokio::io::AsyncBufReadExt::read_line(&mut stdout, &mut line).await?;
    let said: Value = serde_json::from_str(&line)?;
    let url = said["url"].as_str().context(line.clone())?.to_owned();
    let link =
        cli.run(&["token", "login", "--json"]).await?.objects().remove(0)["url"].as_str().context("url")?.to_owned();
    assert!(link.starts_with(&format!("{url}/login?code=")), "{link} at {url}");
    let code = link.split_once('=').context("code")?.1.to_owned();
    let client = client_from(0)?;
    let answer = client.get(&link).send().await?;
    let cookie = answer.headers()[header::SET_COOKIE].to_str()?.split(';').next().context("cookie")?.to_owned();
    assert_eq!(client.get(format!("{url}/api/me")).bearer_auth(&token).send().await?.status(), StatusCode::OK);
    assert_eq!(
        client.get(format!("{url}/api/me")).header(header::COOKIE, &cookie).send().await?.status(),
        StatusCode::OK
    );
    let wrong = format!("{}A", &token[..45]);
    client.get(format!("{url}/api/me")).bearer_auth(&wrong).send().await?;
    let id = child.id().context("pid")?;
    let seen_by_others = ["cmdline", "environ", "status"].map(|name| {
        String::from_utf8_lossy(&std::fs::read(format!("/proc/{id}/{name}")).unwrap_or_default()).into_owned()
    });
    let process = rustix::process::Pid::from_raw(i32::try_from(id)?).context("pid")?;
    rustix::process::kill_process(process, rustix::process::Signal::TERM)?;
    let ended = tokio::time::timeout(Duration::from_secs(30), child.wait_with_output()).await??;
    assert!(ended.status.success(), "{ended:?}");
    let log = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(log.contains("a browser was logged in"), "it logs: {log}");
    let cookie = cookie.split_once('=').context("secret")?.1.to_owned();
    for secret in [&token, &wrong, &code, &cookie].map(|secret| SecretString::from(secret.as_str())) {
        let secret = secret.expose_secret();
        assert!(!log.contains(secret), "in the log");
        assert!(!seen_by_others.iter().any(|text| text.contains(secret)), "in ps");
        assert!(!super::tokens::dump(&cli.db).await?.contains(secret), "in a row");
    }
    Ok(())
}
