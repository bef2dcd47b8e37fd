//! A web server for the files of one folder, over a link of a stated rate.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Length of the pieces in which bytes are sent.
const PIECE_LEN: u64 = 64 << 10;

/// A running server. It serves until the process ends.
pub(super) struct WebServer {
    url: String,
}

/// A link shared by all connections.
struct Link {
    bytes_per_s: u64,
    /// Time at which the bytes sent so far have passed.
    free_at: Mutex<Instant>,
}

impl Link {
    /// Waits until the link has carried `bytes` more.
    fn carry(&self, bytes: u64) {
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        #[expect(clippy::cast_precision_loss, reason = "a few kilobytes, and a rate")]
        let time = Duration::from_secs_f64(bytes as f64 / self.bytes_per_s as f64);
        *free_at = now.max(*free_at) + time;
        let wait = free_at.saturating_duration_since(now);
        drop(free_at);
        std::thread::sleep(wait);
    }
}

impl WebServer {
    /// Serves the files of `dir` at `bytes_per_s`.
    ///
    /// # Errors
    /// If no port is free.
    pub(super) fn start(dir: &Path, bytes_per_s: u64) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}", listener.local_addr()?);
        let link = Arc::new(Link { bytes_per_s, free_at: Mutex::new(Instant::now()) });
        let dir = dir.to_owned();
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let (dir, link) = (dir.clone(), Arc::clone(&link));
                // Ends with an error when the client closes the connection.
                std::thread::spawn(move || drop(serve(socket, &dir, &link)));
            }
        });
        Ok(Self { url })
    }

    /// URL of the folder.
    #[must_use]
    pub(super) fn url(&self) -> &str {
        &self.url
    }
}

/// Answers the requests of one connection.
fn serve(mut socket: TcpStream, dir: &Path, link: &Link) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut requests = BufReader::new(socket.try_clone()?);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if requests.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        answer(&mut socket, &head, dir, link)?;
    }
}

/// Answers a request without a body.
fn answer(socket: &mut TcpStream, head: &str, dir: &Path, link: &Link) -> io::Result<()> {
    let mut words = head.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    // Names of this benchmark have no characters that a URL encodes, and no folders.
    let name: PathBuf = path.rsplit('/').next().unwrap_or_default().into();
    let Ok(mut file) = File::open(dir.join(name)) else {
        return socket.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    };
    let len = file.metadata()?.len();
    let range = range_of(head).map(|(start, end)| start..end.min(len)).filter(|range| range.start < range.end);
    let (status, bytes) = match range.clone() {
        Some(range) => ("206 Partial Content", range),
        None => ("200 OK", 0..len),
    };
    let content_range =
        |range: std::ops::Range<u64>| format!("Content-Range: bytes {}-{}/{len}\r\n", range.start, range.end - 1);
    let text = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nAccept-Ranges: bytes\r\nETag: \"{len:x}\"\r\n\
         Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n{}\r\n",
        bytes.end - bytes.start,
        range.map(content_range).unwrap_or_default()
    );
    socket.write_all(text.as_bytes())?;
    if method == "HEAD" {
        return Ok(());
    }
    file.seek(SeekFrom::Start(bytes.start))?;
    let mut left = bytes.end - bytes.start;
    let mut piece = Vec::new();
    while left > 0 {
        piece.clear();
        let now = left.min(PIECE_LEN);
        (&file).take(now).read_to_end(&mut piece)?;
        link.carry(now);
        socket.write_all(&piece)?;
        left -= now;
    }
    Ok(())
}

/// First byte and end of the requested range.
fn range_of(head: &str) -> Option<(u64, u64)> {
    let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with("range:"))?;
    let (start, last) = line.split_once("bytes=")?.1.trim().split_once('-')?;
    Some((start.parse().ok()?, last.parse::<u64>().ok()? + 1))
}
