//! Convolutions of tensors by cuDNN: the problem for each convolution, copies of unaligned tensors, and a warning if
//! the library is not used.

use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::{DType, Shape};
use burn_cubecl::tensor::CubeTensor;

use crate::ops::kernels::uninit;
use crate::ops::product::Factors;
use crate::vendor::cudnn::conv::{Convolution, Direction};
use crate::vendor::cudnn::queue::{Buffer, PrepareError, aligned, launch, prepare};
use crate::vendor::fallback::warn_once;
use crate::vendor::queue::{number, on_cuda};

/// Consequence of computing without the library, for warnings.
const FALLBACK: &str = "convolutions are computed by Burn's kernels (which are tuned first: on an H100 no step of \
     UNETR finished in 45 s)";

/// True if Burn's kernels are selected.
static BURNS: AtomicBool = AtomicBool::new(false);

/// Selects Burn's kernels from now on if `burns` is set, otherwise cuDNN where it computes the convolution.
pub(crate) fn leave_to_burn(burns: bool) {
    BURNS.store(burns, Ordering::Relaxed);
}

/// Convolves `x` `[N, X, Y, Z, in]` with `filter` `[out, 3, 3, 3, in]`; `None` if the library does not compute it.
pub(crate) fn convolved(x: &CubeTensor, filter: &CubeTensor, factors: Factors) -> Option<CubeTensor> {
    let ([n, dx, dy, dz, inputs], [outputs, ..]) = (x.meta.shape().dims(), filter.meta.shape().dims::<5>());
    let sizes = Sizes { batch: n, inputs, outputs, size: [dx, dy, dz] };
    computed(Direction::Forward, sizes, [x, filter], factors)
}

/// Gradient of the volume, given `filter` and `dy` `[N, X, Y, Z, out]`.
pub(crate) fn volume_gradient(filter: &CubeTensor, dy: &CubeTensor, factors: Factors) -> Option<CubeTensor> {
    let ([n, sx, sy, sz, outputs], [.., inputs]) = (dy.meta.shape().dims(), filter.meta.shape().dims::<5>());
    let sizes = Sizes { batch: n, inputs, outputs, size: [sx, sy, sz] };
    computed(Direction::Volume, sizes, [filter, dy], factors)
}

/// Gradient of the filter, given `x` `[N, X, Y, Z, in]` and `dy` `[N, X, Y, Z, out]`.
pub(crate) fn filter_gradient(x: &CubeTensor, dy: &CubeTensor, factors: Factors) -> Option<CubeTensor> {
    let ([n, sx, sy, sz, inputs], [.., outputs]) = (x.meta.shape().dims(), dy.meta.shape().dims::<5>());
    let sizes = Sizes { batch: n, inputs, outputs, size: [sx, sy, sz] };
    computed(Direction::Filter, sizes, [x, dy], factors)
}

/// Lengths of a convolution's axes.
#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    inputs: usize,
    outputs: usize,
    size: [usize; 3],
}

impl Sizes {
    /// Shape of the tensor that a direction computes.
    fn written(self, direction: Direction) -> Shape {
        let Self { batch, inputs, outputs, size: [x, y, z] } = self;
        Shape::from(match direction {
            Direction::Forward => [batch, x, y, z, outputs],
            Direction::Volume => [batch, x, y, z, inputs],
            Direction::Filter => [outputs, 3, 3, 3, inputs],
        })
    }

    /// Problem for the library.
    fn problem(self, direction: Direction, types: [DType; 2], factors: Factors) -> Result<Convolution, NotPlanned> {
        let length = |length: usize| u32::try_from(length).ok().ok_or(NotPlanned::Length(length));
        let [x, y, z] = self.size;
        let [dtype, other] = types;
        Ok(Convolution {
            direction,
            batch: length(self.batch)?,
            inputs: length(self.inputs)?,
            outputs: length(self.outputs)?,
            size: [length(x)?, length(y)?, length(z)?],
            number: number(dtype).filter(|_| dtype == other).ok_or(NotPlanned::Types(dtype, other))?,
            tf32: dtype == DType::F32 && factors == Factors::Tf32,
        })
    }
}

