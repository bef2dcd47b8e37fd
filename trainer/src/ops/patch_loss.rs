//! Mean squared error of patches, each target patch normalised by its own mean and variance, as one operation on the
//! CPU in f32.

use burn::backend::TensorMetadata as _;
use burn::tensor::Tensor;
use hiend_cpu::patch_loss::{backward, forward};

use super::cpu::{self, CpuTensor};
use super::on_cpu::{CpuOperation, Operand, apply, is_on_cpu};

/// Computes the mean of `(pred - x̂)²`, `[1]`, for `pred` `[N, M, W]` and the patches `x` `[N, M, W]`; `x̂` is `x`
/// normalised to zero mean and unit variance, with `epsilon` added to the variance. `None` if this operation does not
/// support the tensors: on another device, of another type, or with patches that need a gradient.
#[must_use]
pub fn patch_loss(pred: &Tensor<3>, patches: &Tensor<3>, epsilon: f64) -> Option<Tensor<1>> {
    let fits = is_on_cpu(pred) && is_on_cpu(patches) && !patches.is_tracked() && pred.shape().num_elements() > 0;
    fits.then(|| {
        apply(PatchLoss { epsilon: epsilon as f32 }, [Operand::of(pred.clone()), Operand::of(patches.clone())])
    })
}

/// Loss with the epsilon of its normalisation.
#[derive(Clone, Copy, Debug)]
struct PatchLoss {
    epsilon: f32,
}

impl CpuOperation<2> for PatchLoss {
    type Saved = [CpuTensor; 2];

    fn forward(self, inputs: [CpuTensor; 2], _: [bool; 2]) -> (CpuTensor, Self::Saved) {
        let inputs = inputs.map(cpu::in_order);
        let [pred, patches] = inputs.each_ref().map(cpu::values);
        let loss = forward(pred, patches, cpu::width(&inputs[0]), self.epsilon);
        (cpu::tensor(vec![loss], [1]), inputs)
    }

    fn backward(self, [pred, patches]: Self::Saved, dy: CpuTensor, _: [bool; 2]) -> [Option<CpuTensor>; 2] {
        let [dy] = cpu::values(&dy) else { unreachable!("the loss is one value") };
        let dpred = backward(cpu::values(&pred), cpu::values(&patches), cpu::width(&pred), self.epsilon, *dy);
        [Some(cpu::tensor(dpred, pred.shape())), None]
    }
}
