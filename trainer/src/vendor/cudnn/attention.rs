//! Scaled dot-product attention by cuDNN: graphs of the forms that its fused engines support.
//!
//! Forward: `P = softmax(scale · Q Kᵀ)`, `O = P V`, and for each row the logarithm of its sum of exponentials ("stats"),
//! from which the backward pass recomputes `P` tile by tile. No matrix of the size of `P` is kept.
//!
//! Backward is deterministic: the engine sums `dQ` from a matrix of `dS` in scratch memory, with 16 bits per value,
//! instead of using atomic additions (`dQ` as a product of the graph instead of an f32 tensor that is converted
//! afterwards).
//!
//! Up to version 9.15.0 the backward engine needs a mask if the number of keys is not a multiple of 128, as NVIDIA's
//! own front end adds too; the lengths of sequences are then tensors.

use std::fmt;

use super::graph::{DataType, Descriptor, Place, PointwiseMode, ReductionOperator, Tensor};
use super::operations::{Lengths, Operations};
use super::session::Problem;
use super::{CudnnError, Target, Unavailable, library, major_minor, opened};
use crate::vendor::problem::Number;

/// Oldest version whose attention is used, in the library's numbering: earlier ones need other masks, and 9.10.0
/// computes wrong gradients.
pub const OLDEST: usize = 91_100;
/// Newest version whose backward pass needs a mask if the number of keys is not a multiple of 128.
const NEWEST_MASKED: usize = 91_500;
/// Multiple to which widths of heads are padded.
pub const WIDTH_MULTIPLE: usize = 8;
/// Largest scratch memory, in bytes: the matrix of `dS` for 192 crops of the paper's model takes 2.3e9.
const MOST_WORKSPACE: u64 = 16 << 30;

/// Identifiers of the tensors in memory.
#[allow(missing_docs, reason = "names of the module's formulas")]
pub mod uid {
    pub const Q: i64 = 1;
    pub const K: i64 = 2;
    pub const V: i64 = 3;
    pub const O: i64 = 4;
    pub const STATS: i64 = 6;
    pub const D_O: i64 = 7;
    pub const D_Q: i64 = 8;
    pub const D_K: i64 = 9;
    pub const D_V: i64 = 10;
    /// Lengths of the sequences of queries, `[N, 1, 1, 1]` of 32-bit integers; used only by
    /// [`Backward`](super::Backward) with a mask.
    pub const QUERIES: i64 = 12;
    /// Lengths of the sequences of keys.
    pub const KEYS: i64 = 13;
    /// Row sums of `dO · O`, `[N, heads, queries, 1]` in f32: written and read by the backward pass.
    pub const ROW_SUMS: i64 = 14;
    pub(super) const SCALE: i64 = 5;
    pub(super) const ONE: i64 = 11;
    pub(super) const MINUS_INFINITY: i64 = 15;
}

/// Sizes of an attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sizes {
    /// Number of sequences.
    pub sequences: usize,
    /// Number of heads in a sequence.
    pub heads: usize,
    /// Number of queries in a sequence.
    pub queries: usize,
    /// Number of keys and values in a sequence.
    pub keys: usize,
    /// Number of values in a head, padding included; a multiple of [`WIDTH_MULTIPLE`].
    pub width: usize,
}

/// Order of heads in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Heads in memory order `[N, heads, L, width]`.
    Heads,
    /// Heads side by side in tokens, `[N, L, ..]`; tokens have this many values.
    Tokens(usize),
}

impl Layout {
    /// Strides of `[N, heads, rows, width]`.
    fn strides(self, heads: i64, rows: i64, width: i64) -> [i64; 4] {
        match self {
            Self::Heads => [heads * rows * width, rows * width, width, 1],
            Self::Tokens(pitch) => [rows * pitch as i64, width, pitch as i64, 1],
        }
    }
}

/// Settings on which both passes depend.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Sizes of queries, keys and values.
    pub sizes: Sizes,
    /// Number type of all tensors except the stats.
    pub number: Number,
    /// Factor that scales the products inside softmax.
    pub scale: f32,
    /// Memory layout of queries, and of keys and values.
    pub sources: [Layout; 2],
    /// Memory layout of `O` and its gradient.
    pub result: Layout,
    /// Memory layouts of the gradients: of queries, and of keys and values.
    pub gradients: [Layout; 2],
}

