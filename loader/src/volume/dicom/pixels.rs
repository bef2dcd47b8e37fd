//! Pixel data of a file to numbers.

use super::DicomFault;
use super::elements::{Compression, Elements, Pixels, Syntax};
use super::rle;
use super::slice::{PixelForm, Slice};

/// Largest number of pixels of a compressed image, which may claim any size in few bytes.
const MAX_COMPRESSED: usize = 1 << 26;

/// Stored values of an image, row by row.
pub(super) fn decode(slice: &Slice, elements: &Elements) -> Result<Vec<i32>, DicomFault> {
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
    let value = |raw: u16| of_bits(raw, slice.form);
    if num_bytes == 1 {
        return Ok(bytes[..num_pixels].iter().map(|&byte| value(byte.into())).collect());
    }
    let pairs = bytes.as_chunks::<2>().0.iter().take(num_pixels);
    let pair = |&pair: &[u8; 2]| value(if is_big_endian { u16::from_be_bytes(pair) } else { u16::from_le_bytes(pair) });
    Ok(pairs.map(pair).collect())
}

/// The number in the stored bits of a pixel; other bits may hold overlays.
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

/// Bytes of the pixels in this machine's order, and their number a pixel.
fn jpeg(data: &[u8], slice: &Slice) -> Result<(Vec<u8>, usize), DicomFault> {
    let fault = |problem: String| DicomFault::Pixels { problem };
    let damaged = |err: jpeg_decoder::Error| match err {
        jpeg_decoder::Error::Unsupported(feature) => fault(format!("JPEG with {feature:?} is not read; decompress it")),
        err => fault(format!("damaged JPEG data ({err})")),
    };
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
