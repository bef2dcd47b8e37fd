//! Sends the journal of a run to its MLflow run.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use hiend_cache::lock::FileLock;
use hiend_cache::{FileError, regular};
use toml::Table;

use super::client::{MAX_METRICS, Received};
use super::link::Link;
use super::params::{self, MAX_PARAMS, Pair, SHORT};
use super::points::{self, Metric};
use super::{Client, LINK, MlflowError, Status};
use crate::journal::{Chunk, Entry, Follower};
use crate::training::{CONFIG, JOURNAL};

/// Name of the tag by which an MLflow run is found.
const KEY: &str = "hiend.key";
/// File in a run's folder that is locked by the process that sends the run.
const LOCK: &str = "mlflow.lock";
/// Number of entries read at a time. Steps have eight metrics, so most requests have fewer than [`MAX_METRICS`].
const MAX_ENTRIES: usize = 100;

/// Facts about a run that its folder does not contain.
#[derive(Clone, Debug, Default)]
pub struct Description {
    /// Experiment in which to create an MLflow run. An existing run stays in its experiment.
    pub experiment: String,
    /// True if the user named the experiment; a run in another experiment is then an error.
    pub is_named: bool,
    /// True if this process is training the run, so that the run is in progress and its entries are new.
    pub is_live: bool,
    /// True if the run starts from the beginning, whatever its folder held before.
    pub begins: bool,
    /// Number of optimizer steps done before, if this process is training the run.
    pub step: u64,
    /// Digest of the stream, if known.
    pub stream_digest: Option<String>,
}

impl Description {
    /// Returns true if the user named an experiment other than `tracked`.
    #[must_use]
    pub fn names_other_than(&self, tracked: &str) -> bool {
        self.is_named && self.experiment != tracked
    }
}

/// Sender of a run's journal to its MLflow run; records the MLflow run's identity in the folder.
#[derive(Debug)]
pub struct Sender {
    client: Client,
    run_dir: PathBuf,
    description: Description,
    link: Link,
    /// True if the MLflow run may have been created although its id is unknown.
    may_exist: bool,
    /// Last records that the server has; unknown until it is asked, and after a failed request.
    received: Option<Received>,
    /// Positions that the server confirmed last.
    confirmed: Received,
    /// True once the MLflow run of a resumed run is marked as in progress again.
    is_marked: bool,
    /// Steps after the start of this session that the server has from earlier ones.
    kept: Option<RangeInclusive<u64>>,
    journal: Follower,
    /// Estimated time of the last entry read, in milliseconds since 1970.
    clock_ms: i64,
    /// Status according to the last entry read.
    status: Status,
    class_keys: Vec<String>,
    config: Table,
    num_steps: u64,
    _lock: FileLock,
}

