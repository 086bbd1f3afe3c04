//! A peer of a swarm as `dfdaemon` is one, for tests that have none: a forward proxy that shares whole pieces of blobs. What it does, and
//! does wrong, was seen with `dragonfly-client` 1.5.10.

use crate::http::{Manner, Reply, Request, Server};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::sync::Arc;

/// What a peer does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swarm {
    /// Asks the origin for whole pieces, each once.
    Shares,
    /// Passes on what it is asked: ranges that are short for its policy, or no scheduler.
    PassesOn,
    /// Answers in this manner, out of what the origin says.
    Misbehaves(Manner),
}

/// The peer.
#[derive(Debug)]
pub struct Peer {
    server: Server,
    swarm: Arc<Mutex<Swarm>>,
}

impl Peer {
    /// A peer whose pieces have this many bytes.
    pub fn start(piece: usize) -> Self {
        let swarm = Arc::new(Mutex::new(Swarm::Shares));
        let now = Arc::clone(&swarm);
        let pieces: Mutex<HashMap<(String, usize), Bytes>> = Mutex::default();
        let server = Server::start(move |request| {
            let swarm = *now.lock();
            match swarm {
                Swarm::Shares => shared(request, piece, &pieces),
                Swarm::PassesOn => ask(request, None),
                Swarm::Misbehaves(manner) => {
                    manner.reply(request, ask(request, Some(0..usize::MAX)).blob().as_ref())
                }
            }
        });
        Self { server, swarm }
    }

    /// Changes what it does from now on.
    pub fn set(&self, swarm: Swarm) {
        *self.swarm.lock() = swarm;
    }

    /// The server itself.
    pub fn server(&self) -> &Server {
        &self.server
    }
}

impl Reply {
    /// The body of a success.
    fn blob(&self) -> Option<Bytes> {
        matches!(self.status, 200 | 206).then(|| self.body.clone())
    }
}

/// The range that `request` wants, out of pieces that are here or are fetched now. One blob is one task, by whatever range it is asked.
fn shared(request: &Request, piece: usize, pieces: &Mutex<HashMap<(String, usize), Bytes>>) -> Reply {
    let Some((first, end)) = request.range() else { return ask(request, None) };
    let mut found = Vec::new();
    let mut size = String::new();
    for n in first / piece..end.div_ceil(piece) {
        let known = pieces.lock().get(&(request.target.clone(), n)).cloned();
        let bytes = known.or_else(|| {
            let fetched = ask(request, Some(n * piece..(n + 1) * piece)).blob()?;
            pieces.lock().insert((request.target.clone(), n), fetched.clone());
            Some(fetched)
        });
        // No origin, no error: a success without a byte.
        let Some(bytes) = bytes else { return Manner::Empty.reply(request, None) };
        found.extend_from_slice(&bytes);
        size = "*".to_owned();
    }
    let skip = first % piece;
    let body = found.get(skip..(skip + end - first).min(found.len())).unwrap_or(&[]).to_vec();
    let range = format!("bytes {first}-{}/{size}", first + body.len().saturating_sub(1));
    Reply::status(206).header("Content-Range", range).body(body)
}

/// Asks the origin that `request` names, for `range` in place of the one there. An origin that is away is 502.
fn ask(request: &Request, range: Option<Range<usize>>) -> Reply {
    fetch(request, range).unwrap_or_else(|| Reply::status(502))
}

fn fetch(request: &Request, range: Option<Range<usize>>) -> Option<Reply> {
    let (host, path) = request.target.strip_prefix("http://")?.split_once('/')?;
    let address: SocketAddr = host.parse().ok()?;
    let range = match range {
        Some(range) if range.end == usize::MAX => String::new(),
        Some(range) => format!("Range: bytes={}-{}\r\n", range.start, range.end - 1),
        None => format!("Range: {}\r\n", request.header("range")),
    };
    let mut stream = TcpStream::connect(address).ok()?;
    stream.write_all(format!("GET /{path} HTTP/1.1\r\nHost: {host}\r\n{range}\r\n").as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(answer.get(..end)?).ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let fields = head.split("\r\n").filter_map(|line| line.split_once(": "));
    let field =
        fields.filter(|(name, _)| *name == "Content-Range").map(|(name, value)| (name.into(), value.into()));
    let body = answer.get(end + 4..)?.to_vec();
    Some(Reply { headers: field.collect(), ..Reply::status(status).body(body) })
}
