//! `nydus-image unpack`: an image back to a tar or a directory.
//!
//! One thread walks the tree in depth-first pre-order, a few decode and verify chunks ahead of it, and the caller's thread
//! writes in the order of the walk, so the output does not depend on the number of threads and memory does not grow with the
//! image. Only verified bytes are written. The output appears whole or not at all, except on a pipe.
//!
//! Which form is wanted is never guessed: a tar is `--output`, a directory `--output-dir`.

mod dir;
mod tar;

use crate::data::{self, BadChunk, BlobError, ChunkReader, OpenBlob};
use crate::open::{BlobSource, Image};
use rafs_format::check::Visit;
use rafs_format::{Bootstrap, Chunk, ChunkIndex, FileType, FormatError, Inode, Nid};
use rafs_merkle::VerifiedChunk;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};

/// File bytes in one batch, reached and then not exceeded by more than a chunk.
const BATCH_BYTES: u64 = 1 << 20;
/// Entries and chunks in one batch.
const BATCH_PARTS: usize = 512;

/// Why an image was not unpacked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum UnpackError {
    #[error("bootstrap {} is not valid", path.display())]
    Structure { path: PathBuf, source: FormatError },
    #[error(transparent)]
    Format(#[from] FormatError),
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error("{:?}", OsStr::from_bytes(path))]
    Chunk { path: Vec<u8>, source: Box<BadChunk> },
    #[error("{:?}: chunk {n} has {found} bytes, expected {expected}", OsStr::from_bytes(path))]
    ChunkSize { path: Vec<u8>, n: u64, found: u32, expected: u64 },
    #[error("cannot write {}", path.display())]
    Output { path: PathBuf, source: io::Error },
    #[error("cannot {action} {:?} in the output", OsStr::from_bytes(path))]
    Entry { path: Vec<u8>, action: &'static str, source: io::Error },
    #[error("{}: directory is not empty", path.display())]
    NotEmpty { path: PathBuf },
    #[error("{} is a directory; use --output-dir to unpack into a directory", path.display())]
    IsADirectory { path: PathBuf },
    #[error("interrupted")]
    Interrupted,
}

/// Where to unpack to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A tar on standard output.
    Stdout,
    /// A tar in a new file, which replaces one that is there; or into a pipe or device that is there.
    Tar(PathBuf),
    /// A directory, made by this; one that is there must be empty.
    Directory(PathBuf),
}

/// Unpacks `image`, reading data from `source` with `threads` threads (at least 1). Stops soon after `stop` is set, leaving
/// nothing behind. Errors name the file in the image or the output.
pub fn unpack(
    image: &Image,
    source: &BlobSource,
    target: &Target,
    threads: usize,
    stop: &AtomicBool,
) -> Result<(), UnpackError> {
    let blobs = data::open_all(image, source)?;
    // A damaged tree is told before anything is written: what went into a pipe cannot be taken back.
    rafs_format::check::check(image.bootstrap(), &mut |_| Ok::<(), FormatError>(()))
        .map_err(|source| UnpackError::Structure { path: image.path().to_path_buf(), source })?;
    let plan = Plan { image, blobs: &blobs, threads, stop };
    match target {
        Target::Stdout => tar::to_stream(&plan, &mut io::stdout().lock(), "standard output".into()),
        Target::Tar(path) => tar::to_file(&plan, path),
        Target::Directory(path) => dir::to_directory(&plan, path),
    }
}

/// Writes the tar of `image` to `out`. As [`unpack`].
pub fn tar_to(
    image: &Image,
    source: &BlobSource,
    out: &mut dyn Write,
    threads: usize,
) -> Result<(), UnpackError> {
    let blobs = data::open_all(image, source)?;
    let plan = Plan { image, blobs: &blobs, threads, stop: &AtomicBool::new(false) };
    tar::to_stream(&plan, out, "stream".into())
}

/// What is unpacked, and how.
struct Plan<'a> {
    image: &'a Image,
    /// In table order.
    blobs: &'a [OpenBlob],
    threads: usize,
    stop: &'a AtomicBool,
}

/// Extended attributes: full name and value, sorted by name.
type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// One entry of the image with all that an output needs.
#[derive(Debug)]
struct Node {
    /// Path without a leading `/`; empty for the root.
    path: Vec<u8>,
    kind: Kind,
    /// Permission bits (07777).
    mode: u16,
    uid: u32,
    gid: u32,
    mtime_secs: i64,
    mtime_nanos: u32,
    /// Bytes of a regular file, 0 for all others.
    size: u64,
    xattrs: Xattrs,
}

