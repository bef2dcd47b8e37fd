//! Sums of gradients over the ranks that begin during the backward pass.
//!
//! ```text
//!   backward pass of the last micro-batch:  decoder   block 12   block 11   ..   block 1   embedding
//!   thread of the sums:                               buckets of .. block 12   block 11   ..   block 1   all the rest
//! ```
//!
//! A bucket holds the gradients of a block, which its gate delivers as soon as they are final ([`crate::ops::gate`]);
//! the last one holds all other gradients and the loss. Gradients of earlier micro-batches are added first, so that one
//! sum over the ranks serves the whole batch.
//!
//! All ranks request the buckets in the same order, which only the model determines: the blocks from the last to the
//! first, then the rest. A block whose gradients are final early waits for its turn, a block that keeps its gradients
//! to the end of the pass is requested then, and a rank without crops requests zeros in the same order. Values are
//! added individually, so that buckets do not change any bit.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Gradients, Tensor};

use crate::distributed::{Pairwise, ReduceError, Sums};
use crate::model::gated::Gated;
use crate::ops::gate::{Final, Gates};

/// Gradients by parameter, each flattened to one dimension.
type Flat = HashMap<ParamId, Tensor<1>>;

/// Function that begins the sum of a bucket over the ranks.
type Request = Box<dyn FnMut(Vec<Tensor<1>>) + Send>;

/// Computes loss `[1]` and gradients over all ranks. `loss_of` computes the contribution of one of this rank's
/// micro-batches to the step's loss.
///
/// # Errors
/// If a rank failed, or the gradients cannot be summed.
pub(super) fn summed<M: Gated, P>(
    model: &M,
    gates: &Gates,
    sums: &Sums,
    parts: &[P],
    loss_of: impl Fn(&P) -> Tensor<1>,
) -> Result<(Option<Tensor<1>>, GradientsParams), ReduceError> {
    let Some(plan) = Plan::of(model) else { return Ok((None, GradientsParams::new())) };
    let add =
        |(loss, grads): (Tensor<1>, Flat), (other_loss, other_grads)| (loss + other_loss, added(grads, other_grads));
    let mut earlier = Pairwise::default();
    let (last, others) = parts.split_last().map_or((None, parts), |(last, others)| (Some(last), others));
    for part in others {
        let loss = loss_of(part);
        let grads = flat(model, loss.backward());
        earlier.push((loss.inner(), grads), add);
    }
    let (losses, earlier): (Vec<_>, Vec<_>) = earlier.into_partial().unzip();
    let requests = sums.requests();
    let pending = StepGradients::new(plan, earlier, Box::new(move |bucket| requests.add(bucket)));
    let pending = Arc::new(Mutex::new(pending));
    let loss = last.map(|part| {
        let taker = Arc::clone(&pending);
        gates.open(move |gradients| lock(&taker).take(gradients));
        let loss = loss_of(part);
        let rest = flat(model, loss.backward());
        gates.close();
        lock(&pending).put(rest);
        losses.into_iter().fold(loss.inner(), |sum, earlier| earlier + sum)
    });
    let buckets = lock(&pending).finish(loss);
    let mut summed = Flat::new();
    let mut loss = None;
    for bucket in buckets {
        let mut tensors = sums.wait()?;
        // The last bucket has one tensor more, the loss.
        loss = if tensors.len() > bucket.len() { tensors.pop() } else { None };
        summed.extend(bucket.into_iter().map(|(id, _)| id).zip(tensors));
    }
    let mut grads = Register { summed, grads: GradientsParams::new() };
    model.visit(&mut grads);
    Ok((loss, grads.grads))
}

fn lock(pending: &Mutex<StepGradients>) -> MutexGuard<'_, StepGradients> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Buckets of trained parameters with the lengths of their gradients, in the order of the sums.
struct Plan {
    buckets: Vec<Vec<(ParamId, usize)>>,
    device: Device,
}

impl Plan {
    /// Divides a model into buckets; `None` if none of it is trained.
    fn of<M: Gated>(model: &M) -> Option<Self> {
        let mut trained = Trained { params: vec![], device: None };
        model.visit(&mut trained);
        let Trained { params, device } = trained;
        let mut left: HashMap<ParamId, usize> = params.iter().copied().collect();
        let of_block = |block: Vec<ParamId>| -> Vec<(ParamId, usize)> {
            block.into_iter().filter_map(|id| left.remove_entry(&id)).collect()
        };
        let mut buckets: Vec<_> = model.gated().into_iter().rev().map(of_block).collect();
        buckets.retain(|bucket| !bucket.is_empty());
        buckets.push(params.into_iter().filter(|(id, _)| left.contains_key(id)).collect());
        Some(Self { buckets, device: device? })
    }
}

