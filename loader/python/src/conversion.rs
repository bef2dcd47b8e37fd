//! `convert`: conversion of scans to shards, with progress.

use std::collections::BTreeMap;
use std::path::PathBuf;

use hiend_cache::CodecPreset;
use hiend_loader::budget::cores;
use hiend_loader::convert::{Conversion, ConvertOptions, Event, Finding, OnSuspect, Prune, Summary};
use hiend_loader::dataset::{
    Dataset, Exclude, Modalities, Unmatched, UnusedFile, UnusedReason, Weight, root_of, survey_of,
};
use hiend_loader::phantom::{PhantomConfig, write_dataset_until};
use hiend_loader::plural::count;
use hiend_loader::preprocess::PreprocessConfig;
use hiend_loader::stop::Stop;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::error::Failure;
use crate::loader::{parse_config, unknown};
use crate::log;
use crate::names::in_python;
use crate::wait::{TICK, wait};

/// Largest number of unused files logged for one reason.
const MAX_LOGGED: usize = 20;

/// Progress of one case, as it is passed to Python: event, case, bytes of its files, and a text.
struct Report {
    event: &'static str,
    case: String,
    bytes_in: u64,
    text: Option<String>,
}

impl From<Event<'_>> for Report {
    fn from(event: Event<'_>) -> Self {
        let report = |event, case: &str, bytes_in, text| Self { event, case: case.to_owned(), bytes_in, text };
        match event {
            Event::Converted { case, bytes_in } => report("converted", case, bytes_in, None),
            Event::Unchanged { case, bytes_in } => report("unchanged", case, bytes_in, None),
            Event::Skipped(skipped) => report("skipped", &skipped.case, 0, Some(in_python(&skipped.to_string()))),
            Event::Found(finding) => report("finding", &finding.case, 0, Some(in_python(&finding.text))),
        }
    }
}

/// Converts the scans in a folder to shards; returns a summary.
///
/// `progress` is called as `progress(event, case, bytes_in, text, num_cases)`. An exception that it raises ends the
/// conversion, as Ctrl-C does, once the cases in progress are done.
#[pyfunction]
#[pyo3(signature = (data, out, config, *, codec, jobs, memory, shard_size, exclude, reconvert, worker, prune, checksum, change_parameters, forget_lost, on_suspect, progress))]
#[expect(clippy::too_many_arguments, reason = "keyword arguments, given by name")]
pub(crate) fn convert<'py>(
    py: Python<'py>,
    data: PathBuf,
    out: PathBuf,
    config: &str,
    codec: &str,
    jobs: Option<usize>,
    memory: u64,
    shard_size: u64,
    exclude: Vec<String>,
    reconvert: Vec<String>,
    worker: (usize, usize),
    prune: &str,
    checksum: bool,
    change_parameters: bool,
    forget_lost: bool,
    on_suspect: &str,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyDict>> {
    let config: PreprocessConfig = parse_config(config)?;
    config.validate().map_err(|err| Failure::config(in_python(&err.to_string())))?;
    for (name, is_zero) in [("jobs", jobs == Some(0)), ("memory", memory == 0), ("shard_size", shard_size == 0)] {
        if is_zero {
            return Err(Failure::config(format!("{name}: 0; expected at least 1")).into());
        }
    }
    if worker.0 >= worker.1 {
        let (number, workers) = worker;
        return Err(Failure::config(format!("worker: {number} of {workers}; expected 0 to N-1 of N")).into());
    }
    let prune = parse_prune(prune)?;
    if prune != Prune::Nothing && worker.1 > 1 {
        let text = "prune and compact: expected no worker, because the other ones may still be writing";
        return Err(Failure::config(text).into());
    }
    let mut options = ConvertOptions {
        jobs: jobs.unwrap_or_else(cores),
        memory_bytes: memory,
        shard_bytes: shard_size,
        codec: parse_codec(codec)?,
        worker,
        checksum,
        change_parameters,
        forget_lost,
        prune,
        on_suspect: parse_on_suspect(on_suspect)?,
        ..ConvertOptions::default()
    };
    let stop = Stop::new();
    let modalities = config.normalize.into();
    let found = wait(py, &stop, || find(&data, modalities, &exclude, prune))?;
    let datasets = &found.datasets;
    let (reconvert, unmatched) = Exclude::new(&reconvert).matches(datasets);
    if let Some(unmatched) = unmatched.first() {
        return Err(refuse_unmatched("reconvert", unmatched).into());
    }
    options.reconvert = reconvert;
    let num_cases: usize = datasets.iter().map(Dataset::num_listed).sum();
    let root = root_of(&data);
    let mut raised = None;
    let summary = std::thread::scope(|scope| {
        let (sender, receiver) = flume::bounded::<Report>(64);
        let (root, out, stop) = (&root, &out, &stop);
        let running = scope.spawn(move || {
            // Fails only if the receiver is gone, which is when this thread has ended.
            let observe = |event: Event<'_>| drop(sender.send(Report::from(event)));
            let conversion = Conversion::new(root, datasets, out).config(config).options(options);
            conversion.stop(stop.clone()).observe(observe).run()
        });
        loop {
            let report = match py.detach(|| receiver.recv_timeout(TICK)) {
                Ok(report) => Some(report),
                Err(flume::RecvTimeoutError::Timeout) => None,
                Err(flume::RecvTimeoutError::Disconnected) => break,
            };
            let call = |Report { event, case, bytes_in, text }| match &progress {
                Some(progress) if raised.is_none() => {
                    progress.call1(py, (event, case, bytes_in, text, num_cases)).map(drop)
                }
                _ => Ok(()),
            };
            let called = report.map_or(Ok(()), call);
            if let Err(error) = called.and_then(|()| log::forward(py)).and_then(|()| py.check_signals()) {
                stop.request();
                hiend_cache::abandon_requests();
                raised.get_or_insert(error);
            }
        }
        py.detach(|| running.join())
    });
    if raised.is_some() {
        hiend_cache::resume_requests();
    }
    log::forward(py)?;
    if let Some(raised) = raised {
        return Err(raised);
    }
    let summary = summary
        .map_err(|_panic| Failure::other("a thread of the conversion panicked (a bug)"))?
        .map_err(Failure::from)?;
    if num_cases > 0 && summary.converted + summary.unchanged == 0 && worker.1 == 1 {
        let first = summary.skipped.first().map(|skipped| format!("; {skipped}")).unwrap_or_default();
        let text = format!("{}: none of {} could be converted{first}", root.display(), count(num_cases, "case"));
        return Err(Failure::other(text).into());
    }
    describe(py, &summary, &found)
}

