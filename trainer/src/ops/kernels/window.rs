//! Stored steps become floats.

use super::*;

#[cube(launch_unchecked)]
pub(super) fn floats_of_steps(steps: &[u16], laws: &[f32], y: &mut [f32], count: u32, voxels: u32) {
    let at = ABSOLUTE_POS as u32;
    if at < count {
        let law = (at / voxels * 4) as usize;
        let units = f32::cast_from(steps[at as usize]) * laws[law] + laws[law + 1];
        let units = clamp(units, 0.0f32, 1.0f32);
        y[at as usize] = units * laws[law + 2] + laws[law + 3];
    }
}

/// Floats of `steps` `[n, ..]` (16 bits) by `laws` `[n, 4]`.
pub fn from_steps(steps: CubeTensor, laws: CubeTensor) -> CubeTensor {
    let (steps, laws) = (into_contiguous(steps), into_contiguous(laws));
    assert_eq!((steps.dtype, laws.dtype), (DType::U16, DType::F32), "steps are 16 bits, laws 32");
    let shape = steps.meta.shape().clone();
    let count = shape.num_elements();
    let y = beside(&steps, shape.clone(), DType::F32);
    let client = steps.client.clone();
    let (cubes, dim) = elementwise(&client, count);
    // SAFETY: `y` holds as many values as `steps`, `laws` four a crop, and the kernel looks whether it is inside.
    unsafe {
        floats_of_steps::launch_unchecked(
            &client,
            cubes,
            dim,
            steps.into_buffer_arg(),
            laws.into_buffer_arg(),
            y.clone().into_buffer_arg(),
            count as u32,
            (count / shape[0]) as u32,
        );
    }
    y
}
