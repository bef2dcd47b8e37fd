//! Types of stored voxels.

use nifti::NiftiType;

/// Type of a stored voxel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dtype {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F32,
    F64,
}

impl Dtype {
    /// Size of a voxel in bytes.
    pub(super) fn len(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    pub(super) fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F64)
    }

    /// Returns the type for a `NIfTI` data type; `None` for types of several numbers per voxel.
    pub(super) fn of_nifti(kind: NiftiType) -> Option<Self> {
        Some(match kind {
            NiftiType::Uint8 => Self::U8,
            NiftiType::Int8 => Self::I8,
            NiftiType::Uint16 => Self::U16,
            NiftiType::Int16 => Self::I16,
            NiftiType::Uint32 => Self::U32,
            NiftiType::Int32 => Self::I32,
            NiftiType::Uint64 => Self::U64,
            NiftiType::Int64 => Self::I64,
            NiftiType::Float32 => Self::F32,
            NiftiType::Float64 => Self::F64,
            _ => return None,
        })
    }
}

/// Type and byte order of stored voxels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub dtype: Dtype,
    pub is_big_endian: bool,
}
