//! Kernels that split heads from tokens and join them again, and batched products of heads.
//!
//! A unit moves one vector of `N` values of a head: 16 bytes on the side of the heads, whose rows are padded to whole
//! vectors. On the side of the tokens these are `N / M` vectors of `M` values: whole vectors if the width of a head
//! allows it, single values if a head has 33. Lengths are constants of the kernel, so that positions are computed by
//! multiplications and shifts: divisions would take longer than the copy.

use burn::tensor::Shape;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::kernel::matmul::{MatmulStrategy, matmul};
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::launch::{elem, elementwise, even_rows, uninit, vector_size_of};
use crate::ops::attention::part::Part;

/// Lengths for which a kernel is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Lengths {
    /// Number of tokens in a sequence.
    pub(super) tokens: u32,
    /// Number of rows in a head, padding included.
    pub(super) rows: u32,
    /// Number of heads in a part.
    pub(super) heads: u32,
    /// Number of values in a row of a head, without padding.
    pub(super) width: u32,
    /// Number of vectors in a row of a head, padding included.
    pub(super) vectors: u32,
    /// Index of the first head among the heads of all parts.
    pub(super) first: u32,
}

impl Lengths {
    /// Lengths for part `number` in heads of `[_, heads, rows, columns]`, moved in vectors of `vector` values.
    fn new(tokens: usize, [heads, rows, columns]: [usize; 3], width: usize, number: usize, vector: usize) -> Self {
        Self {
            tokens: tokens as u32,
            rows: rows as u32,
            heads: heads as u32,
            width: width as u32,
            vectors: (columns / vector) as u32,
            first: (number * heads) as u32,
        }
    }
}

#[cube(launch_unchecked)]
pub(super) fn split_rows<T: Float, N: Size, M: Size>(
    x: &[Vector<T, M>],
    bias: ComptimeOption<&[f32]>,
    y: &mut [Vector<T, N>],
    count: u32,
    pitch: u32,
    #[comptime] lengths: Lengths,
    #[define(T)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS as u32;
    if at < count {
        let n = N::value().comptime() as u32;
        let m = M::value().comptime() as u32;
        let vector = at % lengths.vectors;
        let row = at / lengths.vectors % lengths.rows;
        let head = at / (lengths.vectors * lengths.rows) % lengths.heads;
        let sample = at / (lengths.vectors * lengths.rows * lengths.heads);
        let mut out = Vector::<T, N>::zeroed();
        if row < lengths.tokens {
            let column = (lengths.first + head) * lengths.width + vector * n;
            let from = (sample * lengths.tokens + row) * pitch + column / m;
            #[unroll]
            for part in 0..comptime!(n / m) {
                if vector * n + part * m < lengths.width {
                    let mut values = Vector::<f32, M>::cast_from(x[(from + part) as usize]);
                    #[comptime]
                    if let ComptimeOption::Some(bias) = &bias {
                        #[unroll]
                        for i in 0..m {
                            let value = values.extract(comptime!(i as usize)) + bias[(column + part * m + i) as usize];
                            values.insert(comptime!(i as usize), value);
                        }
                    }
                    #[unroll]
                    for i in 0..m {
                        out.insert(
                            comptime!((part * m + i) as usize),
                            T::cast_from(values.extract(comptime!(i as usize))),
                        );
                    }
                }
            }
        }
        y[at as usize] = out;
    }
}

#[cube(launch_unchecked)]
pub(super) fn join_rows<T: Float, N: Size, M: Size>(
    x: &[Vector<T, N>],
    y: &mut [Vector<T, M>],
    count: u32,
    pitch: u32,
    all_heads: u32,
    #[comptime] lengths: Lengths,
    #[define(T)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS as u32;
    if at < count {
        let n = N::value().comptime() as u32;
        let m = M::value().comptime() as u32;
        let vector = at % lengths.vectors;
        let head = at / lengths.vectors % lengths.heads;
        let row = at / (lengths.vectors * lengths.heads) % lengths.tokens;
        let sample = at / (lengths.vectors * lengths.heads * lengths.tokens);
        let values = x[(((sample * lengths.heads + head) * lengths.rows + row) * pitch + vector) as usize];
        let token = sample * lengths.tokens + row;
        let to = (token * all_heads + lengths.first + head) * lengths.width + vector * n;
        #[unroll]
        for part in 0..comptime!(n / m) {
            if vector * n + part * m < lengths.width {
                let mut out = Vector::<T, M>::zeroed();
                #[unroll]
                for i in 0..m {
                    out.insert(comptime!(i as usize), values.extract(comptime!((part * m + i) as usize)));
                }
                y[(to / m + part) as usize] = out;
            }
        }
    }
}

