//! Data-parallel training of one model on several devices in one process.
//!
//! Each rank is a thread with a device, a copy of the weights, and its share of every global batch. The copies start
//! equal and receive equal gradients: those of all crops of the batch, averaged over the ranks before clipping and
//! update. They stay equal, so nothing else is exchanged.
//!
//! Rank 0 alone writes, draws, validates and decides when the run is over. The other ranks follow until then, or until
//! a rank fails; a rank that leaves releases all that wait for it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use burn::tensor::{Device, Tensor, TensorData};

/// Sums tensors over ranks.
///
/// All ranks call it equally often, with tensors of the same sizes in the same order, each from its own thread.
pub trait AllReduce: Send + Sync {
    /// Sums each of `tensors` over the ranks; the sums are on the rank's own device.
    ///
    /// # Errors
    /// If a rank has left, or a device failed.
    fn sum(&self, rank: usize, tensors: Vec<Tensor<1>>) -> Result<Vec<Tensor<1>>, RankError>;

    /// Marks that a rank has left; ranks that wait for it are released.
    fn leave(&self);
}

/// An error that ends a rank.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RankError {
    /// The run is over, or another rank failed and reported it.
    #[error("another rank has left")]
    Left,
    /// The device failed, with its message.
    #[error("{0}")]
    Device(String),
}

/// Exchanges one value per rank: each rank contributes a value and receives those of all.
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
    fn new(num_ranks: usize) -> Self {
        let posted = (0..num_ranks).map(|_| None).collect();
        let state = State { round: 0, posted, all: Arc::new(Vec::new()), left: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Contributes a value and waits for those of all ranks, which are returned in rank order.
    fn exchange(&self, rank: usize, value: T) -> Result<Arc<Vec<T>>, RankError> {
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
        // The next round cannot start before this rank joins it.
        Ok(Arc::clone(&state.all))
    }

    fn leave(&self) {
        self.lock().left = true;
        self.changed.notify_all();
    }
}

/// Sums in host memory, in rank order: every rank gets the same bits, in every run.
///
/// For CPUs, whose backend has no collectives.
pub struct HostReduce(AllGather<Vec<Vec<f32>>>);

impl HostReduce {
    /// Makes a sum over `num_ranks` ranks.
    #[must_use]
    pub fn new(num_ranks: usize) -> Self {
        Self(AllGather::new(num_ranks))
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
        let all = self.0.exchange(rank, values)?;
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

/// Sums between GPUs with NCCL.
#[cfg(feature = "cuda")]
pub struct NcclReduce {
    devices: Vec<Device>,
    /// True if each rank's tensors were computed.
    computed: AllGather<bool>,
}

#[cfg(feature = "cuda")]
impl NcclReduce {
    /// Makes a sum over these devices, in rank order.
    #[must_use]
    pub fn new(devices: Vec<Device>) -> Self {
        Self { computed: AllGather::new(devices.len()), devices }
    }
}

#[cfg(feature = "cuda")]
impl AllReduce for NcclReduce {
    /// A kernel that failed marks its tensors as failed, and NCCL would then wait for this rank without end; so all ranks
    /// exchange whether they found such a mark first. After that, rank 0 gives up on a device that waits for a failed
    /// rank.
    fn sum(&self, rank: usize, tensors: Vec<Tensor<1>>) -> Result<Vec<Tensor<1>>, RankError> {
        use burn::tensor::distributed::{ReduceOperation, all_reduce};
        // Nothing is copied: the data of the tensors are not read.
        let failed = tensors.iter().find_map(|tensor| tensor.clone().try_into_data().err());
        let all = self.computed.exchange(rank, failed.is_none())?;
        if let Some(error) = failed {
            return Err(RankError::Device(format!("{error:?}")));
        }
        if all.contains(&false) {
            return Err(RankError::Left);
        }
        // All sums are queued before the first is waited for.
        let sums: Vec<_> =
            tensors.into_iter().map(|tensor| all_reduce(tensor, ReduceOperation::Sum, self.devices.clone())).collect();
        Ok(sums.into_iter().map(burn::tensor::distributed::CollectiveTensor::resolve).collect())
    }

    fn leave(&self) {
        self.computed.leave();
    }
}

/// The ranks of a run.
pub struct ProcessGroup {
    crops: AllGather<usize>,
    reduce: Box<dyn AllReduce>,
    failure: Mutex<Option<RankFailure>>,
}

/// The part of a rank that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FailureCause {
    /// The rank's batches could not be made.
    Batches,
    /// The rank's device failed.
    Device,
    /// The rank's code panicked.
    Panic,
}

/// A failure of a rank other than the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RankFailure {
    /// The rank.
    pub(super) rank: usize,
    /// The part that failed.
    pub(super) cause: FailureCause,
    /// The rank's message, on one line.
    pub(super) message: String,
}

impl ProcessGroup {
    /// Makes a group of `num_ranks` ranks whose tensors are summed by `reduce`.
    #[must_use]
    pub fn new(num_ranks: usize, reduce: Box<dyn AllReduce>) -> Arc<Self> {
        Arc::new(Self { crops: AllGather::new(num_ranks), reduce, failure: Mutex::new(None) })
    }

    /// The first failure of a rank.
    pub(super) fn failure(&self) -> Option<RankFailure> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records a failure, unless an earlier one is recorded.
    pub(super) fn fail(&self, failure: RankFailure) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
    }
}

/// A rank's membership in its group, which dropping it ends.
pub struct RankHandle {
    group: Arc<ProcessGroup>,
    rank: usize,
}

impl RankHandle {
    /// Makes the handle of `rank`.
    #[must_use]
    pub fn new(group: &Arc<ProcessGroup>, rank: usize) -> Self {
        Self { group: Arc::clone(group), rank }
    }

    /// Sums crop counts over all ranks; `own` is this rank's.
    pub(super) fn crops(&self, own: usize) -> Result<usize, RankError> {
        Ok(self.group.crops.exchange(self.rank, own)?.iter().sum())
    }

    /// Sums tensors over all ranks; see [`AllReduce::sum`].
    pub(super) fn sum(&self, tensors: Vec<Tensor<1>>) -> Result<Vec<Tensor<1>>, RankError> {
        self.group.reduce.sum(self.rank, tensors)
    }
}

impl Drop for RankHandle {
    fn drop(&mut self) {
        self.group.crops.leave();
        self.group.reduce.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rank_gets_the_same_sum_in_every_round() {
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
    fn leaving_rank_releases_the_others() {
        let group = ProcessGroup::new(2, Box::new(HostReduce::new(2)));
        let failure = RankFailure { rank: 1, cause: FailureCause::Device, message: "no memory".into() };
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| RankHandle::new(&group, 0).crops(8));
            let leaving = RankHandle::new(&group, 1);
            group.fail(failure.clone());
            drop(leaving);
            assert_eq!(waiting.join().unwrap(), Err(RankError::Left));
        });
        assert_eq!(group.failure(), Some(failure));
    }
}
