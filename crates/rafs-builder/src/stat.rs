//! `nydus-image stat`: how many files and chunks images have, how large they are, and which chunks they share.
//!
//! Answers come from bootstraps alone. Chunks are the same where their digests are; a chunk that several images have is counted in each of them
//! once. Field names are those that programs read.

use crate::open::{Image, OpenError};
use rafs_format::{ChunkIndex, Digest, FileType, FormatError, SuperFlags};
use serde::Serialize;
use std::collections::{HashMap, HashSet};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// File sizes are counted by their number of bits, all longer ones with those of 44.
const SIZE_BITS: usize = 45;
/// Chunk sizes that are tried, as numbers of bits.
const CHUNK_BITS: std::ops::RangeInclusive<u32> = 12..=20;
/// Rows of the table of thresholds.
const THRESHOLDS: u64 = 20;
/// Padding is what fills the last block of each file.
const BLOCK: u64 = 4096;

/// Why images could not be counted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum StatError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("bootstrap {} is not valid", path.display())]
    Structure { path: PathBuf, source: FormatError },
    #[error("cannot list directory {}", path.display())]
    List { path: PathBuf, source: io::Error },
    #[error("there is no bootstrap in directory {}: files whose names have an extension are not looked at", path.display())]
    NoImages { path: PathBuf },
}

/// What is counted of one image, or of several together. Sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImageStat {
    /// Directories.
    pub dirs: u64,
    /// Names of regular files; all below counts a file with several names once.
    pub files: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// References of files to chunks.
    pub chunks: u64,
    /// Content of files.
    pub file_size: u64,
    /// Stored size of the chunks that files refer to, each as often as it is referred to.
    pub comp_size: u64,
    /// The same decompressed, with padding.
    pub uncomp_size: u64,
    /// What fills the last block of each file.
    pub padding_size: u64,
    /// Chunks that files would have, for chunk sizes of 2^12 to 2^20.
    pub chunk_sizes: [u64; 9],
    /// Files by the number of bits of their size.
    pub file_sizes: Vec<u64>,
    /// Distinct chunks of all images; 0 unless a directory of images is looked at.
    pub dedup_chunks: u64,
    /// Their stored size.
    pub dedup_comp_size: u64,
    /// Their decompressed size.
    pub dedup_uncomp_size: u64,
    /// Distinct chunks of each image; of the target those that the others do not have.
    pub own_chunks: u64,
    /// Their stored size.
    pub own_comp_size: u64,
    /// Their decompressed size.
    pub own_uncomp_size: u64,
    /// Distinct chunks of the target that the others have, too.
    pub ref_chunks: u64,
    /// Their stored size.
    pub ref_comp_size: u64,
    /// Their decompressed size.
    pub ref_uncomp_size: u64,
}

impl ImageStat {
    fn new() -> Self {
        Self {
            dirs: 0,
            files: 0,
            symlinks: 0,
            chunks: 0,
            file_size: 0,
            comp_size: 0,
            uncomp_size: 0,
            padding_size: 0,
            chunk_sizes: [0; 9],
            file_sizes: vec![0; SIZE_BITS],
            dedup_chunks: 0,
            dedup_comp_size: 0,
            dedup_uncomp_size: 0,
            own_chunks: 0,
            own_comp_size: 0,
            own_uncomp_size: 0,
            ref_chunks: 0,
            ref_comp_size: 0,
            ref_uncomp_size: 0,
        }
    }

    /// Counts a file of this size.
    fn add_file(&mut self, size: u64) {
        let bits = usize::try_from(u64::BITS - size.leading_zeros()).unwrap_or(usize::MAX);
        if let Some(count) = self.file_sizes.get_mut(bits.min(SIZE_BITS - 1)) {
            *count += 1;
        }
        self.file_size = self.file_size.saturating_add(size);
        let padding = size.checked_next_multiple_of(BLOCK).map_or(0, |end| end - size);
        self.padding_size = self.padding_size.saturating_add(padding);
        self.uncomp_size = self.uncomp_size.saturating_add(padding);
        for (count, bits) in self.chunk_sizes.iter_mut().zip(CHUNK_BITS) {
            *count = count.saturating_add(size.div_ceil(1 << bits));
        }
    }

