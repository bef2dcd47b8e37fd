//! Failures of a rank, as the other ranks see them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A failure of a rank, which ends all ranks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("rank {rank} ({name}) {cause}")]
pub struct PeerFailure {
    /// Number of the rank, from 0.
    pub rank: usize,
    /// Host and process of the rank.
    pub name: String,
    /// Kind of the failure.
    pub cause: Cause,
}

/// Kind of failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// The connection was closed without a message.
    Closed,
    /// Neither data nor a heartbeat arrived for this many seconds.
    Silent(u64),
    /// Heartbeats arrived, but the rank did not reach the next exchange for this many seconds.
    Late(u64),
    /// The rank failed and reported its error.
    Failed(String),
    /// The rank was asked to stop while it waited for data, and reported the data that did not arrive.
    Stopped(String),
    /// The rank sent something that the protocol does not expect.
    Protocol(String),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => {
                f.write_str("is gone: its connection closed without a message (killed, or the network failed)")
            }
            Self::Silent(secs) => {
                write!(
                    f,
                    "has sent nothing for {secs} s: its process, its machine or the network hangs (--peer-timeout)"
                )
            }
            Self::Late(secs) => {
                write!(f, "is alive but has not reached the next exchange for {secs} s (--step-timeout)")
            }
            Self::Failed(message) => write!(f, "failed: {message}"),
            Self::Stopped(message) => write!(f, "was stopped: {message}"),
            Self::Protocol(what) => write!(f, "broke the protocol: {what}"),
        }
    }
}
