//! What a dictionary costs: an allocator that counts.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use chunk_store::Builder;
use common::{blob, chunk, digest, image};
use rafs_format::DigestAlgorithm;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

static NOW: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator; bytes asked for are counted.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call is passed on unchanged; counting touches no memory that is handed out.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        NOW.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the rules of `alloc`, which are the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: `at` comes from `alloc` above, so from the system.
        unsafe { System.dealloc(at, layout) }
    }
}

/// 64 bytes are the bar. Sizes around those where a table doubles, and of several images.
#[test]
fn a_chunk_takes_less_than_64_bytes() {
    for (images, each) in [(1, 131_071), (1, 131_072), (1, 262_143), (7, 30_011)] {
        let all: Vec<_> = (0..images)
            .map(|n: u32| {
                let chunks = (0..each).map(|at| chunk(0, at, digest((n * each + at).into()), 100)).collect();
                image(chunks, &[blob(&format!("blob-{n}"), each)])
            })
            .collect();
        let before = NOW.load(Ordering::Relaxed);
        let mut builder = Builder::new(DigestAlgorithm::Blake3);
        all.iter().for_each(|image| builder.add(image, image.blobs()).unwrap());
        let dictionary = builder.finish();
        let taken = NOW.load(Ordering::Relaxed) - before;
        let count = dictionary.len();
        assert_eq!(count, usize::try_from(images * each).unwrap());
        assert!(taken < 64 * count, "{taken} bytes for {count} chunks");
        assert!(taken >= 60 * count, "{taken} bytes for {count} chunks: not all is counted");
        assert!((0..images * each).step_by(97).all(|n| dictionary.lookup(&digest(n.into()), 100).is_some()));
    }
}
