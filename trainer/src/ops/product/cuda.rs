//! Products of tensors by NVIDIA's library: the matrices of each product, copies of tensors whose layout is not that of
//! a matrix, and a warning if the library is not used.

use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::{DType, FloatDType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use super::Factors;
use crate::ops::kernels::uninit;
use crate::vendor::answers::Prepared;
use crate::vendor::cublaslt;
use crate::vendor::fallback::warn_once;
use crate::vendor::layout::Matrix;
use crate::vendor::problem::{Epilogue, Placed, Problem, VECTOR_ALIGNMENT};
use crate::vendor::queue::{self, PrepareError};

/// Consequence of computing without the library, for warnings.
const FALLBACK: &str = "products are computed by Burn's kernels (30 to 146 TFLOP/s on an H100, where cuBLASLt makes \
     416 to 804, and tuning before the first step)";

/// True if gradients of biases are left to passes of their own.
static SEPARATE_BIAS_GRADIENTS: AtomicBool = AtomicBool::new(false);

/// Leaves the gradients of biases to passes of their own from now on if `separate` is set.
pub(crate) fn separate_bias_gradients(separate: bool) {
    SEPARATE_BIAS_GRADIENTS.store(separate, Ordering::Relaxed);
}

/// Computes `x` times `weight`; `None` if the library does not compute it. Rows of the result have no gaps.
pub(crate) fn forward(x: &CubeTensor, weight: &CubeTensor, factors: Factors) -> Option<CubeTensor> {
    let (x, weight) = (Factor::rows(x)?, Factor::rows(weight)?);
    let shape = mapped_shape(x.tensor.meta.shape(), weight.matrix.columns);
    Some(computed(&x, &weight, shape, x.tensor.dtype, Epilogue::Plain, factors)?.0)
}

/// Computes `x` times `weight` plus `bias` in one pass; `None` if the library does not compute it.
pub(crate) fn forward_biased(
    x: &CubeTensor,
    weight: &CubeTensor,
    bias: &CubeTensor,
    factors: Factors,
) -> Option<CubeTensor> {
    let (x, weight) = (Factor::rows(x)?, Factor::rows(weight)?);
    let shape = mapped_shape(x.tensor.meta.shape(), weight.matrix.columns);
    let dtype = x.tensor.dtype;
    let bias = into_contiguous(bias.clone());
    // The library reads the bias in the result's type, whatever it is in. Allocations begin at multiples of 512 bytes
    // (cubecl-cuda, `mem_alignment`); a part of one may not.
    if bias.dtype != dtype || !bias.handle.offset_start.unwrap_or(0).is_multiple_of(VECTOR_ALIGNMENT) {
        return None;
    }
    let (problem, prepared) = planned(&x, &weight, &shape, dtype, Epilogue::Bias, factors)?;
    let out = uninit(&x.tensor, shape, dtype);
    queue::launch(problem, prepared, [&x.tensor, &weight.tensor, &out], Some(&bias));
    Some(out)
}

/// Computes `dy` times the transposed weight, in `dtype`.
pub(crate) fn input_gradient(
    weight: &CubeTensor,
    dy: &CubeTensor,
    factors: Factors,
    dtype: FloatDType,
) -> Option<CubeTensor> {
    let (dy, weight) = (Factor::rows(dy)?, Factor::rows(weight)?.transpose());
    let shape = mapped_shape(dy.tensor.meta.shape(), weight.matrix.columns);
    Some(computed(&dy, &weight, shape, dtype.into(), Epilogue::Plain, factors)?.0)
}

/// Computes the transposed `x` times `dy`, in `dtype`, and the column sums of `dy` if they are wanted and cost nothing
/// extra.
pub(crate) fn weight_gradient(
    x: &CubeTensor,
    dy: &CubeTensor,
    factors: Factors,
    dtype: FloatDType,
    with_bias: bool,
) -> Option<(CubeTensor, Option<CubeTensor>)> {
    let (x, dy) = (Factor::rows(x)?.transpose(), Factor::rows(dy)?);
    let shape = Shape::from([x.matrix.rows, dy.matrix.columns]);
    let dtype = dtype.into();
    let together = with_bias && !SEPARATE_BIAS_GRADIENTS.load(Ordering::Relaxed);
    if together && let Some(both) = computed(&x, &dy, shape.clone(), dtype, Epilogue::BiasGradient, factors) {
        return Some(both);
    }
    computed(&x, &dy, shape, dtype, Epilogue::Plain, factors)
}

/// Computes `a` `[N, H, R, K]` times `b` `[N, H, K, C]`.
pub(crate) fn of_heads(a: &CubeTensor, b: &CubeTensor, factors: Factors) -> Option<CubeTensor> {
    let (a, b) = (Factor::batch(a)?, Factor::batch(b)?);
    let [n, heads, rows, _] = a.tensor.meta.shape().dims();
    let shape = Shape::from([n, heads, rows, b.matrix.columns]);
    Some(computed(&a, &b, shape, a.tensor.dtype, Epilogue::Plain, factors)?.0)
}

/// Computes `matrix` `[R, K]` times each matrix of `x` `[B, K, C]`, in full 32 bits if they have 32.
pub(crate) fn along_axis(matrix: &CubeTensor, x: &CubeTensor) -> Option<CubeTensor> {
    let (matrix, x) = (Factor::rows(matrix)?, Factor::batch(x)?);
    let shape = Shape::from([x.matrix.batch, matrix.matrix.rows, x.matrix.columns]);
    Some(computed(&matrix, &x, shape, x.tensor.dtype, Epilogue::Plain, Factors::F32)?.0)
}

/// Shape of a product: `[.., K]` and `[K, N]` → `[.., N]`.
fn mapped_shape(x: &Shape, columns: usize) -> Shape {
    let mut shape = x.clone();
    let last = shape.num_dims() - 1;
    shape[last] = columns;
    shape
}

/// A tensor in the layout of a matrix.
struct Factor {
    tensor: CubeTensor,
    matrix: Matrix,
}

impl Factor {
    fn rows(x: &CubeTensor) -> Option<Self> {
        Self::of(x, Matrix::of_rows)
    }

    fn batch(x: &CubeTensor) -> Option<Self> {
        Self::of(x, Matrix::of_batch)
    }

    /// Wraps `x`, or a contiguous copy if its layout is not that of a matrix; `None` on other devices and for types
    /// that the library does not multiply.
    fn of(x: &CubeTensor, matrix: fn(&[usize], &[usize]) -> Option<Matrix>) -> Option<Self> {
        if !queue::on_cuda(x) || queue::number(x.dtype).is_none() {
            return None;
        }
        if let Err(reason) = cublaslt::library() {
            warn_once(FALLBACK, reason);
            return None;
        }
        let matrix_of = |x: &CubeTensor| matrix(x.meta.shape(), x.meta.strides());
        if let Some(matrix) = matrix_of(x) {
            return Some(Self { tensor: x.clone(), matrix });
        }
        let tensor = into_contiguous(x.clone());
        let matrix = matrix_of(&tensor)?;
        Some(Self { tensor, matrix })
    }

    fn transpose(self) -> Self {
        Self { matrix: self.matrix.transpose(), ..self }
    }
}

/// Reason why the library does not compute a product.
#[derive(Debug, thiserror::Error)]
enum NotPlanned {
    /// Types that the library does not multiply.
    #[error("cuBLASLt multiplies factors of one type of floats: {left:?} and {right:?}, to {result:?}")]
    Types {
        /// Type of the left factor.
        left: DType,
        /// Type of the right factor.
        right: DType,
        /// Type of the result.
        result: DType,
    },
    /// Shapes or layouts that are not those of a product.
    #[error("{:?} and {:?} are not stored as factors of a product {:?}", shapes[0], shapes[1], shapes[2])]
    Layout {
        /// Shapes of the left factor, the right one and the result.
        shapes: Box<[Shape; 3]>,
    },
    /// The library does not compute it.
    #[error(transparent)]
    Library(#[from] PrepareError),
}

/// Computes the product into a new tensor, and the vector that its epilogue writes.
fn computed(
    left: &Factor,
    right: &Factor,
    shape: Shape,
    dtype: DType,
    epilogue: Epilogue,
    factors: Factors,
) -> Option<(CubeTensor, Option<CubeTensor>)> {
    let (problem, prepared) = planned(left, right, &shape, dtype, epilogue, factors)?;
    let out = uninit(&left.tensor, shape, dtype);
    let vector =
        (epilogue == Epilogue::BiasGradient).then(|| uninit(&left.tensor, Shape::from([right.matrix.columns]), dtype));
    queue::launch(problem, prepared, [&left.tensor, &right.tensor, &out], vector.as_ref());
    Some((out, vector))
}

/// Plans the product into a new tensor of this shape and type; returns it with the library's answer. `None` if the
/// library does not compute it. Only a plain product causes a warning then, because one with an epilogue is computed
/// without it instead.
fn planned(
    left: &Factor,
    right: &Factor,
    shape: &Shape,
    dtype: DType,
    epilogue: Epilogue,
    factors: Factors,
) -> Option<(Problem, Prepared)> {
    let planned = || {
        let problem = problem(left, right, shape, dtype, factors)?.with(epilogue);
        let prepared = queue::prepare(&problem, &left.tensor)?;
        Ok::<_, NotPlanned>((problem, prepared))
    };
    match planned() {
        Ok(planned) => return Some(planned),
        Err(reason) if epilogue == Epilogue::Plain => warn_once(FALLBACK, &reason),
        Err(reason) => tracing::debug!("a product to {shape:?} is computed in two passes: {reason}"),
    }
    None
}

fn problem(
    left: &Factor,
    right: &Factor,
    shape: &Shape,
    dtype: DType,
    factors: Factors,
) -> Result<Problem, NotPlanned> {
    let [of_left, of_right] = [left, right].map(|factor| factor.tensor.dtype);
    let numbers = queue::number(of_left).filter(|_| of_left == of_right).zip(queue::number(dtype));
    let (number, result) = numbers.ok_or(NotPlanned::Types { left: of_left, right: of_right, result: dtype })?;
    // The result is contiguous: one matrix, or one after another.
    let of = if left.matrix.batch * right.matrix.batch == 1 { Matrix::of_rows } else { Matrix::of_batch };
    let described = || {
        let out = Placed { matrix: of(shape, &contiguous_strides(shape))?, offset: 0 };
        let [l, r] = [left, right].map(|factor| queue::placed(&factor.tensor, factor.matrix));
        Problem::new(l?, r?, out, number, result, factors == Factors::Tf32)
    };
    described().ok_or_else(|| {
        let [left, right] = [left, right].map(|factor| factor.tensor.meta.shape().clone());
        NotPlanned::Layout { shapes: Box::new([left, right, shape.clone()]) }
    })
}

/// Strides of a tensor of this shape allocated by [`uninit`].
fn contiguous_strides(shape: &Shape) -> Vec<usize> {
    let mut strides = vec![1; shape.num_dims()];
    for axis in (1..strides.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}

#[cfg(any(test, feature = "device-tests"))]
#[cfg_attr(not(test), allow(dead_code, unused_imports, clippy::wildcard_imports, reason = "tests that run on devices"))]
pub(crate) mod tests {
    use super::*;
    use crate::device::failure::{is_out_of_memory, reason_of};
    use crate::ops::product::{affine, linear};
    use crate::ops::testing::{on_gpus, wave};
    use crate::vendor::algorithms::Algorithms;
    use burn::backend::Cube;
    use burn::tensor::{Device, Tensor};

    const FORMS: [Factors; 3] = [Factors::F32, Factors::Tf32, Factors::Bf16];

    fn bits(x: Tensor<3>) -> Vec<u32> {
        let values: Vec<f32> = x.cast(FloatDType::F32).into_data().try_to_vec().unwrap();
        values.into_iter().map(f32::to_bits).collect()
    }

    /// Computes value and gradients of a linear map with bias, as bits.
    fn outcome(device: &Device, [n, l, k, columns]: [usize; 4], factors: Factors) -> [Vec<u32>; 4] {
        let autodiff = device.clone().autodiff();
        let load = |shape: [usize; 3], frequency| {
            Tensor::<3>::from_data(wave(shape, frequency, 1.0), &autodiff).require_grad()
        };
        let (x, weight, bias) = (load([n, l, k], 0.7), load([1, k, columns], 0.3), load([1, 1, columns], 0.9));
        let (w, b) = (weight.clone().reshape([k, columns]), bias.clone().reshape([columns]));
        let y = affine(x.clone(), w, b, factors).cast(FloatDType::F32);
        let grads = (y.clone() * Tensor::from_data(wave([n, l, columns], 1.3, 1.0), &autodiff)).sum().backward();
        [y.inner(), x.grad(&grads).unwrap(), weight.grad(&grads).unwrap(), bias.grad(&grads).unwrap()].map(bits)
    }

    fn same_inputs_give_the_same_bits_and_their_algorithms_are_recorded(device: &Device) {
        cublaslt::library().expect("cuBLASLt");
        for sizes in [[4, 129, 1536, 528], [3, 43, 132, 76]] {
            for factors in FORMS {
                let first = outcome(device, sizes, factors);
                for _ in 0..3 {
                    assert!(outcome(device, sizes, factors) == first, "{sizes:?} {factors:?}");
                }
            }
        }
        assert!(!Algorithms::of_process().is_empty());
    }

    /// If the library refused these products, Burn would compute them without an error.
    fn the_products_of_the_models_are_those_of_the_library(device: &Device) {
        let tensor = |shape: [usize; 4], dtype: FloatDType| {
            Tensor::<4>::from_data(wave(shape, 0.7, 1.0), device).cast(dtype).try_into_primitive::<Cube>().unwrap()
        };
        let matrix = |shape: [usize; 2], dtype: FloatDType| {
            Tensor::<2>::from_data(wave(shape, 0.3, 1.0), device).cast(dtype).try_into_primitive::<Cube>().unwrap()
        };
        for factors in FORMS {
            let dtype = factors.dtype().unwrap_or(FloatDType::F32);
            let (x, dy) = (tensor([1, 4, 129, 1536], dtype), tensor([1, 4, 129, 528], dtype));
            let weight = matrix([1536, 528], dtype);
            assert!(forward(&x, &weight, factors).is_some(), "{factors:?}");
            assert!(input_gradient(&weight, &dy, factors, dtype).is_some(), "dx: {factors:?}");
            let dw = weight_gradient(&x, &dy, factors, FloatDType::F32, true);
            assert!(dw.is_some(), "dw: {factors:?}");
            let (queries, keys) = (tensor([4, 16, 136, 96], dtype), tensor([4, 16, 96, 136], dtype));
            assert!(of_heads(&queries, &keys, factors).is_some(), "heads: {factors:?}");
        }
        // The axes of UNETR's last resizing, 64 to 96, of 64 channels.
        for [batch, columns] in [[16_384, 64], [256, 96 * 64], [4, 96 * 96 * 64]] {
            let x = Tensor::<3>::zeros([batch, 64, columns], device).try_into_primitive::<Cube>().unwrap();
            assert!(along_axis(&matrix([96, 64], FloatDType::F32), &x).is_some(), "resizing of {batch} x {columns}");
        }
    }

    /// Tests that the products themselves compute biases and their gradients: with a refused epilogue they would take
    /// two passes, without an error.
    fn biases_and_their_gradients_are_computed_by_the_products(device: &Device) {
        let short = |shape: [usize; 2]| {
            let values = Tensor::<2>::from_data(wave(shape, 0.7, 1.0), device).cast(FloatDType::BF16);
            values.try_into_primitive::<Cube>().unwrap()
        };
        let [x, weight, dy] = [[516, 1536], [1536, 528], [516, 528]].map(short);
        let bias = Tensor::<1>::from_data(wave([528], 0.9, 1.0), device);
        let narrow = bias.clone().cast(FloatDType::BF16).try_into_primitive::<Cube>().unwrap();
        assert!(forward_biased(&x, &weight, &narrow, Factors::Bf16).is_some(), "bias");
        let (_, sums) = weight_gradient(&x, &dy, Factors::Bf16, FloatDType::F32, true).expect("dw");
        assert!(sums.is_some(), "gradient of a bias");
        // The library would read 32-bit values as 16-bit ones.
        let wide = bias.try_into_primitive::<Cube>().unwrap();
        assert!(forward_biased(&x, &weight, &wide, Factors::Bf16).is_none(), "a bias of another type");
    }

    fn rows_with_gaps_and_transposed_views_are_not_copied(device: &Device) {
        let whole = Tensor::<3>::from_data(wave([2, 70, 64], 0.7, 1.0), device);
        let mut gaps = whole.clone().try_into_primitive::<Cube>().unwrap();
        *gaps.meta.shape_mut() = Shape::from([2, 70, 40]);
        assert_eq!(Factor::rows(&gaps).unwrap().matrix.pitch, 64);
        let transposed = whole.swap_dims(1, 2).try_into_primitive::<Cube>().unwrap();
        assert!(Factor::batch(&transposed).unwrap().matrix.transposed);
    }

    fn a_factor_without_memory_fails_the_product_with_its_reason(device: &Device) {
        // 4 TiB, which no device has.
        let x = Tensor::<2>::empty([1 << 20, 1 << 20], device);
        let weight = Tensor::<2>::empty([1 << 20, 8], device);
        let reason = reason_of(linear(x, weight, Factors::F32).try_into_data().unwrap_err());
        assert!(is_out_of_memory(&reason), "{reason}");
        // The device computes as before.
        let y = outcome(device, [2, 5, 8, 12], Factors::F32);
        assert!(y[0].iter().any(|&bits| bits != 0));
    }

    fn tensor<const D: usize>(device: &Device, shape: [usize; D], frequency: f32) -> CubeTensor {
        Tensor::<D>::from_data(wave(shape, frequency, 1.0), device).try_into_primitive::<Cube>().unwrap()
    }

    /// A factor of another thread lies in the buffers of another stream, which still computes it when the product is queued,
    /// and is freed as soon as it is.
    fn factors_of_other_streams_are_waited_for(device: &Device) {
        let (shape, columns) = ([16, 129, 1536], 528);
        // Computed once: each round's own work is the device's.
        let (values, weights) = (wave(shape, 0.7, 0.25), wave([1, 1536, columns], 0.3, 1.0));
        let weight = || Tensor::<3>::from_data(weights.clone(), device).reshape([1536, columns]);
        let expected = bits(linear(Tensor::<3>::from_data(wave(shape, 0.7, 1.0), device), weight(), Factors::Tf32));
        for round in 0..100 {
            let (x, weight) = std::thread::scope(|scope| {
                let make = scope.spawn(|| {
                    // Exact, and long enough to be in progress.
                    let x = Tensor::<3>::from_data(values.clone(), device);
                    ((0..20).fold(x, |x, _| x * 2.0 * 0.5) * 4.0, weight() * 1.0)
                });
                make.join().expect("the factors are computed")
            });
            let y = linear(x, weight, Factors::Tf32);
            // May take the factors' memory.
            let others: Vec<_> = std::thread::scope(|scope| {
                let fill = || Tensor::<3>::full(shape, f32::NAN, device) * 1.0;
                let fills: Vec<_> = (0..2).map(|_| scope.spawn(fill)).collect();
                fills.into_iter().map(|fill| fill.join().expect("a tensor is filled")).collect()
            });
            assert!(bits(y) == expected, "round {round}");
            drop(others);
        }
    }

    fn a_resumed_run_computes_the_same_bits_by_its_recorded_algorithms(device: &Device) {
        for factors in FORMS {
            let sizes = [4, 129, 1536, 528];
            let first = outcome(device, sizes, factors);
            let recorded = Algorithms::of_process().clone();
            queue::forget(&tensor(device, [1], 0.7)).unwrap();
            assert!(outcome(device, sizes, factors) == first, "{factors:?}");
            let now = Algorithms::of_process().clone();
            let mut both = now.clone();
            both.extend(recorded);
            assert!(both == now, "{factors:?}: an algorithm was chosen again");
        }
    }

    fn a_refused_launch_and_a_fault_fail_the_result_with_their_reason(device: &Device) {
        let (x, weight) = (tensor(device, [64, 128], 0.7), tensor(device, [128, 32], 0.3));
        let (left, right) = (Factor::rows(&x).unwrap(), Factor::rows(&weight).unwrap());
        let shape = Shape::from([64, 32]);
        let (problem, prepared) =
            planned(&left, &right, &shape, DType::F32, Epilogue::Plain, Factors::F32).expect("planned");
        let reason = |x: &CubeTensor, prepared| {
            let out = uninit(x, shape.clone(), DType::F32);
            queue::launch(problem, prepared, [x, &weight, &out], None);
            reason_of(Tensor::<2>::from_primitive::<Cube>(out).try_into_data().unwrap_err())
        };
        let mut moved = x.clone();
        moved.handle = moved.handle.clone().offset_start(4);
        let refused = reason(&moved, prepared);
        assert!(refused.contains("a matrix is less aligned than cuBLASLt's plan expects"), "{refused}");
        let fault = reason(&x, Prepared::fault("cublasLtCreate failed with CUBLAS_STATUS_ALLOC_FAILED"));
        assert!(is_out_of_memory(&fault), "{fault}");
        // The device computes as before.
        let y = outcome(device, [2, 5, 8, 12], Factors::F32);
        assert!(y[0].iter().any(|&bits| bits != 0));
    }

    on_gpus!(
        same_inputs_give_the_same_bits_and_their_algorithms_are_recorded,
        the_products_of_the_models_are_those_of_the_library,
        biases_and_their_gradients_are_computed_by_the_products,
        rows_with_gaps_and_transposed_views_are_not_copied,
        a_factor_without_memory_fails_the_product_with_its_reason,
        factors_of_other_streams_are_waited_for,
        a_resumed_run_computes_the_same_bits_by_its_recorded_algorithms,
        a_refused_launch_and_a_fault_fail_the_result_with_their_reason,
    );

    /// A test that runs after all others of NVIDIA's libraries, because it hands cuBLASLt an algorithm that the library did not
    /// make. Its header promises neither an error nor that the process survives.
    pub(crate) mod last {
        use super::*;

        /// Tests that a recorded algorithm is used, and that none takes its place: the library would choose the same one again.
        fn a_recorded_algorithm_that_is_rejected_fails_its_product(device: &Device) {
            // The sizes of no other test.
            let (x, weight) = (tensor(device, [72, 136], 0.7), tensor(device, [136, 40], 0.3));
            let (left, right) = (Factor::rows(&x).unwrap(), Factor::rows(&weight).unwrap());
            let shape = Shape::from([72, 40]);
            let prepared =
                || planned(&left, &right, &shape, DType::F32, Epilogue::Plain, Factors::F32).expect("not refused");
            let (problem, first) = prepared();
            let bytes = first.into_result().expect("planned");
            let recorded = Algorithms::of_process().clone();
            Algorithms::of_process().spoil(&problem);
            queue::forget(&x).unwrap();
            let (_, spoiled) = prepared();
            Algorithms::of_process().extend(recorded);
            let reason = spoiled.into_result().unwrap_err();
            assert!(reason.contains("cublasLtMatmulAlgoCheck"), "{reason}");
            assert_eq!(prepared().1.into_result(), Ok(bytes));
        }

        on_gpus!(a_recorded_algorithm_that_is_rejected_fails_its_product);
    }
}
