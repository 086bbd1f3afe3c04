//! `nydus-image inspect`: questions about one image, typed at a prompt or given as one request.
//!
//! Programs read `stats`, `blobs` and `prefetch` as JSON in request mode, so their shape is fixed; all else is for people.
//! Answers come from the bootstrap alone, no blob is read.

use crate::check::{feature_names, full_path};
use crate::open::Image;
use rafs_format::check::Visit;
use rafs_format::{Blob, Bootstrap, Chunk, ChunkIndex, DirEntry, FileType, FormatError, Inode, Nid};
use serde::Serialize;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, BufRead, Write};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;

/// What `help` prints, also after a request that does not exist.
pub const HELP: &str = "\
stats:        show what the superblock says
ls:           list the current directory
cd DIR:       change the current directory
stat NAME:    show one entry, `.` for the current directory
blobs:        show the data blobs
prefetch:     show the files of the prefetch table
chunk OFFSET: show the files that have a chunk at this compressed offset
icheck INO:   show the paths of an inode
help:         show this list
exit, q:      leave
";

/// Why a request was not answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum InspectError {
    #[error("unsupported inspect request `{request}`")]
    Unsupported { request: String },
    #[error("invalid arguments of inspect request `{request}`: {argument:?} is not a number")]
    NotANumber { request: String, argument: String },
    #[error("{name:?} does not exist")]
    NotFound { name: String },
    #[error("{name} is not a directory")]
    NotADirectory { name: String },
    #[error("the bootstrap is damaged")]
    Format(#[from] FormatError),
    #[error("cannot write the answer")]
    Output(#[from] io::Error),
    #[error("cannot write the answer as JSON")]
    Json(#[from] serde_json::Error),
}

/// One request, parsed.
#[derive(Debug, PartialEq, Eq)]
enum Request<'a> {
    Stats,
    Ls,
    Cd(&'a str),
    Stat(&'a str),
    Blobs,
    Prefetch,
    Chunk(u64),
    Icheck(u64),
    Help,
    Exit,
}

impl<'a> Request<'a> {
    /// Parses one line. An empty line asks for nothing and is `None`.
    fn parse(line: &'a str) -> Result<Option<Self>, InspectError> {
        let line = line.trim();
        let (word, argument) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let argument = argument.trim();
        Ok(Some(match (word, argument.is_empty()) {
            ("", _) => return Ok(None),
            ("stats", true) => Self::Stats,
            ("ls", true) => Self::Ls,
            ("blobs", true) => Self::Blobs,
            ("prefetch", true) => Self::Prefetch,
            ("help", true) => Self::Help,
            ("exit" | "q", true) => Self::Exit,
            ("cd", false) => Self::Cd(argument),
            ("stat", false) => Self::Stat(argument),
            ("chunk", false) => Self::Chunk(number(line, argument)?),
            ("icheck", false) => Self::Icheck(number(line, argument)?),
            _ => return Err(InspectError::Unsupported { request: line.to_owned() }),
        }))
    }
}

/// A decimal number, or a hexadecimal one behind `0x`.
fn number(request: &str, argument: &str) -> Result<u64, InspectError> {
    let parsed = match argument.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => argument.parse(),
    };
    parsed
        .map_err(|_| InspectError::NotANumber { request: request.to_owned(), argument: argument.to_owned() })
}

/// Answers one request (`-R`): JSON for `stats`, `blobs` and `prefetch`, text and then `null` for the others.
pub fn answer(image: &Image, request: &str, out: &mut dyn Write) -> Result<(), InspectError> {
    let parsed = Request::parse(request);
    if let Err(InspectError::Unsupported { request }) = &parsed {
        writeln!(out, "Unsupported request: {request}")?;
    }
    if matches!(parsed, Err(InspectError::Unsupported { .. }) | Ok(Some(Request::Help))) {
        out.write_all(HELP.as_bytes())?;
    }
    let mut session = Session::new(image)?;
    match parsed? {
        Some(Request::Stats) => json(&Stats { inodes_count: image.bootstrap().superblock().inodes }, out),
        Some(Request::Blobs) => json(&blobs_json(image), out),
        Some(Request::Prefetch) => json(&session.prefetch()?, out),
        Some(Request::Help) => Err(InspectError::Unsupported { request: request.trim().to_owned() }),
        None | Some(Request::Exit) => Ok(writeln!(out, "null")?),
        Some(other) => {
            session.run(&other, out)?;
            Ok(writeln!(out, "null")?)
        }
    }
}

/// Answers requests line by line until `exit`, `q` or the end of `input`. A request that fails is told and forgotten.
pub fn interactive(image: &Image, input: &mut dyn BufRead, out: &mut dyn Write) -> Result<(), InspectError> {
    let mut session = Session::new(image)?;
    let mut line = Vec::new();
    loop {
        write!(out, "Inspecting RAFS :> ")?;
        out.flush()?;
        line.clear();
        if input.read_until(b'\n', &mut line)? == 0 {
            return Ok(writeln!(out)?);
        }
        let text = String::from_utf8_lossy(&line);
        let done = match Request::parse(&text) {
            Ok(None) => Ok(()),
            Ok(Some(Request::Exit)) => return Ok(()),
            Ok(Some(request)) => session.run(&request, out),
            Err(error) => {
                out.write_all(HELP.as_bytes())?;
                Err(error)
            }
        };
        match done {
            Err(InspectError::Output(error)) => return Err(error.into()),
            Err(error) => writeln!(out, "{}", crate::chain(&error))?,
            Ok(()) => {}
        }
    }
}

/// Writes `value` as compact JSON and ends the line.
fn json<T: Serialize>(value: &T, out: &mut dyn Write) -> Result<(), InspectError> {
    serde_json::to_writer(&mut *out, value)?;
    Ok(writeln!(out)?)
}

/// Answer to `stats` for programs.
#[derive(Serialize)]
struct Stats {
    inodes_count: u64,
}

/// Answer to `blobs` for programs: keys in alphabetical order.
#[derive(Serialize)]
struct BlobJson<'a> {
    blob_id: &'a str,
    compressed_size: u64,
    decompressed_size: u64,
    readahead_offset: u64,
    readahead_size: u64,
}

/// The answer to `blobs`.
fn blobs_json<'a>(image: &'a Image) -> Vec<BlobJson<'a>> {
    let one = |(n, blob): (usize, &'a Blob)| {
        let readahead = image.bootstrap().readahead(n);
        BlobJson {
            blob_id: blob.id.as_str(),
            compressed_size: blob.compressed_size,
            decompressed_size: blob.uncompressed_size,
            readahead_offset: readahead.start,
            readahead_size: readahead.end - readahead.start,
        }
    };
    (0..).zip(image.blobs()).map(one).collect()
}

