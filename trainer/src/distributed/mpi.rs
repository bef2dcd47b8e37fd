//! Ranks started by `mpirun`: their places, and sums of gradients between CPUs by MPI.
//!
//! MPI assigns the ranks and says which of them share a machine. Rank 0 opens a socket and sends the others its
//! address and a token; the group's connections detect failures and carry facts as in every other run, because MPI
//! itself does not notice ranks that hang. Gradients go through MPI.
//!
//! # Order of additions
//!
//! `MPI_Allreduce` may add in any order, which depends on the library, the number of ranks and the length. So MPI moves
//! values only, and ranks add them: each receives its slice of a bucket from all ranks (`MPI_Alltoall`), adds the parts in
//! pairs in rank order, as the sum over TCP does, and gives the sum to all (`MPI_Allgather`). The bits are those of the sum
//! over TCP, while each rank moves 2 (N - 1) / N times the gradients instead of rank 0 alone 2 (N - 1) times.
//!
//! # Failure
//!
//! Errors of MPI end all ranks by MPI's own means, with its message. `mpirun` ends the others when a rank is killed or ends
//! without [`Mpi::end`]. A rank that waits in MPI for a lost one does not return; the run ends on another thread.

#[cfg_attr(feature = "mpi", path = "mpi/linked.rs")]
#[cfg_attr(not(feature = "mpi"), path = "mpi/absent.rs")]
mod library;

pub use library::Mpi;
#[cfg(feature = "mpi")]
pub use library::MpiSum;

use super::rendezvous::JoinError;
use super::token::TokenError;
use crate::variable::NotText;

/// Error from starting MPI.
#[derive(Debug, thiserror::Error)]
pub enum MpiError {
    /// This program was built without MPI.
    #[error(
        "mpirun started this process, but the program was built without MPI; build it with --features mpi, or run as \
         one process with --ranks none"
    )]
    NotBuilt,
    /// MPI was already started in this process.
    #[error("MPI was started twice in one process")]
    Twice,
    /// The library does not allow calls from threads other than the first.
    #[error(
        "this MPI library allows calls from the main thread only (MPI_THREAD_FUNNELED), MPI_THREAD_SERIALIZED is needed"
    )]
    Threads,
    /// Rank 0 cannot listen.
    #[error(transparent)]
    Listen(#[from] JoinError),
    /// The shared secret of the ranks cannot be created.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// A variable of rank 0 with a value that is not text.
    #[error(transparent)]
    NotText(#[from] NotText),
    /// Rank 0 runs another version of this program, whose announcement cannot be parsed.
    #[error("rank 0 sent an address that this version cannot parse; run the same version on all ranks")]
    Announcement(#[source] serde_json::Error),
}
