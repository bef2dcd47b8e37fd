//! Parity of the transforms with batchgeneratorsv2 0.3.6 on small crops; `transform_parity/make.py` makes the cases.

use hiend_loader::transform::{
    ContrastParams, GammaParams, GaussianBlurParams, LowResolutionParams, Polarity, Scratch, SpatialParams,
};
use safetensors::SafeTensors;

const CASES: &[u8] = include_bytes!("transform_parity/cases.safetensors");

fn tensor(name: &str) -> (Vec<f32>, Vec<usize>) {
    let all = SafeTensors::deserialize(CASES).expect("the file of cases is valid");
    let view = all.tensor(name).unwrap_or_else(|_| panic!("no case has {name}"));
    (bytemuck::pod_collect_to_vec(view.data()), view.shape().to_vec())
}

/// Runs `apply(params, source, source shape, crop)` on each of `num_cases` cases and compares the result with the
/// recorded crop.
fn check(name: &str, num_cases: usize, tolerance: f32, apply: impl Fn(&[f32], &[f32], [usize; 3], &mut [f32])) {
    for i in 0..num_cases {
        let (source, shape) = tensor(&format!("{name}.{i}.in"));
        let (params, _) = tensor(&format!("{name}.{i}.params"));
        let (expected, _) = tensor(&format!("{name}.{i}.out"));
        let mut crop = vec![f32::NAN; expected.len()];
        apply(&params, &source, [shape[0], shape[1], shape[2]], &mut crop);
        let worst = crop.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= tolerance, "{name} {i}: largest error {worst}, expected at most {tolerance}");
    }
}

/// Adapts an in-place transform to [`check`].
fn in_place(apply: impl Fn(&[f32], &mut [f32], [usize; 3])) -> impl Fn(&[f32], &[f32], [usize; 3], &mut [f32]) {
    move |params, source, shape, crop| {
        crop.copy_from_slice(source);
        apply(params, crop, shape);
    }
}

#[test]
fn gaussian_blur_agrees_with_batchgenerators() {
    let apply = |params: &[f32], crop: &mut [f32], shape| {
        GaussianBlurParams { sigma: [params[0], params[1], params[2]] }.apply(crop, shape, &mut Scratch::new());
    };
    check("gaussian_blur", 2, 1e-6, in_place(apply));
}

#[test]
fn low_resolution_agrees_with_batchgenerators() {
    let apply = |params: &[f32], crop: &mut [f32], shape| {
        LowResolutionParams { scale: params[0] }.apply(crop, shape, &mut Scratch::new());
    };
    check("low_resolution", 3, 1e-6, in_place(apply));
}

#[test]
fn contrast_agrees_with_batchgenerators() {
    let apply = |params: &[f32], crop: &mut [f32], _| ContrastParams { factor: params[0] }.apply(crop);
    check("contrast", 2, 1e-6, in_place(apply));
}

#[test]
fn gamma_agrees_with_batchgenerators() {
    let apply = |params: &[f32], crop: &mut [f32], _| {
        let polarity = if params[1] > 0.5 { Polarity::Inverted } else { Polarity::Plain };
        GammaParams { exponent: params[0], polarity, retain_stats: true }.apply(crop);
    };
    check("gamma", 4, 5e-6, in_place(apply));
}

#[test]
fn spatial_agrees_with_batchgenerators() {
    check("spatial", 3, 2e-5, |params, source, source_shape, crop| {
        SpatialParams { rotation_degrees: [params[0], params[1], params[2]], scale: params[3] }.apply_image(
            source,
            source_shape,
            crop,
            [12, 10, 14],
            &mut Scratch::new(),
        );
    });
}