/// One entry of the answer to `prefetch`: an inode and all its paths, those of directories with a `/` at the end.
#[derive(Serialize)]
struct Prefetched {
    inode: u64,
    path: Vec<String>,
}

/// Where the user is.
struct Session<'a> {
    image: &'a Image,
    bootstrap: &'a Bootstrap<Vec<u8>>,
    /// Directories from the root to the current one.
    at: Vec<Inode>,
}

impl<'a> Session<'a> {
    /// At the root.
    fn new(image: &'a Image) -> Result<Self, FormatError> {
        let bootstrap = image.bootstrap();
        let root = bootstrap.inode(bootstrap.superblock().root)?;
        Ok(Self { image, bootstrap, at: vec![root] })
    }

    /// Answers one request as text.
    fn run(&mut self, request: &Request<'_>, out: &mut dyn Write) -> Result<(), InspectError> {
        match request {
            Request::Stats => self.stats(out),
            Request::Ls => self.ls(out),
            Request::Cd(path) => self.cd(path),
            Request::Stat(path) => self.stat(path, out),
            Request::Blobs => self.image.blobs().iter().zip(0..).try_for_each(|(blob, n)| {
                let stored = self.bootstrap.blobs().get(n).unwrap_or(blob);
                let readahead = self.bootstrap.readahead(n);
                let mapped = self.bootstrap.mapped_block(n);
                Ok(print_blob(n, (blob, stored), mapped, &readahead, out)?)
            }),
            Request::Prefetch => self.print_prefetch(out),
            Request::Chunk(offset) => self.chunk(*offset, out),
            Request::Icheck(inode) => self.icheck(Nid(*inode), out),
            Request::Help => Ok(out.write_all(HELP.as_bytes())?),
            Request::Exit => Ok(()),
        }
    }

