//! Classes of label maps and masks, and their names in the manifest.

use hiend_cache::Manifest;

use super::*;

/// Number of voxels of the body in one plane.
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
fn masks_that_overlap_are_reported_with_the_voxels_that_change_their_class() {
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
fn classes_that_no_label_map_has_are_reported_once_all_cases_are_there() {
    let place = Place::new(&[("imagesTr/a_0000.nii", image()), ("labelsTr/a.nii", label(1, 1))]);
    let json = r#"{"labels": {"background": 0, "liver": 1, "spleen": 2, "ignore": 9}, "file_ending": ".nii"}"#;
    std::fs::write(place.data().join("dataset.json"), json).unwrap();
    let classes = vec![(2, "spleen".into())];
    let expected = UnseenClasses { dataset: "data".into(), classes, num_labelled: 1, are_lost: false };
    let text = "data: class 2 (spleen) of dataset.json has no voxel in its 1 labelled case; check whether dataset.json gives it \
                the number that the label maps use, and whether label maps are missing";
    let several = UnseenClasses { classes: vec![(2, "spleen".into()), (3, "aorta".into())], ..expected.clone() };
    let start = "data: classes 2 (spleen), 3 (aorta) of dataset.json have no voxel in its 1 ";
    assert!(several.to_string().starts_with(start), "{several}");
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
fn classes_that_the_crop_removes_are_told_as_lost_and_not_as_missing() {
    // The last class has its only voxel in the air outside of the body.
    let mut voxels = vec![0; SHAPE.iter().product()];
    voxels[(SHAPE[1] * 4 + 5) * SHAPE[0] + 6] = 1;
    voxels[0] = 2;
    let place = Place::new(&[("imagesTr/a_0000.nii", image()), ("labelsTr/a.nii", image().with_u8(&voxels))]);
    let json = r#"{"labels": {"background": 0, "liver": 1, "spleen": 2}, "file_ending": ".nii"}"#;
    std::fs::write(place.data().join("dataset.json"), json).unwrap();
    let text = "label 2 (1 voxel) has no voxel left within the foreground, to which the volume is cropped; check whether the \
                label map is that of this image";
    let findings = [Finding { case: "data/a".to_owned(), text: text.to_owned() }];
    let classes = vec![(2, "spleen".into())];
    let lost = UnseenClasses { dataset: "data".into(), classes, num_labelled: 1, are_lost: true };
    let text = "data: class 2 (spleen) of dataset.json has voxels in the label maps, and none left after resampling and the crop \
                in its 1 labelled case; a smaller --spacing keeps small structures";
    assert_eq!(lost.to_string(), text);
    let first = place.convert();
    assert_eq!((&first.findings[..], &first.unseen[..]), (&findings[..], &[lost.clone()][..]));
    let second = place.convert();
    assert_eq!((&second.known_findings[..], &second.unseen[..]), (&findings[..], &[lost][..]));
}

#[test]
fn an_ignore_label_that_the_crop_removes_is_no_finding() {
    let mut voxels = vec![0; SHAPE.iter().product()];
    voxels[(SHAPE[1] * 4 + 5) * SHAPE[0] + 6] = 1;
    voxels[0] = 2;
    let place = Place::new(&[("imagesTr/a_0000.nii", image()), ("labelsTr/a.nii", image().with_u8(&voxels))]);
    let json = r#"{"labels": {"background": 0, "liver": 1, "ignore": 2}, "file_ending": ".nii"}"#;
    std::fs::write(place.data().join("dataset.json"), json).unwrap();
    let summary = place.convert();
    assert!(summary.converted == 1 && summary.findings.is_empty(), "{:?}", summary.findings);
}

#[test]
fn label_values_without_a_name_are_reported_with_an_example() {
    let place = Place::new(&[
        ("imagesTr/a_0000.nii", image()),
        ("labelsTr/a.nii", label(1, 1)),
        ("imagesTr/b_0000.nii", image().scaling(1.0, 5.0)),
        ("labelsTr/b.nii", label(1, 255)),
        ("imagesTr/c_0000.nii", image().scaling(1.0, 6.0)),
        ("labelsTr/c.nii", label(1, 9)),
    ]);
    let describe = |labels: &str| {
        let json = format!(r#"{{"labels": {{"background": 0, {labels}}}, "file_ending": ".nii"}}"#);
        std::fs::write(place.data().join("dataset.json"), json).unwrap();
    };
    describe(r#""liver": 1"#);
    // By later runs too.
    for summary in [place.convert(), place.convert()] {
        let expected = UnnamedLabels {
            dataset: "data".into(),
            values: vec![9, 255],
            num_cases: 2,
            num_labelled: 3,
            example: "data/b".into(),
        };
        assert_eq!(summary.unnamed, [expected]);
        let text = "data: label values 9, 255 in 2 of 3 labelled cases, such as data/b, have no name in dataset.json; name them \
                    there, or correct the label maps: fine-tuning refuses them";
        assert_eq!(summary.unnamed[0].to_string(), text);
    }
    // Each worker reports those of its own cases.
    let of_share = |worker| {
        let summary = place.convert_with(ConvertOptions { worker: (worker, 2), ..ConvertOptions::default() }).unwrap();
        summary.unnamed.iter().map(|unnamed| unnamed.num_cases).sum::<usize>()
    };
    assert_eq!([0, 1].map(of_share).into_iter().sum::<usize>(), 2);
    // A region and the ignore label name values as well.
    describe(r#""liver": 1, "whole": [1, 9], "ignore": 255"#);
    assert!(place.convert().unnamed.is_empty());
    // Without any names, all values are right.
    std::fs::remove_file(place.data().join("dataset.json")).unwrap();
    assert!(place.convert().unnamed.is_empty());
}

#[test]
fn values_that_only_regions_name_may_be_missing_too() {
    let place = Place::new(&[("imagesTr/a_0000.nii", image()), ("labelsTr/a.nii", label(1, 1))]);
    let json = r#"{"labels": {"background": 0, "whole": [1, 7], "core": 1}, "file_ending": ".nii"}"#;
    std::fs::write(place.data().join("dataset.json"), json).unwrap();
    assert_eq!(place.convert().unseen[0].classes, [(7, "of region whole".to_owned())]);
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
    assert_eq!(first(&place, Prune::Nothing).as_deref(), Some("liver"));

    // Another dataset of this name replaces the first one, whose cases are still there while it is converted.
    std::fs::remove_dir_all(place.data().join("D")).unwrap();
    add(&place, "D", "c", "spleen");
    assert_eq!(first(&place, Prune::Gone).as_deref(), Some("liver"));
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
    assert_eq!(place.convert().not_in_data.gone.len(), 1);
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
    // The class names of pruned cases do not block others.
    std::fs::remove_dir_all(place.data()).unwrap();
    place.write("D/imagesTr/d_0000.nii", &image().scaling(1.0, 7.0));
    place.write("D/labelsTr/d.nii", &label(1, 1));
    describe(&place, "spleen");
    place.convert_with(ConvertOptions { prune: Prune::Gone, ..ConvertOptions::default() }).unwrap();
    assert_eq!((place.keys(), class(&place)), (vec!["D/d".to_owned()], "spleen".to_owned()));
}
