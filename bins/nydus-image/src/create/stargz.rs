//! `create --type estargztoc-ref`: the table of contents of an eStargz layer, what goes with it and where its results go.

use super::{CreateArgs, Kind, tarfs};
use anyhow::Context;
use clap::Args;
use rafs_builder::create::{BlobId, StargzOptions};
use std::path::PathBuf;

/// What is known of the layer besides its table of contents.
#[derive(Debug, Args)]
pub(super) struct StargzArgs {
    /// Size of the layer of --type estargztoc-ref in bytes, always hexadecimal. Without it the layer is asked when its last chunk is read.
    #[arg(long, value_name = "HEX", value_parser = hexadecimal)]
    blob_data_size: Option<u64>,
    /// Write the chunk table of --type estargztoc-ref to this file, which is what caches of 2.x call `<blob id>.blob.meta`.
    #[arg(long, value_name = "FILE", requires = "kind")]
    blob_meta: Option<PathBuf>,
}

/// A hexadecimal number, with `0x` or without.
fn hexadecimal(text: &str) -> Result<u64, std::num::ParseIntError> {
    u64::from_str_radix(text.trim_start_matches("0x").trim_start_matches("0X"), 16)
}

impl StargzArgs {
    /// Is there anything that only a table of contents can be given?
    pub(super) fn misplaced(&self, kind: Option<Kind>) -> Option<&'static str> {
        let stray = kind != Some(Kind::EstargztocRef) && self.blob_meta.is_some();
        stray.then_some("--blob-meta")
    }

    /// The layer, and where bootstrap and chunk table go. Errors: options that mean something else; no --blob-id.
    pub(super) fn options(&self, args: &CreateArgs) -> anyhow::Result<StargzOptions> {
        tarfs::check(args)?;
        let id = args.blob_id.as_deref();
        let id = id.context("--type estargztoc-ref needs --blob-id: the table does not name its layer")?;
        Ok(StargzOptions {
            blob_id: BlobId::new(id).context("--blob-id cannot be used")?,
            data_size: self.blob_data_size,
            bootstrap: tarfs::place(args)?,
            blob_meta: self.blob_meta.clone(),
        })
    }
}
