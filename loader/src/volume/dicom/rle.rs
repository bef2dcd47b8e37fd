//! RLE Lossless (DICOM PS3.5, annex G): one segment for each byte of a pixel, the highest byte first.

/// Decodes an image of `num_pixels` pixels of `num_bytes` bytes to little-endian pixels; `None` if the data is damaged
/// or too short.
pub(super) fn decode(data: &[u8], num_pixels: usize, num_bytes: usize) -> Option<Vec<u8>> {
    let number = |at: usize| -> Option<usize> {
        let bytes = *data.get(4 * at..)?.first_chunk::<4>()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    if number(0)? != num_bytes {
        return None;
    }
    // PackBits makes at most 128 bytes of two.
    if num_pixels / 64 > data.len() {
        return None;
    }
    let mut pixels = vec![0; num_pixels * num_bytes];
    for segment in 0..num_bytes {
        let start = number(1 + segment)?;
        let end = if segment + 1 < num_bytes { number(2 + segment)? } else { data.len() };
        let bytes = unpack(data.get(start..end)?, num_pixels)?;
        let place = num_bytes - 1 - segment;
        for (pixel, byte) in pixels.chunks_exact_mut(num_bytes).zip(bytes) {
            pixel[place] = byte;
        }
    }
    Some(pixels)
}

/// Decodes the first `len` bytes of `PackBits` data; `None` if there are fewer.
fn unpack(mut packed: &[u8], len: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let (&head, rest) = packed.split_first()?;
        let used = match head {
            // The next head + 1 bytes, unchanged.
            0..=127 => {
                let count = usize::from(head) + 1;
                bytes.extend_from_slice(rest.get(..count)?);
                count
            }
            128 => 0,
            // The next byte, repeated 257 - head times.
            129..=255 => {
                bytes.resize(bytes.len() + 257 - usize::from(head), *rest.first()?);
                1
            }
        };
        packed = &rest[used..];
    }
    bytes.truncate(len);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Header and segments.
    fn rle(segments: &[&[u8]]) -> Vec<u8> {
        let mut header = vec![u32::try_from(segments.len()).unwrap()];
        let mut at = 64;
        for segment in segments {
            header.push(at);
            at += u32::try_from(segment.len()).unwrap();
        }
        header.resize(16, 0);
        let mut data: Vec<u8> = header.iter().flat_map(|number| number.to_le_bytes()).collect();
        data.extend(segments.concat());
        data
    }

    #[test]
    fn segments_are_bytes_of_pixels_the_highest_first() {
        // Pixels 0x0102, 0x0103, 0x0104, 0x0104.
        let data = rle(&[&[253, 1], &[1, 2, 3, 255, 4]]);
        assert_eq!(decode(&data, 4, 2), Some(vec![2, 1, 3, 1, 4, 1, 4, 1]));
        assert_eq!(decode(&rle(&[&[128, 2, 7, 8, 9, 0]]), 3, 1), Some(vec![7, 8, 9]));
    }

    #[test]
    fn damaged_data_is_refused() {
        let good = rle(&[&[253, 1], &[1, 2, 3, 255, 4]]);
        for len in 0..good.len() {
            assert_eq!(decode(&good[..len], 4, 2), None, "{len} bytes");
        }
        assert_eq!(decode(&good, 5, 2), None);
        assert_eq!(decode(&good, 4, 1), None);
        assert_eq!(decode(&good, usize::MAX / 4, 2), None);
        let mut far = good.clone();
        far[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(decode(&far, 4, 2), None);
    }
}
