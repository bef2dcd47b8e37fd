//! Loader of CT volumes: from NIfTI, NRRD, `MetaImage` and DICOM files to checksummed shards, and from shards to batches
//! of augmented 3-D crops.
//!
//! Data flows one way: [`dataset`] finds [`case`]s, [`volume`] reads them, [`preprocess`] brings them to one orientation,
//! spacing and value range, [`convert`] writes shards with [`hiend_cache`], and [`pipeline`] streams [`batch`]es from
//! them. A batch is a pure function of seed, step, configuration and cache. Nothing here depends on tensors or devices.
//!
//! # Example
//! Draws phantoms, converts them to shards, and reads two batches of crops:
//!
//! ```
//! use std::sync::Arc;
//!
//! use hiend_loader::convert::Conversion;
//! use hiend_loader::phantom::{PhantomConfig, write_dataset};
//! use hiend_loader::preprocess::PreprocessConfig;
//! use hiend_loader::{Cache, Loader, LoaderOptions, StreamConfig, dataset};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dir = tempfile::tempdir()?;
//! let (raw, shards) = (dir.path().join("raw"), dir.path().join("shards"));
//! let phantoms = PhantomConfig { cases: 2, spacing_mm: [6.0, 8.0], ..PhantomConfig::default() };
//! write_dataset(&raw.join("Dataset001_Phantom"), &phantoms)?;
//!
//! let config = PreprocessConfig { spacing: Some([6.0; 3]), ..PreprocessConfig::default() };
//! let datasets = dataset::find(&raw)?;
//! Conversion::new(&raw, &datasets, &shards).config(config).run()?;
//!
//! let config = StreamConfig { crop_size: [24; 3], crops_per_visit: 4, visits_per_batch: 2, ..StreamConfig::default() };
//! let loader = Loader::open(Arc::new(Cache::open(&shards)?), config, 42, &LoaderOptions::default())?;
//! for batch in loader.stream(0).take(2) {
//!     let batch = batch?;
//!     assert_eq!(batch.shape, [8, 1, 24, 24, 24]);
//!     assert!(batch.to_floats().iter().all(|value| value.is_finite()));
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Features
//! `cli`, on by default, adds the commands of the program `hiend-shard` ([`commands`]) and the habits that it shares
//! with other programs ([`program`]). Without it, this library depends on no crate for command lines and terminals.

#![allow(
    clippy::cast_precision_loss,
    reason = "voxel counts and indices become floats in geometry and rates; none comes near 2^52"
)]

pub mod batch;
#[cfg(feature = "client")]
mod blocks;
pub mod budget;
pub mod case;
mod caught;
#[cfg(feature = "cli")]
mod cli;
#[cfg(feature = "cli")]
pub mod commands;
pub mod convert;
pub mod dataset;
pub mod epoch;
mod escape;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod geometry;
mod meter;
pub mod mix;
pub mod nearest;
#[cfg(feature = "client")]
mod pem;
pub mod phantom;
pub mod picture;
pub mod pipeline;
pub mod plan;
pub mod plural;
pub mod preprocess;
#[cfg(feature = "cli")]
pub mod program;
#[cfg(feature = "client")]
pub mod remote;
pub mod replay;
#[cfg(feature = "cli")]
pub mod report;
pub mod rng;
pub mod sampler;
pub mod scan;
#[cfg(feature = "serve")]
pub mod service;
#[cfg(feature = "client")]
mod shared_memory;
pub mod split;
pub mod stats;
pub mod stop;
mod streaming;
mod sync;
pub mod transform;
mod unseen;
pub mod verdict;
pub mod visit;
pub mod volume;
#[cfg(feature = "client")]
mod wire;

pub use batch::{Batch, Images};
pub use hiend_cache::Cache;
pub use pipeline::{Loader, LoaderOptions, StreamConfig};
