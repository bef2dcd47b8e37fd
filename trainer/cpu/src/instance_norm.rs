//! Instance norm without parameters, the sum with a residual branch, and the leaky rectifier, in one pass each way.
//!
//! A row is one channel of one case. With `n(x) = (x - mean) · rstd` the operation is `y = leaky(n(x) + r)`, where `r`
//! is absent, a branch, or `n(branch)`. Sums over a row are computed in chunks of 4096 values, independent of the
//! number of threads, and added in f64 from chunk to chunk.
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "means are taken in f64 and kept in f32"
)]

use rayon::prelude::*;
use wide::f32x8;

use crate::output::Blank;

/// Number of values in a chunk, small enough that its second reading comes from the first-level cache.
const CHUNK: usize = 4096;
/// Number of values in a task, a multiple of [`CHUNK`].
const TASK: usize = 16 * CHUNK;
/// Number of values written at once.
const PIECE: usize = 512;
const LANES: usize = 8;

/// Mean and reciprocal standard deviation of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowStats {
    /// Mean of the row.
    pub mean: f32,
    /// Reciprocal of the square root of the biased variance plus epsilon.
    pub rstd: f32,
}

/// A tensor `[rows, len]` with the statistics of its rows.
#[derive(Clone, Copy, Debug)]
pub struct Normed<'a> {
    /// Values of the tensor, row after row.
    pub x: &'a [f32],
    /// Statistics of each row.
    pub stats: &'a [RowStats],
}

/// Second summand before the rectifier.
#[derive(Clone, Copy, Debug)]
pub enum Branch<'a> {
    /// No second summand.
    None,
    /// The values unchanged.
    Plain(&'a [f32]),
    /// The values normalised by rows.
    Normed(Normed<'a>),
}

/// Computes the statistics of the rows of `x` `[num_rows, len]`.
///
/// # Panics
/// If the length of `x` is not a multiple of `num_rows`.
#[must_use]
pub fn row_stats(x: &[f32], num_rows: usize, epsilon: f64) -> Vec<RowStats> {
    let len = row_len(x.len(), num_rows);
    let moments = by_task(len, num_rows, |row, start, len_of_task| {
        let values = &x[row * len + start..][..len_of_task];
        values.chunks(CHUNK).map(Moments::of).reduce(Moments::join).expect("a task has values")
    });
    let of_row = |moments: &[Moments]| {
        let Moments { mean, squares, .. } = moments.iter().copied().reduce(Moments::join).expect("a row has values");
        RowStats { mean: mean as f32, rstd: (1.0 / (squares / len as f64 + epsilon).sqrt()) as f32 }
    };
    moments.chunks(len.div_ceil(TASK).max(1)).map(of_row).collect()
}

/// Count, mean, and sum of squared distances from the mean (Chan, Golub and `LeVeque`, 1979).
#[derive(Clone, Copy, Debug)]
struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    /// Computes the moments of at most [`CHUNK`] values.
    fn of(values: &[f32]) -> Self {
        let count = values.len() as f64;
        let mean = sum(values, |value| value) / count;
        let centre = mean as f32;
        let squares = sum(values, |value| {
            let distance = value - f32x8::splat(centre);
            distance * distance
        });
        // The centre is the mean rounded to f32; the correction is the square of the rounding.
        let rounding = mean - f64::from(centre);
        Self { count, mean, squares: (squares - count * rounding * rounding).max(0.0) }
    }

    fn join(self, other: Self) -> Self {
        let count = self.count + other.count;
        let distance = other.mean - self.mean;
        Self {
            count,
            mean: self.mean + distance * other.count / count,
            squares: self.squares + other.squares + distance * distance * self.count * other.count / count,
        }
    }
}

/// Sums a function of each value: in f32 over 64 values per lane, in f64 beyond.
#[inline(always)]
#[allow(clippy::inline_always, reason = "the function is to be part of the loop")]
fn sum(values: &[f32], function: impl Fn(f32x8) -> f32x8) -> f64 {
    let (vectors, rest) = values.as_chunks::<LANES>();
    let mut total = 0.0;
    for vectors in vectors.chunks(64) {
        let sums = vectors.iter().fold(f32x8::ZERO, |sums, &vector| sums + function(f32x8::from(vector)));
        total += f64::from(sums.reduce_add());
    }
    let mut rest_sum = 0.0;
    for &value in rest {
        rest_sum += function(f32x8::splat(value)).to_array()[0];
    }
    total + f64::from(rest_sum)
}

