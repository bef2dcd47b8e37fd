//! Targets that read which cases are taken.

use std::path::Path;

use hiend_loader::split::{CaseName, FileSplit, ListSplit, Part, Selector, Split};

use crate::{check_error, write};

/// Cases to select from, of two datasets that share a name.
const CASES: [CaseName<'static>; 4] = [
    CaseName { dataset: "Dataset001_A", key: "Dataset001_A/a", is_usable: true },
    CaseName { dataset: "Dataset001_A", key: "Dataset001_A/b", is_usable: true },
    CaseName { dataset: "B", key: "B/b", is_usable: true },
    CaseName { dataset: "B", key: "B/c", is_usable: true },
];

/// Reads a list of cases, and nnU-Net's file of folds.
pub(crate) fn cases(scratch: &Path, bytes: &[u8]) {
    let path = scratch.join("cases");
    write(&path, bytes);
    let of_fold = |fold, part| Split::File(FileSplit { splits: path.clone(), fold, of: None, part });
    let list = Split::List(ListSplit { list: path.clone() });
    for split in [list, of_fold(0, Part::Train), of_fold(0, Part::Validation), of_fold(1, Part::Train)] {
        match split.resolved() {
            Ok(Split::Cases(named)) => assert!(!named.cases.is_empty(), "a selection without cases"),
            Ok(other) => panic!("a file was resolved to {other:?}"),
            Err(err) => check_error(&err),
        }
        match Selector::new(&[], &["B".to_owned()], &split).and_then(|selector| selector.select(&CASES)) {
            // Each name is that of one case, and a dataset that is left out has none.
            Ok(taken) => assert!(!taken.is_empty() && taken.iter().all(|&idx| idx < 2), "{taken:?}"),
            Err(err) => check_error(&err),
        }
    }
}
