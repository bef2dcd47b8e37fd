//! Datasets whose `dataset.json` lists the cases: the Medical Segmentation Decathlon and nnU-Net 1 (`training`), and
//! nnU-Net 2 (`dataset`).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::channels::{ChannelNames, NameRole, several_channels};
use super::description::{Description, FILE_NAME, ListedCase};
use super::roles::{channel, loose_key};
use super::tree::{Folder, TreeFile};
use super::unused::{UnusedReason, apart, lies_in, rest};
use super::{Dataset, DatasetError, DatasetNote, DescriptionFault};
use crate::case::{CaseFiles, ImageRole, LabelFiles, SkippedCase};
use crate::volume::file_stem;

/// The dataset, and all files that it lists, wherever they lie in `root`. `None` if the description lists no cases.
///
/// # Errors
/// If a listed file cannot be accessed, or an entry has no usable name.
pub(super) fn read(
    folder: &Folder,
    root: &Path,
    description: &Description,
) -> Result<Option<(Dataset, HashSet<PathBuf>)>, DatasetError> {
    if description.cases.is_empty() {
        return Ok(None);
    }
    let mut dataset = Dataset::described(folder.name.clone(), Some(description));
    let mut taken: HashSet<PathBuf> = HashSet::new();
    let mut first_of: HashMap<String, (PathBuf, Option<PathBuf>)> = HashMap::new();
    // Names of the cases of images with several entries, and the reason to skip them.
    let mut unclear: HashMap<String, &str> = HashMap::new();
    let firsts = description.cases.iter().map(|listed| with_channel(&listed.images[0]));
    let firsts: Vec<PathBuf> = firsts.collect::<Result<_, _>>()?;
    let neighbours = Neighbours::of(&description.cases, &firsts)?;
    let own_names = OwnNames::of(folder, root, &firsts, &neighbours);
    for (listed, image) in description.cases.iter().zip(firsts.iter().cloned()) {
        let ListedCase { images, label, .. } = listed;
        let case_id = case_name(listed, own_names.name(&image), folder)?;
        let role = neighbours.role(&image);
        let further: Vec<PathBuf> = match role {
            Some(NameRole::FirstOfSeveral(case_id)) => neighbours.further(&image, case_id),
            _ => Vec::new(),
        };
        taken.extend(images.iter().cloned().chain([image.clone()]).chain(label.clone()));
        let case = CaseFiles {
            dataset: dataset.name.clone(),
            case_id,
            image,
            slices: Vec::new(),
            role: ImageRole::Declared,
            label: label.clone().map(LabelFiles::Map),
        };
        let mut missing = None;
        for path in case.files() {
            if missing.is_none() && !exists(path)? {
                missing = Some(path.to_owned());
            }
        }
        if let Some((first, first_label)) = first_of.get(&case.case_id) {
            if *first != case.image {
                let reason = "dataset.json lists two images of this name";
                dataset.skipped.push(SkippedCase::new(&case, &case.image, reason));
            } else if first_label != label {
                let reason = if first_label.is_some() && label.is_some() {
                    "dataset.json lists two label maps of this image; keep one"
                } else {
                    "dataset.json lists this image with and without a label map; keep one of the entries"
                };
                unclear.entry(case.case_id).or_insert(reason);
            }
            continue;
        }
        first_of.insert(case.case_id.clone(), (case.image.clone(), label.clone()));
        if let Some(path) = missing {
            dataset.skipped.push(SkippedCase::new(&case, &path, "listed in dataset.json but missing"));
        } else if images.len() > 1 || !further.is_empty() {
            taken.extend(further);
            // A list of several images names channels.
            let are_demanded = images.len() > 1 || description.demands_channels();
            dataset.skipped.push(SkippedCase::new(&case, &case.image, several_channels(are_demanded)));
        } else {
            dataset.cases.push(case);
        }
    }
    for case in dataset.cases.extract_if(.., |case| unclear.contains_key(&case.case_id)) {
        dataset.skipped.push(SkippedCase::new(&case, &case.image, unclear[&case.case_id]));
    }
    dataset.cases.sort();
    dataset.note_shared_labels();
    dataset.note_crossed_labels();
    dataset.note_other_lists(description);
    let places: HashSet<&Path> = taken.iter().filter_map(|file| file.parent()).collect();
    dataset.unused = rest(folder, &taken, |file| explain(file, folder, description, &places));
    let has_labels = dataset.cases.iter().any(|case| case.label.is_some());
    dataset.note_missing_labels(has_labels);
    if let Some(claimed) = description.num_training {
        dataset.note_count(claimed);
    }
    Ok(Some((dataset, taken)))
}

