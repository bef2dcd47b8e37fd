//! How ranks find each other: rank 0 listens, the others connect and prove that they know the token.
//!
//! | step | sender | bytes |
//! |---|---|---|
//! | greeting | rank 0 | [`MAGIC`], random number |
//! | claim | rank | random number, rank and number of ranks (`u32`, little-endian), name, proof over all of these |
//! | answer | rank 0 | [`JOINED`], name, proof over both random numbers |
//! | or | rank 0 | [`MISFIT`], the reason, proof over both random numbers and the reason |
//! | or | rank 0 | [`UNKNOWN`], the reason: without a proof, which a rank with another token could not check |
//!
//! A text is one byte of length and UTF-8. Nothing that a connection sends before its proof is believed or kept, and
//! a connection that does not prove itself in time is dropped without holding up the others. A rank that is refused
//! without a proof, or meets another program at the address, tries again, since anybody may have answered.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hiend_cache::durable;
use hiend_loader::program::escape_name;

use super::group::{Core, Timeouts};
use super::link::{Link, Peer};
use super::peer::PeerFailure;
use super::token::{NONCE, Token, random};
use super::world::{Master, World};

/// First bytes of a connection, with the version of the protocol.
const MAGIC: &[u8; 16] = b"hiend-ranks  v1\n";
/// First byte of the answer to a rank that has joined.
const JOINED: u8 = 0;
/// First byte of the answer to a process with another token.
const UNKNOWN: u8 = 1;
/// First byte of the answer to a process that knows the token but does not fit.
const MISFIT: u8 = 2;
/// Time for a whole handshake, and for a connection to be established.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Maximum number of connections in the handshake at a time.
const MAX_HANDSHAKES: usize = 256;
/// Interval at which rank 0 looks for new connections.
const ACCEPT_INTERVAL: Duration = Duration::from_millis(10);
/// Interval at which a rank tries again to connect.
const CONNECT_INTERVAL: Duration = Duration::from_millis(100);
/// Interval at which a rank tries again after a refusal without a proof.
const REFUSED_INTERVAL: Duration = Duration::from_secs(2);

/// A failure to bring the ranks together.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Rank 0 cannot listen.
    #[error("rank 0 cannot listen at {address} (MASTER_ADDR and MASTER_PORT, or --listen)")]
    Listen {
        /// The address.
        address: String,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// Rank 0 cannot announce its address.
    #[error(transparent)]
    Announce(#[from] hiend_cache::FileError),
    /// Some ranks did not appear.
    #[error(
        "{} of {num_ranks} ranks joined within {secs} s; missing: {}{}",
        num_ranks - missing.len(), ranges(missing), Refused(*refused, last_refused.as_deref())
    )]
    Missing {
        /// Number of ranks.
        num_ranks: usize,
        /// Ranks that did not appear, ascending.
        missing: Vec<usize>,
        /// Time waited, seconds.
        secs: u64,
        /// Number of connections without the token.
        refused: usize,
        /// Origin of the last of them.
        last_refused: Option<String>,
    },
    /// Rank 0 does not answer.
    #[error("rank {rank} cannot reach rank 0 at {address} within {secs} s")]
    Unreachable {
        /// This rank.
        rank: usize,
        /// Address of rank 0.
        address: String,
        /// Time waited, seconds.
        secs: u64,
        /// The last error.
        #[source]
        source: io::Error,
    },
    /// Rank 0 refused this process.
    #[error("rank 0 at {address} refused rank {rank}: {reason}")]
    Refused {
        /// This rank.
        rank: usize,
        /// Address of rank 0.
        address: String,
        /// The reason.
        reason: String,
    },
    /// The program at the address is not rank 0 of this run.
    #[error("the program at {address} is not rank 0 of this run: {reason}")]
    Stranger {
        /// The address.
        address: String,
        /// The difference.
        reason: &'static str,
    },
    /// A process with the token that does not fit.
    #[error("{0}")]
    Misfit(String),
    /// A rank that had joined failed before the others appeared.
    #[error(transparent)]
    Peer(#[from] PeerFailure),
    /// A connection cannot be set up.
    #[error("connection to rank {rank}")]
    Setup {
        /// The other rank.
        rank: usize,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

/// Advice on refused connections.
struct Refused<'a>(usize, Option<&'a str>);

impl std::fmt::Display for Refused<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self(0, _) => Ok(()),
            Self(count, from) => {
                let connections = hiend_loader::program::count(*count, "connection");
                let from = from.unwrap_or("?");
                write!(f, "; refused {connections} without the token of this run, the last from {from}")
            }
        }
    }
}

/// Formats ascending numbers as ranges, such as `1-3, 7`.
pub(super) fn ranges(numbers: &[usize]) -> String {
    let runs = numbers.chunk_by(|a, b| a + 1 == *b);
    let run = |run: &[usize]| match run {
        [one] => one.to_string(),
        [first, .., last] => format!("{first}-{last}"),
        [] => String::new(),
    };
    runs.map(run).collect::<Vec<_>>().join(", ")
}

