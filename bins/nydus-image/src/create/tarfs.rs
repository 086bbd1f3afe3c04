//! `create --type tar-tarfs`, or of another layer that stays as it is: what it cannot be given together with, and where its bootstrap goes.

use super::{CompressorArg, CreateArgs, Place};
use crate::prefetch::PrefetchPolicy;
use anyhow::{Context, bail, ensure};

/// Refuses options that mean something else than a layer that stays as it is.
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
        let kind = args.kind.map(super::Kind::name).unwrap_or_default();
        bail!("--type {kind} conflicts with {name}: the layer stays as it is, and no blob is written");
    }
    if args.compressor == CompressorArg::Lz4Block {
        tracing::info!("--compressor has no effect: data stays in the layer");
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
