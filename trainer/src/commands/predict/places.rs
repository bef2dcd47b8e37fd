//! Files that `predict` writes, checked before the first scan is computed.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use hiend_cache::{FileError, durable};
use hiend_loader::program::count;
use hiend_loader::volume::{Wanted, file_stem, format_of, read_info_for};

/// Largest ratio by which deflate can shrink data: 258 equal bytes take two bits.
const MAX_DEFLATE_RATIO: u64 = 1032;

/// Existing files that may be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replace {
    /// No existing file.
    Nothing,
    /// Probabilities only: without a label map, which is written last, they belong to an interrupted prediction.
    Probabilities,
    /// Label maps and probabilities.
    Everything,
}

/// Paths of label maps and probabilities.
#[derive(Debug)]
pub(super) struct Places<'a> {
    out: &'a Path,
    classes: &'a [String],
    /// True if probabilities are also written.
    probabilities: bool,
}

impl<'a> Places<'a> {
    /// Creates the paths in the folder `out`.
    pub(super) fn new(out: &'a Path, classes: &'a [String], probabilities: bool) -> Self {
        Self { out, classes, probabilities }
    }

    /// Number of classes of the model.
    pub(super) fn num_classes(&self) -> usize {
        self.classes.len()
    }

    /// Path of a case's label map, in the format of its scan.
    pub(super) fn label_map(&self, case: &str, scan: &Path) -> PathBuf {
        self.out.join(format!("{case}{}", format_of(scan).result_ending()))
    }

    /// Path of the probability map of a class.
    pub(super) fn probability(&self, case: &str, scan: &Path, class: usize) -> PathBuf {
        let name: String =
            self.classes[class].chars().map(|letter| if letter.is_alphanumeric() { letter } else { '_' }).collect();
        let ending = format_of(scan).result_ending();
        self.out.join("probabilities").join(case).join(format!("{class:02}_{name}{ending}"))
    }

    /// Paths of all files written for a case, the label map first.
    pub(super) fn of_case(&self, case: &str, scan: &Path) -> Vec<PathBuf> {
        let num_probabilities = if self.probabilities { self.classes.len() } else { 0 };
        let probabilities = (0..num_probabilities).map(|class| self.probability(case, scan, class));
        std::iter::once(self.label_map(case, scan)).chain(probabilities).collect()
    }

    /// Checks that the files of all scans can be written: none replaces an input, none exists unless `replace` allows
    /// it, none has a file of its case in another format next to it, and the folder, which is created if needed, has room
    /// for their minimum size.
    ///
    /// # Errors
    /// The first obstacle.
    pub(super) fn check(&self, scans: &BTreeMap<String, PathBuf>, replace: Replace) -> anyhow::Result<()> {
        let mut inputs = BTreeMap::new();
        for path in scans.values() {
            inputs.insert(path.canonicalize().map_err(FileError::at(path, "look up"))?, path);
        }
        for (number, path) in scans.iter().flat_map(|(case, scan)| self.of_case(case, scan).into_iter().enumerate()) {
            let may_exist = match replace {
                Replace::Nothing => false,
                Replace::Probabilities => number > 0,
                Replace::Everything => true,
            };
            match path.canonicalize() {
                Ok(existing) => {
                    if let Some(input) = inputs.get(&existing) {
                        bail!("{} would replace the input {}; choose another --out", path.display(), input.display());
                    }
                    if existing.is_dir() {
                        bail!("{}: a folder, where a file is to be written", path.display());
                    }
                    if !may_exist {
                        bail!("{} exists; --skip-existing keeps it, --overwrite replaces it", path.display());
                    }
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(FileError::at(path, "look up")(error).into()),
            }
        }
        self.refuse_other_formats(scans)?;
        durable::create_dir_all(self.out)?;
        self.check_space(scans)
    }

    /// Refuses to write a label map next to a file of its case in another format, such as the label map of a dataset in
    /// its `labelsTr`: neither would replace the other, and a later reader could take either.
    fn refuse_other_formats(&self, scans: &BTreeMap<String, PathBuf>) -> anyhow::Result<()> {
        let entries = match std::fs::read_dir(self.out) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(FileError::at(self.out, "list"))?,
        };
        for entry in entries {
            let path = entry.map_err(FileError::at(self.out, "list"))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let Some((case, scan)) = file_stem(&name).and_then(|case| scans.get_key_value(case)) else { continue };
            if path != self.label_map(case, scan) {
                bail!(
                    "{} is a file of the case {case}, whose label map would be written next to it in another format; choose \
                     another --out, or move the file away",
                    path.display()
                );
            }
        }
        Ok(())
    }

