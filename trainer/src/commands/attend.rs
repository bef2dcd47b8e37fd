//! `hiend-train attend --model PATH INPUT --query X,Y,Z --out DIR`.

use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use hiend_loader::program::UsageError;
use hiend_loader::rng::{DrawId, Operation, case_key};
use hiend_loader::scan::Scan;
use rand::RngExt as _;

use super::model::{load_pretrained, sizes};
use super::{outputs, scans};
use crate::cli::{AttendArgs, Layers};
use crate::device::{Compute, keep_kernels, settle_default};
use crate::inference::attention_map::{Heads, crop_tensor, decoder_maps, encoder_maps, mask_hiding};
use crate::model::masking::num_visible;
use crate::model::patch_embed::grid_of;
use crate::model_source::Pretrained;
use crate::report::attention::{AttentionFigure, Layer};

pub(super) fn run(args: &AttendArgs) -> anyhow::Result<ExitCode> {
    outputs::check_folder(&args.scans.out)?;
    keep_kernels(None);
    let compute = Compute::open(args.model.device)?;
    settle_default(&compute)?;
    let loaded = load_pretrained(&args.model.model, sizes(&args.model.sizes)?, &compute)?;
    let model = &loaded.config.model;
    let layers = match &args.layers {
        None => {
            let last = model.depth - 1;
            model.taps.iter().copied().filter(|&tap| tap != last).chain([last]).collect()
        }
        Some(Layers::All) => (0..model.depth).collect(),
        Some(Layers::These(layers)) => layers.clone(),
    };
    for &layer in &layers {
        let message = format!("--layers {layer}: the encoder has {} blocks, counted from 0", model.depth);
        ensure!(layer < model.depth, UsageError::new(message));
    }
    if let Some(head) = args.head {
        for (part, num_heads) in [("encoder", model.num_heads), ("decoder", model.decoder_num_heads)] {
            let message = format!("--head {head}: the {part} has {num_heads} heads, counted from 0");
            ensure!(head < num_heads, UsageError::new(message));
        }
    }
    let num_patches: usize = grid_of(loaded.config.stream.crop_size, model.patch_size).iter().product();
    let message = format!("--mask-ratio {} leaves 0 of {num_patches} patches visible", args.mask_ratio);
    ensure!(num_visible(num_patches, args.mask_ratio) > 0, UsageError::new(message));
    scans::for_each(&args.scans, &loaded, |scan| draw_figures(&loaded, &compute, scan, &layers, args))
}

/// Draws the encoder's and the decoder's attention for the query patch.
fn draw_figures(
    loaded: &Pretrained,
    compute: &Compute,
    scan: &Scan,
    layers: &[usize],
    args: &AttendArgs,
) -> anyhow::Result<()> {
    let (config, size) = (&loaded.config.model, loaded.config.stream.crop_size);
    let patch_size = config.patch_size;
    let grid = grid_of(size, patch_size);
    let voxel = scan.voxel_at(args.query)?;
    // The crop is placed so that the query's patch has the point in its middle, unless the scan's border prevents it.
    let middle_of_patch = grid.map(|patches| patches / 2 * patch_size + patch_size / 2);
    let centre = std::array::from_fn(|axis| (voxel[axis] + size[axis] / 2).saturating_sub(middle_of_patch[axis]));
    let origin = scan.crop_origin(centre, size);
    let through: [usize; 3] =
        std::array::from_fn(|axis| usize::try_from(voxel[axis] as i64 - origin[axis]).unwrap_or(0).min(size[axis] - 1));
    let query: [usize; 3] = std::array::from_fn(|axis| through[axis] / patch_size);
    let query_idx = (query[0] * grid[1] + query[1]) * grid[2] + query[2];
    let heads = args.head.map_or(Heads::Mean, Heads::One);
    let crop = crop_tensor(scan.crop(origin, size), size, compute.raw());
    let failed = || format!("{}: the model failed", scan.name);

    let world = scan.world_of(voxel);
    let over = match heads {
        Heads::Mean => "mean over the heads".to_owned(),
        Heads::One(head) => format!("head {head}"),
    };
    let position = format!(
        "query: the patch of {patch_size} voxels at {:.0}, {:.0}, {:.0} mm (RAS+), outlined in white; {over}; yellow: the crop",
        world[0], world[1], world[2]
    );
    let figure = |what: &str, seen: String, layers: Vec<Layer>| AttentionFigure {
        title: format!("{}: {what}", scan.name),
        lines: vec![position.clone(), seen],
        scan,
        origin,
        size,
        patch_size,
        query,
        through,
        layers,
    };

    let maps = encoder_maps(&loaded.model.encoder, crop.clone(), patch_size, query_idx, heads);
    let maps = maps.with_context(failed)?;
    let columns = layers.iter().map(|&idx| Layer { name: format!("block {idx}"), map: maps[idx].clone() }).collect();
    let seen = "the encoder sees all patches; blocks counted from 0".to_owned();
    scans::write(&figure("encoder self-attention", seen, columns).draw(), &args.scans.out, scan, "encoder")?;

    let num_patches = grid.iter().product();
    let mut rng = DrawId { seed: args.seed, epoch: 0, case: case_key(&scan.name), crop: 0 }.rng(Operation::Mask);
    let noise = (0..num_patches).map(|_| rng.random()).collect();
    let mask = mask_hiding(query_idx, noise, num_visible(num_patches, args.mask_ratio));
    let maps = decoder_maps(&loaded.model, crop, &mask, query_idx, heads);
    let maps = maps.with_context(failed)?;
    // The blocks read the deepest tap first.
    let taps = config.taps.iter().rev();
    let columns =
        maps.into_iter().zip(taps).map(|(map, tap)| Layer { name: format!("reads block {tap}"), map }).collect();
    let seen = format!(
        "the query is hidden, the encoder sees {} of the other {} patches; columns in the decoder's order",
        mask.ids_keep(0).len(),
        num_patches - 1
    );
    scans::write(&figure("decoder cross-attention", seen, columns).draw(), &args.scans.out, scan, "decoder")
}
