use hiend_cpu::conv::{
    ConvShape, bias_gradient, conv1, conv1_input_gradient, conv1_weight_gradient, conv3, conv3_input_gradient,
    conv3_weight_gradient,
};
use hiend_cpu::transposed::{up_conv2, up_conv2_input_gradient, up_conv2_weight_gradient};
use proptest::prelude::*;

use crate::{Exact, assert_sums, wave, with_threads};

/// Calls `term(output voxel, input voxel, weight)` for every product of a convolution, as flat indices.
fn for_each_product(shape: ConvShape, kernel: usize, mut term: impl FnMut(usize, usize, usize)) {
    let ConvShape { batch, in_channels, out_channels, size } = shape;
    let flat = |channel: usize, [x, y, z]: [usize; 3]| ((channel * size[0] + x) * size[1] + y) * size[2] + z;
    let pad = kernel / 2;
    // Input position along an axis, if it is inside.
    let tap = |at: usize, tap: usize, axis: usize| (at + tap).checked_sub(pad).filter(|&at| at < size[axis]);
    for n in 0..batch {
        for voxel in 0..shape.num_voxels() {
            let at = [voxel / (size[1] * size[2]), voxel / size[2] % size[1], voxel % size[2]];
            for k in 0..kernel.pow(3) {
                let taps = [k / (kernel * kernel), k / kernel % kernel, k % kernel];
                let [Some(x), Some(y), Some(z)] = std::array::from_fn(|a| tap(at[a], taps[a], a)) else { continue };
                for o in 0..out_channels {
                    for i in 0..in_channels {
                        let weight = (o * in_channels + i) * kernel.pow(3) + k;
                        term(flat(n * out_channels + o, at), flat(n * in_channels + i, [x, y, z]), weight);
                    }
                }
            }
        }
    }
}

/// Calls `term(output voxel, input voxel, weight)` for every product of a transposed convolution.
fn for_each_product_up(shape: ConvShape, mut term: impl FnMut(usize, usize, usize)) {
    let ConvShape { batch, in_channels, out_channels, size } = shape;
    for n in 0..batch {
        for voxel in 0..shape.num_voxels() {
            let [x, y, z] = [voxel / (size[1] * size[2]), voxel / size[2] % size[1], voxel % size[2]];
            for child in 0..8 {
                let [x, y, z] = [2 * x + child / 4, 2 * y + child / 2 % 2, 2 * z + child % 2];
                for o in 0..out_channels {
                    let row = ((n * out_channels + o) * 2 * size[0] + x) * 2 * size[1] + y;
                    for i in 0..in_channels {
                        let input = (n * in_channels + i) * shape.num_voxels() + voxel;
                        term(row * 2 * size[2] + z, input, (i * out_channels + o) * 8 + child);
                    }
                }
            }
        }
    }
}

/// Compares an operation and its gradients with sums over its products.
fn check(
    shape: ConvShape,
    [x, weight, dy]: [&[f32]; 3],
    products: impl Fn(&mut dyn FnMut(usize, usize, usize)),
    [y, dx, dw]: [Vec<f32>; 3],
    taps: usize,
) {
    let mut want = [dy, x, weight].map(|values| vec![Exact::default(); values.len()]);
    products(&mut |to, from, k| {
        want[0][to].add(x[from], weight[k]);
        want[1][from].add(dy[to], weight[k]);
        want[2][k].add(dy[to], x[from]);
    });
    assert_sums("result", &y, &want[0], shape.in_channels * taps);
    assert_sums("gradient of the input", &dx, &want[1], shape.out_channels * taps);
    assert_sums("gradient of the weight", &dw, &want[2], shape.batch * shape.num_voxels());
}

