//! Attention as one operation on tokens, without an attention matrix: for f32 on the CPU, and by cuDNN if it is
//! selected.

use std::fmt::Debug;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Flex};
use hiend_cpu::attention::{Part, Sizes, Tokens, backward, forward};

#[cfg(feature = "cuda")]
use super::cudnn;
use super::heads::dims;
use super::{HeadOps, Method};
use crate::ops::cpu::{self, CpuTensor};

/// Tensors that an attention reads.
#[derive(Clone, Debug)]
pub enum Sources<B: Backend> {
    /// Queries, keys and values side by side, `[N, L, 3 · dim]`, and their bias.
    Own([FloatTensor<B>; 2]),
    /// Queries `[N, L, dim]` and their bias; keys and values side by side, `[N, M, 2 · dim]`, and their bias.
    Other([FloatTensor<B>; 4]),
}

/// Attention as one operation, for each backend.
pub trait FusedAttention: HeadOps {
    /// Values kept for the backward pass.
    type Kept: Clone + Debug + Send + 'static;

    /// Computes the result `[N, L, dim]`, and the values kept for the backward pass; `None` if the backend uses the
    /// steps of [`HeadOps`] for these tensors.
    #[must_use]
    fn fused(sources: &Sources<Self>, heads: usize, method: Method) -> Option<(FloatTensor<Self>, Self::Kept)>;

    /// Computes the gradients of the tensors that [`Self::fused`] took, in order, from the values that it kept and the
    /// gradient `dy` of its result.
    #[must_use]
    fn fused_backward(kept: Self::Kept, dy: FloatTensor<Self>) -> Vec<FloatTensor<Self>>;
}

#[cfg(feature = "cuda")]
impl FusedAttention for burn::backend::Cube {
    type Kept = cudnn::Kept;

    fn fused(sources: &Sources<Self>, heads: usize, method: Method) -> Option<(FloatTensor<Self>, Self::Kept)> {
        cudnn::forward(sources, heads, method)
    }

    fn fused_backward(kept: Self::Kept, dy: FloatTensor<Self>) -> Vec<FloatTensor<Self>> {
        cudnn::backward(kept, dy)
    }
}

#[cfg(all(feature = "cube", not(feature = "cuda")))]
impl FusedAttention for burn::backend::Cube {
    type Kept = std::convert::Infallible;

    fn fused(_: &Sources<Self>, _: usize, _: Method) -> Option<(FloatTensor<Self>, Self::Kept)> {
        None
    }

    fn fused_backward(kept: Self::Kept, _: FloatTensor<Self>) -> Vec<FloatTensor<Self>> {
        match kept {}
    }
}

/// Tensors of an attention on the CPU.
#[derive(Clone, Debug)]
pub struct OnCpu {
    sources: Sources<Flex>,
    y: CpuTensor,
    /// Largest product and sum of exponentials of each row.
    rows: CpuTensor,
    heads: usize,
}

impl FusedAttention for Flex {
    type Kept = OnCpu;

    fn fused(sources: &Sources<Self>, heads: usize, method: Method) -> Option<(FloatTensor<Self>, Self::Kept)> {
        if method.factors.dtype().is_some() || !sources.all_f32() {
            return None;
        }
        let sources = sources.in_order();
        let (sizes, [q, k, v]) = sources.tokens(heads);
        let attended = forward(q, k, v, &sizes);
        let Sizes { sequences, queries, width, .. } = sizes;
        let y = cpu::tensor(attended.tokens, [sequences, queries, heads * width]);
        let rows = cpu::tensor(attended.rows, [sequences, heads, queries, 2]);
        Some((y.clone(), OnCpu { sources, y, rows, heads }))
    }

    fn fused_backward(kept: Self::Kept, dy: FloatTensor<Self>) -> Vec<FloatTensor<Self>> {
        let OnCpu { sources, y, rows, heads } = kept;
        let sources = sources.in_order();
        let (sizes, [q, k, v]) = sources.tokens(heads);
        let [y, rows, dy] = [y, rows, dy].map(cpu::in_order);
        let gradients = backward(q, k, v, (cpu::values(&y), cpu::values(&rows)), cpu::values(&dy), &sizes);
        let joined = |parts: &[Part], tokens: usize| {
            let (values, bias) = gradients.joined(parts);
            let width = parts.len() * heads * sizes.width;
            [cpu::tensor(values, [sizes.sequences, tokens, width]), cpu::tensor(bias, [width])]
        };
        match sources {
            Sources::Own(_) => joined(&[Part::Queries, Part::Keys, Part::Values], sizes.keys).into(),
            Sources::Other(_) => {
                let [q, kv] =
                    [joined(&[Part::Queries], sizes.queries), joined(&[Part::Keys, Part::Values], sizes.keys)];
                q.into_iter().chain(kv).collect()
            }
        }
    }
}

impl Sources<Flex> {
    fn all_f32(&self) -> bool {
        match self {
            Self::Own(tensors) => cpu::all_f32(tensors.each_ref()),
            Self::Other(tensors) => cpu::all_f32(tensors.each_ref()),
        }
    }

    fn in_order(&self) -> Self {
        match self.clone() {
            Self::Own(tensors) => Self::Own(tensors.map(cpu::in_order)),
            Self::Other(tensors) => Self::Other(tensors.map(cpu::in_order)),
        }
    }

    /// Returns the sizes of the attention, and the queries, keys and values.
    fn tokens(&self, heads: usize) -> (Sizes, [Tokens<'_>; 3]) {
        match self {
            Self::Own([qkv, bias]) => {
                let [sequences, queries, stride] = dims(qkv);
                let part = |number| part_of(qkv, bias, number * stride / 3);
                let sizes = Sizes { sequences, heads, width: stride / 3 / heads, queries, keys: queries };
                (sizes, [part(0), part(1), part(2)])
            }
            Self::Other([q, q_bias, kv, kv_bias]) => {
                let [[sequences, queries, dim], [_, keys, _]] = [dims(q), dims(kv)];
                let sizes = Sizes { sequences, heads, width: dim / heads, queries, keys };
                (sizes, [part_of(q, q_bias, 0), part_of(kv, kv_bias, 0), part_of(kv, kv_bias, dim)])
            }
        }
    }
}

/// Tensor that begins at `offset` in each token.
fn part_of<'a>(tokens: &'a CpuTensor, bias: &'a CpuTensor, offset: usize) -> Tokens<'a> {
    let [_, _, stride] = dims(tokens);
    Tokens { values: cpu::values(tokens), stride, offset, bias: Some(cpu::values(bias)) }
}
