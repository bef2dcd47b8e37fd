//! From CT files to batches: datasets, preprocessing, shards, and the stream of augmented crops.
//!
//! Data flows one way: [`dataset`](crate) finds cases, `preprocess` brings them to one grid, `convert` writes shards
//! with [`hiend_cache`], and `pipeline` turns shards into [`batch::Batch`]es. Nothing here knows tensors or devices.

pub mod batch;
pub mod rng;
pub mod transform;
