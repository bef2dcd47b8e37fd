//! A proxy in front of the server that counts requests and corrupts responses.

use std::io::{BufRead, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use crate::server::AUTHORIZATION;

/// Way of corrupting the response to a request for a range of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Responds with status 500 instead.
    Status500,
    /// Closes the connection in the middle of the body.
    Cut,
    /// Changes a byte in the middle of the body.
    Flip,
}

/// A proxy that serves until the process ends.
pub(crate) struct Proxy {
    /// Address, as `host:port`.
    pub(crate) address: String,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Number of requests for ranges of shards that are answered before the first fault.
    sound: usize,
    /// Faults still to be injected, with their numbers.
    faults: Vec<(Fault, usize)>,
    /// Number of requests for ranges of shards so far.
    ranges: usize,
    /// Number of bytes in the responses to these requests.
    bytes: u64,
}

impl Proxy {
    /// Starts a proxy for the server at `upstream`.
    pub(crate) fn start(upstream: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(State::default()));
        let (for_thread, upstream) = (Arc::clone(&state), upstream.to_owned());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (state, upstream) = (Arc::clone(&for_thread), upstream.clone());
                // A connection ends with an error when its client is killed.
                std::thread::spawn(move || drop(serve(stream, &upstream, &state)));
            }
        });
        Self { address, state }
    }

    /// Corrupts the next `count` responses to requests for ranges of shards.
    pub(crate) fn spoil(&self, fault: Fault, count: usize) {
        self.state.lock().unwrap().faults.push((fault, count));
    }

    /// Corrupts all responses to requests for ranges of shards after `sound` more.
    pub(crate) fn spoil_after(&self, sound: usize, fault: Fault) {
        let mut state = self.state.lock().unwrap();
        state.sound = sound;
        state.faults.push((fault, usize::MAX));
    }

    /// Spoils no further response.
    pub(crate) fn repair(&self) {
        let mut state = self.state.lock().unwrap();
        state.sound = 0;
        state.faults.clear();
    }

    /// Returns the number of requests for ranges of shards since the last call, and the bytes of their responses.
    pub(crate) fn take_ranges(&self) -> (usize, u64) {
        let mut state = self.state.lock().unwrap();
        (std::mem::take(&mut state.ranges), std::mem::take(&mut state.bytes))
    }

    /// Number of faults that have not occurred yet.
    pub(crate) fn faults_left(&self) -> usize {
        self.state.lock().unwrap().faults.iter().map(|&(_, count)| count).sum()
    }
}

impl State {
    /// Counts a request for a range; returns the fault to inject, if any.
    fn next_fault(&mut self) -> Option<Fault> {
        self.ranges += 1;
        if self.sound > 0 {
            self.sound -= 1;
            return None;
        }
        let (fault, count) = self.faults.iter_mut().find(|(_, count)| *count > 0)?;
        *count -= 1;
        Some(*fault)
    }
}

/// Serves the requests of one connection.
fn serve(mut client: TcpStream, upstream: &str, state: &Mutex<State>) -> std::io::Result<()> {
    let mut requests = BufReader::new(client.try_clone()?);
    while let Some((head, body)) = read_message(&mut requests, true)? {
        let lower = head.to_ascii_lowercase();
        let is_range = lower.starts_with("get") && lower.contains("\r\nrange:") && head.contains(".shard ");
        let fault = if is_range { state.lock().unwrap().next_fault() } else { None };
        if fault == Some(Fault::Status500) {
            client.write_all(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")?;
            continue;
        }
        let mut server = TcpStream::connect(upstream)?;
        let (first, rest) = head.split_once("\r\n").unwrap_or((&head, ""));
        let authorization = if lower.contains("\r\nauthorization:") { "" } else { AUTHORIZATION };
        server.write_all(format!("{first}\r\n{authorization}{rest}").as_bytes())?;
        server.write_all(&body)?;
        let has_body = !lower.starts_with("head");
        let answer = read_message(&mut BufReader::new(server), has_body)?;
        let Some((head, mut body)) = answer else { return Ok(()) };
        if is_range {
            state.lock().unwrap().bytes += body.len() as u64;
        }
        let middle = body.len() / 2;
        match fault {
            Some(Fault::Flip) => body[middle] ^= 0x40,
            Some(Fault::Cut) => body.truncate(middle),
            _ => {}
        }
        client.write_all(head.as_bytes())?;
        client.write_all(&body)?;
        if fault == Some(Fault::Cut) || head.to_ascii_lowercase().contains("\r\nconnection: close") {
            return Ok(());
        }
    }
    Ok(())
}

/// Reads the head and the body of a message; `None` at the end of the connection.
fn read_message(stream: &mut impl BufRead, has_body: bool) -> std::io::Result<Option<(String, Vec<u8>)>> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head)? == 0 {
            return Ok(None);
        }
    }
    let lower = head.to_ascii_lowercase();
    let len = lower.lines().find_map(|line| line.strip_prefix("content-length:"));
    let mut body = Vec::new();
    match len.map(|len| len.trim().parse::<usize>().unwrap()) {
        Some(len) if has_body => {
            body.resize(len, 0);
            stream.read_exact(&mut body)?;
        }
        // An answer without a length ends with the connection; a request without one has no body.
        None if has_body && lower.starts_with("http/") && !lower.contains(" 204 ") => {
            stream.read_to_end(&mut body)?;
        }
        _ => {}
    }
    Ok(Some((head, body)))
}
