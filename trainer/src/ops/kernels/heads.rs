//! Heads cut out of tokens and put together again, and products of them.
//!
//! A unit moves `N` values of a head, a piece of 16 bytes on the heads' side, where rows are padded to whole pieces. On
//! the tokens' side they are `N / M` pieces of `M`: a whole one where heads are as wide, single values where they are 33.
//! Lengths are constants of the kernel, so that finding a place is multiplications and shifts, not divisions: those would
//! take longer than the copy.

use burn_cubecl::kernel::matmul::{MatmulStrategy, matmul};

use super::*;
use crate::ops::attention::Part;

/// The lengths that kernels are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Lengths {
    /// Tokens of a sequence.
    pub(super) tokens: u32,
    /// Rows of a head, padding included.
    pub(super) rows: u32,
    /// Heads of a part.
    pub(super) heads: u32,
    /// Values of a head.
    pub(super) width: u32,
    /// Pieces of a row of a head, padding included.
    pub(super) pieces: u32,
    /// The first head, among those of all parts.
    pub(super) first: u32,
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
        let piece = at % lengths.pieces;
        let row = at / lengths.pieces % lengths.rows;
        let head = at / (lengths.pieces * lengths.rows) % lengths.heads;
        let sample = at / (lengths.pieces * lengths.rows * lengths.heads);
        let mut out = Vector::<T, N>::zeroed();
        if row < lengths.tokens {
            let column = (lengths.first + head) * lengths.width + piece * n;
            let from = (sample * lengths.tokens + row) * pitch + column / m;
            #[unroll]
            for part in 0..comptime!(n / m) {
                if piece * n + part * m < lengths.width {
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
        let piece = at % lengths.pieces;
        let head = at / lengths.pieces % lengths.heads;
        let row = at / (lengths.pieces * lengths.heads) % lengths.tokens;
        let sample = at / (lengths.pieces * lengths.heads * lengths.tokens);
        let values = x[(((sample * lengths.heads + head) * lengths.rows + row) * pitch + piece) as usize];
        let token = sample * lengths.tokens + row;
        let to = (token * all_heads + lengths.first + head) * lengths.width + piece * n;
        #[unroll]
        for part in 0..comptime!(n / m) {
            if piece * n + part * m < lengths.width {
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

/// `[N, L, parts · heads · width]`, plus a bias → `[N, heads, L', width']`.
pub fn split(x: CubeTensor, bias: Option<CubeTensor>, Part { number, parts, heads, padding }: Part) -> CubeTensor {
    let (x, pitch) = even_rows(x);
    let [n, tokens, width] = x.meta.shape().dims();
    let width = width / parts / heads;
    let (rows, columns) = (tokens.next_multiple_of(padding.tokens), width.next_multiple_of(padding.width));
    let y = beside(&x, Shape::from([n, heads, rows, columns]), x.dtype);
    let piece = piece_of(&x, &[columns]);
    let of_token = piece_of(&x, &[piece, width, pitch as usize]);
    let count = n * heads * rows * columns / piece;
    let (client, dtype) = (x.client.clone(), elem(&x));
    let (cubes, dim) = elementwise(&client, count);
    let lengths = Lengths {
        tokens: tokens as u32,
        rows: rows as u32,
        heads: heads as u32,
        width: width as u32,
        pieces: (columns / piece) as u32,
        first: (number * heads) as u32,
    };
    // SAFETY: the kernel reads rows that `x` has and biases of its columns, and writes no more than the `count` pieces
    // of `y`.
    unsafe {
        split_rows::launch_unchecked(
            &client,
            cubes,
            dim,
            piece,
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

/// The first `tokens` rows and `width` columns of heads `[N, heads, L', width']` → `[N, tokens, parts · heads · width]`.
pub fn join(parts: Vec<CubeTensor>, tokens: usize, width: usize) -> CubeTensor {
    let [n, heads, rows, columns] = parts[0].meta.shape().dims();
    let all_heads = parts.len() * heads;
    let y = beside(&parts[0], Shape::from([n, tokens, all_heads * width]), parts[0].dtype);
    for (number, x) in parts.into_iter().enumerate() {
        let (x, pitch) = even_rows(x);
        let piece = piece_of(&x, &[columns, pitch as usize]);
        let of_token = piece_of(&x, &[piece, width]);
        let count = n * tokens * heads * columns / piece;
        let (client, dtype) = (x.client.clone(), elem(&x));
        let (cubes, dim) = elementwise(&client, count);
        let lengths = Lengths {
            tokens: tokens as u32,
            rows: rows as u32,
            heads: heads as u32,
            width: width as u32,
            pieces: (columns / piece) as u32,
            first: (number * heads) as u32,
        };
        // SAFETY: the kernel reads the `count` pieces of rows that `x` has, and writes their places, which are in `y`.
        unsafe {
            join_rows::launch_unchecked(
                &client,
                cubes,
                dim,
                piece,
                of_token,
                x.into_buffer_arg(),
                y.clone().into_buffer_arg(),
                count as u32,
                pitch / piece as u32,
                all_heads as u32,
                lengths,
                dtype,
            );
        }
    }
    y
}

/// `a · b` with rows without gaps: Burn's own would begin each at a multiple of 512 bytes.
pub fn product(a: CubeTensor, b: CubeTensor) -> CubeTensor {
    let [n, heads, rows, _] = a.meta.shape().dims();
    let [_, _, _, columns] = b.meta.shape().dims();
    let (out, dtype) = (beside(&a, Shape::from([n, heads, rows, columns]), a.dtype), a.dtype);
    matmul(a, b, Some(out), MatmulStrategy::default(), dtype).expect("sizes fit")
}
