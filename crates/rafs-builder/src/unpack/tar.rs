//! The tar form: ustar headers, PAX records only where ustar cannot say it.
//!
//! Owner names are left empty: they would come from the user database of the machine that unpacks. The root is left out,
//! sockets are skipped with a warning, since tar has no word for them.

use super::{Kind, Node, Plan, Sink, UnpackError};
use crate::output::behind_links;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Unit of a tar, in bytes.
const BLOCK: usize = 512;
/// Buffer in front of the output, in bytes.
const BUFFER: usize = 256 << 10;
/// Largest number in an 8-byte octal field: owner, group, device numbers.
const MAX_OCTAL_7: u32 = 0o7_777_777;
/// Largest number in a 12-byte octal field: size (8 GiB), seconds (year 2242).
const MAX_OCTAL_11: u64 = 0o77_777_777_777;

/// Unpacks to a tar file, pipe or device.
pub(super) fn to_file(plan: &Plan<'_>, path: &Path) -> Result<(), UnpackError> {
    let failed = |source| UnpackError::Output { path: path.to_path_buf(), source };
    match path.metadata().map(|meta| meta.file_type()) {
        Ok(kind) if kind.is_dir() => Err(UnpackError::IsADirectory { path: path.to_path_buf() }),
        Ok(kind) if kind.is_fifo() || kind.is_char_device() || kind.is_block_device() => {
            let mut out = OpenOptions::new().write(true).open(path).map_err(failed)?;
            to_stream(plan, &mut out, path.to_path_buf())
        }
        _ => to_new_file(plan, path),
    }
}

/// Unpacks to a file that appears under its name when it is complete and on disk.
fn to_new_file(plan: &Plan<'_>, path: &Path) -> Result<(), UnpackError> {
    let failed = |source| UnpackError::Output { path: path.to_path_buf(), source };
    let target = behind_links(path);
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut temporary = tempfile::Builder::new()
        .prefix(".unpack-")
        .permissions(PermissionsExt::from_mode(0o666))
        .tempfile_in(parent)
        .map_err(failed)?;
    to_stream(plan, temporary.as_file_mut(), path.to_path_buf())?;
    temporary.as_file().sync_all().map_err(failed)?;
    temporary.persist(&target).map_err(|error| failed(error.error))?;
    File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed)
}

/// Unpacks to a stream called `name` in errors.
pub(super) fn to_stream(plan: &Plan<'_>, out: &mut dyn Write, name: PathBuf) -> Result<(), UnpackError> {
    let mut sink = TarSink { out: BufWriter::with_capacity(BUFFER, out), name, size: 0 };
    plan.run(&mut sink)?;
    let end = sink.out.write_all(&[0; 2 * BLOCK]).and_then(|()| sink.out.flush());
    sink.done(end)
}

/// Writes entries as tar records.
struct TarSink<'a> {
    out: BufWriter<&'a mut dyn Write>,
    /// For errors.
    name: PathBuf,
    /// Size of the current file.
    size: u64,
}

impl TarSink<'_> {
    fn done(&self, result: io::Result<()>) -> Result<(), UnpackError> {
        result.map_err(|source| UnpackError::Output { path: self.name.clone(), source })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), UnpackError> {
        let result = self.out.write_all(bytes);
        self.done(result)
    }
}

impl Sink for TarSink<'_> {
    fn node(&mut self, node: Node) -> Result<(), UnpackError> {
        self.size = node.size;
        if node.path.is_empty() {
            return Ok(());
        }
        if node.kind == Kind::Socket {
            tracing::warn!(
                "{:?} is a socket, which a tar cannot hold: skipped",
                OsStr::from_bytes(&node.path)
            );
            return Ok(());
        }
        let records = records(&node);
        self.write(&records)
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), UnpackError> {
        self.write(bytes)
    }

    fn end_of_file(&mut self) -> Result<(), UnpackError> {
        let padding = self.size.next_multiple_of(BLOCK as u64) - self.size;
        let zeros = [0; BLOCK];
        self.write(zeros.get(..usize::try_from(padding).unwrap_or(0)).unwrap_or(&[]))
    }
}

