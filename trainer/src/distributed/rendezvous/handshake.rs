//! Bytes of a handshake, and the connection that carries them within a time limit.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// First bytes of a connection, with the version of the protocol.
pub(super) const MAGIC: &[u8; 16] = b"hiend-ranks  v1\n";
/// First byte of the answer to a rank that has joined.
pub(super) const JOINED: u8 = 0;
/// First byte of the answer to a process with another token.
pub(super) const UNKNOWN: u8 = 1;
/// First byte of the answer to a process that knows the token but contradicts the run.
pub(super) const MISFIT: u8 = 2;
/// Time for a whole handshake, and for a connection to be established.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(10);

/// A connection during its handshake; all reads and writes share one deadline.
pub(super) struct Timed {
    pub(super) stream: TcpStream,
    deadline: Instant,
}

impl Timed {
    /// Begins a handshake that ends within `limit`.
    pub(super) fn new(stream: TcpStream, limit: Duration) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, deadline: Instant::now() + limit })
    }

    /// Time left; never zero, because a socket would treat zero as no limit.
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

pub(super) fn numbers(rank: usize, num_ranks: usize) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&(rank as u32).to_le_bytes());
    bytes[4..].copy_from_slice(&(num_ranks as u32).to_le_bytes());
    bytes
}

pub(super) fn parse_numbers(bytes: [u8; 8]) -> (usize, usize) {
    let [a, b, c, d, e, f, g, h] = bytes;
    (u32::from_le_bytes([a, b, c, d]) as usize, u32::from_le_bytes([e, f, g, h]) as usize)
}

/// Converts a text to bytes, truncated at a character boundary to at most 255 bytes.
pub(super) fn text(text: &str) -> Vec<u8> {
    let text = &text[..text.floor_char_boundary(255)];
    [&[text.len() as u8], text.as_bytes()].concat()
}

pub(super) fn read_array<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

pub(super) fn read_text(from: &mut impl Read) -> io::Result<String> {
    let [length] = read_array(from)?;
    let mut bytes = vec![0; usize::from(length)];
    from.read_exact(&mut bytes)?;
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

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
    fn long_texts_are_cut_at_a_character() {
        let long = "é".repeat(200);
        let bytes = text(&long);
        assert_eq!(bytes[0], 254);
        assert_eq!(read_text(&mut bytes.as_slice()).unwrap(), "é".repeat(127));
    }
}
