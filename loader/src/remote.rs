//! Client of the loader service: the batches of [`crate::pipeline`], made by other processes.
//!
//! ```text
//!   stream    batches in the order of their steps; as many in flight as the memory has room for
//!   fetch     one step: from the least busy server; from another one if it fails; with back-off if all fail
//!   link      a connection to a server: its stream, checked against those of the other servers, and shared memory
//!   agreement facts that all servers of a stream must have in common
//!   failure   errors of servers, by whether another attempt may help
//!   receive   frames into the batch's memory
//! ```
//! A batch depends on its step alone, so it does not matter which server makes it: order and digests are those of a
//! stream in this process. No batch is lost and none comes twice, because the client counts the steps.
//!
//! Only errors that may pass are retried: a server that is unreachable, busy, silent or shutting down. A wrong token,
//! certificate or protocol, a refused configuration and a batch that is too large are errors at once.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hiend_cache::Manifest;

use crate::batch::VoxelForm;
use crate::pipeline::{OnCorrupt, StreamConfig};
use crate::stop::Stop;

mod address;
mod agreement;
mod error;
mod failure;
mod fetch;
mod link;
mod receive;
mod runtime;
mod silence;
mod stream;

pub use crate::pem::PemError;
pub use address::AddressError;
pub use error::RemoteError;
pub use stream::RemoteStream;

use address::Address;
use fetch::Fetcher;
use runtime::Runtime;

/// Largest number of batches that a stream holds, however small they are.
const MOST_BATCHES: usize = 32;

/// Interval between checks of the request to stop.
const LOOK: Duration = Duration::from_millis(50);

/// Time without receiving a part of a batch after which another server is asked for it. A server whose host is gone is
/// noticed earlier, by unanswered pings.
const PATIENCE: Duration = Duration::from_mins(1);

/// Time that servers have to open a stream after a request to stop. Without this limit, a server that accepts
/// connections but does not answer would be waited for until its connection counts as broken, half a minute.
const GRACE: Duration = Duration::from_secs(1);

/// Options of a client. They change no finished voxel.
#[derive(Clone)]
pub struct RemoteOptions {
    /// Rank of this process and number of ranks, which share each batch.
    pub rank: (usize, usize),
    /// Form of the voxels.
    pub form: VoxelForm,
    /// Memory for the batches of a stream, in bytes: those being received, those ready, and those held by the consumer.
    pub memory_bytes: u64,
    /// Token to present to the servers.
    pub token: Option<String>,
    /// File with the certificates (PEM) against which servers are checked; the system's certificates if absent.
    pub ca: Option<PathBuf>,
    /// Time for which a client retries when no server provides a batch.
    pub retry: Duration,
    /// Time without receiving a part of a batch after which another responding server is asked for it. Only tests
    /// change it.
    #[doc(hidden)]
    pub patience: Duration,
    /// True to receive voxels through shared memory from a server on this host.
    pub shared_memory: bool,
    /// Request to stop, which ends the wait for servers.
    pub stop: Stop,
}

impl std::fmt::Debug for RemoteOptions {
    /// Shows everything except the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { rank, form, memory_bytes, token, ca, retry, patience, shared_memory, stop } = self;
        f.debug_struct("RemoteOptions")
            .field("rank", rank)
            .field("form", form)
            .field("memory_bytes", memory_bytes)
            .field("token", &token.as_ref().map(|_| "hidden"))
            .field("ca", ca)
            .field("retry", retry)
            .field("patience", patience)
            .field("shared_memory", shared_memory)
            .field("stop", stop)
            .finish()
    }
}

impl Default for RemoteOptions {
    /// Returns the defaults: quantized voxels, 4 GiB of memory, and five minutes of retries.
    fn default() -> Self {
        Self {
            rank: (0, 1),
            form: VoxelForm::Quantized,
            memory_bytes: 4 << 30,
            token: None,
            ca: None,
            retry: Duration::from_mins(5),
            patience: PATIENCE,
            shared_memory: true,
            stop: Stop::new(),
        }
    }
}

/// Facts of a stream on which all servers must agree.
#[derive(Clone, Debug, PartialEq)]
struct Facts {
    digest: String,
    num_cases: u64,
    steps_per_epoch: u64,
    crops_per_batch: u64,
    voxel_bytes: u64,
    label_bytes: u64,
    manifest: Manifest,
    /// Labels that datasets name but no voxel has, as far as the server knows; not compared, because equal cases have
    /// equal ones.
    unseen_labels: BTreeSet<u8>,
    /// Remarks on the selection of cases; not compared.
    remarks: Vec<String>,
}

/// Open stream of one or several servers.
///
/// Its connections close when it and all its streams are dropped.
pub struct RemoteLoader {
    fetcher: Arc<Fetcher>,
    facts: Facts,
    num_batches: usize,
    // Dropped last: it runs the others' tasks.
    runtime: Arc<Runtime>,
}

