//! Synthetic CT phantoms in nnU-Net layout, for a first run, for tests and for benchmarks.
//!
//! A phantom is a torso of ellipsoids in world coordinates (RAS+ mm) with the HU of their tissues, texture and noise.
//! Size, position, spacing and orientation differ between cases. It resembles a CT closely enough for a masked
//! autoencoder to learn from, and its labels are exact.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use ndarray::{Array3, ShapeBuilder as _};
use nifti::writer::WriterOptions;
use nifti::{NiftiError, NiftiHeader};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;
use rayon::prelude::*;

use crate::stop::Stop;

/// Label names of the phantoms, indexed by label value.
pub const LABELS: [&str; 6] = ["background", "liver", "spleen", "right_kidney", "left_kidney", "spine"];
/// Half the body's width (x), depth (y) and height (z), in mm.
const BODY_MM: [f64; 3] = [125.0, 90.0, 100.0];

/// An ellipsoid of one tissue; centre and radii along x, y, z in mm.
struct Organ {
    label: u8,
    hu: f64,
    centre: [f64; 3],
    radius: [f64; 3],
}

/// Organs of every phantom; later ones cover earlier ones. In RAS+, x grows towards the patient's right.
const ORGANS: [Organ; 9] = [
    Organ { label: 0, hu: 45.0, centre: [0.0, 0.0, 0.0], radius: [112.0, 78.0, 96.0] },
    Organ { label: 0, hu: -830.0, centre: [52.0, 5.0, 82.0], radius: [42.0, 52.0, 44.0] },
    Organ { label: 0, hu: -840.0, centre: [-52.0, 5.0, 82.0], radius: [40.0, 50.0, 44.0] },
    Organ { label: 1, hu: 105.0, centre: [48.0, 12.0, 12.0], radius: [52.0, 48.0, 42.0] },
    Organ { label: 2, hu: 120.0, centre: [-78.0, -18.0, 18.0], radius: [22.0, 30.0, 30.0] },
    Organ { label: 0, hu: 15.0, centre: [-40.0, 30.0, 8.0], radius: [28.0, 26.0, 30.0] },
    Organ { label: 3, hu: 170.0, centre: [48.0, -42.0, -42.0], radius: [20.0, 18.0, 36.0] },
    Organ { label: 4, hu: 165.0, centre: [-50.0, -42.0, -38.0], radius: [20.0, 18.0, 36.0] },
    Organ { label: 5, hu: 330.0, centre: [0.0, -52.0, 0.0], radius: [17.0, 15.0, 110.0] },
];

/// Parameters of a set of phantoms.
#[derive(Clone, Debug)]
pub struct PhantomConfig {
    /// Number of cases.
    pub cases: usize,
    /// Seed of size, position, spacing, orientation and noise.
    pub seed: u64,
    /// Smallest and largest accepted voxel side length, in mm.
    pub spacing_mm: [f64; 2],
}

impl Default for PhantomConfig {
    fn default() -> Self {
        Self { cases: 4, seed: 0, spacing_mm: [1.8, 3.2] }
    }
}

impl PhantomConfig {
    /// Smallest and largest side length of a voxel that is accepted, mm.
    const SIDES_MM: [f64; 2] = [0.5, 10.0];

    /// Checks that there are cases and that their volumes have reasonable sizes.
    ///
    /// # Errors
    /// [`PhantomFault::NoCases`] or [`PhantomFault::Spacing`].
    pub fn validate(&self) -> Result<(), PhantomFault> {
        if self.cases == 0 {
            return Err(PhantomFault::NoCases);
        }
        let ([fine, coarse], [least, most]) = (self.spacing_mm, Self::SIDES_MM);
        // Comparisons with a value that is not a number are false.
        if least <= fine && fine <= coarse && coarse <= most {
            return Ok(());
        }
        Err(PhantomFault::Spacing { fine, coarse, least, most })
    }
}

/// Writes a dataset folder with `imagesTr`, `labelsTr` and `dataset.json`.
///
/// # Errors
/// If the folder holds another dataset, or a file cannot be written; the error names the file.
pub fn write_dataset(dir: &Path, config: &PhantomConfig) -> Result<(), PhantomError> {
    write_dataset_until(dir, config, &Stop::new())
}

