//! CT phantoms with eight structures that differ only by their positions, shapes and neighbours.
//!
//! The Hounsfield units of every structure are sampled per case from one range, which is also that of the muscles and
//! bowel loops around them, so intensity alone does not determine a class. The two kidneys have the same texture, and so
//! have the two vessels: only their places distinguish them. Sizes, places, the shape of the body and a smooth deformation
//! differ between cases. Voxels lie on a grid of [`SPACING_MM`] in RAS+ order.

use std::f64::consts::{PI, TAU};
use std::path::Path;

use anyhow::Context as _;
use hiend_loader::volume::{VolumeInfo, write_like};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;
use rayon::prelude::*;

/// Side of a voxel, in mm.
pub(super) const SPACING_MM: f64 = 4.0;

/// Class names by label, background first.
pub(super) const CLASSES: [&str; 9] =
    ["background", "liver", "spleen", "right_kidney", "left_kidney", "aorta", "vena_cava", "stomach", "pancreas"];

/// Range of the mean of every structure, HU.
const TISSUE_HU: [f64; 2] = [40.0, 120.0];
/// Half the width of the triangular noise, in HU: a standard deviation of 12 HU.
const NOISE_HU: f64 = 30.0;
/// Air around the body on each side, mm.
const MARGIN_MM: f64 = 6.0;

/// Writes an nnU-Net dataset of `num_cases` cases `PREFIX_000`, `PREFIX_001` and so on to `dir`, with or without labels.
///
/// # Errors
/// If a file cannot be written; the error names it.
pub(super) fn write_dataset(dir: &Path, prefix: &str, num_cases: usize, seed: u64, labels: bool) -> anyhow::Result<()> {
    for folder in if labels { &["imagesTr", "labelsTr"][..] } else { &["imagesTr"] } {
        let folder = dir.join(folder);
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    }
    (0..num_cases).into_par_iter().try_for_each(|case| -> anyhow::Result<()> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(case as u64));
        let phantom = Phantom::sample(&mut rng);
        let (image, label) = phantom.render(&mut rng);
        let info = phantom.info()?;
        write_like(&dir.join(format!("imagesTr/{prefix}_{case:03}_0000.nii.gz")), &info, &image)?;
        if labels {
            write_like(&dir.join(format!("labelsTr/{prefix}_{case:03}.nii.gz")), &info, &label)?;
        }
        Ok(())
    })?;
    let names: serde_json::Map<String, serde_json::Value> =
        (0..).zip(CLASSES).map(|(value, name): (u64, _)| (name.to_owned(), value.into())).collect();
    let description = serde_json::json!({
        "channel_names": {"0": "CT"},
        "labels": names,
        "numTraining": num_cases,
        "file_ending": ".nii.gz",
    });
    let path = dir.join("dataset.json");
    std::fs::write(&path, format!("{description:#}\n")).with_context(|| path.display().to_string())
}

/// Shape of a structure; lengths in mm, before the deformation.
enum Shape {
    Ellipsoid {
        centre: [f64; 3],
        radius: [f64; 3],
    },
    /// Vessel or muscle along the body, bent sideways.
    Column {
        centre: [f64; 2],
        radius: f64,
        bend: f64,
        phase: f64,
    },
    /// Tube across the body, bent up and forwards in the middle.
    Arch {
        centre: [f64; 3],
        half_length: f64,
        radius: f64,
        rise: f64,
    },
}

impl Shape {
    /// Depth of a point: below 1 inside, 0 in the middle.
    fn depth(&self, [x, y, z]: [f64; 3]) -> f64 {
        match *self {
            Self::Ellipsoid { centre, radius } => {
                let at = [x, y, z];
                (0..3).map(|axis| ((at[axis] - centre[axis]) / radius[axis]).powi(2)).sum::<f64>().sqrt()
            }
            Self::Column { centre, radius, bend, phase } => {
                let sideways = bend * (z / 40.0 + phase).sin();
                (x - centre[0] - sideways).hypot(y - centre[1]) / radius
            }
            Self::Arch { centre, half_length, radius, rise } => {
                let along = (x - centre[0]) / half_length;
                if along.abs() > 1.0 {
                    return f64::INFINITY;
                }
                let bow = rise * (PI * along / 2.0).cos();
                let thickness = radius * (1.0 - 0.4 * along.max(0.0));
                (y - centre[1] - bow).hypot(z - centre[2] - 0.5 * bow) / thickness
            }
        }
    }
}

