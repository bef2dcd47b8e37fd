//! Records: a shard's description of each case. The JSON keys are the field names unless an attribute says otherwise.

use serde::{Deserialize, Serialize};

use crate::codec::Codec;
use crate::grid::{Box3, Grid, GridError};

/// Directory of a shard: everything a reader needs before it reads a case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Directory {
    /// Shape of the chunks of every array in this shard.
    pub chunk: [usize; 3],
    /// Records in the order of the cases' data.
    pub cases: Vec<CaseRecord>,
}

/// Record of a case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaseRecord {
    /// Name of the dataset the case belongs to.
    pub dataset: String,
    /// Name of the case, unique in its dataset.
    pub case_id: String,
    /// Shape in voxels along x, y, z (RAS+).
    pub shape: [usize; 3],
    /// Encoding of the image.
    pub image: ArrayRecord,
    /// Encoding of the label map; `None` for a case without labels.
    pub label: Option<ArrayRecord>,
    /// Largest stored image value that counts as background.
    pub foreground_above: u16,
    /// Position of the voxels in the world, before and after preprocessing.
    pub geometry: Geometry,
    /// Files that the case was made from.
    pub source: SourceFiles,
    /// Digest of the preprocessing parameters.
    pub parameters: String,
    /// Values of the source image before preprocessing; `None` in records of programs that did not count them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub values: Option<SourceValues>,
    /// Position of the chunks and the index in the shard.
    pub span: Span,
}

/// Values of a source image before preprocessing, in the image's own unit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceValues {
    /// Lowest value of the image.
    pub min: f64,
    /// Highest value of the image.
    pub max: f64,
    /// Share of voxels at or below the lower end of the range that preprocessing keeps.
    pub below: f64,
    /// Share of voxels at or above the upper end of the range that preprocessing keeps.
    pub above: f64,
    /// Share of voxels that are air or padding.
    pub air: f64,
    /// Mean that preprocessing subtracted, for an image stored as z-scores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean: Option<f64>,
    /// Standard deviation that preprocessing divided by, for an image stored as z-scores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub std: Option<f64>,
    /// Unusual features of the file, one sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<String>,
    /// Values of the source's label map that no stored voxel has, in ascending order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost_labels: Vec<u8>,
}

impl CaseRecord {
    /// Name of the case in a cache: `DATASET/CASE`.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}/{}", self.dataset, self.case_id)
    }

    /// Grid of the case's chunks, for the chunk shape of its shard.
    ///
    /// # Errors
    /// If the two shapes do not make a grid.
    pub(crate) fn grid(&self, chunk: [usize; 3]) -> Result<Grid, GridError> {
        Grid::new(self.shape, chunk)
    }
}

/// Encoding of an array and the meaning of its stored values: `offset + scale * value`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArrayRecord {
    /// Codec of every chunk.
    pub codec: Codec,
    /// Meaning of the stored value 0: in HU for a CT image, in standard deviations for z-scores.
    pub offset: f64,
    /// Difference in meaning between consecutive stored values: the quantization width, in HU for a CT image.
    #[serde(rename = "step")]
    pub scale: f64,
}

/// Position of the voxels in the world.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Geometry {
    /// Spacing of the stored volume along x, y, z, in mm.
    pub spacing: [f64; 3],
    /// `world_from_voxel` of the stored volume: from voxel indices to RAS+ millimetres, row-major.
    pub affine: [[f64; 4]; 4],
    /// Shape of the source array, with its axes in file order.
    pub source_shape: [usize; 3],
    /// `world_from_voxel` of the source array.
    pub source_affine: [[f64; 4]; 4],
    /// Part of the resampled volume that is stored: the bounding box of its foreground.
    pub foreground_box: Box3,
}

impl Geometry {
    /// Geometry of a volume with 1 mm voxels at the origin that was stored whole.
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

/// Files that a case was made from, with the BLAKE3 hashes of their bytes in hex.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceFiles {
    /// Path of the image file, relative to the converted folder.
    pub image: String,
    /// Hash of the image file.
    pub image_blake3: String,
    /// Path of the label file, relative to the converted folder.
    pub label: Option<String>,
    /// Hash of the label file.
    pub label_blake3: Option<String>,
    /// Total size of the files in bytes.
    pub bytes: u64,
    /// Modification time of the image file in nanoseconds since 1970, or for several files one number derived from all
    /// their times. `None` if a file was read so soon after its modification that a later change could have the same
    /// time. Unchanged sizes and times save hashing the files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_modified_ns: Option<i64>,
    /// Modification time of the label file, as for the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_modified_ns: Option<i64>,
    /// Absolute path of the converted folder, without links; `None` in records of programs that did not note it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
}

/// Position of a case in its shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Span {
    /// Offset of the first chunk's first byte.
    pub offset: u64,
    /// Total length of the chunks in bytes.
    pub data_len: u64,
    /// Length in bytes of the index, which follows the chunks.
    pub index_len: u64,
    /// CRC-32C of the index.
    pub index_crc32c: u32,
}

impl Span {
    /// Length of chunks and index in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a case is never empty")]
    pub fn len(&self) -> u64 {
        self.data_len + self.index_len
    }

    /// Offset of the first byte of the index.
    pub(crate) fn index_offset(&self) -> u64 {
        self.offset + self.data_len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Existing files hold these keys: renaming a field must not rename its key.
    #[test]
    fn json_keys_are_those_of_format_version_1() {
        let json = serde_json::json!({
            "chunk": [32, 32, 32],
            "cases": [{
                "dataset": "D", "case_id": "a", "shape": [2, 3, 4],
                "image": {"codec": {"id": "packed", "bits": 9}, "offset": -175.0, "step": 1.0},
                "label": {"codec": {"id": "planes", "bits": 8, "raw_bits": 0}, "offset": 0.0, "step": 1.0},
                "foreground_above": 0,
                "geometry": {
                    "spacing": [1.0, 1.0, 1.0],
                    "affine": [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]],
                    "source_shape": [2, 3, 4],
                    "source_affine": [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]],
                    "foreground_box": {"start": [0, 0, 0], "end": [2, 3, 4]}
                },
                "source": {"image": "a.nii.gz", "image_blake3": "00", "label": null, "label_blake3": null, "bytes": 7},
                "parameters": "p",
                "span": {"offset": 32, "data_len": 5, "index_len": 6, "index_crc32c": 7}
            }]
        });
        let directory: Directory = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(serde_json::to_value(&directory).unwrap(), json);
        let case = &directory.cases[0];
        assert_eq!((case.key().as_str(), case.image.scale, case.span.len()), ("D/a", 1.0, 11));
        assert_eq!(case.geometry, Geometry::identity([2, 3, 4]));
    }
}
