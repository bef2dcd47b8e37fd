//! Batches as messages: a header and bytes, made by the server and turned back into a batch by the client.

use bytes::Bytes;

use super::framing::Malformed;
use super::{BatchHeader, Crop, CropBox, Dequantize, ValueRange};
use crate::batch::{self, Batch, BatchMemory, BatchTimes, CropRecord, Images, PooledBuffer, VoxelForm};
use crate::preprocess::window::Scale;
use crate::transform::SampledParams;

/// A batch as the server sends it.
#[derive(Debug)]
pub(crate) struct SentBatch {
    /// Description of the batch.
    pub(crate) header: BatchHeader,
    /// Voxels, then labels if there are any; the batch's own memory, freed once it is dropped.
    pub(crate) data: Vec<Bytes>,
}

/// A batch of encoded chunks: the contract has no form for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("encoded chunks cannot be sent; expected floats, quantized values or boxes")]
pub(crate) struct EncodedChunks;

impl SentBatch {
    /// Converts a batch that lies in a slot whose labels begin at `slot_labels`, or in other memory if that is `None`.
    ///
    /// # Errors
    /// If the batch consists of encoded chunks.
    pub(crate) fn of(batch: Batch, slot_labels: Option<usize>, queue_secs: f64) -> Result<Self, EncodedChunks> {
        let Batch { step, images, labels, crops, times, .. } = batch;
        let crops = crops.into_iter();
        let (voxels, crops): (Bytes, Vec<Crop>) = match images {
            Images::Floats(values) => {
                (bytes_of(values), crops.map(|record| crop_to_wire(record, None, None)).collect())
            }
            Images::Quantized(values, all) => {
                let crop = |(record, by)| crop_to_wire(record, Some(dequantize_to_wire(by)), None);
                (bytes_of(values), crops.zip(&all).map(crop).collect())
            }
            Images::Boxes(values, all) => {
                let crop = |(record, crop_box)| crop_to_wire(record, None, Some(box_to_wire(crop_box)));
                (bytes_of(values), crops.zip(&all).map(crop).collect())
            }
            Images::Chunks(..) => return Err(EncodedChunks),
        };
        let labels = labels.map(bytes_of);
        let BatchTimes { read_secs, decode_secs, augment_secs, elapsed_secs, .. } = times;
        let header = BatchHeader {
            step,
            voxel_bytes: voxels.len() as u64,
            label_bytes: labels.as_ref().map_or(0, Bytes::len) as u64,
            in_slot: slot_labels.is_some(),
            label_offset: slot_labels.unwrap_or(0) as u64,
            crops,
            read_secs,
            decode_secs,
            augment_secs,
            elapsed_secs,
            queue_secs,
        };
        Ok(Self { header, data: std::iter::once(voxels).chain(labels).collect() })
    }

    /// Number of bytes of voxels and labels.
    pub(crate) fn num_bytes(&self) -> usize {
        self.data.iter().map(Bytes::len).sum()
    }
}

/// Memory of voxels or labels, as bytes.
struct Memory<T>(PooledBuffer<T>);

impl<T: bytemuck::Pod> AsRef<[u8]> for Memory<T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

fn bytes_of<T: bytemuck::Pod + Send>(values: PooledBuffer<T>) -> Bytes {
    Bytes::from_owner(Memory(values))
}

fn crop_to_wire(record: CropRecord, dequantize: Option<Dequantize>, crop_box: Option<CropBox>) -> Crop {
    Crop {
        case_key: record.case,
        epoch: record.epoch,
        crop: record.crop,
        origin: record.origin.to_vec(),
        draw_key: record.case_key,
        augmentation: record.augmentation,
        dequantize,
        r#box: crop_box,
    }
}

fn dequantize_to_wire(dequantize: &batch::Dequantize) -> Dequantize {
    let &batch::Dequantize { scale, factor, shift } = dequantize;
    let Scale { gain, bias, .. } = scale;
    Dequantize { gain, bias, factor, shift, range: range_to_wire(scale) }
}

/// Range of values as a message; `None` for the range of a window.
fn range_to_wire(scale: Scale) -> Option<ValueRange> {
    let Scale { low, high, .. } = scale;
    (low.to_bits() != 0f32.to_bits() || high.to_bits() != 1f32.to_bits()).then_some(ValueRange { low, high })
}

