//! Tests of crop centres: uniform over the voxels of their kind, and never on a voxel without annotation.

use hiend_cache::DatasetInfo;

use super::*;

/// Checks that the chi-square statistic of counts against expectations is below its 1 - 10^-5 quantile, approximated by
/// Wilson and Hilferty.
fn check_chi_square(counts: &[(u64, f64)], what: &str) {
    let statistic: f64 = counts.iter().map(|&(n, expected)| (n as f64 - expected).powi(2) / expected).sum();
    let df = (counts.len() - 1) as f64;
    let limit = df * (1.0 - 2.0 / (9.0 * df) + 4.27 * (2.0 / (9.0 * df)).sqrt()).powi(3);
    assert!(statistic < limit, "{what}: {statistic:.1} with {df} degrees of freedom; expected less than {limit:.1}");
}

/// Counts how often each voxel is a centre, using crops of one voxel.
fn centres(cache: &Arc<Cache>, sample_by: SampleBy, case: &TestCase) -> Vec<u64> {
    let config = StreamConfig {
        crop_size: [1; 3],
        crops_per_visit: 20_000,
        visits_per_batch: 1,
        ..config(sample_by, Chain::plain())
    };
    let mut counts = vec![0; case.image.len()];
    for batch in batches(cache, &config, &options(2, (0, 1)), 0, 4) {
        for (crop, &value) in batch.crops.iter().zip(batch.to_floats().iter()) {
            let [x, y, z] = crop.origin.map(|at| usize::try_from(at).unwrap());
            let at = (x * case.shape[1] + y) * case.shape[2] + z;
            counts[at] += 1;
            assert!((f32::from(case.image[at]) / 425.0 - value).abs() < 1e-6, "the record names another voxel");
        }
    }
    counts
}

#[test]
fn centres_are_uniform_over_the_voxels_of_their_kind() {
    let dir = tempfile::tempdir().unwrap();
    let case = TestCase::new(0, [9, 7, 11]);
    let cache = write_cache(dir.path(), "D", std::slice::from_ref(&case));
    for sample_by in [SampleBy::Intensity, SampleBy::Label, SampleBy::Class] {
        let counts = centres(&cache, sample_by, &case);
        let draws: u64 = counts.iter().sum();
        // Voxels of each kind, by brute force.
        let mut voxels: BTreeMap<u32, u64> = BTreeMap::new();
        for at in 0..case.image.len() {
            *voxels.entry(case.kind(at, sample_by)).or_default() += 1;
        }
        let foreground: u64 = voxels.range(1..).map(|(_, n)| n).sum();
        let classes = voxels.range(1..).count() as f64;
        let expected = |kind: u32| {
            let share = match (sample_by, kind) {
                (_, 0) => 0.25 / voxels[&0] as f64,
                (SampleBy::Class, kind) => 0.75 / classes / voxels[&kind] as f64,
                _ => 0.75 / foreground as f64,
            };
            draws as f64 * share
        };
        let of_kind = |wanted: u32| -> Vec<(u64, f64)> {
            let kinds = (0..case.image.len()).map(|at| case.kind(at, sample_by));
            kinds.zip(&counts).filter(|(kind, _)| *kind == wanted).map(|(kind, &n)| (n, expected(kind))).collect()
        };
        for &kind in voxels.keys() {
            check_chi_square(&of_kind(kind), &format!("{sample_by:?}, kind {kind}"));
        }
        // The rates of the kinds.
        let totals: Vec<(u64, f64)> = voxels
            .keys()
            .map(|&kind| of_kind(kind).iter().fold((0, 0.0), |(n, e), &(count, expected)| (n + count, e + expected)))
            .collect();
        check_chi_square(&totals, &format!("{sample_by:?}, kinds"));
    }
}

#[test]
fn missing_kind_is_replaced_by_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut case = TestCase::new(0, [9, 7, 11]);
    case.image.fill(3);
    case.label.fill(0);
    let cache = write_cache(dir.path(), "D", std::slice::from_ref(&case));
    for sample_by in [SampleBy::Intensity, SampleBy::Label, SampleBy::Class] {
        let counts = centres(&cache, sample_by, &case);
        let expected = counts.iter().sum::<u64>() as f64 / counts.len() as f64;
        check_chi_square(&counts.iter().map(|&n| (n, expected)).collect::<Vec<_>>(), &format!("{sample_by:?}"));
    }
}

#[test]
fn no_crop_is_centred_on_a_voxel_without_annotation() {
    let dir = tempfile::tempdir().unwrap();
    write_cache(dir.path(), "D", &some_cases(5));
    let seen = |ignore_label: Option<u8>, sample_by| -> BTreeSet<u8> {
        let cache = Arc::new(Cache::open(dir.path()).unwrap());
        // Crops of one voxel are their centre.
        let one =
            StreamConfig { crop_size: [1; 3], foreground_rate: 1.0, ignore_label, ..config(sample_by, Chain::plain()) };
        let batches = batches(&cache, &one, &options(2, (0, 1)), 0, 40);
        batches.iter().flat_map(|batch| batch.to_labels().unwrap().to_vec()).collect()
    };
    for sample_by in [SampleBy::Label, SampleBy::Class] {
        assert_eq!(seen(None, sample_by), [1, 3].into());
        assert_eq!(seen(Some(3), sample_by), [1].into());
    }
    // The dataset's own ignore label.
    let mut manifest = Manifest::read(dir.path()).unwrap();
    manifest.datasets.insert("D".to_owned(), DatasetInfo { ignore: Some(1), ..DatasetInfo::default() });
    manifest.write(dir.path()).unwrap();
    for sample_by in [SampleBy::Label, SampleBy::Class] {
        assert_eq!(seen(None, sample_by), [3].into());
    }
}
