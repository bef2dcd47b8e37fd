//! Tests that one dataset in several formats gives the same voxels at the same positions.

use std::path::{Path, PathBuf};

use hiend_cache::{Cache, VolumeReader};
use hiend_loader::convert::{Conversion, ConvertOptions, changes};
use hiend_loader::dataset;
use hiend_loader::phantom::{PhantomConfig, write_dataset};
use hiend_loader::preprocess::PreprocessConfig;
use hiend_loader::volume::{read_labels, read_volume, write_like};

const CONFIG: PreprocessConfig = PreprocessConfig {
    spacing: Some([6.0; 3]),
    window: [-175.0, 250.0],
    store: hiend_loader::preprocess::window::Store::Window,
    normalize: hiend_loader::preprocess::normalize::Normalize::Hu,
};

/// Name, image, labels and affine of a case.
type Content = (String, Vec<u16>, Option<Vec<u8>>, [[f64; 4]; 4]);

/// Content of every case of a cache.
fn content(cache: &Path) -> Vec<Content> {
    let cache = Cache::open(cache).unwrap();
    let read = |case: &hiend_cache::Case| {
        let volume = case.read_whole(&mut VolumeReader::new()).unwrap();
        (case.record().case_id.clone(), volume.image, volume.label, case.record().geometry.affine)
    };
    cache.cases().iter().map(read).collect()
}

fn convert(data: &Path) -> PathBuf {
    let datasets = dataset::find(data).unwrap();
    let out = data.with_extension("cache");
    let summary = Conversion::new(data, &datasets, &out).config(CONFIG).run().unwrap();
    assert!(summary.skipped.is_empty(), "{:?}", summary.skipped);
    out
}

/// Writes a copy of an nnU-Net dataset with another file extension.
fn copy(from: &Path, to: &Path, ending: &str) {
    for folder in ["imagesTr", "labelsTr"] {
        std::fs::create_dir_all(to.join(folder)).unwrap();
        for entry in std::fs::read_dir(from.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().replace(".nii.gz", ending);
            let target = to.join(folder).join(name);
            if folder == "labelsTr" {
                let label = read_labels(&path).unwrap();
                write_like(&target, &label.info, &label.voxels).unwrap();
            } else {
                let volume = read_volume(&path).unwrap();
                let mut values = vec![0.0; volume.info.shape.iter().product()];
                volume.read_f32(0, &mut values);
                write_like(&target, &volume.info, &values).unwrap();
            }
        }
    }
    let description = std::fs::read_to_string(from.join("dataset.json")).unwrap();
    std::fs::write(to.join("dataset.json"), description.replace(".nii.gz", ending)).unwrap();
}

#[test]
fn a_dataset_has_the_same_shards_in_every_format() {
    let dir = tempfile::tempdir().unwrap();
    let nifti = dir.path().join("Dataset001_Nifti");
    write_dataset(&nifti, &PhantomConfig { cases: 2, seed: 5, spacing_mm: [5.0, 7.0] }).unwrap();
    let expected = content(&convert(&nifti));
    assert!(expected.len() == 2 && expected.iter().all(|case| case.2.is_some()));
    for (name, ending) in [("Dataset002_Nrrd", ".nrrd"), ("Dataset003_Meta", ".mha")] {
        let data = dir.path().join(name);
        copy(&nifti, &data, ending);
        let found = content(&convert(&data));
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found.0, expected.0);
            assert!(found.1 == expected.1 && found.2 == expected.2, "{ending}: other voxels");
            for (a, b) in found.3.as_flattened().iter().zip(expected.3.as_flattened()) {
                assert!((a - b).abs() < 1e-9, "{ending}: {:?}", found.3);
            }
        }
        assert_eq!(found.len(), 2);
    }
}

#[test]
fn a_header_whose_voxels_are_missing_is_skipped_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let header = "ObjectType = Image\nNDims = 3\nDimSize = 8 8 8\nElementType = MET_SHORT\nElementDataFile = a.raw\n";
    std::fs::write(data.join("a.mhd"), header).unwrap();
    let datasets = dataset::find(&data).unwrap();
    let summary = Conversion::new(&data, &datasets, &dir.path().join("cache")).config(CONFIG).run().unwrap();
    let [skipped] = summary.skipped.as_slice() else { panic!("{:?}", summary.skipped) };
    assert_eq!(skipped.path, data.join("a.mhd"));
    assert!(skipped.reason.starts_with("voxels in the file \"a.raw\" next to this header: "), "{}", skipped.reason);
    assert!(skipped.reason.ends_with("copy both files again, or correct the header"), "{}", skipped.reason);
}

#[test]
fn a_change_of_detached_voxels_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let header = "ObjectType = Image\nNDims = 3\nElementSpacing = 6 6 6\nDimSize = 8 8 8\nElementType = MET_SHORT\n\
                  ElementDataFile = a.raw\n";
    std::fs::write(data.join("a.mhd"), header).unwrap();
    // A body with noise, in air.
    let hu = |value: i16, at: i16| if at % 8 < 2 { -1000 } else { value + at * 31 % 41 };
    let voxels = |value: i16| (0..512).flat_map(|at| hu(value, at).to_le_bytes()).collect::<Vec<u8>>();
    let old = std::time::SystemTime::now() - std::time::Duration::from_mins(10);
    let write = |value, modified| {
        std::fs::write(data.join("a.raw"), voxels(value)).unwrap();
        for name in ["a.mhd", "a.raw"] {
            let file = std::fs::File::options().write(true).open(data.join(name)).unwrap();
            file.set_modified(if name == "a.raw" { modified } else { old }).unwrap();
        }
    };
    write(40, old);
    let cache = convert(&data);
    let first = content(&cache);
    let listed = || {
        let datasets = dataset::find(&data).unwrap();
        changes(&data, &datasets, &cache, &CONFIG, &ConvertOptions::default()).unwrap()
    };
    assert_eq!(listed().unchanged, ["data/a"]);
    write(90, old + std::time::Duration::from_mins(1));
    assert_eq!(listed().changed, ["data/a"]);
    convert(&data);
    assert_ne!(content(&cache)[0].1, first[0].1);
    std::fs::remove_file(data.join("a.raw")).unwrap();
    let datasets = dataset::find(&data).unwrap();
    let summary = Conversion::new(&data, &datasets, &cache).config(CONFIG).run().unwrap();
    assert!(summary.skipped[0].to_string().contains("a.raw"), "{:?}", summary.skipped);
}
