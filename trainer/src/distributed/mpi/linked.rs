//! MPI through the library to which this program is linked.

use std::fmt;
use std::mem::ManuallyDrop;
use std::net::TcpListener;

use burn::tensor::Tensor;
use hiend_cache::lease::host_name;
use mpi::Threading;
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator as _, CommunicatorCollectives as _, Root as _};
use serde::{Deserialize, Serialize};

use super::MpiError;
use crate::distributed::all_reduce::{AllReduce, HostSum, ReduceError, sum_on_host};
use crate::distributed::pairwise::Pairwise;
use crate::distributed::peer::PeerFailure;
use crate::distributed::rendezvous::JoinError;
use crate::distributed::tcp_sum::{BUCKET, added};
use crate::distributed::token::Token;
use crate::distributed::world::{Listener, Master, MpiAddress, World};
use crate::variable;

/// MPI in this process. Ended only by [`Self::end`]: after a failure, ending MPI would wait for lost ranks.
pub struct Mpi {
    universe: ManuallyDrop<Universe>,
}

impl fmt::Debug for Mpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mpi")
    }
}

/// Address and secret that rank 0 sends to the others.
#[derive(Serialize, Deserialize)]
struct Announcement {
    host: String,
    port: u16,
    token: String,
}

impl Mpi {
    /// Starts MPI, for calls of one thread at a time. Must be called by the main thread.
    ///
    /// # Errors
    /// If MPI runs already, or its library allows calls of the main thread only.
    pub fn start() -> Result<Self, MpiError> {
        let (universe, threading) = mpi::initialize_with_threading(Threading::Serialized).ok_or(MpiError::Twice)?;
        let universe = ManuallyDrop::new(universe);
        if threading < Threading::Serialized { Err(MpiError::Threads) } else { Ok(Self { universe }) }
    }

    /// Finds the place of this process, opens the socket of rank 0, and sends its address and the token of the run to
    /// all ranks. Rank 0 listens at `listen`, or else at `MASTER_ADDR`, or else at its host's name; at 127.0.0.1 if all
    /// ranks are on its machine.
    ///
    /// # Errors
    /// If rank 0 cannot listen, or one of `HIEND_TOKEN` (too short), `MASTER_ADDR` and `MASTER_PORT` is not usable.
    pub fn world(&self, listen: Option<&str>) -> Result<(World, Token), MpiError> {
        let all = self.universe.world();
        let (rank, num_ranks) = (all.rank() as usize, all.size() as usize);
        let (local_rank, num_sharing) = {
            let machine = all.split_shared(all.rank());
            (machine.rank() as usize, machine.size() as usize)
        };
        let (own, listener) = match rank {
            0 => {
                let (announcement, listener) = announce(listen, num_sharing == num_ranks)?;
                (serde_json::to_vec(&announcement).map_err(MpiError::Announcement)?, Some(Listener::new(listener)))
            }
            _ => (vec![], None),
        };
        let announced = from_first(&all, own);
        let Announcement { host, port, token } = serde_json::from_slice(&announced).map_err(MpiError::Announcement)?;
        let master = Master::Mpi(Some(MpiAddress { host, port, listener }));
        let world = World { rank, num_ranks, local_rank, num_sharing, may_see_one_gpu: false, master };
        Ok((world, Token::new(token)?))
    }

    /// Ends MPI, once all ranks have ended their runs without an error. Must be called by the thread that started it.
    pub fn end(self) {
        drop(ManuallyDrop::into_inner(self.universe));
    }
}

/// Opens the socket of rank 0.
fn announce(listen: Option<&str>, one_machine: bool) -> Result<(Announcement, TcpListener), MpiError> {
    let host = match variable::text("MASTER_ADDR")? {
        Some(host) => host,
        None if one_machine => "127.0.0.1".to_owned(),
        None => host_name(),
    };
    let port = variable::text("MASTER_PORT")?.unwrap_or_else(|| "0".into());
    let at = listen.unwrap_or(&host);
    let failed = |source| JoinError::Listen { address: format!("{at}:{port}"), source };
    let number: u16 = port.parse::<u16>().map_err(|error| failed(std::io::Error::other(error)))?;
    let listener = TcpListener::bind((at, number)).map_err(failed)?;
    let port = listener.local_addr().map_err(failed)?.port();
    let token = match Token::of_environment() {
        Err(crate::distributed::TokenError::Missing) => Token::random()?,
        token => token?,
    };
    Ok((Announcement { host, port, token: token.text().to_owned() }, listener))
}

/// Sends the bytes of rank 0 to all ranks.
fn from_first(all: &SimpleCommunicator, own: Vec<u8>) -> Vec<u8> {
    let first = all.process_at_rank(0);
    let mut bytes = own;
    let mut len = bytes.len() as u64;
    first.broadcast_into(&mut len);
    bytes.resize(len as usize, 0);
    first.broadcast_into(&mut bytes[..]);
    bytes
}

/// Sums over all ranks of MPI, between the start and the end of [`Mpi`]. Only one thread at a time may call it, and no
/// other MPI function meanwhile.
#[derive(Clone, Copy, Debug, Default)]
pub struct MpiSum;

impl MpiSum {
    /// Sums values over the ranks.
    #[must_use]
    pub fn sum_floats(&self, values: &[f32]) -> Vec<f32> {
        let mut exchange = Exchange::new();
        exchange.append(values);
        exchange.end()
    }
}

impl AllReduce for MpiSum {
    fn sum(&self, tensors: Vec<Tensor<1>>) -> Result<Vec<Tensor<1>>, ReduceError> {
        sum_on_host(tensors, Exchange::new())
    }

    fn is_on_host(&self) -> bool {
        true
    }
}

/// Sum in progress, bucket by bucket.
struct Exchange {
    all: SimpleCommunicator,
    /// Values of the bucket being filled.
    filling: Vec<f32>,
    sums: Vec<f32>,
}

impl Exchange {
    fn new() -> Self {
        Self { all: SimpleCommunicator::world(), filling: vec![], sums: vec![] }
    }

    fn append(&mut self, mut values: &[f32]) {
        while !values.is_empty() {
            let (now, later) = values.split_at(values.len().min(BUCKET - self.filling.len()));
            self.filling.extend_from_slice(now);
            values = later;
            if self.filling.len() == BUCKET {
                self.exchange();
            }
        }
    }

    fn end(mut self) -> Vec<f32> {
        if !self.filling.is_empty() {
            self.exchange();
        }
        self.sums
    }

    /// Sums the bucket over the ranks; each rank adds one slice of it.
    fn exchange(&mut self) {
        let len = self.filling.len();
        let num_ranks = self.all.size() as usize;
        let slice = len.div_ceil(num_ranks);
        self.filling.resize(slice * num_ranks, 0.0);
        let mut parts = vec![0f32; slice * num_ranks];
        self.all.all_to_all_into(&self.filling[..], &mut parts[..]);
        let mut sum = Pairwise::default();
        parts.chunks_exact(slice).for_each(|part| sum.push(part.to_vec(), added));
        let own = sum.finish(added).unwrap_or_default();
        self.all.all_gather_into(&own[..], &mut self.filling[..]);
        self.sums.extend_from_slice(&self.filling[..len]);
        self.filling.clear();
    }
}

// Errors of MPI end the process: none is returned.
impl HostSum for Exchange {
    fn add(&mut self, values: &[f32]) -> Result<(), PeerFailure> {
        self.append(values);
        Ok(())
    }

    fn finish(self) -> Result<Vec<f32>, PeerFailure> {
        Ok(self.end())
    }
}
