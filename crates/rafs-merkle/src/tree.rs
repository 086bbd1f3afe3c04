//! The canonical tree digest: one digest that says what a whole file system is, whatever layout stores it.
//!
//! Every inode has a *node digest* over all that users see of it: mode, owner, perhaps time, extended attributes, and a body. The body
//! of a file are its size and the digests of its chunks; that of a directory is a binary Merkle tree over its entries, each a name and a
//! node digest, so that one path is proven by a handful of digests ([`crate::proof`]). The digest of the root directory is the digest of the
//! tree. docs/format.md, "Tree digest", has every byte that is hashed.
//!
//! Knows nothing of images: whoever walks one feeds [`TreeHasher`], children in byte order of their names. Memory is that of the
//! directories open at the time, some digests and the attributes of each; a file of any length is hashed as its chunks come.

use rafs_format::xattr::Xattr;
use rafs_format::{Digest, DigestAlgorithm, FileType, FormatError, Inode};

/// First bytes of what is hashed for a node; the digit is the version of the tree digest.
const MAGIC: &[u8; 4] = b"RTD1";
/// First bytes of what else is hashed.
const ENTRY: u8 = 0;
const INNER: u8 = 1;
const PATH: u8 = 2;
/// Bytes gathered before they are hashed: one call for a short input costs half of what a hasher that is kept does.
const GATHERED: usize = 64 << 10;

/// Whether times are part of a tree. The two digests of one tree have nothing in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// All but modification times: what two builds of one source agree on.
    Content,
    /// Everything.
    Full,
}

/// What users see of an inode besides name, extended attributes and body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Full `st_mode`; its type bits say which body the node has.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time, seconds since the epoch. Not looked at in [`Scope::Content`].
    pub mtime_secs: i64,
    /// Modification time, nanoseconds. Not looked at in [`Scope::Content`].
    pub mtime_nanos: u32,
}

impl From<&Inode> for Attributes {
    fn from(inode: &Inode) -> Self {
        let Inode { mode, uid, gid, mtime_secs, mtime_nanos, .. } = *inode;
        Self { mode, uid, gid, mtime_secs, mtime_nanos }
    }
}

/// Computes node digests, one after the other, keeping its working memory.
///
/// ```
/// use rafs_merkle::tree::{Attributes, NodeHasher, Scope};
/// let attributes = Attributes { mode: 0o120_777, uid: 0, gid: 0, mtime_secs: 0, mtime_nanos: 0 };
/// let mut hasher = NodeHasher::new(Scope::Content);
/// let link = hasher.begin(&attributes, &mut []).symlink(b"target");
/// assert_ne!(link, hasher.begin(&attributes, &mut []).symlink(b"other"));
/// ```
#[derive(Debug)]
pub struct NodeHasher {
    scope: Scope,
    input: Vec<u8>,
    /// What was hashed of an input longer than [`GATHERED`].
    long: Option<Box<blake3::Hasher>>,
}

impl NodeHasher {
    /// A hasher of nodes with or without times.
    pub fn new(scope: Scope) -> Self {
        Self { scope, input: Vec::new(), long: None }
    }

