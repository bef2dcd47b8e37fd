//! Attention by cuDNN's fused engines: cuts heads out of tokens, queues both passes, and joins the gradients.
//!
//! Where heads need no padding, the result and its gradient stay tokens, and the gradients of queries, keys and values are
//! written side by side, as the linear maps before the attention take them: neither is split or joined. Queries, keys and
//! values themselves are read where the linear maps wrote them if these have added the bias ([`reads_tokens`]). Otherwise they
//! are split from their tokens, which adds the bias and pads a head to a multiple of eight values (33 to 40). The factor inside
//! softmax is that of the unpadded width, and padding is zero, so that it adds nothing to any product.

use burn::backend::{Cube, DispatchDevice};
use burn::tensor::{DType, Shape, Tensor};
use burn_cubecl::ops::numeric::full;
use burn_cubecl::tensor::CubeTensor;

use super::heads::dims;
use super::part::{Padding, Part};
use super::{Computation, Mapped, Method, Sources};
use crate::ops::kernels::{columns, heads, uninit};
use crate::vendor;
use crate::vendor::answers::Prepared;
use crate::vendor::cudnn::attention::{Attention, Backward, Forward, Layout, Sizes, WIDTH_MULTIPLE, uid};
use crate::vendor::cudnn::queue::{self, Buffer, PrepareError};
use crate::vendor::fallback::warn_once;
use crate::vendor::problem::Number;

/// Consequence of computing without the library, for warnings.
const FALLBACK: &str =
    "train.attention = \"cudnn\", but attention is computed by products (88 of the 267 ms of a step on an H100)";

const PADDING: Padding = Padding { tokens: 1, width: WIDTH_MULTIPLE };

/// Values kept for the backward pass: queries, keys and values, as heads `[N, heads, L, width]` or as tokens, the
/// result as cuDNN wrote it, and a number for each row from which the weights are recomputed.
#[derive(Clone, Debug)]
pub struct Kept {
    inputs: Vec<Input>,
    o: CubeTensor,
    stats: CubeTensor,
    plan: Plan,
}

/// A tensor that holds queries, keys or values, and their identifiers and offsets in bytes.
#[derive(Clone, Debug)]
struct Input {
    tensor: CubeTensor,
    places: Vec<(i64, u64)>,
}

impl Input {
    /// Places the tensors `uids` of the graph side by side in `tensor`, `part` bytes apart.
    fn new(tensor: CubeTensor, uids: &[i64], part: u64) -> Self {
        Self { tensor, places: uids.iter().copied().zip((0..).map(|number| number * part)).collect() }
    }

    fn buffer(&self) -> Buffer<'_> {
        Buffer { tensor: &self.tensor, places: &self.places }
    }
}

/// Returns true if attention in heads of `width` values, on the device of `x`, reads tokens without splitting them.
pub(super) fn reads_tokens<const D: usize>(x: &Tensor<D>, width: usize, method: Method) -> bool {
    method.computation == Computation::Cudnn
        && method.factors.dtype().is_some()
        && width.is_multiple_of(WIDTH_MULTIPLE)
        && matches!(x.device().inner().as_dispatch(), DispatchDevice::Cube(_))
        && vendor::cudnn::library().is_ok()
}

