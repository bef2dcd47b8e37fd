//! Heads cut out of tokens and put together again, and products of them.

use burn_cubecl::kernel::matmul::{MatmulStrategy, matmul};

use super::*;
use crate::ops::attention::Part;

#[cube(launch_unchecked)]
pub(super) fn split_rows<T: Float>(
    x: &[T],
    y: &mut [T],
    count: u32,
    tokens: u32,
    rows: u32,
    heads: u32,
    first: u32,
    pitch: u32,
    #[comptime] width: u32,
    #[comptime] columns: u32,
    #[define(T)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS as u32;
    if at < count {
        let column = at % columns;
        let row = at / columns % rows;
        let head = at / columns / rows % heads;
        let sample = at / columns / rows / heads;
        if column < width && row < tokens {
            y[at as usize] = x[((sample * tokens + row) * pitch + (first + head) * width + column) as usize];
        } else {
            y[at as usize] = T::cast_from(0.0f32);
        }
    }
}

#[cube(launch_unchecked)]
pub(super) fn join_rows<T: Float>(
    x: &[T],
    y: &mut [T],
    count: u32,
    tokens: u32,
    rows: u32,
    heads: u32,
    first: u32,
    all_heads: u32,
    pitch: u32,
    #[comptime] width: u32,
    #[define(T)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS as u32;
    if at < count {
        let column = at % width;
        let head = at / width % heads;
        let token = at / width / heads;
        let (sample, row) = (token / tokens, token % tokens);
        let from = ((sample * heads + head) * rows + row) * pitch + column;
        y[((token * all_heads + first + head) * width + column) as usize] = x[from as usize];
    }
}

/// `[N, L, parts · heads · width]` → `[N, heads, L', width']`.
pub fn split(x: CubeTensor, Part { number, parts, heads, padding }: Part) -> CubeTensor {
    let (x, pitch) = even_rows(x);
    let [n, tokens, width] = x.meta.shape().dims();
    let width = width / parts / heads;
    let (rows, columns) = (tokens.next_multiple_of(padding.tokens), width.next_multiple_of(padding.width));
    let y = beside(&x, Shape::from([n, heads, rows, columns]), x.dtype);
    let count = y.meta.shape().num_elements();
    let (client, dtype) = (x.client.clone(), elem(&x));
    let (cubes, dim) = elementwise(&client, count);
    // SAFETY: the kernel reads rows that `x` has, and writes no more than the `count` values of `y`.
    unsafe {
        split_rows::launch_unchecked(
            &client,
            cubes,
            dim,
            x.into_buffer_arg(),
            y.clone().into_buffer_arg(),
            count as u32,
            tokens as u32,
            rows as u32,
            heads as u32,
            (number * heads) as u32,
            pitch,
            width as u32,
            columns as u32,
            dtype,
        );
    }
    y
}

/// The first `tokens` rows and `width` columns of heads `[N, heads, L', width']` → `[N, tokens, parts · heads · width]`.
pub fn join(parts: Vec<CubeTensor>, tokens: usize, width: usize) -> CubeTensor {
    let [n, heads, rows, _] = parts[0].meta.shape().dims();
    let all_heads = parts.len() * heads;
    let y = beside(&parts[0], Shape::from([n, tokens, all_heads * width]), parts[0].dtype);
    for (number, x) in parts.into_iter().enumerate() {
        let (x, pitch) = even_rows(x);
        let count = n * tokens * heads * width;
        let (client, dtype) = (x.client.clone(), elem(&x));
        let (cubes, dim) = elementwise(&client, count);
        // SAFETY: the kernel reads rows that `x` has, and writes the places of `count` values, which are in `y`.
        unsafe {
            join_rows::launch_unchecked(
                &client,
                cubes,
                dim,
                x.into_buffer_arg(),
                y.clone().into_buffer_arg(),
                count as u32,
                tokens as u32,
                rows as u32,
                heads as u32,
                (number * heads) as u32,
                all_heads as u32,
                pitch,
                width as u32,
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
