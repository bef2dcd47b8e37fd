//! Folder of a run: found or created, and locked by one process at a time.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use hiend_cache::lock::FileLock;
use hiend_cache::{durable, lookup, regular};
use hiend_loader::volume::file_stem;

use super::error::io_error;
use super::run_cases::{CASES, RunCases};
use super::{Resume, TrainingError};
use crate::checkpoint::{self, CheckpointError, Kind, State};
use crate::config::RunConfig;
use crate::journal::{self, Entry, JournalError};

/// File name of the resolved configuration.
pub const CONFIG: &str = "config.toml";
/// File name of the journal.
pub const JOURNAL: &str = "journal.jsonl";
/// Folder of the checkpoints.
pub const CHECKPOINTS: &str = "checkpoints";
/// File name of the report on the initial weights, in a run that began with given weights.
pub const FIRST_WEIGHTS: &str = "init.txt";
/// Folder of the pictures.
pub const PICTURES: &str = "pictures";
const LOCK: &str = "lock";
/// Prefix of temporary files that earlier versions left.
const TEMPORARY: &str = ".tmp";
/// Settings that a resumed run may change, because they only affect damaged data.
const MAY_CHANGE: [&str; 1] = ["stream.on_corrupt"];

/// A run's folder, locked by this process until dropped. It may not exist yet.
#[derive(Debug)]
pub(super) struct RunDir {
    path: PathBuf,
    checkpoint: Option<PathBuf>,
    lock: Option<FileLock>,
}

impl RunDir {
    /// Inspects the folder and locks it. Creates nothing, so that a mistyped name leaves no folder.
    ///
    /// # Errors
    /// If there is nothing to resume, a run where none is wanted, or another process that trains there.
    pub(super) fn find(path: &Path, resume: Resume) -> Result<Self, TrainingError> {
        let steps = checkpoint::all(&path.join(CHECKPOINTS))?;
        if resume != Resume::Begin && steps.is_empty() && !lookup::exists(&path.join(CONFIG))? {
            return Err(TrainingError::NothingToResume { run_dir: path.to_owned() });
        }
        if resume == Resume::Begin {
            refuse_data(path)?;
        }
        let lock = if lookup::exists(path)? { Some(lock(path)?) } else { None };
        let checkpoint = match resume {
            Resume::Begin if steps.is_empty() => None,
            Resume::Begin => return Err(TrainingError::RunExists { run_dir: path.to_owned() }),
            Resume::Newest => steps.into_iter().last().map(|(_, path)| path),
            Resume::Step(step) => {
                if !steps.iter().any(|(other, _)| *other == step) {
                    let steps = steps.into_iter().map(|(step, _)| step).collect();
                    return Err(TrainingError::NoSuchCheckpoint { run_dir: path.to_owned(), step, steps });
                }
                steps.into_iter().find(|(other, _)| *other == step).map(|(_, path)| path)
            }
        };
        Ok(Self { path: path.to_owned(), checkpoint, lock })
    }

    /// Checkpoint to resume from, if there is one.
    pub(super) fn checkpoint(&self) -> Option<&Path> {
        self.checkpoint.as_deref()
    }

    /// Returns the path of the run folder.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Adds the name of the newest undamaged checkpoint to an error from reading the one to resume from.
    pub(super) fn explain(&self, error: TrainingError) -> TrainingError {
        match (error, &self.checkpoint) {
            (TrainingError::Checkpoint(source), Some(checkpoint)) if source.is_local() => {
                cannot_resume(&self.path, checkpoint, source)
            }
            (error, _) => error,
        }
    }

    /// Creates the missing parts of the folder, removes temporary files of a killed run, and saves the report on the
    /// initial weights, without which a resumed run would not know that it began with given weights, and the `cases` of
    /// the run's cache, and then the configuration. Without a checkpoint, a report or cases that this run does not have are
    /// those of a run that was killed before its first one, and are removed. A run that recorded no cases before records them.
    ///
    /// # Errors
    /// If something cannot be written, or another process has locked the folder meanwhile.
    pub(super) fn begin(
        self,
        config: &impl RunConfig,
        first_weights: Option<&str>,
        cases: Option<&RunCases>,
    ) -> Result<Self, TrainingError> {
        let pictures = self.path.join(PICTURES);
        durable::create_dir_all(&pictures)?;
        let lock = match self.lock {
            Some(lock) => lock,
            None => lock(&self.path)?,
        };
        for folder in [&self.path, &pictures] {
            durable::remove_stale(folder)?;
            remove_temporary(folder)?;
        }
        let (report, recorded) = (self.path.join(FIRST_WEIGHTS), self.path.join(CASES));
        let begins = self.checkpoint.is_none();
        match first_weights {
            Some(text) => durable::write(&report, text.as_bytes())?,
            None if begins => remove(&report)?,
            None => {}
        }
        match cases {
            Some(cases) if begins || !lookup::exists(&recorded)? => cases.write(&recorded)?,
            None if begins => remove(&recorded)?,
            Some(_) | None => {}
        }
        save_config(&self.path.join(CONFIG), config)?;
        Ok(Self { lock: Some(lock), ..self })
    }