/// Splits one part of `x` `[N, L, parts · heads · width]`, plus a bias, into heads `[N, heads, L', width']`.
pub(crate) fn split(
    x: CubeTensor,
    bias: Option<CubeTensor>,
    Part { number, parts, heads, padding }: Part,
) -> CubeTensor {
    let (x, pitch) = even_rows(x);
    let [n, tokens, width] = x.meta.shape().dims();
    let width = width / parts / heads;
    let (rows, columns) = (tokens.next_multiple_of(padding.tokens), width.next_multiple_of(padding.width));
    let y = uninit(&x, Shape::from([n, heads, rows, columns]), x.dtype);
    let vector = vector_size_of(&x, &[columns]);
    let of_token = vector_size_of(&x, &[vector, width, pitch as usize]);
    let count = n * heads * rows * columns / vector;
    let (client, dtype) = (x.client.clone(), elem(&x));
    let (cubes, dim) = elementwise(&client, count);
    let lengths = Lengths::new(tokens, [heads, rows, columns], width, number, vector);
    // SAFETY: the kernel reads rows of `x` and biases of its columns only, and writes the `count` vectors of `y`.
    unsafe {
        split_rows::launch_unchecked(
            &client,
            cubes,
            dim,
            vector,
            of_token,
            x.into_buffer_arg(),
            bias.map(|bias| into_contiguous(bias).into_buffer_arg()).into(),
            y.clone().into_buffer_arg(),
            count as u32,
            pitch / of_token as u32,
            lengths,
            dtype,
        );
    }
    y
}

/// Joins the first `tokens` rows and `width` columns of heads `[N, heads, L', width']` into
/// `[N, tokens, parts · heads · width]`.
pub(crate) fn join(parts: Vec<CubeTensor>, tokens: usize, width: usize) -> CubeTensor {
    let [n, heads, rows, columns] = parts[0].meta.shape().dims();
    let all_heads = parts.len() * heads;
    let y = uninit(&parts[0], Shape::from([n, tokens, all_heads * width]), parts[0].dtype);
    for (number, x) in parts.into_iter().enumerate() {
        let (x, pitch) = even_rows(x);
        let vector = vector_size_of(&x, &[columns, pitch as usize]);
        let of_token = vector_size_of(&x, &[vector, width]);
        let count = n * tokens * heads * columns / vector;
        let (client, dtype) = (x.client.clone(), elem(&x));
        let (cubes, dim) = elementwise(&client, count);
        let lengths = Lengths::new(tokens, [heads, rows, columns], width, number, vector);
        // SAFETY: the kernel reads the `count` vectors of rows of `x`, and writes their positions, which lie within `y`.
        unsafe {
            join_rows::launch_unchecked(
                &client,
                cubes,
                dim,
                vector,
                of_token,
                x.into_buffer_arg(),
                y.clone().into_buffer_arg(),
                count as u32,
                pitch / vector as u32,
                all_heads as u32,
                lengths,
                dtype,
            );
        }
    }
    y
}

/// Computes `a · b` into a contiguous tensor; Burn's own product would begin each row at a multiple of 512 bytes.
pub(crate) fn product(a: CubeTensor, b: CubeTensor) -> CubeTensor {
    let [n, heads, rows, _] = a.meta.shape().dims();
    let [_, _, _, columns] = b.meta.shape().dims();
    let (out, dtype) = (uninit(&a, Shape::from([n, heads, rows, columns]), a.dtype), a.dtype);
    matmul(a, b, Some(out), MatmulStrategy::default(), dtype).expect("sizes fit")
}
