//! Notes which chunks readers want first. Bounded in memory and time; a chunk that is noted already costs a reader one look at one bit.

use super::{MAX_BLOBS, MAX_RUNS, Profile, Run, image_digest};
use crate::chunk_set::{ChunkSet, MAX_CHUNKS};
use blob_cache::Part;
use parking_lot::Mutex;
use rafs_format::{Blob, BlobId, Digest};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Chunks in a row that are wanted so soon after one another belong to one run, in milliseconds.
const TOGETHER: u32 = 20;

/// Why an image cannot be recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum NotRecorded {
    #[error("its blobs are plain tars, whose chunks have no numbers")]
    Tarfs,
    #[error("it has {found} chunks, and no more than {limit} can be recorded")]
    Chunks { found: u64, limit: u64 },
}

/// Records one image.
#[derive(Debug)]
pub struct Recorder {
    image: Digest,
    blobs: Vec<BlobId>,
    limit: Duration,
    on: AtomicBool,
    seen: ChunkSet,
    log: Mutex<Log>,
}

#[derive(Debug, Default)]
struct Log {
    /// The first read.
    began: Option<Instant>,
    runs: Vec<Run>,
    complete: bool,
}

impl Recorder {
    /// Records an image with these blobs until `limit` has passed since its first read. Errors: it has too many chunks.
    pub(crate) fn new(blobs: &[Blob], limit: Duration) -> Result<Self, NotRecorded> {
        let seen = ChunkSet::new(blobs);
        Ok(Self {
            image: image_digest(blobs),
            blobs: blobs.iter().take(MAX_BLOBS).map(|blob| blob.id.clone()).collect(),
            limit,
            on: AtomicBool::new(true),
            seen: seen.map_err(|found| NotRecorded::Chunks { found, limit: MAX_CHUNKS })?,
            log: Mutex::default(),
        })
    }

    /// Somebody wants these.
    #[inline]
    pub(crate) fn note(&self, parts: &[Part]) {
        if !self.on.load(Ordering::Relaxed) {
            return;
        }
        for Part { chunk, .. } in parts {
            if self.seen.insert(chunk.blob, chunk.index) {
                self.append(chunk.blob, chunk.index, Instant::now());
            }
        }
    }

    fn append(&self, blob: u32, chunk: u32, now: Instant) {
        let mut log = self.log.lock();
        let age = now.saturating_duration_since(*log.began.get_or_insert(now));
        let known = u16::try_from(blob).ok().filter(|&blob| usize::from(blob) < self.blobs.len());
        if age > self.limit || log.runs.len() >= MAX_RUNS {
            self.end(&mut log);
        } else if let (Some(blob), true) = (known, self.is_recording()) {
            log.append(blob, chunk, u32::try_from(age.as_millis()).unwrap_or(u32::MAX));
        }
    }

    fn end(&self, log: &mut Log) {
        log.complete |= self.on.swap(false, Ordering::Relaxed);
    }

