//! A server that gives any range of any blob after a pause, over connections that stay. Every byte is zero.

use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Size that it claims.
const SIZE: u64 = 1 << 40;

/// Runs until it is dropped.
pub struct Server {
    address: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    /// One that answers after `latency`.
    pub fn start(latency: Duration) -> Self {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, latency));
            }
        });
        Self { address, _runtime: runtime }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Answers one connection until it closes.
async fn serve(mut stream: TcpStream, latency: Duration) {
    let mut asked = Vec::new();
    let mut part = [0; 2048];
    loop {
        while let Some(end) = asked.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&asked[..end]).to_lowercase();
            asked.drain(..end + 4);
            tokio::time::sleep(latency).await;
            if stream.write_all(&answer(&head)).await.is_err() {
                return;
            }
        }
        match stream.read(&mut part).await {
            Ok(count) if count > 0 => asked.extend_from_slice(&part[..count]),
            _ => return,
        }
    }
}

fn answer(head: &str) -> Vec<u8> {
    let range = head.lines().find_map(|line| line.strip_prefix("range: bytes="));
    let Some((first, last)) = range.and_then(|range| range.split_once('-')) else {
        return b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec();
    };
    let (first, last): (u64, u64) = (first.parse().unwrap(), last.trim().parse().unwrap());
    let size = usize::try_from(last - first + 1).unwrap();
    let head = format!(
        "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {first}-{last}/{SIZE}\r\nContent-Length: {size}\r\n\r\n"
    );
    let mut answer = head.into_bytes();
    answer.resize(answer.len() + size, 0);
    answer
}
