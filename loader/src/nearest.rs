//! The known name that an unknown one probably stands for, for the hint of an error.

/// Similarity (Jaro-Winkler, 0 to 1) up to which two names share no more than chance. A wrong hint is worse than none.
const CHANCE: f64 = 0.7;

/// The most similar of the known names, upper and lower case alike; `None` if none is similar.
#[must_use]
pub fn nearest<'a>(wanted: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = wanted.to_lowercase();
    let similarity = |name: &str| strsim::jaro_winkler(&wanted, &name.to_lowercase());
    most_similar(known.into_iter().map(|name| (name, similarity(name))))
}

/// The most similar of the known datasets, each by its name and by that without `DatasetXXX_` or `TaskXX_`.
#[must_use]
pub fn nearest_dataset<'a>(wanted: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = wanted.to_lowercase();
    let similarity = |name: &str| {
        let name = name.to_lowercase();
        let short = match name.split_once('_') {
            Some((head, tail)) if head.starts_with("dataset") || head.starts_with("task") => tail,
            _ => &name,
        };
        strsim::jaro_winkler(&wanted, &name).max(strsim::jaro_winkler(&wanted, short))
    };
    most_similar(known.into_iter().map(|name| (name, similarity(name))))
}

/// The most similar of the known cases, each by its key `DATASET/CASE` and by `CASE` alone. The case of exactly this name in
/// another dataset goes before all others.
#[must_use]
pub fn nearest_case<'a>(wanted: &str, keys: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = wanted.to_lowercase();
    let likeness = |key: &str| {
        let key = key.to_lowercase();
        // More than any similarity.
        if key.rsplit('/').next() == wanted.rsplit('/').next() {
            return 1.0 + strsim::jaro_winkler(&wanted, &key);
        }
        let id = key.split_once('/').map_or(key.as_str(), |(_, id)| id);
        strsim::jaro_winkler(&wanted, &key).max(strsim::jaro_winkler(&wanted, id))
    };
    most_similar(keys.into_iter().map(|key| (key, likeness(key))))
}

/// The name of the largest similarity, if that is more than chance; the first one of several.
fn most_similar<'a>(names: impl Iterator<Item = (&'a str, f64)>) -> Option<&'a str> {
    let best = names.reduce(|best, next| if next.1 > best.1 { next } else { best });
    best.filter(|(_, similarity)| *similarity > CHANCE).map(|(name, _)| name)
}

/// End of a message that suggests a name: `; did you mean "NAME"?`, or nothing.
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
    }
}
