//! Digests of the chunks of an image's files, however the image stores them. For images that are checked.

use crate::image::DigestError;
use rafs_format::{
    Blob, Bootstrap, ChunkIndex, ChunkRef, Digest, DigestAlgorithm, FormatError, Inode, SuperFlags,
};

/// Which content the files of one image have.
#[derive(Debug)]
pub(crate) struct Contents<'a, B> {
    bootstrap: &'a Bootstrap<B>,
    chunks: Chunks,
    /// For images without a chunk table, whose inodes hold the records of their chunks.
    index: Option<ChunkIndex>,
}

impl<'a, B: AsRef<[u8]>> Contents<'a, B> {
    /// Reads what is read ahead. Errors: chunks without digests.
    pub(crate) fn new(bootstrap: &'a Bootstrap<B>) -> Result<Self, DigestError> {
        if bootstrap.superblock().flags.contains(SuperFlags::TARFS) {
            return Err(DigestError::Tarfs);
        }
        if bootstrap.blobs().iter().any(Blob::is_external) {
            return Err(DigestError::External);
        }
        let chunks = Chunks::read(bootstrap, DENSE)?;
        let has_table = bootstrap.superblock().chunk_table_records > 0;
        let index = if has_table { None } else { Some(ChunkIndex::build(bootstrap)?) };
        Ok(Self { bootstrap, chunks, index })
    }

    /// Digest of the `n`-th chunk of a file, and by what it is.
    #[inline]
    pub(crate) fn chunk(&self, file: &Inode, n: u64) -> Result<(DigestAlgorithm, Digest), FormatError> {
        let bootstrap = self.bootstrap;
        let Some(index) = &self.index else { return self.chunks.get(bootstrap.chunk_ref(file, n)?) };
        let chunk = index.chunk(bootstrap, file, n)?;
        let blob = usize::try_from(chunk.blob).ok().and_then(|blob| bootstrap.blobs().get(blob));
        let by = blob.map_or(bootstrap.superblock().digester, |blob| blob.digester);
        Ok((by, chunk.digest))
    }
}

/// Digests of all chunks of an image by blob and number. v6 has its records sorted by digest, and looking for one and then reading it, for each
/// chunk of each file, is two waits for memory; this is filled in the order of the records. For images that are checked: it does not
/// look whether references and records agree.
#[derive(Debug)]
struct Chunks(Vec<(DigestAlgorithm, OfBlob)>);

/// Digests of the chunks of one blob.
#[derive(Debug)]
enum OfBlob {
    /// By number; zeros for what no record is of.
    Dense(Vec<Digest>),
    /// Sorted by number: where few chunks of a large blob are used, as a bad image may claim of each of its blobs.
    Sparse(Vec<(u32, Digest)>),
}

/// Numbers for each record, and besides, up to which digests are held densely: at most 128 bytes for each record.
const DENSE: (u64, u64) = (4, 64);

impl Chunks {
    /// Reads the chunk table; see [`DENSE`] for the second argument.
    fn read<B: AsRef<[u8]>>(bootstrap: &Bootstrap<B>, dense: (u64, u64)) -> Result<Self, FormatError> {
        let records = bootstrap.superblock().chunk_table_records;
        let mut counts = vec![0u64; bootstrap.blobs().len()];
        for n in 0..records {
            let blob = usize::try_from(bootstrap.chunk_record(n)?.blob).ok();
            if let Some(count) = blob.and_then(|blob| counts.get_mut(blob)) {
                *count += 1;
            }
        }
        let mut blobs: Vec<_> = bootstrap
            .blobs()
            .iter()
            .zip(counts)
            .map(|(blob, count)| {
                let is_dense = u64::from(blob.chunk_count) <= count * dense.0 + dense.1;
                let size = usize::try_from(blob.chunk_count).ok().filter(|_| is_dense);
                let of_blob = size
                    .map_or(OfBlob::Sparse(Vec::new()), |size| OfBlob::Dense(vec![Digest([0; 32]); size]));
                (blob.digester, of_blob)
            })
            .collect();
        for n in 0..records {
            let chunk = bootstrap.chunk_record(n)?;
            match usize::try_from(chunk.blob).ok().and_then(|blob| blobs.get_mut(blob)) {
                Some((_, OfBlob::Dense(digests))) => {
                    if let Some(digest) = digests.get_mut(chunk.index as usize) {
                        *digest = chunk.digest;
                    }
                }
                Some((_, OfBlob::Sparse(digests))) => digests.push((chunk.index, chunk.digest)),
                // The check refuses such a record.
                None => {}
            }
        }
        for (_, digests) in &mut blobs {
            if let OfBlob::Sparse(digests) = digests {
                digests.sort_unstable();
            }
        }
        Ok(Self(blobs))
    }

    /// Digest of a chunk, and by what it is.
    fn get(&self, reference: ChunkRef) -> Result<(DigestAlgorithm, Digest), FormatError> {
        let ChunkRef { blob, chunk, block } = reference;
        let none = FormatError::NoSuchChunk { blob, chunk, block };
        let Some((by, digests)) = usize::try_from(blob).ok().and_then(|blob| self.0.get(blob)) else {
            return Err(none);
        };
        let digest = match digests {
            OfBlob::Dense(digests) => digests.get(chunk as usize),
            OfBlob::Sparse(digests) => {
                let at = digests.partition_point(|(number, _)| *number < chunk);
                digests.get(at).filter(|(number, _)| *number == chunk).map(|(_, digest)| digest)
            }
        };
        digest.map(|digest| (*by, *digest)).ok_or(none)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rafs_format::{FileType, check};

    #[test]
    fn chunks_are_found_however_they_are_held() {
        let data: Vec<u8> = (0..20_000u32).flat_map(u32::to_le_bytes).collect();
        let options = testkit::image::options(4096, rafs_format::Compressor::None);
        let image = testkit::image::of_files(&[("a", &data), ("b", &data[4096..9000])], &options);
        let bootstrap = image.parsed();
        let index = ChunkIndex::build(&bootstrap).unwrap();
        for dense in [DENSE, (0, 0)] {
            let chunks = Chunks::read(&bootstrap, dense).unwrap();
            assert_eq!(matches!(chunks.0[0].1, OfBlob::Dense(_)), dense == DENSE);
            let mut seen = 0;
            check::check(&bootstrap, &mut |visit| {
                let files = [&visit.inode].into_iter().filter(|inode| inode.file_type == FileType::Regular);
                for (file, n) in
                    files.flat_map(|file| (0..bootstrap.chunk_count(file)).map(move |n| (file, n)))
                {
                    let reference = bootstrap.chunk_ref(file, n)?;
                    let expected = index.resolve(&bootstrap, reference)?.digest;
                    assert_eq!(chunks.get(reference), Ok((DigestAlgorithm::Blake3, expected)));
                    seen += 1;
                }
                Ok::<_, FormatError>(())
            })
            .unwrap();
            assert_eq!(seen, 22);
            for (blob, chunk) in [(0, 1 << 23), (7, 0)] {
                assert!(chunks.get(ChunkRef { blob, chunk, block: 0 }).is_err());
            }
        }
    }
}