/// Scale with the range of values that a crop states, or else the range of a window.
fn scale_of_wire(gain: f32, bias: f32, range: Option<ValueRange>) -> Result<Scale, Malformed> {
    let ValueRange { low, high } = range.unwrap_or(ValueRange { low: 0.0, high: 1.0 });
    if low < high { Ok(Scale { gain, bias, low, high }) } else { Err(Malformed("a range of values without values")) }
}

fn box_to_wire(crop: &batch::CropBox) -> CropBox {
    CropBox {
        start: crop.start as u64,
        shape: crop.shape.iter().map(|&n| u32::try_from(n).expect("a box is small")).collect(),
        gain: crop.scale.gain,
        bias: crop.scale.bias,
        range: range_to_wire(crop.scale),
        params_json: serde_json::to_string(&crop.params).expect("parameters are JSON"),
    }
}

/// Expected properties of a stream's batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    /// Form of the voxels.
    pub(crate) form: VoxelForm,
    /// Voxels of a crop.
    pub(crate) crop_size: [usize; 3],
    /// True if batches carry labels.
    pub(crate) labels: bool,
    /// Number of crops in a batch if no case is skipped.
    pub(crate) crops: usize,
}

impl Expected {
    /// Number of bytes of voxels and labels that a header announces, after checking them against the expected
    /// properties.
    ///
    /// # Errors
    /// If the header contradicts the stream or itself.
    pub(crate) fn check(&self, step: u64, header: &BatchHeader) -> Result<(usize, usize), Malformed> {
        if header.step != step {
            return Err(Malformed("the batch of another step"));
        }
        if header.crops.len() > self.crops {
            return Err(Malformed("more crops than a batch has"));
        }
        let voxel_bytes = usize::try_from(header.voxel_bytes).ok().ok_or(Malformed("a batch above the memory"))?;
        let label_bytes = usize::try_from(header.label_bytes).ok().ok_or(Malformed("a batch above the memory"))?;
        let voxels = if self.form == VoxelForm::Boxes {
            box_voxels(&header.crops)?
        } else {
            header.crops.len() * self.crop_size.iter().product::<usize>()
        };
        if Some(voxel_bytes) != voxels.checked_mul(self.form.voxel_bytes()) {
            return Err(Malformed("bytes of voxels that do not fit the crops"));
        }
        if label_bytes != if self.labels { voxels } else { 0 } {
            return Err(Malformed("bytes of labels that do not fit the crops"));
        }
        Ok((voxel_bytes, label_bytes))
    }

    /// Creates the batch that a checked header describes, from memory that holds its bytes.
    ///
    /// # Errors
    /// If the header lacks what the form needs.
    pub(crate) fn batch(
        &self,
        header: BatchHeader,
        voxels: Box<dyn BatchMemory>,
        labels: Box<dyn BatchMemory>,
    ) -> Result<Batch, Malformed> {
        let voxel_len = usize::try_from(header.voxel_bytes).unwrap_or(0) / self.form.voxel_bytes();
        let images = match self.form {
            VoxelForm::Floats => Images::Floats(lent(voxels, voxel_len)),
            VoxelForm::Quantized => {
                let all = header.crops.iter().map(dequantize_of_wire).collect::<Result<_, _>>()?;
                Images::Quantized(lent(voxels, voxel_len), all)
            }
            VoxelForm::Chunks => return Err(Malformed("coded chunks, which no server sends")),
            VoxelForm::Boxes => {
                let all = header.crops.iter().map(|crop| self.box_of_wire(crop)).collect::<Result<_, _>>()?;
                Images::Boxes(lent(voxels, voxel_len), all)
            }
        };
        let label_len = usize::try_from(header.label_bytes).unwrap_or(0);
        let [x, y, z] = self.crop_size;
        Ok(Batch {
            step: header.step,
            shape: [header.crops.len(), 1, x, y, z],
            images,
            labels: self.labels.then(|| lent(labels, label_len)),
            times: BatchTimes {
                read_secs: header.read_secs,
                decode_secs: header.decode_secs,
                augment_secs: header.augment_secs,
                elapsed_secs: header.elapsed_secs,
                buffer_wait_secs: header.queue_secs,
                wait_secs: 0.0,
            },
            crops: header.crops.into_iter().map(record_of_wire).collect::<Result<_, _>>()?,
        })
    }