    /// Does it go on?
    pub fn is_recording(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// What was recorded so far. A recording whose time is over ends here, if no read ended it.
    pub fn profile(&self) -> Profile {
        let mut log = self.log.lock();
        if log.began.is_some_and(|began| began.elapsed() > self.limit) {
            self.end(&mut log);
        }
        let Log { complete, runs, .. } = &*log;
        Profile { image: self.image, complete: *complete, blobs: self.blobs.clone(), runs: runs.clone() }
    }

    /// Ends the recording and forgets it.
    pub fn finish(&self) -> Profile {
        let profile = self.profile();
        self.on.store(false, Ordering::Relaxed);
        self.log.lock().runs = Vec::new();
        profile
    }
}

impl Log {
    fn append(&mut self, blob: u16, chunk: u32, millis: u32) {
        let follows = |run: &&mut Run| {
            let next = run.chunk.saturating_add(run.count.into());
            run.blob == blob
                && next == chunk
                && run.count < u16::MAX
                && millis.saturating_sub(run.millis) <= TOGETHER
        };
        match self.runs.last_mut().filter(follows) {
            Some(run) => run.count += 1,
            None => self.runs.push(Run { blob, chunk, count: 1, millis }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rafs_format::Compressor;
    use testkit::blob::of_sizes;

    fn blobs(counts: &[u32]) -> Vec<Blob> {
        let named = |n: usize, chunk_count| Blob {
            chunk_count,
            ..of_sizes(&format!("b{n}"), &[1], Compressor::None).blob
        };
        counts.iter().enumerate().map(|(n, &count)| named(n, count)).collect()
    }

    fn part(blob: u32, index: u32) -> Part {
        let chunk = rafs_format::Chunk { blob, index, ..of_sizes("b", &[1], Compressor::None).chunks[0] };
        Part { chunk, start: 0, end: 1 }
    }

    /// Blob and number of each chunk, in order.
    fn chunks(profile: &Profile) -> Vec<(u16, u32)> {
        let of = |run: &Run| {
            (0..u32::from(run.count)).map({
                let Run { blob, chunk, .. } = *run;
                move |n| (blob, chunk + n)
            })
        };
        profile.runs.iter().flat_map(of).collect()
    }

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn first_wants_are_noted_in_their_order() {
        let recorder = Recorder::new(&blobs(&[10, 10]), LONG).unwrap();
        recorder.note(&[part(1, 4), part(1, 5)]);
        recorder.note(&[part(0, 9), part(1, 5), part(1, 4)]);
        // Not of the image.
        recorder.note(&[part(0, 10), part(2, 0)]);
        let profile = recorder.finish();
        assert_eq!(chunks(&profile), [(1, 4), (1, 5), (0, 9)]);
        assert_eq!((profile.complete, profile.image), (false, image_digest(&blobs(&[10, 10]))));
        assert_eq!(profile.blobs.iter().map(BlobId::as_str).collect::<Vec<_>>(), ["b0", "b1"]);
        recorder.note(&[part(0, 1)]);
        assert!(!recorder.is_recording() && recorder.profile().runs.is_empty());
    }

    #[test]
    fn runs_end_with_the_row_and_with_time() {
        let mut log = Log::default();
        for (blob, chunk, millis) in
            [(0, 0, 0), (0, 1, TOGETHER), (0, 2, TOGETHER + 1), (0, 1, 50), (1, 2, 50)]
        {
            log.append(blob, chunk, millis);
        }
        let found: Vec<_> = log.runs.iter().map(|run| (run.chunk, run.count, run.millis)).collect();
        assert_eq!(found, [(0, 2, 0), (2, 1, TOGETHER + 1), (1, 1, 50), (2, 1, 50)]);
    }

    #[test]
    fn memory_and_time_are_bounded() {
        let recorder = Recorder::new(&blobs(&[1 << 18]), LONG).unwrap();
        // Every other one, so that each is a run.
        (0..1 << 17).for_each(|n| recorder.note(&[part(0, n * 2)]));
        let profile = recorder.profile();
        assert_eq!((profile.runs.len(), profile.complete, recorder.is_recording()), (MAX_RUNS, true, false));

        let recorder = Recorder::new(&blobs(&[4]), Duration::ZERO).unwrap();
        recorder.note(&[part(0, 1)]);
        std::thread::sleep(Duration::from_millis(1));
        assert!(recorder.is_recording());
        let profile = recorder.profile();
        assert_eq!((profile.complete, recorder.is_recording()), (true, false));
        assert_eq!(chunks(&profile), [(0, 1)]);
        let found = (1 << 24) + 1;
        let refused = Recorder::new(&blobs(&[1 << 24, 1]), LONG).err();
        assert_eq!(refused, Some(NotRecorded::Chunks { found, limit: MAX_CHUNKS }));
    }
}
