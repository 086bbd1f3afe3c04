//! Figures of mounts: checking, the first `ls`, warm metadata and data against a bare FUSE file system, cold reads, memory.
//!
//! `cargo bench -p tests --bench mount [-- SECTION...]`, as root. Prints what it measures and asserts nothing about time. Passes of ours and
//! of the bare file system alternate, each ratio is of two passes right after one another, and figures are medians. All files are made
//! here and removed at the end; they take about 3 GB at most.
#![expect(clippy::unwrap_used, reason = "a bench that cannot be set up has failed")]

mod bare;
mod client;
mod image;
mod pin;
mod process;
mod table;

use image::Shape;
use pin::Placement;
use process::{Process, spent};
use rafs_format::Bootstrap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use table::{Series, Versus, row};
use tests::{Daemon, PATIENCE, Place, program};

/// Directories of the images of small files, a thousand in each.
const SIZES: [usize; 3] = [2, 20, 200];
/// Directories whose files are opened and read.
const READ_DIRS: usize = 20;
const PASSES: usize = 7;

/// Something to measure, by name.
type Section = (&'static str, fn());
const SECTIONS: [Section; 5] = [
    ("check", check),
    ("first-ls", first_ls),
    ("metadata", metadata),
    ("sequential", sequential),
    ("cold", cold),
];

fn main() {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if let Some((_, rest)) = arguments.split_first().filter(|(first, _)| *first == bare::ARGUMENT) {
        return bare::serve(rest);
    }
    // `cargo test --benches` starts this, too, but without that.
    if !arguments.iter().any(|argument| argument == "--bench") || !tests::can_mount() {
        return println!("SKIPPED: figures are for `cargo bench`, as root");
    }
    let wanted: Vec<_> = arguments.iter().filter_map(|argument| argument.to_str()).collect();
    let all = !SECTIONS.iter().any(|(name, _)| wanted.contains(name));
    for (name, run) in SECTIONS {
        if all || wanted.contains(&name) {
            println!("\n{name}");
            run();
        }
    }
}

/// Threads of both daemons: what ours takes by default when it is not pinned.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(4)
}

/// An image of `shape`, converted.
fn place(shape: Shape) -> Place {
    let place = Place::new();
    shape.build(&place);
    place
}

