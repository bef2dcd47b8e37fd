//! Classes that datasets name and no label map has.

use std::collections::BTreeSet;

use hiend_cache::{Case, DatasetInfo, Error, VolumeReader};

/// Labels of the classes that a dataset names: all but the background and the ignore label.
pub(crate) fn foreground(info: &DatasetInfo) -> impl Iterator<Item = u8> {
    let ignore = info.ignore;
    info.labels.keys().copied().filter(move |label| *label > 0 && Some(*label) != ignore)
}

/// Labels among `named` that no case has. Reads indices of cases, in their order, until all labels are found.
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
