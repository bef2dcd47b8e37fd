//! Unsigned integer types that arrays are stored in.

/// Type of a stored value: `u8` in label maps, `u16` in images.
pub trait Voxel: Copy + Default + Eq + Ord + Send + Sync + 'static + Into<u32> + TryFrom<u32> {
    /// Maximum number of significant bits.
    const BITS: u8;
    /// The value, zero-extended to 16 bits.
    fn to_u16(self) -> u16;
    /// The low bits of `value`; higher bits are discarded.
    fn from_u16(value: u16) -> Self;
    /// Applies [`Self::from_u16`] to eight values.
    fn copy_row(row: &[u16; 8], to: &mut [Self; 8]);
}

impl Voxel for u8 {
    const BITS: u8 = 8;
    fn to_u16(self) -> u16 {
        u16::from(self)
    }
    #[expect(clippy::cast_possible_truncation, reason = "documented: the high bits are cut off")]
    fn from_u16(value: u16) -> Self {
        value as u8
    }
    fn copy_row(row: &[u16; 8], to: &mut [Self; 8]) {
        *to = row.map(Self::from_u16);
    }
}

impl Voxel for u16 {
    const BITS: u8 = 16;
    fn to_u16(self) -> u16 {
        self
    }
    fn from_u16(value: u16) -> Self {
        value
    }
    fn copy_row(row: &[u16; 8], to: &mut [Self; 8]) {
        // Mapping the elements one by one makes the compiler take the vector apart.
        *to = *row;
    }
}