/// Visitor that collects the trained parameters of a model, each once, in the order in which the model visits them.
struct Trained {
    params: Vec<(ParamId, usize)>,
    device: Option<Device>,
}

impl ModuleVisitor for Trained {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if param.is_require_grad() && !self.params.iter().any(|(id, _)| *id == param.id) {
            let value = param.val().inner();
            self.params.push((param.id, value.shape().num_elements()));
            self.device.get_or_insert_with(|| value.device());
        }
    }
}

/// Gradients of one step, until they are summed.
struct StepGradients {
    plan: Plan,
    /// Index of the bucket of each parameter.
    bucket_of: HashMap<ParamId, usize>,
    /// Partial sums over earlier micro-batches, in the order in which they are added to the last micro-batch's
    /// gradients.
    earlier: Vec<Flat>,
    /// Gradients over all micro-batches that are not requested yet.
    complete: Flat,
    /// For each bucket, true if it is complete.
    is_complete: Vec<bool>,
    /// Parameters whose gradients were delivered by gates.
    given: HashSet<ParamId>,
    /// Number of buckets requested.
    num_requested: usize,
    request: Request,
}

impl StepGradients {
    fn new(plan: Plan, earlier: Vec<Flat>, request: Request) -> Self {
        let buckets = plan.buckets.iter().enumerate();
        let bucket_of = buckets.flat_map(|(at, bucket)| bucket.iter().map(move |(id, _)| (*id, at))).collect();
        Self {
            bucket_of,
            earlier,
            complete: Flat::new(),
            is_complete: vec![false; plan.buckets.len()],
            given: HashSet::new(),
            num_requested: 0,
            request,
            plan,
        }
    }

    /// Takes the final gradients of a block, and requests the buckets that are next in order.
    fn take(&mut self, gradients: Final) {
        let Some(&bucket) = gradients.first().and_then(|(id, _)| self.bucket_of.get(id)) else { return };
        for (id, grad) in gradients {
            assert!(self.given.insert(id), "a block behind a gate is in the graph twice");
            self.add(id, grad);
        }
        self.is_complete[bucket] = true;
        while self.is_complete.get(self.num_requested) == Some(&true) {
            let tensors = self.next_bucket();
            (self.request)(tensors);
        }
    }

    /// Takes the gradients that remain at the end of the pass.
    fn put(&mut self, rest: Flat) {
        for (id, grad) in rest {
            // The sum of a gradient requested earlier would lack this part.
            assert!(!self.given.contains(&id), "a parameter of a block behind a gate is used outside of the block");
            self.add(id, grad);
        }
    }

    /// Requests all remaining buckets, with the loss in the last one. Returns the buckets in the order of the requests.
    fn finish(&mut self, loss: Option<Tensor<1>>) -> Vec<Vec<(ParamId, usize)>> {
        // Gradients of parameters for which the last micro-batch has none.
        for (id, grad) in std::mem::take(&mut self.earlier).into_iter().flatten() {
            let sum = match self.complete.remove(&id) {
                Some(sum) => grad + sum,
                None => grad,
            };
            self.complete.insert(id, sum);
        }
        let mut loss = Some(loss.unwrap_or_else(|| Tensor::zeros([1], &self.plan.device)));
        while self.num_requested < self.plan.buckets.len() {
            let mut tensors = self.next_bucket();
            if self.num_requested == self.plan.buckets.len() {
                tensors.extend(loss.take());
            }
            (self.request)(tensors);
        }
        std::mem::take(&mut self.plan.buckets)
    }

    /// Completes a gradient of the last micro-batch.
    fn add(&mut self, id: ParamId, grad: Tensor<1>) {
        let sum = self.earlier.iter_mut().filter_map(|flat| flat.remove(&id)).fold(grad, |sum, earlier| earlier + sum);
        self.complete.insert(id, sum);
    }

    /// Gradients of the next bucket; zeros for parameters without any, as on a rank without crops.
    fn next_bucket(&mut self) -> Vec<Tensor<1>> {
        let bucket = &self.plan.buckets[self.num_requested];
        self.num_requested += 1;
        let device = &self.plan.device;
        let gradient =
            |(id, len): &(ParamId, usize)| self.complete.remove(id).unwrap_or_else(|| Tensor::zeros([*len], device));
        bucket.iter().map(gradient).collect()
    }
}

