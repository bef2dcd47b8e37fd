//! Attention by heads with a stored matrix of weights: on GPUs, and in 16 bits on CPUs.

use burn::backend::Backend;
use burn::backend::tensor::FloatTensor;
use burn::tensor::FloatDType;

use super::heads::{dims, full};
use super::{HeadOps, Padding, Part};
use crate::ops::dtype_of;
use crate::ops::product::Factors;

/// Tensors that the backward pass needs, as heads.
#[derive(Clone, Debug)]
pub(super) struct SavedHeads<B: Backend> {
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    weights: FloatTensor<B>,
    pub(super) shape: HeadShape,
}

/// Sizes of heads and the form of their products.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadShape {
    pub(super) heads: usize,
    pub(super) width: usize,
    pub(super) queries: usize,
    pub(super) keys: usize,
    padding: Padding,
    factors: Factors,
    /// Factors that scale the queries before the products, and the products inside softmax; one of the two is 1.
    ///
    /// Scaling queries changes fewer numbers, but would round 16-bit queries again, so their products are scaled
    /// instead.
    scales: (f64, f64),
}

impl HeadShape {
    /// Shape of `heads` heads in tokens of `dim` values; `padding` replaces the backend's own.
    pub(super) fn of<B: HeadOps>(
        q: &FloatTensor<B>,
        keys: usize,
        dim: usize,
        (heads, factors): (usize, Factors),
        padding: Option<Padding>,
    ) -> Self {
        let dtype = dtype_of::<B>(q);
        let width = dim / heads;
        let scale = 1.0 / (width as f64).sqrt();
        let short = matches!(dtype, FloatDType::F16 | FloatDType::BF16);
        Self {
            heads,
            width,
            queries: dims::<3>(q)[1],
            keys,
            padding: padding.unwrap_or_else(|| B::padding(dtype)),
            factors,
            scales: if short { (1.0, scale) } else { (scale, 1.0) },
        }
    }

    pub(super) fn part(&self, number: usize, parts: usize) -> Part {
        Part { number, parts, heads: self.heads, padding: self.padding }
    }

    fn scaled<B: Backend>(&self, q: FloatTensor<B>) -> FloatTensor<B> {
        #[expect(clippy::float_cmp, reason = "exactly one needs no pass")]
        if self.scales.0 == 1.0 { q } else { B::float_mul_scalar(q, self.scales.0.into()) }
    }
}

/// Self-attention by heads: returns the result as tokens, and the values kept for the backward pass.
pub(super) fn forward_self_by_heads<B: HeadOps>(
    qkv: FloatTensor<B>,
    bias: Option<FloatTensor<B>>,
    heads: usize,
    factors: Factors,
    padding: Option<Padding>,
) -> (FloatTensor<B>, SavedHeads<B>) {
    let [_, l, width] = dims(&qkv);
    let shape = HeadShape::of::<B>(&qkv, l, width / 3, (heads, factors), padding);
    let part = |number| B::split_heads(qkv.clone(), bias.clone(), shape.part(number, 3));
    attend::<B>(part(0), part(1), part(2), shape)
}

/// Computes the attention of heads and joins the result to tokens.
pub(super) fn attend<B: HeadOps>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    shape: HeadShape,
) -> (FloatTensor<B>, SavedHeads<B>) {
    let q = shape.scaled::<B>(q);
    let products = B::times_transposed(q.clone(), k.clone(), shape.factors);
    let weights = B::softmax_of(products, shape.keys, shape.scales.1);
    let out = B::of_heads(weights.clone(), v.clone(), shape.factors);
    (B::join_heads(vec![out], shape.queries, shape.width), SavedHeads { q, k, v, weights, shape })
}

/// Gradients of queries, keys and values, as heads, given the gradient of the joined result.
pub(super) fn backward<B: HeadOps>(saved: SavedHeads<B>, dy: FloatTensor<B>) -> [FloatTensor<B>; 3] {
    let SavedHeads { q, k, v, weights, shape } = saved;
    let dy = B::split_heads(dy, None, shape.part(0, 1));
    let dweights = B::times_transposed(dy.clone(), v, shape.factors);
    let dv = B::transposed_times(weights.clone(), dy, shape.factors);
    let dproducts = B::softmax_of_backward(weights, dweights, shape.scales.1);
    let dk = B::transposed_times(dproducts.clone(), q, shape.factors);
    let dq = shape.scaled::<B>(B::of_heads(dproducts, k, shape.factors));
    [dq, dk, dv]
}

/// Attention weights of each query over the keys, without padding: `[N, heads, L, M]`.
pub(super) fn weights<B: HeadOps>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    heads: usize,
    factors: Factors,
) -> FloatTensor<B> {
    let ([n, l, width], [_, keys, _]) = (dims(&q), dims(&k));
    let shape = HeadShape::of::<B>(&q, keys, width, (heads, factors), None);
    let [q, k] = [q, k].map(|x| B::split_heads(x, None, shape.part(0, 1)));
    let products = B::times_transposed(shape.scaled::<B>(q), k, factors);
    let weights = B::softmax_of(products, keys, shape.scales.1);
    B::float_slice(weights, &[full(n), full(heads), full(l), full(keys)])
}
