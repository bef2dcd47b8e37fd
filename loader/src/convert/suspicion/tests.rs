//! Values of scans that are CTs in HU, and of ones that are not.

mod content;

use super::*;
use crate::volume::nifti::testing::TestFile;
use crate::volume::read_volume;

const SHAPE: [usize; 3] = [40, 30, 20];

/// A body of noisy tissue in air, in HU; deterministic.
fn ct() -> Vec<f32> {
    let [nx, ny, nz] = SHAPE;
    let mut values = Vec::with_capacity(nx * ny * nz);
    for at in 0..nx * ny * nz {
        let (x, y) = (at % nx, at / nx % ny);
        let noise = ((at * 7919 + at / 13 * 104_729) % 61) as f32 - 30.0;
        let is_body = (5..35).contains(&x) && (5..25).contains(&y);
        let is_lung = (10..15).contains(&x) && (8..20).contains(&y);
        values.push(
            if is_lung {
                -820.0
            } else if is_body {
                45.0
            } else {
                -1000.0
            } + noise,
        );
    }
    values
}

fn check(values: &[f32], expected: Option<&str>) -> ValueStats {
    let dir = tempfile::tempdir().unwrap();
    let file = TestFile::new(SHAPE, &[]).with_f32(values);
    let volume = read_volume(&file.write(&dir.path().join("a.nii"))).unwrap();
    let stats = ValueStats::of(&volume, Normalize::Hu, [-175.0, 250.0]);
    let found = Suspicion::of(&stats).map(|suspicion| suspicion.to_string());
    match expected {
        Some(part) => assert!(found.as_ref().is_some_and(|text| text.contains(part)), "{found:?} {stats:?}"),
        None => assert_eq!(found, None, "{stats:?}"),
    }
    stats
}

fn mapped(map: impl Fn(f32) -> f32) -> Vec<f32> {
    ct().into_iter().map(map).collect()
}

#[test]
fn a_ct_is_plausible() {
    let stats = check(&ct(), None);
    assert_eq!((stats.min, stats.max), (-1030.0, 75.0));
    // 30 x 20 of 40 x 30 are body, 5 x 12 of them lung.
    assert!((stats.below - 0.55).abs() < 1e-9 && stats.above.abs() < 1e-9, "{stats:?}");
    // Lung stays above -900; noise lifts no air to it.
    assert!((stats.air - 0.5).abs() < 1e-9, "{stats:?}");
    // Clipped to the window.
    check(&mapped(|hu| hu.clamp(-175.0, 250.0)), None);
}

#[test]
fn values_that_are_not_hu_are_named() {
    check(&mapped(|hu| hu + 1030.0), Some("HU with an offset"));
    check(&mapped(|hu| (hu + 1000.0).max(0.0)), Some("HU with an offset"));
    check(&mapped(|hu| hu + 32_768.0), Some("HU with an offset"));
    check(&mapped(|hu| (hu.clamp(-175.0, 250.0) + 175.0) / 425.0), Some("normalised"));
    check(&mapped(|hu| hu / 500.0), Some("normalised"));
    check(&mapped(|hu| ((hu + 1030.0) / 1105.0 * 255.0).round()), Some("an 8-bit picture"));
    check(&mapped(|hu| (hu + 1030.0) * 0.4), Some("an MR, or a CT that is not in HU"));
    check(&mapped(|hu| if (-900.0..-700.0).contains(&hu) { hu } else { 2000.0 + hu.abs() }), Some("above the window"));
    let mut empty = mapped(|hu| -1000.0 - hu.abs() / 8.0);
    empty[0] = 40.0;
    check(&empty, Some("below the window"));
    check(&mapped(|_| 0.0), Some("every voxel is 0"));
}

/// Replaces values outside a circle in the slice by padding, as scanners do.
fn padded(values: &[f32], padding: f32) -> Vec<f32> {
    let pad = |(at, &value): (usize, &f32)| {
        let [x, y] = [at % SHAPE[0], at / SHAPE[0] % SHAPE[1]];
        let distance = (x as f32 / 19.5 - 1.0).powi(2) + (y as f32 / 14.5 - 1.0).powi(2);
        if distance < 1.0 { value } else { padding }
    };
    values.iter().enumerate().map(pad).collect()
}

