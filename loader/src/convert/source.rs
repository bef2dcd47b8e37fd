//! Change detection: compares the size and time of a case's files with those in its record.

use std::path::Path;
use std::time::{Duration, SystemTime};

use hiend_cache::SourceFiles;

use crate::case::{CaseFiles, LabelFiles, SkippedCase};
use crate::volume::{detached, of_data_file};

/// Age below which a modification time is not trusted: a file changed this recently could change again without a new
/// modification time, as file systems count time in increments of up to two seconds.
pub const SETTLED: Duration = Duration::from_secs(3);

/// Describes a case's files by name, size and time; hashes and the folder are filled in later.
///
/// # Errors
/// If a file is missing or cannot be examined.
pub(super) fn source_of(root: &Path, case: &CaseFiles, now: SystemTime) -> Result<SourceFiles, SkippedCase> {
    let relative = |path: &Path| path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
    let mut source = SourceFiles {
        image: relative(&case.image),
        label: case.label.as_ref().map(|label| match label {
            LabelFiles::Map(path) => relative(path),
            LabelFiles::Masks { folder, .. } => format!("{}#{}", relative(folder), classes_digest(label)),
        }),
        ..SourceFiles::default()
    };
    let mut times = Vec::new();
    for path in case.files() {
        let (mut len, mut modified) = look(case, path, now)?;
        // A header and its voxels count as one file.
        if let Some(voxels) = detached(path) {
            let unseen = |skipped: SkippedCase| SkippedCase::new(case, path, of_data_file(&voxels, skipped.reason));
            let (more, other) = look(case, &voxels, now).map_err(unseen)?;
            len += more;
            modified = modified.zip(other).map(|(a, b)| joined(a, b));
        }
        source.bytes += len;
        times.push(modified);
    }
    // The times of all slices of an image count: the latest alone would hide a slice that was replaced by an older file
    // of the same size. If one time is not settled, none is trusted.
    let all = |times: &[Option<i64>]| -> Option<i64> {
        let (first, others) = times.split_first()?;
        others.iter().try_fold((*first)?, |sum, time| Some(joined(sum, (*time)?)))
    };
    // For several masks, the latest time, as existing caches hold it.
    let latest = |times: &[Option<i64>]| -> Option<i64> {
        let times: Option<Vec<i64>> = times.iter().copied().collect();
        times.and_then(|times| times.into_iter().max())
    };
    let (image, label) = times.split_at(case.image_files().count());
    source.image_modified_ns = all(image);
    source.label_modified_ns = latest(label);
    Ok(source)
}

/// Combines the times of two files into one number that changes with either.
fn joined(a: i64, b: i64) -> i64 {
    a.wrapping_mul(31).wrapping_add(b)
}

/// Size of a case's file in bytes, and its modification time if it is settled.
fn look(case: &CaseFiles, path: &Path, now: SystemTime) -> Result<(u64, Option<i64>), SkippedCase> {
    let looked = std::fs::metadata(path).and_then(|data| Ok((data.is_file(), data.len(), data.modified()?)));
    let (is_file, len, modified) =
        looked.map_err(|err| SkippedCase::new(case, path, format!("cannot access this file: {err}")))?;
    if !is_file {
        return Err(SkippedCase::new(case, path, "not a regular file"));
    }
    Ok((len, settled(modified, now)))
}

/// Digest of the names of masks and their classes: a mask added to another case may renumber all classes.
fn classes_digest(label: &LabelFiles) -> String {
    let mut hasher = blake3::Hasher::new();
    if let LabelFiles::Masks { masks, .. } = label {
        for mask in masks {
            hasher.update(&[mask.class]);
            hasher.update(mask.path.file_name().unwrap_or_default().as_encoded_bytes());
            hasher.update(&[0]);
        }
    }
    hasher.finalize().to_hex()[..8].to_owned()
}

/// Modification time in nanoseconds since 1970; `None` if it is so recent that a later change could have the same time.
fn settled(modified: SystemTime, now: SystemTime) -> Option<i64> {
    // A time in the future proves nothing either.
    let is_settled = now.duration_since(modified).is_ok_and(|age| age >= SETTLED);
    let since = modified.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    is_settled.then(|| i64::try_from(since.as_nanos()).ok()).flatten()
}

/// Returns true if all fields except the hashes and the folder are equal. `now` is a result of [`source_of`], without either.
pub(super) fn looks_the_same(known: &SourceFiles, now: &SourceFiles) -> bool {
    is_timed(known) && comparable(known) == *now
}

/// Returns `true` if `known` and `now` differ in nothing but times that are missing, because files were changed less than
/// [`SETTLED`] before they were looked at: only the content can tell whether they are the same.
pub(super) fn is_undecided(known: &SourceFiles, now: &SourceFiles) -> bool {
    let untimed =
        |files: &SourceFiles| SourceFiles { image_modified_ns: None, label_modified_ns: None, ..comparable(files) };
    !(is_timed(known) && is_timed(now)) && untimed(known) == untimed(now)
}

/// Returns `true` if the times of all files are known.
pub(super) fn is_timed(files: &SourceFiles) -> bool {
    files.image_modified_ns.is_some() && (files.label.is_none() || files.label_modified_ns.is_some())
}

/// The fields that [`source_of`] fills in. A folder that was moved holds the same files.
fn comparable(known: &SourceFiles) -> SourceFiles {
    SourceFiles { image_blake3: String::new(), label_blake3: None, folder: None, ..known.clone() }
}
