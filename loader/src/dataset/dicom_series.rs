//! DICOM series in plain folders: a case for each CT series, or for each one of any modality where those are asked for.
//!
//! The only series of a folder is named like the folder; of several, each has its number and description in its name.
//! A series whose files are in several folders is skipped, because none of them may hold all of it. Folders that lead to the
//! very same files, by links, count as one, and so do copies: folders with byte-identical files, whatever their names.
//!
//! One of several copies becomes a case: the first by name, where possible outside folders for tests or validation. In other
//! formats, all cases of equal images are converted, and reported by `convert::same_scan`, because each may have a label map
//! of its own. A series in two folders cannot be converted from either, unless one holds nothing that the other lacks.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use super::Dataset;
use super::apart::is_apart;
use super::dicom_head::{DicomHead, is_without_preamble};
use super::hub::HubLinks;
use super::modality::Modalities;
use super::tree::{FileId, Folder, TreeFile};
use super::unused::reason::{UnusedFile, UnusedReason};
use crate::case::{CaseFiles, ImageRole, SkippedCase, shown};
use crate::volume::dicom::{Other, Wanted, is_candidate, is_cross_section, sort_of};

/// The series of one folder as a case.
struct FoundCase {
    /// Identifier of the series.
    uid: String,
    case: CaseFiles,
    files: BTreeSet<FileId>,
    /// True for a case in a folder for tests or validation, which may be taken out later.
    is_apart: bool,
    /// Rank among cases of the same files, lowest first: names that end in `.dcm` come before others, and paths
    /// without links before those with links.
    rank: [bool; 2],
}

/// Cases found so far.
pub(super) struct FoundSeries {
    modalities: Modalities,
    hub: HubLinks,
    cases: Vec<FoundCase>,
}

impl FoundSeries {
    /// Starts a search. Files that `hub` has links to are read as the files of these links only.
    pub(super) fn new(modalities: Modalities, hub: HubLinks) -> Self {
        Self { modalities, hub, cases: Vec::new() }
    }

