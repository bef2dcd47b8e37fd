use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU64, Ordering};

use hiend_cache::{CodecPreset, DatasetInfo, Geometry, Manifest, NewCase, ShardWriter, SourceFiles, encode};

use super::*;
use crate::preprocess::PreprocessConfig;
use crate::split::{FileSplit, Part, Split};

/// Cache of three small cases.
fn cache() -> (tempfile::TempDir, Arc<Cache>) {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = ShardWriter::create(dir.path(), 1, 0).unwrap();
    let image: Vec<u16> = (0..600).map(|i| i % 426).collect();
    for case_id in ["a", "b", "c"] {
        let case = NewCase {
            dataset: "D".into(),
            case_id: case_id.into(),
            shape: [10, 10, 6],
            image: &image,
            image_bits: 9,
            image_offset: -175.0,
            image_scale: 1.0,
            foreground_above: 0,
            label: None,
            geometry: Geometry::identity([10, 10, 6]),
            source: SourceFiles::default(),
            parameters: String::new(),
        };
        writer.push(encode(&case, [4; 3], CodecPreset::Fast).unwrap()).unwrap();
    }
    writer.finish().unwrap();
    let preprocess = serde_json::to_value(PreprocessConfig::default()).unwrap();
    Manifest { preprocess, ..Manifest::default() }.write(dir.path()).unwrap();
    let cache = Arc::new(Cache::open(dir.path()).unwrap());
    (dir, cache)
}

fn loader(cache: &Arc<Cache>, threads: usize, hooks: Hooks) -> Loader {
    let config = StreamConfig { crop_size: [4; 3], crops_per_visit: 2, visits_per_batch: 4, ..StreamConfig::default() };
    let options = LoaderOptions { threads, memory_bytes: 64 << 20, ..LoaderOptions::default() };
    let mut loader = Loader::open(Arc::clone(cache), config, 1, &options).unwrap();
    Arc::get_mut(&mut loader.shared).unwrap().hooks = hooks;
    loader
}

/// Cache with one labelled case of dataset D, whose classes `info` describes.
fn labelled(info: DatasetInfo) -> (Arc<Cache>, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = ShardWriter::create(dir.path(), 1, 0).unwrap();
    let (image, label) = ([100_u16; 64], [1_u8; 64]);
    let mut case = NewCase::new("D", "a", [4; 3], &image);
    case.image_bits = 9;
    case.image_offset = -175.0;
    case.label = Some(&label);
    writer.push(encode(&case, [4; 3], CodecPreset::Fast).unwrap()).unwrap();
    writer.finish().unwrap();
    let datasets = BTreeMap::from([("D".to_owned(), info)]);
    let preprocess = serde_json::to_value(PreprocessConfig::default()).unwrap();
    Manifest { preprocess, datasets, ..Manifest::default() }.write(dir.path()).unwrap();
    (Arc::new(Cache::open(dir.path()).unwrap()), dir)
}

#[test]
fn the_label_to_ignore_is_part_of_the_digest_of_a_stream_with_labels() {
    let (plain, _dir) = labelled(DatasetInfo::default());
    let (ignoring, _dir_of_ignoring) = labelled(DatasetInfo { ignore: Some(5), ..DatasetInfo::default() });
    let digest = |cache: &Arc<Cache>, labels: bool, ignore_label: Option<u8>| {
        let config = StreamConfig { ignore_label, labels, ..StreamConfig::default() };
        digest_of(cache, &config).unwrap()
    };
    let of_cases = plain.digest();
    assert_eq!(ignoring.digest(), of_cases);
    assert_eq!(digest(&plain, true, None), of_cases);
    assert_ne!(digest(&ignoring, true, None), of_cases);
    // The label counts, not the place that names it.
    assert_eq!(digest(&plain, true, Some(5)), digest(&ignoring, true, None));
    assert_ne!(digest(&ignoring, true, Some(6)), digest(&ignoring, true, None));
    // Crops without labels do not depend on it.
    assert_eq!(digest(&ignoring, false, None), of_cases);
    assert_eq!(digest(&plain, false, Some(5)), of_cases);
}

