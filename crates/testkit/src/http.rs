//! HTTP servers on loopback that hold blobs and answer as a test wants, also as no good server does. One connection is one request.

use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Longest head of a request, in bytes.
const MAX_HEAD: usize = 64 << 10;
/// What hangs lets go after this long, so that no test leaves threads behind for good.
const HANG: Duration = Duration::from_secs(120);

/// What a server was asked.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// `GET`, or the like.
    pub method: String,
    /// As it was sent: a path, to a proxy a whole URL.
    pub target: String,
    headers: HashMap<String, String>,
}

impl Request {
    /// The field `name`, in lower case; empty where it was not sent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// First byte wanted and one past the last. `None`: all of them.
    pub fn range(&self) -> Option<(usize, usize)> {
        let (first, last) = self.header("range").strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse().ok()?, last.parse::<usize>().ok()?.checked_add(1)?))
    }

    /// What is behind the last `sha256:`, or the last slash.
    pub fn blob(&self) -> &str {
        let path = self.target.split('?').next().unwrap_or_default();
        path.rsplit(['/', ':']).next().unwrap_or_default()
    }
}

/// What becomes of the body of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It is sent.
    Whole,
    /// Half of it is sent, then the connection is closed.
    Cut,
    /// Half of it is sent, then nothing more.
    Stalled,
    /// Half of it is sent, then the connection is reset.
    Reset,
    /// One byte at a time, with pauses.
    Dribbling(Duration),
    /// Not even a head is sent.
    Silent,
}

/// What a server says.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Three digits.
    pub status: u16,
    /// Fields beside the length.
    pub headers: Vec<(String, String)>,
    /// What `Content-Length` tells.
    pub body: Bytes,
    /// What becomes of it.
    pub ending: Ending,
}

impl Reply {
    /// Nothing but a status.
    pub fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Bytes::new(), ending: Ending::Whole }
    }

    /// With one more field.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// With this body.
    #[must_use]
    pub fn body(self, body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..self }
    }

    /// The bytes of `blob` that `request` wants, as a good server says it.
    pub fn part(request: &Request, blob: &Bytes) -> Self {
        let Some((first, end)) = request.range() else { return Self::status(200).body(blob.clone()) };
        let size = blob.len();
        let end = end.min(size);
        if first >= end {
            return Self::status(416).header("Content-Range", format!("bytes */{size}"));
        }
        let range = format!("bytes {first}-{}/{size}", end - 1);
        Self::status(206).header("Content-Range", range).body(blob.slice(first..end))
    }

    fn head(&self) -> String {
        let fields = self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
        let fields: String = fields.collect();
        let (status, size) = (self.status, self.body.len());
        format!("HTTP/1.1 {status} x\r\n{fields}Content-Length: {size}\r\nConnection: close\r\n\r\n")
    }
}

type Answer = dyn Fn(&Request) -> Reply + Send + Sync;

/// A server that notes what it is asked. Ends with the value.
pub struct Server {
    address: SocketAddr,
    answer: Arc<Answer>,
    requests: Arc<Mutex<Vec<Request>>>,
    down: Arc<AtomicBool>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Server {
    /// Answers each request by `answer`.
    pub fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let answer: Arc<Answer> = Arc::new(answer);
        let server = Self { address, answer, requests: Arc::default(), down: Arc::default() };
        let (requests, down) = (Arc::clone(&server.requests), Arc::clone(&server.down));
        let answer = Arc::clone(&server.answer);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if down.load(Ordering::Acquire) {
                    return;
                }
                let (answer, requests) = (Arc::clone(&answer), Arc::clone(&requests));
                std::thread::spawn(move || serve(stream, &*answer, &requests));
            }
        });
        server
    }

    /// Answers at a Unix socket as well, from now on and for good.
    pub fn listen_at(&self, socket: &Path) {
        let listener = UnixListener::bind(socket).expect("a socket");
        let (answer, requests) = (Arc::clone(&self.answer), Arc::clone(&self.requests));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (answer, requests) = (Arc::clone(&answer), Arc::clone(&requests));
                std::thread::spawn(move || serve(stream, &*answer, &requests));
            }
        });
    }

    /// Host and port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it was asked so far, in order.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().clone()
    }

    /// How often it was asked so far.
    pub fn count(&self) -> usize {
        self.requests.lock().len()
    }

    /// From now on, connections are refused.
    pub fn stop(&self) {
        self.down.store(true, Ordering::Release);
        // Wakes who waits for connections. Refused: it is stopped already.
        let _woken = TcpStream::connect(self.address).is_ok();
        while TcpStream::connect(self.address).is_ok() {
            std::thread::yield_now();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.down.store(true, Ordering::Release);
        let _woken = TcpStream::connect(self.address).is_ok();
    }
}

/// A connection of any kind.
trait Connection: Read + Write {
    /// No read takes longer than [`HANG`].
    fn limit(&self) -> Option<()>;
}

impl Connection for TcpStream {
    fn limit(&self) -> Option<()> {
        self.set_read_timeout(Some(HANG)).ok()
    }
}

