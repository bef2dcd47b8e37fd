//! Checks of whole checkpoints without loading them.

use std::path::Path;

use super::state::{read_digests, read_head};
use super::{CheckpointError, Damage, MODEL, OPTIMIZER};

/// Result of checking an undamaged checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Integrity {
    /// Every file matches its digest.
    Whole {
        /// Total length of all files, in bytes.
        bytes: u64,
    },
    /// The files exist, but an earlier version wrote no digests to compare them with.
    Unchecked,
}

/// Compares every file of a checkpoint with its digest.
///
/// # Errors
/// The first file that is missing, unreadable or damaged.
pub fn check(checkpoint: &Path) -> Result<Integrity, CheckpointError> {
    read_head(checkpoint)?;
    let files = read_digests(checkpoint)?;
    for name in [MODEL, OPTIMIZER] {
        let path = checkpoint.join(name);
        std::fs::metadata(&path).map_err(CheckpointError::io(&path, "look up"))?;
        if files.as_ref().is_some_and(|files| !files.contains_key(name)) {
            return Err(CheckpointError::damaged(&path, Damage::Unlisted));
        }
    }
    let Some(files) = files else { return Ok(Integrity::Unchecked) };
    for (name, digest) in &files {
        digest.check(&checkpoint.join(name))?;
    }
    Ok(Integrity::Whole { bytes: files.values().map(|digest| digest.bytes).sum() })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;
    use crate::checkpoint::testing::{mlp, save, weights};
    use crate::checkpoint::{
        Checkpoints, EMA, Kind, STATE, load_averaged, load_ema, load_model, load_optimizer, newest_whole, read_state,
    };
    use crate::config::pretrain::{PretrainConfig, PretrainPreset};

    fn checkpoint() -> (tempfile::TempDir, PathBuf) {
        let run = tempfile::tempdir().unwrap();
        let path = save(&Checkpoints::open(run.path(), 9).unwrap(), 1).unwrap();
        (run, path)
    }

    /// Loads all files of a checkpoint, as a resume does.
    fn load(path: &Path) -> Result<(), CheckpointError> {
        read_state::<PretrainConfig>(path, Kind::Pretrain)?;
        load_model(path, mlp(0))?;
        load_ema(path, mlp(0))?;
        load_averaged(path, mlp(0))?;
        let model = load_model(path, mlp(0))?;
        load_optimizer(path, &model, PretrainPreset::Tiny.config().optim.init(&model))?;
        Ok(())
    }

    /// Asserts that both a resume and `check` reject the checkpoint and name `file`.
    fn refused(path: &Path, file: &str, damage: &str) {
        for result in [load(path), check(path).map(|_| ())] {
            let error = result.expect_err(damage);
            assert!(error.to_string().contains(file), "{damage}: {error}");
            assert!(error.is_local(), "{damage}: {error}");
        }
    }

    #[test]
    fn every_flipped_byte_and_truncation_is_refused_and_named() {
        let (_run, path) = checkpoint();
        load(&path).unwrap();
        assert!(matches!(check(&path).unwrap(), Integrity::Whole { .. }));
        let mut tried = 0;
        for file in ["model.bpk", "optimizer.bpk", "ema.bpk", "state.json"] {
            let name = path.join(file);
            let bytes = fs::read(&name).unwrap();
            for at in 0..bytes.len() {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << (at % 8);
                fs::write(&name, &flipped).unwrap();
                refused(&path, file, &format!("{file}: byte {at} flipped"));
                fs::write(&name, &bytes[..at]).unwrap();
                refused(&path, file, &format!("{file}: cut at {at}"));
                tried += 2;
            }
            fs::write(&name, [&bytes[..], b"x"].concat()).unwrap();
            refused(&path, file, &format!("{file}: a byte appended"));
            fs::remove_file(&name).unwrap();
            refused(&path, file, &format!("{file}: removed"));
            fs::write(&name, &bytes).unwrap();
        }
        println!("{tried} damages refused");
        load(&path).unwrap();
    }

    /// Flips each bit without loading the files: the test above shows that `check` and every load begin with these checks.
    #[cfg(unix)]
    #[test]
    fn every_flipped_bit_is_refused_and_named() {
        use std::os::unix::fs::FileExt as _;
        let (_run, path) = checkpoint();
        let digests = read_digests(&path).unwrap().unwrap();
        let mut tried = 0;
        for file in [MODEL, OPTIMIZER, EMA, STATE] {
            let name = path.join(file);
            let bytes = fs::read(&name).unwrap();
            let open = fs::File::options().write(true).open(&name).unwrap();
            for (at, &byte) in (0..).zip(&bytes) {
                for bit in 0..8 {
                    open.write_all_at(&[byte ^ (1_u8 << bit)], at).unwrap();
                    let result = match digests.get(file) {
                        Some(digest) => digest.check(&name),
                        // The digest of the state is its last line.
                        None => read_head(&path).map(drop),
                    };
                    let error = result.expect_err(file);
                    assert!(error.to_string().contains(file) && error.is_local(), "bit {bit} of byte {at}: {error}");
                    tried += 1;
                }
                open.write_all_at(&[byte], at).unwrap();
            }
        }
        println!("{tried} flipped bits refused");
        load(&path).unwrap();
    }

    #[test]
    fn checkpoint_without_digests_loads_unchecked() {
        let (_run, path) = checkpoint();
        let state = path.join("state.json");
        let mut value: serde_json::Value = serde_json::from_slice(&fs::read(&state).unwrap()).unwrap();
        // Earlier versions wrote neither.
        for key in ["files", "checksum"] {
            value.as_object_mut().unwrap().remove(key).unwrap();
        }
        fs::write(&state, serde_json::to_vec_pretty(&value).unwrap()).unwrap();
        load(&path).unwrap();
        assert_eq!(weights(&load_averaged(&path, mlp(0)).unwrap()), weights(&mlp(2)));
        assert_eq!(check(&path).unwrap(), Integrity::Unchecked);
    }

    #[test]
    fn newest_whole_checkpoint_is_found() {
        let run = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::open(run.path(), 9).unwrap();
        let paths: Vec<PathBuf> = [1, 2, 3].map(|step| save(&checkpoints, step).unwrap()).to_vec();
        let dir = run.path().join("checkpoints");
        assert_eq!(newest_whole(&dir, 3).unwrap().unwrap().0, 2);
        fs::write(paths[1].join("ema.bpk"), b"x").unwrap();
        assert_eq!(newest_whole(&dir, 3).unwrap(), Some((1, paths[0].clone())));
        fs::remove_file(paths[0].join("model.bpk")).unwrap();
        assert_eq!(newest_whole(&dir, 3).unwrap(), None);
    }

    #[test]
    fn folder_named_after_another_step_is_refused() {
        let (run, path) = checkpoint();
        let other = path.with_file_name("step-00000099");
        fs::rename(&path, &other).unwrap();
        refused(
            &other,
            "step-00000099: holds the checkpoint of step 1; rename the folder to step-00000001, or move it away if that exists",
            "step",
        );
        // A copy that is kept elsewhere may have any name.
        let best = path.with_file_name("best");
        fs::rename(&other, &best).unwrap();
        load(&best).unwrap();
        let stage = run.path().join("step-2");
        fs::rename(&best, &stage).unwrap();
        load(&stage).unwrap();
    }

    #[test]
    fn errors_are_one_line_whatever_a_state_holds() {
        let (_run, path) = checkpoint();
        fs::write(path.join("state.json"), br#"{"format":2,"kind":"pre\ntrain","step":1,"best":null}"#).unwrap();
        let error = read_state::<PretrainConfig>(&path, Kind::Pretrain).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains(r"`pre\ntrain`") && !source.contains('\n'), "{source}");
    }

    #[test]
    fn another_kind_or_format_is_refused() {
        let (_run, path) = checkpoint();
        let error = read_state::<PretrainConfig>(&path, Kind::Finetune).unwrap_err();
        assert!(error.to_string().ends_with("is a pre-training checkpoint; expected a fine-tuning one"), "{error}");
        assert!(!error.is_local());
        fs::write(path.join("state.json"), br#"{"format": 99}"#).unwrap();
        let error = read_state::<PretrainConfig>(&path, Kind::Pretrain).unwrap_err();
        assert!(matches!(error, CheckpointError::Format { found: 99, .. }), "{error}");
    }
}
