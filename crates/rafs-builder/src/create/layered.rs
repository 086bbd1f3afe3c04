//! A build on top of a parent: the new layer is laid over it as in a merge.
//!
//! The layer is put together as an image of its own in memory first, so that what whiteouts, opaque directories and links mean is written down
//! once, in [`crate::merge`]. Invariant: the blobs of the parent keep their places in the table, all of them, and those of the layer come behind.

use super::known::BlobTable;
use super::{CreateError, Options, Sealed, Whiteouts};
use crate::merge::{self, OnTop};
use crate::open::Image;
use rafs_format::Blob;

impl Sealed {
    /// This layer over `parent`. `own` is what is known of the layer's own blob by now.
    pub fn on_top_of(
        mut self,
        parent: &Image,
        table: &BlobTable,
        own: Option<&Blob>,
        options: &Options,
        from_tar: bool,
    ) -> Result<(Self, BlobTable), CreateError> {
        self.options.prefetch = Vec::new();
        let bytes = self.bootstrap(&table.with_own(own))?;
        let layer = Image::in_memory("the new layer", bytes)?;
        let prefetch: &[Vec<u8>] = if options.prefetch_table { &options.prefetch } else { &[] };
        let whiteouts = match options.whiteouts {
            Whiteouts::Oci => merge::Whiteouts::Oci,
            Whiteouts::Overlayfs => merge::Whiteouts::Overlayfs,
            Whiteouts::None => merge::Whiteouts::None,
        };
        let OnTop { tree, blobs, places, prefetch } =
            merge::on_top(parent, &layer, whiteouts, from_tar, prefetch)?;
        self.tree = tree;
        self.options.prefetch = prefetch;
        let own = table.own().and_then(|at| places.get(at)).copied();
        Ok((self, BlobTable::new(blobs, own)))
    }
}
