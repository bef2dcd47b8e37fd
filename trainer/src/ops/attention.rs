//! Multi-head attention (Vaswani et al., arXiv 1706.03762, section 3.2) from tokens to tokens, with one derivative.
//!
//! Composed of Burn's operations it takes tokens apart in three copies, keeps and passes over a tensor of the size of
//! the attention matrix for every elementary step of softmax, and hands products whose rows begin anywhere: 33 values a
//! head and 513 keys can be read in no larger pieces than one. Here heads are cut out in one copy, which adds the bias of
//! the linear map before and on a GPU brings rows to whole pieces ([`Padding`]); softmax overwrites the products it is taken of; and only its result is kept for
//! the way back, `ds = y · (dy - sum(dy · y))`. What is padded is zero, or never read: values and gradients are those
//! of the heads as they are.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata as _, backend_extension};
use burn::tensor::{FloatDType, Shape, Tensor};

use super::columns::ColumnSums;
use super::{along_rows, cast, dtype_of, widened};

/// Attention of every token to every token of the same sequence: `[N, L, 3 · dim]` (queries, keys, values), each plus
/// its `bias` `[3 · dim]` in f32 → `[N, L, dim]`, in `heads` heads of equal width.
#[must_use]
pub fn attend_self(qkv: Tensor<3>, bias: Tensor<1>, heads: usize) -> Tensor<3> {
    Tensor::from_dispatch(<Dispatch as Attention>::attend_self(qkv.into_dispatch(), bias.into_dispatch(), heads))
}

/// Attention of one sequence to another: `[N, L, dim]` (queries) and `[N, M, 2 · dim]` (keys, values), each plus its
/// bias in f32, `[dim]` and `[2 · dim]` → `[N, L, dim]`.
#[must_use]
pub fn attend_cross(q: Tensor<3>, q_bias: Tensor<1>, kv: Tensor<3>, kv_bias: Tensor<1>, heads: usize) -> Tensor<3> {
    let (q, kv) = (q.into_dispatch(), kv.into_dispatch());
    let (q_bias, kv_bias) = (q_bias.into_dispatch(), kv_bias.into_dispatch());
    Tensor::from_dispatch(<Dispatch as Attention>::attend_cross(q, q_bias, kv, kv_bias, heads))
}

/// How much each query looks at each key: `[N, L, dim]` and `[N, M, dim]` → `[N, heads, L, M]`; rows sum to one. To be
/// looked at; it has no derivative.
#[must_use]
pub fn attention_weights(q: Tensor<3>, k: Tensor<3>, heads: usize) -> Tensor<4> {
    let [q, k] = [q, k].map(|x| x.without_autodiff().into_dispatch());
    Tensor::from_dispatch(<Dispatch as Attention>::attention_weights(q, k, heads))
}

/// What lengths are brought to a multiple of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Padding {
    /// Tokens of a sequence.
    pub tokens: usize,
    /// Values of a head.
    pub width: usize,
}

/// One of the tensors that tokens consist of, cut into heads.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Which one, of how many.
    pub number: usize,
    /// How many there are.
    pub parts: usize,
    /// Heads.
    pub heads: usize,
    /// To what.
    pub padding: Padding,
}

/// What attention is made of, for each backend.
pub trait HeadOps: ColumnSums {
    /// The padding that this backend's products like best.
    #[must_use]
    fn padding(dtype: FloatDType) -> Padding {
        let _ = dtype;
        Padding { tokens: 1, width: 1 }
    }

