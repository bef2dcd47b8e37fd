//! Contenders: stores from which crops are read, measured alternately at the same origins.

pub mod blosc2;
pub mod memory;
pub mod ours;
pub mod zarr;

use crate::clock::{Stopwatch, settle};
use crate::figures::median;
use crate::volume::Voxels;

/// Crop size of the pre-training recipe, in voxels.
pub const CROP_SIZE: [usize; 3] = [96; 3];
/// Number of voxels in a crop.
pub const CROP_LEN: usize = 96 * 96 * 96;
/// Number of crop buffers written in turn: like a batch, too large for a core's caches.
const NUM_SLOTS: usize = 32;
/// Number of crops in a round.
const ROUND: u32 = 16;

/// A store that holds the volume.
pub trait Contender {
    /// Key in the JSON output.
    fn name(&self) -> &'static str;
    /// Description for tables and charts.
    fn label(&self) -> String;
    /// Size of the store in bytes per voxel.
    fn bytes_per_voxel(&self) -> f64;
    /// Reads the crop at `start` into `out`, scaled to [0, 1].
    ///
    /// # Errors
    /// If the store cannot be read.
    fn cut(&mut self, start: [usize; 3], out: &mut [f32]) -> anyhow::Result<()>;
}

/// Crops per second of each round, by wall clock and by CPU time.
#[derive(Clone, Debug, Default)]
pub struct Rates {
    wall: Vec<f64>,
    cpu: Vec<f64>,
}

impl Rates {
    /// Adds a round of `crops` crops.
    pub fn push(&mut self, crops: f64, elapsed: crate::clock::Elapsed) {
        self.wall.push(crops / elapsed.wall_secs);
        self.cpu.push(crops / elapsed.cpu_secs);
    }

    /// Median crops per second of wall-clock time.
    #[must_use]
    pub fn per_s(&self) -> f64 {
        median(&self.wall)
    }

    /// Median crops per second of CPU time.
    #[must_use]
    pub fn per_cpu_s(&self) -> f64 {
        median(&self.cpu)
    }

    /// Crops per second of CPU time in the best round.
    #[must_use]
    pub fn best_per_cpu_s(&self) -> f64 {
        self.cpu.iter().copied().fold(0.0, f64::max)
    }
}

#[expect(clippy::cast_precision_loss, reason = "sizes of one volume")]
fn ratio(bytes: u64, voxels: &Voxels) -> f64 {
    bytes as f64 / voxels.len() as f64
}

/// Crop buffers, written in turn.
pub struct Slots {
    voxels: Vec<f32>,
    next: usize,
}

impl Default for Slots {
    fn default() -> Self {
        // Ones, not zeros: zeroed memory would be mapped at the first write, inside the measurement.
        Self { voxels: vec![1.0; NUM_SLOTS * CROP_LEN], next: 0 }
    }
}

impl Slots {
    fn next(&mut self) -> &mut [f32] {
        let at = self.next * CROP_LEN;
        self.next = (self.next + 1) % NUM_SLOTS;
        &mut self.voxels[at..at + CROP_LEN]
    }
}

/// Measures one round of a contender: the `ROUND` crops from number `ROUND * round`.
///
/// # Errors
/// If the store cannot be read.
pub fn round(
    contender: &mut dyn Contender,
    voxels: &Voxels,
    slots: &mut Slots,
    round: u32,
    rates: &mut Rates,
) -> anyhow::Result<()> {
    // CPU time of the process, not of the thread: `zarrs` passes work to threads of its own.
    settle();
    let watch = Stopwatch::of_process();
    for n in round * ROUND..(round + 1) * ROUND {
        contender.cut(voxels.crop_start(n, CROP_SIZE), slots.next())?;
    }
    rates.push(f64::from(ROUND), watch.elapsed());
    Ok(())
}

/// Checks that a contender's crops equal the volume's.
///
/// # Errors
/// If a crop cannot be read or differs.
pub fn verify(contender: &mut dyn Contender, voxels: &Voxels) -> anyhow::Result<()> {
    let mut crop = vec![0f32; CROP_LEN];
    for n in [0, 1, 77] {
        let start = voxels.crop_start(n, CROP_SIZE);
        contender.cut(start, &mut crop)?;
        let top = voxels.top();
        for (row, values) in crop.chunks_exact(CROP_SIZE[2]).enumerate() {
            let (x, y) = (start[0] + row / CROP_SIZE[1], start[1] + row % CROP_SIZE[1]);
            let at = (x * voxels.shape[1] + y) * voxels.shape[2] + start[2];
            let expected = &voxels.values[at..at + CROP_SIZE[2]];
            let same = values.iter().zip(expected).all(|(v, &s)| (v - f32::from(s) / top).abs() < 1e-5);
            anyhow::ensure!(same, "{}: wrong voxels in row {row} of the crop at {start:?}", contender.name());
        }
    }
    Ok(())
}