/// Name of a listed case: the one in the list, or else its image's `own`.
fn case_name(listed: &ListedCase, own: Option<String>, folder: &Folder) -> Result<String, DatasetError> {
    let bad = |reason: DescriptionFault| DatasetError::BadDescription {
        path: folder.path.join(FILE_NAME),
        reason: Box::new(reason),
    };
    let Some(case_id) = listed.case_id.clone().or(own) else {
        return Err(bad(DescriptionFault::NotAVolume { path: listed.images[0].clone() }));
    };
    if case_id.chars().any(char::is_control) {
        return Err(bad(DescriptionFault::ControlCharacters { case_id }));
    }
    Ok(case_id)
}

/// Reason not to convert a file that belongs to no case; `places` are the folders of the files of cases.
fn explain(file: &TreeFile, folder: &Folder, description: &Description, places: &HashSet<&Path>) -> UnusedReason {
    let is_of_training = ["imagesTr", "labelsTr"].into_iter().any(|name| lies_in(file, &folder.path, name));
    if description.validation.contains(&file.path) {
        UnusedReason::Validation
    } else if description.test.contains(&file.path) {
        UnusedReason::TestData
    } else if is_of_training || file.path.parent().is_some_and(|place| places.contains(place)) {
        UnusedReason::NotListed
    } else {
        apart(file, &folder.path)
    }
}

/// Names of cases by those of their images.
struct OwnNames(HashMap<PathBuf, String>);

impl OwnNames {
    /// The names of the first images of cases. Where images in several folders have one name, as `p1/ct` and `p2/ct`, the path
    /// below the folder of the dataset, or below `root` for an image outside of that folder, is a part of it.
    fn of(folder: &Folder, root: &Path, images: &[PathBuf], neighbours: &Neighbours) -> Self {
        let name_of = |image: &PathBuf| match neighbours.role(image)? {
            NameRole::Case(case_id) | NameRole::FirstOfSeveral(case_id) => Some(case_id.to_owned()),
            // A further channel that is listed as an image is a case of its own.
            NameRole::Further(_) => stem_of(image).map(str::to_owned),
        };
        let mut places: HashMap<String, HashSet<&Path>> = HashMap::new();
        for image in images {
            if let Some(name) = name_of(image) {
                places.entry(name).or_default().extend(image.parent());
            }
        }
        let full_name = |image: &PathBuf| {
            let name = name_of(image)?;
            let place = image.parent().filter(|_| places[&name].len() > 1);
            let place = place.map_or(Ok(Path::new("")), |place| {
                place.strip_prefix(&folder.path).or_else(|_| place.strip_prefix(root))
            });
            let place = place.ok()?;
            Some((image.clone(), place.join(name).to_string_lossy().replace('\\', "/")))
        };
        Self(images.iter().filter_map(full_name).collect())
    }

    /// Name of the case of an image; `None` for a file that is not named like a volume.
    fn name(&self, image: &Path) -> Option<String> {
        self.0.get(image).cloned()
    }
}

impl Dataset {
    /// Adds a note if several cases have one label map.
    fn note_shared_labels(&mut self) {
        let mut first_of: BTreeMap<&LabelFiles, &str> = BTreeMap::new();
        let mut shared = Vec::new();
        for case in &self.cases {
            let Some(label) = &case.label else { continue };
            if let Some(first) = first_of.insert(label, &case.case_id) {
                shared.push((label.path().to_owned(), [first.to_owned(), case.case_id.clone()]));
            }
        }
        let count = shared.len();
        if let Some((label, cases)) = shared.into_iter().next() {
            self.notes.push(DatasetNote::SharedLabel { label, cases, count });
        }
    }

    /// Adds a note if cases are listed with the label maps of other images by their names, while those of their own names are
    /// listed for others: two lists of files that were sorted differently.
    fn note_crossed_labels(&mut self) {
        let key = |path: &Path| stem_of(path).map(loose_key).filter(|key| !key.is_empty());
        let keys = |case: &CaseFiles| Some([key(&case.image)?, key(case.label.as_ref()?.path())?]);
        let named: Vec<([String; 2], &CaseFiles)> =
            self.cases.iter().filter_map(|case| Some((keys(case)?, case))).collect();
        let [images, labels] = [0usize, 1].map(|of| named.iter().map(|(keys, _)| &keys[of]).collect::<HashSet<_>>());
        let is_crossed = |([image, label], _): &&([String; 2], &CaseFiles)| {
            image != label && images.contains(label) && labels.contains(image)
        };
        let mut crossed = named.iter().filter(is_crossed).map(|(_, case)| *case);
        let Some(CaseFiles { case_id, label: Some(label), .. }) = crossed.next() else { return };
        let (label, case) = (label.path().to_owned(), case_id.clone());
        let note = DatasetNote::CrossedLabels { label, case, count: 1 + crossed.count() };
        self.notes.push(note);
    }

