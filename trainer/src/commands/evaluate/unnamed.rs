//! Labels in a folder of label maps that the dataset does not name.

use std::collections::BTreeMap;

use hiend_loader::plural::count;

use super::classes::Classes;

/// Number of cases that hold each label without a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Unnamed(BTreeMap<u8, usize>);

impl Unnamed {
    /// Counts a case with voxels of these labels.
    pub(super) fn add(&mut self, classes: &Classes, voxels: impl Iterator<Item = u8>) {
        let mut found = [false; 256];
        voxels.for_each(|label| found[usize::from(label)] = true);
        let unnamed = (0..=u8::MAX).filter(|&label| found[usize::from(label)] && !classes.is_named(label));
        for label in unnamed {
            *self.0.entry(label).or_default() += 1;
        }
    }

    /// The labels, in ascending order.
    pub(super) fn labels(&self) -> impl Iterator<Item = u8> {
        self.0.keys().copied()
    }

    /// The labels with their numbers of cases, for a message: `3 (2 cases), 5 (1 case)`; `None` if there are none.
    pub(super) fn listed(&self) -> Option<String> {
        let texts: Vec<String> =
            self.0.iter().map(|(label, &cases)| format!("{label} ({})", count(cases, "case"))).collect();
        (!texts.is_empty()).then(|| texts.join(", "))
    }
}
