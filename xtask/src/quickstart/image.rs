//! Whole images: what `docker save` writes, OCI archives and OCI layout directories. Which layers they have, and copies of these.
//!
//! Invariant: every document and layer that is named by a digest has it, else nothing is used.

use super::files::Files;
use super::interrupt::Interrupt;
use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Indexes in indexes, at most.
const DEPTH: usize = 4;
/// Bytes copied at a time.
const BUFFER: usize = 1 << 20;

/// An image and its layers, the lowest first.
#[derive(Debug)]
pub struct Image {
    files: Files,
    /// The layers.
    pub layers: Vec<Layer>,
}

/// A layer.
#[derive(Debug)]
pub struct Layer {
    name: PathBuf,
    digest: Sum,
    size: Option<u64>,
}

/// SHA-256 in hexadecimal digits.
#[derive(Debug)]
enum Sum {
    /// Of the bytes that are there.
    Stored(String),
    /// Of the tar, decompressed where it is compressed.
    Plain(String),
}

#[derive(Deserialize)]
struct Descriptor {
    #[serde(default, rename = "mediaType")]
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    os: String,
    architecture: String,
}

/// An index has `manifests`, a manifest `layers`.
#[derive(Deserialize)]
struct Document {
    manifests: Option<Vec<Descriptor>>,
    layers: Option<Vec<Descriptor>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: PathBuf,
    layers: Vec<PathBuf>,
}

#[derive(Deserialize)]
struct Config {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

impl Image {
    /// The image at `path`; nothing if that is a layer or a plain directory.
    pub fn open(path: &Path) -> anyhow::Result<Option<Self>> {
        let Some(files) = Files::open(path)? else { return Ok(None) };
        let layers = if has(&files, "oci-layout")? && has(&files, "index.json")? {
            of_layout(&files)?
        } else if !path.is_dir() && has(&files, "manifest.json")? {
            match of_saved(&files)? {
                Some(layers) => layers,
                None => return Ok(None),
            }
        } else {
            return Ok(None);
        };
        ensure!(!layers.is_empty(), "{} is an image without layers", path.display());
        Ok(Some(Self { files, layers }))
    }

    /// Copies the layers into `dir`. Returns the copies. Errors: a layer that is missing or has another digest.
    pub fn copy_layers(&self, dir: &Path, interrupt: &Interrupt) -> anyhow::Result<Vec<PathBuf>> {
        let copies = self.layers.iter().enumerate().map(|(at, layer)| {
            let to = dir.join(format!("{at}.layer"));
            layer.copy(&self.files, &to, interrupt).with_context(|| format!("layer {at}"))?;
            Ok(to)
        });
        copies.collect()
    }
}

impl Layer {
    fn copy(&self, files: &Files, to: &Path, interrupt: &Interrupt) -> anyhow::Result<()> {
        let (reader, size) = files
            .read(&self.name)?
            .with_context(|| format!("{} is not in the image", self.name.display()))?;
        if let Some(expected) = self.size {
            ensure!(size == expected, "{} has {size} bytes, not {expected}", self.name.display());
        }
        let mut copy = File::create(to).with_context(|| format!("cannot create {}", to.display()))?;
        let stored = digest(reader, Some(&mut copy), interrupt)?;
        let (found, expected) = match &self.digest {
            Sum::Stored(expected) => (stored, expected),
            Sum::Plain(expected) if is_gzip(to)? => {
                let reader = flate2::read::MultiGzDecoder::new(File::open(to)?);
                (digest(reader, None, interrupt)?, expected)
            }
            Sum::Plain(expected) => (stored, expected),
        };
        ensure!(found == *expected, "{} has the digest {found}, not {expected}", self.name.display());
        Ok(())
    }
}

fn has(files: &Files, name: &str) -> anyhow::Result<bool> {
    Ok(files.read(Path::new(name))?.is_some())
}

fn of_layout(files: &Files) -> anyhow::Result<Vec<Layer>> {
    let index = files.document(Path::new("index.json"))?.context("index.json is missing")?;
    let mut document: Document = parsed(&index, "index.json")?;
    for _ in 0..DEPTH {
        if let Some(layers) = document.layers {
            return layers.iter().map(Layer::described).collect();
        }
        let manifests = document.manifests.context("neither an index nor a manifest")?;
        document = described(files, chosen(&manifests, machine())?)?;
    }
    bail!("indexes stand in indexes more than {DEPTH} deep")
}

/// Layers of a `docker save` tar; nothing if `manifest.json` is that of something else.
fn of_saved(files: &Files) -> anyhow::Result<Option<Vec<Layer>>> {
    let manifest = files.document(Path::new("manifest.json"))?.context("manifest.json is missing")?;
    let Ok(saved) = serde_json::from_slice::<Vec<Saved>>(&manifest) else { return Ok(None) };
    let Some(first) = saved.first() else { return Ok(None) };
    if saved.len() > 1 {
        println!("the first of {} images is taken", saved.len());
    }
    let name = first.config.display();
    let config = files.document(&first.config)?.with_context(|| format!("{name} is not in the image"))?;
    // Older versions call it HEX.json, newer ones blobs/sha256/HEX.
    let stem = first.config.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    if let Some(expected) = stem.filter(|stem| is_hex(stem)) {
        let found = hex::encode(Sha256::digest(&config));
        ensure!(found == expected, "{name} has the digest {found}");
    }
    let ids = parsed::<Config>(&config, &name.to_string())?.rootfs.diff_ids;
    let (names, count) = (&first.layers, ids.len());
    ensure!(names.len() == count, "manifest.json has {} layers, {name} {count}", names.len());
    let layers = names.iter().zip(&ids).map(|(name, id)| {
        Ok(Layer { name: name.clone(), digest: Sum::Plain(sha256(id)?.to_owned()), size: None })
    });
    layers.collect::<anyhow::Result<_>>().map(Some)
}

impl Layer {
    fn described(descriptor: &Descriptor) -> anyhow::Result<Self> {
        let digest = sha256(&descriptor.digest)?;
        Ok(Self { name: blob(digest), digest: Sum::Stored(digest.to_owned()), size: Some(descriptor.size) })
    }
}

/// The document that a descriptor names, of the right size and digest.
fn described(files: &Files, descriptor: &Descriptor) -> anyhow::Result<Document> {
    let expected = sha256(&descriptor.digest)?;
    let bytes = files.document(&blob(expected))?;
    let bytes = bytes.with_context(|| format!("{} is not in the image", descriptor.digest))?;
    ensure!(
        bytes.len() as u64 == descriptor.size,
        "{} has {} bytes, not {}",
        descriptor.digest,
        bytes.len(),
        descriptor.size
    );
    let found = hex::encode(Sha256::digest(&bytes));
    ensure!(found == expected, "what should be {expected} has the digest {found}");
    parsed(&bytes, &descriptor.digest)
}

/// The manifest for Linux on this machine, else that for amd64, else the first that tells no platform.
fn chosen<'a>(manifests: &'a [Descriptor], machine: &str) -> anyhow::Result<&'a Descriptor> {
    let on = |architecture: &str| {
        manifests.iter().find(|manifest| {
            manifest
                .platform
                .as_ref()
                .is_some_and(|platform| platform.os == "linux" && platform.architecture == architecture)
        })
    };
    let untold = || manifests.iter().find(|manifest| manifest.platform.is_none());
    on(machine).or_else(|| on("amd64")).or_else(untold).with_context(|| {
        let platforms = manifests.iter().map(|manifest| match &manifest.platform {
            Some(platform) => format!("{}/{}", platform.os, platform.architecture),
            None => manifest.media_type.clone(),
        });
        format!(
            "no image for linux/{machine} or linux/amd64, only [{}]",
            platforms.collect::<Vec<_>>().join(", ")
        )
    })
}

