//! Multi-head attention: of a sequence to itself, and of one sequence to another.
//!
//! The products are composed from tensor operations, so that training, evaluation, CPU and GPU all run the same
//! arithmetic. Burn's fused attention differentiates through the same composition anyway.

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::Tensor;

use super::init::WeightInit;
use super::precision::Precision;
use crate::ops::softmax::softmax;

/// Attention of every token to every token of the same sequence.
#[derive(Module, Debug)]
pub struct SelfAttention {
    /// Queries, keys and values in one product, `[dim, 3·dim]`.
    pub qkv: Linear,
    /// Output map, `[dim, dim]`.
    pub proj: Linear,
    num_heads: usize,
    #[module(skip)]
    precision: Precision,
}

impl SelfAttention {
    /// Heads of width `dim / num_heads`.
    pub fn init(dim: usize, num_heads: usize, weights: &mut WeightInit) -> Self {
        let (qkv, proj) = (weights.linear(dim, 3 * dim), weights.linear(dim, dim));
        Self { qkv, proj, num_heads, precision: weights.precision() }
    }

    /// `[N, L, dim]` → `[N, L, dim]`.
    #[must_use]
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [q, k, v] = self.heads(x);
        self.precision.linear(&self.proj, join_heads(weights_of(q, k).matmul(v)))
    }

    /// How much each token looks at each other one, `[N, num_heads, L, L]`; rows sum to one.
    #[must_use]
    pub fn weights(&self, x: Tensor<3>) -> Tensor<4> {
        let [q, k, _] = self.heads(x);
        weights_of(q, k)
    }

    fn heads(&self, x: Tensor<3>) -> [Tensor<4>; 3] {
        split_heads(self.precision.linear(&self.qkv, x), self.num_heads)
    }
}

/// Attention of one sequence (queries) to another (keys and values).
#[derive(Module, Debug)]
pub struct CrossAttention {
    /// Queries, `[dim, dim]`.
    pub q: Linear,
    /// Keys and values in one product, `[dim, 2·dim]`.
    pub kv: Linear,
    /// Output map, `[dim, dim]`.
    pub proj: Linear,
    num_heads: usize,
    #[module(skip)]
    precision: Precision,
}

impl CrossAttention {
    /// Heads of width `dim / num_heads`; both sequences have width `dim`.
    pub fn init(dim: usize, num_heads: usize, weights: &mut WeightInit) -> Self {
        Self {
            q: weights.linear(dim, dim),
            kv: weights.linear(dim, 2 * dim),
            proj: weights.linear(dim, dim),
            num_heads,
            precision: weights.precision(),
        }
    }

    /// Queries `[N, L, dim]` read `context` `[N, M, dim]` → `[N, L, dim]`.
    #[must_use]
    pub fn forward(&self, x: Tensor<3>, context: Tensor<3>) -> Tensor<3> {
        let [q] = split_heads(self.precision.linear(&self.q, x), self.num_heads);
        let [k, v] = split_heads(self.precision.linear(&self.kv, context), self.num_heads);
        self.precision.linear(&self.proj, join_heads(weights_of(q, k).matmul(v)))
    }

    /// How much each query looks at each token of `context`, `[N, num_heads, L, M]`; rows sum to one.
    #[must_use]
    pub fn weights(&self, x: Tensor<3>, context: Tensor<3>) -> Tensor<4> {
        let [q] = split_heads(self.precision.linear(&self.q, x), self.num_heads);
        let [k, _] = split_heads(self.precision.linear(&self.kv, context), self.num_heads);
        weights_of(q, k)
    }
}

/// `[N, L, K·dim]` → K tensors `[N, num_heads, L, dim / num_heads]`.
fn split_heads<const K: usize>(x: Tensor<3>, num_heads: usize) -> [Tensor<4>; K] {
    let [n, l, width] = x.dims();
    let head_dim = width / K / num_heads;
    let x = x.reshape([n, l, K, num_heads, head_dim]).permute([2, 0, 3, 1, 4]);
    std::array::from_fn(|i| x.clone().narrow(0, i, 1).reshape([n, num_heads, l, head_dim]))
}

/// `[N, num_heads, L, head_dim]` → `[N, L, dim]`.
fn join_heads(x: Tensor<4>) -> Tensor<3> {
    let [n, num_heads, l, head_dim] = x.dims();
    x.swap_dims(1, 2).reshape([n, l, num_heads * head_dim])
}

/// Softmax over the keys of the scaled products.
///
/// Scaling the queries touches fewer numbers than scaling the products. Short queries would be rounded again, so
/// theirs are scaled inside the softmax, in f32.
fn weights_of(q: Tensor<4>, k: Tensor<4>) -> Tensor<4> {
    let scale = 1.0 / (q.dims()[3] as f64).sqrt();
    let (q, scale) = if q.dtype().size() < 4 { (q, scale) } else { (q.mul_scalar(scale), 1.0) };
    softmax(q.matmul(k.swap_dims(2, 3)), scale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData, module};

    const DIM: usize = 24;
    const HEADS: usize = 3;

    fn tokens(num: usize, seed: f32) -> Tensor<3> {
        let values: Vec<f32> = (0..2 * num * DIM).map(|i| (i as f32 * 0.37 + seed).sin() * 2.0).collect();
        Tensor::from_data(TensorData::new(values, [2, num, DIM]), &Device::flex())
    }

    fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        tensor.into_data().try_to_vec().unwrap()
    }

    fn check<const D: usize>(actual: Tensor<D>, expected: Tensor<D>) {
        assert_eq!(actual.dims(), expected.dims());
        for (a, e) in host(actual).into_iter().zip(host(expected)) {
            assert!((a - e).abs() < 1e-5, "{a} {e}");
        }
    }

    #[test]
    fn weights_times_values_is_what_the_block_computes() {
        let mut init = WeightInit::new(1, &Device::flex());
        let (own, cross) = (SelfAttention::init(DIM, HEADS, &mut init), CrossAttention::init(DIM, HEADS, &mut init));
        let (x, context) = (tokens(5, 0.1), tokens(7, 0.9));

        let [_, _, v] = own.heads(x.clone());
        check(own.proj.forward(join_heads(own.weights(x.clone()).matmul(v))), own.forward(x.clone()));
        let [_, v] = split_heads(cross.kv.forward(context.clone()), HEADS);
        let weights = cross.weights(x.clone(), context.clone());
        assert_eq!(weights.dims(), [2, HEADS, 5, 7]);
        check(cross.proj.forward(join_heads(weights.matmul(v))), cross.forward(x, context));
    }

    #[test]
    fn rows_of_weights_sum_to_one_and_differ() {
        let own = SelfAttention::init(DIM, HEADS, &mut WeightInit::new(2, &Device::flex()));
        let weights = host(own.weights(tokens(6, 0.4)));
        for row in weights.chunks_exact(6) {
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5);
            assert!(row.iter().all(|&weight| weight > 0.0));
        }
        assert!(weights.iter().any(|&weight| (weight - 1.0 / 6.0).abs() > 0.01));
    }

    #[test]
    fn the_fused_attention_of_burn_gives_the_same() {
        let own = SelfAttention::init(DIM, HEADS, &mut WeightInit::new(3, &Device::flex()));
        let x = tokens(9, 0.2);
        let [q, k, v] = own.heads(x.clone());
        let fused = module::attention(q, k, v, None, None, burn::tensor::ops::AttentionModuleOptions::default());
        check(own.proj.forward(join_heads(fused)), own.forward(x));
    }
}
