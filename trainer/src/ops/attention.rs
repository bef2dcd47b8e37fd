//! Multi-head attention (Vaswani et al., arXiv 1706.03762, section 3.2) as one operation with one derivative.
//!
//! Composed of Burn's operations, attention copies tokens three times to take heads apart, stores and reads a tensor of
//! the attention matrix's size for every elementary operation of softmax, and multiplies matrices whose rows are not
//! aligned: with 33 values per head or 513 keys, such rows are read value by value. Here heads are cut out in one copy,
//! which adds the bias of the preceding linear map and, on a GPU, pads rows to whole pieces ([`Padding`]). Softmax
//! overwrites its input, and only its result is kept for the backward pass, `ds = y · (dy - sum(dy · y))`. Padding is
//! zero or never read, so that values and gradients are those of the unpadded heads.
//!
//! For f32 on the CPU all this is one function of [`hiend_cpu`], which makes no attention matrix, and on CUDA it is cuDNN's
//! fused attention where [`Computation::Cudnn`] is asked for ([`FusedAttention`]), which may read tokens as they are
//! ([`reads_tokens`]).

#[cfg(feature = "cuda")]
pub(crate) mod cudnn;
mod derivative;
mod fused;
mod heads;
mod matrix;
pub(super) mod part;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use self::derivative::forward;
pub use self::fused::{FusedAttention, Mapped, OnCpu, Sources};
pub use self::heads::HeadOps;
use self::matrix::weights;
pub use self::part::{Padding, Part};
use super::product::Factors;

/// Computation of attention on GPUs: `train.attention` in a configuration. No effect on a CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Computation {
    /// Products of heads, with the softmax of the matrix between them.
    #[default]
    Products,
    /// cuDNN's fused attention of 16-bit tokens, which stores no matrix; products if the library is missing or rejects
    /// the sizes.
    Cudnn,
}

/// Settings of an attention.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Method {
    /// Form in which products take their factors.
    pub factors: Factors,
    /// Computation on GPUs.
    pub computation: Computation,
}

impl From<Factors> for Method {
    fn from(factors: Factors) -> Self {
        Self { factors, ..Self::default() }
    }
}

/// Attention of every token to every token of its sequence: `[N, L, 3 · dim]` (queries, keys, values), plus a bias
/// `[3 · dim]` in f32 unless it is added already → `[N, L, dim]`, in `heads` heads of equal width.
#[must_use]
pub fn attend_self(
    qkv: Tensor<3>,
    bias: impl Into<Option<Tensor<1>>>,
    heads: usize,
    method: impl Into<Method>,
) -> Tensor<3> {
    let (qkv, method) = (qkv.into_dispatch(), method.into());
    Tensor::from_dispatch(match bias.into() {
        Some(bias) => <Dispatch as Attention>::attend_self(qkv, bias.into_dispatch(), heads, method),
        None => <Dispatch as Attention>::attend_self_biased(qkv, heads, method),
    })
}

/// Attention of one sequence to another: `[N, L, dim]` (queries) and `[N, M, 2 · dim]` (keys, values), plus their biases
/// in f32, `[dim]` and `[2 · dim]`, unless they are added already → `[N, L, dim]`.
#[must_use]
pub fn attend_cross(
    q: Tensor<3>,
    kv: Tensor<3>,
    biases: impl Into<Option<[Tensor<1>; 2]>>,
    heads: usize,
    method: impl Into<Method>,
) -> Tensor<3> {
    let (q, kv, method) = (q.into_dispatch(), kv.into_dispatch(), method.into());
    Tensor::from_dispatch(match biases.into() {
        Some([q_bias, kv_bias]) => {
            let (q_bias, kv_bias) = (q_bias.into_dispatch(), kv_bias.into_dispatch());
            <Dispatch as Attention>::attend_cross(q, q_bias, kv, kv_bias, heads, method)
        }
        None => <Dispatch as Attention>::attend_cross_biased(q, kv, heads, method),
    })
}

