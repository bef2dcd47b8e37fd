//! Reasons for not converting a file.

use std::fmt;
use std::path::PathBuf;

use crate::case::shown;
use crate::dataset::content::VolumeContent;

/// A file, or a whole folder, that belongs to no case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnusedFile {
    /// The file or folder.
    pub path: PathBuf,
    /// Reason why no case uses the file.
    pub reason: UnusedReason,
}

/// Reason for not converting a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum UnusedReason {
    /// A hidden file or a folder of the operating system.
    Hidden,
    /// The folder of a cache.
    Cache,
    /// Neither an image nor a label map: a table, a text, a picture.
    NotAVolume,
    /// Raw voxels, which are read through the header that names them.
    RawVoxels,
    /// Raw voxels that no header names.
    RawWithoutHeader,
    /// A file whose name has the ending of a volume, and more behind it.
    BehindEnding {
        /// The ending of a volume in its name.
        ending: &'static str,
    },
    /// A file in a format of scans and other data alike, such as that of `NumPy`'s arrays.
    Arrays {
        /// Name of the format.
        name: &'static str,
    },
    /// A DICOM file whose ending is not one of DICOM.
    DicomByContent,
    /// A DICOM file in a folder named like label maps or like predictions with further words, or below one.
    DicomLabels,
    /// A volume by its first bytes, without the ending of one.
    VolumeByContent(VolumeContent),
    /// Data of the test set, next to a training set that is converted.
    TestData,
    /// A case in a folder for tests, next to a folder for training that is converted.
    TestSet,
    /// Data of the validation set, next to a training set that is converted.
    Validation,
    /// A volume in a folder of predictions of a model.
    Prediction,
    /// A volume named like a prediction of a model for an image.
    PredictedLabels,
    /// A volume in a folder named like predictions of a model, with further words, as cohorts of outcome prediction are.
    InPredictionFolder {
        /// Name of the folder.
        folder: String,
    },
    /// A volume in a folder that nnU-Net wrote.
    NnunetOutput {
        /// Name of that folder.
        folder: String,
    },
    /// A mask of structures that another label map of the case already contains.
    PartOfLabel,
    /// A packed archive.
    Archive,
    /// A file that another path leads to as well.
    SameFile {
        /// Path under which the file is used.
        first: PathBuf,
    },
    /// A link to a folder that contains it.
    LinkLoop {
        /// Path of the folder that the link leads to.
        to: PathBuf,
    },
    /// A volume in a format that is not read.
    Format {
        /// Name of the format.
        name: &'static str,
    },
    /// A DICOM file in the folder of a dataset of another layout.
    DicomInDataset,
    /// A DICOM file that is not a slice of a CT.
    NotCt {
        /// Name of the file's content.
        what: String,
    },
    /// A slice of a DICOM series of another modality than CT.
    NotCtSeries {
        /// The modality, such as `MR`.
        modality: String,
    },
    /// A DICOM file that is not a slice of a scan of any modality.
    NotCrossSection {
        /// Name of the file's content.
        what: String,
    },
    /// A DICOM file that begins with its first element.
    DicomWithoutPreamble,
    /// A DICOM file that cannot be read.
    BadDicom {
        /// Reason why the file cannot be read.
        reason: String,
    },
    /// A name that is not UTF-8 or holds control characters.
    BadName,
    /// A link whose target is missing or cannot be examined.
    DanglingLink,
    /// A FIFO, a socket or a device.
    NotRegular,
    /// An image in `imagesTr` without a channel number at the end of its name.
    NoChannel,
    /// A channel other than the first of a case.
    OtherChannel,
    /// A volume in a subfolder of a folder whose files are read.
    InSubfolder {
        /// Name of the folder whose files are read.
        of: String,
    },
    /// A label map in a folder that is named like an earlier version of the folder of label maps.
    EarlierLabels {
        /// Name of the folder whose label maps are used.
        used: String,
    },
    /// An image in a folder of images without label maps, next to a dataset.
    Unlabelled {
        /// Name of the folder.
        folder: String,
    },
    /// An image that `dataset.json` does not list.
    NotListed,
    /// A label map without an image of the same name.
    LabelWithoutImage,
    /// A volume named like a label map, or in a folder that is, without an image of the same name next to it.
    NamedLikeLabel,
    /// A volume named like a label map, or in a folder that is, outside of the folder of label maps.
    MisplacedLabel {
        /// Name of the folder of label maps.
        expected: String,
    },
    /// A volume named like an image of another modality.
    NamedLikeOtherModality {
        /// Word that marks the other modality.
        word: String,
    },
    /// An image of another modality next to the converted CT of its case.
    OtherModalityOfCase {
        /// Word that marks the other modality.
        word: String,
    },
    /// A label map of an image of another modality next to the CT of its case.
    LabelOfOtherModality {
        /// Word that marks the other modality.
        word: String,
    },
    /// A CT for which the dataset has a copy on the grid of the label map.
    OtherGrid {
        /// Name of the file that is used.
        used: String,
    },
    /// One of several possible label maps of an image.
    AmbiguousLabel,
    /// A label map in one of several folders with label maps for the same images.
    CompetingLabels {
        /// Names of these folders, in a list for people.
        folders: String,
    },
    /// A volume of a dataset within the folder of another one.
    NestedDataset,
    /// A `dataset.json` that cannot be used.
    BadDescription {
        /// Reason why `dataset.json` cannot be used.
        reason: String,
    },
    /// A file named `dataset.json` with capital letters.
    DescriptionName,
    /// A file of a dataset whose `dataset.json` cannot be used.
    Undescribed,
    /// A volume outside the datasets that were found.
    OutsideDatasets,
}