/// The header of an entry, with its PAX header in front where it needs one.
fn records(node: &Node) -> Vec<u8> {
    let mut pax = Vec::new();
    let header = header(node, &mut pax);
    let mut out = Vec::with_capacity(BLOCK);
    if !pax.is_empty() {
        out.extend_from_slice(pax_header(node, pax.len()).as_bytes());
        out.extend_from_slice(&pax);
        out.resize(out.len().next_multiple_of(BLOCK), 0);
    }
    out.extend_from_slice(header.as_bytes());
    out
}

/// The ustar header; what does not fit goes to `pax`.
fn header(node: &Node, pax: &mut Vec<u8>) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    set_path(&mut header, node, pax);
    set_kind(&mut header, node, pax);
    header.set_mode(node.mode.into());
    set_owner(&mut header, node, pax);
    set_mtime(&mut header, node, pax);
    if node.size > MAX_OCTAL_11 {
        push(pax, b"size", node.size.to_string().as_bytes());
    }
    header.set_size(node.size.min(MAX_OCTAL_11));
    for (name, value) in &node.xattrs {
        push(pax, &[b"SCHILY.xattr.".as_slice(), name].concat(), value);
    }
    header.set_cksum();
    header
}

/// Appends one PAX record: its own length in decimal, a blank, `key=value` and a newline.
fn push(pax: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    pax.extend_from_slice(len.to_string().as_bytes());
    for part in [b" ".as_slice(), key, b"=", value, b"\n"] {
        pax.extend_from_slice(part);
    }
}

/// Copies as much of `from` as fits.
fn fill(field: &mut [u8], from: &[u8]) {
    field.iter_mut().zip(from).for_each(|(to, &byte)| *to = byte);
}

/// The path: in the name field, or cut in two at a `/`, or in a PAX record.
fn set_path(header: &mut tar::Header, node: &Node, pax: &mut Vec<u8>) {
    let mut path = node.path.clone();
    if node.kind == Kind::Directory {
        path.push(b'/');
    }
    let Some(ustar) = header.as_ustar_mut() else { return };
    if path.len() <= ustar.name.len() {
        return fill(&mut ustar.name, &path);
    }
    let cut = (0..path.len()).find(|&at| {
        path.get(at) == Some(&b'/')
            && at <= ustar.prefix.len()
            && (1..=ustar.name.len()).contains(&(path.len() - at - 1))
    });
    match cut {
        Some(at) => {
            let (prefix, name) = path.split_at(at);
            fill(&mut ustar.prefix, prefix);
            fill(&mut ustar.name, name.get(1..).unwrap_or(&[]));
        }
        None => {
            fill(&mut ustar.name, &path);
            push(pax, b"path", &path);
        }
    }
}

/// Type, link target and device numbers.
fn set_kind(header: &mut tar::Header, node: &Node, pax: &mut Vec<u8>) {
    let (kind, target) = match &node.kind {
        Kind::Regular | Kind::Socket => (tar::EntryType::Regular, None),
        Kind::Directory => (tar::EntryType::Directory, None),
        Kind::Symlink(target) => (tar::EntryType::Symlink, Some(target)),
        Kind::HardLink(first) => (tar::EntryType::Link, Some(first)),
        Kind::Device { block: false, .. } => (tar::EntryType::Char, None),
        Kind::Device { block: true, .. } => (tar::EntryType::Block, None),
        Kind::Fifo => (tar::EntryType::Fifo, None),
    };
    header.set_entry_type(kind);
    if let Some(target) = target {
        let field = &mut header.as_old_mut().linkname;
        fill(field, target);
        if target.len() > field.len() {
            push(pax, b"linkpath", target);
        }
    }
    let (major, minor) = match node.kind {
        Kind::Device { major, minor, .. } => (major, minor),
        _ => (0, 0),
    };
    // Image device numbers have 12 and 20 bits, which fit, and a ustar header has both fields: neither can fail.
    let _fits = header.set_device_major(major).is_ok() && header.set_device_minor(minor).is_ok();
}

