//! Encoding: from a volume to the chunks, index and occupancy of a case. Pure computation; [`ShardWriter`] writes.
//!
//! [`ShardWriter`]: crate::ShardWriter

use std::collections::BTreeMap;

use crate::codec::{Codec, CodecPreset, Encoder, Voxel};
use crate::error::{CaseError, Error, Result};
use crate::grid::{Box3, Grid};
use crate::index::{ENTRY_LEN, Entry};
use crate::occupancy::{Counts, Occupancy};
use crate::record::{ArrayRecord, CaseRecord, Geometry, SourceFiles, SourceValues, Span};

/// zstd level of every chunk that goes through zstd. Level 9 saves another fiftieth and takes four times as long;
/// decoding is equally fast (`benches/README.md`, table "codec").
pub const LEVEL: i32 = 3;

/// A volume to be stored, z fastest. [`NewCase::new`] has defaults for all but the essential fields.
#[derive(Clone, Debug)]
pub struct NewCase<'a> {
    /// Name of the dataset.
    pub dataset: String,
    /// Name of the case, unique in its dataset.
    pub case_id: String,
    /// Shape in voxels along x, y, z.
    pub shape: [usize; 3],
    /// Stored image values.
    pub image: &'a [u16],
    /// Significant bits of the image values, 1 to 16.
    pub image_bits: u8,
    /// Meaning of the stored value 0, in HU for a CT.
    pub image_offset: f64,
    /// Difference in meaning between consecutive image values, in HU for a CT.
    pub image_scale: f64,
    /// Largest image value that counts as background.
    pub foreground_above: u16,
    /// Label map; `None` for a case without labels.
    pub label: Option<&'a [u8]>,
    /// Position of the voxels in the world.
    pub geometry: Geometry,
    /// Files that the case is made from.
    pub source: SourceFiles,
    /// Digest of the preprocessing parameters.
    pub parameters: String,
}

impl<'a> NewCase<'a> {
    /// Describes an image whose stored values need no conversion: 16 bits, offset 0, scale 1, foreground above 0, 1 mm
    /// voxels, without labels, sources and parameters.
    ///
    /// The other fields are set by struct update: `NewCase { label: Some(&label), ..NewCase::new(…) }`.
    #[must_use]
    pub fn new(dataset: &str, case_id: &str, shape: [usize; 3], image: &'a [u16]) -> Self {
        Self {
            dataset: dataset.to_owned(),
            case_id: case_id.to_owned(),
            shape,
            image,
            image_bits: <u16 as Voxel>::BITS,
            image_offset: 0.0,
            image_scale: 1.0,
            foreground_above: 0,
            label: None,
            geometry: Geometry::identity(shape),
            source: SourceFiles::default(),
            parameters: String::new(),
        }
    }
}

/// A case ready to be appended to a shard. Its offsets are relative to its own first byte.
#[derive(Clone, Debug)]
pub struct EncodedCase {
    pub(crate) record: CaseRecord,
    pub(crate) chunk: [usize; 3],
    pub(crate) data: Vec<u8>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) occupancy: Vec<u8>,
}

impl EncodedCase {
    /// Adds the values of the source image to the record.
    #[must_use]
    pub fn with_values(mut self, values: SourceValues) -> Self {
        self.record.values = Some(values);
        self
    }

    /// Number of bytes that the case takes in a shard, without its record.
    #[must_use]
    pub fn len(&self) -> u64 {
        (self.data.len() + self.entries.len() * ENTRY_LEN + self.occupancy.len()) as u64
    }

    /// Always `false`: a case has at least one chunk.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Record of the case, without its position in a shard.
    #[must_use]
    pub fn record(&self) -> &CaseRecord {
        &self.record
    }
}

