//! Fuzz target: bytes as the tar of a layer.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oci_registry_fuzz::{seeds, tar_stream};

fuzz_target!(init: seeds::write(&tar_stream::seeds()), |data: &[u8]| tar_stream::try_bytes(data));