    /// `[N, L, parts · heads · width]`, plus a bias `[parts · heads · width]` in f32 if there is one →
    /// `[N, heads, L', width']`, zeros where there is padding.
    fn split_heads(x: FloatTensor<Self>, bias: Option<FloatTensor<Self>>, part: Part) -> FloatTensor<Self> {
        let Part { number, parts, heads, padding } = part;
        let [n, l, width] = dims(&x);
        let (dim, width) = (width / parts, width / parts / heads);
        let own = number * dim..(number + 1) * dim;
        let mut x = Self::float_slice(x, &[full(n), full(l), own.clone().into()]);
        if let Some(bias) = bias {
            let dtype = dtype_of::<Self>(&x);
            let bias = along_rows::<Self>(Self::float_slice(bias, &[own.into()]), &x);
            x = cast::<Self>(Self::float_add(widened::<Self>(x), bias), dtype);
        }
        let x = Self::float_permute(Self::float_reshape(x, Shape::from([n, l, heads, width])), &[0, 2, 1, 3]);
        let (rows, columns) = (l.next_multiple_of(padding.tokens), width.next_multiple_of(padding.width));
        if (rows, columns) == (l, width) {
            return x;
        }
        let zeros = Self::float_zeros(Shape::from([n, heads, rows, columns]), &x.device(), dtype_of::<Self>(&x));
        Self::float_slice_assign(zeros, &[full(n), full(heads), full(l), full(width)], x)
    }

    /// The first `tokens` rows and `width` columns of heads `[N, heads, L', width']`, one or more of them →
    /// `[N, tokens, parts · heads · width]`.
    #[must_use]
    fn join_heads(parts: Vec<FloatTensor<Self>>, tokens: usize, width: usize) -> FloatTensor<Self> {
        let join = |x: FloatTensor<Self>| {
            let [n, heads, _, _] = dims(&x);
            let x = Self::float_slice(x, &[full(n), full(heads), full(tokens), full(width)]);
            Self::float_reshape(Self::float_permute(x, &[0, 2, 1, 3]), Shape::from([n, tokens, heads * width]))
        };
        Self::float_cat(parts.into_iter().map(join).collect(), 2)
    }

    /// `a · b` in the type of both, rows without gaps.
    fn product(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_matmul(a, b)
    }

    /// Softmax over the first `keys` columns of `scale · x`, zeros in the others.
    fn softmax_of(x: FloatTensor<Self>, keys: usize, scale: f64) -> FloatTensor<Self> {
        let [n, heads, l, columns] = dims(&x);
        let dtype = dtype_of::<Self>(&x);
        let only = |x| Self::float_slice(x, &[full(n), full(heads), full(l), full(keys)]);
        let mut inner = widened::<Self>(if keys < columns { only(x.clone()) } else { x.clone() });
        #[expect(clippy::float_cmp, reason = "exactly one is worth no pass over the matrix")]
        if scale != 1.0 {
            inner = Self::float_mul_scalar(inner, scale.into());
        }
        let y = cast::<Self>(Self::softmax(inner, 3), dtype);
        if keys == columns {
            return y;
        }
        let zeros = Self::float_zeros(x.shape(), &x.device(), dtype);
        Self::float_slice_assign(zeros, &[full(n), full(heads), full(l), full(keys)], y)
    }

    /// The gradient of what softmax was taken of, from its result and its gradient; of the padding it is zero.
    fn softmax_of_backward(y: FloatTensor<Self>, dy: FloatTensor<Self>, scale: f64) -> FloatTensor<Self> {
        let dtype = dtype_of::<Self>(&y);
        let (y, dy) = (widened::<Self>(y), widened::<Self>(dy));
        let common = Self::float_sum_dim(Self::float_mul(dy.clone(), y.clone()), 3);
        let mut dx = Self::float_mul(Self::float_sub(dy, common), y);
        #[expect(clippy::float_cmp, reason = "exactly one is worth no pass over the matrix")]
        if scale != 1.0 {
            dx = Self::float_mul_scalar(dx, scale.into());
        }
        cast::<Self>(dx, dtype)
    }
}

impl HeadOps for Flex {}

#[cfg(feature = "cube")]
impl HeadOps for burn::backend::Cube {
    /// Rows of 16 bytes, and heads as wide as the tiles that matrix units multiply.
    fn padding(dtype: FloatDType) -> Padding {
        match dtype {
            FloatDType::F16 | FloatDType::BF16 => Padding { tokens: 8, width: 16 },
            _ => Padding { tokens: 4, width: 8 },
        }
    }

