//! Real mounts, served by this process. Skipped, told, where /dev/fuse cannot be used.
#![allow(clippy::unwrap_used, reason = "tests")]

use blob_cache::{BlobCache, CacheOptions};
use rafs_builder::create::Input;
use rafs_format::Compressor;
use rafs_fuse::{FuseError, Mount, MountOptions};
use rafs_vfs::Rafs;
use std::collections::BTreeSet;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;
use testkit::image::{self, TestImage};
use testkit::reader::{Mood, TestReader};

/// An image mounted on a directory of its own.
struct Mounted {
    mount: Option<Mount>,
    reader: Arc<TestReader>,
    _runtime: tokio::runtime::Runtime,
    dir: tempfile::TempDir,
}

impl Mounted {
    fn new(image: &TestImage) -> Option<Self> {
        if let Err(error) = std::fs::File::open("/dev/fuse") {
            eprintln!("SKIPPED: /dev/fuse cannot be opened: {error}");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("mnt")).unwrap();
        let bootstrap = image.parsed();
        let reader = TestReader::new(image.blob.clone());
        let open = |blob| {
            let cache = dir.path().join("cache");
            Arc::new(BlobCache::open(&cache, blob, reader.clone(), CacheOptions::default()).unwrap())
        };
        let caches = bootstrap.blobs().iter().map(open).collect();
        // Requests are counted here.
        let rafs = Arc::new(Rafs::new(bootstrap, caches).unwrap().without_readahead());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        let options = MountOptions { mountpoint: dir.path().join("mnt"), threads: Some(2) };
        match Mount::new(rafs, &options, runtime.handle().clone()) {
            Ok(mount) => Some(Self { mount: Some(mount), reader, _runtime: runtime, dir }),
            Err(FuseError::Mount { source, .. }) if source.kind() == std::io::ErrorKind::PermissionDenied => {
                eprintln!("SKIPPED: mounting is not permitted: {source}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join("mnt").join(path)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Readers that wait would keep the file system busy for ever.
        self.reader.release();
    }
}

/// Runs `work` beside a clock that ends a hang, so that it becomes a failure.
fn without_hanging<T: Send + 'static>(mounted: &Mounted, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = channel();
    std::thread::spawn(move || sender.send(work()));
    receiver.recv_timeout(Duration::from_secs(60)).unwrap_or_else(|_timeout| {
        mounted.reader.release();
        panic!("it hangs");
    })
}

fn names(path: &Path) -> BTreeSet<String> {
    std::fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn metadata_and_ready_data_go_on_while_64_readers_wait_for_a_hung_backend() {
    let contents: Vec<Vec<u8>> = (0..65).map(|n| testkit::blob::pattern(n, 5000)).collect();
    let names_: Vec<String> = (0..65).map(|n| format!("d/f{n}")).collect();
    let files: Vec<(&str, &[u8])> = names_.iter().zip(&contents).map(|(n, c)| (n.as_str(), &c[..])).collect();
    let Some(mounted) = Mounted::new(&image::of_files(&files, &image::options(0x10_0000, Compressor::Zstd)))
    else {
        return;
    };
    // One file is ready, but not in the page cache.
    assert!(std::fs::read(mounted.at("d/f64")).unwrap() == contents[64]);
    let ready = std::fs::File::open(mounted.at("d/f64")).unwrap();
    rustix::fs::fadvise(&ready, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    mounted.reader.set(Mood::Hanging);
    let asked = mounted.reader.requests().len();
    // 64 readers of as many chunks, and 64 more of the first one.
    let spawn = |n: usize| {
        let (path, expected) = (mounted.at(&format!("d/f{}", n % 64)), contents[n % 64].clone());
        let path = if n < 64 { path } else { mounted.at("d/f0") };
        let expected = if n < 64 { expected } else { contents[0].clone() };
        std::thread::spawn(move || assert!(std::fs::read(path).unwrap() == expected))
    };
    let readers: Vec<_> = (0..128).map(spawn).collect();
    let reader = Arc::clone(&mounted.reader);
    without_hanging(&mounted, move || {
        while reader.requests().len() < asked + 64 {
            std::thread::yield_now();
        }
    });
    let (dir, content) = (mounted.at("d"), contents[64].clone());
    without_hanging(&mounted, move || {
        assert_eq!(names(&dir).len(), 65);
        for n in 0..65 {
            assert_eq!(std::fs::metadata(dir.join(format!("f{n}"))).unwrap().len(), 5000);
        }
        assert!(std::fs::metadata(dir.join("none")).is_err());
        let mut found = vec![0; 5000];
        ready.read_exact_at(&mut found, 0).unwrap();
        assert!(found == content);
    });
    assert!(readers.iter().all(|reader| !reader.is_finished()), "they wait for the backend");
    mounted.reader.release();
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    assert_eq!(mounted.reader.requests().len(), asked + 64, "readers of one chunk share one fetch");
}

#[test]
fn what_a_mount_shows_is_what_was_built() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can make the devices and owners that are compared");
        return;
    }
    let source = tempfile::tempdir().unwrap();
    let at = |path: &str| source.path().join(path);
    std::fs::create_dir(at("dir")).unwrap();
    for n in 0..3000 {
        std::fs::write(at(&format!("dir/{n}")), n.to_string()).unwrap();
    }
    std::fs::write(at("old"), b"content").unwrap();
    std::fs::set_permissions(at("old"), PermissionsExt::from_mode(0o4751)).unwrap();
    rustix::fs::chownat(
        rustix::fs::CWD,
        at("old"),
        Some(rustix::fs::Uid::from_raw(1234)),
        None,
        rustix::fs::AtFlags::empty(),
    )
    .unwrap();
    let before_1970 = rustix::fs::Timespec { tv_sec: -5, tv_nsec: 250 };
    let times = rustix::fs::Timestamps { last_access: before_1970, last_modification: before_1970 };
    rustix::fs::utimensat(rustix::fs::CWD, at("old"), &times, rustix::fs::AtFlags::empty()).unwrap();
    std::fs::hard_link(at("old"), at("older")).unwrap();
    symlink("dir/7", at("link")).unwrap();
    xattr::set(at("old"), "user.k", b"v\0w").unwrap();
    let null = rustix::fs::makedev(1, 3);
    let mode = rustix::fs::Mode::from_bits_retain(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, at("null"), rustix::fs::FileType::CharacterDevice, mode, null)
        .unwrap();
    let input = Input::Directory(source.path().to_path_buf());
    let Some(mounted) = Mounted::new(&image::build(input, &image::options(4096, Compressor::Lz4Block)))
    else {
        return;
    };
    assert_eq!(names(&mounted.at("")), names(source.path()));
    assert_eq!(names(&mounted.at("dir")), names(&at("dir")));
    for name in ["old", "older", "link", "null", "dir", "dir/2999"] {
        let (found, expected) =
            (mounted.at(name).symlink_metadata().unwrap(), at(name).symlink_metadata().unwrap());
        let shown = |m: &std::fs::Metadata| (m.mode(), m.uid(), m.gid(), m.mtime(), m.mtime_nsec(), m.rdev());
        assert_eq!(shown(&found), shown(&expected), "{name}");
        if name != "dir" {
            assert_eq!((found.len(), found.nlink()), (expected.len(), expected.nlink()), "{name}");
        }
        // Times that an image does not have are those of the last change.
        assert_eq!((found.ctime(), found.atime_nsec()), (expected.mtime(), expected.mtime_nsec()));
    }
    let ino = |name| mounted.at(name).symlink_metadata().unwrap().ino();
    assert_eq!(ino("old"), ino("older"));
    assert_eq!(std::fs::read_link(mounted.at("link")).unwrap(), Path::new("dir/7"));
    assert_eq!(std::fs::read(mounted.at("link")).unwrap(), b"7");
    assert_eq!(xattr::get(mounted.at("older"), "user.k").unwrap().unwrap(), b"v\0w");
    assert_eq!(xattr::get(mounted.at("older"), "user.x").unwrap(), None);
    assert_eq!(xattr::list(mounted.at("old")).unwrap().collect::<Vec<_>>(), ["user.k"]);
    let told = rustix::fs::statvfs(mounted.at("")).unwrap();
    assert_eq!((told.f_files, told.f_bavail, told.f_namemax), (3006, 0, 255));
    // Modifying is refused by the kernel, devices are not opened.
    let refused = std::fs::write(mounted.at("new"), b"").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(rustix::io::Errno::ROFS.raw_os_error()));
    assert!(std::fs::File::open(mounted.at("null")).is_err());
    // At and behind the end of a file, and a place that is not where a chunk starts.
    let file = std::fs::File::open(mounted.at("old")).unwrap();
    let mut bytes = [0; 10];
    assert_eq!(file.read_at(&mut bytes, 4).unwrap(), 3);
    assert_eq!(&bytes[..3], b"ent");
    assert_eq!(file.read_at(&mut bytes, 7).unwrap(), 0);
    assert_eq!(file.read_at(&mut bytes, 1 << 40).unwrap(), 0);
}

#[test]
fn an_image_without_attributes_has_none() {
    let Some(mounted) =
        Mounted::new(&image::of_files(&[("f", b"x")], &image::options(4096, Compressor::None)))
    else {
        return;
    };
    let error = xattr::get(mounted.at("f"), "user.k").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::OPNOTSUPP.raw_os_error()));
    assert_eq!(xattr::list(mounted.at("f")).unwrap().count(), 0);
}