/// Forward pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forward(pub Attention);

/// Backward pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backward {
    /// Sizes and types, shared with the forward pass.
    pub attention: Attention,
    /// True if the lengths of the sequences are given as tensors.
    pub masked: bool,
}

impl Backward {
    /// Backward pass of `attention` for the loaded version.
    ///
    /// # Errors
    /// If the library is not used, with the reason.
    pub fn of(attention: Attention) -> Result<Self, &'static Unavailable> {
        let masked = library()?.version <= NEWEST_MASKED && !attention.sizes.keys.is_multiple_of(128);
        Ok(Self { attention, masked })
    }
}

impl Attention {
    fn dims(&self) -> [i64; 5] {
        let Sizes { sequences, heads, queries, keys, width } = self.sizes;
        [sequences, heads, queries, keys, width].map(|size| size as i64)
    }

    fn dtype(&self) -> DataType {
        self.number.into()
    }

    /// Descriptor of a tensor of heads in memory.
    fn heads(&self, uid: i64, rows: i64, layout: Layout) -> Result<Descriptor, CudnnError> {
        let [n, heads, _, _, width] = self.dims();
        Tensor::new(uid, self.dtype(), &[n, heads, rows, width], &layout.strides(heads, rows, width)).descriptor()
    }

    /// Descriptor of a tensor of heads in memory, with each head's matrix transposed.
    fn transposed(&self, uid: i64, rows: i64, layout: Layout) -> Result<Descriptor, CudnnError> {
        let [n, heads, _, _, width] = self.dims();
        let [a, b, c, d] = layout.strides(heads, rows, width);
        Tensor::new(uid, self.dtype(), &[n, heads, width, rows], &[a, b, d, c]).descriptor()
    }

    /// Descriptor of a tensor with one f32 number per row.
    fn of_rows(&self, uid: i64) -> Result<Descriptor, CudnnError> {
        let [n, heads, queries, _, _] = self.dims();
        Tensor::contiguous(uid, DataType::Float, &[n, heads, queries, 1]).descriptor()
    }

    fn on_host(uid: i64) -> Result<Descriptor, CudnnError> {
        Tensor::contiguous(uid, DataType::Float, &[1, 1, 1, 1]).at(Place::Value).descriptor()
    }

    fn key(&self, pass: &str) -> String {
        let Self { sizes, number, scale: _, sources, result, gradients } = self;
        let Sizes { sequences, heads, queries, keys, width } = sizes;
        format!("{pass} {sequences}x{heads}x{queries}x{keys}x{width} {number:?} {sources:?} {result:?} {gradients:?}")
    }
}

/// Formats sizes and type, such as `attention 192x16x513x129x40 bf16`.
impl fmt::Display for Attention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Sizes { sequences, heads, queries, keys, width } = self.sizes;
        let number = format!("{:?}", self.number).to_lowercase();
        write!(f, "attention {sequences}x{heads}x{queries}x{keys}x{width} {number}")
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Backward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, backward", self.attention)
    }
}

impl Problem for Forward {
    fn key(&self) -> String {
        self.0.key("attention")
    }

