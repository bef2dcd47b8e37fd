//! `AdamW` with the settings of the recipe, the choice of parameters that decay, and clipping by the global norm.

use std::collections::{BTreeMap, HashSet};

use burn::module::{Module, ModuleVisitor, Param, ParamGroup, ParamId};
use burn::optim::{AdamWState, AdaptiveMomentumState, GradientsParams, ModuleOptimizer, Optimizer};
use burn::tensor::{Device, FloatDType, Tensor};
use serde::{Deserialize, Serialize};

use crate::ops::adamw::adamw;
use crate::ops::fixed_order;
use crate::ops::step_params::StepParams;

/// Parameters to which weight decay applies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// All parameters. The default, because the released weights were trained so: the reference code defines a no-decay
    /// group and then passes all parameters to its optimizer.
    #[default]
    All,
    /// Weights of linear maps, but not biases, norms, tokens and positions.
    Matrices,
}

/// Settings of `AdamW` (Loshchilov and Hutter, arXiv 1711.05101).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdamWSettings {
    /// Peak learning rate; see [`crate::schedule`].
    pub lr: f64,
    /// Decay rates of the two moments.
    pub betas: [f64; 2],
    /// Term added to the square root of the second moment.
    pub epsilon: f64,
    /// Weight decay, as a multiple of the learning rate.
    pub weight_decay: f64,
    /// Parameters to which weight decay applies.
    #[serde(default)]
    pub decay: Decay,
    /// Maximum global norm of the gradients; absent for no clipping, as in the recipe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
}

impl AdamWSettings {
    /// Returns the recipe's settings for pre-training.
    #[must_use]
    pub fn pretrain() -> Self {
        Self { lr: 1e-4, betas: [0.9, 0.95], epsilon: 1e-8, weight_decay: 0.05, decay: Decay::All, clip_norm: None }
    }

    /// Creates an optimizer for `model`, without state.
    #[must_use]
    pub fn init<M: Module>(&self, model: &M) -> ModuleOptimizer {
        let adamw = AdamW {
            betas: self.betas.map(|beta| beta as f32),
            epsilon: self.epsilon as f32,
            weight_decay: self.weight_decay,
        };
        let optimizer = ModuleOptimizer::from(adamw);
        match self.decay {
            Decay::All => optimizer,
            Decay::Matrices => {
                let parameters = Parameters::of(model);
                let no_decay = parameters.0.iter().filter(|p| !p.is_matrix()).map(|p| p.id).collect::<Vec<ParamId>>();
                optimizer.with_group(ParamGroup::from_ids(no_decay), AdamW { weight_decay: 0.0, ..adamw }, None)
            }
        }
    }

    /// Returns the first setting that is out of range, with the reason. The optimizer computes in f32, in which a setting must
    /// not become 0, 1 or infinite.
    #[must_use]
    pub fn fault(&self) -> Option<(&'static str, String)> {
        let is_positive = |v: f64| v > 0.0 && (v as f32).is_normal();
        let AdamWSettings { lr, betas, epsilon, weight_decay, .. } = *self;
        if !is_positive(lr) && lr != 0.0 {
            return Some(("lr", format!("{lr:?} must be 0, or from 1.2e-38 to 3.4e38, the positive numbers of f32")));
        }
        if betas.iter().any(|b| !(0.0..1.0).contains(b)) {
            return Some(("betas", format!("{betas:?} must lie in [0, 1)")));
        }
        if betas.iter().any(|&b| b as f32 >= 1.0) {
            return Some(("betas", format!("{betas:?} must be at most 0.9999999: the optimizer computes in f32")));
        }
        if !is_positive(epsilon) {
            let range = "must be from 1.2e-38 to 3.4e38, the positive numbers of f32";
            return Some(("epsilon", format!("{epsilon:?} {range}")));
        }
        if !(weight_decay.is_finite() && weight_decay >= 0.0) {
            return Some(("weight_decay", format!("{weight_decay} must be a finite number of at least 0")));
        }
        if lr * weight_decay >= 1.0 {
            let reason = "must be less than 1: a step at this rate would remove the weights or change their sign";
            return Some(("weight_decay", format!("{weight_decay:?} times lr = {lr:?} {reason}")));
        }
        self.clip_norm.filter(|&norm| !is_positive(norm)).map(|norm| {
            ("clip_norm", format!("{norm:?} must be positive and finite in f32; leave it out for no clipping"))
        })
    }
}

