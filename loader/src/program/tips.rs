//! Tips in errors of the command line: options that other tools have under other names, and words without an option.

use std::ffi::OsString;
use std::path::Path;

use clap::Command;
use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Similarity from which a word counts as a misspelt name: one letter missing, doubled or swapped.
pub(super) const SIMILAR: f64 = 0.85;

/// Options of other tools: their names there, an argument that only the commands with such an option have, and the
/// option's name here.
const OTHER_NAMES: &[(&[&str], &str, &str)] = &[
    (&["lr", "learning-rate"], "set", "'--set optim.lr=1e-4'"),
    (
        &["epochs", "num-epochs", "max-epochs"],
        "set",
        "'--set schedule.total=100', in epochs or steps as schedule.unit says",
    ),
    (&["batch-size"], "set", "'--set stream.visits_per_batch=8', in cases"),
    (&["batch-size"], "visits_per_batch", "'--visits-per-batch 8', in cases"),
    (&["steps", "num-steps", "iterations"], "max_steps", "'--max-steps'"),
    (&["steps", "num-steps", "iterations"], "batches", "'--batches'"),
    (&["o", "output", "out-dir", "output-dir", "output-folder"], "max_steps", "'--run-dir'"),
    (&["o", "output", "out-dir", "output-dir", "output-folder"], "out", "'--out'"),
    (&["gt", "ground-truth", "reference"], "predictions", "'--labels'"),
    (&["pred", "preds", "prediction"], "predictions", "'--predictions'"),
];

/// Names of other tools' options for what is given without an option here.
const INPUTS: &[&str] = &["i", "input", "input-dir", "input-folder"];

/// Adds tips to an error of a command line, whose words begin with the program's name. Clap's own tips go by spelling.
pub(super) fn explained(error: clap::Error, command: &Command, words: &[OsString]) -> clap::Error {
    let subcommand = words.get(1).and_then(|word| command.find_subcommand(word));
    match error.kind() {
        ErrorKind::UnknownArgument => with_own_name(error, subcommand.unwrap_or(command)),
        ErrorKind::ArgumentConflict => stray_word(error, command, words),
        ErrorKind::MissingRequiredArgument => match subcommand {
            Some(subcommand) => folder_named_like(subcommand.get_name(), error, command),
            None => error,
        },
        _ => error,
    }
}

/// Replaces the tip of an error on an option that other tools have. A name that is only similar to one of theirs counts
/// where clap found no similar option.
fn with_own_name(mut error: clap::Error, command: &Command) -> clap::Error {
    let Some(ContextValue::String(option)) = error.get(ContextKind::InvalidArg) else { return error };
    let Some(name) = option.strip_prefix('-') else { return error };
    let name = name.trim_start_matches('-').replace('_', "-");
    let has_tip = error.get(ContextKind::SuggestedArg).is_some();
    let is_similar = |other: &str| !has_tip && other.len() > 3 && strsim::jaro_winkler(&name, other) >= SIMILAR;
    if let Some(tip) = tip(command, |other| name == other || is_similar(other)) {
        error.remove(ContextKind::SuggestedArg);
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![StyledStr::from(tip)]));
    }
    error
}

/// Tip on the option of another tool; `is_meant` tells whether it has a name.
fn tip(command: &Command, is_meant: impl Fn(&str) -> bool) -> Option<String> {
    let has = |id: &str| command.get_arguments().any(|arg| arg.get_id() == id);
    let is_meant = |names: &[&str]| names.iter().any(|&name| is_meant(name));
    if is_meant(INPUTS) {
        let value = command.get_positionals().next()?.get_value_names()?.first()?;
        return Some(format!("{value} is given without an option"));
    }
    let (_, _, own) = OTHER_NAMES.iter().find(|(names, id, _)| is_meant(names) && has(id))?;
    Some(format!("use {own}"))
}

/// Adds a tip to the error of a subcommand that lacks an argument, if the word was meant for a folder of this name.
fn folder_named_like(name: &str, mut error: clap::Error, command: &Command) -> clap::Error {
    if command.get_positionals().next().is_some() && Path::new(name).is_dir() {
        let tip = StyledStr::from(format!("'{name}' is a command; the folder of this name is './{name}'"));
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
    }
    error
}