/// What an entry is.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Regular,
    Directory,
    Symlink(Vec<u8>),
    /// Another name of the file at this path, which came before.
    HardLink(Vec<u8>),
    Device {
        block: bool,
        major: u32,
        minor: u32,
    },
    Fifo,
    Socket,
}

/// Where entries go, in depth-first pre-order.
trait Sink {
    /// The next entry. The data of a regular file follows.
    fn node(&mut self, node: Node) -> Result<(), UnpackError>;
    /// The next bytes of the current regular file.
    fn data(&mut self, bytes: &[u8]) -> Result<(), UnpackError>;
    /// The current regular file is complete.
    fn end_of_file(&mut self) -> Result<(), UnpackError>;
}

/// A step of the output.
#[derive(Debug)]
enum Part {
    Node(Box<Node>),
    /// The next chunk of the batch.
    Chunk,
    EndOfFile,
}

/// Steps that belong together, so that neighbouring chunks of small files are read at once.
#[derive(Debug, Default)]
struct Batch {
    parts: Vec<Part>,
    chunks: Vec<Chunk>,
    bytes: u64,
}

/// A batch whose chunks are decoded.
struct Decoded {
    parts: Vec<Part>,
    plain: Vec<Result<VerifiedChunk, BadChunk>>,
}

/// A batch to decode and where to send the result.
type Job = (Batch, Sender<Decoded>);

impl Plan<'_> {
    /// Sends the whole image through `sink`.
    fn run(&self, sink: &mut dyn Sink) -> Result<(), UnpackError> {
        let (jobs, queue) = sync_channel::<Job>(self.threads);
        let (promises, order) = sync_channel::<Receiver<Decoded>>(2 * self.threads);
        let queue = Mutex::new(queue);
        std::thread::scope(|scope| {
            let walker = scope.spawn(move || Walker::new(self.image, jobs, promises)?.walk());
            for _ in 0..self.threads {
                scope.spawn(|| self.decode(&queue));
            }
            let written = self.write(order, sink);
            let walked = walker.join().unwrap_or(Err(UnpackError::Interrupted));
            // When writing fails the walker is told to stop, so its own complaint says nothing.
            written.and(walked)
        })
    }

    /// Decodes batches until there are none.
    fn decode(&self, queue: &Mutex<Receiver<Job>>) {
        let mut reader = ChunkReader::default();
        loop {
            let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok((batch, promise)) = job else { return };
            let mut plain = Vec::with_capacity(batch.chunks.len());
            for run in data::runs(&batch.chunks).filter_map(|run| batch.chunks.get(run)) {
                let blob = run.first().and_then(|chunk| usize::try_from(chunk.blob).ok());
                let blob = blob.and_then(|n| Some((self.image.blobs().get(n)?, self.blobs.get(n)?)));
                if let Some((blob, file)) = blob {
                    reader.read_run(blob, file, run, &mut |_, result| plain.push(result));
                }
            }
            // The writer has given up when nobody takes it.
            let _unwanted = promise.send(Decoded { parts: batch.parts, plain }).is_err();
        }
    }

    /// Writes batches in their order.
    fn write(&self, order: Receiver<Receiver<Decoded>>, sink: &mut dyn Sink) -> Result<(), UnpackError> {
        let mut path = Vec::new();
        for promise in order {
            if self.stop.load(Ordering::Relaxed) {
                return Err(UnpackError::Interrupted);
            }
            let Ok(batch) = promise.recv() else { return Err(UnpackError::Interrupted) };
            let mut plain = batch.plain.into_iter();
            for part in batch.parts {
                match part {
                    Part::Node(node) => {
                        path.clone_from(&node.path);
                        sink.node(*node)?;
                    }
                    Part::Chunk => match plain.next() {
                        Some(Ok(chunk)) => sink.data(chunk.bytes())?,
                        Some(Err(bad)) => return Err(UnpackError::Chunk { path, source: Box::new(bad) }),
                        None => return Err(UnpackError::Interrupted),
                    },
                    Part::EndOfFile => sink.end_of_file()?,
                }
            }
        }
        Ok(())
    }
}

/// Turns the tree into batches.
struct Walker<'a> {
    bootstrap: &'a Bootstrap<Vec<u8>>,
    index: ChunkIndex,
    /// First path of each file that has several.
    first: HashMap<Nid, Vec<u8>>,
    batch: Batch,
    jobs: SyncSender<Job>,
    promises: SyncSender<Receiver<Decoded>>,
}

