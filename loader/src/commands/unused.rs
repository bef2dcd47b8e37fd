//! Report of a task's files that belong to no case, and of unusual features of its cases.

use std::collections::BTreeMap;
use std::path::Path;

use super::task::Task;
use crate::case::shown;
use crate::cli::PreprocessArgs;
use crate::convert::Finding;
use crate::dataset::{DatasetError, UnusedFile, UnusedReason, Weight};
use crate::plural::count;
use crate::program::print;

/// Largest number of lines for one reason, unless all are asked for, and of findings of one kind.
const MAX_LISTED: usize = 20;

/// Counts of unused files in words.
pub(super) fn counts(task: &Task) -> String {
    let missed = task.num_unused(Weight::Missed);
    let caches = task.all_unused().filter(|unused| unused.reason == UnusedReason::Cache).count();
    let others = task.num_unused(Weight::Named) + task.num_unused(Weight::Counted) - caches;
    match (missed, others) {
        (0, 0) => "none".to_owned(),
        (0, others) => format!("{others} (--list-skipped lists them)"),
        (missed, others) => {
            format!("{missed} that may be meant for conversion, {others} others (--list-skipped lists all)")
        }
    }
}

/// Finds the cases in `data` as [`Task::find`] does. Where there are none, prints all files if that was demanded.
///
/// # Errors
/// The errors of [`Task::find`].
pub(super) fn find(data: &Path, args: &PreprocessArgs) -> anyhow::Result<Task> {
    let found = Task::find(data, args);
    if args.list_skipped
        && let Err(error) = &found
        && let Some(DatasetError::Empty { unused, .. }) = error.downcast_ref::<DatasetError>()
    {
        print_by_reason(unused.iter(), true)?;
    }
    found
}

/// Prints the unused files by reason: those probably meant for conversion, or all files if the task demands it.
pub(super) fn list(task: &Task) -> anyhow::Result<()> {
    print_by_reason(task.all_unused(), task.list_skipped)
}

/// Prints `all` files by reason, or those probably meant for conversion.
fn print_by_reason<'a>(files: impl Iterator<Item = &'a UnusedFile>, all: bool) -> anyhow::Result<()> {
    let mut by_reason: BTreeMap<&UnusedReason, Vec<&UnusedFile>> = BTreeMap::new();
    for unused in files.filter(|unused| all || unused.reason.weight() > Weight::Counted) {
        by_reason.entry(&unused.reason).or_default().push(unused);
    }
    if by_reason.is_empty() {
        return Ok(());
    }
    print("Not converted:")?;
    for (reason, files) in &by_reason {
        let lines = lines(reason, files);
        let num_shown = if all { lines.len() } else { MAX_LISTED };
        for line in lines.iter().take(num_shown) {
            print(format_args!("  {line}"))?;
        }
        if lines.len() > num_shown {
            print(format_args!("  ... and {} more; --list-skipped lists all", lines.len() - num_shown))?;
        }
    }
    Ok(())
}

/// Lines about the files that are unused for one reason: one per file, or one per folder if the reason applies to all
/// its files: the content of a DICOM series, or a folder of label maps or of images without them that is not used.
fn lines(reason: &UnusedReason, files: &[&UnusedFile]) -> Vec<String> {
    let is_of_folder = matches!(
        reason,
        UnusedReason::NotCt { .. }
            | UnusedReason::NotCtSeries { .. }
            | UnusedReason::NotCrossSection { .. }
            | UnusedReason::CompetingLabels { .. }
            | UnusedReason::EarlierLabels { .. }
            | UnusedReason::Unlabelled { .. }
            | UnusedReason::Arrays { .. }
            | UnusedReason::InPredictionFolder { .. }
            | UnusedReason::DicomByContent
            | UnusedReason::DicomInDataset
            | UnusedReason::DicomLabels
            | UnusedReason::DicomWithoutPreamble
            | UnusedReason::NnunetOutput { .. }
    );
    if !is_of_folder {
        return files.iter().map(ToString::to_string).collect();
    }
    // The first file of each folder, and the number of all.
    let mut folders: BTreeMap<Option<&Path>, (&UnusedFile, usize)> = BTreeMap::new();
    for &unused in files {
        folders.entry(unused.path.parent()).or_insert((unused, 0)).1 += 1;
    }
    let line = |(first, num_files): (&UnusedFile, usize)| match num_files {
        1 => first.to_string(),
        _ => format!("{} and {} of its folder: {reason}", shown(&first.path), count(num_files - 1, "more file")),
    };
    folders.into_values().map(line).collect()
}