    fn split_heads(x: FloatTensor<Self>, bias: Option<FloatTensor<Self>>, part: Part) -> FloatTensor<Self> {
        super::kernels::heads::split(x, bias, part)
    }

    fn join_heads(parts: Vec<FloatTensor<Self>>, tokens: usize, width: usize) -> FloatTensor<Self> {
        super::kernels::heads::join(parts, tokens, width)
    }

    fn product(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        super::kernels::heads::product(a, b)
    }

    fn softmax_of(x: FloatTensor<Self>, keys: usize, scale: f64) -> FloatTensor<Self> {
        super::kernels::softmax::forward(x, keys, scale)
    }

    fn softmax_of_backward(y: FloatTensor<Self>, dy: FloatTensor<Self>, scale: f64) -> FloatTensor<Self> {
        super::kernels::softmax::backward(y, dy, scale)
    }
}

/// The operations for each backend.
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Autodiff)]
pub trait Attention: Backend {
    /// Of a sequence to itself.
    fn attend_self(qkv: FloatTensor<Self>, bias: FloatTensor<Self>, heads: usize) -> FloatTensor<Self>;

    /// Of one sequence to another.
    fn attend_cross(
        q: FloatTensor<Self>,
        q_bias: FloatTensor<Self>,
        kv: FloatTensor<Self>,
        kv_bias: FloatTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self>;

    /// How much each query looks at each key.
    fn attention_weights(q: FloatTensor<Self>, k: FloatTensor<Self>, heads: usize) -> FloatTensor<Self>;
}

impl Attention for Flex {
    fn attend_self(qkv: FloatTensor<Self>, bias: FloatTensor<Self>, heads: usize) -> FloatTensor<Self> {
        forward_self::<Self>(qkv, bias, heads, None).0
    }

    fn attend_cross(
        q: FloatTensor<Self>,
        q_bias: FloatTensor<Self>,
        kv: FloatTensor<Self>,
        kv_bias: FloatTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self> {
        forward_cross::<Self>([q, q_bias, kv, kv_bias], heads).0
    }

    fn attention_weights(q: FloatTensor<Self>, k: FloatTensor<Self>, heads: usize) -> FloatTensor<Self> {
        weights::<Self>(q, k, heads)
    }
}

#[cfg(feature = "cube")]
impl Attention for burn::backend::Cube {
    fn attend_self(qkv: FloatTensor<Self>, bias: FloatTensor<Self>, heads: usize) -> FloatTensor<Self> {
        forward_self::<Self>(qkv, bias, heads, None).0
    }

    fn attend_cross(
        q: FloatTensor<Self>,
        q_bias: FloatTensor<Self>,
        kv: FloatTensor<Self>,
        kv_bias: FloatTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self> {
        forward_cross::<Self>([q, q_bias, kv, kv_bias], heads).0
    }

    fn attention_weights(q: FloatTensor<Self>, k: FloatTensor<Self>, heads: usize) -> FloatTensor<Self> {
        weights::<Self>(q, k, heads)
    }
}

/// What the way back needs.
#[derive(Clone, Debug)]
struct Saved<B: Backend> {
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    weights: FloatTensor<B>,
    shape: HeadShape,
}

#[derive(Clone, Copy, Debug)]
struct HeadShape {
    heads: usize,
    width: usize,
    queries: usize,
    keys: usize,
    padding: Padding,
    /// Queries are multiplied by it before the products, and the products by it inside softmax; one of them is 1.
    ///
    /// Scaling the queries touches fewer numbers. Short ones would be rounded again, so their products are scaled.
    scales: (f64, f64),
}

impl HeadShape {
    fn of<B: HeadOps>(q: &FloatTensor<B>, keys: usize, dim: usize, heads: usize, padding: Option<Padding>) -> Self {
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
            scales: if short { (1.0, scale) } else { (scale, 1.0) },
        }
    }