#[test]
fn what_cannot_be_had_is_eio_and_had_as_soon_as_it_can() {
    let content = testkit::blob::pattern(3, 300_000);
    let Some(mounted) =
        Mounted::new(&image::of_files(&[("f", &content)], &image::options(4096, Compressor::Zstd)))
    else {
        return;
    };
    for mood in [Mood::Failing, Mood::Lying, Mood::Panicking] {
        mounted.reader.set(mood);
        let error = std::fs::read(mounted.at("f")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()), "{mood:?}");
    }
    mounted.reader.set(Mood::Healthy);
    assert!(std::fs::read(mounted.at("f")).unwrap() == content);
}

#[test]
fn a_mount_in_use_is_detached_and_served_to_its_last_reader() {
    let content = testkit::blob::pattern(4, 9000);
    let image = image::of_files(&[("f", &content)], &image::options(4096, Compressor::Zstd));
    let Some(mut mounted) = Mounted::new(&image) else { return };
    let mut file = std::fs::File::open(mounted.at("f")).unwrap();
    let mount = mounted.mount.take().unwrap();
    let (first, second) = (mount.unmounter(), mount.unmounter());
    first.unmount().unwrap();
    second.unmount().unwrap();
    assert_eq!(names(&mounted.at("")), BTreeSet::new());
    let mut found = Vec::new();
    file.read_to_end(&mut found).unwrap();
    assert!(found == content);
    drop(file);
    mount.wait().unwrap();
}

