//! Memory-mapped, checksummed zstd shards of 3-D volumes.
//!
//! A *cache* is a folder, or a prefix of a bucket in object storage ([`location`]), of write-once [`shard`] files and a
//! [`manifest`]. A shard holds many cases; a case holds an image and, where there is one, a label map, cut into the chunks
//! of a [`grid`]. A chunk is independent stock zstd data ([`codec`]) with a checksum, so that reading a box touches only
//! the chunks it intersects. An [`occupancy`] table per case lets voxels be sampled uniformly over foreground, background
//! or a class without reading the volume.
//!
//! This crate carries geometry (shapes, spacings, affines) but knows nothing of medicine, training or configuration.
//!
//! # Format stability
//! [`shard`] specifies the file format byte for byte. Version 1 is frozen: every release reads the shards and manifests
//! of every earlier one, and a file of a later version is rejected by its number.
//!
//! # Example
//! ```
//! use hiend_cache::{Box3, Cache, CodecPreset, Manifest, NewCase, ShardWriter, VolumeReader, encode};
//!
//! // Store a volume in chunks of 32 x 32 x 32 voxels.
//! let dir = tempfile::tempdir()?;
//! let image: Vec<u16> = (0..40 * 40 * 40).map(|i| (i % 400) as u16).collect();
//! let case = NewCase { image_bits: 9, image_offset: -175.0, ..NewCase::new("Dataset001", "a", [40; 3], &image) };
//! let mut writer = ShardWriter::create(dir.path(), 1, 0)?;
//! writer.push(encode(&case, [32; 3], CodecPreset::Fast)?)?;
//! writer.finish()?;
//! Manifest::update(dir.path(), |_| {})?;
//!
//! // Read a box of it. The meaning of a stored value is `offset + scale * value`.
//! let cache = Cache::open(dir.path())?;
//! let case = cache.case("Dataset001/a").unwrap();
//! let region = Box3 { start: [3, 20, 8], end: [5, 40, 39] };
//! let stored = case.read_box(&region, &mut VolumeReader::new())?;
//! assert_eq!((stored.shape, stored.image[0]), ([2, 20, 31], image[(3 * 40 + 20) * 40 + 8]));
//! assert_eq!((case.record().image.offset, case.record().image.scale), (-175.0, 1.0));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod cache;
mod case;
pub mod claims;
pub mod codec;
pub mod damage;
#[cfg(feature = "object-store")]
pub mod disk_cache;
pub mod durable;
pub mod encode;
mod error;
mod fetch;
pub mod grid;
pub mod index;
pub mod lease;
pub mod location;
pub mod lock;
pub mod lookup;
pub mod manifest;
mod map;
mod naming;
#[cfg(feature = "object-store")]
mod object;
pub mod occupancy;
mod options;
mod place;
pub mod prune;
pub mod record;
pub mod regular;
pub mod seen;
pub mod shard;
pub mod storage;
pub mod user_cache;
pub mod verify;

pub use cache::Cache;
pub use case::{Case, StoredVolume, VolumeReader};
pub use codec::{Codec, CodecPreset, Decoder, Encoder};
pub use damage::{ChunkError, JsonError, ManifestError, ShardError};
#[cfg(feature = "object-store")]
pub use disk_cache::{DiskCache, DiskCacheError, DiskCacheOptions};
pub use encode::{EncodedCase, NewCase, encode};
pub use error::{CaseError, Error, FileError, Result, with_sources};
pub use fetch::{IN_FLIGHT_BYTES, held_bytes};
pub use grid::{Box3, Grid};
pub use index::{ChunkIndex, Entry};
pub use location::{Location, LocationError};
pub use manifest::{DatasetInfo, Manifest};
#[cfg(feature = "object-store")]
pub use object::{Abandoned, abandon_requests, is_abandoned, resume_requests};
pub use occupancy::{Counts, Occupancy};
pub use options::{Copies, OpenOptions};
pub use record::{ArrayRecord, CaseRecord, Geometry, SourceFiles, SourceValues, Span};
pub use shard::list_shards;
pub use shard::reader::{CaseIndex, Shard};
pub use shard::rolling::{RollingShardWriter, Written};
pub use shard::writer::ShardWriter;
pub use storage::Access;
