//! Reasons why a volume's files cannot be used.

/// Reason why a file cannot be used, in one line, with a remedy where there is one.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum VolumeFault {
    /// Files that do not form a usable DICOM series.
    #[cfg(feature = "dicom")]
    #[error(transparent)]
    Dicom(#[from] super::dicom::DicomFault),
    /// The file cannot be opened.
    #[error("cannot open: {message}")]
    Open {
        /// The system's reason.
        message: String,
    },
    /// The file cannot be read.
    #[error("cannot read: {message}")]
    Read {
        /// The system's reason.
        message: String,
    },
    /// The file cannot be written.
    #[error("cannot {action}: {message}")]
    Write {
        /// Operation that failed, as a verb phrase.
        action: &'static str,
        /// The system's reason.
        message: String,
    },
    /// The number of voxels to write differs from that of the scan.
    #[error("{message}")]
    VoxelCount {
        /// Message with both numbers.
        message: String,
    },
    /// A folder, FIFO, socket or device.
    #[error("not a regular file")]
    NotRegular,
    /// A file without content.
    #[error("the file is empty (0 bytes)")]
    Empty,
    /// A file that replaces a volume: a pointer of version control, a server's page, an archive.
    #[error("{found}; {remedy}")]
    StandIn {
        /// Kind of file found, with an article.
        found: &'static str,
        /// Advice to the user.
        remedy: &'static str,
    },
    /// Data compressed twice.
    #[error("compressed with gzip twice; decompress it once, for example with gunzip")]
    GzipTwice,
    /// A file of another format.
    #[error("not a NIfTI-1 file (no header of 348 bytes with magic n+1)")]
    NotNifti,
    /// A file of the second version of the format.
    #[error("a NIfTI-2 file; convert it to NIfTI-1 (for example with nibabel)")]
    Nifti2,
    /// A header whose voxels are in another file.
    #[error("a header of a .hdr/.img pair; convert it to a single .nii.gz")]
    Pair,
    /// A header that cannot be parsed.
    #[error("bad NIfTI header: {message}")]
    Header {
        /// The parser's reason.
        message: String,
    },
    /// A file whose first bytes do not match its extension.
    #[error("not {format} (it does not begin with {magic})")]
    NotFormat {
        /// Name of the format, with an article.
        format: &'static str,
        /// The expected beginning.
        magic: &'static str,
    },
    /// A text header without an end in the first bytes of the file.
    #[error("header does not end within its first {limit} bytes")]
    HeaderEnd {
        /// Largest size of a header, in bytes.
        limit: u64,
    },
    /// A line of a text header that cannot be understood.
    #[error("header line {line}: expected {expected}")]
    HeaderLine {
        /// Content of the line, escaped and shortened.
        line: String,
        /// The expected form.
        expected: &'static str,
    },
    /// A field of a text header with an unusable value.
    #[error("header field `{field}` is {value}; expected {expected}")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// Value, escaped and shortened.
        value: String,
        /// The expected values.
        expected: String,
    },
    /// A field that is missing from a text header.
    #[error("header without the field `{field}`")]
    NoField {
        /// Name of the field.
        field: &'static str,
    },
    /// Voxels in a file at a location that is not allowed.
    #[error("voxels in the file {name}; expected one file in the folder of its header")]
    DataElsewhere {
        /// Name of the file, escaped and shortened.
        name: String,
    },
    /// Voxels in a separate file that is missing, too short or damaged.
    #[error("voxels in the file {name} next to this header: {problem}; copy both files again, or correct the header")]
    DataFile {
        /// Name of the separate file, escaped and shortened.
        name: String,
        /// Problem with the file.
        problem: String,
    },
    /// Voxels in another file, although the extension implies a single file.
    #[error("voxels in the file {name}, which takes a header named .nhdr or .mhd; rename this file")]
    DetachedSingle {
        /// Name of the file, escaped and shortened.
        name: String,
    },
    /// Text voxels that are not numbers.
    #[error("voxel {number} is {value}; expected a number of the header's type")]
    VoxelText {
        /// Number of the voxel in the file, from 0.
        number: u64,
        /// Text of the voxel, escaped and shortened.
        value: String,
    },
    /// A number of dimensions that the standard does not allow.
    #[error("{rank} dimensions; a NIfTI file has 1 to 7")]
    Rank {
        /// Number of dimensions.
        rank: i16,
    },
    /// A negative length.
    #[error("dim[{dimension}] is {length}; expected a length of 1 to 32767")]
    NegativeLength {
        /// Number of the dimension, from 1.
        dimension: usize,
        /// Length of the dimension stated in the header.
        length: i16,
    },
    /// Several volumes in one file.
    #[error("{rank}-D image of shape {lengths:?}; expected 3-D, split it into its volumes")]
    NotThreeD {
        /// Number of dimensions.
        rank: usize,
        /// Number of voxels along each dimension.
        lengths: Vec<usize>,
    },
    /// Fewer than three dimensions, or a dimension with no voxel or too many.
    #[error("image of shape {lengths:?}; expected three lengths of 1 to 32767")]
    Lengths {
        /// Voxels along each dimension.
        lengths: Vec<usize>,
    },
    /// More voxels than any scan has.
    #[error("shape {shape:?} is larger than any scan")]
    TooLarge {
        /// Voxels along each axis.
        shape: [usize; 3],
    },
    /// A data type that the standard does not know.
    #[error("unknown data type {code}")]
    UnknownType {
        /// Code of the type.
        code: i16,
    },
    /// A data type of several numbers per voxel.
    #[error("data type {name}; expected one number per voxel")]
    Type {
        /// Name of the type.
        name: String,
    },
    /// Voxels whose stated offset lies inside the header.
    #[error("invalid vox_offset {offset}; expected a whole number from 352")]
    VoxOffset {
        /// The offset, in bytes.
        offset: f32,
    },
    /// Voxels whose stated offset lies beyond the end of the file.
    #[error("vox_offset {offset} lies beyond the {len} bytes of the file; copy the file again, or correct the header")]
    VoxOffsetBeyond {
        /// The offset, in bytes.
        offset: u64,
        /// Size of the file, inflated, in bytes.
        len: usize,
    },
    /// A scaling whose slope is valid but whose intercept is not.
    #[error("valid slope {slope} but invalid intercept {intercept}; correct scl_inter in the header")]
    Intercept {
        /// Slope stated in the header (`scl_slope`).
        slope: f64,
        /// Intercept stated in the header (`scl_inter`).
        intercept: f64,
    },
    /// A quaternion that does not describe a rotation.
    #[error(
        "impossible quaternion {}, {}, {} (longer than 1); correct the header's qform",
        quaternion[0], quaternion[1], quaternion[2]
    )]
    Quaternion {
        /// Parameters b, c and d of the quaternion.
        quaternion: [f32; 3],
    },
    /// A voxel side that is not a positive length.
    #[error("spacing of {side} mm; the voxels' place in the body is unknown, correct the header")]
    Spacing {
        /// The side, in mm.
        side: f64,
    },
    /// An affine that contains NaN or infinity.
    #[error("affine with values that are not finite; the voxels' place in the body is unknown, correct the header")]
    AffineNotFinite,
    /// An affine whose axes are linearly dependent.
    #[error("affine whose axes span no volume; the voxels' place in the body is unknown, correct the header")]
    AffineFlat,
    /// Compressed data that ends early.
    #[error("the compressed data ends early; the file was cut short")]
    GzipCut,
    /// Compressed data that is damaged.
    #[error("not valid compressed data ({message})")]
    Gzip {
        /// Reason given by the decompressor.
        message: String,
    },
    /// A size that exceeds the address space.
    #[error("volume does not fit this machine's memory")]
    AddressSpace,
    /// More voxels than the compressed bytes can contain.
    #[error("header promises {size} bytes, which {compressed} compressed bytes cannot hold")]
    Promise {
        /// Number of bytes stated in the header.
        size: usize,
        /// Size of the file, in bytes.
        compressed: usize,
    },
    /// Far more bytes than the header states.
    #[error("more than {limit} bytes follow the {len} that the header promises")]
    Trailing {
        /// Number of bytes that may follow the voxels.
        limit: u64,
        /// Number of bytes stated in the header.
        len: u64,
    },
    /// Fewer bytes than the header states.
    #[error(
        "header promises {} x {} x {} voxels, but {missing} of {promised} bytes are missing",
        shape[0], shape[1], shape[2]
    )]
    Missing {
        /// Voxels along each axis.
        shape: [usize; 3],
        /// Bytes that are missing.
        missing: u64,
        /// Number of bytes stated in the header.
        promised: u64,
    },
    /// Voxels of an image that are not numbers.
    #[error("{count} of {all} voxels NaN or infinite; replace them (in a CT by air, -1024 HU)")]
    ImageNotFinite {
        /// Number of such voxels.
        count: usize,
        /// Number of all voxels.
        all: usize,
    },
    /// Voxels of a label map that are not numbers.
    #[error("{count} of {all} voxels NaN or infinite; label values must be whole numbers from 0 to 255")]
    LabelNotFinite {
        /// Number of such voxels.
        count: usize,
        /// Number of all voxels.
        all: usize,
    },
    /// A voxel of a label map whose value is not a label.
    #[error(
        "label value {value} at voxel {},{},{}; label values must be whole numbers from 0 to 255{}",
        voxel[0], voxel[1], voxel[2], remedy(*value)
    )]
    Label {
        /// Value of the voxel.
        value: f32,
        /// Index of the voxel in the file.
        voxel: [usize; 3],
    },
    /// A folder of masks without masks.
    #[error("no masks in this folder")]
    NoMasks,
    /// A mask with several values.
    #[error("values {first} and {other} in a mask of one class; expected 0 and one other")]
    MaskValues {
        /// Lowest value other than 0.
        first: u8,
        /// Another value.
        other: u8,
    },
    /// A mask whose grid differs from that of the other masks.
    #[error("the grid differs from that of the other masks of the case")]
    MaskGrid,
}

/// The end of a message on a value of a label map: the remedy for a value above those of labels.
fn remedy(value: f32) -> &'static str {
    if value > f32::from(u8::MAX) { "; renumber the classes" } else { "" }
}

impl VolumeFault {
    pub(super) fn open(error: &std::io::Error) -> Self {
        Self::Open { message: error.to_string() }
    }

    pub(super) fn read(error: &std::io::Error) -> Self {
        Self::Read { message: error.to_string() }
    }
}
