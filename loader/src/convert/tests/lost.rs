//! Cases and label maps that are gone from the data, perhaps because their disk is not mounted.

use super::*;

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
    assert_eq!(place.convert_with(options).unwrap().not_in_data.gone.len(), 1);
}

#[test]
fn a_case_whose_newest_record_is_lost_is_converted_again_though_its_files_look_like_the_older_one() {
    let place = Place::new(&[("imagesTr/a_0000.nii", image()), ("labelsTr/a.nii", label(1, 1))]);
    place.convert();
    // A label map of the same size and time, as `rsync -t` and archives leave it.
    let path = place.data().join("labelsTr/a.nii");
    let time = std::fs::metadata(&path).unwrap().modified().unwrap();
    label(1, 2).write(&path);
    File::options().append(true).open(&path).unwrap().set_modified(time).unwrap();
    let summary = place.convert_with(ConvertOptions { checksum: true, ..ConvertOptions::default() }).unwrap();
    assert_eq!((summary.converted, summary.replaced), (1, 1));
    let expected = place.label_counts("data/a");
    std::fs::remove_file(place.cache().join("g0002-w000-0000.shard")).unwrap();

    let (data, cache) = (place.data(), place.cache());
    let config = PreprocessConfig { spacing: None, ..PreprocessConfig::default() };
    let datasets = survey(&data).unwrap().datasets;
    let planned = changes(&data, &datasets, &cache, &config, &ConvertOptions::default()).unwrap();
    assert_eq!((planned.new, planned.unchanged), (vec!["data/a".to_owned()], vec![]));
    assert_eq!(place.convert().converted, 1);
    // Under the name of the lost shard, a run that is killed at this moment would hide the loss of its other cases.
    assert!(place.cache().join("g0003-w000-0000.shard").is_file());
    assert_eq!(place.label_counts("data/a"), expected);
    assert_eq!(place.convert().unchanged, 1);
}

/// Three cases in a shard each, of which that of `data/b` is removed; returns its path.
fn with_a_lost_shard() -> (Place, PathBuf) {
    let place = Place::new(&[]);
    for (name, scale) in [("a", 1.0), ("b", 2.0), ("c", 3.0)] {
        place.write(&format!("imagesTr/{name}_0000.nii"), &image().scaling(1.0, scale));
    }
    place.convert_with(ConvertOptions { shard_bytes: 1, ..ConvertOptions::default() }).unwrap();
    let lost = Cache::open(place.cache()).unwrap().case("data/b").unwrap().shard().path().to_owned();
    std::fs::remove_file(&lost).unwrap();
    (place, lost)
}

