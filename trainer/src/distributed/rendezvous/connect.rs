//! The rendezvous as seen by the ranks other than 0, which connect to rank 0.

use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hiend_loader::program::escape_name;

use super::JoinError;
use super::handshake::{HANDSHAKE, JOINED, MAGIC, MISFIT, Timed, numbers, read_array, read_text, text};
use crate::distributed::group::Timeouts;
use crate::distributed::group_core::Core;
use crate::distributed::incoming::Peer;
use crate::distributed::link::Link;
use crate::distributed::token::{NONCE, Token, random};
use crate::distributed::world::{Master, MpiAddress, World};

/// Interval between attempts to connect.
const CONNECT_INTERVAL: Duration = Duration::from_millis(100);
/// Interval between attempts after a refusal without a proof.
const REFUSED_INTERVAL: Duration = Duration::from_secs(2);

/// Connects to rank 0, which may not be listening yet.
pub(in crate::distributed) fn connect(
    world: &World,
    token: &Token,
    timeouts: Timeouts,
    name: &str,
    core: &Arc<Core>,
) -> Result<Link, JoinError> {
    let deadline = Instant::now() + timeouts.join;
    let mut last;
    // The last refusal without a proof, or the last stranger at the address: it counts if nothing better is found in time.
    let mut refusal = None;
    loop {
        let mut interval = CONNECT_INTERVAL;
        match find(&world.master) {
            Ok(addresses) => {
                last = io::Error::from(io::ErrorKind::AddrNotAvailable);
                for address in addresses {
                    match TcpStream::connect_timeout(&address, HANDSHAKE) {
                        Ok(stream) => match introduce(stream, token, world, name) {
                            Ok((stream, name)) => {
                                let peer = Peer { rank: 0, name, index: 0 };
                                let link = Link::start(stream, peer, core, timeouts.peer);
                                return link.map_err(|source| JoinError::Setup { rank: 0, source });
                            }
                            Err(Introduction::Misfit(reason)) => {
                                let address = address.to_string();
                                return Err(JoinError::Refused { rank: world.rank, address, reason });
                            }
                            Err(Introduction::Refused(reason)) => {
                                let address = address.to_string();
                                if refusal.is_none() {
                                    tracing::warn!(
                                        "{address} refuses rank {}, and is asked again: {reason}",
                                        world.rank
                                    );
                                }
                                refusal = Some(JoinError::Refused { rank: world.rank, address, reason });
                                last = io::Error::from(io::ErrorKind::ConnectionRefused);
                                interval = REFUSED_INTERVAL;
                            }
                            // Rank 0 may not have taken its address yet, or its host may have several.
                            Err(Introduction::Stranger(reason)) => {
                                let stranger = JoinError::Stranger { address: address.to_string(), reason };
                                if refusal.is_none() {
                                    tracing::warn!("{stranger}; rank {} tries again", world.rank);
                                }
                                refusal = Some(stranger);
                                last = io::Error::from(io::ErrorKind::ConnectionRefused);
                                interval = REFUSED_INTERVAL;
                            }
                            Err(Introduction::Io(error)) => last = error,
                        },
                        Err(error) => last = error,
                    }
                }
            }
            Err(error) => last = error,
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let (rank, address, secs) = (world.rank, world.master.to_string(), timeouts.join.as_secs());
            return Err(refusal.unwrap_or(JoinError::Unreachable { rank, address, secs, source: last }));
        }
        std::thread::sleep(interval.min(left));
    }
}

/// Addresses of rank 0.
fn find(master: &Master) -> io::Result<Vec<SocketAddr>> {
    match master {
        Master::Mpi(None) => Err(io::Error::other("MPI has not passed on the address of rank 0")),
        Master::Address { host, port } | Master::Mpi(Some(MpiAddress { host, port, .. })) => {
            let mut addresses: Vec<_> = (host.as_str(), *port).to_socket_addrs()?.collect();
            addresses.sort_by_key(|address| matches!(address.ip(), IpAddr::V6(_)));
            Ok(addresses)
        }
        Master::File(path) => {
            let text = std::fs::read_to_string(path)?;
            Ok(vec![text.parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?])
        }
    }
}

/// Reason why rank 0 did not accept this process.
enum Introduction {
    /// Refusal by rank 0, with proof of the token.
    Misfit(String),
    /// Refusal without a proof, which any program may have sent.
    Refused(String),
    Stranger(&'static str),
    /// Failure of the connection, after which the rank tries again.
    Io(io::Error),
}

impl From<io::Error> for Introduction {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Performs the handshake on the side of a rank other than 0. Returns the connection and the name of rank 0.
fn introduce(stream: TcpStream, token: &Token, world: &World, name: &str) -> Result<(TcpStream, String), Introduction> {
    let mut stream = Timed::new(stream, HANDSHAKE)?;
    let magic: [u8; MAGIC.len()] = read_array(&mut stream)?;
    if magic != *MAGIC {
        return Err(Introduction::Stranger("another program, or another version of hiend-train"));
    }
    let theirs: [u8; NONCE] = read_array(&mut stream)?;
    let own = random()?;
    let numbers = numbers(world.rank, world.num_ranks);
    let proof = token.proof(&[b"claim", &theirs, &own, &numbers, name.as_bytes()]);
    stream.write_all(&[own.as_slice(), &numbers, &text(name), proof.as_bytes()].concat())?;
    let [status] = read_array(&mut stream)?;
    let answer = read_text(&mut stream)?;
    let escaped = escape_name(&answer).into_owned();
    if status != JOINED && status != MISFIT {
        return Err(Introduction::Refused(escaped));
    }
    let proof = blake3::Hash::from_bytes(read_array(&mut stream)?);
    if status == MISFIT {
        let proven = token.proof(&[b"misfit", &theirs, &own, answer.as_bytes()]) == proof;
        return Err(if proven { Introduction::Misfit(escaped) } else { Introduction::Refused(escaped) });
    }
    if token.proof(&[b"answer", &theirs, &own]) != proof {
        return Err(Introduction::Stranger("it does not know the HIEND_TOKEN of this run"));
    }
    Ok((stream.stream, escaped))
}