    /// Counts a reference to a chunk of these sizes.
    fn add_chunk(&mut self, sizes: Sizes) {
        self.chunks += 1;
        self.comp_size = self.comp_size.saturating_add(sizes.stored.into());
        self.uncomp_size = self.uncomp_size.saturating_add(sizes.plain.into());
    }

    fn own(&mut self, sizes: Sizes) {
        add((&mut self.own_chunks, &mut self.own_comp_size, &mut self.own_uncomp_size), sizes);
    }

    fn shared(&mut self, sizes: Sizes) {
        add((&mut self.ref_chunks, &mut self.ref_comp_size, &mut self.ref_uncomp_size), sizes);
    }

    fn dedup(&mut self, sizes: Sizes) {
        add((&mut self.dedup_chunks, &mut self.dedup_comp_size, &mut self.dedup_uncomp_size), sizes);
    }
}

/// Counts one chunk in three places. Chunks are as many as fit into memory, so sums of their sizes do not overflow.
fn add((count, stored, plain): (&mut u64, &mut u64, &mut u64), sizes: Sizes) {
    *count += 1;
    *stored += u64::from(sizes.stored);
    *plain += u64::from(sizes.plain);
}

/// Sizes of a chunk.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    stored: u32,
    plain: u32,
}

/// One row of the table of thresholds: what it would be like to keep chunks of at least `threshold` images in a base that all share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Threshold {
    raw_chunks: u64,
    dedup_chunks: u64,
    /// Stored and decompressed sizes: of all chunks, of the base, and of what stays in images.
    content: [u64; 2],
    base: [u64; 2],
    image: [u64; 2],
}

/// Statistics of images, and of one more compared with them.
#[derive(Debug, Clone, Serialize)]
pub struct Statistics {
    /// Is it a directory of images that was looked at?
    dedup_enabled: bool,
    /// Is there a target?
    target_enabled: bool,
    /// The images.
    pub base_image: ImageStat,
    /// The target; all 0 without one.
    pub target_image: ImageStat,
    /// Distinct chunks of the images, and how many images have each.
    #[serde(skip)]
    chunks: HashMap<Digest, (Sizes, u64)>,
}

/// What is looked at.
#[derive(Debug, Clone)]
pub enum Base {
    /// One image.
    Bootstrap(PathBuf),
    /// All images in this directory: files without an extension that are bootstraps, or blobs with one inside.
    Directory(PathBuf),
}

impl Statistics {
    /// Counts `base`, then `target` compared with it.
    pub fn collect(base: &Base, target: Option<&Path>) -> Result<Self, StatError> {
        let mut all = Self {
            dedup_enabled: matches!(base, Base::Directory(_)),
            target_enabled: target.is_some(),
            base_image: ImageStat::new(),
            target_image: ImageStat::new(),
            chunks: HashMap::new(),
        };
        match base {
            Base::Bootstrap(path) => all.add_base(&Image::open(path)?)?,
            Base::Directory(dir) => all.add_directory(dir)?,
        }
        if let Some(path) = target {
            let found = count(&Image::open(path)?, &mut all.target_image)?;
            for (digest, sizes) in found {
                match all.chunks.contains_key(&digest) {
                    true => all.target_image.shared(sizes),
                    false => all.target_image.own(sizes),
                }
            }
        }
        Ok(all)
    }

    fn add_base(&mut self, image: &Image) -> Result<(), StatError> {
        for (digest, sizes) in count(image, &mut self.base_image)? {
            self.base_image.own(sizes);
            self.chunks.entry(digest).or_insert((sizes, 0)).1 += 1;
        }
        Ok(())
    }

