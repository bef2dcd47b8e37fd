//! `hiend-train reconstruct --model PATH INPUT... --out DIR`.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use hiend_loader::program::{UsageError, count};
use hiend_loader::scan::Scan;

use super::model::{load_pretrained, sizes};
use super::{outputs, print, scans};
use crate::cli::ReconstructArgs;
use crate::device::{Compute, keep_kernels, settle_default};
use crate::inference::reconstruct::Reconstructor;
use crate::report::picture::{View, draw};
use crate::report::sheet::PLANES;

pub(super) fn run(args: &ReconstructArgs) -> anyhow::Result<ExitCode> {
    outputs::check_folder(&args.scans.out)?;
    keep_kernels(None);
    let compute = Compute::open(args.model.device)?;
    settle_default(&compute)?;
    let mut loaded = load_pretrained(&args.model.model, sizes(&args.model.sizes)?, &compute)?;
    if let Some(mask_ratio) = args.mask_ratio {
        let config = &mut loaded.config;
        config.model.mask_ratio = mask_ratio;
        let fault = config.model.validate(config.stream.crop_size);
        fault.map_err(|error| UsageError::new(format!("--mask-ratio {}", error.reason)))?;
    }
    let reconstructor = Reconstructor {
        model: &loaded.model,
        config: &loaded.config.model,
        crop_size: loaded.config.stream.crop_size,
        seed: args.seed,
        device: compute.raw(),
    };
    scans::for_each(&args.scans, &loaded, |scan| {
        let centre = match args.centre {
            Some(point) => scan.voxel_at(point)?,
            None => scan.middle(),
        };
        draw_crop(&reconstructor, scan, centre, args)?;
        if args.crop_only { Ok(()) } else { draw_scan(&reconstructor, scan, centre, args) }
    })
}

/// Draws the crop around a voxel.
fn draw_crop(
    reconstructor: &Reconstructor<'_>,
    scan: &Scan,
    centre: [usize; 3],
    args: &ReconstructArgs,
) -> anyhow::Result<()> {
    let size = reconstructor.crop_size;
    let origin = scan.crop_origin(centre, size);
    let crop = reconstructor.crop(scan, origin, 0).with_context(|| scan.name.clone())?;
    let values = scan.crop(origin, size);
    let through: [usize; 3] = std::array::from_fn(|axis| {
        usize::try_from(centre[axis] as i64 - origin[axis]).unwrap_or(0).min(size[axis] - 1)
    });
    let [_, y, z] = size;
    let view = View {
        title: scan.name.clone(),
        lines: lines(reconstructor, scan, &format!("crop of {}, loss {:.3}", voxels(size), crop.loss)),
        shape: size,
        spacing: scan.geometry.spacing,
        through,
        places: places(scan, centre),
        letters: true,
        units: scan.units,
        original: &|voxel| values[voxel],
        reconstructed: &|voxel| {
            let within = [voxel / (y * z), voxel / z % y, voxel % z];
            crop.is_hidden(within).then(|| crop.value(within))
        },
    };
    print(format_args!("{}: loss {:.4}", scan.name, crop.loss))?;
    scans::write(&draw(&[view]), &args.scans.out, scan, "crop")
}

/// Draws the whole scan in adjacent crops.
fn draw_scan(
    reconstructor: &Reconstructor<'_>,
    scan: &Scan,
    centre: [usize; 3],
    args: &ReconstructArgs,
) -> anyhow::Result<()> {
    let is_watched = std::io::stderr().is_terminal();
    let progress = |done: usize, all: usize| {
        if is_watched {
            let end = if done == all { "\n" } else { "" };
            let _ = write!(std::io::stderr(), "\r{done} of {}{end}", count(all, "crop"));
        }
    };
    let planes = reconstructor.planes(scan, centre, progress).with_context(|| scan.name.clone())?;
    let [_, y, z] = scan.shape;
    let at = |voxel: usize| [voxel / (y * z), voxel / z % y, voxel % z];
    let crops = format!("whole scan, {} in crops of {}", voxels(scan.shape), voxels(reconstructor.crop_size));
    let view = View {
        title: scan.name.clone(),
        lines: lines(reconstructor, scan, &crops),
        shape: scan.shape,
        spacing: scan.geometry.spacing,
        through: centre,
        places: places(scan, centre),
        letters: true,
        units: scan.units,
        original: &|voxel| scan.value(at(voxel).map(|position| position as i64)),
        reconstructed: &|voxel| planes.hidden_value(at(voxel)),
    };
    scans::write(&draw(&[view]), &args.scans.out, scan, "scan")
}

/// Lines of text above a figure.
fn lines(reconstructor: &Reconstructor<'_>, scan: &Scan, what: &str) -> Vec<String> {
    let config = reconstructor.config;
    let spacing = scan.geometry.spacing.map(|side| (side * 100.0).round() / 100.0);
    let hidden = format!(
        "{:.0} % of the patches of {} voxels hidden, seed {}",
        config.mask_ratio * 100.0,
        config.patch_size,
        reconstructor.seed
    );
    vec![
        format!("{what}; {} x {} x {} mm a voxel", spacing[0], spacing[1], spacing[2]),
        format!("{hidden}; each hidden patch has its true mean and contrast, the model adds the shape within it"),
    ]
}

/// Positions of the three planes through a voxel, in mm.
fn places(scan: &Scan, centre: [usize; 3]) -> [String; 3] {
    let world = scan.world_of(centre);
    PLANES.map(|plane| {
        let normal = plane.axes()[0];
        format!("{} {:.0} mm", ["x", "y", "z"][normal], world[normal])
    })
}

fn voxels([x, y, z]: [usize; 3]) -> String {
    format!("{x} x {y} x {z} voxels")
}