impl RemoteLoader {
    /// Connects to the servers at `urls` (`http://HOST:PORT`, `https://HOST:PORT`, `unix:///PATH`) and opens the
    /// stream.
    ///
    /// Servers that do not answer are asked again while streaming. If none answers, the client keeps trying for
    /// [`RemoteOptions::retry`].
    ///
    /// # Errors
    /// If a server refuses the stream, servers differ, none answers, or two batches exceed the memory.
    pub fn connect(
        urls: &[String],
        config: StreamConfig,
        seed: u64,
        options: RemoteOptions,
    ) -> Result<Self, RemoteError> {
        let addresses = urls.iter().map(|url| Address::parse(url)).collect::<Result<Vec<_>, _>>()?;
        if addresses.is_empty() {
            return Err(RemoteError::NoServer);
        }
        if options.form == VoxelForm::Chunks {
            return Err(RemoteError::Chunks);
        }
        if addresses.len() > 1 && config.on_corrupt == OnCorrupt::Skip {
            return Err(RemoteError::SkipOfSeveral);
        }
        let stop = options.stop.clone();
        let runtime = Arc::new(Runtime::start().map_err(|source| RemoteError::NoThreads { source })?);
        let fetcher = Arc::new(Fetcher::new(addresses, config, seed, options)?);
        let (sender, receiver) = flume::bounded(1);
        let connecting = Arc::clone(&fetcher);
        runtime.handle().spawn(async move {
            let facts = tokio::select! {
                facts = connecting.connect() => facts,
                // Not at once, so that servers that answer are not given up.
                () = stopped_for(&stop, GRACE) => Err(RemoteError::Stopped),
            };
            // The other end waits.
            let _ = sender.send(facts);
        });
        let facts = receiver.recv().ok().ok_or(RemoteError::Panicked)??;
        let num_batches = fetcher.num_batches(&facts)?;
        Ok(Self { fetcher, facts, num_batches, runtime })
    }

    /// Digest of the cases, equal to [`crate::Loader::digest`] of a loader in this process.
    #[must_use]
    pub fn digest(&self) -> String {
        self.facts.digest.clone()
    }

    /// Number of cases in the stream.
    #[must_use]
    pub fn num_cases(&self) -> usize {
        usize::try_from(self.facts.num_cases).unwrap_or(usize::MAX)
    }

    /// Number of global batches per epoch.
    #[must_use]
    pub fn steps_per_epoch(&self) -> u64 {
        self.facts.steps_per_epoch
    }

    /// Number of crops in this rank's batch if no case is skipped.
    #[must_use]
    pub fn crops_per_batch(&self) -> usize {
        usize::try_from(self.facts.crops_per_batch).unwrap_or(usize::MAX)
    }

    /// Form of the voxels.
    #[must_use]
    pub fn form(&self) -> VoxelForm {
        self.fetcher.form()
    }

    /// Number of batches that a stream holds at a time.
    #[must_use]
    pub fn num_batches(&self) -> usize {
        self.num_batches
    }

    /// Number of batches that may be ready before the consumer asks for them: all except the one that the consumer
    /// holds.
    #[must_use]
    pub fn prefetch(&self) -> usize {
        self.num_batches - 1
    }

    /// Manifest of the servers' first cache: preprocessing, and the datasets of the stream with their label names. Its
    /// list of shards is empty.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.facts.manifest
    }

    /// Labels that the datasets name but no label map of the stream's cases contains; background and ignore label
    /// excepted. Empty where the servers do not know: without labels, and if their caches are in object storage.
    #[must_use]
    pub fn unseen_labels(&self) -> &BTreeSet<u8> {
        &self.facts.unseen_labels
    }

    /// Remarks of a server on the selection of cases, a line each: on the first entries of [`StreamConfig::exclude`] that
    /// match no dataset of its caches, on unlabelled cases that are left out, and on scans in both parts of the split; see
    /// [`remarks_on_exclude`](crate::pipeline::remarks_on_exclude), [`remark_on_labels`](crate::pipeline::remark_on_labels) and
    /// [`remark_on_shared_scans`](crate::pipeline::remark_on_shared_scans).
    #[must_use]
    pub fn remarks(&self) -> &[String] {
        &self.facts.remarks
    }

    /// Starts an endless stream of the batches from `start_step` on.
    ///
    /// The memory budget applies to one stream at a time.
    #[must_use]
    pub fn stream(&self, start_step: u64) -> RemoteStream {
        self.stream_range(start_step..u64::MAX)
    }

    /// Starts a stream of the batches of `steps`. No later step is requested.
    #[must_use]
    pub fn stream_range(&self, steps: Range<u64>) -> RemoteStream {
        RemoteStream::start(&self.fetcher, &self.runtime, self.num_batches, self.facts.steps_per_epoch, steps)
    }
}

/// Waits until a request to stop is raised, and then for `time`.
async fn stopped_for(stop: &Stop, time: Duration) {
    while !stopped_within(stop, Duration::MAX).await {}
    tokio::time::sleep(time).await;
}

/// Waits for a request to stop, for at most `time`; returns true if it was raised.
async fn stopped_within(stop: &Stop, time: Duration) -> bool {
    let begin = Instant::now();
    while !stop.is_requested() {
        let left = time.saturating_sub(begin.elapsed());
        if left.is_zero() {
            return false;
        }
        tokio::time::sleep(left.min(LOOK)).await;
    }
    true
}