    /// Adds a note if cases are listed for validation or tests as well.
    fn note_other_lists(&mut self, description: &Description) {
        for (list, files) in [("validation", &description.validation), ("test", &description.test)] {
            let mut both = self.cases.iter().filter(|case| files.contains(&case.image));
            if let Some(example) = both.next().map(|case| case.case_id.clone()) {
                let count = 1 + both.count();
                self.notes.push(DatasetNote::AlsoListed { list, example, count });
            }
        }
    }
}

/// Path of a listed image: nnU-Net 1 lists `case.nii.gz` for the file `case_0000.nii.gz`.
fn with_channel(listed: &Path) -> Result<PathBuf, DatasetError> {
    if !exists(listed)?
        && let Some(path) = beside(listed, "_0000")
        && exists(&path)?
    {
        return Ok(path);
    }
    Ok(listed.to_owned())
}

/// Appends a suffix to the stem of a path.
fn beside(path: &Path, suffix: &str) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let stem = file_stem(name)?;
    Some(path.with_file_name(format!("{stem}{suffix}{}", &name[stem.len()..])))
}

fn stem_of(path: &Path) -> Option<&str> {
    file_stem(path.file_name()?.to_str()?)
}

/// Names of the volumes in the folders of listed images.
struct Neighbours(BTreeMap<PathBuf, (ChannelNames, Vec<PathBuf>)>);

impl Neighbours {
    /// Lists the folders of the first images of cases.
    fn of(cases: &[ListedCase], images: &[PathBuf]) -> Result<Self, DatasetError> {
        let mut by_folder: BTreeMap<&Path, Vec<(&Path, Option<&Path>)>> = BTreeMap::new();
        for (case, image) in cases.iter().zip(images) {
            let folder = image.parent().unwrap_or(image);
            by_folder.entry(folder).or_default().push((image.as_path(), case.label.as_deref()));
        }
        let mut neighbours = BTreeMap::new();
        for (folder, listed) in by_folder {
            let mut volumes = volumes_in(folder)?;
            volumes.extend(listed.iter().map(|(image, _)| (*image).to_owned()));
            // A number other than 0000 that is listed is that of a case, as if a label map had it.
            let is_numbered = |stem: &&str| channel(stem).is_some_and(|(_, number)| number > 0);
            let numbered = listed.iter().filter_map(|(image, _)| stem_of(image)).filter(is_numbered);
            let labels = listed.iter().filter_map(|(_, label)| stem_of((*label)?));
            let names = ChannelNames::of(volumes.iter().filter_map(|path| stem_of(path)), labels.chain(numbered));
            neighbours.insert(folder.to_owned(), (names, volumes));
        }
        Ok(Self(neighbours))
    }

    /// Meaning of an image's name; `None` for a file that is not named like a volume.
    fn role<'a>(&self, image: &'a Path) -> Option<NameRole<'a>> {
        let (names, _) = self.0.get(image.parent()?)?;
        Some(names.role(stem_of(image)?))
    }

    /// Files of the further channels of a case next to its first image.
    fn further(&self, image: &Path, case_id: &str) -> Vec<PathBuf> {
        let Some((names, volumes)) = image.parent().and_then(|folder| self.0.get(folder)) else { return Vec::new() };
        let is_further =
            |path: &&PathBuf| stem_of(path).map(|stem| names.role(stem)) == Some(NameRole::Further(case_id));
        volumes.iter().filter(is_further).cloned().collect()
    }
}

/// Lists the volumes directly in a folder; the list is empty if the folder does not exist.
fn volumes_in(folder: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    let unreadable = |source| DatasetError::Unreadable { path: folder.to_owned(), source };
    let entries = match std::fs::read_dir(folder) {
        Err(err) if is_absent(&err) => return Ok(Vec::new()),
        entries => entries.map_err(unreadable)?,
    };
    let mut volumes = Vec::new();
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        if stem_of(&path).is_some() {
            volumes.push(path);
        }
    }
    Ok(volumes)
}

/// Returns true if the name is taken, also by a dangling link.
fn exists(path: &Path) -> Result<bool, DatasetError> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(err) if is_absent(&err) => Ok(false),
        Err(source) => Err(DatasetError::Unreadable { path: path.to_owned(), source }),
    }
}

/// Returns true if nothing is at a path, or nothing can be: a folder in it is a file, or a name is invalid or too long.
fn is_absent(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{InvalidFilename, InvalidInput, NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory | InvalidFilename | InvalidInput)
}
