//! Finds the cases in a folder, at any depth, by the layout of their dataset.
//!
//! | layout | how it is recognised |
//! |---|---|
//! | Medical Segmentation Decathlon, nnU-Net with a list | `dataset.json` with `training` or `dataset` (`listed`) |
//! | nnU-Net raw | a folder `imagesTr`, or `imagesTs` alone (`nnunet`) |
//! | BTCV, FLARE | a folder of images next to one of label maps, or both divided alike (`pair`, `paired`) |
//! | `VerSe`, `CTSpine1K` | folders of images and label maps with subfolders of the same names (`mirrored`) |
//! | `TotalSegmentator`, `KiTS`, `AutoPET` | one folder per case, with an image and a label map or masks (`per_case`) |
//! | plain folder | volumes in none of these (`folder`), series of DICOM files (`dicom_series`), their label maps (`labels_apart`) |
//!
//! Every file below the folder is either part of a case, or of a skipped case, or the `dataset.json` of a dataset that was
//! found, or listed as unused with a reason ([`UnusedFile`]); nothing is passed over in silence, and no file named like a
//! label map becomes an image. A path that cannot be examined is an error: an unreadable folder of labels must not make
//! unlabelled cases of labelled ones.

mod apart;
mod channels;
mod content;
mod ct_words;
mod description;
mod dicom_head;
#[cfg(feature = "dicom")]
mod dicom_series;
mod difference;
mod error;
mod exclude;
mod folder;
#[cfg(feature = "dicom")]
mod hub;
mod label_kinds;
mod labels_apart;
mod listed;
mod mirrored;
mod missing;
mod modality;
mod nnunet;
mod nnunet_output;
mod note;
mod other_case;
mod other_file;
mod pair;
mod paired;
mod per_case;
mod predictions;
mod raw_voxels;
mod roles;
mod same_file;
mod same_name;
mod stray;
mod tree;
mod unique_name;
mod unused;
mod words;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use hiend_cache::DatasetInfo;

use crate::case::{CaseFiles, SkippedCase};
use crate::volume::file_stem;
use description::Description;
use tree::Folder;
use unique_name::{joined_name, unique_names};

pub use channels::{ChannelNames, NameRole, several_channels};
pub use content::VolumeContent;
pub use description::{DescriptionFault, misspelt_ignore};
pub use dicom_head::is_without_preamble;
pub use difference::Difference;
pub use error::DatasetError;
pub use exclude::{Exclude, Unmatched};
pub use modality::Modalities;
pub use note::DatasetNote;
pub use other_file::other_file;
pub(crate) use roles::is_label_name;
pub use tree::root_of;
pub use unused::{UnusedFile, UnusedReason, Weight};

/// Name of label 0.
const BACKGROUND: &str = "background";

/// A dataset, listed but not read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dataset {
    /// The folder's name; with the names of the folders above it where another dataset has the same name.
    pub name: String,
    /// The cases, sorted.
    pub cases: Vec<CaseFiles>,
    /// Cases that their listing already rules out.
    pub skipped: Vec<SkippedCase>,
    /// Class names by label value, the label to ignore included; empty if the dataset names none.
    pub labels: BTreeMap<u8, String>,
    /// Names of regions, and the label values that each unites; empty if the dataset has no regions.
    pub regions: BTreeMap<String, Vec<u8>>,
    /// Label value of voxels without annotation, which nnU-Net calls `ignore`.
    pub ignore: Option<u8>,
    /// Names of labels and regions in the order of `dataset.json`; empty without one.
    pub order: Vec<String>,
    /// Files in the dataset's folder that belong to no case.
    pub unused: Vec<UnusedFile>,
    /// Contradictions within the dataset that the user should know of.
    pub notes: Vec<DatasetNote>,
    /// Prefixes of case keys whose folder is empty (such as an unmounted mount point) or whose `dataset.json` is
    /// unusable. Cached cases with these prefixes do not count as removed.
    pub vacant: Vec<String>,
}

/// All datasets of a folder, and the files outside them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The datasets, sorted by name. Empty folders outside datasets are among them, without cases.
    pub datasets: Vec<Dataset>,
    /// Files that belong to no dataset.
    pub unused: Vec<UnusedFile>,
}