/// Reason why the library does not compute a convolution.
#[derive(Debug, thiserror::Error)]
enum NotPlanned {
    /// An axis whose length exceeds 32 bits.
    #[error("cuDNN takes axes of less than 2^32 values, not of {0}")]
    Length(usize),
    /// Types that the library does not convolve.
    #[error("cuDNN convolves two tensors of one type of floats, not {0:?} and {1:?}")]
    Types(DType, DType),
    /// The library does not compute it.
    #[error(transparent)]
    Library(#[from] PrepareError),
}

/// Tensor that a direction computes from two others; `None`, with one warning, if the library does not compute it.
fn computed(direction: Direction, sizes: Sizes, factors_of: [&CubeTensor; 2], factors: Factors) -> Option<CubeTensor> {
    let [a, b] = factors_of;
    if !on_cuda(a) || BURNS.load(Ordering::Relaxed) {
        return None;
    }
    let planned = || {
        let problem = sizes.problem(direction, [a.dtype, b.dtype], factors)?;
        let prepared = prepare(&problem, a)?;
        Ok::<_, NotPlanned>((problem, prepared))
    };
    let (problem, prepared) = planned().map_err(|reason| warn_once(FALLBACK, &reason)).ok()?;
    let (a, b) = (aligned(a.clone()), aligned(b.clone()));
    let shape = sizes.written(direction);
    let out = uninit(&a, shape, a.dtype);
    let [of_a, of_b, of_out] = problem.tensors().map(|uid| [(uid, 0)]);
    let read = [Buffer { tensor: &a, places: &of_a }, Buffer { tensor: &b, places: &of_b }];
    launch(problem, prepared, &read, &[Buffer { tensor: &out, places: &of_out }]);
    Some(out)
}

#[cfg(any(test, feature = "device-tests"))]
#[cfg_attr(not(test), allow(dead_code, unused_imports, clippy::wildcard_imports, reason = "tests that run on devices"))]
pub(crate) mod tests {
    use super::*;
    use crate::ops::conv::volume::volume_conv;
    use crate::ops::testing::{on_gpus, wave};
    use crate::vendor::cudnn;
    use crate::vendor::cudnn::queue::forget;
    use crate::vendor::cudnn::record::Engines;
    use crate::vendor::cudnn::session::{ALIGNMENT, Problem as _};
    use burn::backend::Cube;
    use burn::tensor::{Device, FloatDType, Tensor};

    const FORMS: [Factors; 3] = [Factors::F32, Factors::Tf32, Factors::Bf16];

    fn bits(x: Tensor<5>) -> Vec<u32> {
        let values: Vec<f32> = x.cast(FloatDType::F32).into_data().try_to_vec().unwrap();
        values.into_iter().map(f32::to_bits).collect()
    }

    /// Computes value and gradients of a convolution, as bits.
    fn outcome(device: &Device, [inputs, outputs, side]: [usize; 3], factors: Factors) -> [Vec<u32>; 3] {
        let graph = device.clone().autodiff();
        let load =
            |shape: [usize; 5], frequency| Tensor::<5>::from_data(wave(shape, frequency, 1.0), &graph).require_grad();
        let (x, weight) = (load([2, side, side, side, inputs], 0.7), load([outputs, inputs, 3, 3, 3], 0.3));
        let y = volume_conv(x.clone(), weight.clone(), factors).cast(FloatDType::F32);
        let grads = (y.clone() * Tensor::from_data(wave(y.dims(), 1.3, 1.0), &graph)).sum().backward();
        [y.inner(), x.grad(&grads).unwrap(), weight.grad(&grads).unwrap()].map(bits)
    }

    fn same_inputs_give_the_same_bits_and_their_engines_are_recorded(device: &Device) {
        cudnn::library().expect("cuDNN");
        for sizes in [[32, 32, 24], [64, 32, 17], [1, 32, 24]] {
            for factors in FORMS {
                let first = outcome(device, sizes, factors);
                for _ in 0..3 {
                    assert!(outcome(device, sizes, factors) == first, "{sizes:?} {factors:?}");
                }
            }
        }
        assert!(!Engines::of_process().is_empty());
    }