#[test]
fn stray_voxels_and_padding_hide_nothing() {
    let with = |map: &dyn Fn(f32) -> f32, strays: &[f32]| {
        let mut values = mapped(map);
        // All of them are less than one voxel in a thousand.
        for (number, &stray) in strays.iter().enumerate() {
            values[5000 + 7 * number] = stray;
        }
        values
    };
    let offset = "45% of them near 1024: HU with an offset, 1024 as a rule; subtract it from the voxels";
    check(&with(&|hu| (hu + 1024.0).max(0.0), &[-120.0]), Some(offset));
    check(&with(&|hu| (hu + 1024.0).max(0.0), &[-200.0; 12]), Some(offset));
    for padding in [-2000.0, -1024.0, -1000.0] {
        check(&padded(&mapped(|hu| hu + 1024.0), padding), Some("of them near 1024: HU with an offset"));
        check(&padded(&mapped(|hu| hu + 1000.0), padding), Some("of them near 1024: HU with an offset"));
        check(&padded(&mapped(|hu| -hu), padding), Some("near 1000 and hardly any above: HU with inverted sign"));
        check(&padded(&ct(), padding), None);
    }
    for padding in [0.0, -1024.0] {
        let still_air = mapped(|hu| if hu < -900.0 { 3096.0 } else { hu + 4096.0 });
        check(&padded(&still_air, padding), Some("with air at 3096: HU with an offset of 4096;"));
    }
    let mr = |hu: f32| (hu + 1030.0) * 0.7;
    check(&with(&mr, &[]), Some("none negative: an MR"));
    check(&with(&mr, &[-3.0, -70.0]), Some("values -70 to 773.5, hardly any below -50: an MR"));
    check(&with(&|hu| mr(hu) - 20.0, &[]), Some("values -20 to 753.5, hardly any below -50: an MR"));
    let byte = |hu: f32| (hu + 1030.0) / 1105.0 * 255.0;
    check(&with(&byte, &[-9.0, 262.0]), Some("values -9 to 262: an 8-bit picture"));
    check(
        &with(&byte, &[-90.0, 300.0]),
        Some("values -90 to 300, nearly all of them from -10 to 265: an 8-bit picture"),
    );
    let normalised = "values -2.06 to 35, nearly all of them from -20 to 20: normalised";
    check(&with(&|hu| hu / 500.0, &[35.0, 35.0]), Some(normalised));
}

#[test]
fn smaller_and_larger_scales_are_told() {
    check(&mapped(|hu| (hu + 1030.0) / 1105.0 * 100.0 - 50.0), Some("values -50 to 50: in another scale, or clipped"));
    // With bone.
    let tenth = |hu: f32| if hu > 74.0 { hu } else { hu / 10.0 };
    check(&mapped(tenth), Some("50% of them near -100: HU divided by 10"));
    check(&padded(&mapped(tenth), -200.0), Some("near -100: HU divided by 10"));
    check(&mapped(|hu| hu * 2.0), Some("53% of them below -1250 and different: HU in another scale"));
    check(&padded(&mapped(|hu| hu * 2.0), -2000.0), Some("below -1250 and different: HU in another scale"));
    check(&mapped(|hu| hu * 47.5), Some("below -1250 and different: HU in another scale"));
    // A wide window, fat, and dense bone next to soft tissue, in HU.
    check(&mapped(|hu| hu.clamp(-1350.0, 150.0)), None);
    check(&mapped(|hu| if hu < -900.0 { hu + 900.0 } else { hu }), None);
    check(&mapped(|hu| if hu < -1010.0 { hu + 2020.0 } else { hu }), None);
}

/// Voxels with values from 0 to 120, spread about 60 like noise; `map` converts each value, given its index.
fn noisy(map: impl Fn(usize, f32) -> f32) -> Vec<f32> {
    let noise = |at: usize| (at * 7919 % 61 + at / 61 * 104_729 % 61) as f32;
    (0..SHAPE.iter().product::<usize>()).map(|at| map(at, noise(at))).collect()
}

