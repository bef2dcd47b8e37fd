//! Scans finished by an earlier prediction, for `--skip-existing`.
//!
//! A file with the right name is not enough: it may be truncated, belong to another scan with the same name, or come
//! from a model with other classes. Such a file is neither accepted as a prediction nor replaced; the error names it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::bail;
use hiend_cache::lookup;
use hiend_loader::program::count;
use hiend_loader::volume::{VolumeError, VolumeInfo, Wanted, read_info_for, read_labels, read_volume};

use super::places::Places;
use crate::inference::scan_files::SkippedScan;
use crate::inference::scan_files::grid::{GridMismatch, check_same_grid};
use crate::label_space::{LabelOutOfRange, LabelSpace};

/// Scans with existing label maps.
#[derive(Debug, Default)]
pub(super) struct Finished {
    /// Number of scans with a complete prediction.
    pub num_scans: usize,
    /// Scans that cannot be read, so that their label maps cannot be checked.
    pub unreadable: Vec<SkippedScan>,
}

impl Finished {
    /// Removes the scans that were predicted before from `scans`. A scan counts as predicted if its label map (and each
    /// probability map, if wanted) can be read to its end and lies on the scan's grid, and the label map holds only
    /// classes of the model.
    ///
    /// # Errors
    /// If an existing file is damaged or belongs to another scan or model, or a label map exists without the
    /// probabilities that are wanted.
    pub(super) fn leave_out(scans: &mut BTreeMap<String, PathBuf>, places: &Places<'_>) -> anyhow::Result<Self> {
        let mut finished = Self::default();
        let mut unfinished = BTreeMap::new();
        let mut unusable = Vec::new();
        for (case, scan) in std::mem::take(scans) {
            let files = places.of_case(&case, &scan);
            let (label_map, probabilities) = files.split_first().expect("a case has a label map");
            if !lookup::exists(label_map)? {
                unfinished.insert(case, scan);
                continue;
            }
            for file in probabilities {
                if !lookup::exists(file)? {
                    bail!("{} exists without {}; --overwrite writes both", label_map.display(), file.display());
                }
            }
            // A modality that the model does not take was left out when the scans were found.
            let info = match read_info_for(&scan, Wanted::CrossSections) {
                Ok(info) => info,
                Err(error) => {
                    finished.unreadable.push(SkippedScan { case, reason: error.to_string() });
                    continue;
                }
            };
            let checked = check_label_map(label_map, &info, places.num_classes())
                .and_then(|()| probabilities.iter().try_for_each(|file| check_probability(file, &info)));
            match checked {
                Ok(()) => finished.num_scans += 1,
                Err(error) => unusable.push((error, scan)),
            }
        }
        if let Some((error, scan)) = unusable.first() {
            let more = match unusable.len() - 1 {
                0 => String::new(),
                others => format!(" ({} alike)", count(others, "other label map")),
            };
            bail!(
                "not a finished prediction of {}: {error}{more}; remove the file to predict the scan again, or replace \
                 all label maps by --overwrite",
                scan.display()
            );
        }
        *scans = unfinished;
        Ok(finished)
    }
}

/// Reason why a file cannot be an output of this prediction.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    /// A file that cannot be read to its end, or whose values are not labels.
    #[error(transparent)]
    Unreadable(#[from] VolumeError),
    /// A file on another grid than the scan's.
    #[error("{}: {source}", path.display())]
    Elsewhere {
        /// Path of the existing prediction.
        path: PathBuf,
        /// Difference between the two grids.
        source: GridMismatch,
    },
    /// Label that is not a class of the model.
    #[error("{}: {source}", path.display())]
    OtherClasses {
        /// Path of the existing prediction.
        path: PathBuf,
        /// Label that was found.
        source: LabelOutOfRange,
    },
}

fn check_label_map(path: &Path, scan: &VolumeInfo, num_classes: usize) -> Result<(), Unusable> {
    let label_map = read_labels(path)?;
    check_grid(path, scan, &label_map.info)?;
    let space = LabelSpace::new(num_classes);
    space.check(&label_map.voxels).map_err(|source| Unusable::OtherClasses { path: path.to_owned(), source })
}

fn check_probability(path: &Path, scan: &VolumeInfo) -> Result<(), Unusable> {
    check_grid(path, scan, &read_volume(path)?.info)
}

