//! Figures of building and checking, as a table: `cargo bench -p rafs-builder --bench figures`.
//!
//! * create of a layer of about 700 MB at zstd-3, all threads on one CPU and then on all, beside the same bytes through the same zstd in
//!   pieces of 1 MiB and nothing else: what one CPU can reach at most. The layer is made of the Rust toolchain and `/usr`; another
//!   one: `FIGURES_LAYER=path`.
//! * create and check of 2,000, 20,000 and 200,000 small files; the check as often as makes two million files.
//! * diff of an image of as many small files to one of which ten have another content, on one CPU and on all.
//!
//! * an image that refers to the layer, compressed by gzip -6, beside inflating it to nothing by zlib-rs, which its reading cannot do without; and how large
//!   the table for reading in the middle of it is.
//!
//! `cargo bench -p rafs-builder --bench figures -- files` prints one part: `layer`, `files` or `reference`.
//!
//! Every line is a process of its own, so that its memory is its own. CPU time is user and system together; on a machine that does
//! other work too it is the number to look at, and the ratio of two lines is surer than either.
#![allow(missing_docs, clippy::unwrap_used, reason = "a bench")]

use rafs_builder::check;
use rafs_builder::create::{Compressor, Input, Options, create, create_reference};
use rafs_builder::diff;
use rafs_builder::digest::Scope;
use rafs_builder::open::Image;
use rafs_builder::output::{Outputs, Place};
use rafs_codec::Encoder;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// Bytes of the layer.
const LAYER: u64 = 700_000_000;

fn main() {
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        // Work that a line asks for.
        Some("measure") => measure(&args.collect::<Vec<_>>()),
        first => {
            let parts: Vec<String> = first.map(str::to_owned).into_iter().chain(args).collect();
            // What cargo says to every bench is no part.
            let parts: Vec<&str> =
                parts.iter().map(String::as_str).filter(|part| *part != "--bench").collect();
            table(&|part| parts.is_empty() || parts.contains(&part));
        }
    }
}

/// Prints the parts that are wanted.
fn table(wants: &dyn Fn(&str) -> bool) {
    let dir = tempfile::tempdir().unwrap();
    println!("{:<44} {:>8} {:>8} {:>12} {:>10}", "", "wall s", "CPU s", "MB/CPU s", "RSS MB");
    if wants("layer") || wants("reference") {
        layers(dir.path(), wants);
    }
    if wants("files") {
        files(dir.path());
    }
}

/// The lines about one large layer.
fn layers(dir: &Path, wants: &dyn Fn(&str) -> bool) {
    let layer = std::env::var_os("FIGURES_LAYER").map_or_else(|| make_layer(dir), PathBuf::from);
    let size = std::fs::metadata(&layer).unwrap().len();
    println!("layer: {} MB, {}", size / 1_000_000, layer.display());
    let layer = layer.to_str().unwrap();
    // Twice: the first time reads the layer from disk.
    for _ in 0..if wants("layer") { 2 } else { 0 } {
        let ceiling = line("zstd-3 alone, 1 MiB pieces, one CPU", size, &["zstd", "1", layer]);
        let one = line("create, one CPU", size, &["create", "1", layer]);
        line("create, all CPUs", size, &["create", "0", layer]);
        println!("{:<44} {:>27.2}", "create on one CPU to zstd alone", ceiling.cpu / one.cpu);
    }
    if wants("reference") {
        references(Path::new(layer), dir);
    }
}

/// The lines for an image that refers to a layer.
fn references(layer: &Path, dir: &Path) {
    let packed = dir.join("layer.tar.gz");
    let mut out = flate2::write::GzEncoder::new(File::create(&packed).unwrap(), flate2::Compression::new(6));
    std::io::copy(&mut File::open(layer).unwrap(), &mut out).unwrap();
    out.finish().unwrap();
    let (plain, size) = (std::fs::metadata(layer).unwrap().len(), std::fs::metadata(&packed).unwrap().len());
    println!("gzip layer: {} MB", size / 1_000_000);
    let path = packed.to_str().unwrap();
    for _ in 0..3 {
        let ceiling = line("gunzip to nothing, one CPU", plain, &["gunzip", "1", path]);
        let one = line("targz-ref, one CPU", plain, &["reference", "1", path]);
        let all = line("targz-ref, all CPUs", plain, &["reference", "0", path]);
        println!(
            "{:<44} {:>18.2} {:>8.2}",
            "targz-ref to gunzip: wall, CPU on one",
            all.wall / ceiling.wall,
            one.cpu / ceiling.cpu
        );
    }
    let table = std::fs::metadata(packed.with_extension("object")).unwrap().len();
    #[expect(clippy::cast_precision_loss, reason = "a number to look at")]
    let percent = table as f64 / size as f64 * 100.0;
    println!("{:<44} {percent:>27.2}", "table, percent of the gzip layer");
}

