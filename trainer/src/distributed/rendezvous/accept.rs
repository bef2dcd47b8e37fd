//! Rank 0's side: listens until all ranks have joined.

use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hiend_cache::durable;

use super::JoinError;
use super::handshake::{HANDSHAKE, JOINED, MAGIC, MISFIT, Timed, UNKNOWN, parse_numbers, read_array, read_text, text};
use crate::distributed::group::Timeouts;
use crate::distributed::group_core::Core;
use crate::distributed::incoming::Peer;
use crate::distributed::link::Link;
use crate::distributed::token::{NONCE, Token, random};
use crate::distributed::world::{Master, MpiAddress, World};

/// Maximum number of handshakes at a time.
const MAX_HANDSHAKES: usize = 256;
/// Interval at which rank 0 looks for new connections.
const ACCEPT_INTERVAL: Duration = Duration::from_millis(10);

/// A process that has proved that it knows the token.
struct Claim {
    stream: TcpStream,
    rank: usize,
    name: String,
}

/// Result of a handshake on the side of rank 0.
enum Shake {
    Joined(Claim),
    /// A process with the token whose rank or number of ranks contradicts the run.
    Misfit(String),
    /// Address of a process with an unknown token, or without a handshake at all.
    Refused(SocketAddr),
}

/// A handshake in progress, counted until it is dropped.
struct Active(Arc<AtomicUsize>);

