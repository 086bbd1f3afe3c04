//! Where fuzzing starts.

use std::path::Path;

/// Writes `seeds` into the folder that `FUZZ_SEEDS` names, if it does.
pub fn write(seeds: &[impl AsRef<[u8]>]) {
    let Some(dir) = std::env::var_os("FUZZ_SEEDS") else { return };
    for (n, seed) in seeds.iter().enumerate() {
        let path = Path::new(&dir).join(format!("made-{n}"));
        std::fs::write(&path, seed).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}