    fn graph(&self, target: &Target) -> Result<Descriptor, CudnnError> {
        let attention = &self.0;
        is_supported()?;
        let [n, heads, queries, keys, _] = attention.dims();
        let (matrix, column) = ([n, heads, queries, keys], [n, heads, queries, 1]);
        let [of_queries, of_keys] = attention.sources;
        let q = attention.heads(uid::Q, queries, of_queries)?;
        let k = attention.transposed(uid::K, keys, of_keys)?;
        let v = attention.heads(uid::V, keys, of_keys)?;
        let o = attention.heads(uid::O, queries, attention.result)?;
        let (stats, scale) = (attention.of_rows(uid::STATS)?, Attention::on_host(uid::SCALE)?);
        let mut ops = Operations::default();

        let products = ops.hidden(DataType::Float, &matrix)?;
        ops.matmul(&q, &k, &products, Lengths::default())?;
        let scaled = ops.hidden(DataType::Float, &matrix)?;
        ops.pointwise(PointwiseMode::Mul, DataType::Float, &products, Some(&scale), &scaled)?;
        let largest = ops.hidden(DataType::Float, &column)?;
        ops.reduce(ReductionOperator::Max, &scaled, &largest)?;
        let below = ops.hidden(DataType::Float, &matrix)?;
        ops.pointwise(PointwiseMode::Sub, DataType::Float, &scaled, Some(&largest), &below)?;
        let exps = ops.hidden(DataType::Float, &matrix)?;
        ops.pointwise(PointwiseMode::Exp, DataType::Float, &below, None, &exps)?;
        let sums = ops.hidden(DataType::Float, &column)?;
        ops.reduce(ReductionOperator::Add, &exps, &sums)?;
        let logs = ops.hidden(DataType::Float, &column)?;
        ops.pointwise(PointwiseMode::Log, DataType::Float, &sums, None, &logs)?;
        ops.pointwise(PointwiseMode::Add, DataType::Float, &largest, Some(&logs), &stats)?;
        let weights = ops.hidden(attention.dtype(), &matrix)?;
        ops.pointwise(PointwiseMode::Div, DataType::Float, &exps, Some(&sums), &weights)?;
        ops.matmul(&weights, &v, &o, Lengths::default())?;
        ops.graph(target)
    }

    fn most_workspace(&self) -> u64 {
        MOST_WORKSPACE
    }

    fn values(&self) -> Vec<(i64, f32)> {
        vec![(uid::SCALE, self.0.scale)]
    }
}

impl Problem for Backward {
    fn key(&self) -> String {
        self.attention.key(if self.masked { "attention backward masked" } else { "attention backward" })
    }

    fn graph(&self, target: &Target) -> Result<Descriptor, CudnnError> {
        let attention = &self.attention;
        is_supported()?;
        let [n, heads, queries, keys, width] = attention.dims();
        let (matrix, column) = ([n, heads, queries, keys], [n, heads, queries, 1]);
        let (float, own) = (DataType::Float, attention.dtype());
        let transposed = ([n, heads, keys, queries], [heads * queries * keys, queries * keys, 1, keys]);
        let ([of_queries, of_keys], [of_d_queries, of_d_keys]) = (attention.sources, attention.gradients);
        let q = attention.heads(uid::Q, queries, of_queries)?;
        let [k, v] = [uid::K, uid::V].map(|uid| attention.transposed(uid, keys, of_keys));
        let (k, v) = (k?, v?);
        let [o, d_o] = [uid::O, uid::D_O].map(|uid| attention.heads(uid, queries, attention.result));
        let (o, d_o) = (o?, d_o?);
        let d_q = attention.heads(uid::D_Q, queries, of_d_queries)?;
        let [d_k, d_v] = [uid::D_K, uid::D_V].map(|uid| attention.heads(uid, keys, of_d_keys));
        let (d_k, d_v) = (d_k?, d_v?);
        let (stats, row_sums) = (attention.of_rows(uid::STATS)?, attention.of_rows(uid::ROW_SUMS)?);
        let (scale, one) = (Attention::on_host(uid::SCALE)?, Attention::on_host(uid::ONE)?);
        let lengths = if self.masked {
            let length = |uid| Tensor::contiguous(uid, DataType::Int32, &[n, 1, 1, 1]).descriptor();
            Some((length(uid::QUERIES)?, length(uid::KEYS)?))
        } else {
            None
        };
        let (by_queries, by_keys) = (lengths.as_ref().map(|both| &both.0), lengths.as_ref().map(|both| &both.1));
        let of_matrix = Lengths { rows: by_queries, columns: by_keys, inner: None };
        let of_transposed = Lengths { rows: by_keys, columns: None, inner: by_queries };
        let of_product = Lengths { rows: by_queries, columns: None, inner: by_keys };
        let mut ops = Operations::default();

        // Row sums of dO · O, which are those of dP · P.
        let both = ops.hidden(float, &[n, heads, queries, width])?;
        ops.pointwise(PointwiseMode::Mul, float, &d_o, Some(&o), &both)?;
        let summed = ops.hidden(float, &column)?;
        ops.reduce(ReductionOperator::Add, &both, &summed)?;
        ops.pointwise(PointwiseMode::Mul, float, &summed, Some(&one), &row_sums)?;

        // P again, and dV = Pᵀ dO.
        let products = ops.hidden(float, &matrix)?;
        ops.matmul(&q, &k, &products, of_matrix)?;
        let mut scaled = ops.hidden(float, &matrix)?;
        ops.pointwise(PointwiseMode::Mul, float, &products, Some(&scale), &scaled)?;
        if let Some(lengths) = &lengths {
            scaled = masked(&mut ops, &scaled, lengths, &matrix)?;
        }
        let below = ops.hidden(float, &matrix)?;
        ops.pointwise(PointwiseMode::Sub, float, &scaled, Some(&stats), &below)?;
        let weights = ops.hidden(float, &matrix)?;
        ops.pointwise(PointwiseMode::Exp, float, &below, None, &weights)?;
        let turned = ops.hidden_at(own, &transposed.0, &transposed.1)?;
        ops.reshape(&weights, &turned)?;
        ops.matmul(&turned, &d_o, &d_v, of_transposed)?;

        // dS = scale · P · (dP - row sums), dP = dO Vᵀ.
        let d_p = ops.hidden(float, &matrix)?;
        ops.matmul(&d_o, &v, &d_p, of_matrix)?;
        let centred = ops.hidden(float, &matrix)?;
        ops.pointwise(PointwiseMode::Sub, float, &d_p, Some(&row_sums), &centred)?;
        let unscaled = ops.hidden(float, &matrix)?;
        ops.pointwise(PointwiseMode::Mul, float, &centred, Some(&weights), &unscaled)?;
        let d_s = ops.hidden(float, &matrix)?;
        ops.pointwise(PointwiseMode::Mul, float, &unscaled, Some(&scale), &d_s)?;

        // dK = dSᵀ Q, dQ = dS K.
        let turned = ops.hidden_at(own, &transposed.0, &transposed.1)?;
        ops.reshape(&d_s, &turned)?;
        ops.matmul(&turned, &q, &d_k, of_transposed)?;
        let straight = ops.hidden_at(own, &[n, heads, keys, width], &of_keys.strides(heads, keys, width))?;
        ops.reshape(&k, &straight)?;
        ops.matmul(&d_s, &straight, &d_q, of_product)?;
        ops.graph(target)
    }

