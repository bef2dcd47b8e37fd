//! Shell completions and manual pages, made from the definition of the command line.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{ArgGroup, Args, Command};
use clap_complete::Shell;
use hiend_cache::durable;

use super::{check_output_folder, print};

/// Arguments of the command `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Shell that reads the completions
    #[arg(value_enum, value_name = "SHELL")]
    pub shell: Shell,
}

/// Arguments of the command `man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Folder for the pages, created if missing
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

/// Prints the completions of a program for a shell, to be sourced or saved in the shell's folder for completions.
///
/// # Errors
/// If they cannot be printed.
pub fn print_completions(command: &Command, shell: Shell) -> anyhow::Result<()> {
    print(completions(command, shell)?.trim_end())?;
    Ok(())
}

/// Makes the completions of a program for a shell, without hidden flags and commands.
fn completions(command: &Command, shell: Shell) -> anyhow::Result<String> {
    let mut command = without_hidden(command);
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, &name, &mut script);
    let script = String::from_utf8(script)?;
    Ok(match shell {
        // `clap_complete` writes the dash of a program's name in two ways, one where the script sets the command that was
        // typed and the other where it compares it; unless they agree, nothing after a command is completed.
        Shell::Bash => script.replace(&name.replace('-', "__subcmd__"), &name.replace('-', "__")),
        _ => script,
    })
}

/// Copies the parts of a command that completions offer. `clap_complete` offers hidden ones too, and nothing can be
/// removed from a command.
fn without_hidden(command: &Command) -> Command {
    // Clap takes names that live as long as the program, which ends once the completions are printed.
    let name: &'static str = command.get_name().to_owned().leak();
    let args = || command.get_arguments().filter(|arg| !arg.is_hide_set());
    let groups = command.get_groups().map(|group| {
        let members = group.get_args().filter(|id| args().any(|arg| arg.get_id() == *id));
        ArgGroup::new(group.get_id().clone()).args(members.cloned()).multiple(true)
    });
    let commands = command.get_subcommands().filter(|command| !command.is_hide_set());
    // The text of the version does not matter: if there is one, --version is offered.
    let version = command.get_version().map(|_| "");
    let visible = Command::new(name).version(version).args(args().cloned()).groups(groups);
    let visible = visible.subcommands(commands.map(without_hidden));
    match command.get_about() {
        Some(about) => visible.about(about.clone()),
        None => visible,
    }
}

/// Writes a page `PROGRAM.1`, and `PROGRAM-COMMAND.1` for every command that help lists.
///
/// # Errors
/// If a page cannot be written.
pub fn write_man_pages(command: Command, dir: &Path) -> anyhow::Result<()> {
    check_output_folder(dir)?;
    durable::create_dir_all(dir)?;
    let mut command = command.disable_help_subcommand(true);
    command.build();
    for page in std::iter::once(&command).chain(command.get_subcommands().filter(|command| !command.is_hide_set())) {
        // The name with dashes, as Git's pages have it.
        let name = page.get_display_name().unwrap_or(page.get_name()).to_owned();
        let mut text = Vec::new();
        clap_mangen::Man::new(page.clone())
            .title(name.to_uppercase())
            .render(&mut text)
            .context("cannot make a page")?;
        durable::write(&dir.join(format!("{name}.1")), &text)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command as Process;

    use clap::ValueEnum as _;

    use super::*;

    fn command() -> Command {
        Command::new("prog")
            .about("Do things")
            .arg(clap::Arg::new("speed").long("speed").help("Metres per second"))
            .subcommand(Command::new("stop").about("Do nothing"))
            .subcommand(Command::new("secret").hide(true))
    }

    /// Words that a script of bash offers for the last of `words`.
    fn offered(script: &str, words: &[&str]) -> String {
        const CALL: &str = r#"
            source "$1"; shift
            COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
            "_${1//-/__}" "$1" "${@: -1}" "${@: -2:1}"
            echo "${COMPREPLY[@]}""#;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, script).unwrap();
        let output = Process::new("bash").args(["-c", CALL, "bash"]).arg(file.path()).args(words).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    #[test]
    fn bash_completes_flags_and_values_of_commands() {
        let metres = clap::Arg::new("metres").long("metres").value_parser(["one", "two"]);
        let walk = Command::new("walk-on").arg(metres);
        for name in ["prog", "my-prog", "my-own-prog"] {
            let command = Command::new(name).subcommand(walk.clone());
            let script = completions(&command, Shell::Bash).unwrap();
            assert_eq!(offered(&script, &[name, "wa"]), "walk-on");
            assert_eq!(offered(&script, &[name, "walk-on", "--me"]), "--metres");
            assert_eq!(offered(&script, &[name, "walk-on", "--metres", "t"]), "two");
        }
    }

    #[test]
    fn completions_leave_out_what_help_hides() {
        let command = command().version("1").arg(clap::Arg::new("untold").long("untold").hide(true));
        for &shell in Shell::value_variants() {
            let script = completions(&command, shell).unwrap();
            for (word, is_offered) in
                [("speed", true), ("version", true), ("stop", true), ("secret", false), ("untold", false)]
            {
                assert_eq!(script.contains(word), is_offered, "{shell}: {word}\n{script}");
            }
        }
    }

    #[test]
    fn every_command_has_a_page() {
        let dir = tempfile::tempdir().unwrap();
        write_man_pages(command(), &dir.path().join("man1")).unwrap();
        let mut names: Vec<String> = std::fs::read_dir(dir.path().join("man1"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["prog-stop.1", "prog.1"]);
        let page = std::fs::read_to_string(dir.path().join("man1/prog.1")).unwrap();
        assert!(page.contains(r"\-\-speed") && page.contains("Metres per second"), "{page}");
    }
}