/// Optimizer of one parameter group: one operation per parameter, with the state of Burn's `AdamW`.
#[derive(Clone, Copy, Debug)]
struct AdamW {
    betas: [f32; 2],
    epsilon: f32,
    weight_decay: f64,
}

impl Optimizer for AdamW {
    type State<const D: usize> = AdamWState<D>;

    fn step<const D: usize>(
        &self,
        lr: f64,
        param: Tensor<D>,
        grad: Tensor<D>,
        state: Option<AdamWState<D>>,
    ) -> (Tensor<D>, Option<AdamWState<D>>) {
        let (time, first, second) = match state {
            Some(AdamWState { momentum }) => (momentum.time + 1, momentum.moment_1, momentum.moment_2),
            None => (1, grad.zeros_like(), grad.zeros_like()),
        };
        // The corrections are 1 long before two billion steps.
        let power = i32::try_from(time).unwrap_or(i32::MAX);
        let params = StepParams {
            lr,
            keep: 1.0 - lr * self.weight_decay,
            betas: self.betas,
            epsilon: self.epsilon,
            corrections: self.betas.map(|beta| 1.0 - beta.powi(power)),
        };
        let (param, first, second) = adamw([param, grad, first, second], params);
        (param, Some(AdamWState::new(AdaptiveMomentumState::new(time, first, second))))
    }

    fn to_device<const D: usize>(state: AdamWState<D>, device: &Device) -> AdamWState<D> {
        let AdaptiveMomentumState { time, moment_1, moment_2, .. } = state.momentum;
        AdamWState::new(AdaptiveMomentumState::new(time, moment_1.to_device(device), moment_2.to_device(device)))
    }
}

/// Paths of the parameters that decay under [`Decay::Matrices`].
#[must_use]
pub fn decayed_matrices<M: Module>(model: &M) -> Vec<String> {
    Parameters::of(model).0.into_iter().filter(Parameter::is_matrix).map(|p| p.path).collect()
}

/// Paths and shapes of a model's parameters, by the value of their ids.
pub(crate) fn parameter_shapes<M: Module>(model: &M) -> BTreeMap<u64, (String, Vec<usize>)> {
    Parameters::of(model).0.into_iter().map(|p| (p.id.val(), (p.path, p.shape))).collect()
}

struct Parameter {
    path: String,
    shape: Vec<usize>,
    id: ParamId,
    trained: bool,
}

impl Parameter {
    fn is_matrix(&self) -> bool {
        let name = self.path.rsplit('.').next().unwrap_or_default();
        self.trained && self.shape.len() > 1 && name == "weight"
    }
}

/// The parameters of a module, and the path of the module being visited.
struct Parameters(Vec<Parameter>, Vec<String>);

impl Parameters {
    fn of<M: Module>(model: &M) -> Self {
        let mut parameters = Self(vec![], vec![]);
        model.visit(&mut parameters);
        parameters
    }
}

impl ModuleVisitor for Parameters {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.1.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.1.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let trained = param.is_require_grad();
        let shape = param.val().dims().to_vec();
        self.0.push(Parameter { path: self.1.join("."), shape, id: param.id, trained });
    }
}

/// Scales all gradients of `model` so that their global norm is at most `max_norm`. Returns the norm before clipping,
/// `[1]`, or `None` if there are no gradients.
///
/// DIFFERENCE: Burn clips each tensor by its own norm, which changes the direction of the step. Nothing is read back from
/// the device.
pub fn clip_global_norm<M: Module>(model: &M, grads: &mut GradientsParams, max_norm: f64) -> Option<Tensor<1>> {
    let mut squares = SumOfSquares { grads, seen: HashSet::new(), sum: None };
    model.visit(&mut squares);
    let norm = squares.sum?.sqrt();
    let factor = norm.clone().add_scalar(1e-6).recip().mul_scalar(max_norm).clamp_max(1.0);
    model.visit(&mut Scale { grads, factor });
    Some(norm)
}