#[test]
fn parts_of_the_body_are_plausible() {
    // A skull in air, and a knee without, clipped at 1000.
    check(&mapped(|hu| if hu > 0.0 { 550.0 + hu * 10.0 } else { hu }), None);
    let knee = |hu: f32| {
        if hu > 0.0 {
            (400.0 + hu * 20.0).min(1000.0)
        } else if hu > -900.0 {
            hu + 870.0
        } else {
            hu / 2.0 + 400.0
        }
    };
    check(&mapped(knee), None);
    // Inverted air keeps its noise where it is clipped as well.
    check(&mapped(|hu| (-hu).min(1000.0)), Some("HU with inverted sign"));
    // A liver, muscle next to fat, a brain on a background of 0, and a heart with contrast agent.
    check(&noisy(|_, value| value + 10.0), None);
    check(&noisy(|at, value| if at % 3 == 0 { value / 2.0 - 120.0 } else { value }), None);
    check(&noisy(|at, value| if at % 3 == 0 { value / 2.0 + 5.0 } else { 0.0 }), Some("8-bit picture"));
    check(&noisy(|at, value| if at % 3 == 0 { value - 5.0 } else { 0.0 }), None);
    check(&noisy(|at, value| value + if at % 2 == 0 { 30.0 } else { 300.0 }), None);
    // Soft tissue of a scan that was scaled to [-50, 50], and an MR.
    check(&noisy(|_, value| value / 20.0 - 50.0), Some("in another scale, or clipped"));
    check(&noisy(|at, value| if at % 3 == 0 { value / 10.0 } else { value + 200.0 }), Some("none negative: an MR"));
}

#[test]
fn the_edge_of_interpolated_padding_is_not_another_scale() {
    let edged = |values: &[f32]| -> Vec<f32> {
        let of = |(at, value): (usize, f32)| {
            if value > -1500.0 || at % 3 > 0 { value } else { value - 100.0 + (at % 61) as f32 }
        };
        padded(values, -2000.0).into_iter().enumerate().map(of).collect()
    };
    let with_fat = mapped(|hu| if hu > 60.0 { hu - 170.0 } else { hu });
    let stats = check(&edged(&with_fat), None);
    assert!(stats.shares.far_below >= FAR_BELOW_SHARE, "{stats:?}");
    let doubled: Vec<f32> = with_fat.into_iter().map(|hu| hu * 2.0).collect();
    check(&edged(&doubled), Some("below -1250 and different: HU in another scale"));
}

#[test]
fn the_offset_is_named_as_far_as_it_is_known() {
    let still_air = |offset: f32| mapped(|hu| if hu < -900.0 { -1000.0 + offset } else { hu + offset });
    for offset in OFFSETS {
        let air = offset - 1000.0;
        let text = format!(
            "with air at {air}: HU with an offset of {offset}; subtract it from the voxels, or lower scl_inter in the \
             header by {offset}, to -{offset} where it is 0 (and set a scl_slope of 0 to 1)"
        );
        check(&still_air(offset), Some(&text));
    }
    check(
        &still_air(5000.0),
        Some("the lowest frequent value is 4000, which is about the offset - 1000 if it is air;"),
    );
    // Cropped to the body, and with air, which lies where tissue lies with the lower offset.
    let cropped = mapped(|hu| hu.max(-150.0) + 1024.0);
    check(&cropped, Some("100% of them near 1024: HU with an offset, 1024 as a rule; subtract it from the voxels, or"));
    check(
        &still_air(2048.0),
        Some("the lowest frequent value is 1048, which is about the offset - 1000 if it is air;"),
    );
    let even: Vec<f32> = (0..24_000u16).map(|at| 1500.0 + f32::from(at)).collect();
    check(&even, Some("HU with an offset whose size the values do not show"));
    let suspicion = |format| Suspicion::Offset { min: 0.0, max: 2000.0, share: 0.5, air: None, format }.to_string();
    assert!(suspicion(Format::Dicom).ends_with("in all files (set it to -1024 where they lack it)"));
    for format in [Format::Nrrd, Format::MetaImage] {
        assert!(
            suspicion(format).ends_with("HU with an offset, 1024 as a rule; subtract it from the voxels"),
            "{}",
            suspicion(format)
        );
    }
}

