//! Spans of a gzip layer that stays as it is: decoding that starts at a saved state, and goes on over the ends of members.

use crate::inflate::{InflateError, Inflater, Stop, Wrapping};
use crate::{CodecError, exact};
use rafs_format::zran::Resume;

/// Checksum and length that end a gzip member, in bytes.
const TRAILER: usize = 8;
/// Name of the codec in messages.
const CODEC: &str = "gzip";

/// Decodes a span of exactly `size` bytes out of `stored`, which starts where `resume` was saved.
pub(crate) fn decode(resume: &Resume, stored: &[u8], size: usize) -> Result<Vec<u8>, CodecError> {
    let mut plain = vec![0; size];
    let found = fill(resume, stored, &mut plain).map_err(|error| CodecError::Corrupt {
        codec: CODEC,
        stored: stored.len(),
        reason: error.to_string(),
    })?;
    exact(CODEC, found, size)?;
    Ok(plain)
}

/// Fills `plain`. Returns how much there is, where `stored` ends before.
fn fill(resume: &Resume, stored: &[u8], plain: &mut [u8]) -> Result<usize, InflateError> {
    let mut inflater = Inflater::new(Wrapping::Raw)?;
    let (bits, value) = resume.pending();
    inflater.prime(bits, value)?;
    inflater.set_dictionary(resume.dictionary())?;
    // Of the member that is entered in its middle nobody looks at the checksum.
    let (mut trailer, mut at, mut filled) = (TRAILER, 0, 0);
    while let Some(room) = plain.get_mut(filled..).filter(|room| !room.is_empty()) {
        let step = inflater.inflate(stored.get(at..).unwrap_or(&[]), room, false)?;
        at += step.consumed;
        filled += step.produced;
        if step.stop == Stop::End {
            at = at.saturating_sub(usize::from(step.pending / 8)).saturating_add(trailer);
            trailer = 0;
            inflater.reset(Wrapping::Gzip)?;
        } else if step.consumed == 0 && step.produced == 0 {
            break;
        }
    }
    Ok(filled)
}
