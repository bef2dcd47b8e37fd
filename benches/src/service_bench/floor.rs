//! Floors of the service: transfer of the bytes of crops without any other work.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;

use crate::clock::{Stopwatch, settle};
use crate::contender::{CROP_LEN, Rates};

/// Number of crops in a round: as many as a few batches, more than any cache holds.
const CROPS: u32 = 128;

/// Number of bytes per write.
const PIECE: usize = 1 << 20;

/// Megabytes of the quantized voxels of a crop.
pub(super) fn crop_mb() -> f64 {
    f64::from(u32::try_from(CROP_LEN * size_of::<u16>()).unwrap_or(u32::MAX)) / 1e6
}

/// One way of transferring the bytes.
pub(super) struct Floor {
    pub(super) key: &'static str,
    pub(super) label: &'static str,
    pub(super) rates: Rates,
    way: Bytes,
}

enum Bytes {
    Copy,
    Unix(UnixStream, UnixStream),
    Tcp(TcpStream, TcpStream),
}

/// All floors, with the source and destination memory.
pub(super) struct Floors {
    ways: [Floor; 3],
    from: Vec<u8>,
    to: Vec<u8>,
}

impl Floors {
    /// Allocates the memory and connects the sockets.
    ///
    /// # Errors
    /// If the system has no sockets.
    pub(super) fn new() -> std::io::Result<Self> {
        let floor = |key, label, way| Floor { key, label, rates: Rates::default(), way };
        let (sender, receiver) = UnixStream::pair()?;
        let unix = Bytes::Unix(sender, receiver);
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let sender = TcpStream::connect(listener.local_addr()?)?;
        let tcp = Bytes::Tcp(sender, listener.accept()?.0);
        let floors = [
            floor("copy", "one copy", Bytes::Copy),
            floor("raw_unix", "bare Unix socket", unix),
            floor("raw_tcp", "bare TCP, loopback", tcp),
        ];
        let bytes = CROPS as usize * CROP_LEN * size_of::<u16>();
        Ok(Self { ways: floors, from: vec![1; bytes], to: vec![0; bytes] })
    }

    /// Measures one round of each.
    ///
    /// # Errors
    /// If a socket fails.
    pub(super) fn round(&mut self) -> std::io::Result<()> {
        let Self { ways, from, to } = self;
        for floor in ways {
            settle();
            let watch = Stopwatch::of_process();
            match &floor.way {
                Bytes::Copy => to.copy_from_slice(from),
                Bytes::Unix(sender, receiver) => pass(sender, receiver, from, to)?,
                Bytes::Tcp(sender, receiver) => pass(sender, receiver, from, to)?,
            }
            std::hint::black_box(&mut *to);
            floor.rates.push(f64::from(CROPS), watch.elapsed());
        }
        Ok(())
    }

    /// Returns the measured floors, one per way.
    pub(super) fn all(&self) -> impl Iterator<Item = &Floor> {
        self.ways.iter()
    }
}

/// Sends bytes on a separate thread, and reads them into `to`.
fn pass(mut sender: impl Write + Send, mut receiver: impl Read, from: &[u8], to: &mut [u8]) -> std::io::Result<()> {
    std::thread::scope(|scope| {
        let sending = scope.spawn(move || from.chunks(PIECE).try_for_each(|piece| sender.write_all(piece)));
        let outcome = receiver.read_exact(to);
        sending.join().expect("a write does not panic").and(outcome)
    })
}