/// Prominence of an unused file in messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// Expected: counted, listed on demand.
    Counted,
    /// Named in the summary.
    Named,
    /// Probably data that was meant to be converted: named, and the run does not count as complete.
    Missed,
}

impl UnusedReason {
    /// Prominence of the reason in messages.
    #[must_use]
    pub fn weight(&self) -> Weight {
        match self {
            Self::Hidden
            | Self::Cache
            | Self::NotAVolume
            | Self::RawVoxels
            | Self::TestData
            | Self::Prediction
            | Self::PartOfLabel
            // The file to name is the `dataset.json` that cannot be used.
            | Self::Undescribed => Weight::Counted,
            Self::Archive
            | Self::Arrays { .. }
            | Self::TestSet
            | Self::Validation
            | Self::SameFile { .. }
            | Self::LinkLoop { .. }
            | Self::OtherModalityOfCase { .. }
            | Self::LabelOfOtherModality { .. }
            | Self::EarlierLabels { .. }
            | Self::OtherGrid { .. }
            | Self::PredictedLabels
            | Self::InPredictionFolder { .. }
            | Self::NnunetOutput { .. }
            | Self::NotCt { .. }
            | Self::NotCtSeries { .. }
            | Self::NotCrossSection { .. } => Weight::Named,
            _ => Weight::Missed,
        }
    }
}

