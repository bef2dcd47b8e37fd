//! Tests of fine-tuning on crops with different annotated parts.

use std::collections::BTreeSet;
use std::path::Path;

use hiend_cache::Manifest;
use hiend_loader::batch::PooledBuffer;
use hiend_loader::preprocess::PreprocessConfig;
use hiend_trainer::config::MicroBatch;
use hiend_trainer::config::finetune::{FinetuneConfig, FinetunePreset};
use hiend_trainer::device::Compute;
use hiend_trainer::feed::BatchSource;
use hiend_trainer::finetune::Finetuning;
use hiend_trainer::initial_weights::Init;
use hiend_trainer::testing::SyntheticStream;
use hiend_trainer::training::{Event, Stream, TrainOptions, train};

use crate::ranks::each_rank;

const STREAM: SyntheticStream = SyntheticStream { seed: 3, crop_size: [16; 3], crops: 4, steps_per_epoch: 4 };

/// Number of voxels of a crop.
const VOXELS: usize = 16 * 16 * 16;

/// Largest relative difference of a loss whose sums are in another order.
///
/// The longest sums are those of the cross entropy: 4 · 4096 f32 terms of one sign, in chains of 2048 for the eight lanes of an
/// x86-64-v3 vector. Partial sums grow evenly, so that independent roundings of 2⁻²⁴ leave √(2048 / 3) · 2⁻²⁴ = 1.6e-6 of the
/// sum, and two orders differ by √2 times as much, 2.2e-6. Ten times that covers logits of products that another processor
/// divides otherwise. Measured: 8e-8.
const LOSS_BOUND: f64 = 2e-5;

/// Largest relative difference of a gradient norm whose sums are in another order.
///
/// A rounding in the sums of the loss scales all gradients alike: 2.2e-6, as above. The sums of the gradients have as many
/// terms, of both signs: with a hundredth left of the terms' sizes, 2.2e-4 of each gradient. Independent over more than 10⁴
/// parameters, a hundredth of it lies along the gradient and changes the norm: 2.2e-6 again. Ten times both. Measured: 7e-8.
const NORM_BOUND: f64 = 4e-5;

/// Label used as the ignore label.
const IGNORE: u8 = 3;

/// Label of a voxel: a hundredth of the first crop is annotated, nothing of the last, and all of the others.
fn label(crop: u32, voxel: usize) -> u8 {
    match crop {
        0 if voxel < VOXELS / 100 => 1,
        0 | 3 => IGNORE,
        _ => u8::from(voxel.is_multiple_of(9)),
    }
}

/// Creates a labelled share of the batches.
fn labelled(start: u64, share: (usize, usize)) -> BatchSource {
    Box::new(STREAM.share(start, share).map(|batch| {
        batch.map(|mut batch| {
            let of_crop = |crop: u32| (0..VOXELS).map(move |voxel| label(crop, voxel));
            let labels = batch.crops.iter().flat_map(|record| of_crop(record.crop)).collect();
            batch.labels = Some(PooledBuffer::unpooled(labels));
            batch
        })
    }))
}

fn task(micro_batch: Option<usize>) -> Finetuning {
    let mut config = FinetuneConfig {
        classes: ["background", "liver", "spleen"].map(str::to_owned).to_vec(),
        ignore_label: Some(IGNORE),
        validation: None,
        ..FinetunePreset::Tiny.config()
    };
    config.model.patch_size = 8;
    config.model.embed_dim = 24;
    config.model.depth = 4;
    config.model.taps = [1, 2, 3];
    config.model.num_heads = 2;
    config.model.feature_size = 4;
    config.stream.crop_size = [16; 3];
    config.stream.crops_per_visit = 4;
    // Weights that never change: each loss and each gradient is a function of its own batch, so that no rounding grows.
    config.optim.lr = 0.0;
    config.optim.clip_norm = Some(1.0);
    config.train.micro_batch = micro_batch.map(MicroBatch::Crops);
    let preprocess = serde_json::to_value(PreprocessConfig::default()).unwrap();
    let manifest = Manifest { preprocess, ..Manifest::default() };
    Finetuning::of_servers(config, &manifest, &BTreeSet::new(), Init::Random).unwrap()
}

/// Loss and gradient norm of each of two steps on `ranks` ranks.
fn steps(ranks: usize, micro_batch: Option<usize>) -> Vec<[f64; 2]> {
    let dir = tempfile::tempdir().unwrap();
    let run = |options: &TrainOptions| {
        let stream = Stream { open: Box::new(|start, share| Ok(labelled(start, share))), ..STREAM.stream() };
        let mut steps = Vec::new();
        train(&task(micro_batch), stream, &Compute::cpu(), options, &mut |event| {
            if let Event::Step(record) = event {
                steps.push([record.loss, record.grad_norm.unwrap()]);
            }
        })
        .unwrap();
        steps
    };
    let options = |run_dir: &Path| TrainOptions { max_steps: Some(2), ..TrainOptions::new(run_dir) };
    if ranks == 1 {
        return run(&options(dir.path()));
    }
    // The first rank alone reports steps.
    each_rank(ranks, |group| run(&TrainOptions { group: Some(group), ..options(dir.path()) })).swap_remove(0)
}

#[test]
fn losses_do_not_depend_on_ranks_or_micro_batches() {
    let whole = steps(1, None);
    assert_eq!(whole.len(), 2);
    let one_by_one = steps(1, Some(1));
    for (ranks, micro_batch) in [(1, Some(1)), (1, Some(3)), (2, None), (2, Some(1)), (4, Some(1))] {
        let found = steps(ranks, micro_batch);
        println!("{ranks} ranks, micro-batch {micro_batch:?}: {found:?}, whole batch {whole:?}");
        assert_eq!(found.len(), 2);
        for (found, whole) in found.iter().zip(&whole) {
            // With weights by crops alone, the crop without annotations would take a quarter of the cross entropy away.
            for ((found, whole), bound) in found.iter().zip(whole).zip([LOSS_BOUND, NORM_BOUND]) {
                let difference = (found - whole).abs() / whole;
                assert!(difference < bound, "{ranks} ranks, {micro_batch:?}: {found}, expected {whole}");
            }
        }
        // The same additions in the same order.
        if micro_batch == Some(1) {
            assert_eq!(found, one_by_one, "{ranks} ranks");
        }
    }
}