    fn part(&self, number: usize, parts: usize) -> Part {
        Part { number, parts, heads: self.heads, padding: self.padding }
    }

    fn scaled<B: Backend>(&self, q: FloatTensor<B>) -> FloatTensor<B> {
        #[expect(clippy::float_cmp, reason = "exactly one is worth no pass")]
        if self.scales.0 == 1.0 { q } else { B::float_mul_scalar(q, self.scales.0.into()) }
    }
}

fn forward_self<B: HeadOps>(
    qkv: FloatTensor<B>,
    bias: FloatTensor<B>,
    heads: usize,
    padding: Option<Padding>,
) -> (FloatTensor<B>, Saved<B>) {
    let [_, l, width] = dims(&qkv);
    let shape = HeadShape::of::<B>(&qkv, l, width / 3, heads, padding);
    let part = |number| B::split_heads(qkv.clone(), Some(bias.clone()), shape.part(number, 3));
    attend::<B>(part(0), part(1), part(2), shape)
}

fn forward_cross<B: HeadOps>(
    [q, q_bias, kv, kv_bias]: [FloatTensor<B>; 4],
    heads: usize,
) -> (FloatTensor<B>, Saved<B>) {
    let ([_, _, width], [_, keys, _]) = (dims(&q), dims(&kv));
    let shape = HeadShape::of::<B>(&q, keys, width, heads, None);
    let part = |number| B::split_heads(kv.clone(), Some(kv_bias.clone()), shape.part(number, 2));
    attend::<B>(B::split_heads(q, Some(q_bias), shape.part(0, 1)), part(0), part(1), shape)
}

fn attend<B: HeadOps>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    shape: HeadShape,
) -> (FloatTensor<B>, Saved<B>) {
    let q = shape.scaled::<B>(q);
    let products = B::product(q.clone(), B::float_swap_dims(k.clone(), 2, 3));
    let weights = B::softmax_of(products, shape.keys, shape.scales.1);
    let out = B::product(weights.clone(), v.clone());
    (B::join_heads(vec![out], shape.queries, shape.width), Saved { q, k, v, weights, shape })
}

/// The gradients of queries, keys and values, as heads.
fn backward<B: HeadOps>(saved: Saved<B>, dy: FloatTensor<B>) -> [FloatTensor<B>; 3] {
    let Saved { q, k, v, weights, shape } = saved;
    let dy = B::split_heads(dy, None, shape.part(0, 1));
    let dweights = B::product(dy.clone(), B::float_swap_dims(v, 2, 3));
    let dv = B::product(B::float_swap_dims(weights.clone(), 2, 3), dy);
    let dproducts = B::softmax_of_backward(weights, dweights, shape.scales.1);
    let dk = B::product(B::float_swap_dims(dproducts.clone(), 2, 3), q);
    let dq = shape.scaled::<B>(B::product(dproducts, k));
    [dq, dk, dv]
}

fn weights<B: HeadOps>(q: FloatTensor<B>, k: FloatTensor<B>, heads: usize) -> FloatTensor<B> {
    let ([n, l, width], [_, keys, _]) = (dims(&q), dims(&k));
    let shape = HeadShape::of::<B>(&q, keys, width, heads, None);
    let [q, k] = [q, k].map(|x| B::split_heads(x, None, shape.part(0, 1)));
    let products = B::product(shape.scaled::<B>(q), B::float_swap_dims(k, 2, 3));
    let weights = B::softmax_of(products, keys, shape.scales.1);
    B::float_slice(weights, &[full(n), full(heads), full(l), full(keys)])
}

impl<B: HeadOps + Attention, C: CheckpointStrategy> Attention for Autodiff<B, C> {
    fn attend_self(qkv: FloatTensor<Self>, bias: FloatTensor<Self>, heads: usize) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Derivative;

