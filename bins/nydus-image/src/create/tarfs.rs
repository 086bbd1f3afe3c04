//! `create --type tar-tarfs`: what it cannot be given together with, and where its bootstrap goes.

use super::{CompressorArg, CreateArgs, Place};
use crate::prefetch::PrefetchPolicy;
use anyhow::{Context, bail, ensure};

/// Refuses options that mean something else than a plain tar that stays as it is.
pub(super) fn check(args: &CreateArgs) -> anyhow::Result<()> {
    let conflicts = [
        (args.blob.is_some(), "--blob"),
        (args.blob_inline_meta, "--blob-inline-meta"),
        (args.features.is_some(), "--features"),
        (!args.chunk_dict.is_empty(), "--chunk-dict"),
        (crate::merge::parent(args.parent_bootstrap.as_deref()).is_some(), "--parent-bootstrap"),
        (args.aligned_chunk, "--aligned-chunk"),
        (args.prefetch_policy == PrefetchPolicy::Blob, "--prefetch-policy blob"),
    ];
    if let Some((_, name)) = conflicts.into_iter().find(|(given, _)| *given) {
        bail!("--type tar-tarfs conflicts with {name}: the tar stays as it is, and no blob is written");
    }
    if args.compressor == CompressorArg::Lz4Block {
        tracing::info!("--compressor has no effect: the data of a tarfs is that of the tar");
    }
    Ok(())
}

/// Where the bootstrap goes: to its file, or named by its digest into --blob-dir.
pub(super) fn place(args: &CreateArgs) -> anyhow::Result<Place> {
    if let Some(dir) = &args.blob_dir {
        ensure!(dir.is_dir(), "--blob-dir {} is not a directory", dir.display());
    }
    super::check_different(args)?;
    match (&args.bootstrap, &args.blob_dir) {
        (Some(path), _) => Ok(Place::File(path.clone())),
        (None, Some(dir)) => Ok(Place::Directory(dir.clone())),
        (None, None) => None.context("no place for the bootstrap: give --bootstrap or --blob-dir"),
    }
}