    /// Starts a node. `xattrs` may be in any order; they are sorted here.
    pub fn begin(&mut self, attributes: &Attributes, xattrs: &mut [Xattr<'_>]) -> NodeInput<'_> {
        self.input.clear();
        self.long = None;
        push_head(&mut self.input, self.scope, attributes, xattrs);
        NodeInput(self)
    }

    fn finish(&mut self) -> Digest {
        match self.long.take() {
            None => hash(&self.input),
            Some(mut long) => Digest(*long.update(&self.input).finalize().as_bytes()),
        }
    }
}

/// Appends what all kinds of nodes start with.
fn push_head(input: &mut Vec<u8>, scope: Scope, attributes: &Attributes, xattrs: &mut [Xattr<'_>]) {
    input.extend_from_slice(MAGIC);
    input.push(u8::from(scope == Scope::Full));
    input.extend_from_slice(&attributes.mode.to_le_bytes());
    input.extend_from_slice(&attributes.uid.to_le_bytes());
    input.extend_from_slice(&attributes.gid.to_le_bytes());
    if scope == Scope::Full {
        input.extend_from_slice(&attributes.mtime_secs.to_le_bytes());
        input.extend_from_slice(&attributes.mtime_nanos.to_le_bytes());
    }
    input.extend_from_slice(&(xattrs.len() as u64).to_le_bytes());
    xattrs.sort_unstable_by(|a, b| full_name(a).cmp(full_name(b)).then_with(|| a.value.cmp(b.value)));
    for xattr in xattrs.iter() {
        input.extend_from_slice(&(xattr.name_len() as u64).to_le_bytes());
        input.extend_from_slice(xattr.prefix.as_bytes());
        input.extend_from_slice(xattr.suffix);
        push_counted(input, xattr.value);
    }
}

/// The full name of an attribute, byte by byte.
fn full_name<'a>(xattr: &Xattr<'a>) -> impl Iterator<Item = &'a u8> {
    xattr.prefix.as_bytes().iter().chain(xattr.suffix)
}

/// Appends a length, 8 bytes, and what has it.
fn push_counted(input: &mut Vec<u8>, bytes: &[u8]) {
    input.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    input.extend_from_slice(bytes);
}

/// Appends the body of a directory.
fn push_entries(input: &mut Vec<u8>, count: u64, root: &Digest) {
    input.extend_from_slice(&count.to_le_bytes());
    input.extend_from_slice(&root.0);
}

fn hash(input: &[u8]) -> Digest {
    Digest(*blake3::hash(input).as_bytes())
}

/// A node of which all but the body is known. The body given must be the one of the type in its mode.
#[derive(Debug)]
pub struct NodeInput<'h>(&'h mut NodeHasher);

impl<'h> NodeInput<'h> {
    /// A regular file of `size` bytes in `chunks` chunks, which follow.
    pub fn file(self, size: u64, chunks: u64) -> FileInput<'h> {
        self.0.input.extend_from_slice(&size.to_le_bytes());
        self.0.input.extend_from_slice(&chunks.to_le_bytes());
        FileInput(self.0)
    }

    /// A symbolic link.
    pub fn symlink(self, target: &[u8]) -> Digest {
        push_counted(&mut self.0.input, target);
        self.0.finish()
    }

    /// A character or block device.
    pub fn device(self, major: u32, minor: u32) -> Digest {
        self.0.input.extend_from_slice(&major.to_le_bytes());
        self.0.input.extend_from_slice(&minor.to_le_bytes());
        self.0.finish()
    }

    /// A FIFO or socket, which has no body.
    pub fn bodiless(self) -> Digest {
        self.0.finish()
    }

    /// A directory with these entries.
    pub fn directory(self, entries: &Entries) -> Digest {
        push_entries(&mut self.0.input, entries.count, &entries.root());
        self.0.finish()
    }
}

/// A regular file whose chunks are to come, in order.
#[derive(Debug)]
pub struct FileInput<'h>(&'h mut NodeHasher);

impl FileInput<'_> {
    /// The next chunk: `digest` by `algorithm` of its plain bytes.
    pub fn chunk(&mut self, algorithm: DigestAlgorithm, digest: &Digest) {
        let input = &mut self.0.input;
        input.push(match algorithm {
            DigestAlgorithm::Blake3 => 0,
            DigestAlgorithm::Sha256 => 1,
        });
        input.extend_from_slice(&digest.0);
        if input.len() >= GATHERED {
            self.0.long.get_or_insert_default().update(input);
            input.clear();
        }
    }

    /// The node digest, once all chunks were given.
    pub fn finish(self) -> Digest {
        self.0.finish()
    }
}

