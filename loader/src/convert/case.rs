//! One case from its files to encoded bytes.

use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use hiend_cache::{CaseRecord, EncodedCase, NewCase, SourceFiles, encode};

use super::known::Known;
use super::memory::{self, NoMemory, memory_needed};
use super::source::{is_timed, source_of};
use super::suspicion::{Judged, OnSuspect};
use super::{ConvertOptions, check_extent, labels, lost, segment_names};
use crate::budget::ByteBudget;
use crate::case::{CaseFiles, SkippedCase};
use crate::caught::catch_panic;
use crate::dataset::{Dataset, is_label_name};
use crate::preprocess::label_place::LabelPlace;
use crate::preprocess::{PreprocessConfig, preprocess};
use crate::volume::{VolumeError, VolumeInfo, file_stem, read_info};

/// Largest number of images that are tried for a label map of another grid than its own.
const MOST_TRIED: usize = 20;

/// Outcome of converting one case.
pub(super) enum Outcome {
    /// Encoded, with the size of its files in bytes.
    Encoded { case: Box<EncodedCase>, bytes_in: u64, findings: Vec<String> },
    /// Stored in the cache already, with the findings of its conversion. `is_read` is true if its files were read to find
    /// that out; `seen` holds the files if they were read because the cache did not know their times.
    Unchanged { key: String, bytes_in: u64, is_read: bool, seen: Option<Box<SourceFiles>>, findings: Vec<String> },
    /// Skipped, with the reason.
    Skipped(SkippedCase),
    /// Suspicious, in a run that ends on such a case.
    Refused(SkippedCase),
}

/// Everything on which the conversion of a case depends.
pub(super) struct CaseConverter<'a> {
    pub root: &'a Path,
    /// Datasets of the cases.
    pub datasets: &'a [Dataset],
    /// Folder that records name as that of their files.
    pub folder: &'a str,
    pub config: &'a PreprocessConfig,
    pub options: &'a ConvertOptions,
    pub parameters: &'a str,
    pub known: &'a Known,
    pub budget: &'a ByteBudget,
}

