//! Estimate of the disk, time and memory that a conversion takes, from every header and a short probe.
//!
//! Headers give exact sizes of the files, of the memory and of the resampled volumes. Bytes and seconds per voxel
//! depend on the scans, so some cases are converted in memory for a few seconds and discarded: the median case of every
//! dataset first, then smaller and larger ones. A dataset that the probe did not reach is estimated from all probed
//! cases.

use std::path::Path;
use std::time::{Duration, Instant};

use rayon::prelude::*;

use crate::budget::cores;
use crate::case::{CaseFiles, SkippedCase, shown};
use crate::convert::{
    ConvertOptions, Finding, OnSuspect, Probed, check_extent, extent_findings, headers, label_notes, memory_needed,
    probe, refuse_other_modality,
};
use crate::dataset::Dataset;
use crate::preprocess::{PreprocessConfig, resampled_shape};
use crate::volume::detached;

/// Estimate for a dataset.
#[derive(Clone, Debug, Default)]
pub struct DatasetPlan {
    /// Name of the dataset.
    pub name: String,
    /// Number of cases with a readable header.
    pub cases: usize,
    /// Number of these cases that have labels.
    pub with_label: usize,
    /// Total size of the cases' files in bytes.
    pub bytes_in: u64,
    /// Number of voxels after resampling, before the crop to the foreground.
    pub voxels: u64,
    /// Estimated size on disk in bytes.
    pub bytes_out: u64,
    /// Estimated time on one core, in seconds.
    pub core_secs: f64,
    /// Memory that converting the largest case takes, in bytes.
    pub largest_case_bytes: u64,
}

/// Estimate for a conversion.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Estimates by dataset.
    pub datasets: Vec<DatasetPlan>,
    /// Cases ruled out by their headers or found unusable by the probe.
    pub skipped: Vec<SkippedCase>,
    /// Unusual features of the headers, and of the values of cases converted by the probe.
    pub findings: Vec<Finding>,
    /// Number of cases converted by the probe.
    pub probed: usize,
    /// Upper bound on the memory that cases take together within the given budget, in bytes.
    pub peak_memory_bytes: u64,
    /// Estimated wall-clock time in seconds.
    pub secs: f64,
}

/// A case with the sizes given by its headers.
struct Sized<'a> {
    case: &'a CaseFiles,
    bytes_in: u64,
    voxels: u64,
    memory: u64,
    /// Unusual features of the header.
    notes: Vec<String>,
}

/// Measurement of one case, or sum over several.
#[derive(Clone, Copy, Default)]
struct Measured {
    voxels: u64,
    bytes_out: u64,
    secs: f64,
}

impl Measured {
    fn add(&mut self, other: Self) {
        self.voxels += other.voxels;
        self.bytes_out += other.bytes_out;
        self.secs += other.secs;
    }

    fn bytes_for(&self, voxels: u64) -> u64 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive estimate")]
        let bytes = (self.bytes_out as f64 * voxels as f64 / self.voxels.max(1) as f64) as u64;
        bytes
    }

    fn secs_for(&self, voxels: u64) -> f64 {
        self.secs * voxels as f64 / self.voxels.max(1) as f64
    }
}