/// Plan for an attention that the library computes.
#[derive(Clone, Debug)]
struct Plan {
    attention: Attention,
    backward: Backward,
    /// Answers of the library for both passes.
    prepared: [Prepared; 2],
    /// Width of a head, padding excluded.
    width: usize,
    /// True if queries, keys and values come from one tensor.
    is_self: bool,
    /// True if biases are added when tokens are split into heads.
    adds_bias: bool,
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
            Sources::Own(qkv) => {
                let [n, tokens, width] = dims(&qkv.tokens);
                ([n, tokens, width / 3], tokens)
            }
            Sources::Other([q, kv]) => (dims(&q.tokens), dims::<3>(&kv.tokens)[1]),
        };
        let adds_bias = sources.maps().iter().any(|map| map.bias.is_some());
        let width = dim / heads;
        let padded = width.next_multiple_of(WIDTH_MULTIPLE);
        let is_self = matches!(sources, Sources::Own(_));
        let layout = |parts: usize| if padded == width { Layout::Tokens(parts * dim) } else { Layout::Heads };
        let gradients = if is_self { [layout(3), layout(3)] } else { [layout(1), layout(2)] };
        let attention = Attention {
            sizes: Sizes { sequences, heads, queries, keys, width: padded },
            number,
            scale: (1.0 / (width as f64).sqrt()) as f32,
            sources: if adds_bias { [Layout::Heads; 2] } else { gradients },
            result: layout(1),
            gradients,
        };
        let backward = Backward::of(attention).map_err(PrepareError::from)?;
        // Both plans are prepared before either is used: an attention takes one path, forward and back.
        let prepared = [queue::prepare(&Forward(attention), first)?, queue::prepare(&backward, first)?];
        Ok(Self { attention, backward, prepared, width, is_self, adds_bias })
    }

    fn is_padded(&self) -> bool {
        self.attention.sizes.width != self.width
    }

    fn part(&self, number: usize, parts: usize) -> Part {
        Part { number, parts, heads: self.attention.sizes.heads, padding: PADDING }
    }

    /// Inputs for the tensors `uids`, which lie side by side in the tokens of `map`: read from the tokens, or split
    /// from them.
    fn inputs(&self, map: &Mapped<Cube>, uids: &[i64]) -> Vec<Input> {
        if matches!(self.attention.sources, [Layout::Tokens(_), _]) {
            let tokens = queue::aligned(map.tokens.clone());
            let part = (self.attention.sizes.heads * self.width * tokens.elem_size()) as u64;
            return vec![Input::new(tokens, uids, part)];
        }
        let split = |(number, uid): (usize, &i64)| {
            let heads = heads::split(map.tokens.clone(), map.bias.clone(), self.part(number, uids.len()));
            Input::new(heads, &[*uid], 0)
        };
        uids.iter().enumerate().map(split).collect()
    }
}

/// Computes the result `[N, L, dim]`, and the values kept for the backward pass; `None` if the library is not selected
/// or does not compute it.
pub(super) fn forward(sources: &Sources<Cube>, heads: usize, method: Method) -> Option<(CubeTensor, Kept)> {
    let plan = Plan::of(sources, heads, method)?;
    let inputs = match sources {
        Sources::Own(qkv) => plan.inputs(qkv, &[uid::Q, uid::K, uid::V]),
        Sources::Other([q, kv]) => {
            let mut inputs = plan.inputs(q, &[uid::Q]);
            inputs.extend(plan.inputs(kv, &[uid::K, uid::V]));
            inputs
        }
    };
    let Sizes { sequences, heads, queries, width, .. } = plan.attention.sizes;
    let shape = if plan.is_padded() {
        Shape::from([sequences, heads, queries, width])
    } else {
        Shape::from([sequences, queries, heads * width])
    };
    let first = first(sources);
    let o = uninit(first, shape, first.dtype);
    let stats = uninit(first, Shape::from([sequences, heads, queries]), DType::F32);
    let read: Vec<_> = inputs.iter().map(Input::buffer).collect();
    queue::launch(
        Forward(plan.attention),
        plan.prepared[0].clone(),
        &read,
        &[whole(&o, &[(uid::O, 0)]), whole(&stats, &[(uid::STATS, 0)])],
    );
    let y = if plan.is_padded() { heads::join(vec![o.clone()], queries, plan.width) } else { o.clone() };
    Some((y, Kept { inputs, o, stats, plan }))
}

