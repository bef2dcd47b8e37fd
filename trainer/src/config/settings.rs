//! Settings of the command line: keys, which include their sections, with values.

use toml::Value;

use super::keys::value_of;

/// Prefix of the keys of the augmentation's settings.
const AUGMENT: &str = "stream.augment.";
/// Key of the augmentation chain, whose other settings depend on it.
pub(super) const CHAIN: &str = "stream.augment.chain";

/// Key and value of a setting.
type Setting = (String, String);

/// Puts settings into the order in which they are applied: those of a chain after the choice of it, and otherwise as they
/// are given.
pub(super) fn in_order(settings: &[Setting]) -> Vec<&Setting> {
    let mut settings: Vec<&Setting> = settings.iter().collect();
    settings.sort_by_key(|(key, _)| key != CHAIN && key.starts_with(AUGMENT));
    settings
}

/// Describes the first two settings of which one replaces the other, or a part of it; `None` if all take effect. A setting
/// may add keys to a table that another one sets.
pub(crate) fn contradiction(settings: &[Setting]) -> Option<String> {
    let settings = in_order(settings);
    settings.iter().enumerate().find_map(|(at, first)| {
        let later = &settings[at + 1..];
        later.iter().find_map(|later| contradicts(first, later))
    })
}

/// Describes how a setting that is applied later contradicts one that is applied first.
fn contradicts(first: &Setting, later: &Setting) -> Option<String> {
    let ((key, text), (later_key, later_text)) = (first, later);
    let (value, later_value) = (value_of(text), value_of(later_text));
    if let Some(inner) = within(key, later_key) {
        let is_kept = part(&later_value, inner).is_some_and(|kept| keeps(kept, &value));
        return (!is_kept).then(|| {
            format!(
                "--set {key}={text} has no effect next to --set {later_key}={later_text}, which replaces it; leave one of \
                 them out"
            )
        });
    }
    let replaced = part(&value, within(later_key, key)?)?;
    (!keeps(&later_value, replaced)).then(|| {
        format!(
            "--set {key}={text} and --set {later_key}={later_text} set {later_key} to different values; leave one of them out"
        )
    })
}

/// Path of a key within a section, empty for the section itself; `None` if the key is not in the section.
fn within<'a>(key: &'a str, section: &str) -> Option<&'a str> {
    match key.strip_prefix(section)? {
        "" => Some(""),
        inner => inner.strip_prefix('.'),
    }
}

/// Part of a value at a path; the whole value if the path is empty.
fn part<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').filter(|key| !key.is_empty()).try_fold(value, |value, key| value.as_table()?.get(key))
}

/// Returns true if a value that replaces another one contains it.
fn keeps(value: &Value, replaced: &Value) -> bool {
    match (value, replaced) {
        (Value::Table(value), Value::Table(replaced)) => {
            replaced.iter().all(|(key, replaced)| value.get(key).is_some_and(|value| keeps(value, replaced)))
        }
        _ => value == replaced,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_replaces_another_one_is_found_in_either_order() {
        let found = |settings: &[&str]| {
            let pair =
                |text: &&str| text.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned())).unwrap();
            contradiction(&settings.iter().map(pair).collect::<Vec<_>>()).unwrap_or_default()
        };
        let check = |settings: [&str; 2], replaced: &str, by: &str| {
            let message = found(&settings);
            assert!(message.starts_with(&format!("--set {replaced} ")), "{settings:?}: {message:?}");
            assert!(message.contains(&format!(" --set {by}")) && !message.contains('\n'), "{settings:?}: {message:?}");
        };
        let table = "stream.augment={chain=\"nnunet\",gamma={probability=0.1}}";
        for later in [
            "stream.augment.chain=plain",
            "stream.augment.gamma.probability=0",
            "stream.augment.gamma=0",
            "stream.augment.gamma={}",
            "stream.augment={chain=\"nnunet\"}",
        ] {
            check([table, later], table, later);
        }
        // Settings of a chain are applied last.
        check(["stream.augment.gamma={}", table], table, "stream.augment.gamma={}");
        check(["stream.augment.chain=plain", table], "stream.augment.chain=plain", table);
        check(["optim.lr=1", "optim.lr=2"], "optim.lr=1", "optim.lr=2");
        check(["optim.lr=1", "optim={lr=2}"], "optim.lr=1", "optim={lr=2}");
        check(["stream.split.fold=1", "stream.split=all"], "stream.split.fold=1", "stream.split=all");
        for settings in [
            [table, "stream.augment.gamma.exponent=[1,2]"],
            ["stream.augment.gamma.exponent=[1,2]", table],
            [table, "stream.augment.flip.probability=0"],
            [table, "stream.augment.chain=nnunet"],
            [table, "stream.augment.gamma={probability=0.1,exponent=[1,2]}"],
            ["stream.augment.chain=nnunet", table],
            ["stream.augment={chain=\"nnunet\"}", table],
            ["optim.lr=1e-4", "optim.lr=0.0001"],
            ["optim.lr=1", "optim.lr_of=2"],
            ["stream.split=all", "stream.split.fold=1"],
        ] {
            assert_eq!(found(&settings), "", "{settings:?}");
        }
    }
}