/// The lines about many small files.
fn files(dir: &Path) {
    for files in [2_000, 20_000, 200_000] {
        let tar = small_files(dir, files, 0);
        let size = std::fs::metadata(&tar).unwrap().len();
        line(&format!("create, {files} files, one CPU"), size, &["create", "1", tar.to_str().unwrap()]);
        std::fs::remove_file(&tar).unwrap();
        let boot = tar.with_file_name("small.boot");
        let size = std::fs::metadata(&boot).unwrap().len();
        let times = 2_000_000 / files;
        let name = format!("check, {files} files, {times} times");
        let found =
            line(&name, size * u64::from(times), &["check", "1", boot.to_str().unwrap(), &times.to_string()]);
        println!(
            "{:<44} {:>27.2}",
            "  microseconds of CPU for each file",
            found.cpu / f64::from(times) / f64::from(files) * 1e6
        );
        diffs(dir, &boot, files);
    }
}

/// The lines for comparing the image of so many small files at `boot` to one with another content in ten of them.
fn diffs(dir: &Path, boot: &Path, files: u32) {
    let other = dir.join("other.boot");
    std::fs::rename(boot, &other).unwrap();
    let tar = small_files(dir, files, files / 10);
    build(&tar);
    std::fs::remove_file(&tar).unwrap();
    let size = std::fs::metadata(boot).unwrap().len() * 2;
    let times = 2_000_000 / files;
    for (on, cpus) in [("one CPU", "1"), ("all CPUs", "0")] {
        let paths = [boot, &other].map(|path| path.to_str().unwrap());
        let name = format!("diff, {files} files, {times} times, {on}");
        let args = ["diff", cpus, paths[0], &times.to_string(), paths[1]];
        let found = line(&name, size * u64::from(times), &args);
        let (wall, cpu) = (found.wall / f64::from(times) * 1e3, found.cpu / f64::from(times) * 1e3);
        println!("{:<44} {wall:>19.1} {cpu:>7.1}", "  milliseconds for one: wall, CPU");
    }
}

/// What one line measured.
struct Found {
    wall: f64,
    cpu: f64,
    rss: f64,
}

/// Runs one line in a process of its own and prints it.
fn line(name: &str, bytes: u64, args: &[&str]) -> Found {
    let out = Command::new(std::env::current_exe().unwrap()).arg("measure").args(args).output().unwrap();
    assert!(out.status.success(), "{name}: {}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).unwrap();
    let numbers: Vec<f64> = text.split_whitespace().map(|number| number.parse().unwrap()).collect();
    let found = Found { wall: numbers[0], cpu: numbers[1], rss: numbers[2] };
    #[expect(clippy::cast_precision_loss, reason = "a number to look at")]
    let speed = bytes as f64 / 1e6 / found.cpu.max(0.01);
    println!("{name:<44} {:>8.2} {:>8.2} {speed:>12.0} {:>10.0}", found.wall, found.cpu, found.rss);
    found
}

/// Does the work of a line: what, on how many CPUs (0: all), of which file, how often, with which other file.
fn measure(args: &[String]) {
    if args[1] == "1" {
        // The last one that may be used: the first often serves interrupts.
        let all = sched_getaffinity(None).unwrap();
        let last = (0..CpuSet::MAX_CPU).rev().find(|&cpu| all.is_set(cpu)).unwrap();
        let mut one = CpuSet::new();
        one.set(last);
        sched_setaffinity(None, &one).unwrap();
    }
    let path = Path::new(&args[2]);
    let started = Instant::now();
    match args[0].as_str() {
        "zstd" => compress(path),
        "create" => build(path),
        "gunzip" => {
            let mut plain = flate2::read::GzDecoder::new(File::open(path).unwrap());
            std::io::copy(&mut plain, &mut std::io::sink()).unwrap();
        }
        "reference" => refer(path),
        "check" => (0..args[3].parse().unwrap()).for_each(|_: u32| {
            check::structure(&Image::open(path).unwrap()).unwrap();
        }),
        "diff" => {
            let paths = (path, Path::new(&args[4]));
            (0..args[3].parse().unwrap()).for_each(|_: u32| compare(paths));
        }
        other => panic!("{other}"),
    }
    println!("{} {} {}", started.elapsed().as_secs_f64(), cpu_seconds(), peak_megabytes());
}

fn compress(path: &Path) {
    let mut file = File::open(path).unwrap();
    let mut encoder = Encoder::new(Compressor::Zstd, 3).unwrap();
    let (mut plain, mut out) = (vec![0; 1 << 20], Vec::new());
    loop {
        let mut filled = 0;
        while filled < plain.len() {
            match file.read(&mut plain[filled..]).unwrap() {
                0 => break,
                count => filled += count,
            }
        }
        if filled == 0 {
            return;
        }
        encoder.encode(&plain[..filled], &mut out).unwrap();
    }
}

fn compare((first, second): (&Path, &Path)) {
    let (first, second) = std::thread::scope(|threads| {
        let second = threads.spawn(|| Image::open(second).unwrap());
        (Image::open(first).unwrap(), second.join().unwrap())
    });
    let found = diff::diff(&first, &second, Scope::Full, &mut |_| Ok(())).unwrap();
    assert_eq!((found.added, found.removed, found.changed), (0, 0, 10));
}

fn build(path: &Path) {
    let at = |extension: &str| Place::File(path.with_extension(extension));
    // Next to what is read when that is ours, else in a directory that goes away.
    let out = tempfile::tempdir().unwrap();
    let ours = path.file_name().is_some_and(|name| name == "small.tar");
    let elsewhere = |name: &str| Place::File(out.path().join(name));
    let places = if ours { (at("boot"), at("blob")) } else { (elsewhere("boot"), elsewhere("blob")) };
    let input = Input::Tar(Box::new(File::open(path).unwrap()));
    create(input, &Options::default(), places, &Outputs::new(), &|_| {}).unwrap();
}

/// Makes the image of a layer that stays as it is; its table is left beside it.
fn refer(path: &Path) {
    let out = tempfile::tempdir().unwrap();
    let places = (Place::File(out.path().join("boot")), Place::File(path.with_extension("object")));
    create_reference(
        Box::new(File::open(path).unwrap()),
        &Options::default(),
        places,
        &Outputs::new(),
        &|_| {},
    )
    .unwrap();
}

/// User and system time of this process so far, in steps of 10 ms.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // Fields are counted behind the name, which may hold blanks: utime and stime are the 14th and 15th of all.
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: f64 = fields[11..13].iter().map(|field| field.parse::<f64>().unwrap()).sum();
    ticks / 100.0
}

