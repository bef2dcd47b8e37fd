//! Attention as one operation on tokens, without an attention matrix: f32 on the CPU.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Flex};
use hiend_cpu::attention::{Part, Sizes, Tokens, backward, forward};

use super::HeadOps;
use super::heads::dims;
use crate::ops::cpu::{self, CpuTensor};
use crate::ops::product::Factors;

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
    /// Result `[N, L, dim]`, and what the backward pass needs about the rows of the attention matrices; `None` if the
    /// backend takes the steps of [`HeadOps`] for these tensors.
    #[must_use]
    fn fused(
        sources: &Sources<Self>,
        heads: usize,
        factors: Factors,
    ) -> Option<(FloatTensor<Self>, FloatTensor<Self>)> {
        let _ = (sources, heads, factors);
        None
    }

    /// Gradients of the tensors of `sources`, in their order, from the results of [`Self::fused`] and the gradient `dy` of
    /// the first.
    #[must_use]
    fn fused_backward(
        sources: &Sources<Self>,
        results: (FloatTensor<Self>, FloatTensor<Self>),
        dy: FloatTensor<Self>,
        heads: usize,
    ) -> Vec<FloatTensor<Self>> {
        let _ = (sources, results, dy, heads);
        unreachable!("the backend has no fused attention")
    }
}

#[cfg(feature = "cube")]
impl FusedAttention for burn::backend::Cube {}

impl FusedAttention for Flex {
    fn fused(
        sources: &Sources<Self>,
        heads: usize,
        factors: Factors,
    ) -> Option<(FloatTensor<Self>, FloatTensor<Self>)> {
        if factors.dtype().is_some() || !sources.all_f32() {
            return None;
        }
        let sources = sources.in_order();
        let (sizes, [q, k, v]) = sources.tokens(heads);
        let attended = forward(q, k, v, &sizes);
        let Sizes { sequences, queries, width, .. } = sizes;
        let y = cpu::tensor(attended.tokens, [sequences, queries, heads * width]);
        Some((y, cpu::tensor(attended.rows, [sequences, heads, queries, 2])))
    }

    fn fused_backward(
        sources: &Sources<Self>,
        (y, rows): (FloatTensor<Self>, FloatTensor<Self>),
        dy: FloatTensor<Self>,
        heads: usize,
    ) -> Vec<FloatTensor<Self>> {
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

    /// Sizes of the attention, and queries, keys and values.
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

/// The tensor that begins at `offset` in each token.
fn part_of<'a>(tokens: &'a CpuTensor, bias: &'a CpuTensor, offset: usize) -> Tokens<'a> {
    let [_, _, stride] = dims(tokens);
    Tokens { values: cpu::values(tokens), stride, offset, bias: Some(cpu::values(bias)) }
}
