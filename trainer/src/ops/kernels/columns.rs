//! Sums over all rows. A unit adds up the same columns of a group of rows; the sums of groups are added afterwards.

use burn_cubecl::CubeBackend;

use super::*;

/// Rows of a group: few enough that groups and columns together keep a device busy, enough that what they leave to be
/// added is a small part of what was read.
pub(super) const GROUP: u32 = 32;

#[cube(launch_unchecked)]
pub(super) fn group_sums<T: Float, N: Size>(
    x: &[Vector<T, N>],
    sums: &mut [Vector<f32, N>],
    rows: u32,
    groups: u32,
    pitch: u32,
    #[comptime] width: u32,
    #[define(T)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS as u32;
    if at < groups * width {
        let column = at % width;
        let start = at / width * GROUP;
        let mut sum = Vector::<f32, N>::zeroed();
        for row in start..min(start + GROUP, rows) {
            sum += Vector::<f32, N>::cast_from(x[(row * pitch + column) as usize]);
        }
        sums[at as usize] = sum;
    }
}

/// How rows are grouped.
pub(super) struct Groups {
    pub(super) rows: u32,
    pub(super) count: u32,
    /// Values of a row.
    pub(super) width: usize,
}

impl Groups {
    /// Those of `x` `[.., W]`.
    pub(super) fn of(x: &CubeTensor) -> Self {
        let Spread { rows, width, .. } = Spread::of(x);
        Self { rows, count: rows.div_ceil(GROUP), width: width as usize }
    }

    /// Room for their sums.
    pub(super) fn sums(&self, x: &CubeTensor) -> CubeTensor {
        beside(x, Shape::from([self.count as usize, self.width]), DType::F32)
    }

    /// The sum of their sums, `[W]`.
    pub(super) fn total(&self, sums: CubeTensor) -> CubeTensor {
        use burn::backend::ops::FloatTensorOps as _;
        let sums = if self.count > 1 { CubeBackend::float_sum_dim(sums, 0) } else { sums };
        CubeBackend::float_reshape(sums, Shape::from([self.width]))
    }
}

/// `[.., W]` → its sum over all rows, `[W]` in f32.
pub fn sums(x: CubeTensor) -> CubeTensor {
    let (x, pitch) = even_rows(x);
    let groups = Groups::of(&x);
    let sums = groups.sums(&x);
    let piece = f32_piece_of(&[groups.width, pitch as usize]);
    let width = groups.width / piece;
    let (client, dtype) = (x.client.clone(), elem(&x));
    let (cubes, dim) = elementwise(&client, groups.count as usize * width);
    // SAFETY: `x` holds `rows` rows at its pitch and `sums` one row a group, which is as far as the kernel goes.
    unsafe {
        group_sums::launch_unchecked(
            &client,
            cubes,
            dim,
            piece,
            x.into_buffer_arg(),
            sums.clone().into_buffer_arg(),
            groups.rows,
            groups.count,
            pitch / piece as u32,
            width as u32,
            dtype,
        );
    }
    groups.total(sums)
}
