//! Contradictions within a dataset.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::case::{escape_name, shown};
use crate::plural;

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
        /// Number of its masks.
        count: usize,
        /// Number of classes in the dataset.
        of: usize,
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
            Self::AlsoListed { list, example, count } => write!(
                f,
                "dataset.json lists {} for training and in \"{list}\", such as {example}; converted for training",
                plural::count(*count, "image")
            ),
            Self::BackgroundName { name } => write!(
                f,
                "dataset.json: label 0 is called {name:?}, but it is the background of every label map; classes begin with 1"
            ),
            Self::MissingMasks { example, count, of } => {
                write!(f, "{example} has {count} of {}; missing ones count as background", plural::count(of, "mask"))
            }
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
