//! Images to measure with: a tar that is generated and streamed into `nydus-image create`, never stored.
//!
//! Every file is different from every other, so that nothing is deduplicated, and the same in each run.

use std::io::{BufWriter, Write};
use std::process::{Command, Stdio};
use tests::{Place, program};

/// Files in each directory of an image of small files.
pub const FILES: usize = 1000;

/// Directories with files in them, `d000/f0000` and so on.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub dirs: usize,
    /// Files in each directory.
    pub files: usize,
    /// Bytes of each file; `None`: a hundred to a thousand, as it comes.
    pub size: Option<usize>,
}

impl Shape {
    /// `dirs` times a thousand small files.
    pub fn small(dirs: usize) -> Self {
        Self { dirs, files: FILES, size: None }
    }

    /// Four files of 128 MiB.
    pub fn big() -> Self {
        Self { dirs: 1, files: 4, size: Some(128 << 20) }
    }

    pub fn total_files(&self) -> usize {
        self.dirs * self.files
    }

    /// Bytes of the `n`-th file.
    pub fn size_of(&self, n: usize) -> usize {
        self.size.unwrap_or(100 + n * 7919 % 900)
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> usize {
        (0..self.total_files()).map(|n| self.size_of(n)).sum()
    }

    pub fn dir_name(n: usize) -> String {
        format!("d{n:03}")
    }

    pub fn file_name(n: usize) -> String {
        format!("f{n:04}")
    }

    /// Paths of all files in order.
    pub fn paths(self) -> impl Iterator<Item = String> {
        (0..self.total_files())
            .map(move |n| format!("{}/{}", Self::dir_name(n / self.files), Self::file_name(n % self.files)))
    }

    /// Converts the image into `place`.
    pub fn build(self, place: &Place) {
        let mut create = Command::new(program("nydus-image"));
        create.args(["create", "-t", "tar-rafs"]);
        create.arg("-B").arg(place.at("boot")).arg("-D").arg(place.at("blobs")).arg("-");
        let mut child =
            create.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        self.write_tar(child.stdin.take().unwrap());
        assert!(child.wait().unwrap().success(), "the image cannot be built");
    }

    fn write_tar(self, to: impl Write) {
        let mut tar = tar::Builder::new(BufWriter::with_capacity(1 << 20, to));
        for dir in 0..self.dirs {
            let mut entry = header(tar::EntryType::Directory, 0, 0o755);
            tar.append_data(&mut entry, Self::dir_name(dir), std::io::empty()).unwrap();
            for file in 0..self.files {
                let n = dir * self.files + file;
                let bytes = content(n, self.size_of(n));
                let mut entry = header(tar::EntryType::Regular, bytes.len(), 0o644);
                let path = format!("{}/{}", Self::dir_name(dir), Self::file_name(file));
                tar.append_data(&mut entry, path, bytes.as_slice()).unwrap();
            }
        }
        tar.into_inner().unwrap().flush().unwrap();
    }
}

fn header(kind: tar::EntryType, size: usize, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_size(size as u64);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    header
}

/// Bytes of the `n`-th file: 64 KiB that do not compress, 64 KiB of text, and so on.
fn content(n: usize, size: usize) -> Vec<u8> {
    let mut state = (n as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut bytes = Vec::with_capacity(size + (64 << 10));
    while bytes.len() < size {
        if (bytes.len() >> 16).is_multiple_of(2) && size > 64 << 10 {
            // xorshift64
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend_from_slice(&state.to_le_bytes());
        } else {
            bytes.extend_from_slice(
                format!("file {n}, line at byte {}: all is well\n", bytes.len()).as_bytes(),
            );
        }
    }
    bytes.truncate(size);
    bytes
}