    /// Images of a directory in order of their names. Files that are none, blobs mostly, are passed over.
    fn add_directory(&mut self, dir: &Path) -> Result<(), StatError> {
        let failed = |source| StatError::List { path: dir.to_path_buf(), source };
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_none() && path.is_file() {
                paths.push(path);
            }
        }
        paths.sort();
        let mut images = 0u64;
        for path in paths {
            match Image::open(&path) {
                Ok(image) => {
                    self.add_base(&image)?;
                    images += 1;
                }
                Err(error) => tracing::debug!("not an image: {}", crate::chain(&error)),
            }
        }
        if images == 0 {
            return Err(StatError::NoImages { path: dir.to_path_buf() });
        }
        self.chunks.values().for_each(|(sizes, _)| self.base_image.dedup(*sizes));
        Ok(())
    }

    /// The statistics as text.
    pub fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.target_enabled {
            writeln!(out, "Target Image Statistics:")?;
            print_image(&self.target_image, out)?;
            writeln!(out, "\n")?;
        }
        writeln!(out, "Base Image Statistics:")?;
        print_image(&self.base_image, out)?;
        if self.dedup_enabled {
            self.print_thresholds(out)?;
        }
        Ok(())
    }

    /// Rows for chunks of at least 1, 2, … images, as long as some are shared so often.
    fn thresholds(&self) -> Vec<Threshold> {
        let most = self.chunks.values().map(|(_, images)| *images).max().unwrap_or(0);
        let rows = (1..=THRESHOLDS.min(most)).map(|threshold| {
            let mut row = Threshold::default();
            for (sizes, images) in self.chunks.values() {
                let sizes = [u64::from(sizes.stored), u64::from(sizes.plain)];
                let shared = *images >= threshold;
                row.raw_chunks += images;
                row.dedup_chunks += if shared { 1 } else { *images };
                for (n, size) in sizes.into_iter().enumerate() {
                    let all = size.saturating_mul(*images);
                    let (part, bytes) = if shared { (&mut row.base, size) } else { (&mut row.image, all) };
                    for (sum, bytes) in [(&mut row.content, all), (part, bytes)] {
                        if let Some(sum) = sum.get_mut(n) {
                            *sum = sum.saturating_add(bytes);
                        }
                    }
                }
            }
            row
        });
        rows.collect()
    }

    fn print_thresholds(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "\n\nChunk Deduplication Statistics:")?;
        let titles = [
            "Global Dedup Thresh:",
            "Raw Chunks:",
            "Dedup Chunks:",
            "Comp Content Size:",
            "Comp Base Size:",
            "Comp Image Size:",
            "Uncomp Content Size:",
            "Uncomp Base Size:",
            "Uncomp Image Size:",
        ];
        writeln!(out, "{}", titles.join("\t"))?;
        for (row, threshold) in self.thresholds().iter().zip(1..) {
            let [stored, plain] = [0, 1].map(|n: usize| {
                [row.content, row.base, row.image].map(|part| part.get(n).copied().unwrap_or(0))
            });
            write!(out, "{threshold:<24}")?;
            let numbers = [row.raw_chunks, row.dedup_chunks].into_iter().chain(stored).chain(plain);
            for number in numbers {
                write!(out, "{:<16}", format!("{number:#x}"))?;
            }
            writeln!(out)?;
        }
        Ok(())
    }
}

/// Counts what an image has. Returns its distinct chunks.
fn count(image: &Image, stat: &mut ImageStat) -> Result<HashMap<Digest, Sizes>, StatError> {
    let bootstrap = image.bootstrap();
    let tarfs = bootstrap.superblock().flags.contains(SuperFlags::TARFS);
    let mut distinct = HashMap::new();
    let mut seen = HashSet::new();
    let mut walk = || {
        // The data of a tarfs is a tar: its chunks have neither digests nor stored sizes.
        let index = (!tarfs).then(|| ChunkIndex::build(bootstrap)).transpose()?;
        rafs_format::check::check(bootstrap, &mut |visit| {
            let inode = &visit.inode;
            match inode.file_type {
                FileType::Directory => stat.dirs += 1,
                FileType::Symlink => stat.symlinks += 1,
                FileType::Regular => stat.files += 1,
                _ => {}
            }
            if inode.file_type != FileType::Regular || (inode.nlink > 1 && !seen.insert(inode.nid)) {
                return Ok(());
            }
            stat.add_file(inode.size);
            let Some(index) = &index else {
                stat.chunks += bootstrap.chunk_count(inode);
                stat.comp_size = stat.comp_size.saturating_add(inode.size);
                stat.uncomp_size = stat.uncomp_size.saturating_add(inode.size);
                return Ok(());
            };
            for n in 0..bootstrap.chunk_count(inode) {
                let chunk = index.chunk(bootstrap, inode, n)?;
                let sizes = Sizes { stored: chunk.compressed_size, plain: chunk.uncompressed_size };
                stat.add_chunk(sizes);
                distinct.entry(chunk.digest).or_insert(sizes);
            }
            Ok::<_, FormatError>(())
        })
    };
    walk().map_err(|source| StatError::Structure { path: image.path().to_path_buf(), source })?;
    Ok(distinct)
}

