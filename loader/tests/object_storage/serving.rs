//! Tests of `hiend-serve` with shards in object storage.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use crate::place::{Place, size_of};
use crate::tests::NamedTest;

/// All tests of this file.
pub(crate) const ALL: [NamedTest; 1] =
    [("servers_of_a_bucket_give_the_local_stream", servers_of_a_bucket_give_the_local_stream)];

/// A running server, which is killed when this value is dropped.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    /// Starts the program on the cache in the bucket, with the disk cache `blocks`, and waits until it serves.
    fn start(place: &Place, socket: &str) -> Self {
        let (listen, blocks) = (format!("unix:{}", place.text(socket)), place.text("blocks"));
        let args = ["--shards", &place.url, "--listen", &listen, "--disk-cache", &blocks, "--threads=1"];
        let mut command = place.program(env!("CARGO_BIN_EXE_hiend-serve"), &args);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let url = lines.find_map(|line| line.strip_prefix("serving ").map(str::to_owned));
        // The pipe stays open, so that the server can write to it.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, url: url.expect("the server starts") }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Digest in a line that `hiend-shard stream` prints.
fn digest(line: &str) -> String {
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    line["digest"].as_str().unwrap().to_owned()
}

fn servers_of_a_bucket_give_the_local_stream(server: &str) {
    // Lines that fill a pipe, so that the client is within its stream as long as they are not read.
    const STREAM: [&str; 5] =
        ["--batches=1500", "--visits-per-batch=1", "--crop-size=16", "--crops-per-visit=1", "--memory=4MiB"];
    let place = Place::with_phantoms(server, 3);
    let local = place.text("local");
    place.convert(&local, "3", &[]);
    place.convert(&place.url, "3", &[]);
    let expected = place.check(&[&["stream", local.as_str()], &STREAM[..]].concat(), 0).digests();
    assert_eq!(expected.len(), 1500);

    let (first, second) = (Server::start(&place, "a"), Server::start(&place, "b"));
    let urls = format!("{},{}", first.url, second.url);
    let mut client = place.start(&[&["stream", "--loader", urls.as_str()], &STREAM[..]].concat());
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut digests: Vec<String> = lines.by_ref().take(5).map(|line| digest(&line)).collect();
    drop(first);
    digests.extend(lines.map(|line| digest(&line)));
    let output = client.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.contains("the server does not answer"), "{stderr}");
    assert_eq!(digests, expected);
    assert!(size_of(&place.path("blocks")) > 0);
}
