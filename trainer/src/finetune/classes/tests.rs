use super::*;
use crate::config::finetune::FinetunePreset;

/// Labels of a dataset, by value.
type Labels<'a> = &'a [(u8, &'a str)];

/// Manifest with the datasets A, B and so on.
fn manifest(datasets: &[Labels<'_>]) -> Manifest {
    let info = |labels: &Labels<'_>| DatasetInfo {
        labels: labels.iter().map(|&(label, name)| (label, name.to_owned())).collect(),
        ignore: labels.iter().find(|(_, name)| *name == IGNORE).map(|&(label, _)| label),
        ..DatasetInfo::default()
    };
    let names = ('A'..='Z').map(String::from);
    Manifest { datasets: names.zip(datasets.iter().map(info)).collect(), ..Manifest::default() }
}

/// Determines the classes of datasets for a configuration that lists `listed`; returns the classes and the warnings.
fn settled(listed: &[&str], datasets: &[Labels<'_>]) -> Result<(Vec<String>, Vec<String>), String> {
    let mut config = FinetunePreset::Tiny.config();
    config.classes = listed.iter().map(|&name| name.to_owned()).collect();
    let manifest = manifest(datasets);
    let names = manifest.datasets.keys().map(String::as_str).collect();
    let warnings = settle(&mut config, &manifest, &names).map_err(|error| error.to_string())?;
    Ok((config.classes, warnings))
}

const LIVER_FIRST: Labels<'static> = &[(0, "background"), (1, "liver"), (2, "left kidney")];
const KIDNEY_FIRST: Labels<'static> = &[(0, "background"), (1, "left kidney"), (2, "liver")];
const OTHERS: Labels<'static> = &[(0, "background"), (1, "spleen"), (2, "aorta")];

#[test]
fn datasets_that_name_a_label_differently_are_refused() {
    let check = |datasets: &[Labels<'_>], expected: &str| {
        let error = settled(&[], datasets).unwrap_err();
        assert!(error.starts_with(expected), "{error}");
    };
    check(&[LIVER_FIRST, KIDNEY_FIRST], "label 1 is `left kidney` in dataset B and `liver` in dataset A; train on one");
    check(&[LIVER_FIRST, OTHERS], "label 1 is `spleen` in dataset B and `liver` in dataset A;");
    // A name that only a third dataset has.
    let gap: Labels<'_> = &[(0, "background"), (2, "left kidney")];
    check(&[gap, LIVER_FIRST, KIDNEY_FIRST], "label 1 is `left kidney` in dataset C and `liver` in dataset B;");
    let ignoring: [Labels<'_>; 2] =
        [&[(0, "background"), (1, "a"), (2, "ignore")], &[(0, "background"), (1, "a"), (3, "ignore")]];
    check(&ignoring, "the ignore label is 3 in dataset B and 2 in dataset A; train on one of them");
    let remedy = same_ignore("B", CONFIGURATION);
    assert!(remedy.starts_with("leave ignore_label out of the configuration"), "{remedy}");
}

#[test]
fn names_that_differ_in_case_and_spaces_are_the_same() {
    let same: Labels<'_> = &[(0, "Background "), (1, " LIVER"), (2, "Left_Kidney")];
    let classes = ["background", "liver", "left kidney"].map(str::to_owned).to_vec();
    assert_eq!(settled(&[], &[LIVER_FIRST, same]), Ok((classes.clone(), vec![])));
    // A label without a name in the first dataset has that of the second.
    let gap: Labels<'_> = &[(0, "background"), (2, "left kidney")];
    assert_eq!(settled(&[], &[gap, LIVER_FIRST]), Ok((classes, vec![])));
    assert_ne!(plain("grade +1"), plain("grade -1"));
}

#[test]
fn listed_classes_may_rename_labels_and_never_reorder_them() {
    let (_, warnings) = settled(&["background", "organ", "vessel"], &[LIVER_FIRST, OTHERS]).unwrap();
    assert_eq!(warnings.len(), 4, "{warnings:?}");
    assert_eq!(warnings[0], "class 1 is `liver` in dataset A and `organ` in the configuration");
    let error = settled(&["background", "liver", "left kidney"], &[LIVER_FIRST, KIDNEY_FIRST]).unwrap_err();
    assert!(
        error.starts_with("label 1 is `left kidney` in dataset B, which the configuration lists as class 2;"),
        "{error}"
    );
}

#[test]
fn an_ignore_label_in_another_spelling_is_told_and_remains_a_class() {
    let labels: Labels<'_> = &[(0, "background"), (1, "liver"), (2, "Ignore")];
    let (classes, warnings) = settled(&[], &[labels]).unwrap();
    assert_eq!(classes, ["background", "liver", "Ignore"]);
    assert!(
        warnings[0].starts_with("label 2 of dataset A is called \"Ignore\" and trained as a class;"),
        "{warnings:?}"
    );
    // Listed in the configuration, it is meant to be one.
    let (_, warnings) = settled(&["background", "liver", "Ignore"], &[labels]).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn classes_that_no_label_map_holds_are_named() {
    let warning = |labels: Labels<'_>, listed: &[&str], found: &[u8]| {
        let mut config = FinetunePreset::Tiny.config();
        config.classes = listed.iter().map(|&name| name.to_owned()).collect();
        let (given, manifest) = (Given::of(&config), manifest(&[labels]));
        let names = BTreeSet::from(["A"]);
        settle(&mut config, &manifest, &names).unwrap();
        never_seen(&config, given, &manifest, &names, &found.iter().copied().collect())
    };
    assert_eq!(warning(LIVER_FIRST, &[], &[0, 1, 2]), None);
    let one = "class 2 (left kidney) occurs in no label map of the training cases and is not learned";
    assert_eq!(warning(LIVER_FIRST, &[], &[0, 1]).as_deref(), Some(one));
    let both = "the classes 1 (x), 2 (y) occur in no label map of the training cases and are not learned";
    assert_eq!(warning(&[], &["background", "x", "y"], &[0]).as_deref(), Some(both));
    // Nothing names label 1.
    assert_eq!(warning(&[(0, "background"), (2, "left kidney")], &[], &[0, 2]), None);
}

fn described(labels: &[(u8, &str)]) -> Result<Described, ClassesError> {
    Described::of("D", Some(&labels.iter().map(|&(label, name)| (label, name.to_owned())).collect()))
}

#[test]
fn the_ignore_label_is_no_class() {
    let labels = [(0, "background"), (1, "body"), (2, "soft"), (3, "ignore")];
    let expected = Described { classes: ["background", "body", "soft"].map(str::to_owned).to_vec(), ignore: Some(3) };
    assert_eq!(described(&labels).unwrap(), expected);
    assert_eq!(described(&labels[..3]).unwrap(), Described { ignore: None, ..expected });
    let error = described(&[(0, "background"), (1, "ignore"), (2, "body")]).unwrap_err().to_string();
    assert_eq!(error, "the ignore label 1 must be higher than every class of D (0 to 2)");
}