/// Writes a dataset folder as [`write_dataset`] does. A request to stop ends it after the cases in progress, without a
/// `dataset.json`; a `dataset.json` of earlier phantoms in the folder is removed first.
///
/// # Errors
/// If the parameters are invalid, the folder holds another dataset or more phantoms, a file cannot be written, or the run was
/// asked to stop; the error names the file or folder.
pub fn write_dataset_until(dir: &Path, config: &PhantomConfig, stop: &Stop) -> Result<(), PhantomError> {
    config.validate().map_err(|reason| PhantomError { path: dir.to_owned(), reason })?;
    check_folder(dir, config.cases)?;
    let description_path = dir.join("dataset.json");
    match std::fs::remove_file(&description_path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(failed(&description_path)(source)),
        _ => {}
    }
    let (images, labels) = (dir.join("imagesTr"), dir.join("labelsTr"));
    for folder in [&images, &labels] {
        std::fs::create_dir_all(folder).map_err(failed(folder))?;
    }
    (0..config.cases).into_par_iter().try_for_each(|case| {
        if stop.is_requested() {
            return Err(PhantomError { path: dir.to_owned(), reason: PhantomFault::Interrupted });
        }
        let mut rng = ChaCha8Rng::seed_from_u64(config.seed.wrapping_mul(1_000_003).wrapping_add(case as u64));
        let phantom = Phantom::draw(&mut rng, config.spacing_mm);
        let (image, label) = phantom.render(&mut rng);
        let header = phantom.header();
        let write =
            |path: PathBuf, result: nifti::Result<()>| result.map_err(|err| PhantomError { path, reason: err.into() });
        let [image_name, label_name] = file_names(case);
        let path = images.join(image_name);
        write(path.clone(), WriterOptions::new(&path).reference_header(&header).write_nifti(&image))?;
        let path = labels.join(label_name);
        write(path.clone(), WriterOptions::new(&path).reference_header(&header).write_nifti(&label))
    })?;
    let description = description(config.cases);
    std::fs::write(&description_path, format!("{description:#}\n")).map_err(failed(&description_path))
}

/// Checks that a folder holds no other dataset: at most phantoms of an earlier call, each of which is written again.
fn check_folder(dir: &Path, cases: usize) -> Result<(), PhantomError> {
    let is_absent = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let other = |path: PathBuf| PhantomError { path, reason: PhantomFault::OtherDataset };
    let path = dir.join("dataset.json");
    match std::fs::read(&path) {
        Ok(text) => {
            let mut earlier = serde_json::from_slice(&text).unwrap_or(serde_json::Value::Null);
            if let Some(number) = earlier.get_mut("numTraining") {
                *number = cases.into();
            }
            if earlier != description(cases) {
                return Err(other(path));
            }
        }
        Err(error) if is_absent(&error) => {}
        Err(error) => return Err(failed(&path)(error)),
    }
    for (folder, kind) in [("imagesTr", 0), ("labelsTr", 1)] {
        let folder = dir.join(folder);
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if is_absent(&error) => continue,
            Err(error) => return Err(failed(&folder)(error)),
        };
        let written: BTreeSet<OsString> = (0..cases).map(|case| file_names(case)[kind].clone().into()).collect();
        for entry in entries {
            let entry = entry.map_err(failed(&folder))?;
            if !written.contains(&entry.file_name()) {
                return Err(other(entry.path()));
            }
        }
    }
    Ok(())
}

/// Names of a phantom's image in `imagesTr` and of its label map in `labelsTr`.
fn file_names(case: usize) -> [String; 2] {
    [format!("phantom_{case:03}_0000.nii.gz"), format!("phantom_{case:03}.nii.gz")]
}

/// Content of `dataset.json`.
fn description(cases: usize) -> serde_json::Value {
    let names: serde_json::Map<String, serde_json::Value> =
        (0..).zip(LABELS).map(|(value, name): (u64, _)| (name.to_owned(), value.into())).collect();
    serde_json::json!({
        "channel_names": {"0": "CT"},
        "labels": names,
        "numTraining": cases,
        "file_ending": ".nii.gz",
    })
}

/// Error of the system for a file or folder.
fn failed(path: &Path) -> impl FnOnce(io::Error) -> PhantomError + use<> {
    let path = path.to_owned();
    move |source| PhantomError { path, reason: source.into() }
}

/// A file of a phantom could not be written.
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot write: {reason}", path.display())]
pub struct PhantomError {
    /// File or folder.
    pub path: PathBuf,
    /// Reason for the failure.
    pub reason: PhantomFault,
}

