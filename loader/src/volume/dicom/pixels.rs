//! Decodes the pixel data of a file to numbers.

use super::DicomFault;
use super::elements::{Compression, Elements, Pixels, Syntax};
use super::rle;
use super::slice::{PixelForm, Slice};

/// Largest number of pixels of a compressed image, which may claim any size in few bytes.
const MAX_COMPRESSED: usize = 1 << 26;

/// Stored values of an image, row by row, and the number of pixels whose bits above the stored ones are not empty.
pub(super) fn decode(slice: &Slice, elements: &Elements) -> Result<(Vec<i32>, usize), DicomFault> {
    let num_pixels = slice.rows * slice.columns;
    let PixelForm { bits_allocated, .. } = slice.form;
    let num_bytes = usize::from(bits_allocated / 8);
    let fault = |problem: String| DicomFault::Pixels { problem };
    let Syntax { compression, is_big_endian, .. } = &elements.syntax;
    let (bytes, num_bytes, is_big_endian) = match (compression, &elements.pixels) {
        (None, _) => return Err(elements.syntax.unsupported()),
        (_, None) => return Err(fault("missing".to_owned())),
        (Some(Compression::None), Some(Pixels::Native(bytes))) => (bytes.clone(), num_bytes, *is_big_endian),
        (Some(Compression::Jpeg | Compression::Rle), Some(Pixels::Encapsulated(_))) if num_pixels > MAX_COMPRESSED => {
            return Err(fault(format!("{} x {} pixels in compressed data", slice.columns, slice.rows)));
        }
        (Some(Compression::Jpeg), Some(Pixels::Encapsulated(data))) => {
            let (bytes, num_bytes) = jpeg(data, slice)?;
            (bytes, num_bytes, cfg!(target_endian = "big"))
        }
        (Some(Compression::Rle), Some(Pixels::Encapsulated(data))) => {
            let bytes = rle::decode(data, num_pixels, num_bytes);
            (bytes.ok_or_else(|| fault("damaged RLE data".to_owned()))?, num_bytes, false)
        }
        _ => return Err(fault(format!("not stored as its transfer syntax says ({})", elements.syntax.name))),
    };
    if bytes.len() < num_pixels * num_bytes {
        let problem = format!(
            "{} bytes; expected {} for {} x {} pixels",
            bytes.len(),
            num_pixels * num_bytes,
            slice.columns,
            slice.rows
        );
        return Err(fault(problem));
    }
    let mut num_cut = 0;
    let mut value = |raw: u16| {
        let value = of_bits(raw, slice.form);
        num_cut += usize::from(is_cut(raw, value, slice.form));
        value
    };
    if num_bytes == 1 {
        let values = bytes[..num_pixels].iter().map(|&byte| value(byte.into())).collect();
        return Ok((values, num_cut));
    }
    let pairs = bytes.as_chunks::<2>().0.iter().take(num_pixels);
    let pair = |&pair: &[u8; 2]| value(if is_big_endian { u16::from_be_bytes(pair) } else { u16::from_le_bytes(pair) });
    let values = pairs.map(pair).collect();
    Ok((values, num_cut))
}

/// Returns true for a pixel with bits above the stored ones, other than those of its sign.
fn is_cut(raw: u16, value: i32, form: PixelForm) -> bool {
    let num_above = form.bits_allocated - form.high_bit - 1;
    let above = u32::from(raw) >> (form.high_bit + 1);
    let is_sign = value < 0 && above == (1 << num_above) - 1;
    above != 0 && !is_sign
}

/// Value in the stored bits of a pixel; other bits may hold overlays.
fn of_bits(raw: u16, form: PixelForm) -> i32 {
    let raw = u32::from(raw) >> (form.high_bit + 1 - form.bits_stored);
    let unused = 32 - u32::from(form.bits_stored);
    #[expect(clippy::cast_possible_wrap, reason = "a signed value is stored in these bits")]
    let shifted = (raw << unused) as i32;
    if form.is_signed {
        shifted >> unused
    } else {
        #[expect(clippy::cast_possible_wrap, clippy::cast_sign_loss, reason = "at most 16 bits")]
        let value = (shifted as u32 >> unused) as i32;
        value
    }
}