impl Active {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Listens until all ranks have joined.
pub(in crate::distributed) fn accept_all(
    world: &World,
    token: &Token,
    timeouts: Timeouts,
    listen: Option<&str>,
    name: &str,
    core: &Arc<Core>,
    links: &mut Vec<Link>,
) -> Result<(), JoinError> {
    let listener = listener(world, listen)?;
    let deadline = Instant::now() + timeouts.join;
    let (sender, shakes) = flume::bounded(MAX_HANDSHAKES);
    let active = Arc::new(AtomicUsize::new(0));
    let (mut refused, mut last_refused) = (0, None);
    while links.len() + 1 < world.num_ranks {
        if let Some(failure) = core.inbox.failure() {
            return Err(failure.into());
        }
        if Instant::now() >= deadline {
            let joined = |rank: usize| rank == 0 || links.iter().any(|link| link.peer.rank == rank);
            let missing = (0..world.num_ranks).filter(|&rank| !joined(rank)).collect();
            let secs = timeouts.join.as_secs();
            return Err(JoinError::Missing { num_ranks: world.num_ranks, missing, secs, refused, last_refused });
        }
        // Errors of single connections, such as one that is closed again at once, concern no other connection.
        while let Ok((stream, from)) = listener.accept() {
            if active.load(Ordering::Relaxed) >= MAX_HANDSHAKES {
                continue;
            }
            let active = Active::new(&active);
            let (token, name, num_ranks) = (token.clone(), name.to_owned(), world.num_ranks);
            let sender = sender.clone();
            let shake = move || {
                let shake = answer(stream, &token, &name, num_ranks).unwrap_or(Shake::Refused(from));
                drop(active);
                let _ = sender.send(shake);
            };
            // If no thread can be started, the rank is reported as missing.
            let _ = std::thread::Builder::new().name("handshake".into()).spawn(shake);
        }
        match shakes.recv_timeout(ACCEPT_INTERVAL) {
            Ok(Shake::Joined(Claim { stream, rank, name })) => {
                if let Some(link) = links.iter().find(|link| link.peer.rank == rank) {
                    let twice = format!("two processes say that they are rank {rank}: {} and {name}", link.peer.name);
                    return Err(JoinError::Misfit(twice));
                }
                let peer = Peer { rank, name, index: rank - 1 };
                let link = Link::start(stream, peer, core, timeouts.peer);
                links.push(link.map_err(|source| JoinError::Setup { rank, source })?);
            }
            Ok(Shake::Misfit(reason)) => return Err(JoinError::Misfit(reason)),
            Ok(Shake::Refused(from)) => {
                tracing::warn!("refused a connection from {from}: no proof of this run's token");
                refused += 1;
                last_refused = Some(from.ip().to_string());
            }
            Err(_) => {}
        }
    }
    links.sort_by_key(|link| link.peer.rank);
    Ok(())
}

/// Opens the listening socket, only at the announced address.
fn listener(world: &World, listen: Option<&str>) -> Result<TcpListener, JoinError> {
    let bind = |host: &str, port: u16| -> io::Result<TcpListener> {
        let listener = TcpListener::bind((host, port))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    match &world.master {
        Master::Address { host, port } => bind(listen.unwrap_or(host), *port).map_err(|source| JoinError::Listen {
            address: listen.map_or_else(|| world.master.to_string(), |listen| format!("{listen}:{port}")),
            source,
        }),
        Master::Mpi(address) => {
            let own = address.as_ref().and_then(|MpiAddress { listener, .. }| listener.as_ref());
            let unknown = || io::Error::other("MPI has not passed on the address of rank 0");
            let opened = own.ok_or_else(unknown).and_then(|listener| {
                let listener = listener.0.try_clone()?;
                listener.set_nonblocking(true)?;
                Ok(listener)
            });
            opened.map_err(|source| JoinError::Listen { address: world.master.to_string(), source })
        }
        Master::File(path) => {
            let loopback = "127.0.0.1";
            let announced = bind(loopback, 0).and_then(|listener| Ok((listener.local_addr()?, listener)));
            let (address, listener) =
                announced.map_err(|source| JoinError::Listen { address: loopback.to_owned(), source })?;
            durable::write(path, address.to_string().as_bytes())?;
            Ok(listener)
        }
    }
}

/// Performs rank 0's side of the handshake.
fn answer(stream: TcpStream, token: &Token, name: &str, num_ranks: usize) -> io::Result<Shake> {
    let from = stream.peer_addr()?;
    let mut stream = Timed::new(stream, HANDSHAKE)?;
    let own = random()?;
    stream.write_all(&[MAGIC.as_slice(), &own].concat())?;
    let theirs: [u8; NONCE] = read_array(&mut stream)?;
    let numbers: [u8; 8] = read_array(&mut stream)?;
    let peer_name = read_text(&mut stream)?;
    let proof: [u8; NONCE] = read_array(&mut stream)?;
    if token.proof(&[b"claim", &own, &theirs, &numbers, peer_name.as_bytes()]) != blake3::Hash::from_bytes(proof) {
        stream.write_all(&[&[UNKNOWN], text("its HIEND_TOKEN differs from rank 0's").as_slice()].concat())?;
        return Ok(Shake::Refused(from));
    }
    let (rank, ranks) = parse_numbers(numbers);
    let misfit = if ranks != num_ranks {
        Some(format!("rank {rank} ({peer_name}) is one of {ranks} ranks, rank 0 is one of {num_ranks}"))
    } else if rank == 0 || rank >= num_ranks {
        Some(format!("a second rank {rank} of {num_ranks} ({peer_name})"))
    } else {
        None
    };
    if let Some(reason) = misfit {
        let text = text(&reason);
        // The text without its length, as the rank reads it.
        let proof = token.proof(&[b"misfit", &own, &theirs, &text[1..]]);
        stream.write_all(&[&[MISFIT], text.as_slice(), proof.as_bytes()].concat())?;
        return Ok(Shake::Misfit(reason));
    }
    let proof = token.proof(&[b"answer", &own, &theirs]);
    stream.write_all(&[&[JOINED], text(name).as_slice(), proof.as_bytes()].concat())?;
    Ok(Shake::Joined(Claim { stream: stream.stream, rank, name: peer_name }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshakes_are_counted_until_they_are_dropped() {
        let count = Arc::new(AtomicUsize::new(0));
        let active = [Active::new(&count), Active::new(&count)];
        assert_eq!(count.load(Ordering::Relaxed), 2);
        drop(active);
        assert_eq!(count.load(Ordering::Relaxed), 0);
    }
}