/// Reason for which phantoms are not written.
#[derive(Debug, thiserror::Error)]
pub enum PhantomFault {
    /// A dataset of no cases.
    #[error("cases: 0; expected at least 1")]
    NoCases,
    /// Side lengths that are not numbers, out of order, or beyond the accepted ones.
    #[error("spacing: ({fine}, {coarse}); expected {least} to {most} mm, the smaller side first")]
    Spacing {
        /// First side length, in mm.
        fine: f64,
        /// Second side length, in mm.
        coarse: f64,
        /// Smallest accepted side length, in mm.
        least: f64,
        /// Largest accepted side length, in mm.
        most: f64,
    },
    /// A file of the folder is not one of the phantoms to be written.
    #[error("the folder holds a dataset other than these phantoms; choose another folder")]
    OtherDataset,
    /// A request to stop.
    #[error("interrupted")]
    Interrupted,
    /// An error of the system.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// An error while a volume was written.
    #[error(transparent)]
    Nifti(#[from] NiftiError),
}

/// Sampled parameters of one case.
struct Phantom {
    /// Scale of the body along x, y, z.
    scale: [f64; 3],
    /// Offset from the table's centre (mm) and HU of each organ.
    variation: [([f64; 3], f64); ORGANS.len()],
    shape: [usize; 3],
    affine: [[f64; 4]; 3],
}

impl Phantom {
    fn draw(rng: &mut ChaCha8Rng, [fine, coarse]: [f64; 2]) -> Self {
        let mut between = |low: f64, high: f64| low + (high - low) * rng.random::<f64>();
        let scale: [f64; 3] = [(); 3].map(|()| between(0.9, 1.1));
        let variation = [(); ORGANS.len()].map(|()| ([(); 3].map(|()| between(-6.0, 6.0)), between(-12.0, 12.0)));
        // Scanners mostly give LPS; here every axis order and direction occurs.
        let order = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 5")]
        let order = order[between(0.0, 6.0) as usize % 6];
        let mut shape = [0; 3];
        let mut affine = [[0.0; 4]; 3];
        for (axis, world) in order.into_iter().enumerate() {
            let side = between(fine, coarse);
            let half = BODY_MM[world] * scale[world] + 14.0;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few hundred voxels")]
            let len = (2.0 * half / side) as usize;
            let sign = if between(0.0, 1.0) < 0.5 { -1.0 } else { 1.0 };
            shape[axis] = len;
            affine[world][axis] = sign * side;
            affine[world][3] = -sign * side * (len as f64 - 1.0) / 2.0;
        }
        Self { scale, variation, shape, affine }
    }

    fn render(&self, rng: &mut ChaCha8Rng) -> (Array3<i16>, Array3<u8>) {
        let mut image = Array3::<i16>::zeros(self.shape.f());
        let mut label = Array3::<u8>::zeros(self.shape.f());
        for ((i, j, k), voxel) in image.indexed_iter_mut() {
            let world: [f64; 3] = std::array::from_fn(|row| {
                let [a, b, c, t] = self.affine[row];
                a * i as f64 + b * j as f64 + c * k as f64 + t
            });
            let (hu, class) = self.tissue(world);
            // The sum of two uniform numbers is triangular noise; 10 HU of standard deviation, like a 5 mm scan's.
            let noise = (rng.random::<f64>() + rng.random::<f64>() - 1.0) * 24.0;
            #[expect(clippy::cast_possible_truncation, reason = "HU of a few hundred")]
            let value = (hu + noise).max(-1024.0).round() as i16;
            *voxel = value;
            label[[i, j, k]] = class;
        }
        (image, label)
    }

    /// HU and label at a world position, mm.
    fn tissue(&self, world: [f64; 3]) -> (f64, u8) {
        let at: [f64; 3] = std::array::from_fn(|axis| world[axis] / self.scale[axis]);
        let inside = |centre: [f64; 3], radius: [f64; 3]| {
            (0..3).map(|axis| ((at[axis] - centre[axis]) / radius[axis]).powi(2)).sum::<f64>() < 1.0
        };
        // The torso extends above and below the field of view.
        if (at[0] / BODY_MM[0]).powi(2) + (at[1] / BODY_MM[1]).powi(2) >= 1.0 {
            return (-1000.0, 0);
        }
        let wave = |period: f64| (at[0] / period).sin() + (at[1] / period).cos() + (at[2] / period).sin();
        let mut tissue = (-105.0 + 4.0 * wave(19.0), 0);
        for (organ, (shift, hu)) in ORGANS.iter().zip(&self.variation) {
            let centre =
                std::array::from_fn(|axis| organ.centre[axis] + if organ.label > 0 { shift[axis] } else { 0.0 });
            if inside(centre, organ.radius) {
                tissue = (organ.hu + hu + 6.0 * wave(7.0), organ.label);
            }
        }
        tissue
    }