    /// The superblock.
    fn stats(&self, out: &mut dyn Write) -> Result<(), InspectError> {
        let sb = self.bootstrap.superblock();
        let table = self.bootstrap.blobs().len();
        let lines = [
            ("Version", sb.version.name().to_owned()),
            ("Inodes Count", sb.inodes.to_string()),
            ("Chunk Size", format!("{}KB", sb.chunk_size / 1024)),
            ("Root Inode", sb.root.to_string()),
            ("Flags", format!("{:?}", sb.flags)),
            ("Blob table offset", format!("{:#x}", sb.blob_table_offset)),
            ("Blob table blobs", table.to_string()),
            ("Prefetch table offset", format!("{:#x}", sb.prefetch_table_offset)),
            ("Prefetch table entries", format!("{:#x}", sb.prefetch_table_entries)),
            ("Chunk table offset", format!("{:#x}", sb.chunk_table_offset)),
            ("Chunk table records", format!("{:#x}", sb.chunk_table_records)),
        ];
        for (name, value) in lines {
            writeln!(out, "    {:<24}{value}", format!("{name}:"))?;
        }
        Ok(())
    }

    /// The current directory.
    fn here(&self) -> Result<Inode, FormatError> {
        match self.at.last() {
            Some(inode) => Ok(*inode),
            None => self.bootstrap.inode(self.bootstrap.superblock().root),
        }
    }

    /// Children of the current directory.
    fn ls(&self, out: &mut dyn Write) -> Result<(), InspectError> {
        for entry in self.bootstrap.dir_entries(&self.here()?, 0)? {
            let DirEntry { name, nid, .. } = entry?;
            if matches!(name, b"." | b"..") {
                continue;
            }
            let kind = match self.bootstrap.inode(nid)?.file_type {
                FileType::Regular => '-',
                FileType::Directory => 'd',
                FileType::Symlink => 'l',
                _ => ' ',
            };
            writeln!(out, "{kind}    {:<8} {:?}", nid.to_string(), OsStr::from_bytes(name))?;
        }
        Ok(())
    }

    /// Follows `path` from the current directory, or from the root when it starts there: all inodes on the way.
    fn walk(&self, path: &str) -> Result<Vec<Inode>, InspectError> {
        let mut at = self.at.clone();
        if path.starts_with('/') {
            at.truncate(1);
        }
        for name in path.split('/').filter(|name| !name.is_empty() && *name != ".") {
            if name == ".." {
                at.truncate(at.len().saturating_sub(1).max(1));
                continue;
            }
            let dir = at.last().copied().filter(|inode| inode.file_type == FileType::Directory);
            let dir = dir.ok_or_else(|| InspectError::NotADirectory { name: path.to_owned() })?;
            let entry = self.bootstrap.lookup(&dir, name.as_bytes())?;
            let entry = entry.ok_or_else(|| InspectError::NotFound { name: path.to_owned() })?;
            at.push(self.bootstrap.inode(entry.nid)?);
        }
        Ok(at)
    }

    /// Changes the current directory.
    fn cd(&mut self, path: &str) -> Result<(), InspectError> {
        let at = self.walk(path)?;
        if at.last().is_none_or(|inode| inode.file_type != FileType::Directory) {
            return Err(InspectError::NotADirectory { name: path.to_owned() });
        }
        self.at = at;
        Ok(())
    }

    /// Shows the entry at `path`.
    fn stat(&self, path: &str, out: &mut dyn Write) -> Result<(), InspectError> {
        let at = self.walk(path)?;
        let parent = at.len().checked_sub(2).and_then(|n| at.get(n)).or(at.first());
        match (at.last(), parent) {
            (Some(inode), Some(parent)) => self.print_stat(path.as_bytes(), inode, parent.nid, out),
            _ => Err(InspectError::NotFound { name: path.to_owned() }),
        }
    }

