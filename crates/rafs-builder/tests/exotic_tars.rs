//! Everything that layers of the wild hold, through the whole builder: what a tar says is what the image holds, or the build is
//! refused with the name of the entry and leaves nothing behind.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use common::{Entry as Seen, Tree, tar_tree};
use rafs_builder::create::{Compressor, End, Input, Options, Report, create};
use rafs_builder::open::{BlobSource, Image, LocalFs};
use rafs_builder::output::{Outputs, Place};
use rafs_builder::{chain, check, unpack};
use sha2::Digest as _;
use std::path::Path;
use std::sync::Arc;

/// A header and its data, padded. `edit` changes the header before its checksum is made.
fn entry(path: &[u8], kind: u8, data: &[u8], edit: impl Fn(&mut tar::Header)) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    let name = &path[..path.len().min(100)];
    header.as_mut_bytes()[..name.len()].copy_from_slice(name);
    header.set_mode(0o640);
    header.set_uid(3);
    header.set_gid(4);
    header.set_size(data.len() as u64);
    header.set_mtime(1_000);
    header.set_entry_type(tar::EntryType::new(kind));
    edit(&mut header);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn plain(path: &str, kind: u8, data: &[u8]) -> Vec<u8> {
    entry(path.as_bytes(), kind, data, |_| {})
}

fn linked(path: &str, kind: u8, target: &[u8]) -> Vec<u8> {
    entry(path.as_bytes(), kind, b"", |header| {
        header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target)
    })
}

/// An extension header with PAX records.
fn pax(kind: u8, records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut data = Vec::new();
    for (key, value) in records {
        let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
        let mut length = rest.len();
        while length != rest.len() + length.to_string().len() {
            length = rest.len() + length.to_string().len();
        }
        data.extend_from_slice(length.to_string().as_bytes());
        data.extend_from_slice(&rest);
    }
    plain("PaxHeaders/x", kind, &data)
}

fn end() -> Vec<u8> {
    vec![0; 1024]
}

fn build(bytes: &[u8], dir: &Path) -> Result<Report, String> {
    let options = Options { chunk_size: 0x1000, threads: 2, ..Options::default() };
    let places = (Place::File(dir.join("boot")), Place::Directory(dir.to_path_buf()));
    create(Input::Tar(Box::new(bytes)), &options, places, &Outputs::new(), &|_| {})
        .map_err(|error| chain(&error))
}

/// The tree that comes out of the image of a tar.
fn through(parts: &[Vec<u8>]) -> Tree {
    let dir = tempfile::tempdir().unwrap();
    build(&[parts.concat(), end()].concat(), dir.path()).unwrap();
    let image = Image::open(&dir.path().join("boot")).unwrap();
    check::structure(&image).unwrap();
    let local = LocalFs { dir: Some(dir.path().to_path_buf()), ..LocalFs::default() };
    let source = BlobSource::new(Arc::new(local)).unwrap();
    let mut out = Vec::new();
    unpack::tar_to(&image, &source, &mut out, 1).unwrap();
    tar_tree(&out)
}

