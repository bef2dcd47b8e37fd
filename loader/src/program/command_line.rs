//! Command line parsing by clap, with help and errors printed like all other output.

use std::error::Error as _;
use std::ffi::OsString;
use std::io::Write as _;
use std::num::{IntErrorKind, ParseIntError};
use std::path::Path;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, Parser};

use super::{USAGE, note, output, tips};

/// Parses the command line of the process.
///
/// # Errors
/// The exit code, once help or the error has been printed.
pub(super) fn parse<C: Parser>() -> Result<C, ExitCode> {
    let args: Vec<OsString> = std::env::args_os().collect();
    let misspelt = args.get(1).and_then(|word| misspelt_subcommand(&C::command(), word.to_str()?));
    match misspelt {
        Some(error) => Err(show(&error)),
        None => parse_words(&args).map_err(|error| show(&error)),
    }
}

/// Parses the words of a command line, beginning with the program's name.
fn parse_words<C: Parser>(words: &[OsString]) -> Result<C, clap::Error> {
    let mut command = with_negative_numbers(C::command());
    let matches = command.try_get_matches_from_mut(words);
    let mut matches = matches.map_err(|error| tips::explained(clarified(error), &command, words))?;
    C::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
}

/// Replaces unclear reasons of the standard library in an error, such as "invalid digit found in string" for a negative
/// number.
fn clarified(error: clap::Error) -> clap::Error {
    let source = error.source().and_then(|source| source.downcast_ref::<ParseIntError>());
    let is_digit = source.is_some_and(|source| *source.kind() == IntErrorKind::InvalidDigit);
    let message = match (error.get(ContextKind::InvalidArg), error.get(ContextKind::InvalidValue)) {
        (Some(ContextValue::String(arg)), Some(ContextValue::String(value))) if is_digit => {
            format!("invalid value '{value}' for '{arg}': expected a whole number that is not negative")
        }
        _ => return error,
    };
    clap::Error::raw(ErrorKind::ValueValidation, format!("{message}\n\nFor more information, try '--help'.\n"))
}

/// Lets every option take a negative number as its value, so that a value out of range is rejected with the range. By
/// default clap takes `-1` for a flag and advises to write `-- -1`.
fn with_negative_numbers(command: Command) -> Command {
    let allow = |arg: Arg| {
        let takes_value = !arg.is_positional() && arg.get_action().takes_values();
        if takes_value { arg.allow_negative_numbers(true) } else { arg }
    };
    command.mut_args(allow).mut_subcommands(with_negative_numbers)
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

/// Returns an error if the first word is nearly a subcommand.
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
    if best < tips::SIMILAR {
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

    #[derive(Debug, Parser)]
    struct Program {
        #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
        jobs: Option<u16>,
        #[arg(long)]
        steps: Option<u64>,
        #[arg(long)]
        quiet: bool,
        #[command(subcommand)]
        command: Option<Sub>,
    }

    #[derive(Debug, clap::Subcommand)]
    enum Sub {
        Wait {
            #[arg(long)]
            degrees: f64,
        },
    }

    #[test]
    fn negative_numbers_are_values_of_options() {
        let parse = |words: &str| {
            let words: Vec<OsString> = words.split(' ').map(OsString::from).collect();
            parse_words::<Program>(&words)
        };
        let error = parse("program --jobs -1").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ValueValidation);
        let text = error.to_string();
        assert!(text.contains("'-1'") && text.contains("1..=65535") && !text.contains("tip"), "{text}");
        let program = parse("program --jobs 2 --quiet wait --degrees -4.5").unwrap();
        assert!(program.quiet && program.jobs == Some(2));
        assert!(matches!(program.command, Some(Sub::Wait { degrees }) if (degrees + 4.5).abs() < 1e-12));
        for value in ["-1", "many"] {
            let error = parse(&format!("program --steps {value}")).unwrap_err();
            let line = format!(
                "error: invalid value '{value}' for '--steps <STEPS>': expected a whole number that is not negative"
            );
            assert_eq!(
                (error.kind(), error.to_string().lines().next()),
                (ErrorKind::ValueValidation, Some(line.as_str()))
            );
        }
        assert_eq!(parse("program --jobs --quiet").unwrap_err().kind(), ErrorKind::InvalidValue);
        assert_eq!(parse("program --quiet -1").unwrap_err().kind(), ErrorKind::UnknownArgument);
    }

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
