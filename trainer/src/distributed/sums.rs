//! Sums of gradients on a separate thread, during the backward pass.
//!
//! The thread sums one request after another, in the order in which they were made: all ranks make the same requests in
//! the same order. On a GPU every thread has its own queue, which waits for the work that made its tensors, so that
//! there, too, sums run concurrently with the rest of the backward pass.
//!
//! `CubeCL` holds each tensor that one queue reads of another until the device has passed the reader, and lets the
//! device's thread wait once eight of them are held. A bucket that is summed on a device therefore passes between
//! queues as one tensor, both ways.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{fmt, io};

use burn::tensor::Tensor;
use flume::RecvTimeoutError;
use hiend_loader::program::catch_panic;

use super::all_reduce::{AllReduce, ReduceError};
use super::group::ProcessGroup;

/// Interval at which a rank that waits for a sum checks for failed ranks, without which a call of MPI never returns.
const CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// Time for the thread to end after the group has failed. A sum over TCP ends at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// Tensors that are summed together.
type Bucket = Vec<Tensor<1>>;

/// Request to sum a bucket.
struct Request {
    tensors: Bucket,
    /// Lengths of the bucket's tensors, if they are joined into one.
    joined: Option<Vec<usize>>,
}

impl Request {
    /// Joins a bucket into one tensor, in the queue of the calling thread.
    fn joined(bucket: Bucket) -> Self {
        let lengths = bucket.iter().map(|tensor| tensor.dims()[0]).collect();
        let tensors = if bucket.is_empty() { bucket } else { vec![Tensor::cat(bucket, 0)] };
        Self { tensors, joined: Some(lengths) }
    }

    /// Returns the bucket's tensors, split again, in the queue of the calling thread, if they were joined.
    fn into_bucket(self) -> Bucket {
        let Self { mut tensors, joined } = self;
        let Some(lengths) = joined else { return tensors };
        let Some(sum) = tensors.pop() else { return tensors };
        // If the factor has another owner, the product gets memory of its own, which belongs to this queue.
        let own = sum.clone() * 1.0;
        let mut start = 0;
        let next = |length: usize| {
            let tensor = own.clone().narrow(0, start, length);
            start += length;
            tensor
        };
        lengths.into_iter().map(next).collect()
    }
}

/// Summing thread and its channels. Sums arrive in the order of the requests.
pub struct Sums {
    group: Arc<ProcessGroup>,
    requests: Option<flume::Sender<Request>>,
    results: flume::Receiver<Result<Request, ReduceError>>,
    is_on_host: bool,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Sums {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sums").field("group", &self.group).finish_non_exhaustive()
    }
}

impl Sums {
    /// Starts the thread, which sums by `reduce` over the ranks of `group`.
    ///
    /// # Errors
    /// If the system refuses a thread.
    #[expect(clippy::disallowed_methods, reason = "the queues hold the gradients of one step, which exist anyway")]
    pub fn start(group: &Arc<ProcessGroup>, reduce: Box<dyn AllReduce>) -> io::Result<Self> {
        let (requests, requested) = flume::unbounded::<Request>();
        let (sender, results) = flume::unbounded();
        let is_on_host = reduce.is_on_host();
        let sum_all = move || {
            for Request { tensors, joined } in requested {
                let sum = catch_panic(|| reduce.sum(tensors)).unwrap_or_else(|message| {
                    Err(ReduceError::Device(format!("the thread of its sums panicked: {message}")))
                });
                let sum = sum.map(|tensors| Request { tensors, joined });
                // After an error the other ranks must not receive the next bucket in place of the missing one.
                let failed = sum.is_err();
                if sender.send(sum).is_err() || failed {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("sums".into()).spawn(sum_all)?;
        Ok(Self { group: Arc::clone(group), requests: Some(requests), results, is_on_host, thread: Some(thread) })
    }

    /// Returns a handle for requesting sums.
    #[must_use]
    pub fn requests(&self) -> Requests {
        Requests { sender: self.requests.clone(), is_on_host: self.is_on_host }
    }

    /// Waits for the next sum, whose tensors are in the queue of the calling thread.
    ///
    /// # Errors
    /// If the group has failed, or this rank's device, or if no sum arrives within the timeout for a lost rank (for
    /// example because MPI waits for a hung rank). Sums that were requested later are then lost as well.
    pub fn wait(&self) -> Result<Vec<Tensor<1>>, ReduceError> {
        let patience = self.group.longest_wait();
        let deadline = Instant::now() + patience;
        let mut noticed = None;
        loop {
            match self.results.recv_timeout(CHECK_INTERVAL) {
                Ok(sum) => return sum.map(Request::into_bucket),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(ReduceError::Device("the thread of its sums has ended".into()));
                }
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(failure) = self.group.failure() {
                        // The sum may have arrived before the failure, or the thread brings the failure itself.
                        let noticed = *noticed.get_or_insert_with(Instant::now);
                        if self.group.is_of_mpi() || noticed.elapsed() >= PATIENCE {
                            return Err(failure.into());
                        }
                    }
                    if Instant::now() >= deadline {
                        let message =
                            format!("no sum of gradients in {} s; does another rank hang?", patience.as_secs());
                        return Err(ReduceError::Device(message));
                    }
                }
            }
        }
    }

    /// Returns the value of [`AllReduce::is_on_host`].
    #[must_use]
    pub fn is_on_host(&self) -> bool {
        self.is_on_host
    }
}

impl Drop for Sums {
    fn drop(&mut self) {
        self.requests = None;
        let Some(thread) = self.thread.take() else { return };
        if std::thread::panicking() {
            // The thread may wait for others without end, and they for this rank: gates that are open keep its queue open.
            self.group.abort("a panic during a step");
            return;
        }
        // After a failure, MPI waits for the lost rank without end: the thread then ends with the process.
        let deadline = Instant::now() + PATIENCE;
        while self.group.failure().is_some() && !thread.is_finished() {
            if Instant::now() >= deadline {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        // A panic of the thread was passed on as an error.
        let _ = thread.join();
    }
}

/// Handle for requesting sums, owned separately from the part that waits for them.
#[derive(Clone)]
pub struct Requests {
    sender: Option<flume::Sender<Request>>,
    is_on_host: bool,
}

impl Requests {
    /// Requests the sum of each of `tensors` over the ranks.
    pub fn add(&self, tensors: Vec<Tensor<1>>) {
        if let Some(sender) = &self.sender {
            let request = if self.is_on_host { Request { tensors, joined: None } } else { Request::joined(tensors) };
            // A thread that has ended is noticed when the sum does not arrive.
            let _ = sender.send(request);
        }
    }
}
