//! Object storage: a prefix of a bucket as a folder, and objects read block by block through a cache.
//!
//! ```text
//!   Bucket      names, small objects, conditional writes           bucket, connect, environment
//!   Upload      one object written from front to back              upload
//!   RemoteFile  one object read at any offset                      remote
//!     blocks    fetched once, kept on disk or in memory            block, blocks, lru
//! ```
//! The interface blocks. Requests run on a small private runtime ([`runtime`]), which no caller sees: a thread that waits
//! for one may itself belong to another runtime.
//!
//! Requests that the network or the server fails are repeated with exponential back-off by `object_store`, for the time
//! that [`Location::with_retry`](crate::Location::with_retry) sets; a program that waits says so ([`transport`]).
//! Everything else is an error at once.

mod block;
mod blocks;
mod bucket;
mod connect;
mod environment;
mod lru;
mod remote;
mod runtime;
mod transport;
mod upload;

pub(crate) use block::{Block, BlockKey};
pub(crate) use blocks::{BlockStore, MemoryBlocks};
pub(crate) use bucket::{Bucket, Object};
pub(crate) use lru::Lru;
pub(crate) use remote::{IN_FLIGHT_BYTES, RemoteFile};
pub use transport::{Abandoned, abandon_requests, is_abandoned, resume_requests};
pub(crate) use upload::Upload;
