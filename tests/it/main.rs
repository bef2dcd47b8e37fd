//! What crosses the crates: phantoms to shards to batches to weights.

mod whole_way;
