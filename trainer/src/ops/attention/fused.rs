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

/// Result of a linear map.
#[derive(Clone, Debug)]
pub struct Mapped<B: Backend> {
    /// Tokens `[N, L, width]`.
    pub tokens: FloatTensor<B>,
    /// Bias `[width]` in f32, if it is yet to be added to the tokens.
    pub bias: Option<FloatTensor<B>>,
}

/// Tensors that an attention reads.
#[derive(Clone, Debug)]
pub enum Sources<B: Backend> {
    /// Queries, keys and values side by side, `[N, L, 3 · dim]`.
    Own(Mapped<B>),
    /// Queries `[N, L, dim]`; keys and values side by side, `[N, M, 2 · dim]`. Both have their bias, or neither.
    Other([Mapped<B>; 2]),
}

impl<B: Backend> Sources<B> {
    /// Sources of the attention of a sequence to itself.
    pub(super) fn own(tokens: FloatTensor<B>, bias: Option<FloatTensor<B>>) -> Self {
        Self::Own(Mapped { tokens, bias })
    }

    /// Sources of the attention of queries to keys and values of another sequence.
    pub(super) fn other([q, kv]: [FloatTensor<B>; 2], biases: Option<[FloatTensor<B>; 2]>) -> Self {
        let [q_bias, kv_bias] = biases.map_or([None, None], |biases| biases.map(Some));
        Self::Other([Mapped { tokens: q, bias: q_bias }, Mapped { tokens: kv, bias: kv_bias }])
    }

    /// Results of the linear maps before the attention.
    pub(super) fn maps(&self) -> &[Mapped<B>] {
        match self {
            Self::Own(map) => std::slice::from_ref(map),
            Self::Other(maps) => maps,
        }
    }
}

/// Attention as one operation, for each backend.
pub trait FusedAttention: HeadOps {
    /// Values kept for the backward pass.
    type Kept: Clone + Debug + Send + 'static;

    /// Computes the result `[N, L, dim]`, and the values kept for the backward pass; `None` if the backend uses the
    /// steps of [`HeadOps`] for these tensors.
    #[must_use]
    fn fused(sources: &Sources<Self>, heads: usize, method: Method) -> Option<(FloatTensor<Self>, Self::Kept)>;

    /// Computes the gradients of the tensors that [`Self::fused`] took, each map's tokens before its bias, from the
    /// values that it kept and the gradient `dy` of its result.
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
        let joined = |map: &Mapped<Self>, parts: &[Part], tokens: usize| {
            let (values, bias) = gradients.joined(parts);
            let width = parts.len() * heads * sizes.width;
            let bias = map.bias.is_some().then(|| cpu::tensor(bias, [width]));
            std::iter::once(cpu::tensor(values, [sizes.sequences, tokens, width])).chain(bias)
        };
        match &sources {
            Sources::Own(qkv) => joined(qkv, &[Part::Queries, Part::Keys, Part::Values], sizes.keys).collect(),
            Sources::Other([q, kv]) => {
                let of_queries = joined(q, &[Part::Queries], sizes.queries);
                of_queries.chain(joined(kv, &[Part::Keys, Part::Values], sizes.keys)).collect()
            }
        }
    }
}

impl Sources<Flex> {
    fn all_f32(&self) -> bool {
        let is_f32 = |map: &Mapped<Flex>| {
            cpu::all_f32([&map.tokens]) && map.bias.as_ref().is_none_or(|bias| cpu::all_f32([bias]))
        };
        self.maps().iter().all(is_f32)
    }

    fn in_order(&self) -> Self {
        let ordered = |Mapped { tokens, bias }: Mapped<Flex>| Mapped {
            tokens: cpu::in_order(tokens),
            bias: bias.map(cpu::in_order),
        };
        match self.clone() {
            Self::Own(map) => Self::Own(ordered(map)),
            Self::Other(maps) => Self::Other(maps.map(ordered)),
        }
    }

    /// Returns the sizes of the attention, and the queries, keys and values.
    fn tokens(&self, heads: usize) -> (Sizes, [Tokens<'_>; 3]) {
        match self {
            Self::Own(qkv) => {
                let [sequences, queries, stride] = dims(&qkv.tokens);
                let part = |number| part_of(qkv, number * stride / 3);
                let sizes = Sizes { sequences, heads, width: stride / 3 / heads, queries, keys: queries };
                (sizes, [part(0), part(1), part(2)])
            }
            Self::Other([q, kv]) => {
                let [[sequences, queries, dim], [_, keys, _]] = [dims(&q.tokens), dims(&kv.tokens)];
                let sizes = Sizes { sequences, heads, width: dim / heads, queries, keys };
                (sizes, [part_of(q, 0), part_of(kv, 0), part_of(kv, dim)])
            }
        }
    }
}

/// The tensor that begins at `offset` in each token.
fn part_of(map: &Mapped<Flex>, offset: usize) -> Tokens<'_> {
    let [_, _, stride] = dims(&map.tokens);
    Tokens { values: cpu::values(&map.tokens), stride, offset, bias: map.bias.as_ref().map(cpu::values) }
}
