//! `hiend-train verify RUN`.

use std::process::ExitCode;

use anyhow::bail;
use bytesize::ByteSize;
use hiend_cache::{lookup, with_sources};

use crate::checkpoint::{self, Integrity};
use crate::cli::VerifyArgs;
use crate::training::{FileFault, verify};

pub(super) fn run(args: &VerifyArgs) -> anyhow::Result<ExitCode> {
    let path = &args.run_dir;
    match lookup::metadata(path)? {
        None => bail!("{}: no such folder; expected a run or a checkpoint", path.display()),
        Some(found) if !found.is_dir() => bail!("{}: not a folder; expected a run or a checkpoint", path.display()),
        Some(_) => {}
    }
    if checkpoint::is_checkpoint(path)? {
        let integrity = checkpoint::check(path)?;
        super::print(format_args!("{}: {}", path.display(), describe(integrity)))?;
        return Ok(ExitCode::SUCCESS);
    }
    if lookup::exists(&path.join(hiend_cache::manifest::FILE_NAME))? {
        let path = path.display();
        bail!("{path}: a cache; expected a run or a checkpoint (`hiend-shard verify {path}` checks a cache)");
    }
    let check = verify(path)?;
    for (_, path, result) in &check.checkpoints {
        match result {
            Ok(integrity) => super::print(format_args!("{}: {}", path.display(), describe(*integrity)))?,
            Err(error) => super::print(format_args!("{}: DAMAGED ({})", path.display(), with_sources(error)))?,
        };
    }
    for (path, result) in &check.files {
        match result {
            Ok(note) => super::print(format_args!("{}: {note}", path.display()))?,
            Err(error @ FileFault::NoJournal) => super::print(format_args!("{}: MISSING ({error})", path.display()))?,
            Err(error) => super::print(format_args!("{}: DAMAGED ({})", path.display(), with_sources(error)))?,
        };
    }
    match (check.num_faults(), check.newest_whole()) {
        (0, _) => Ok(ExitCode::SUCCESS),
        (_, Some(step)) if check.checkpoints.last().is_some_and(|(.., result)| result.is_err()) => {
            bail!("{}: damaged; --resume-from {step} continues from the newest whole checkpoint", path.display())
        }
        _ => bail!("{}: damaged", path.display()),
    }
}

fn describe(integrity: Integrity) -> String {
    match integrity {
        Integrity::Whole { bytes } => format!("whole, {}", ByteSize(bytes).display().si()),
        Integrity::Unchecked => "not checked: an earlier version wrote it without checksums".into(),
    }
}