fn quiet(mut command: Command) -> Command {
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Our daemon for `place`.
fn ours(place: &Place) -> Command {
    let mut command = place.command();
    command.arg("--fuse-threads").arg(threads().to_string());
    quiet(command)
}

/// The bare file system that shows `shape`, with the data that our daemon has in its cache.
fn bare(place: &Place, mountpoint: &Path, shape: Shape) -> Command {
    let cached = std::fs::read_dir(place.at("cache")).unwrap().map(|entry| entry.unwrap().path());
    let data = cached.into_iter().find(|path| path.extension().is_some_and(|end| end == "data")).unwrap();
    bare::command(mountpoint, &data, shape, threads())
}

/// Starts `command` on the daemon's CPU.
fn start(command: Command, mountpoint: &Path, placement: Placement) -> Daemon {
    pin::on(placement.daemon, || Daemon::start(command, mountpoint))
}

/// Both file systems over one image whose data is in the cache.
struct Pair {
    place: Place,
    shape: Shape,
    other: tempfile::TempDir,
}

impl Pair {
    /// Converts the image and reads all that `paths` names, so that it is in the cache.
    fn new(shape: Shape, paths: &[String]) -> Self {
        let pair = Self { place: place(shape), shape, other: tempfile::tempdir().unwrap() };
        let daemon = Daemon::start(ours(&pair.place), &pair.ours());
        client::read_files(&pair.ours(), paths.iter());
        daemon.stop();
        pair
    }

    fn ours(&self) -> std::path::PathBuf {
        self.place.at("mnt")
    }

    fn bare(&self) -> &Path {
        self.other.path()
    }

    fn start_ours(&self, placement: Placement) -> Daemon {
        start(ours(&self.place), &self.ours(), placement)
    }

    fn start_bare(&self, placement: Placement) -> Daemon {
        start(bare(&self.place, self.bare(), self.shape), self.bare(), placement)
    }
}

/// Times `nydus-image check` and the check alone.
fn check() {
    let mut figures = Vec::new();
    for dirs in SIZES {
        let place = place(Shape::small(dirs));
        let (mut program_ms, mut parse_ms) = (Series::default(), Series::default());
        for _ in 0..PASSES {
            let started = Instant::now();
            let mut command = quiet(Command::new(program("nydus-image")));
            assert!(command.arg("check").arg("-B").arg(place.at("boot")).status().unwrap().success());
            program_ms.push_ms(started.elapsed());
            let started = Instant::now();
            let bootstrap = Bootstrap::parse(std::fs::read(place.at("boot")).unwrap()).unwrap();
            let summary =
                rafs_format::check::check(&bootstrap, &mut |_| Ok::<_, rafs_format::FormatError>(()));
            let summary = summary.unwrap();
            parse_ms.push_ms(started.elapsed());
            assert_eq!(summary.inodes, (dirs * image::FILES + dirs + 1) as u64);
        }
        let files = dirs * image::FILES;
        let size = std::fs::metadata(place.at("boot")).unwrap().len() as f64 / 1e6;
        let bar = if dirs == SIZES[2] { "< 300" } else { "" };
        row(&format!("nydus-image check, {files} files, {size:.1} MB, ms"), &program_ms.shown(1), bar);
        row(&format!("read + parse + check, {files} files, ms"), &parse_ms.shown(1), bar);
        figures.push((program_ms.median(), parse_ms.median()));
    }
    for (pair, sizes) in figures.windows(2).zip(["2k to 20k", "20k to 200k"]) {
        let times = |f: fn(&(f64, f64)) -> f64| f(&pair[1]) / f(&pair[0]);
        row(
            &format!("growth of time, {sizes} files (10 = linear)"),
            &format!("{:.1}; in process {:.1}", times(|f| f.0), times(|f| f.1)),
            "",
        );
    }
}

/// Times from starting the daemon to a directory listing with something in it.
fn first_ls() {
    for dirs in SIZES {
        let place = place(Shape::small(dirs));
        for placement in pin::placements() {
            let mut ms = Series::default();
            for _ in 0..3 * PASSES {
                ms.push_ms(pin::on(placement.client, || start_and_list(&place, placement)));
            }
            let bar = if dirs == SIZES[2] { "< 25" } else { "" };
            let what = format!("first ls, {} files, {}, ms", dirs * image::FILES, placement.name);
            row(&what, &ms.shown(1), bar);
        }
    }
}

fn start_and_list(place: &Place, placement: Placement) -> Duration {
    let mount = place.at("mnt");
    let mut command = ours(place);
    let started = Instant::now();
    let running = Running(pin::on(placement.daemon, || command.spawn().unwrap()));
    while !client::lists(&mount) {
        assert!(started.elapsed() < PATIENCE, "the mount does not come");
        std::thread::sleep(Duration::from_micros(100));
    }
    let time = started.elapsed();
    drop(running);
    time
}

/// A daemon that is told to unmount and end, and waited for, when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let id = rustix::process::Pid::from_child(&self.0);
        let told = rustix::process::kill_process(id, rustix::process::Signal::TERM).is_ok();
        let _ended = told && self.0.wait().is_ok();
    }
}