fn check_grid(path: &Path, scan: &VolumeInfo, found: &VolumeInfo) -> Result<(), Unusable> {
    check_same_grid(scan, found).map_err(|source| Unusable::Elsewhere { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hiend_loader::volume::read_info;
    use hiend_loader::volume::write_like;

    const SHAPE: [i16; 3] = [3, 2, 1];
    const LABELS: [u8; 6] = [0, 1, 1, 0, 0, 1];

    /// Writes an uncompressed scan of zeros with voxels of 1 mm; the first voxel lies at `x_mm`.
    fn write_scan(path: &Path, shape: [i16; 3], x_mm: f32) {
        let mut bytes = vec![0_u8; 352];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &348_i32.to_le_bytes());
        put(344, b"n+1\0");
        for (i, value) in [3, shape[0], shape[1], shape[2]].into_iter().enumerate() {
            put(40 + 2 * i, &value.to_le_bytes());
        }
        // Signed integers of 16 bits, sides, offset of the voxels, sform.
        put(70, &4_i16.to_le_bytes());
        put(72, &16_i16.to_le_bytes());
        for (i, value) in [1.0_f32; 4].into_iter().enumerate() {
            put(76 + 4 * i, &value.to_le_bytes());
        }
        put(108, &352.0_f32.to_le_bytes());
        put(254, &1_i16.to_le_bytes());
        for (i, value) in [1.0, 0.0, 0.0, x_mm, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0].into_iter().enumerate() {
            put(280 + 4 * i, &f32::to_le_bytes(value));
        }
        let num_voxels = shape.iter().map(|&side| usize::try_from(side).unwrap()).product::<usize>();
        bytes.extend(vec![0; 2 * num_voxels]);
        std::fs::write(path, bytes).unwrap();
    }

    /// Folder with scans `a.nii` and `b.nii`.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("out/probabilities/a")).unwrap();
        for case in ["a", "b"] {
            write_scan(&folder.path().join(format!("{case}.nii")), SHAPE, 0.0);
        }
        folder
    }

    /// Number of finished scans and names of the others, or the error, with `DIR` in place of the folder's path.
    fn leave_out(folder: &Path, probabilities: bool) -> Result<(usize, String), String> {
        let classes = ["background".to_owned(), "lung".to_owned()];
        let mut scans: BTreeMap<String, PathBuf> =
            ["a", "b"].map(|case| (case.to_owned(), folder.join(format!("{case}.nii")))).into();
        let out = folder.join("out");
        match Finished::leave_out(&mut scans, &Places::new(&out, &classes, probabilities)) {
            Ok(finished) => Ok((finished.num_scans, scans.into_keys().collect::<Vec<_>>().join(" "))),
            Err(error) => Err(format!("{error:#}").replace(&folder.display().to_string(), "DIR")),
        }
    }

    #[test]
    fn finished_scans_are_left_out() {
        let folder = folder();
        let left = |probabilities| leave_out(folder.path(), probabilities);
        let scan = read_info(&folder.path().join("a.nii")).unwrap();
        let at = |name: &str| folder.path().join("out").join(name);
        assert_eq!(left(false), Ok((0, "a b".to_owned())));
        write_like(&at("a.nii.gz"), &scan, &LABELS).unwrap();
        assert_eq!(left(false), Ok((1, "b".to_owned())));
        let error = left(true).unwrap_err();
        assert!(error.ends_with("00_background.nii.gz; --overwrite writes both"), "{error}");
        for name in ["00_background", "01_lung"] {
            write_like(&at(&format!("probabilities/a/{name}.nii.gz")), &scan, &[0.5_f32; 6]).unwrap();
        }
        assert_eq!(left(true), Ok((1, "b".to_owned())));
        std::fs::write(at("probabilities/a/01_lung.nii.gz"), b"").unwrap();
        assert_eq!(left(false), Ok((1, "b".to_owned())));
        let error = left(true).unwrap_err();
        assert!(error.contains("not a finished prediction of DIR/a.nii: DIR/out/probabilities/a/01_lung"), "{error}");
    }

    #[test]
    fn a_label_map_of_an_unreadable_scan_is_not_judged() {
        let folder = folder();
        let scan = read_info(&folder.path().join("a.nii")).unwrap();
        write_like(&folder.path().join("out/a.nii.gz"), &scan, &LABELS).unwrap();
        std::fs::write(folder.path().join("a.nii"), b"short").unwrap();
        assert_eq!(leave_out(folder.path(), false), Ok((0, "b".to_owned())));
    }

    #[test]
    fn damaged_and_foreign_label_maps_do_not_count_as_finished() {
        let check = |make: &dyn Fn(&Path), expected: &str| {
            let folder = folder();
            let path = folder.path().join("out/b.nii.gz");
            make(&path);
            let before = std::fs::read(&path).unwrap();
            let error = leave_out(folder.path(), false).unwrap_err();
            let start = format!("not a finished prediction of DIR/b.nii: DIR/out/b.nii.gz: {expected}");
            assert!(error.starts_with(&start), "{error}");
            assert!(error.ends_with("--overwrite") && !error.contains('\n'), "{error}");
            assert_eq!(std::fs::read(&path).unwrap(), before, "the file is untouched");
        };
        let write = |path: &Path, shape: [i16; 3], x_mm: f32, labels: &[u8]| {
            let folder = tempfile::tempdir().unwrap();
            let scan = folder.path().join("scan.nii");
            write_scan(&scan, shape, x_mm);
            write_like(path, &read_info(&scan).unwrap(), labels).unwrap();
        };
        check(&|path| std::fs::write(path, b"").unwrap(), "");
        for missing in [1, 8, 9, 20] {
            let cut = |path: &Path| {
                write(path, SHAPE, 0.0, &LABELS);
                let bytes = std::fs::read(path).unwrap();
                std::fs::write(path, &bytes[..bytes.len() - missing]).unwrap();
            };
            check(&cut, "");
        }
        check(&|path| write(path, SHAPE, 4.0, &LABELS), "lies 4.00 mm (");
        check(&|path| write(path, [3, 3, 1], 0.0, &[0; 9]), "has [3, 3, 1] voxels, the scan [3, 2, 1]");
        check(&|path| write(path, SHAPE, 0.0, &[2; 6]), "label 2 is out of range; the classes are 0 to 1");
    }

    #[test]
    fn further_unusable_label_maps_are_counted() {
        let folder = folder();
        for case in ["a", "b"] {
            std::fs::write(folder.path().join(format!("out/{case}.nii.gz")), b"").unwrap();
        }
        let error = leave_out(folder.path(), false).unwrap_err();
        assert!(error.contains("(1 other label map alike); remove"), "{error}");
    }
}
