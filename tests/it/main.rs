//! What crosses the crates: phantoms to shards to batches to weights.

mod fine_tuning;
mod whole_way;
