use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use hiend_cache::{Manifest, VolumeReader};

use super::*;
use crate::dataset::survey;
use crate::volume::nifti::testing::TestFile;

const SHAPE: [usize; 3] = [12, 10, 8];

/// A body of 40 HU with noise, in air.
fn ct() -> Vec<i16> {
    let [nx, ny, nz] = SHAPE;
    (0..nx * ny * nz)
        .map(|at| {
            let (x, y) = (at % nx, at / nx % ny);
            let noise = i16::try_from(at * 7919 % 41).unwrap() - 20;
            noise + if (2..10).contains(&x) && (2..8).contains(&y) { 40 } else { -1000 }
        })
        .collect()
}

fn image() -> TestFile {
    TestFile::new(SHAPE, &ct())
}

/// A label map or mask with one value in one plane, 0 elsewhere.
fn label(plane: usize, value: u8) -> TestFile {
    let voxels: Vec<u8> =
        (0..SHAPE.iter().product()).map(|at: usize| if at / 120 == plane { value } else { 0 }).collect();
    image().with_u8(&voxels)
}

struct Place(tempfile::TempDir);

impl Place {
    fn new(files: &[(&str, TestFile)]) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        for (path, file) in files {
            place.write(path, file);
        }
        place
    }

    /// Writes a file that was changed an hour ago.
    fn write(&self, path: &str, file: &TestFile) {
        let path = file.write(&self.data().join(path));
        let file = File::options().append(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_hours(1)).unwrap();
    }

    fn data(&self) -> PathBuf {
        self.0.path().join("data")
    }

    fn cache(&self) -> PathBuf {
        self.0.path().join("cache")
    }

    fn convert_with(&self, options: ConvertOptions) -> Result<Summary, ConvertError> {
        let (data, cache) = (self.data(), self.cache());
        let datasets = survey(&data).unwrap().datasets;
        let config = PreprocessConfig { spacing: None, ..PreprocessConfig::default() };
        Conversion::new(&data, &datasets, &cache).config(config).options(options).run()
    }

    fn convert(&self) -> Summary {
        self.convert_with(ConvertOptions::default()).unwrap()
    }

    fn keys(&self) -> Vec<String> {
        Cache::open(self.cache()).unwrap().cases().iter().map(|case| case.key().to_owned()).collect()
    }

    /// Voxels of each label value in a case.
    fn label_counts(&self, key: &str) -> Vec<(u8, usize)> {
        let cache = Cache::open(self.cache()).unwrap();
        let volume = cache.case(key).unwrap().read_whole(&mut VolumeReader::new()).unwrap();
        let label = volume.label.unwrap();
        let count = |value: u8| label.iter().map(|&voxel| usize::from(voxel == value)).sum::<usize>();
        (0..=255).map(|value| (value, count(value))).filter(|(_, count)| *count > 0).collect()
    }
}

/// Voxels of a plane within the body.
const PLANE: usize = 8 * 6;

#[test]
fn totalsegmentator_becomes_labelled_cases_with_class_names() {
    let place = Place::new(&[
        ("s0000/ct.nii.gz", image()),
        ("s0000/segmentations/spleen.nii.gz", label(1, 1)),
        ("s0000/segmentations/liver.nii.gz", label(2, 1)),
        ("s0001/ct.nii.gz", image()),
        ("s0001/segmentations/aorta.nii.gz", label(3, 255)),
    ]);
    let summary = place.convert();
    assert_eq!((summary.converted, summary.with_label), (2, 2));
    assert_eq!(place.keys(), ["data/s0000", "data/s0001"]);
    assert_eq!(place.label_counts("data/s0000"), [(0, 6 * PLANE), (2, PLANE), (3, PLANE)]);
    assert_eq!(place.label_counts("data/s0001"), [(0, 7 * PLANE), (1, PLANE)]);
    let labels = &Manifest::read(place.cache()).unwrap().datasets["data"].labels;
    let names = [(0, "background"), (1, "aorta"), (2, "liver"), (3, "spleen")];
    assert_eq!(*labels, names.map(|(label, name)| (label, name.to_owned())).into());

    assert_eq!(place.convert().unchanged, 2);
    // A class that sorts behind all others keeps their numbers.
    place.write("s0001/segmentations/vertebra.nii.gz", &label(5, 1));
    assert_eq!(place.convert().unchanged, 1);
    assert_eq!(place.label_counts("data/s0000"), [(0, 6 * PLANE), (2, PLANE), (3, PLANE)]);
    assert_eq!(place.label_counts("data/s0001"), [(0, 6 * PLANE), (1, PLANE), (4, PLANE)]);
    // One that sorts before others would renumber them, also in records that this run does not replace.
    place.write("s0001/segmentations/bladder.nii.gz", &label(6, 1));
    let error = place.convert_with(ConvertOptions::default()).unwrap_err();
    assert!(matches!(&error, ConvertError::OtherClasses { class: 2, name, .. } if name == "liver"), "{error}");
    assert_eq!(place.label_counts("data/s0001"), [(0, 6 * PLANE), (1, PLANE), (4, PLANE)]);
}

