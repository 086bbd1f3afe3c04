//! Fuzz target: bytes as a bootstrap.
#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use rafs_format_fuzz::{bootstrap, seeds};

fuzz_target!(init: seeds::write("bootstrap", seeds::bootstraps), |data: &[u8]| bootstrap::try_bytes(data));

/// Bytes that are changed in place: about one structure.
const WINDOW: usize = 64;

// Every second time some bytes stay where they are and change, since shifting all that follows makes nonsense of every offset. Else
// anything, made a multiple of 4096 bytes long: other lengths end at the first check.
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let place = seed as usize >> 1;
    if seed.is_multiple_of(2) && size >= WINDOW {
        let start = place % (size / 32 - 1) * 32;
        let _changed = fuzzer_mutate(&mut data[start..start + WINDOW], WINDOW, WINDOW);
        return size;
    }
    let new = fuzzer_mutate(data, size, max_size);
    let whole = new.next_multiple_of(4096);
    if whole > max_size {
        return new - new % 4096;
    }
    data[new..whole].fill(0);
    whole
});
