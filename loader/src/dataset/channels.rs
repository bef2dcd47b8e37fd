//! The number at the end of `CASE_0000`: a channel, as in nnU-Net, or a part of the case's name.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::description::Description;
use super::roles::{channel, numbered_key};

/// Largest number of channels of a case, unless a description names more. Longer runs of numbers behind one name count
/// cases: `scan_0000` to `scan_0099`.
const MAX_CHANNELS: usize = 8;

/// The reason to skip a case of several channels, by the numbers of its files. Where no description demands channels, they may
/// count scans.
#[must_use]
pub fn several_channels(are_demanded: bool) -> &'static str {
    if are_demanded {
        return "has more than one channel; one is expected";
    }
    "numbered like a case of several channels (_0000, _0001); one is expected; rename the files if the numbers count scans"
}

/// Reading of file names by all names of their folder and of its label maps: numbers are channels if one of the names ends in
/// `_0000`, and parts of the names of cases where label maps have them too. The only number of a name, `_0000`, is a channel
/// even then, except in the folders of nnU-Net.
#[derive(Clone, Debug, Default)]
pub struct ChannelNames {
    /// Channel numbers by case; empty if all numbers are parts of names.
    channels: BTreeMap<String, BTreeSet<u16>>,
}

/// Meaning of a file name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRole<'a> {
    /// The only file of this case.
    Case(&'a str),
    /// First channel of this case, which has further ones.
    FirstOfSeveral(&'a str),
    /// Channel other than the first of this case.
    Further(&'a str),
}

impl ChannelNames {
    /// Collects the names of a folder's images and those of the label maps for them, without their endings.
    pub fn of<'a>(images: impl Iterator<Item = &'a str>, labels: impl Iterator<Item = &'a str>) -> Self {
        Self::collect(images, labels, false, MAX_CHANNELS, true)
    }

    /// Collects names as [`ChannelNames::of`] does. A description of nnU-Net's version 2 demands channel numbers, so that none
    /// has to end in `_0000`; one that names more channels than usual allows as many.
    pub(super) fn described<'a>(
        images: impl Iterator<Item = &'a str>,
        labels: impl Iterator<Item = &'a str>,
        description: Option<&Description>,
    ) -> Self {
        let is_demanded = description.is_some_and(|description| description.file_ending.is_some());
        let named = description.map_or(0, |description| description.channels.len());
        Self::collect(images, labels, is_demanded, named.max(MAX_CHANNELS), false)
    }

    fn collect<'a>(
        images: impl Iterator<Item = &'a str>,
        labels: impl Iterator<Item = &'a str>,
        is_demanded: bool,
        max_channels: usize,
        lone_first_is_channel: bool,
    ) -> Self {
        let labels: HashSet<String> = labels.map(numbered_key).collect();
        let mut channels: BTreeMap<String, BTreeSet<u16>> = BTreeMap::new();
        for (case_id, number) in images.filter_map(channel) {
            channels.entry(case_id.to_owned()).or_default().insert(number);
        }
        let mut is_used = is_demanded;
        channels.retain(|case_id, numbers| {
            let has_label = |number: &u16| labels.contains(&numbered_key(&format!("{case_id}_{number:04}")));
            if numbers.len() > max_channels || numbers.iter().any(|number| *number > 0 && has_label(number)) {
                return false;
            }
            let has_first = numbers.contains(&0);
            if lone_first_is_channel && has_first && numbers.len() == 1 && has_label(&0) {
                return true;
            }
            // A scan with number 0 and a label map named like it is a case; further numbers next to it may be channels
            // nevertheless.
            if has_label(&0) {
                numbers.remove(&0);
            }
            is_used |= has_first && !numbers.is_empty();
            !numbers.is_empty()
        });
        if !is_used {
            // Left are first channels whose label maps are named like them; they say nothing of other names.
            channels.retain(|_, numbers| numbers.contains(&0));
        }
        Self { channels }
    }

    /// Returns true if numbers of the folder are channels.
    pub(super) fn has_channels(&self) -> bool {
        !self.channels.is_empty()
    }

    /// Meaning of a name of the folder.
    #[must_use]
    pub fn role<'a>(&self, stem: &'a str) -> NameRole<'a> {
        let Some((case_id, number)) = channel(stem) else { return NameRole::Case(stem) };
        match self.channels.get(case_id).filter(|numbers| numbers.contains(&number)) {
            None => NameRole::Case(stem),
            Some(_) if number > 0 => NameRole::Further(case_id),
            Some(numbers) if numbers.len() > 1 => NameRole::FirstOfSeveral(case_id),
            Some(_) => NameRole::Case(case_id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use NameRole::{Case, FirstOfSeveral, Further};

    fn check(stems: &[&str], expected: &[NameRole<'_>]) {
        check_with_labels(stems, &[], expected);
    }

    fn check_with_labels(stems: &[&str], labels: &[&str], expected: &[NameRole<'_>]) {
        let names = ChannelNames::of(stems.iter().copied(), labels.iter().copied());
        let roles: Vec<NameRole<'_>> = stems.iter().map(|stem| names.role(stem)).collect();
        assert_eq!(roles, expected, "{stems:?} {labels:?}");
    }

    #[test]
    fn numbers_are_channels_where_one_of_them_is_0000() {
        check(&["a_0000", "b_0000", "c"], &[Case("a"), Case("b"), Case("c")]);
        check(&["a_0000", "a_0001", "b_0000"], &[FirstOfSeveral("a"), Further("a"), Case("b")]);
        check(&["a_0001", "b_0000"], &[Further("a"), Case("b")]);
        check(&["amos_0001", "amos_0002"], &[Case("amos_0001"), Case("amos_0002")]);
    }

    #[test]
    fn long_runs_of_numbers_count_cases() {
        let stems: Vec<String> = (0..9).map(|number| format!("scan_{number:04}")).collect();
        let stems: Vec<&str> = stems.iter().map(String::as_str).collect();
        let expected: Vec<NameRole<'_>> = stems.iter().map(|stem| NameRole::Case(stem)).collect();
        check(&stems, &expected);
        let names = ChannelNames::of(stems.iter().copied().chain(["other_0000"]), std::iter::empty());
        assert_eq!(names.role("scan_0003"), NameRole::Case("scan_0003"));
        assert_eq!(names.role("other_0000"), NameRole::Case("other"));
        // Unless as many channels are named.
        let channels: Vec<String> = (0..9).map(|number| number.to_string()).collect();
        let description = Description { channels, ..Description::default() };
        let names = ChannelNames::described(stems.into_iter(), std::iter::empty(), Some(&description));
        assert_eq!(names.role("scan_0000"), NameRole::FirstOfSeveral("scan"));
    }

    #[test]
    fn numbers_that_label_maps_have_too_are_parts_of_names() {
        let both = ["scan_0000", "scan_0001"];
        check_with_labels(&both, &both, &[Case("scan_0000"), Case("scan_0001")]);
        check_with_labels(&["scan_0000", "scan_0001"], &["scan_0001"], &[Case("scan_0000"), Case("scan_0001")]);
        check_with_labels(
            &["img_0000", "img_0001"],
            &["label_0000", "label_0001"],
            &[Case("img_0000"), Case("img_0001")],
        );
        // Next to no other number it is a channel, and says nothing about other names.
        check_with_labels(&["a_0000"], &["a_0000"], &[Case("a")]);
        check_with_labels(&["a_0000", "c_0001"], &["a_0000"], &[Case("a"), Case("c_0001")]);
        check_with_labels(
            &["a_0000", "b_0000", "b_0001"],
            &["a_0000", "b_0000", "b_0001"],
            &[Case("a"), Case("b_0000"), Case("b_0001")],
        );
        let names = ChannelNames::described(["a_0000"].into_iter(), ["a_0000"].into_iter(), None);
        assert_eq!(names.role("a_0000"), Case("a_0000"));
        // Named like cases, and like channels.
        check_with_labels(
            &["a_0000", "a_0001", "b_0000"],
            &["a", "b"],
            &[FirstOfSeveral("a"), Further("a"), Case("b")],
        );
        check_with_labels(&["F_0001_0000", "F_0002_0000"], &["F_0001"], &[Case("F_0001"), Case("F_0002")]);
        // One label map named like the first channel does not make a scan of the second one.
        check_with_labels(&["a_0000", "a_0001"], &["a_0000"], &[Case("a_0000"), Further("a")]);
    }

    #[test]
    fn a_description_of_version_2_demands_channels() {
        let description = Description { file_ending: Some(".nii.gz".into()), ..Description::default() };
        let names = ChannelNames::described(["a_0001"].into_iter(), std::iter::empty(), Some(&description));
        assert_eq!(names.role("a_0001"), NameRole::Further("a"));
        let names = ChannelNames::described(["a_0001"].into_iter(), ["a_0001"].into_iter(), Some(&description));
        assert_eq!(names.role("a_0001"), NameRole::Case("a_0001"));
    }
}