impl Sender {
    /// Prepares sending the run in `run_dir`, which has a configuration; makes no request yet.
    ///
    /// # Errors
    /// If another process sends the run, it is in another experiment than the one named, or a file cannot be read.
    pub fn open(client: Client, run_dir: &Path, description: Description) -> Result<Self, MlflowError> {
        let Some(lock) = FileLock::try_exclusive(&run_dir.join(LOCK))? else {
            return Err(MlflowError::InUse { run_dir: run_dir.to_owned() });
        };
        let path = run_dir.join(CONFIG);
        let config = regular::read_to_string(&path).map_err(FileError::at(&path, "read"))?;
        let config: Table = config.parse().map_err(|error: toml::de::Error| {
            let reason = error.message().replace(['\r', '\n'], " ");
            MlflowError::BadConfig { path: path.clone(), reason }
        })?;
        let found = if description.begins { None } else { Link::read(run_dir)? };
        if let Some(link) = found.as_ref().filter(|link| description.names_other_than(&link.experiment)) {
            let (tracked, wanted) = (link.experiment.clone(), description.experiment.clone());
            return Err(MlflowError::OtherExperiment { run_dir: run_dir.to_owned(), tracked, wanted });
        }
        let may_exist = found.is_some();
        let link = match found {
            Some(link) => link,
            // A configuration is written once, when its run begins.
            None => {
                Link::new(run_dir, &description.experiment, if description.begins { now_ms() } else { written(&path)? })
            }
        };
        let names = config.get("classes").and_then(toml::Value::as_array);
        let names = names.into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned));
        Ok(Self {
            client,
            run_dir: run_dir.to_owned(),
            clock_ms: link.start_ms,
            link,
            may_exist,
            received: None,
            confirmed: Received::default(),
            is_marked: false,
            kept: None,
            journal: Follower::new(&run_dir.join(JOURNAL)),
            status: Status::Running,
            class_keys: points::class_keys(&names.collect::<Vec<_>>()),
            config,
            num_steps: 0,
            description,
            _lock: lock,
        })
    }

    /// Address of the MLflow run's page, once the run exists.
    #[must_use]
    pub fn page(&self) -> Option<String> {
        let (experiment, run) = (self.link.experiment_id.as_deref()?, self.link.run_id.as_deref()?);
        Some(self.client.server().page(experiment, run))
    }

    /// Number of steps sent so far.
    #[must_use]
    pub fn num_steps(&self) -> u64 {
        self.num_steps
    }

    /// Status of the run according to the journal as far as it was read: running unless the last entry reports a stop.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status
    }

    /// Sends all complete lines of the journal that the server does not have.
    ///
    /// # Errors
    /// If a request or a file fails. Calling it again continues.
    pub fn catch_up(&mut self) -> Result<(), MlflowError> {
        while self.advance()? {}
        Ok(())
    }

    /// Sets the final status of the MLflow run.
    ///
    /// # Errors
    /// If the request fails.
    pub fn finish(&mut self, status: Status) -> Result<(), MlflowError> {
        let run_id = self.run_id()?;
        let end_ms = if self.description.is_live { now_ms() } else { self.clock_ms };
        self.client.set_status(&run_id, status, Some(end_ms))
    }

    /// Sends the next entries; returns whether there may be more.
    fn advance(&mut self) -> Result<bool, MlflowError> {
        let run_id = self.run_id()?;
        self.describe(&run_id)?;
        let received = self.position(&run_id)?;
        let chunk = self.journal.peek(MAX_ENTRIES)?;
        if chunk.entries.is_empty() {
            return Ok(false);
        }
        let part = Part::of(&chunk, received, self.clock_ms, &self.class_keys);
        // The first request has the tags as well. Unless all are answered, the server is asked what it has.
        self.received = None;
        let mut tags = part.tags.as_slice();
        let mut metrics = part.metrics.chunks(MAX_METRICS);
        if let Some(first) = metrics.next() {
            self.client.log(&run_id, first, &[], tags)?;
            tags = &[];
        }
        for metrics in metrics {
            self.client.log(&run_id, metrics, &[], &[])?;
        }
        if !tags.is_empty() {
            self.client.log(&run_id, &[], &[], tags)?;
        }
        self.received = Some(part.received);
        self.confirmed = part.received;
        self.journal.advance(&chunk);
        self.num_steps += part.num_steps;
        self.status = part.status.unwrap_or(self.status);
        self.clock_ms = part.clock_ms;
        if self.description.is_live && chunk.is_last {
            self.clock_ms = self.clock_ms.max(now_ms());
        }
        Ok(!chunk.is_last)
    }

    /// Id of the MLflow run, which is created if there is none.
    fn run_id(&mut self) -> Result<String, MlflowError> {
        if let Some(run_id) = &self.link.run_id {
            return Ok(run_id.clone());
        }
        let experiment_id = match &self.link.experiment_id {
            Some(id) => id.clone(),
            None => self.client.experiment(&self.link.experiment)?,
        };
        self.link.experiment_id = Some(experiment_id.clone());
        // The answer to an earlier request may have been lost.
        let found = if self.may_exist { self.client.find_run(&experiment_id, KEY, &self.link.key)? } else { None };
        let run_id = if let Some(run_id) = found {
            run_id
        } else {
            self.link.write(&self.run_dir)?;
            self.may_exist = true;
            let name = name_of(&self.run_dir);
            let tags = [Pair::new(KEY, &self.link.key)];
            let run_id = self.client.create_run(&experiment_id, &name, self.link.start_ms, &tags)?;
            self.received = Some(Received::default());
            self.is_marked = true;
            run_id
        };
        self.link.run_id = Some(run_id.clone());
        self.link.write(&self.run_dir)?;
        Ok(run_id)
    }

    /// Sends tags and parameters, once for each MLflow run.
    fn describe(&mut self, run_id: &str) -> Result<(), MlflowError> {
        if self.link.described {
            return Ok(());
        }
        self.client.log(run_id, &[], &[], &self.tags())?;
        let (short, long): (Vec<_>, Vec<_>) =
            params::of_config(&self.config).into_iter().partition(|pair| pair.value.chars().count() <= SHORT);
        let is_logged = |params: &[Pair]| match self.client.log(run_id, &[], params, &[]) {
            Ok(()) => Ok(None),
            Err(error) if error.is_refusal() => Ok(Some(error)),
            Err(error) => Err(error),
        };
        // A refusal costs the parameters of one request, not the run's metrics.
        let mut refused = None;
        for params in short.chunks(MAX_PARAMS) {
            refused = is_logged(params)?.or(refused);
        }
        for pair in long {
            if is_logged(std::slice::from_ref(&pair))?.is_some() {
                let pair = Pair { value: params::cut(&pair.value, SHORT), ..pair };
                refused = is_logged(&[pair])?.or(refused);
            }
        }
        if let Some(error) = refused {
            tracing::warn!("some settings of the run are missing in MLflow: {error}");
        }
        self.link.described = true;
        self.link.write(&self.run_dir)
    }

    /// Tags of the run; those of MLflow itself are shown in its tables.
    fn tags(&self) -> Vec<Pair> {
        let run_dir = std::path::absolute(&self.run_dir).unwrap_or_else(|_| self.run_dir.clone());
        let run_dir = run_dir.display().to_string();
        let user = ["USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok());
        let tags = [
            ("mlflow.source.name", Some("hiend-train".to_owned())),
            ("mlflow.source.type", Some("LOCAL".to_owned())),
            ("mlflow.user", user),
            ("hiend.version", Some(env!("CARGO_PKG_VERSION").to_owned())),
            ("hiend.stream_digest", self.description.stream_digest.clone()),
            ("hiend.run_dir", Some(params::cut(&run_dir, SHORT))),
        ];
        tags.into_iter().filter_map(|(key, value)| Some(Pair::new(key, value?))).collect()
    }

    /// Returns the last records that the server has.
    fn position(&mut self, run_id: &str) -> Result<Received, MlflowError> {
        let received = match self.received {
            Some(received) => received,
            None => self.client.received(run_id)?.ok_or_else(|| MlflowError::NoRun {
                server: self.client.server().to_string(),
                run_id: run_id.to_owned(),
                link: self.run_dir.join(LINK),
            })?,
        };
        if self.description.is_live && !self.is_marked {
            self.client.set_status(run_id, Status::Running, None)?;
            self.is_marked = true;
            // Nothing of this session is sent yet.
            let next = self.description.step + 1;
            self.kept = received.step.filter(|&last| last >= next).map(|last| next..=last);
            if let Some(steps) = &self.kept {
                tracing::warn!(
                    "the run goes back to step {}, and MLflow has steps up to {}: it keeps the values of earlier sessions there, \
                     which it can neither replace nor remove",
                    self.description.step,
                    steps.end()
                );
            }
        }
        if received.step < self.confirmed.step || received.validation < self.confirmed.validation {
            // The server was restored from an older copy.
            self.journal = Follower::new(&self.run_dir.join(JOURNAL));
            self.clock_ms = self.link.start_ms;
        }
        (self.received, self.confirmed) = (Some(received), received);
        Ok(received)
    }
}