    /// Gives the journal of steps that no checkpoint holds another name, because a run that begins would overwrite it.
    /// Returns the new path.
    ///
    /// # Errors
    /// If the folder cannot be read or written.
    pub(super) fn set_journal_aside(&self) -> Result<Option<PathBuf>, TrainingError> {
        let path = self.path.join(JOURNAL);
        // A line that cannot be read may be anything.
        let is_of_value =
            |entry: Result<Entry, JournalError>| !matches!(entry, Ok(Entry::Started { .. } | Entry::Stopped { .. }));
        if !lookup::exists(&path)? || !journal::read(&path).is_ok_and(|mut entries| entries.any(is_of_value)) {
            return Ok(None);
        }
        let mut number = 1u64;
        let aside = loop {
            let aside = self.path.join(format!("journal-{number}.jsonl"));
            if !lookup::exists(&aside)? {
                break aside;
            }
            number += 1;
        };
        durable::rename(&path, &aside)?;
        Ok(Some(aside))
    }
}

/// Removes a file durably, if it is there.
fn remove(path: &Path) -> Result<(), TrainingError> {
    if lookup::exists(path)? {
        durable::remove_file(path)?;
        durable::sync_dir(lookup::parent(path))?;
    }
    Ok(())
}

/// Refuses the folder of a cache or of a dataset, between whose files those of a run would lie.
fn refuse_data(path: &Path) -> Result<(), TrainingError> {
    for (name, holds) in [
        (hiend_cache::manifest::FILE_NAME, "a manifest.json, as a cache does"),
        ("dataset.json", "a dataset"),
        ("imagesTr", "a dataset"),
        ("nnUNet_raw", "datasets"),
    ] {
        if lookup::exists(&path.join(name))? {
            return Err(TrainingError::HoldsData { run_dir: path.to_owned(), holds: holds.to_owned() });
        }
    }
    match other_content(path)? {
        Some(holds) => Err(TrainingError::HoldsData { run_dir: path.to_owned(), holds }),
        None => Ok(()),
    }
}

/// Name of a folder or scan in a folder in which no run has begun, as in one of data or of runs; `None` if there is neither.
/// Logs and configurations may be there.
fn other_content(path: &Path) -> Result<Option<String>, TrainingError> {
    for of_run in [CONFIG, JOURNAL, CHECKPOINTS, FIRST_WEIGHTS, LOCK] {
        if lookup::exists(&path.join(of_run))? {
            return Ok(None);
        }
    }
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(io_error(path, "list")(error)),
    };
    for entry in entries {
        let entry = entry.map_err(io_error(path, "list"))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // The pictures of a run that was killed as it began, and what a file system has in its uppermost folder.
        if name.starts_with('.') || [PICTURES, "lost+found"].contains(&name.as_str()) {
            continue;
        }
        if lookup::is_dir(&entry.path()).unwrap_or(false) {
            return Ok(Some(format!("the folder {name}")));
        }
        if file_stem(&name).is_some() {
            return Ok(Some(format!("the scan {name}")));
        }
    }
    Ok(None)
}

fn cannot_resume(run_dir: &Path, checkpoint: &Path, source: CheckpointError) -> TrainingError {
    let step = |name: &str| name.strip_prefix("step-")?.parse::<u64>().ok();
    let step = checkpoint.file_name().and_then(|name| step(&name.to_string_lossy())).unwrap_or(u64::MAX);
    let whole = checkpoint::newest_whole(&run_dir.join(CHECKPOINTS), step).ok().flatten();
    TrainingError::CannotResume { checkpoint: checkpoint.to_owned(), whole: whole.map(|(step, _)| step), source }
}

/// Locks the folder for this process. The system releases the lock when the process ends, however it ends.
fn lock(path: &Path) -> Result<FileLock, TrainingError> {
    let name = path.join(LOCK);
    let Some(lock) = FileLock::try_exclusive(&name)? else {
        return Err(TrainingError::InUse { run_dir: path.to_owned() });
    };
    // Some network file systems have no locks. A run is worth more than the check.
    if !lock.is_effective() {
        tracing::warn!("{} cannot be locked: make sure that no other run writes there", name.display());
    }
    Ok(lock)
}

