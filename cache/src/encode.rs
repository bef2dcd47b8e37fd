//! A volume to the bytes of a case: chunks, index and occupancy. Pure computation; [`ShardWriter`] does the writing.
//!
//! [`ShardWriter`]: crate::ShardWriter

use std::collections::BTreeMap;

use crate::codec::{Codec, CodecPreset, Encoder, Voxel};
use crate::error::{Error, Result};
use crate::grid::{Box3, Grid};
use crate::index::Entry;
use crate::occupancy::{Counts, Occupancy};
use crate::shard::record::{ArrayRecord, CaseRecord, Geometry, SourceFiles, Span};

/// The zstd level of every chunk that goes through zstd. Level 9 saves another fiftieth and takes four times as long;
/// decoding is equally fast (`benches/README.md`, table "codec").
pub const LEVEL: i32 = 3;

/// A volume to be stored, z fastest.
#[derive(Clone, Debug)]
pub struct NewCase<'a> {
    /// Name of the dataset.
    pub dataset: String,
    /// Name of the case.
    pub case_id: String,
    /// Voxels along x, y, z.
    pub shape: [usize; 3],
    /// Image samples.
    pub image: &'a [u16],
    /// Significant bits of the image samples.
    pub image_bits: u8,
    /// Value of sample 0.
    pub image_offset: f64,
    /// Value of one step.
    pub image_step: f64,
    /// Samples above this are foreground.
    pub foreground_above: u16,
    /// Label samples.
    pub label: Option<&'a [u8]>,
    /// Where the voxels are.
    pub geometry: Geometry,
    /// What the case was made from.
    pub source: SourceFiles,
    /// Digest of the parameters.
    pub parameters: String,
}

/// A case ready to be appended to a shard. Its offsets count from its own first byte.
#[derive(Clone, Debug)]
pub struct EncodedCase {
    pub(crate) record: CaseRecord,
    pub(crate) chunk: [usize; 3],
    pub(crate) data: Vec<u8>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) occupancy: Vec<u8>,
}

impl EncodedCase {
    /// Bytes that the case will take in a shard, but for its record.
    #[must_use]
    pub fn len(&self) -> u64 {
        (self.data.len() + self.entries.len() * crate::index::ENTRY_LEN + self.occupancy.len()) as u64
    }

    /// Never: a case has at least one chunk.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What the shard will say of the case.
    #[must_use]
    pub fn record(&self) -> &CaseRecord {
        &self.record
    }
}

/// Encodes a volume.
///
/// # Errors
/// If lengths and shape disagree, a sample exceeds the bits promised, or zstd fails.
pub fn encode(case: &NewCase<'_>, chunk: [usize; 3], preset: CodecPreset) -> Result<EncodedCase> {
    let key = || format!("{}/{}", case.dataset, case.case_id);
    let bad = |reason: String| Error::BadCase { case: key(), reason };
    let grid = Grid::new(case.shape, chunk).map_err(bad)?;
    let num_voxels = case.shape.iter().product::<usize>();
    let label_len = case.label.map_or(num_voxels, <[u8]>::len);
    if case.image.len() != num_voxels || label_len != num_voxels {
        let lengths = format!("{} image and {label_len} label voxels", case.image.len());
        return Err(bad(format!("{lengths} for shape {:?}", case.shape)));
    }
    let image_codec = Codec::new(case.image_bits, preset);
    crate::codec::check_fits::<u16>(image_codec, &key())?;
    if let Some(&widest) = case.image.iter().max()
        && u32::from(widest) >> case.image_bits != 0
    {
        return Err(bad(format!("sample {widest} exceeds {} bits", case.image_bits)));
    }
    let label_codec = Codec::new(8, preset);

    let mut encoder = Encoder::new(LEVEL).map_err(|err| bad(err.to_string()))?;
    let mut data = Vec::new();
    let mut entries = Vec::with_capacity(2 * grid.num_chunks());
    let mut foreground = Vec::with_capacity(grid.num_chunks());
    let failed = |err: std::io::Error| bad(format!("zstd: {err}"));
    encode_array(case.image, &grid, &image_codec, &mut encoder, &mut data, &mut entries, |_, samples| {
        foreground.push(count(samples.iter().filter(|&&s| s > case.foreground_above)));
    })
    .map_err(failed)?;
    let mut classes: BTreeMap<u32, Vec<(u32, u32)>> = BTreeMap::new();
    if let Some(label) = case.label {
        encode_array(label, &grid, &label_codec, &mut encoder, &mut data, &mut entries, |idx, samples| {
            let mut counts = [0u32; 256];
            for &s in samples {
                counts[usize::from(s)] += 1;
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
        image: ArrayRecord { codec: image_codec, offset: case.image_offset, step: case.image_step },
        label: case.label.map(|_| ArrayRecord { codec: label_codec, offset: 0.0, step: 1.0 }),
        foreground_above: case.foreground_above,
        geometry: case.geometry.clone(),
        source: case.source.clone(),
        parameters: case.parameters.clone(),
        span: Span::default(),
    };
    let occupancy = Occupancy::new(&grid, &foreground, classes).to_bytes(&grid);
    Ok(EncodedCase { record, chunk, data, entries, occupancy })
}

fn encode_array<T: Voxel>(
    volume: &[T],
    grid: &Grid,
    codec: &Codec,
    encoder: &mut Encoder,
    data: &mut Vec<u8>,
    entries: &mut Vec<Entry>,
    mut look: impl FnMut(u32, &[T]),
) -> std::io::Result<()> {
    let mut samples = Vec::new();
    for idx in 0..grid.num_chunks() {
        let region = grid.chunk_box(idx);
        gather(volume, grid.shape(), &region, &mut samples);
        look(u32::try_from(idx).unwrap_or(u32::MAX), &samples);
        if samples.iter().all(|s| *s == samples[0]) {
            entries.push(Entry::Constant(samples[0].to_u16()));
            continue;
        }
        let start = data.len();
        encoder.encode(codec, region.shape(), &samples, data)?;
        let bytes = &data[start..];
        let len = u32::try_from(bytes.len()).map_err(std::io::Error::other)?;
        entries.push(Entry::Coded { offset: start as u64, len, crc32c: crc32c::crc32c(bytes) });
    }
    Ok(())
}

/// Copies the voxels of a box out of a volume.
fn gather<T: Copy>(volume: &[T], shape: [usize; 3], region: &Box3, out: &mut Vec<T>) {
    out.clear();
    for x in region.start[0]..region.end[0] {
        for y in region.start[1]..region.end[1] {
            let row = (x * shape[1] + y) * shape[2];
            out.extend_from_slice(&volume[row + region.start[2]..row + region.end[2]]);
        }
    }
}

fn count<T>(matching: impl Iterator<Item = T>) -> u32 {
    u32::try_from(matching.count()).expect("a chunk has at most 2^18 voxels")
}
