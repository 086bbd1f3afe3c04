//! `cargo xtask quickstart [IMAGE]`: from an image, a tar or a directory to a mounted image whose every file was compared with its source.
//!
//! Builds both programs in release mode, converts, mounts, runs a program from the mount, compares, unmounts. Everything it
//! makes is in one temporary directory; neither that nor the mount outlives the run, however it ends.

mod compare;
mod files;
mod image;
mod interrupt;
mod layers;
mod mount;
mod program;
#[cfg(test)]
mod tests;

use crate::process::{self, Steps};
use crate::workspace;
use anyhow::{Context, bail};
use compare::Comparison;
use image::Image;
use interrupt::Interrupt;
use mount::Mount;
use program::{FirstLine, Program};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// What is converted.
struct Source {
    path: PathBuf,
    kind: Kind,
}

enum Kind {
    Directory,
    /// Compressed or not.
    Tar,
    /// Several layers: what `docker save` writes, an OCI archive or an OCI layout.
    Image(Image),
}

/// What was measured.
struct Report {
    source: u64,
    blob: u64,
    bootstrap: u64,
    conversion: Duration,
    /// From the start of `nydusd` until the kernel lists the mount.
    visible: Duration,
    /// From the start of `nydusd` on.
    first_line: FirstLine,
    fetched: Fetched,
    comparison: Comparison,
    comparing: Duration,
}

/// Bytes of the image that are in the cache, of how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Fetched {
    bytes: u64,
    of: u64,
}

/// Shows the whole path on `image`, by default the installed Rust toolchain. Errors: a step that fails, any difference between
/// the mount and the source, SIGINT and SIGTERM.
pub fn quickstart(image: Option<&Path>) -> anyhow::Result<()> {
    let interrupt = Interrupt::catch()?;
    let mut steps = Steps::default();
    let source = Source::find(image)?;
    let programs = steps.step("build nydus-image and nydusd", || build(&interrupt))?;
    // Declared before the mount, so removed after it.
    let home = tempfile::Builder::new()
        .prefix("nydus-quickstart-")
        .tempdir()
        .context("cannot create a directory")?;
    let report = show(&source, &programs, home.path(), &interrupt, &mut steps)?;
    home.close().context("cannot remove the temporary directory")?;
    println!("{}", report.table(&source.name()));
    report.comparison.verdict()
}

/// Folder of the release builds.
fn build(interrupt: &Interrupt) -> anyhow::Result<PathBuf> {
    let mut command = workspace::cargo();
    command.args(["build", "--release", "--package", "nydus-image", "--package", "nydusd"]);
    interrupt.run(command.current_dir(workspace::root()))?;
    Ok(workspace::members()?.target_directory.into_std_path_buf().join("release"))
}

/// Does everything between the build and the report, in the folder `home`.
fn show(
    source: &Source,
    programs: &Path,
    home: &Path,
    interrupt: &Interrupt,
    steps: &mut Steps,
) -> anyhow::Result<Report> {
    let folder = |name: &str| -> anyhow::Result<PathBuf> {
        let path = home.join(name);
        std::fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(path)
    };
    let (blobs, cache, mountpoint) = (folder("blobs")?, folder("cache")?, folder("mount")?);
    let bootstrap = home.join("image.boot");
    let layers = match &source.kind {
        Kind::Image(image) => {
            let dir = folder("layers")?;
            steps.step("copy the layers, which verifies them", || image.copy_layers(&dir, interrupt))?
        }
        Kind::Directory | Kind::Tar => Vec::new(),
    };
    let start = Instant::now();
    steps.step(format!("convert {}", source.path.display()), || {
        let converter = Converter { program: &programs.join("nydus-image"), blobs: &blobs, interrupt };
        match source.kind {
            Kind::Image(_) => converter.merge(&layers, &bootstrap),
            Kind::Directory | Kind::Tar => converter.create(&source.path, &bootstrap),
        }
    })?;
    let conversion = start.elapsed();
    let config = home.join("config.toml");
    std::fs::write(&config, configuration(&blobs, &cache)).context("cannot write the configuration")?;
    let mut daemon = Command::new(programs.join("nydusd"));
    daemon
        .arg("--config")
        .arg(&config)
        .arg("--mountpoint")
        .arg(&mountpoint)
        .arg("--bootstrap")
        .arg(&bootstrap);
    let mount = steps
        .step("mount", || Mount::start(&mut daemon, &mountpoint, &home.join("nydusd.log"), interrupt))?;
    let (first_line, fetched) = steps.step("run a program from the mount", || {
        let program = Program::choose(&mountpoint)?;
        println!("{}", program.name());
        let line = program.first_line(mount.started(), interrupt, || fetched(&cache))?;
        Ok((line.0, line.1?))
    })?;
    let expected =
        steps.step("find out what the mount must show", || source.unpacked(&layers, home, interrupt))?;
    let start = Instant::now();
    let comparison = steps.step("read and compare every file", || {
        let owners = rustix::process::geteuid().is_root() || source.is_directory();
        Comparison::of(&expected, &mountpoint, owners, interrupt)
    })?;
    let comparing = start.elapsed();
    let visible = mount.visible_after();
    steps.step("unmount", || mount.stop())?;
    Ok(Report {
        source: source.size(&layers, &expected)?,
        blob: size_of_files(&blobs)?,
        bootstrap: std::fs::metadata(&bootstrap)?.len(),
        conversion,
        visible,
        first_line,
        fetched,
        comparison,
        comparing,
    })
}

