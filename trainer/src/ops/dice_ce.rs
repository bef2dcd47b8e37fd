//! Soft Dice and cross entropy of logits on the CPU, as one operation of `hiend_cpu` with one derivative. The loss
//! composed of Burn's operations ([`crate::loss::dice_ce`]) is its oracle, and is used on other devices.

use std::sync::Arc;

use burn::backend::{Flex, TensorMetadata as _};
use burn::tensor::{DType, Int, Tensor};
use hiend_cpu::dice_ce::{Labelled, Terms, dice_ce, dice_ce_gradient};

use super::on_cpu::{CpuOperation, CpuTensor, Operand, apply, in_order, is_on_cpu, tensor, values};

/// Computes Dice loss and cross entropy, `[2]`, of `logits` `[N, C, X, Y, Z]` against `labels` `[N, 1, X, Y, Z]`, each
/// a class or `ignore`. `None` unless the logits are on the CPU in f32.
#[must_use]
pub fn on_cpu(logits: &Tensor<5>, labels: &Tensor<5, Int>, ignore: Option<u8>, smooth: f64) -> Option<Tensor<1>> {
    if !is_on_cpu(logits) {
        return None;
    }
    let labels = in_order(labels.clone().try_into_primitive::<Flex>().ok()?);
    // Labels are checked to be classes or the ignore label, which fit a u8, when a class map is made.
    let labels: Vec<u8> = match labels.dtype() {
        DType::I64 => labels.as_slice::<i64>()?.iter().map(|&label| label as u8).collect(),
        DType::I32 => labels.as_slice::<i32>()?.iter().map(|&label| label as u8).collect(),
        DType::U8 => labels.as_slice::<u8>()?.to_vec(),
        _ => return None,
    };
    Some(apply(DiceCe { labels: labels.into(), ignore, smooth }, [Operand::of(logits.clone())]))
}

#[derive(Clone, Debug)]
struct DiceCe {
    /// Labels, `[N, voxels]`.
    labels: Arc<[u8]>,
    ignore: Option<u8>,
    smooth: f64,
}

impl DiceCe {
    fn labelled<'a>(&'a self, logits: &'a CpuTensor) -> Labelled<'a> {
        let shape = logits.shape();
        Labelled {
            logits: values(logits),
            labels: &self.labels,
            batch: shape[0],
            num_classes: shape[1],
            ignore: self.ignore,
            smooth: self.smooth,
        }
    }
}

impl CpuOperation<1> for DiceCe {
    type Saved = (CpuTensor, Terms);

    fn forward(self, [logits]: [CpuTensor; 1], _: [bool; 1]) -> (CpuTensor, Self::Saved) {
        let logits = in_order(logits);
        let terms = dice_ce(self.labelled(&logits));
        (tensor(vec![terms.dice, terms.cross_entropy], [2]), (logits, terms))
    }

    fn backward(self, (logits, terms): Self::Saved, d_terms: CpuTensor, _: [bool; 1]) -> [Option<CpuTensor>; 1] {
        let [d_dice, d_cross_entropy] = values(&d_terms).try_into().expect("two terms");
        let gradient = dice_ce_gradient(self.labelled(&logits), &terms, d_dice, d_cross_entropy);
        [Some(tensor(gradient, logits.shape()))]
    }
}
