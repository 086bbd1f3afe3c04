//! What a peer of a swarm may do wrong costs a fetch by another route and never a byte. The cases are those seen with two real
//! `dfdaemon`; a peer of the test's own plays them.
#![allow(clippy::unwrap_used, reason = "tests")]

use blob_cache::{BlobCache, CacheOptions, CacheStats, Part};
use blob_storage::config::{self, Backend as BackendConfig};
use blob_storage::{Backend, OpenOptions, RouteKind, RouteStats, open_backend};
use rafs_format::Compressor;
use std::sync::Arc;
use std::time::Duration;
use testkit::blob::{self, TestBlob};
use testkit::http::{BlobServer, Ending, Manner};
use testkit::peer::{Peer, Swarm};

const ID: &str = "5a";
/// 20 chunks in five pieces.
const CHUNKS: usize = 20;
const CHUNK: usize = 16 << 10;
const PIECE: usize = 64 << 10;
/// Seconds that one try has, where nobody hangs.
const AMPLE: u32 = 60;

/// A blob at an origin, and a node that reads it through a peer.
struct Node {
    blob: TestBlob,
    origin: BlobServer,
    peer: Peer,
    backend: Arc<dyn Backend>,
    cache: Arc<BlobCache>,
    _dir: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        Self::with(AMPLE, "")
    }

    /// With this many seconds for a try, and further fields of `proxy`.
    fn with(timeout: u32, proxy: &str) -> Self {
        let blob = blob::of_sizes(ID, &[CHUNK; CHUNKS], Compressor::None);
        let origin = BlobServer::start(&[(ID, blob.bytes.clone())]);
        let peer = Peer::start(PIECE);
        let (host, at) = (origin.server().address(), peer.server().address());
        let config = format!(
            r#"{{"version": 2, "backend": {{"type": "registry", "registry": {{"scheme": "http", "host": "{host}", "repo": "r",
                "timeout": {timeout}, "retry_limit": 2, "proxy": {{"url": "http://{at}" {proxy}}}}}}}}}"#
        );
        let backend = open_backend(&parse(&config), &OpenOptions::default()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let reader = backend.open(&blob.blob.id).unwrap();
        let cache = BlobCache::open(dir.path(), &blob.blob, reader, CacheOptions::default()).unwrap();
        Self { blob, origin, peer, backend, cache: Arc::new(cache), _dir: dir }
    }

    /// Reads chunk `n`, which must be right.
    async fn read(&self, n: usize) {
        let chunk = self.blob.chunks[n];
        let part = Part { chunk, start: 0, end: chunk.uncompressed_size };
        let found = self.cache.fetch_part(&part).await.unwrap();
        assert!(found == self.blob.plain[n], "chunk {n}");
    }

    async fn read_all(&self) {
        for n in 0..CHUNKS {
            self.read(n).await;
        }
        let CacheStats { fetches, damaged, .. } = self.cache.stats();
        assert_eq!((fetches, damaged), (CHUNKS as u64, 0), "each chunk was fetched once and is right");
    }

    fn route(&self, kind: RouteKind) -> RouteStats {
        self.backend.routes().into_iter().find(|route| route.kind == kind).unwrap()
    }
}

fn parse(text: &str) -> BackendConfig {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    config::load_backend(file.path()).unwrap()
}

#[tokio::test]
async fn a_swarm_asks_the_origin_once_for_each_piece() {
    let node = Node::new();
    // 1 and 3: one task for the blob, and a short range costs a whole piece.
    node.read(1).await;
    let ranges = || node.origin.server().requests().iter().map(|request| request.range()).collect::<Vec<_>>();
    assert_eq!(ranges(), [Some((0, PIECE))]);
    for n in 0..CHUNKS {
        node.read(n).await;
    }
    assert_eq!(node.origin.server().count(), CHUNKS * CHUNK / PIECE);
    let (peer, origin) = (node.route(RouteKind::Proxy), node.route(RouteKind::Origin));
    assert_eq!((peer.requests, peer.bytes, peer.errors), (CHUNKS as u64, (CHUNKS * CHUNK) as u64, 0));
    assert_eq!(origin.requests, 0, "the origin was asked by the peer only");
    let asked = node.peer.server().requests();
    assert!(asked.iter().all(|one| one.header("x-dragonfly-priority") == "6"), "somebody waited");
}