impl fmt::Display for UnusedReason {
    #[expect(clippy::too_many_lines, reason = "one arm for each reason")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hidden => "hidden, or a folder of the system",
            Self::Cache => "a cache of hiend-shard",
            Self::NotAVolume => "not a volume",
            Self::RawVoxels => "raw voxels; read through a .mhd or .nhdr header that names them",
            Self::RawWithoutHeader => "raw voxels that no .mhd or .nhdr header names; the header is missing or cannot be read",
            Self::BehindEnding { ending } => {
                return write!(
                    f,
                    "more behind {ending} in its name: an incomplete download, a copy or packed data; expected a name that \
                     ends in {ending}"
                );
            }
            Self::Arrays { name } => {
                return write!(f, "{name} is not read; a scan in it has to be converted to .nii.gz, with its spacing");
            }
            Self::VolumeByContent(VolumeContent { format, ending }) => {
                return write!(f, "{format} by its content, but not by its name; rename it to end in {ending}");
            }
            Self::DicomLabels => {
                "DICOM in a folder named like label maps or predictions, which are not read from DICOM; rename the folder if it \
                 holds scans"
            }
            Self::DicomByContent => "DICOM by its content, but not by its name; rename it to end in .dcm",
            Self::TestData => "test data next to a training set",
            Self::TestSet => "test data next to training data; converted from a folder of their own only",
            Self::Validation => "validation data next to a training set; converted from a folder of their own only",
            Self::Prediction => "prediction of a model, by its folder",
            Self::PredictedLabels => "prediction of a model, by its name; rename it to CASE_seg to train on it",
            Self::InPredictionFolder { folder } => {
                return write!(f, "prediction of a model, by its folder {folder}; rename the folder if it holds scans");
            }
            Self::NnunetOutput { folder } => {
                return write!(
                    f,
                    "written by nnU-Net ({folder}): a prediction or preprocessed data, not an image; nnUNet_raw has the images"
                );
            }
            Self::PartOfLabel => "mask of a part of the case's label map",
            Self::Archive => "packed archive; unpack it to convert its content",
            Self::SameFile { first } => return write!(f, "the same as {}", shown(first)),
            Self::LinkLoop { to } => return write!(f, "link to {}, which contains it", shown(to)),
            Self::Format { name } => return write!(f, "{name} is not read; convert it to .nii.gz"),
            Self::DicomInDataset if cfg!(feature = "dicom") => {
                "DICOM next to datasets of other formats; convert its folder on its own"
            }
            Self::DicomInDataset => "DICOM is not read by this build (feature dicom); convert it to .nii.gz",
            Self::NotCt { what } => return write!(f, "DICOM {what}, not a CT image; to use it, convert it to .nii.gz"),
            Self::NotCtSeries { modality } => {
                return write!(f, "DICOM of modality {modality}, not a CT image; --normalize zscore converts it");
            }
            Self::NotCrossSection { what } => {
                return write!(
                    f,
                    "DICOM {what}, not an image of a CT, MR, PET or NM series; to use it, convert it to .nii.gz"
                );
            }
            Self::DicomWithoutPreamble => {
                "DICOM without its preamble, by its first bytes; rewrite it, for example with dcmconv"
            }
            Self::BadDicom { reason } | Self::BadDescription { reason } => return f.write_str(reason),
            Self::BadName => "name is not UTF-8 or has control characters; rename it",
            Self::DanglingLink => "link to something that is missing or cannot be accessed",
            Self::NotRegular => "FIFO, socket or device; expected a regular file",
            Self::NoChannel => "no channel number such as _0000 at the end of its name, as nnU-Net expects",
            Self::OtherChannel => {
                "further channel of a case, not its first one (_0000); rename it if its number counts scans"
            }
            Self::InSubfolder { of } => return write!(f, "in a subfolder of {of}; expected directly in {of}"),
            Self::NotListed => "not listed in dataset.json",
            Self::LabelWithoutImage => "label map without an image of the same name",
            Self::NamedLikeLabel => {
                "label map by its name or folder, but no image of the same name next to it, or several of either; put it next to its image, with the \
                 name of the image or of the folder of its DICOM series"
            }
            Self::MisplacedLabel { expected } => {
                return write!(f, "label map by its name or folder, outside of {expected}, where it is expected");
            }
            Self::NamedLikeOtherModality { word } => {
                return write!(f, "`{word}` in its name says that it is not a CT; rename it if it is");
            }
            Self::OtherModalityOfCase { word } => {
                return write!(
                    f,
                    "`{word}` in its name says that it is not a CT, and the CT of its case is used; rename it if it is a CT"
                );
            }
            Self::LabelOfOtherModality { word } => {
                return write!(f, "label map of an image that is not a CT, by `{word}` in its name; the CT of its case is used");
            }
            Self::EarlierLabels { used } => {
                return write!(f, "label map of an earlier version of {used}, by its folder; {used} is used");
            }
            Self::Unlabelled { folder } => {
                return write!(
                    f,
                    "image without a label map, by its folder {folder}, next to a dataset; to use it, convert {folder} on its own"
                );
            }
            Self::OtherGrid { used } => return write!(f, "CT on another grid than the label map; {used} is used"),
            Self::AmbiguousLabel => "one of several label maps of an image; keep one, or one folder of masks a case",
            Self::CompetingLabels { folders } => {
                return write!(
                    f,
                    "label map in one of several folders for the same images ({folders}), of which none is used; keep one of \
                     them next to the images"
                );
            }
            Self::NestedDataset => "in a dataset within the folder of another one; move it out to convert it",
            Self::DescriptionName => "not read, with the names of classes in it; rename it to dataset.json, in small letters",
            Self::Undescribed => "in a dataset whose dataset.json cannot be used",
            Self::OutsideDatasets => "outside the datasets found here; convert its folder on its own",
        })
    }
}

impl fmt::Display for UnusedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", shown(&self.path), self.reason)
    }
}