/// Owner and group as numbers.
fn set_owner(header: &mut tar::Header, node: &Node, pax: &mut Vec<u8>) {
    for (key, id) in [("uid", node.uid), ("gid", node.gid)] {
        if id > MAX_OCTAL_7 {
            push(pax, key.as_bytes(), id.to_string().as_bytes());
        }
    }
    header.set_uid(node.uid.min(MAX_OCTAL_7).into());
    header.set_gid(node.gid.min(MAX_OCTAL_7).into());
}

/// Modification time: the field holds whole seconds from 1970 to 2242.
fn set_mtime(header: &mut tar::Header, node: &Node, pax: &mut Vec<u8>) {
    let seconds = u64::try_from(node.mtime_secs).ok().filter(|&seconds| seconds <= MAX_OCTAL_11);
    if seconds.is_none() || node.mtime_nanos != 0 {
        push(pax, b"mtime", decimal_time(node.mtime_secs, node.mtime_nanos).as_bytes());
    }
    header.set_mtime(seconds.unwrap_or(0));
}

/// Seconds and nanoseconds, which count forward also before 1970, as one decimal number without trailing zeros.
fn decimal_time(seconds: i64, nanos: u32) -> String {
    let total = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    let sign = if total < 0 { "-" } else { "" };
    let (whole, fraction) = (total.unsigned_abs() / 1_000_000_000, total.unsigned_abs() % 1_000_000_000);
    if fraction == 0 {
        return format!("{sign}{whole}");
    }
    let digits = format!("{fraction:09}");
    format!("{sign}{whole}.{}", digits.trim_end_matches('0'))
}