fn shapes() -> impl Strategy<Value = ConvShape> {
    let size = [1_usize..12, 1_usize..12, 1_usize..40];
    (1_usize..3, 1_usize..10, 1_usize..10, size).prop_map(|(batch, in_channels, out_channels, size)| ConvShape {
        batch,
        in_channels,
        out_channels,
        size,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn kernels_of_3_are_sums_over_their_products(shape in shapes(), seed in any::<u64>()) {
        check_3(shape, seed);
    }

    #[test]
    fn kernels_of_1_are_sums_over_their_products(shape in shapes(), seed in any::<u64>()) {
        let num_weights = shape.in_channels * shape.out_channels;
        let (x, dy) = (wave(shape.input_len(), seed), wave(shape.output_len(), seed ^ 1));
        let weight = wave(num_weights, seed ^ 2);
        let results = [
            conv1(&x, &weight, None, shape),
            conv1_input_gradient(&dy, &weight, shape),
            conv1_weight_gradient(&x, &dy, shape),
        ];
        check(shape, [&x, &weight, &dy], |term| for_each_product(shape, 1, term), results, 1);
    }

    #[test]
    fn transposed_kernels_are_sums_over_their_products(shape in shapes(), seed in any::<u64>()) {
        let num_weights = shape.in_channels * shape.out_channels * 8;
        let (x, dy) = (wave(shape.input_len(), seed), wave(shape.output_len() * 8, seed ^ 1));
        let weight = wave(num_weights, seed ^ 2);
        let results = [
            up_conv2(&x, &weight, shape),
            up_conv2_input_gradient(&dy, &weight, shape),
            up_conv2_weight_gradient(&x, &dy, shape),
        ];
        check(shape, [&x, &weight, &dy], |term| for_each_product_up(shape, term), results, 8);
    }
}

fn check_3(shape: ConvShape, seed: u64) {
    let num_weights = shape.in_channels * shape.out_channels * 27;
    let (x, dy) = (wave(shape.input_len(), seed), wave(shape.output_len(), seed ^ 1));
    let weight = wave(num_weights, seed ^ 2);
    let results = [
        conv3(&x, &weight, None, shape),
        conv3_input_gradient(&dy, &weight, shape),
        conv3_weight_gradient(&x, &dy, shape),
    ];
    check(shape, [&x, &weight, &dy], |term| for_each_product(shape, 3, term), results, 27);
}

#[test]
fn many_channels_are_computed_in_groups() {
    check_3(ConvShape { batch: 1, in_channels: 70, out_channels: 33, size: [3, 5, 9] }, 3);
}

#[test]
fn a_bias_is_added_to_its_channel() {
    let shape = ConvShape { batch: 2, in_channels: 1, out_channels: 5, size: [2, 3, 11] };
    let (zeros, bias) = (vec![0.0; shape.input_len()], [1.0, -2.0, 3.0, 0.5, 7.0]);
    let of_3 = conv3(&zeros, &[1.0; 5 * 27], Some(&bias), shape);
    let of_1 = conv1(&zeros, &[1.0; 5], Some(&bias), shape);
    for y in [of_3, of_1] {
        for (channel, values) in y.chunks_exact(shape.num_voxels()).enumerate() {
            assert_eq!(values, vec![bias[channel % 5]; values.len()]);
        }
    }
}

#[test]
fn gradient_of_a_bias_is_the_sum_over_its_channel() {
    let dy = wave(2 * 3 * 1500, 5);
    let want: Vec<f64> = (0..3)
        .map(|channel| {
            let of_volume =
                |n: usize| dy[(n * 3 + channel) * 1500..][..1500].iter().map(|&v| f64::from(v)).sum::<f64>();
            of_volume(0) + of_volume(1)
        })
        .collect();
    for (got, want) in bias_gradient(&dy, 2, 3).iter().zip(want) {
        // Rounded once to f32.
        assert!((f64::from(*got) - want).abs() <= want.abs() * 2.0_f64.powi(-23), "{got}, expected {want}");
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    for (in_channels, out_channels, size) in [(1, 8, [33, 20, 24]), (40, 12, [9, 17, 16]), (8, 40, [8, 8, 8])] {
        let shape = ConvShape { batch: 2, in_channels, out_channels, size };
        let (x, dy) = (wave(shape.input_len(), 1), wave(shape.output_len(), 2));
        let (weight, dy_up) = (wave(in_channels * out_channels * 27, 3), wave(shape.output_len() * 8, 4));
        let of_1 = &weight[..in_channels * out_channels];
        let of_2 = &weight[..in_channels * out_channels * 8];
        let [one, five] = with_threads(|| {
            [
                conv3(&x, &weight, None, shape),
                conv3_input_gradient(&dy, &weight, shape),
                conv3_weight_gradient(&x, &dy, shape),
                conv1(&x, of_1, None, shape),
                conv1_input_gradient(&dy, of_1, shape),
                conv1_weight_gradient(&x, &dy, shape),
                up_conv2(&x, of_2, shape),
                up_conv2_input_gradient(&dy_up, of_2, shape),
                up_conv2_weight_gradient(&x, &dy_up, shape),
                bias_gradient(&dy, 2, out_channels),
            ]
        });
        assert!(one == five, "{shape:?}");
    }
}
