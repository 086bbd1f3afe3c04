//! A mounted eStargz layer: data is read out of the untouched layer, also where the image does not say how long that is.
#![allow(clippy::unwrap_used, reason = "tests")]

use blob_cache::{BlobCache, CacheOptions};
use rafs_builder::create::{BlobId, Options, StargzOptions, create_stargz};
use rafs_builder::output::{Outputs, Place};
use rafs_format::Bootstrap;
use rafs_vfs::{Rafs, Read};
use std::sync::Arc;
use testkit::blob::pattern;
use testkit::estargz::{Kind, layer};
use testkit::reader::TestReader;

#[test]
fn files_of_an_estargz_layer_are_read_from_it() {
    // The last one compresses to less than is reserved for it, so that what is reserved goes on behind the layer.
    let files = [("a", pattern(1, 300_000)), ("b", Vec::new()), ("c", vec![0; 1 << 20])];
    let entries: Vec<_> = files.iter().map(|(n, f)| ((*n).to_owned(), Kind::File(f.clone()))).collect();
    let layer = layer(&entries, 1 << 20);
    for data_size in [None, Some(layer.bytes.len() as u64)] {
        let dir = tempfile::tempdir().unwrap();
        let stargz = StargzOptions {
            blob_id: BlobId::new("layer").unwrap(),
            data_size,
            bootstrap: Place::File(dir.path().join("boot")),
            blob_meta: None,
        };
        create_stargz(&layer.toc[..], &Options::default(), &stargz, &Outputs::new()).unwrap();
        let bootstrap = Bootstrap::parse(std::fs::read(dir.path().join("boot")).unwrap()).unwrap();
        let reader = TestReader::new(layer.bytes.clone());
        let cache = BlobCache::open(dir.path(), &bootstrap.blobs()[0], reader, CacheOptions::default());
        let rafs = Rafs::new(bootstrap, vec![Arc::new(cache.unwrap())]).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for _twice in 0..2 {
            for (name, content) in &files {
                let nid = rafs.lookup(rafs.root(), name.as_bytes()).unwrap().unwrap().nid;
                let mut bytes = vec![0xEE; content.len() + 1];
                let found = match rafs.read(nid, 0, &mut bytes).unwrap() {
                    Read::Done(count) => bytes[..count].to_vec(),
                    Read::Cold(cold) => runtime.block_on(cold.complete()).unwrap().to_vec(),
                };
                assert!(found == *content, "{name}");
            }
        }
    }
}