    /// Writes as many bytes as the files need at least, and removes them again: unlike reading the free space, this
    /// also detects quotas and missing permissions.
    fn check_space(&self, scans: &BTreeMap<String, PathBuf>) -> anyhow::Result<()> {
        if scans.is_empty() {
            return Ok(());
        }
        let bytes_per_voxel = 1 + if self.probabilities { 4 * self.classes.len() as u64 } else { 0 };
        // A scan whose header cannot be read is reported when its turn comes, and so is a modality that the model does not
        // take.
        let info = |path: &PathBuf| read_info_for(path, Wanted::CrossSections);
        let voxels = |path: &PathBuf| info(path).map_or(0, |info| info.shape.iter().product::<usize>() as u64);
        let num_voxels: u64 = scans.values().map(voxels).sum();
        let needed = (num_voxels * bytes_per_voxel).div_ceil(MAX_DEFLATE_RATIO).max(1);
        // Remainders of killed runs take space. If one cannot be removed and matters, the probe fails.
        let _ = durable::remove_stale(self.out);
        durable::probe(self.out, needed).map_err(|error| error.source).with_context(|| {
            let (out, scans) = (self.out.display(), super::scans(scans.len()));
            let bytes = count(needed, "byte");
            format!("{out}: cannot write the label maps of {scans}, which take at least {bytes}")
        })
    }
}