/// Cases found in a folder.
struct Found {
    /// Datasets without the excluded cases.
    datasets: Vec<Dataset>,
    /// Number of excluded cases.
    num_excluded: usize,
    /// Files that belong to no case although they may have been meant for conversion.
    not_used: Vec<UnusedFile>,
}

/// Error of a name that matches no dataset and no case.
fn refuse_unmatched(argument: &str, Unmatched { pattern, nearest }: &Unmatched) -> Failure {
    let hint = nearest.as_ref().map(|nearest| format!("; did you mean {nearest:?}?")).unwrap_or_default();
    Failure::config(format!("{argument}: {pattern:?} matches no dataset and no case{hint}"))
}

/// Finds the cases of a folder that are not excluded. Logs contradictions within datasets, and files that are not used.
fn find(data: &std::path::Path, modalities: Modalities, exclude: &[String], prune: Prune) -> Result<Found, Failure> {
    let mut listing = survey_of(data, modalities)?;
    if prune.removes_cases()
        && let Some(lost) = listing.all_unused().find(|unused| unused.reason == UnusedReason::DanglingLink)
    {
        return Err(Failure::other(format!("{lost}; nothing is pruned while parts of the data cannot be seen")));
    }
    let (num_excluded, unmatched) = Exclude::new(exclude).apply(&mut listing.datasets);
    if let Some(unmatched) = unmatched.first() {
        return Err(refuse_unmatched("exclude", unmatched));
    }
    if listing.datasets.iter().all(|dataset| dataset.num_listed() == 0) {
        return Err(Failure::config(format!("{}: every case is excluded", data.display())));
    }
    for dataset in &listing.datasets {
        for note in &dataset.notes {
            tracing::warn!("{}: {note}", dataset.name);
        }
    }
    let is_told = |unused: &&UnusedFile| unused.reason.weight() > Weight::Counted;
    let not_used: Vec<UnusedFile> = listing.all_unused().filter(is_told).cloned().collect();
    warn_of(&not_used);
    Ok(Found { datasets: listing.datasets, num_excluded, not_used })
}

/// Logs files that are not used, at most [`MAX_LOGGED`] for each reason.
fn warn_of(not_used: &[UnusedFile]) {
    let mut by_reason: BTreeMap<&UnusedReason, Vec<&UnusedFile>> = BTreeMap::new();
    for unused in not_used {
        by_reason.entry(&unused.reason).or_default().push(unused);
    }
    for (reason, files) in by_reason {
        for unused in files.iter().take(MAX_LOGGED) {
            tracing::warn!("not converted: {unused}");
        }
        if files.len() > MAX_LOGGED {
            let others = count(files.len() - MAX_LOGGED, "further file");
            tracing::warn!("not converted: {others}: {reason}; not_used of the summary lists all");
        }
    }
}

