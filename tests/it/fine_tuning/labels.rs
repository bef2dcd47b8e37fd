//! Tests of labels, regions and ignored voxels in fine-tuning and its validation.

use super::*;

/// Cache of `data`, with these labels instead of its dataset's.
fn with_labels(data: &Data, labels: &[(u8, &str)]) -> Arc<Cache> {
    let dir = data.path("cache");
    Manifest::update(&dir, |manifest| {
        let info = manifest.datasets.get_mut("Dataset007_Phantoms").unwrap();
        info.labels = labels.iter().map(|&(label, name)| (label, name.to_owned())).collect();
    })
    .unwrap();
    Arc::new(Cache::open(&dir).unwrap())
}

/// Names of labels; phantoms hold the labels 0 to 5.
const NAMED: [(u8, &str); 5] =
    [(0, "background"), (1, "liver"), (2, "spleen"), (3, "right kidney"), (4, "left kidney")];

#[test]
fn labels_that_nothing_names_are_refused_before_the_first_step() {
    let data = data(2);
    let refuse = |labels: &[(u8, &str)], classes: &[&str], expected: &str| {
        let config = FinetuneConfig { classes: classes.iter().map(|&name| name.to_owned()).collect(), ..finetune() };
        let error = Finetuning::new(config, &with_labels(&data, labels), Init::Random).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    refuse(
        &NAMED,
        &[],
        "of label 5, which is not a class of the dataset.json of Dataset007_Phantoms; the classes are 0 to 4",
    );
    // Between named labels, as where dataset.json lists regions.
    let gap = [NAMED[0], NAMED[1], NAMED[2], (3, "kidneys"), (5, "spine")];
    refuse(
        &gap,
        &[],
        "of label 4, which is not a class of the dataset.json of Dataset007_Phantoms; it names the labels 0, 1, 2, 3, 5",
    );
    refuse(&NAMED[1..], &[], "dataset Dataset007_Phantoms does not name label 0, of which case");
    refuse(
        &[],
        &["background", "liver", "spleen"],
        "of label 3, which is not a class of the configuration; the classes are",
    );
}

/// Changes the label maps of `data` and converts it again.
fn relabelled(data: Data, change: impl Fn(u8) -> u8) -> Data {
    for path in std::fs::read_dir(data.path("raw/Dataset007_Phantoms/labelsTr")).unwrap() {
        let path = path.unwrap().path();
        let label = read_labels(&path).unwrap();
        let voxels: Vec<u8> = label.voxels.iter().map(|&value| change(value)).collect();
        write_like(&path, &label.info, &voxels).unwrap();
    }
    let (raw, out) = (data.path("raw"), data.path("relabelled"));
    let config = PreprocessConfig { spacing: Some([6.0; 3]), ..PreprocessConfig::default() };
    Conversion::new(&raw, &dataset::find(&raw).unwrap(), &out).config(config).run().unwrap();
    let cache = Arc::new(Cache::open(&out).unwrap());
    Data { dir: data.dir, cache }
}

#[test]
fn validation_without_foreground_is_reported_and_chooses_no_best_checkpoint() {
    let data = relabelled(data(2), |_| 0);
    let task = data.finetuning(finetune(), Init::Random);
    let told = |text: &str| task.warnings.iter().filter(|warning| warning.contains(text)).count();
    assert_eq!(told("no foreground in the validation cases"), 1, "{:?}", task.warnings);
    assert_eq!(told("1 (liver), 2 (spleen)"), 1, "{:?}", task.warnings);
    let (summary, validations) = data.run(&task, &options(&data.path("run"), 3, false));
    assert_eq!(validations.len(), 1);
    assert!(validations[0].mean_fg_dice.is_nan() && !validations[0].best, "{:?}", validations[0]);
    assert_eq!(summary.best, None);
    // The run continues, and what reads its journal finds the steps.
    data.run(&task, &options(&data.path("run"), 4, true));
    let history = History::read(&data.path("run/journal.jsonl")).unwrap();
    assert_eq!((history.loss.points().len(), history.mean_fg_dice.points().len()), (4, 0));
    assert!(!history.mean_dice.points().is_empty());
    draw_curves(&history, &data.path("run"), &data.path("curves.png")).unwrap();
}

#[test]
fn datasets_with_regions_are_refused_unless_the_configuration_lists_classes() {
    let data = data(2);
    let dir = data.path("cache");
    Manifest::update(&dir, |manifest| {
        let info = manifest.datasets.get_mut("Dataset007_Phantoms").unwrap();
        info.regions.insert("kidneys".to_owned(), vec![3, 4]);
    })
    .unwrap();
    let cache = Arc::new(Cache::open(&dir).unwrap());
    let error = Finetuning::new(finetune(), &cache, Init::Random).unwrap_err().to_string();
    assert!(error.starts_with("dataset Dataset007_Phantoms defines regions (kidneys)"), "{error}");
    let config = FinetuneConfig { classes: (0..6).map(|class| format!("class {class}")).collect(), ..finetune() };
    Finetuning::new(config, &cache, Init::Random).unwrap();
}

#[test]
fn the_ignore_label_has_no_part_in_training_and_validation() {
    let data = data(2);
    let cache = with_labels(&data, &[&NAMED[..], &[(5, "ignore")]].concat());
    let data = Data { dir: data.dir, cache };
    let task = data.finetuning(finetune(), Init::Random);
    assert_eq!((task.config().classes.len(), task.config().ignore_label), (5, Some(5)));
    let (summary, validations) = data.run(&task, &options(&data.path("run"), 3, false));
    assert!(summary.losses.iter().all(|loss| loss.is_finite()), "{:?}", summary.losses);
    assert_eq!(validations[0].dice_per_class.len(), 5);
    // The configuration is saved with the label, and the run continues with it.
    let (summary, _) = data.run(&task, &options(&data.path("run"), 4, true));
    assert_eq!(summary.step, 4);
}

#[test]
fn weights_of_other_classes_are_reported() {
    let data = data(2);
    let task = data.finetuning(finetune(), Init::Random);
    data.run(&task, &options(&data.path("run"), 1, false));
    let told = |cache: &Arc<Cache>| {
        let init = Init::read(&data.path("run")).unwrap();
        let warnings = Finetuning::new(finetune(), cache, init).unwrap().warnings;
        warnings.into_iter().filter(|warning| warning.contains("each class begins with")).collect::<Vec<_>>()
    };
    assert_eq!(told(&data.cache), [""; 0]);
    let other = with_labels(&data, &[&NAMED[..], &[(5, "pancreas")]].concat());
    let told = told(&other);
    assert!(told.len() == 1 && told[0].contains("pancreas") && told[0].contains("spine"), "{told:?}");
}
