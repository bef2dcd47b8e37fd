use super::*;

fn map(voxels: &[u8]) -> LabelMap<'_> {
    LabelMap::new(voxels, [1, 1, voxels.len()], [1.0, 1.0, 2.0]).unwrap()
}

/// Evaluation of two cases of 1 x 1 x 4 voxels; in the second, one class is missed and the other shifted.
pub(in crate::metric) fn evaluation() -> Evaluation {
    let names = ["background", "liver, whole", "spleen"];
    let space = LabelSpace::new(3);
    let case = |id: &str, label: &[u8], pred: &[u8]| {
        evaluate_case(id, &map(label), &map(pred), space, &Conventions::default()).unwrap()
    };
    Evaluation {
        class_names: (0..).zip(names.map(str::to_owned)).collect(),
        conventions: Conventions::default(),
        bootstrap: Bootstrap { resamples: 100, seed: 0 },
        cases: vec![case("a", &[0, 1, 1, 0], &[0, 1, 1, 0]), case("b", &[0, 1, 0, 2], &[0, 0, 1, 0])],
    }
}

#[test]
fn csv_has_a_line_for_every_case_and_class() {
    let csv = evaluation().to_csv();
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines.len(), 1 + 2 * 3);
    assert_eq!(lines[1], "a,0,background,1,,,,,,");
    assert_eq!(lines[2], "a,1,\"liver, whole\",1,1,0,0,0,0,1");
    assert_eq!(lines[3], "a,2,spleen,,,,,,,1");
    assert_eq!(lines[5], "b,1,\"liver, whole\",0,0,2,2,0,0,1");
    // One voxel of 2 mm³ is missed.
    assert_eq!(lines[6], "b,2,spleen,0,0,,,-0.002,-100,1");
}

#[test]
fn numbers_between_classes_are_in_no_list() {
    let mut evaluation = evaluation();
    evaluation.class_names.remove(&1);
    assert!(evaluation.to_csv().lines().skip(1).all(|line| line.split(',').nth(1) != Some("1")));
    let json = evaluation.to_json();
    assert_eq!(json["classes"], serde_json::json!(["background", "spleen"]));
    assert_eq!((&json["means"][1]["class"], &json["means"][1]["num_missed"]), (&2.into(), &1.into()));
    let classes = json["cases"][1]["classes"].as_array().unwrap();
    assert_eq!((classes.len(), &classes[1]["class"], &classes[1]["missed"]), (2, &2.into(), &true.into()));
}

#[test]
fn json_has_null_where_nothing_was_measured() {
    let json = evaluation().to_json();
    assert_eq!(json["classes"], serde_json::json!(["background", "liver, whole", "spleen"]));
    assert_eq!((&json["mean_fg_dice"], &json["tolerance_mm"]), (&0.5.into(), &1.0.into()));
    let class = |case: usize, class: usize| json["cases"][case]["classes"][class].clone();
    let expected = serde_json::json!({
        "class": 2, "dice": 0.0, "surface_dice": 0.0, "hd95_mm": null, "assd_mm": null, "volume_diff_ml": -0.002,
        "volume_diff_percent": -100.0, "missed": true, "only_predicted": false
    });
    assert_eq!(class(1, 2), expected);
    assert_eq!((&class(0, 2)["dice"], &class(0, 2)["missed"]), (&serde_json::Value::Null, &false.into()));
    assert_eq!(class(0, 1)["hd95_mm"], serde_json::json!(0.0));
    let means = &json["means"][1];
    assert_eq!(means["dice"], serde_json::json!({ "mean": 0.5, "interval": [0.0, 1.0], "num_cases": 2 }));
    assert_eq!(
        (&json["means"][2]["num_missed"], &json["means"][2]["hd95_mm"]["mean"]),
        (&1.into(), &serde_json::Value::Null)
    );
}

#[test]
fn each_class_has_its_tolerance() {
    let tolerances = Tolerances { default_mm: 1.0, by_class: [(2, 2.0)].into() };
    let conventions = Conventions { tolerances, ..Conventions::default() };
    // Both classes lie one voxel of 2 mm off.
    let case = evaluate_case("a", &map(&[0, 1, 0, 2, 0]), &map(&[1, 0, 0, 0, 2]), LabelSpace::new(3), &conventions);
    let surface_dice: Vec<String> =
        case.unwrap().classes.iter().skip(1).map(|class| format!("{:.3}", class.surface_dice)).collect();
    assert_eq!(surface_dice, ["0.000", "1.000"]);
}