impl<'a> Walker<'a> {
    fn new(
        image: &'a Image,
        jobs: SyncSender<Job>,
        promises: SyncSender<Receiver<Decoded>>,
    ) -> Result<Self, UnpackError> {
        let bootstrap = image.bootstrap();
        let index = ChunkIndex::build(bootstrap)?;
        Ok(Self { bootstrap, index, first: HashMap::new(), batch: Batch::default(), jobs, promises })
    }

    /// Walks all of it.
    fn walk(mut self) -> Result<(), UnpackError> {
        rafs_format::check::check(self.bootstrap, &mut |visit| self.visit(visit))?;
        self.flush()
    }

    /// Adds one entry and its chunks.
    fn visit(&mut self, visit: &Visit<'_>) -> Result<(), UnpackError> {
        let path = visit.path.join(&b'/');
        let inode = &visit.inode;
        let kind = self.kind(visit, &path)?;
        let has_data = kind == Kind::Regular;
        let node = Node {
            path,
            mode: inode.mode & 0o7777,
            uid: inode.uid,
            gid: inode.gid,
            mtime_secs: inode.mtime_secs,
            mtime_nanos: inode.mtime_nanos,
            size: if has_data { inode.size } else { 0 },
            xattrs: self.xattrs(inode, &kind)?,
            kind,
        };
        let path = if has_data { node.path.clone() } else { Vec::new() };
        self.batch.parts.push(Part::Node(Box::new(node)));
        if has_data {
            self.chunks(inode, &path)?;
        }
        self.flush_if_full()
    }

    /// What an entry is; remembers the first path of a file with several.
    fn kind(&mut self, visit: &Visit<'_>, path: &[u8]) -> Result<Kind, UnpackError> {
        let inode = &visit.inode;
        let device = |block| Kind::Device { block, major: inode.major(), minor: inode.minor() };
        if inode.file_type != FileType::Directory && inode.nlink > 1 {
            if let Some(first) = self.first.get(&inode.nid) {
                return Ok(Kind::HardLink(first.clone()));
            }
            self.first.insert(inode.nid, path.to_vec());
        }
        Ok(match inode.file_type {
            FileType::Regular => Kind::Regular,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink(self.bootstrap.symlink_target(inode)?.to_vec()),
            FileType::CharDevice => device(false),
            FileType::BlockDevice => device(true),
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
        })
    }

    /// Extended attributes by name. A further name of a file has none of its own.
    fn xattrs(&self, inode: &Inode, kind: &Kind) -> Result<Xattrs, UnpackError> {
        let mut all = Vec::new();
        if matches!(kind, Kind::HardLink(_)) {
            return Ok(all);
        }
        for xattr in self.bootstrap.xattrs(inode)? {
            let xattr = xattr?;
            all.push(([xattr.prefix.as_bytes(), xattr.suffix].concat(), xattr.value.to_vec()));
        }
        all.sort();
        Ok(all)
    }

    /// Adds the chunks of a regular file.
    fn chunks(&mut self, file: &Inode, path: &[u8]) -> Result<(), UnpackError> {
        let chunk_size = u64::from(self.bootstrap.superblock().chunk_size);
        let mut left = file.size;
        for n in 0..self.bootstrap.chunk_count(file) {
            let chunk = self.index.chunk(self.bootstrap, file, n)?;
            let expected = left.min(chunk_size);
            if u64::from(chunk.uncompressed_size) != expected {
                let found = chunk.uncompressed_size;
                return Err(UnpackError::ChunkSize { path: path.to_vec(), n, found, expected });
            }
            left -= expected;
            self.batch.bytes += expected;
            self.batch.chunks.push(chunk);
            self.batch.parts.push(Part::Chunk);
            self.flush_if_full()?;
        }
        self.batch.parts.push(Part::EndOfFile);
        Ok(())
    }

    /// Sends the batch when it is large enough.
    fn flush_if_full(&mut self) -> Result<(), UnpackError> {
        let full = self.batch.bytes >= BATCH_BYTES || self.batch.parts.len() >= BATCH_PARTS;
        if full { self.flush() } else { Ok(()) }
    }

    /// Sends the batch. Errors: `Interrupted` when the writer has given up.
    fn flush(&mut self) -> Result<(), UnpackError> {
        let (promise, result) = channel();
        let batch = std::mem::take(&mut self.batch);
        self.promises.send(result).map_err(|_| UnpackError::Interrupted)?;
        self.jobs.send((batch, promise)).map_err(|_| UnpackError::Interrupted)
    }
}
