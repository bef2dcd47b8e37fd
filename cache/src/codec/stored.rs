//! A zstd frame with its content in one raw block (RFC 8878, sections 3.1.1 and 3.1.1.2.2).
//!
//! The reader compares the header with the one that the writer writes and returns the content in place. Any other zstd
//! decoder reads it as an ordinary frame.

/// Length of the header: frame magic, descriptor (single segment, 4-byte content size), content size, block header.
pub const HEADER_LEN: usize = 4 + 1 + 4 + 3;

/// Maximum content length in bytes: the size limit of a raw zstd block, 128 KiB.
pub const MAX_LEN: usize = 1 << 17;

const MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();
/// Content size in 4 bytes (2 << 6), single segment (1 << 5), no checksum, no dictionary.
const DESCRIPTOR: u8 = 0b1010_0000;

fn header(len: usize) -> [u8; HEADER_LEN] {
    // `MAX_CHUNK_VOXELS` keeps every raw part within the 128 KiB of a raw block.
    let size = u32::try_from(len).expect("a chunk's raw part is at most 128 KiB").to_le_bytes();
    // Block header: last block (1), type raw (0 << 1), size (<< 3).
    let block = u32::try_from(len << 3 | 1).expect("a chunk's raw part is at most 128 KiB").to_le_bytes();
    let mut bytes = [0; HEADER_LEN];
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4] = DESCRIPTOR;
    bytes[5..9].copy_from_slice(&size);
    bytes[9..].copy_from_slice(&block[..3]);
    bytes
}

/// Appends a frame with `content` to `out`.
///
/// # Panics
/// If `content` is longer than [`MAX_LEN`].
pub fn write(content: &[u8], out: &mut Vec<u8>) {
    assert!(content.len() <= MAX_LEN, "a raw block holds at most 128 KiB");
    out.extend_from_slice(&header(content.len()));
    out.extend_from_slice(content);
}

/// Splits `bytes` into the content of a stored frame of exactly `len` bytes and the bytes after the frame.
///
/// `None` if `bytes` do not begin with such a frame.
#[must_use]
pub fn read(bytes: &[u8], len: usize) -> Option<(&[u8], &[u8])> {
    if len > MAX_LEN {
        return None;
    }
    let content = bytes.strip_prefix(&header(len))?;
    content.split_at_checked(len)
}

/// Returns the content if `bytes` are one stored frame and nothing else.
#[must_use]
pub fn whole(bytes: &[u8]) -> Option<&[u8]> {
    let (content, rest) = read(bytes, bytes.len().checked_sub(HEADER_LEN)?)?;
    rest.is_empty().then_some(content)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "frames that the tests wrote themselves")]
mod tests {
    use super::*;

    #[test]
    fn stock_zstd_reads_a_stored_frame() {
        for len in [0, 1, 255, 256, 65_536 + 256, 1 << 17] {
            let content: Vec<u8> = (0..=250u8).cycle().take(len).collect();
            let mut bytes = Vec::new();
            write(&content, &mut bytes);
            assert_eq!(bytes.len(), HEADER_LEN + len);
            assert_eq!(zstd::stream::decode_all(bytes.as_slice()).unwrap(), content);
            assert_eq!(whole(&bytes), Some(content.as_slice()));
            bytes.push(9);
            assert_eq!(whole(&bytes), None);
            assert_eq!(read(&bytes, len), Some((content.as_slice(), &[9u8][..])));
            assert_eq!(read(&bytes, len + 2), None);
            assert_eq!(read(&bytes[..HEADER_LEN + len - usize::from(len > 0)], len).is_some(), len == 0);
        }
    }
}
