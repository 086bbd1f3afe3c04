//! A server on loopback that says what a test wants and notes what it was asked.
#![allow(dead_code, unreachable_pub, missing_debug_implementations, reason = "each test file uses a part")]

use oci_registry::client::{Client, ClientOptions};
use oci_registry::login::Login;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

/// What a server read.
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: HashMap<String, String>,
    pub body: String,
}

impl Request {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// First and last byte wanted.
    pub fn range(&self) -> (usize, usize) {
        let (first, last) = self.header("range").strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        (first.parse().unwrap(), last.parse().unwrap())
    }
}

/// What a server writes: head and body as they go over the wire, and whether it then hangs.
#[derive(Debug, Clone)]
pub struct Reply {
    pub head: String,
    pub body: Vec<u8>,
    pub length: Option<usize>,
    pub hang: bool,
}

pub fn reply(status: u16) -> Reply {
    Reply { head: format!("HTTP/1.1 {status} x\r\n"), body: Vec::new(), length: None, hang: false }
}

impl Reply {
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.head += &format!("{name}: {value}\r\n");
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Promises another length than it sends.
    pub fn promise(mut self, length: usize) -> Self {
        self.length = Some(length);
        self
    }

    /// Sends nothing more, and does not close.
    pub fn hang(mut self) -> Self {
        self.hang = true;
        self
    }
}

pub type Answer = dyn Fn(&Request) -> Reply + Send + Sync;

/// A server on loopback that notes what it is asked.
pub struct Server {
    pub address: SocketAddr,
    pub requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self { address: listener.local_addr().unwrap(), requests: Arc::default() };
        let (answer, requests): (Arc<Answer>, _) = (Arc::new(answer), Arc::clone(&server.requests));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (answer, requests) = (Arc::clone(&answer), Arc::clone(&requests));
                std::thread::spawn(move || serve(stream, &*answer, &requests));
            }
        });
        server
    }

    pub fn client(&self, change: impl FnOnce(&mut ClientOptions)) -> Client {
        Client::new(&self.options(change)).unwrap()
    }

    pub fn options(&self, change: impl FnOnce(&mut ClientOptions)) -> ClientOptions {
        let mut options = ClientOptions {
            host: self.address.to_string(),
            repo: "a/b".into(),
            user_agent: "t/1".into(),
            ..ClientOptions::default()
        };
        change(&mut options);
        options
    }

    pub fn asked(&self, path: &str) -> Vec<Request> {
        self.requests.lock().iter().filter(|request| request.path.starts_with(path)).cloned().collect()
    }
}

pub fn serve(stream: TcpStream, answer: &Answer, requests: &Mutex<Vec<Request>>) {
    let mut first = [0];
    // TLS, which is not spoken here.
    if stream.peek(&mut first).is_err() || first == [0x16] {
        return;
    }
    let Some(request) = read_request(&stream) else { return };
    requests.lock().push(request.clone());
    let reply = answer(&request);
    let length = reply.length.unwrap_or(reply.body.len());
    let head = format!("{}Content-Length: {length}\r\nConnection: close\r\n\r\n", reply.head);
    // Who has gone away reads nothing.
    let _sent = (&stream).write_all(head.as_bytes()).is_ok() && (&stream).write_all(&reply.body).is_ok();
    if reply.hang {
        let _closed = (&stream).read(&mut [0]).is_ok();
    }
}

pub fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|&read| read > 0).map(|_| line.trim_end().to_owned())
    };
    let first = line()?;
    let mut words = first.split(' ').map(str::to_owned);
    let mut request = Request { method: words.next()?, path: words.next()?, ..Request::default() };
    while let Some((name, value)) = line().as_deref().and_then(|line| line.split_once(": ")) {
        request.headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let mut body = vec![0; request.header("content-length").parse().unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    request.body = String::from_utf8(body).unwrap();
    Some(request)
}

pub const BLOB: &[u8] = b"0123456789";
pub const DIGEST: &str = "sha256:0a";

/// What a good server says.
pub fn partial(request: &Request) -> Reply {
    let (first, last) = request.range();
    let last = last.min(BLOB.len() - 1);
    let range = format!("bytes {first}-{last}/{}", BLOB.len());
    reply(206).header("Content-Range", &range).body(&BLOB[first..=last])
}

pub fn basic(text: &str) -> Login {
    let (user, password) = text.split_once(':').unwrap();
    Login::password(user, password)
}

impl Reply {
    pub fn status(mut self, status: u16) -> Self {
        self.head = self.head.replacen("206", &status.to_string(), 1);
        self
    }
}