#[test]
fn another_scale_or_sign_is_told_and_padding_is_not_taken_for_it() {
    // Some bone.
    let with_bone = || mapped(|hu| if hu > 74.0 { hu + 500.0 } else { hu });
    let of = |map: &dyn Fn(f32) -> f32| with_bone().into_iter().map(map).collect::<Vec<f32>>();
    check(&of(&|hu| hu * 10.0), Some("50% of them near -10000: HU times 10"));
    check(&of(&|hu| hu * 20.0), Some("below -1250 and different: HU in another scale"));
    // Without air, by multiples of 10.
    let cropped = |hu: f32| hu.max(-150.0);
    check(&of(&|hu| cropped(hu) * 10.0), Some("values -1500 to 5750, multiples of 10: HU times 10; divide them by 10"));
    let clipped = "% of them -150: clipped or masked within the window";
    check(&of(&cropped), Some(clipped));
    check(&of(&|hu| if hu > 500.0 { 30_000.0 } else { cropped(hu) }), Some(clipped));
    // A background of 0, and values that were rounded to tens, as far as they are those of HU.
    check(
        &of(&|hu| {
            if hu > 500.0 {
                30_000.0
            } else if hu < -900.0 {
                0.0
            } else {
                hu
            }
        }),
        Some(
            "10 of 40 slices, from 1 to 40, hold nothing but 0 (across the first axis of the file): padding or a mask",
        ),
    );
    let rounded = |hu: f32| (hu / 10.0).round() * 10.0;
    check(&of(&rounded), None);
    check(&of(&|hu| if hu > 500.0 { 3500.0 } else { rounded(hu) }), None);
    check(&of(&|hu| -hu), Some("49% of them near 1000 and hardly any above: HU with inverted sign"));
    check(&of(&|hu| hu), None);
    // Padding of any value in place of air, in a CT with metal.
    let metal = |hu: f32| if hu > 500.0 { 30_000.0 } else { hu };
    for padding in [-2000.0, -3024.0, -8192.0, -10_000.0, -32_768.0, -33_792.0] {
        check(&of(&|hu| if hu < -1000.0 { padding } else { metal(hu) }), None);
    }
    // Bone near 1000 HU in place of air, and denser bone above.
    check(&of(&|hu| if hu < -900.0 { 1000.0 - (hu + 1000.0) * 12.0 } else { hu }), None);
}

#[test]
fn values_that_no_ct_has_are_told() {
    let beyond = "% of them beyond -65536 to 65536: not HU; convert the original scan";
    for scale in [100.0, 7777.0, 1e5, 1e12, 1e30] {
        check(&mapped(|hu| hu * scale), Some(beyond));
    }
    check(&mapped(|hu| hu * 1e5), Some("values -1.03e8 to 7500000, "));
    // One value in place of air, next to positive values and to tissue.
    for air in [-3e5, -1e9, -1e30] {
        check(&mapped(|hu| if hu < -900.0 { air } else { hu.abs() * 3.0 }), Some(beyond));
        check(&mapped(|hu| if hu < -900.0 { air } else { hu }), Some(beyond));
    }
    // A few stray voxels.
    let mut values = ct();
    values[5000..5009].copy_from_slice(&[-1e30, 1e30, -1e5, 1e5, 7e4, -7e4, 3e38, -3e38, 1e9]);
    check(&values, None);
}