/// Texture within a structure.
#[derive(Clone, Copy)]
enum Texture {
    /// Waves of this length in mm, with an amplitude of 8 HU.
    Waves(f64),
    /// A core, below half the depth, that differs by this number of HU.
    Core(f64),
}

struct Structure {
    label: u8,
    shape: Shape,
    hu: f64,
    texture: Texture,
}

/// Sampled anatomy of one case.
struct Phantom {
    /// Half the body's width (x), depth (y) and height (z), mm.
    body: [f64; 3],
    shape: [usize; 3],
    /// Deformation: for each axis, waves with amplitude in mm, frequency along each axis in 1/mm, and phase.
    waves: [[(f64, [f64; 3], f64); 3]; 3],
    /// Structures in order; later ones cover earlier ones.
    structures: Vec<Structure>,
    /// Phase of all textures.
    phase: f64,
}

impl Phantom {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "fewer than a hundred voxels")]
    fn sample(rng: &mut ChaCha8Rng) -> Self {
        let mut between = |low: f64, high: f64| low + (high - low) * rng.random::<f64>();
        let body = [between(80.0, 98.0), between(58.0, 70.0), between(80.0, 98.0)];
        let shape = body.map(|half| (2.0 * (half + MARGIN_MM) / SPACING_MM) as usize);
        let waves = [(); 3].map(|()| {
            [(); 3].map(|()| {
                let frequency = [(); 3].map(|()| between(-1.0, 1.0) / 24.0);
                (between(0.5, 2.5), frequency, between(0.0, TAU))
            })
        });
        let structures = structures(body, &mut between);
        Self { body, shape, waves, structures, phase: between(0.0, TAU) }
    }

    fn info(&self) -> anyhow::Result<VolumeInfo> {
        let [x, y, z] = [0, 1, 2].map(|axis| self.world(axis, 0));
        let side = SPACING_MM;
        let affine = [[side, 0.0, 0.0, x], [0.0, side, 0.0, y], [0.0, 0.0, side, z], [0.0, 0.0, 0.0, 1.0]];
        VolumeInfo::new(self.shape, affine).map_err(|fault| anyhow::anyhow!("{fault}"))
    }

    /// World coordinate of a voxel along an axis, mm.
    fn world(&self, axis: usize, voxel: usize) -> f64 {
        SPACING_MM * (voxel as f64 - (self.shape[axis] as f64 - 1.0) / 2.0)
    }

    /// HU and labels, x fastest.
    fn render(&self, rng: &mut ChaCha8Rng) -> (Vec<i16>, Vec<u8>) {
        let [nx, ny, nz] = self.shape;
        let (mut image, mut label) = (Vec::with_capacity(nx * ny * nz), Vec::with_capacity(nx * ny * nz));
        for k in 0..nz {
            for j in 0..ny {
                for i in 0..nx {
                    let (hu, class) = self.tissue([self.world(0, i), self.world(1, j), self.world(2, k)]);
                    let noise = (rng.random::<f64>() + rng.random::<f64>() - 1.0) * NOISE_HU;
                    #[expect(clippy::cast_possible_truncation, reason = "HU of a few hundred")]
                    image.push((hu + noise).max(-1024.0).round() as i16);
                    label.push(class);
                }
            }
        }
        (image, label)
    }

    /// HU and label at a world position, mm.
    fn tissue(&self, world: [f64; 3]) -> (f64, u8) {
        let at: [f64; 3] = std::array::from_fn(|axis| {
            let wave = |&(amplitude, [fx, fy, fz], phase): &(f64, [f64; 3], f64)| {
                amplitude * (fx * world[0] + fy * world[1] + fz * world[2] + phase).sin()
            };
            world[axis] + self.waves[axis].iter().map(wave).sum::<f64>()
        });
        let skin = (at[0] / self.body[0]).hypot(at[1] / self.body[1]);
        if skin >= 1.0 {
            return (-1000.0, 0);
        }
        let ripple = |length: f64| {
            let [x, y, z] = at.map(|v| TAU * v / length + self.phase);
            x.sin() + y.cos() + z.sin()
        };
        // Fat below the skin and between the organs, and a wall of muscle.
        let mut tissue = if (0.86..0.94).contains(&skin) { (60.0, 0) } else { (-100.0 + 4.0 * ripple(30.0), 0) };
        for structure in &self.structures {
            let depth = structure.shape.depth(at);
            if depth < 1.0 {
                let hu = match structure.texture {
                    Texture::Waves(length) => structure.hu + 8.0 * ripple(length),
                    Texture::Core(difference) if depth < 0.55 => structure.hu + difference,
                    Texture::Core(_) => structure.hu,
                };
                tissue = (hu, structure.label);
            }
        }
        tissue
    }
}

