//! Pushing to a real registry, also one that is killed meanwhile.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod docker;

use blob_storage::{Backend, BackendError, BlobReader, BlobWriter, LocalFs, Priority};
use blob_storage::{Registries, Registry, RegistryWriter, Stored, config};
use bytes::Bytes;
use docker::{AUTH, DockerRegistry, Kind, REPO};
use futures_util::future::BoxFuture;
use rafs_format::BlobId;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use testkit::blob::pattern;
use testkit::tree::sha256;

/// Bytes that are read, and what happens when a certain one is.
struct Source {
    bytes: Bytes,
    when: u64,
    then: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl fmt::Debug for Source {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Source").finish_non_exhaustive()
    }
}

impl Source {
    fn new(bytes: &[u8], when: u64, then: impl FnOnce() + Send + 'static) -> Self {
        Self { bytes: Bytes::copy_from_slice(bytes), when, then: Mutex::new(Some(Box::new(then))) }
    }
}

impl BlobReader for Source {
    fn read(&self, range: Range<u64>, _priority: Priority) -> BoxFuture<'_, Result<Bytes, BackendError>> {
        let then = if range.contains(&self.when) { self.then.lock().unwrap().take() } else { None };
        if let Some(then) = then {
            then();
        }
        let index = |at: u64| usize::try_from(at).unwrap();
        let found = self.bytes.slice(index(range.start)..index(range.end));
        Box::pin(async { Ok(found) })
    }

    fn size(&self) -> BoxFuture<'_, Result<u64, BackendError>> {
        Box::pin(async { Ok(self.bytes.len() as u64) })
    }
}

fn config_of(registry: &DockerRegistry, repo: &str) -> config::Registry {
    let backend = registry.backend(Some(AUTH)).replace(REPO, repo);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!(r#"{{"device": {{"backend": {backend}}}, "mode": "direct"}}"#))
        .unwrap();
    let config::Backend::Registry(config) = config::load_backend(file.path()).unwrap() else { panic!() };
    config
}

fn writer(registry: &DockerRegistry, repo: &str, from: &[&str]) -> RegistryWriter {
    let from = from.iter().map(ToString::to_string).collect();
    RegistryWriter::new(&config_of(registry, repo), &Registries::default(), from).unwrap().with_chunk(1 << 20)
}

/// The blob as the repository of `config` has it, or why it has not.
async fn stored(config: config::Registry, id: &BlobId, size: usize) -> Result<Bytes, String> {
    let blob = Registry::new(&config).unwrap().open(id).unwrap();
    blob.read(0..size as u64, Priority::OnDemand).await.map_err(|error| error.to_string())
}

fn id_of(bytes: &[u8]) -> BlobId {
    BlobId::new(&sha256(bytes)).unwrap()
}

#[tokio::test]
async fn a_blob_goes_from_a_file_to_a_registry_and_to_its_other_repositories() {
    let Some(registry) = DockerRegistry::start(Kind::Password) else { return };
    let content = pattern(3, (5 << 20) + 7);
    let id = id_of(&content);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(id.as_str()), &content).unwrap();
    let local = LocalFs { blob_file: None, dir: Some(dir.path().to_path_buf()), alt_dirs: Vec::new() };
    let source = local.open(&id).unwrap();
    let size = content.len() as u64;
    for expected in [Stored::Sent { size, again: 0 }, Stored::There] {
        assert_eq!(writer(&registry, REPO, &[]).store(&id, &source).await.unwrap(), expected);
    }
    let other = writer(&registry, "other/image", &["no/such", REPO]);
    assert_eq!(other.store(&id, &source).await.unwrap(), Stored::Mounted);
    for repo in [REPO, "other/image"] {
        assert!(stored(config_of(&registry, repo), &id, content.len()).await.unwrap() == content);
    }
    let empty = id_of(b"");
    let nothing = Source::new(b"", 0, || {});
    let sent = writer(&registry, REPO, &[]).store(&empty, &nothing).await.unwrap();
    assert_eq!(sent, Stored::Sent { size: 0, again: 0 });
}

#[tokio::test]
async fn bytes_that_are_not_those_of_the_blob_are_refused() {
    let Some(registry) = DockerRegistry::start(Kind::Open) else { return };
    let content = pattern(4, 3 << 20);
    let id = id_of(b"something else");
    let source = Source::new(&content, 0, || {});
    let error = writer(&registry, REPO, &[]).store(&id, &source).await.unwrap_err().to_string();
    assert!(error.contains("status 400") && error.contains("DIGEST_INVALID"), "{error}");
    assert!(stored(config_of(&registry, REPO), &id, 1).await.unwrap_err().contains("not found"));
}

/// Pushes while the registry is killed, and `damage` done to what it keeps, when the byte `when` is read, and `after` that.
async fn push_through_an_outage(when: u64, after: Duration, damage: fn(&DockerRegistry)) -> Option<Stored> {
    let registry = Arc::new(Mutex::new(DockerRegistry::start(Kind::Password)?));
    let content = pattern(5, 9 << 20);
    let id = id_of(&content);
    let writer = writer(&registry.lock().unwrap(), REPO, &[]);
    let (shared, restarted) = (Arc::clone(&registry), std::sync::mpsc::channel());
    let source = Source::new(&content, when, move || {
        let outage = move || {
            std::thread::sleep(after);
            let mut registry = shared.lock().unwrap();
            registry.down();
            damage(&registry);
            registry.up();
            restarted.0.send(()).unwrap();
        };
        let running = std::thread::spawn(outage);
        if after.is_zero() {
            running.join().unwrap();
        }
    });
    let sent = writer.store(&id, &source).await.unwrap();
    restarted.1.recv().unwrap();
    let config = config_of(&registry.lock().unwrap(), REPO);
    assert!(stored(config, &id, content.len()).await.unwrap() == content);
    Some(sent)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_is_killed_and_comes_back_gets_the_rest() {
    let Some(sent) = push_through_an_outage(4 << 20, Duration::ZERO, |_| {}).await else { return };
    let Stored::Sent { size, again } = sent else { panic!("{sent:?}") };
    assert_eq!(size, 9 << 20);
    assert!(again <= 1 << 20, "what it had was not sent again, but for a chunk: {again}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_is_killed_within_a_chunk_gets_the_blob() {
    // This one takes no upload up that ends within a chunk, so how much is sent again is its affair.
    let Some(sent) = push_through_an_outage(4 << 20, Duration::from_millis(3), |_| {}).await else { return };
    assert!(matches!(sent, Stored::Sent { size, .. } if size == 9 << 20), "{sent:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_comes_back_without_what_it_got_gets_it_again() {
    let damage = |registry: &DockerRegistry| {
        let uploads =
            registry.dir.path().join(format!("data/docker/registry/v2/repositories/{REPO}/_uploads"));
        std::fs::remove_dir_all(uploads).unwrap();
    };
    let Some(sent) = push_through_an_outage(4 << 20, Duration::ZERO, damage).await else { return };
    let Stored::Sent { size, again } = sent else { panic!("{sent:?}") };
    assert!(size == 9 << 20 && again >= 4 << 20, "{sent:?}");
}