        impl<B: HeadOps> Backward<B, 2> for Derivative {
            type State = Saved<B>;

            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                let dy = grads.consume::<B>(&ops.node);
                let HeadShape { keys, width, .. } = ops.state.shape;
                let parts = backward::<B>(ops.state, dy).into();
                register::<B>(
                    grads,
                    ops.parents.map(|parent| parent.map(|node| node.id)),
                    B::join_heads(parts, keys, width),
                );
            }
        }

        let nodes = [qkv.node(), bias.node()];
        let (qkv, bias) = (qkv.into_primitive(), bias.into_primitive());
        match Derivative.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let (y, saved) = forward_self::<B>(qkv, bias, heads, None);
                prepared.finish(saved, y)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(B::attend_self(qkv, bias, heads)),
        }
    }

    fn attend_cross(
        q: FloatTensor<Self>,
        q_bias: FloatTensor<Self>,
        kv: FloatTensor<Self>,
        kv_bias: FloatTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Derivative;

        impl<B: HeadOps> Backward<B, 4> for Derivative {
            type State = Saved<B>;

            fn backward(self, ops: Ops<Self::State, 4>, grads: &mut Gradients, _: &mut Checkpointer) {
                let [q, q_bias, kv, kv_bias] = ops.parents.map(|parent| parent.map(|node| node.id));
                let dy = grads.consume::<B>(&ops.node);
                let HeadShape { queries, keys, width, .. } = ops.state.shape;
                let [dq, dk, dv] = backward::<B>(ops.state, dy);
                register::<B>(grads, [q, q_bias], B::join_heads(vec![dq], queries, width));
                register::<B>(grads, [kv, kv_bias], B::join_heads(vec![dk, dv], keys, width));
            }
        }

        let nodes = [q.node(), q_bias.node(), kv.node(), kv_bias.node()];
        let (q, q_bias) = (q.into_primitive(), q_bias.into_primitive());
        let (kv, kv_bias) = (kv.into_primitive(), kv_bias.into_primitive());
        match Derivative.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let (y, saved) = forward_cross::<B>([q, q_bias, kv, kv_bias], heads);
                prepared.finish(saved, y)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(B::attend_cross(q, q_bias, kv, kv_bias, heads)),
        }
    }

    fn attention_weights(_: FloatTensor<Self>, _: FloatTensor<Self>, _: usize) -> FloatTensor<Self> {
        unreachable!("what is looked at comes without autodiff")
    }
}

/// Hands on the gradient of a linear map's result, and of the bias that was added to it.
fn register<B: HeadOps>(grads: &mut Gradients, [map, bias]: [Option<NodeId>; 2], grad: FloatTensor<B>) {
    if let Some(node) = bias {
        grads.register::<B>(node, B::column_sums(grad.clone()));
    }
    if let Some(node) = map {
        grads.register::<B>(node, grad);
    }
}

fn dims<const D: usize>(x: &impl burn::backend::TensorMetadata) -> [usize; D] {
    x.shape().dims()
}

