//! Multi-head attention (Vaswani et al., arXiv 1706.03762, section 3.2) and its gradients, without the attention
//! matrix.
//!
//! A thread computes one head of one sequence: it copies the head's queries, keys and values, with their biases, out of
//! the tokens, and takes a few queries at a time, whose rows of the attention matrix stay in its second-level cache.
//! Only the maximum and the reciprocal of the sum of each row are kept, from which the backward pass recomputes the row
//! (Dao et al., arXiv 2205.14135). The copies also have the layout in which products are fastest.

use rayon::prelude::*;

use crate::buffer::{Unwritten, in_blocks, write_rows, write_with};
use crate::math::{exp_of_negative, largest, sum, sum_of};
use crate::product::{Matrix, multiply_into};
use crate::rows;

/// A tensor of heads, stored in tokens `[N, L, stride]`.
#[derive(Clone, Copy, Debug)]
pub struct Tokens<'a> {
    /// Values of the tokens.
    pub values: &'a [f32],
    /// Number of values in a token, including those of other tensors.
    pub stride: usize,
    /// Index of the first head's first value in a token.
    pub offset: usize,
    /// Terms added to a token, `[stride]`.
    pub bias: Option<&'a [f32]>,
}

/// Sizes of an attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Number of sequences.
    pub sequences: usize,
    /// Number of heads.
    pub heads: usize,
    /// Width of a head.
    pub width: usize,
    /// Number of queries of a sequence.
    pub queries: usize,
    /// Number of keys of a sequence.
    pub keys: usize,
}

impl Sizes {
    /// Factor by which products of queries and keys are scaled.
    fn scale(&self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }

    /// Pairs of sequence and head, one per task.
    fn tasks(&self) -> impl IndexedParallelIterator<Item = (usize, usize)> + use<> {
        let heads = self.heads;
        (0..self.sequences * heads).into_par_iter().map(move |task| (task / heads, task % heads))
    }

    /// Row length of the keys stored as columns: their number, rounded up to whole vectors.
    fn padded_keys(&self) -> usize {
        self.keys.next_multiple_of(8)
    }
}

/// Number of queries that are processed at a time.
const QUERIES: usize = 64;

/// Result of [`forward`].
#[derive(Clone, Debug, PartialEq)]
pub struct Attended {
    /// Tokens `[N, queries, heads · width]`.
    pub tokens: Vec<f32>,
    /// Maximum of each row of the attention matrices and the reciprocal of its sum, `[N, heads, queries, 2]`.
    pub rows: Vec<f32>,
}

/// Softmax over the keys of the scaled products of `q` and `k`, times `v`.
///
/// # Panics
/// If lengths do not fit to `sizes`.
#[must_use]
pub fn forward(q: Tokens<'_>, k: Tokens<'_>, v: Tokens<'_>, sizes: &Sizes) -> Attended {
    let heads: Vec<_> = sizes.tasks().map(|task| forward_head([q, k, v], sizes, task)).collect();
    let tokens = joined(sizes.sequences * sizes.queries, sizes.heads, sizes.width, |row, head| {
        let (n, row) = (row / sizes.queries, row % sizes.queries);
        &heads[n * sizes.heads + head].0[row * sizes.width..]
    });
    Attended { tokens, rows: heads.into_iter().flat_map(|(_, rows)| rows).collect() }
}