/// The entries of a directory, gathered one by one: the right edge of a binary Merkle tree, one digest for each bit of their number.
#[derive(Debug, Clone, Default)]
pub struct Entries {
    count: u64,
    /// Roots of the complete subtrees, largest first: one for each bit that is set in `count`.
    peaks: Vec<Digest>,
    last: Vec<u8>,
}

impl Entries {
    /// Adds an entry. `link` is the id of the first path of its inode where this is a further one. Errors: a name not behind the one before.
    pub fn push(&mut self, name: &[u8], node: &Digest, link: Option<&PathId>) -> Result<(), FormatError> {
        if self.count > 0 && self.last.as_slice() >= name {
            let name = String::from_utf8_lossy(name).into_owned();
            return Err(FormatError::Name { what: "entry", name, problem: "is not in byte order" });
        }
        self.last.clear();
        self.last.extend_from_slice(name);
        let mut digest = entry(name, node, link);
        let mut full = self.count;
        while let Some(left) = self.peaks.pop_if(|_| full & 1 == 1) {
            digest = inner(&left, &digest);
            full >>= 1;
        }
        self.peaks.push(digest);
        self.count += 1;
        Ok(())
    }

    /// Entries so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Root of the tree over the entries; zeros without any.
    pub fn root(&self) -> Digest {
        let from_right = self.peaks.iter().rev().copied();
        from_right.reduce(|right, left| inner(&left, &right)).unwrap_or(Digest([0; 32]))
    }
}

/// Digest of one entry: a leaf of the tree over a directory's entries.
pub fn entry(name: &[u8], node: &Digest, link: Option<&PathId>) -> Digest {
    // On the stack, and in one call: this is done for every name of an image.
    let mut input = [0; 1 + 32 + 1 + 32 + 8 + 255];
    let mut end = 0;
    let mut push = |bytes: &[u8]| {
        if let Some(room) = input.get_mut(end..end + bytes.len()) {
            room.copy_from_slice(bytes);
        }
        end += bytes.len();
    };
    push(&[ENTRY]);
    push(&node.0);
    push(&[u8::from(link.is_some())]);
    if let Some(PathId(Digest(id))) = link {
        push(id);
    }
    push(&(name.len() as u64).to_le_bytes());
    push(name);
    match input.get(..end) {
        Some(input) => hash(input),
        None => long_entry(name, node, link),
    }
}

/// The same for names that no file system has.
fn long_entry(name: &[u8], node: &Digest, link: Option<&PathId>) -> Digest {
    let mut input = vec![ENTRY];
    input.extend_from_slice(&node.0);
    input.push(u8::from(link.is_some()));
    input.extend_from_slice(link.map_or(&[], |PathId(Digest(id))| id.as_slice()));
    push_counted(&mut input, name);
    hash(&input)
}

/// Digest of two subtrees of entries, the left one complete.
pub(crate) fn inner(left: &Digest, right: &Digest) -> Digest {
    let mut input = [INNER; 65];
    let (_, places) = input.split_at_mut(1);
    let (first, second) = places.split_at_mut(32);
    first.copy_from_slice(&left.0);
    second.copy_from_slice(&right.0);
    hash(&input)
}