/// The header of `size` bytes of PAX records, named `<dir>/PaxHeaders.0/<file>` for tools that do not know them.
fn pax_header(node: &Node, size: usize) -> tar::Header {
    let (dir, file) = match node.path.iter().rposition(|&byte| byte == b'/') {
        Some(at) => node.path.split_at(at + 1),
        None => (b"".as_slice(), node.path.as_slice()),
    };
    let mut header = tar::Header::new_ustar();
    fill(&mut header.as_old_mut().name, &[dir, b"PaxHeaders.0/", file].concat());
    header.set_entry_type(tar::EntryType::XHeader);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size as u64);
    header.set_cksum();
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(path: &[u8], kind: Kind) -> Node {
        Node {
            path: path.to_vec(),
            kind,
            mode: 0o4755,
            uid: 7,
            gid: 8,
            mtime_secs: 1_000,
            mtime_nanos: 0,
            size: 0,
            xattrs: Vec::new(),
        }
    }

    type Seen = (tar::Header, Vec<u8>, Option<Vec<u8>>, Vec<(String, Vec<u8>)>);

    /// What a tar reader sees: header, path, link target, PAX records.
    fn read_back(node: &Node) -> Seen {
        let mut archive = tar::Archive::new(std::io::Cursor::new([records(node), vec![0; 1024]].concat()));
        let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
        let pax = entry.pax_extensions().unwrap().map_or(Vec::new(), |all| {
            all.map(|one| one.unwrap())
                .map(|one| (one.key().unwrap().to_owned(), one.value_bytes().to_vec()))
                .collect()
        });
        let link = entry.link_name_bytes().map(|name| name.into_owned());
        (entry.header().clone(), entry.path_bytes().into_owned(), link, pax)
    }

    #[test]
    fn ordinary_entries_need_no_pax_records() {
        let (header, path, _, pax) = read_back(&node(b"a/b", Kind::Regular));
        assert_eq!((path.as_slice(), pax.len()), (b"a/b".as_slice(), 0));
        assert_eq!((header.mode().unwrap(), header.uid().unwrap(), header.gid().unwrap()), (0o4755, 7, 8));
        assert_eq!(header.mtime().unwrap(), 1_000);
        assert_eq!(header.username_bytes().unwrap(), b"");
        assert_eq!(records(&node(b"a", Kind::Directory)).len(), BLOCK);
    }

    #[test]
    fn long_paths_are_cut_or_go_to_a_record() {
        let long = [[b'd'; 100].as_slice(), b"/", &[b'f'; 100]].concat();
        let (_, path, _, pax) = read_back(&node(&long, Kind::Regular));
        assert_eq!((path, pax.len()), (long.clone(), 0));
        let longer = [[b'd'; 200].as_slice(), b"/", &[b'f'; 101]].concat();
        let (_, path, _, pax) = read_back(&node(&longer, Kind::Regular));
        assert_eq!((path, pax.len()), (longer.clone(), 1));
        let (_, _, link, pax) = read_back(&node(b"l", Kind::Symlink(longer.clone())));
        assert_eq!((link, pax.len()), (Some(longer), 1));
    }

    #[test]
    fn names_of_any_bytes_survive() {
        let name = b"\xff\xfe\x01 name";
        assert_eq!(read_back(&node(name, Kind::Fifo)).1, name);
    }

    #[test]
    fn records_hold_what_ustar_cannot() {
        let mut odd = node(b"x", Kind::Regular);
        (odd.uid, odd.gid) = (u32::MAX, 2_097_151);
        (odd.mtime_secs, odd.mtime_nanos) = (-2, 500_000_000);
        odd.xattrs = vec![(b"user.bin".to_vec(), b"a=\0\xff".to_vec())];
        let (_, _, _, pax) = read_back(&odd);
        let expected = [
            ("uid", b"4294967295".to_vec()),
            ("mtime", b"-1.5".to_vec()),
            ("SCHILY.xattr.user.bin", b"a=\0\xff".to_vec()),
        ];
        assert_eq!(pax, expected.map(|(key, value)| (key.to_owned(), value)));
    }

    #[test]
    fn sizes_from_8_gib_go_to_a_record() {
        let mut big = node(b"big", Kind::Regular);
        big.size = MAX_OCTAL_11;
        let mut pax = Vec::new();
        assert_eq!(header(&big, &mut pax).entry_size().unwrap(), MAX_OCTAL_11);
        assert!(pax.is_empty());
        big.size += 1;
        header(&big, &mut pax);
        assert_eq!(pax, b"19 size=8589934592\n");
    }

    #[test]
    fn record_lengths_count_themselves() {
        for len in 0..2_000 {
            let mut pax = Vec::new();
            push(&mut pax, b"k", &vec![b'v'; len]);
            let text = String::from_utf8(pax.clone()).unwrap();
            assert_eq!(text.split_once(' ').unwrap().0, pax.len().to_string());
        }
    }

    #[test]
    fn values_may_hold_newlines() {
        let mut pax = Vec::new();
        push(&mut pax, b"SCHILY.xattr.user.n", b"a\nb");
        assert_eq!(pax, b"27 SCHILY.xattr.user.n=a\nb\n");
    }

    #[test]
    fn times_are_decimal() {
        assert_eq!(decimal_time(1, 0), "1");
        assert_eq!(decimal_time(1, 120_000_000), "1.12");
        assert_eq!(decimal_time(0, 1), "0.000000001");
        assert_eq!(decimal_time(-1, 0), "-1");
        assert_eq!(decimal_time(-1, 999_999_999), "-0.000000001");
    }

    #[test]
    fn devices_keep_their_numbers() {
        let device = node(b"d", Kind::Device { block: true, major: 0xFFF, minor: 0xF_FFFF });
        let (header, ..) = read_back(&device);
        assert_eq!(header.entry_type(), tar::EntryType::Block);
        assert_eq!(
            (header.device_major().unwrap(), header.device_minor().unwrap()),
            (Some(0xFFF), Some(0xF_FFFF))
        );
    }
}