/// The phantom has the lungs and bones of the phantom module.
#[test]
fn phantoms_of_another_scale_or_sign_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let config = crate::phantom::PhantomConfig { cases: 1, seed: 3, spacing_mm: [5.0, 7.0] };
    crate::phantom::write_dataset(dir.path(), &config).unwrap();
    let volume = read_volume(&dir.path().join("imagesTr/phantom_000_0000.nii.gz")).unwrap();
    let mut values = vec![0f32; volume.info.shape.iter().product()];
    volume.read_f32(0, &mut values);
    let found = |map: fn(f32) -> f32| {
        let values: Vec<f32> = values.iter().map(|&hu| map(hu)).collect();
        let file = TestFile::new(volume.info.shape, &[]).with_f32(&values);
        let mapped = read_volume(&file.write(&dir.path().join("mapped.nii"))).unwrap();
        Suspicion::of(&ValueStats::of(&mapped, Normalize::Hu, [-175.0, 250.0]))
    };
    assert_eq!(found(|hu| hu), None);
    assert!(matches!(found(|hu| hu * 10.0), Some(Suspicion::Tenfold { .. })));
    assert!(matches!(found(|hu| hu * 20.0), Some(Suspicion::FarBelow { .. })));
    let absurd: [fn(f32) -> f32; 3] = [|hu| hu * 1e4, |hu| hu * 1e5, |hu| hu * 1e30];
    for map in absurd {
        assert!(matches!(found(map), Some(Suspicion::Beyond { .. })));
    }
    assert!(matches!(found(|hu| -hu), Some(Suspicion::Inverted { .. })));
}

#[test]
fn clipped_cts_are_reported_and_not_refused() {
    let dir = tempfile::tempdir().unwrap();
    let judge = |values: &[f32]| {
        let file = TestFile::new(SHAPE, &[]).with_f32(values).write(&dir.path().join("a.nii"));
        let volume = read_volume(&file).unwrap();
        OnSuspect::Fail.judge(&volume, ImageRole::Declared, Normalize::Hu, [-175.0, 250.0])
    };
    // Half of the body is dense, so that the upper ends show as well.
    let bone = |hu: f32| if hu > 45.0 { hu * 4.0 } else { hu };
    for [low, high] in [[-17.0, 201.0], [-41.0, 176.0], [-30.0, 165.0], [-50.0, 350.0]] {
        let judged = judge(&mapped(|hu| bone(hu).clamp(low, high))).unwrap();
        assert!(judged.findings.iter().any(|text| text.contains("clipped")), "{low} {:?}", judged.findings);
    }
    assert!(judge(&mapped(|hu| (hu + 1030.0) * 0.4)).is_err());
}

#[test]
fn label_maps_are_known_by_their_values() {
    check(&mapped(|hu| f32::from(u8::from(hu > 0.0))), Some("a label map by its values (2 whole numbers up to 1)"));
    // A hundred labels in uniform slabs.
    let slabs: Vec<f32> = (0..SHAPE.iter().product::<usize>()).map(|at| (at / 240) as f32).collect();
    check(&slabs, Some("a label map by its values (100 whole numbers up to 99)"));
    // Classes of any sign and size, around them voxels of the background.
    let classes = |[outside, lung, body]: [f32; 3]| {
        mapped(|hu| {
            if hu < -900.0 {
                outside
            } else if hu < 0.0 {
                lung
            } else {
                body
            }
        })
    };
    check(&classes([0.0, -1.0, 2.0]), Some("a label map by its values (3 whole numbers from -1 to 2)"));
    check(&classes([0.0, 1000.0, 2000.0]), Some("a label map by its values (3 whole numbers up to 2000)"));
    // A small one, most of whose voxels have a neighbour of another class.
    let scattered = |hu: f32| if hu > 0.0 && hu.rem_euclid(2.0) < 1.0 { 1000.0 } else { -1.0 };
    check(&mapped(scattered), Some("a label map by its values (2 whole numbers from -1 to 1000)"));
    // HU of a phantom without noise have air.
    check(&classes([-1000.0, -850.0, 40.0]), None);
    let noise = |at: usize| (at * 7919 % 61) as f32;
    let probabilities = |sure: f32| -> Vec<f32> {
        let of = |(at, hu): (usize, f32)| if hu > 0.0 { sure - noise(at) * 1e-4 } else { noise(at) * 1e-4 };
        ct().into_iter().enumerate().map(of).collect()
    };
    check(&probabilities(1.0), Some("nearly all close to 0 or 1: probabilities of a class; expected an image"));
    check(&probabilities(0.8), Some("normalised"));
}