#[test]
fn masks_that_overlap_are_told_with_the_voxels_that_change_their_class() {
    let place = Place::new(&[
        ("s0000/ct.nii.gz", image()),
        ("s0000/segmentations/liver.nii.gz", label(2, 1)),
        ("s0000/segmentations/spleen.nii.gz", label(2, 1)),
    ]);
    let summary = place.convert();
    // 12 x 10 voxels of a plane.
    let text = "masks overlap: 120 voxels of liver also in spleen; the name that sorts later has the shared voxels, the other \
                class loses them";
    assert_eq!(summary.findings, [Finding { case: "data/s0000".to_owned(), text: text.to_owned() }]);
    assert_eq!(place.label_counts("data/s0000"), [(0, 7 * PLANE), (2, PLANE)]);
    assert_eq!(place.convert().known_findings, summary.findings);
}

#[test]
fn header_oddities_of_label_maps_are_told_where_the_image_has_none() {
    let place = Place::new(&[
        ("imagesTr/a_0000.nii", image()),
        ("labelsTr/a.nii", label(1, 1).qform(1, [0.0; 3], [0.0; 3])),
        ("imagesTr/b_0000.nii", image().qform(1, [0.0; 3], [0.0; 3])),
        ("labelsTr/b.nii", label(1, 1).qform(1, [0.0; 3], [0.0; 3])),
    ]);
    let mut findings = place.convert().findings;
    findings.sort_by(|a, b| a.case.cmp(&b.case));
    assert_eq!(findings.len(), 2, "{findings:?}");
    assert!(findings[0].text.starts_with("label map: sform and qform disagree"), "{findings:?}");
    assert!(findings[1].text.starts_with("sform and qform disagree"), "{findings:?}");
}

#[test]
fn a_file_of_unknown_role_with_the_values_of_a_label_map_is_skipped() {
    let place = Place::new(&[("a.nii", image()), ("liver.nii", label(2, 1))]);
    let summary = place.convert();
    assert_eq!(place.keys(), ["data/a"]);
    assert!(summary.skipped[0].reason.starts_with("a label map by its values"), "{:?}", summary.skipped);
}

#[test]
fn empty_masks_and_single_slices_are_not_passed_over() {
    let slice = TestFile::new([12, 10, 1], &ct()[..120]);
    let place = Place::new(&[("a.nii", image()), ("liver.nii", label(2, 0)), ("slice.nii", slice)]);
    let summary = place.convert();
    assert_eq!(place.keys(), ["data/a", "data/slice"]);
    assert!(summary.skipped[0].reason.starts_with("every voxel is 0: an empty scan or mask"), "{:?}", summary.skipped);
    assert_eq!(summary.findings.len(), 1, "{:?}", summary.findings);
    assert!(summary.findings[0].text.starts_with("a single slice of 12 x 10 x 1 voxels"), "{:?}", summary.findings);
}

