//! Contradictions within a dataset.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::case::{escape_name, shown};
use crate::plural;

/// Largest number of masks that a note names.
const MOST_NAMED: usize = 5;

/// A contradiction within a dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatasetNote {
    /// `numTraining` of `dataset.json` differs from the cases found.
    Count {
        /// Number of cases claimed.
        claimed: u64,
        /// Number of cases found, skipped ones included.
        found: usize,
    },
    /// Some cases have label maps and others have none.
    Unlabelled {
        /// Number of cases without label map.
        count: usize,
        /// Number of cases.
        of: usize,
        /// Example of a case without label map.
        example: String,
    },
    /// `dataset.json` names classes, and no case has a label map.
    NoLabels {
        /// Number of classes named, or of regions.
        classes: usize,
    },
    /// `dataset.json` names a channel that is not a CT.
    Modality {
        /// Name of the channel in `dataset.json`.
        channel: String,
    },
    /// `dataset.json` names several channels.
    Channels {
        /// The names, by number.
        names: Vec<String>,
    },
    /// `dataset.json` cannot be used: the dataset is left out.
    BadDescription {
        /// Reason why `dataset.json` cannot be used.
        reason: String,
    },
    /// `dataset.json` has a class named like the label that nnU-Net ignores, in another spelling.
    IgnoreSpelling {
        /// Value of the label.
        label: u8,
        /// Name of the class.
        name: String,
    },
    /// Several folders have label maps for the same images: none is used.
    CompetingLabels {
        /// Names of the folders, in a list for people.
        folders: String,
    },
    /// The folder of label maps has words before the name that nnU-Net reads.
    LabelFolder {
        /// Name of the folder.
        used: String,
        /// Name that nnU-Net reads.
        expected: &'static str,
    },
    /// `dataset.json` lists one label map for several images.
    SharedLabel {
        /// The first such label map.
        label: PathBuf,
        /// Two of its cases.
        cases: [String; 2],
        /// Number of cases whose label map is that of another one.
        count: usize,
    },
    /// `dataset.json` lists cases with the label maps of others by their names.
    CrossedLabels {
        /// The label map listed for the first such case.
        label: PathBuf,
        /// That case.
        case: String,
        /// Number of such cases.
        count: usize,
    },
    /// `dataset.json` lists images for training and in another list.
    AlsoListed {
        /// Key of the other list.
        list: &'static str,
        /// Example of such a case.
        example: String,
        /// Number of such cases.
        count: usize,
    },
    /// Label 0 of `dataset.json`, which is the background, has the name of something else.
    BackgroundName {
        /// The name.
        name: String,
    },
    /// A case has fewer masks than there are classes; the missing ones count as background.
    MissingMasks {
        /// The case with the fewest.
        example: String,
        /// Names of the masks that this case lacks.
        missing: Vec<String>,
        /// Number of classes in the dataset.
        of: usize,
        /// Number of cases that lack masks.
        num_lacking: usize,
    },
    /// Cases lie in a folder named like one for tests or validation, next to other cases and to no folder for training.
    ApartByName {
        /// Name of the folder of the first such case.
        folder: String,
        /// Names of such cases.
        cases: Vec<String>,
    },
    /// Label maps are of different organs by their names, and no class has a name.
    LabelKinds {
        /// File names of two such label maps.
        labels: [String; 2],
        /// Cases of these label maps.
        cases: [String; 2],
    },
    /// The folder that was given is that of a dataset's images, with that of its label maps next to it.
    LabelsBeside {
        /// Name of the folder of label maps.
        labels: String,
        /// Folder of the dataset.
        dataset: PathBuf,
    },
    /// No file is in the folder or below it, as in a mount point where nothing is mounted.
    Empty,
    /// A folder of images or label maps of a divided dataset is there but holds nothing.
    EmptyPart {
        /// Name of the folder, from that of the dataset on.
        folder: String,
    },
}

impl DatasetNote {
    /// Note on a folder of images by its name (`imagesTr`, `images`, `img`) with that of their label maps next to it
    /// (`labelsTr`, `labels`, `label`); `None` for other folders.
    pub(super) fn labels_beside(folder: &Path) -> Option<Self> {
        let name = folder.file_name()?.to_str()?;
        let rest = ["image", "img"].into_iter().find_map(|image| name.strip_prefix(image))?;
        let (labels, dataset) = (format!("label{rest}"), folder.parent()?);
        let is_there = std::fs::metadata(dataset.join(&labels)).is_ok_and(|data| data.is_dir());
        is_there.then(|| Self::LabelsBeside { labels, dataset: dataset.to_owned() })
    }
}