/// Removes the temporary files that a killed run of an earlier version left in a folder.
fn remove_temporary(folder: &Path) -> Result<(), TrainingError> {
    for entry in fs::read_dir(folder).map_err(io_error(folder, "list"))? {
        let entry = entry.map_err(io_error(folder, "list"))?;
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if is_file && entry.file_name().as_encoded_bytes().starts_with(TEMPORARY.as_bytes()) {
            fs::remove_file(entry.path()).map_err(io_error(&entry.path(), "remove"))?;
        }
    }
    Ok(())
}

/// Reads the configuration saved with a run: from `config.toml`, or from the checkpoint to resume from if that file is
/// missing or empty.
///
/// # Errors
/// If there is no configuration, or it cannot be read or used.
pub fn saved_config<C: RunConfig>(run_dir: &Path, kind: Kind, resume: Resume) -> Result<C, TrainingError> {
    let checkpoints = run_dir.join(CHECKPOINTS);
    let steps = checkpoint::all(&checkpoints)?;
    let found = match resume {
        Resume::Step(step) => steps.iter().find(|(other, _)| *other == step),
        Resume::Begin | Resume::Newest => steps.last(),
    };
    let path = run_dir.join(CONFIG);
    let text = match regular::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(io_error(&path, "read")(error)),
    };
    let Some((_, checkpoint)) = found else {
        if text.trim().is_empty() {
            return Err(TrainingError::NothingToResume { run_dir: run_dir.to_owned() });
        }
        return Ok(C::parse(&text, &path.display().to_string())?);
    };
    let read = checkpoint::read_state(checkpoint, kind);
    if text.trim().is_empty() {
        let explained = |source: CheckpointError| {
            if source.is_local() { cannot_resume(run_dir, checkpoint, source) } else { source.into() }
        };
        let State { config, .. } = read.map_err(explained)?;
        tracing::warn!("{} is missing or empty; restored from {}", path.display(), checkpoint.display());
        return Ok(config);
    }
    // The kind comes first: the keys of another kind of run would be refused one by one.
    if let Err(error @ CheckpointError::Kind { .. }) = read {
        return Err(error.into());
    }
    C::parse(&text, &path.display().to_string()).map_err(|fault| TrainingError::SavedConfig { fault })
}

/// Saves the configuration durably, unless the file already has the same content.
fn save_config<C: RunConfig>(path: &Path, config: &C) -> Result<(), TrainingError> {
    let unchanged = match regular::read_to_string(path) {
        Ok(text) => C::parse(&text, "").is_ok_and(|saved| saved == *config),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(io_error(path, "read")(error)),
    };
    if unchanged { Ok(()) } else { Ok(durable::write(path, config.to_toml().as_bytes())?) }
}

/// Returns whether a resumed run may change a setting.
pub(super) fn may_change(key: &str) -> bool {
    MAY_CHANGE.contains(&key)
}

/// Compares the configuration of a resumed run with the original one.
///
/// # Errors
/// The first setting that differs.
pub(super) fn refuse_changes<C: RunConfig>(now: &C, before: &C) -> Result<(), TrainingError> {
    match now.changes_since(before).into_iter().find(|(key, ..)| !may_change(key)) {
        Some((key, now, before)) => Err(TrainingError::Changed { key, now, before }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_does_not_begin_among_scans_or_runs() {
        let dir = tempfile::tempdir().unwrap();
        let begin = || RunDir::find(dir.path(), Resume::Begin).map(drop).map_err(|error| error.to_string());
        let check = |holds: &str| {
            let text = begin().unwrap_err();
            assert!(text.contains(&format!(" holds {holds}; choose another folder")), "{text}");
        };
        for kept in ["slurm-7.out", "notes.txt", "config-old.toml"] {
            fs::write(dir.path().join(kept), b"").unwrap();
        }
        for kept in ["pictures", ".git", "lost+found"] {
            fs::create_dir(dir.path().join(kept)).unwrap();
        }
        begin().unwrap();
        fs::remove_file(dir.path().join(LOCK)).ok();
        fs::create_dir(dir.path().join("first")).unwrap();
        check("the folder first");
        fs::remove_dir(dir.path().join("first")).unwrap();
        fs::write(dir.path().join("a.nii.gz"), b"").unwrap();
        check("the scan a.nii.gz");
        // A run has begun here, and was killed before its first checkpoint.
        fs::write(dir.path().join(CONFIG), b"").unwrap();
        begin().unwrap();
    }
}