    /// Prints an inode and its chunks.
    fn print_stat(
        &self,
        name: &[u8],
        inode: &Inode,
        parent: Nid,
        out: &mut dyn Write,
    ) -> Result<(), InspectError> {
        let lines = [
            ("Inode Number", inode.nid.to_string()),
            ("Name", format!("{:?}", OsStr::from_bytes(name))),
            ("Size", inode.size.to_string()),
            ("Parent", parent.to_string()),
            ("Mode", format!("{:#x}", inode.mode)),
            ("Permissions", format!("{:o}", inode.mode & 0o7777)),
            ("Nlink", inode.nlink.to_string()),
            ("UID", inode.uid.to_string()),
            ("GID", inode.gid.to_string()),
            ("Mtime", inode.mtime_secs.to_string()),
            ("MtimeNsec", inode.mtime_nanos.to_string()),
            ("Blocks", inode.size.div_ceil(512).to_string()),
        ];
        for (name, value) in lines {
            writeln!(out, "    {:<24}{value}", format!("{name}:"))?;
        }
        if inode.file_type == FileType::Regular {
            self.print_chunks(inode, out)?;
        }
        Ok(())
    }

    /// Prints the chunks of a file.
    fn print_chunks(&self, file: &Inode, out: &mut dyn Write) -> Result<(), InspectError> {
        let index = ChunkIndex::build(self.bootstrap)?;
        writeln!(out, "    Chunk list:")?;
        for n in 0..self.bootstrap.chunk_count(file) {
            let chunk = index.chunk(self.bootstrap, file, n)?;
            self.print_chunk(n, &chunk, out)?;
        }
        Ok(())
    }

    /// Prints the `n`-th chunk of a file.
    fn print_chunk(&self, n: u64, chunk: &Chunk, out: &mut dyn Write) -> Result<(), InspectError> {
        let blob = usize::try_from(chunk.blob).ok().and_then(|blob| self.image.blobs().get(blob));
        writeln!(
            out,
            "        {n}: file offset: {}, chunk index: {}, compressed size: {}, decompressed size: {}, \
             compressed offset: {}, decompressed offset: {}, blob id: {}, chunk id: {}",
            n.saturating_mul(u64::from(self.bootstrap.superblock().chunk_size)),
            chunk.index,
            chunk.compressed_size,
            chunk.uncompressed_size,
            chunk.compressed_offset,
            chunk.uncompressed_offset,
            blob.map_or("unknown", |blob| blob.id.as_str()),
            chunk.digest,
        )?;
        Ok(())
    }

    /// Inodes of the prefetch table with all their paths, in the table's order.
    fn prefetch(&self) -> Result<Vec<Prefetched>, InspectError> {
        let mut paths: HashMap<Nid, Vec<String>> =
            self.bootstrap.prefetch().map(|nid| (nid, Vec::new())).collect();
        if !paths.is_empty() {
            self.visit(&mut |visit| {
                if let Some(paths) = paths.get_mut(&visit.inode.nid) {
                    let mut path = full_path(visit.path);
                    if visit.inode.file_type == FileType::Directory && path != b"/" {
                        path.push(b'/');
                    }
                    paths.push(String::from_utf8_lossy(&path).into_owned());
                }
                Ok(())
            })?;
        }
        let of = |nid: Nid| Prefetched { inode: nid.0, path: paths.get(&nid).cloned().unwrap_or_default() };
        Ok(self.bootstrap.prefetch().map(of).collect())
    }

    /// The prefetch table as text.
    fn print_prefetch(&self, out: &mut dyn Write) -> Result<(), InspectError> {
        let all = self.prefetch()?;
        writeln!(out, "Total Prefetching Files: {}", all.len())?;
        for Prefetched { inode, path } in all {
            writeln!(out, "Inode Number: {inode:<8} Path: {path:?}")?;
        }
        Ok(())
    }

