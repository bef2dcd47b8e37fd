//! Random numbers as a pure function of their purpose, independent of the time and thread of the draw.
//!
//! The identity of a random draw (seed, epoch, case, crop, operation) *is* the 256-bit key of a `ChaCha8` generator, so
//! two different identities never share a key stream and no state is carried from one draw to the next. Therefore
//! batches are the same for any number of threads and ranks, and a position in the stream is one integer.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// Purpose of a random draw. The numbers are part of the stream's definition: never renumber, only append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Operation {
    /// Order of the cases in an epoch.
    Shuffle = 0,
    /// Kind and position of a crop's centre.
    Centre = 1,
    /// Flips along each axis.
    Flip = 2,
    /// Quarter turns in the plane of the first two axes.
    Rotate90 = 3,
    /// Multiplication of the intensities.
    ScaleIntensity = 4,
    /// Shift of the intensities.
    ShiftIntensity = 5,
    /// Order of the caches in a mix.
    Mix = 6,
    /// Rotation and scaling of nnU-Net's chain.
    Spatial = 16,
    /// Additive Gaussian noise.
    GaussianNoise = 17,
    /// Gaussian blur.
    GaussianBlur = 18,
    /// Multiplicative brightness.
    Brightness = 19,
    /// Contrast about the mean.
    Contrast = 20,
    /// Simulated low resolution.
    LowResolution = 21,
    /// Gamma correction of the inverted image.
    GammaInverted = 22,
    /// Gamma correction of the image.
    Gamma = 23,
    /// Mirroring of nnU-Net's chain.
    Mirror = 24,
    /// Mask of the autoencoder, sampled by the trainer from the identity of the crop.
    Mask = 64,
}

/// Identity of a random draw, apart from its [`Operation`]. Equal identities give equal numbers on every machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrawId {
    /// Seed of the run.
    pub seed: u64,
    /// Epoch, from 0.
    pub epoch: u64,
    /// Stable key of the case, see [`case_key`]; 0 if the draw belongs to no case.
    pub case: u64,
    /// Number of the crop within its visit, from 0; 0 if the draw belongs to no crop.
    pub crop: u32,
}

impl DrawId {
    /// Generator for one operation.
    #[must_use]
    pub fn rng(&self, operation: Operation) -> ChaCha8Rng {
        let mut key = [0u8; 32];
        key[0..8].copy_from_slice(&self.seed.to_le_bytes());
        key[8..16].copy_from_slice(&self.epoch.to_le_bytes());
        key[16..24].copy_from_slice(&self.case.to_le_bytes());
        key[24..28].copy_from_slice(&self.crop.to_le_bytes());
        key[28..32].copy_from_slice(&(operation as u32).to_le_bytes());
        ChaCha8Rng::from_seed(key)
    }
}

/// Key of a case in [`DrawId`]: the first eight bytes of the BLAKE3 hash of its name, little-endian.
///
/// It depends only on the name, so adding cases to a cache changes no draw of the others.
#[must_use]
pub fn case_key(name: &str) -> u64 {
    let hash = blake3::hash(name.as_bytes());
    let mut first = [0u8; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_le_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::RngExt as _;

    const ID: DrawId = DrawId { seed: 7, epoch: 3, case: 11, crop: 5 };

    #[test]
    fn every_part_of_the_identity_changes_the_numbers() {
        let first = |id: DrawId, op| id.rng(op).random::<u64>();
        let base = first(ID, Operation::Flip);
        assert_eq!(base, first(ID, Operation::Flip));
        for other in [
            first(DrawId { seed: 8, ..ID }, Operation::Flip),
            first(DrawId { epoch: 4, ..ID }, Operation::Flip),
            first(DrawId { case: 12, ..ID }, Operation::Flip),
            first(DrawId { crop: 6, ..ID }, Operation::Flip),
            first(ID, Operation::Rotate90),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn numbers_and_case_keys_are_frozen() {
        let bytes = blake3::hash(b"Dataset001_BTCV/img0001");
        assert!(bytes.to_hex().starts_with(&format!("{:016x}", case_key("Dataset001_BTCV/img0001").swap_bytes())));
        assert_eq!(ID.rng(Operation::Flip).random::<u64>(), 13_961_836_666_027_733_411);
    }
}
