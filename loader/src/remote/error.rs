//! Errors of a client.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::address::AddressError;
use crate::pem::PemError;
use crate::split::SelectError;

/// Error of a client.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// No server was given.
    #[error("no server to stream from")]
    NoServer,
    /// Encoded chunks were requested, which only a loader in this process provides.
    #[error("servers send no coded chunks; read the shards in this process (--shards), or decode on the CPU")]
    Chunks,
    /// Corrupt cases are to be skipped by several servers, so that a batch would depend on the server that makes it.
    #[error(
        "on_corrupt = \"skip\" takes one server: each would skip what is corrupt in its own copy; pass one of the servers, \
         or on_corrupt = \"fail\", with which another server makes the batch"
    )]
    SkipOfSeveral,
    /// A URL cannot be used.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The list of cases cannot be read.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// A file with certificates cannot be read.
    #[error("{}: cannot read the certificates", path.display())]
    ReadCa {
        /// Path of the file of CA certificates.
        path: PathBuf,
        /// Error from reading the file.
        source: std::io::Error,
    },
    /// A file with certificates holds none that can be used.
    #[error("{}", path.display())]
    InvalidCa {
        /// Path of the file of CA certificates.
        path: PathBuf,
        /// Fault of the file.
        source: PemError,
    },
    /// No certificates of the system were found.
    #[error("{url}: no certificates of the system were found; name a file of certificates to check the server against")]
    NoCa {
        /// URL of the server.
        url: String,
    },
    /// The certificates cannot be used.
    #[error("{url}: invalid certificates")]
    BadCa {
        /// URL of the server.
        url: String,
        /// Error from parsing the certificates.
        source: tonic::transport::Error,
    },
    /// The system provided no threads.
    #[error("cannot start the threads of the client")]
    NoThreads {
        /// Error from starting a thread.
        source: std::io::Error,
    },
    /// A server refuses the request, and would refuse it again.
    #[error("{url}: {reason}")]
    Refused {
        /// URL of the server.
        url: String,
        /// Message of the server.
        reason: String,
        /// True if the request itself is wrong: every server would need another stream, URL or token.
        is_invalid: bool,
    },
    /// A server has other cases than the first server, or cases made in another way.
    #[error(
        "{url}: the server has other data than {other}: {key} is {found}, not {expected}; all servers need the same \
         shards"
    )]
    Differs {
        /// URL of the server.
        url: String,
        /// URL of the first server.
        other: String,
        /// The fact that differs.
        key: &'static str,
        /// Value at this server.
        found: String,
        /// Value at the first server.
        expected: String,
    },
    /// A server describes the classes of a dataset differently from the first server.
    #[error(
        "{url}: the server describes the classes of dataset {dataset} differently from {other}: {difference}; give all servers \
         the same dataset.json, run hiend-shard again, and restart them"
    )]
    OtherClasses {
        /// URL of the server.
        url: String,
        /// URL of the first server.
        other: String,
        /// Name of the dataset.
        dataset: String,
        /// The first class that differs, with its names at both servers.
        difference: String,
    },
    /// A server has another version than the client.
    #[error("{url}: the server is of version {server}, but this client of {client}; install the same version on both")]
    OtherVersion {
        /// URL of the server.
        url: String,
        /// Version of the server.
        server: String,
        /// Version of this client.
        client: &'static str,
    },
    /// A server violates the protocol.
    #[error("{url}: {reason}")]
    Protocol {
        /// URL of the server.
        url: String,
        /// Violation of the protocol.
        reason: String,
    },
    /// No server provided a batch.
    #[error("no server gave a batch for {}; the last reason was {url}: {reason}", in_seconds(*waited))]
    Unreachable {
        /// Duration of the attempts.
        waited: Duration,
        /// URL of the server that was tried last.
        url: String,
        /// Reason why the last attempt failed.
        reason: String,
    },
    /// Every server is given up; the last one came back with another token, another certificate or other data.
    #[error("no server is left: {error}")]
    Lost {
        /// Reason why the last server was given up.
        error: Arc<RemoteError>,
    },
    /// The memory is too small for two batches.
    #[error(
        "two batches take {needed} bytes, but the budget is {memory_bytes}; raise --memory, or make the batch smaller"
    )]
    TooLittleMemory {
        /// Bytes of two batches.
        needed: u64,
        /// Bytes of the budget.
        memory_bytes: u64,
    },
    /// The system has less memory than the budget.
    #[error("cannot allocate {bytes} bytes for a batch; lower --memory, or make the batch smaller")]
    NoMemory {
        /// Bytes of the batch.
        bytes: usize,
    },
    /// A request to stop ended the wait for servers.
    #[error("stopped while no server answered")]
    Stopped,
    /// A task of the client panicked.
    #[error("a task of the client panicked (a bug)")]
    Panicked,
}

/// Formats a duration in whole seconds, or in tenths below one second.
fn in_seconds(time: Duration) -> String {
    if time < Duration::from_secs(1) { format!("{:.1} s", time.as_secs_f64()) } else { format!("{} s", time.as_secs()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_below_one_second_are_not_given_as_none() {
        assert_eq!(in_seconds(Duration::from_millis(500)), "0.5 s");
        assert_eq!(in_seconds(Duration::from_millis(5_900)), "5 s");
    }
}