    /// Walks the whole tree.
    fn visit(
        &self,
        each: &mut dyn FnMut(&Visit<'_>) -> Result<(), InspectError>,
    ) -> Result<(), InspectError> {
        rafs_format::check::check(self.bootstrap, each).map(|_| ())
    }

    /// Files with a chunk at `offset` of any blob.
    fn chunk(&self, offset: u64, out: &mut dyn Write) -> Result<(), InspectError> {
        let index = ChunkIndex::build(self.bootstrap)?;
        self.visit(&mut |visit| {
            if visit.inode.file_type != FileType::Regular {
                return Ok(());
            }
            for n in 0..self.bootstrap.chunk_count(&visit.inode) {
                let chunk = index.chunk(self.bootstrap, &visit.inode, n)?;
                if chunk.compressed_offset == offset {
                    writeln!(out, "File: {:?}", OsStr::from_bytes(&full_path(visit.path)))?;
                    self.print_chunk(n, &chunk, out)?;
                }
            }
            Ok(())
        })
    }

    /// All paths of an inode.
    fn icheck(&self, nid: Nid, out: &mut dyn Write) -> Result<(), InspectError> {
        let mut parents: Vec<Nid> = Vec::new();
        self.visit(&mut |visit| {
            let depth = visit.path.len();
            parents.truncate(depth);
            let parent = parents.last().copied().unwrap_or(visit.inode.nid);
            parents.push(visit.inode.nid);
            if visit.inode.nid != nid {
                return Ok(());
            }
            let path = full_path(visit.path);
            writeln!(out, "Path: {:?}", OsStr::from_bytes(&path))?;
            self.print_stat(visit.path.last().copied().unwrap_or(b"/"), &visit.inode, parent, out)
        })
    }
}

/// Prints one blob. `stored` is the same with the id that the bootstrap holds, `mapped` its first block in a flat image.
fn print_blob(
    n: usize,
    (blob, stored): (&Blob, &Blob),
    mapped: Option<u32>,
    readahead: &Range<u64>,
    out: &mut dyn Write,
) -> io::Result<()> {
    let lines = [
        ("Blob Index", n.to_string()),
        ("Blob ID", blob.id.to_string()),
        ("Raw Blob ID", stored.id.to_string()),
        ("Blob Size", blob.compressed_size.to_string()),
        ("Compressed Data Size", blob.data_end().to_string()),
        ("Uncompressed Size", blob.uncompressed_size.to_string()),
        ("Mapped Block Address", mapped.map_or_else(|| "none".to_owned(), |block| block.to_string())),
        ("Features", feature_names(blob.features)),
        ("Compressor", blob.compressor.name().to_owned()),
        ("Digester", blob.digester.name().to_owned()),
        ("Cipher", format!("{:?}", blob.cipher)),
        ("Chunk Size", format!("{:#x}", blob.chunk_size)),
        ("Chunk Count", blob.chunk_count.to_string()),
        ("Prefetch Data Offset", readahead.start.to_string()),
        ("Prefetch Data Size", (readahead.end - readahead.start).to_string()),
        ("Meta Compressor", blob.meta.compressor.name().to_owned()),
        ("Meta Offset", blob.meta.compressed_offset.to_string()),
        ("Meta Compressed Size", blob.meta.compressed_size.to_string()),
        ("Meta Uncompressed Size", blob.meta.uncompressed_size.to_string()),
        ("TOC Digest", blob.toc_digest.to_string()),
        ("TOC Size", blob.toc_size.to_string()),
        ("RAFS Blob Digest", blob.meta_digest.to_string()),
        ("RAFS Blob Size", blob.meta_size.to_string()),
    ];
    for (name, value) in lines {
        writeln!(out, "{:<26}{value}", format!("{name}:"))?;
    }
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_parsed() {
        let parse = |line| Request::parse(line).map_err(|error| error.to_string());
        assert_eq!(parse(" blobs\n"), Ok(Some(Request::Blobs)));
        assert_eq!(parse("stat a b"), Ok(Some(Request::Stat("a b"))));
        assert_eq!(parse("chunk 0x10"), Ok(Some(Request::Chunk(16))));
        assert_eq!(parse("icheck 128"), Ok(Some(Request::Icheck(128))));
        assert_eq!(parse("  "), Ok(None));
        assert_eq!(parse("q"), Ok(Some(Request::Exit)));
        assert_eq!(parse("blobs x"), Err("unsupported inspect request `blobs x`".into()));
        assert_eq!(parse("nothing"), Err("unsupported inspect request `nothing`".into()));
        assert!(parse("icheck x").unwrap_err().starts_with("invalid arguments"));
    }
}