impl Listing {
    /// All unused files, those within datasets included.
    pub fn all_unused(&self) -> impl Iterator<Item = &UnusedFile> {
        self.unused.iter().chain(self.datasets.iter().flat_map(|dataset| &dataset.unused))
    }
}

/// Finds the datasets in `root`, sorted by name.
///
/// # Errors
/// If a path cannot be examined, or no volume is found outside of datasets whose `dataset.json` cannot be used.
pub fn find(root: &Path) -> Result<Vec<Dataset>, DatasetError> {
    let mut datasets = survey(root)?.datasets;
    datasets.retain(|dataset| dataset.num_listed() > 0);
    Ok(datasets)
}

/// Reads the names of a dataset's labels from `path`: its `dataset.json`, or the folder that holds it. Needs neither volumes
/// nor the cases that the file lists. Returns a dataset without name and cases; `None` if the file does not exist.
///
/// # Errors
/// If the file cannot be examined or used.
pub fn names_in(path: &Path) -> Result<Option<Dataset>, DatasetError> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let is_dir = std::fs::metadata(&path).is_ok_and(|data| data.is_dir());
    let file = if is_dir { path.join(description::FILE_NAME) } else { path };
    // Listed cases may lie anywhere: they are not read.
    let description = description::read_file(&file, Path::new("/"))?;
    Ok(description.map(|Description { labels, regions, ignore, order, .. }| Dataset {
        labels,
        regions,
        ignore,
        order,
        ..Dataset::default()
    }))
}

/// Finds the datasets of CTs in `root`, and all that lies there and belongs to none.
///
/// # Errors
/// If a path cannot be examined, or no volume is found outside of datasets whose `dataset.json` cannot be used.
pub fn survey(root: &Path) -> Result<Listing, DatasetError> {
    survey_of(root, Modalities::Ct)
}

/// Finds the datasets of images of the given modalities in `root`, and all that lies there and belongs to none.
///
/// # Errors
/// If a path cannot be examined, or no volume is found outside of datasets whose `dataset.json` cannot be used.
pub fn survey_of(root: &Path, modalities: Modalities) -> Result<Listing, DatasetError> {
    let root = &root_of(root);
    let mut listing = Listing::default();
    let mut tree = tree::walk(root, &mut listing.unused)?;
    nnunet_output::take_out(&mut tree, &mut listing.unused);
    let mut finder = Finder {
        root,
        modalities,
        found: Vec::new(),
        stray: Vec::new(),
        listed: HashSet::new(),
        undescribed: Vec::new(),
        has_layouts: false,
        has_case_folders: false,
    };
    let own = finder.search(&tree, true)?;
    let is_empty = finder.found.iter().all(|(_, dataset)| dataset.num_listed() == 0);
    if is_empty && !finder.undescribed.is_empty() {
        // No other dataset is left to convert.
        return Err(finder.undescribed.swap_remove(0));
    }
    if is_empty {
        // In none of the layouts: all volumes are one dataset.
        let mut plain = folder::read(&tree, own.as_ref(), modalities);
        labels_apart::join(root, &mut plain, modalities.by_name(own.as_ref()));
        plain.vacant.extend(finder.found.into_iter().flat_map(|(_, dataset)| dataset.vacant));
        plain
            .notes
            .extend(DatasetNote::labels_beside(root).filter(|_| plain.cases.iter().all(|case| case.label.is_none())));
        listing.datasets = vec![plain];
    } else {
        if !finder.has_layouts {
            stray::take(&tree, &mut finder.stray, &mut finder.found, !finder.has_case_folders, modalities);
        }
        for file in &finder.stray {
            let reason = other_file::of_other_file(file).unwrap_or_else(|| unused::apart(file, root));
            listing.unused.push(UnusedFile { path: file.path.clone(), reason });
        }
        listing.datasets = unique_names(finder.found, root)?;
        // A list may name files outside of its dataset's folder.
        let is_left = |unused: &UnusedFile| !finder.listed.contains(&unused.path);
        listing.unused.retain(is_left);
        for dataset in &mut listing.datasets {
            dataset.unused.retain(is_left);
        }
    }
    raw_voxels::tell_lost(&tree, &mut listing);
    same_file::keep_once(&tree, &mut listing);
    apart::take_out(root, &finder.listed, &mut listing);
    listing.datasets.iter_mut().for_each(same_name::keep_first);
    listing.datasets.iter_mut().for_each(|dataset| predictions::take_out(&finder.listed, dataset));
    listing.datasets.iter_mut().for_each(Dataset::renew_label_kinds);
    if modalities == Modalities::All {
        for dataset in &mut listing.datasets {
            dataset.notes.retain(|note| !matches!(note, DatasetNote::Modality { .. } | DatasetNote::Channels { .. }));
        }
    }
    listing.datasets.sort_by(|a, b| a.name.cmp(&b.name));
    if listing.datasets.iter().all(|dataset| dataset.num_listed() == 0) {
        return Err(DatasetError::Empty { path: root.clone(), unused: listing.all_unused().cloned().collect() });
    }
    Ok(listing)
}