/// Computes the result of a head, `[queries, width]`, and the maxima and sums of its rows.
fn forward_head([q, k, v]: [Tokens<'_>; 3], sizes: &Sizes, task: (usize, usize)) -> (Vec<f32>, Vec<f32>) {
    let &Sizes { width, queries, keys, .. } = sizes;
    let q = head_of(q, sizes, task, queries, sizes.scale());
    let [k, v] = [k, v].map(|x| head_of(x, sizes, task, keys, 1.0));
    let padded = sizes.padded_keys();
    let k = columns_of(&k, width, padded);
    let mut products = vec![0.0; QUERIES.min(queries) * padded];
    let mut out = vec![0.0; queries * width];
    let mut rows = Vec::with_capacity(2 * queries);
    for (q, out) in q.chunks(QUERIES * width).zip(out.chunks_mut(QUERIES * width)) {
        let num = q.len() / width;
        let q = Matrix::new(q, num, width, width);
        multiply_into(q, Matrix::new(&k, width, padded, padded), &mut products, padded, false);
        let first = rows.len();
        for row in products.chunks_exact_mut(padded).take(num) {
            let row = &mut row[..keys];
            let most = largest(row);
            for x in row.iter_mut() {
                *x = exp_of_negative(*x - most);
            }
            rows.extend([most, 1.0 / sum(row)]);
        }
        let weights = Matrix::new(&products, num, keys, padded);
        multiply_into(weights, Matrix::new(&v, keys, width, width), out, width, false);
        for (out, row) in out.chunks_exact_mut(width).zip(rows[first..].as_chunks::<2>().0) {
            for x in out {
                *x *= row[1];
            }
        }
    }
    (out, rows)
}

/// Gradients of the tensors that [`forward`] reads, head by head.
#[derive(Clone, Debug, PartialEq)]
pub struct Gradients {
    sizes: Sizes,
    heads: Vec<HeadGradients>,
}

/// Gradients of a head's queries, keys and values, `[tokens, width]` each.
#[derive(Clone, Debug, PartialEq)]
struct HeadGradients([Vec<f32>; 3]);

/// Computes the gradients from that of the result, `dy` `[N, queries, heads · width]`.
///
/// # Panics
/// If lengths do not fit to `sizes`.
#[must_use]
pub fn backward(
    q: Tokens<'_>,
    k: Tokens<'_>,
    v: Tokens<'_>,
    attended: (&[f32], &[f32]),
    dy: &[f32],
    sizes: &Sizes,
) -> Gradients {
    let heads = sizes.tasks().map(|task| backward_head([q, k, v], attended, dy, sizes, task)).collect();
    Gradients { sizes: *sizes, heads }
}

fn backward_head(
    [q, k, v]: [Tokens<'_>; 3],
    (y, rows): (&[f32], &[f32]),
    dy: &[f32],
    sizes: &Sizes,
    task: (usize, usize),
) -> HeadGradients {
    let &Sizes { heads, width, queries, keys, .. } = sizes;
    let q = head_of(q, sizes, task, queries, sizes.scale());
    let [k, v] = [k, v].map(|x| head_of(x, sizes, task, keys, 1.0));
    let of_result = |values| Tokens { values, stride: heads * width, offset: 0, bias: None };
    let [y, dy] = [y, dy].map(|x| head_of(of_result(x), sizes, task, queries, 1.0));
    let rows = &rows[(task.0 * heads + task.1) * 2 * queries..][..2 * queries];
    let padded = sizes.padded_keys();
    let [k_columns, v_columns] = [&k, &v].map(|x| columns_of(x, width, padded));

    let [mut products, mut slopes] = [(); 2].map(|()| vec![0.0; QUERIES.min(queries) * padded]);
    let [mut dk, mut dv] = [(); 2].map(|()| vec![0.0; keys * width]);
    let mut dq = vec![0.0; queries * width];
    let len = QUERIES * width;
    let blocks = q.chunks(len).zip(y.chunks(len)).zip(dy.chunks(len)).zip(rows.chunks(2 * QUERIES));
    for (number, ((((q, y), dy), rows), dq)) in blocks.zip(dq.chunks_mut(len)).enumerate() {
        let num = q.len() / width;
        let matrix = |x| Matrix::new(x, num, width, width);
        multiply_into(matrix(q), Matrix::new(&k_columns, width, padded, padded), &mut products, padded, false);
        multiply_into(matrix(dy), Matrix::new(&v_columns, width, padded, padded), &mut slopes, padded, false);
        let results = y.chunks_exact(width).zip(dy.chunks_exact(width)).zip(rows.as_chunks::<2>().0);
        let matrices = products.chunks_exact_mut(padded).zip(slopes.chunks_exact_mut(padded));
        for ((weights, slopes), ((y, dy), &[most, share])) in matrices.zip(results) {
            let common = sum_of([y, dy], |[y, dy]| y * dy);
            for (weight, slope) in weights[..keys].iter_mut().zip(&mut slopes[..keys]) {
                *weight = exp_of_negative(*weight - most) * share;
                *slope = *weight * (*slope - common);
            }
        }
        let [weights, slopes] = [&products, &slopes].map(|x| Matrix::new(x, num, keys, padded));
        let add = number > 0;
        multiply_into(weights.transposed(), matrix(dy), &mut dv, width, add);
        multiply_into(slopes.transposed(), matrix(q), &mut dk, width, add);
        multiply_into(slopes, Matrix::new(&k, keys, width, width), dq, width, false);
        for x in dq {
            *x *= sizes.scale();
        }
    }
    HeadGradients([dq, dk, dv])
}

/// One of the tensors that [`forward`] reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Queries of all heads.
    Queries = 0,
    /// Keys of all heads.
    Keys = 1,
    /// Values of all heads.
    Values = 2,
}

impl Gradients {
    /// Gradients of tokens that hold `parts`, `[N, L, parts · heads · width]`, and of their bias, `[parts · heads · width]`.
    ///
    /// # Panics
    /// If the parts have different numbers of tokens.
    #[must_use]
    pub fn joined(&self, parts: &[Part]) -> (Vec<f32>, Vec<f32>) {
        let Sizes { sequences, heads, width, queries, keys } = self.sizes;
        let tokens = if parts.contains(&Part::Queries) { queries } else { keys };
        assert!(tokens == keys || parts.iter().all(|&part| part == Part::Queries), "parts of as many tokens");
        let total = parts.len() * heads * width;
        let of = |n: usize, index: usize| &self.heads[n * heads + index % heads].0[parts[index / heads] as usize];
        let values = joined(sequences * tokens, parts.len() * heads, width, |row, index| {
            &of(row / tokens, index)[row % tokens * width..]
        });
        let bias = crate::columns::sums(&values, total);
        (values, bias)
    }
}

/// Copies a head of sequence `n` to rows of `width` values, adds its bias, and multiplies by `scale`.
fn head_of(tokens: Tokens<'_>, sizes: &Sizes, (n, head): (usize, usize), len: usize, scale: f32) -> Vec<f32> {
    let Tokens { values, stride, offset, bias } = tokens;
    assert_eq!(values.len(), sizes.sequences * len * stride, "values of the tokens");
    let width = sizes.width;
    let start = offset + head * width;
    let row_of = |row: usize| &values[(n * len + row) * stride + start..][..width];
    written_rows(len, width, |row, out| {
        let x = row_of(row);
        assert!(out.len() == width);
        match bias {
            Some(bias) => {
                let bias = &bias[start..][..width];
                write_with(out, |i| (x[i] + bias[i]) * scale)
            }
            None => write_with(out, |i| x[i] * scale),
        }
    })
}

/// Transposes rows of `width` values to `[width, columns]`, with zeros after the last row's column.
fn columns_of(rows: &[f32], width: usize, columns: usize) -> Vec<f32> {
    let mut values = vec![0.0; width * columns];
    for (index, column) in values.chunks_exact_mut(columns).enumerate() {
        for (value, row) in column.iter_mut().zip(rows.chunks_exact(width)) {
            *value = row[index];
        }
    }
    values
}

/// Vector of `rows` rows of `width` values, filled by one thread.
fn written_rows(
    rows: usize,
    width: usize,
    f: impl for<'a> Fn(usize, &'a mut Unwritten) -> &'a mut [f32] + Sync,
) -> Vec<f32> {
    let len = rows * width;
    in_blocks(len, len.max(1), 0, |_, out, _| write_rows(out, width.max(1), &f)).0
}