    fn header(&self) -> NiftiHeader {
        #[expect(clippy::cast_possible_truncation, reason = "NIfTI stores affines as f32")]
        let row = |row: [f64; 4]| row.map(|value| value as f32);
        let [x, y, z] = self.affine;
        let side = |axis: usize| (0..3).map(|world| self.affine[world][axis].powi(2)).sum::<f64>().sqrt();
        #[expect(clippy::cast_possible_truncation, reason = "NIfTI stores spacings as f32")]
        let pixdim = [1.0, side(0) as f32, side(1) as f32, side(2) as f32, 0.0, 0.0, 0.0, 0.0];
        NiftiHeader {
            pixdim,
            // Only the sform is given; the crate's default claims a qform too, of other directions.
            qform_code: 0,
            sform_code: 1,
            srow_x: row(x),
            srow_y: row(y),
            srow_z: row(z),
            xyzt_units: 2,
            ..NiftiHeader::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preprocess::{PreprocessConfig, preprocess};
    use crate::volume::{read_labels, read_volume};

    #[test]
    fn phantoms_have_all_labels_in_place_and_follow_their_seed() {
        let dir = tempfile::tempdir().unwrap();
        let config = PhantomConfig { cases: 2, seed: 5, spacing_mm: [5.0, 7.0] };
        write_dataset(dir.path(), &config).unwrap();
        let image = read_volume(&dir.path().join("imagesTr/phantom_000_0000.nii.gz")).unwrap();
        let label = read_labels(&dir.path().join("labelsTr/phantom_000.nii.gz")).unwrap();
        let prepared = preprocess(&image, Some(&label), &PreprocessConfig::default()).unwrap();
        let labels = prepared.label.unwrap();
        for class in 0..6 {
            assert!(labels.contains(&class), "{} is missing", LABELS[usize::from(class)]);
        }
        // The liver lies to the right of the spleen, whatever the orientation in the file.
        let mean_x = |class: u8| {
            let [_, ny, nz] = prepared.shape;
            let at: Vec<usize> =
                labels.iter().enumerate().filter(|(_, l)| **l == class).map(|(i, _)| i / (ny * nz)).collect();
            at.iter().sum::<usize>() as f64 / at.len() as f64
        };
        assert!(mean_x(1) > mean_x(2), "RAS: x grows to the right");

        let again = tempfile::tempdir().unwrap();
        write_dataset(again.path(), &config).unwrap();
        let other = read_volume(&again.path().join("imagesTr/phantom_000_0000.nii.gz")).unwrap();
        assert_eq!(image.info.shape, other.info.shape);
    }

    #[test]
    fn request_to_stop_leaves_no_dataset_description() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("dataset.json"), description(2).to_string()).unwrap();
        let stop = Stop::new();
        stop.request();
        let error = write_dataset_until(dir.path(), &PhantomConfig::default(), &stop).unwrap_err();
        assert!(error.to_string().ends_with("cannot write: interrupted"), "{error}");
        assert!(!dir.path().join("dataset.json").exists());
    }

    #[test]
    fn another_dataset_in_the_folder_is_refused_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let write = |cases| write_dataset(dir.path(), &PhantomConfig { cases, seed: 5, spacing_mm: [9.0, 10.0] });
        let refused = |cases, name: &str| {
            let before = std::fs::read(path(name)).unwrap();
            let error = write(cases).unwrap_err().to_string();
            assert!(error.starts_with(&path(name).display().to_string()), "{error}");
            assert!(
                error.ends_with("the folder holds a dataset other than these phantoms; choose another folder"),
                "{error}"
            );
            assert_eq!(std::fs::read(path(name)).unwrap(), before);
        };
        for text in ["{}", "[1]", "of another program", r#"{"channel_names": {"0": "CT"}, "numTraining": 1}"#] {
            std::fs::write(path("dataset.json"), text).unwrap();
            refused(1, "dataset.json");
            assert!(!path("imagesTr").exists());
        }
        std::fs::remove_file(path("dataset.json")).unwrap();
        std::fs::create_dir(path("labelsTr")).unwrap();
        std::fs::write(path("labelsTr/case.nii.gz"), "a label map").unwrap();
        refused(1, "labelsTr/case.nii.gz");
        std::fs::remove_file(path("labelsTr/case.nii.gz")).unwrap();

        write(1).unwrap();
        // The same phantoms again, and more of them.
        write(1).unwrap();
        write(2).unwrap();
        for name in ["imagesTr/phantom_001_0000.nii.gz", "labelsTr/phantom_001.nii.gz"] {
            refused(1, name);
            std::fs::remove_file(path(name)).unwrap();
        }
        assert!(path("dataset.json").exists());
        write(1).unwrap();
    }

    #[test]
    fn unreasonable_parameters_are_refused_before_anything_is_written() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("Dataset001_P");
        let check = |cases, spacing_mm, key: &str| {
            let error = write_dataset(&dir, &PhantomConfig { cases, seed: 0, spacing_mm }).unwrap_err();
            assert!(error.reason.to_string().starts_with(key), "{error}");
            assert!(!dir.exists());
        };
        check(0, [5.0, 6.0], "cases: 0;");
        for spacing_mm in
            [[0.0, 1.0], [-1.0, 2.0], [1e-6, 1.0], [3.0, 2.0], [1.0, 11.0], [f64::NAN, 2.0], [1.0, f64::NAN]]
        {
            check(1, spacing_mm, "spacing: (");
        }
    }
}