#[test]
fn label_maps_off_their_image_are_told() {
    let shifted = |z_mm: f32| {
        let rows = [[-2.0, 0.0, 0.0, 9.0], [0.0, -2.0, 0.0, 7.0], [0.0, 0.0, 2.0, -5.0 + z_mm]];
        label(1, 1).sform(1, &rows)
    };
    let place = Place::new(&[
        ("imagesTr/a_0000.nii", image()),
        ("labelsTr/a.nii", shifted(0.05)),
        ("imagesTr/b_0000.nii", image()),
        ("labelsTr/b.nii", shifted(0.5)),
        ("imagesTr/c_0000.nii", image()),
        ("labelsTr/c.nii", shifted(2.5)),
    ]);
    let datasets = survey(&place.data()).unwrap().datasets;
    let config = PreprocessConfig { spacing: None, ..PreprocessConfig::default() };
    let planned = crate::plan::plan(&place.data(), &datasets, &config, &ConvertOptions::default(), Duration::ZERO);
    let summary = place.convert();
    let text = "label map lies 0.50 mm (0.25 voxels) off its image by their headers; taken voxel by voxel".to_owned();
    assert_eq!(summary.findings, [Finding { case: "data/b".to_owned(), text }]);
    assert_eq!(planned.findings, summary.findings);
    assert!(
        summary.skipped[0].reason.starts_with("label lies 2.50 mm (1.25 voxels) off its image"),
        "{:?}",
        summary.skipped
    );
    assert_eq!(place.label_counts("data/b"), place.label_counts("data/a"));
}

fn offset() -> TestFile {
    let values: Vec<i16> = ct().into_iter().map(|hu| (hu + 1024).max(0)).collect();
    TestFile::new(SHAPE, &values)
}

#[test]
fn suspicious_cases_are_told_skipped_or_refused() {
    let place = Place::new(&[("imagesTr/a_0000.nii", offset()), ("imagesTr/b_0000.nii", image())]);
    let with = |on_suspect| place.convert_with(ConvertOptions { on_suspect, jobs: 1, ..ConvertOptions::default() });
    let error = with(OnSuspect::Fail).unwrap_err().to_string();
    assert!(error.starts_with("data/a: values 4 to 1084,") && error.contains("HU with an offset"), "{error}");
    let summary = with(OnSuspect::Skip).unwrap();
    assert_eq!((summary.converted, summary.skipped.len()), (1, 1));
    let summary = with(OnSuspect::Warn).unwrap();
    assert_eq!((summary.converted, summary.findings.len()), (1, 1));
    let cache = Cache::open(place.cache()).unwrap();
    let values = |key| cache.case(key).unwrap().record().values.clone().unwrap();
    assert_eq!(values("data/a").findings, [summary.findings[0].text.clone()]);
    let plausible = values("data/b");
    assert_eq!((plausible.min, plausible.max, plausible.air), (-1020.0, 60.0, 0.6));
    assert!(plausible.findings.is_empty());
}

#[test]
fn datasets_of_another_modality_are_reported_skipped_or_refused() {
    let place = Place::new(&[("imagesTr/a_0000.nii", image())]);
    let description = r#"{ "channel_names": { "0": "MRI" }, "labels": { "background": 0 } }"#;
    std::fs::write(place.data().join("dataset.json"), description).unwrap();
    let with = |on_suspect| place.convert_with(ConvertOptions { on_suspect, ..ConvertOptions::default() });
    let error = with(OnSuspect::Fail).unwrap_err().to_string();
    assert!(error.starts_with("data/a: dataset.json says that the images are `MRI`, not CT"), "{error}");
    let summary = with(OnSuspect::Skip).unwrap();
    assert_eq!((summary.converted, summary.skipped.len()), (0, 1));
    assert_eq!(with(OnSuspect::Warn).unwrap().converted, 1);
    // Stored cases stay.
    for on_suspect in [OnSuspect::Skip, OnSuspect::Fail] {
        assert_eq!(with(on_suspect).unwrap().unchanged, 1);
    }
}

#[test]
fn header_oddities_are_told() {
    let place = Place::new(&[("imagesTr/a_0000.nii", image().qform(1, [0.0; 3], [0.0; 3]))]);
    let summary = place.convert();
    assert!(summary.findings[0].text.starts_with("sform and qform disagree"), "{:?}", summary.findings);
}

