use super::*;
use proptest::prelude::*;

fn names(keys: &[String]) -> Vec<CaseName<'_>> {
    partly_usable(keys, &|_| true)
}

/// Names of cases, of which some are usable, by position.
fn partly_usable<'a>(keys: &'a [String], is_usable: &dyn Fn(usize) -> bool) -> Vec<CaseName<'a>> {
    let name = |(at, key): (usize, &'a String)| CaseName {
        dataset: key.split('/').next().unwrap(),
        key,
        is_usable: is_usable(at),
    };
    keys.iter().enumerate().map(name).collect()
}

fn select(split: &Split, include: &[&str], exclude: &[&str], keys: &[String]) -> Result<Vec<usize>, SelectError> {
    let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    Selector::new(&owned(include), &owned(exclude), split)?.select(&names(keys))
}

/// Folds of the first 12 [`keys`].
const HASHED_FOLDS: [u32; 12] = [3, 2, 3, 1, 0, 4, 0, 0, 4, 2, 3, 3];
const DEALT_FOLDS: [u32; 12] = [1, 0, 4, 0, 2, 0, 2, 1, 1, 3, 4, 3];

fn keys(n: usize) -> Vec<String> {
    (0..n).map(|case| format!("Dataset{:03}_SET{}/case{case}", case % 3, case % 3)).collect()
}

proptest! {
    #[test]
    fn hashed_cases_are_held_out_in_one_fold_and_stay_in_it(n in 1usize..60, of in 2u32..8, seed: u64) {
        let split = |fold, part| Split::Fold(FoldSplit { fold, of, part, seed, rule: FoldRule::Hashed });
        let (keys, more) = (keys(n), keys(n + 30));
        let mut held_out = Vec::new();
        for fold in 0..of {
            let validation = select(&split(fold, Part::Validation), &[], &[], &keys).unwrap();
            let train = select(&split(fold, Part::Train), &[], &[], &keys).unwrap();
            let mut all: Vec<usize> = validation.iter().chain(&train).copied().collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..n).collect::<Vec<_>>());
            let later = select(&split(fold, Part::Validation), &[], &[], &more).unwrap();
            let before: Vec<usize> = later.into_iter().filter(|&idx| idx < n).collect();
            prop_assert_eq!(&before, &validation);
            held_out.extend(validation);
        }
        held_out.sort_unstable();
        prop_assert_eq!(held_out, (0..n).collect::<Vec<_>>());
    }

    #[test]
    fn dealt_folds_are_equal_over_all_cases_and_within_datasets(n in 8usize..60, of in 2u32..8, seed: u64) {
        let split = |fold, part| Split::Fold(FoldSplit { fold, of, part, seed, rule: FoldRule::Dealt });
        let keys = keys(n);
        for include in [&[][..], &["SET1"], &["SET0", "SET2"]] {
            let mut held_out = Vec::new();
            let mut sizes = Vec::new();
            for fold in 0..of {
                let validation = select(&split(fold, Part::Validation), include, &[], &keys).unwrap();
                let train = select(&split(fold, Part::Train), include, &[], &keys).unwrap();
                prop_assert!(train.iter().all(|case| !validation.contains(case)));
                sizes.push(validation.len());
                held_out.extend(validation);
                // A case's fold does not depend on the datasets included.
                let all = select(&split(fold, Part::Train), &[], &[], &keys).unwrap();
                prop_assert!(train.iter().all(|case| all.contains(case)));
            }
            held_out.sort_unstable();
            let expected = select(&Split::default(), include, &[], &keys).unwrap();
            prop_assert_eq!(held_out, expected);
            let datasets = if include.is_empty() { 1 } else { include.len() };
            let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
            prop_assert!(most - least <= datasets, "{:?}", sizes);
        }
    }
}

/// Expected folds come from the program that introduced each rule: a change would mix training and validation cases of
/// existing runs.
#[test]
fn the_rules_of_folds_are_frozen() {
    let keys = keys(12);
    let folds = |rule| FoldSplit { fold: 0, of: 5, part: Part::Train, seed: 0, rule }.folds_of(&names(&keys)).unwrap();
    assert_eq!(folds(FoldRule::Hashed), HASHED_FOLDS);
    assert_eq!(folds(FoldRule::Dealt), DEALT_FOLDS);
}

