//! Rendezvous of the ranks: rank 0 listens; the others connect and prove that they know the token.
//!
//! | step | sender | bytes |
//! |---|---|---|
//! | greeting | rank 0 | [`MAGIC`](handshake::MAGIC), random number |
//! | claim | rank | random number, rank and number of ranks (`u32`, little-endian), name, proof over all of these |
//! | answer | rank 0 | [`JOINED`](handshake::JOINED), name, proof over both random numbers |
//! | or | rank 0 | [`MISFIT`](handshake::MISFIT), the reason, proof over both random numbers and the reason |
//! | or | rank 0 | [`UNKNOWN`](handshake::UNKNOWN), the reason: without a proof, which a rank with another token could not check |
//!
//! A text is one byte of length and UTF-8. Nothing that a connection sends before its proof is used or kept, and a
//! connection that does not prove itself in time is dropped without holding up the others. A rank that is refused
//! without a proof, or finds another program at the address, tries again, because any program may have answered.

mod accept;
mod connect;
mod handshake;

use std::io;
use std::path::PathBuf;

use hiend_cache::lease::host_name;

use super::peer::PeerFailure;
pub(super) use accept::accept_all;
pub(super) use connect::connect;

/// Error from bringing the ranks together.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Rank 0 cannot listen.
    #[error("rank 0 cannot listen at {address} (MASTER_ADDR and MASTER_PORT, or --listen)")]
    Listen {
        /// Address that rank 0 tried to listen at.
        address: String,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// Rank 0 cannot announce its address.
    #[error(transparent)]
    Announce(#[from] hiend_cache::FileError),
    /// Some ranks did not join.
    #[error(
        "{} of {num_ranks} ranks joined within {secs} s; missing: {}{}",
        num_ranks - missing.len(), ranges(missing), Refused(*refused, last_refused.as_deref())
    )]
    Missing {
        /// Number of ranks.
        num_ranks: usize,
        /// Ranks that did not join, ascending.
        missing: Vec<usize>,
        /// Time waited, in seconds.
        secs: u64,
        /// Number of connections refused for lack of the token.
        refused: usize,
        /// Address from which the last refused connection came.
        last_refused: Option<String>,
    },
    /// Rank 0 does not answer.
    #[error("rank {rank} cannot reach rank 0 at {address} within {secs} s")]
    Unreachable {
        /// Number of this rank, from 0.
        rank: usize,
        /// Address of rank 0.
        address: String,
        /// Time waited, in seconds.
        secs: u64,
        /// Error of the last attempt.
        #[source]
        source: io::Error,
    },
    /// Rank 0 refused this process.
    #[error("rank 0 at {address} refused rank {rank}: {reason}")]
    Refused {
        /// Number of this rank, from 0.
        rank: usize,
        /// Address of rank 0.
        address: String,
        /// Reason that rank 0 gave.
        reason: String,
    },
    /// The program at the address is not rank 0 of this run.
    #[error("the program at {address} is not rank 0 of this run: {reason}")]
    Stranger {
        /// Address at which rank 0 was expected.
        address: String,
        /// Reason why the program cannot be rank 0.
        reason: &'static str,
    },
    /// A process with the token whose claim contradicts the run.
    #[error("{0}")]
    Misfit(String),
    /// A rank that had joined failed before the others joined.
    #[error(transparent)]
    Peer(#[from] PeerFailure),
    /// A connection cannot be set up.
    #[error("connection to rank {rank}")]
    Setup {
        /// Number of the other rank.
        rank: usize,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

/// Clause of an error text about refused connections.
struct Refused<'a>(usize, Option<&'a str>);

impl std::fmt::Display for Refused<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self(0, _) => Ok(()),
            Self(count, from) => {
                let connections = hiend_loader::program::count(*count, "connection");
                let from = from.unwrap_or("?");
                write!(f, "; refused {connections} without the token of this run, the last from {from}")
            }
        }
    }
}

/// Formats ascending numbers as ranges, such as `1-3, 7`.
pub(super) fn ranges(numbers: &[usize]) -> String {
    let runs = numbers.chunk_by(|a, b| a + 1 == *b);
    let run = |run: &[usize]| match run {
        [one] => one.to_string(),
        [first, .., last] => format!("{first}-{last}"),
        [] => String::new(),
    };
    runs.map(run).collect::<Vec<_>>().join(", ")
}

/// Host and process of this rank.
pub(super) fn own_name() -> String {
    let short: String = host_name().chars().take(100).collect();
    format!("{short}, process {}", std::process::id())
}

/// Path of the file in which rank 0 announces its address to the other ranks that a launcher started.
pub(super) fn announcement(folder: &std::path::Path) -> PathBuf {
    folder.join("address")
}
