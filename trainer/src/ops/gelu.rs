//! Exact GELU (Hendrycks and Gimpel, arXiv 1606.08415, section 2) of a linear map's result plus its bias, and the exact
//! derivative: `h · Φ(h)` and `Φ(h) + h · φ(h)` for `h = x + bias`, where Φ and φ are the standard normal distribution and
//! its density. Adding the bias here saves a pass that would read and write `x` once more.
//!
//! DIFFERENCE: on every backend except the CPU, Burn's derivative of GELU is that of the tanh approximation. The two
//! differ by up to 5e-4, more than the rounding of a bf16 product where gradients are small.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata as _, backend_extension};
use burn::tensor::Tensor;

use super::columns::ColumnSums;
use super::cpu;
use super::primitive::{along_rows, cast, dtype_of, widened};

/// Computes `h · Φ(h)` for `h = x + bias`, in the number type of `x` `[.., W]`; `bias` `[W]` is f32.
#[must_use]
pub fn biased_gelu<const D: usize>(x: Tensor<D>, bias: Tensor<1>) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as ExactGelu>::exact_gelu(x.into_dispatch(), bias.into_dispatch()))
}

/// Exact GELU, for each backend.
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Autodiff)]
pub trait ExactGelu: Backend {
    /// Computes `h · Φ(h)` for `h = x + bias`.
    fn exact_gelu(x: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// Computes GELU with the backend's own operations.
fn composed<B: Backend>(x: FloatTensor<B>, bias: FloatTensor<B>) -> FloatTensor<B> {
    let dtype = dtype_of::<B>(&x);
    let bias = along_rows::<B>(bias, &x);
    cast::<B>(B::gelu(B::float_add(widened::<B>(x), bias)), dtype)
}

impl ExactGelu for Flex {
    fn exact_gelu(x: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        if !cpu::all_f32([&x, &bias]) {
            return composed::<Self>(x, bias);
        }
        let [x, bias] = [x, bias].map(cpu::in_order);
        cpu::tensor(hiend_cpu::gelu::forward(cpu::values(&x), cpu::values(&bias)), x.shape())
    }
}

#[cfg(feature = "cube")]
impl ExactGelu for burn::backend::Cube {
    fn exact_gelu(x: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        super::kernels::gelu::forward(x, bias)
    }
}

/// Gradients of the exact GELU, for each backend.
pub trait ExactGeluBackward: ColumnSums {
    /// Computes the gradients of `x`, `dy · (Φ(h) + h · φ(h))`, and of `bias`.
    #[must_use]
    fn exact_gelu_backward(
        x: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        dy: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

/// Computes the gradients with the backend's own operations; exact if its derivative of GELU is exact, as on [`Flex`].
fn composed_backward<B: ColumnSums>(
    x: FloatTensor<B>,
    bias: FloatTensor<B>,
    dy: FloatTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let dtype = dtype_of::<B>(&x);
    let bias = along_rows::<B>(bias, &x);
    let dx = B::gelu_backward(B::float_add(widened::<B>(x), bias), widened::<B>(dy));
    (cast::<B>(dx.clone(), dtype), B::column_sums(dx))
}

impl ExactGeluBackward for Flex {
    fn exact_gelu_backward(
        x: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        dy: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !cpu::all_f32([&x, &bias, &dy]) {
            return composed_backward::<Self>(x, bias, dy);
        }
        let [x, bias, dy] = [x, bias, dy].map(cpu::in_order);
        let (dx, dbias) = hiend_cpu::gelu::backward(cpu::values(&x), cpu::values(&bias), cpu::values(&dy));
        (cpu::tensor(dx, x.shape()), cpu::tensor(dbias, bias.shape()))
    }
}

#[cfg(feature = "cube")]
impl ExactGeluBackward for burn::backend::Cube {
    fn exact_gelu_backward(
        x: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        dy: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        super::kernels::gelu::backward(x, bias, dy)
    }
}

impl<B: ExactGelu + ExactGeluBackward, C: CheckpointStrategy> ExactGelu for Autodiff<B, C> {
    fn exact_gelu(x: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Derivative;

        impl<B: ExactGeluBackward> Backward<B, 2> for Derivative {
            type State = (FloatTensor<B>, FloatTensor<B>);

            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                let dy = grads.consume::<B>(&ops.node);
                let (x, bias) = ops.state;
                let (dx, dbias) = B::exact_gelu_backward(x, bias, dy);
                for (parent, grad) in ops.parents.into_iter().zip([dx, dbias]) {
                    if let Some(node) = parent {
                        grads.register::<B>(node.id, grad);
                    }
                }
            }
        }

        let nodes = [x.node(), bias.node()];
        let (x, bias) = (x.into_primitive(), bias.into_primitive());
        match Derivative.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let y = B::exact_gelu(x.clone(), bias.clone());
                prepared.finish((x, bias), y)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(B::exact_gelu(x, bias)),
        }
    }
}

#[cfg(any(test, feature = "device-tests"))]
#[cfg_attr(not(test), allow(dead_code, unused_imports, clippy::wildcard_imports, reason = "tests that run on devices"))]
pub(crate) mod tests {
    use super::*;
    use crate::ops::testing::{on_devices, short_of, values_and_gradients, wave};
    use burn::tensor::{Device, FloatDType};

    fn value_and_gradients_match_the_composition(device: &Device) {
        for (rows, width) in [(7, 66), (70, 96), (3, 37)] {
            let tensors = [wave([3, rows, width], 0.7, 4.0), wave([1, 1, width], 0.9, 1.0)];
            let ours = values_and_gradients(device, &tensors, |[x, bias]| biased_gelu(x, bias.reshape([width])));
            // By the error function, whose derivative every backend composes exactly.
            let composed = values_and_gradients(device, &tensors, |[x, bias]| {
                let h = x + bias;
                h.clone() * 0.5 * ((h / std::f64::consts::SQRT_2).erf() + 1.0)
            });
            ours.assert_close(&composed, 1e-6);
        }
    }

    fn a_16_bit_result_is_the_rounded_f32_result(device: &Device) {
        let short = short_of(device);
        let tensors = [wave([3, 70, 96], 0.7, 4.0), wave([1, 1, 96], 0.9, 1.0)];
        let rounded = values_and_gradients(device, &tensors, |[x, bias]| {
            biased_gelu(x.cast(short), bias.reshape([96])).cast(FloatDType::F32)
        });
        let full = values_and_gradients(device, &tensors, |[x, bias]| biased_gelu(x, bias.reshape([96])));
        // Rounding, to 8 bits, of the input, of the result and of both gradients.
        rounded.assert_close(&full, 0.01);
    }

    on_devices!(value_and_gradients_match_the_composition, a_16_bit_result_is_the_rounded_f32_result);
}