#[test]
fn every_fold_of_few_cases_gets_one() {
    let keys = keys(4);
    let split = |fold, part| Split::Fold(FoldSplit { fold, of: 4, part, seed: 0, rule: FoldRule::Dealt });
    for fold in 0..4 {
        assert_eq!(select(&split(fold, Part::Validation), &[], &[], &keys).unwrap().len(), 1);
        assert_eq!(select(&split(fold, Part::Train), &[], &[], &keys).unwrap().len(), 3);
    }
    let error = select(&split(0, Part::Train), &[], &[], &keys[..3]).unwrap_err().to_string();
    assert_eq!(error, "split: 4 folds of 3 cases; expected at most as many folds as cases");
}

#[test]
fn hashed_folds_are_nearly_equal() {
    let split = FoldSplit { fold: 0, of: 5, part: Part::Train, seed: 3, rule: FoldRule::Hashed };
    let mut counts = [0u32; 5];
    for fold in split.folds_of(&names(&keys(10_000))).unwrap() {
        counts[fold as usize] += 1;
    }
    // The expectation is 2000 with a standard deviation of 40; the bounds are four of those.
    assert!(counts.iter().all(|&n| (1840..2160).contains(&n)), "{counts:?}");
}

#[test]
fn datasets_are_included_and_excluded_by_name() {
    let keys = keys(6);
    let all = Split::default();
    assert_eq!(select(&all, &["set1"], &[], &keys).unwrap(), [1, 4]);
    assert_eq!(select(&all, &[], &["Dataset000_*", "WORD"], &keys).unwrap(), [1, 2, 4, 5]);
    assert_eq!(select(&all, &["SET?"], &["SET2"], &keys).unwrap(), [0, 1, 3, 4]);
    let error = select(&all, &["SET1", "AMOS"], &[], &keys).unwrap_err();
    assert_eq!(error.to_string(), "include: no dataset matches \"AMOS\"");
    let error = select(&all, &["SAT1"], &[], &keys).unwrap_err();
    assert_eq!(error.to_string(), "include: no dataset matches \"SAT1\"; did you mean \"Dataset001_SET1\"?");
}

#[test]
fn names_to_exclude_that_match_nothing_are_reported() {
    let keys = keys(6);
    let remarks = |exclude: &[&str]| {
        let exclude: Vec<String> = exclude.iter().map(|&name| name.to_owned()).collect();
        remarks_on_exclude(&exclude, &names(&keys))
    };
    assert!(remarks(&["SET0", "dataset001_*", "*"]).is_empty());
    let expected = [
        "exclude: no dataset matches \"SAT1\", which excludes nothing; did you mean \"Dataset001_SET1\"?",
        "exclude: no dataset matches \"WORD\", which excludes nothing",
        "exclude: no dataset matches \"case3\", which excludes nothing; it names a case, and exclude takes datasets: select \
         cases by split",
    ];
    assert_eq!(remarks(&["SAT1", "SET0", "WORD", "case3"]), expected);
}

#[test]
fn list_selects_exactly_its_cases() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let split = Split::List(ListSplit { list: file.path().to_owned() });
    std::fs::write(file.path(), "\u{feff}# two\nDataset000_SET0/case3\n case4 \n # end\n\n").unwrap();
    assert_eq!(select(&split, &[], &[], &keys(6)).unwrap(), [3, 4]);
    let error = select(&split, &[], &[], &keys(4)).unwrap_err();
    assert!(matches!(&error, SelectError::UnknownCase { name, .. } if name == "case4"), "{error}");
    let text = error.to_string();
    assert!(text.ends_with(": no case is named \"case4\""), "{text}");
    std::fs::write(file.path(), "cas3\n").unwrap();
    let text = select(&split, &[], &[], &keys(4)).unwrap_err().to_string();
    assert!(text.ends_with(": no case is named \"cas3\"; did you mean \"Dataset000_SET0/case3\"?"), "{text}");
    std::fs::write(file.path(), "#\n").unwrap();
    assert!(matches!(select(&split, &[], &[], &keys(4)), Err(SelectError::EmptyList { .. })));
    std::fs::write(file.path(), "case9\nDataset000_SET0/case3").unwrap();
    let resolved = Split::Cases(CaseSplit { cases: vec!["Dataset000_SET0/case3".into(), "case9".into()] });
    assert_eq!(split.resolved().unwrap(), resolved);
    assert_eq!(select(&resolved, &[], &[], &keys(12)).unwrap(), [3, 9]);
    let error = select(&resolved, &[], &[], &keys(6)).unwrap_err();
    assert!(matches!(&error, SelectError::NoCase { name, .. } if name == "case9"), "{error}");
    let missing = Split::List(ListSplit { list: file.path().join("missing") });
    assert!(matches!(select(&missing, &[], &[], &keys(4)), Err(SelectError::ReadList { .. })));
}