/// Rejects lossless JPEG that `jpeg-decoder` would decode to wrong pixels without an error: its predictions ignore
/// restart intervals, and use shifted neighbours under a point transform (ITU-T T.81, H.1.2.1).
fn check_lossless(data: &[u8]) -> Result<(), DicomFault> {
    /// Marker of the start of a lossless frame.
    const LOSSLESS: u8 = 0xc3;
    /// Marker that defines the restart interval.
    const RESTARTS: u8 = 0xdd;
    /// Marker of the start of a scan.
    const SCAN: u8 = 0xda;
    let (mut at, mut is_lossless, mut has_restarts) = (2, false, false);
    while let Some(&[0xff, marker]) = data.get(at..).and_then(|rest| rest.first_chunk::<2>()) {
        if marker == 0xff {
            // Skips a fill byte.
            at += 1;
            continue;
        }
        let Some(&len) = data.get(at + 2..).and_then(|rest| rest.first_chunk::<2>()) else { break };
        let len = usize::from(u16::from_be_bytes(len));
        let Some(segment) = data.get(at + 4..at + 2 + len) else { break };
        match marker {
            LOSSLESS => is_lossless = true,
            RESTARTS => has_restarts = segment.iter().any(|&byte| byte != 0),
            SCAN => {
                let is_shifted = segment.last().is_some_and(|byte| byte & 15 != 0);
                if is_lossless && (has_restarts || is_shifted) {
                    let problem =
                        "lossless JPEG with restart intervals or a point transform is not read; decompress it";
                    return Err(DicomFault::Pixels { problem: problem.to_owned() });
                }
                return Ok(());
            }
            _ => {}
        }
        at += 2 + len;
    }
    Ok(())
}

/// Decodes JPEG data; returns the bytes of the pixels in this machine's byte order, and the number of bytes per pixel.
fn jpeg(data: &[u8], slice: &Slice) -> Result<(Vec<u8>, usize), DicomFault> {
    let fault = |problem: String| DicomFault::Pixels { problem };
    let damaged = |err: jpeg_decoder::Error| match err {
        jpeg_decoder::Error::Unsupported(feature) => fault(format!("JPEG with {feature:?} is not read; decompress it")),
        err => fault(format!("damaged JPEG data ({err})")),
    };
    check_lossless(data)?;
    let mut decoder = jpeg_decoder::Decoder::new(data);
    decoder.set_max_decoding_buffer_size(MAX_COMPRESSED * 2);
    // The sizes in the data are compared before anything is reserved for them.
    decoder.read_info().map_err(damaged)?;
    let info = decoder.info().ok_or_else(|| fault("damaged JPEG data".to_owned()))?;
    let num_bytes = match info.pixel_format {
        jpeg_decoder::PixelFormat::L8 => 1,
        jpeg_decoder::PixelFormat::L16 => 2,
        _ => return Err(fault("JPEG data with colours".to_owned())),
    };
    if (usize::from(info.width), usize::from(info.height)) != (slice.columns, slice.rows) {
        let problem =
            format!("a JPEG of {} x {} pixels; expected {} x {}", info.width, info.height, slice.columns, slice.rows);
        return Err(fault(problem));
    }
    Ok((decoder.decode().map_err(damaged)?, num_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Markers of a JPEG up to its scan.
    fn jpeg(frame: u8, restarts: u16, scan_end: u8) -> Vec<u8> {
        let mut data = vec![0xff, 0xd8, 0xff, 0xff, 0xe0, 0, 4, 1, 2];
        data.extend([0xff, frame, 0, 5, 12, 0, 0]);
        data.extend([&[0xff, 0xdd, 0, 4], &restarts.to_be_bytes()[..]].concat());
        data.extend([0xff, 0xda, 0, 5, 1, 0, scan_end]);
        data
    }

    #[test]
    fn lossless_jpeg_that_would_be_decoded_wrongly_is_refused() {
        for (data, is_read) in [
            (jpeg(0xc3, 0, 0), true),
            (jpeg(0xc3, 0, 0x10), true),
            (jpeg(0xc3, 5, 0), false),
            (jpeg(0xc3, 0, 2), false),
            // Restart intervals of other kinds of JPEG are decoded.
            (jpeg(0xc1, 5, 2), true),
        ] {
            assert_eq!(check_lossless(&data).is_ok(), is_read, "{data:x?}");
            // Data cut short anywhere is left to the decoder.
            for len in 0..data.len() - 2 {
                assert!(check_lossless(&data[..len]).is_ok(), "{len} bytes of {data:x?}");
            }
        }
        assert!(check_lossless(&[0xff, 0xd8, 0xff, 0xe0, 0, 1]).is_ok());
    }
}
