//! Inodes as values, whatever their form on disk.

use crate::Nid;

/// Type of a file system object; numbers are those of a directory entry on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names say it")]
pub enum FileType {
    Regular = 1,
    Directory = 2,
    CharDevice = 3,
    BlockDevice = 4,
    Fifo = 5,
    Socket = 6,
    Symlink = 7,
}

impl FileType {
    /// The type with this number in a directory entry.
    pub fn from_raw(raw: u8) -> Option<Self> {
        Some(match raw {
            1 => Self::Regular,
            2 => Self::Directory,
            3 => Self::CharDevice,
            4 => Self::BlockDevice,
            5 => Self::Fifo,
            6 => Self::Socket,
            7 => Self::Symlink,
            _ => return None,
        })
    }

    /// Type bits (`S_IFMT`) of a mode; `None` where they name no type.
    pub fn from_mode(mode: u16) -> Option<Self> {
        Some(match mode & 0o170_000 {
            0o100_000 => Self::Regular,
            0o040_000 => Self::Directory,
            0o020_000 => Self::CharDevice,
            0o060_000 => Self::BlockDevice,
            0o010_000 => Self::Fifo,
            0o140_000 => Self::Socket,
            0o120_000 => Self::Symlink,
            _ => return None,
        })
    }

    /// The type bits (`S_IFMT`) of a mode.
    pub fn mode_bits(self) -> u16 {
        match self {
            Self::Regular => 0o100_000,
            Self::Directory => 0o040_000,
            Self::CharDevice => 0o020_000,
            Self::BlockDevice => 0o060_000,
            Self::Fifo => 0o010_000,
            Self::Socket => 0o140_000,
            Self::Symlink => 0o120_000,
        }
    }

    /// For messages: `directory`, `regular file`, ...
    pub fn name(self) -> &'static str {
        match self {
            Self::Regular => "regular file",
            Self::Directory => "directory",
            Self::CharDevice => "character device",
            Self::BlockDevice => "block device",
            Self::Fifo => "FIFO",
            Self::Socket => "socket",
            Self::Symlink => "symbolic link",
        }
    }
}

/// One inode, parsed and bounds-checked: everything `stat` shows, and where its body lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inode {
    /// Address (v6) or number (v5); also the inode number that users see.
    pub nid: Nid,
    /// Type, from `mode`.
    pub file_type: FileType,
    /// Full `st_mode` with type bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of a file, of a symlink target, of directory blocks.
    pub size: u64,
    /// Links; never 0 in a valid image.
    pub nlink: u32,
    /// Modification time, seconds since the epoch, negative before 1970.
    pub mtime_secs: i64,
    /// Modification time, nanoseconds, below 1e9.
    pub mtime_nanos: u32,
    /// Device number in kernel encoding (docs/format.md, "Device numbers"); 0 for all but devices.
    pub rdev: u32,
    /// Bytes of the inline xattr area, 0 for none.
    pub(crate) xattr_size: u32,
    /// Bytes in front of the xattrs: 32 or 64; in v5 128, the name and the target of a symlink.
    pub(crate) fixed_size: u32,
    /// Where the data is.
    pub(crate) data: DataLayout,
}

/// Where the data of an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DataLayout {
    /// All of it at this block.
    FlatPlain { block: u32 },
    /// Full blocks at this block, the rest behind the inode.
    FlatInline { block: u32 },
    /// An array of chunk references behind the inode.
    Chunked,
    /// v5 directory: so many inodes from this position of the inode table on, counted from 1.
    Children { first: u32, count: u32 },
    /// v5, anything else: chunk records, or nothing, behind name, target and xattrs.
    Behind,
}

impl Inode {
    /// Where what follows the xattrs starts, in bytes from the start of the inode.
    pub(crate) fn body_offset(&self) -> u64 {
        u64::from(self.fixed_size) + u64::from(self.xattr_size)
    }

    /// Major device number.
    pub fn major(&self) -> u32 {
        decode_rdev(self.rdev).0
    }

    /// Minor device number.
    pub fn minor(&self) -> u32 {
        decode_rdev(self.rdev).1
    }
}

/// Major and minor of a device number on disk.
pub fn decode_rdev(rdev: u32) -> (u32, u32) {
    ((rdev >> 8) & 0xFFF, (rdev & 0xFF) | ((rdev >> 12) & 0xF_FF00))
}

/// Device number on disk from major and minor; bits that do not fit are lost, see [`crate::tree`] for who checks.
pub fn encode_rdev(major: u32, minor: u32) -> u32 {
    (minor & 0xFF) | ((major & 0xFFF) << 8) | ((minor & 0xF_FF00) << 12)
}
