//! Several folders converted into one cache.

use std::path::Path;

use hiend_loader::phantom::{PhantomConfig, write_dataset};

use super::{Place, SPACING, check, voxels};

#[test]
fn pruning_one_folder_keeps_the_cases_of_another() {
    let place = Place::with_phantoms(2);
    place.convert(&[], 0);
    let (second, out) = (place.text("second"), place.text("cache"));
    let dataset = place.path("second/Dataset002_Second");
    let config = PhantomConfig { cases: 2, seed: 4, spacing_mm: [7.0, 10.0] };
    write_dataset(&dataset, &config).unwrap();
    let convert = |flags: &[&str], code| check(&[&[second.as_str(), "--out", &out, SPACING], flags].concat(), code);
    let ran = convert(&[], 0);
    let first = std::fs::canonicalize(place.path("data")).unwrap();
    let stay = format!("The cache also holds 2 cases of {}; they stay", first.display());
    assert!(ran.out.contains(&format!("{stay}.")) && !ran.out.contains("--prune"), "{}", ran.out);

    for file in ["imagesTr/phantom_001_0000.nii.gz", "labelsTr/phantom_001.nii.gz"] {
        std::fs::remove_file(dataset.join(file)).unwrap();
    }
    let removed = "\n  Dataset002_Second/phantom_001\n";
    let ran = convert(&["--dry-run", "--prune"], 0);
    let would = format!("would remove 1 case of the cache not in this data:{removed}");
    assert!(ran.out.contains(&would) && ran.out.contains(&stay), "{}", ran.out);
    let ran = convert(&["--prune"], 0);
    assert!(ran.out.contains(&format!("Removed from the cache:{removed}")), "{}", ran.out);
    assert!(ran.out.contains(&format!("{stay}; --prune=all removes")), "{}", ran.out);
    let keys = || voxels(&place.path("cache")).into_keys().collect::<Vec<_>>();
    let kept = ["Dataset001_Phantom/phantom_000", "Dataset001_Phantom/phantom_001", "Dataset002_Second/phantom_000"];
    assert_eq!(keys(), kept);

    // Other parameters would need the other folder's cases removed.
    let ran = convert(&["--window", "-100,200", "--change-parameters", "--prune"], 1);
    assert!(ran.err.contains("drop all cases that are not in this data with --prune=all"), "{}", ran.err);
    let ran = convert(&["--dry-run", "--prune=all"], 0);
    assert!(ran.out.contains("would remove 2 cases of the cache not in this data:"), "{}", ran.out);
    convert(&["--prune=all"], 0);
    assert_eq!(keys(), kept[2..]);
    place.verify(0);
}

#[test]
fn a_second_folder_of_the_same_name_does_not_replace_the_scans_of_the_first() {
    let place = Place::with_phantoms(2);
    place.convert(&[], 0);
    let before = voxels(&place.path("cache"));
    // The files of two other patients, under the same names.
    let second = place.text("second/Dataset001_Phantom");
    let config = PhantomConfig { cases: 2, seed: 4, spacing_mm: [7.0, 10.0] };
    write_dataset(Path::new(&second), &config).unwrap();
    let out = place.text("cache");
    for flags in [&[][..], &["--prune"]] {
        let ran = check(&[&[second.as_str(), "--out", &out, SPACING], flags].concat(), 1);
        let told =
            "holds 2 cases of another dataset named Dataset001_Phantom, such as Dataset001_Phantom/phantom_000 from ";
        assert!(ran.err.contains(told) && ran.err.contains("--reconvert Dataset001_Phantom"), "{}", ran.err);
        assert_eq!(voxels(&place.path("cache")), before);
    }
    let ran = check(&[second.as_str(), "--out", &out, SPACING, "--reconvert", "Dataset001_Phantom"], 0);
    assert!(ran.out.contains("converted   2 cases (2 with labels; 2 replace earlier versions)"), "{}", ran.out);
    let shown = check(&["inspect", &out, "Dataset001_Phantom/phantom_000"], 0);
    assert!(shown.out.contains("second/Dataset001_Phantom"), "{}", shown.out);
}