    /// Takes the DICOM files directly in a folder; returns their paths. Files that are not slices of a wanted series are
    /// listed as unused.
    pub(super) fn take(&mut self, folder: &Folder, root: &Path, dataset: &mut Dataset) -> HashSet<PathBuf> {
        let is_dicom = |file: &&TreeFile| file.stem().is_none() && file.id.is_some() && is_candidate(&file.name);
        let files = folder.files.iter().filter(is_dicom).map(|file| file.path.clone());
        let is_linked = |file: &PathBuf| self.hub.link(file).is_some() && DicomHead::read(file).is_some();
        let (linked, files): (Vec<PathBuf>, Vec<PathBuf>) = files.partition(is_linked);
        let wanted = match self.modalities {
            Modalities::Ct => Wanted::Ct,
            Modalities::All => Wanted::CrossSections,
        };
        let sorted = sort_of(&files, wanted);
        let parent = folder.path.strip_prefix(root).unwrap_or(&folder.path);
        let is_only = sorted.series.len() == 1;
        let by_path: HashMap<&Path, &TreeFile> = folder.files.iter().map(|file| (file.path.as_path(), file)).collect();
        for series in sorted.series {
            let place = if is_only { parent.to_owned() } else { parent.join(&series.name) };
            let mut case_id = place.to_string_lossy().replace('\\', "/");
            if case_id.is_empty() {
                case_id.clone_from(&dataset.name);
            }
            let of_series: Vec<&TreeFile> =
                series.files.iter().filter_map(|path| by_path.get(path.as_path()).copied()).collect();
            let ids: BTreeSet<FileId> = of_series.iter().filter_map(|file| file.id).collect();
            let is_named =
                |file: &&TreeFile| file.path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("dcm"));
            let rank = [!of_series.iter().all(is_named), of_series.iter().any(|file| file.is_linked)];
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
            self.cases.push(FoundCase { uid: series.uid, is_apart: is_apart(root, &case), case, files: ids, rank });
        }
        for path in &linked {
            let first = self.hub.link(path).unwrap_or(path).to_owned();
            dataset.unused.push(UnusedFile { path: path.clone(), reason: UnusedReason::SameFile { first } });
        }
        let mut taken: HashSet<PathBuf> = files.into_iter().chain(linked).collect();
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
    pub(super) fn add_to(mut self, dataset: &mut Dataset) {
        self.keep_once(dataset);
        self.keep_first_copy(dataset);
        let mut folders: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
        for FoundCase { uid, case, .. } in &self.cases {
            folders.entry(uid.clone()).or_default().extend(case.image.parent().map(Path::to_owned));
        }
        for FoundCase { uid, case, .. } in self.cases {
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

    /// Keeps one of the cases that have the very same files.
    fn keep_once(&mut self, dataset: &mut Dataset) {
        self.cases.sort_by_key(|found| (found.is_apart, found.rank));
        let mut first_of: BTreeMap<BTreeSet<FileId>, PathBuf> = BTreeMap::new();
        self.cases.retain(|found| match first_of.entry(found.files.clone()) {
            Entry::Vacant(place) => {
                place.insert(found.case.image.clone());
                true
            }
            Entry::Occupied(first) => {
                dataset.unused.extend(same_as(first.get(), &found.case));
                false
            }
        });
    }

    /// Keeps the first, by name, of the cases of one series that have byte-identical files; one in a folder for tests or validation only
    /// if no other is there: the scan would be lost for training. Only files of such cases with files of
    /// equal sizes are read; a case with a file that cannot be read is kept.
    fn keep_first_copy(&mut self, dataset: &mut Dataset) {
        self.cases.sort_by(|a, b| (a.is_apart, &a.case.case_id).cmp(&(b.is_apart, &b.case.case_id)));
        let mut num_of: HashMap<&str, usize> = HashMap::new();
        for found in &self.cases {
            *num_of.entry(found.uid.as_str()).or_default() += 1;
        }
        let mut alike: BTreeMap<(&str, Vec<u64>), Vec<&CaseFiles>> = BTreeMap::new();
        for found in self.cases.iter().filter(|found| num_of[found.uid.as_str()] > 1) {
            if let Some(sizes) = sizes(&found.case) {
                alike.entry((found.uid.as_str(), sizes)).or_default().push(&found.case);
            }
        }
        let mut copies: HashSet<PathBuf> = HashSet::new();
        for cases in alike.into_values().filter(|cases| cases.len() > 1) {
            let mut first_of: HashMap<Vec<[u8; 32]>, &Path> = HashMap::new();
            for case in cases {
                let Some(digests) = digests(case) else { continue };
                if let Some(first) = first_of.get(&digests) {
                    dataset.unused.extend(same_as(first, case));
                    copies.insert(case.image.clone());
                } else {
                    first_of.insert(digests, &case.image);
                }
            }
        }
        self.cases.retain(|found| !copies.contains(&found.case.image));
    }
}

/// The files of a case, unused because they are those of the case whose image is `first`.
fn same_as(first: &Path, case: &CaseFiles) -> Vec<UnusedFile> {
    let reason = UnusedReason::SameFile { first: first.to_owned() };
    case.files().map(|path| UnusedFile { path: path.to_owned(), reason: reason.clone() }).collect()
}

/// Sizes of the files of a case in bytes, sorted; `None` if a file cannot be examined.
fn sizes(case: &CaseFiles) -> Option<Vec<u64>> {
    let mut sizes = case.files().map(|path| Some(std::fs::metadata(path).ok()?.len())).collect::<Option<Vec<u64>>>()?;
    sizes.sort_unstable();
    Some(sizes)
}

/// Digests of the files of a case, sorted; `None` if a file cannot be read.
fn digests(case: &CaseFiles) -> Option<Vec<[u8; 32]>> {
    let digest = |path: &Path| {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(File::open(path).ok()?).ok()?;
        Some(*hasher.finalize().as_bytes())
    };
    let mut digests = case.files().map(digest).collect::<Option<Vec<[u8; 32]>>>()?;
    digests.sort_unstable();
    Some(digests)
}
