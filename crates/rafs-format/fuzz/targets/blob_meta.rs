//! Fuzz target: bytes as the header of a blob's chunk table and the table.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rafs_format_fuzz::{blob_meta, seeds};

fuzz_target!(init: seeds::write("blob_meta", seeds::chunk_tables), |data: &[u8]| blob_meta::try_bytes(data));