/// Host and process of this rank.
pub(super) fn own_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = if host.trim().is_empty() { "unknown host" } else { host.trim() };
    let short: String = host.chars().take(100).collect();
    format!("{short}, process {}", std::process::id())
}

/// A process that has proved that it knows the token.
struct Claim {
    stream: TcpStream,
    rank: usize,
    name: String,
}

/// Result of a handshake, as rank 0 sees it.
enum Shake {
    Joined(Claim),
    /// Process with the token whose rank or number of ranks does not fit.
    Misfit(String),
    /// Unknown token, or no handshake at all.
    Refused(SocketAddr),
}

/// One of the handshakes in progress, counted until it is dropped.
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

/// A connection during its handshake, all reads and writes of which end at one deadline.
struct Timed {
    stream: TcpStream,
    deadline: Instant,
}

impl Timed {
    fn new(stream: TcpStream, limit: Duration) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, deadline: Instant::now() + limit })
    }

    /// Time left; never zero, which a socket would take for no limit.
    fn left(&self) -> io::Result<Option<Duration>> {
        match self.deadline.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(io::Error::new(io::ErrorKind::TimedOut, "the handshake takes too long")),
            left => Ok(Some(left)),
        }
    }
}

impl Read for Timed {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(bytes)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Listens until all ranks have joined.
pub(super) fn accept_all(
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
        // Errors of single connections, such as one that is closed again at once, concern nobody else.
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

/// Opens the listening socket, at the address told and nowhere else.
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

/// Rank 0's side of the handshake.
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
        stream.write_all(&[&[UNKNOWN], text("its HIEND_TOKEN is another one").as_slice()].concat())?;
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

/// Connects to rank 0, which may not listen yet.
pub(super) fn connect(
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
        Master::Address { host, port } => {
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

/// The reason that rank 0 did not take this process.
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

/// The side of a rank other than 0. Returns the name of rank 0.
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

fn numbers(rank: usize, num_ranks: usize) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&(rank as u32).to_le_bytes());
    bytes[4..].copy_from_slice(&(num_ranks as u32).to_le_bytes());
    bytes
}

fn parse_numbers(bytes: [u8; 8]) -> (usize, usize) {
    let [a, b, c, d, e, f, g, h] = bytes;
    (u32::from_le_bytes([a, b, c, d]) as usize, u32::from_le_bytes([e, f, g, h]) as usize)
}

/// A text as bytes, cut to 255 of them at a character's start.
fn text(text: &str) -> Vec<u8> {
    let text = &text[..text.floor_char_boundary(255)];
    [&[text.len() as u8], text.as_bytes()].concat()
}

fn read_array<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn read_text(from: &mut impl Read) -> io::Result<String> {
    let [length] = read_array(from)?;
    let mut bytes = vec![0; usize::from(length)];
    from.read_exact(&mut bytes)?;
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Name of the file in which rank 0 of own children announces its address.
pub(super) fn announcement(folder: &std::path::Path) -> PathBuf {
    folder.join("address")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_ranks_are_listed_as_ranges() {
        assert_eq!(ranges(&[1, 2, 3, 7, 9, 10]), "1-3, 7, 9-10");
        let missing = |refused, last_refused: Option<&str>| JoinError::Missing {
            num_ranks: 4,
            missing: vec![2, 3],
            secs: 5,
            refused,
            last_refused: last_refused.map(str::to_owned),
        };
        assert_eq!(missing(0, None).to_string(), "2 of 4 ranks joined within 5 s; missing: 2-3");
        let refused = missing(1, Some("10.0.0.7")).to_string();
        assert!(
            refused.ends_with("refused 1 connection without the token of this run, the last from 10.0.0.7"),
            "{refused}"
        );
    }

    #[test]
    fn handshake_ends_at_its_deadline_although_bytes_arrive() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut timed = Timed::new(listener.accept().unwrap().0, HANDSHAKE).unwrap();
        sender.write_all(b"ab").unwrap();
        assert_eq!(read_array(&mut timed).unwrap(), *b"a");
        timed.deadline = Instant::now();
        let error = read_array::<1>(&mut timed).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn handshakes_are_counted_until_they_are_dropped() {
        let count = Arc::new(AtomicUsize::new(0));
        let active = [Active::new(&count), Active::new(&count)];
        assert_eq!(count.load(Ordering::Relaxed), 2);
        drop(active);
        assert_eq!(count.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let long = "é".repeat(200);
        let bytes = text(&long);
        assert_eq!(bytes[0], 254);
        assert_eq!(read_text(&mut bytes.as_slice()).unwrap(), "é".repeat(127));
    }
}