/// A name cut at `#` would be that of another case.
#[test]
fn a_number_sign_within_a_line_of_a_list_is_a_part_of_the_name() {
    let keys = ["D/scan", "D/scan#2", "D/scan #3"].map(str::to_owned);
    let file = tempfile::NamedTempFile::new().unwrap();
    let split = Split::List(ListSplit { list: file.path().to_owned() });
    let found = |text: &str| {
        std::fs::write(file.path(), text).unwrap();
        select(&split, &[], &[], &keys).map_err(|error| error.to_string())
    };
    assert_eq!(found("# D/scan\nscan#2\nD/scan #3\n"), Ok(vec![1, 2]));
    let text = found("scan # the first one\n").unwrap_err();
    assert!(text.contains(": no case is named \"scan # the first one\""), "{text}");
}

#[test]
fn folds_of_nnunet_are_read() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let split = |fold, of, part| Split::File(FileSplit { splits: file.path().to_owned(), fold, of, part });
    let write = |text: &str| std::fs::write(file.path(), text).unwrap();
    write(
        r#"[{"train": ["case0", "case2"], "val": ["case1"]}, {"train": ["case1"], "val": ["Dataset000_SET0/case0"]}]"#,
    );
    let keys = keys(4);
    assert_eq!(select(&split(0, None, Part::Train), &[], &[], &keys).unwrap(), [0, 2]);
    assert_eq!(select(&split(0, Some(2), Part::Validation), &[], &[], &keys).unwrap(), [1]);
    assert_eq!(select(&split(1, None, Part::Validation), &[], &[], &keys).unwrap(), [0]);
    let error = |split| select(&split, &[], &[], &keys).unwrap_err().to_string();
    assert!(error(split(2, None, Part::Train)).ends_with(": 2 folds; no fold 2"));
    assert!(error(split(0, Some(5), Part::Train)).ends_with(": 2 folds; expected 5"));
    write(r#"[{"train": ["xyz"], "val": ["case1"]}]"#);
    assert!(error(split(0, None, Part::Train)).ends_with("no case is named \"xyz\""));
    write(r#"[{"train": ["case1"], "val": ["case2", "case1"]}]"#);
    assert!(error(split(0, None, Part::Train)).ends_with(": fold 0: case1 is in train and in val"));
    write(r#"[{"train": ["case\n1"], "val": ["case\n1"]}]"#);
    assert!(error(split(0, None, Part::Train)).ends_with(": fold 0: case\\n1 is in train and in val"));
    for (train, val) in [("Dataset000_SET0/case0", "case0"), ("case0", "Dataset000_SET0/case0")] {
        write(&format!(r#"[{{"train": ["case1", "{train}"], "val": ["case2", "{val}"]}}]"#));
        let expected =
            format!(": fold 0: {train} is in train and {val} in val, two names of one case; remove one of them, ");
        for part in [Part::Train, Part::Validation] {
            let text = error(split(0, None, part));
            assert!(text.contains(&expected), "{text}");
        }
    }
    // Cases of one name in two datasets are two cases.
    write(r#"[{"train": ["Dataset000_SET0/case0"], "val": ["B/case0"]}]"#);
    assert_eq!(select(&split(0, None, Part::Train), &[], &[], &keys).unwrap(), [0]);
    write(r#"[{"train": ["case1"], "val": []}]"#);
    assert!(error(split(0, None, Part::Validation)).ends_with(": the list names no case"));
    write(r#"{"train": []}"#);
    assert!(error(split(0, None, Part::Train)).contains(": not a list of folds as nnU-Net writes it: "));
}

/// Tests names without a dataset in all three kinds of lists; two cases of the cache share a name.
#[test]
fn a_name_selects_one_case_or_is_refused() {
    let keys = ["A/case0", "A/case1", "B/case0", "B/case2"].map(str::to_owned);
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = || file.path().to_owned();
    let place = path().display().to_string();
    let check = |names: &[&str], include: &[&str], exclude: &[&str], expected: Result<&[usize], &str>| {
        let texts: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let folds = serde_json::json!([{ "train": texts, "val": [] }]).to_string();
        let splits = [
            (Split::Cases(CaseSplit { cases: texts.clone() }), String::new(), "split"),
            (Split::List(ListSplit { list: path() }), texts.join("\n"), place.as_str()),
            (Split::File(FileSplit { splits: path(), fold: 0, of: None, part: Part::Train }), folds, place.as_str()),
        ];
        for (split, text, origin) in splits {
            std::fs::write(file.path(), text).unwrap();
            let found = select(&split, include, exclude, &keys).map_err(|error| error.to_string());
            let expected = expected.map(<[usize]>::to_vec).map_err(|fault| format!("{origin}: {fault}"));
            assert_eq!(found, expected, "{split:?}");
        }
    };
    check(&["case1", "case2"], &[], &[], Ok(&[1, 3]));
    let ambiguous = "\"case0\" is the name of A/case0 and of B/case0; write DATASET/CASE, or select one dataset with \
                     stream.include";
    check(&["case0", "case1"], &[], &[], Err(ambiguous));
    // Both are meant, or the dataset is clear.
    check(&["A/case0", "B/case0"], &[], &[], Ok(&[0, 2]));
    check(&["case0", "case1"], &["A"], &[], Ok(&[0, 1]));
    check(&["case0"], &[], &["A"], Ok(&[2]));
    let excluded = |name: &str, key: &str| {
        format!(
            "case \"{name}\" is {key}, which stream.include and stream.exclude leave out; remove the name, or select its \
             dataset"
        )
    };
    check(&["case0", "case2"], &["A"], &[], Err(&excluded("case2", "B/case2")));
    check(&["A/case1", "case2"], &[], &["B"], Err(&excluded("case2", "B/case2")));
    check(&["A/case0", "B/case0"], &["A"], &[], Err(&excluded("B/case0", "B/case0")));
    check(&["case0", "case3"], &["A"], &[], Err("no case is named \"case3\""));
}

#[test]
fn shots_train_and_the_other_cases_validate() {
    let keys = keys(9);
    let split = |shots, part, seed| Split::Shots(ShotSplit { shots, part, seed });
    let train = select(&split(2, Part::Train, 1), &["SET1", "SET2"], &[], &keys).unwrap();
    let mut both = select(&split(2, Part::Validation, 1), &["SET1", "SET2"], &[], &keys).unwrap();
    assert_eq!((train.len(), both.len()), (2, 4));
    both.extend(&train);
    both.sort_unstable();
    assert_eq!(both, [1, 2, 4, 5, 7, 8]);
    let differs =
        (2..40).any(|seed| select(&split(2, Part::Train, seed), &["SET1", "SET2"], &[], &keys).unwrap() != train);
    assert!(differs, "no seed changes the choice");
    let error = select(&split(9, Part::Train, 1), &[], &[], &keys).unwrap_err();
    assert!(matches!(error, SelectError::TooManyShots { shots: 9, cases: 9, .. }), "{error}");
    assert!(split(0, Part::Train, 1).fault().is_some());
}

#[test]
fn unlabelled_datasets_change_no_fold_of_labelled_ones() {
    let keys = keys(12);
    let select = |split: &Split, is_usable: &dyn Fn(usize) -> bool| {
        Selector::new(&[], &[], split).unwrap().select(&partly_usable(&keys, is_usable)).unwrap()
    };
    for rule in [FoldRule::Hashed, FoldRule::Dealt] {
        for (fold, part) in (0..5).flat_map(|fold| [(fold, Part::Train), (fold, Part::Validation)]) {
            let split = Split::Fold(FoldSplit { fold, of: 5, part, seed: 0, rule });
            let mut expected = select(&split, &|_| true);
            expected.retain(|case| case % 3 != 1);
            // No case of SET1 has labels.
            assert_eq!(select(&split, &|case| case % 3 != 1), expected, "{split:?}");
        }
    }
}

/// Five of 20 cases have labels.
#[test]
fn folds_and_shots_are_dealt_among_labelled_cases() {
    let keys: Vec<String> = (0..20).map(|case| format!("D/case{case}")).collect();
    let select = |split: &Split| {
        let names = partly_usable(&keys, &|case| case % 4 == 0);
        Selector::new(&[], &[], split).unwrap().select(&names).unwrap()
    };
    let labelled = [0, 4, 8, 12, 16];
    assert_eq!(select(&Split::default()), labelled);
    let fold = |fold, part| Split::Fold(FoldSplit { fold, of: 5, part, seed: 0, rule: FoldRule::Dealt });
    let shots = |part| Split::Shots(ShotSplit { shots: 2, part, seed: 0 });
    let divided = (0..5).map(|number| (fold(number, Part::Train), fold(number, Part::Validation), 4));
    for (train, validation, num_train) in divided.chain([(shots(Part::Train), shots(Part::Validation), 2)]) {
        let (mut cases, held_out) = (select(&train), select(&validation));
        assert_eq!(cases.len(), num_train, "{train:?}");
        cases.extend(held_out);
        cases.sort_unstable();
        assert_eq!(cases, labelled, "{train:?}");
    }
}

#[test]
fn labels_that_are_missing_are_reported() {
    let keys = keys(12);
    let refused = |split: &Split, include: &[&str], is_usable: &dyn Fn(usize) -> bool| {
        let include: Vec<String> = include.iter().map(|&name| name.to_owned()).collect();
        let selector = Selector::new(&include, &[], split).unwrap();
        selector.select(&partly_usable(&keys, is_usable)).unwrap_err().to_string()
    };
    let folds = Split::Fold(FoldSplit { fold: 0, of: 15, part: Part::Train, seed: 0, rule: FoldRule::Dealt });
    let shots = Split::Shots(ShotSplit { shots: 2, part: Part::Train, seed: 0 });
    let none = "none of 12 cases has labels; convert a dataset with labelsTr";
    for split in [&Split::default(), &folds, &shots] {
        assert_eq!(refused(split, &[], &|_| false), none);
    }
    assert_eq!(
        refused(&shots, &["SET1"], &|case| case % 3 == 0),
        "none of 4 cases in the selected datasets has labels; include and exclude leave out 4 cases with labels"
    );
    // The numbers are those of labelled cases.
    assert!(refused(&folds, &[], &|case| case < 3).starts_with("split: 15 folds of 3 labelled cases; "));
    let empty = Split::Fold(FoldSplit { fold: 1, of: 5, part: Part::Validation, seed: 0, rule: FoldRule::Dealt });
    assert!(refused(&empty, &[], &|case| case < 3).starts_with("split: 5 folds of 3 labelled cases; "));
    assert!(refused(&shots, &[], &|case| case < 2).starts_with("split: shots = 2 of 2 labelled cases; "));
    // A named case is not left out.
    let named = ["case0", "case1"].map(str::to_owned);
    let text = "case Dataset001_SET1/case1 has no labels; remove its name, or convert it again with its label map";
    let cases = Split::Cases(CaseSplit { cases: named.to_vec() });
    assert_eq!(refused(&cases, &[], &|case| case == 0), format!("split: {text}"));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), named.join("\n")).unwrap();
    let list = Split::List(ListSplit { list: file.path().to_owned() });
    assert_eq!(refused(&list, &[], &|case| case == 0), format!("{}: {text}", file.path().display()));
}

#[test]
fn splits_parse_as_documented() {
    let parse = |text: &str| serde_json::from_str::<Split>(text);
    assert_eq!(parse(r#""all""#).unwrap(), Split::default());
    let fold = parse(r#"{"fold": 1, "of": 5, "part": "validation"}"#).unwrap();
    let hashed = FoldSplit { fold: 1, of: 5, part: Part::Validation, seed: 0, rule: FoldRule::Hashed };
    assert_eq!(fold, Split::Fold(hashed));
    assert_eq!(fold.fault(), None);
    // Saved configurations that name no rule are compared by their text when a run is resumed.
    assert!(!serde_json::to_string(&fold).unwrap().contains("rule"));
    let dealt = parse(r#"{"fold": 1, "of": 5, "part": "validation", "rule": "dealt"}"#).unwrap();
    assert_eq!(dealt, Split::Fold(FoldSplit { rule: FoldRule::Dealt, ..hashed }));
    let file = parse(r#"{"splits": "a.json", "fold": 1, "part": "train"}"#).unwrap();
    assert_eq!(file, Split::File(FileSplit { splits: "a.json".into(), fold: 1, of: None, part: Part::Train }));
    assert!(parse(r#"{"fold": 5, "of": 5, "part": "train"}"#).unwrap().fault().is_some());
    assert_eq!(parse(r#"{"list": "a.txt"}"#).unwrap(), Split::List(ListSplit { list: "a.txt".into() }));
    assert!(parse(r#"{"fold": 1}"#).unwrap_err().to_string().starts_with("expected \"all\""));
}