/// Rows that each join the first `width` values of `piece(row, number)` for all numbers below `pieces`.
fn joined<'a>(rows: usize, pieces: usize, width: usize, piece: impl Fn(usize, usize) -> &'a [f32] + Sync) -> Vec<f32> {
    rows::mapped(rows, pieces * width, |row, out| {
        write_rows(out, width, |number, out| out.write_copy_of_slice(&piece(row, number)[..width]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, assert_same_bits, wave};

    const CASES: [Sizes; 5] = [
        Sizes { sequences: 1, heads: 1, width: 1, queries: 1, keys: 1 },
        Sizes { sequences: 2, heads: 3, width: 8, queries: 5, keys: 7 },
        Sizes { sequences: 2, heads: 3, width: 11, queries: 17, keys: 17 },
        Sizes { sequences: 1, heads: 2, width: 33, queries: 66, keys: 129 },
        Sizes { sequences: 2, heads: 2, width: 24, queries: 150, keys: 65 },
    ];

    /// Inputs: query tokens preceded by an unrelated tensor, adjacent key and value tokens, biases, and `dy`.
    struct Case {
        q: Vec<f32>,
        q_bias: Vec<f32>,
        kv: Vec<f32>,
        kv_bias: Vec<f32>,
        dy: Vec<f32>,
        sizes: Sizes,
    }

    impl Case {
        fn new(sizes: Sizes) -> Self {
            let Sizes { sequences: n, queries, keys, .. } = sizes;
            let dim = sizes.heads * sizes.width;
            Self {
                q: wave(n * queries * 2 * dim, 0.7, 2.0),
                q_bias: wave(2 * dim, 0.3, 0.5),
                kv: wave(n * keys * 2 * dim, 0.4, 2.0),
                kv_bias: wave(2 * dim, 0.9, 0.5),
                dy: wave(n * queries * dim, 1.3, 1.0),
                sizes,
            }
        }

        fn tokens(&self) -> [Tokens<'_>; 3] {
            let dim = self.sizes.heads * self.sizes.width;
            let kv = Tokens { values: &self.kv, stride: 2 * dim, offset: 0, bias: Some(&self.kv_bias) };
            let q = Tokens { values: &self.q, stride: 2 * dim, offset: dim, bias: Some(&self.q_bias) };
            [q, kv, Tokens { offset: dim, ..kv }]
        }

        fn run(&self) -> (Attended, Gradients) {
            let [q, k, v] = self.tokens();
            let y = forward(q, k, v, &self.sizes);
            let gradients = backward(q, k, v, (&y.tokens, &y.rows), &self.dy, &self.sizes);
            (y, gradients)
        }

        /// Tokens, dq, dk and dv, computed from their definitions in f64.
        fn expected(&self) -> [Vec<f64>; 4] {
            let Sizes { sequences, heads, width, queries, keys } = self.sizes;
            let dim = heads * width;
            let [q, k, v] = self.tokens().map(|x| {
                let len = x.values.len() / x.stride;
                let value = |i: usize| {
                    let at = x.offset + i % dim;
                    f64::from(x.values[i / dim * x.stride + at] + x.bias.expect("given")[at])
                };
                (0..len * dim).map(value).collect::<Vec<f64>>()
            });
            let scale = 1.0 / (width as f64).sqrt();
            let [mut y, mut dq] = [(); 2].map(|()| vec![0.0; sequences * queries * dim]);
            let [mut dk, mut dv] = [(); 2].map(|()| vec![0.0; sequences * keys * dim]);
            for (n, head, row) in
                (0..sequences * heads * queries).map(|i| (i / heads / queries, i / queries % heads, i % queries))
            {
                let own = (n * queries + row) * dim + head * width;
                let other = |key: usize| (n * keys + key) * dim + head * width;
                let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
                let at = |x: &[f64], start: usize| x[start..start + width].to_vec();
                let dy: Vec<f64> = self.dy[own..own + width].iter().map(|&x| f64::from(x)).collect();
                let s: Vec<f64> = (0..keys).map(|key| scale * dot(&at(&q, own), &at(&k, other(key)))).collect();
                let most = s.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = s.iter().map(|s| (s - most).exp()).sum();
                let p: Vec<f64> = s.iter().map(|s| (s - most).exp() / sum).collect();
                let dp: Vec<f64> = (0..keys).map(|key| dot(&dy, &at(&v, other(key)))).collect();
                let common = dot(&p, &dp);
                for key in 0..keys {
                    let ds = scale * p[key] * (dp[key] - common);
                    for i in 0..width {
                        y[own + i] += p[key] * v[other(key) + i];
                        dv[other(key) + i] += p[key] * dy[i];
                        dq[own + i] += ds * k[other(key) + i];
                        dk[other(key) + i] += ds * q[own + i];
                    }
                }
            }
            [y, dq, dk, dv]
        }
    }

    #[test]
    fn values_and_gradients_are_the_definition() {
        for sizes in CASES {
            let case = Case::new(sizes);
            let (y, gradients) = case.run();
            let [expected, dq, dk, dv] = case.expected();
            let dim = sizes.heads * sizes.width;
            assert_close(&y.tokens, &expected, 2e-6);
            if sizes.keys > 1 {
                let sums = |x: &[f64]| (0..dim).map(|j| x.iter().skip(j).step_by(dim).sum()).collect::<Vec<f64>>();
                let (ours, bias) = gradients.joined(&[Part::Queries]);
                assert_close(&ours, &dq, 3e-6);
                assert_close(&bias, &sums(&dq), 3e-6);
                let (ours, bias) = gradients.joined(&[Part::Keys, Part::Values]);
                let pairs = dk.chunks_exact(dim).zip(dv.chunks_exact(dim));
                let both: Vec<f64> = pairs.flat_map(|(k, v)| [k, v]).flatten().copied().collect();
                assert_close(&ours, &both, 3e-6);
                assert_close(&bias[dim..], &sums(&dv), 3e-6);
            }
        }
    }

    #[test]
    fn not_a_number_spreads_over_its_row() {
        let sizes = CASES[1];
        let mut case = Case::new(sizes);
        let dim = sizes.heads * sizes.width;
        case.q[dim] = f32::NAN;
        let (y, _) = case.run();
        assert!(y.tokens[..sizes.width].iter().all(|x| x.is_nan()));
        assert!(y.tokens[sizes.width..].iter().all(|x| x.is_finite()));
    }

    #[test]
    fn bits_do_not_depend_on_threads() {
        let case = Case::new(CASES[4]);
        assert_same_bits(|| {
            let (y, gradients) = case.run();
            let (dq, q_bias) = gradients.joined(&[Part::Queries]);
            let (dkv, kv_bias) = gradients.joined(&[Part::Keys, Part::Values]);
            vec![y.tokens, y.rows, dq, q_bias, dkv, kv_bias]
        });
    }
}
