//! eStargz layers: gzip members, the table of contents and the footer, written as the specification of the stargz-snapshotter says.

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::io::Write;

/// What an entry of a layer is.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Kind {
    Directory,
    File(Vec<u8>),
    Symlink(String),
    HardLink(String),
    Fifo,
}

/// An entry of a layer: path and what it is, with an attribute for files whose name says so.
pub type Entry = (String, Kind);

/// A layer, and its table of contents as it stands in it.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The gzip stream.
    pub bytes: Vec<u8>,
    /// JSON.
    pub toc: Vec<u8>,
    /// Where the table of contents starts in the stream: the end of all data.
    pub toc_offset: u64,
}

/// Value of the attribute `user.note` of all files.
pub const NOTE: &[u8] = b"a \xFF note";

struct Writer {
    done: Vec<u8>,
    member: Option<GzEncoder<Vec<u8>>>,
    entries: Vec<Value>,
}

impl Writer {
    /// Writes into the current member, which starts here if there is none.
    fn put(&mut self, bytes: &[u8]) {
        let open = || GzEncoder::new(Vec::new(), Compression::best());
        let member = self.member.get_or_insert_with(open);
        let written = member.write_all(bytes);
        debug_assert!(written.is_ok(), "memory takes all");
    }

    #[expect(clippy::expect_used, reason = "memory takes all")]
    fn close(&mut self) {
        if let Some(member) = self.member.take() {
            self.done.extend(member.finish().expect("member"));
        }
    }

    #[expect(clippy::expect_used, reason = "a test that cannot make its input has failed")]
    fn header(&mut self, path: &str, kind: tar::EntryType, size: u64, link: &str, mode: u32) {
        let mut header = tar::Header::new_ustar();
        header.set_path(path).expect("short path");
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(mode);
        header.set_uid(1000);
        header.set_gid(100);
        header.set_mtime(1_700_000_000);
        if !link.is_empty() {
            header.set_link_name(link).expect("short link");
        }
        header.set_cksum();
        self.put(header.as_bytes());
    }

    fn list(&mut self, path: &str, kind: &str, mode: u32, more: Value) {
        let mut entry = json!({
            "name": path, "type": kind, "mode": mode, "uid": 1000, "gid": 100, "modtime": "2023-11-14T22:13:20Z",
        });
        if let (Some(entry), Value::Object(more)) = (entry.as_object_mut(), more) {
            entry.extend(more);
        }
        self.entries.push(entry);
    }

    /// A file: each chunk starts a member; what follows the last one, padding and headers, goes on in it.
    fn file(&mut self, path: &str, content: &[u8], chunk_size: usize) {
        let note = pax("SCHILY.xattr.user.note", NOTE);
        self.header("pax", tar::EntryType::XHeader, note.len() as u64, "", 0o644);
        self.put(&padded(&note));
        self.header(path, tar::EntryType::Regular, content.len() as u64, "", 0o640);
        let digest = |bytes: &[u8]| format!("sha256:{}", hex::encode(Sha256::digest(bytes)));
        let whole = json!({
            "size": content.len(), "digest": digest(content), "xattrs": {"user.note": "YSD/IG5vdGU="},
        });
        if content.is_empty() {
            self.list(path, "reg", 0o640, whole.clone());
        }
        let mut at = 0;
        for chunk in content.chunks(chunk_size) {
            self.close();
            let size = if at + chunk.len() == content.len() { 0 } else { chunk.len() };
            let place = json!({
                "offset": self.done.len(), "chunkOffset": at, "chunkSize": size, "chunkDigest": digest(chunk),
            });
            if at == 0 {
                let mut first = whole.clone();
                if let (Some(first), Value::Object(place)) = (first.as_object_mut(), place) {
                    first.extend(place);
                }
                self.list(path, "reg", 0o640, first);
            } else {
                self.list(path, "chunk", 0o640, place);
            }
            self.put(chunk);
            at += chunk.len();
        }
        self.put(&vec![0; content.len().next_multiple_of(512) - content.len()]);
    }
}

/// A PAX record.
fn pax(name: &str, value: &[u8]) -> Vec<u8> {
    let rest = [b" ", name.as_bytes(), b"=", value, b"\n"].concat();
    let digits = (1..).find(|&digits| (rest.len() + digits).to_string().len() == digits).unwrap_or(1);
    [(rest.len() + digits).to_string().as_bytes(), &rest].concat()
}

fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// The layer of these entries, with the landmark that says that nothing is to be prefetched.
///
/// # Panics
/// When a path does not fit a plain tar header.
#[expect(clippy::expect_used, reason = "a test that cannot make its input has failed")]
pub fn layer(entries: &[Entry], chunk_size: usize) -> Layer {
    let mut writer = Writer { done: Vec::new(), member: None, entries: Vec::new() };
    writer.file(".no.prefetch.landmark", b"\x0F", chunk_size);
    for (path, kind) in entries {
        match kind {
            Kind::Directory => {
                writer.header(path, tar::EntryType::Directory, 0, "", 0o755);
                writer.list(path, "dir", 0o755, json!({}));
            }
            Kind::File(content) => writer.file(path, content, chunk_size),
            Kind::Symlink(target) => {
                writer.header(path, tar::EntryType::Symlink, 0, target, 0o777);
                writer.list(path, "symlink", 0o777, json!({"linkName": target}));
            }
            Kind::HardLink(target) => {
                writer.header(path, tar::EntryType::Link, 0, target, 0o640);
                writer.list(path, "hardlink", 0o640, json!({"linkName": target}));
            }
            Kind::Fifo => {
                writer.header(path, tar::EntryType::Fifo, 0, "", 0o600);
                writer.list(path, "fifo", 0o600, json!({}));
            }
        }
    }
    writer.close();
    let toc_offset = writer.done.len() as u64;
    let toc = json!({"version": 1, "entries": writer.entries});
    let toc = serde_json::to_vec_pretty(&toc).expect("JSON");
    writer.header("stargz.index.json", tar::EntryType::Regular, toc.len() as u64, "", 0o644);
    writer.put(&padded(&toc));
    writer.put(&[0; 1024]);
    writer.close();
    // An empty member whose extra field says where the table is.
    let place = format!("{toc_offset:016x}STARGZ");
    let extra = [&b"SG\x16\x00"[..], place.as_bytes()].concat();
    let footer = flate2::GzBuilder::new().extra(extra).write(Vec::new(), Compression::none());
    writer.done.extend(footer.finish().expect("footer"));
    Layer { bytes: writer.done, toc, toc_offset }
}
