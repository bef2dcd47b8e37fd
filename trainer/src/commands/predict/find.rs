//! Scans among the inputs, without the folder for the results.

use std::path::{Path, PathBuf};

use anyhow::bail;
use hiend_cache::FileError;
use hiend_loader::case::shown;
use hiend_loader::preprocess::normalize::Normalize;
use hiend_loader::volume::file_stem;

use crate::inference::scan_files::{Scans, SkippedScan};

/// Finds the scans among the inputs. The folder `out`, which a pattern of the shell gives with scans next to it, is passed
/// over.
///
/// # Errors
/// If [`Scans::find`] fails, or `out` is passed over but holds other files than label maps of the scans.
pub(super) fn find_scans(inputs: &[PathBuf], out: &Path, normalize: Normalize) -> anyhow::Result<Scans> {
    let folder = out.canonicalize().ok();
    let is_out = |path: &PathBuf| folder.is_some() && path.canonicalize().ok() == folder;
    let others: Vec<PathBuf> = inputs.iter().filter(|&input| !is_out(input)).cloned().collect();
    // If `out` is the only input, it is the folder of the scans, and refused later.
    let passes_over = !others.is_empty() && others.len() < inputs.len();
    let mut scans = Scans::find(if passes_over { others.as_slice() } else { inputs }, normalize)?;
    scans.subfolders.retain(|folder| !is_out(folder));
    if passes_over {
        refuse_other_files(out, &scans)?;
        scans.passed_over.push(SkippedScan { case: shown(out), reason: "the folder of --out".to_owned() });
    }
    Ok(scans)
}

/// Refuses a folder that may hold scans, which would be neither predicted nor safe from being replaced.
fn refuse_other_files(out: &Path, scans: &Scans) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(out).map_err(FileError::at(out, "list"))? {
        let path = entry.map_err(FileError::at(out, "list"))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_label_map = file_stem(&name).is_some_and(|case| scans.files.contains_key(case));
        if !(is_label_map || name.starts_with('.') || path.is_dir()) {
            bail!(
                "--out {} is an input as well, and {} is not a label map of the other inputs; leave the folder out of the \
                 inputs, or choose another --out",
                out.display(),
                shown(&path)
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_of_results_is_no_input() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(at("scans/predictions/probabilities")).unwrap();
        for name in ["a_0000.nii.gz", "b_0000.nii.gz", "predictions/a.nii.gz"] {
            std::fs::write(at("scans").join(name), b"").unwrap();
        }
        let find = |inputs: &[&str], out: &str| {
            let inputs: Vec<PathBuf> = inputs.iter().map(|name| at(name)).collect();
            find_scans(&inputs, &at(out), Normalize::Hu).map_err(|error| error.to_string())
        };
        let pattern = ["scans/a_0000.nii.gz", "scans/b_0000.nii.gz", "scans/predictions"];
        let scans = find(&pattern, "scans/predictions").unwrap();
        assert_eq!(scans.files.into_values().collect::<Vec<_>>(), [at(pattern[0]), at(pattern[1])]);
        assert_eq!(scans.passed_over.len(), 1);
        // Below a folder of scans it is no subfolder to search.
        let scans = find(&["scans"], "scans/predictions").unwrap();
        assert_eq!((scans.files.len(), scans.remarks()), (2, vec![]));
        assert_eq!(find(&["scans"], "elsewhere").unwrap().subfolders, [at("scans/predictions")]);
        // As the only input, it holds the scans.
        assert_eq!(find(&["scans"], "scans").unwrap().files.len(), 2);
        // With scans of its own, it is not left out.
        std::fs::write(at("scans/predictions/c.nii.gz"), b"").unwrap();
        let error = find(&pattern, "scans/predictions").unwrap_err();
        assert!(error.contains("c.nii.gz is not a label map of the other inputs"), "{error}");
    }
}
