//! Several devices in one process train one model: data parallel.
//!
//! Each rank is a thread with a device, a copy of the weights, and its share of every global batch. Copies begin equal
//! and see equal gradients: those of all crops of the batch, averaged over the ranks before clipping and update. So
//! they stay equal, and nothing else has to be sent.
//!
//! Rank 0 leads: it alone writes, draws, validates and decides when the run is over. The others follow until it is, or
//! until one of them fails; a rank that leaves frees all that wait for it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use burn::tensor::{Device, Tensor, TensorData};

/// Adds up tensors over ranks.
///
/// All ranks call it equally often, with tensors of the same sizes in the same order, each from a thread of its own.
pub trait AllReduce: Send + Sync {
    /// The sum over ranks of each of `tensors`, on the rank's own device.
    ///
    /// # Errors
    /// If a rank has left, or a device failed.
    fn sum(&self, rank: usize, tensors: Vec<Tensor<1>>) -> Result<Vec<Tensor<1>>, RankError>;

    /// A rank leaves; whoever waits for it is freed.
    fn leave(&self);
}

/// Why ranks do not go on together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RankError {
    /// The run is over, or another rank failed and tells why.
    #[error("another rank has left")]
    Left,
    /// The device refused.
    #[error("{0}")]
    Device(String),
}

/// A place where all ranks meet, each with a value, and leave with the values of all.
struct AllGather<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    round: u64,
    posted: Vec<Option<T>>,
    all: Arc<Vec<T>>,
    left: bool,
}