/// Refuses a folder for results in which scans lie: a label map there would count as a scan of its case from then on.
///
/// # Errors
/// If the folder holds a scan, or cannot be looked up.
pub(super) fn refuse_folder_of_scans(out: &Path, scans: &BTreeMap<String, PathBuf>) -> anyhow::Result<()> {
    let folder = match out.canonicalize() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        folder => folder.map_err(FileError::at(out, "look up"))?,
    };
    for scan in scans.values() {
        // A name alone has no folder before.
        let path = std::path::absolute(scan).map_err(FileError::at(scan, "look up"))?;
        let lies_there = |parent: &Path| parent.canonicalize().is_ok_and(|parent| parent == folder);
        if path.parent().is_some_and(lies_there) {
            bail!(
                "--out {} is the folder of the scan {}, where label maps would count as scans; choose another one, such as {}",
                out.display(),
                scan.display(),
                out.join("predictions").display()
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(inputs: &[&str], out: &str, existing: &[&str], replace: Replace) -> Result<(), String> {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in inputs.iter().chain(existing) {
            std::fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            std::fs::write(at(name), b"scan").unwrap();
        }
        let scans = inputs.iter().map(|name| {
            let case =
                Path::new(name).file_name().unwrap().to_string_lossy().replace(".nii.gz", "").replace(".mha", "");
            (case.replace("_0000", ""), at(name))
        });
        if at(out).is_dir() {
            std::fs::write(at(out).join(".hiend-killed.tmp"), b"zeros").unwrap();
        }
        let classes = ["background".to_owned(), "left lung".to_owned()];
        let result = Places::new(&at(out), &classes, true).check(&scans.collect(), replace);
        for name in inputs.iter().chain(existing) {
            assert_eq!(std::fs::read(at(name)).unwrap(), b"scan");
        }
        if result.is_ok() {
            assert!(at(out).is_dir());
            let left = std::fs::read_dir(at(out))
                .unwrap()
                .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with(".hiend-"));
            assert_eq!(left.count(), 0, "the probe is removed, and that of a killed run, too");
        }
        result.map_err(|error| format!("{error:#}").replace(&folder.path().display().to_string(), "DIR"))
    }

    #[test]
    fn no_input_is_replaced() {
        let expected = Err("DIR/a.nii.gz would replace the input DIR/a.nii.gz; choose another --out".to_owned());
        for replace in [Replace::Nothing, Replace::Probabilities, Replace::Everything] {
            assert_eq!(check(&["a.nii.gz"], ".", &[], replace).map_err(|text| text.replace("/./", "/")), expected);
        }
        assert_eq!(check(&["a_0000.nii.gz"], ".", &[], Replace::Nothing), Ok(()));
    }

    #[test]
    fn existing_files_of_any_case_are_found_first() {
        let inputs = ["in/a_0000.nii.gz", "in/b_0000.nii.gz"];
        assert_eq!(check(&inputs, "out", &[], Replace::Nothing), Ok(()));
        let (label_map, probability) = ("out/b.nii.gz", "out/probabilities/b/01_left_lung.nii.gz");
        let exists = |name: &str| Err(format!("DIR/{name} exists; --skip-existing keeps it, --overwrite replaces it"));
        for existing in [label_map, probability] {
            assert_eq!(check(&inputs, "out", &[existing], Replace::Nothing), exists(existing));
            assert_eq!(check(&inputs, "out", &[existing], Replace::Everything), Ok(()));
        }
        assert_eq!(check(&inputs, "out", &[probability], Replace::Probabilities), Ok(()));
        assert_eq!(check(&inputs, "out", &[label_map], Replace::Probabilities), exists(label_map));
    }

    #[test]
    fn no_label_map_is_written_next_to_one_of_its_case_in_another_format() {
        for (scan, existing, is_refused) in [
            ("in/a_0000.nii.gz", "out/a.nii", true),
            ("in/a.mha", "out/a.nii.gz", true),
            ("in/a.mha", "out/b.nii.gz", false),
            ("in/a.mha", "out/a.txt", false),
        ] {
            for replace in [Replace::Nothing, Replace::Everything] {
                let expected = format!(
                    "DIR/{existing} is a file of the case a, whose label map would be written next to it in another format; \
                     choose another --out, or move the file away"
                );
                let found = check(&[scan], "out", &[existing], replace);
                assert_eq!(found, if is_refused { Err(expected) } else { Ok(()) }, "{scan}, {existing}");
            }
        }
    }

    #[test]
    fn results_have_the_format_of_their_scan() {
        let classes = ["background".to_owned(), "lung".to_owned()];
        let places = Places::new(Path::new("out"), &classes, true);
        for (scan, ending) in [
            ("a.nii", ".nii.gz"),
            ("a.NRRD", ".nrrd"),
            ("a.nhdr", ".nrrd"),
            ("a.mhd", ".mha"),
            ("a/IM_0001", ".nii.gz"),
        ] {
            let expected = [
                format!("out/a{ending}"),
                format!("out/probabilities/a/00_background{ending}"),
                format!("out/probabilities/a/01_lung{ending}"),
            ];
            assert_eq!(places.of_case("a", Path::new(scan)), expected.map(PathBuf::from));
        }
        let expected = Err("DIR/a.mha would replace the input DIR/a.mha; choose another --out".to_owned());
        let found = check(&["a.mha"], ".", &[], Replace::Everything);
        assert_eq!(found.map_err(|text| text.replace("/./", "/")), expected);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn without_a_scan_to_predict_no_space_is_needed() {
        let places = Places::new(Path::new("/proc/self/fdinfo"), &[], false);
        places.check(&BTreeMap::new(), Replace::Nothing).unwrap();
        let scan = BTreeMap::from([("a".to_owned(), PathBuf::from("/proc/self/stat"))]);
        let error = places.check(&scan, Replace::Nothing).unwrap_err().to_string();
        assert!(error.ends_with("cannot write the label maps of 1 scan, which take at least 1 byte"), "{error}");
    }

    #[test]
    fn a_file_in_place_of_the_folder_is_refused() {
        let error = check(&["in/a.nii.gz"], "out", &["out"], Replace::Everything).unwrap_err();
        assert!(error.starts_with("DIR/out"), "{error}");
    }
}