#[test]
fn a_directory_is_mounted_on_once() {
    let image = image::of_files(&[("f", b"x")], &image::options(4096, Compressor::None));
    let Some(mounted) = Mounted::new(&image) else { return };
    let again = |path: PathBuf| {
        let rafs = Arc::new(
            Rafs::new(
                image::of_files(&[("e", b"")], &image::options(4096, Compressor::None)).parsed(),
                vec![],
            )
            .unwrap(),
        );
        let options = MountOptions { mountpoint: path, threads: None };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        Mount::new(rafs, &options, runtime.handle().clone()).unwrap_err().to_string()
    };
    let mnt = mounted.at("");
    assert!(again(mnt.clone()).ends_with("is in use: rafs (fuse) is mounted there; unmount it first"));
    let alias = mounted.dir.path().join("alias");
    symlink("mnt", &alias).unwrap();
    assert!(again(alias).contains("is in use"));
    assert!(again(mounted.dir.path().join("nowhere")).ends_with("nowhere does not exist"));
    std::fs::write(mounted.dir.path().join("file"), b"").unwrap();
    assert!(again(mounted.dir.path().join("file")).ends_with("file is not a directory"));
    assert_eq!(names(&mnt), BTreeSet::from(["f".to_owned()]), "the first mount is as it was");
    // A directory that another daemon has claimed and not yet mounted on.
    let claimed = mounted.dir.path().join("claimed");
    std::fs::create_dir(&claimed).unwrap();
    let claim = std::fs::File::open(&claimed).unwrap();
    rustix::fs::flock(&claim, rustix::fs::FlockOperation::LockExclusive).unwrap();
    assert!(again(claimed).ends_with("is in use by another daemon"));
}