/// Entries in the form in which they are sent.
struct Part {
    metrics: Vec<Metric>,
    tags: Vec<Pair>,
    num_steps: u64,
    /// Positions of the server after this part has arrived.
    received: Received,
    /// Status according to the last entry that states one.
    status: Option<Status>,
    /// Estimated time of the last entry.
    clock_ms: i64,
}

impl Part {
    /// Selects the records after the positions `received`. The journal has durations but no times: an entry's time is
    /// that of the previous entry (initially `clock_ms`) plus its duration.
    fn of(chunk: &Chunk, received: Received, clock_ms: i64, class_keys: &[String]) -> Self {
        let (metrics, tags) = (Vec::new(), Vec::new());
        let mut part = Self { metrics, tags, num_steps: 0, received, status: None, clock_ms };
        for entry in &chunk.entries {
            match entry {
                Entry::Started { device, .. } => {
                    part.status = Some(Status::Running);
                    part.tags = vec![Pair::new("hiend.device", params::cut(device, SHORT))];
                }
                Entry::Step(record) => {
                    part.clock_ms += record.step_ms.round() as i64;
                    if part.received.step.is_none_or(|step| step < record.step) {
                        part.metrics.extend(points::of_step(record, part.clock_ms));
                        part.received.step = Some(record.step);
                        part.num_steps += 1;
                    }
                }
                Entry::Validation(record) => {
                    part.clock_ms += (record.secs * 1e3).round() as i64;
                    if part.received.validation.is_none_or(|step| step < record.step) {
                        part.metrics.extend(points::of_validation(record, class_keys, part.clock_ms));
                        part.received.validation = Some(record.step);
                    }
                }
                Entry::Stopped { interrupted, .. } => {
                    part.status = Some(if *interrupted { Status::Killed } else { Status::Finished });
                }
            }
        }
        part
    }
}

/// Name of an MLflow run, equal to that of the run's folder.
fn name_of(run_dir: &Path) -> String {
    let path = std::path::absolute(run_dir).unwrap_or_else(|_| run_dir.to_owned());
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    params::cut(&name.unwrap_or_else(|| path.display().to_string()), 250)
}

/// Current time in milliseconds since 1970.
fn now_ms() -> i64 {
    millis(SystemTime::now())
}

fn millis(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as i64
}

/// Modification time of a file, in milliseconds since 1970.
fn written(path: &Path) -> Result<i64, FileError> {
    let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified());
    modified.map(millis).map_err(FileError::at(path, "look up"))
}

#[cfg(test)]
mod tests;
