//! `create --type targz-ref` and `estargz-ref`: what they cannot be given together with.

use super::{CompressorArg, CreateArgs, DigesterArg, Kind};
use crate::prefetch::PrefetchPolicy;
use anyhow::bail;

impl Kind {
    /// Does the image refer to the source, which stays as it is?
    pub(super) fn is_reference(self) -> bool {
        matches!(self, Self::TargzRef | Self::EstargzRef)
    }
}

/// Refuses options that mean something else than a layer that stays as it is. Tells that others have no effect.
pub(super) fn check(args: &CreateArgs, kind: Kind) -> anyhow::Result<()> {
    let conflicts = [
        (args.blob_id.is_some(), "--blob-id"),
        (crate::merge::parent(args.parent_bootstrap.as_deref()).is_some(), "--parent-bootstrap"),
        (args.prefetch_policy == PrefetchPolicy::Blob, "--prefetch-policy blob"),
        (args.cache.dir().is_some(), "--blob-cache-dir"),
    ];
    if let Some((_, name)) = conflicts.into_iter().find(|(given, _)| *given) {
        bail!(
            "conversion type `{}` conflicts with `{name}`: the layer stays as it is, under its SHA-256",
            kind.name()
        );
    }
    if args.compressor == CompressorArg::Lz4Block || args.compressor == CompressorArg::None {
        tracing::info!("--compressor has no effect: the data is that of the layer");
    }
    if !args.chunk_dict.is_empty() {
        tracing::info!("--chunk-dict has no effect: all data is read from the layer");
    }
    if args.digester == DigesterArg::Blake3 {
        tracing::debug!("chunks of a layer that stays as it is are digested by SHA-256");
    }
    Ok(())
}
