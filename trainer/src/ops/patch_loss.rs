//! Mean squared error of patches, each target patch normalised by its own mean and variance, as one operation in f32
//! with one derivative.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata as _, backend_extension};
use burn::tensor::{DType, Tensor};

#[cfg(feature = "cube")]
use super::columns::ColumnSums as _;
use super::cpu;

/// Computes the mean of `(pred - x̂)²`, `[1]`, for `pred` `[N, M, W]` and the patches `x` `[N, M, W]`; `x̂` is `x`
/// normalised to zero mean and unit variance, with `epsilon` added to the variance. `None` if this operation does not
/// support the tensors: of another type than f32, without values, or with patches that need a gradient.
#[must_use]
pub fn patch_loss(pred: &Tensor<3>, patches: &Tensor<3>, epsilon: f64) -> Option<Tensor<1>> {
    assert_eq!(pred.dims(), patches.dims(), "a prediction for each patch");
    let are_f32 = [pred, patches].into_iter().all(|x| x.dtype() == DType::F32);
    (are_f32 && !patches.is_tracked() && pred.shape().num_elements() > 0).then(|| {
        let patches = match (pred.is_autodiff(), patches.is_autodiff()) {
            (true, false) => Tensor::from_inner(patches.clone()),
            (false, true) => patches.clone().inner(),
            _ => patches.clone(),
        };
        let (pred, patches) = (pred.clone().into_dispatch(), patches.into_dispatch());
        Tensor::from_dispatch(<Dispatch as PatchLoss>::loss_of_patches(pred, patches, epsilon as f32))
    })
}

/// Differentiable loss, for each backend.
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Autodiff)]
pub trait PatchLoss: Backend {
    /// Computes the loss `[1]` of `pred` against `patches`, both `[N, M, W]` in f32. The patches have no gradient.
    fn loss_of_patches(pred: FloatTensor<Self>, patches: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self>;
}

/// The loss and its derivative without a graph, for each backend.
pub trait PatchLossParts: Backend {
    /// Computes the loss; see [`PatchLoss::loss_of_patches`].
    #[must_use]
    fn loss(pred: FloatTensor<Self>, patches: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self>;

    /// Gradient of `pred`, given the gradient `dy` `[1]` of the loss.
    #[must_use]
    fn gradient(
        pred: FloatTensor<Self>,
        patches: FloatTensor<Self>,
        epsilon: f32,
        dy: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
}

impl PatchLossParts for Flex {
    fn loss(pred: FloatTensor<Self>, patches: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self> {
        let [pred, patches] = [pred, patches].map(cpu::in_order);
        let loss =
            hiend_cpu::patch_loss::forward(cpu::values(&pred), cpu::values(&patches), cpu::width(&pred), epsilon);
        cpu::tensor(vec![loss], [1])
    }

    fn gradient(
        pred: FloatTensor<Self>,
        patches: FloatTensor<Self>,
        epsilon: f32,
        dy: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let [pred, patches, dy] = [pred, patches, dy].map(cpu::in_order);
        let [dy] = cpu::values(&dy) else { unreachable!("the loss is one value") };
        let (values, width) = (cpu::values(&pred), cpu::width(&pred));
        let dpred = hiend_cpu::patch_loss::backward(values, cpu::values(&patches), width, epsilon, *dy);
        cpu::tensor(dpred, pred.shape())
    }
}

#[cfg(feature = "cube")]
impl PatchLossParts for burn::backend::Cube {
    fn loss(pred: FloatTensor<Self>, patches: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self> {
        use burn::backend::ops::FloatTensorOps as _;

        let count = pred.shape().num_elements() as f64;
        let errors = super::kernels::patch_loss::errors(pred, patches, epsilon);
        Self::float_div_scalar(Self::total(errors), count.into())
    }

    fn gradient(
        pred: FloatTensor<Self>,
        patches: FloatTensor<Self>,
        epsilon: f32,
        dy: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        super::kernels::patch_loss::gradient(pred, patches, epsilon, dy)
    }
}

/// Loss without a derivative.
impl<B: PatchLossParts> PatchLoss for B {
    fn loss_of_patches(pred: FloatTensor<Self>, patches: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self> {
        Self::loss(pred, patches, epsilon)
    }
}

/// Derivative of the loss, whose only parent is the prediction.
#[derive(Debug)]
struct Derivative {
    epsilon: f32,
}

impl<B: PatchLossParts> Backward<B, 1> for Derivative {
    /// Prediction and patches.
    type State = (FloatTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (pred, patches) = ops.state;
        let dy = grads.consume::<B>(&ops.node);
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, B::gradient(pred, patches, self.epsilon, dy));
        }
    }
}

impl<B: PatchLossParts, C: CheckpointStrategy> PatchLoss for Autodiff<B, C> {
    fn loss_of_patches(pred: FloatTensor<Self>, patches: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self> {
        let nodes = [pred.node()];
        let (pred, patches) = (pred.into_primitive(), patches.into_primitive());
        match Backward::<B, 1>::prepare::<C>(Derivative { epsilon }, nodes).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let loss = B::loss(pred.clone(), patches.clone(), epsilon);
                prepared.finish((pred, patches), loss)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(B::loss(pred, patches, epsilon)),
        }
    }
}