/// Structures of a case whose body has the half sizes `a`, `b`, `c`; `between` samples a number from a range.
fn structures([a, b, c]: [f64; 3], between: &mut impl FnMut(f64, f64) -> f64) -> Vec<Structure> {
    let mut list = Vec::new();
    let mut add = |label, shape, hu, texture| list.push(Structure { label, shape, hu, texture });
    // Positions are relative to the body; in RAS+, x grows towards the patient's right, y to the front, z to the head.
    let ellipsoid = |between: &mut dyn FnMut(f64, f64) -> f64, centre: [f64; 3], radius: [f64; 3]| {
        let size = between(0.85, 1.15);
        Shape::Ellipsoid {
            centre: [
                a * (centre[0] + between(-0.05, 0.05)),
                b * (centre[1] + between(-0.06, 0.06)),
                c * (centre[2] + between(-0.12, 0.12)),
            ],
            radius: radius.map(|r| r * size * between(0.85, 1.15)),
        }
    };
    let [low, high] = TISSUE_HU;

    // Neighbours without a label: lungs, spine, muscles next to it, bowel loops.
    for side in [-1.0, 1.0] {
        let shape = ellipsoid(between, [0.45 * side, 0.05, 1.0], [32.0, 42.0, 36.0]);
        add(0, shape, -830.0, Texture::Waves(25.0));
    }
    for _ in 0..14 {
        let centre = [between(-0.65, 0.65), between(-0.1, 0.6), between(-1.0, 0.5)];
        let shape = ellipsoid(between, centre, [14.0, 13.0, 14.0]);
        add(0, shape, between(low, high), Texture::Core(between(-50.0, 50.0)));
    }
    let spine_x = between(-4.0, 4.0);
    let behind = -0.52 * b;
    for side in [-1.0, 1.0] {
        let shape = Shape::Column {
            centre: [spine_x + side * between(21.0, 25.0), behind + 4.0],
            radius: between(9.0, 12.0),
            bend: 2.0,
            phase: 0.0,
        };
        add(0, shape, between(low, high), Texture::Waves(16.0));
    }
    let spine = Shape::Column { centre: [spine_x, behind - 3.0], radius: between(13.0, 16.0), bend: 2.0, phase: 0.0 };
    add(0, spine, between(180.0, 320.0), Texture::Waves(20.0));

    // The eight structures.
    let shape = ellipsoid(between, [0.42, 0.12, 0.35], [40.0, 38.0, 34.0]);
    add(1, shape, between(low, high), Texture::Waves(14.0));
    let shape = ellipsoid(between, [-0.62, -0.2, 0.42], [19.0, 26.0, 27.0]);
    add(2, shape, between(low, high), Texture::Waves(14.0));
    let kidney_hu = between(low, high);
    for (label, x) in [(3, 0.5), (4, -0.5)] {
        let shape = ellipsoid(between, [x, -0.3, -0.35], [18.0, 17.0, 28.0]);
        add(label, shape, kidney_hu, Texture::Core(-45.0));
    }
    let vessel_hu = between(low, high);
    for (label, side) in [(5, -1.0), (6, 1.0)] {
        let shape = Shape::Column {
            centre: [spine_x + side * between(10.0, 13.0), behind + between(20.0, 24.0)],
            radius: between(7.5, 10.0),
            bend: between(0.0, 3.0),
            phase: between(0.0, TAU),
        };
        add(label, shape, vessel_hu, Texture::Waves(30.0));
    }
    let shape = ellipsoid(between, [-0.38, 0.35, 0.3], [26.0, 21.0, 29.0]);
    add(7, shape, between(low, high), Texture::Core(between(-50.0, 50.0)));
    let shape = Shape::Arch {
        centre: [between(-8.0, 8.0), 0.02 * b, c * between(-0.08, 0.08)],
        half_length: between(34.0, 44.0),
        radius: between(9.0, 12.0),
        rise: between(6.0, 14.0),
    };
    add(8, shape, between(low, high), Texture::Waves(8.0));
    list
}
