//! Fuzz target: bytes as a disk with partitions.
#![no_main]

use libfuzzer_sys::fuzz_target;
use parsers_fuzz::gpt;
use rafs_format_fuzz::seeds;

fuzz_target!(init: seeds::write("gpt", gpt::seeds), |data: &[u8]| gpt::try_bytes(data));
