//! The files that a cache of the new blob would hold once everything was read: plain chunks, chunk table, map. docs/format.md, "Local cache".
//!
//! They are written beside the blob, which may go nowhere: whoever puts them into the cache directory of a daemon has a blob that was
//! fetched already. Knows nothing of how the blob stores chunks.

use crate::output::{Output, OutputError, Outputs, Place};
use rafs_format::blob_meta::HEADER_SIZE;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Chunks start at multiples of this, in bytes, and so does the header behind a table.
const BLOCK: usize = 4096;
/// First bytes of a map: magic, version 1, second magic.
const MAP_MAGIC: [u8; 12] = *b"PAMB\x01\0\0\0PAMC";

/// Cache files being written.
#[derive(Debug)]
pub(crate) struct CacheFiles {
    data: BufWriter<Output>,
    meta: Output,
    map: Output,
}

impl CacheFiles {
    /// Files in `dir`, whose names are known at the end.
    pub fn start(dir: &Path, outputs: &Outputs) -> Result<Self, OutputError> {
        let start = || outputs.start(Place::Directory(dir.to_path_buf()));
        Ok(Self { data: BufWriter::with_capacity(256 << 10, start()?), meta: start()?, map: start()? })
    }

    /// Appends the plain bytes of the next chunk of the blob.
    pub fn add(&mut self, plain: &[u8]) -> Result<(), OutputError> {
        let padding = plain.len().next_multiple_of(BLOCK) - plain.len();
        let written = self.data.write_all(plain).and_then(|()| put(&mut self.data, padding));
        written.map_err(|source| failed(self.data.get_ref(), source))
    }

    /// Writes the rest: the chunk table, plain, its header, and a map that says of all `chunks` that they are there. Returns the outputs with
    /// their names for the blob called `id`; without names where there is no blob.
    pub fn finish(
        self,
        table: &[u8],
        header: &[u8; HEADER_SIZE],
        chunks: usize,
        id: Option<&str>,
    ) -> Result<Vec<(Output, Option<String>)>, OutputError> {
        let Self { data, mut meta, mut map } = self;
        let data = match data.into_inner() {
            Ok(data) => data,
            Err(error) => {
                let (source, data) = error.into_parts();
                return Err(failed(data.get_ref(), source));
            }
        };
        let written = meta.write_all(table);
        let written =
            written.and_then(|()| put(&mut meta, table.len().next_multiple_of(BLOCK) - table.len()));
        written.and_then(|()| meta.write_all(header)).map_err(|source| failed(&meta, source))?;
        let written = map.write_all(&MAP_MAGIC).and_then(|()| put(&mut map, BLOCK - MAP_MAGIC.len()));
        written.and_then(|()| map.write_all(&bits(chunks))).map_err(|source| failed(&map, source))?;
        let name = |what: &str| id.map(|id| format!("{id}.blob.{what}"));
        Ok(vec![(data, name("data")), (meta, name("meta")), (map, name("data.chunk_map"))])
    }
}

/// So many bits set, from the highest of each byte down.
fn bits(count: usize) -> Vec<u8> {
    let mut bits = vec![0xFF; count / 8];
    let rest = count % 8;
    if rest > 0 {
        bits.push(!(0xFF >> rest));
    }
    bits
}

/// Writes `count` zeros, fewer than a block.
fn put(to: &mut dyn Write, count: usize) -> io::Result<()> {
    to.write_all([0; BLOCK].get(..count).unwrap_or(&[]))
}

fn failed(output: &Output, source: io::Error) -> OutputError {
    OutputError { action: "write", path: output.path(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_have_a_bit_for_each_chunk() {
        assert_eq!(bits(0), Vec::<u8>::new());
        assert_eq!(bits(1), [0x80]);
        assert_eq!(bits(7), [0xFE]);
        assert_eq!(bits(8), [0xFF]);
        assert_eq!(bits(19), [0xFF, 0xFF, 0xE0]);
    }
}
