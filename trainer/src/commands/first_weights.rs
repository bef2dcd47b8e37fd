//! Initial weights of a run, as named by `--init`.

use std::path::Path;

use anyhow::anyhow;
use hiend_cache::{FileError, lookup, regular};

use super::ranks::Rank;
use super::running::Place;
use crate::initial_weights::Init;
use crate::training::{CONFIG, FIRST_WEIGHTS, Resume};
use crate::weights::download::{Downloads, is_url};

/// Initial weights of a run that was killed before its first checkpoint and begins again with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Before {
    /// Random weights.
    Random,
    /// Weights of a run, a checkpoint or a file, identified by the first line of the report on them.
    Given(String),
}

impl Before {
    /// Finds the initial weights in the run's folder; `None` for a new run, and for a run that has a checkpoint.
    ///
    /// # Errors
    /// If the folder cannot be looked up, or the report on the weights cannot be read.
    pub(super) fn of(place: &Place) -> anyhow::Result<Option<Self>> {
        let Place { run_dir, resume } = place;
        if *resume == Resume::Begin || !lookup::exists(&run_dir.join(CONFIG))? || place.has_checkpoint()? {
            return Ok(None);
        }
        let report = run_dir.join(FIRST_WEIGHTS);
        if !lookup::exists(&report)? {
            return Ok(Some(Self::Random));
        }
        let text = regular::read_to_string(&report).map_err(FileError::at(&report, "read"))?;
        Ok(Some(Self::Given(text.lines().next().unwrap_or_default().to_owned())))
    }

    /// Remark on weights `now` that replace these; `None` if they are the same.
    fn remark(&self, now: &Init) -> Option<String> {
        let Self::Given(before) = self else { return None };
        let now = match now {
            Init::Random => "random ones".to_owned(),
            Init::Given { origin, .. } if is_same(Path::new(before), origin) => return None,
            Init::Given { origin, .. } => format!("those of {}", origin.display()),
            Init::Remote { url, .. } if before.strip_prefix(url.as_str()).is_some_and(|rest| rest.starts_with(',')) => {
                return None;
            }
            Init::Remote { url, .. } => format!("those of {url}"),
        };
        Some(format!("began with the weights of {before}, has no checkpoint yet, and begins again with {now}"))
    }
}

/// Returns true if two paths are equal or lead to the same place.
fn is_same(a: &Path, b: &Path) -> bool {
    a == b || matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// Reads the weights that `--init` names; `None` without the flag. A run with a checkpoint has its own weights, so its
/// initial weights need not exist any more. A run that was killed before its first checkpoint begins again with the
/// weights named now, and weights other than before are reported.
///
/// # Errors
/// If there are no such weights, they cannot be read, or the run began with random ones before.
pub(super) fn read(named: Option<&Path>, place: &Place, rank: &Rank) -> anyhow::Result<Option<Init>> {
    if has_its_own(place)? {
        return Ok(Some(Init::Random));
    }
    let Some(path) = named else { return Ok(None) };
    let before = Before::of(place)?;
    let init = if path == Path::new("none") {
        Init::Random
    } else if before == Some(Before::Random) {
        return Err(unexpected(path, place));
    } else if is_url(path) {
        // Downloaded when the run begins, so that a mistake elsewhere is found first.
        Init::of_url(&path.to_string_lossy(), Downloads::of_environment()?)?
    } else {
        Init::read(path)?
    };
    if let Some(remark) = before.and_then(|before| before.remark(&init)) {
        rank.note(format_args!("warning: the run in {} {remark}", place.run_dir.display()));
    }
    Ok(Some(init))
}

/// Error of a run that has no weights of its own and no `--init`.
pub(super) fn absent(place: &Place) -> anyhow::Error {
    let run_dir = place.run_dir.display();
    if place.resume == Resume::Begin {
        anyhow!("{run_dir} holds no run yet; --init names the first weights of a new one")
    } else {
        anyhow!(
            "{run_dir} has no checkpoint yet; --init names the first weights of the run again, `none` for random ones"
        )
    }
}

/// The error of a run that began with random weights and has none of its own yet, whose `--init` names others.
fn unexpected(named: &Path, place: &Place) -> anyhow::Error {
    anyhow!(
        "--init {}: the run in {} began with random weights and has no checkpoint yet; resume it with --init none, or begin \
         another with a new --run-dir",
        named.display(),
        place.run_dir.display()
    )
}

/// Prints a note that `--init` is ignored because the run continues from its own weights.
///
/// # Errors
/// If the run's folder cannot be looked up.
pub(super) fn note_if_unused(named: Option<&Path>, place: &Place, rank: &Rank) -> anyhow::Result<()> {
    if let Some(path) = named
        && has_its_own(place)?
    {
        rank.note(format_args!(
            "--init {} is not read: the run in {} continues from its own checkpoint",
            path.display(),
            place.run_dir.display()
        ));
    }
    Ok(())
}

fn has_its_own(place: &Place) -> anyhow::Result<bool> {
    Ok(place.resume != Resume::Begin && place.has_checkpoint()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::StateDict;

    #[test]
    fn other_first_weights_than_before_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("a.pth"), b"").unwrap();
        std::fs::write(at("b.pth"), b"").unwrap();
        let given = |name: &str| Init::Given { origin: at(name), state: StateDict::default(), facts: Box::default() };
        let before = Before::Given(at("a.pth").display().to_string());
        assert_eq!(before.remark(&given("a.pth")), None);
        assert_eq!(before.remark(&given("./a.pth")), None);
        let told = before.remark(&given("b.pth")).unwrap();
        assert!(told.ends_with(&format!("begins again with those of {}", at("b.pth").display())), "{told}");
        assert!(before.remark(&Init::Random).unwrap().ends_with("begins again with random ones"));
        assert_eq!(Before::Random.remark(&Init::Random), None);
    }
}