#[test]
fn lost_label_maps_supersede_nothing() {
    let place = Place::new(&[("imagesTr/a_0000.nii", image()), ("labelsTr/a.nii", label(1, 1))]);
    place.convert();
    let expected = place.label_counts("data/a");
    // As if the disk of the labels were not mounted.
    std::fs::remove_file(place.data().join("labelsTr/a.nii")).unwrap();
    let summary = place.convert();
    assert!(summary.skipped[0].reason.contains("no label map is left in its dataset"), "{:?}", summary.skipped);
    assert_eq!(place.label_counts("data/a"), expected);
    // A dataset that still has others lost this one on purpose.
    place.write("imagesTr/b_0000.nii", &image());
    place.write("labelsTr/b.nii", &label(1, 1));
    assert_eq!(place.convert().converted, 2);
}

#[cfg(unix)]
#[test]
fn a_label_that_cannot_be_seen_supersedes_nothing() {
    let place = Place::new(&[("imagesTr/a_0000.nii", image()), ("labelsTr/a.nii", label(1, 1))]);
    place.convert();
    let expected = place.label_counts("data/a");
    let path = place.data().join("labelsTr/a.nii");
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/gone/a.nii", &path).unwrap();
    let summary = place.convert();
    assert!(summary.skipped[0].reason.starts_with("cannot access this file"), "{:?}", summary.skipped);
    assert_eq!(place.label_counts("data/a"), expected);
}

#[test]
fn lost_case_does_not_return_to_an_older_record() {
    let place = Place::new(&[("imagesTr/a_0000.nii", image()), ("imagesTr/b_0000.nii", image())]);
    place.convert();
    place.write("imagesTr/a_0000.nii", &image().scaling(1.0, 5.0));
    place.convert();
    std::fs::remove_file(place.data().join("imagesTr/a_0000.nii")).unwrap();
    std::fs::remove_file(place.cache().join("g0002-w000-0000.shard")).unwrap();
    let error = place.convert_with(ConvertOptions::default()).unwrap_err();
    assert!(matches!(&error, ConvertError::LostCases { count: 1, example, .. } if example == "data/a"), "{error}");
    let options = ConvertOptions { forget_lost: true, ..ConvertOptions::default() };
    assert_eq!(place.convert_with(options).unwrap().not_in_data, 1);
}

#[test]
fn a_scan_of_two_names_is_told() {
    let place = Place::new(&[("a.nii", image()), ("b.nii", image().scaling(1.0, 5.0))]);
    assert!(place.convert().twice.is_empty());
    std::fs::rename(place.data().join("a.nii"), place.data().join("c.nii")).unwrap();
    let summary = place.convert();
    assert_eq!(summary.twice, [["data/a".to_owned(), "data/c".to_owned()]]);
    let options = ConvertOptions { prune: true, ..ConvertOptions::default() };
    assert!(place.convert_with(options).unwrap().twice.is_empty());
    assert_eq!(place.keys(), ["data/b", "data/c"]);
}

#[test]
fn nothing_of_a_dataset_without_a_usable_description_is_pruned() {
    // The description of the dataset, and that of a folder that only groups datasets.
    for (dataset, described) in [("Dataset002_B", "Dataset002_B"), ("group/Dataset002_B", "group")] {
        let other = format!("{dataset}/imagesTr/b_0000.nii");
        let place =
            Place::new(&[("Dataset001_A/imagesTr/a_0000.nii", image()), (other.as_str(), image().scaling(1.0, 5.0))]);
        place.convert();
        std::fs::write(place.data().join(described).join("dataset.json"), "[]").unwrap();
        let is_left_out = dataset == described;
        assert_eq!(place.convert().not_in_data, usize::from(is_left_out));
        let pruned = place.convert_with(ConvertOptions { prune: true, ..ConvertOptions::default() });
        if is_left_out {
            let error = pruned.unwrap_err();
            let is_told =
                matches!(&error, ConvertError::Vacant { count: 1, example, .. } if example == "Dataset002_B/b");
            assert!(is_told, "{error}");
        } else {
            assert_eq!(pruned.unwrap().unchanged, 2);
        }
        assert_eq!(place.keys(), ["Dataset001_A/a", "Dataset002_B/b"]);
    }
}

