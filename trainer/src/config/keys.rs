//! Keys of a configuration as TOML: lookup, and the check against the known ones.

use std::collections::BTreeMap;

use hiend_loader::nearest::nearest;
use toml::{Table, Value};

use super::ConfigError;

/// Values by key; keys include their sections.
pub(super) fn flat(toml: &str) -> BTreeMap<String, String> {
    fn walk(prefix: &str, table: &Table, flat: &mut BTreeMap<String, String>) {
        for (key, value) in table {
            let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            match value {
                Value::Table(table) => walk(&path, table, flat),
                value => {
                    flat.insert(path, value.to_string());
                }
            }
        }
    }
    let mut flat = BTreeMap::new();
    walk("", &toml.parse().expect("written by ourselves"), &mut flat);
    flat
}

/// Value of a key that includes its sections; `None` if it is absent.
pub(super) fn value_at<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    let mut parts = key.split('.');
    let first = table.get(parts.next()?)?;
    parts.try_fold(first, |value, part| value.as_table()?.get(part))
}

/// Returns `key`, or the key of the value that contains it if only one of two configurations has that part. Whole
/// sections do not count as values.
pub(super) fn common_key<'a>(key: &'a str, ours: &Table, theirs: &Table) -> &'a str {
    let is_common = value_at(ours, key).is_some() && value_at(theirs, key).is_some();
    match key.rsplit_once('.') {
        Some((value, _)) if !is_common && value.contains('.') => value,
        _ => key,
    }
}

/// Parses a value as TOML; other text is a string.
pub(crate) fn value_of(text: &str) -> Value {
    let table = format!("value = {text}").parse::<Table>();
    let value = table.ok().filter(|table| table.len() == 1).and_then(|mut table| table.remove("value"));
    value.unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Finds the known key that an unknown key probably stands for: a similar one in its section, or one with the same name
/// in another section.
fn suggestion(prefix: &str, key: &str, known: &Table, all: &Table) -> Option<String> {
    if let Some(nearest) = nearest(key, known.keys().map(String::as_str)) {
        return Some(format!("{prefix}{nearest}"));
    }
    let all = flat(&toml::to_string(all).expect("a table"));
    all.into_keys().find(|path| path.rsplit('.').next() == Some(key))
}

/// Checks that all keys of `table`, the section called `prefix`, are among the `known` ones of the section; `all` are
/// those of every section, for a suggestion.
///
/// # Errors
/// The first unknown key.
pub(super) fn check_keys(
    prefix: &str,
    table: &Table,
    known: &Table,
    all: &Table,
    origin: &str,
) -> Result<(), ConfigError> {
    for (key, value) in table {
        let Some(known_value) = known.get(key) else {
            return Err(ConfigError::UnknownKey {
                origin: origin.to_owned(),
                key: format!("{prefix}{key}"),
                suggestion: suggestion(prefix, key, known, all),
            });
        };
        if let (Value::Table(table), Value::Table(known)) = (value, known_value) {
            // Other augmentation chains and other kinds of splits have other keys; their types check them.
            let other_chain = table.get("chain") != known.get("chain") && known.contains_key("chain");
            if other_chain || key == "split" {
                continue;
            }
            check_keys(&format!("{prefix}{key}."), table, known, all, origin)?;
        }
    }
    Ok(())
}
