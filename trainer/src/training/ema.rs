//! Exponential moving average of the weights.

use std::any::Any;
use std::collections::HashMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::Tensor;

/// Moves `average` towards `model` as [`moved`] does; has no effect without an average or a decay.
pub(super) fn advance<M: Module>(average: &mut Option<M>, model: &M, decay: Option<f64>) {
    if let Some(decay) = decay
        && let Some(old) = average.take()
    {
        *average = Some(moved(old, model, decay));
    }
}

/// Moves `average` towards `model`: each trained parameter becomes `decay` times its old value plus `1 - decay` times
/// the model's. Parameters that are not trained keep their values.
///
/// `average` is a copy of `model` made by [`Module::valid`], so that no gradients are tracked.
#[must_use]
fn moved<M: Module>(average: M, model: &M, decay: f64) -> M {
    let mut current = Current(HashMap::new());
    model.visit(&mut current);
    average.map(&mut Move { current: current.0, decay })
}

/// Trained tensors of any number of dimensions, by parameter id.
struct Current(HashMap<ParamId, Box<dyn Any>>);

impl ModuleVisitor for Current {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if param.is_require_grad() {
            self.0.insert(param.id, Box::new(param.val().inner()));
        }
    }
}

struct Move {
    current: HashMap<ParamId, Box<dyn Any>>,
    decay: f64,
}

impl ModuleMapper for Move {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let current = self.current.remove(&param.id).and_then(|tensor| tensor.downcast::<Tensor<D>>().ok());
        match current {
            Some(current) => param.map(|old| old * self.decay + *current * (1.0 - self.decay)),
            None => param,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::block::Mlp;
    use crate::model::init::WeightInit;
    use burn::tensor::Device;

    struct Double;

    impl ModuleMapper for Double {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            // An optimizer leaves its parameters like this: leaves that require gradients.
            param.map(|old| (old * 2.0).detach().require_grad())
        }
    }

    #[test]
    fn average_moves_towards_the_weights_by_the_decay() {
        let model = Mlp::init(4, 2, &mut WeightInit::new(1, &Device::flex().autodiff()));
        let mut average = Some(model.valid());
        advance(&mut average, &model.clone().map(&mut Double), Some(0.75));
        let average = average.unwrap();
        let weight = |mlp: &Mlp| mlp.fc1.weight.val().into_data().try_to_vec::<f32>().unwrap();
        for (old, new) in weight(&model).into_iter().zip(weight(&average)) {
            assert!((1.25 * old - new).abs() < 1e-6, "{old} {new}");
        }
    }
}
