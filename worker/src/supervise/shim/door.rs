//! The shim's door: a socket where the next worker of the home finds it, should its own one die.
//!
//! Whoever comes has to show the home's key first, within a moment; everyone else is sent away without a word. What is behind the door
//! is worth it: the password of the child's server, and its life.

use std::{fs, io, os::unix::fs::PermissionsExt, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{Input, read_request};
use crate::supervise::{
    doors::{open_folder, short_path},
    wire::{self, Door, Event, Knock, Left, Request},
};

/// How long a visitor may take to show the key.
const KEY_WITHIN: Duration = Duration::from_secs(2);
/// Longest first line of a visitor, in bytes.
const KNOCK_BYTES: u64 = 512;
/// How long one with the key may take to say what it wants.
const DECIDE_WITHIN: Duration = Duration::from_secs(10);
/// Visitors at once; more are sent away.
const VISITORS: usize = 8;

/// A visitor that has the key and wants to be the worker.
pub(super) struct Successor {
    pub(super) alive: crate::supervise::Alive,
    pub(super) requests: BufReader<OwnedReadHalf>,
    pub(super) events: OwnedWriteHalf,
}

/// The open door; dropping it closes it.
pub(super) struct OpenDoor {
    socket: PathBuf,
}

impl Drop for OpenDoor {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.socket);
    }
}

/// Opens it. What visitors ask comes in by `inputs`.
pub(super) fn open(door: &Door, inputs: mpsc::Sender<Input>) -> Result<OpenDoor> {
    let folder = open_folder(&door.folder).with_context(|| format!("open {}", door.folder.display()))?;
    let socket = door.folder.join(&door.name);
    let listener = UnixListener::bind(short_path(&folder, &door.name)).context("make the socket")?;
    let open = OpenDoor { socket };
    fs::set_permissions(&open.socket, fs::Permissions::from_mode(0o600)).context("close the socket to others")?;
    tokio::spawn(keep(listener, door.key.clone(), inputs));
    Ok(open)
}

async fn keep(listener: UnixListener, key: String, inputs: mpsc::Sender<Input>) {
    let mut visits = tokio::task::JoinSet::new();
    loop {
        let visitor = tokio::select! {
            visitor = listener.accept() => visitor,
            Some(_) = visits.join_next() => continue,
        };
        match visitor {
            Ok((stream, _)) if visits.len() < VISITORS => {
                visits.spawn(visit(stream, key.clone(), inputs.clone()));
            }
            Ok(_) => {}
            // Out of descriptors, perhaps for a moment.
            Err(_) => tokio::time::sleep(KEY_WITHIN).await,
        }
    }
}

/// One visitor, who is sent away unless everything is right.
async fn visit(stream: UnixStream, key: String, inputs: mpsc::Sender<Input>) -> Option<()> {
    let uid = stream.peer_cred().ok()?.uid();
    if uid != rustix::process::geteuid().as_raw() {
        return None;
    }
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let knock = timeout(KEY_WITHIN, read_knock(&mut reader)).await.ok()?.ok()?;
    if !is_same(knock.key.as_bytes(), key.as_bytes()) {
        return None;
    }
    let (answer, left) = oneshot::channel();
    inputs.send(Input::Asked(answer)).await.ok()?;
    let left = Event::Left(Box::new(left.await.ok()?));
    writer.write_all(&wire::line(&left).ok()?).await.ok()?;
    if knock.protocol != wire::PROTOCOL {
        return None;
    }
    match timeout(DECIDE_WITHIN, read_request(&mut reader)).await.ok()?? {
        Request::Adopt(alive) => {
            let successor = Successor { alive, requests: reader, events: writer };
            inputs.send(Input::Succeeded(Box::new(successor))).await.ok()?;
        }
        Request::Stop { grace_ms } => {
            inputs.send(Input::EndedByVisitor { grace_ms, until_gone: writer }).await.ok()?;
        }
        Request::Start(_) | Request::Alive { .. } => {}
    }
    Some(())
}

async fn read_knock(reader: &mut BufReader<OwnedReadHalf>) -> io::Result<Knock> {
    let mut line = String::new();
    reader.take(KNOCK_BYTES).read_line(&mut line).await?;
    Ok(serde_json::from_str(&line)?)
}

/// Compares in a time that does not tell how much of it is right.
fn is_same(given: &[u8], wanted: &[u8]) -> bool {
    let differing = given.iter().zip(wanted).fold(0, |differing, (one, other)| differing | (one ^ other));
    given.len() == wanted.len() && !wanted.is_empty() && differing == 0
}

/// What a visitor is told.
pub(super) fn describe(shim: &super::Shim) -> Left {
    Left {
        protocol: wire::PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        name: shim.name.clone(),
        pid: shim.child.as_raw_nonzero().get().unsigned_abs(),
        marker: shim.marker.clone(),
        kill_grace_ms: wire::millis(shim.grace),
        hand_over: shim.hand_over.clone(),
        turns: shim.turns.clone(),
        adopted: shim.adopted.clone(),
        ending: shim.ending.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::is_same;

    #[test]
    fn only_the_whole_key_is_the_key() {
        assert!(is_same(b"key", b"key"));
        for wrong in [&b""[..], b"k", b"kex", b"keyy", b"KEY"] {
            assert!(!is_same(wrong, b"key"), "{wrong:?}");
        }
        assert!(!is_same(b"", b""), "no key opens nothing");
    }
}