/// Returns true if the cache misses a shard.
fn misses(place: &Place, lost: &Path) -> bool {
    match Cache::open(place.cache()) {
        Ok(_) => false,
        Err(hiend_cache::Error::MissingShard { path }) => path == lost,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_lost_shard_is_missed_until_its_cases_are_converted_again() {
    let (place, lost) = with_a_lost_shard();
    let (data, cache) = (place.data(), place.cache());
    let config = PreprocessConfig { spacing: None, ..PreprocessConfig::default() };
    let datasets = survey(&data).unwrap().datasets;
    for _ in 0..2 {
        let stop = Stop::new();
        stop.request();
        let interrupted = Conversion::new(&data, &datasets, &cache).config(config.clone()).stop(stop).run().unwrap();
        assert_eq!((interrupted.interrupted, interrupted.converted), (true, 0));
        assert_eq!(interrupted.lost, ["data/b"]);
        assert!(misses(&place, &lost));
    }
    let planned = changes(&data, &datasets, &cache, &config, &ConvertOptions::default()).unwrap();
    assert_eq!(planned.new, ["data/b"]);
    let summary = place.convert();
    assert_eq!((summary.converted, summary.unchanged, summary.lost), (1, 2, vec![]));
    assert!(!misses(&place, &lost));
    assert_eq!(place.keys(), ["data/a", "data/b", "data/c"]);
}

#[test]
fn a_lost_shard_is_missed_until_its_cases_are_given_up() {
    let (place, lost) = with_a_lost_shard();
    let share = |number| ConvertOptions { worker: (number, 2), ..ConvertOptions::default() };
    let mut converted = 0;
    for number in [0, 1] {
        let summary = place.convert_with(share(number)).unwrap();
        converted += summary.converted;
        assert_eq!((misses(&place, &lost), summary.lost.len()), (converted == 0, 1 - converted), "{number}");
    }
    assert_eq!(converted, 1);

    let (place, lost) = with_a_lost_shard();
    std::fs::remove_file(place.data().join("imagesTr/b_0000.nii")).unwrap();
    assert!(matches!(place.convert_with(ConvertOptions::default()), Err(ConvertError::LostCases { count: 1, .. })));
    assert!(misses(&place, &lost));
    place.convert_with(ConvertOptions { forget_lost: true, ..ConvertOptions::default() }).unwrap();
    assert_eq!(place.keys(), ["data/a", "data/c"]);
    assert_eq!(place.convert().unchanged, 2);
}

#[test]
fn label_maps_that_are_gone_do_not_leave_the_case_of_a_lost_record_without_labels() {
    let place = Place::new(&[("imagesTr/a_0000.nii", image()), ("labelsTr/a.nii", label(1, 1))]);
    place.convert();
    let expected = place.label_counts("data/a");
    place.write("imagesTr/a_0000.nii", &image().scaling(1.0, 5.0));
    place.convert();
    let lost = place.cache().join("g0002-w000-0000.shard");
    std::fs::remove_file(&lost).unwrap();
    std::fs::remove_file(place.data().join("labelsTr/a.nii")).unwrap();
    let summary = place.convert();
    assert!(summary.skipped[0].reason.contains("no label map is left in its dataset"), "{:?}", summary.skipped);
    // Nor does the older record return.
    assert_eq!(summary.lost, ["data/a"]);
    assert!(misses(&place, &lost));
    place.write("labelsTr/a.nii", &label(1, 1));
    assert_eq!((place.convert().converted, place.label_counts("data/a")), (1, expected));
}

#[test]
fn a_skipped_case_whose_only_record_is_lost_is_given_up() {
    let place = Place::new(&[("imagesTr/a_0000.nii", image()), ("imagesTr/b_0000.nii", image().scaling(1.0, 5.0))]);
    place.convert_with(ConvertOptions { shard_bytes: 1, ..ConvertOptions::default() }).unwrap();
    let lost = Cache::open(place.cache()).unwrap().case("data/b").unwrap().shard().path().to_owned();
    std::fs::remove_file(&lost).unwrap();
    std::fs::write(place.data().join("imagesTr/b_0000.nii"), "cut").unwrap();
    let summary = place.convert();
    assert_eq!((summary.skipped.len(), summary.lost, place.keys()), (1, vec![], vec!["data/a".to_owned()]));
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
        assert_eq!(place.convert().not_in_data.gone.len(), usize::from(is_left_out));
        let pruned = place.convert_with(ConvertOptions { prune: Prune::Gone, ..ConvertOptions::default() });
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
fn an_empty_folder_stands_for_its_own_cases_only() {
    let parts = ["p1", "p10", "p2"];
    let files = parts.map(|part| (format!("images/{part}/ct.nii"), format!("labels/{part}/seg.nii")));
    let place = Place::new(&[]);
    for (image_file, label_file) in &files {
        place.write(image_file, &image());
        place.write(label_file, &label(1, 1));
    }
    place.convert();
    assert_eq!(place.keys(), ["data/p1", "data/p10", "data/p2"]);
    for kind in ["images", "labels"] {
        std::fs::remove_dir_all(place.data().join(kind).join("p10")).unwrap();
        std::fs::remove_dir_all(place.data().join(kind).join("p1")).unwrap();
        std::fs::create_dir(place.data().join(kind).join("p1")).unwrap();
    }
    let error = place.convert_with(ConvertOptions { prune: Prune::Gone, ..ConvertOptions::default() }).unwrap_err();
    assert!(matches!(&error, ConvertError::Vacant { count: 1, example, .. } if example == "data/p1"), "{error}");
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
    let prune = || place.convert_with(ConvertOptions { prune: Prune::Gone, ..ConvertOptions::default() });
    let folder = place.data().join("Dataset002_B");
    std::fs::remove_dir_all(folder.join("imagesTr")).unwrap();
    let error = prune().unwrap_err().to_string();
    assert!(error.contains("2 cases of the cache, such as Dataset002_B/b"), "{error}");
    assert_eq!(place.keys(), keys);
    std::fs::create_dir(folder.join("imagesTr")).unwrap();
    assert!(matches!(prune(), Err(ConvertError::Vacant { count: 2, .. })));
    // A folder that is gone is gone on purpose.
    std::fs::remove_dir_all(folder).unwrap();
    assert_eq!(prune().unwrap().pruned.unwrap().cases, ["Dataset002_B/b", "Dataset002_B/c"]);
    assert_eq!(place.keys(), ["Dataset001_A/a"]);
}
