//! The start of a gzip member: a chunk of an eStargz layer, behind which its member may go on with anything.

use crate::CodecError;
use std::io::Read;

/// The first `size` plain bytes of the gzip member at the start of `stored`. What is behind them, in the member and in `stored`, is not looked at, so
/// neither is the checksum. Errors: no member, or a shorter one.
pub(crate) fn start(stored: &[u8], size: usize) -> Result<Vec<u8>, CodecError> {
    let mut plain = vec![0; size];
    let read = flate2::bufread::GzDecoder::new(stored).read_exact(&mut plain);
    let corrupt = |error: std::io::Error| CodecError::Corrupt {
        codec: "gzip",
        stored: stored.len(),
        reason: error.to_string(),
    };
    read.map_err(corrupt).map(|()| plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn member(plain: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn what_is_behind_the_start_does_not_matter() {
        let plain: Vec<u8> = (0..20_000u32).flat_map(|n| (n / 5).to_le_bytes()).collect();
        let (mut whole, chunk) = (member(&plain), &plain[..50_000]);
        assert_eq!(start(&whole, 50_000).unwrap(), chunk);
        whole.extend_from_slice(b"and the next one");
        assert_eq!(start(&whole, 50_000).unwrap(), chunk);
        assert_eq!(start(&whole, plain.len()).unwrap(), plain);
        let enough = (0..whole.len()).find(|&end| start(&whole[..end], 50_000).is_ok()).unwrap();
        assert!(enough < whole.len() * 3 / 4, "{enough} of {}", whole.len());
        assert!(start(&whole, plain.len() + 1).is_err());
        assert!(start(b"", 1).is_err() && start(b"no gzip at all", 1).is_err());
    }
}
