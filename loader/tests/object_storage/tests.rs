//! Tests of object storage. Each gets the server's address and its own prefix.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::place::{Place, Ran, size_of, stream};
use crate::proxy::Fault;
use crate::server::request;

/// Test with its name; it receives the address of the server.
pub(crate) type NamedTest = (&'static str, fn(&str));

/// All tests.
pub(crate) const ALL: [NamedTest; 19] = [
    ("cold_and_warm_streams_equal_the_local_one", cold_and_warm_streams_equal_the_local_one),
    ("cache_on_a_web_server_is_read_and_not_written", cache_on_a_web_server_is_read_and_not_written),
    ("commands_work_on_a_url_and_damage_is_found", commands_work_on_a_url_and_damage_is_found),
    ("faults_found_before_the_server_fails_are_printed", faults_found_before_the_server_fails_are_printed),
    ("cut_connections_and_server_errors_are_repeated", cut_connections_and_server_errors_are_repeated),
    ("server_that_stays_away_is_an_error", server_that_stays_away_is_an_error),
    ("programs_say_what_they_wait_for", programs_say_what_they_wait_for),
    ("conversion_stops_while_the_server_is_away", conversion_stops_while_the_server_is_away),
    ("missing_credentials_and_mistyped_urls_are_named", missing_credentials_and_mistyped_urls_are_named),
    ("wrong_bytes_are_fetched_once_more", wrong_bytes_are_fetched_once_more),
    ("wrong_bytes_twice_are_an_error_with_object_and_range", wrong_bytes_twice_are_an_error_with_object_and_range),
    ("disk_cache_stays_within_its_size_and_folder", disk_cache_stays_within_its_size_and_folder),
    ("disk_cache_that_is_too_small_is_refused_with_a_number", disk_cache_that_is_too_small_is_refused_with_a_number),
    ("killed_stream_leaves_a_usable_disk_cache", killed_stream_leaves_a_usable_disk_cache),
    ("two_processes_share_a_disk_cache", two_processes_share_a_disk_cache),
    ("two_workers_write_one_cache", two_workers_write_one_cache),
    ("claims_divide_cases_and_a_dead_run_is_taken_over", claims_divide_cases_and_a_dead_run_is_taken_over),
    ("hidden_names_are_not_shards", hidden_names_are_not_shards),
    ("pruning_and_setting_aside_work_on_a_url", pruning_and_setting_aside_work_on_a_url),
];

/// Spacing at which a phantom takes a few megabytes, that is, several blocks of a disk cache.
const FINE: &str = "1.2";
/// Spacing at which a phantom takes a few kilobytes.
const COARSE: &str = "6";

/// Waits until another process makes a condition true.
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_mins(2), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn finish(child: Child) -> Ran {
    Ran::of(child.wait_with_output().unwrap())
}

fn cold_and_warm_streams_equal_the_local_one(server: &str) {
    let place = Place::with_phantoms(server, 3);
    place.convert(&place.text("local"), FINE, &[]);
    place.convert(&place.url, FINE, &[]);
    let local = place.digests(&place.text("local"), &[]);
    place.proxy.take_ranges();
    for access in ["--access=mmap", "--access=pread"] {
        let dir = place.text(access);
        let flags = ["--disk-cache", dir.as_str(), "--disk-cache-size=1GiB", access];
        assert_eq!(place.digests(&place.url, &flags), local, "{access}");
        let (cold, bytes) = place.proxy.take_ranges();
        assert!(cold > 2 && bytes > 1 << 20, "{cold} requests, {bytes} bytes");
        assert_eq!(place.digests(&place.url, &flags), local, "{access}");
        let (warm, bytes) = place.proxy.take_ranges();
        // The ends of the shard, to open it: the cold stream fetched all that its batches need before it ended.
        assert!(warm == 2 && bytes < 200 << 10, "{warm} requests, {bytes} bytes");
    }
    // The default folder.
    assert_eq!(place.digests(&place.url, &[]), local);
    assert!(place.path("xdg/hiend/blocks/hiend-disk-cache").is_file());
}

fn cache_on_a_web_server_is_read_and_not_written(server: &str) {
    let place = Place::with_phantoms(server, 2);
    place.convert(&place.url, COARSE, &[]);
    place.convert(&place.text("local"), COARSE, &[]);
    let url = format!("http://{}{}", place.proxy.address, place.target(""));
    assert_eq!(place.digests(&url, &[]), place.digests(&place.text("local"), &[]));
    assert!(place.check(&["verify", &url], 0).out.contains("no fault"));
    // A server that is away says nothing about the cases.
    place.proxy.spoil(Fault::Status500, usize::MAX);
    let away = place.check(&["verify", &url, "--storage-retry=1"], 1);
    assert!(away.err.contains("error: ") && away.err.contains("500"), "{}", away.err);
    assert!(!away.out.contains("fault") && !away.out.contains("delete"), "{}", away.out);
    place.proxy.repair();
    let refused = place.check(&[&place.text("data"), "--out", &url, "--spacing", COARSE], 1);
    assert!(refused.err.contains("can only be read"), "{}", refused.err);
    let absent = place.check(&["inspect", &format!("{url}absent")], 1);
    assert!(absent.err.contains("no cache here"), "{}", absent.err);
}

fn commands_work_on_a_url_and_damage_is_found(server: &str) {
    let place = Place::with_phantoms(server, 2);
    let ran = place.convert(&place.url, COARSE, &[]);
    assert!(ran.out.contains("2 cases") && ran.out.contains(&place.url), "{}", ran.out);
    let again = place.convert(&place.url, COARSE, &[]);
    assert!(again.out.contains("unchanged   2"), "{}", again.out);
    assert!(place.check(&["verify", &place.url], 0).out.contains("no fault"));
    let listed = place.check(&["inspect", &place.url], 0);
    assert!(listed.out.contains("phantom_001") && listed.out.contains("g0001-w000-0000.shard"), "{}", listed.out);
    place.check(&["inspect", &place.url, "phantom_000", "--png", &place.text("case.png")], 0);
    let dry = place.convert(&place.url, COARSE, &["--dry-run"]);
    assert!(dry.out.contains("2 unchanged"), "{}", dry.out);

    let shard = place.target("g0001-w000-0000.shard");
    let (_, mut bytes) = request(server, "GET", &shard, b"");
    bytes[500] ^= 1;
    assert_eq!(request(server, "PUT", &shard, &bytes).0, 200);
    let faulty = place.check(&["verify", &place.url], 1);
    assert!(faulty.out.contains("1 fault") && faulty.out.contains(&place.url), "{}", faulty.out);

    for wrong in ["s4://bucket/x", "file:///data/x"] {
        assert!(place.check(&["verify", wrong], 1).err.contains("unknown scheme"));
    }
    let nowhere = "s3://no-such-bucket/x";
    for args in [&["verify", nowhere][..], &["inspect", nowhere], &[&place.text("data"), "--out", nowhere]] {
        let failed = place.check(args, 1);
        assert!(failed.err.contains(nowhere) && failed.err.contains("there is no such bucket"), "{}", failed.err);
    }
    let without_scheme = place.command(&["verify", &place.url]).env("AWS_ENDPOINT", "127.0.0.1:9000").output().unwrap();
    let failed = Ran::of(without_scheme);
    assert_eq!(failed.code, 1, "{}", failed.err);
    assert!(failed.err.contains("AWS_ENDPOINT is \"127.0.0.1:9000\"; expected a URL"), "{}", failed.err);
    assert!(!failed.err.contains("panicked"), "{}", failed.err);
}

fn faults_found_before_the_server_fails_are_printed(server: &str) {
    let place = Place::with_phantoms(server, 2);
    place.convert(&place.url, FINE, &["--shard-size=1"]);
    let [first, second] = ["g0001-w000-0000.shard", "g0001-w000-0001.shard"].map(|name| place.target(name));
    let (_, mut bytes) = request(server, "GET", &first, b"");
    bytes[500] ^= 1;
    assert_eq!(request(server, "PUT", &first, &bytes).0, 200);
    // One thread checks one case after the other, the damaged one first.
    let verify = |flags: &[&str]| {
        let fixed = ["verify", place.url.as_str(), "--threads=1", "--storage-retry=1"];
        place.check(&[&fixed[..], flags].concat(), 1)
    };
    let json = |ran: &Ran| serde_json::from_str::<serde_json::Value>(&ran.out).unwrap();
    place.proxy.take_ranges();
    let whole = json(&verify(&["--json"]));
    assert_eq!((whole["faults"].as_array().unwrap().len(), &whole["failure"]), (1, &serde_json::Value::Null));
    let (requests, _) = place.proxy.take_ranges();
    for flags in [&[][..], &["--json"]] {
        place.proxy.spoil_after(requests - 1, Fault::Status500);
        let failed = verify(flags);
        place.proxy.repair();
        assert!(failed.err.contains("500") && failed.err.contains("not every case was checked"), "{}", failed.err);
        if flags.is_empty() {
            assert!(failed.out.contains(&first) && !failed.out.contains(&second), "{}", failed.out);
        } else {
            let found = json(&failed);
            assert_eq!(found["faults"], whole["faults"]);
            assert!(found["failure"].as_str().unwrap().contains("500"), "{found}");
        }
    }
    // The server fails before any case is read, but after the manifest.
    assert_eq!(request(server, "DELETE", &second, b"").0, 204);
    place.proxy.spoil(Fault::Status500, usize::MAX);
    let found = json(&verify(&["--json"]));
    assert!(found["faults"][0]["reason"].as_str().unwrap().contains("missing"), "{found}");
    assert!(found["failure"].as_str().unwrap().contains("500"), "{found}");
}

fn cut_connections_and_server_errors_are_repeated(server: &str) {
    let place = Place::with_phantoms(server, 2);
    place.convert(&place.text("local"), FINE, &[]);
    place.convert(&place.url, FINE, &[]);
    place.proxy.spoil(Fault::Status500, 2);
    place.proxy.spoil(Fault::Cut, 3);
    place.proxy.spoil(Fault::Status500, 1);
    assert_eq!(place.digests(&place.url, &[]), place.digests(&place.text("local"), &[]));
    assert_eq!(place.proxy.faults_left(), 0);
}

fn server_that_stays_away_is_an_error(server: &str) {
    let place = Place::with_phantoms(server, 2);
    place.convert(&place.url, COARSE, &[]);
    place.proxy.spoil(Fault::Status500, usize::MAX);
    let failed = place.check(&stream(&place.url, &["--storage-retry=1"]), 1);
    assert!(failed.err.contains(&format!("{}/g0001-w000-0000.shard", place.url)), "{}", failed.err);
    assert!(failed.err.contains("500"), "{}", failed.err);
}

/// Address on which nothing listens, so that connections are refused.
const NOBODY: &str = "http://127.0.0.1:1";

fn programs_say_what_they_wait_for(server: &str) {
    let place = Place::with_phantoms(server, 1);
    let data = place.text("data");
    let url = place.url.as_str();
    let programs = [
        vec![data.as_str(), "--out", url, "--spacing", COARSE],
        vec!["verify", url],
        vec!["inspect", url],
        stream(url, &[]),
    ];
    // All at the same time. The message comes after two seconds of failures, so that a program may begin late.
    let running = programs.map(|args| {
        let mut command = place.command(&[&args[..], &["--storage-retry=12"]].concat());
        let child = command.env("AWS_ENDPOINT", NOBODY).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        (format!("{args:?}"), child.unwrap())
    });
    for (args, child) in running {
        let ran = finish(child);
        assert_eq!(ran.code, 1, "{args}: {}", ran.err);
        assert!(ran.err.contains("s3://bucket does not answer"), "{args}: {}", ran.err);
        assert!(ran.err.contains("repeated for up to 12 s (storage retry)"), "{args}: {}", ran.err);
        let error = ran.err.lines().find(|line| line.starts_with("error:")).unwrap();
        assert!(error.contains(url) && error.contains("refused"), "{error}");
        assert!(!ran.err.contains("max_retries"), "{}", ran.err);
    }
}

fn conversion_stops_while_the_server_is_away(server: &str) {
    let place = Place::with_phantoms(server, 1);
    // Without the signal, it would try for an hour.
    let args = [&place.text("data"), "--out", &place.url, "--spacing", COARSE, "--storage-retry=3600"];
    let mut command = place.command(&args);
    let mut child = command.env("AWS_ENDPOINT", NOBODY).stderr(Stdio::piped()).spawn().unwrap();
    let mut err = BufReader::new(child.stderr.take().unwrap());
    let mut text = String::new();
    while !text.contains("does not answer") {
        assert!(err.read_line(&mut text).unwrap() > 0, "{text}");
    }
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    err.read_to_string(&mut text).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{text}");
    assert!(text.contains("interrupted") && text.contains("stopped while"), "{text}");
}

fn missing_credentials_and_mistyped_urls_are_named(server: &str) {
    let place = Place::with_phantoms(server, 1);
    let refused = |change: fn(&mut Command) -> &mut Command| {
        let ran = Ran::of(change(&mut place.command(&["verify", &place.url])).output().unwrap());
        assert_eq!((ran.code, ran.err.lines().count()), (1, 1), "{}", ran.err);
        ran.err
    };
    let err = refused(|command| command.env_remove("AWS_SECRET_ACCESS_KEY"));
    assert!(err.contains("AWS_SECRET_ACCESS_KEY is not set"), "{err}");
    // The machine has no service that would give credentials.
    let err = refused(|command| {
        command.env_remove("AWS_SECRET_ACCESS_KEY").env_remove("AWS_ACCESS_KEY_ID").env("AWS_METADATA_ENDPOINT", NOBODY)
    });
    assert!(err.contains("no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"), "{err}");
    for wrong in ["s3:/bucket/x", "gs:/bucket/x"] {
        let refused = place.check(&["verify", wrong], 1);
        assert!(refused.err.contains(&wrong.replace(":/", "://")), "{}", refused.err);
        let refused = place.check(&[&place.text("data"), "--out", wrong], 1);
        assert!(refused.err.contains(&wrong.replace(":/", "://")), "{}", refused.err);
    }
}

fn wrong_bytes_are_fetched_once_more(server: &str) {
    let place = Place::with_phantoms(server, 2);
    place.convert(&place.text("local"), FINE, &[]);
    place.convert(&place.url, FINE, &[]);
    // Opening, the index, and chunks. Answers whose middle no crop needs spoil nothing.
    for _ in 0..3 {
        place.proxy.spoil(Fault::Flip, 1);
        assert_eq!(place.digests(&place.url, &[]), place.digests(&place.text("local"), &[]));
        assert_eq!(place.proxy.faults_left(), 0);
        std::fs::remove_dir_all(place.path("xdg")).unwrap();
    }
}

fn wrong_bytes_twice_are_an_error_with_object_and_range(server: &str) {
    let place = Place::with_phantoms(server, 2);
    place.convert(&place.url, FINE, &[]);
    place.proxy.spoil(Fault::Flip, usize::MAX);
    let failed = place.check(&stream(&place.url, &[]), 1);
    assert!(failed.err.contains(&format!("{}/g0001-w000-0000.shard", place.url)), "{}", failed.err);
    assert!(failed.err.contains("checksum"), "{}", failed.err);
}

fn disk_cache_stays_within_its_size_and_folder(server: &str) {
    let place = Place::with_phantoms(server, 4);
    place.convert(&place.text("local"), FINE, &["--shard-size=1"]);
    place.convert(&place.url, FINE, &["--shard-size=1"]);
    let local = size_of(&place.path("local"));
    let size = largest_case(&place) * 2;
    assert!(local > size, "{local} bytes would not have to be evicted");
    let dir = place.path("blocks");
    let (text, bytes) = (place.text("blocks"), size.to_string());
    let flags = ["--disk-cache", text.as_str(), "--disk-cache-size", &bytes];
    let expected = place.digests(&place.text("local"), &[]);
    for _ in 0..2 {
        assert_eq!(place.digests(&place.url, &flags), expected);
        assert!(size_of(&dir) <= size + 4096, "{} of {size} bytes", size_of(&dir));
    }
    assert_eq!(size_of(&place.path("local")), local);
    // A folder with other files is refused, the local cache above all.
    let refused = place.check(&stream(&place.url, &["--disk-cache", &place.text("local")]), 1);
    assert!(refused.err.contains("is not a disk cache"), "{}", refused.err);
    assert!(refused.err.contains("; choose one with --disk-cache"), "{}", refused.err);
    assert_eq!(size_of(&place.path("local")), local);
}

/// Number of bytes of the disk cache that the largest case of the local cache needs.
fn largest_case(place: &Place) -> u64 {
    let cache = hiend_cache::Cache::open(place.path("local")).unwrap();
    let needed = cache.cases().iter().map(|case| hiend_cache::DiskCache::bytes_of_range(case.record().span.len()));
    needed.max().unwrap() * 16 / 15 + 16
}

fn disk_cache_that_is_too_small_is_refused_with_a_number(server: &str) {
    let place = Place::with_phantoms(server, 2);
    place.convert(&place.text("local"), FINE, &[]);
    place.convert(&place.url, FINE, &[]);
    let text = place.text("blocks");
    let flags = |bytes| ["--disk-cache", text.as_str(), "--disk-cache-size", bytes];
    let refused = place.check(&stream(&place.url, &flags("1MiB")), 1);
    let needed = refused.err.split("at least ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().to_owned();
    assert!(needed.parse::<u64>().unwrap() <= largest_case(&place), "{}", refused.err);
    assert!(refused.err.contains(&format!("; set --disk-cache-size to {needed} or more")), "{}", refused.err);
    place.digests(&place.url, &flags(&needed));
}

fn killed_stream_leaves_a_usable_disk_cache(server: &str) {
    let place = Place::with_phantoms(server, 3);
    place.convert(&place.text("local"), FINE, &[]);
    place.convert(&place.url, FINE, &[]);
    let dir = place.path("blocks");
    let text = place.text("blocks");
    let flags = ["--disk-cache", text.as_str(), "--disk-cache-size=1GiB"];
    for filled in [1, 2 << 20, 4 << 20] {
        let mut child = place.start(&stream(&place.url, &flags));
        let enough = || size_of(&dir.join("blocks")) >= filled || child.try_wait().unwrap().is_some();
        wait_until("blocks arrive, or the stream ends", enough);
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let left = dir.join("tmp/.block-left.tmp");
    std::fs::write(&left, b"half of a block").unwrap();
    assert_eq!(place.digests(&place.url, &flags), place.digests(&place.text("local"), &[]));
    assert!(!left.exists());
    // A thread that fetches ahead may be in the middle of a block when its program ends. So the usage may count too much,
    // but never too little.
    let usage = u64::from_le_bytes(std::fs::read(dir.join("usage")).unwrap().try_into().unwrap());
    assert!(usage >= size_of(&dir.join("blocks")), "{usage}");
}

fn two_processes_share_a_disk_cache(server: &str) {
    let place = Place::with_phantoms(server, 4);
    place.convert(&place.text("local"), FINE, &["--shard-size=1"]);
    place.convert(&place.url, FINE, &["--shard-size=1"]);
    let (text, bytes) = (place.text("blocks"), (largest_case(&place) * 3).to_string());
    let flags = ["--disk-cache", text.as_str(), "--disk-cache-size", &bytes];
    let expected = place.digests(&place.text("local"), &[]);
    let later = place.check(&stream(&place.text("local"), &["--start-step=3"]), 0).digests();
    let first = place.start(&stream(&place.url, &flags));
    let second = place.start(&stream(&place.url, &[&flags[..], &["--start-step=3"]].concat()));
    assert_eq!(finish(first).digests(), expected);
    assert_eq!(finish(second).digests(), later);
    assert!(size_of(&place.path("blocks")) <= largest_case(&place) * 3 + 4096);
}

fn two_workers_write_one_cache(server: &str) {
    let place = Place::with_phantoms(server, 6);
    place.convert(&place.text("local"), COARSE, &[]);
    let data = place.text("data");
    let convert =
        |worker| [data.as_str(), "--out", &place.url, "--spacing", COARSE, "--shard-size=1", "--worker", worker];
    // The same share twice, too: the second run waits, or finds nothing left to do.
    let runs = ["0/2", "1/2", "1/2"].map(|worker| place.start(&convert(worker)));
    for run in runs {
        let ran = finish(run);
        assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    }
    let verified = place.check(&["verify", &place.url], 0);
    assert!(verified.out.contains("6 shards, 6 cases") && !verified.out.contains("not listed"), "{}", verified.out);
    assert_eq!(place.digests(&place.url, &[]), place.digests(&place.text("local"), &[]));
}

fn claims_divide_cases_and_a_dead_run_is_taken_over(server: &str) {
    let place = Place::with_phantoms(server, 6);
    let (data, local) = (place.text("data"), place.text("local"));
    let take_over = |out: &str| {
        let flags = ["--out", out, "--spacing", "3", "--jobs=1", "--claim", "--claim-lifetime=10"];
        let convert = [&[data.as_str()], &flags[..]].concat();
        // Killed with cases that it has claimed and not stored, unless it is done before it is seen at work.
        let mut dead = place.start(&convert);
        let mut is_done = false;
        wait_until("the first run claims a case", || {
            is_done = dead.try_wait().unwrap().is_some();
            is_done || claimed(&place, server, out)
        });
        dead.kill().unwrap();
        dead.wait().unwrap();
        let runs = [0, 1].map(|_| place.start(&convert)).map(finish);
        for ran in &runs {
            assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
        }
        let stored: usize = runs.iter().map(|ran| converted(&ran.out)).sum();
        // A run that cannot renew its lease for its short lifetime is taken for dead, and its case is done twice.
        assert!(is_done || stored >= 6, "{out}: {}{}", runs[0].out, runs[1].out);
        assert!(place.check(&["verify", out], 0).out.contains("no fault"));
        assert!(place.check(&["inspect", out], 0).out.contains("6 cases ("));
    };
    // Both at the same time, because each waits for claims to expire.
    std::thread::scope(|scope| {
        scope.spawn(|| take_over(&local));
        take_over(&place.url);
    });
    assert_eq!(place.digests(&place.url, &[]), place.digests(&local, &[]));
}

/// Returns `true` if a cache contains a claim.
fn claimed(place: &Place, server: &str, out: &str) -> bool {
    if out.starts_with("s3://") {
        let (bucket, prefix) = out.strip_prefix("s3://").unwrap().split_once('/').unwrap();
        let target = format!("/{bucket}?list-type=2&prefix={prefix}/.claims/");
        return String::from_utf8_lossy(&request(server, "GET", &target, b"").1).contains("<Key>");
    }
    std::fs::read_dir(place.path("local/.claims")).is_ok_and(|mut entries| entries.next().is_some())
}

/// Number of cases that a run reports as converted.
fn converted(out: &str) -> usize {
    let cases = out.split("converted").nth(1).and_then(|rest| rest.split_whitespace().next());
    cases.unwrap_or_else(|| panic!("{out}")).parse().unwrap()
}

/// Names reserved by another run while it writes, and files left by macOS next to copied ones, are neither read nor
/// listed.
fn hidden_names_are_not_shards(server: &str) {
    let place = Place::with_phantoms(server, 2);
    for out in [place.text("local"), place.url.clone()] {
        let is_remote = out == place.url;
        place.convert(&out, COARSE, &["--shard-size=1"]);
        let expected = place.digests(&out, &[]);
        for name in [".name-g0001-w000-0000.shard", ".name-g0002-w000-0000.shard", "._g0001-w000-0001.shard"] {
            if is_remote {
                assert_eq!(request(server, "PUT", &place.target(name), b"run 1").0, 200);
            } else {
                std::fs::write(place.path("local").join(name), b"run 1").unwrap();
            }
        }
        assert_eq!(place.digests(&out, &[]), expected, "{out}");
        assert!(place.check(&["inspect", &out], 0).out.contains("2 cases ("), "{out}");
        let verified = place.check(&["verify", &out], 0);
        assert!(verified.out.contains("2 shards, 2 cases"), "{out}: {}{}", verified.out, verified.err);
        let again = place.convert(&out, COARSE, &["--shard-size=1"]);
        assert!(
            !again.err.contains("damaged") && again.out.contains("unchanged   2 cases"),
            "{}{}",
            again.out,
            again.err
        );
        let listed = if is_remote {
            request(server, "GET", &place.target("manifest.json"), b"").1
        } else {
            std::fs::read(place.path("local/manifest.json")).unwrap()
        };
        assert!(!String::from_utf8(listed).unwrap().contains("\"."), "{out}");
    }
}

fn pruning_and_setting_aside_work_on_a_url(server: &str) {
    let place = Place::with_phantoms(server, 3);
    place.convert(&place.url, COARSE, &["--shard-size=1"]);
    for file in ["imagesTr/phantom_002_0000.nii.gz", "labelsTr/phantom_002.nii.gz"] {
        std::fs::remove_file(place.path("data/Dataset001_Phantom").join(file)).unwrap();
    }
    let pruned = place.convert(&place.url, COARSE, &["--prune"]);
    assert!(pruned.out.contains("1 case, 0 superseded records; 1 shard removed"), "{}", pruned.out);
    assert!(place.check(&["verify", &place.url], 0).out.contains("2 shards, 2 cases"));

    let shard = place.target("g0001-w000-0000.shard");
    let (_, bytes) = request(server, "GET", &shard, b"");
    assert_eq!(request(server, "PUT", &shard, &bytes[..bytes.len() - 9]).0, 200);
    let repaired = place.convert(&place.url, COARSE, &[]);
    assert_eq!(converted(&repaired.out), 1, "{}{}", repaired.out, repaired.err);
    assert!(repaired.err.contains("g0001-w000-0000.damaged"), "{}", repaired.err);
    assert_eq!(request(server, "GET", &place.target("g0001-w000-0000.damaged"), b"").0, 200);
    assert!(place.check(&["verify", &place.url], 0).out.contains("2 shards, 2 cases"));
}
