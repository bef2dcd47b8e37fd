//! What a shard's directory says of each case. The JSON keys are the field names.

use serde::{Deserialize, Serialize};

use crate::codec::Codec;
use crate::grid::{Box3, Grid};

/// The directory: everything a reader needs before it touches a case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Directory {
    /// Shape of the chunks of every array in this shard.
    pub chunk: [usize; 3],
    /// The cases, in the order of their data.
    pub cases: Vec<CaseRecord>,
}

/// One case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaseRecord {
    /// Name of the dataset the case belongs to.
    pub dataset: String,
    /// Name of the case in its dataset.
    pub case_id: String,
    /// Voxels along x, y, z (RAS+).
    pub shape: [usize; 3],
    /// The image.
    pub image: ArrayRecord,
    /// The label map, if there is one.
    pub label: Option<ArrayRecord>,
    /// A voxel is foreground if its stored image value is above this.
    pub foreground_above: u16,
    /// Where the voxels lie in the world, before and after preprocessing.
    pub geometry: Geometry,
    /// The files this case was made from.
    pub source: SourceFiles,
    /// Digest of the parameters it was made with.
    pub parameters: String,
    /// Where the chunks and the index lie.
    pub span: Span,
}

impl CaseRecord {
    /// `DATASET/CASE`, the case's name in a cache.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}/{}", self.dataset, self.case_id)
    }

    /// The chunks of this case.
    ///
    /// # Errors
    /// If shape and chunk make no grid.
    pub fn grid(&self, chunk: [usize; 3]) -> Result<Grid, String> {
        Grid::new(self.shape, chunk)
    }
}

/// How an array's samples are coded and what they mean.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArrayRecord {
    /// The codec of every chunk.
    pub codec: Codec,
    /// Meaning of a stored sample s: the value is `offset + step * s`.
    pub offset: f64,
    /// See [`Self::offset`].
    pub step: f64,
}

/// Where the voxels are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Geometry {
    /// Voxel side lengths of the stored volume along x, y, z, in mm.
    pub spacing: [f64; 3],
    /// `world_from_voxel` of the stored volume: RAS+ millimetres from voxel indices, row-major.
    pub affine: [[f64; 4]; 4],
    /// Shape of the source array, as it lies in the file.
    pub source_shape: [usize; 3],
    /// `world_from_voxel` of the source array.
    pub source_affine: [[f64; 4]; 4],
    /// The part of the resampled volume that was kept: the bounding box of its foreground.
    pub foreground_box: Box3,
}

impl Geometry {
    /// Voxels of 1 mm at the origin, nothing cut off.
    #[must_use]
    pub fn identity(shape: [usize; 3]) -> Self {
        let affine = std::array::from_fn(|r| std::array::from_fn(|c| f64::from(u8::from(r == c))));
        Self {
            spacing: [1.0; 3],
            affine,
            source_shape: shape,
            source_affine: affine,
            foreground_box: Box3 { start: [0; 3], end: shape },
        }
    }
}

/// The files a case was made from, and the BLAKE3 hash of their bytes in hex.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceFiles {
    /// The image file, relative to the folder that was converted.
    pub image: String,
    /// Its hash.
    pub image_blake3: String,
    /// The label file.
    pub label: Option<String>,
    /// Its hash.
    pub label_blake3: Option<String>,
    /// Bytes of the files together.
    pub bytes: u64,
    /// When the image file was last changed, in nanoseconds since 1970; `None` if that was too short before it was
    /// read to tell a later change by it. Size and times spare hashing what has not changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_modified_ns: Option<i64>,
    /// When the label file was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_modified_ns: Option<i64>,
}

/// Where a case lies in its shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Span {
    /// First byte of the chunks.
    pub offset: u64,
    /// Bytes of the chunks.
    pub data_len: u64,
    /// Bytes of the index, which follows the chunks.
    pub index_len: u64,
    /// CRC-32C of the index.
    pub index_crc32c: u32,
}

impl Span {
    /// Bytes of chunks and index.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a case is never empty")]
    pub fn len(&self) -> u64 {
        self.data_len + self.index_len
    }

    /// First byte of the index.
    #[must_use]
    pub fn index_offset(&self) -> u64 {
        self.offset + self.data_len
    }
}
