//! Several folders in one cache.

use std::collections::BTreeMap;

use hiend_cache::CaseRecord;

use super::*;

/// Converts a folder below that of the data.
fn convert_with(place: &Place, folder: &str, options: ConvertOptions) -> Result<Summary, ConvertError> {
    let (data, cache) = (place.data().join(folder), place.cache());
    let datasets = survey(&data).unwrap().datasets;
    let config = PreprocessConfig { spacing: None, ..PreprocessConfig::default() };
    Conversion::new(&data, &datasets, &cache).config(config).options(options).run()
}

fn convert(place: &Place, folder: &str) -> Summary {
    convert_with(place, folder, ConvertOptions::default()).unwrap()
}

/// A scan like [`image`] with other values.
fn other(scan: u8) -> TestFile {
    image().scaling(1.0, f32::from(scan))
}

/// Hash of the image that a case in the cache was made from.
fn image_of(place: &Place, key: &str) -> String {
    Cache::open(place.cache()).unwrap().case(key).unwrap().record().source.image_blake3.clone()
}

#[test]
fn scans_of_another_folder_of_the_same_name_are_not_replaced() {
    let place = Place::new(&[
        ("A/scans/a.nii", image()),
        ("A/scans/b.nii", other(1)),
        ("B/scans/a.nii", other(2)),
        ("B/scans/b.nii", other(3)),
        ("B/scans/c.nii", other(4)),
    ]);
    convert(&place, "A/scans");
    let manifest = std::fs::read(place.cache().join("manifest.json")).unwrap();
    let first = image_of(&place, "scans/a");
    let with = |names: &[&str]| {
        let reconvert = names.iter().map(|name| (*name).to_owned()).collect();
        convert_with(&place, "B/scans", ConvertOptions { reconvert, ..ConvertOptions::default() })
    };
    let error = with(&[]).unwrap_err();
    assert!(matches!(&error, ConvertError::OtherFolder { count: 2, example, .. } if example == "scans/a"), "{error}");
    let text = error.to_string();
    for part in ["2 cases of another dataset named scans", "/data/A/scans/a.nii", "--reconvert scans"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let error = with(&["scans/a"]).unwrap_err();
    assert!(matches!(&error, ConvertError::OtherFolder { count: 1, example, .. } if example == "scans/b"), "{error}");
    assert!(error.to_string().ends_with("--reconvert scans/b"), "{error}");
    // A dry run compares no content.
    let data = place.data().join("B/scans");
    let config = PreprocessConfig { spacing: None, ..PreprocessConfig::default() };
    let datasets = survey(&data).unwrap().datasets;
    let planned = changes(&data, &datasets, &place.cache(), &config, &ConvertOptions::default()).unwrap();
    assert_eq!((planned.changed.len(), planned.new.len()), (2, 1));
    let [refused] = planned.other_folders.as_slice() else { panic!("{:?}", planned.other_folders) };
    assert_eq!((refused.dataset.as_str(), refused.count, refused.example.as_str()), ("scans", 2, "scans/a"));
    assert!(refused.from.ends_with("data/A/scans/a.nii") && refused.to_string().contains("--reconvert"), "{refused}");
    assert_eq!(std::fs::read(place.cache().join("manifest.json")).unwrap(), manifest);
    assert_eq!((place.keys(), image_of(&place, "scans/a")), (vec!["scans/a".to_owned(), "scans/b".to_owned()], first));

    let summary = with(&["scans/a", "scans/b"]).unwrap();
    assert_eq!((summary.converted, summary.replaced), (3, 2));
    // From now on, the cases are those of this folder.
    place.write("B/scans/a.nii", &other(5));
    let summary = convert(&place, "B/scans");
    assert_eq!((summary.converted, summary.replaced, summary.unchanged), (1, 1, 2));
}

#[test]
fn another_folder_of_the_same_name_adds_cases() {
    let place = Place::new(&[("A/scans/a.nii", image()), ("B/scans/b.nii", other(1))]);
    convert(&place, "A/scans");
    let summary = convert(&place, "B/scans");
    assert_eq!((summary.converted, summary.replaced, summary.not_in_data.num_cases()), (1, 0, 1));
    assert_eq!(place.keys(), ["scans/a", "scans/b"]);
    // The name of a case of the first folder, among those of the second.
    place.write("B/scans/a.nii", &other(2));
    let error = convert_with(&place, "B/scans", ConvertOptions::default()).unwrap_err();
    assert!(matches!(&error, ConvertError::OtherFolder { count: 1, example, .. } if example == "scans/a"), "{error}");
}

#[test]
fn a_folder_that_was_moved_or_copied_is_the_same_dataset() {
    let place = Place::new(&[("A/scans/a.nii", image()), ("A/scans/b.nii", other(1))]);
    convert(&place, "A/scans");
    std::fs::rename(place.data().join("A"), place.data().join("B")).unwrap();
    let undecided = |folder: &str| {
        let data = place.data().join(folder);
        let config = PreprocessConfig { spacing: None, ..PreprocessConfig::default() };
        let datasets = survey(&data).unwrap().datasets;
        changes(&data, &datasets, &place.cache(), &config, &ConvertOptions::default()).unwrap().other_folders
    };
    assert_eq!(undecided("B/scans"), []);
    let summary = convert(&place, "B/scans");
    assert_eq!((summary.unchanged, summary.bytes_in), (2, 0));
    // A corrected file next to one of which size and time are known.
    place.write("B/scans/a.nii", &other(2));
    let summary = convert(&place, "B/scans");
    assert_eq!((summary.converted, summary.replaced, summary.unchanged), (1, 1, 1));
    // A copy of other times, and a corrected file in it.
    place.write("C/scans/a.nii", &other(2));
    place.write("C/scans/b.nii", &other(1));
    // Without their content, the copies cannot be told from other scans.
    assert_eq!(undecided("C/scans").len(), 1);
    let summary = convert(&place, "C/scans");
    assert!(summary.unchanged == 2 && summary.bytes_in > 0, "{summary:?}");
    place.write("C/scans/a.nii", &other(3));
    let summary = convert(&place, "C/scans");
    assert_eq!((summary.converted, summary.replaced, summary.unchanged), (1, 1, 1));
    // All files are new, in the folder of a record.
    place.write("C/scans/a.nii", &other(4));
    std::fs::remove_file(place.data().join("C/scans/b.nii")).unwrap();
    assert_eq!(convert(&place, "C/scans").replaced, 1);
}

#[test]
fn images_that_cannot_be_read_say_nothing_about_the_dataset() {
    let names = ["a", "b", "c", "d"];
    let place = Place::new(&[]);
    for (scan, name) in (1..).zip(names) {
        place.write(&format!("A/scans/{name}.nii"), &other(scan));
        std::fs::create_dir_all(place.data().join("B/scans")).unwrap();
        std::fs::write(place.data().join(format!("B/scans/{name}.nii")), "damaged").unwrap();
    }
    convert(&place, "A/scans");
    // Nothing can be replaced.
    assert_eq!(convert(&place, "B/scans").skipped.len(), 4);
    place.write("B/scans/d.nii", &other(4));
    let summary = convert(&place, "B/scans");
    assert_eq!((summary.skipped.len(), summary.unchanged), (3, 1));
}

#[test]
fn a_dataset_is_the_same_from_the_folder_around_it() {
    let place = Place::new(&[("N/D/imagesTr/a_0000.nii", image())]);
    convert(&place, "N/D");
    for (scan, folder) in [(1, "N"), (2, "N/D")] {
        place.write("N/D/imagesTr/a_0000.nii", &other(scan));
        assert_eq!(convert(&place, folder).replaced, 1, "{folder}");
    }
    assert_eq!(place.keys(), ["D/a"]);
}

#[test]
fn records_of_an_unknown_folder_can_be_replaced() {
    let place = Place::new(&[("A/scans/a.nii", image()), ("B/scans/a.nii", other(1))]);
    convert(&place, "A/scans");
    let record = Cache::open(place.cache()).unwrap().case("scans/a").unwrap().record().clone();
    let data = place.data().join("B/scans");
    let datasets = survey(&data).unwrap().datasets;
    let check = |record: &CaseRecord| {
        let known = Known::of([record.clone()]);
        origin::check(&place.cache(), &data, &datasets, &known, &ConvertOptions::default())
    };
    assert!(matches!(check(&record), Err(ConvertError::OtherFolder { .. })));
    let mut unknown = record;
    unknown.source.folder = None;
    assert!(check(&unknown).is_ok());
}

#[test]
fn pruning_keeps_the_cases_of_other_folders() {
    let place = Place::new(&[
        ("A/scans/a.nii", image()),
        ("A/scans/b.nii", other(1)),
        ("A/more/c.nii", other(2)),
        ("A/more/d.nii", other(3)),
    ]);
    convert(&place, "A/scans");
    convert(&place, "A/more");
    place.write("A/more/c.nii", &other(4));
    std::fs::remove_file(place.data().join("A/more/d.nii")).unwrap();
    let summary = convert(&place, "A/more");
    let folder = std::fs::canonicalize(place.data().join("A/scans")).unwrap().display().to_string();
    let elsewhere = BTreeMap::from([(Some(folder), vec!["scans/a".to_owned(), "scans/b".to_owned()])]);
    let expected = NotInData { gone: vec!["more/d".to_owned()], elsewhere: elsewhere.clone() };
    assert_eq!(summary.not_in_data, expected);
    assert!(summary.superseded_bytes > 0);

    let pruned = |prune| convert_with(&place, "A/more", ConvertOptions { prune, ..ConvertOptions::default() }).unwrap();
    let summary = pruned(Prune::Superseded);
    assert_eq!((summary.pruned.unwrap().cases, summary.superseded_bytes), (vec![], 0));
    assert_eq!(place.keys(), ["more/c", "more/d", "scans/a", "scans/b"]);
    let summary = pruned(Prune::Gone);
    assert_eq!(summary.pruned.unwrap().cases, ["more/d"]);
    assert_eq!(summary.not_in_data, NotInData { gone: vec![], elsewhere });
    assert_eq!(place.keys(), ["more/c", "scans/a", "scans/b"]);
    let summary = pruned(Prune::All);
    assert_eq!(summary.pruned.unwrap().cases, ["scans/a", "scans/b"]);
    assert_eq!((summary.not_in_data, place.keys()), (NotInData::default(), vec!["more/c".to_owned()]));
}

#[test]
fn pruning_keeps_cases_of_an_unknown_folder() {
    let place = Place::new(&[("A/scans/a.nii", image())]);
    convert(&place, "A/scans");
    let mut record = Cache::open(place.cache()).unwrap().case("scans/a").unwrap().record().clone();
    // The data hold no case.
    let present = Present::of(&place.data().join("A/scans"), &[]);
    assert!(present.is_removed(&record, Prune::Gone));
    record.source.folder = None;
    assert!(!present.is_removed(&record, Prune::Gone) && present.is_removed(&record, Prune::All));
    let found = present.not_in_data(std::iter::once(&record));
    assert_eq!(found.elsewhere, BTreeMap::from([(None, vec!["scans/a".to_owned()])]));
}
