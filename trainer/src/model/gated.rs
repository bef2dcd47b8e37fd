//! Models whose blocks deliver their gradients during the backward pass.

use burn::module::{Module, ParamId, list_param_ids};

use super::block::Block;
use super::hi_end_mae::HiEndMae;
use super::unetr::Unetr;

/// A model whose blocks are behind gates ([`crate::ops::gate`]).
pub trait Gated: Module {
    /// Parameters of each block behind a gate, with blocks in the order of the forward pass.
    fn gated(&self) -> Vec<Vec<ParamId>>;
}

impl Gated for HiEndMae {
    fn gated(&self) -> Vec<Vec<ParamId>> {
        params_of(self.encoder.blocks.iter().chain(&self.decoder.blocks))
    }
}

impl Gated for Unetr {
    fn gated(&self) -> Vec<Vec<ParamId>> {
        params_of(&self.vit.blocks)
    }
}

fn params_of<'a>(blocks: impl IntoIterator<Item = &'a Block>) -> Vec<Vec<ParamId>> {
    blocks.into_iter().map(list_param_ids).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::{Arc, Mutex};

    use burn::module::{ModuleVisitor, Param};
    use burn::optim::GradientsParams;
    use burn::tensor::{Device, Tensor, TensorData};

    use super::*;
    use crate::model::hi_end_mae::HiEndMaeConfig;
    use crate::model::init::WeightInit;
    use crate::model::masking::Mask;
    use crate::model::precision::Precision;
    use crate::model::unetr::UnetrConfig;
    use crate::ops::gate::{Final, Gates};

    const CROP: [usize; 3] = [24; 3];

    struct Flat {
        grads: GradientsParams,
        values: HashMap<ParamId, Vec<f32>>,
    }

    impl ModuleVisitor for Flat {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(grad) = self.grads.get::<D>(param.id) {
                self.values.insert(param.id, grad.into_data().try_to_vec().unwrap());
            }
        }
    }

    /// Gradients of one pass, and those delivered by gates, in the order of delivery.
    fn pass<M: Module>(model: &M, loss: impl Fn(&M) -> Tensor<1>) -> HashMap<ParamId, Vec<f32>> {
        let grads = GradientsParams::from_grads(loss(model).backward(), model);
        let mut flat = Flat { grads, values: HashMap::new() };
        model.visit(&mut flat);
        flat.values
    }

    fn check<M: Gated>(gates: &Gates, model: &M, loss: impl Fn(&M) -> Tensor<1>) {
        let closed = pass(model, &loss);
        let given: Arc<Mutex<Vec<Final>>> = Arc::default();
        let sink = Arc::clone(&given);
        gates.open(move |gradients| sink.lock().unwrap().push(gradients));
        let rest = pass(model, &loss);
        gates.close();
        let given = std::mem::take(&mut *given.lock().unwrap());
        // Every block, the last one first, and its parameters have no gradient at the end of the pass.
        let blocks: Vec<Vec<ParamId>> = model.gated().into_iter().rev().collect();
        let ids = |block: &Final| block.iter().map(|(id, _)| *id).collect::<Vec<_>>();
        assert_eq!(given.iter().map(ids).collect::<Vec<_>>(), blocks);
        let mut open = rest.clone();
        for (id, grad) in given.into_iter().flatten() {
            assert!(open.insert(id, grad.into_data().try_to_vec().unwrap()).is_none(), "taken, and left in the pass");
        }
        assert!(!rest.is_empty() && open == closed, "gradients differ");
        assert_eq!(pass(model, &loss), closed, "closed again");
    }

    fn mae(gates: &Gates, recompute: bool, precision: Precision) -> (HiEndMae, impl Fn(&HiEndMae) -> Tensor<1>) {
        let config = HiEndMaeConfig {
            embed_dim: 24,
            depth: 3,
            taps: vec![0, 2],
            num_heads: 2,
            decoder_embed_dim: 12,
            decoder_num_heads: 2,
            ..HiEndMaeConfig::tiny()
        };
        let weights =
            WeightInit::new(1, &Device::flex().autodiff()).with_recompute(recompute).with_precision(precision);
        let model = config.init(CROP, &mut weights.with_gates(gates.clone()));
        let mask = Mask::from_noise(&[0.4, 0.2, 0.1, 0.8, 0.3, 0.7, 0.6, 0.5], 8, config.mask_ratio);
        let mask = mask.upload(&Device::flex());
        (model, move |model: &HiEndMae| model.forward(images(), &mask))
    }

    fn images() -> Tensor<5> {
        let [x, y, z] = CROP;
        let values: Vec<f32> = (0..x * y * z).map(|i| (i as f32 * 0.37).sin()).collect();
        Tensor::from_data(TensorData::new(values, [1, 1, x, y, z]), &Device::flex())
    }

    #[test]
    fn gates_give_the_bits_of_a_closed_pass_block_by_block() {
        for recompute in [false, true] {
            let gates = Gates::default();
            let (model, loss) = mae(&gates, recompute, Precision::F32);
            assert_eq!(model.gated().len(), 5);
            check(&gates, &model, loss);

            let config = UnetrConfig {
                embed_dim: 12,
                num_heads: 2,
                depth: 4,
                taps: [1, 2, 3],
                feature_size: 2,
                ..UnetrConfig::for_encoder_of(&HiEndMaeConfig::tiny(), CROP, 3).unwrap()
            };
            let weights = WeightInit::new(2, &Device::flex().autodiff()).with_recompute(recompute);
            let model = config.init(&mut weights.with_gates(gates.clone()));
            check(&gates, &model, |model: &Unetr| model.forward(images()).square().mean());
        }
    }

    #[test]
    fn block_whose_gradients_come_late_keeps_them() {
        // On the CPU, 16-bit weights are Burn's casts, whose operations are the last ones.
        let gates = Gates::default();
        let (model, loss) = mae(&gates, false, Precision::Bf16);
        let closed = pass(&model, &loss);
        gates.open(|_| panic!("a block that is not complete"));
        assert_eq!(pass(&model, &loss), closed);
    }

    #[test]
    fn untracked_tokens_pass_open_gates() {
        let gates = Gates::default();
        gates.open(|_| panic!("a gradient without a backward pass"));
        let (model, loss) = mae(&gates, false, Precision::F32);
        assert!(loss(&model.valid()).into_data().try_to_vec::<f32>().unwrap()[0].is_finite());
    }
}