fn row_len(len: usize, num_rows: usize) -> usize {
    let row_len = len / num_rows.max(1);
    assert_eq!(len, row_len * num_rows, "the rows fill the tensor");
    row_len
}

/// Results of a function of each task, in order; it receives the row, the first value and the number of values.
fn by_task<T: Send>(len: usize, num_rows: usize, function: impl Fn(usize, usize, usize) -> T + Sync) -> Vec<T> {
    let tasks_of_row = len.div_ceil(TASK);
    (0..num_rows * tasks_of_row)
        .into_par_iter()
        .map(|task| {
            let start = task % tasks_of_row * TASK;
            function(task / tasks_of_row, start, TASK.min(len - start))
        })
        .collect()
}

/// Computes `leaky(n(x) + branch)`; `slope` is that of the rectifier below zero.
///
/// # Panics
/// If the slices have different lengths, or the statistics another number of rows.
#[must_use]
pub fn norm_leaky(x: Normed<'_>, branch: Branch<'_>, slope: f32) -> Vec<f32> {
    let y = Blank::new(x.x.len());
    let num_rows = x.stats.len();
    let len = row_len(x.x.len(), num_rows);
    check_branch(branch, x);
    by_task(len, num_rows, |row, start, len_of_task| {
        let mut part = y.part();
        let mut piece = [0.0; PIECE];
        let x_map = Affine::of(x.stats[row]);
        for at in (row * len + start..row * len + start + len_of_task).step_by(PIECE) {
            let till = (at + PIECE).min(row * len + start + len_of_task);
            let piece = &mut piece[..till - at];
            let values = &x.x[at..till];
            match branch {
                Branch::None => piece.iter_mut().zip(values).for_each(|(y, &x)| *y = leaky(x_map.apply(x), slope)),
                Branch::Plain(branch) => {
                    for ((y, &x), &r) in piece.iter_mut().zip(values).zip(&branch[at..till]) {
                        *y = leaky(x_map.apply(x) + r, slope);
                    }
                }
                Branch::Normed(branch) => {
                    let r_map = Affine::of(branch.stats[row]);
                    for ((y, &x), &r) in piece.iter_mut().zip(values).zip(&branch.x[at..till]) {
                        *y = leaky(x_map.apply(x) + r_map.apply(r), slope);
                    }
                }
            }
            #[allow(unsafe_code, reason = "pieces of an output that threads share")]
            // SAFETY: pieces are disjoint ranges, each written once.
            unsafe {
                part.write(at, piece);
            }
        }
    });
    y.finish()
}

