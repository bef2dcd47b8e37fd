//! Synthetic batches without a cache, for tests and for measuring the device alone; a small configuration and names of
//! environment variables, for tests.

use hiend_loader::batch::{Batch, BatchTimes, CropRecord, Images, PooledBuffer};
use hiend_loader::rng::{DrawId, Operation, case_key};
use rand::RngExt as _;

use crate::config::pretrain::{PretrainConfig, PretrainPreset};
use crate::feed::BatchSource;
use crate::training::Stream;

/// Number of different cases named in the crops' records.
const NUM_CASES: usize = 5;

/// Environment variables by which a launcher makes a process a rank. A test that starts ranks removes those of its own
/// environment.
pub const RANK_VARIABLES: [&str; 12] = [
    "HIEND_RENDEZVOUS",
    "HIEND_TOKEN",
    "JOB_COMPLETION_INDEX",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "OMPI_COMM_WORLD_RANK",
    "PMI_RANK",
    "RANK",
    "SLURM_PROCID",
    "WORLD_SIZE",
];

/// Configuration of pre-training whose model and crops are small enough for a test.
#[must_use]
pub fn small_pretraining(patch_size: usize) -> PretrainConfig {
    let mut config = PretrainPreset::Tiny.config();
    config.model.patch_size = patch_size;
    config.model.embed_dim = 24;
    config.model.num_heads = 2;
    config.model.decoder_embed_dim = 12;
    config.model.decoder_num_heads = 2;
    config.stream.crop_size = [16; 3];
    config
}

/// Stream of crops of smooth random waves; a pure function of seed and step, like the loader's stream.
#[derive(Clone, Copy, Debug)]
pub struct SyntheticStream {
    /// Seed of the waves.
    pub seed: u64,
    /// Sides of a crop, voxels.
    pub crop_size: [usize; 3],
    /// Number of crops in a batch.
    pub crops: usize,
    /// Number of steps in an epoch.
    pub steps_per_epoch: u64,
}

impl SyntheticStream {
    /// Converts to the type that training takes.
    #[must_use]
    pub fn stream(self) -> Stream {
        Stream {
            steps_per_epoch: self.steps_per_epoch,
            num_cases: NUM_CASES,
            digest: format!("synthetic-{}", self.seed),
            cases: None,
            ahead: 0,
            open: Box::new(move |start_step, share| Ok(self.share(start_step, share))),
        }
    }

    /// Opens the infinite sequence of batches from `start_step` on.
    #[must_use]
    pub fn open(self, start_step: u64) -> BatchSource {
        Box::new((start_step..).map(move |step| Ok(self.batch(step))))
    }

    /// Opens a rank's share `(rank, num_ranks)` of the batches from `start_step` on.
    ///
    /// # Panics
    /// If the crops cannot be shared evenly.
    #[must_use]
    pub fn share(self, start_step: u64, (rank, num_ranks): (usize, usize)) -> BatchSource {
        assert!(self.crops.is_multiple_of(num_ranks), "{} crops among {num_ranks} ranks", self.crops);
        let size = self.crops / num_ranks;
        let own = rank * size..(rank + 1) * size;
        Box::new((start_step..).map(move |step| {
            let batch = self.batch(step);
            let voxels = self.crop_size.iter().product::<usize>();
            let [_, channels, x, y, z] = batch.shape;
            Ok(Batch {
                shape: [size, channels, x, y, z],
                images: floats(batch.to_floats()[own.start * voxels..own.end * voxels].to_vec()),
                crops: batch.crops[own.clone()].to_vec(),
                ..batch
            })
        }))
    }

    /// Makes the batch of a step.
    #[must_use]
    pub fn batch(&self, step: u64) -> Batch {
        let [x, y, z] = self.crop_size;
        let mut images = Vec::with_capacity(self.crops * x * y * z);
        let mut crops = Vec::with_capacity(self.crops);
        for crop in 0..self.crops {
            let case = format!("synthetic/case{}", (step as usize * self.crops + crop) % NUM_CASES);
            let id = DrawId {
                seed: self.seed,
                epoch: step / self.steps_per_epoch,
                case: case_key(&case),
                crop: crop as u32,
            };
            let mut rng = id.rng(Operation::Centre);
            let waves: [[f32; 4]; 3] = std::array::from_fn(|_| std::array::from_fn(|_| rng.random_range(0.05..0.6)));
            for i in 0..x * y * z {
                let position = [i / (y * z), i / z % y, i % z].map(|v| v as f32);
                let value: f32 = waves
                    .iter()
                    .map(|w| (w[0] * position[0] + w[1] * position[1] + w[2] * position[2] + 10.0 * w[3]).sin())
                    .sum();
                images.push(0.5 + value / 6.0);
            }
            crops.push(CropRecord {
                case_key: case_key(&case),
                case,
                epoch: id.epoch,
                crop: crop as u32,
                origin: [0; 3],
                augmentation: vec![],
            });
        }
        Batch {
            step,
            shape: [self.crops, 1, x, y, z],
            images: floats(images),
            labels: None,
            crops,
            times: BatchTimes::default(),
        }
    }
}

fn floats(values: Vec<f32>) -> Images {
    Images::Floats(PooledBuffer::unpooled(values))
}
