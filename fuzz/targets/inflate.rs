//! Fuzz target: bytes as a gzip stream, entered again before each of its blocks.
#![no_main]

use libfuzzer_sys::fuzz_target;
use parsers_fuzz::inflate;
use rafs_format_fuzz::seeds;

fuzz_target!(init: seeds::write("inflate", inflate::seeds), |data: &[u8]| inflate::try_bytes(data));