struct Finder<'a> {
    root: &'a Path,
    modalities: Modalities,
    /// Datasets by the folder they were found in.
    found: Vec<(PathBuf, Dataset)>,
    /// Files in no dataset.
    stray: Vec<tree::TreeFile>,
    /// Files that a `dataset.json` lists, wherever they lie.
    listed: HashSet<PathBuf>,
    /// Faults of the descriptions that cannot be used, whose datasets are left out.
    undescribed: Vec<DatasetError>,
    /// True if datasets of layouts other than folders of single cases were found or left out.
    has_layouts: bool,
    /// True if more than a label map next to an image shows that folders are cases.
    has_case_folders: bool,
}

impl Finder<'_> {
    /// Searches a folder; returns its description if the folder has no layout. An unusable description leaves out its
    /// own dataset only.
    fn search(&mut self, folder: &Folder, is_root: bool) -> Result<Option<Description>, DatasetError> {
        match self.search_described(folder, is_root) {
            Err(DatasetError::BadDescription { path, reason }) => {
                self.leave_out(folder, &path, reason)?;
                Ok(None)
            }
            found => found,
        }
    }

    /// Adds a dataset without cases and marks it vacant, so that its cases in a cache do not count as removed. Datasets
    /// nested in its folder are ignored with it, unless the folder has no layout of its own.
    fn leave_out(
        &mut self,
        folder: &Folder,
        description: &Path,
        fault: Box<DescriptionFault>,
    ) -> Result<(), DatasetError> {
        let reason = fault.to_string();
        let is_group =
            nnunet::read(folder, None, self.modalities).is_none() && pair::Pair::of(folder, self.modalities).is_none();
        let (grouped, left): (Vec<&Folder>, Vec<&Folder>) =
            folder.nested_datasets().into_iter().partition(|_| is_group);
        let is_left = |file: &&tree::TreeFile| !grouped.iter().any(|within| file.path.starts_with(&within.path));
        let of = |file: &tree::TreeFile| {
            let is_it = file.path == description;
            let reason =
                if is_it { UnusedReason::BadDescription { reason: reason.clone() } } else { UnusedReason::Undescribed };
            UnusedFile { path: file.path.clone(), reason }
        };
        // A dataset has the longer of its two names if another dataset has the shorter one as well.
        let nested = left.iter().flat_map(|within| [within.name.clone(), joined_name(&within.path, self.root)]);
        let divided = paired::Divided::of(folder).map(|divided| {
            let names: Vec<String> = divided.parts.into_iter().map(|(name, _)| name).chain(divided.lacking).collect();
            self.vacant_parts(folder, &names)
        });
        let dataset = Dataset {
            name: folder.name.clone(),
            unused: folder.all_files().filter(is_left).map(of).collect(),
            notes: vec![DatasetNote::BadDescription { reason }],
            vacant: [folder.name.clone()]
                .into_iter()
                .chain(nested)
                .map(|name| format!("{name}/"))
                .chain(divided.into_iter().flatten())
                .collect(),
            ..Dataset::default()
        };
        self.found.push((folder.path.clone(), dataset));
        self.has_layouts = true;
        self.undescribed.push(DatasetError::BadDescription { path: description.to_owned(), reason: fault });
        for dataset in grouped {
            self.search(dataset, false)?;
        }
        Ok(())
    }

    fn search_described(&mut self, folder: &Folder, is_root: bool) -> Result<Option<Description>, DatasetError> {
        let description = description::read(&folder.path, self.root)?;
        let listed = match &description {
            Some(description) => listed::read(folder, self.root, description)?,
            None => None,
        };
        let listed = listed.map(|(dataset, files)| {
            self.listed.extend(files);
            dataset
        });
        let whole = listed
            .or_else(|| nnunet::read(folder, description.as_ref(), self.modalities))
            .or_else(|| paired::read(folder, description.as_ref(), self.modalities));
        // The file of a description that was read is not an unused one.
        let read = description.is_some().then(|| folder.path.join(description::FILE_NAME));
        let is_unused = |unused: &UnusedFile| Some(&unused.path) != read.as_ref();
        if let Some(mut dataset) = whole {
            dataset.unused.retain(is_unused);
            name_nested(folder, &mut dataset.unused);
            self.found.push((folder.path.clone(), dataset));
            self.has_layouts = true;
            return Ok(description);
        }
        if let Some(mut found) = per_case::read(folder, description.as_ref(), is_root, self.modalities) {
            found.dataset.unused.retain(is_unused);
            self.found.push((folder.path.clone(), found.dataset));
            self.stray.extend(found.beside.into_iter().filter(|file| Some(&file.path) != read.as_ref()));
            self.has_case_folders |= found.is_sure;
            for other in found.others {
                self.search(other, false)?;
            }
            return Ok(description);
        }
        if let Some(divided) = paired::Divided::of(folder) {
            let around = divided.around;
            let parts: Vec<&Folder> = divided.parts.iter().flat_map(|(_, pair)| *pair).collect();
            let is_read = |path: &Path| parts.iter().any(|part| path.starts_with(&part.path));
            let beside = around.into_iter().flat_map(Folder::all_files).chain(&folder.files);
            let stray = beside.filter(|file| !is_read(&file.path) && Some(&file.path) != read.as_ref());
            self.stray.extend(stray.cloned());
            self.has_layouts = true;
            self.add_divided(folder, divided, description.as_ref());
            for child in folder.folders.iter().filter(|child| around.iter().all(|of| of.path != child.path)) {
                self.search_child(child)?;
            }
            return Ok(description);
        }
        let beside = folder.files.iter().filter(|file| Some(&file.path) != read.as_ref());
        if let Some(found) = mirrored::read(folder, description.as_ref(), self.modalities) {
            self.stray.extend(beside.cloned());
            self.found.push((folder.path.clone(), found.dataset));
            self.has_layouts = true;
            for child in folder.folders.iter().filter(|child| found.around.iter().all(|of| of.path != child.path)) {
                self.search_child(child)?;
            }
            return Ok(description);
        }
        self.stray.extend(folder.files.iter().cloned());
        for child in &folder.folders {
            self.search_child(child)?;
        }
        Ok(description)
    }

    /// Adds the datasets of a divided folder. Parts without images or label maps are vacant.
    fn add_divided(&mut self, folder: &Folder, divided: paired::Divided<'_>, description: Option<&Description>) {
        let vacant = self.vacant_parts(folder, &divided.lacking);
        let notes: Vec<DatasetNote> =
            divided.empty.into_iter().map(|folder| DatasetNote::EmptyPart { folder }).collect();
        let first = self.found.len();
        for (name, pair) in divided.parts {
            let is_whole = name == folder.name;
            let path = if is_whole { folder.path.clone() } else { folder.path.join(&pair[0].name) };
            self.found.push((path, paired::read_part(name, pair, description, self.modalities)));
        }
        if self.found.len() == first {
            let dataset = Dataset { name: folder.name.clone(), ..Dataset::default() };
            self.found.push((folder.path.clone(), dataset));
        }
        let (_, dataset) = &mut self.found[first];
        dataset.vacant.extend(vacant);
        dataset.notes.extend(notes);
    }

    /// Prefixes of the keys of a divided folder's datasets, by their names and by those they have where another folder has the
    /// same name.
    fn vacant_parts(&self, folder: &Folder, names: &[String]) -> Vec<String> {
        let of = |name: &String| {
            let is_below = folder.path != self.root;
            let joined = is_below.then(|| joined_name(&folder.path.with_file_name(name), self.root));
            [name.clone()].into_iter().chain(joined.filter(|joined| joined != name))
        };
        names.iter().flat_map(of).map(|name| format!("{name}/")).collect()
    }

    /// Searches a subfolder of a folder in no layout of its own; an empty one becomes a dataset without cases.
    fn search_child(&mut self, child: &Folder) -> Result<(), DatasetError> {
        if !child.is_empty() {
            return self.search(child, false).map(|_| ());
        }
        let dataset = Dataset {
            name: child.name.clone(),
            notes: vec![DatasetNote::Empty],
            vacant: vec![format!("{}/", child.name)],
            ..Dataset::default()
        };
        self.found.push((child.path.clone(), dataset));
        Ok(())
    }
}