impl CaseConverter<'_> {
    /// Prepares and encodes one case, or finds that the cache already has it. A case whose files make a reader panic is skipped,
    /// so that the others are converted.
    pub(super) fn convert(&self, case: &CaseFiles, has_labels: bool) -> Outcome {
        settled(case, catch_panic(|| self.try_convert(case, has_labels)))
    }

    /// Outcome of a case that is in the cache and whose files look unchanged; `None` for all others.
    pub(super) fn looks_unchanged(&self, case: &CaseFiles) -> Option<Outcome> {
        let key = case.key();
        let is_wanted_again = self.options.reconvert.contains(&key) || self.options.checksum;
        let record = self.known.record(&key).filter(|_| !is_wanted_again)?;
        let source = source_of(self.root, case, SystemTime::now()).ok()?;
        let is_unchanged = record.parameters == self.parameters && self.known.is_untouched(record, &source);
        is_unchanged.then(|| untouched(record, source.bytes))
    }

    /// Returns `true` if the cache held the case with these parameters before the run, and the case is not to be
    /// converted again.
    pub(super) fn is_stored(&self, key: &str) -> bool {
        let record = self.known.record(key).filter(|_| !self.options.reconvert.contains(key));
        record.is_some_and(|record| record.parameters == self.parameters)
    }

    fn try_convert(&self, case: &CaseFiles, has_labels: bool) -> Result<Outcome, SkippedCase> {
        let key = case.key();
        let mut source = source_of(self.root, case, SystemTime::now())?;
        let stored = self.known.records.get(&key);
        if !has_labels && let Some(path) = stored.and_then(|record| record.source.label.as_ref()) {
            let reason = format!(
                "the cache has labels of this case ({path}), and no label map is left in its dataset; restore them, or \
                 convert into another cache"
            );
            return Err(SkippedCase::new(case, &case.image, reason));
        }
        let is_wanted_again = self.options.reconvert.contains(&key);
        let known = self.known.record(&key);
        let known = known.filter(|record| record.parameters == self.parameters && !is_wanted_again);
        let is_untouched = known.is_some_and(|record| self.known.is_untouched(record, &source));
        if let Some(record) = known.filter(|_| is_untouched && !self.options.checksum) {
            return Ok(untouched(record, source.bytes));
        }
        let unread = |err: VolumeError| SkippedCase::new(case, &err.path, err.reason);
        let (image_info, label_info) = headers(case)?;
        check_extent(&image_info, self.config).map_err(|err| SkippedCase::new(case, &case.image, err))?;
        let needed = memory_needed(source.bytes, &image_info, label_info.as_ref(), self.config);
        let share = self.budget.take(needed);
        if !memory::is_available(needed) {
            return Err(SkippedCase::new(case, &case.image, NoMemory { needed }));
        }

        let image = case.read_volume().map_err(unread)?;
        let label = case.label.as_ref().map(labels::read).transpose().map_err(unread)?;
        let of_masks = label.as_ref().map(labels::findings).unwrap_or_default();
        let label = label.map(|label| label.volume);
        source.image_blake3.clone_from(&image.blake3);
        source.label_blake3 = label.as_ref().map(|label| label.blake3.clone());
        source.folder = Some(self.folder.to_owned());
        source.bytes = image.file_bytes + label.as_ref().map_or(0, |label| label.file_bytes);
        if let Some(record) = known.filter(|record| {
            record.source.image_blake3 == source.image_blake3 && record.source.label_blake3 == source.label_blake3
        }) {
            let (bytes_in, findings) = (source.bytes, findings_of(record));
            let seen = (!is_untouched && is_timed(&source)).then(|| Box::new(source));
            return Ok(Outcome::Unchanged { key, bytes_in, is_read: true, seen, findings });
        }
        let on_suspect = self.options.on_suspect;
        let &PreprocessConfig { normalize, window, .. } = self.config;
        let Judged { values, mut findings } = match on_suspect.judge(&image, case.role, normalize, window) {
            Ok(judged) => judged,
            Err(suspicion) => {
                let skipped = SkippedCase::new(case, &case.image, suspicion);
                return if on_suspect == OnSuspect::Fail { Ok(Outcome::Refused(skipped)) } else { Err(skipped) };
            }
        };
        findings.extend(label_notes(&image.info, label.as_ref().map(|label| &label.info)));
        findings.extend(of_masks);
        let dataset = self.datasets.iter().find(|dataset| dataset.name == case.dataset);
        let named = dataset.zip(label.as_ref());
        findings.extend(named.and_then(|(dataset, label)| segment_names::finding(case, &label.info, dataset)));
        let prepared = preprocess(&image, label.as_ref(), self.config).map_err(|err| {
            let label = case.label.as_ref().filter(|_| err.concerns_label());
            SkippedCase::new(case, label.map_or(&case.image, |label| label.path()), err)
        })?;
        drop((image, label));
        let lost_labels = prepared.lost_labels.iter().map(|lost| lost.value).collect();
        if let Some(label) = &case.label {
            let ignore = dataset.and_then(|dataset| dataset.ignore);
            findings.extend(lost::findings(&prepared.lost_labels, label, ignore, self.config.spacing));
        }
        let bytes_in = source.bytes;
        let new = NewCase {
            image_bits: prepared.quantiser.bits,
            image_offset: prepared.quantiser.offset,
            image_scale: prepared.quantiser.scale,
            foreground_above: prepared.quantiser.foreground_above,
            label: prepared.label.as_deref(),
            geometry: prepared.geometry.clone(),
            source,
            parameters: self.parameters.to_owned(),
            ..NewCase::new(&case.dataset, &case.case_id, prepared.shape, &prepared.image)
        };
        let encoded = encode(&new, self.options.chunk, self.options.codec)
            .map_err(|err| SkippedCase::new(case, &case.image, err))?;
        drop(share);
        let encoded = encoded.with_values(values.to_record(findings.clone(), lost_labels));
        Ok(Outcome::Encoded { case: Box::new(encoded), bytes_in, findings })
    }
}

/// Outcome of a case from the result of its conversion, or from the message of a panic in it.
fn settled(case: &CaseFiles, converted: Result<Result<Outcome, SkippedCase>, String>) -> Outcome {
    let panicked = |message: String| {
        let reason =
            format!("a panic while it was converted, which is a bug ({message}); please report it with the file");
        Err(SkippedCase::new(case, &case.image, reason))
    };
    converted.unwrap_or_else(panicked).unwrap_or_else(Outcome::Skipped)
}

/// Outcome of a case whose files need not be read.
fn untouched(record: &CaseRecord, bytes_in: u64) -> Outcome {
    Outcome::Unchanged { key: record.key(), bytes_in, is_read: false, seen: None, findings: findings_of(record) }
}

/// Findings of a case's conversion.
fn findings_of(record: &CaseRecord) -> Vec<String> {
    record.values.as_ref().map(|values| values.findings.clone()).unwrap_or_default()
}

