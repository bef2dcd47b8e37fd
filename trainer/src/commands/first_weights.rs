//! Initial weights of a run, as named by `--init`.

use std::path::Path;

use anyhow::anyhow;

use super::ranks::Rank;
use super::running::Place;
use crate::initial_weights::Init;
use crate::training::Resume;
use crate::weights::download::{Downloads, is_url};

/// Reads the weights named by `--init`; `None` without the flag. A run with a checkpoint has its own weights, so its
/// initial weights need not exist any more.
///
/// # Errors
/// If there are no such weights, or they cannot be read.
pub(super) fn read(named: Option<&Path>, place: &Place) -> anyhow::Result<Option<Init>> {
    if has_its_own(place)? {
        return Ok(Some(Init::Random));
    }
    Ok(match named {
        None => None,
        Some(path) if path == Path::new("none") => Some(Init::Random),
        Some(url) if is_url(url) => {
            // Downloaded when the run begins, so that a mistake elsewhere is found first.
            Some(Init::of_url(&url.to_string_lossy(), Downloads::of_environment()?)?)
        }
        Some(path) => Some(Init::read(path)?),
    })
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

/// Error of a run that began with random weights and has none of its own yet, while `--init` names others.
pub(super) fn unexpected(named: &Path, place: &Place) -> anyhow::Error {
    anyhow!(
        "--init {}: the run in {} began with random weights and has no checkpoint yet; resume it without --init, or begin \
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