impl Source {
    fn find(image: Option<&Path>) -> anyhow::Result<Self> {
        let path = match image {
            Some(path) => path.to_path_buf(),
            None => process::output(Command::new("rustc").args(["--print", "sysroot"]))?.trim_end().into(),
        };
        let path = path.canonicalize().with_context(|| format!("cannot find {}", path.display()))?;
        let metadata = std::fs::metadata(&path)?;
        if !metadata.is_dir() && !metadata.is_file() {
            bail!("{} is neither a directory nor a file", path.display());
        }
        let kind = match Image::open(&path)? {
            Some(image) => Kind::Image(image),
            None if metadata.is_dir() => Kind::Directory,
            None => Kind::Tar,
        };
        Ok(Self { path, kind })
    }

    fn is_directory(&self) -> bool {
        matches!(self.kind, Kind::Directory)
    }

    fn name(&self) -> String {
        let path = self.path.display();
        match &self.kind {
            Kind::Image(image) if image.layers.len() == 1 => format!("{path}, 1 layer"),
            Kind::Image(image) => format!("{path}, {} layers", image.layers.len()),
            Kind::Directory | Kind::Tar => path.to_string(),
        }
    }

    /// The tree that the mount must equal: the directory itself, or what `tar` makes of the tar or the layers.
    fn unpacked(&self, layers: &[PathBuf], home: &Path, interrupt: &Interrupt) -> anyhow::Result<PathBuf> {
        let to = home.join("unpacked");
        match self.kind {
            Kind::Directory => return Ok(self.path.clone()),
            Kind::Tar => layers::unpack(&self.path, &to, interrupt)?,
            Kind::Image(_) => {
                std::fs::create_dir(&to)?;
                std::fs::set_permissions(&to, PermissionsExt::from_mode(0o755))?;
                for layer in layers {
                    layers::apply(layer, &to, &home.join("layer"), interrupt)
                        .with_context(|| layer.display().to_string())?;
                }
            }
        }
        Ok(to)
    }

    /// Bytes: of the tar, of the files in the directory, or of the layers as they are stored.
    fn size(&self, layers: &[PathBuf], expected: &Path) -> anyhow::Result<u64> {
        match self.kind {
            Kind::Directory => size_of_files(expected),
            Kind::Tar => Ok(std::fs::metadata(&self.path)?.len()),
            Kind::Image(_) => layers.iter().map(|layer| Ok(std::fs::metadata(layer)?.len())).sum(),
        }
    }
}

/// Runs `nydus-image`.
struct Converter<'a> {
    program: &'a Path,
    blobs: &'a Path,
    interrupt: &'a Interrupt,
}

