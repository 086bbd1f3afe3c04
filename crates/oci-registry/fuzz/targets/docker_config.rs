//! Fuzz target: bytes as `config.json` of docker.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oci_registry_fuzz::{docker_config, seeds};

fuzz_target!(init: seeds::write(docker_config::SEEDS), |data: &[u8]| docker_config::try_bytes(data));