/// Adds the gradients of two micro-batches.
fn added(mut sum: Flat, grads: Flat) -> Flat {
    for (id, grad) in grads {
        let grad = match sum.remove(&id) {
            Some(earlier) => earlier + grad,
            None => grad,
        };
        sum.insert(id, grad);
    }
    sum
}

/// Takes the gradients of a model's parameters out of a pass.
fn flat<M: Module>(model: &M, grads: Gradients) -> Flat {
    let mut flatten = Flatten { grads: GradientsParams::from_grads(grads, model), flat: Flat::new() };
    model.visit(&mut flatten);
    flatten.flat
}

struct Flatten {
    grads: GradientsParams,
    flat: Flat,
}

impl ModuleVisitor for Flatten {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(grad) = self.grads.remove::<D>(param.id) {
            let len = grad.shape().num_elements();
            self.flat.insert(param.id, grad.reshape([len]));
        }
    }
}

/// Writes the summed gradients back to each parameter.
struct Register {
    summed: Flat,
    grads: GradientsParams,
}

impl ModuleVisitor for Register {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(sum) = self.summed.remove(&param.id) {
            self.grads.register::<D>(param.id, sum.reshape(param.dims()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(value: f32) -> Tensor<1> {
        Tensor::from_floats([value], &Device::flex())
    }

    fn value(tensor: Tensor<1>) -> f32 {
        tensor.into_data().try_to_vec::<f32>().unwrap()[0]
    }

    /// Creates a [`StepGradients`] with buckets of these parameters; also returns the values that it requests.
    fn pending(buckets: &[&[ParamId]], earlier: Vec<Flat>) -> (StepGradients, Arc<Mutex<Vec<Vec<f32>>>>) {
        let with_length = |bucket: &&[ParamId]| bucket.iter().map(|id| (*id, 1)).collect();
        let plan = Plan { buckets: buckets.iter().map(with_length).collect(), device: Device::flex() };
        let requested: Arc<Mutex<Vec<Vec<f32>>>> = Arc::default();
        let sink = Arc::clone(&requested);
        let request = move |bucket: Vec<Tensor<1>>| sink.lock().unwrap().push(bucket.into_iter().map(value).collect());
        (StepGradients::new(plan, earlier, Box::new(request)), requested)
    }

    #[test]
    fn buckets_are_requested_in_one_order_as_soon_as_their_turn_comes() {
        let [a, b, c, d] = std::array::from_fn(|_| ParamId::new());
        let earlier = vec![Flat::from([(a, tensor(10.0)), (d, tensor(40.0))]), Flat::from([(a, tensor(100.0))])];
        let (mut pending, requested) = pending(&[&[a], &[b, c], &[d]], earlier);
        pending.take(vec![(b, tensor(2.0)), (c, tensor(3.0))]);
        assert!(requested.lock().unwrap().is_empty(), "the first bucket is not complete");
        pending.take(vec![(a, tensor(1.0))]);
        assert_eq!(*requested.lock().unwrap(), [vec![111.0], vec![2.0, 3.0]]);
        pending.put(Flat::from([(d, tensor(4.0))]));
        let buckets = pending.finish(Some(tensor(0.5)));
        assert_eq!(buckets.into_iter().map(|bucket| bucket.len()).collect::<Vec<_>>(), [1, 2, 1]);
        assert_eq!(requested.lock().unwrap()[2..], [vec![44.0, 0.5]]);
    }

    #[test]
    fn rank_without_crops_requests_zeros_in_the_same_order() {
        let [a, b, c] = std::array::from_fn(|_| ParamId::new());
        let (mut pending, requested) = pending(&[&[a], &[b, c], &[]], vec![]);
        pending.finish(None);
        assert_eq!(*requested.lock().unwrap(), [vec![0.0], vec![0.0, 0.0], vec![0.0]]);
    }

    #[test]
    #[should_panic(expected = "used outside of the block")]
    fn gradient_missing_from_a_sum_is_a_panic() {
        let a = ParamId::new();
        let (mut pending, _) = pending(&[&[a], &[]], vec![]);
        pending.take(vec![(a, tensor(1.0))]);
        pending.put(Flat::from([(a, tensor(1.0))]));
    }
}
