//! Memory-mapped, checksummed zstd shards of 3-D volumes.
//!
//! A *cache* is a folder of write-once [`shard`] files and a [`manifest`]. A shard holds many cases; a case holds an
//! image and, where there is one, a label map, cut into [`grid`] chunks; a chunk is independent stock zstd data
//! ([`codec`]) with a checksum, so that reading a box touches only the chunks that it meets. Next to the chunks lies
//! an [`occupancy`] table, from which voxels are drawn uniformly over foreground, background or a class without
//! reading the volume.
//!
//! This crate carries geometry (shapes, spacings, affines) but knows nothing of medicine, training or configuration.
//! The file format is specified byte for byte in [`shard`].
//!
//! ```
//! use hiend_cache::{Cache, Geometry, Manifest, NewCase, CodecPreset, ShardWriter, SourceFiles, VolumeReader};
//!
//! let dir = tempfile::tempdir()?;
//! let image: Vec<u16> = (0..40 * 40 * 40).map(|i| (i % 400) as u16).collect();
//! let case = NewCase {
//!     dataset: "Dataset001_Demo".into(),
//!     case_id: "a".into(),
//!     shape: [40, 40, 40],
//!     image: &image,
//!     image_bits: 9,
//!     image_offset: -175.0,
//!     image_step: 1.0,
//!     foreground_above: 0,
//!     label: None,
//!     geometry: Geometry::identity([40, 40, 40]),
//!     source: SourceFiles::default(),
//!     parameters: "demo".into(),
//! };
//! let mut writer = ShardWriter::create(dir.path(), 1, 0)?;
//! writer.push(hiend_cache::encode(&case, [32; 3], CodecPreset::Fast)?)?;
//! writer.finish()?;
//! Manifest::default().write(dir.path())?;
//!
//! let cache = Cache::open(dir.path())?;
//! let mut reader = VolumeReader::new();
//! let stored = cache.cases()[0].read_whole(&mut reader)?;
//! assert_eq!(stored.image, image);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod cache;
pub mod codec;
pub mod durable;
pub mod encode;
pub mod error;
pub mod grid;
pub mod index;
pub mod lock;
pub mod lookup;
pub mod manifest;
pub mod occupancy;
pub mod prune;
pub mod shard;
pub mod storage;
pub mod verify;

pub use cache::{Cache, Case, StoredVolume, VolumeReader};
pub use codec::{CodecPreset, Decoder, Encoder};
pub use encode::{EncodedCase, NewCase, encode};
pub use error::{Error, FileError, Result};
pub use grid::{Box3, Grid};
pub use manifest::{DatasetInfo, Manifest};
pub use shard::record::{CaseRecord, Geometry, SourceFiles};
pub use shard::writer::ShardWriter;
pub use storage::Access;