impl<T> AllGather<T> {
    fn of(num_ranks: usize) -> Self {
        let posted = (0..num_ranks).map(|_| None).collect();
        let state = State { round: 0, posted, all: Arc::new(Vec::new()), left: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The values of all ranks, in their order; waits for the last one.
    fn meet(&self, rank: usize, value: T) -> Result<Arc<Vec<T>>, RankError> {
        let mut state = self.lock();
        let round = state.round;
        state.posted[rank] = Some(value);
        if state.posted.iter().all(Option::is_some) {
            state.all = Arc::new(state.posted.iter_mut().filter_map(Option::take).collect());
            state.round += 1;
            self.changed.notify_all();
        }
        while state.round == round {
            if state.left {
                return Err(RankError::Left);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        // Nobody can begin the next round before this rank does.
        Ok(Arc::clone(&state.all))
    }

    fn leave(&self) {
        self.lock().left = true;
        self.changed.notify_all();
    }
}

/// Sums through the memory of the host, in the order of the ranks: the same bits on each of them, and every time.
///
/// For CPUs, whose back end has no collectives.
pub struct HostReduce(AllGather<Vec<Vec<f32>>>);

impl HostReduce {
    /// For so many ranks.
    #[must_use]
    pub fn new(num_ranks: usize) -> Self {
        Self(AllGather::of(num_ranks))
    }
}

impl AllReduce for HostReduce {
    fn sum(&self, rank: usize, tensors: Vec<Tensor<1>>) -> Result<Vec<Tensor<1>>, RankError> {
        let devices: Vec<Device> = tensors.iter().map(Tensor::device).collect();
        let host = |tensor: Tensor<1>| -> Result<Vec<f32>, RankError> {
            let data = tensor.try_into_data().map_err(|e| RankError::Device(format!("{e:?}")))?;
            data.try_to_vec().map_err(|e| RankError::Device(format!("{e:?}")))
        };
        let values = tensors.into_iter().map(host).collect::<Result<Vec<_>, _>>()?;
        let all = self.0.meet(rank, values)?;
        let total = |(number, device): (usize, &Device)| {
            let mut sum = all[0][number].clone();
            for values in &all[1..] {
                sum.iter_mut().zip(&values[number]).for_each(|(sum, value)| *sum += value);
            }
            let len = sum.len();
            Tensor::from_data(TensorData::new(sum, [len]), device)
        };
        Ok(devices.iter().enumerate().map(total).collect())
    }

    fn leave(&self) {
        self.0.leave();
    }
}

/// Sums between GPUs by NCCL.
#[cfg(feature = "cuda")]
pub struct NcclReduce {
    devices: Vec<Device>,
    /// Whether each rank has what it is to add.
    whole: AllGather<bool>,
}

#[cfg(feature = "cuda")]
impl NcclReduce {
    /// Between these devices, which lead and follow in this order.
    #[must_use]
    pub fn new(devices: Vec<Device>) -> Self {
        Self { whole: AllGather::of(devices.len()), devices }
    }
}

#[cfg(feature = "cuda")]
impl AllReduce for NcclReduce {
    /// A kernel that was refused leaves its mark on its tensors, and NCCL would then wait for ever for this rank; so all
    /// look for such marks first. After that, who leads gives up on a device that waits for a rank that has failed.
    fn sum(&self, rank: usize, tensors: Vec<Tensor<1>>) -> Result<Vec<Tensor<1>>, RankError> {
        use burn::tensor::distributed::{ReduceOperation, all_reduce};
        // Nothing is copied: what a tensor's data would be is not looked at.
        let marked = tensors.iter().find_map(|tensor| tensor.clone().try_into_data().err());
        let all = self.whole.meet(rank, marked.is_none())?;
        if let Some(error) = marked {
            return Err(RankError::Device(format!("{error:?}")));
        }
        if all.contains(&false) {
            return Err(RankError::Left);
        }
        // All are queued before the first is waited for.
        let sums: Vec<_> =
            tensors.into_iter().map(|tensor| all_reduce(tensor, ReduceOperation::Sum, self.devices.clone())).collect();
        Ok(sums.into_iter().map(burn::tensor::distributed::CollectiveTensor::resolve).collect())
    }

    fn leave(&self) {
        self.whole.leave();
    }
}

/// All ranks.
pub struct ProcessGroup {
    crops: AllGather<usize>,
    reduce: Box<dyn AllReduce>,
    failure: Mutex<Option<(usize, String)>>,
}

impl ProcessGroup {
    /// So many ranks, whose tensors are added up by `reduce`.
    #[must_use]
    pub fn new(num_ranks: usize, reduce: Box<dyn AllReduce>) -> Arc<Self> {
        Arc::new(Self { crops: AllGather::of(num_ranks), reduce, failure: Mutex::new(None) })
    }

    /// The first failure of a rank that follows.
    pub(super) fn failure(&self) -> Option<(usize, String)> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn fail(&self, rank: usize, message: String) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert((rank, message));
    }
}

/// One rank's place among all. Dropping it is leaving.
pub struct RankHandle {
    team: Arc<ProcessGroup>,
    rank: usize,
}

impl RankHandle {
    /// The place of `rank`.
    #[must_use]
    pub fn new(team: &Arc<ProcessGroup>, rank: usize) -> Self {
        Self { team: Arc::clone(team), rank }
    }

    /// Crops of the step over all ranks, if this one has `own`.
    pub(super) fn crops(&self, own: usize) -> Result<usize, RankError> {
        Ok(self.team.crops.meet(self.rank, own)?.iter().sum())
    }

    /// See [`AllReduce::sum`].
    pub(super) fn sum(&self, tensors: Vec<Tensor<1>>) -> Result<Vec<Tensor<1>>, RankError> {
        self.team.reduce.sum(self.rank, tensors)
    }
}

impl Drop for RankHandle {
    fn drop(&mut self) {
        self.team.crops.leave();
        self.team.reduce.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rank_gets_the_same_sum_round_after_round() {
        let reduce = HostReduce::new(3);
        let sums: Vec<Vec<Vec<f32>>> = std::thread::scope(|scope| {
            let ranks: Vec<_> = (0..3)
                .map(|rank| {
                    let reduce = &reduce;
                    scope.spawn(move || {
                        let round = |round: usize| {
                            let value = |factor: f32| factor * (1 + rank + 10 * round) as f32;
                            let tensor = |values: [f32; 2]| Tensor::<1>::from_data(values, &Device::flex());
                            let sums = reduce.sum(rank, vec![tensor([value(1.0), value(0.1)])]).unwrap();
                            sums.into_iter().next().unwrap().into_data().try_to_vec().unwrap()
                        };
                        (0..4).map(round).collect()
                    })
                })
                .collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        });
        assert_eq!(sums[0], sums[1]);
        assert_eq!(sums[0], sums[2]);
        let first: Vec<f32> = sums[0].iter().map(|round| round[0]).collect();
        assert_eq!(first, [6.0, 36.0, 66.0, 96.0]);
    }

    #[test]
    fn a_rank_that_leaves_frees_the_others() {
        let team = ProcessGroup::new(2, Box::new(HostReduce::new(2)));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| RankHandle::new(&team, 0).crops(8));
            let leaving = RankHandle::new(&team, 1);
            team.fail(1, "no memory".into());
            drop(leaving);
            assert_eq!(waiting.join().unwrap(), Err(RankError::Left));
        });
        assert_eq!(team.failure(), Some((1, "no memory".into())));
    }
}
