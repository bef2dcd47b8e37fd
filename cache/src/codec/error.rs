//! Errors of codec parameters and of decoding.

/// Invalid codec parameters, possibly read from a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// Zero bits, or more than the stored type holds.
    #[error("{bits} bits per value; expected 1 to {max}")]
    Bits {
        /// Significant bits of a value.
        bits: u8,
        /// Maximum for the array.
        max: u8,
    },
    /// Invalid number of low bits to pack separately.
    #[error("{raw_bits} raw bits of {bits}; expected 0, or 4 of at least 5")]
    RawBits {
        /// Significant bits of a value.
        bits: u8,
        /// Number of low bits packed separately from the planes.
        raw_bits: u8,
    },
}

/// Bytes that are not a valid chunk of the given codec and shape.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The output buffer does not have the chunk's number of voxels.
    #[error("shape {shape:?} does not have {len} voxels")]
    OutputLength {
        /// Shape of the chunk.
        shape: [usize; 3],
        /// Length of the output buffer.
        len: usize,
    },
    /// The requested part reaches beyond the chunk.
    #[error("part of a chunk that ends at {end:?} reaches beyond its shape")]
    Part {
        /// End of the requested part.
        end: [usize; 3],
    },
    /// zstd cannot decompress the data, or it is longer than a chunk of this shape.
    #[error("invalid zstd data ({0})")]
    Zstd(std::io::Error),
    /// LZ4 cannot decompress the data, or it is longer than a chunk of this shape.
    #[error("invalid LZ4 data ({0})")]
    Lz4(lz4_flex::block::DecompressError),
    /// The decompressed data is shorter than a chunk of this shape.
    #[error("decompresses to {found} bytes; expected {expected}")]
    Length {
        /// Bytes decompressed.
        found: usize,
        /// Bytes of a chunk of this shape.
        expected: usize,
    },
    /// A box header states a width above the value's bits, or a payload longer than the data.
    #[error("a box width is invalid or the data ends early")]
    Boxes,
    /// Data follows the last box.
    #[error("{0} bytes follow the last box")]
    Trailing(usize),
}
