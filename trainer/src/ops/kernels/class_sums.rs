//! Sums of the fine-tuning loss over the voxels of each case and class, and the gradient of the logits, given the
//! gradient of the sums.
//!
//! Logits are `[N, V, C]`, so that the logits of a voxel are adjacent. In the forward pass each plane reduces one group
//! of voxels, its units one voxel after another in registers; a second kernel adds the groups of each case. The order
//! is a function of the shape alone. In the backward pass each unit processes one voxel. Bytes per logit in f32: 4
//! forward, 8 backward.

use burn::tensor::{DType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::launch::{RowLaunch, elem, elementwise, uninit};
use super::plane::{lanes_sum, own_row};
use crate::ops::class_sums::kinds::KINDS;

/// Number of groups per case above which groups grow instead.
const MOST_GROUPS: usize = 1024;
/// Minimum number of voxels in a group.
const SMALLEST_GROUP: usize = 64;

/// Value that stands for no label: neither a class nor an ignore label.
const NO_LABEL: u32 = u32::MAX;

/// Fills `p` with the probabilities of a voxel's classes; returns the logarithm of their common denominator.
#[cube]
fn softmax_of<T: Float>(logits: &[T], first: u32, p: &mut Array<f32>, #[comptime] classes: u32) -> f32 {
    let mut largest = f32::cast_from(logits[first as usize]);
    #[unroll]
    for class in 1..classes {
        largest = max(largest, f32::cast_from(logits[(first + class) as usize]));
    }
    let mut total = 0.0f32;
    #[unroll]
    for class in 0..classes {
        let value = (f32::cast_from(logits[(first + class) as usize]) - largest).exp();
        p[class as usize] = value;
        total += value;
    }
    let scale = 1.0f32 / total;
    #[unroll]
    for class in 0..classes {
        let value = p[class as usize] * scale;
        p[class as usize] = value;
    }
    largest + total.ln()
}

/// Computes the sums of each group, [`KINDS`] for each class.
#[cube(launch_unchecked)]
pub(super) fn sums_of_groups<T: Float>(
    logits: &[T],
    labels: &[f32],
    sums: &mut [f32],
    rows: u32,
    voxels: u32,
    groups: u32,
    size: u32,
    ignore: u32,
    #[comptime] classes: u32,
    #[comptime] lanes: u32,
    #[define(T)] _dtype: ElemType,
) {
    let row = own_row();
    if row < rows {
        let case = row / groups;
        let start = row % groups * size;
        let end = min(start + size, voxels);
        let width = comptime!(KINDS * classes);
        let mut kept = Array::<f32>::new(comptime!(width as usize));
        #[unroll]
        for at in 0..width {
            kept[at as usize] = 0.0f32;
        }
        let mut p = Array::<f32>::new(comptime!(classes as usize));
        for turn in 0..size.div_ceil(lanes) {
            let voxel = start + turn * lanes + UNIT_POS_X;
            if voxel < end {
                let at = case * voxels + voxel;
                let label = u32::cast_from(labels[at as usize]);
                if label != ignore {
                    let first = at * classes;
                    let log_total = softmax_of::<T>(logits, first, &mut p, classes);
                    #[unroll]
                    for class in 0..classes {
                        let own = p[class as usize];
                        let is_label = label == class;
                        let log = f32::cast_from(logits[(first + class) as usize]) - log_total;
                        kept[class as usize] += select(is_label, own, 0.0f32);
                        kept[comptime!((classes + class) as usize)] += own * own;
                        kept[comptime!((2 * classes + class) as usize)] += select(is_label, 1.0f32, 0.0f32);
                        kept[comptime!((3 * classes + class) as usize)] += select(is_label, log, 0.0f32);
                    }
                }
            }
        }
        #[unroll]
        for at in 0..width {
            let sum = lanes_sum(kept[at as usize], lanes);
            if UNIT_POS_X == 0 {
                sums[(row * width + at) as usize] = sum;
            }
        }
    }
}

/// Computes the sums of each case: each plane adds one column over the groups.
#[cube(launch_unchecked)]
pub(super) fn sums_of_cases(
    sums: &[f32],
    totals: &mut [f32],
    rows: u32,
    groups: u32,
    #[comptime] width: u32,
    #[comptime] lanes: u32,
) {
    let row = own_row();
    if row < rows {
        let first = row / width * groups * width + row % width;
        let mut sum = 0.0f32;
        for turn in 0..groups.div_ceil(lanes) {
            let group = turn * lanes + UNIT_POS_X;
            if group < groups {
                sum += sums[(first + group * width) as usize];
            }
        }
        let sum = lanes_sum(sum, lanes);
        if UNIT_POS_X == 0 {
            totals[row as usize] = sum;
        }
    }
}

/// Computes the gradient of the logits from `dsums`, the gradient of the sums. It is zero for a voxel with the ignore
/// label.
#[cube(launch_unchecked)]
pub(super) fn gradients_of_logits<T: Float>(
    logits: &[T],
    labels: &[f32],
    dsums: &[f32],
    dlogits: &mut [T],
    count: u32,
    voxels: u32,
    ignore: u32,
    #[comptime] classes: u32,
    #[define(T)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS as u32;
    if at < count {
        let label = u32::cast_from(labels[at as usize]);
        let first = at * classes;
        if label == ignore {
            #[unroll]
            for class in 0..classes {
                dlogits[(first + class) as usize] = T::cast_from(0.0f32);
            }
        } else {
            let case = at / voxels * comptime!(KINDS * classes);
            let mut p = Array::<f32>::new(comptime!(classes as usize));
            softmax_of::<T>(logits, first, &mut p, classes);
            let mut along = 0.0f32;
            let mut of_log = 0.0f32;
            #[unroll]
            for class in 0..classes {
                let own = p[class as usize];
                let is_label = label == class;
                let of_label = select(is_label, dsums[(case + class) as usize], 0.0f32);
                along += own * (of_label + 2.0f32 * own * dsums[(case + classes + class) as usize]);
                of_log += select(is_label, dsums[(case + 3 * classes + class) as usize], 0.0f32);
            }
            #[unroll]
            for class in 0..classes {
                let own = p[class as usize];
                let is_label = label == class;
                let of_label = select(is_label, dsums[(case + class) as usize], 0.0f32);
                let of_own = of_label + 2.0f32 * own * dsums[(case + classes + class) as usize];
                let of_softmax = own * (of_own - along) + of_log * (select(is_label, 1.0f32, 0.0f32) - own);
                dlogits[(first + class) as usize] = T::cast_from(of_softmax);
            }
        }
    }
}

/// Sizes of logits `[N, V, C]`.
struct Sizes {
    cases: u32,
    voxels: u32,
    classes: u32,
}

impl Sizes {
    /// Sizes of `logits` with the voxels of `labels`.
    fn of(logits: &CubeTensor, labels: &CubeTensor) -> Self {
        let shape = logits.meta.shape();
        let count = shape.num_elements();
        assert!(u32::try_from(count).is_ok(), "kernels count values in 32 bits; use micro-batches");
        assert_eq!(labels.meta.shape().num_elements() * shape[2], count, "a label per voxel");
        assert_eq!(labels.dtype, DType::F32, "labels as floats");
        Self { cases: shape[0] as u32, voxels: shape[1] as u32, classes: shape[2] as u32 }
    }
}

/// Computes the sums `[N, KINDS, C]` of `logits` `[N, V, C]` with `labels` `[N, V]`.
pub(crate) fn sums(logits: CubeTensor, labels: CubeTensor, ignore: Option<u8>) -> CubeTensor {
    let (logits, labels) = (into_contiguous(logits), into_contiguous(labels));
    let Sizes { cases, voxels, classes } = Sizes::of(&logits, &labels);
    let size = (voxels as usize).div_ceil(MOST_GROUPS).next_power_of_two().max(SMALLEST_GROUP) as u32;
    let groups = voxels.div_ceil(size);
    let width = KINDS * classes;
    let shape = |rows: u32| Shape::from([(cases * rows) as usize, KINDS as usize, classes as usize]);
    let (parts, totals) = (uninit(&logits, shape(groups), DType::F32), uninit(&logits, shape(1), DType::F32));
    let client = logits.client.clone();
    let dtype = elem(&logits);
    let RowLaunch { count, dim, rows, lanes, .. } = RowLaunch::of(&logits, cases * groups);
    // SAFETY: `logits` holds `classes` values for each of `cases` times `voxels` labels, `parts` `width` for each row, which
    // bounds every index.
    unsafe {
        sums_of_groups::launch_unchecked(
            &client,
            count,
            dim,
            logits.into_buffer_arg(),
            labels.into_buffer_arg(),
            parts.clone().into_buffer_arg(),
            rows,
            voxels,
            groups,
            size,
            ignore.map_or(NO_LABEL, u32::from),
            classes,
            lanes,
            dtype,
        );
    }
    let RowLaunch { count, dim, rows, lanes, .. } = RowLaunch::of(&totals, cases * width);
    // SAFETY: `parts` holds `groups` values for each row, `totals` one, which bounds every index.
    unsafe {
        sums_of_cases::launch_unchecked(
            &client,
            count,
            dim,
            parts.into_buffer_arg(),
            totals.clone().into_buffer_arg(),
            rows,
            groups,
            width,
            lanes,
        );
    }
    totals
}

/// Gradient of `logits`, in their number type, given the gradient of the sums.
pub(crate) fn gradient(logits: CubeTensor, labels: CubeTensor, ignore: Option<u8>, dsums: CubeTensor) -> CubeTensor {
    let (logits, labels, dsums) = (into_contiguous(logits), into_contiguous(labels), into_contiguous(dsums));
    let Sizes { cases, voxels, classes } = Sizes::of(&logits, &labels);
    assert_eq!(dsums.dtype, DType::F32, "sums are f32");
    assert_eq!(
        dsums.meta.shape().num_elements(),
        (cases * KINDS * classes) as usize,
        "a gradient has its tensor's shape"
    );
    let dlogits = uninit(&logits, logits.meta.shape().clone(), logits.dtype);
    let client = logits.client.clone();
    let dtype = elem(&logits);
    let count = cases * voxels;
    let (cubes, dim) = elementwise(&client, count as usize);
    // SAFETY: `logits` and `dlogits` hold `classes` values for each of `count` labels, `dsums` `KINDS` times as many for each
    // case, which bounds every index.
    unsafe {
        gradients_of_logits::launch_unchecked(
            &client,
            cubes,
            dim,
            logits.into_buffer_arg(),
            labels.into_buffer_arg(),
            dsums.into_buffer_arg(),
            dlogits.clone().into_buffer_arg(),
            count,
            voxels,
            ignore.map_or(NO_LABEL, u32::from),
            classes,
            dtype,
        );
    }
    dlogits
}
