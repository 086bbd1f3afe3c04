//! `nydus-image create`: one source to one bootstrap and at most one blob.