/// Node digest of a directory of which the root over its entries is known.
pub(crate) fn directory(
    scope: Scope,
    attributes: &Attributes,
    xattrs: &mut [Xattr<'_>],
    count: u64,
    root: &Digest,
) -> Digest {
    let mut input = Vec::new();
    push_head(&mut input, scope, attributes, xattrs);
    push_entries(&mut input, count, root);
    hash(&input)
}

/// Stands for a path: what a further name of an inode says about the first one. 32 bytes however long the path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PathId(pub Digest);

impl PathId {
    /// The root.
    pub const ROOT: Self = Self(Digest([0; 32]));

    /// The path of `name` in the directory that this stands for.
    pub fn join(&self, name: &[u8]) -> Self {
        let mut input = Vec::with_capacity(33 + name.len());
        input.push(PATH);
        input.extend_from_slice(&self.0.0);
        input.extend_from_slice(name);
        Self(hash(&input))
    }
}

/// Computes the digest of a tree that is walked depth first: directories are opened and closed, everything else is added.
///
/// ```
/// use rafs_merkle::tree::{Attributes, Scope, TreeHasher};
/// let directory = Attributes { mode: 0o040_755, uid: 0, gid: 0, mtime_secs: 0, mtime_nanos: 0 };
/// let fifo = Attributes { mode: 0o010_644, ..directory };
/// let mut hasher = TreeHasher::new(Scope::Full);
/// hasher.open(b"", &directory, &mut []);
/// let node = hasher.nodes().begin(&fifo, &mut []).bodiless();
/// hasher.add(b"pipe", &node, None)?;
/// let digest = hasher.close()?;
/// assert!(digest.is_some());
/// # Ok::<(), rafs_format::FormatError>(())
/// ```
#[derive(Debug)]
pub struct TreeHasher {
    nodes: NodeHasher,
    open: Vec<Open>,
}

/// A directory whose entries are coming.
#[derive(Debug)]
struct Open {
    name: Vec<u8>,
    /// What [`push_head`] made of it.
    head: Vec<u8>,
    entries: Entries,
    /// Computed when first asked for: most directories have no hard link below them.
    id: Option<PathId>,
}

impl TreeHasher {
    /// Nothing walked yet.
    pub fn new(scope: Scope) -> Self {
        Self { nodes: NodeHasher::new(scope), open: Vec::new() }
    }

    /// For the digests of what is not a directory.
    pub fn nodes(&mut self) -> &mut NodeHasher {
        &mut self.nodes
    }

    /// Directories that are open: the depth of what is added next, the root having depth 0.
    pub fn depth(&self) -> usize {
        self.open.len()
    }

    /// Opens a directory in the one opened last; the first is the root, whose name does not count.
    pub fn open(&mut self, name: &[u8], attributes: &Attributes, xattrs: &mut [Xattr<'_>]) {
        let mut head = Vec::new();
        push_head(&mut head, self.nodes.scope, attributes, xattrs);
        let id = self.open.is_empty().then_some(PathId::ROOT);
        self.open.push(Open { name: name.to_vec(), head, entries: Entries::default(), id });
    }

    /// Adds an entry that is no directory to the directory opened last. `link`: see [`Entries::push`], also for errors. Nothing is
    /// added where no directory is open.
    pub fn add(&mut self, name: &[u8], node: &Digest, link: Option<&PathId>) -> Result<(), FormatError> {
        self.open.last_mut().map_or(Ok(()), |dir| dir.entries.push(name, node, link))
    }

    /// Closes the directory opened last and adds it to its parent. Returns its node digest, `None` where none is open. Errors: of [`Entries::push`].
    pub fn close(&mut self) -> Result<Option<Digest>, FormatError> {
        let Some(Open { name, mut head, entries, .. }) = self.open.pop() else { return Ok(None) };
        push_entries(&mut head, entries.count, &entries.root());
        let digest = hash(&head);
        self.add(&name, &digest, None)?;
        Ok(Some(digest))
    }

    /// Id of `name` in the directory opened last. Ids of directories are computed once.
    pub fn path_id(&mut self, name: &[u8]) -> PathId {
        let mut id = PathId::ROOT;
        for dir in &mut self.open {
            id = *dir.id.get_or_insert_with(|| id.join(&dir.name));
        }
        id.join(name)
    }
}

/// Is this the mode of a directory?
pub(crate) fn is_directory(attributes: &Attributes) -> bool {
    FileType::from_mode(attributes.mode) == Some(FileType::Directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIRECTORY: Attributes =
        Attributes { mode: 0o040_755, uid: 1, gid: 2, mtime_secs: -1, mtime_nanos: 5 };

    fn leaves(count: u8) -> Vec<Digest> {
        (0..count).map(|n| entry(&[n], &Digest([n; 32]), None)).collect()
    }

    /// The tree of RFC 6962, 2.1: the left side is the largest power of two below the number of leaves.
    fn model(leaves: &[Digest]) -> Digest {
        match leaves {
            [] => Digest([0; 32]),
            [one] => *one,
            more => {
                let left =
                    (1..).map(|bit| 1 << (bit - 1)).take_while(|&left| left < more.len()).last().unwrap();
                inner(&model(&more[..left]), &model(&more[left..]))
            }
        }
    }

    #[test]
    fn the_tree_of_entries_is_the_one_of_rfc_6962() {
        let mut entries = Entries::default();
        for count in 0..70 {
            assert_eq!(entries.root(), model(&leaves(count)), "{count}");
            entries.push(&[count], &Digest([count; 32]), None).unwrap();
        }
    }

    #[test]
    fn entries_out_of_order_are_refused() {
        let mut entries = Entries::default();
        entries.push(b"b", &Digest([0; 32]), None).unwrap();
        for name in [b"b".as_slice(), b"a", b""] {
            assert!(entries.push(name, &Digest([0; 32]), None).is_err());
        }
        assert_eq!(entries.count(), 1);
    }

    #[test]
    fn names_of_any_length_are_hashed_alike() {
        let (node, link) = (Digest([1; 32]), PathId(Digest([2; 32])));
        for len in [0, 1, 254, 255] {
            for link in [None, Some(&link)] {
                let name = vec![b'n'; len];
                assert_eq!(entry(&name, &node, link), long_entry(&name, &node, link));
            }
        }
        assert_ne!(entry(&[b'n'; 400], &node, None), entry(&[b'n'; 401], &node, None));
    }

    #[test]
    fn long_files_are_hashed_as_they_come() {
        let file = Attributes { mode: 0o100_644, ..DIRECTORY };
        let mut hasher = NodeHasher::new(Scope::Full);
        let mut input = hasher.begin(&file, &mut []).file(5_000 << 20, 5_000);
        let mut expected = Vec::new();
        push_head(&mut expected, Scope::Full, &file, &mut []);
        expected.extend_from_slice(&(5_000u64 << 20).to_le_bytes());
        expected.extend_from_slice(&5_000u64.to_le_bytes());
        for n in 0..5_000u16 {
            let digest = hash(&n.to_le_bytes());
            input.chunk(DigestAlgorithm::Sha256, &digest);
            expected.push(1);
            expected.extend_from_slice(&digest.0);
        }
        assert_eq!(input.finish(), hash(&expected));
        // And nothing of it is left for the next.
        let fifo = Attributes { mode: 0o010_644, ..DIRECTORY };
        let again = NodeHasher::new(Scope::Full).begin(&fifo, &mut []).bodiless();
        assert_eq!(hasher.begin(&fifo, &mut []).bodiless(), again);
    }

    #[test]
    fn ids_of_paths_are_those_of_their_names() {
        let mut hasher = TreeHasher::new(Scope::Content);
        hasher.open(b"", &DIRECTORY, &mut []);
        hasher.open(b"a", &DIRECTORY, &mut []);
        hasher.open(b"b", &DIRECTORY, &mut []);
        let id = PathId::ROOT.join(b"a").join(b"b").join(b"c");
        assert_eq!(hasher.path_id(b"c"), id);
        assert_eq!(hasher.path_id(b"c"), id);
        hasher.close().unwrap();
        assert_eq!(hasher.path_id(b"c"), PathId::ROOT.join(b"a").join(b"c"));
        assert_ne!(PathId::ROOT.join(b"a").join(b"b"), PathId::ROOT.join(b"ab"));
    }
}
