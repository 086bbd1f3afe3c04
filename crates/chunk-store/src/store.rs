//! Which chunks are stored where, over all images of a node or a registry: a file that survives a crash.
//!
//! An image is added with all its chunks and taken out again; each change is one transaction, there whole or not at all. How many images use a
//! blob, and each chunk, is counted in the same transaction.
//!
//! Blobs that nothing uses go in two steps. [`Store::condemn`] begins a round: from then on their chunks are not handed out. [`Store::sweep`] ends
//! it, when the builds that may have looked before are over, and says which blobs may be deleted. An image added in between brings its blobs back to
//! life; one that comes later is told [`StoreError::Gone`] unless its caller says that it stored the blob again. So no order of events drops a chunk
//! that an image in the store uses, and none lets an image in whose blob may be gone.
//!
//! Knows bootstraps, not blobs: deleting one is its caller's. Memory: 16 bytes per chunk of the image that is added, and a cache of
//! [`CACHE`] bytes. One process has the file at a time.

mod record;

use crate::dictionary::is_same;
use rafs_format::{Blob, BlobFeatures, BlobId, Bootstrap, Chunk, ChunkIndex, Digest, FormatError};
use record::{BlobRecord, ChunkRecord, State, numbers};
use redb::{
    Database, ReadableDatabase, ReadableTable, Table, TableDefinition, TableHandle, WriteTransaction,
};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Why the store cannot do what is asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum StoreError {
    #[error("cannot open the chunk store {}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{} is an SQLite database: this version keeps a store of its own, give the name of a new file", path.display())]
    Sqlite { path: PathBuf },
    #[error("{} is no chunk store: {problem}", path.display())]
    NotAStore { path: PathBuf, problem: &'static str },
    #[error("cannot open the chunk store {}", path.display())]
    Open { path: PathBuf, source: Box<redb::DatabaseError> },
    #[error("the chunk store failed")]
    Database { source: Box<redb::Error> },
    #[error(
        "the chunk store is damaged: {what} is not what it should be; remove the file and add its images again"
    )]
    Corrupt { what: &'static str },
    #[error("its chunks contradict themselves")]
    Format(#[from] FormatError),
    #[error("blob {id} is not the same as in the chunk store")]
    Contradiction { id: BlobId },
    #[error("blob {id} may be deleted already: store it again")]
    Gone { id: BlobId },
    #[error("it has {found} names of blobs for {expected} blobs")]
    Names { found: usize, expected: usize },
    #[error("the chunk store has too many blobs: {limit} are possible")]
    TooManyBlobs { limit: u32 },
}

/// Errors of the library become [`StoreError::Database`].
macro_rules! from_library {
    ($($error:ty),*) => {
        $(impl From<$error> for StoreError {
            fn from(error: $error) -> Self {
                Self::Database { source: Box::new(error.into()) }
            }
        })*
    };
}
from_library!(redb::StorageError, redb::TableError, redb::TransactionError, redb::CommitError);

/// Memory for pages of the file, in bytes.
pub const CACHE: usize = 32 << 20;
/// Layout of the tables; another one is refused.
const VERSION: u64 = 1;
/// Chunks in one value of [`MEMBERS`].
const PAGE: usize = 4096;
/// Bytes of a key of [`DIGESTS`]: algorithm, digest, blob, index.
const DIGEST_KEY: usize = 41;

/// `version`, and the next number of an `image`, a `blob` and a `round`.
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
/// Numbers of images by name.
const IMAGES: TableDefinition<&str, u64> = TableDefinition::new("images");
/// Places of the chunks of an image, in pages; the page [`BLOBS_PAGE`] has the numbers of its blobs.
const MEMBERS: TableDefinition<(u64, u32), &[u8]> = TableDefinition::new("members");
const BLOBS_PAGE: u32 = u32::MAX;
/// Blobs by number, and numbers by id.
const BLOBS: TableDefinition<u32, &[u8]> = TableDefinition::new("blobs");
const BLOB_IDS: TableDefinition<&str, u32> = TableDefinition::new("blob ids");
/// Chunks by place: blob in the upper half, index in the lower.
const CHUNKS: TableDefinition<u64, &[u8]> = TableDefinition::new("chunks");
/// Places of chunks by digest: they stand in the key, since one digest has several.
const DIGESTS: TableDefinition<&[u8; DIGEST_KEY], ()> = TableDefinition::new("digests");

/// A place as one number.
fn place(blob: u32, index: u32) -> u64 {
    u64::from(blob) << 32 | u64::from(index)
}

/// Blob and index of a place.
fn parts(place: u64) -> (u32, u32) {
    let half = |number: u64| u32::try_from(number & 0xFFFF_FFFF).unwrap_or(0);
    (half(place >> 32), half(place))
}

fn digest_key(algorithm: u32, digest: &Digest, place: u64) -> [u8; DIGEST_KEY] {
    let mut key = [0; DIGEST_KEY];
    // Two algorithms.
    key[0] = u8::try_from(algorithm).unwrap_or(u8::MAX);
    key[1..33].copy_from_slice(&digest.0);
    key[33..].copy_from_slice(&place.to_be_bytes());
    key
}

/// The place in a key of [`DIGESTS`].
fn place_in(key: &[u8; DIGEST_KEY]) -> u64 {
    key.last_chunk::<8>().map_or(0, |place| u64::from_be_bytes(*place))
}

/// What is in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Images.
    pub images: u64,
    /// Blobs whose chunks are handed out.
    pub live_blobs: u64,
    /// Blobs that the last round condemned and no sweep took.
    pub condemned_blobs: u64,
    /// Chunks of both.
    pub chunks: u64,
    /// Chunks of all images, one by one.
    pub references: u64,
}