/// Encodes a volume with chunks of shape `chunk`.
///
/// # Errors
/// If lengths and shape disagree, a value exceeds the promised bits, or zstd fails.
pub fn encode(case: &NewCase<'_>, chunk: [usize; 3], preset: CodecPreset) -> Result<EncodedCase> {
    let bad = |reason: CaseError| Error::BadCase { case: format!("{}/{}", case.dataset, case.case_id), reason };
    let grid = Grid::new(case.shape, chunk).map_err(|error| bad(error.into()))?;
    let num_voxels = case.shape.iter().product::<usize>();
    let (image, label) = (case.image.len(), case.label.map_or(num_voxels, <[u8]>::len));
    if image != num_voxels || label != num_voxels {
        return Err(bad(CaseError::Lengths { image, label, shape: case.shape }));
    }
    let image_codec = Codec::new(case.image_bits, preset);
    image_codec.validate(<u16 as Voxel>::BITS).map_err(|error| bad(error.into()))?;
    if let Some(&value) = case.image.iter().max()
        && u32::from(value) >> case.image_bits != 0
    {
        return Err(bad(CaseError::Value { value, bits: case.image_bits }));
    }
    let label_codec = Codec::new(<u8 as Voxel>::BITS, preset);

    let mut encoder = Encoder::new(LEVEL).map_err(|err| bad(CaseError::Zstd(err)))?;
    let mut data = Vec::new();
    let mut entries = Vec::with_capacity(2 * grid.num_chunks());
    let mut foreground = Vec::with_capacity(grid.num_chunks());
    let failed = |err: std::io::Error| bad(CaseError::Zstd(err));
    encode_array(case.image, &grid, &image_codec, &mut encoder, &mut data, &mut entries, |_, values| {
        foreground.push(count(values.iter().filter(|&&value| value > case.foreground_above)));
    })
    .map_err(failed)?;
    let mut classes: BTreeMap<u32, Vec<(u32, u32)>> = BTreeMap::new();
    if let Some(label) = case.label {
        encode_array(label, &grid, &label_codec, &mut encoder, &mut data, &mut entries, |idx, values| {
            let mut counts = [0u32; 256];
            for &value in values {
                counts[usize::from(value)] += 1;
            }
            for (class, &count) in (0..).zip(&counts).filter(|&(_, &count)| count > 0) {
                classes.entry(class).or_default().push((idx, count));
            }
        })
        .map_err(failed)?;
    }
    let classes = classes.into_iter().map(|(class, counts)| (class, Counts::new(counts))).collect();
    let record = CaseRecord {
        dataset: case.dataset.clone(),
        case_id: case.case_id.clone(),
        shape: case.shape,
        image: ArrayRecord { codec: image_codec, offset: case.image_offset, scale: case.image_scale },
        label: case.label.map(|_| ArrayRecord { codec: label_codec, offset: 0.0, scale: 1.0 }),
        foreground_above: case.foreground_above,
        geometry: case.geometry.clone(),
        source: case.source.clone(),
        parameters: case.parameters.clone(),
        values: None,
        span: Span::default(),
    };
    let occupancy = Occupancy::new(&grid, &foreground, classes).to_bytes(&grid);
    Ok(EncodedCase { record, chunk, data, entries, occupancy })
}

/// Encodes the chunks of an array in grid order; `observe` gets the number and the values of each.
fn encode_array<T: Voxel>(
    volume: &[T],
    grid: &Grid,
    codec: &Codec,
    encoder: &mut Encoder,
    data: &mut Vec<u8>,
    entries: &mut Vec<Entry>,
    mut observe: impl FnMut(u32, &[T]),
) -> std::io::Result<()> {
    let mut values = Vec::new();
    for idx in 0..grid.num_chunks() {
        let region = grid.chunk_box(idx);
        gather(volume, grid.shape(), &region, &mut values);
        observe(u32::try_from(idx).unwrap_or(u32::MAX), &values);
        if values.iter().all(|value| *value == values[0]) {
            entries.push(Entry::Constant(values[0].to_u16()));
            continue;
        }
        let start = data.len();
        encoder.encode(codec, region.shape(), &values, data)?;
        let bytes = &data[start..];
        let len = u32::try_from(bytes.len()).map_err(std::io::Error::other)?;
        entries.push(Entry::Coded { offset: start as u64, len, crc32c: crc32c::crc32c(bytes) });
    }
    Ok(())
}

/// Replaces `out` by the voxels of a box of the volume.
fn gather<T: Copy>(volume: &[T], shape: [usize; 3], region: &Box3, out: &mut Vec<T>) {
    out.clear();
    for x in region.start[0]..region.end[0] {
        for y in region.start[1]..region.end[1] {
            let row = (x * shape[1] + y) * shape[2];
            out.extend_from_slice(&volume[row + region.start[2]..row + region.end[2]]);
        }
    }
}

/// Counts matching voxels of one chunk; the count always fits a `u32`.
fn count<T>(matching: impl Iterator<Item = T>) -> u32 {
    u32::try_from(matching.count()).expect("a chunk has at most 2^18 voxels")
}
