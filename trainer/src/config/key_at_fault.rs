//! Key at fault in a section that is parsed as a whole.
//!
//! An augmentation chain and a split are read completely before it is known which keys they may have. The parser's error
//! then names the section and its first line. The key at fault is the one without which there is another error, or none.

use toml::de::DeTable;
use toml::{Table, Value};

/// Narrows an error of the configuration `table`, written in `text`, down to a key of the section that the error names.
/// Returns the key's position in the text, and the error with the key; `None` if no single key is at fault. `error_of`
/// returns the error of a table, which is `error` for `table`.
pub(super) fn narrowed(
    table: &Table,
    text: &str,
    error: &str,
    error_of: &dyn Fn(Table) -> Option<String>,
) -> Option<(usize, String)> {
    let (reason, section) = error.trim_end().strip_suffix('`')?.rsplit_once("in `")?;
    let section: Vec<String> = section.split('.').map(str::to_owned).collect();
    let inner = section.iter().try_fold(table, |inner, part| inner.get(part)?.as_table())?;
    // Without the name of its chain there is always another error.
    let may_be_chain = !error.starts_with("missing field");
    let is_at_fault = |path: &[String]| {
        (may_be_chain || path.last().is_none_or(|key| key != "chain"))
            && error_of(without(table, path)).is_none_or(|other| other != error)
    };
    let path = find(inner, &section, &is_at_fault)?;
    Some((position(text, &path)?, format!("{reason}in `{}`", path.join("."))))
}

/// Returns the error with the section that lacks a key, where the parser names the key of the section that it read last; any
/// other error unchanged. `known` are all keys.
pub(super) fn in_section(known: &Table, error: &str) -> String {
    let section = || {
        let (key, _) = error.strip_prefix("missing field `")?.split_once('`')?;
        let (reason, read) = error.trim_end().strip_suffix('`')?.rsplit_once("in `")?;
        let mut path: Vec<&str> = read.split('.').collect();
        let has_key = |path: &[&str]| {
            let section = path.iter().try_fold(known, |section, part| section.get(*part)?.as_table());
            section.is_some_and(|section| section.contains_key(key))
        };
        while !has_key(&path) {
            path.pop()?;
        }
        Some(if path.is_empty() { reason.to_owned() } else { format!("{reason}in `{}`", path.join(".")) })
    };
    section().unwrap_or_else(|| error.to_owned())
}

/// Position of a key in the text of a configuration.
fn position(text: &str, path: &[String]) -> Option<usize> {
    let root = DeTable::parse(text).ok()?;
    let (name, sections) = path.split_last()?;
    let mut section = root.get_ref();
    for part in sections {
        section = section.get(part.as_str())?.get_ref().as_table()?;
    }
    section.get_key_value(name.as_str()).map(|(key, _)| key.span().start)
}

/// Finds the first key at fault in the section at `path`: inner keys before their section, the name of a chain last.
fn find(section: &Table, path: &[String], is_at_fault: &dyn Fn(&[String]) -> bool) -> Option<Vec<String>> {
    let mut keys: Vec<&String> = section.keys().collect();
    keys.sort_by_key(|key| *key == "chain");
    keys.into_iter().find_map(|key| {
        let path = [path, std::slice::from_ref(key)].concat();
        let within = match &section[key] {
            Value::Table(inner) => find(inner, &path, is_at_fault),
            _ => None,
        };
        within.or_else(|| is_at_fault(&path).then_some(path))
    })
}

/// Copies a table without one key.
fn without(table: &Table, path: &[String]) -> Table {
    let mut copy = table.clone();
    if let Some((name, sections)) = path.split_last()
        && let Some(section) = sections.iter().try_fold(&mut copy, |table, part| table.get_mut(part)?.as_table_mut())
    {
        section.remove(name);
    }
    copy
}

#[cfg(test)]
mod tests {
    use crate::config::RunConfig as _;
    use crate::config::finetune::{FinetuneConfig, FinetunePreset};
    use crate::config::pretrain::{PretrainConfig, PretrainPreset};

