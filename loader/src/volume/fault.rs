//! Reasons why a volume's files cannot be used.

/// Reason why a file cannot be used, in one line and, where that helps, with the remedy.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum VolumeFault {
    /// Files that make no CT series.
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
    /// The voxels to write are not as many as the scan has.
    #[error("{message}")]
    VoxelCount {
        /// The two numbers.
        message: String,
    },
    /// A folder, FIFO, socket or device.
    #[error("not a regular file")]
    NotRegular,
    /// A file without content.
    #[error("the file is empty (0 bytes)")]
    Empty,
    /// A file that stands in for a volume: a pointer of version control, a page of a server, an archive.
    #[error("{found}; {remedy}")]
    StandIn {
        /// Kind of file found, with an article.
        found: &'static str,
        /// Advice to the user.
        remedy: &'static str,
    },
    /// Compressed data in compressed data.
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
    /// A file that does not begin as its ending says.
    #[error("not {format} (it does not begin with {magic})")]
    NotFormat {
        /// Name of the format, with an article.
        format: &'static str,
        /// The expected beginning.
        magic: &'static str,
    },
    /// A text header that does not end where one should.
    #[error("header without end in its first {limit} bytes")]
    HeaderEnd {
        /// Largest size of a header, in bytes.
        limit: u64,
    },
    /// A line of a text header that cannot be understood.
    #[error("header line {line}: expected {expected}")]
    HeaderLine {
        /// The line's content, escaped and shortened.
        line: String,
        /// The expected form.
        expected: &'static str,
    },
    /// A field of a text header with a value that cannot be used.
    #[error("header field `{field}` is {value}; expected {expected}")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// The value, escaped and shortened.
        value: String,
        /// The expected values.
        expected: String,
    },
    /// A field that a text header must have.
    #[error("header without the field `{field}`")]
    NoField {
        /// Name of the field.
        field: &'static str,
    },
    /// Voxels in a file that may not be read.
    #[error("voxels in the file {name}; expected one file in the folder of its header")]
    DataElsewhere {
        /// The name, escaped and shortened.
        name: String,
    },
    /// Voxels in a file of their own that is missing, too short or damaged.
    #[error("voxels in the file {name} next to this header: {problem}; copy both files again, or correct the header")]
    DataFile {
        /// Name of that file, escaped and shortened.
        name: String,
        /// The problem with it.
        problem: String,
    },
    /// Voxels in another file, where the ending promises both in one.
    #[error("voxels in the file {name}, which takes a header named .nhdr or .mhd; rename this file")]
    DetachedSingle {
        /// The name, escaped and shortened.
        name: String,
    },
    /// Voxels as text that are not numbers.
    #[error("voxel {number} is {value}; expected a number of the header's type")]
    VoxelText {
        /// Number of the voxel in the file, from 0.
        number: u64,
        /// The text, escaped and shortened.
        value: String,
    },
    /// A number of dimensions outside of the standard.
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
        /// Length of the dimension by the header.
        length: i16,
    },
    /// Several volumes in one file.
    #[error("{rank}-D image of shape {lengths:?}; expected 3-D, split it into its volumes")]
    NotThreeD {
        /// Number of dimensions.
        rank: usize,
        /// Voxels along each.
        lengths: Vec<usize>,
    },
    /// Fewer than three dimensions, or one of no voxel or too many.
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
    /// Voxels that would begin inside the header.
    #[error("invalid vox_offset {offset}; expected a whole number from 352")]
    VoxOffset {
        /// The offset, in bytes.
        offset: f32,
    },
    /// Voxels that would begin behind the end of the file.
    #[error("vox_offset {offset} lies beyond the {len} bytes of the file; copy the file again, or correct the header")]
    VoxOffsetBeyond {
        /// The offset, in bytes.
        offset: u64,
        /// Size of the file, inflated, in bytes.
        len: usize,
    },
    /// A scaling of which one half is valid.
    #[error("valid slope {slope} but invalid intercept {intercept}; correct scl_inter in the header")]
    Intercept {
        /// Slope by the header (`scl_slope`).
        slope: f64,
        /// Intercept by the header (`scl_inter`).
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
    /// A voxel side that is not a length.
    #[error("spacing of {side} mm; the voxels' place in the body is unknown, correct the header")]
    Spacing {
        /// The side, in mm.
        side: f64,
    },
    /// An affine with NaN or infinity.
    #[error("affine with values that are not finite; the voxels' place in the body is unknown, correct the header")]
    AffineNotFinite,
    /// An affine whose axes are linearly dependent.
    #[error("affine whose axes span no volume; the voxels' place in the body is unknown, correct the header")]
    AffineFlat,
    /// Compressed data that ends in the middle.
    #[error("the compressed data ends early; the file was cut short")]
    GzipCut,
    /// Compressed data that is damaged.
    #[error("not valid compressed data ({message})")]
    Gzip {
        /// The inflater's reason.
        message: String,
    },
    /// A size that no address space holds.
    #[error("volume does not fit this machine's memory")]
    AddressSpace,
    /// More voxels than the compressed bytes can hold.
    #[error("header promises {size} bytes, which {compressed} compressed bytes cannot hold")]
    Promise {
        /// Bytes that the header promises.
        size: usize,
        /// Size of the file, in bytes.
        compressed: usize,
    },
    /// Far more bytes than the header promises.
    #[error("more than {limit} bytes follow the {len} that the header promises")]
    Trailing {
        /// Bytes that may follow.
        limit: u64,
        /// Bytes that the header promises.
        len: u64,
    },
    /// Fewer bytes than the header promises.
    #[error(
        "header promises {} x {} x {} voxels, but {missing} of {promised} bytes are missing",
        shape[0], shape[1], shape[2]
    )]
    Missing {
        /// Voxels along each axis.
        shape: [usize; 3],
        /// Bytes that are missing.
        missing: u64,
        /// Bytes that the header promises.
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
        "label value {value} at voxel {},{},{}; label values must be whole numbers from 0 to 255",
        voxel[0], voxel[1], voxel[2]
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
    /// A mask of several values.
    #[error("values {first} and {other} in a mask of one class; expected 0 and one other")]
    MaskValues {
        /// Lowest value but 0.
        first: u8,
        /// Another value.
        other: u8,
    },
    /// A mask on another grid than the other masks.
    #[error("mask on another grid than the other masks of the case")]
    MaskGrid,
}

impl VolumeFault {
    pub(super) fn open(error: &std::io::Error) -> Self {
        Self::Open { message: error.to_string() }
    }

    pub(super) fn read(error: &std::io::Error) -> Self {
        Self::Read { message: error.to_string() }
    }
}