/// Replaces the error on a word that clap takes for a subcommand, such as `cache` in `hiend-shard data cache`.
fn stray_word(error: clap::Error, command: &Command, words: &[OsString]) -> clap::Error {
    let word = match error.get(ContextKind::InvalidSubcommand) {
        Some(ContextValue::String(word)) if command.find_subcommand(word).is_none() => word.clone(),
        _ => return error,
    };
    let takes_value = |option: &str| {
        let Some(name) = option.strip_prefix("--") else { return false };
        command.get_arguments().any(|arg| arg.get_long() == Some(name) && arg.get_action().takes_values())
    };
    let at = words.iter().rposition(|other| other.to_str() == Some(word.as_str()));
    let before = at.and_then(|at| words.get(at.checked_sub(2)?)?.to_str()).filter(|option| takes_value(option));
    let has_out = command.get_arguments().any(|arg| arg.get_id() == "out");
    let tip = match before {
        Some(option) => Some(format!("'{option}' takes one value; numbers of a list are separated by commas only")),
        None if has_out => Some(format!("the output is named by '--out {word}'")),
        None => None,
    };
    let mut clear = clap::Error::new(ErrorKind::UnknownArgument).with_cmd(command);
    clear.insert(ContextKind::InvalidArg, ContextValue::String(word));
    if let Some(tip) = tip {
        clear.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![StyledStr::from(tip)]));
    }
    if let Some(usage) = error.get(ContextKind::Usage) {
        clear.insert(ContextKind::Usage, usage.clone());
    }
    clear
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    fn command() -> Command {
        let train = [Arg::new("set").long("set"), Arg::new("max_steps").long("max-steps")];
        let train = Command::new("train").args(train);
        let predict =
            Command::new("predict").arg(Arg::new("inputs").value_name("INPUT")).arg(Arg::new("out").long("out"));
        Command::new("program")
            .args_conflicts_with_subcommands(true)
            .arg(Arg::new("data").value_name("DATA"))
            .arg(Arg::new("out").long("out"))
            .arg(Arg::new("window").long("window").allow_hyphen_values(true))
            .subcommands([train, predict])
    }

    fn error(words: &str) -> String {
        let words: Vec<OsString> = words.split(' ').map(OsString::from).collect();
        let error = command().try_get_matches_from(&words).unwrap_err();
        explained(error, &command(), &words).to_string()
    }

    #[test]
    fn options_of_other_tools_get_the_name_of_the_own_one() {
        for (words, tip) in [
            ("program train --lr 1e-3", "tip: use '--set optim.lr=1e-4'\n"),
            ("program train --batch_size=2", "tip: use '--set stream.visits_per_batch=8', in cases\n"),
            ("program train --epochs 3", "tip: use '--set schedule.total=100', in epochs or steps"),
            ("program train --steps 3", "tip: use '--max-steps'\n"),
            ("program train -o x", "tip: use '--run-dir'\n"),
            ("program data -o x", "tip: use '--out'\n"),
            ("program data --ouput x", "tip: use '--out'\n"),
            ("program -i data", "tip: DATA is given without an option\n"),
            ("program predict --input data", "tip: INPUT is given without an option\n"),
        ] {
            let text = error(words);
            assert!(text.contains(tip) && text.matches("tip:").count() == 1, "{words}: {text}");
        }
        // Clap's tip remains for a misspelt option, and there is none for an option without a counterpart.
        assert!(error("program train --max-step 3").contains("'--max-steps'"));
        assert!(!error("program train --gt x").contains("tip: use"));
    }

    #[test]
    fn a_word_without_an_option_is_no_subcommand() {
        for (words, tip) in [
            ("program data cache", "tip: the output is named by '--out cache'\n"),
            ("program data --window -175 250", "tip: '--window' takes one value; numbers of a list"),
        ] {
            let text = error(words);
            let word = words.rsplit(' ').next().unwrap();
            assert!(text.starts_with(&format!("error: unexpected argument '{word}' found\n")), "{text}");
            assert!(text.contains(tip) && text.contains("Usage: "), "{text}");
        }
        assert!(error("program data train").contains("the subcommand 'train' cannot be used with"));
    }
}
