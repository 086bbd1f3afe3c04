//! Streams put together by hand; archives of real programs are in `tests/gnu_tar.rs`.

use super::*;

fn header(path: &str, kind: u8, size: u64) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
    header.set_mode(0o644);
    header.set_size(size);
    header.set_mtime(7);
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_cksum();
    header.as_bytes().to_vec()
}

fn entry(path: &str, kind: u8, data: &[u8]) -> Vec<u8> {
    let mut bytes = header(path, kind, data.len() as u64);
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

fn read_all(bytes: &[u8]) -> Result<Vec<(Meta, Vec<u8>)>, LayerError> {
    let mut layer = Layer::new(bytes);
    let mut all = Vec::new();
    while let Some(meta) = layer.next_entry()? {
        let mut data = vec![0xAA; usize::try_from(meta.size.min(1 << 20)).unwrap()];
        assert_eq!(layer.read_data(&mut data)?, data.len());
        all.push((meta, data));
    }
    Ok(all)
}

fn paths(bytes: &[u8]) -> Vec<String> {
    read_all(bytes)
        .unwrap()
        .iter()
        .map(|(meta, _)| String::from_utf8_lossy(&meta.path).into_owned())
        .collect()
}

#[test]
fn archives_one_behind_the_other_are_one() {
    let bytes = [entry("a", b'0', b"1"), vec![0; 1024], entry("b/", b'0', b""), vec![0; 512]].concat();
    assert_eq!(paths(&bytes), ["a", "b/"]);
    assert_eq!(read_all(&bytes).unwrap()[1].0.kind, EntryKind::Directory);
    assert_eq!(paths(&[]), [] as [&str; 0]);
}

#[test]
fn long_names_and_records_win_over_the_header() {
    let long = "l".repeat(300);
    let bytes = [
        entry("././@LongLink", b'L', format!("{long}\0").as_bytes()),
        entry("cut", b'0', b"x"),
        entry("g", b'g', b"12 uid=7777\n"),
        entry("p", b'x', b"11 path=ab\n22 mtime=-1.500000000\n"),
        entry("cut", b'0', b"y"),
        entry("p", b'x', b"7 uid=\n"),
        entry("z", b'0', b""),
    ];
    let all = read_all(&bytes.concat()).unwrap();
    assert_eq!(all[0].0.path, long.as_bytes());
    assert_eq!((all[1].0.path.as_slice(), all[1].0.uid), (b"ab".as_slice(), 7777));
    assert_eq!((all[1].0.mtime_secs, all[1].0.mtime_nanos), (-2, 500_000_000));
    assert_eq!(all[2].0.uid, 0, "an empty record takes the global one back");
    assert_eq!(all[1].1, b"y");
}

#[test]
fn what_is_cut_off_is_an_error_that_names_the_entry() {
    let bytes = entry("some/file", b'0', &[1; 600]);
    for cut in 1..bytes.len() {
        let error = read_all(&bytes[..cut]).unwrap_err().to_string();
        assert!(cut < BLOCK || error.contains("some/file"), "{cut}: {error}");
    }
}

#[test]
fn wrong_sums_and_unknown_types_are_refused() {
    let mut bytes = entry("a", b'0', b"");
    bytes[0] ^= 1;
    assert!(read_all(&bytes).unwrap_err().to_string().contains("checksum"));
    assert!(read_all(&entry("a", b'?', b"")).unwrap_err().to_string().contains("unknown type"));
    let long = header("x", b'x', MAX_EXTENSION + 1);
    assert!(read_all(&long).unwrap_err().to_string().contains("extension of"));
    assert!(read_all(&entry("x", b'x', b"6 a=b\n")).unwrap_err().to_string().contains("without an entry"));
}

#[test]
fn compression_is_told_by_the_first_bytes() {
    let plain = entry("a", b'0', b"data");
    let zstd = zstd::stream::encode_all(plain.as_slice(), 1).unwrap();
    let mut gzip = Vec::new();
    for part in plain.chunks(700) {
        let mut encoder = flate2::read::GzEncoder::new(part, flate2::Compression::fast());
        std::io::copy(&mut encoder, &mut gzip).unwrap();
    }
    let cases = [
        (plain.clone(), LayerCompression::None),
        (zstd, LayerCompression::Zstd),
        (gzip, LayerCompression::Gzip),
    ];
    for (bytes, expected) in cases {
        let (found, mut input) = decompress(bytes.as_slice()).unwrap();
        let mut out = Vec::new();
        input.read_to_end(&mut out).unwrap();
        assert_eq!((found, out), (expected, plain.clone()));
    }
    assert_eq!(decompress([0x1F].as_slice()).unwrap().0, LayerCompression::None);
}
