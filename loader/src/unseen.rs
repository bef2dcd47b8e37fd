//! Classes that datasets name but no label map contains.

use std::collections::BTreeSet;

use hiend_cache::{Case, DatasetInfo, Error, VolumeReader};

/// Labels of the classes that a dataset names, except the background and the ignore label.
pub(crate) fn foreground(info: &DatasetInfo) -> impl Iterator<Item = u8> {
    let ignore = info.ignore;
    info.labels.keys().copied().filter(move |label| *label > 0 && Some(*label) != ignore)
}

/// Labels in `named` that occur in no case. Reads the cases' indices in order until all labels are found.
///
/// # Errors
/// If the index of a case cannot be read or is damaged.
pub(crate) fn unseen<'a>(
    mut named: BTreeSet<u8>,
    cases: impl IntoIterator<Item = &'a Case>,
) -> Result<BTreeSet<u8>, Error> {
    let mut reader = VolumeReader::new();
    for case in cases {
        if named.is_empty() {
            break;
        }
        for (label, _) in &reader.index(case)?.occupancy.classes {
            named.retain(|named| u32::from(*named) != *label);
        }
    }
    Ok(named)
}