/// Prints unusual features of cases below a heading; prints nothing if there are none. `inspect` names those of cases in a cache:
/// of features whose texts differ in numbers alone, the others are counted if they are `in_cache`.
pub(super) fn list_findings(heading: &str, findings: &[Finding], in_cache: bool) -> anyhow::Result<()> {
    if findings.is_empty() {
        return Ok(());
    }
    print(heading)?;
    let (listed, num_more) = first_of_each_kind(findings, if in_cache { MAX_LISTED } else { usize::MAX });
    for finding in listed {
        print(format_args!("  {}: {}", finding.case, finding.text))?;
    }
    if num_more > 0 {
        print(format_args!("  ... and {num_more} more of these kinds; hiend-shard inspect CACHE --rows 0 lists all"))?;
    }
    Ok(())
}

/// The first `most` findings of each text, its numbers ignored, and the number of the others.
fn first_of_each_kind(findings: &[Finding], most: usize) -> (Vec<&Finding>, usize) {
    let mut num_of: BTreeMap<String, usize> = BTreeMap::new();
    let is_listed = |finding: &&Finding| {
        let kind = finding.text.chars().filter(|character| !character.is_ascii_digit()).collect();
        let num_of_kind = num_of.entry(kind).or_default();
        *num_of_kind += 1;
        *num_of_kind <= most
    };
    let listed: Vec<&Finding> = findings.iter().filter(is_listed).collect();
    let num_more = findings.len() - listed.len();
    (listed, num_more)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_findings_of_a_kind_the_first_are_listed() {
        let of = |case: usize, text: String| Finding { case: format!("D/{case}"), text };
        let mut findings: Vec<Finding> = (0..30).map(|case| of(case, format!("label {case} has no voxel"))).collect();
        findings.push(of(30, "not in HU".to_owned()));
        let (listed, num_more) = first_of_each_kind(&findings, MAX_LISTED);
        assert_eq!((listed.len(), num_more), (MAX_LISTED + 1, 30 - MAX_LISTED));
        assert_eq!(listed.last().unwrap().text, "not in HU");
    }

    #[test]
    fn files_of_a_folder_with_one_reason_take_one_line() {
        let check = |reason: &UnusedReason, paths: &[&str], expected: &[&str]| {
            let files: Vec<UnusedFile> =
                paths.iter().map(|path| UnusedFile { path: path.into(), reason: reason.clone() }).collect();
            let expected: Vec<String> = expected.iter().map(|files| format!("{files}: {reason}")).collect();
            assert_eq!(lines(reason, &files.iter().collect::<Vec<_>>()), expected);
        };
        let capture = UnusedReason::NotCt { what: "of class 1.2.3 (a screen shot or a report)".to_owned() };
        let folders = ["a/1 and 2 more files of its folder", "b/shot"];
        check(&capture, &["b/shot", "a/1", "a/2", "a/3"], &folders);
        let mr = UnusedReason::NotCtSeries { modality: "MR".to_owned() };
        check(&mr, &["1", "2"], &["1 and 1 more file of its folder"]);
        let report = UnusedReason::NotCrossSection { what: "of modality SR".to_owned() };
        check(&report, &["a/1", "a/2"], &["a/1 and 1 more file of its folder"]);
        let competing = UnusedReason::CompetingLabels { folders: "Lung_Mask, Infection_Mask".to_owned() };
        check(&competing, &["a/1", "a/2", "b/1"], &["a/1 and 1 more file of its folder", "b/1"]);
        let unlabelled = UnusedReason::Unlabelled { folder: "unlabeledCase".to_owned() };
        check(&unlabelled, &["a/1", "a/2", "a/3"], &["a/1 and 2 more files of its folder"]);
        check(&UnusedReason::NotAVolume, &["a/1", "a/2"], &["a/1", "a/2"]);
    }
}
