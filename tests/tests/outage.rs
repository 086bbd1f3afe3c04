//! A node that starts before its registry: many mounts of images whose data, and tables of chunks, are nowhere but there.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod docker;

use docker::{AUTH, DockerRegistry, Kind};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use testkit::blob::pattern;
use tests::{Daemon, Place, can_mount, run_ok};

/// Options of builds whose blobs differ in what must be fetched before the first byte: nothing, a table of batches.
const BUILDS: [&[&str]; 3] = [&[], &["--chunk-size", "0x4000"], &["--batch-size", "0x10000"]];

/// An image in the registry.
struct Image {
    place: Place,
    files: Vec<(String, Vec<u8>)>,
}

impl Image {
    /// The image number `n`, pushed.
    fn new(registry: &DockerRegistry, n: u32, options: &[&str]) -> Self {
        let (source, files) = source(n);
        let place = Place::new();
        place.build(source.path(), options);
        registry.push(&std::fs::read(place.blob()).unwrap());
        Self::at(registry, n, place, files)
    }

    /// The image number `n` whose data stays in a layer, and what is to be pushed for it: the layer, and the object with the table of its chunks.
    fn of_a_layer(registry: &DockerRegistry, n: u32) -> (Self, [Vec<u8>; 2]) {
        let (source, files) = source(n);
        let place = Place::new();
        let layer = place.at("layer.tar.gz");
        run_ok(Command::new("tar").arg("-C").arg(source.path()).arg("-czf").arg(&layer).arg("."));
        place.build(&layer, &["--type", "targz-ref"]);
        let objects = [layer, place.blob()].map(|path| std::fs::read(path).unwrap());
        (Self::at(registry, n, place, files), objects)
    }

    /// What is built at `place`, to be mounted from the registry.
    fn at(registry: &DockerRegistry, n: u32, place: Place, files: Vec<(String, Vec<u8>)>) -> Self {
        // A second is enough for one try, and two tries for a read.
        let backend = registry.backend(Some(AUTH)).replace("\"timeout\": 30", "\"timeout\": 1");
        let config = format!(
            r#"{{"device": {{"id": "/{n}", "backend": {backend}, "cache": {{"type": "blobcache", "config": {{"work_dir": "{}"}}}}}},
                "mode": "direct"}}"#,
            place.at("cache").display()
        );
        std::fs::write(place.at("config.json"), config).unwrap();
        Self { place, files }
    }

    fn root(&self) -> std::path::PathBuf {
        self.place.at("mnt")
    }

    /// Names and sizes are there without any data.
    fn is_listed(&self) -> bool {
        self.files.iter().all(|(name, content)| {
            std::fs::metadata(self.root().join(name)).unwrap().len() == content.len() as u64
        })
    }

    /// What reading a file gives: whether that is right, or the error.
    fn read(&self, (name, content): &(String, Vec<u8>)) -> Result<bool, i32> {
        let found = std::fs::read(self.root().join(name));
        found.map(|found| found == *content).map_err(|error| error.raw_os_error().unwrap())
    }

    fn read_all(&self) -> Vec<Result<bool, i32>> {
        self.files.iter().map(|file| self.read(file)).collect()
    }
}

/// A directory of twelve files, different for each `n`, and what is in them.
fn source(n: u32) -> (tempfile::TempDir, Vec<(String, Vec<u8>)>) {
    let source = tempfile::tempdir().unwrap();
    let content = |m: u32| pattern(100 * n + m, 500 + 7000 * m as usize);
    let files: Vec<_> = (0..12).map(|m| (format!("f{m}"), content(m))).collect();
    for (name, content) in &files {
        std::fs::write(source.path().join(name), content).unwrap();
    }
    (source, files)
}

fn images(registry: &DockerRegistry) -> Vec<Image> {
    (1..).zip(BUILDS).map(|(n, options)| Image::new(registry, n, options)).collect()
}

const EIO: Result<bool, i32> = Err(5);

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).unwrap().all(|entry| {
        // A sparse file holds nothing.
        let name = entry.unwrap().path();
        name.extension().is_none_or(|kind| kind != "data")
            || std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(name).unwrap()) == 0
    })
}

#[test]
fn mounts_made_before_the_registry_is_there_work_once_it_is() {
    if !can_mount() {
        return;
    }
    let Some(mut registry) = DockerRegistry::start(Kind::Password) else { return };
    let images = images(&registry);
    registry.down();
    let daemons: Vec<Daemon> = images.iter().map(|image| image.place.mount()).collect();
    for image in &images {
        assert!(image.is_listed());
        assert_eq!(image.read(&image.files[11]), EIO);
        assert_eq!(image.read(&image.files[3]), EIO);
        assert!(is_empty(&image.place.at("cache")), "nothing was made up");
    }
    registry.up();
    for image in &images {
        assert_eq!(image.read_all(), [Ok(true); 12]);
    }
    // And it may go again: all is here.
    registry.down();
    daemons.into_iter().for_each(Daemon::stop);
    let again: Vec<Daemon> = images.iter().map(|image| image.place.mount()).collect();
    for image in &images {
        assert_eq!(image.read_all(), [Ok(true); 12], "without the registry");
    }
    again.into_iter().for_each(Daemon::stop);
}

#[test]
fn a_registry_that_takes_connections_and_says_nothing_is_an_error_in_time_and_forgotten() {
    if !can_mount() {
        return;
    }
    let Some(mut registry) = DockerRegistry::start(Kind::Password) else { return };
    let images = images(&registry);
    registry.down();
    let silent = TcpListener::bind(("127.0.0.1", registry.port)).unwrap();
    let daemons: Vec<Daemon> = images.iter().map(|image| image.place.mount()).collect();
    std::thread::scope(|threads| {
        for image in &images {
            threads.spawn(|| assert_eq!(image.read(&image.files[5]), EIO));
        }
    });
    drop(silent);
    registry.up();
    for image in &images {
        assert_eq!(image.read_all(), [Ok(true); 12]);
    }
    daemons.into_iter().for_each(Daemon::stop);
}

#[test]
fn a_table_that_cannot_be_had_is_asked_for_again_by_the_next_read() {
    if !can_mount() {
        return;
    }
    let Some(mut registry) = DockerRegistry::start(Kind::Password) else { return };
    let (image, [layer, table]) = Image::of_a_layer(&registry, 7);
    registry.down();
    let daemon = image.place.mount();
    assert!(image.is_listed());
    assert_eq!(image.read(&image.files[5]), EIO);
    // There, but with neither; then with the layer alone, which is of no use without its table.
    registry.up();
    assert_eq!(image.read(&image.files[5]), EIO);
    registry.push(&layer);
    assert_eq!(image.read(&image.files[5]), EIO);
    assert_eq!(image.read(&image.files[5]), EIO);
    registry.push(&table);
    assert_eq!(image.read_all(), [Ok(true); 12]);
    registry.down();
    assert_eq!(image.read_all(), [Ok(true); 12]);
    daemon.stop();
}
