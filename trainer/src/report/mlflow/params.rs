//! The configuration of a run as MLflow's parameters.

use serde::Serialize;
use toml::{Table, Value};

/// Maximum number of parameters in a request.
pub(super) const MAX_PARAMS: usize = 100;
/// Maximum length of a parameter's value on servers before MLflow 2.8, in characters.
pub(super) const SHORT: usize = 500;
/// Maximum length of a parameter's value, in characters.
pub(super) const LONG: usize = 6000;
/// Length to which keys are truncated, in characters. MLflow allows 250.
const MAX_KEY: usize = 200;

/// A parameter or a tag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Pair {
    pub(super) key: String,
    pub(super) value: String,
}

impl Pair {
    pub(super) fn new(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self { key: key.into(), value: value.into() }
    }
}

/// Parameters of a configuration; keys include their sections, and values have at most [`LONG`] characters.
pub(super) fn of_config(config: &Table) -> Vec<Pair> {
    fn walk(prefix: &str, table: &Table, pairs: &mut Vec<Pair>) {
        for (key, value) in table {
            let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            match value {
                Value::Table(table) => walk(&path, table, pairs),
                Value::String(text) => pairs.push(Pair::new(key_of(&path), cut(text, LONG))),
                value => pairs.push(Pair::new(key_of(&path), cut(&value.to_string(), LONG))),
            }
        }
    }
    let mut pairs = Vec::new();
    walk("", config, &mut pairs);
    pairs
}

/// Truncates a text to at most `max` characters; an ellipsis marks the truncation.
pub(super) fn cut(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        None => text.to_owned(),
        Some(_) => text.chars().take(max - 1).chain(['…']).collect(),
    }
}

/// Converts a name to a key of at most 200 characters; characters that MLflow does not allow become underscores.
pub(super) fn key_of(name: &str) -> String {
    name.chars().take(MAX_KEY).map(|c| if is_allowed(c) { c } else { '_' }).collect()
}

/// Returns true for characters that all versions of MLflow allow in keys, on all systems.
///
/// MLflow allows the letters and digits of Python, which differ from Rust's in combining marks; the ranges have none.
fn is_allowed(c: char) -> bool {
    match c {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '-' | '.' | ' ' | '/' => true,
        // Latin; Greek and Cyrillic; kana; Chinese; Korean.
        '\u{c0}'..='\u{24f}'
        | '\u{370}'..='\u{481}'
        | '\u{3041}'..='\u{3096}'
        | '\u{30a1}'..='\u{30fa}'
        | '\u{4e00}'..='\u{9fff}'
        | '\u{ac00}'..='\u{d7a3}' => c.is_alphabetic(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RunConfig as _;
    use crate::config::finetune::FinetunePreset;

    #[test]
    fn every_setting_is_a_parameter() {
        let table: Table = FinetunePreset::Tiny.config().to_toml().parse().unwrap();
        let params = of_config(&table);
        let value = |key: &str| params.iter().find(|pair| pair.key == key).map(|pair| pair.value.as_str());
        assert_eq!(value("train.seed"), Some(table["train"]["seed"].to_string().as_str()));
        // Text has no quotes.
        assert_eq!(value("train.precision"), table["train"]["precision"].as_str());
        assert!(value("stream.crop_size").is_some_and(|value| value.starts_with('[')));
    }

    #[test]
    fn long_values_are_cut_by_characters() {
        assert_eq!(cut("größe", 5), "größe");
        assert_eq!(cut("größer", 5), "größ…");
        let table: Table = format!("list = \"{}\"", "é".repeat(LONG + 1)).parse().unwrap();
        assert_eq!(of_config(&table)[0].value.chars().count(), LONG);
    }
}
