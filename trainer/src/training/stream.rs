//! Stream of batches on which a run trains.

use std::sync::Arc;
use std::time::Duration;

use hiend_cache::{Cache, is_abandoned};
use hiend_loader::pipeline::{self, Loader, StreamConfig};
use hiend_loader::program::health::Health;
use hiend_loader::remote::{RemoteError, RemoteLoader, RemoteOptions};

use super::run_cases::RunCases;
use crate::feed::{BatchSource, SourceError, source_of};

/// Function that opens the batches from a step on; the second argument is the share of each batch, as `(rank,
/// num_ranks)`.
pub type OpenBatchSource = Box<dyn Fn(u64, (usize, usize)) -> Result<BatchSource, SourceError> + Send + Sync>;

/// A stream of batches: a pure function of the step.
pub struct Stream {
    /// Number of batches per epoch.
    pub steps_per_epoch: u64,
    /// Number of cases.
    pub num_cases: usize,
    /// Digest of the data; a resumed run must have the same data.
    pub digest: String,
    /// All cases of the cache, which a run records when it begins; `None` for streams of servers or without a cache.
    pub cases: Option<RunCases>,
    /// Number of batches that may be ready before they are requested.
    pub ahead: usize,
    /// Function that opens the batches from a step on.
    pub open: OpenBatchSource,
}

impl Stream {
    /// Opens the stream of a cache, determined by `config` and the run's seed.
    ///
    /// Threads and memory are those of this process, and `options.rank` is its share.
    ///
    /// # Errors
    /// If the cache does not fit the configuration, or the memory does not suffice.
    pub fn open(
        cache: Arc<Cache>,
        config: &StreamConfig,
        seed: u64,
        options: &pipeline::LoaderOptions,
    ) -> Result<Self, pipeline::Error> {
        let loader = Loader::open(Arc::clone(&cache), config.clone(), seed, options)?;
        let (digest, cases) = (loader.digest(), Some(RunCases::of(&cache)));
        let (steps_per_epoch, num_cases) = (loader.steps_per_epoch(), loader.num_cases());
        let ahead = loader.memory().num_buffers;
        let (config, options) = (config.clone(), options.clone());
        let open = Box::new(move |step, share: (usize, usize)| {
            if share == options.rank {
                return Ok(source_of(loader.stream(step)));
            }
            let options = pipeline::LoaderOptions { rank: share, ..options.clone() };
            let loader = Loader::open(Arc::clone(&cache), config.clone(), seed, &options)?;
            Ok(source_of(loader.stream(step)))
        });
        Ok(Self { steps_per_epoch, num_cases, digest, cases, ahead, open })
    }

    /// Opens the stream of a connected loader: the same batches as [`Self::open`] on the servers' shards.
    ///
    /// `options` are those with which `loader` was connected; other shares of the batches have their own connections.
    #[must_use]
    pub fn of_servers(
        loader: RemoteLoader,
        urls: &[String],
        config: &StreamConfig,
        seed: u64,
        options: &RemoteOptions,
    ) -> Self {
        let (steps_per_epoch, num_cases) = (loader.steps_per_epoch(), loader.num_cases());
        let (digest, ahead) = (loader.digest(), loader.prefetch());
        let (urls, config, options) = (urls.to_vec(), config.clone(), options.clone());
        let open = Box::new(move |step, share: (usize, usize)| {
            if share == options.rank {
                return Ok(source_of(loader.stream(step)));
            }
            let options = RemoteOptions { rank: share, ..options.clone() };
            let loader = RemoteLoader::connect(&urls, config.clone(), seed, options)?;
            Ok(source_of(loader.stream(step)))
        });
        Self { steps_per_epoch, num_cases, digest, cases: None, ahead, open }
    }

    /// Reports to `health` while a batch is awaited; waiting longer than `limit` is a fault.
    #[must_use]
    pub fn watched(self, health: Health, limit: Duration) -> Self {
        let Self { open, .. } = self;
        let open = Box::new(move |step, share: (usize, usize)| {
            let mut batches = open(step, share)?;
            let pulse = match share {
                (_, 1) => health.stage("the loader", limit),
                (rank, _) => health.stage(format!("the loader of rank {rank}"), limit),
            };
            let next = move || {
                pulse.beat();
                let batch = batches.next();
                pulse.idle();
                batch
            };
            Ok(Box::new(std::iter::from_fn(next)) as BatchSource)
        });
        Self { open, ..self }
    }
}

/// Returns true if an error of a stream reports that a stop was requested while no server, or no object storage,
/// answered.
#[must_use]
pub fn is_stopped(error: &SourceError) -> bool {
    matches!(error.downcast_ref(), Some(RemoteError::Stopped)) || is_abandoned(&**error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::SyntheticStream;

    #[test]
    fn waits_that_a_request_to_stop_ended_are_distinguished_from_failures() {
        let read = |error: std::io::Error| -> SourceError {
            let error = hiend_cache::FileError::at("s3://bucket/shard", "fetch")(error);
            pipeline::Error::Read(error.into()).into()
        };
        let interrupted = std::io::ErrorKind::Interrupted;
        assert!(is_stopped(&read(std::io::Error::new(interrupted, hiend_cache::Abandoned))));
        // A system call that a signal interrupted.
        assert!(!is_stopped(&read(interrupted.into())));
        assert!(!is_stopped(&read(std::io::ErrorKind::NotFound.into())));
        assert!(is_stopped(&RemoteError::Stopped.into()));
        assert!(!is_stopped(&RemoteError::NoServer.into()));
    }

    #[test]
    fn awaited_batches_are_reported_until_they_arrive() {
        const STREAM: SyntheticStream = SyntheticStream { seed: 1, crop_size: [4; 3], crops: 1, steps_per_epoch: 3 };
        let health = Health::new();
        let seen = health.clone();
        let mut stream = STREAM.stream();
        // Any time at all is longer than a limit of zero.
        stream.open = Box::new(move |start, share| {
            let seen = seen.clone();
            let awaited = move |_: &_| assert!(seen.check().unwrap_err().to_string().contains("the loader"));
            Ok(Box::new(STREAM.share(start, share).inspect(awaited)) as BatchSource)
        });
        let stream = stream.watched(health.clone(), Duration::ZERO);
        let mut batches = (stream.open)(2, (0, 1)).unwrap();
        health.check().unwrap();
        assert_eq!(batches.next().unwrap().unwrap().step, 2);
        health.check().unwrap();
    }
}