    const HEADER: &str = "[stream.augment]\n\n# comment\n";

    #[test]
    fn errors_of_augmentation_name_key_and_line() {
        let preset = PretrainPreset::Tiny.toml();
        let (before, rest) = preset.split_once("[stream.augment]").unwrap();
        let (_, after) = rest.split_once("[optim]").unwrap();
        let first = before.lines().count();
        let check = |section: &str, line: usize, expected: &str| {
            let text = format!("{before}{HEADER}{section}\n[optim]{after}");
            let message = PretrainConfig::parse(&text, "x.toml").unwrap_err().to_string();
            let line = first + HEADER.lines().count() + line;
            assert!(message.starts_with(&format!("x.toml: line {line}: ")), "{section}: {message}");
            assert!(message.ends_with(expected) && !message.contains('\n'), "{section}: {message}");
        };
        check(
            "chain = \"recipe\"\nflip = { probability = 0.5 }\nrotate90.probability = \"a\"",
            3,
            "in `stream.augment.rotate90.probability`",
        );
        check("chain = \"recipe\"\nflip = { probability = 7 }", 2, "in `stream.augment.flip.probability`");
        // Other chains have other keys.
        check("chain = \"nnunet\"\ngama = { probability = 0.5 }", 2, "in `stream.augment.gama`");
        check(
            "chain = \"nnunet\"\n[stream.augment.gamma]\nprobability = 0.1\nexponents = [1, 2]",
            4,
            "in `stream.augment.gamma.exponents`",
        );
        check("flip = { probability = 0.5 }\nchain = \"nunet\"", 2, "in `stream.augment.chain`");
    }

    #[test]
    fn an_error_of_no_single_key_names_the_section() {
        let preset = PretrainPreset::Tiny.toml();
        assert!(preset.contains("chain = \"recipe\"\n"));
        let line = preset.lines().position(|line| line.starts_with("[stream.augment]")).unwrap() + 1;
        let text = preset.replacen("chain = \"recipe\"\n", "", 1);
        let message = PretrainConfig::parse(&text, "x.toml").unwrap_err().to_string();
        assert!(message.starts_with(&format!("x.toml: line {line}: missing field `chain`")), "{message}");
        assert!(message.ends_with("in `stream.augment`"), "{message}");
    }

    #[test]
    fn the_section_that_lacks_a_key_is_named() {
        let without = |key: &str| {
            let preset = PretrainPreset::Tiny.toml();
            let lines: Vec<&str> = preset.lines().filter(|line| !line.starts_with(&format!("{key} ="))).collect();
            PretrainConfig::parse(&lines.join("\n"), "x.toml").unwrap_err().to_string()
        };
        for (key, section) in [("weight_decay", "optim"), ("depth", "model")] {
            let message = without(key);
            assert!(message.ends_with(&format!("missing field `{key}` in `{section}`")), "{message}");
        }
    }

    #[test]
    fn errors_of_splits_name_key_and_line() {
        let preset = FinetunePreset::Recipe.toml();
        let check = |section: &str, line: usize, expected: &str| {
            let text = format!("{preset}\n[stream.split]\n{section}\n");
            let text = text
                .lines()
                .filter(|line| !line.starts_with("split = { fold = 0, of = 5, part = \"train\""))
                .collect::<Vec<_>>()
                .join("\n");
            let header = text.lines().position(|line| line == "[stream.split]").unwrap() + 1;
            let message = FinetuneConfig::parse(&text, "x.toml").unwrap_err().to_string();
            assert!(message.starts_with(&format!("x.toml: line {}: ", header + line)), "{section}: {message}");
            assert!(message.ends_with(expected), "{section}: {message}");
        };
        check("fold = 0\nof = 5\npart = \"train\"\nrules = \"dealt\"", 4, "in `stream.split.rules`");
        check("list = \"a\"\nseed = 1", 2, "in `stream.split.seed`");
        // Each key is needed.
        check("fold = 0\nof = 5\npart = \"all\"", 0, "in `stream.split`");
    }
}
