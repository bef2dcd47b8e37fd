//! DICOM series in plain folders: a case for each CT series, or for each one of any modality where those are asked for.
//!
//! The only series of a folder is named like the folder; of several, each has its number and description in its name.
//! A series whose files are in several folders is skipped, because none of them may hold all of it.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use super::Dataset;
use super::dicom_head::is_without_preamble;
use super::modality::Modalities;
use super::tree::{Folder, TreeFile};
use super::unused::{UnusedFile, UnusedReason};
use crate::case::{CaseFiles, ImageRole, SkippedCase, shown};
use crate::volume::dicom::{Other, Wanted, is_candidate, is_cross_section, sort_of};

/// Cases found so far, with the identifiers of their series.
pub(super) struct FoundSeries {
    modalities: Modalities,
    cases: Vec<(String, CaseFiles)>,
}

impl FoundSeries {
    pub(super) fn new(modalities: Modalities) -> Self {
        Self { modalities, cases: Vec::new() }
    }

    /// Takes the DICOM files directly in a folder; returns their paths. Files that are not slices of a wanted series are
    /// listed as unused.
    pub(super) fn take(&mut self, folder: &Folder, root: &Path, dataset: &mut Dataset) -> HashSet<PathBuf> {
        let is_dicom = |file: &&TreeFile| file.stem().is_none() && file.id.is_some() && is_candidate(&file.name);
        let files: Vec<PathBuf> = folder.files.iter().filter(is_dicom).map(|file| file.path.clone()).collect();
        let wanted = match self.modalities {
            Modalities::Ct => Wanted::Ct,
            Modalities::All => Wanted::CrossSections,
        };
        let sorted = sort_of(&files, wanted);
        let parent = folder.path.strip_prefix(root).unwrap_or(&folder.path);
        let is_only = sorted.series.len() == 1;
        for series in sorted.series {
            let place = if is_only { parent.to_owned() } else { parent.join(&series.name) };
            let mut case_id = place.to_string_lossy().replace('\\', "/");
            if case_id.is_empty() {
                case_id.clone_from(&dataset.name);
            }
            let mut files = series.files.into_iter();
            let Some(image) = files.next() else { continue };
            let case = CaseFiles {
                dataset: dataset.name.clone(),
                case_id,
                image,
                slices: files.collect(),
                role: ImageRole::Assumed,
                label: None,
            };
            self.cases.push((series.uid, case));
        }
        let mut taken: HashSet<PathBuf> = files.into_iter().collect();
        for other in sorted.others {
            let reason = match other.reason {
                // Described by its name, like any other file.
                Other::NotDicom => {
                    taken.remove(&other.path);
                    continue;
                }
                Other::Damaged(_) if is_without_preamble(&other.path) => UnusedReason::DicomWithoutPreamble,
                Other::Damaged(reason) => UnusedReason::BadDicom { reason },
                // An image of a wanted modality; a directory of a medium has no modality either.
                Other::Without(element) if element != "Modality" => UnusedReason::BadDicom {
                    reason: format!(
                        "DICOM image without the element {element}, which every image has; complete it, or convert it to .nii.gz"
                    ),
                },
                Other::Modality(modality) if wanted == Wanted::Ct && is_cross_section(&modality) => {
                    UnusedReason::NotCtSeries { modality }
                }
                reason if wanted == Wanted::Ct => UnusedReason::NotCt { what: reason.to_string() },
                reason => UnusedReason::NotCrossSection { what: reason.to_string() },
            };
            dataset.unused.push(UnusedFile { path: other.path, reason });
        }
        taken
    }

    /// Adds the cases to the dataset.
    pub(super) fn add_to(self, dataset: &mut Dataset) {
        let mut folders: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
        for (uid, case) in &self.cases {
            folders.entry(uid.clone()).or_default().extend(case.image.parent().map(Path::to_owned));
        }
        for (uid, case) in self.cases {
            match folders[&uid].iter().find(|folder| Some(folder.as_path()) != case.image.parent()) {
                None => dataset.cases.push(case),
                Some(other) => {
                    let reason = format!(
                        "its series has files in {} too; put all of them in one folder, remove the copy, or, if they are \
                         different scans under one identifier, convert each folder on its own",
                        shown(other)
                    );
                    dataset.skipped.push(SkippedCase::new(&case, &case.image, reason));
                }
            }
        }
    }
}
