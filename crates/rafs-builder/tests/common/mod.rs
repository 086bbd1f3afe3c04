//! What the tests of this crate share.
#![allow(dead_code, unused_imports, reason = "each test program uses a part")]

pub mod model;

use rafs_format::toc::{self, TocEntry, section};
use rafs_format::{Bootstrap, FormatError};
pub use testkit::tree::*;

/// First byte of every inode in the tree of a bootstrap, hard links several times.
pub fn inode_places(bytes: &[u8]) -> Vec<usize> {
    let bootstrap = Bootstrap::parse(bytes).unwrap();
    let meta_start = bootstrap.superblock().meta_start;
    let mut places = Vec::new();
    rafs_format::check::check(&bootstrap, &mut |visit| {
        places.push(usize::try_from(visit.inode.nid.byte_offset(meta_start).unwrap()).unwrap());
        Ok::<_, FormatError>(())
    })
    .unwrap();
    places
}

/// The bytes of a bootstrap with the xattrs of each inode in order of names: in that of the reference builder they are random.
pub fn normal_xattrs(mut bytes: Vec<u8>) -> Vec<u8> {
    let bootstrap = Bootstrap::parse(bytes.clone()).unwrap();
    let mut areas = Vec::new();
    rafs_format::check::check(&bootstrap, &mut |visit| {
        let pairs = bootstrap
            .xattrs(&visit.inode)?
            .map(|xattr| xattr.map(|x| ([x.prefix.as_bytes(), x.suffix].concat(), x.value.to_vec())));
        let pairs: Vec<(Vec<u8>, Vec<u8>)> = pairs.collect::<Result<_, _>>()?;
        let pairs: Vec<(&[u8], &[u8])> = pairs.iter().map(|(n, v)| (n.as_slice(), v.as_slice())).collect();
        areas.push(rafs_format::xattr::encode(&pairs)?);
        Ok::<_, FormatError>(())
    })
    .unwrap();
    for (at, area) in inode_places(&bytes).into_iter().zip(areas) {
        bytes[at + 64..at + 64 + area.len()].copy_from_slice(&area);
    }
    bytes
}

/// The bytes of a bootstrap with xattrs in order of names and times in whole seconds.
pub fn normal(bytes: Vec<u8>) -> Vec<u8> {
    let mut bytes = normal_xattrs(bytes);
    for at in inode_places(&bytes) {
        bytes[at + 40..at + 44].fill(0);
    }
    bytes
}

/// Name, bytes and tar header of a section.
pub type Section = (String, Vec<u8>, Vec<u8>);

/// Sections by their tar headers.
pub fn sections(blob: &[u8]) -> Vec<Section> {
    let (mut found, mut end) = (Vec::new(), blob.len());
    while end > 0 {
        let header = tar::Header::from_byte_slice(&blob[end - 512..end]);
        let size = usize::try_from(header.entry_size().unwrap()).unwrap();
        let name = String::from_utf8(header.path_bytes().into_owned()).unwrap();
        let start = end - 512 - size;
        found.push((name, blob[start..end - 512].to_vec(), blob[end - 512..end].to_vec()));
        end = start;
    }
    found.reverse();
    found
}

/// Entries of the table of contents that is the last section.
pub fn contents(sections: &[Section]) -> Vec<TocEntry> {
    let last = sections.last().filter(|(name, ..)| name == section::TOC);
    last.map_or_else(Vec::new, |(_, table, _)| toc::entries(table).cloned().collect())
}

/// The plain bootstrap of a blob.
pub fn bootstrap_of(sections: &[Section]) -> Vec<u8> {
    let (_, stored, _) = sections.iter().find(|(name, ..)| name == section::BOOTSTRAP).unwrap();
    let contents = contents(sections);
    let Some(entry) = contents.iter().find(|entry| entry.name() == section::BOOTSTRAP.as_bytes()) else {
        return stored.clone();
    };
    let size = usize::try_from(entry.uncompressed_size.get()).unwrap();
    let plain = rafs_codec::Decoder::new().decode(entry.compressor().unwrap(), stored, size).unwrap();
    assert_eq!(sha256(&plain), hex::encode(entry.digest().0));
    plain
}