#[test]
fn nothing_is_pruned_below_an_empty_folder() {
    let place = Place::new(&[
        ("Dataset001_A/imagesTr/a_0000.nii", image()),
        ("Dataset002_B/imagesTr/b_0000.nii", image()),
        ("Dataset002_B/imagesTr/c_0000.nii", image()),
    ]);
    place.convert();
    let keys = place.keys();
    let prune = || place.convert_with(ConvertOptions { prune: true, ..ConvertOptions::default() });
    let folder = place.data().join("Dataset002_B");
    std::fs::remove_dir_all(folder.join("imagesTr")).unwrap();
    let error = prune().unwrap_err().to_string();
    assert!(error.contains("2 cases of the cache, such as Dataset002_B/b"), "{error}");
    assert_eq!(place.keys(), keys);
    std::fs::create_dir(folder.join("imagesTr")).unwrap();
    assert!(matches!(prune(), Err(ConvertError::Vacant { count: 2, .. })));
    // A folder that is gone is gone on purpose.
    std::fs::remove_dir_all(folder).unwrap();
    assert_eq!(prune().unwrap().pruned.unwrap().cases, 2);
    assert_eq!(place.keys(), ["Dataset001_A/a"]);
}

#[test]
fn a_second_run_waits_for_the_first_and_does_nothing() {
    let place = Place::new(&[]);
    for case in 0..6 {
        place.write(&format!("imagesTr/{case}_0000.nii"), &image());
    }
    let summaries: Vec<Summary> = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..2).map(|_| scope.spawn(|| place.convert())).collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    assert_eq!(summaries.iter().map(|summary| summary.converted).sum::<usize>(), 6);
    assert_eq!(summaries.iter().map(|summary| summary.unchanged).sum::<usize>(), 6);
}

#[test]
fn regions_and_the_ignore_label_reach_the_manifest() {
    let place = Place::new(&[("imagesTr/a_0000.nii", image())]);
    let json = r#"{"labels": {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}, "file_ending": ".nii"}"#;
    std::fs::write(place.data().join("dataset.json"), json).unwrap();
    place.convert();
    let info = Manifest::read(place.cache()).unwrap().datasets["data"].clone();
    assert_eq!(info.regions, [("whole".to_owned(), vec![1, 2])].into());
    assert_eq!((info.ignore, info.labels.len()), (Some(3), 3));
}

#[test]
fn classes_that_no_label_map_has_are_told_once_all_cases_are_there() {
    let place = Place::new(&[("imagesTr/a_0000.nii", image()), ("labelsTr/a.nii", label(1, 1))]);
    let json = r#"{"labels": {"background": 0, "liver": 1, "spleen": 2, "ignore": 9}, "file_ending": ".nii"}"#;
    std::fs::write(place.data().join("dataset.json"), json).unwrap();
    let expected = UnseenClasses { dataset: "data".into(), classes: vec![(2, "spleen".into())], num_labelled: 1 };
    let text = "data: class 2 (spleen) of dataset.json has no voxel in its 1 labelled case; check whether dataset.json gives it \
                the number that the label maps use, and whether label maps are missing";
    let several = UnseenClasses { classes: vec![(2, "spleen".into()), (3, "aorta".into())], ..expected.clone() };
    assert!(
        several.to_string().starts_with("data: classes 2 (spleen), 3 (aorta) of dataset.json have no voxel in its 1 ")
    );
    // By later runs too.
    for summary in [place.convert(), place.convert()] {
        assert_eq!(summary.unseen, std::slice::from_ref(&expected));
        assert_eq!(summary.unseen[0].to_string(), text);
    }
    // The other worker's case may have it.
    place.write("imagesTr/b_0000.nii", &image().scaling(1.0, 5.0));
    place.write("labelsTr/b.nii", &label(1, 2));
    let shares = [0, 1]
        .map(|worker| place.convert_with(ConvertOptions { worker: (worker, 2), ..ConvertOptions::default() }).unwrap());
    assert_eq!(shares.each_ref().map(|summary| summary.unseen.len()), [0, 0]);
}

