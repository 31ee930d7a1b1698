//! A receiver of webhooks: an HTTP server on loopback that keeps what is posted, and answers as it is told.

use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};

/// What was posted.
#[derive(Clone, Debug)]
pub struct Post {
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Post {
    /// A header.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// Its id.
    pub fn id(&self) -> &str {
        self.header("webhook-id")
    }

    /// Its body.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).expect("JSON")
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub enum Reply {
    /// A status with these headers, each with its line's end, and a body.
    Status(u16, String, String),
    /// None, for ever.
    Silence,
    /// A status with a body that does not end.
    Endless(u16),
    /// Headers that do not end.
    EndlessHeaders,
    /// One byte of a body, and no more.
    Stall(u16),
}

impl Reply {
    /// A status.
    pub fn status(status: u16) -> Self {
        Self::Status(status, String::new(), String::new())
    }
}

type Answers = Arc<dyn Fn(usize, &Post) -> Reply + Send + Sync>;

/// The server, gone with all its connections when dropped.
pub struct Receiver {
    pub port: u16,
    posts: Arc<Mutex<Vec<Post>>>,
    connections: Arc<Mutex<usize>>,
    accept: AbortHandle,
}

impl Receiver {
    /// Answers every post with 204.
    pub async fn new() -> Result<Self> {
        Self::answering(|_, _| Reply::status(204)).await
    }

    /// Answers by the number of the post, from 0, and the post.
    pub async fn answering(answer: impl Fn(usize, &Post) -> Reply + Send + Sync + 'static) -> Result<Self> {
        Self::on(0, answer).await
    }

    /// The same, on this port.
    pub async fn on(port: u16, answer: impl Fn(usize, &Post) -> Reply + Send + Sync + 'static) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let port = listener.local_addr()?.port();
        let (posts, connections) = (Arc::<Mutex<Vec<Post>>>::default(), Arc::<Mutex<usize>>::default());
        let answer: Answers = Arc::new(answer);
        let (kept, counted) = (posts.clone(), connections.clone());
        let accept = tokio::spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                *counted.lock().expect("lock") += 1;
                open.spawn(serve_plain(stream, kept.clone(), answer.clone()));
            }
        });
        Ok(Self { port, posts, connections, accept: accept.abort_handle() })
    }

    /// What was posted so far.
    pub fn posts(&self) -> Vec<Post> {
        self.posts.lock().expect("lock").clone()
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        *self.connections.lock().expect("lock")
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook?key=canary-in-url", self.port)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

async fn serve_plain(stream: TcpStream, posts: Arc<Mutex<Vec<Post>>>, answer: Answers) {
    let _ = serve(stream, posts, answer).await;
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    posts: Arc<Mutex<Vec<Post>>>,
    answer: Answers,
) -> Result<()> {
    let post = read_post(&mut stream).await?;
    let number = {
        let mut posts = posts.lock().expect("lock");
        posts.push(post.clone());
        posts.len() - 1
    };
    match answer(number, &post) {
        Reply::Status(status, headers, body) => {
            let length = body.len();
            let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {length}\r\n{headers}\r\n");
            stream.write_all(format!("{head}{body}").as_bytes()).await?;
        }
        Reply::Silence => std::future::pending().await,
        Reply::Endless(status) => {
            stream.write_all(format!("HTTP/1.1 {status} x\r\n\r\n").as_bytes()).await?;
            loop {
                stream.write_all(&[b'x'; 65_536]).await?;
            }
        }
        Reply::EndlessHeaders => {
            stream.write_all(b"HTTP/1.1 200 x\r\n").await?;
            loop {
                stream.write_all(format!("x-y: {}\r\n", "z".repeat(1000)).as_bytes()).await?;
            }
        }
        Reply::Stall(status) => {
            stream.write_all(format!("HTTP/1.1 {status} x\r\ncontent-length: 9\r\n\r\ny").as_bytes()).await?;
            std::future::pending().await
        }
    }
    Ok(())
}

async fn read_post(stream: &mut (impl AsyncRead + Unpin)) -> Result<Post> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        anyhow::ensure!(stream.read_buf(&mut bytes).await? > 0, "closed");
    };
    let head = String::from_utf8(bytes[..end].to_vec())?;
    let mut lines = head.lines();
    let path = lines.next().and_then(|line| line.strip_prefix("POST ")).context("a POST")?;
    let path = path.strip_suffix(" HTTP/1.1").context("HTTP/1.1")?.to_owned();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let mut post = Post { path, headers, body: String::new() };
    let length: usize = post.header("content-length").parse()?;
    while bytes.len() < end + 4 + length {
        anyhow::ensure!(stream.read_buf(&mut bytes).await? > 0, "closed");
    }
    post.body = String::from_utf8(bytes[end + 4..].to_vec())?;
    Ok(post)
}
