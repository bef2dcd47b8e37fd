//! Place of a rank, with its connections.

use super::link::Wire;

/// Place of a thread among the ranks of a model.
#[derive(Debug)]
pub struct World {
    /// Number of this rank, from 0.
    pub rank: usize,
    /// Number of ranks.
    pub num_ranks: usize,
    /// Ends of the connections: rank 0 has one to each other rank, the others have one to rank 0.
    pub wires: Vec<Wire>,
}

impl World {
    /// Returns whether MPI started the ranks, which it does not here.
    #[must_use]
    #[expect(clippy::unused_self, reason = "the method of the trainer's type asks its fields")]
    pub fn is_of_mpi(&self) -> bool {
        false
    }
}
