//! Compressed data: gzip as the program `gzip` reads it (several members, zero padding between and after them, other
//! bytes after them ignored), and zlib streams.

use std::io::{BufRead, Read};

use flate2::bufread::{GzDecoder, ZlibDecoder};

use super::VolumeFault;

/// First bytes of every gzip member.
pub(super) const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// Number of bytes that may follow the voxels; files with more are rejected, because they contradict their header.
const MAX_TRAILING: u64 = 64 << 20;

/// Inflates all members of a file one after another.
pub(super) struct GzipReader<R> {
    /// Decoder of the current member; `None` once the last member has ended.
    member: Option<GzDecoder<R>>,
}

impl<R: BufRead> GzipReader<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { member: Some(GzDecoder::new(reader)) }
    }
}

impl<R: BufRead> Read for GzipReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        while let Some(member) = &mut self.member {
            match member.read(buf)? {
                0 if !buf.is_empty() => {
                    let rest = self.member.take().map(GzDecoder::into_inner);
                    self.member = rest.map(next_member).transpose()?.flatten();
                }
                len => return Ok(len),
            }
        }
        Ok(0)
    }
}

/// Finds the member that follows zero padding; `None` at the end of the file or before bytes that do not begin a
/// member.
fn next_member<R: BufRead>(mut rest: R) -> std::io::Result<Option<GzDecoder<R>>> {
    loop {
        let ahead = rest.fill_buf()?;
        match ahead.iter().position(|&byte| byte != 0) {
            Some(zeros) => {
                let begins =
                    ahead[zeros] == GZIP_MAGIC[0] && ahead.get(zeros + 1).is_none_or(|&byte| byte == GZIP_MAGIC[1]);
                rest.consume(zeros);
                return Ok(begins.then(|| GzDecoder::new(rest)));
            }
            None if ahead.is_empty() => return Ok(None),
            None => {
                let zeros = ahead.len();
                rest.consume(zeros);
            }
        }
    }
}

/// Converts an error of the decompressor to a fault.
pub(super) fn reason(err: &std::io::Error) -> VolumeFault {
    match err.kind() {
        std::io::ErrorKind::UnexpectedEof => VolumeFault::GzipCut,
        _ => VolumeFault::Gzip { message: err.to_string() },
    }
}

/// Inflates the first `len` bytes of a gzip file, or all there are if the file holds fewer; bytes beyond are checked
/// and counted, but not kept.
///
/// libdeflate reads the whole file at once and is about twice as fast as zlib. Files that it cannot read, which have
/// several members or are longer than their header states, go through the streaming decoder.
pub(super) fn gzip(file: &[u8], len: u64) -> Result<(Vec<u8>, u64), VolumeFault> {
    let size = credible_size(file, len)?;
    let mut bytes = vec![0u8; size];
    if libdeflater::Decompressor::new().gzip_decompress(file, &mut bytes) == Ok(size) {
        return Ok((bytes, 0));
    }
    let decoder = GzipReader::new(file);
    inflate_with(decoder, len, bytes)
}

/// Inflates the first `len` bytes of a zlib stream, or all there are; bytes beyond are checked and counted, but not kept.
pub(super) fn zlib(data: &[u8], len: u64) -> Result<(Vec<u8>, u64), VolumeFault> {
    let size = credible_size(data, len)?;
    let mut bytes = vec![0u8; size];
    if libdeflater::Decompressor::new().zlib_decompress(data, &mut bytes) == Ok(size) {
        return Ok((bytes, 0));
    }
    inflate_with(ZlibDecoder::new(data), len, bytes)
}

/// Checks that `data` can expand to `len` bytes, given that deflate shrinks data to no less than 1/1032: no memory is
/// reserved for a size that a header merely claims.
fn credible_size(data: &[u8], len: u64) -> Result<usize, VolumeFault> {
    let size = usize::try_from(len).ok().ok_or(VolumeFault::AddressSpace)?;
    if size / 1032 > data.len() {
        return Err(VolumeFault::Promise { size, compressed: data.len() });
    }
    Ok(size)
}

/// Reads `len` bytes into `bytes`, replacing its content; checks the bytes that follow and counts them.
fn inflate_with(mut decoder: impl Read, len: u64, mut bytes: Vec<u8>) -> Result<(Vec<u8>, u64), VolumeFault> {
    bytes.clear();
    decoder.by_ref().take(len).read_to_end(&mut bytes).map_err(|err| reason(&err))?;
    // Reading to the end makes the decoder compare the checksum.
    let limit = len.max(MAX_TRAILING);
    let trailing = std::io::copy(&mut decoder.take(limit + 1), &mut std::io::sink()).map_err(|err| reason(&err))?;
    if trailing > limit {
        return Err(VolumeFault::Trailing { limit, len });
    }
    Ok((bytes, trailing))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn member(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn check(file: &[u8], len: u64, expected: &[u8]) {
        assert_eq!(gzip(file, len).map(|(bytes, _)| bytes).as_deref(), Ok(expected), "{len} bytes of {file:?}");
    }

    #[test]
    fn members_padding_and_trailing_bytes_are_read_as_gzip_does() {
        let (a, b) = (member(b"first, "), member(b"second"));
        check(&a, 7, b"first, ");
        check(&[&a[..], &b].concat(), 13, b"first, second");
        check(&[&a[..], &b, &[0; 700]].concat(), 13, b"first, second");
        check(&[&a[..], &[0; 512], &b, &[0; 3]].concat(), 13, b"first, second");
        check(&[&member(b"longer than promised")[..], &[0; 512]].concat(), 6, b"longer");
        check(&[&a[..], b"junk"].concat(), 7, b"first, ");
        check(&[&a[..], &b, b"junk"].concat(), 13, b"first, second");
        check(&a, 100, b"first, ");
        assert_eq!(gzip(&member(b"longer than promised"), 6).map(|(_, surplus)| surplus), Ok(14));
    }

    #[test]
    fn damaged_data_is_refused() {
        let (a, b) = (member(b"first, "), member(b"second"));
        let mut wrong_checksum = [&a[..], &b].concat();
        let at = wrong_checksum.len() - 8;
        wrong_checksum[at] ^= 1;
        assert!(matches!(gzip(&wrong_checksum, 13), Err(VolumeFault::Gzip { .. })));
        let cut = [&a[..], &b[..b.len() - 3]].concat();
        assert_eq!(gzip(&cut, 13), Err(VolumeFault::GzipCut));
        assert!(matches!(gzip(&a, 1 << 40), Err(VolumeFault::Promise { .. })));
    }

    #[test]
    fn a_decompression_bomb_after_the_voxels_is_refused() {
        let bomb = member(&vec![0; 65 << 20]);
        assert!(matches!(gzip(&bomb, 100), Err(VolumeFault::Trailing { .. })));
    }
}