#[test]
fn names_of_classes_are_there_before_the_first_case_and_stay_until_cases_are_pruned() {
    let names = |place: &Place, dataset: &str| {
        let manifest = Manifest::read(place.cache()).unwrap();
        manifest.datasets.get(dataset).map(|info| info.labels[&1].clone())
    };
    let add = |place: &Place, dataset: &str, case: &str, class: &str| {
        place.write(
            &format!("{dataset}/imagesTr/{case}_0000.nii"),
            &image().scaling(1.0, f32::from(case.as_bytes()[0])),
        );
        place.write(&format!("{dataset}/labelsTr/{case}.nii"), &label(1, 1));
        let json = format!(r#"{{"labels": {{"background": 0, "{class}": 1}}, "file_ending": ".nii"}}"#);
        std::fs::write(place.data().join(dataset).join("dataset.json"), json).unwrap();
    };
    // The names of the dataset `D` when the first case is converted.
    let first = |place: &Place, prune| {
        let mut found = None;
        let datasets = survey(&place.data()).unwrap().datasets;
        let config = PreprocessConfig { spacing: None, ..PreprocessConfig::default() };
        let options = ConvertOptions { prune, ..ConvertOptions::default() };
        let (data, cache) = (place.data(), place.cache());
        let conversion = Conversion::new(&data, &datasets, &cache).config(config).options(options);
        let look = |_: Event<'_>| {
            found.get_or_insert_with(|| names(place, "D"));
        };
        conversion.observe(look).run().unwrap();
        found.unwrap()
    };
    let place = Place::new(&[]);
    add(&place, "C", "a", "aorta");
    place.convert();
    add(&place, "D", "b", "liver");
    assert_eq!(first(&place, false).as_deref(), Some("liver"));

    // Another dataset of this name replaces the first one, whose cases are still there while it is converted.
    std::fs::remove_dir_all(place.data().join("D")).unwrap();
    add(&place, "D", "c", "spleen");
    assert_eq!(first(&place, true).as_deref(), Some("liver"));
    assert_eq!(
        (names(&place, "D").as_deref(), place.keys()),
        (Some("spleen"), vec!["C/a".to_owned(), "D/c".to_owned()])
    );
}

