//! Suspicious images with `--on-suspect`: exit codes, messages and stored cases.

use super::{Place, check, nifti, voxels};

/// A dataset of two phantoms and of an image with one value only.
fn place() -> Place {
    let place = Place::with_phantoms(2);
    std::fs::write(place.image(0).with_file_name("flat_0000.nii"), nifti(&[8, 8, 8], 6.0, 512)).unwrap();
    place
}

/// Message about the suspicious image.
const FLAT: &str =
    "Dataset001_Phantom/flat: every voxel is 0: an empty scan or mask; replace the file, or exclude the case";

/// Names of the cases in the cache, without their dataset.
fn stored(place: &Place) -> Vec<String> {
    let keys = voxels(&place.path("cache")).into_keys();
    keys.map(|key| key.rsplit('/').next().unwrap().to_owned()).collect()
}

#[test]
fn suspicious_images_are_reported_skipped_or_end_the_run_as_asked() {
    let place = place();
    let count = |text: &str| text.lines().filter(|line| line.contains(FLAT)).count();

    // A dry run ends with 3 where the conversion would skip the case or end at it.
    for (mode, code, heading) in
        [("warn", 0, "but check these:"), ("skip", 3, "Would skip:"), ("fail", 3, "Would skip:")]
    {
        let ran = place.convert(&["--dry-run", "--on-suspect", mode], code);
        assert!(ran.out.contains(heading) && count(&ran.out) == 1, "{mode}: {}", ran.out);
        assert_eq!(ran.out.contains("--on-suspect fail: the conversion ends"), mode == "fail", "{}", ran.out);
    }
    assert!(!place.path("cache").exists());

    let ran = place.convert(&["--on-suspect", "fail"], 1);
    assert!(ran.err.lines().last().is_some_and(|line| line.starts_with(&format!("error: {FLAT}"))), "{}", ran.err);
    assert!(!ran.out.contains("Next: "), "{}", ran.out);

    let ran = place.convert(&["--on-suspect", "skip"], 3);
    assert!(ran.out.contains("\nSkipped:\n") && count(&ran.out) == 1, "{}", ran.out);
    assert_eq!(stored(&place), ["phantom_000", "phantom_001"]);

    let ran = place.convert(&["--on-suspect", "warn"], 0);
    assert!(ran.out.contains("\nConverted, but check these:\n") && count(&ran.out) == 1, "{}", ran.out);
    assert_eq!(stored(&place), ["flat", "phantom_000", "phantom_001"]);

    // A case of the cache is neither skipped nor refused.
    for mode in ["skip", "fail"] {
        let ran = place.convert(&["--on-suspect", mode], 0);
        assert!(ran.out.contains("--on-suspect does not apply to cases in the cache"), "{mode}: {}", ran.out);
    }
    place.verify(0);
}

#[test]
fn a_run_in_which_every_image_is_refused_fails() {
    let place = place();
    for case in 0..2 {
        std::fs::remove_file(place.image(case)).unwrap();
        std::fs::remove_file(place.label(case)).unwrap();
    }
    let ran = place.convert(&["--on-suspect", "skip"], 1);
    assert!(ran.err.contains("none of 1 case could be converted"), "{}", ran.err);
    place.convert(&["--on-suspect", "skip", "--dry-run"], 1);
    let (data, out) = (place.text("data"), place.text("cache"));
    let ran = check(&[&data, "--out", &out, "--on-suspect", "ski"], 2);
    assert!(ran.err.contains("[possible values: warn, skip, fail]"), "{}", ran.err);
}