    fn box_of_wire(&self, crop: &Crop) -> Result<batch::CropBox, Malformed> {
        let CropBox { start, shape, gain, bias, params_json, range } =
            crop.r#box.as_ref().ok_or(Malformed("a crop without its box"))?;
        let params: SampledParams =
            serde_json::from_str(params_json).ok().ok_or(Malformed("parameters that this version does not know"))?;
        let expected = params.source_box(self.crop_size);
        if !shape.iter().map(|&n| n as usize).eq(expected) {
            return Err(Malformed("a box that does not fit its parameters"));
        }
        Ok(batch::CropBox {
            start: usize::try_from(*start).ok().ok_or(Malformed("a batch above the memory"))?,
            shape: expected,
            scale: scale_of_wire(*gain, *bias, *range)?,
            params,
        })
    }
}

/// Number of voxels of all boxes; checks that they are adjacent.
fn box_voxels(crops: &[Crop]) -> Result<usize, Malformed> {
    let mut end = 0usize;
    for crop in crops {
        let crop_box = crop.r#box.as_ref().ok_or(Malformed("a crop without its box"))?;
        if usize::try_from(crop_box.start).ok() != Some(end) {
            return Err(Malformed("boxes that do not lie one after another"));
        }
        let voxels = crop_box.shape.iter().try_fold(1usize, |n, &side| n.checked_mul(side as usize));
        end = voxels.and_then(|n| end.checked_add(n)).ok_or(Malformed("a batch above the memory"))?;
    }
    Ok(end)
}

fn lent<T: bytemuck::Pod + Default>(memory: Box<dyn BatchMemory>, len: usize) -> PooledBuffer<T> {
    let mut buffer = PooledBuffer::lent(memory);
    buffer.set_len(len);
    buffer
}

fn dequantize_of_wire(crop: &Crop) -> Result<batch::Dequantize, Malformed> {
    let Dequantize { gain, bias, factor, shift, range } =
        crop.dequantize.ok_or(Malformed("a crop without its dequantization"))?;
    Ok(batch::Dequantize { scale: scale_of_wire(gain, bias, range)?, factor, shift })
}

fn record_of_wire(crop: Crop) -> Result<CropRecord, Malformed> {
    Ok(CropRecord {
        case: crop.case_key,
        epoch: crop.epoch,
        crop: crop.crop,
        origin: crop.origin.try_into().ok().ok_or(Malformed("a crop without three coordinates"))?,
        case_key: crop.draw_key,
        augmentation: crop.augmentation,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preprocess::normalize::Units;
    use crate::transform::{Plain, SampledParams};

    #[test]
    fn encoded_chunks_are_refused() {
        let batch = |images| Batch {
            step: 0,
            shape: [0, 1, 2, 2, 2],
            images,
            labels: None,
            crops: Vec::new(),
            times: BatchTimes::default(),
        };
        let sent = |images| SentBatch::of(batch(images), None, 0.0).map(|sent| sent.num_bytes());
        assert_eq!(sent(Images::Chunks(PooledBuffer::unpooled(vec![7]), Vec::new())), Err(EncodedChunks));
        assert_eq!(sent(Images::Boxes(PooledBuffer::unpooled(vec![7]), Vec::new())), Ok(2));
    }

    #[test]
    fn scales_of_every_unit_arrive_as_they_were_sent() {
        let window = Units::Window([-175.0, 250.0]).scale(1.0, -175.0);
        let zscores = Units::ZScores.scale(1.0 / 1024.0, -20.0);
        for (scale, is_named) in [(window, false), (zscores, true)] {
            let sent = batch::Dequantize { scale, factor: 1.1, shift: -0.1 };
            let wire = dequantize_to_wire(&sent);
            assert_eq!(wire.range.is_some(), is_named);
            let crop = Crop { dequantize: Some(wire), ..Crop::default() };
            assert_eq!(dequantize_of_wire(&crop), Ok(sent));

            let params = SampledParams::Plain(Plain {});
            let sent = batch::CropBox { start: 0, shape: [2; 3], scale, params };
            let crop = Crop { r#box: Some(box_to_wire(&sent)), ..Crop::default() };
            let expected = Expected { form: VoxelForm::Boxes, crop_size: [2; 3], labels: false, crops: 1 };
            assert_eq!(expected.box_of_wire(&crop), Ok(sent));
        }
        assert!(scale_of_wire(1.0, 0.0, Some(ValueRange { low: 1.0, high: f32::NAN })).is_err());
    }
}