/// A round of collection, see [`Store::condemn`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Round(u64);

/// The number that a program keeps between the two steps.
impl From<Round> for u64 {
    fn from(round: Round) -> Self {
        round.0
    }
}

/// A round from its number. One beyond all that were begun stands for the last of them.
impl From<u64> for Round {
    fn from(number: u64) -> Self {
        Self(number)
    }
}

/// The store.
#[derive(Debug)]
pub struct Store {
    database: Database,
}

impl Store {
    /// Opens the store at `path`, or makes one that only its owner may read: it holds the keys of encrypted blobs. Reads all of the file and
    /// checks every page, so that damage is found here and not by a wrong answer; what a crash left half done is taken back.
    /// Errors: damage; another process has it; another kind of file.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        prepare(path).map_err(|source| StoreError::File { path: path.to_path_buf(), source })?;
        let mut head = [0; 16];
        let read = File::open(path).and_then(|file| file.take(16).read(&mut head));
        read.map_err(|source| StoreError::File { path: path.to_path_buf(), source })?;
        if head == *b"SQLite format 3\0" {
            return Err(StoreError::Sqlite { path: path.to_path_buf() });
        }
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE).set_check_integrity_on_open(true);
        let opened = builder.create(path);
        let database = opened
            .map_err(|source| StoreError::Open { path: path.to_path_buf(), source: Box::new(source) })?;
        let store = Self { database };
        store.check_version(path)?;
        Ok(store)
    }

    /// Opens the store like [`Store::open`], and waits up to `patience` for another process that has it.
    pub fn open_patiently(path: &Path, patience: Duration) -> Result<Self, StoreError> {
        let started = Instant::now();
        loop {
            let opened = Self::open(path);
            let is_taken = matches!(&opened, Err(StoreError::Open { source, .. })
                if matches!(**source, redb::DatabaseError::DatabaseAlreadyOpen));
            if !is_taken || started.elapsed() >= patience {
                return opened;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn check_version(&self, path: &Path) -> Result<(), StoreError> {
        let write = self.database.begin_write()?;
        let foreign = write.list_tables()?.any(|table| table.name() != META.name());
        let mut meta = write.open_table(META)?;
        let version = meta.get("version")?.map(|version| version.value());
        let problem = match version {
            Some(VERSION) => return Ok(()),
            Some(_) => "another version of this program made it",
            None if foreign => "it is the database of another program",
            None => {
                meta.insert("version", VERSION)?;
                drop(meta);
                Tables::open(&write)?;
                return Ok(write.commit()?);
            }
        };
        Err(StoreError::NotAStore { path: path.to_path_buf(), problem })
    }

    /// Adds an image, or puts it in the place of the one with this name. `blobs` are its blobs as they are called; `stored` are those that the
    /// caller has just written, which therefore are there whatever was collected before.
    /// Errors: [`StoreError::Gone`], [`StoreError::Contradiction`], a damaged image, a tarfs; nothing has changed then.
    pub fn add<B: AsRef<[u8]>>(
        &self,
        image: &str,
        bootstrap: &Bootstrap<B>,
        blobs: &[Blob],
        stored: &HashSet<BlobId>,
    ) -> Result<(), StoreError> {
        let (found, expected) = (blobs.len(), bootstrap.blobs().len());
        if found != expected {
            return Err(StoreError::Names { found, expected });
        }
        drop(ChunkIndex::build(bootstrap)?);
        let write = self.database.begin_write()?;
        let mut tables = Tables::open(&write)?;
        tables.remove(image)?;
        let number = tables.next("image")?;
        tables.images.insert(image, number)?;
        let mut ids = Vec::with_capacity(blobs.len());
        let mut counted: HashMap<&BlobId, u32> = HashMap::new();
        for blob in blobs {
            let id = match counted.get(&blob.id) {
                Some(&id) => id,
                None => tables.add_blob(blob, stored.contains(&blob.id))?,
            };
            counted.insert(&blob.id, id);
            ids.push(id);
        }
        let mut chunks = Vec::new();
        for at in bootstrap.chunk_places() {
            let at = at?;
            let chunk = bootstrap.checked_chunk_at(at)?;
            let blob = *ids.get(chunk.blob as usize).ok_or(StoreError::Names { found, expected })?;
            chunks.push((place(blob, chunk.index), at));
        }
        // A v5 image has a record for each use; they were compared above.
        chunks.sort_unstable();
        chunks.dedup_by_key(|(place, _)| *place);
        for &(place, at) in &chunks {
            tables.add_chunk(place, bootstrap.chunk_at(at)?)?;
        }
        for (page, part) in (0u32..).zip(chunks.chunks(PAGE)) {
            let bytes: Vec<u8> = part.iter().flat_map(|(place, _)| place.to_le_bytes()).collect();
            tables.members.insert((number, page), bytes.as_slice())?;
        }
        ids.sort_unstable();
        ids.dedup();
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| u64::from(id).to_le_bytes()).collect();
        tables.members.insert((number, BLOBS_PAGE), bytes.as_slice())?;
        drop(tables);
        Ok(write.commit()?)
    }

    /// Takes an image out. Was it there?
    pub fn remove(&self, image: &str) -> Result<bool, StoreError> {
        let write = self.database.begin_write()?;
        let was_there = Tables::open(&write)?.remove(image)?;
        write.commit()?;
        Ok(was_there)
    }

    /// A chunk with this digest and size in bytes after decompression (0 for any), and the blob it is in. [`Chunk::blob`] means nothing.
    /// `algorithm` is that of the digest. Nothing is found in a blob that is condemned.
    pub fn lookup(
        &self,
        algorithm: rafs_format::DigestAlgorithm,
        digest: &Digest,
        size: u32,
    ) -> Result<Option<(Blob, Chunk)>, StoreError> {
        let read = self.database.begin_read()?;
        let (digests, chunks) = (read.open_table(DIGESTS)?, read.open_table(CHUNKS)?);
        let blobs = read.open_table(BLOBS)?;
        let key = |place| digest_key(algorithm as u32, digest, place);
        for entry in digests.range::<&[u8; DIGEST_KEY]>(&key(0)..=&key(u64::MAX))? {
            let place = place_in(entry?.0.value());
            let record = chunks.get(place)?.ok_or(StoreError::Corrupt { what: "the chunk of a digest" })?;
            let chunk = ChunkRecord::decode(parts(place), record.value())?.chunk;
            if chunk.digest != *digest {
                return Err(StoreError::Corrupt { what: "the digest of a chunk" });
            }
            let blob = blobs.get(chunk.blob)?.ok_or(StoreError::Corrupt { what: "the blob of a chunk" })?;
            let blob = BlobRecord::decode(blob.value())?;
            if blob.state == State::Live && (size == 0 || chunk.uncompressed_size == size) {
                return Ok(Some((blob.blob, chunk)));
            }
        }
        Ok(None)
    }

    /// Blobs and distinct chunks of an image; [`Chunk::blob`] is a position among the blobs. Both are empty for one that is not there.
    pub fn image(&self, image: &str) -> Result<(Vec<Blob>, Vec<Chunk>), StoreError> {
        let read = self.database.begin_read()?;
        let (images, members) = (read.open_table(IMAGES)?, read.open_table(MEMBERS)?);
        let (blobs, chunks) = (read.open_table(BLOBS)?, read.open_table(CHUNKS)?);
        let Some(number) = images.get(image)?.map(|number| number.value()) else {
            return Ok((Vec::new(), Vec::new()));
        };
        let list = members.get((number, BLOBS_PAGE))?;
        let list = list.ok_or(StoreError::Corrupt { what: "the list of an image's blobs" })?;
        let (mut found_blobs, mut found_chunks) = (Vec::new(), Vec::new());
        let mut positions = HashMap::new();
        for number in numbers(list.value())? {
            let (_, number) = parts(number);
            let record = blobs.get(number)?.ok_or(StoreError::Corrupt { what: "the blob of an image" })?;
            positions.insert(number, found_blobs.len());
            found_blobs.push(BlobRecord::decode(record.value())?.blob);
        }
        for entry in members.range((number, 0)..(number, BLOBS_PAGE))? {
            for place in numbers(entry?.1.value())? {
                let record = chunks.get(place)?.ok_or(StoreError::Corrupt { what: "a chunk of an image" })?;
                let chunk = ChunkRecord::decode(parts(place), record.value())?.chunk;
                let blob = positions.get(&chunk.blob).and_then(|&at| u32::try_from(at).ok());
                let blob = blob.ok_or(StoreError::Corrupt { what: "the blob of a chunk" })?;
                found_chunks.push(Chunk { blob, ..chunk });
            }
        }
        Ok((found_blobs, found_chunks))
    }

    /// Hands the blobs that `wanted` takes to `each`, those first that most images have, then those that came first; each with all its chunks that are known.
    /// [`Chunk::blob`] means nothing. Blobs that are condemned are left out. Memory: the chunks of one blob.
    pub fn live_blobs<E: From<StoreError>>(
        &self,
        wanted: &dyn Fn(&Blob) -> bool,
        each: &mut dyn FnMut(Blob, Vec<Chunk>) -> Result<(), E>,
    ) -> Result<(), E> {
        let read = self.database.begin_read().map_err(StoreError::from)?;
        let blobs = read.open_table(BLOBS).map_err(StoreError::from)?;
        let chunks = read.open_table(CHUNKS).map_err(StoreError::from)?;
        let mut live = live_numbers(&blobs, wanted)?;
        live.sort_unstable_by_key(|(images, number, _)| (std::cmp::Reverse(*images), *number));
        for (_, number, blob) in live {
            each(blob, chunks_of(&chunks, number)?)?;
        }
        Ok(())
    }

    /// Blobs that are not swept, in the order in which they came.
    pub fn blobs(&self) -> Result<Vec<Blob>, StoreError> {
        let read = self.database.begin_read()?;
        let blobs = read.open_table(BLOBS)?;
        let mut all = Vec::new();
        for entry in blobs.iter()? {
            let record = BlobRecord::decode(entry?.1.value())?;
            if record.state != State::Swept {
                all.push(record.blob);
            }
        }
        Ok(all)
    }

    /// Names of all images, sorted.
    pub fn images(&self) -> Result<Vec<String>, StoreError> {
        let read = self.database.begin_read()?;
        let images = read.open_table(IMAGES)?;
        images.iter()?.map(|entry| Ok(entry?.0.value().to_owned())).collect()
    }

    /// Begins a round of collection: blobs that no image has are condemned. Returns the round and these blobs, with those of earlier
    /// rounds that were not swept.
    pub fn condemn(&self) -> Result<(Round, Vec<BlobId>), StoreError> {
        let write = self.database.begin_write()?;
        let mut tables = Tables::open(&write)?;
        let round = tables.next("round")?;
        let mut condemned = Vec::new();
        for (number, mut record) in tables.all_blobs()? {
            if record.images > 0 || record.state == State::Swept {
                continue;
            }
            if record.state == State::Live {
                record.state = State::Condemned(round);
                tables.blobs.insert(number, record.encode().as_slice())?;
            }
            condemned.push(record.blob.id);
        }
        drop(tables);
        write.commit()?;
        Ok((Round(round), condemned))
    }

    /// Ends a round: takes out the blobs that were condemned in it or before and that no image has since. Returns them: they may be deleted.
    pub fn sweep(&self, round: Round) -> Result<Vec<BlobId>, StoreError> {
        let write = self.database.begin_write()?;
        let mut tables = Tables::open(&write)?;
        let mut swept = Vec::new();
        for (number, mut record) in tables.all_blobs()? {
            let is_due = matches!(record.state, State::Condemned(since) if since <= round.0);
            if !is_due || record.images > 0 {
                continue;
            }
            tables.drop_chunks(number, &record.blob)?;
            record.state = State::Swept;
            tables.blobs.insert(number, record.encode().as_slice())?;
            swept.push(record.blob.id);
        }
        drop(tables);
        write.commit()?;
        Ok(swept)
    }

    /// Counts everything anew and compares it with what is counted already. Errors: [`StoreError::Corrupt`]. Memory: 8 bytes per chunk.
    pub fn verify(&self) -> Result<Counts, StoreError> {
        let write = self.database.begin_write()?;
        let tables = Tables::open(&write)?;
        let mut counts = Counts { images: tables.images.iter()?.count() as u64, ..Counts::default() };
        let mut of_chunks: BTreeMap<u64, u64> = BTreeMap::new();
        let mut of_blobs: BTreeMap<u64, u64> = BTreeMap::new();
        for entry in tables.members.iter()? {
            let (key, value) = entry?;
            let is_blobs = key.value().1 == BLOBS_PAGE;
            let counted = if is_blobs { &mut of_blobs } else { &mut of_chunks };
            for number in numbers(value.value())? {
                *counted.entry(number).or_insert(0) += 1;
                counts.references += u64::from(!is_blobs);
            }
        }
        let mut digests = 0;
        for (number, record) in tables.all_blobs()? {
            let wrong = of_blobs.remove(&number.into()).unwrap_or(0) != record.images;
            let wrong = wrong || (record.images > 0 && record.state != State::Live);
            if wrong {
                return Err(StoreError::Corrupt { what: "how many images have a blob" });
            }
            counts.live_blobs += u64::from(record.state == State::Live);
            counts.condemned_blobs += u64::from(matches!(record.state, State::Condemned(_)));
            for entry in tables.chunks.range(place(number, 0)..=place(number, u32::MAX))? {
                let (key, value) = entry?;
                let found = ChunkRecord::decode(parts(key.value()), value.value())?;
                let key_of_digest = digest_key(record.blob.digester as u32, &found.chunk.digest, key.value());
                if tables.digests.get(&key_of_digest)?.is_none() {
                    return Err(StoreError::Corrupt { what: "the place of a digest" });
                }
                if of_chunks.remove(&key.value()).unwrap_or(0) != found.references {
                    return Err(StoreError::Corrupt { what: "how many images use a chunk" });
                }
                (counts.chunks, digests) = (counts.chunks + 1, digests + 1);
            }
        }
        let lost = !of_chunks.is_empty() || !of_blobs.is_empty() || tables.digests.iter()?.count() != digests;
        if lost { Err(StoreError::Corrupt { what: "a chunk that an image uses" }) } else { Ok(counts) }
    }
}

/// Blobs that are live and wanted, each with how many images have it and its number.
fn live_numbers(
    blobs: &impl ReadableTable<u32, &'static [u8]>,
    wanted: &dyn Fn(&Blob) -> bool,
) -> Result<Vec<(u64, u32, Blob)>, StoreError> {
    let mut live = Vec::new();
    for entry in blobs.iter()? {
        let (number, record) = entry?;
        let BlobRecord { blob, images, state } = BlobRecord::decode(record.value())?;
        if state == State::Live && wanted(&blob) {
            live.push((images, number.value(), blob));
        }
    }
    Ok(live)
}

/// All chunks that are known of a blob, by index.
fn chunks_of(chunks: &impl ReadableTable<u64, &'static [u8]>, blob: u32) -> Result<Vec<Chunk>, StoreError> {
    let of_blob = chunks.range(place(blob, 0)..=place(blob, u32::MAX))?.map(|entry| {
        let (key, record) = entry?;
        Ok(ChunkRecord::decode(parts(key.value()), record.value())?.chunk)
    });
    of_blob.collect()
}

/// Makes an empty file where there is none, readable for its owner only.
fn prepare(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => {
            let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(dir)?.sync_all()
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// All tables in one transaction.
struct Tables<'t> {
    meta: Table<'t, &'static str, u64>,
    images: Table<'t, &'static str, u64>,
    members: Table<'t, (u64, u32), &'static [u8]>,
    blobs: Table<'t, u32, &'static [u8]>,
    blob_ids: Table<'t, &'static str, u32>,
    chunks: Table<'t, u64, &'static [u8]>,
    digests: Table<'t, &'static [u8; DIGEST_KEY], ()>,
}

impl<'t> Tables<'t> {
    fn open(write: &'t WriteTransaction) -> Result<Self, StoreError> {
        Ok(Self {
            meta: write.open_table(META)?,
            images: write.open_table(IMAGES)?,
            members: write.open_table(MEMBERS)?,
            blobs: write.open_table(BLOBS)?,
            blob_ids: write.open_table(BLOB_IDS)?,
            chunks: write.open_table(CHUNKS)?,
            digests: write.open_table(DIGESTS)?,
        })
    }

    /// The next number of its kind, from 1.
    fn next(&mut self, kind: &str) -> Result<u64, StoreError> {
        let next = self.meta.get(kind)?.map_or(1, |next| next.value());
        self.meta.insert(kind, next + 1)?;
        Ok(next)
    }

    /// All blobs, by number. There are few of them for many chunks.
    fn all_blobs(&self) -> Result<Vec<(u32, BlobRecord)>, StoreError> {
        let blobs = self.blobs.iter()?.map(|entry| {
            let (number, record) = entry?;
            Ok((number.value(), BlobRecord::decode(record.value())?))
        });
        blobs.collect()
    }

    fn blob(&self, number: u32) -> Result<BlobRecord, StoreError> {
        let record = self.blobs.get(number)?.ok_or(StoreError::Corrupt { what: "the blob of an image" })?;
        BlobRecord::decode(record.value())
    }

    /// Counts one more image that has a blob. Returns its number.
    fn add_blob(&mut self, blob: &Blob, is_stored: bool) -> Result<u32, StoreError> {
        let mut blob = blob.clone();
        // For whoever uses it its bootstrap is elsewhere, and its id is known.
        blob.features.remove(BlobFeatures::INLINED_FS_META);
        let known = self.blob_ids.get(blob.id.as_str())?.map(|number| number.value());
        let Some(number) = known else {
            let limit = u32::MAX - 1;
            let number = u32::try_from(self.next("blob")?).ok().filter(|number| *number <= limit);
            let number = number.ok_or(StoreError::TooManyBlobs { limit })?;
            self.blob_ids.insert(blob.id.as_str(), number)?;
            let record = BlobRecord { blob, images: 1, state: State::Live };
            self.blobs.insert(number, record.encode().as_slice())?;
            return Ok(number);
        };
        let mut record = self.blob(number)?;
        if record.state == State::Swept {
            if !is_stored {
                return Err(StoreError::Gone { id: blob.id });
            }
            record.blob = blob;
        } else if !is_same(&record.blob, &blob) {
            return Err(StoreError::Contradiction { id: blob.id });
        }
        (record.images, record.state) = (record.images + 1, State::Live);
        self.blobs.insert(number, record.encode().as_slice())?;
        Ok(number)
    }

    /// Counts one more image that uses a chunk.
    fn add_chunk(&mut self, place: u64, chunk: Chunk) -> Result<(), StoreError> {
        let (blob, index) = parts(place);
        let chunk = Chunk { blob, index, file_offset: 0, ..chunk };
        let known = self.chunks.get(place)?.map(|record| ChunkRecord::decode(parts(place), record.value()));
        let references = match known.transpose()? {
            Some(known) if known.chunk == chunk => known.references + 1,
            Some(_) => return Err(StoreError::Contradiction { id: self.blob(blob)?.blob.id }),
            None => {
                let algorithm = self.blob(blob)?.blob.digester as u32;
                self.digests.insert(&digest_key(algorithm, &chunk.digest, place), ())?;
                1
            }
        };
        self.chunks.insert(place, ChunkRecord { chunk, references }.encode().as_slice())?;
        Ok(())
    }

    /// Takes an image out: all that it counted. Was it there?
    fn remove(&mut self, image: &str) -> Result<bool, StoreError> {
        let number = self.images.remove(image)?.map(|number| number.value());
        let Some(number) = number else { return Ok(false) };
        for page in 0.. {
            let Some(places) = self.take(number, page)? else { break };
            for place in places {
                self.release(place)?;
            }
        }
        let blobs = self.take(number, BLOBS_PAGE)?;
        for blob in blobs.ok_or(StoreError::Corrupt { what: "the list of an image's blobs" })? {
            let blob =
                u32::try_from(blob).map_err(|_over| StoreError::Corrupt { what: "a blob's number" })?;
            let mut record = self.blob(blob)?;
            let left = record.images.checked_sub(1);
            record.images = left.ok_or(StoreError::Corrupt { what: "how many images have a blob" })?;
            self.blobs.insert(blob, record.encode().as_slice())?;
        }
        Ok(true)
    }

    /// Takes one page out of an image.
    fn take(&mut self, image: u64, page: u32) -> Result<Option<Vec<u64>>, StoreError> {
        let page = self.members.remove((image, page))?;
        page.map(|page| numbers(page.value())).transpose()
    }

    /// Counts one image less that uses a chunk. It stays, as long as its blob does.
    fn release(&mut self, place: u64) -> Result<(), StoreError> {
        let record = self.chunks.get(place)?.map(|record| ChunkRecord::decode(parts(place), record.value()));
        let record = record.transpose()?.ok_or(StoreError::Corrupt { what: "a chunk of an image" })?;
        let left = record.references.checked_sub(1);
        let references = left.ok_or(StoreError::Corrupt { what: "how many images use a chunk" })?;
        self.chunks.insert(place, ChunkRecord { references, ..record }.encode().as_slice())?;
        Ok(())
    }

    /// Takes all chunks of a blob out. Errors: one that an image uses.
    fn drop_chunks(&mut self, number: u32, blob: &Blob) -> Result<(), StoreError> {
        let all = place(number, 0)..=place(number, u32::MAX);
        let mut keys = Vec::new();
        for entry in self.chunks.range(all.clone())? {
            let (place, record) = entry?;
            let record = ChunkRecord::decode(parts(place.value()), record.value())?;
            if record.references > 0 {
                return Err(StoreError::Corrupt { what: "how many images have a blob" });
            }
            keys.push(digest_key(blob.digester as u32, &record.chunk.digest, place.value()));
        }
        for key in &keys {
            self.digests.remove(key)?;
        }
        self.chunks.retain_in(all, |_, _| false)?;
        Ok(())
    }
}