/// Directory listings with stat, and reading small files.
fn metadata() {
    let shape = Shape::small(SIZES[2]);
    let paths: Vec<_> = shape.paths().take(READ_DIRS * image::FILES).collect();
    let pair = Pair::new(shape, &paths);
    let passes = |daemon: &Daemon, mount: &Path| {
        let list = || spent(daemon, || client::list_and_stat(mount, shape)).0;
        let read = || spent(daemon, || client::read_files(mount, paths.iter())).0;
        [list(), list(), read(), read()]
    };
    let (files, read) = (shape.total_files() as f64 / 1e3, paths.len() as f64 / 1e3);
    table::versus_header();
    for placement in pin::placements() {
        let mut rows = [
            Versus::new("readdir + stat, fresh mount", files, "k/s"),
            Versus::new("readdir + stat, again", files, "k/s"),
            // Ours hashes what it finds in the cache.
            Versus::new("open + read + close, ready data", read, "k/s"),
            Versus::new("open + read + close, warm", read, "k/s"),
        ];
        for _ in 0..PASSES {
            let daemon = pair.start_bare(placement);
            let bare = pin::on(placement.client, || passes(&daemon, pair.bare()));
            drop(daemon);
            let daemon = pair.start_ours(placement);
            let ours = pin::on(placement.client, || passes(&daemon, &pair.ours()));
            daemon.stop();
            rows.iter_mut().zip(bare.iter().zip(ours)).for_each(|(row, (&bare, ours))| row.push(bare, ours));
        }
        rows.iter().for_each(|row| row.print(placement.name));
    }
}

/// Sequential reads of big files whose data is in the cache and in the kernel's pages of the cache, not in those of the mount.
fn sequential() {
    let shape = Shape::big();
    let paths: Vec<_> = shape.paths().collect();
    let pair = Pair::new(shape, &paths);
    let megabytes = shape.bytes() as f64 / 1e6;
    table::versus_header();
    for placement in pin::placements() {
        let (bare, ours) = (pair.start_bare(placement), pair.start_ours(placement));
        let read = |daemon: &Daemon, mount: &Path| {
            client::drop_pages(mount, paths.iter());
            let work = || client::read_files(mount, paths.iter());
            let (spent, bytes) = pin::on(placement.client, || spent(daemon, work));
            assert_eq!(bytes, shape.bytes());
            spent
        };
        // The first read in a process hashes what it finds in the cache.
        let mut first = Versus::new("sequential read, first after start", megabytes, "MB/s");
        first.push(read(&bare, pair.bare()), read(&ours, &pair.ours()));
        let mut row = Versus::new("sequential read, ready data", megabytes, "MB/s");
        for _ in 0..2 * PASSES {
            row.push(read(&bare, pair.bare()), read(&ours, &pair.ours()));
        }
        first.print(placement.name);
        row.print(placement.name);
        ours.stop();
    }
}

/// Reads of everything with an empty cache, from a local directory, and the memory that the daemon has then.
fn cold() {
    for (name, shape) in [("200k files", Shape::small(SIZES[2])), ("4 x 128 MiB", Shape::big())] {
        let place = place(shape);
        let paths: Vec<_> = shape.paths().collect();
        for placement in pin::placements().into_iter().chain([pin::FREE]) {
            cold_reads(name, shape, &place, &paths, placement);
        }
    }
}

fn cold_reads(name: &str, shape: Shape, place: &Place, paths: &[String], placement: Placement) {
    let (mut us, mut mbs, mut daemon_us) = (Series::default(), Series::default(), Series::default());
    let mut memory = [0.0; 3];
    for _ in 0..3 {
        std::fs::remove_dir_all(place.at("cache")).unwrap();
        let daemon = start(ours(place), &place.at("mnt"), placement);
        let work = || client::read_files(&place.at("mnt"), paths.iter());
        let (spent, bytes) = pin::on(placement.client, || spent(&daemon, work));
        assert_eq!(bytes, shape.bytes());
        let (wall, files) = (spent.wall.as_secs_f64(), paths.len() as f64);
        us.push(wall * 1e6 / files);
        daemon_us.push(spent.daemon.as_secs_f64() * 1e6 / files);
        mbs.push(bytes as f64 / wall / 1e6);
        memory = Process::of(&daemon).memory();
        daemon.stop();
    }
    let what = |figure: &str| format!("cold read, {name}, {}, {figure}", placement.name);
    if shape.size.is_none() {
        row(&what("us/file"), &us.shown(1), "");
        row(&what("daemon's CPU us/file"), &daemon_us.shown(1), "");
    } else {
        row(&what("MB/s"), &mbs.shown(0), "");
    }
    let [now, most, anonymous] = memory;
    row(&what("RSS, peak, anonymous MB"), &format!("{now:.1}, {most:.1}, {anonymous:.1}"), "");
}