/// Why a tar is refused. Nothing may be left of it.
fn refusal(bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let error = build(bytes, dir.path()).map(|report| format!("{report:?}")).unwrap_err();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

fn file(data: &[u8]) -> Seen {
    Seen { size: data.len() as u64, sha256: hex::encode(sha2::Sha256::digest(data)), ..special("reg") }
}

fn special(kind: &str) -> Seen {
    Seen { kind: kind.into(), mode: "640".into(), uid: 3, gid: 4, mtime: 1_000, ..Seen::default() }
}

fn tree<const N: usize>(entries: [(&str, Seen); N]) -> Tree {
    entries.into_iter().map(|(path, entry)| (path.to_owned(), entry)).collect()
}

#[test]
fn global_records_hold_until_they_are_changed_or_taken_back() {
    let found = through(&[
        pax(b'g', &[("comment", b"0123456789"), ("uid", b"77"), ("SCHILY.xattr.user.g", b"all")]),
        plain("first", b'0', b"1"),
        pax(b'x', &[("uid", b"78")]),
        plain("second", b'0', b"2"),
        pax(b'g', &[("uid", b"")]),
        plain("third", b'0', b"3"),
    ]);
    let all =
        |uid, data: &[u8]| Seen { uid, xattrs: [("user.g".into(), "616c6c".into())].into(), ..file(data) };
    assert_eq!(
        found,
        tree([("/first", all(77, b"1")), ("/second", all(78, b"2")), ("/third", all(3, b"3"))])
    );
}

#[test]
fn names_of_any_bytes_and_lengths() {
    let long = "n".repeat(255);
    let deep = format!("{}/{long}", "d".repeat(200));
    let found = through(&[
        entry(b"bad-\xff\xfe\n", b'0', b"", |_| {}),
        pax(b'x', &[("path", b"pax-\xff=\n")]),
        plain("short", b'0', b""),
        plain("././@LongLink", b'L', format!("{deep}\0").as_bytes()),
        plain("short", b'0', b""),
        plain("././@LongLink", b'K', &[b't'; 4095]),
        plain("link", b'2', b""),
        entry(b"in-name", b'0', b"", |header| {
            header.as_mut_bytes()[345..351].copy_from_slice(b"prefix");
        }),
        plain("/absolute//./name", b'0', b""),
    ]);
    let implied = Seen { kind: "dir".into(), mode: "755".into(), ..Seen::default() };
    let expected = tree([
        ("/bad-%FF%FE%0A", file(b"")),
        ("/pax-%FF=%0A", file(b"")),
        (&format!("/{}", "d".repeat(200)), implied.clone()),
        (&format!("/{deep}"), file(b"")),
        ("/link", Seen { target: "t".repeat(4095), ..special("lnk") }),
        ("/prefix", implied.clone()),
        ("/prefix/in-name", file(b"")),
        ("/absolute", implied.clone()),
        ("/absolute/name", file(b"")),
    ]);
    assert_eq!(found, expected);
}

#[test]
fn xattrs_of_any_bytes() {
    let every: Vec<u8> = (0..=255).collect();
    let found = through(&[
        pax(
            b'x',
            &[
                ("SCHILY.xattr.user.newline", b"a\nb\n"),
                ("SCHILY.xattr.user.every", &every),
                ("SCHILY.xattr.user.empty", b""),
                ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
                ("SCHILY.xattr.security.capability", b"\x01\0\0\x02"),
                ("SCHILY.xattr.com.apple.quarantine", b"not of Linux"),
                ("LIBARCHIVE.xattr.user.base64", b"AAEC"),
            ],
        ),
        plain("file", b'0', b""),
    ]);
    let xattrs = [
        ("user.newline", "610a620a".to_owned()),
        ("user.every", hex::encode(&every)),
        ("user.empty", String::new()),
        ("trusted.overlay.opaque", "79".into()),
        ("security.capability", "01000002".into()),
        ("user.base64", "000102".into()),
    ];
    let xattrs = xattrs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    assert_eq!(found, tree([("/file", Seen { xattrs, ..file(b"") })]));
    // A key may hold the sign that ends it only in front: `a=b` is `a` with the value `b=...`.
    let found = through(&[pax(b'x', &[("SCHILY.xattr.user.a", b"b=c")]), plain("f", b'0', b"")]);
    assert_eq!(found["/f"].xattrs, [("user.a".to_owned(), "623d63".to_owned())].into());
}

#[test]
fn times_before_1970_and_with_fractions_and_large_numbers() {
    let found = through(&[
        pax(b'x', &[("mtime", b"1700000000.123456789")]),
        plain("fraction", b'0', b""),
        pax(b'x', &[("mtime", b"-1.5"), ("uid", b"4294967295"), ("gid", b"2097152")]),
        plain("before", b'5', b""),
        entry(b"base256", b'0', b"", |header| {
            header.as_mut_bytes()[136..148].copy_from_slice(&[0xFF; 12]);
            header.as_mut_bytes()[108..116].copy_from_slice(&[0x80, 0, 0, 0, 0x7F, 0xFF, 0xFF, 0xFF]);
        }),
    ]);
    let expected = tree([
        ("/fraction", Seen { mtime: 1_700_000_000, mtime_ns: 123_456_789, ..file(b"") }),
        (
            "/before",
            Seen { mtime: -2, mtime_ns: 500_000_000, uid: 4_294_967_295, gid: 2_097_152, ..special("dir") },
        ),
        ("/base256", Seen { mtime: -1, uid: 0x7FFF_FFFF, ..file(b"") }),
    ]);
    assert_eq!(found, expected);
}

#[test]
fn devices_fifos_and_links_to_other_things_than_files() {
    let device = |path: &str, kind, major, minor| {
        entry(path.as_bytes(), kind, b"", |header| {
            header.set_device_major(major).unwrap();
            header.set_device_minor(minor).unwrap();
        })
    };
    let blank = |path: &str, kind| {
        entry(path.as_bytes(), kind, b"", |header| header.as_mut_bytes()[329..345].fill(0))
    };
    let found = through(&[
        device("chr", b'3', 0xFFF, 0xF_FFFF),
        device("blk", b'4', 8, 1),
        blank("fifo", b'6'),
        blank("zero", b'3'),
        linked("sym", b'2', b"nowhere"),
        linked("hard-to-sym", b'1', b"sym"),
        linked("hard-to-chr", b'1', b"./chr"),
        linked("hard-to-fifo-before", b'1', b"late"),
        blank("late", b'6'),
    ]);
    let rdev = |kind: &str, major, minor| Seen { rdev: (major, minor), ..special(kind) };
    let sym = Seen { target: "nowhere".into(), ..special("lnk") };
    let expected = tree([
        ("/chr", rdev("chr", 0xFFF, 0xF_FFFF)),
        ("/blk", rdev("blk", 8, 1)),
        ("/fifo", special("fifo")),
        ("/zero", special("chr")),
        ("/sym", sym.clone()),
        ("/hard-to-sym", sym),
        ("/hard-to-chr", rdev("chr", 0xFFF, 0xF_FFFF)),
        ("/hard-to-fifo-before", special("fifo")),
        ("/late", special("fifo")),
    ]);
    assert_eq!(found, expected);
}

#[test]
fn hard_links_share_one_file_in_any_order() {
    let found = through(&[
        linked("a-before", b'1', b"m"),
        plain("m", b'0', b"data"),
        linked("z-after", b'1', b"/m"),
        linked("of-a-link", b'1', b"z-after"),
    ]);
    let links: Vec<String> = ["/a-before", "/m", "/of-a-link", "/z-after"].map(String::from).into();
    let shared = Seen { links: links.clone(), ..file(b"data") };
    assert_eq!(found, links.into_iter().map(|path| (path, shared.clone())).collect());
}

/// Bookkeeping of eStargz is no content, and the whiteouts of a single layer are ordinary files.
#[test]
fn bookkeeping_is_left_out_and_whiteouts_are_kept() {
    let found = through(&[
        plain(".no.prefetch.landmark", b'0', b"\x0f"),
        plain("a/.wh..wh..opq", b'0', b""),
        plain(".wh.b", b'0', b""),
        plain("a/.prefetch.landmark", b'0', b"kept"),
        plain("stargz.index.json", b'0', b"{}"),
    ]);
    let paths: Vec<&str> = found.keys().map(String::as_str).collect();
    assert_eq!(paths, ["/.wh.b", "/a", "/a/.prefetch.landmark", "/a/.wh..wh..opq"]);
}

#[test]
fn what_cannot_be_stored_is_refused_by_name() {
    let long = "n".repeat(256);
    let long_xattr = format!("SCHILY.xattr.user.{}", "x".repeat(251));
    let large = vec![7; 65_536];
    let device = entry(b"the-entry", b'3', b"", |header| {
        header.as_mut_bytes()[329..337].copy_from_slice(b"0010000\0");
    });
    let file = || plain("the-entry", b'0', b"");
    let cases: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("\"..\"", vec![plain("the-entry/../../x", b'0', b"")]),
        ("\"..\"", vec![plain("/../the-entry", b'0', b"")]),
        ("\"..\"", vec![linked("x", b'1', b"../the-entry")]),
        (
            "256 bytes, at most 255",
            vec![pax(b'x', &[("path", format!("the-entry/{long}").as_bytes())]), file()],
        ),
        (
            "256 bytes, at most 255",
            vec![pax(b'x', &[("path", format!("{long}/the-entry").as_bytes())]), file()],
        ),
        ("4096 bytes", vec![pax(b'x', &[("linkpath", &[b't'; 4096])]), linked("the-entry", b'2', b"t")]),
        ("0 bytes", vec![plain("the-entry", b'2', b"")]),
        ("target holds a NUL", vec![pax(b'x', &[("linkpath", b"a\0b")]), linked("the-entry", b'2', b"t")]),
        (
            "8011 bytes, at most 4095",
            vec![pax(b'x', &[("path", format!("the-entry/{}", "d/".repeat(4001)).as_bytes())]), file()],
        ),
        ("\"gone\", which is not in the layer", vec![linked("the-entry", b'1', b"gone")]),
        ("hard link to a directory", vec![plain("d/", b'5', b""), linked("the-entry", b'1', b"d")]),
        ("parent is not a directory", vec![plain("f", b'0', b""), plain("f/the-entry", b'0', b"")]),
        ("root must be a directory", vec![pax(b'x', &[("path", b"./")]), plain("x", b'6', b"")]),
        ("4096:0 is over", vec![device]),
        ("over 255 bytes", vec![pax(b'x', &[(&long_xattr, b"")]), file()]),
        ("65536 is over the limit of 65535", vec![pax(b'x', &[("SCHILY.xattr.user.x", &large)]), file()]),
        ("NUL", vec![pax(b'x', &[("SCHILY.xattr.user.x\0y", b"")]), file()]),
        ("not base64", vec![pax(b'x', &[("LIBARCHIVE.xattr.user.x", b"!")]), file()]),
        ("uid", vec![pax(b'x', &[("uid", b"4294967296")]), file()]),
        ("mtime", vec![pax(b'x', &[("mtime", b"yesterday")]), file()]),
        ("NUL", vec![pax(b'x', &[("path", b"the-entry\0x")]), file()]),
        ("unknown type 'Q'", vec![plain("the-entry", b'Q', b"")]),
        ("another volume", vec![plain("the-entry", b'M', b"")]),
        ("sparse", vec![pax(b'x', &[("GNU.sparse.major", b"2"), ("GNU.sparse.minor", b"0")]), file()]),
        (
            "out of order",
            vec![
                pax(b'x', &[("GNU.sparse.map", b"5,1,0,1"), ("GNU.sparse.size", b"9")]),
                plain("the-entry", b'0', b"xx"),
            ],
        ),
        (
            "covers 3 bytes, 2 are stored",
            vec![
                pax(b'x', &[("GNU.sparse.map", b"0,3"), ("GNU.sparse.size", b"9")]),
                plain("the-entry", b'0', b"xx"),
            ],
        ),
    ];
    for (problem, parts) in cases {
        let said = refusal(&[parts.concat(), end()].concat());
        assert!(said.contains(problem), "expected {problem:?}: {said}");
        assert!(said.contains("the-entry") || problem == "root must be a directory", "{said}");
    }
}

