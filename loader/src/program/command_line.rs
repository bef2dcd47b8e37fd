//! The command line: parsed by clap, with help and errors printed like all other output.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, Parser};

use super::{USAGE, note, output};

/// Similarity from which a word counts as a misspelt subcommand: one letter missing, doubled or swapped.
const SIMILAR: f64 = 0.85;

/// Parses the command line of the process.
///
/// # Errors
/// The exit code, once help or the error has been printed.
pub(super) fn parse<C: Parser>() -> Result<C, ExitCode> {
    let args: Vec<OsString> = std::env::args_os().collect();
    let misspelt = args.get(1).and_then(|word| misspelt_subcommand(&C::command(), word.to_str()?));
    match misspelt {
        Some(error) => Err(show(&error)),
        None => C::try_parse_from(args).map_err(|error| show(&error)),
    }
}

/// Prints help, a version or an error; returns the exit code.
fn show(error: &clap::Error) -> ExitCode {
    let printed = error.print();
    if error.use_stderr() {
        return ExitCode::from(USAGE);
    }
    match output::read_by_anybody(printed.and_then(|()| std::io::stdout().flush())) {
        Ok(_) => ExitCode::SUCCESS,
        Err(err) => {
            note(format_args!("error: {:#}", anyhow::Error::new(err)));
            ExitCode::FAILURE
        }
    }
}

/// The error for a first word that is nearly a subcommand.
///
/// A program that takes a path as its first word would otherwise look for a folder of that name. A word that is a
/// subcommand, or that names something on disk, is not an error.
fn misspelt_subcommand(command: &Command, word: &str) -> Option<clap::Error> {
    if word.starts_with('-') || command.find_subcommand(word).is_some() || Path::new(word).symlink_metadata().is_ok() {
        return None;
    }
    let similarity = |name: &str| strsim::jaro_winkler(word, name);
    let names = command.get_subcommands().map(Command::get_name);
    let (nearest, best) = names.map(|name| (name, similarity(name))).max_by(|a, b| a.1.total_cmp(&b.1))?;
    if best < SIMILAR {
        return None;
    }
    let mut error = clap::Error::new(ErrorKind::InvalidSubcommand).with_cmd(command);
    error.insert(ContextKind::InvalidSubcommand, ContextValue::String(word.to_owned()));
    error.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(vec![nearest.to_owned()]));
    Some(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_subcommands_are_corrected() {
        let command = Command::new("program").subcommands(["verify", "inspect", "plan"].map(Command::new));
        let nearest = |word: &str| misspelt_subcommand(&command, word).map(|error| error.to_string());
        for (word, name) in [("verfy", "verify"), ("inspct", "inspect"), ("plann", "plan"), ("veriyf", "verify")] {
            let message = nearest(word).unwrap();
            assert!(message.contains(&format!("'{name}'")) && message.contains(word), "{message}");
        }
        for word in ["verify", "data", "--verfy", "raw/planned", "src", "Dataset001_plan"] {
            assert_eq!(nearest(word), None, "{word}");
        }
    }
}
