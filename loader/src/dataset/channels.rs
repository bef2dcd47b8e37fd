//! The number at the end of `CASE_0000`: a channel, as in nnU-Net, or a part of the case's name.

use std::collections::{BTreeMap, BTreeSet};

use super::roles::channel;

/// Largest number of channels of a case. Longer runs of numbers behind one name count cases: `scan_0000` to `scan_0099`.
const MAX_CHANNELS: usize = 8;

/// Reading of file names by all names of their folder: numbers are channels if one of the names ends in `_0000`.
#[derive(Clone, Debug, Default)]
pub struct ChannelNames {
    /// Channel numbers by case; empty if numbers are parts of names.
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
    /// Collects the names of a folder's volumes, without their endings.
    pub fn of<'a>(stems: impl Iterator<Item = &'a str>) -> Self {
        let mut channels: BTreeMap<String, BTreeSet<u16>> = BTreeMap::new();
        for (case_id, number) in stems.filter_map(channel) {
            channels.entry(case_id.to_owned()).or_default().insert(number);
        }
        channels.retain(|_, numbers| numbers.len() <= MAX_CHANNELS);
        if !channels.values().any(|numbers| numbers.contains(&0)) {
            channels.clear();
        }
        Self { channels }
    }

    /// Meaning of a name of the folder.
    #[must_use]
    pub fn role<'a>(&self, stem: &'a str) -> NameRole<'a> {
        let Some((case_id, number)) = channel(stem) else { return NameRole::Case(stem) };
        match self.channels.get(case_id) {
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

    fn check(stems: &[&str], expected: &[NameRole<'_>]) {
        let names = ChannelNames::of(stems.iter().copied());
        let roles: Vec<NameRole<'_>> = stems.iter().map(|stem| names.role(stem)).collect();
        assert_eq!(roles, expected, "{stems:?}");
    }

    #[test]
    fn numbers_are_channels_where_one_of_them_is_0000() {
        use NameRole::{Case, FirstOfSeveral, Further};
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
        let names = ChannelNames::of(stems.into_iter().chain(["other_0000"]));
        assert_eq!(names.role("scan_0003"), NameRole::Case("scan_0003"));
        assert_eq!(names.role("other_0000"), NameRole::Case("other"));
    }
}
