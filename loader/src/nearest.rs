//! Search for the known name that an unknown name probably stands for, as a hint in errors.

/// Largest similarity (Jaro-Winkler, 0 to 1) that two names have by chance. A wrong hint is worse than none.
const CHANCE: f64 = 0.7;

/// Finds the most similar known name, ignoring upper and lower case; `None` if none is similar.
#[must_use]
pub fn nearest<'a>(wanted: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = wanted.to_lowercase();
    let similarity = |name: &str| strsim::jaro_winkler(&wanted, &name.to_lowercase());
    most_similar(known.into_iter().map(|name| (name, similarity(name))))
}

/// Finds the most similar known dataset, compared by its name with and without `DatasetXXX_` or `TaskXX_`.
#[must_use]
pub fn nearest_dataset<'a>(wanted: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = wanted.to_lowercase();
    most_similar(known.into_iter().map(|name| (name, dataset_similarity(&wanted, name))))
}

/// Finds the most similar known case, compared by its key `DATASET/CASE` and by `CASE` alone. A case of exactly this
/// name in another dataset takes precedence. Cases of other numbers are other scans and never suggested: `case_2` for
/// `case_002`, but not `case_003`.
#[must_use]
pub fn nearest_case<'a>(wanted: &str, keys: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = wanted.to_lowercase();
    most_similar(similar_cases(&wanted, keys))
}

/// The most similar of the known datasets and cases; see [`nearest_dataset`] and [`nearest_case`].
pub(crate) fn nearest_dataset_or_case<'a>(
    wanted: &str,
    datasets: impl IntoIterator<Item = &'a str>,
    keys: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let wanted = wanted.to_lowercase();
    let datasets = datasets.into_iter().map(|name| (name, dataset_similarity(&wanted, name)));
    most_similar(datasets.chain(similar_cases(&wanted, keys)))
}

/// Similarity of a name in lower case and a dataset.
fn dataset_similarity(wanted: &str, name: &str) -> f64 {
    let name = name.to_lowercase();
    let short = match name.split_once('_') {
        Some((head, tail)) if head.starts_with("dataset") || head.starts_with("task") => tail,
        _ => &name,
    };
    strsim::jaro_winkler(wanted, &name).max(strsim::jaro_winkler(wanted, short))
}

/// Similarities of a name in lower case and the cases with its numbers: one digit is another case.
fn similar_cases<'a>(wanted: &str, keys: impl IntoIterator<Item = &'a str>) -> impl Iterator<Item = (&'a str, f64)> {
    let numbers = numbers_of(wanted);
    keys.into_iter().filter(move |key| numbers_of(key) == numbers).map(move |key| (key, case_similarity(wanted, key)))
}

/// The numbers in the last part of a case's name, without leading zeros and without that of nnU-Net's first channel.
fn numbers_of(name: &str) -> Vec<&str> {
    let last = name.rsplit('/').next().unwrap_or(name);
    let last = last.strip_suffix("_0000").unwrap_or(last);
    let numbers = last.split(|c: char| !c.is_ascii_digit()).filter(|number| !number.is_empty());
    numbers.map(|number| number.trim_start_matches('0')).collect()
}

/// Similarity of a name in lower case and a case; more than 1 for a case of exactly this name.
fn case_similarity(wanted: &str, key: &str) -> f64 {
    let key = key.to_lowercase();
    if key.rsplit('/').next() == wanted.rsplit('/').next() {
        return 1.0 + strsim::jaro_winkler(wanted, &key);
    }
    let id = key.split_once('/').map_or(key.as_str(), |(_, id)| id);
    strsim::jaro_winkler(wanted, &key).max(strsim::jaro_winkler(wanted, id))
}

/// Returns the name of the largest similarity, if it is more than chance; the first of several equal ones.
fn most_similar<'a>(names: impl Iterator<Item = (&'a str, f64)>) -> Option<&'a str> {
    let best = names.reduce(|best, next| if next.1 > best.1 { next } else { best });
    best.filter(|(_, similarity)| *similarity > CHANCE).map(|(name, _)| name)
}

/// End of a message that suggests a name: `; did you mean "NAME"?`; empty without a name.
pub(crate) fn hint(nearest: Option<&str>) -> String {
    nearest.map(|name| format!("; did you mean {name:?}?")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similar_names_are_suggested_and_others_are_not() {
        let classes = ["background", "liver", "left kidney"];
        assert_eq!(nearest("Lever", classes), Some("liver"));
        assert_eq!(nearest("xyz", classes), None);
        assert_eq!(nearest("liver", []), None);
        let datasets = ["Dataset001_BTCV", "Dataset010_AMOS", "Task03_Liver"];
        assert_eq!(nearest_dataset("AMOSS", datasets), Some("Dataset010_AMOS"));
        assert_eq!(nearest_dataset("lever", datasets), Some("Task03_Liver"));
        assert_eq!(nearest_dataset("xyz", datasets), None);
        let keys = ["A/case_001", "A/case_002", "B/case_001"];
        assert_eq!(nearest_case("cas_002", keys), Some("A/case_002"));
        assert_eq!(nearest_case("C/case_002", keys), Some("A/case_002"));
        assert_eq!(nearest_case("xyz", keys), None);
        assert_eq!(nearest_case("cas_2", keys), Some("A/case_002"));
        assert_eq!(nearest_case("Case_002_0000", keys), Some("A/case_002"));
        // One digit is another case.
        for other in ["case_003", "A/case_003", "case_01", "case"] {
            assert_eq!(nearest_case(other, ["A/case_000", "A/case_002"]), None, "{other}");
        }
        assert_eq!(nearest_dataset_or_case("AMOSS", datasets, keys), Some("Dataset010_AMOS"));
        assert_eq!(nearest_dataset_or_case("cas_002", datasets, keys), Some("A/case_002"));
        assert_eq!(nearest_dataset_or_case("xyz", datasets, keys), None);
    }
}
