//! Lines on the cases of a cache that are not in the data: those of other folders, and those that pruning removes.

use std::path::Path;

use super::table::count;
use crate::case::shown;
use crate::convert::{NotInData, Prune};
use crate::program::print;

/// Largest number of removed cases that are named.
const MAX_NAMED: usize = 20;
/// Largest number of folders that are named.
const MAX_FOLDERS: usize = 3;

/// Prints the names of removed cases below a heading; prints nothing if there are none.
pub(super) fn list_removed(heading: &str, cases: &[impl std::fmt::Display]) -> anyhow::Result<()> {
    if cases.is_empty() {
        return Ok(());
    }
    print(heading)?;
    for case in cases.iter().take(MAX_NAMED) {
        print(format_args!("  {case}"))?;
    }
    if cases.len() > MAX_NAMED {
        print(format_args!("  ... and {}", count(cases.len() - MAX_NAMED, "further case")))?;
    }
    Ok(())
}

/// Prints the numbers of cases that the cache has from other folders; prints nothing if it has none, or pruning removes them.
pub(super) fn print_elsewhere(not_in_data: &NotInData, prune: Prune) -> anyhow::Result<()> {
    if let Some(line) = elsewhere(not_in_data, prune) {
        print(line)?;
    }
    Ok(())
}

/// Line on two cases of a cache that are the same scan: `other`, which is not in the data, and `own`, which is.
pub(super) fn same_scan(NotInData { gone, elsewhere }: &NotInData, other: &str, own: &str) -> String {
    let is_among = |cases: &[String]| cases.iter().any(|case| case == other);
    if is_among(gone) {
        return format!("{other}, which is not in this data, and {own} are the same scan; --prune removes the former.");
    }
    let remedy = match elsewhere.get(&None) {
        Some(cases) if is_among(cases) => "--prune=all removes the former, with all cases that are not in this data",
        _ => "to remove one of the two, convert the folder that it comes from with --exclude NAME --prune",
    };
    format!(
        "{other}, which was not converted from this folder, and {own} are the same scan; training and validation may share it; \
         {remedy}."
    )
}

fn elsewhere(NotInData { elsewhere, .. }: &NotInData, prune: Prune) -> Option<String> {
    if elsewhere.is_empty() || prune == Prune::All {
        return None;
    }
    let of_folder = |(folder, cases): (&Option<String>, &Vec<String>)| {
        let unknown = || "a folder that an earlier version did not note".to_owned();
        let folder = folder.as_ref().map_or_else(unknown, |folder| shown(Path::new(folder)));
        format!("{} of {folder}", count(cases.len(), "case"))
    };
    let mut parts: Vec<String> = elsewhere.iter().take(MAX_FOLDERS).map(of_folder).collect();
    if elsewhere.len() > MAX_FOLDERS {
        let num_cases: usize = elsewhere.values().skip(MAX_FOLDERS).map(Vec::len).sum();
        let folders = count(elsewhere.len() - MAX_FOLDERS, "further folder");
        parts.push(format!("{} of {folders}", count(num_cases, "case")));
    }
    let num_cases: usize = elsewhere.values().map(Vec::len).sum();
    let stay = if num_cases == 1 { "it stays" } else { "they stay" };
    let remedy = if prune == Prune::Gone { "; --prune=all removes all cases that are not in this data" } else { "" };
    Some(format!("The cache also holds {}; {stay}{remedy}.", parts.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_for_a_scan_that_is_there_twice_removes_one() {
        let found = NotInData {
            gone: vec!["D/a".to_owned()],
            elsewhere: [(Some("/raw".to_owned()), vec!["E/a".to_owned()]), (None, vec!["E/b".to_owned()])].into(),
        };
        for (other, remedy) in [
            ("D/a", "; --prune removes the former."),
            ("E/a", "; to remove one of the two, convert the folder that it comes from with --exclude NAME --prune."),
            ("E/b", "; --prune=all removes the former, with all cases that are not in this data."),
        ] {
            let line = same_scan(&found, other, "D/b");
            assert!(line.starts_with(&format!("{other}, which ")) && line.ends_with(remedy), "{line}");
        }
    }

    #[test]
    fn cases_of_other_folders_are_counted_by_folder() {
        let mut found = NotInData { gone: vec!["D/a".to_owned()], ..NotInData::default() };
        assert_eq!(elsewhere(&found, Prune::Nothing), None);
        found.elsewhere.insert(Some("/raw".to_owned()), vec!["E/a".to_owned()]);
        let line = |found: &NotInData, prune| elsewhere(found, prune).unwrap();
        assert_eq!(line(&found, Prune::Nothing), "The cache also holds 1 case of /raw; it stays.");
        let remedy =
            "The cache also holds 1 case of /raw; it stays; --prune=all removes all cases that are not in this data.";
        assert_eq!(line(&found, Prune::Gone), remedy);
        assert_eq!(elsewhere(&found, Prune::All), None);
        found.elsewhere.insert(None, vec!["E/b".to_owned(), "E/c".to_owned()]);
        let unknown =
            "The cache also holds 2 cases of a folder that an earlier version did not note, 1 case of /raw; they stay.";
        assert_eq!(line(&found, Prune::Superseded), unknown);
        for folder in ["/x", "/y", "/z"] {
            found.elsewhere.insert(Some(folder.to_owned()), vec!["E/d".to_owned()]);
        }
        let text = line(&found, Prune::Nothing);
        assert!(text.ends_with("1 case of /raw, 1 case of /x, 2 cases of 2 further folders; they stay."), "{text}");
    }
}
