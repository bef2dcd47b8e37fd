//! Cases of an open cache, and a reader of their voxels.

use std::sync::Arc;

use crate::codec::packed::Packed;
use crate::codec::{Codec, DecodeError, Decoder, Voxel};
use crate::damage::ChunkError;
use crate::error::{CaseError, Error, FileError, Result};
use crate::grid::{Box3, Grid};
use crate::index::{ChunkIndex, Entry};
use crate::record::CaseRecord;
use crate::shard::Shard;
use crate::shard::reader::CaseIndex;

/// A case in an open cache. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Case {
    shard: Arc<Shard>,
    idx: usize,
    key: String,
}

/// Voxels of a case or of a box of it, z fastest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredVolume {
    /// Shape in voxels along x, y, z.
    pub shape: [usize; 3],
    /// Stored image values; [`CaseRecord::image`] gives their meaning.
    pub image: Vec<u16>,
    /// Label map; `None` for a case without labels.
    pub label: Option<Vec<u8>>,
}

impl Case {
    /// Returns the case of record `idx` in a shard, live or superseded.
    pub(crate) fn of(shard: &Arc<Shard>, idx: usize) -> Self {
        Self { shard: Arc::clone(shard), idx, key: shard.cases()[idx].key() }
    }

    /// Name of the case: `DATASET/CASE`.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Position of the record in its shard.
    #[must_use]
    pub fn idx(&self) -> usize {
        self.idx
    }

    /// Record of the case.
    #[must_use]
    pub fn record(&self) -> &CaseRecord {
        &self.shard.cases()[self.idx]
    }

    /// Digest of the case: its name, sources and parameters, as 32 hex digits. Cases with equal digests hold the same voxels.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        self.hash_into(&mut hasher);
        hasher.finalize().to_hex()[..32].to_owned()
    }

    /// Adds name, sources and parameters of the case to a digest.
    pub(crate) fn hash_into(&self, hasher: &mut blake3::Hasher) {
        let record = self.record();
        let label = record.source.label_blake3.as_deref().unwrap_or_default();
        for part in [self.key(), &record.source.image_blake3, label, &record.parameters] {
            hasher.update(part.as_bytes());
            hasher.update(&[0]);
        }
    }

    /// Shard that holds the case.
    #[must_use]
    pub fn shard(&self) -> &Arc<Shard> {
        &self.shard
    }

    /// Reads the whole volume.
    ///
    /// # Errors
    /// If a chunk cannot be read or is corrupt.
    pub fn read_whole(&self, reader: &mut VolumeReader) -> Result<StoredVolume> {
        self.read_box(&Box3::whole(self.record().shape), reader)
    }

    /// Reads the voxels of `region`; reads and decodes only the chunks that it intersects.
    ///
    /// # Errors
    /// If the box is empty or reaches beyond the volume, or a chunk cannot be read or is corrupt.
    pub fn read_box(&self, region: &Box3, reader: &mut VolumeReader) -> Result<StoredVolume> {
        self.check_region(region)?;
        let index = reader.index(self)?;
        let mut image = vec![0; region.num_voxels()];
        reader.image_box(self, &index, region, &mut image)?;
        let mut label = self.record().label.as_ref().map(|_| vec![0; region.num_voxels()]);
        if let Some(label) = &mut label {
            reader.label_box(self, &index, region, label)?;
        }
        Ok(StoredVolume { shape: region.shape(), image, label })
    }

    /// Checks that a box has voxels and lies in the volume.
    fn check_region(&self, region: &Box3) -> Result<()> {
        let shape = self.record().shape;
        if region.is_inside(&Box3::whole(shape)) && !region.shape().contains(&0) {
            return Ok(());
        }
        Err(Error::BadCase { case: self.key.clone(), reason: CaseError::Region { region: *region, shape } })
    }

    /// Advises the operating system that the case's bytes will be read soon; does nothing unless the shard is
    /// memory-mapped.
    pub fn will_need(&self) {
        let span = &self.record().span;
        self.shard.storage().will_need(span.offset, usize::try_from(span.len()).unwrap_or(usize::MAX));
    }
}

/// Reads chunks and boxes; holds a decoder and its buffers. Each thread needs its own.
#[derive(Default)]
pub struct VolumeReader {
    decoder: Option<Decoder>,
    bytes: Vec<u8>,
    image_chunk: Vec<u16>,
    label_chunk: Vec<u8>,
}

/// One array of a case: its name, its chunks and their codec.
#[derive(Clone, Copy)]
struct Array<'a> {
    name: &'static str,
    chunks: &'a ChunkIndex,
    codec: &'a Codec,
}

