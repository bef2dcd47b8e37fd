//! Attention with its derivative: as one operation if the backend has one, otherwise in heads with the matrix of
//! weights.

use burn::backend::Autodiff;
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;

use super::heads::dims;
use super::matrix::{HeadShape, SavedHeads, attend, backward, forward_self_by_heads};
use super::{Attention, FusedAttention, HeadOps, Mapped, Method, Sources};
use crate::ops::product::Factors;

/// Tensors that the backward pass needs.
#[derive(Clone, Debug)]
pub(super) enum Saved<B: FusedAttention> {
    /// Tensors of [`attend`].
    Heads(SavedHeads<B>),
    /// Tensors of [`FusedAttention`].
    Fused(B::Kept),
}

/// Computes the result of an attention, `[N, L, dim]`, and the tensors that its derivative needs.
pub(super) fn forward<B: FusedAttention>(
    sources: Sources<B>,
    heads: usize,
    method: Method,
) -> (FloatTensor<B>, Saved<B>) {
    if let Some((y, kept)) = B::fused(&sources, heads, method) {
        return (y, Saved::Fused(kept));
    }
    let (y, saved) = match sources {
        Sources::Own(Mapped { tokens, bias }) => forward_self_by_heads::<B>(tokens, bias, heads, method.factors, None),
        Sources::Other([q, kv]) => {
            let ([_, _, width], [_, keys, _]) = (dims(&q.tokens), dims(&kv.tokens));
            let shape = HeadShape::of::<B>(&q.tokens, keys, width, (heads, method.factors), None);
            let part = |number| B::split_heads(kv.tokens.clone(), kv.bias.clone(), shape.part(number, 2));
            attend::<B>(B::split_heads(q.tokens, q.bias, shape.part(0, 1)), part(0), part(1), shape)
        }
    };
    (y, Saved::Heads(saved))
}

/// Derivative of the attention of a sequence to itself. Parents: queries, keys and values, and their bias if there are two.
#[derive(Debug)]
struct OfSelf;

impl<B: FusedAttention, const N: usize> Backward<B, N> for OfSelf {
    type State = Saved<B>;

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let nodes = ops.parents.map(|parent| parent.map(|node| node.id));
        match ops.state {
            Saved::Heads(saved) => {
                let HeadShape { keys, width, .. } = saved.shape;
                let parts = backward::<B>(saved, dy).into();
                register::<B>(grads, &nodes, B::join_heads(parts, keys, width));
            }
            Saved::Fused(kept) => register_fused::<B>(grads, &nodes, B::fused_backward(kept, dy)),
        }
    }
}

/// Derivative of the attention of one sequence to another. Parents: queries, then keys and values, each before its bias if
/// there are four.
#[derive(Debug)]
struct OfCross;

impl<B: FusedAttention, const N: usize> Backward<B, N> for OfCross {
    type State = Saved<B>;

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let nodes = ops.parents.map(|parent| parent.map(|node| node.id));
        match ops.state {
            Saved::Heads(saved) => {
                let HeadShape { queries, keys, width, .. } = saved.shape;
                let [dq, dk, dv] = backward::<B>(saved, dy);
                let (of_queries, of_keys) = nodes.split_at(N / 2);
                register::<B>(grads, of_queries, B::join_heads(vec![dq], queries, width));
                register::<B>(grads, of_keys, B::join_heads(vec![dk, dv], keys, width));
            }
            Saved::Fused(kept) => register_fused::<B>(grads, &nodes, B::fused_backward(kept, dy)),
        }
    }
}

/// Computes an attention with `derivative`, whose parents are `nodes`.
fn recorded<B: FusedAttention, C: CheckpointStrategy, const N: usize>(
    derivative: impl Backward<B, N, State = Saved<B>>,
    nodes: [NodeGuard; N],
    sources: Sources<B>,
    heads: usize,
    method: Method,
) -> FloatTensor<Autodiff<B, C>> {
    match derivative.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prepared) => {
            let (y, saved) = forward::<B>(sources, heads, method);
            prepared.finish(saved, y)
        }
        OpsKind::UnTracked(prepared) => prepared.finish(forward::<B>(sources, heads, method).0),
    }
}

impl<B: FusedAttention, C: CheckpointStrategy> Attention for Autodiff<B, C> {
    fn attend_self(qkv: FloatTensor<Self>, bias: FloatTensor<Self>, heads: usize, method: Method) -> FloatTensor<Self> {
        let nodes = [qkv.node(), bias.node()];
        let sources = Sources::<B>::own(qkv.into_primitive(), Some(bias.into_primitive()));
        recorded::<B, C, _>(OfSelf, nodes, sources, heads, method)
    }

    fn attend_self_biased(qkv: FloatTensor<Self>, heads: usize, method: Method) -> FloatTensor<Self> {
        let nodes = [qkv.node()];
        let sources = Sources::<B>::own(qkv.into_primitive(), None);
        recorded::<B, C, _>(OfSelf, nodes, sources, heads, method)
    }

    fn attend_cross(
        q: FloatTensor<Self>,
        q_bias: FloatTensor<Self>,
        kv: FloatTensor<Self>,
        kv_bias: FloatTensor<Self>,
        heads: usize,
        method: Method,
    ) -> FloatTensor<Self> {
        let nodes = [q.node(), q_bias.node(), kv.node(), kv_bias.node()];
        let biases = [q_bias.into_primitive(), kv_bias.into_primitive()];
        let sources = Sources::<B>::other([q.into_primitive(), kv.into_primitive()], Some(biases));
        recorded::<B, C, _>(OfCross, nodes, sources, heads, method)
    }

    fn attend_cross_biased(
        q: FloatTensor<Self>,
        kv: FloatTensor<Self>,
        heads: usize,
        method: Method,
    ) -> FloatTensor<Self> {
        let nodes = [q.node(), kv.node()];
        let sources = Sources::<B>::other([q.into_primitive(), kv.into_primitive()], None);
        recorded::<B, C, _>(OfCross, nodes, sources, heads, method)
    }

    fn attention_weights(_: FloatTensor<Self>, _: FloatTensor<Self>, _: usize, _: Factors) -> FloatTensor<Self> {
        unreachable!("`attention_weights` takes tensors off the graph first")
    }
}

/// Registers the gradient of a linear map's result and, if its bias is a node too, the column sums as the gradient of
/// the bias.
fn register<B: HeadOps>(grads: &mut Gradients, nodes: &[Option<NodeId>], grad: FloatTensor<B>) {
    if let [_, Some(bias)] = nodes {
        grads.register::<B>(*bias, B::column_sums(grad.clone()));
    }
    if let [Some(map), ..] = nodes {
        grads.register::<B>(*map, grad);
    }
}

/// Registers the gradients of the tensors of [`Sources`], in their order.
fn register_fused<B: FusedAttention>(grads: &mut Gradients, nodes: &[Option<NodeId>], gradients: Vec<FloatTensor<B>>) {
    for (node, gradient) in nodes.iter().zip(gradients) {
        if let Some(node) = node {
            grads.register::<B>(*node, gradient);
        }
    }
}