#[test]
fn masks_that_nothing_declares_to_be_images_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let judge = |values: &[f32], role| {
        let file = TestFile::new(SHAPE, &[]).with_f32(values).write(&dir.path().join("a.nii"));
        let volume = read_volume(&file).unwrap();
        OnSuspect::Warn.judge(&volume, role, Normalize::Hu, [-175.0, 250.0]).map(|judged| judged.findings)
    };
    let masks = [
        mapped(|_| 0.0),
        mapped(|hu| f32::from(i8::from(hu > 0.0)) - 1.0),
        mapped(|hu| f32::from(u8::from(hu > 0.0)) * 500.0),
    ];
    for values in &masks {
        let declared = judge(values, ImageRole::Declared).unwrap();
        assert!(declared.len() == 1 && declared[0].ends_with("--on-suspect skip leaves it out"), "{declared:?}");
        assert!(judge(values, ImageRole::Assumed).is_err());
    }
    // Other oddities are only reported.
    let normalised = judge(&mapped(|hu| hu / 500.0), ImageRole::Assumed).unwrap();
    assert!(normalised.len() == 1 && !normalised[0].contains("--on-suspect"), "{normalised:?}");
    assert_eq!(judge(&ct(), ImageRole::Assumed), Ok(Vec::new()));
}

/// Suspicion and counts of an image that becomes z-scores.
fn of_zscores(values: &[f32], window: [f64; 2]) -> (Option<String>, ValueStats) {
    let dir = tempfile::tempdir().unwrap();
    let file = TestFile::new(SHAPE, &[]).with_f32(values).write(&dir.path().join("a.nii"));
    let stats = ValueStats::of(&read_volume(&file).unwrap(), Normalize::Zscore, window);
    (Suspicion::of_zscores(&stats).map(|suspicion| suspicion.to_string()), stats)
}

#[test]
fn one_extreme_voxel_is_told_once_it_distorts_all_others() {
    let range = Normalize::Zscore.default_window();
    let with = |extreme: f32| {
        let mut values = ct();
        values[12_345] = extreme;
        of_zscores(&values, range)
    };
    // One voxel of 24,000 at 30,000 HU raises the deviation from 513 to 550 HU, which changes little.
    let (suspicion, stats) = with(30_000.0);
    assert_eq!(suspicion, None);
    assert_eq!(stats.zscore.unwrap().extremes.unwrap().num, 1);
    for extreme in [1e6, -1e6] {
        let (suspicion, stats) = with(extreme);
        // Less than one voxel in 10,000: the number of clamped voxels alone proves nothing.
        assert!(stats.below + stats.above < NOTABLY_CLAMPED, "{stats:?}");
        let text = suspicion.unwrap();
        assert!(text.starts_with("1 voxel more than 20 standard deviations from the mean"), "{text}");
        assert!(text.contains(&format!("up to the value {extreme}, ")) && text.contains("e-2 in place"), "{text}");
    }
}

#[test]
fn any_modality_is_plausible_as_z_scores() {
    let of = of_zscores;
    let range = Normalize::Zscore.default_window();
    // An offset, an MR, a normalised image, and a CT.
    let maps: [fn(f32) -> f32; 4] = [|hu| hu + 1030.0, |hu| (hu + 1030.0) * 0.4, |hu| hu / 500.0, |hu| hu];
    for map in maps {
        let (suspicion, stats) = of(&mapped(map), range);
        assert_eq!(suspicion, None);
        assert!(stats.zscore.is_some() && stats.below + stats.above <= 0.0, "{stats:?}");
    }
    let (suspicion, stats) = of(&mapped(|hu| hu.max(0.0)), range);
    let num_zero = ct().iter().filter(|&&hu| hu <= 0.0).count();
    assert_eq!((suspicion, stats.air), (None, num_zero as f64 / ct().len() as f64));
    let (suspicion, _) = of(&mapped(|hu| hu.max(0.0)), [-1.0, 1.0]);
    assert!(suspicion.is_some_and(|text| text.contains("beyond the range of z-scores")));
    let (suspicion, stats) = of(&mapped(|_| 7.0), range);
    assert_eq!(
        (suspicion.as_deref(), stats.zscore),
        (Some("every voxel is 7: an empty scan or mask; replace the file, or exclude the case"), None)
    );
    let (suspicion, _) = of(&mapped(|hu| f32::from(u8::from(hu > 0.0))), range);
    assert!(suspicion.is_some_and(|text| text.starts_with("a label map")));
}
