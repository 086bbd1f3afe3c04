//! Arguments of `create` that say how chunks are stored: in batches.

use super::{Kind, number};
use anyhow::{bail, ensure};
use clap::{Args, ValueEnum};

/// How chunks are stored.
#[derive(Debug, Args)]
pub(super) struct UnitArgs {
    /// Store files of less than half of this together, in batches below this size: a power of two from 0x1000 to the chunk size; 0 for none.
    #[arg(long, value_name = "SIZE", value_parser = number, default_value = "0")]
    batch_size: u64,
}

impl UnitArgs {
    /// Refuses what does not go with conversions of this kind and version.
    pub(super) fn check(&self, kind: Option<Kind>, version: &str) -> anyhow::Result<()> {
        if self.batch_size == 0 {
            return Ok(());
        }
        ensure!(version == "6", "--batch-size conflicts with --fs-version {version}: batches need RAFS v6");
        match kind.filter(|kind| !kind.stores_chunks()) {
            Some(kind) => bail!("conversion type `{}` conflicts with `--batch-size`", kind.name()),
            None => Ok(()),
        }
    }

    /// The size of batches, 0 for none, of an image with chunks of `chunk_size`.
    pub(super) fn batch_size(&self, chunk_size: u32) -> anyhow::Result<u32> {
        let size = self.batch_size;
        if size == 0 {
            return Ok(0);
        }
        let good = size.is_power_of_two() && size >= 0x1000;
        ensure!(good, "--batch-size {size:#x} is not a power of two from 0x1000 to the chunk size");
        check_chunk_size(chunk_size, "--batch-size")?;
        match u32::try_from(size).ok().filter(|&size| size <= chunk_size) {
            Some(size) => Ok(size),
            None => bail!("--batch-size {size:#x} is larger than --chunk-size {chunk_size:#x}"),
        }
    }
}

/// Chunk tables of blobs with batches have 24 bits for stored sizes, so that a chunk of 16 MiB that does not compress would not fit.
fn check_chunk_size(chunk_size: u32, option: &str) -> anyhow::Result<()> {
    ensure!(
        chunk_size < 1 << 24,
        "--chunk-size {chunk_size:#x} conflicts with {option}: at most 0x800000 then"
    );
    Ok(())
}

impl Kind {
    /// Does this conversion write chunks of its own? The others leave data where it is.
    pub(super) fn stores_chunks(self) -> bool {
        matches!(self, Self::DirRafs | Self::TarRafs | Self::TargzRafs | Self::EstargzRafs)
    }

    /// As it is called on the command line.
    pub(super) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}