impl Connection for UnixStream {
    fn limit(&self) -> Option<()> {
        self.set_read_timeout(Some(HANG)).ok()
    }
}

/// Reads one request and answers it. Who has gone away reads nothing, which is no error here.
fn serve(mut stream: impl Connection, answer: &Answer, requests: &Mutex<Vec<Request>>) -> Option<()> {
    let request = read_head(&mut stream)?;
    requests.lock().push(request.clone());
    let reply = answer(&request);
    if reply.ending == Ending::Silent {
        return hang(&mut stream);
    }
    if reply.ending != Ending::Reset {
        // The last byte of the head. A connection that is closed before all is read is reset.
        stream.read_exact(&mut [0]).ok()?;
    }
    stream.write_all(reply.head().as_bytes()).ok()?;
    let half = reply.body.len() / 2;
    match reply.ending {
        Ending::Whole | Ending::Silent => stream.write_all(&reply.body).ok(),
        Ending::Cut | Ending::Reset => stream.write_all(reply.body.get(..half)?).ok(),
        Ending::Stalled => {
            stream.write_all(reply.body.get(..half)?).ok()?;
            hang(&mut stream)
        }
        Ending::Dribbling(pause) => reply.body.iter().try_for_each(|byte| {
            std::thread::sleep(pause);
            stream.write_all(&[*byte]).ok()
        }),
    }
}

/// Waits until the other side goes away.
fn hang(stream: &mut impl Connection) -> Option<()> {
    stream.limit()?;
    while stream.read(&mut [0; 64]).ok()? > 0 {}
    Some(())
}

/// The head of a request, but for its last byte.
fn read_head(stream: &mut impl Connection) -> Option<Request> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r") && head.len() < MAX_HEAD {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let text = String::from_utf8(head).ok()?;
    let mut lines = text.split("\r\n");
    let mut words = lines.next()?.split(' ').map(str::to_owned);
    let fields = lines.filter_map(|line| line.split_once(": "));
    let headers = fields.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    Some(Request { method: words.next()?, target: words.next()?, headers })
}

/// How a [`BlobServer`] answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// As it should.
    Right,
    /// The right number of bytes, but other ones.
    Wrong,
    /// 200 and no byte, as a peer whose origin is away.
    Empty,
    /// This status, which is no success.
    Status(u16),
    /// As it should, but what becomes of the body.
    Ends(Ending),
    /// All of the blob, whatever was asked for.
    Whole,
    /// The bytes next to those asked for, which it says.
    Beside,
    /// The right bytes of a blob that is said to be longer.
    Longer,
    /// Elsewhere, which is here.
    Circle,
}

impl Manner {
    /// What is said to `request` for `blob`.
    pub fn reply(self, request: &Request, blob: Option<&Bytes>) -> Reply {
        let right = || blob.map_or_else(|| Reply::status(404), |blob| Reply::part(request, blob));
        let whole = blob.cloned().unwrap_or_default();
        match self {
            Self::Right => right(),
            Self::Ends(ending) => Reply { ending, ..right() },
            Self::Wrong => Reply { body: right().body.iter().map(|byte| byte ^ 0x20).collect(), ..right() },
            Self::Empty => Reply::status(200).header("X-Dragonfly-Error-Type", "backend"),
            Self::Status(status) => Reply::status(status),
            Self::Whole => Reply::status(200).body(whole),
            Self::Beside => {
                let (first, end) = request.range().unwrap_or((0, whole.len()));
                let range = format!("bytes {}-{end}/{}", first + 1, whole.len() + 1);
                Reply { headers: vec![("Content-Range".to_owned(), range)], ..right() }
            }
            Self::Longer => {
                let (first, end) = request.range().unwrap_or((0, whole.len()));
                let range = format!("bytes {first}-{}/{}", end.saturating_sub(1), whole.len() + 4096);
                Reply { headers: vec![("Content-Range".to_owned(), range)], ..right() }
            }
            Self::Circle => Reply::status(307).header("Location", request.target.clone()),
        }
    }
}

/// A server of blobs, as a registry, a mirror, or a proxy that has them all.
#[derive(Debug)]
pub struct BlobServer {
    server: Server,
    manner: Arc<Mutex<Manner>>,
}

impl BlobServer {
    /// Has each blob under its id, wherever it is asked for.
    pub fn start(blobs: &[(&str, Bytes)]) -> Self {
        let blobs: HashMap<_, _> =
            blobs.iter().map(|(id, bytes)| ((*id).to_owned(), bytes.clone())).collect();
        let manner = Arc::new(Mutex::new(Manner::Right));
        let now = Arc::clone(&manner);
        let server = Server::start(move |request| {
            let manner = *now.lock();
            manner.reply(request, blobs.get(request.blob()))
        });
        Self { server, manner }
    }

    /// Changes how it answers from now on.
    pub fn set(&self, manner: Manner) {
        *self.manner.lock() = manner;
    }

    /// The server itself.
    pub fn server(&self) -> &Server {
        &self.server
    }
}