/// Computes the gradients of the tensors of the sources, in order.
pub(super) fn backward(kept: Kept, dy: CubeTensor) -> Vec<CubeTensor> {
    let Kept { inputs, o, stats, plan } = kept;
    let Sizes { sequences, heads, queries, keys, width } = plan.attention.sizes;
    assert_eq!(dy.dtype, o.dtype, "a gradient has the type of its value");
    let d_o = if plan.is_padded() { heads::split(dy, None, plan.part(0, 1)) } else { queue::aligned(dy) };
    let row_sums = uninit(&o, Shape::from([sequences, heads, queries]), DType::F32);
    let lengths = plan
        .backward
        .masked
        .then(|| [queries, keys].map(|length| full::<i32>(Shape::from([sequences]), &o.device, length as i32)));
    let mut read: Vec<_> = inputs.iter().map(Input::buffer).collect();
    read.extend([whole(&o, &[(uid::O, 0)]), whole(&d_o, &[(uid::D_O, 0)]), whole(&stats, &[(uid::STATS, 0)])]);
    if let Some([queries, keys]) = &lengths {
        read.extend([whole(queries, &[(uid::QUERIES, 0)]), whole(keys, &[(uid::KEYS, 0)])]);
    }
    let launch = |gradients: &[Buffer<'_>]| {
        let written: Vec<_> = gradients.iter().copied().chain([whole(&row_sums, &[(uid::ROW_SUMS, 0)])]).collect();
        queue::launch(plan.backward, plan.prepared[1].clone(), &read, &written);
    };
    let maps = if plan.is_padded() {
        let of = |rows| uninit(&o, Shape::from([sequences, heads, rows, width]), o.dtype);
        let [d_q, d_k, d_v] = [of(queries), of(keys), of(keys)];
        launch(&[whole(&d_q, &[(uid::D_Q, 0)]), whole(&d_k, &[(uid::D_K, 0)]), whole(&d_v, &[(uid::D_V, 0)])]);
        if plan.is_self {
            vec![heads::join(vec![d_q, d_k, d_v], queries, plan.width)]
        } else {
            vec![heads::join(vec![d_q], queries, plan.width), heads::join(vec![d_k, d_v], keys, plan.width)]
        }
    } else {
        let dim = heads * width;
        let of = |rows, parts| uninit(&o, Shape::from([sequences, rows, parts * dim]), o.dtype);
        let part = (dim * o.elem_size()) as u64;
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
    if !plan.adds_bias {
        return maps;
    }
    maps.into_iter().flat_map(|map| [map.clone(), columns::sums(map)]).collect()
}

fn first(sources: &Sources<Cube>) -> &CubeTensor {
    match sources {
        Sources::Own(first) | Sources::Other([first, _]) => &first.tokens,
    }
}

fn whole<'a>(tensor: &'a CubeTensor, places: &'a [(i64, u64)]) -> Buffer<'a> {
    Buffer { tensor, places }
}

#[cfg(any(test, feature = "device-tests"))]
#[cfg_attr(not(test), allow(dead_code, unused_imports, clippy::wildcard_imports, reason = "tests that run on devices"))]
pub(crate) mod tests {
    use super::*;
    use crate::ops::attention::{attend_cross, attend_self};
    use crate::ops::product::Factors;
    use crate::ops::testing::{Outcome, on_gpus, short_of, values_and_gradients, wave};
    use crate::vendor::cudnn::record::Engines;
    use crate::vendor::cudnn::session::Problem as _;
    use burn::tensor::{Device, FloatDType, Tensor};

    const HEADS: usize = 3;

    fn method(computation: Computation) -> Method {
        Method { factors: Factors::Bf16, computation }
    }

    /// Point at which a bias is added.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Bias {
        /// Before the attention, in 16 bits.
        Before,
        /// In the attention, in 32 bits.
        Within,
    }

    /// Self-attention of 16-bit tokens, and its gradients.
    fn to_itself(device: &Device, [tokens, width]: [usize; 2], bias: Bias, computation: Computation) -> Outcome {
        let short = short_of(device);
        let inputs = [wave([2, tokens, 3 * HEADS * width], 0.7, 2.0), wave([1, 1, 3 * HEADS * width], 0.3, 0.5)];
        values_and_gradients(device, &inputs, |[x, b]| {
            let method = method(computation);
            let y = match bias {
                Bias::Before => attend_self((x + b).cast(short), None, HEADS, method),
                Bias::Within => attend_self(x.cast(short), b.flatten::<1>(0, 2), HEADS, method),
            };
            y.cast(FloatDType::F32)
        })
    }

    /// Cross-attention of 16-bit tokens, and its gradients.
    fn to_another(
        device: &Device,
        [queries, keys, width]: [usize; 3],
        bias: Bias,
        computation: Computation,
    ) -> Outcome {
        let (short, dim) = (short_of(device), HEADS * width);
        let inputs = [
            wave([2, queries, dim], 0.7, 2.0),
            wave([1, 1, dim], 0.3, 0.5),
            wave([2, keys, 2 * dim], 0.4, 2.0),
            wave([1, 1, 2 * dim], 0.9, 0.5),
        ];
        values_and_gradients(device, &inputs, |[q, q_bias, kv, kv_bias]| {
            let method = method(computation);
            let y = match bias {
                Bias::Before => attend_cross((q + q_bias).cast(short), (kv + kv_bias).cast(short), None, HEADS, method),
                Bias::Within => {
                    let biases = [q_bias, kv_bias].map(|bias| bias.flatten::<1>(0, 2));
                    attend_cross(q.cast(short), kv.cast(short), biases, HEADS, method)
                }
            };
            y.cast(FloatDType::F32)
        })
    }

    /// Asserts that the library computes these attentions; otherwise products would replace it without an error.
    fn assert_planned(sources: &Sources<Cube>) {
        let plan = Plan::planned(sources, first(sources), HEADS);
        plan.unwrap_or_else(|reason| panic!("{reason}"));
    }

    /// Creates 16-bit tokens, with or without a bias that is yet to be added.
    fn tokens(device: &Device, length: usize, width: usize, bias: Bias) -> Mapped<Cube> {
        let tokens = Tensor::<3>::zeros([2, length, width], device).cast(short_of(device));
        let within = || Tensor::<1>::zeros([width], device).try_into_primitive::<Cube>().unwrap();
        Mapped { tokens: tokens.try_into_primitive::<Cube>().unwrap(), bias: (bias == Bias::Within).then(within) }
    }

    /// Tolerance: both methods round queries, keys, values and the result to 8 bits; products also round scores and
    /// weights to 8 bits, which the fused engine keeps in 32 bits.
    const TOLERANCE: f32 = 0.03;

    fn fused_attention_is_the_attention_of_products(device: &Device) {
        // Padded heads, heads that need none, and numbers of keys that are no multiples of the engines' tiles.
        for (length, width, bias) in [
            (129, 33, Bias::Within),
            (129, 33, Bias::Before),
            (129, 96, Bias::Within),
            (129, 96, Bias::Before),
            (66, 40, Bias::Before),
            (513, 33, Bias::Within),
        ] {
            assert_planned(&Sources::Own(tokens(device, length, 3 * HEADS * width, bias)));
            let [ours, products] =
                [Computation::Cudnn, Computation::Products].map(|by| to_itself(device, [length, width], bias, by));
            ours.assert_close(&products, TOLERANCE);
        }
        for (sizes, bias) in [
            ([66, 129, 33], Bias::Within),
            ([129, 17, 96], Bias::Within),
            ([129, 17, 96], Bias::Before),
            ([513, 129, 33], Bias::Within),
        ] {
            let [queries, keys, width] = sizes;
            let (q, kv) = (tokens(device, queries, HEADS * width, bias), tokens(device, keys, 2 * HEADS * width, bias));
            assert_planned(&Sources::Other([q, kv]));
            let [ours, products] =
                [Computation::Cudnn, Computation::Products].map(|by| to_another(device, sizes, bias, by));
            ours.assert_close(&products, TOLERANCE);
        }
    }

    fn the_same_tokens_give_the_same_bits_and_the_engines_are_recorded(device: &Device) {
        for (length, width, bias) in [(129, 96, Bias::Before), (513, 33, Bias::Within)] {
            assert_planned(&Sources::Own(tokens(device, length, 3 * HEADS * width, bias)));
            let first = to_itself(device, [length, width], bias, Computation::Cudnn);
            for _ in 0..3 {
                to_itself(device, [length, width], bias, Computation::Cudnn).assert_close(&first, 0.0);
            }
        }
        assert!(!Engines::of_process().is_empty());
    }

    fn a_resumed_run_computes_the_same_bits_by_its_recorded_engines(device: &Device) {
        let x = Tensor::<1>::zeros([1], device).try_into_primitive::<Cube>().unwrap();
        let first = to_itself(device, [129, 96], Bias::Before, Computation::Cudnn);
        let recorded = Engines::of_process().clone();
        queue::forget(&x).unwrap();
        to_itself(device, [129, 96], Bias::Before, Computation::Cudnn).assert_close(&first, 0.0);
        let now = Engines::of_process().clone();
        let mut both = now.clone();
        both.extend(recorded);
        assert!(both == now, "an engine was chosen again");
    }

    /// Tests that recorded engines are used, and that none takes their place: the library would choose the same ones again.
    fn recorded_engines_that_are_rejected_fail_their_attention(device: &Device) {
        // The sizes of no other test.
        let sources = Sources::Own(tokens(device, 97, 3 * HEADS * 64, Bias::Before));
        let planned = || Plan::planned(&sources, first(&sources), HEADS).unwrap_or_else(|reason| panic!("{reason}"));
        let plan = planned();
        let recorded = Engines::of_process().clone();
        Engines::of_process().spoil(&Forward(plan.attention).key());
        Engines::of_process().spoil(&plan.backward.key());
        queue::forget(first(&sources)).unwrap();
        let spoiled = planned();
        Engines::of_process().extend(recorded);
        for prepared in spoiled.prepared {
            let reason = prepared.into_result().unwrap_err();
            assert!(reason.contains("--other-rounding"), "{reason}");
        }
        assert_eq!(planned().prepared, plan.prepared);
    }

    on_gpus!(
        fused_attention_is_the_attention_of_products,
        the_same_tokens_give_the_same_bits_and_the_engines_are_recorded,
        a_resumed_run_computes_the_same_bits_by_its_recorded_engines,
        recorded_engines_that_are_rejected_fail_their_attention,
    );
}
