//! Training by several processes, which find each other, exchange facts, add gradients, and fail together.
//!
//! ```text
//!   world        rank, number of ranks and address of rank 0, from the environment of torchrun, Slurm or Kubernetes
//!   launcher     starts the ranks of one machine as child processes (`--devices cpu,cpu`), and restarts them
//!   rendezvous   rank 0 listens at one address; a rank proves that it knows the token, and gets a connection
//!   link         one connection: a thread that reads, a thread that writes and sends heartbeats
//!   group        the ranks of a run: small values gathered from all, one failure that ends all
//!   all_reduce   interface for sums of gradients: over the group's own connections (`tcp_sum`), with NCCL (`nccl`) or MPI
//!                (`mpi`), as `selection` decides
//!   sums         a thread that sums gradients during the backward pass
//! ```
//!
//! Every rank has one connection, to rank 0. A rank that fails says so; a rank that is killed closes its connection; a
//! rank that hangs sends no heartbeat; a rank that computes without end sends heartbeats but does not arrive at the
//! next exchange. Each of these ends every rank within a stated time ([`Timeouts`]), with the same [`PeerFailure`] on
//! all of them. A group never continues with fewer ranks.
//!
//! Knows tensors (in `tcp_sum`, `nccl`, `mpi`, `sums` and `all_reduce`), but neither models nor training.

mod all_reduce;
mod group;
mod group_core;
mod inbox;
mod incoming;
mod launcher;
mod link;
mod mpi;
#[cfg(feature = "cuda")]
#[expect(unsafe_code, reason = "hands device pointers to a C library")]
pub(crate) mod nccl;
mod nodelist;
mod pairwise;
mod peer;
mod rendezvous;
mod selection;
mod sums;
mod tcp_sum;
mod token;
mod wire;
mod world;

#[cfg(feature = "mpi")]
pub use self::mpi::MpiSum;
pub use self::mpi::{Mpi, MpiError};
pub use all_reduce::{AllReduce, ReduceError};
pub use group::{Gathered, ProcessGroup, Timeouts};
pub use launcher::{
    Children, LaunchError, die_with_launcher, is_restart, leave_error, leave_loss, mark_begun, own_children,
};
pub use pairwise::Pairwise;
pub use peer::{Cause, PeerFailure};
pub use rendezvous::JoinError;
pub use selection::all_reduce_for;
pub use sums::{Requests, Sums};
pub use tcp_sum::TcpSum;
pub use token::{Token, TokenError};
pub use world::{Launcher, Listener, Master, MpiAddress, World, WorldError};