#[test]
fn what_is_no_tar_is_refused() {
    let noise: Vec<u8> = (0..4096u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    assert!(refusal(b"").contains("it is empty"));
    assert!(refusal(&noise).contains("byte 0: this is no tar header"));
    assert!(refusal(&noise[..100]).contains("byte 0: the stream ends inside a header"));
    assert!(refusal(&[0x1F, 0x8B, 8, 0]).starts_with("reading the layer at byte 0: "));
    assert!(refusal(&[0x28, 0xB5, 0x2F, 0xFD, 0]).starts_with("reading the layer at byte 0: "));
}

/// Wherever a tar is cut, it is refused, but for the places behind an entry: there it is built with a word about it.
#[test]
fn a_tar_that_is_cut_off() {
    let tar = [
        pax(b'x', &[("path", b"first"), ("mtime", b"1.5")]),
        plain("x", b'0', &[1; 1000]),
        plain("second", b'5', b""),
        plain("third", b'0', &[3; 100]),
        end(),
    ]
    .concat();
    let boundaries = [2560, 3072, 4096];
    for cut in (1..tar.len() - 512).step_by(37).chain(boundaries) {
        if boundaries.contains(&cut) || cut > 4096 && cut % 512 == 0 {
            let dir = tempfile::tempdir().unwrap();
            assert_eq!(build(&tar[..cut], dir.path()).unwrap().end, Some(End::Unmarked), "{cut}");
        } else {
            let said = refusal(&tar[..cut]);
            assert!(said.contains("byte") && said.contains("ends inside"), "cut at {cut}: {said}");
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let report = build(&[tar.as_slice(), b"behind the end"].concat(), dir.path()).unwrap();
    assert_eq!(report.end, Some(End::Trailing(tar.len() as u64)));
}

/// A layer of nothing is an image of nothing, without a blob.
#[test]
fn an_archive_without_entries() {
    let dir = tempfile::tempdir().unwrap();
    let report = build(&end(), dir.path()).unwrap();
    assert_eq!((report.entries, report.blob), (1, None));
    let names: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["boot"]);
}

/// Chunks share buffers of a megabyte: thousands of small ones, some that compress and some that do not, with a long one behind them.
#[test]
fn buffers_full_of_small_chunks() {
    let noise = |seed: u32, size: u32| -> Vec<u8> {
        (0..size).map(|n| ((n ^ seed << 12).wrapping_mul(2_654_435_761) >> 19) as u8).collect()
    };
    let mut parts = Vec::new();
    for n in 0..6000u32 {
        let data = if n % 3 == 0 { noise(n, 170) } else { format!("{n:04} ").repeat(34).into_bytes() };
        parts.push(plain(&format!("small-{n}"), b'0', &data));
        if n % 1999 == 1998 {
            parts.push(plain(&format!("long-{n}"), b'0', &noise(n, (1 << 20) - n)));
        }
    }
    let tar = [parts.concat(), end()].concat();
    let plain = tar_tree(&tar);
    for compressor in [Compressor::Zstd, Compressor::Lz4Block, Compressor::None] {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { compressor, threads: 3, ..Options::default() };
        let places = (Place::File(dir.path().join("boot")), Place::Directory(dir.path().to_path_buf()));
        create(Input::Tar(Box::new(tar.as_slice())), &options, places, &Outputs::new(), &|_| {}).unwrap();
        let image = Image::open(&dir.path().join("boot")).unwrap();
        let local = LocalFs { dir: Some(dir.path().to_path_buf()), ..LocalFs::default() };
        let mut out = Vec::new();
        unpack::tar_to(&image, &BlobSource::new(Arc::new(local)).unwrap(), &mut out, 2).unwrap();
        assert!(tar_tree(&out) == plain, "{compressor:?}");
    }
}