/// Returns true if attention in heads of `width` values, on the device of `x`, reads tokens without splitting them into
/// heads. In that case the bias of the preceding linear map is free in the map; otherwise it is free in the attention,
/// which splits tokens into heads.
#[must_use]
pub fn reads_tokens<const D: usize>(x: &Tensor<D>, width: usize, method: impl Into<Method>) -> bool {
    #[cfg(feature = "cuda")]
    {
        cudnn::reads_tokens(x, width, method.into())
    }
    #[cfg(not(feature = "cuda"))]
    {
        let _ = (x, width, method);
        false
    }
}

/// Attention weights of each query over the keys: `[N, L, dim]` and `[N, M, dim]` → `[N, heads, L, M]`, whose rows sum to
/// one. For display: gradients do not flow through them.
#[must_use]
pub fn attention_weights(q: Tensor<3>, k: Tensor<3>, heads: usize, factors: Factors) -> Tensor<4> {
    let [q, k] = [q, k].map(|x| x.without_autodiff().into_dispatch());
    Tensor::from_dispatch(<Dispatch as Attention>::attention_weights(q, k, heads, factors))
}

/// The operations for each backend.
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Autodiff)]
pub trait Attention: Backend {
    /// Attention of a sequence to itself, plus a bias; see [`attend_self`].
    fn attend_self(qkv: FloatTensor<Self>, bias: FloatTensor<Self>, heads: usize, method: Method) -> FloatTensor<Self>;

    /// Attention of a sequence to itself, whose tokens include the bias; see [`attend_self`].
    fn attend_self_biased(qkv: FloatTensor<Self>, heads: usize, method: Method) -> FloatTensor<Self>;

    /// Attention of one sequence to another, plus biases; see [`attend_cross`].
    fn attend_cross(
        q: FloatTensor<Self>,
        q_bias: FloatTensor<Self>,
        kv: FloatTensor<Self>,
        kv_bias: FloatTensor<Self>,
        heads: usize,
        method: Method,
    ) -> FloatTensor<Self>;

    /// Attention of one sequence to another, whose tokens include the biases; see [`attend_cross`].
    fn attend_cross_biased(
        q: FloatTensor<Self>,
        kv: FloatTensor<Self>,
        heads: usize,
        method: Method,
    ) -> FloatTensor<Self>;

    /// Computes attention weights; see [`attention_weights`].
    fn attention_weights(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        heads: usize,
        factors: Factors,
    ) -> FloatTensor<Self>;
}

/// Attention without a derivative.
impl<B: FusedAttention> Attention for B {
    fn attend_self(qkv: FloatTensor<Self>, bias: FloatTensor<Self>, heads: usize, method: Method) -> FloatTensor<Self> {
        forward::<Self>(Sources::own(qkv, Some(bias)), heads, method).0
    }

    fn attend_self_biased(qkv: FloatTensor<Self>, heads: usize, method: Method) -> FloatTensor<Self> {
        forward::<Self>(Sources::own(qkv, None), heads, method).0
    }

    fn attend_cross(
        q: FloatTensor<Self>,
        q_bias: FloatTensor<Self>,
        kv: FloatTensor<Self>,
        kv_bias: FloatTensor<Self>,
        heads: usize,
        method: Method,
    ) -> FloatTensor<Self> {
        forward::<Self>(Sources::other([q, kv], Some([q_bias, kv_bias])), heads, method).0
    }

    fn attend_cross_biased(
        q: FloatTensor<Self>,
        kv: FloatTensor<Self>,
        heads: usize,
        method: Method,
    ) -> FloatTensor<Self> {
        forward::<Self>(Sources::other([q, kv], None), heads, method).0
    }

    fn attention_weights(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        heads: usize,
        factors: Factors,
    ) -> FloatTensor<Self> {
        weights::<Self>(q, k, heads, factors)
    }
}

#[cfg(any(test, feature = "device-tests"))]
#[cfg_attr(not(test), allow(dead_code, unused_imports, clippy::wildcard_imports, reason = "tests that run on devices"))]
pub(crate) mod tests {
    use super::*;
    use crate::ops::testing::{Outcome, on_devices, short_of, values_and_gradients, wave};
    use burn::tensor::{Device, FloatDType, activation};

    const HEADS: usize = 3;
    const FULL: Factors = Factors::F32;

