//! Attention by cuDNN's fused engines: cuts heads out of tokens, queues both passes, and joins the gradients.
//!
//! Queries, keys and values are split from their tokens, which adds the bias and pads a head to a multiple of eight
//! values (33 to 40). Where heads need no padding, the result and its gradient stay tokens, and the gradients of
//! queries, keys and values are written side by side, in the layout of the linear maps before the attention, without
//! splitting or joining. The factor inside softmax is that of the unpadded width; padding is zero and adds nothing to
//! any product.

use burn::backend::Cube;
use burn::tensor::{DType, Shape};
use burn_cubecl::ops::numeric::full;
use burn_cubecl::tensor::CubeTensor;

use super::heads::{Padding, Part, dims};
use super::{Computation, Method, Sources};
use crate::ops::kernels::{columns, heads, uninit};
use crate::vendor;
use crate::vendor::cudnn::attention::{Attention, Backward, Forward, Layout, Sizes, WIDTH_MULTIPLE, uid};
use crate::vendor::cudnn::queue::{self, Buffer, PrepareError};
use crate::vendor::fallback::warn_once;
use crate::vendor::problem::Number;

/// Consequence of computing without the library, for warnings.
const FALLBACK: &str =
    "train.attention = \"cudnn\", but attention is computed by products (88 of the 267 ms of a step on an H100)";

const PADDING: Padding = Padding { tokens: 1, width: WIDTH_MULTIPLE };

/// Values kept for the backward pass: heads `[N, heads, L, width]`, the result as cuDNN wrote it, and a number for each
/// row from which the weights are recomputed.
#[derive(Clone, Debug)]
pub struct Kept {
    q: CubeTensor,
    k: CubeTensor,
    v: CubeTensor,
    o: CubeTensor,
    stats: CubeTensor,
    plan: Plan,
}

/// Plan for an attention that the library computes.
#[derive(Clone, Copy, Debug)]
struct Plan {
    attention: Attention,
    backward: Backward,
    /// Scratch memory of both passes.
    workspace_bytes: [u64; 2],
    /// Width of a head, padding excluded.
    width: usize,
    /// True if queries, keys and values come from one tensor.
    is_self: bool,
}

/// Reason why cuDNN does not compute an attention.
#[derive(Debug, thiserror::Error)]
enum NotPlanned {
    /// Tokens of 32 bits.
    #[error("cuDNN's attention takes 16-bit tokens; train.precision = \"bf16\" makes them")]
    Precision,
    /// The library does not compute one of the passes.
    #[error(transparent)]
    Pass(#[from] PrepareError),
}

impl Plan {
    /// Plans the attention of these sources; `None` if the library is not selected or, with one warning, does not
    /// compute it.
    fn of(sources: &Sources<Cube>, heads: usize, method: Method) -> Option<Self> {
        let first = first(sources);
        if method.computation != Computation::Cudnn || !vendor::queue::on_cuda(first) {
            return None;
        }
        let plan = Self::planned(sources, first, heads);
        plan.map_err(|reason| warn_once(FALLBACK, &reason)).ok()
    }

    fn planned(sources: &Sources<Cube>, first: &CubeTensor, heads: usize) -> Result<Self, NotPlanned> {
        let Some(number @ (Number::F16 | Number::Bf16)) = vendor::queue::number(first.dtype) else {
            return Err(NotPlanned::Precision);
        };
        let ([sequences, queries, dim], keys) = match sources {
            Sources::Own([qkv, _]) => {
                let [n, tokens, width] = dims(qkv);
                ([n, tokens, width / 3], tokens)
            }
            Sources::Other([q, _, kv, _]) => (dims(q), dims::<3>(kv)[1]),
        };
        let width = dim / heads;
        let padded = width.next_multiple_of(WIDTH_MULTIPLE);
        let is_self = matches!(sources, Sources::Own(_));
        let layout = |parts: usize| if padded == width { Layout::Tokens(parts * dim) } else { Layout::Heads };
        let gradients = if is_self { [layout(3), layout(3)] } else { [layout(1), layout(2)] };
        let attention = Attention {
            sizes: Sizes { sequences, heads, queries, keys, width: padded },
            number,
            scale: (1.0 / (width as f64).sqrt()) as f32,
            result: layout(1),
            gradients,
        };
        let backward = Backward::of(attention).map_err(PrepareError::from)?;
        // Both plans are prepared before either is used: an attention takes one path, forward and back.
        let workspace_bytes = [queue::prepare(&Forward(attention), first)?, queue::prepare(&backward, first)?];
        Ok(Self { attention, backward, workspace_bytes, width, is_self })
    }

    fn is_padded(&self) -> bool {
        self.attention.sizes.width != self.width
    }