impl fmt::Display for DatasetNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count { claimed, found } => {
                write!(f, "dataset.json claims {claimed} training cases (numTraining), {found} are here")
            }
            Self::Unlabelled { count, of, example } => {
                write!(f, "{count} of {} without a label map, such as {example}", plural::count(of, "case"))
            }
            Self::NoLabels { classes } => {
                write!(f, "dataset.json names {}, but no case has a label map", plural::count(classes, "class"))
            }
            Self::Modality { channel } => {
                write!(f, "dataset.json says that the images are `{}`, not CT", escape_name(channel))
            }
            Self::Channels { names } => write!(
                f,
                "dataset.json names {} ({}); only images with one CT channel are read",
                plural::count(names.len(), "channel"),
                escape_name(&names.join(", "))
            ),
            Self::BadDescription { reason } => write!(f, "dataset.json: {reason}; the dataset is left out"),
            Self::IgnoreSpelling { label, name } => write!(
                f,
                "dataset.json: label {label} is called {name:?} and is a class like any other, as in nnU-Net; if its voxels have no \
                 annotation, the name must be \"ignore\""
            ),
            Self::CompetingLabels { folders } => write!(
                f,
                "several folders have label maps for the same images ({folders}), and none is used; keep one of them next to the \
                 images, and move the others out of the data"
            ),
            Self::LabelFolder { used, expected } => write!(
                f,
                "label maps are read from {}, because there is no {expected}; move the folder out of the data if they are others",
                escape_name(used)
            ),
            Self::SharedLabel { label, cases: [first, second], count } => {
                let more = match count.saturating_sub(1) {
                    0 => String::new(),
                    more => format!(", and shares {}", plural::count(more, "further label map")),
                };
                write!(f, "dataset.json lists {} for {first} and for {second}{more}; correct the list", shown(label))
            }
            Self::CrossedLabels { label, case, count } => {
                let more = match count.saturating_sub(1) {
                    0 => String::new(),
                    more => format!(", and so for {}", plural::count(more, "further case")),
                };
                write!(
                    f,
                    "dataset.json lists {} for {case}, and the label map with the name of its image for another case{more}; correct the \
                     list if they are mixed up",
                    shown(label)
                )
            }
            Self::AlsoListed { list, example, count } => write!(
                f,
                "dataset.json lists {} for training and in \"{list}\", such as {example}; converted for training",
                plural::count(*count, "image")
            ),
            Self::BackgroundName { name } => write!(
                f,
                "dataset.json: label 0 is called {name:?}, but it is the background of every label map; classes begin with 1"
            ),
            Self::MissingMasks { example, missing, of, num_lacking } => {
                let (count, masks) = (of - missing.len(), plural::count(of, "mask"));
                write!(f, "{example} has {count} of {masks}, without {}; ", first_of(missing))?;
                match num_lacking - 1 {
                    0 => f.write_str("missing ones count as background"),
                    others => write!(
                        f,
                        "missing ones count as background, also those of {}",
                        plural::count(others, "other case")
                    ),
                }
            }
            Self::ApartByName { folder, cases } => write!(
                f,
                "{} in a folder named like data for tests or validation ({}), next to cases that are not, converted like those; to \
                 keep them apart, exclude them, or move the folder out of the data",
                plural::count(cases.len(), "case"),
                escape_name(folder)
            ),
            Self::LabelKinds { labels: [label, other_label], cases: [case, other_case] } => write!(
                f,
                "label maps may be of different organs by their names, such as {label} of {case} and {other_label} of \
                 {other_case}: the value 1 is one class in all of a dataset; if they are, convert each organ from a folder of its own"
            ),
            Self::LabelsBeside { labels, dataset } => write!(
                f,
                "the images of a dataset, whose label maps in {} are not read; give the folder of both, {}",
                escape_name(labels),
                shown(dataset)
            ),
            Self::Empty => f.write_str("no file in this folder; is its disk mounted?"),
            Self::EmptyPart { folder } => write!(f, "the folder {folder} is empty; is its disk mounted?"),
        }
    }
}

/// Lists names; of many, the first ones and the number of the others.
fn first_of(names: &[String]) -> String {
    match names.split_at_checked(MOST_NAMED) {
        Some((first, others @ [_, ..])) => format!("{} and {} more", first.join(", "), others.len()),
        _ => names.join(", "),
    }
}