/// Gradients of [`norm_leaky`] with respect to `x` and, if there is one, the branch. `y` is the result of
/// [`norm_leaky`].
///
/// # Panics
/// If the slices have different lengths, or the statistics another number of rows.
#[must_use]
pub fn norm_leaky_gradients(
    x: Normed<'_>,
    branch: Branch<'_>,
    y: &[f32],
    dy: &[f32],
    slope: f32,
) -> (Vec<f32>, Option<Vec<f32>>) {
    let num_rows = x.stats.len();
    let len = row_len(x.x.len(), num_rows);
    check_branch(branch, x);
    assert!(y.len() == x.x.len() && dy.len() == x.x.len(), "result and gradient have the length of the input");

    // Sums over each row of g, g · n(x) and g · n(branch), where g is the gradient in front of the rectifier.
    let sums = by_task(len, num_rows, |row, start, len_of_task| {
        let range = row * len + start..row * len + start + len_of_task;
        let (y, dy, values) = (&y[range.clone()], &dy[range.clone()], &x.x[range.clone()]);
        let other = match branch {
            Branch::Normed(branch) => Some((&branch.x[range], Affine::of(branch.stats[row]))),
            Branch::None | Branch::Plain(_) => None,
        };
        gradient_sums(y, dy, (values, Affine::of(x.stats[row])), other, slope)
    });
    let of_row = |sums: &[[f64; 3]]| {
        let total = sums.iter().fold([0.0; 3], |total, sums| std::array::from_fn(|i| total[i] + sums[i]));
        total.map(|sum| (sum / len as f64) as f32)
    };
    let means: Vec<[f32; 3]> = sums.chunks(len.div_ceil(TASK).max(1)).map(of_row).collect();

    let dx = Blank::new(x.x.len());
    let d_branch = (!matches!(branch, Branch::None)).then(|| Blank::new(x.x.len()));
    by_task(len, num_rows, |row, start, len_of_task| {
        let mut dx_part = dx.part();
        let mut branch_part = d_branch.as_ref().map(Blank::part);
        let [mean, along_x, along_branch] = means[row];
        let (x_map, x_rstd) = (Affine::of(x.stats[row]), x.stats[row].rstd);
        let [mut g, mut piece] = [[0.0; PIECE]; 2];
        let end = row * len + start + len_of_task;
        for at in (row * len + start..end).step_by(PIECE) {
            let till = (at + PIECE).min(end);
            let (g, piece) = (&mut g[..till - at], &mut piece[..till - at]);
            for ((g, &y), &dy) in g.iter_mut().zip(&y[at..till]).zip(&dy[at..till]) {
                *g = if y > 0.0 { dy } else { slope * dy };
            }
            let through_norm = |piece: &mut [f32], values: &[f32], map: Affine, rstd: f32, along: f32| {
                for ((d, &g), &value) in piece.iter_mut().zip(&*g).zip(values) {
                    *d = rstd * (g - mean - map.apply(value) * along);
                }
            };
            through_norm(piece, &x.x[at..till], x_map, x_rstd, along_x);
            #[allow(unsafe_code, reason = "pieces of an output that threads share")]
            // SAFETY: pieces are disjoint ranges, each written once.
            unsafe {
                dx_part.write(at, piece);
            }
            let Some(part) = &mut branch_part else { continue };
            let values = if let Branch::Normed(branch) = branch {
                let stats = branch.stats[row];
                through_norm(piece, &branch.x[at..till], Affine::of(stats), stats.rstd, along_branch);
                &*piece
            } else {
                &*g
            };
            #[allow(unsafe_code, reason = "pieces of an output that threads share")]
            // SAFETY: as above, of the other output.
            unsafe {
                part.write(at, values);
            }
        }
    });
    (dx.finish(), d_branch.map(Blank::finish))
}

/// Sums of g, g · n(x) and g · n(branch) over one task.
fn gradient_sums(
    y: &[f32],
    dy: &[f32],
    (x, x_map): (&[f32], Affine),
    branch: Option<(&[f32], Affine)>,
    slope: f32,
) -> [f64; 3] {
    let mut total = [0.0; 3];
    let [mut g, mut product] = [[0.0_f32; PIECE]; 2];
    for at in (0..y.len()).step_by(PIECE) {
        let till = (at + PIECE).min(y.len());
        let (g, product) = (&mut g[..till - at], &mut product[..till - at]);
        for ((g, &y), &dy) in g.iter_mut().zip(&y[at..till]).zip(&dy[at..till]) {
            *g = if y > 0.0 { dy } else { slope * dy };
        }
        total[0] += sum(g, |g| g);
        let mut along = |values: &[f32], map: Affine| {
            for ((product, &g), &value) in product.iter_mut().zip(&*g).zip(values) {
                *product = g * map.apply(value);
            }
            sum(product, |product| product)
        };
        total[1] += along(&x[at..till], x_map);
        if let Some((values, map)) = branch {
            total[2] += along(&values[at..till], map);
        }
    }
    total
}

fn check_branch(branch: Branch<'_>, x: Normed<'_>) {
    let (len, num_rows) = match branch {
        Branch::None => return,
        Branch::Plain(values) => (values.len(), x.stats.len()),
        Branch::Normed(branch) => (branch.x.len(), branch.stats.len()),
    };
    assert!(len == x.x.len() && num_rows == x.stats.len(), "the branch has the shape of the input");
}

/// Normalisation of one row, as an affine map.
#[derive(Clone, Copy)]
struct Affine {
    mean: f32,
    rstd: f32,
}

impl Affine {
    fn of(RowStats { mean, rstd }: RowStats) -> Self {
        Self { mean, rstd }
    }

    #[inline]
    fn apply(self, value: f32) -> f32 {
        (value - self.mean) * self.rstd
    }
}

#[inline]
fn leaky(value: f32, slope: f32) -> f32 {
    if value > 0.0 { value } else { slope * value }
}