impl<'a> Array<'a> {
    fn image(case: &'a Case, index: &'a CaseIndex) -> Self {
        Self { name: "image", chunks: &index.image, codec: &case.record().image.codec }
    }

    fn label(case: &'a Case, index: &'a CaseIndex) -> Result<Self> {
        let (Some(chunks), Some(record)) = (&index.label, &case.record().label) else {
            return Err(Error::BadCase { case: case.key.clone(), reason: CaseError::NoLabels });
        };
        Ok(Self { name: "label", chunks, codec: &record.codec })
    }
}

impl VolumeReader {
    /// Creates a reader; allocates nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Buffer for encoded bytes.
    #[cfg(feature = "object-store")]
    pub(crate) fn scratch(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Reads the index of a case.
    ///
    /// # Errors
    /// If it cannot be read or is damaged.
    pub fn index(&mut self, case: &Case) -> Result<CaseIndex> {
        case.shard.read_index(case.record(), &mut self.bytes)
    }

    /// Reads the image voxels of `region` into `values`.
    ///
    /// # Errors
    /// If the box is empty or reaches beyond the volume, or a chunk cannot be read or is corrupt.
    ///
    /// # Panics
    /// If `values` does not have the box's number of voxels.
    pub fn image_box(&mut self, case: &Case, index: &CaseIndex, region: &Box3, values: &mut [u16]) -> Result<()> {
        let mut chunk = std::mem::take(&mut self.image_chunk);
        let result = self.region(case, &index.grid, Array::image(case, index), region, &mut chunk, values);
        self.image_chunk = chunk;
        result
    }

    /// Reads the label voxels of `region` into `values`.
    ///
    /// # Errors
    /// If the case has no labels, the box is empty or reaches beyond the volume, or a chunk cannot be read or is corrupt.
    ///
    /// # Panics
    /// If `values` does not have the box's number of voxels.
    pub fn label_box(&mut self, case: &Case, index: &CaseIndex, region: &Box3, values: &mut [u8]) -> Result<()> {
        let array = Array::label(case, index)?;
        let mut chunk = std::mem::take(&mut self.label_chunk);
        let result = self.region(case, &index.grid, array, region, &mut chunk, values);
        self.label_chunk = chunk;
        result
    }

    /// Reads one image chunk into `values`, resized to the chunk's number of voxels.
    ///
    /// # Errors
    /// If it cannot be read or is corrupt.
    pub fn image_chunk(&mut self, case: &Case, index: &CaseIndex, chunk: usize, values: &mut Vec<u16>) -> Result<()> {
        let part = Box3::whole(index.grid.chunk_box(chunk).shape());
        self.image_part(case, index, chunk, &part, values)
    }

    /// Reads at least `part` of one image chunk, a box of the chunk's own voxels, into `values`.
    ///
    /// Resizes `values` to the whole chunk; the content outside the part is unspecified.
    ///
    /// # Errors
    /// If it cannot be read or is corrupt.
    pub fn image_part(
        &mut self,
        case: &Case,
        index: &CaseIndex,
        chunk: usize,
        part: &Box3,
        values: &mut Vec<u16>,
    ) -> Result<()> {
        self.part(case, &index.grid, Array::image(case, index), chunk, part, values)
    }

    /// Passes the packed bytes of one image chunk to `use_packed`, once their checksum is verified, and returns its
    /// result. `None` if the chunk is constant; its value is in the index.
    ///
    /// # Errors
    /// If the codec of the image is not [`Codec::Packed`], or the chunk cannot be read or is corrupt.
    pub fn image_packed<R>(
        &mut self,
        case: &Case,
        index: &CaseIndex,
        chunk: usize,
        mut use_packed: impl FnMut(Packed, &[u8]) -> std::result::Result<R, DecodeError>,
    ) -> Result<Option<R>> {
        let array = Array::image(case, index);
        let Codec::Packed(packed) = *array.codec else {
            return Err(Error::BadCase { case: case.key.clone(), reason: CaseError::NotPacked });
        };
        let shape = index.grid.chunk_box(chunk).shape();
        self.coded(case, array, chunk, |decoder, bytes| {
            let bytes = decoder.packed_bytes(packed, shape, bytes)?;
            use_packed(packed, bytes)
        })
    }

    /// Reads one label chunk into `values`, resized to the chunk's number of voxels.
    ///
    /// # Errors
    /// If the case has no labels, or the chunk cannot be read or is corrupt.
    pub fn label_chunk(&mut self, case: &Case, index: &CaseIndex, chunk: usize, values: &mut Vec<u8>) -> Result<()> {
        let part = Box3::whole(index.grid.chunk_box(chunk).shape());
        self.label_part(case, index, chunk, &part, values)
    }

    /// Reads at least `part` of one label chunk, as [`Self::image_part`] does for images.
    ///
    /// # Errors
    /// If the case has no labels, or the chunk cannot be read or is corrupt.
    pub fn label_part(
        &mut self,
        case: &Case,
        index: &CaseIndex,
        chunk: usize,
        part: &Box3,
        values: &mut Vec<u8>,
    ) -> Result<()> {
        self.part(case, &index.grid, Array::label(case, index)?, chunk, part, values)
    }

    /// Reads a box of an array chunk by chunk; `chunk_values` is a buffer.
    fn region<T: Voxel>(
        &mut self,
        case: &Case,
        grid: &Grid,
        array: Array<'_>,
        region: &Box3,
        chunk_values: &mut Vec<T>,
        values: &mut [T],
    ) -> Result<()> {
        case.check_region(region)?;
        assert_eq!(values.len(), region.num_voxels(), "the buffer has the size of the box");
        for chunk in grid.chunks_meeting(region) {
            let chunk_box = grid.chunk_box(chunk);
            let Some(common) = region.intersection(&chunk_box) else { continue };
            let part = relative(&common, &chunk_box);
            self.part(case, grid, array, chunk, &part, chunk_values)?;
            copy_box(chunk_values, &chunk_box, &common, values, region);
        }
        Ok(())
    }

    /// Reads at least a part of one chunk of an array.
    fn part<T: Voxel>(
        &mut self,
        case: &Case,
        grid: &Grid,
        array: Array<'_>,
        chunk: usize,
        part: &Box3,
        values: &mut Vec<T>,
    ) -> Result<()> {
        let shape = grid.chunk_box(chunk).shape();
        values.resize(shape.iter().product(), T::default());
        if let Entry::Constant(value) = array.chunks.entries[chunk] {
            values.fill(T::from_u16(value));
            return Ok(());
        }
        self.coded(case, array, chunk, |decoder, bytes| decoder.decode_part(array.codec, shape, part, bytes, values))?;
        Ok(())
    }

    /// Passes the bytes of one chunk of an array to `decode`, once their checksum is verified; `None` if the chunk is
    /// constant.
    fn coded<R>(
        &mut self,
        case: &Case,
        array: Array<'_>,
        chunk: usize,
        mut decode: impl FnMut(&mut Decoder, &[u8]) -> std::result::Result<R, DecodeError>,
    ) -> Result<Option<R>> {
        let Entry::Coded { offset, len, crc32c } = array.chunks.entries[chunk] else { return Ok(None) };
        let len = len as usize;
        let path = case.shard.path();
        let decoder = match &mut self.decoder {
            Some(decoder) => decoder,
            none => none.insert(Decoder::new().map_err(FileError::at(path, "create a zstd decoder for"))?),
        };
        let mut decode = |bytes: &[u8]| {
            if crc32c::crc32c(bytes) != crc32c {
                return Err(ChunkError::Checksum);
            }
            Ok(decode(decoder, bytes)?)
        };
        let storage = case.shard.storage();
        let mut result = storage.with_bytes(offset, len, &mut self.bytes, &mut decode)?;
        if matches!(result, Err(ChunkError::Checksum)) && storage.discard(offset, len as u64) {
            // Bytes from object storage are fetched once more.
            result = storage.with_bytes(offset, len, &mut self.bytes, &mut decode)?.map_err(|reason| match reason {
                ChunkError::Checksum => ChunkError::Fetched { start: offset, end: offset + len as u64 },
                reason => reason,
            });
        }
        result.map(Some).map_err(|reason| Error::CorruptChunk {
            path: path.to_owned(),
            case: case.key.clone(),
            array: array.name,
            chunk,
            reason,
        })
    }
}

/// Converts `inner` to coordinates relative to the start of `outer`, which contains it.
fn relative(inner: &Box3, outer: &Box3) -> Box3 {
    let shift = |at: [usize; 3]| std::array::from_fn(|axis| at[axis] - outer.start[axis]);
    Box3 { start: shift(inner.start), end: shift(inner.end) }
}

/// Copies the voxels of `common` from the array over box `from_box` to the one over box `to_box`; both contain it.
fn copy_box<T: Copy>(from: &[T], from_box: &Box3, common: &Box3, to: &mut [T], to_box: &Box3) {
    let len = common.shape()[2];
    let row = |of: &Box3, x: usize, y: usize| {
        let [_, ny, nz] = of.shape();
        ((x - of.start[0]) * ny + y - of.start[1]) * nz + common.start[2] - of.start[2]
    };
    for x in common.start[0]..common.end[0] {
        for y in common.start[1]..common.end[1] {
            let (source, target) = (row(from_box, x, y), row(to_box, x, y));
            to[target..target + len].copy_from_slice(&from[source..source + len]);
        }
    }
}
