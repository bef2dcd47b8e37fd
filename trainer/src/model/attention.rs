//! Multi-head attention: of a sequence to itself, and of one sequence to another.
//!
//! Training and evaluation, on CPU and GPU, all use the same arithmetic, [`crate::ops::attention`].

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::Tensor;

use super::init::{WeightInit, bias_of};
use super::precision::Precision;
use crate::ops::attention::{Computation, Method, attend_cross, attend_self, attention_weights, reads_tokens};
use crate::ops::trunk::Trunk;

/// Self-attention: every token attends to every token of the same sequence.
#[derive(Module, Debug)]
pub struct SelfAttention {
    /// Linear map to queries, keys and values in one product, `[dim, 3·dim]`.
    pub qkv: Linear,
    /// Output map, `[dim, dim]`.
    pub proj: Linear,
    num_heads: usize,
    #[module(skip)]
    precision: Precision,
    #[module(skip)]
    computation: Computation,
}

impl SelfAttention {
    /// Initialises an attention with heads of width `dim / num_heads`.
    pub fn init(dim: usize, num_heads: usize, weights: &mut WeightInit) -> Self {
        let (qkv, proj) = (weights.linear(dim, 3 * dim), weights.linear(dim, dim));
        Self { qkv, proj, num_heads, precision: weights.precision(), computation: weights.attention() }
    }

    /// Adds the self-attention of the `normed` tokens to the trunk `x` `[N, L, dim]` → `[N, L, dim]`.
    #[must_use]
    pub fn add_to(&self, x: impl Into<Trunk>, normed: Tensor<3>) -> Tensor<3> {
        let p = self.precision;
        let method = Method { factors: p.factors(), computation: self.computation };
        let read = if reads_tokens(&normed, normed.dims()[2] / self.num_heads, method) {
            attend_self(p.linear(&self.qkv, normed), None, self.num_heads, method)
        } else {
            attend_self(p.product(&self.qkv, normed), bias_of(&self.qkv), self.num_heads, method)
        };
        x.into().join(p.product(&self.proj, read), bias_of(&self.proj))
    }

    /// Attention weights between all tokens, `[N, num_heads, L, L]`; rows sum to one.
    #[must_use]
    pub fn weights(&self, x: Tensor<3>) -> Tensor<4> {
        let [q, k, _] = thirds(self.precision.linear(&self.qkv, x));
        attention_weights(q, k, self.num_heads, self.precision.factors())
    }
}

/// Cross-attention of one sequence (queries) to another (keys and values).
#[derive(Module, Debug)]
pub struct CrossAttention {
    /// Linear map to queries, `[dim, dim]`.
    pub q: Linear,
    /// Linear map to keys and values in one product, `[dim, 2·dim]`.
    pub kv: Linear,
    /// Output map, `[dim, dim]`.
    pub proj: Linear,
    num_heads: usize,
    #[module(skip)]
    precision: Precision,
    #[module(skip)]
    computation: Computation,
}

impl CrossAttention {
    /// Initialises an attention with heads of width `dim / num_heads`; both sequences have width `dim`.
    pub fn init(dim: usize, num_heads: usize, weights: &mut WeightInit) -> Self {
        Self {
            q: weights.linear(dim, dim),
            kv: weights.linear(dim, 2 * dim),
            proj: weights.linear(dim, dim),
            num_heads,
            precision: weights.precision(),
            computation: weights.attention(),
        }
    }

    /// Adds the attention of the `normed` tokens to `context` `[N, M, dim]` to the trunk `x`; `[N, L, dim]` →
    /// `[N, L, dim]`.
    #[must_use]
    pub fn add_to(&self, x: impl Into<Trunk>, normed: Tensor<3>, context: Tensor<3>) -> Tensor<3> {
        let p = self.precision;
        let method = Method { factors: p.factors(), computation: self.computation };
        let read = if reads_tokens(&normed, normed.dims()[2] / self.num_heads, method) {
            let (q, kv) = (p.linear(&self.q, normed), p.linear(&self.kv, context));
            attend_cross(q, kv, None, self.num_heads, method)
        } else {
            let (q, kv) = (p.product(&self.q, normed), p.product(&self.kv, context));
            attend_cross(q, kv, [bias_of(&self.q), bias_of(&self.kv)], self.num_heads, method)
        };
        x.into().join(p.product(&self.proj, read), bias_of(&self.proj))
    }

    /// Attention weights from each query to each token of `context`, `[N, num_heads, L, M]`; rows sum to one.
    #[must_use]
    pub fn weights(&self, x: Tensor<3>, context: Tensor<3>) -> Tensor<4> {
        let (q, kv) = (self.precision.linear(&self.q, x), self.precision.linear(&self.kv, context));
        let width = q.dims()[2];
        attention_weights(q, kv.narrow(2, 0, width), self.num_heads, self.precision.factors())
    }
}

/// Splits `[N, L, 3·dim]` into three tensors `[N, L, dim]`.
fn thirds(x: Tensor<3>) -> [Tensor<3>; 3] {
    let width = x.dims()[2] / 3;
    std::array::from_fn(|third| x.clone().narrow(2, third * width, width))
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

    fn heads(x: Tensor<3>) -> Tensor<4> {
        let [n, l, dim] = x.dims();
        x.reshape([n, l, HEADS, dim / HEADS]).swap_dims(1, 2)
    }

    /// Checks `actual` against the output of the heads, `read`, mapped by `proj`.
    fn check(proj: &Linear, actual: Tensor<3>, read: Tensor<4>) {
        let expected = proj.forward(read.swap_dims(1, 2).reshape(actual.dims()));
        for (a, e) in host(actual).into_iter().zip(host(expected)) {
            assert!((a - e).abs() < 1e-5, "{a} {e}");
        }
    }

    #[test]
    fn weights_times_values_is_the_output_of_the_block() {
        let mut init = WeightInit::new(1, &Device::flex());
        let (own, cross) = (SelfAttention::init(DIM, HEADS, &mut init), CrossAttention::init(DIM, HEADS, &mut init));
        let (x, context) = (tokens(5, 0.1), tokens(7, 0.9));

        let [_, _, v] = thirds(own.qkv.forward(x.clone()));
        check(&own.proj, own.add_to(x.clone(), x.clone()) - x.clone(), own.weights(x.clone()).matmul(heads(v)));
        let v = cross.kv.forward(context.clone()).narrow(2, DIM, DIM);
        let weights = cross.weights(x.clone(), context.clone());
        assert_eq!(weights.dims(), [2, HEADS, 5, 7]);
        check(&cross.proj, cross.add_to(x.clone(), x.clone(), context) - x, weights.matmul(heads(v)));
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
        let [q, k, v] = thirds(own.qkv.forward(x.clone())).map(heads);
        let fused = module::attention(q, k, v, None, None, burn::tensor::ops::AttentionModuleOptions::default());
        check(&own.proj, own.add_to(x.clone(), x.clone()) - x, fused);
    }
}
