//! The bitmap of a cache's map, on bytes that are anything.

#[path = "../../crates/blob-cache/src/ready.rs"]
mod ready;

use rafs_format::FormatError;
use ready::ReadyMap;

/// Bytes that say how many chunks there are.
const COUNT: usize = 3;

/// Takes three bytes of `data` for the number of chunks and the others for the bitmap. Panics when a chunk is hinted that the bitmap does not
/// name, or one that is out of bounds can be marked.
pub fn try_bytes(data: &[u8]) {
    let Some((count, bitmap)) = data.split_first_chunk::<COUNT>() else { return };
    let chunks = u32::from_le_bytes([count[0], count[1], count[2] & 0x0F, 0]);
    let map = ReadyMap::new(chunks, bitmap);
    let room = chunks.next_multiple_of(64);
    let last = u32::try_from(bitmap.len() * 8).unwrap_or(u32::MAX).min(room).saturating_add(70);
    // Each once: who was there before has changed it.
    let far = [chunks, room, u32::MAX].into_iter().filter(|&chunk| chunk >= last);
    for chunk in (0..last).chain(far.collect::<std::collections::BTreeSet<_>>()) {
        let byte = bitmap.get(chunk as usize / 8).copied().unwrap_or(0);
        let named = chunk < room && byte & (0x80 >> (chunk % 8)) != 0;
        assert_eq!(map.is_hinted(chunk), named, "chunk {chunk} of {chunks}");
        assert!(!map.is_verified(chunk));
        map.mark_verified(chunk);
        assert_eq!(map.is_verified(chunk), chunk < room);
        map.forget(chunk);
        assert!(!map.is_verified(chunk) && !map.is_hinted(chunk));
    }
}

/// Whole, short and long bitmaps.
pub fn seeds() -> Result<Vec<Vec<u8>>, FormatError> {
    let seed = |chunks: u8, bitmap: &[u8]| [&[chunks, 0, 0], bitmap].concat();
    Ok(vec![seed(0, &[]), seed(71, &[0x81; 9]), seed(200, &[0xFF]), seed(3, &[0xA0; 40])])
}
