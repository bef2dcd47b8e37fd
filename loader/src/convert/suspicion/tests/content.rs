//! Scans in the range of HU whose air, voxels or slices are not those of a CT.

use super::*;

#[test]
fn air_within_the_window_is_told() {
    for low in [-160.0f32, -125.0, -100.0, -159.5] {
        // Denser than the phantom's body, as blood and bone are.
        let bone = |hu: f32| if hu > 45.0 { hu * 4.0 } else { hu };
        let values = mapped(|hu| bone(hu).clamp(low, 240.0));
        let text = format!(
            "values {low} to 240, 55% of them {}: clipped or masked within the window, so that air counts as foreground; \
             convert the original scan, or give such scans a --window that begins at {}",
            low.floor(),
            low.ceil()
        );
        check(&values, Some(&text));
    }
}

#[test]
fn other_origins_and_scales_of_air_are_told() {
    let moved = "where HU have neither air nor fat: HU with another origin or scale";
    let maps: [fn(f32) -> f32; 4] = [|hu| hu + 500.0, |hu| hu + 200.0, |hu| hu / 2.0, |hu| hu * 1.2];
    for map in maps {
        check(&mapped(map), Some(moved));
    }
    // Clipped below the window, where tissue lies where HU have it, and lung that fills the scan.
    check(&mapped(|hu| hu.max(-500.0)), None);
    check(&mapped(|hu| hu.max(-300.0)), None);
    check(&mapped(|hu| if hu < -900.0 { hu * 2.0 + 1180.0 } else { hu }), None);
}

#[test]
fn the_whole_range_of_signed_bytes_is_not_that_of_soft_tissue() {
    let mut values = noisy(|at, value| if at % 3 == 0 { value / 2.0 - 120.0 } else { value });
    assert!(check(&values, None).shares.tissue.is_soft);
    (values[5], values[7]) = (-128.0, 127.0);
    assert!(check(&values, Some("values -128 to 127: in another scale, or clipped")).shares.tissue.is_soft);
}

#[test]
fn noise_is_not_a_scan() {
    // Pseudo-random numbers from -1000 to 1000.
    let random = |at: usize, _: f32| {
        let at = u32::try_from(at).unwrap().wrapping_mul(2_654_435_761).rotate_left(15).wrapping_mul(0x85eb_ca6b);
        (at >> 8) as f32 / 8388.608 - 1000.0
    };
    check(&noisy(random), Some("neighbouring voxels differ as much as any two: noise, or voxels that were read with"));
}

/// HU of the phantom after a change of some slices; `change` sees the slice's index, and the value.
fn with_slices(change: impl Fn(usize, f32) -> f32) -> Vec<f32> {
    let slice = SHAPE[0] * SHAPE[1];
    ct().into_iter().enumerate().map(|(at, hu)| change(at / slice, hu)).collect()
}

#[test]
fn slices_that_were_lost_filled_or_padded_are_told() {
    let lost = "the file is incomplete, or slices are missing; copy or convert the scan again, or exclude the case";
    let fill = |slices: std::ops::Range<usize>, value: f32| {
        with_slices(|slice, hu| if slices.contains(&slice) { value } else { hu })
    };
    let told =
        |slices: &str, value: f32| format!("{slices} nothing but {value} (across the last axis of the file): {lost}");
    check(&fill(12..20, 0.0), Some(&told("slices 13 to 20 of 20 hold", 0.0)));
    check(&fill(7..9, -1024.0), Some(&told("slices 8 to 9 of 20 hold", -1024.0)));
    check(&fill(5..6, 3071.0), Some(&told("slice 6 of 20 holds", 3071.0)));
    // Air at both ends, whatever its value is, and where the scan was clipped.
    check(&with_slices(|slice, hu| if (2..15).contains(&slice) { hu } else { -1024.0 }), None);
    check(&with_slices(|slice, hu| if slice < 15 { hu.clamp(-200.0, 300.0) } else { -200.0 }), None);

    let mut repeated = ct();
    repeated.copy_within(6 * 1200..7 * 1200, 7 * 1200);
    check(
        &repeated,
        Some("slice 8 of 20 repeats the one before voxel by voxel: slices are missing and were filled, or the scan"),
    );
    repeated.copy_within(6 * 1200..7 * 1200, 8 * 1200);
    check(
        &repeated,
        Some("2 of 20 slices, the first of them slice 8, repeat the one before voxel by voxel: slices are missing"),
    );
    // Each slice twice, as the nearest neighbours of thinner slices.
    let values = ct();
    let twice: Vec<f32> = (0..10).flat_map(|slice| values[slice * 1200..][..1200].repeat(2)).collect();
    check(&twice, None);
}

#[test]
fn lost_slices_are_refused_and_padding_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let judge = |values: &[f32], on_suspect: OnSuspect, normalize: Normalize| {
        let file = TestFile::new(SHAPE, &[]).with_f32(values).write(&dir.path().join("a.nii"));
        let window = if normalize == Normalize::Hu { [-175.0, 250.0] } else { normalize.default_window() };
        on_suspect.judge(&read_volume(&file).unwrap(), ImageRole::Declared, normalize, window)
    };
    let tail = with_slices(|slice, hu| if slice < 12 { hu } else { 0.0 });
    assert!(judge(&tail, OnSuspect::Skip, Normalize::Hu).is_err());
    assert_eq!(judge(&tail, OnSuspect::Warn, Normalize::Hu).unwrap().findings.len(), 1);
    let padded = padded(&ct(), 0.0);
    let findings = judge(&padded, OnSuspect::Fail, Normalize::Hu).unwrap().findings;
    assert!(findings.len() == 1 && findings[0].contains("padding or a mask, which counts as tissue"), "{findings:?}");
    // The background of other modalities is 0, at both ends as well.
    assert!(judge(&tail, OnSuspect::Fail, Normalize::Zscore).unwrap().findings.is_empty());
    let gap = with_slices(|slice, hu| if slice == 12 { 0.0 } else { hu });
    let findings = judge(&gap, OnSuspect::Warn, Normalize::Zscore).unwrap().findings;
    assert!(findings.len() == 1 && findings[0].starts_with("slice 13 of 20 holds nothing but 0"), "{findings:?}");
}
