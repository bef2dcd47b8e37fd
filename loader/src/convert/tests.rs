mod classes;
mod folders;
mod lost;

use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use hiend_cache::{Cache, VolumeReader};

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

/// Label map or mask with one value in one plane and 0 elsewhere.
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

    /// Writes a file with a modification time one hour ago.
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

#[test]
fn header_oddities_of_label_maps_are_reported_where_the_image_has_none() {
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
fn label_maps_off_their_image_are_reported() {
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

#[test]
fn an_image_that_a_label_map_fits_better_is_named() {
    let small = || TestFile::new([12, 10, 6], &ct()[..720]);
    let labels = || small().with_u8(&[1; 720]);
    let place = Place::new(&[("s_ct.nii", image()), ("s_ct_sm.nii", small()), ("s_seg.nii", labels())]);
    let reason = || place.convert().skipped.swap_remove(0).reason;
    assert!(reason().ends_with("without labels; the label map lies on the grid of s_ct_sm.nii"), "{}", reason());
    // Of several, none.
    place.write("t_ct.nii", &small());
    assert!(reason().ends_with("to convert the scan without labels"), "{}", reason());
}

fn offset() -> TestFile {
    let values: Vec<i16> = ct().into_iter().map(|hu| (hu + 1024).max(0)).collect();
    TestFile::new(SHAPE, &values)
}

#[test]
fn suspicious_cases_are_reported_skipped_or_refused() {
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
fn files_that_changed_right_before_their_conversion_are_read_once_more() {
    let place = Place::new(&[("a.nii", image()), ("b.nii", image().scaling(1.0, 5.0))]);
    let set_time = |time| {
        File::options().append(true).open(place.data().join("a.nii")).unwrap().set_modified(time).unwrap();
    };
    let planned = || {
        let datasets = survey(&place.data()).unwrap().datasets;
        let config = PreprocessConfig { spacing: None, ..PreprocessConfig::default() };
        let Changes { unchanged, undecided, changed, .. } =
            changes(&place.data(), &datasets, &place.cache(), &config, &ConvertOptions::default()).unwrap();
        (unchanged.len(), undecided.len(), changed.len())
    };
    // A time in the future proves as little as one of this moment, however long the test takes.
    let recent = SystemTime::now() + Duration::from_hours(1);
    set_time(recent);
    assert_eq!(place.convert().converted, 2);
    assert_eq!(planned(), (1, 1, 0));
    // The time could also be that of a later change, so it is not noted.
    let summary = place.convert();
    assert!(summary.unchanged == 2 && summary.bytes_in > 0, "{summary:?}");
    place.write("a.nii", &image().scaling(1.0, 6.0));
    set_time(recent);
    assert_eq!(planned(), (1, 1, 0));
    assert_eq!(place.convert().converted, 1);

    // As after a wait.
    set_time(SystemTime::now() - Duration::from_hours(1));
    let summary = place.convert();
    assert!(summary.unchanged == 2 && summary.bytes_in > 0, "{summary:?}");
    assert_eq!(planned(), (2, 0, 0));
    let summary = place.convert();
    assert_eq!((summary.unchanged, summary.bytes_in), (2, 0));
    // Other content of the same size is found, and then has a time of its own.
    place.write("a.nii", &image().scaling(1.0, 7.0));
    assert_eq!(planned(), (1, 1, 0));
    assert_eq!(place.convert().converted, 1);
    let summary = place.convert();
    assert_eq!((summary.unchanged, summary.bytes_in), (2, 0));
}

#[test]
fn notes_of_pruned_cases_are_dropped() {
    let place = Place::new(&[("a.nii", image()), ("b.nii", image().scaling(1.0, 5.0))]);
    place.convert();
    // Touched files are read, found unchanged and noted.
    for name in ["a.nii", "b.nii"] {
        let file = File::options().append(true).open(place.data().join(name)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_hours(2)).unwrap();
    }
    assert_eq!(place.convert().unchanged, 2);
    let is_noted = |case: &str| std::fs::read_to_string(place.cache().join(".seen.json")).unwrap().contains(case);
    std::fs::remove_file(place.data().join("a.nii")).unwrap();
    place.convert();
    assert!(is_noted("data/a") && is_noted("data/b"));
    place.convert_with(ConvertOptions { prune: Prune::Gone, ..ConvertOptions::default() }).unwrap();
    assert!(!is_noted("data/a") && is_noted("data/b"));
    assert_eq!(place.convert().bytes_in, 0);
}

#[test]
fn a_case_with_a_second_image_is_no_earlier_version() {
    let files = [("imagesTr/a_0000.nii", image()), ("imagesTr/a.nii", image()), ("labelsTr/a.nii", label(3, 1))];
    let place = Place::new(&files);
    for _ in 0..2 {
        let summary = place.convert();
        assert_eq!((summary.skipped.len(), place.keys()), (1, vec!["data/a".to_owned()]));
        assert!(summary.stale.is_empty() && summary.outdated.is_empty(), "{:?}", summary.stale);
    }
    // The image that was converted is skipped as well.
    std::fs::write(place.data().join("imagesTr/a_0000.nii"), "no volume").unwrap();
    let summary = place.convert();
    assert_eq!((summary.skipped.len(), summary.stale), (2, vec!["data/a".to_owned()]));
}

#[test]
fn header_oddities_are_reported() {
    let place = Place::new(&[("imagesTr/a_0000.nii", image().qform(1, [0.0; 3], [0.0; 3]))]);
    let summary = place.convert();
    assert!(summary.findings[0].text.starts_with("sform and qform disagree"), "{:?}", summary.findings);
}

#[test]
fn a_scan_of_two_names_is_reported() {
    let place = Place::new(&[("a.nii", image()), ("b.nii", image().scaling(1.0, 5.0))]);
    assert!(place.convert().twice.is_empty());
    std::fs::rename(place.data().join("a.nii"), place.data().join("c.nii")).unwrap();
    let summary = place.convert();
    assert_eq!(summary.twice, [["data/a".to_owned(), "data/c".to_owned()]]);
    let options = ConvertOptions { prune: Prune::Gone, ..ConvertOptions::default() };
    assert!(place.convert_with(options).unwrap().twice.is_empty());
    assert_eq!(place.keys(), ["data/b", "data/c"]);
}

#[test]
fn a_scan_that_the_data_hold_twice_is_told() {
    let place = Place::new(&[
        ("D/imagesTr/b_0000.nii", image()),
        ("D/imagesTr/c_0000.nii", image().scaling(1.0, 5.0)),
        ("E/imagesTr/a_0000.nii", image()),
        ("E/imagesTr/d_0000.nii", image()),
    ]);
    let expected = ["E/a", "E/d"].map(|case| [case.to_owned(), "D/b".to_owned()]);
    let summary = place.convert();
    assert_eq!((summary.converted, &summary.repeated[..], summary.twice.len()), (4, &expected[..], 0));
    // Unchanged cases are compared as well.
    std::fs::remove_file(place.data().join("E/imagesTr/d_0000.nii")).unwrap();
    let summary = place.convert();
    assert_eq!((summary.unchanged, &summary.repeated[..]), (3, &expected[..1]));
    assert_eq!(summary.twice, [["E/d".to_owned(), "D/b".to_owned()]]);
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

#[test]
fn voxels_behind_the_last_slice_are_told() {
    let [nx, ny, nz] = SHAPE;
    let shorter = TestFile::new([nx, ny, nz - 3], &ct());
    let place = Place::new(&[("imagesTr/a_0000.nii", shorter.clone()), ("imagesTr/c_0000.nii", image())]);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, &shorter.scaling(1.0, 1.0).to_bytes()).unwrap();
    std::fs::write(place.data().join("imagesTr/b_0000.nii.gz"), encoder.finish().unwrap()).unwrap();
    let mut findings = place.convert().findings;
    findings.sort_by(|a, b| a.case.cmp(&b.case));
    let text = "the file holds voxels behind the last slice of its header, enough for 3 more; correct the header";
    let expected = ["data/a", "data/b"].map(|case| Finding { case: case.to_owned(), text: text.to_owned() });
    assert_eq!(findings, expected);
}
