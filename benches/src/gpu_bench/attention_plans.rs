//! Checks that cuDNN computed the attentions of a case in both directions: if it refuses one, products compute it, and
//! the measurement would be theirs.

use std::collections::BTreeSet;

use anyhow::bail;
use hiend_trainer::vendor::cudnn::record::Engines;
use serde_json::Value;

use super::cli::Case;
use super::refusals;

/// Attentions with plans, by size and layout as in the keys of the plans.
#[derive(Debug, Default)]
struct Planned {
    forward: BTreeSet<String>,
    backward: BTreeSet<String>,
}

impl Planned {
    /// Sorts the keys of plans, ignoring plans of convolutions.
    fn of<'a>(keys: impl Iterator<Item = &'a str>) -> Self {
        let mut planned = Self::default();
        for key in keys {
            let backward = ["attention backward masked ", "attention backward "];
            if let Some(attention) = backward.into_iter().find_map(|pass| key.strip_prefix(pass)) {
                planned.backward.insert(attention.to_owned());
            } else if let Some(attention) = key.strip_prefix("attention ") {
                planned.forward.insert(attention.to_owned());
            }
        }
        planned
    }

    /// Plans made by this process so far.
    fn of_process() -> Self {
        let entries: Vec<Value> = serde_json::from_str(&Engines::of_process().to_json()).expect("a table is JSON");
        Self::of(entries.iter().filter_map(|entry| entry["problem"].as_str()))
    }

    /// Returns true if there are plans for `attentions` attentions, in both directions.
    fn is_whole(&self, attentions: usize) -> bool {
        self.forward.len() >= attentions && self.forward == self.backward
    }
}

/// Numbers of attentions with a forward plan and with a backward plan.
pub(super) fn counts() -> [usize; 2] {
    let Planned { forward, backward } = Planned::of_process();
    [forward.len(), backward.len()]
}

/// Number of different attentions of a case.
fn attentions(case: Case) -> usize {
    match case {
        Case::Step
        | Case::Overlap
        | Case::Chunks
        | Case::Service
        | Case::Numerics
        | Case::Kernels
        | Case::Products
        | Case::Shapes => 3,
        Case::Finetune | Case::FinetuneOverlap | Case::Predict => 1,
        Case::Tests | Case::Loader | Case::Reference | Case::Convolutions | Case::ConvolutionTimes => 0,
    }
}

/// Checks the plans after `case` has run.
///
/// # Errors
/// If an attention lacks a plan, with the reasons that were given.
pub(super) fn check(case: Case) -> anyhow::Result<()> {
    let needed = attentions(case);
    let planned = Planned::of_process();
    if needed == 0 || planned.is_whole(needed) {
        return Ok(());
    }
    let incomplete: Vec<&String> = planned.forward.symmetric_difference(&planned.backward).collect();
    let has_cuda = cfg!(any(feature = "cuda", feature = "cuda-nvrtc"));
    let reasons = if has_cuda { refusals::warned() } else { vec!["this build has no CUDA".to_owned()] };
    bail!(
        "--attention cudnn: {} forward and {} backward plans, expected both of at least {needed} attentions; \
         only one of: {incomplete:?}; reasons: {reasons:?}",
        planned.forward.len(),
        planned.backward.len(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attention_without_a_backward_plan_is_incomplete() {
        let keys = ["attention 2x4x9x9x8 Bf16", "attention 2x4x9x5x8 Bf16", "conv forward 1x32"];
        let forward = Planned::of(keys.into_iter());
        assert_eq!((forward.forward.len(), forward.backward.len()), (2, 0));
        assert!(!forward.is_whole(2));
        let backward = ["attention backward 2x4x9x9x8 Bf16", "attention backward masked 2x4x9x5x8 Bf16"];
        assert!(!Planned::of(keys.into_iter().chain(backward.into_iter().take(1))).is_whole(2));
        let both = Planned::of(keys.into_iter().chain(backward));
        assert!(both.is_whole(2) && !both.is_whole(3));
    }
}
