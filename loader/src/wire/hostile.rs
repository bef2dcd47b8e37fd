//! Hostile messages for the code that receives them. Each function panics if that code violates a guarantee.
//!
//! Called by the tests of this crate and, with the feature `fuzzing`, by the program in `tests/fuzz`.

use bytes::Bytes;
use prost::Message as _;

use super::batch::Expected;
use super::framing::{FrameReader, Part};
use super::spec::Stream;
use super::{BatchHeader, FetchRequest, OpenRequest, ShareRequest, StreamSpec};
use crate::batch::VoxelForm;

/// Passes bytes to the decoders of all requests.
///
/// # Panics
/// If a specification that is accepted becomes another stream when it is sent on.
pub fn request(bytes: &[u8]) {
    if let Ok(spec) = StreamSpec::decode(bytes)
        && let Ok(stream) = Stream::of_spec(&spec)
        && stream.config.validate().is_ok()
    {
        let sent_on = stream.to_spec().expect("a specification names no file");
        assert_eq!(Stream::of_spec(&sent_on), Ok(stream));
    }
    let _ = OpenRequest::decode(bytes);
    let _ = FetchRequest::decode(bytes);
    let _ = ShareRequest::decode(bytes);
}

/// Passes bytes to a client that waits for the header of step 3, a batch of two crops of 2 x 2 x 2 voxels.
///
/// # Panics
/// If a header is accepted whose batch has another size.
pub fn header(bytes: &[u8]) {
    let Ok(header) = BatchHeader::decode(bytes) else { return };
    for form in [VoxelForm::Floats, VoxelForm::Quantized, VoxelForm::Boxes] {
        let expected = Expected { form, crop_size: [2; 3], labels: false, crops: 2 };
        if let Ok((voxel_bytes, label_bytes)) = expected.check(3, &header) {
            assert!(
                label_bytes == 0 && (form == VoxelForm::Boxes || voxel_bytes <= 64),
                "{form:?}: {voxel_bytes} bytes"
            );
        }
    }
}

/// Passes bytes to the reader of frames, `chunk` bytes at a time.
///
/// # Panics
/// If more bytes come out than went in.
pub fn frames(bytes: &[u8], chunk: usize) {
    let mut reader = FrameReader::default();
    let mut received = 0;
    'message: for chunk in bytes.chunks(chunk) {
        let mut arrived = Bytes::copy_from_slice(chunk);
        while !arrived.is_empty() {
            match reader.read(&mut arrived) {
                Ok(Some(Part::Data(data))) => received += data.len(),
                Ok(Some(Part::Header(_)) | None) => {}
                Err(_) => break 'message,
            }
        }
    }
    assert!(received <= bytes.len(), "{received} bytes of {}", bytes.len());
}