/// Returns true if the path has a volume's file extension, also for hidden files.
fn is_volume(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    file_stem(name.trim_start_matches('.')).is_some()
}

/// Replaces the reason of unused volumes that belong to datasets nested in the folder of another dataset.
fn name_nested(folder: &Folder, unused: &mut [UnusedFile]) {
    let nested = folder.nested_datasets();
    for file in unused {
        if is_volume(&file.path) && nested.iter().any(|dataset| file.path.starts_with(&dataset.path)) {
            file.reason = UnusedReason::NestedDataset;
        }
    }
}

impl Dataset {
    /// An empty dataset with the facts of its description.
    fn described(name: String, description: Option<&Description>) -> Self {
        let Some(description) = description else { return Self { name, ..Self::default() } };
        let other = description.channels.iter().find(|channel| !ct_words::is_ct_channel(channel)).cloned();
        let note = match description.channels.as_slice() {
            names @ [_, _, ..] => Some(DatasetNote::Channels { names: names.to_vec() }),
            _ => other.map(|channel| DatasetNote::Modality { channel }),
        };
        let misspelt = misspelt_ignore(&description.labels);
        let misspelt = misspelt.map(|(label, name)| DatasetNote::IgnoreSpelling { label, name: name.to_owned() });
        let background = description.labels.get(&0).filter(|name| !description::is_background(name));
        let background = background.map(|name| DatasetNote::BackgroundName { name: name.clone() });
        Self {
            name,
            labels: description.labels.clone(),
            regions: description.regions.clone(),
            ignore: description.ignore,
            order: description.order.clone(),
            notes: note.into_iter().chain(misspelt).chain(background).collect(),
            ..Self::default()
        }
    }

