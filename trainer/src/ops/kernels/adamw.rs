//! One update of a parameter and its moments, in place.

use super::*;
use crate::ops::adamw::StepParams;

#[cube(launch_unchecked)]
pub(super) fn adamw_values(
    param: &mut [f32],
    first: &mut [f32],
    second: &mut [f32],
    grad: &[f32],
    count: u32,
    lr: f32,
    keep: f32,
    beta_1: f32,
    beta_2: f32,
    epsilon: f32,
    correction_1: f32,
    correction_2: f32,
) {
    let at = ABSOLUTE_POS;
    if (at as u32) < count {
        let g = grad[at];
        let m = first[at] * beta_1 + g * (1.0f32 - beta_1);
        let v = second[at] * beta_2 + g * g * (1.0f32 - beta_2);
        let delta = (m / correction_1) / ((v / correction_2).sqrt() + epsilon);
        first[at] = m;
        second[at] = v;
        param[at] = param[at] * keep - delta * lr;
    }
}

/// Parameter and moments after an update.
pub fn update(
    param: CubeTensor,
    grad: CubeTensor,
    first: CubeTensor,
    second: CubeTensor,
    numbers: StepParams,
) -> (CubeTensor, CubeTensor, CubeTensor) {
    // Written to in place; one that somebody else still reads is copied first.
    let own = |tensor: CubeTensor| {
        let tensor = into_contiguous(tensor);
        // A copy may have gaps behind its rows.
        if tensor.can_mut() { tensor } else { into_contiguous(tensor.copy()) }
    };
    let (param, first, second, grad) = (own(param), own(first), own(second), into_contiguous(grad));
    assert!([&param, &first, &second, &grad].iter().all(|x| x.dtype == DType::F32), "parameters are f32");
    let StepParams { lr, keep, betas, epsilon, corrections } = numbers;
    let count = param.meta.shape().num_elements();
    let client = param.client.clone();
    let (cubes, dim) = elementwise(&client, count);
    // SAFETY: all four hold `count` values, and the kernel looks whether it is inside.
    unsafe {
        adamw_values::launch_unchecked(
            &client,
            cubes,
            dim,
            param.clone().into_buffer_arg(),
            first.clone().into_buffer_arg(),
            second.clone().into_buffer_arg(),
            grad.into_buffer_arg(),
            count as u32,
            lr as f32,
            keep as f32,
            betas[0],
            betas[1],
            epsilon,
            corrections[0],
            corrections[1],
        );
    }
    (param, first, second)
}