    /// Tolerance for sums in another order than the reference, which is computed on the CPU because a device's own
    /// products would be tuned and may round factors to TF32. A device's exponential and division also differ from the
    /// CPU's: Vulkan allows 3 + 2 |x| units in the last place for the exponential of x, at most 3 units of the largest
    /// weight of a row, and 2.5 for a division, 3.3e-7 together, which enter a gradient several times.
    fn tolerance(device: &Device) -> f32 {
        if *device == Device::flex() { 3e-6 } else { 1e-5 }
    }

    /// Computes attention by its definition, composed of Burn's operations.
    fn composed(q: Tensor<3>, k: Tensor<3>, v: Tensor<3>) -> Tensor<3> {
        let heads = |x: Tensor<3>| {
            let [n, l, dim] = x.dims();
            x.reshape([n, l, HEADS, dim / HEADS]).swap_dims(1, 2)
        };
        let [n, l, dim] = q.dims();
        let [q, k, v] = [q, k, v].map(heads);
        let scale = ((dim / HEADS) as f64).sqrt();
        let weights = activation::softmax(q.matmul(k.swap_dims(2, 3)) / scale, 3);
        weights.matmul(v).swap_dims(1, 2).reshape([n, l, dim])
    }

    fn part(x: &Tensor<3>, number: usize, parts: usize) -> Tensor<3> {
        let width = x.dims()[2] / parts;
        x.clone().narrow(2, number * width, width)
    }

    /// Reshapes `[1, 1, W]` to `[W]`.
    fn row(bias: Tensor<3>) -> Tensor<1> {
        bias.flatten(0, 2)
    }

    fn self_attention_is_the_definition(device: &Device) {
        for (tokens, width) in [(5, 8), (17, 11), (129, 33)] {
            let inputs = [wave([2, tokens, 3 * HEADS * width], 0.7, 2.0), wave([1, 1, 3 * HEADS * width], 0.3, 0.5)];
            let ours = values_and_gradients(device, &inputs, |[x, bias]| attend_self(x, row(bias), HEADS, FULL));
            let composed = values_and_gradients(&Device::flex(), &inputs, |[x, bias]| {
                let x = x + bias;
                composed(part(&x, 0, 3), part(&x, 1, 3), part(&x, 2, 3))
            });
            ours.assert_close(&composed, tolerance(device));
        }
    }

    fn cross_attention_is_the_definition(device: &Device) {
        for (queries, keys, width) in [(5, 7, 8), (17, 6, 11), (66, 129, 33)] {
            let dim = HEADS * width;
            let inputs = [
                wave([2, queries, dim], 0.7, 2.0),
                wave([1, 1, dim], 0.3, 0.5),
                wave([2, keys, 2 * dim], 0.4, 2.0),
                wave([1, 1, 2 * dim], 0.9, 0.5),
            ];
            let ours = values_and_gradients(device, &inputs, |[q, q_bias, kv, kv_bias]| {
                attend_cross(q, kv, [row(q_bias), row(kv_bias)], HEADS, FULL)
            });
            let composed = values_and_gradients(&Device::flex(), &inputs, |[q, q_bias, kv, kv_bias]| {
                let kv = kv + kv_bias;
                composed(q + q_bias, part(&kv, 0, 2), part(&kv, 1, 2))
            });
            ours.assert_close(&composed, tolerance(device));
        }
    }

    fn biases_may_be_added_before(device: &Device) {
        for (queries, keys, width) in [(5, 7, 8), (66, 129, 33)] {
            let dim = HEADS * width;
            let (qkv, qkv_bias) = (wave([2, keys, 3 * dim], 0.7, 2.0), wave([1, 1, 3 * dim], 0.3, 0.5));
            let inputs = [qkv, qkv_bias];
            let after = values_and_gradients(device, &inputs, |[x, bias]| attend_self(x, row(bias), HEADS, FULL));
            let before = values_and_gradients(device, &inputs, |[x, bias]| attend_self(x + bias, None, HEADS, FULL));
            before.assert_close(&after, tolerance(device));

            let inputs = [
                wave([2, queries, dim], 0.7, 2.0),
                wave([1, 1, dim], 0.3, 0.5),
                wave([2, keys, 2 * dim], 0.4, 2.0),
                wave([1, 1, 2 * dim], 0.9, 0.5),
            ];
            let after = values_and_gradients(device, &inputs, |[q, q_bias, kv, kv_bias]| {
                attend_cross(q, kv, [row(q_bias), row(kv_bias)], HEADS, FULL)
            });
            let before = values_and_gradients(device, &inputs, |[q, q_bias, kv, kv_bias]| {
                attend_cross(q + q_bias, kv + kv_bias, None, HEADS, FULL)
            });
            before.assert_close(&after, tolerance(device));
        }
    }