    fn a_resumed_run_computes_the_same_bits_by_its_recorded_engines(device: &Device) {
        let x = Tensor::<1>::zeros([1], device).try_into_primitive::<Cube>().unwrap();
        for factors in FORMS {
            let first = outcome(device, [32, 32, 24], factors);
            let recorded = Engines::of_process().clone();
            forget(&x).unwrap();
            assert!(outcome(device, [32, 32, 24], factors) == first, "{factors:?}");
            let now = Engines::of_process().clone();
            let mut both = now.clone();
            both.extend(recorded);
            assert!(both == now, "{factors:?}: an engine was chosen again");
        }
    }

    /// Tests that a recorded engine is used, and that none takes its place: the library would choose the same one again.
    fn a_recorded_engine_that_is_rejected_fails_its_convolution(device: &Device) {
        let x = Tensor::<1>::zeros([1], device).try_into_primitive::<Cube>().unwrap();
        // The sizes of no other test.
        let sizes = Sizes { batch: 2, inputs: 32, outputs: 32, size: [20; 3] };
        let problem = sizes.problem(Direction::Forward, [DType::BF16; 2], Factors::Bf16).unwrap();
        let prepared = || prepare(&problem, &x).expect("not refused").into_result();
        let bytes = prepared().expect("planned");
        let recorded = Engines::of_process().clone();
        Engines::of_process().spoil(&problem.key());
        forget(&x).unwrap();
        let spoiled = prepared();
        Engines::of_process().extend(recorded);
        let reason = spoiled.unwrap_err();
        assert!(reason.contains("--other-rounding"), "{reason}");
        assert_eq!(prepared(), Ok(bytes));
    }

    fn cudnn_computes_the_convolutions_of_unetr(device: &Device) {
        cudnn::library().expect("cuDNN");
        let tensor = |shape: [usize; 5], dtype| {
            Tensor::<5>::from_data(wave(shape, 0.7, 1.0), device).cast(dtype).try_into_primitive::<Cube>().unwrap()
        };
        for [inputs, outputs, side] in [[1, 32, 24], [32, 32, 24], [64, 64, 24], [256, 128, 12], [512, 256, 6]] {
            for (dtype, factors) in
                [(FloatDType::BF16, Factors::Bf16), (FloatDType::F32, Factors::Tf32), (FloatDType::F32, Factors::F32)]
            {
                let x = tensor([2, side, side, side, inputs], dtype);
                let dy = tensor([2, side, side, side, outputs], dtype);
                let filter = tensor([outputs, 3, 3, 3, inputs], dtype);
                let name = format!("{inputs} to {outputs} of {side}, {factors:?}");
                assert!(convolved(&x, &filter, factors).is_some(), "{name}");
                assert!(volume_gradient(&filter, &dy, factors).is_some(), "dx: {name}");
                assert!(filter_gradient(&x, &dy, factors).is_some(), "dw: {name}");
            }
        }
    }

    fn a_part_of_a_buffer_that_is_not_aligned_is_copied(device: &Device) {
        let whole = Tensor::<1>::from_data(wave([1000], 0.7, 1.0), device).try_into_primitive::<Cube>().unwrap();
        let mut part = whole.clone();
        part.handle = part.handle.clone().offset_start(4);
        *part.meta.shape_mut() = Shape::from([999]);
        assert_eq!(aligned(whole).handle.offset_start.unwrap_or(0), 0);
        assert!(aligned(part).handle.offset_start.unwrap_or(0).is_multiple_of(ALIGNMENT));
    }

    on_gpus!(
        same_inputs_give_the_same_bits_and_their_engines_are_recorded,
        a_resumed_run_computes_the_same_bits_by_its_recorded_engines,
        a_recorded_engine_that_is_rejected_fails_its_convolution,
        cudnn_computes_the_convolutions_of_unetr,
        a_part_of_a_buffer_that_is_not_aligned_is_copied,
    );
}
