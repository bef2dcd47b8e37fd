//! The shard file, format version 1, byte for byte.
//!
//! All numbers are little-endian. There is no padding: every byte belongs to one of the parts and is covered by a
//! checksum or compared with a constant, so that any flipped bit is found.
//!
//! ```text
//!            ┌──────────────────────────────────────────────────────────────────────────────┐
//! 0          │ header, 32 bytes                                                             │
//!            │   magic "HIENDSHD" | version u32 = 1 | header length u32 = 32 |              │
//!            │   generation u64 | reserved u32 = 0 | CRC-32C of the 28 bytes before u32     │
//!            ├──────────────────────────────────────────────────────────────────────────────┤
//! 32         │ case 0   image chunks, grid order: stock zstd data, see `codec`              │
//!            │          label chunks, likewise (if the case has labels)                     │
//!            │          index: image entries | label entries (16 bytes each, see `index`)   │
//!            │                 | occupancy (see `occupancy`)                                │
//!            ├──────────────────────────────────────────────────────────────────────────────┤
//!            │ case 1 ...                                                                   │
//!            ├──────────────────────────────────────────────────────────────────────────────┤
//! D          │ directory, L bytes: JSON, UTF-8                                              │
//!            │   {"chunk":[32,32,32],"cases":[CaseRecord ...]}, see `record::CaseRecord`    │
//!            ├──────────────────────────────────────────────────────────────────────────────┤
//! D+L        │ footer, 32 bytes                                                             │
//!            │   D u64 | L u64 | CRC-32C of the directory u32 | version u32 = 1 |           │
//!            │   magic "HIENDEND"                                                           │
//!            └──────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! The checksum of a chunk stands in its index entry, the checksum of a case's index in the case's record, the
//! checksum of the records in the footer. Offsets are absolute. A file without a whole footer is no shard: writers
//! give a file its name only after everything in it is on disk ([`writer`]).
//!
//! **Which record counts.** Shards are never changed. A case that was converted again lies in a shard with a larger
//! *generation*; the record of the largest generation counts, and among equal ones the one in the shard whose name
//! sorts last. The folder's listing is thus the whole state of a cache, and any number of processes may add shards
//! to it without talking to each other.
//!
//! *Why that is enough.* A run writes with a generation larger than every one that it saw when it began. Only records
//! of the same case are ever compared, so two runs that begin together and write with the same generation, or one
//! that begins late and writes with a larger one, disagree about nothing as long as their cases differ; shares of
//! workers (`DATASET/CASE` hashed, modulo their number) do. A later run, also one with another number of workers, sees
//! all earlier shards and so writes over them. Two runs that convert the *same* case at the same time both write what
//! they read; which of the two records counts is decided by generation and name, the same way for every reader, and if
//! the source changed between the two, the next run finds that the record's source is not the file's, and converts it
//! once more. A run that is killed loses its unfinished shard and nothing else.
//!
//! Space comes back by [`crate::prune`], which keeps the generation of what it copies.

pub mod reader;
pub mod record;
pub mod writer;

pub use reader::Shard;

/// Version of the format that this crate reads and writes.
pub const VERSION: u32 = 1;
/// File name extension of shards, without the dot.
pub const EXTENSION: &str = "shard";

pub(crate) const HEADER_LEN: usize = 32;
pub(crate) const FOOTER_LEN: usize = 32;
pub(crate) const HEADER_MAGIC: [u8; 8] = *b"HIENDSHD";
pub(crate) const FOOTER_MAGIC: [u8; 8] = *b"HIENDEND";
/// A directory longer than this is not believed: 100,000 cases take about 100 MB.
pub(crate) const MAX_DIRECTORY_LEN: u64 = 1 << 30;

pub(crate) fn header_bytes(generation: u64) -> [u8; HEADER_LEN] {
    let mut bytes = [0; HEADER_LEN];
    bytes[..8].copy_from_slice(&HEADER_MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[12..16].copy_from_slice(&32u32.to_le_bytes());
    bytes[16..24].copy_from_slice(&generation.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..28]);
    bytes[28..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

pub(crate) fn footer_bytes(directory_offset: u64, directory: &[u8]) -> [u8; FOOTER_LEN] {
    let mut bytes = [0; FOOTER_LEN];
    bytes[..8].copy_from_slice(&directory_offset.to_le_bytes());
    bytes[8..16].copy_from_slice(&(directory.len() as u64).to_le_bytes());
    bytes[16..20].copy_from_slice(&crc32c::crc32c(directory).to_le_bytes());
    bytes[20..24].copy_from_slice(&VERSION.to_le_bytes());
    bytes[24..].copy_from_slice(&FOOTER_MAGIC);
    bytes
}
