//! The first difference between two descriptions of a dataset's classes.

use std::collections::BTreeSet;

use hiend_cache::DatasetInfo;

/// A class or region that two descriptions of a dataset give differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Class or region, such as `class 1` or `region "tumour"`.
    what: String,
    /// Name or labels in the first description; `None` if it lacks the entry.
    first: Option<String>,
    /// Name or labels in the second description; `None` if it lacks the entry.
    second: Option<String>,
}

impl Difference {
    /// Finds the first difference of two descriptions: classes by number, then regions by name, then the ignore label.
    #[must_use]
    pub fn between(first: &DatasetInfo, second: &DatasetInfo) -> Option<Self> {
        let of_classes = (0..=u8::MAX).find_map(|label| {
            let names = [first, second].map(|info| info.labels.get(&label).map(|name| format!("{name:?}")));
            Self::of(format!("class {label}"), names)
        });
        let regions: BTreeSet<&String> = first.regions.keys().chain(second.regions.keys()).collect();
        let of_regions = || {
            regions.iter().find_map(|name| {
                let labels = [first, second].map(|info| info.regions.get(*name).map(|labels| format!("{labels:?}")));
                Self::of(format!("region {name:?}"), labels)
            })
        };
        let of_ignore = || {
            let labels = [first, second].map(|info| info.ignore.map(|label| label.to_string()));
            Self::of("the ignore label".to_owned(), labels)
        };
        of_classes.or_else(of_regions).or_else(of_ignore)
    }

    fn of(what: String, [first, second]: [Option<String>; 2]) -> Option<Self> {
        (first != second).then_some(Self { what, first, second })
    }

    /// One clause with both sides, such as `class 1 is "liver" in the cache and "spleen" in this data`.
    #[must_use]
    pub fn described(&self, in_first: &str, in_second: &str) -> String {
        let first = self.first.as_deref().unwrap_or("missing");
        let second = self.second.as_deref().unwrap_or("missing");
        format!("{} is {first} {in_first} and {second} {in_second}", self.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(labels: &[(u8, &str)], regions: &[(&str, &[u8])], ignore: Option<u8>) -> DatasetInfo {
        DatasetInfo {
            labels: labels.iter().map(|&(label, name)| (label, name.to_owned())).collect(),
            regions: regions.iter().map(|&(name, labels)| (name.to_owned(), labels.to_vec())).collect(),
            ignore,
        }
    }

    #[test]
    fn classes_regions_and_the_ignore_label_are_compared_in_this_order() {
        let one = info(&[(0, "background"), (1, "liver")], &[("whole", &[1, 2])], Some(3));
        let check = |second: &DatasetInfo, expected: &str| {
            assert_eq!(Difference::between(&one, second).unwrap().described("here", "there"), expected);
        };
        assert_eq!(Difference::between(&one, &one.clone()), None);
        check(&info(&[(0, "background"), (1, "spleen")], &[], None), "class 1 is \"liver\" here and \"spleen\" there");
        check(&info(&[(0, "background")], &[], None), "class 1 is \"liver\" here and missing there");
        let more = info(&[(0, "background"), (1, "liver"), (9, "aorta")], &[], None);
        check(&more, "class 9 is missing here and \"aorta\" there");
        let other_region = info(&[(0, "background"), (1, "liver")], &[("whole", &[1])], None);
        check(&other_region, "region \"whole\" is [1, 2] here and [1] there");
        check(&DatasetInfo { ignore: None, ..one.clone() }, "the ignore label is 3 here and missing there");
    }
}