fn full(len: usize) -> burn::tensor::Slice {
    (0..len).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Outcome, devices, short_of, values_and_gradients, wave};
    use burn::tensor::{Device, activation};

    const HEADS: usize = 3;

    /// The definition, of Burn's own operations.
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

    /// `[1, 1, W]` as `[W]`.
    fn row(bias: Tensor<3>) -> Tensor<1> {
        bias.flatten(0, 2)
    }

    #[test]
    fn to_itself_it_is_the_definition() {
        for device in devices() {
            for (tokens, width) in [(5, 8), (17, 11), (129, 33)] {
                let inputs =
                    [wave([2, tokens, 3 * HEADS * width], 0.7, 2.0), wave([1, 1, 3 * HEADS * width], 0.3, 0.5)];
                let ours = values_and_gradients(&device, &inputs, |[x, bias]| attend_self(x, row(bias), HEADS));
                let composed = values_and_gradients(&device, &inputs, |[x, bias]| {
                    let x = x + bias;
                    composed(part(&x, 0, 3), part(&x, 1, 3), part(&x, 2, 3))
                });
                ours.assert_close(&composed, 3e-6);
            }
        }
    }

    #[test]
    fn to_others_it_is_the_definition() {
        for device in devices() {
            for (queries, keys, width) in [(5, 7, 8), (17, 6, 11), (66, 129, 33)] {
                let dim = HEADS * width;
                let inputs = [
                    wave([2, queries, dim], 0.7, 2.0),
                    wave([1, 1, dim], 0.3, 0.5),
                    wave([2, keys, 2 * dim], 0.4, 2.0),
                    wave([1, 1, 2 * dim], 0.9, 0.5),
                ];
                let ours = values_and_gradients(&device, &inputs, |[q, q_bias, kv, kv_bias]| {
                    attend_cross(q, row(q_bias), kv, row(kv_bias), HEADS)
                });
                let composed = values_and_gradients(&device, &inputs, |[q, q_bias, kv, kv_bias]| {
                    let kv = kv + kv_bias;
                    composed(q + q_bias, part(&kv, 0, 2), part(&kv, 1, 2))
                });
                ours.assert_close(&composed, 3e-6);
            }
        }
    }

    #[test]
    fn weights_are_what_values_are_averaged_with() {
        for device in devices() {
            let [q, kv] = [wave([2, 5, HEADS * 11], 0.7, 2.0), wave([2, 7, 2 * HEADS * 11], 0.4, 2.0)]
                .map(|data| Tensor::<3>::from_data(data, &device));
            let weights = attention_weights(q.clone(), part(&kv, 0, 2), HEADS);
            assert_eq!(weights.dims(), [2, HEADS, 5, 7]);
            let v = part(&kv, 1, 2).reshape([2, 7, HEADS, 11]).swap_dims(1, 2);
            let y = weights.matmul(v).swap_dims(1, 2).reshape([2, 5, HEADS * 11]);
            let host = |x: Tensor<3>| Outcome::of(x);
            let [q_bias, kv_bias] = [1, 2].map(|parts| Tensor::zeros([parts * HEADS * 11], &device));
            host(attend_cross(q, q_bias, kv, kv_bias, HEADS)).assert_close(&host(y), 3e-6);
        }
    }

    /// What a GPU does with rows, on the CPU.
    #[test]
    fn padding_changes_neither_values_nor_gradients() {
        type B = Flex;
        let device = Device::flex();
        let float = |data| Tensor::<3>::from_data(data, &device).try_into_primitive::<B>().unwrap();
        let outcome = |padding| {
            let x = float(wave([2, 17, 3 * HEADS * 11], 0.7, 2.0));
            let bias = Tensor::<1>::from_data(wave([3 * HEADS * 11], 0.3, 1.0), &device);
            let bias = bias.try_into_primitive::<B>().unwrap();
            let (y, saved) = forward_self::<B>(x, bias, HEADS, Some(padding));
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

    #[test]
    fn sixteen_bits_in_sixteen_bits_out_and_softmax_in_f32() {
        for device in devices() {
            let short = short_of(&device);
            println!("{device:?}: {short:?}");
            // Heads that are moved value by value, and heads that are moved by pieces.
            for (tokens, width) in [(17, 11), (129, 33), (40, 16)] {
                let inputs =
                    [wave([2, tokens, 3 * HEADS * width], 0.7, 2.0), wave([1, 1, 3 * HEADS * width], 0.3, 0.5)];
                let rounded = values_and_gradients(&device, &inputs, |[x, bias]| {
                    attend_self(x.cast(short), row(bias), HEADS).cast(FloatDType::F32)
                });
                let full = values_and_gradients(&device, &inputs, |[x, bias]| attend_self(x, row(bias), HEADS));
                // Rounded to 8 bits: queries and keys, their products, weights, values and the result.
                rounded.assert_close(&full, 0.03);
            }
        }
    }
}
