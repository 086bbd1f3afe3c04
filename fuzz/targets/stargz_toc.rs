//! Fuzz target: bytes as the table of contents of an eStargz layer.
#![no_main]

use libfuzzer_sys::fuzz_target;
use parsers_fuzz::stargz_toc;
use rafs_format_fuzz::seeds;

fuzz_target!(init: seeds::write("stargz_toc", stargz_toc::seeds), |data: &[u8]| stargz_toc::try_bytes(data));
