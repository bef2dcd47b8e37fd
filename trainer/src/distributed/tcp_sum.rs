//! Sums on the host, over the group's own connections: needs no installed library, and gives the same bits in every
//! run.
//!
//! Gradients are cut into buckets. Ranks send theirs to rank 0, which adds the buckets of all ranks in pairs
//! ([`Pairwise`]) in rank order, and sends the sum back. Reading a bucket from the device, sending, adding and
//! receiving overlap, with [`WINDOW`] buckets in flight per rank.
//!
//! Rank 0 receives and sends the gradients of all other ranks: this suits the ranks of one machine and tests, whereas
//! with many machines its network card is the limit. `docs/distributed.md` has the arithmetic.

use std::collections::VecDeque;
use std::sync::Arc;

use burn::tensor::Tensor;

use super::all_reduce::{AllReduce, HostSum, ReduceError, sum_on_host};
use super::group::ProcessGroup;
use super::pairwise::Pairwise;
use super::peer::PeerFailure;
use super::wire::{Frame, Kind, bytes_of, floats_of};

/// Number of floats in a bucket: 4 MiB.
pub(super) const BUCKET: usize = 1 << 20;
/// Number of buckets that a rank sends before it waits for the first sum. It is less than the queues of a connection
/// hold, so that no thread ever waits for room in a queue while another thread waits for it.
pub(super) const WINDOW: usize = 4;

/// Sums over the connections of a group.
#[derive(Debug)]
pub struct TcpSum {
    group: Arc<ProcessGroup>,
}

impl TcpSum {
    /// Creates a sum over the ranks of `group`.
    #[must_use]
    pub fn new(group: Arc<ProcessGroup>) -> Self {
        Self { group }
    }

    /// Sums values over the ranks.
    ///
    /// # Errors
    /// If the group has failed.
    pub fn sum_floats(&self, values: &[f32]) -> Result<Vec<f32>, PeerFailure> {
        let mut buckets = Buckets::new(&self.group);
        buckets.add(values)?;
        buckets.finish()
    }
}

impl AllReduce for TcpSum {
    fn sum(&self, tensors: Vec<Tensor<1>>) -> Result<Vec<Tensor<1>>, ReduceError> {
        sum_on_host(tensors, Buckets::new(&self.group))
    }

    fn is_on_host(&self) -> bool {
        true
    }
}

/// Sum in progress, bucket by bucket.
struct Buckets<'a> {
    group: &'a ProcessGroup,
    /// Values of the bucket being filled.
    filling: Vec<f32>,
    /// Lengths of the buckets whose sums have not arrived.
    in_flight: VecDeque<usize>,
    sums: Vec<f32>,
}

impl<'a> Buckets<'a> {
    fn new(group: &'a ProcessGroup) -> Self {
        Self { group, filling: Vec::with_capacity(BUCKET), in_flight: VecDeque::new(), sums: vec![] }
    }

    fn send(&mut self) -> Result<(), PeerFailure> {
        let bucket = std::mem::replace(&mut self.filling, Vec::with_capacity(BUCKET));
        if self.group.rank() == 0 {
            let sum = self.add_all(bucket)?;
            self.sums.extend_from_slice(&sum);
            return Ok(());
        }
        self.in_flight.push_back(bucket.len());
        self.group.send(0, Frame::new(Kind::Sum, bytes_of(&bucket)));
        if self.in_flight.len() > WINDOW { self.receive() } else { Ok(()) }
    }

    /// Rank 0's part: adds the other ranks' buckets to its own and sends the sum to all.
    fn add_all(&self, own: Vec<f32>) -> Result<Vec<f32>, PeerFailure> {
        let len = own.len();
        let mut sum = Pairwise::default();
        sum.push(own, added);
        for rank in 1..self.group.num_ranks() {
            sum.push(self.bucket_of(rank, len)?, added);
        }
        let sum = sum.finish(added).unwrap_or_default();
        let frame = Frame::new(Kind::Sum, bytes_of(&sum));
        (1..self.group.num_ranks()).for_each(|rank| self.group.send(rank, frame.clone()));
        Ok(sum)
    }

    fn receive(&mut self) -> Result<(), PeerFailure> {
        if let Some(len) = self.in_flight.pop_front() {
            let sum = self.bucket_of(0, len)?;
            self.sums.extend_from_slice(&sum);
        }
        Ok(())
    }

    fn bucket_of(&self, rank: usize, len: usize) -> Result<Vec<f32>, PeerFailure> {
        let payload = self.group.receive(rank, Kind::Sum)?.frame.payload;
        floats_of(&payload, len).ok_or_else(|| {
            self.group.protocol(rank, format!("{} bytes of gradients where {} were expected", payload.len(), 4 * len))
        })
    }
}

impl HostSum for Buckets<'_> {
    /// Appends values, and sends the buckets that they fill.
    fn add(&mut self, mut values: &[f32]) -> Result<(), PeerFailure> {
        while !values.is_empty() {
            let (now, later) = values.split_at(values.len().min(BUCKET - self.filling.len()));
            self.filling.extend_from_slice(now);
            values = later;
            if self.filling.len() == BUCKET {
                self.send()?;
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<f32>, PeerFailure> {
        if !self.filling.is_empty() {
            self.send()?;
        }
        while !self.in_flight.is_empty() {
            self.receive()?;
        }
        Ok(self.sums)
    }
}

/// Adds two buckets, value by value.
pub(super) fn added(mut sum: Vec<f32>, values: Vec<f32>) -> Vec<f32> {
    sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
    sum
}