#[test]
fn a_class_that_only_the_prediction_has_counts_by_the_convention() {
    let of = |absent| {
        let conventions = Conventions { absent, ..Conventions::default() };
        let case = evaluate_case("a", &map(&[0, 0, 1]), &map(&[0, 2, 1]), LabelSpace::new(3), &conventions);
        format!("{:.3}", case.unwrap().mean_fg_dice())
    };
    assert_eq!([of(Absent::Monai), of(Absent::NnUnet)], ["1.000", "0.500"]);
}

#[test]
fn a_class_that_only_the_prediction_has_is_not_missed() {
    let conventions = Conventions::default();
    let case = evaluate_case("c", &map(&[0, 1, 0, 0]), &map(&[0, 1, 2, 0]), LabelSpace::new(3), &conventions);
    let evaluation = Evaluation { cases: vec![case.unwrap()], ..evaluation() };
    let json = evaluation.to_json();
    let means = &json["means"][2];
    assert_eq!((&means["num_missed"], &means["num_only_predicted"]), (&0.into(), &1.into()));
    let class = &json["cases"][0]["classes"][2];
    assert_eq!((&class["missed"], &class["only_predicted"]), (&false.into(), &true.into()));
    let table = evaluation.to_table(None);
    let row: Vec<&str> = table.lines().nth(3).unwrap().split_whitespace().collect();
    assert_eq!((row[0], row[1], &row[row.len() - 2..]), ("spleen", "0", &["0", "1"][..]), "{table}");
    // The case has a surface Dice for the class, but no Dice.
    assert_eq!((&means["dice"]["num_cases"], &means["surface_dice"]["num_cases"]), (&0.into(), &1.into()));
    assert_eq!(row[4..8], ["0.0000", "of", "1", "case"], "{table}");
    let of_nnunet = Conventions { absent: Absent::NnUnet, ..Conventions::default() };
    let case = evaluate_case("c", &map(&[0, 1, 0, 0]), &map(&[0, 1, 2, 0]), LabelSpace::new(3), &of_nnunet);
    let table = Evaluation { cases: vec![case.unwrap()], ..evaluation }.to_table(None);
    let row: Vec<&str> = table.lines().nth(3).unwrap().split_whitespace().collect();
    assert_eq!((row[1], row[2], row[4]), ("1", "0.0000", "0.0000"), "{table}");
}

#[test]
fn regions_unite_their_labels() {
    let region = |name: &str, labels: &[u8]| Region { name: name.to_owned(), labels: labels.to_vec() };
    let regions = [region("background", &[0]), region("core", &[2]), region("whole", &[1, 2])];
    let space = LabelSpace::new(3).with_ignore(Some(3));
    let (label, pred) = ([0, 1, 2, 2, 3, 0], [0, 2, 2, 1, 2, 1]);
    let case = evaluate_regions("a", &map(&label), &map(&pred), space, &regions, &Conventions::default()).unwrap();
    let dice: Vec<f64> = case.classes.iter().map(|class| class.dice).collect();
    // Without the ignored voxel: core 1 of 2 and 2, whole 3 of 3 and 4, background 1 of 2 and 1.
    let expected = [2.0 / 3.0, 0.5, 6.0 / 7.0];
    assert!(dice.iter().zip(expected).all(|(got, want)| (got - want).abs() < 1e-12), "{dice:?}");
    assert!(case.classes[0].hd95_mm.is_nan() && case.classes[2].hd95_mm.is_finite());
    let error =
        evaluate_regions("a", &map(&[0, 4]), &map(&[0, 0]), space, &regions, &Conventions::default()).unwrap_err();
    assert!(error.to_string().contains("label 4 is out of range"), "{error}");
}

#[test]
fn ignored_voxels_count_for_no_metric() {
    let space = LabelSpace::new(3).with_ignore(Some(7));
    let with =
        evaluate_case("a", &map(&[0, 1, 1, 7, 7]), &map(&[0, 1, 0, 2, 1]), space, &Conventions::default()).unwrap();
    // Class 2 is predicted at an ignored voxel only, so neither map has it.
    let without =
        evaluate_case("a", &map(&[0, 1, 1, 0, 0]), &map(&[0, 1, 0, 0, 0]), space, &Conventions::default()).unwrap();
    for class in [1, 2] {
        let (with, without) = (with.classes[class], without.classes[class]);
        let values = |m: ClassMetrics| [m.dice, m.surface_dice, m.hd95_mm].map(f64::to_bits);
        assert_eq!(values(with), values(without), "class {class}: {with:?} and {without:?}");
    }
    assert!((with.classes[0].dice - 2.0 / 3.0).abs() < 1e-12, "{:?}", with.classes[0]);
}
