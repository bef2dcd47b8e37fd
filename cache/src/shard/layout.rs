//! Constants and fixed-size parts of the shard file, specified in [`super`].

/// Format version that this crate reads and writes.
pub const VERSION: u32 = 1;
/// File name extension of shards, without the dot.
pub const EXTENSION: &str = "shard";

pub(crate) const HEADER_LEN: usize = 32;
pub(crate) const FOOTER_LEN: usize = 32;
pub(crate) const HEADER_MAGIC: [u8; 8] = *b"HIENDSHD";
pub(crate) const FOOTER_MAGIC: [u8; 8] = *b"HIENDEND";
/// Maximum length of a directory in bytes, to reject damaged footers: 100,000 cases take about 100 MB.
pub(crate) const MAX_DIRECTORY_LEN: u64 = 1 << 30;

/// Serializes the header.
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

/// Serializes the footer of a shard whose directory begins at `directory_offset`.
pub(crate) fn footer_bytes(directory_offset: u64, directory: &[u8]) -> [u8; FOOTER_LEN] {
    let mut bytes = [0; FOOTER_LEN];
    bytes[..8].copy_from_slice(&directory_offset.to_le_bytes());
    bytes[8..16].copy_from_slice(&(directory.len() as u64).to_le_bytes());
    bytes[16..20].copy_from_slice(&crc32c::crc32c(directory).to_le_bytes());
    bytes[20..24].copy_from_slice(&VERSION.to_le_bytes());
    bytes[24..].copy_from_slice(&FOOTER_MAGIC);
    bytes
}
