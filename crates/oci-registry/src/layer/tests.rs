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

/// What follows the end of an archive and is none itself is left alone, as other readers of layers do; before the end it is damage.
#[test]
fn garbage_is_left_alone_only_behind_the_end() {
    let file = entry("a", b'0', b"1");
    let end_of = |behind: &[u8]| {
        let bytes = [file.as_slice(), behind].concat();
        let mut layer = Layer::new(bytes.as_slice());
        layer.next_entry()?;
        let last = layer.next_entry()?;
        assert!(last.is_none(), "{last:?}");
        assert_eq!(layer.offset(), bytes.len() as u64, "the stream is read to its end");
        Ok::<_, LayerError>(layer.end())
    };
    assert_eq!(end_of(&[]).unwrap(), End::Unmarked);
    assert_eq!(end_of(&[0; 512]).unwrap(), End::Unmarked);
    assert_eq!(end_of(&[0; 1024]).unwrap(), End::Marked);
    assert_eq!(end_of(&[0; 10_240]).unwrap(), End::Marked);
    for garbage in [vec![7], vec![0; 100], vec![7; 512], vec![0xFF; 100_000]] {
        let behind = [vec![0; 1024], garbage.clone()].concat();
        assert_eq!(end_of(&behind).unwrap(), End::Trailing(2048), "{} bytes", garbage.len());
        let at_once = end_of(&garbage).unwrap_err().to_string();
        assert!(at_once.contains("byte 1024"), "{at_once}");
    }
    assert!(end_of(&[vec![0; 512], vec![7; 512]].concat()).is_err(), "one empty block is no end");
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
    // A frame to be skipped, then one frame for each part, then another one to be skipped.
    let skipped = b"\x50\x2a\x4d\x18\x04\0\0\0abcd".to_vec();
    let mut frames = skipped.clone();
    for part in plain.chunks(300) {
        frames.extend(zstd::stream::encode_all(part, 1).unwrap());
    }
    frames.extend(skipped);
    let cases = [
        (plain.clone(), LayerCompression::None),
        (zstd, LayerCompression::Zstd),
        (frames, LayerCompression::Zstd),
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

/// Reads everything through the decompression: the data of all entries.
fn read_compressed(bytes: &[u8]) -> Result<Vec<Vec<u8>>, LayerError> {
    let io = |source| LayerError::Io { offset: 0, source };
    let mut layer = Layer::new(decompress(bytes).map_err(io)?.1);
    let mut entries = Vec::new();
    while let Some(meta) = layer.next_entry()? {
        let mut data = vec![0; usize::try_from(meta.size).unwrap()];
        layer.read_data(&mut data)?;
        entries.push(data);
    }
    Ok(entries)
}

#[test]
fn a_compressed_stream_that_is_cut_off_or_damaged_is_an_error() {
    let noise: Vec<u8> =
        (0..3000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0]).collect();
    let tar = [entry("some/file", b'0', &noise), vec![0; 1024]].concat();
    let mut gzip = Vec::new();
    let mut encoder = flate2::read::GzEncoder::new(tar.as_slice(), flate2::Compression::fast());
    std::io::copy(&mut encoder, &mut gzip).unwrap();
    let mut zstd = zstd::stream::Encoder::new(Vec::new(), 3).unwrap();
    zstd.include_checksum(true).unwrap();
    std::io::copy(&mut tar.as_slice(), &mut zstd).unwrap();
    for whole in [gzip, zstd.finish().unwrap()] {
        let expected = [noise.clone()];
        assert_eq!(read_compressed(&whole).unwrap(), expected);
        for cut in 1..whole.len() {
            assert!(read_compressed(&whole[..cut]).is_err(), "cut at {cut} of {}", whole.len());
        }
        // Damage may mean nothing: a time in the header, another of several distances to the same bytes.
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            if let Ok(found) = read_compressed(&damaged) {
                assert_eq!(found, expected, "damage at {at} of {}", whole.len());
            }
        }
        let behind = [whole.as_slice(), b"garbage"].concat();
        assert!(read_compressed(&behind).is_err(), "garbage behind the compressed stream");
    }
}

/// Global records hold for all entries, so a stream must not make each of them cost more and more.
#[test]
fn global_records_are_bounded() {
    let records = |count: u32, key: &str| -> Vec<u8> {
        let record = |n: u32| {
            let rest = format!(" {key}{n:06}=v\n");
            format!("{}{rest}", rest.len() + 2).into_bytes()
        };
        (0..count).flat_map(record).collect()
    };
    // A million that mean nothing are read and forgotten, in time that does not depend on those before.
    let many = entry("g", b'g', &records(500_000, "comment.a"));
    let bytes = [many.clone(), many, entry("a", b'0', b"1")].concat();
    assert_eq!(paths(&bytes), ["a"]);
    let xattrs = entry("g", b'g', &records(10_000, "SCHILY.xattr.user.a"));
    let error = read_all(&xattrs).unwrap_err().to_string();
    assert!(error.contains("global PAX records of over"), "{error}");
}