    fn weights_average_the_values_to_the_result(device: &Device) {
        let [q, kv] = [wave([2, 5, HEADS * 11], 0.7, 2.0), wave([2, 7, 2 * HEADS * 11], 0.4, 2.0)]
            .map(|data| Tensor::<3>::from_data(data, device));
        let weights = attention_weights(q.clone(), part(&kv, 0, 2), HEADS, FULL);
        assert_eq!(weights.dims(), [2, HEADS, 5, 7]);
        let cpu = Device::flex();
        let weights = Tensor::<4>::from_data(weights.into_data(), &cpu);
        let v = Tensor::<3>::from_data(part(&kv, 1, 2).into_data(), &cpu).reshape([2, 7, HEADS, 11]).swap_dims(1, 2);
        let y = weights.matmul(v).swap_dims(1, 2).reshape([2, 5, HEADS * 11]);
        let host = |x: Tensor<3>| Outcome::of(x);
        host(attend_cross(q, kv, None, HEADS, FULL)).assert_close(&host(y), tolerance(device));
    }

    /// The GPU's padding is applied on the CPU.
    #[cfg(test)]
    #[test]
    fn padding_changes_neither_values_nor_gradients() {
        use super::matrix::{backward, forward_self_by_heads};

        type B = burn::backend::Flex;
        let device = Device::flex();
        let float = |data| Tensor::<3>::from_data(data, &device).try_into_primitive::<B>().unwrap();
        let outcome = |padding| {
            let x = float(wave([2, 17, 3 * HEADS * 11], 0.7, 2.0));
            let bias = Tensor::<1>::from_data(wave([3 * HEADS * 11], 0.3, 1.0), &device);
            let bias = bias.try_into_primitive::<B>().unwrap();
            let (y, saved) = forward_self_by_heads::<B>(x, Some(bias), HEADS, FULL, Some(padding));
            let [dq, dk, dv] = backward::<B>(saved, float(wave([2, 17, HEADS * 11], 1.3, 1.0)));
            let dx = B::join_heads(vec![dq, dk, dv], 17, 11);
            [y, dx].map(|x| Outcome::of(Tensor::from_primitive::<B>(x)))
        };
        let plain = outcome(Padding { tokens: 1, width: 1 });
        let padded = outcome(Padding { tokens: 8, width: 16 });
        for (padded, plain) in padded.iter().zip(&plain) {
            padded.assert_close(plain, 3e-7);
        }
    }

    fn sixteen_bit_tokens_stay_sixteen_bit_with_softmax_in_f32(device: &Device) {
        let short = short_of(device);
        // Heads that are copied value by value, and heads that are copied in pieces.
        for (tokens, width) in [(17, 11), (129, 33), (40, 16)] {
            let inputs = [wave([2, tokens, 3 * HEADS * width], 0.7, 2.0), wave([1, 1, 3 * HEADS * width], 0.3, 0.5)];
            let rounded = values_and_gradients(device, &inputs, |[x, bias]| {
                attend_self(x.cast(short), row(bias), HEADS, FULL).cast(FloatDType::F32)
            });
            let full = values_and_gradients(device, &inputs, |[x, bias]| attend_self(x, row(bias), HEADS, FULL));
            // Rounded to 8 bits: queries and keys, their products, weights, values and the result.
            rounded.assert_close(&full, 0.03);
        }
    }

    on_devices!(
        self_attention_is_the_definition,
        cross_attention_is_the_definition,
        biases_may_be_added_before,
        weights_average_the_values_to_the_result,
        sixteen_bit_tokens_stay_sixteen_bit_with_softmax_in_f32,
    );
}