/// This machine, as images call it.
fn machine() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

fn parsed<T: DeserializeOwned>(bytes: &[u8], name: &str) -> anyhow::Result<T> {
    serde_json::from_slice(bytes).with_context(|| format!("{name} is not what an image has there"))
}

/// The digits of `sha256:` and 64 hexadecimal digits.
fn sha256(digest: &str) -> anyhow::Result<&str> {
    let digits = digest.strip_prefix("sha256:").filter(|digits| is_hex(digits));
    digits.with_context(|| format!("the digest {digest:?} is not sha256: and 64 hexadecimal digits"))
}

fn is_hex(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn blob(digits: &str) -> PathBuf {
    Path::new("blobs/sha256").join(digits)
}

fn is_gzip(path: &Path) -> anyhow::Result<bool> {
    let mut head = Vec::new();
    File::open(path)?.take(2).read_to_end(&mut head)?;
    Ok(head == [0x1f, 0x8b])
}

/// Digest of all that `reader` gives, which is written to `copy`.
fn digest(
    mut reader: impl Read,
    mut copy: Option<&mut File>,
    interrupt: &Interrupt,
) -> anyhow::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        interrupt.check()?;
        let count = reader.read(&mut buffer)?;
        let Some(read) = buffer.get(..count).filter(|read| !read.is_empty()) else { break };
        hasher.update(read);
        if let Some(copy) = copy.as_mut() {
            copy.write_all(read)?;
        }
    }
    Ok(hex::encode(hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(platform: Option<(&str, &str)>, digest: &str) -> Descriptor {
        let platform =
            platform.map(|(os, architecture)| Platform { os: os.into(), architecture: architecture.into() });
        Descriptor { media_type: String::new(), digest: digest.into(), size: 1, platform }
    }

    #[test]
    fn this_machine_comes_first_then_amd64() {
        let all = [
            descriptor(Some(("windows", "amd64")), "w"),
            descriptor(Some(("linux", "amd64")), "x"),
            descriptor(Some(("linux", "arm64")), "a"),
            descriptor(Some(("unknown", "unknown")), "u"),
        ];
        assert_eq!(chosen(&all, "arm64").unwrap().digest, "a");
        assert_eq!(chosen(&all, "riscv64").unwrap().digest, "x");
        assert_eq!(chosen(&[descriptor(None, "n")], "amd64").unwrap().digest, "n");
        let said = chosen(&all[..1], "amd64").err().unwrap().to_string();
        assert!(said.contains("windows/amd64"), "{said}");
        assert!(chosen(&[], "amd64").is_err());
    }

    #[test]
    fn digests_are_no_paths() {
        assert!(sha256(&format!("sha256:{}", "0a".repeat(32))).is_ok());
        for bad in ["sha256:../../etc/passwd", "sha512:00", "", "sha256:", "0a"] {
            assert!(sha256(bad).is_err(), "{bad:?}");
        }
        assert!(sha256(&format!("sha256:{}", "0A".repeat(32))).is_err());
    }
}