/// Reads all headers, and converts cases in memory for about the time `probe_for`.
#[must_use]
pub fn plan(
    root: &Path,
    datasets: &[Dataset],
    config: &PreprocessConfig,
    options: &ConvertOptions,
    probe_for: Duration,
) -> Plan {
    let mut plan = Plan::default();
    let mut datasets = datasets.to_vec();
    if options.on_suspect != OnSuspect::Warn {
        for dataset in &mut datasets {
            refuse_other_modality(dataset, |_| false);
        }
    }
    let mut sized: Vec<Vec<Sized<'_>>> = Vec::with_capacity(datasets.len());
    for dataset in &datasets {
        plan.skipped.extend(dataset.skipped.iter().cloned());
        let headers: Vec<Result<Sized<'_>, SkippedCase>> =
            dataset.cases.par_iter().map(|case| size_of(case, config)).collect();
        let mut cases = Vec::with_capacity(headers.len());
        for header in headers {
            match header {
                Ok(case) => {
                    let key = case.case.key();
                    let finding = |text: &String| Finding { case: key.clone(), text: text.clone() };
                    plan.findings.extend(case.notes.iter().map(finding));
                    cases.push(case);
                }
                Err(skipped) => plan.skipped.push(skipped),
            }
        }
        cases.sort_by_key(|case| case.voxels);
        sized.push(cases);
    }
    let (by_dataset, all) = probe_cases(root, &datasets, &sized, config, options, probe_for, &mut plan);
    // In the order in which a conversion lists them.
    plan.skipped.sort_by(|a, b| a.case.cmp(&b.case));
    for ((dataset, cases), own) in datasets.iter().zip(&sized).zip(by_dataset) {
        let measured = if own.voxels > 0 { own } else { all };
        let voxels = cases.iter().map(|case| case.voxels).sum();
        plan.datasets.push(DatasetPlan {
            name: dataset.name.clone(),
            cases: cases.len(),
            with_label: cases.iter().filter(|case| case.case.label.is_some()).count(),
            bytes_in: cases.iter().map(|case| case.bytes_in).sum(),
            voxels,
            bytes_out: measured.bytes_for(voxels),
            core_secs: measured.secs_for(voxels),
            largest_case_bytes: cases.iter().map(|case| case.memory).max().unwrap_or(0),
        });
    }
    let mut memory: Vec<u64> = sized.iter().flatten().map(|case| case.memory).collect();
    memory.sort_unstable_by(|a, b| b.cmp(a));
    let largest = memory.first().copied().unwrap_or(0);
    // A case that needs more than the budget is converted alone; otherwise the budget is the bound.
    let together: u64 = memory.iter().take(options.jobs).sum();
    plan.peak_memory_bytes = together.min(options.memory_bytes.max(largest));
    let core_secs: f64 = plan.datasets.iter().map(|dataset| dataset.core_secs).sum();
    let slowest = sized.iter().flatten().map(|case| all.secs_for(case.voxels)).fold(0.0, f64::max);
    plan.secs = (core_secs / options.jobs.min(cores()).max(1) as f64).max(slowest);
    plan
}

fn size_of<'a>(case: &'a CaseFiles, config: &PreprocessConfig) -> Result<Sized<'a>, SkippedCase> {
    let (image, label) = headers(case)?;
    check_extent(&image, config).map_err(|err| SkippedCase::new(case, &case.image, err))?;
    let voxels = resampled_shape(&image, config).iter().map(|&n| n as u64).product();
    let lost = || case.files().filter_map(detached).find(|voxels| voxels.metadata().is_err());
    let unseen = |err: std::io::Error| {
        let files = lost().map_or_else(|| "its files".to_owned(), |voxels| format!("its voxels, {}", shown(&voxels)));
        SkippedCase::new(case, &case.image, format!("cannot access {files}: {err}"))
    };
    let bytes_in = case.file_bytes().map_err(unseen)?;
    let memory = memory_needed(bytes_in, &image, label.as_ref(), config);
    let mut notes: Vec<String> = image.notes.iter().map(ToString::to_string).collect();
    notes.extend(extent_findings(&image));
    notes.extend(label_notes(&image, label.as_ref()));
    Ok(Sized { case, bytes_in, voxels, memory, notes })
}

/// Measures cases of all datasets and sizes until the time is over; always measures the median case of the first
/// dataset.
fn probe_cases(
    root: &Path,
    datasets: &[Dataset],
    sized: &[Vec<Sized<'_>>],
    config: &PreprocessConfig,
    options: &ConvertOptions,
    probe_for: Duration,
    plan: &mut Plan,
) -> (Vec<Measured>, Measured) {
    let started = Instant::now();
    let mut by_dataset = vec![Measured::default(); sized.len()];
    let mut all = Measured::default();
    let mut tried: Vec<Vec<usize>> = vec![Vec::new(); sized.len()];
    // Medians, then quartiles, then the ends, then eighths.
    for position in [0.5, 0.25, 0.75, 0.0, 1.0, 0.125, 0.375, 0.625, 0.875] {
        for (number, cases) in sized.iter().enumerate() {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to the number of cases")]
            let at = ((cases.len() as f64 - 1.0).max(0.0) * position).round() as usize;
            let Some(chosen) = cases.get(at).filter(|_| !tried[number].contains(&at)) else { continue };
            if all.voxels > 0 && started.elapsed() >= probe_for {
                return (by_dataset, all);
            }
            tried[number].push(at);
            match probe(root, datasets, chosen.case, config, options) {
                Ok(Probed { bytes_out, secs, findings }) => {
                    let one = Measured { voxels: chosen.voxels, bytes_out, secs };
                    by_dataset[number].add(one);
                    all.add(one);
                    plan.probed += 1;
                    let of_values = findings.into_iter().filter(|text| !chosen.notes.contains(text));
                    plan.findings.extend(of_values.map(|text| Finding { case: chosen.case.key(), text }));
                }
                Err(skipped) => plan.skipped.push(skipped),
            }
        }
    }
    (by_dataset, all)
}