/// Largest resident size of this process so far.
fn peak_megabytes() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1024.0 / 1e6
}

/// A tar of programs, libraries, headers and texts, about [`LAYER`] bytes.
fn make_layer(dir: &Path) -> PathBuf {
    let path = dir.join("layer.tar");
    let mut out = tar::Builder::new(BufWriter::new(File::create(&path).unwrap()));
    out.follow_symlinks(false);
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output().unwrap().stdout;
    let sysroot = PathBuf::from(String::from_utf8(sysroot).unwrap().trim());
    let mut left = LAYER;
    // At most a quarter from each directory, so that no kind of file has it all.
    for source in
        ["/usr/bin", "/usr/include", "/usr/share", "/usr/lib"].map(PathBuf::from).into_iter().chain([sysroot])
    {
        let mut share = left.min(LAYER / 4);
        left -= share;
        add(&mut out, &source, &mut share);
        left += share;
    }
    out.into_inner().unwrap().flush().unwrap();
    path
}

/// Adds what is below `dir` in order of names, until `left` is used up.
fn add<W: Write>(out: &mut tar::Builder<W>, dir: &Path, left: &mut u64) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    let mut entries: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let Ok(meta) = path.symlink_metadata() else { continue };
        if meta.is_dir() {
            add(out, &path, left);
        } else if (meta.is_file() || meta.is_symlink()) && meta.len() + 1024 <= *left {
            *left -= meta.len() + 1024;
            let name = path.strip_prefix("/").unwrap();
            out.append_path_with_name(&path, name).unwrap();
        }
    }
}

/// A tar of many small files, 100 in each directory; every `other`-th has another content than with 0.
fn small_files(dir: &Path, count: u32, other: u32) -> PathBuf {
    let path = dir.join("small.tar");
    let mut out = tar::Builder::new(BufWriter::new(File::create(&path).unwrap()));
    for n in 0..count {
        let mut data = format!("{n} ").repeat(n as usize % 300 + 1);
        if other > 0 && n % other == 0 {
            data.replace_range(..1, "!");
        }
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000 + u64::from(n));
        let name = format!("usr/{}/{}/file-{n}.txt", n / 10_000, n / 100);
        out.append_data(
            &mut header,
            Path::new(std::ffi::OsStr::from_bytes(name.as_bytes())),
            data.as_bytes(),
        )
        .unwrap();
    }
    out.into_inner().unwrap().flush().unwrap();
    path
}
