//! Arguments of `create` that say how chunks are stored: in batches, encrypted.

use super::{CreateArgs, Kind, number};
use anyhow::{bail, ensure};
use clap::{Args, ValueEnum};
use rafs_builder::create::Encryption;
use rafs_builder::keys;
use std::path::PathBuf;

/// How chunks are stored.
#[derive(Debug, Args)]
pub(super) struct UnitArgs {
    /// Store files of less than half of this together, in batches below this size: a power of two from 0x1000 to the chunk size; 0 for none.
    #[arg(long, value_name = "SIZE", value_parser = number, default_value = "0")]
    batch_size: u64,
    /// Encrypt the data of the blob (AES-128-XTS) with the key in --key-file, which readers need, too. Names, sizes and digests stay readable.
    #[arg(short = 'E', long)]
    encrypt: bool,
    /// File with the key: 64 hex digits or 32 bytes, which others must not be able to read.
    #[arg(long, value_name = "FILE", requires = "encrypt")]
    key_file: Option<PathBuf>,
    /// Make a new key and write it to --key-file, which must not be there yet.
    #[arg(long, requires = "key_file")]
    generate_key: bool,
    /// Put the key into the bootstrap, in clear, where Nydus 2.x looks for it. Keep the bootstrap as secret as the key then.
    #[arg(long, requires_all = ["encrypt", "bootstrap"], conflicts_with = "blob_inline_meta")]
    key_in_bootstrap: bool,
}

impl UnitArgs {
    /// Refuses what does not go with a conversion of this kind and version.
    pub(super) fn check(&self, args: &CreateArgs) -> anyhow::Result<()> {
        let version = &args.fs_version;
        for (given, option) in [(self.batch_size != 0, "--batch-size"), (self.encrypt, "--encrypt")] {
            ensure!(
                !given || version == "6",
                "{option} conflicts with --fs-version {version}: it needs RAFS v6"
            );
            if let Some(kind) = args.kind.filter(|kind| given && !kind.stores_chunks()) {
                bail!("conversion type `{}` conflicts with `{option}`", kind.name());
            }
        }
        let without_key = self.encrypt && self.key_file.is_none();
        ensure!(
            !without_key,
            "--encrypt needs --key-file: the key is not stored with the image; --generate-key makes one"
        );
        Ok(())
    }

    /// How blobs are encrypted. Makes the key if it is to be made.
    pub(super) fn encryption(&self, args: &CreateArgs) -> anyhow::Result<Option<Encryption>> {
        let Some(path) = self.key_file.as_deref().filter(|_| self.encrypt) else { return Ok(None) };
        check_chunk_size(args.chunk_size(), "--encrypt")?;
        let key = if self.generate_key { keys::generate(path)? } else { keys::read(path)? };
        Ok(Some(Encryption { key, iv: keys::random()?, key_in_bootstrap: self.key_in_bootstrap }))
    }

    /// The size of batches, 0 for none, of an image with chunks of `chunk_size`.
    pub(super) fn batch_size(&self, chunk_size: u32) -> anyhow::Result<u32> {
        let size = self.batch_size;
        if size == 0 {
            return Ok(0);
        }
        let good = size.is_power_of_two() && size >= 0x1000;
        ensure!(good, "--batch-size {size:#x} is not a power of two from 0x1000 to the chunk size");
        check_chunk_size(chunk_size.into(), "--batch-size")?;
        match u32::try_from(size).ok().filter(|&size| size <= chunk_size) {
            Some(size) => Ok(size),
            None => bail!("--batch-size {size:#x} is larger than --chunk-size {chunk_size:#x}"),
        }
    }
}

/// Chunk tables of such blobs have 24 bits for stored sizes, so that a chunk of 16 MiB that does not compress would not fit.
fn check_chunk_size(chunk_size: u64, option: &str) -> anyhow::Result<()> {
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
