//! From CT files to batches: datasets, preprocessing, shards, and the stream of augmented crops.
//!
//! Data flows one way: [`dataset`] finds [`case`]s, [`nifti`] reads them, [`preprocess`] brings them to one grid,
//! [`convert`] writes shards with [`hiend_cache`], and [`pipeline`] turns shards into [`batch`]es. Nothing here knows
//! tensors or devices.

#![allow(
    clippy::cast_precision_loss,
    reason = "voxel counts and indices become floats in geometry and rates; none comes near 2^52"
)]

pub mod batch;
pub mod budget;
pub mod case;
pub mod cli;
pub mod commands;
pub mod convert;
pub mod dataset;
pub mod epoch;
pub mod geometry;
pub mod mix;
pub mod nifti;
pub mod phantom;
pub mod picture;
pub mod pipeline;
pub mod plan;
pub mod preprocess;
pub mod replay;
pub mod rng;
pub mod sampler;
pub mod scan;
pub mod split;
pub mod stats;
pub mod transform;
pub mod verdict;
pub mod visit;
