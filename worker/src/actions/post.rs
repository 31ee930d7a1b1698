//! Posting to a webhook: on a connection made for this one post, to an address that was looked at.
//!
//! The host's name is resolved once, and the connection goes to what came of that: a name server cannot say one thing to the check and
//! another to the connection. There is no proxy, no redirect is followed, nothing is kept between posts, and what a receiver
//! sends is read no further than its beginning.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1,
    header::{CONTENT_TYPE, HOST, HeaderMap, RETRY_AFTER, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, crypto::ring, pki_types::ServerName};
use secrecy::ExposeSecret as _;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use url::{Host, Position};

use crate::{
    model::webhook::{Answer, Key, Target},
    store::webhooks::Due,
};

/// Addresses of a name that are tried.
const ADDRESSES: usize = 4;
/// A connection may take so small a part of a post's time, so that there is some left for the name's other addresses.
const CONNECTS: u32 = 3;
/// What a receiver's headers may take.
const HEADER_BYTES: usize = 64 * 1024;
/// How much of an answer that is no success is read.
const ANSWER_BYTES: usize = 4096;
/// How much of it is kept.
const SAYS_CHARS: usize = 300;

/// Posts deliveries.
#[derive(Clone)]
pub struct Poster {
    /// None: this machine trusts nobody, for this reason.
    tls: Result<TlsConnector, String>,
    timeout: Duration,
}

impl Poster {
    /// Posts that take at most so long, to receivers that this machine's certificates vouch for.
    pub fn new(timeout: Duration) -> Self {
        let provider = Arc::new(ring::default_provider());
        let tls = rustls_platform_verifier::Verifier::new(provider.clone()).map_err(|error| error.to_string());
        let tls = tls.map(|verifier| {
            let mut config = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap_or_else(|_| unreachable!("ring has suites for TLS 1.2 and 1.3"))
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier))
                .with_no_client_auth();
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            TlsConnector::from(Arc::new(config))
        });
        Self { tls, timeout }
    }

    /// How long a delivery is its poster's: longer than a post can take.
    pub fn lease(&self) -> Duration {
        self.timeout * 2 + Duration::from_secs(15)
    }

    /// Posts, once.
    pub async fn post(&self, due: &Due) -> Answer {
        let posted = async { tokio::time::timeout(self.timeout, self.try_post(due)).await };
        match posted.await {
            Ok(Ok(answer)) => answer,
            Ok(Err(why)) => Answer::Nothing { why },
            Err(_) => Answer::Nothing { why: format!("no answer within {} s", self.timeout.as_secs_f64()) },
        }
    }

    async fn try_post(&self, due: &Due) -> Result<Answer, String> {
        let target = Target::parse(due.url.expose_secret(), due.allow_private)?;
        let key = Key::parse(due.secret.expose_secret()).ok_or("its secret cannot be read")?;
        let request = request(&target, &key, due)?;
        let stream = connect(&target, self.timeout / CONNECTS).await?;
        if !target.is_encrypted {
            return exchange(stream, request).await;
        }
        let name = match &target.host {
            Host::Domain(name) => ServerName::try_from(name.clone()).map_err(|error| error.to_string())?,
            Host::Ipv4(address) => ServerName::from(IpAddr::from(*address)),
            Host::Ipv6(address) => ServerName::from(IpAddr::from(*address)),
        };
        let tls = self.tls.as_ref().map_err(|error| format!("TLS: {error}"))?;
        exchange(tls.connect(name, stream).await.map_err(|error| format!("TLS: {error}"))?, request).await
    }
}

/// Connects to what the host's name leads to now, if all of it is where this webhook may go.
async fn connect(target: &Target, within: Duration) -> Result<TcpStream, String> {
    let addresses: Vec<SocketAddr> = match &target.host {
        Host::Ipv4(address) => vec![(*address, target.port).into()],
        Host::Ipv6(address) => vec![(*address, target.port).into()],
        Host::Domain(name) => tokio::net::lookup_host((name.as_str(), target.port))
            .await
            .map_err(|error| format!("{name} cannot be resolved: {error}"))?
            .collect(),
    };
    for address in &addresses {
        target.check(address.ip())?;
    }
    let mut why = format!("{} has no address", target.host);
    for address in addresses.into_iter().take(ADDRESSES) {
        match tokio::time::timeout(within, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => why = format!("cannot connect to {address}: {error}"),
            Err(_) => why = format!("cannot connect to {address} within {} s", within.as_secs_f64()),
        }
    }
    Err(why)
}

fn request(target: &Target, key: &Key, due: &Due) -> Result<Request<Full<Bytes>>, String> {
    let timestamp = Utc::now().timestamp();
    Request::post(&target.url[Position::BeforePath..])
        .header(HOST, &target.url[Position::BeforeHost..Position::AfterPort])
        .header(CONTENT_TYPE, "application/json")
        .header(USER_AGENT, concat!("millhand/", env!("CARGO_PKG_VERSION")))
        .header("webhook-id", &due.dedupe_key)
        .header("webhook-timestamp", timestamp)
        .header("webhook-signature", key.sign(&due.dedupe_key, timestamp, &due.body))
        .body(Full::new(Bytes::from(due.body.clone())))
        .map_err(|error| error.to_string())
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send,
    request: Request<Full<Bytes>>,
) -> Result<Answer, String> {
    let broken = |error: hyper::Error| format!("no answer: {error}");
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEADER_BYTES);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let talk = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        Ok(read(response).await)
    };
    tokio::pin!(talk, connection);
    tokio::select! {
        biased;
        answer = &mut talk => answer,
        // It may have closed after its answer, which is there to be read.
        _ = &mut connection => talk.await,
    }
}

async fn read(response: Response<Incoming>) -> Answer {
    let status = response.status();
    let retry_after = retry_after(response.headers(), Utc::now());
    let says = if status.is_success() { String::new() } else { beginning(response).await };
    Answer::Status { status: status.as_u16(), retry_after, says }
}

/// The beginning of an answer, in words.
async fn beginning(response: Response<Incoming>) -> String {
    let reason = if response.status().is_redirection() {
        Some("redirects are not followed")
    } else if response.status() == StatusCode::GONE {
        Some("it wants no more posts")
    } else {
        None
    };
    if let Some(reason) = reason {
        return reason.to_owned();
    }
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while bytes.len() < ANSWER_BYTES {
        match body.frame().await {
            Some(Ok(frame)) => bytes.extend(frame.into_data().unwrap_or_default()),
            Some(Err(_)) | None => break,
        }
    }
    bytes.truncate(ANSWER_BYTES);
    let text = String::from_utf8_lossy(&bytes);
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(SAYS_CHARS).collect()
}

/// How long the receiver asks to be left alone.
fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    (DateTime::parse_from_rfc2822(text).ok()?.to_utc() - now).to_std().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_in_both_forms() {
        let now = "2026-01-02T03:04:05Z".parse().expect("time");
        let read = |text: &'static str| {
            retry_after(&HeaderMap::from_iter([(RETRY_AFTER, text.parse().expect("header"))]), now).map(|d| d.as_secs())
        };
        assert_eq!(read("120"), Some(120));
        assert_eq!(read("Fri, 02 Jan 2026 03:05:05 GMT"), Some(60));
        for nothing in ["Thu, 01 Jan 2026 00:00:00 GMT", "-1", "soon", ""] {
            assert_eq!(read(nothing), None, "{nothing}");
        }
        assert_eq!(read("99999999999999999999"), None);
    }
}