    fn most_workspace(&self) -> u64 {
        MOST_WORKSPACE
    }

    fn values(&self) -> Vec<(i64, f32)> {
        let mut values = vec![(uid::SCALE, self.attention.scale), (uid::ONE, 1.0)];
        if self.masked {
            values.push((uid::MINUS_INFINITY, f32::NEG_INFINITY));
        }
        values
    }
}

fn is_supported() -> Result<(), CudnnError> {
    let version = opened()?.version;
    if version < OLDEST {
        let [oldest, found] = [OLDEST, version].map(major_minor);
        return Err(CudnnError::refused(format!("attention needs cuDNN {oldest} or newer; this is {found}")));
    }
    Ok(())
}

/// Operation that keeps `scores` where both indices lie within the sequences, and gives minus infinity elsewhere.
fn masked(
    ops: &mut Operations,
    scores: &Descriptor,
    (queries, keys): &(Descriptor, Descriptor),
    matrix: &[i64],
) -> Result<Descriptor, CudnnError> {
    let mut inside = [(2, queries), (3, keys)].into_iter().map(|(axis, length)| {
        let index = ops.hidden(DataType::Int32, matrix)?;
        ops.index(axis, scores, &index)?;
        let within = ops.hidden(DataType::Boolean, matrix)?;
        ops.pointwise(PointwiseMode::CompareLess, DataType::Boolean, &index, Some(length), &within)?;
        Ok(within)
    });
    let (rows, columns) = (inside.next().expect("two axes")?, inside.next().expect("two axes")?);
    drop(inside);
    let within = ops.hidden(DataType::Boolean, matrix)?;
    ops.pointwise(PointwiseMode::LogicalAnd, DataType::Boolean, &rows, Some(&columns), &within)?;
    let outside = Attention::on_host(uid::MINUS_INFINITY)?;
    let result = ops.hidden(DataType::Float, matrix)?;
    ops.select(&within, scores, &outside, &result)?;
    Ok(result)
}

#[cfg(test)]
mod tests;
