//! Tar streams of every dialect: headers, PAX records, sparse maps, out of bytes that are anything.

use oci_registry::layer::Layer;

/// Most bytes that are read of one entry: a sparse file may say that it is longer than any disk.
const READ: usize = 1 << 20;

/// Reads all entries of `data` and some of the data of each. Panics when there are more of them, or more in them, than the bytes can hold.
pub fn try_bytes(data: &[u8]) {
    let mut layer = Layer::new(data);
    let (mut entries, mut buffer) = (0, vec![0; 1 << 16]);
    while let Ok(Some(meta)) = layer.next_entry() {
        entries += 1;
        assert!(entries <= data.len() / 512, "{entries} entries in {} bytes", data.len());
        assert!(!meta.path.is_empty() && !meta.path.contains(&0) && meta.path.len() <= data.len());
        let attributes: usize = meta.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        assert!(attributes <= data.len() && meta.mode <= 0o7777 && meta.mtime_nanos < 1_000_000_000);
        assert!(layer.offset() <= data.len() as u64 && meta.offset < layer.offset());
        if let Some(offset) = layer.data_offset() {
            assert_eq!(offset, layer.offset());
        }
        let mut done = 0;
        while done < READ {
            match layer.read_data(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(count) => done += count,
            }
        }
        assert!(done as u64 <= meta.size, "{done} of {} bytes", meta.size);
    }
    assert!(layer.offset() <= data.len() as u64);
}

/// A header with a right checksum, and what stands behind it, padded.
fn entry(name: &[u8], kind: u8, link: &[u8], data: &[u8], change: impl Fn(&mut [u8; 512])) -> Vec<u8> {
    let mut header = [0; 512];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name);
    put(100, b"0000644\0");
    put(108, b"0001750\0");
    put(116, b"0000144\0");
    put(124, format!("{:011o}\0", data.len()).as_bytes());
    put(136, b"14524770600\0");
    put(156, &[kind]);
    put(157, link);
    put(257, b"ustar\x0000");
    change(&mut header);
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut all = [&header[..], data].concat();
    all.resize(all.len().next_multiple_of(512), 0);
    all
}

/// PAX records, each with its length in front.
fn records(texts: &[&[u8]]) -> Vec<u8> {
    let record = |text: &&[u8]| {
        let rest = [b" ", *text, b"\n"].concat();
        let length = (rest.len() + 1..).find(|length| length.to_string().len() + rest.len() == *length);
        [length.unwrap_or(0).to_string().as_bytes(), &rest].concat()
    };
    texts.iter().flat_map(record).collect()
}

/// A stream of each dialect.
pub fn seeds() -> Vec<Vec<u8>> {
    let plain = |name: &[u8], kind, link: &[u8], data: &[u8]| entry(name, kind, link, data, |_| {});
    let end = vec![0; 1024];
    let gnu = |header: &mut [u8; 512]| {
        header[257..265].copy_from_slice(b"ustar  \0");
        header[386..410].copy_from_slice(b"00000001000\000000001000\0");
        header[483..495].copy_from_slice(b"00000003000\0");
    };
    let base256 = |header: &mut [u8; 512]| header[108..116].copy_from_slice(&[0x80, 0, 0, 0, 1, 2, 3, 4]);
    let pax = records(&[b"mtime=1700000000.123456789", b"SCHILY.xattr.user.a=b", b"path=\xE9"]);
    let pax = pax.as_slice();
    let sparse = records(&[
        b"GNU.sparse.major=1",
        b"GNU.sparse.minor=0",
        b"GNU.sparse.name=s",
        b"GNU.sparse.realsize=4096",
    ]);
    let map = [&b"1\n512\n512\n"[..], &[0; 502], &[7; 512]].concat();
    vec![
        [plain(b"d/", b'5', b"", b""), plain(b"d/f", b'0', b"", b"data"), end.clone()].concat(),
        [plain(b"l", b'2', b"d/f", b""), plain(b"h", b'1', b"d/f", b""), plain(b"p", b'6', b"", b"")]
            .concat(),
        [plain(b"x", b'x', b"", pax), plain(b"f", b'0', b"", b"1"), end.clone()].concat(),
        [plain(b"g", b'g', b"", pax), plain(b"x", b'x', b"", &sparse), plain(b"s", b'0', b"", &map)].concat(),
        [plain(b"././@LongLink", b'L', b"", &[b'n'; 300]), plain(b"n", b'0', b"", b"1")].concat(),
        [entry(b"s", b'S', b"", &[7; 512], gnu), entry(b"u", b'0', b"", b"", base256), end].concat(),
    ]
}