    fn part(&self, number: usize, parts: usize) -> Part {
        Part { number, parts, heads: self.attention.sizes.heads, padding: PADDING }
    }
}

/// Computes the result `[N, L, dim]`, and the values kept for the backward pass; `None` if the library is not selected
/// or does not compute it.
pub(super) fn forward(sources: &Sources<Cube>, heads: usize, method: Method) -> Option<(CubeTensor, Kept)> {
    let plan = Plan::of(sources, heads, method)?;
    let split = |x: &CubeTensor, bias: &CubeTensor, number, parts| {
        heads::split(x.clone(), Some(bias.clone()), plan.part(number, parts))
    };
    let [q, k, v] = match sources {
        Sources::Own([qkv, bias]) => [0, 1, 2].map(|number| split(qkv, bias, number, 3)),
        Sources::Other([q, q_bias, kv, kv_bias]) => {
            [split(q, q_bias, 0, 1), split(kv, kv_bias, 0, 2), split(kv, kv_bias, 1, 2)]
        }
    };
    let Sizes { sequences, heads, queries, width, .. } = plan.attention.sizes;
    let shape = if plan.is_padded() {
        Shape::from([sequences, heads, queries, width])
    } else {
        Shape::from([sequences, queries, heads * width])
    };
    let o = uninit(&q, shape, q.dtype);
    let stats = uninit(&q, Shape::from([sequences, heads, queries]), DType::F32);
    queue::launch(
        Forward(plan.attention),
        plan.workspace_bytes[0],
        &[whole(&q, &[(uid::Q, 0)]), whole(&k, &[(uid::K, 0)]), whole(&v, &[(uid::V, 0)])],
        &[whole(&o, &[(uid::O, 0)]), whole(&stats, &[(uid::STATS, 0)])],
    );
    let y = if plan.is_padded() { heads::join(vec![o.clone()], queries, plan.width) } else { o.clone() };
    Some((y, Kept { q, k, v, o, stats, plan }))
}

/// Computes the gradients of the tensors of the sources, in order.
pub(super) fn backward(kept: Kept, dy: CubeTensor) -> Vec<CubeTensor> {
    let Kept { q, k, v, o, stats, plan } = kept;
    let Sizes { sequences, heads, queries, keys, width } = plan.attention.sizes;
    assert_eq!(dy.dtype, q.dtype, "a gradient has the type of its value");
    let d_o = if plan.is_padded() { heads::split(dy, None, plan.part(0, 1)) } else { queue::aligned(dy) };
    let row_sums = uninit(&q, Shape::from([sequences, heads, queries]), DType::F32);
    let lengths = plan
        .backward
        .masked
        .then(|| [queries, keys].map(|length| full::<i32>(Shape::from([sequences]), &q.device, length as i32)));
    let mut read = vec![
        whole(&q, &[(uid::Q, 0)]),
        whole(&k, &[(uid::K, 0)]),
        whole(&v, &[(uid::V, 0)]),
        whole(&o, &[(uid::O, 0)]),
        whole(&d_o, &[(uid::D_O, 0)]),
        whole(&stats, &[(uid::STATS, 0)]),
    ];
    if let Some([queries, keys]) = &lengths {
        read.extend([whole(queries, &[(uid::QUERIES, 0)]), whole(keys, &[(uid::KEYS, 0)])]);
    }
    let launch = |gradients: &[Buffer<'_>]| {
        let written: Vec<_> = gradients.iter().copied().chain([whole(&row_sums, &[(uid::ROW_SUMS, 0)])]).collect();
        queue::launch(plan.backward, plan.workspace_bytes[1], &read, &written);
    };
    let maps = if plan.is_padded() {
        let of = |rows| uninit(&q, Shape::from([sequences, heads, rows, width]), q.dtype);
        let [d_q, d_k, d_v] = [of(queries), of(keys), of(keys)];
        launch(&[whole(&d_q, &[(uid::D_Q, 0)]), whole(&d_k, &[(uid::D_K, 0)]), whole(&d_v, &[(uid::D_V, 0)])]);
        if plan.is_self {
            vec![heads::join(vec![d_q, d_k, d_v], queries, plan.width)]
        } else {
            vec![heads::join(vec![d_q], queries, plan.width), heads::join(vec![d_k, d_v], keys, plan.width)]
        }
    } else {
        let dim = heads * width;
        let of = |rows, parts| uninit(&q, Shape::from([sequences, rows, parts * dim]), q.dtype);
        let part = (dim * q.elem_size()) as u64;
        if plan.is_self {
            let d_qkv = of(queries, 3);
            launch(&[whole(&d_qkv, &[(uid::D_Q, 0), (uid::D_K, part), (uid::D_V, 2 * part)])]);
            vec![d_qkv]
        } else {
            let (d_q, d_kv) = (of(queries, 1), of(keys, 2));
            launch(&[whole(&d_q, &[(uid::D_Q, 0)]), whole(&d_kv, &[(uid::D_K, 0), (uid::D_V, part)])]);
            vec![d_q, d_kv]
        }
    };
    maps.into_iter().flat_map(|map| [map.clone(), columns::sums(map)]).collect()
}

fn first(sources: &Sources<Cube>) -> &CubeTensor {
    match sources {
        Sources::Own([first, _]) | Sources::Other([first, ..]) => first,
    }
}

fn whole<'a>(tensor: &'a CubeTensor, places: &'a [(i64, u64)]) -> Buffer<'a> {
    Buffer { tensor, places }
}

#[cfg(any(test, feature = "device-tests"))]
#[cfg_attr(
    not(test),
    allow(dead_code, unused_imports, clippy::wildcard_imports, reason = "a test module all the same")
)]
pub(crate) mod tests {
    use super::*;
    use crate::ops::attention::{attend_cross, attend_self};
    use crate::ops::product::Factors;
    use crate::ops::testing::{Outcome, on_gpus, short_of, values_and_gradients, wave};
    use crate::vendor::cudnn::record;
    use burn::tensor::{Device, FloatDType, Tensor};

