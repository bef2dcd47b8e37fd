//! Test of training on a cache in object storage, by the S3-compatible server of the loader's tests.
//!
//! Where that server cannot be installed, the test prints that nothing was compared; with `CI` set to `true` it fails.

#[path = "../../../loader/tests/object_storage/server.rs"]
mod server;

use std::fs;

use self::server::{BUCKET, request};
use crate::folder::Folder;
use crate::service::{PRETRAIN, Server, losses, train};

/// Starts the S3-compatible server with a copy of the folder's cache; `None` where it cannot be installed.
fn storage_of(folder: &Folder) -> Option<server::Server> {
    let storage = match server::Server::start() {
        Ok(storage) => storage,
        Err(reason) => {
            assert!(!std::env::var("CI").is_ok_and(|value| value == "true"), "no S3 server: {reason}");
            println!("no S3 server, nothing was compared: {reason}");
            return None;
        }
    };
    for entry in fs::read_dir(folder.path("cache")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        // Locks.
        if name.starts_with('.') {
            continue;
        }
        let (status, _) =
            request(storage.address(), "PUT", &format!("/{BUCKET}/cache/{name}"), &fs::read(&path).unwrap());
        assert_eq!(status, 200, "{name}");
    }
    Some(storage)
}

#[test]
fn losses_with_shards_in_a_bucket_are_those_with_local_shards() {
    let folder = Folder::new();
    let Some(storage) = storage_of(&folder) else { return };
    let endpoint = format!("http://{}", storage.address());
    let variables = [
        ("AWS_ENDPOINT", endpoint.as_str()),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
    ];
    let url = format!("s3://{BUCKET}/cache");
    let pretrain = format!("{PRETRAIN} --set train.micro_batch=1 --max-steps 40");
    folder.succeed(&format!("{pretrain} --shards cache --run-dir local"));
    let local = losses(&folder, "local");
    assert_eq!(local.len(), 40);
    for (run, flags) in [("one", ""), ("two", "--devices cpu,cpu ")] {
        let mut command = folder.command(&format!("{pretrain} --shards {url} {flags}--run-dir {run}"));
        let output = command.envs(variables).output().unwrap();
        assert!(output.status.success(), "{run}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(losses(&folder, run), local, "{run}");
    }

    // Two servers of the bucket, one of which is killed during the run. The run itself knows no bucket.
    let [first, second] = ["a", "b"].map(|name| Server::of_cache(&folder, name, &url, &variables));
    let args = format!("{pretrain} --loader {},{} --run-dir served --memory 128KiB", first.url, second.url);
    let (code, stderr) = train(&folder, &args, 2, || first.kill());
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(losses(&folder, "served"), local);
}
