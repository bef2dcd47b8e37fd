//! Web server on this machine for the files of one folder. It stands for object storage.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

/// Serves the files of a folder until the process ends; returns the folder's URL.
pub(crate) fn serve(dir: &Path) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let dir = dir.to_owned();
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let dir = dir.clone();
            // A connection ends with an error when its client closes it.
            std::thread::spawn(move || drop(answer_all(&socket, &dir)));
        }
    });
    url
}

/// Answers the requests of one connection. None of them has a body.
fn answer_all(socket: &TcpStream, dir: &Path) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut requests = BufReader::new(socket);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if requests.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        answer(socket, &head, dir)?;
    }
}

fn answer(mut socket: &TcpStream, head: &str, dir: &Path) -> io::Result<()> {
    let mut words = head.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    // Names of shards and of the manifest have no characters that a URL encodes.
    let Ok(bytes) = std::fs::read(dir.join(path.trim_start_matches('/'))) else {
        return socket.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    };
    let len = bytes.len();
    let (status, range, field) = match range_of(head) {
        Some((start, end)) => {
            let end = end.min(len);
            ("206 Partial Content", start..end, format!("Content-Range: bytes {start}-{}/{len}\r\n", end - 1))
        }
        None => ("200 OK", 0..len, String::new()),
    };
    let fields = format!("Content-Length: {}\r\nAccept-Ranges: bytes\r\nETag: \"{len}\"\r\n{field}", range.len());
    socket.write_all(format!("HTTP/1.1 {status}\r\n{fields}\r\n").as_bytes())?;
    if method == "HEAD" { Ok(()) } else { socket.write_all(&bytes[range]) }
}

/// First byte and end of the requested range.
fn range_of(head: &str) -> Option<(usize, usize)> {
    let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with("range:"))?;
    let (start, last) = line.split_once("bytes=")?.1.trim().split_once('-')?;
    Some((start.parse().ok()?, last.parse::<usize>().ok()? + 1))
}
