//! Protocol of the loader service (`proto/hiend/loader/v1/loader.proto`): its messages, and their conversion from and
//! to the types of this crate.
//!
//! Everything that arrives is checked here before it is used: [`spec`] checks on the server, [`batch`] on the client.

#![cfg_attr(not(feature = "serve"), allow(dead_code, reason = "a client needs one side of it"))]

pub(crate) mod batch;
pub(crate) mod framing;
#[cfg(test)]
mod fuzz;
#[cfg(any(test, feature = "fuzzing"))]
#[allow(unreachable_pub, reason = "public with the feature `fuzzing`")]
pub mod hostile;
pub(crate) mod spec;

/// Messages generated from the protocol file, which documents them.
#[allow(
    clippy::all,
    clippy::pedantic,
    missing_docs,
    unreachable_pub,
    reason = "generated code; the contract has the documentation"
)]
mod generated {
    tonic::include_proto!("hiend.loader.v1");
}

pub(crate) use generated::*;

/// Paths of the methods.
pub(crate) mod path {
    /// Opens a stream: [`super::OpenRequest`] to [`super::StreamFacts`].
    pub(crate) const OPEN: &str = "/hiend.loader.v1.Loader/Open";
    /// Fetches a batch: [`super::FetchRequest`] to frames.
    pub(crate) const FETCH: &str = "/hiend.loader.v1.Loader/Fetch";
    /// Allocates shared memory: [`super::ShareRequest`] to [`super::SharedMemory`].
    pub(crate) const SHARE: &str = "/hiend.loader.v1.Loader/Share";
}

/// Version that client and server must share, because batches of other versions may differ. The number after `+`
/// increases whenever the meaning of messages changes within one version of the program.
pub(crate) const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "+2");

/// Suffix of the Unix socket over which file descriptors are passed, appended to the path of the service's socket.
pub(crate) const FD_SUFFIX: &str = ".fd";

/// Length in bytes of the ticket that authenticates a request for a file descriptor.
pub(crate) const TICKET_LEN: usize = 16;

// Voxels travel as they lie in memory.
const _: () = assert!(cfg!(target_endian = "little"), "the contract is little-endian");