struct SumOfSquares<'a> {
    grads: &'a GradientsParams,
    seen: HashSet<ParamId>,
    sum: Option<Tensor<1>>,
}

impl ModuleVisitor for SumOfSquares<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !self.seen.insert(param.id) {
            return; // A parameter that modules share counts once.
        }
        if let Some(grad) = self.grads.get::<D>(param.id) {
            let square = fixed_order::sum(grad.cast(FloatDType::F32).square());
            self.sum = Some(match self.sum.take() {
                Some(sum) => sum + square,
                None => square,
            });
        }
    }
}

struct Scale<'a> {
    grads: &'a mut GradientsParams,
    factor: Tensor<1>,
}

impl ModuleVisitor for Scale<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(grad) = self.grads.remove::<D>(param.id) {
            self.grads.register::<D>(param.id, grad * self.factor.clone().unsqueeze::<D>());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{block::Mlp, init::WeightInit};
    use burn::tensor::Device;

    #[test]
    fn settings_that_f32_does_not_hold_are_refused() {
        type Change = fn(&mut AdamWSettings);
        let fault = |change: Change| {
            let mut settings = AdamWSettings::pretrain();
            change(&mut settings);
            settings.fault().map(|(key, _)| key)
        };
        assert_eq!(fault(|_| ()), None);
        assert_eq!(fault(|s| s.lr = 0.0), None);
        assert_eq!(fault(|s| s.betas = [0.0, 0.999_999_9]), None);
        let faults: [(&str, Change); 16] = [
            ("lr", |s| s.lr = 1e39),
            ("lr", |s| s.lr = 1e-50),
            ("lr", |s| s.lr = f64::NAN),
            ("lr", |s| s.lr = -1.0),
            ("betas", |s| s.betas = [0.9, 1.0]),
            ("betas", |s| s.betas = [0.9, 0.999_999_999]),
            ("betas", |s| s.betas[0] = 0.999_999_999),
            ("epsilon", |s| s.epsilon = 0.0),
            ("epsilon", |s| s.epsilon = 1e-50),
            ("epsilon", |s| s.epsilon = 1e39),
            ("weight_decay", |s| s.weight_decay = -1.0),
            ("weight_decay", |s| s.weight_decay = f64::INFINITY),
            ("weight_decay", |s| (s.lr, s.weight_decay) = (1e-3, 3000.0)),
            ("clip_norm", |s| s.clip_norm = Some(0.0)),
            ("clip_norm", |s| s.clip_norm = Some(1e-50)),
            ("clip_norm", |s| s.clip_norm = Some(1e39)),
        ];
        for (key, change) in faults {
            assert_eq!(fault(change), Some(key));
        }
    }

    #[test]
    fn clipping_keeps_the_direction_and_bounds_the_norm() {
        let device = Device::flex().autodiff();
        let mlp = Mlp::init(4, 2, &mut WeightInit::new(5, &device));
        let x = Tensor::ones([1, 3, 4], &device);
        let loss = mlp.add_to(x.clone(), x).square().sum();
        let mut grads = GradientsParams::from_grads(loss.backward(), &mlp);
        let first = |grads: &GradientsParams| -> Vec<f32> {
            grads.get::<2>(mlp.fc1.weight.id).unwrap().into_data().try_to_vec().unwrap()
        };
        let before = first(&grads);
        let norm: f32 = clip_global_norm(&mlp, &mut grads, 0.01).unwrap().into_scalar();
        assert!(norm > 0.01, "{norm}");
        for (a, b) in first(&grads).iter().zip(&before) {
            assert!((a - b * 0.01 / norm).abs() < 1e-6);
        }
        let clipped: f32 = clip_global_norm(&mlp, &mut grads, 1e9).unwrap().into_scalar();
        assert!((clipped - 0.01).abs() < 1e-5, "{clipped}");
    }
}