#[test]
fn another_dataset_of_the_same_name_is_refused_unless_it_has_the_same_classes() {
    let describe = |place: &Place, class: &str| {
        let json = format!(r#"{{"labels": {{"background": 0, "{class}": 1}}, "file_ending": ".nii"}}"#);
        std::fs::write(place.data().join("D/dataset.json"), json).unwrap();
    };
    let class = |place: &Place| Manifest::read(place.cache()).unwrap().datasets["D"].labels[&1].clone();
    let place = Place::new(&[("D/imagesTr/a_0000.nii", image()), ("D/labelsTr/a.nii", label(1, 1))]);
    describe(&place, "liver");
    place.convert();
    let before = std::fs::read(place.cache().join("manifest.json")).unwrap();

    std::fs::remove_dir_all(place.data()).unwrap();
    place.write("D/imagesTr/b_0000.nii", &image().scaling(1.0, 5.0));
    place.write("D/labelsTr/b.nii", &label(1, 1));
    describe(&place, "spleen");
    let error = place.convert_with(ConvertOptions::default()).unwrap_err();
    assert!(matches!(&error, ConvertError::OtherNames { count: 1, example, .. } if example == "D/a"), "{error}");
    let text = error.to_string();
    assert!(text.contains("class 1 is \"liver\" in the cache and \"spleen\" in this data"), "{text}");
    assert!(text.contains("D/imagesTr/b_0000.nii"), "{text}");
    assert_eq!(std::fs::read(place.cache().join("manifest.json")).unwrap(), before);
    assert_eq!(place.keys(), ["D/a"]);
    // With the names of the cache, it is more of the same dataset.
    describe(&place, "liver");
    assert_eq!(place.convert().not_in_data, 1);
    // All cases are in the data: the description was corrected.
    place.write("D/imagesTr/a_0000.nii", &image());
    place.write("D/labelsTr/a.nii", &label(1, 1));
    describe(&place, "Liver");
    assert_eq!((place.convert().unchanged, class(&place)), (2, "Liver".to_owned()));
    // Scans without label maps and names say nothing about classes.
    std::fs::remove_file(place.data().join("D/dataset.json")).unwrap();
    std::fs::remove_dir_all(place.data().join("D/labelsTr")).unwrap();
    place.write("D/imagesTr/c_0000.nii", &image().scaling(1.0, 6.0));
    assert_eq!((place.convert().converted, class(&place)), (1, "Liver".to_owned()));
    // Of the cases that are pruned, no class is lost.
    std::fs::remove_dir_all(place.data()).unwrap();
    place.write("D/imagesTr/d_0000.nii", &image().scaling(1.0, 7.0));
    place.write("D/labelsTr/d.nii", &label(1, 1));
    describe(&place, "spleen");
    place.convert_with(ConvertOptions { prune: true, ..ConvertOptions::default() }).unwrap();
    assert_eq!((place.keys(), class(&place)), (vec!["D/d".to_owned()], "spleen".to_owned()));
}

#[test]
fn case_refused_by_an_earlier_claiming_run_is_converted_by_the_next() {
    let place = Place::new(&[("imagesTr/a_0000.nii", offset()), ("imagesTr/b_0000.nii", image())]);
    let claim = Some(Duration::from_mins(1));
    let with =
        |on_suspect| place.convert_with(ConvertOptions { on_suspect, claim, jobs: 1, ..ConvertOptions::default() });
    assert!(matches!(with(OnSuspect::Fail), Err(ConvertError::Suspect(_))));
    with(OnSuspect::Warn).unwrap();
    assert_eq!(place.keys(), ["data/a", "data/b"]);
}

#[test]
fn case_ended_by_another_claiming_run_is_left_to_it_only_if_the_cache_has_it() {
    let place = Place::new(&[("imagesTr/a_0000.nii", image()), ("imagesTr/b_0000.nii", image())]);
    let options = ConvertOptions { claim: Some(Duration::from_mins(1)), ..ConvertOptions::default() };
    std::fs::create_dir(place.cache()).unwrap();
    let other = hiend_cache::claims::Claims::join(place.cache(), "test", Duration::from_mins(1)).unwrap();
    other.end("data/a").unwrap();
    let summary = place.convert_with(options.clone()).unwrap();
    assert_eq!((summary.converted, summary.elsewhere), (2, 0));
    other.end("data/a").unwrap();
    let summary = place.convert_with(ConvertOptions { checksum: true, ..options }).unwrap();
    assert_eq!((summary.unchanged, summary.elsewhere), (1, 1));
}

#[cfg(feature = "dicom")]
#[test]
fn a_dicom_series_is_converted_like_the_same_scan_as_nifti() {
    use crate::volume::dicom::testing::TestSlice;
    use dicom_core::VR;
    use dicom_dictionary_std::tags;

    let place = Place::new(&[("a.nii", image())]);
    let write = |number: usize, change: u16| {
        let image = &ct()[number * 120..][..120];
        let pixels: Vec<u16> = image.iter().map(|&hu| u16::try_from(hu + 1024).unwrap() + change).collect();
        let slice = TestSlice::new(0.0, 0).number(tags::ROWS, 10).number(tags::COLUMNS, 12).pixels(&pixels);
        let slice = slice.text(tags::PIXEL_SPACING, VR::DS, "2\\2").at([-9.0, -7.0, 2.0 * number as f64 - 5.0]);
        let path = slice.write(&place.data().join(format!("b/IM{number}")));
        let age = Duration::from_secs(3600 - 60 * u64::from(change));
        File::options().append(true).open(path).unwrap().set_modified(SystemTime::now() - age).unwrap();
    };
    (0..8).for_each(|number| write(number, 0));
    let summary = place.convert();
    assert!(summary.skipped.is_empty() && summary.findings.is_empty(), "{:?}", (summary.skipped, summary.findings));
    let content = |key: &str| {
        let cache = Cache::open(place.cache()).unwrap();
        let case = cache.case(key).unwrap();
        (case.read_whole(&mut VolumeReader::new()).unwrap().image, case.record().geometry.clone())
    };
    assert_eq!(content("data/b"), content("data/a"));

    assert_eq!(place.convert().unchanged, 2);
    // A change of any slice is noticed.
    write(5, 1);
    assert_eq!(place.convert().converted, 1);
    assert_ne!(content("data/b").0, content("data/a").0);
    std::fs::remove_file(place.data().join("b/IM3")).unwrap();
    let skipped = place.convert().skipped;
    let reason =
        "series 3 \"Abdomen 1.5 / B30f\": 1 of 8 slices missing, the first between IM2 and IM4; copy the series again";
    assert!(skipped.len() == 1 && skipped[0].reason == reason, "{skipped:?}");
}