/// Summary of a conversion as a Python mapping.
fn describe<'py>(py: Python<'py>, summary: &Summary, found: &Found) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("converted", summary.converted)?;
    dict.set_item("replaced", summary.replaced)?;
    dict.set_item("unchanged", summary.unchanged)?;
    dict.set_item("with_label", summary.with_label)?;
    dict.set_item("excluded", found.num_excluded)?;
    let skipped = PyList::empty(py);
    for case in &summary.skipped {
        let entry = PyDict::new(py);
        entry.set_item("case", &case.case)?;
        entry.set_item("path", &case.path)?;
        entry.set_item("reason", in_python(&case.reason))?;
        skipped.append(entry)?;
    }
    dict.set_item("skipped", skipped)?;
    dict.set_item("stale", &summary.stale)?;
    dict.set_item("outdated", &summary.outdated)?;
    let not_used = PyList::empty(py);
    for unused in &found.not_used {
        let entry = PyDict::new(py);
        entry.set_item("path", &unused.path)?;
        entry.set_item("reason", in_python(&unused.reason.to_string()))?;
        not_used.append(entry)?;
    }
    dict.set_item("not_used", not_used)?;
    dict.set_item("findings", list_findings(py, &summary.findings)?)?;
    dict.set_item("known_findings", list_findings(py, &summary.known_findings)?)?;
    dict.set_item("unseen_classes", summary.unseen.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    dict.set_item("unnamed_labels", summary.unnamed.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    dict.set_item("voxels", summary.voxels)?;
    dict.set_item("bytes_in", summary.bytes_in)?;
    dict.set_item("bytes_out", summary.bytes_out)?;
    dict.set_item("shards", summary.shards)?;
    dict.set_item("not_in_data", summary.not_in_data.num_cases())?;
    dict.set_item("gone", &summary.not_in_data.gone)?;
    dict.set_item("elsewhere", &summary.not_in_data.elsewhere)?;
    let pairs = |cases: &[[String; 2]]| -> Vec<(String, String)> {
        cases.iter().map(|[case, other]| (case.clone(), other.clone())).collect()
    };
    dict.set_item("twice", pairs(&summary.twice))?;
    dict.set_item("repeated", pairs(&summary.repeated))?;
    dict.set_item("superseded_bytes", summary.superseded_bytes)?;
    dict.set_item("lost", &summary.lost)?;
    dict.set_item("pruned_cases", summary.pruned.as_ref().map(|pruned| pruned.cases.len()))?;
    dict.set_item("secs", summary.secs)?;
    Ok(dict)
}

/// Unusual features of cases, as a list of Python mappings.
fn list_findings<'py>(py: Python<'py>, findings: &[Finding]) -> PyResult<Bound<'py, PyList>> {
    let list = PyList::empty(py);
    for finding in findings {
        let entry = PyDict::new(py);
        entry.set_item("case", &finding.case)?;
        entry.set_item("text", in_python(&finding.text))?;
        list.append(entry)?;
    }
    Ok(list)
}

fn parse_codec(codec: &str) -> Result<CodecPreset, Failure> {
    match codec {
        "fast" => Ok(CodecPreset::Fast),
        "dense" => Ok(CodecPreset::Dense),
        "lz4" => Ok(CodecPreset::Lz4),
        other => Err(unknown("codec", other, "\"fast\", \"dense\" or \"lz4\"")),
    }
}

fn parse_prune(prune: &str) -> Result<Prune, Failure> {
    match prune {
        "nothing" => Ok(Prune::Nothing),
        "superseded" => Ok(Prune::Superseded),
        "gone" => Ok(Prune::Gone),
        "all" => Ok(Prune::All),
        other => Err(unknown("prune", other, "False, True, \"gone\" or \"all\"")),
    }
}

fn parse_on_suspect(action: &str) -> Result<OnSuspect, Failure> {
    match action {
        "warn" => Ok(OnSuspect::Warn),
        "skip" => Ok(OnSuspect::Skip),
        "fail" => Ok(OnSuspect::Fail),
        other => Err(unknown("on_suspect", other, "\"warn\", \"skip\" or \"fail\"")),
    }
}

/// Writes synthetic CTs with labels as an nnU-Net dataset. Ctrl-C ends it once the cases in progress are written.
#[pyfunction]
#[pyo3(signature = (folder, *, cases, seed, spacing))]
pub(crate) fn write_phantoms(
    py: Python<'_>,
    folder: PathBuf,
    cases: usize,
    seed: u64,
    spacing: [f64; 2],
) -> PyResult<()> {
    let config = PhantomConfig { cases, seed, spacing_mm: spacing };
    config.validate().map_err(|fault| Failure::config(fault.to_string()))?;
    let stop = Stop::new();
    wait(py, &stop, || Ok(write_dataset_until(&folder, &config, &stop)?))
}
