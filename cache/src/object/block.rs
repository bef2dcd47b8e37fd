//! One block of an object: its name and its bytes.

use std::io;

use crate::map::Map;

/// Name of a block: the object's identity, which includes its version, and the block's number in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct BlockKey {
    /// Hash of URL, version and length.
    pub(crate) object: u128,
    /// Number of the block, from 0.
    pub(crate) number: u32,
}

/// Bytes of one block.
#[derive(Debug)]
pub(crate) enum Block {
    /// A file of the disk cache, mapped.
    Mapped(Map),
    /// Bytes in memory.
    Owned(Box<[u8]>),
}

impl Block {
    /// The bytes. A result computed from them is valid only if [`Self::check`] succeeds afterwards.
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map.bytes(),
            Self::Owned(bytes) => bytes,
        }
    }

    /// Fails if pages of a mapped file could not be read.
    pub(crate) fn check(&self) -> io::Result<()> {
        match self {
            Self::Mapped(map) => map.check(),
            Self::Owned(_) => Ok(()),
        }
    }
}
