//! `Loader`: caches or servers and a stream's configuration, opened for streaming.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hiend_cache::{Access, Copies, DiskCacheOptions, Location, OpenOptions};
use hiend_loader::batch::VoxelForm;
use hiend_loader::remote::{RemoteLoader, RemoteOptions};
use hiend_loader::stop::Stop;
use hiend_loader::{LoaderOptions, StreamConfig, pipeline};
use pyo3::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::Failure;
use crate::log;
use crate::stream::Stream;
use crate::wait::wait;

/// Caches or servers, opened for streaming.
#[pyclass(frozen, module = "hiend._hiend")]
pub(crate) struct Loader {
    opened: Opened,
    /// Ends a client's attempts to reach its servers.
    stop: Stop,
}

/// Caches or servers, from which batches come.
enum Opened {
    /// Caches, read by threads of this process.
    Local(pipeline::Loader),
    /// Servers of this or other hosts.
    Remote(Box<RemoteLoader>),
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.stop.request();
    }
}

#[pymethods]
impl Loader {
    /// Opens caches with their weights; `config` is a stream's configuration as JSON.
    #[staticmethod]
    #[pyo3(signature = (caches, config, *, seed, rank, form, threads, memory, access, disk_cache, disk_cache_size, storage_retry))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments, given by name")]
    fn open(
        py: Python<'_>,
        caches: Vec<(PathBuf, u32)>,
        config: &str,
        seed: u64,
        rank: (usize, usize),
        form: &str,
        threads: usize,
        memory: u64,
        access: &str,
        disk_cache: Option<PathBuf>,
        disk_cache_size: Option<u64>,
        storage_retry: Option<f64>,
    ) -> PyResult<Self> {
        let config: StreamConfig = parse_config(config)?;
        let options = LoaderOptions { threads, memory_bytes: memory, rank, form: parse_form(form)? };
        let access = match access {
            "mmap" => Access::Mmap,
            "pread" => Access::Pread,
            other => return Err(unknown("access", other, "\"mmap\" or \"pread\"").into()),
        };
        let of_objects = [
            ("disk_cache", disk_cache.is_some()),
            ("disk_cache_size", disk_cache_size.is_some()),
            ("storage_retry", storage_retry.is_some()),
        ];
        let is_folder = |(path, _): &(PathBuf, u32)| {
            Location::parse(path.as_os_str()).is_ok_and(|location| location.folder().is_some())
        };
        let without_effect = of_objects.into_iter().find(|(_, given)| *given && caches.iter().all(is_folder));
        let copies = Copies::Disk(DiskCacheOptions { dir: disk_cache, bytes: disk_cache_size });
        let retry = storage_retry.map(|secs| seconds("storage_retry", secs)).transpose()?;
        if let Some((key, _)) = without_effect {
            let text = format!(
                "{key} has no effect on caches in folders; it is for object storage, such as s3://BUCKET/PREFIX"
            );
            return Err(Failure::config(text).into());
        }
        let options_of_cache = OpenOptions { access, copies, retry };
        let open = || -> Result<Opened, Failure> {
            let open = |(path, weight): &(PathBuf, u32)| -> Result<_, Failure> {
                Ok((Arc::new(hiend_cache::Cache::open_with(path, options_of_cache.clone())?), *weight))
            };
            let caches = caches.iter().map(open).collect::<Result<Vec<_>, _>>()?;
            let mut remarks: BTreeSet<String> =
                caches.iter().filter_map(|(cache, _)| config.remark_on_foreground(cache.manifest())).collect();
            let opened = || caches.iter().map(|(cache, _)| &**cache);
            remarks.extend(pipeline::remarks_on_exclude(opened(), &config.exclude));
            remarks.extend(pipeline::remark_on_padding(opened(), &config));
            remarks.extend(pipeline::remark_on_labels(opened(), &config));
            remarks.extend(pipeline::remark_on_shared_scans(opened(), &config));
            let opened = Opened::Local(pipeline::Loader::open_mix(caches, config, seed, &options)?);
            for remark in remarks {
                tracing::warn!("{remark}");
            }
            Ok(opened)
        };
        let stop = Stop::new();
        let opened = wait(py, &stop, open)?;
        Ok(Self { opened, stop })
    }

    /// Connects to servers; `config` is a stream's configuration as JSON.
    #[staticmethod]
    #[pyo3(signature = (servers, config, *, seed, rank, form, memory, token, ca, retry, shared_memory))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments, given by name")]
    fn connect(
        py: Python<'_>,
        servers: Vec<String>,
        config: &str,
        seed: u64,
        rank: (usize, usize),
        form: &str,
        memory: u64,
        token: Option<String>,
        ca: Option<PathBuf>,
        retry: f64,
        shared_memory: bool,
    ) -> PyResult<Self> {
        let config: StreamConfig = parse_config(config)?;
        config.validate().map_err(|(key, reason)| Failure::from(pipeline::Error::BadConfig { key, reason }))?;
        let stop = Stop::new();
        let retry = seconds("retry", retry)?;
        if let Some(ca) = ca.as_ref().filter(|_| !servers.iter().any(|url| url.starts_with("https://"))) {
            let text =
                format!("ca: {:?} has no effect: no URL of servers begins with https://", ca.display().to_string());
            return Err(Failure::config(text).into());
        }
        let form = parse_form(form)?;
        let options = RemoteOptions {
            rank,
            form,
            memory_bytes: memory,
            token,
            ca,
            retry,
            shared_memory,
            stop: stop.clone(),
            ..RemoteOptions::default()
        };
        let connect = || -> Result<Opened, Failure> {
            let loader = RemoteLoader::connect(&servers, config.clone(), seed, options)?;
            for remark in config.remark_on_foreground(loader.manifest()).iter().chain(loader.remarks()) {
                tracing::warn!("{remark}");
            }
            Ok(Opened::Remote(Box::new(loader)))
        };
        let opened = wait(py, &stop, connect)?;
        Ok(Self { opened, stop })
    }