#[tokio::test]
async fn without_a_scheduler_the_peer_passes_on() {
    // 2 and 6: each range is asked of the origin, through the peer.
    let node = Node::new();
    node.peer.set(Swarm::PassesOn);
    node.read_all().await;
    assert_eq!(node.origin.server().count(), CHUNKS);
    assert_eq!((node.route(RouteKind::Proxy).errors, node.route(RouteKind::Origin).requests), (0, 0));
}

#[tokio::test]
async fn what_a_peer_does_wrong_costs_a_fetch_from_the_origin() {
    // 4, 5 and 7, and what servers do besides.
    for manner in [
        Manner::Empty,
        Manner::Status(500),
        Manner::Status(429),
        Manner::Status(403),
        Manner::Status(404),
        Manner::Wrong,
        Manner::Beside,
        Manner::Circle,
        Manner::Ends(Ending::Cut),
        Manner::Ends(Ending::Reset),
    ] {
        let node = Node::new();
        node.peer.set(Swarm::Misbehaves(manner));
        node.read_all().await;
        let (peer, origin) = (node.route(RouteKind::Proxy), node.route(RouteKind::Origin));
        // Left out after three.
        assert_eq!((peer.requests, peer.bytes, peer.away), (3, 0, true), "{manner:?}: {peer:?}");
        assert_eq!(
            (peer.errors, peer.wrong),
            if manner == Manner::Wrong { (0, 3) } else { (3, 0) },
            "{manner:?}"
        );
        assert_eq!((origin.requests, origin.errors), (CHUNKS as u64, 0), "{manner:?}: {origin:?}");
    }
}

#[tokio::test]
async fn a_peer_that_hangs_is_cut_in_time() {
    let manners = [Ending::Silent, Ending::Stalled, Ending::Dribbling(Duration::from_millis(20))];
    for ending in manners {
        let node = Node::with(2, "");
        node.peer.set(Swarm::Misbehaves(Manner::Ends(ending)));
        node.read_all().await;
        let peer = node.route(RouteKind::Proxy);
        assert_eq!((peer.requests, peer.errors, peer.away), (3, 3, true), "{ending:?}");
    }
}

#[tokio::test]
async fn one_wrong_piece_costs_one_fetch_and_the_peer_stays() {
    let node = Node::new();
    node.read(0).await;
    node.peer.set(Swarm::Misbehaves(Manner::Wrong));
    node.read(5).await;
    node.peer.set(Swarm::Shares);
    for n in 6..CHUNKS {
        node.read(n).await;
    }
    let (peer, origin) = (node.route(RouteKind::Proxy), node.route(RouteKind::Origin));
    assert_eq!((peer.wrong, peer.away, origin.requests), (1, false, 1));
}

#[tokio::test]
async fn without_an_origin_the_swarm_still_serves_and_errors_are_errors() {
    let node = Node::new();
    node.read(0).await;
    node.origin.server().stop();
    for n in 1..PIECE / CHUNK {
        node.read(n).await;
    }
    let chunk = node.blob.chunks[CHUNKS - 1];
    let error = node.cache.fetch(&chunk).await.unwrap_err();
    assert!(error.to_string().contains("fetching chunk 19"), "{error}");
    assert!(format!("{error:?}").contains("Connection refused"), "what the origin says: {error:?}");
}

#[tokio::test]
async fn a_peer_that_is_killed_is_missed_by_nobody() {
    let node = Node::new();
    node.read(0).await;
    node.peer.server().stop();
    node.read_all().await;
    assert!(node.route(RouteKind::Proxy).away);
}

#[tokio::test]
async fn without_falling_back_only_the_peer_is_asked() {
    let node = Node::with(AMPLE, r#", "fallback": false"#);
    node.peer.set(Swarm::Misbehaves(Manner::Empty));
    assert!(node.cache.fetch(&node.blob.chunks[0]).await.is_err());
    let direct = |node: &Node| node.backend.routes().iter().any(|route| route.kind == RouteKind::Origin);
    assert!(!direct(&node));
    node.peer.set(Swarm::Shares);
    node.read_all().await;
}