    const HEADS: usize = 3;

    fn method(computation: Computation) -> Method {
        Method { factors: Factors::Bf16, computation }
    }

    /// Self-attention of 16-bit tokens, and its gradients.
    fn to_itself(device: &Device, [tokens, width]: [usize; 2], computation: Computation) -> Outcome {
        let short = short_of(device);
        let inputs = [wave([2, tokens, 3 * HEADS * width], 0.7, 2.0), wave([1, 1, 3 * HEADS * width], 0.3, 0.5)];
        values_and_gradients(device, &inputs, |[x, bias]| {
            let bias: Tensor<1> = bias.flatten(0, 2);
            attend_self(x.cast(short), bias, HEADS, method(computation)).cast(FloatDType::F32)
        })
    }

    /// Cross-attention of 16-bit tokens, and its gradients.
    fn to_another(device: &Device, [queries, keys, width]: [usize; 3], computation: Computation) -> Outcome {
        let (short, dim) = (short_of(device), HEADS * width);
        let inputs = [
            wave([2, queries, dim], 0.7, 2.0),
            wave([1, 1, dim], 0.3, 0.5),
            wave([2, keys, 2 * dim], 0.4, 2.0),
            wave([1, 1, 2 * dim], 0.9, 0.5),
        ];
        values_and_gradients(device, &inputs, |[q, q_bias, kv, kv_bias]| {
            let [q_bias, kv_bias] = [q_bias, kv_bias].map(|bias| bias.flatten::<1>(0, 2));
            let (q, kv) = (q.cast(short), kv.cast(short));
            attend_cross(q, q_bias, kv, kv_bias, HEADS, method(computation)).cast(FloatDType::F32)
        })
    }

    /// Asserts that the library computes these attentions; otherwise products would replace it without an error.
    fn assert_planned(sources: &Sources<Cube>) {
        let plan = Plan::planned(sources, first(sources), HEADS);
        plan.unwrap_or_else(|reason| panic!("{reason}"));
    }

    /// Tokens of 16 bits, and a bias.
    fn tokens(device: &Device, length: usize, width: usize) -> [CubeTensor; 2] {
        let tokens = Tensor::<3>::zeros([2, length, width], device).cast(short_of(device));
        let bias = Tensor::<1>::zeros([width], device);
        [tokens.try_into_primitive::<Cube>().unwrap(), bias.try_into_primitive::<Cube>().unwrap()]
    }

    /// Tolerance: both methods round queries, keys, values and the result to 8 bits; products also round scores and
    /// weights to 8 bits, which the fused engine keeps in 32 bits.
    const TOLERANCE: f32 = 0.03;

    fn fused_attention_is_the_attention_of_products(device: &Device) {
        // Padded heads, heads that need none, and numbers of keys beside the engines' tiles.
        for [length, width] in [[129, 33], [129, 96], [66, 40], [513, 33]] {
            assert_planned(&Sources::Own(tokens(device, length, 3 * HEADS * width)));
            let [ours, products] =
                [Computation::Cudnn, Computation::Products].map(|by| to_itself(device, [length, width], by));
            ours.assert_close(&products, TOLERANCE);
        }
        for sizes @ [queries, keys, width] in [[66, 129, 33], [129, 17, 96], [513, 129, 33]] {
            let [q, q_bias] = tokens(device, queries, HEADS * width);
            let [kv, kv_bias] = tokens(device, keys, 2 * HEADS * width);
            assert_planned(&Sources::Other([q, q_bias, kv, kv_bias]));
            let [ours, products] = [Computation::Cudnn, Computation::Products].map(|by| to_another(device, sizes, by));
            ours.assert_close(&products, TOLERANCE);
        }
    }

    fn the_same_tokens_give_the_same_bits_and_the_engines_are_recorded(device: &Device) {
        for [length, width] in [[129, 96], [513, 33]] {
            assert_planned(&Sources::Own(tokens(device, length, 3 * HEADS * width)));
            let first = to_itself(device, [length, width], Computation::Cudnn);
            for _ in 0..3 {
                to_itself(device, [length, width], Computation::Cudnn).assert_close(&first, 0.0);
            }
        }
        assert!(!record::table().is_empty());
    }

    on_gpus!(
        fused_attention_is_the_attention_of_products,
        the_same_tokens_give_the_same_bits_and_the_engines_are_recorded,
    );
}