    /// Number of cases in the stream.
    #[getter]
    fn num_cases(&self) -> usize {
        match &self.opened {
            Opened::Local(loader) => loader.num_cases(),
            Opened::Remote(loader) => loader.num_cases(),
        }
    }

    /// Names of the cases in the stream, cache after cache; `None` for servers, which do not tell them.
    #[getter]
    fn cases(&self) -> Option<Vec<&str>> {
        match &self.opened {
            Opened::Local(loader) => Some(loader.cases().collect()),
            Opened::Remote(_) => None,
        }
    }

    /// Digest of the cases, their order and their voxels, 32 hex digits.
    #[getter]
    fn digest(&self) -> String {
        match &self.opened {
            Opened::Local(loader) => loader.digest(),
            Opened::Remote(loader) => loader.digest(),
        }
    }

    /// Returns true if a stream of this digest has the same cases in the same order.
    fn has_digest(&self, digest: &str) -> bool {
        match &self.opened {
            Opened::Local(loader) => loader.has_digest(digest),
            Opened::Remote(loader) => loader.digest() == digest,
        }
    }

    /// Number of crops in this rank's batch.
    #[getter]
    fn crops_per_batch(&self) -> usize {
        match &self.opened {
            Opened::Local(loader) => loader.crops_per_batch(),
            Opened::Remote(loader) => loader.crops_per_batch(),
        }
    }

    /// Number of global batches per epoch.
    #[getter]
    fn steps_per_epoch(&self) -> u64 {
        match &self.opened {
            Opened::Local(loader) => loader.steps_per_epoch(),
            Opened::Remote(loader) => loader.steps_per_epoch(),
        }
    }

    /// Number of batches that can be in use at the same time, including those being made.
    #[getter]
    fn num_buffers(&self) -> usize {
        match &self.opened {
            Opened::Local(loader) => loader.memory().num_buffers,
            Opened::Remote(loader) => loader.num_batches(),
        }
    }

    /// Starts a stream at a step.
    fn stream(&self, py: Python<'_>, start_step: u64) -> PyResult<Stream> {
        let num_buffers = self.num_buffers();
        let start = || match &self.opened {
            Opened::Local(loader) => Stream::start(loader.stream(start_step), num_buffers),
            Opened::Remote(loader) => Stream::start(loader.stream(start_step), num_buffers),
        };
        let stream = py.detach(start);
        log::forward(py)?;
        Ok(stream?)
    }
}

/// Duration of `secs` seconds; an error names `key` if the number is invalid.
fn seconds(key: &str, secs: f64) -> Result<Duration, Failure> {
    let out_of_range = |_| Failure::config(format!("{key}: {secs}; expected seconds, at least 0"));
    Duration::try_from_secs_f64(secs).map_err(out_of_range)
}

/// Number of bytes of a size such as `4GiB`.
#[pyfunction]
pub(crate) fn parse_bytes(text: &str) -> PyResult<u64> {
    let parsed: Result<bytesize::ByteSize, _> = text.parse();
    let size = parsed.map_err(|_reason| unknown("size", text, "a size, such as 512MiB or 4GiB"))?;
    Ok(size.as_u64())
}

/// Error for a value that is not among the expected ones.
pub(crate) fn unknown(key: &str, value: &str, expected: &str) -> Failure {
    Failure::config(format!("{key}: {value:?}; expected {expected}"))
}

fn parse_form(form: &str) -> Result<VoxelForm, Failure> {
    match form {
        "float32" => Ok(VoxelForm::Floats),
        "quantized" => Ok(VoxelForm::Quantized),
        other => Err(unknown("form", other, "\"float32\" or \"quantized\"")),
    }
}

/// Parses a configuration. An error names the key at fault.
pub(crate) fn parse_config<T: Default + Serialize + DeserializeOwned>(json: &str) -> Result<T, Failure> {
    let whole = match serde_json::from_str(json) {
        Ok(config) => return Ok(config),
        Err(error) => error,
    };
    let keys: Map<String, Value> = serde_json::from_str(json).unwrap_or_default();
    let fault = keys.into_iter().find_map(|(key, value)| {
        let mut config = serde_json::to_value(T::default()).ok()?;
        config.as_object_mut()?.insert(key.clone(), value);
        let error = serde_json::from_value::<T>(config).err()?;
        Some(format!("{key}: {error}"))
    });
    Err(Failure::config(fault.unwrap_or_else(|| whole.to_string())))
}
