//! The table of contents of an eStargz layer, on bytes that are anything.

#[path = "../../crates/rafs-builder/src/create/stargz/toc.rs"]
mod toc;

use rafs_format::FormatError;
use rafs_format_fuzz::memory;
use std::convert::Infallible;

/// Seconds of the years 0 to 9999, with a day to spare.
const TIMES: std::ops::Range<i64> = -62_200_000_000..253_402_387_200;

/// Reads the entries of `data`. Panics when they hold more text than there is, or take more memory than is linear in it.
pub fn try_bytes(data: &[u8]) {
    memory::bounded(data.len(), || {
        let (mut count, mut text) = (0, 0);
        let read = toc::read::<Infallible>(data, &mut |entry| {
            count += 1;
            text += entry.name.len() + entry.kind.len() + entry.link_name.len() + entry.modtime.len();
            text += entry.digest.len() + entry.chunk_digest.len();
            text += entry.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
            assert!(toc::seconds(&entry.modtime).is_none_or(|time| TIMES.contains(&time)), "{entry:?}");
            Ok(())
        });
        // An entry is two brackets at least, and no text grows when it is unescaped.
        assert!(2 * count + text <= data.len(), "{count} entries, {text} bytes of text");
        if let Err(toc::TocError::Json(error)) = read {
            assert!(!error.to_string().is_empty());
        }
    });
    if let Ok(time) = std::str::from_utf8(data) {
        assert!(toc::seconds(time).is_none_or(|time| TIMES.contains(&time)), "{time:?}");
    }
}

/// Tables with every kind of entry.
pub fn seeds() -> Result<Vec<Vec<u8>>, FormatError> {
    let all = [
        r#"{"version":1,"entries":[]}"#,
        r#"{"version":1,"entries":[{"name":"d/","type":"dir","modtime":"2023-11-14T22:13:20Z","mode":16877},{"name":"d/f","type":"reg","size":9,"offset":104,"digest":"sha256:00","chunkSize":5,"chunkDigest":"sha256:01"},{"name":"d/f","type":"chunk","offset":300,"chunkOffset":5,"chunkSize":4,"innerOffset":2}]}"#,
        r#"{"entries":[{"name":"l","type":"symlink","linkName":"d/\u00e9\n","xattrs":{"user.a":"YQ==","user.b":""}},{"name":"c","type":"char","devMajor":1,"devMinor":3,"uid":1000,"gid":4294967295}],"more":[{"x":null}],"version":1}"#,
        "2000-02-29T12:30:59.5Z",
    ];
    Ok(all.iter().map(|text| text.as_bytes().to_vec()).collect())
}
