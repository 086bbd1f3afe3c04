//! Fuzz target: bytes as each header field that decides something.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oci_registry_fuzz::{header, seeds};

fuzz_target!(init: seeds::write(header::SEEDS), |data: &[u8]| header::try_bytes(data));