/// Cache of cases, given by dataset, name and whether they have labels.
fn cache_of(cases: &[(&str, &str, bool)]) -> (Arc<Cache>, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = ShardWriter::create(dir.path(), 1, 0).unwrap();
    let (image, label) = ([100_u16; 64], [1_u8; 64]);
    for &(dataset, case_id, has_labels) in cases {
        let mut case = NewCase::new(dataset, case_id, [4; 3], &image);
        case.image_bits = 9;
        case.image_offset = -175.0;
        if has_labels {
            case.label = Some(&label);
        }
        writer.push(encode(&case, [4; 3], CodecPreset::Fast).unwrap()).unwrap();
    }
    writer.finish().unwrap();
    let preprocess = serde_json::to_value(PreprocessConfig::default()).unwrap();
    Manifest { preprocess, ..Manifest::default() }.write(dir.path()).unwrap();
    (Arc::new(Cache::open(dir.path()).unwrap()), dir)
}

/// Cases of two caches by name and hash of their image.
#[test]
fn scans_in_both_parts_of_a_split_are_reported_over_several_caches() {
    let of = |cases: &[(&str, &str)]| {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = ShardWriter::create(dir.path(), 1, 0).unwrap();
        let image = [100_u16; 64];
        for &(case_id, hash) in cases {
            let mut case = NewCase::new("D", case_id, [4; 3], &image);
            case.image_bits = 9;
            case.image_offset = -175.0;
            case.source.image_blake3 = hash.into();
            writer.push(encode(&case, [4; 3], CodecPreset::Fast).unwrap()).unwrap();
        }
        writer.finish().unwrap();
        let preprocess = serde_json::to_value(PreprocessConfig::default()).unwrap();
        Manifest { preprocess, ..Manifest::default() }.write(dir.path()).unwrap();
        (Cache::open(dir.path()).unwrap(), dir)
    };
    let (first, _dir) = of(&[("a", "1"), ("b", "2")]);
    let (second, _dir_of_second) = of(&[("x", "1"), ("y", "2")]);
    let (other, _dir_of_other) = of(&[("x", "3"), ("y", "4")]);
    let file = tempfile::NamedTempFile::new().unwrap();
    let remark = |caches: [&Cache; 2], folds: &str, part| {
        std::fs::write(file.path(), folds).unwrap();
        let split = Split::File(FileSplit { splits: file.path().to_owned(), fold: 0, of: None, part });
        remark_on_shared_scans(caches, &StreamConfig { split, ..StreamConfig::default() })
    };
    // Names that a cache does not hold leave it out.
    assert_eq!(remark([&first, &second], r#"[{"train": ["a"], "val": ["y"]}]"#, Part::Train), None);
    let shared = remark([&first, &second], r#"[{"train": ["a"], "val": ["x"]}]"#, Part::Train).unwrap();
    assert!(shared.starts_with("split: train and validation share 1 scan, such as D/a, whose image is that of D/x;"));
    let shared = remark([&first, &second], r#"[{"train": ["a"], "val": ["x"]}]"#, Part::Validation).unwrap();
    assert!(shared.contains("such as D/x, whose image is that of D/a;"), "{shared}");
    assert_eq!(remark([&first, &other], r#"[{"train": ["a"], "val": ["x"]}]"#, Part::Train), None);
    assert_eq!(remark_on_shared_scans([&first, &second], &StreamConfig::default()), None);
}

#[test]
fn a_stream_with_labels_leaves_out_unlabelled_cases_with_a_remark() {
    let all = [("A", "a", true), ("A", "b", false), ("B", "c", false), ("B", "d", false), ("C", "e", true)];
    let (cache, _dir) = cache_of(&all);
    let of = |include: &[&str], labels: bool| {
        let include = include.iter().map(|&name| name.to_owned()).collect();
        StreamConfig { labels, include, ..StreamConfig::default() }
    };
    let taken = |config: &StreamConfig| {
        let (cases, _) = cases_of(&cache, config).unwrap();
        cases.into_iter().map(|case| cache.cases()[case].key().to_owned()).collect::<BTreeSet<String>>()
    };
    let remark = |config: &StreamConfig| remark_on_labels([&*cache], config);
    assert_eq!(taken(&of(&[], true)), ["A/a", "C/e"].map(str::to_owned).into());
    assert_eq!(remark(&of(&[], true)).unwrap(), "labels: 2 of 5 cases have labels; the others are left out");
    assert_eq!(remark(&of(&["A"], true)).unwrap(), "labels: 1 of 2 cases has labels; the others are left out");
    // Nothing is left out.
    assert_eq!(taken(&of(&[], false)).len(), 5);
    for config in [of(&[], false), of(&["C"], true)] {
        assert_eq!(remark(&config), None, "{config:?}");
    }
    // Without a label, the stream is not opened.
    assert_eq!(remark(&of(&["B"], true)), None);
    let error = digest_of(&cache, &of(&["B"], true)).unwrap_err().to_string();
    assert!(error.contains("none of 2 cases in the selected datasets has labels"), "{error}");
    // The digest does not depend on the cases that are left out, and that of a cache whose cases all have labels is its own.
    let (other, _dir_of_other) = cache_of(&[all[0], all[1], all[4]]);
    let digest = |cache: &Arc<Cache>| digest_of(cache, &of(&[], true)).unwrap();
    assert_eq!(digest(&cache), digest(&other));
    let (labelled, _dir_of_labelled) = cache_of(&[all[0], all[4]]);
    assert_eq!(digest(&labelled), labelled.digest());
}

#[test]
fn a_digest_names_cases_also_after_others_were_added() {
    let all = [("A", "a", true), ("A", "b", true), ("B", "c", true)];
    let ((small, _dir), (large, _dir_of_large)) = (cache_of(&all[..2]), cache_of(&all));
    let open = |cache: &Arc<Cache>, include: &str| {
        let config = StreamConfig {
            crop_size: [4; 3],
            crops_per_visit: 1,
            visits_per_batch: 1,
            include: vec![include.to_owned()],
            ..StreamConfig::default()
        };
        let options = LoaderOptions { threads: 1, memory_bytes: 64 << 20, ..LoaderOptions::default() };
        Loader::open(Arc::clone(cache), config, 1, &options).unwrap()
    };
    let (before, after, grown, other) = (open(&small, "A"), open(&large, "A"), open(&large, "*"), open(&large, "B"));
    assert_ne!(before.digest(), after.digest());
    for (loader, recorded) in [(&before, &before), (&before, &after), (&after, &before), (&after, &after)] {
        assert!(loader.has_digest(&recorded.digest()));
    }
    for (loader, recorded) in
        [(&grown, &before), (&grown, &after), (&before, &grown), (&after, &grown), (&other, &after)]
    {
        assert!(!loader.has_digest(&recorded.digest()));
    }
    assert_eq!(after.cases().collect::<Vec<_>>(), ["A/a", "A/b"]);
}

#[test]
fn caches_that_name_the_classes_of_a_dataset_differently_are_not_mixed() {
    let of_class = |class: &str| {
        let labels = BTreeMap::from([(0, "background".to_owned()), (1, class.to_owned())]);
        labelled(DatasetInfo { labels, ..DatasetInfo::default() })
    };
    let [(liver, _dir), (same, _dir_of_same), (spleen, _dir_of_spleen)] = ["liver", "liver", "spleen"].map(of_class);
    let open = |other: &Arc<Cache>, labels: bool| {
        let config = StreamConfig {
            crop_size: [4; 3],
            crops_per_visit: 1,
            visits_per_batch: 2,
            labels,
            ..StreamConfig::default()
        };
        let options = LoaderOptions { threads: 1, memory_bytes: 64 << 20, ..LoaderOptions::default() };
        Loader::open_mix(vec![(Arc::clone(&liver), 1), (Arc::clone(other), 1)], config, 1, &options)
    };
    let error = open(&spleen, true).err().unwrap().to_string();
    assert!(error.contains("class 1 is \"liver\" in ") && error.contains("and \"spleen\" here"), "{error}");
    assert!(open(&same, true).is_ok());
    // Without labels, their names do not count.
    assert!(open(&spleen, false).is_ok());
}

#[test]
fn panic_in_a_visit_ends_the_stream_at_its_step_with_the_message() {
    // Unwinds without the message that the hook of a panic would print.
    fn before_visit(visit: u64) {
        if visit == 9 {
            resume_unwind(Box::new(format!("visit {visit}")));
        }
    }
    let (_dir, cache) = cache();
    for threads in [1, 2, 7] {
        let loader = loader(&cache, threads, Hooks { before_visit, ..Hooks::default() });
        let mut stream = loader.stream(0);
        for step in 0..2 {
            assert_eq!(stream.next().unwrap().unwrap().step, step);
        }
        let error = stream.next().unwrap().unwrap_err();
        assert!(matches!(&error, Error::Panicked { message } if message == "visit 9"), "{error}");
        assert!(stream.next().is_none());
        // Another stream of the same loader is not affected.
        assert_eq!(loader.stream(3).next().unwrap().unwrap().step, 3);
    }
}

#[test]
fn panic_while_reading_ahead_ends_the_stream_with_the_message() {
    fn before_advice(_: u64) {
        resume_unwind(Box::new("advice"));
    }
    let (_dir, cache) = cache();
    let loader = loader(&cache, 2, Hooks { before_advice, ..Hooks::default() });
    let error = loader.stream(0).find_map(Result::err).unwrap();
    assert!(matches!(&error, Error::Panicked { message } if message == "advice"), "{error}");
}

#[test]
fn stream_of_a_range_ends_with_it_and_touches_no_later_visit() {
    static LAST: AtomicU64 = AtomicU64::new(0);
    fn note(visit: u64) {
        LAST.fetch_max(visit, Ordering::Relaxed);
    }
    let (_dir, cache) = cache();
    let loader = loader(&cache, 2, Hooks { before_visit: note, before_advice: note });
    let visits = loader.num_visits() as u64;
    let digests = |range| loader.stream_range(range).map(|batch| batch.unwrap().digest()).collect::<Vec<_>>();
    let part = digests(2..5);
    assert_eq!(LAST.load(Ordering::Relaxed), 5 * visits - 1);
    assert_eq!(part.len(), 3);
    assert_eq!(part, loader.stream(2).take(3).map(|batch| batch.unwrap().digest()).collect::<Vec<_>>());
    assert_eq!(digests(3..3).len(), 0);
}

#[test]
fn steps_whose_visits_have_no_number_are_refused() {
    let (_dir, cache) = cache();
    let loader = loader(&cache, 1, Hooks::default());
    for step in [STEPS, 1 << 62, u64::MAX] {
        let mut stream = loader.stream(step);
        let error = stream.next().unwrap().unwrap_err().to_string();
        assert!(error.contains("start_step") && error.contains(&step.to_string()), "{error}");
        assert!(stream.next().is_none());
    }
    assert_eq!(loader.stream(STEPS - 1).next().unwrap().unwrap().step, STEPS - 1);
}

#[test]
fn messages_of_panics_are_kept() {
    let message = |panic: fn() -> Result<(), Error>| catch_bug(panic).unwrap_err().to_string();
    assert!(message(|| resume_unwind(Box::new("text"))).ends_with(": text"));
    assert!(message(|| resume_unwind(Box::new(String::from("string")))).ends_with(": string"));
    assert!(message(|| resume_unwind(Box::new(7))).ends_with(": a panic without a message"));
    assert!(catch_bug(|| Ok(3)).is_ok_and(|value| value == 3));
}

#[test]
fn ranks_must_share_a_batch_evenly() {
    let (_dir, cache) = cache();
    let config = StreamConfig { crop_size: [4; 3], visits_per_batch: 6, ..StreamConfig::default() };
    for (rank, allowed) in [((0, 1), true), ((2, 3), true), ((3, 3), false), ((0, 4), false), ((0, 0), false)] {
        let options = LoaderOptions { threads: 1, memory_bytes: 64 << 20, rank, ..LoaderOptions::default() };
        let opened = Loader::open(Arc::clone(&cache), config.clone(), 1, &options);
        assert_eq!(opened.is_ok(), allowed, "{rank:?}");
        assert!(allowed || matches!(opened.err(), Some(Error::Share { visits: 6, .. })));
    }
}

#[test]
fn buffers_beyond_the_memory_of_the_system_are_an_error() {
    let (_dir, cache) = cache();
    // 2^46 bytes per batch: two exceed the address space of a process, whatever the system promises.
    let config =
        StreamConfig { crop_size: [1024; 3], crops_per_visit: 1024, visits_per_batch: 16, ..StreamConfig::default() };
    let options = LoaderOptions { threads: 1, memory_bytes: 1 << 48, ..LoaderOptions::default() };
    let mut stream = Loader::open(cache, config, 1, &options).unwrap().stream(0);
    assert!(matches!(stream.next(), Some(Err(Error::NoMemory { bytes })) if bytes >= 1 << 47));
    assert!(stream.next().is_none());
}