/// One image as text.
fn print_image(image: &ImageStat, out: &mut dyn Write) -> io::Result<()> {
    let lines = [
        ("Directories:", image.dirs),
        ("Files:", image.files),
        ("Symlinks:", image.symlinks),
        ("Chunks:", image.chunks),
        ("File Size:", image.file_size),
        ("Padding Size:", image.padding_size),
        ("Uncompressed Size:", image.uncomp_size),
        ("Compressed Size:", image.comp_size),
    ];
    writeln!(out)?;
    for (name, value) in lines {
        writeln!(out, "{name:<24}{value}")?;
    }
    writeln!(out, "\nFile Size Bits:\t\tFile Count:")?;
    for (bits, count) in image.file_sizes.iter().enumerate() {
        writeln!(out, "{bits}:\t\t\t{count}")?;
    }
    writeln!(out, "\nChunk Size Bits:\tChunk Count:")?;
    for (bits, count) in CHUNK_BITS.zip(image.chunk_sizes) {
        writeln!(out, "{bits}:\t\t\t{count}")?;
    }
    let lines = [
        ("Raw Content Size", image.file_size),
        ("Comp Content Size", image.comp_size),
        ("Raw Chunk Count", image.chunks),
        ("Dedup Comp Size", image.dedup_comp_size),
        ("Dedup Uncomp Size", image.dedup_uncomp_size),
        ("Dedup Chunk Count", image.dedup_chunks),
        ("Owned Comp Size", image.own_comp_size),
        ("Owned Uncomp Size", image.own_uncomp_size),
        ("Owned Chunk Count", image.own_chunks),
        ("Referenced Comp Size", image.ref_comp_size),
        ("Referenced Uncomp Size", image.ref_uncomp_size),
        ("Referenced Chunk Count", image.ref_chunks),
    ];
    writeln!(out)?;
    for (name, value) in lines {
        writeln!(out, "{:<24}{value}", format!("{name}:"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_counted_by_bits_and_blocks() {
        let mut stat = ImageStat::new();
        for size in [0, 1, 4096, 4097, (1 << 20) + 1, u64::MAX] {
            stat.add_file(size);
        }
        let counted: Vec<_> = stat.file_sizes.iter().enumerate().filter(|(_, count)| **count > 0).collect();
        assert_eq!(counted, [(0, &1), (1, &1), (13, &2), (21, &1), (44, &1)]);
        assert_eq!(stat.padding_size, 4095 + 4095 + 4095);
        assert_eq!(stat.file_size, u64::MAX);
        let all: u64 = [0, 1, 1, 2, 257].iter().sum();
        assert_eq!(stat.chunk_sizes[0], all + (1 << 52));
        assert_eq!(stat.chunk_sizes[8], 1 + 1 + 1 + 2 + (1 << 44));
    }

    #[test]
    fn a_chunk_in_many_images_is_kept_once_from_its_threshold_on() {
        let mut all = Statistics {
            dedup_enabled: true,
            target_enabled: false,
            base_image: ImageStat::new(),
            target_image: ImageStat::new(),
            chunks: HashMap::new(),
        };
        all.chunks.insert(Digest([1; 32]), (Sizes { stored: 10, plain: 100 }, 3));
        all.chunks.insert(Digest([2; 32]), (Sizes { stored: 1, plain: 7 }, 1));
        let rows = all.thresholds();
        assert_eq!(rows.len(), 3);
        let content = [31, 307];
        let base =
            |chunks, base, image| Threshold { raw_chunks: 4, dedup_chunks: chunks, content, base, image };
        assert_eq!(rows[0], base(2, [11, 107], [0, 0]));
        assert_eq!(rows[1], base(2, [10, 100], [1, 7]));
        assert_eq!(rows[2], base(2, [10, 100], [1, 7]));
    }
}
