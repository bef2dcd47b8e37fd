//! Layout of the table of facts that the kernel reads, one row of integers per crop.

/// Fields of a crop in the table of facts. Triples are along x, y, z.
pub(in crate::ops) mod field {
    /// First voxel of the crop's box in the volume, three fields.
    pub(in crate::ops) const BOX_START: u32 = 0;
    /// Shape of the volume in voxels, three fields.
    pub(in crate::ops) const VOLUME: u32 = 3;
    /// Shape of a full chunk in voxels, three fields.
    pub(in crate::ops) const CHUNK: u32 = 6;
    /// Index of the first intersected chunk along each axis, three fields.
    pub(in crate::ops) const FIRST: u32 = 9;
    /// Number of intersected chunks along y and z, two fields.
    pub(in crate::ops) const MET: u32 = 12;
    /// Index, in the table, of the source of the crop's first intersected chunk.
    pub(in crate::ops) const SOURCES: u32 = 14;
    /// Bits defined in [`super::flag`].
    pub(in crate::ops) const FLAGS: u32 = 15;
    /// Stored value of voxels outside the volume.
    pub(in crate::ops) const OUTSIDE: u32 = 16;
    /// Shape of the result in voxels along x, y, z, three fields.
    pub(in crate::ops) const SIZE: u32 = 17;
    /// Index of the crop's first voxel in the result.
    pub(in crate::ops) const TARGET: u32 = 20;
    /// Number of fields.
    pub(in crate::ops) const COUNT: u32 = 21;
}

/// Bits of [`field::FLAGS`].
pub(in crate::ops) mod flag {
    /// The crop's x runs along y of its box, and y along x.
    pub(in crate::ops) const TURNED: i32 = 1;
    /// The crop's x runs backwards.
    pub(in crate::ops) const FLIPPED_X: i32 = 2;
    /// The crop's y runs backwards.
    pub(in crate::ops) const FLIPPED_Y: i32 = 4;
    /// The crop's z runs backwards.
    pub(in crate::ops) const FLIPPED_Z: i32 = 8;
    /// Headers of boxes have four bytes instead of two.
    pub(in crate::ops) const WIDE_HEADERS: i32 = 16;
}