/// Reads the headers of a case's image and label map; for several masks, the header of the first mask.
///
/// # Errors
/// If a header cannot be read, or the label map does not lie on the grid of the image.
pub(crate) fn headers(case: &CaseFiles) -> Result<(VolumeInfo, Option<VolumeInfo>), SkippedCase> {
    let unread = |err: VolumeError| SkippedCase::new(case, &err.path, err.reason);
    let image = case.read_info().map_err(unread)?;
    let Some(files) = &case.label else { return Ok((image, None)) };
    let label = files.files().next().map(read_info).transpose().map_err(unread)?;
    if let Some(label) = &label {
        LabelPlace::of(&image, label).map_err(|err| {
            let other = fitting_image(case, label).map(|name| format!("; the label map lies on the grid of {name}"));
            SkippedCase::new(case, files.path(), format!("{err}{}", other.unwrap_or_default()))
        })?;
    }
    Ok((image, label))
}

/// File name of the only other image in the folder of a case's image on whose grid a label map lies; `None` if there is none,
/// or several, or the folder has more than [`MOST_TRIED`] others.
fn fitting_image(case: &CaseFiles, label: &VolumeInfo) -> Option<String> {
    let is_other_image = |path: &PathBuf| {
        let stem = path.file_name().and_then(|name| file_stem(name.to_str()?));
        stem.is_some_and(|stem| !is_label_name(stem)) && case.files().all(|own| own != path)
    };
    let entries = std::fs::read_dir(case.image.parent()?).ok()?.flatten().map(|entry| entry.path());
    let others: Vec<PathBuf> = entries.filter(is_other_image).take(MOST_TRIED + 1).collect();
    if others.len() > MOST_TRIED {
        return None;
    }
    let fits = |path: &&PathBuf| read_info(path).is_ok_and(|image| LabelPlace::of(&image, label).is_ok());
    let mut fitting = others.iter().filter(fits);
    match (fitting.next(), fitting.next()) {
        (Some(only), None) => Some(only.file_name()?.to_string_lossy().into_owned()),
        _ => None,
    }
}

/// Unusual features of a label map's header that its image's header does not share, and the offset between the two.
pub(crate) fn label_notes(image: &VolumeInfo, label: Option<&VolumeInfo>) -> Vec<String> {
    let Some(label) = label else { return Vec::new() };
    let own = label.notes.iter().filter(|note| !image.notes.contains(note));
    let mut notes: Vec<String> = own.map(|note| format!("label map: {note}")).collect();
    let shift = LabelPlace::of(image, label).ok().and_then(|place| place.notable_shift());
    notes.extend(
        shift.map(|shift| format!("label map lies {shift} off its image by their headers; taken voxel by voxel")),
    );
    notes
}

/// Result of converting one case in memory.
#[derive(Clone, Debug)]
pub struct Probed {
    /// Size of the case in a shard, in bytes.
    pub bytes_out: u64,
    /// Duration of the conversion in seconds.
    pub secs: f64,
    /// Unusual features of the header and the values.
    pub findings: Vec<String>,
}

/// Converts one case of `datasets` in memory and drops the result.
///
/// # Errors
/// If the case would be skipped.
pub fn probe(
    root: &Path,
    datasets: &[Dataset],
    case: &CaseFiles,
    config: &PreprocessConfig,
    options: &ConvertOptions,
) -> Result<Probed, SkippedCase> {
    let started = Instant::now();
    let (known, budget) = (Known::nothing(), ByteBudget::new(options.memory_bytes));
    let (folder, parameters) = ("", "");
    let converter =
        CaseConverter { root, datasets, folder, config, options, parameters, known: &known, budget: &budget };
    let (bytes_out, findings) = match converter.convert(case, true) {
        Outcome::Encoded { case, findings, .. } => (case.len(), findings),
        Outcome::Unchanged { bytes_in, findings, .. } => (bytes_in, findings),
        Outcome::Skipped(skipped) | Outcome::Refused(skipped) => return Err(skipped),
    };
    Ok(Probed { bytes_out, secs: started.elapsed().as_secs_f64(), findings })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::ImageRole;

    #[test]
    fn a_case_whose_conversion_panics_is_skipped_by_name() {
        let case = CaseFiles {
            dataset: "D".into(),
            case_id: "a".into(),
            image: "a.nii".into(),
            slices: Vec::new(),
            role: ImageRole::Declared,
            label: None,
        };
        let convert = |bug: bool| -> Result<Outcome, SkippedCase> {
            assert!(!bug, "index out of bounds");
            Err(SkippedCase::new(&case, &case.image, "no scan"))
        };
        let reason = |bug: bool| match settled(&case, catch_panic(|| convert(bug))) {
            Outcome::Skipped(skipped) => skipped.to_string(),
            _ => panic!("the case is skipped"),
        };
        assert_eq!(reason(false), "D/a: no scan (a.nii)");
        let panicked =
            "D/a: a panic while it was converted, which is a bug (index out of bounds); please report it with the file";
        assert_eq!(reason(true), format!("{panicked} (a.nii)"));
    }
}