impl Converter<'_> {
    fn create(&self, source: &Path, bootstrap: &Path) -> anyhow::Result<()> {
        let mut create = Command::new(self.program);
        create.args(["create", "--log-level", "warn", "--bootstrap"]).arg(bootstrap);
        self.interrupt.run(create.arg("--blob-dir").arg(self.blobs).arg(source))
    }

    /// Each layer becomes a bootstrap beside it, these together the one of the image.
    fn merge(&self, layers: &[PathBuf], bootstrap: &Path) -> anyhow::Result<()> {
        let mut merge = Command::new(self.program);
        merge.args(["merge", "--log-level", "warn", "--bootstrap"]).arg(bootstrap);
        for layer in layers {
            let of_layer = layer.with_extension("boot");
            self.create(layer, &of_layer)?;
            merge.arg(of_layer);
        }
        self.interrupt.run(&mut merge)
    }
}

/// The smallest configuration: blobs from one local folder, a cache in another.
fn configuration(blobs: &Path, cache: &Path) -> String {
    let quoted = |path: &Path| toml::Value::String(path.to_string_lossy().into_owned());
    format!(
        "version = 2\nid = \"quickstart\"\n[backend]\ntype = \"localfs\"\n[backend.localfs]\ndir = {}\n\
         [cache]\ntype = \"blobcache\"\n[cache.filecache]\nwork_dir = {}\n[rafs]\nmode = \"direct\"\nenable_xattr = true\n",
        quoted(blobs),
        quoted(cache)
    )
}

/// How much of the cache files, which are as long as their blobs decompressed, is there.
fn fetched(cache: &Path) -> anyhow::Result<Fetched> {
    let mut sum = Fetched::default();
    for entry in cache.read_dir().context("cannot list the cache")? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().ends_with(".blob.data") {
            let metadata = entry.metadata()?;
            sum.bytes += metadata.blocks() * 512;
            sum.of += metadata.len();
        }
    }
    Ok(sum)
}

/// Sum of the lengths of all regular files below `dir`; hard links count once each.
fn size_of_files(dir: &Path) -> anyhow::Result<u64> {
    let mut sum = 0;
    let mut open = vec![dir.to_path_buf()];
    while let Some(dir) = open.pop() {
        for entry in dir.read_dir().with_context(|| format!("cannot list {}", dir.display()))? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_file() {
                sum += entry.metadata()?.len();
            }
        }
    }
    Ok(sum)
}

impl Fetched {
    fn percent(self) -> f64 {
        percent(self.bytes, self.of)
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
fn percent(part: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { 100.0 * part as f64 / of as f64 }
}

#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

impl Report {
    fn table(&self, source: &str) -> String {
        let seconds = |time: Duration| format!("{:>9.3} s ", time.as_secs_f64());
        let size = |bytes: u64| format!("{:>9.1} MB", megabytes(bytes));
        // A tiny source is smaller than the tables of its image.
        let share = |bytes: u64| match bytes {
            bytes if bytes > self.source => String::new(),
            bytes => format!("{:.1} % of the source", percent(bytes, self.source)),
        };
        let said = self.first_line.line.as_deref().unwrap_or("it ended without a line");
        let compared = format!(
            "{} entries, {:.1} MB: {}",
            self.comparison.entries,
            megabytes(self.comparison.bytes),
            match self.comparison.count {
                0 => "no difference".to_owned(),
                count => format!("{count} differences"),
            }
        );
        let rows = [
            ("source", size(self.source), source.to_owned()),
            ("blob", size(self.blob), share(self.blob)),
            ("bootstrap", size(self.bootstrap), share(self.bootstrap)),
            ("converted in", seconds(self.conversion), String::new()),
            ("mounted after", seconds(self.visible), "from the start of nydusd".to_owned()),
            ("first line after", seconds(self.first_line.after), said.to_owned()),
            (
                "fetched until then",
                format!("{:>9.1} % ", self.fetched.percent()),
                format!("of {:.1} MB", megabytes(self.fetched.of)),
            ),
            ("compared in", seconds(self.comparing), compared),
        ];
        let lines =
            rows.map(|(name, value, note)| format!("{name:<20}{value}  {note}").trim_end().to_owned());
        format!("\n{}\n", lines.join("\n"))
    }
}