    /// Classes, regions and ignore label, as a manifest holds them.
    #[must_use]
    pub fn info(&self) -> DatasetInfo {
        DatasetInfo { labels: self.labels.clone(), regions: self.regions.clone(), ignore: self.ignore }
    }

    /// Returns true if the dataset names classes or has label maps. Scans alone say nothing about classes.
    #[must_use]
    pub fn has_classes(&self) -> bool {
        !self.labels.is_empty() || !self.regions.is_empty() || self.cases.iter().any(|case| case.label.is_some())
    }

    /// Number of cases, skipped ones included.
    #[must_use]
    pub fn num_listed(&self) -> usize {
        self.cases.len() + self.skipped.len()
    }

    /// Changes the name, in the cases as well.
    fn rename(&mut self, name: &str) {
        for case in &mut self.cases {
            name.clone_into(&mut case.dataset);
        }
        let prefix = format!("{}/", self.name);
        for skipped in &mut self.skipped {
            if let Some(case_id) = skipped.case.strip_prefix(&prefix) {
                skipped.case = format!("{name}/{case_id}");
            }
        }
        for vacant in &mut self.vacant {
            if let Some(rest) = vacant.strip_prefix(&prefix) {
                *vacant = format!("{name}/{rest}");
            }
        }
        name.clone_into(&mut self.name);
    }
}

#[cfg(test)]
mod tests;
