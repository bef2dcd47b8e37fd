//! Servers that die, fall silent, differ or cannot read, and the client's reaction.

use std::collections::BTreeMap;

use hiend_cache::DatasetInfo;

use super::*;

#[test]
fn coded_chunks_are_refused_without_asking_a_server() {
    let options = RemoteOptions { form: VoxelForm::Chunks, ..RemoteOptions::default() };
    let urls = ["http://127.0.0.1:9".to_owned()];
    let refused = RemoteLoader::connect(&urls, StreamConfig::default(), 0, options);
    assert!(matches!(refused.err(), Some(RemoteError::Chunks)));
}

#[test]
fn steps_of_a_server_that_dies_come_from_the_other() {
    let setup = Setup::new();
    let config = small();
    let expected = setup.digests(&config, VoxelForm::Quantized, (0, 1), 0, 40);
    // The first one has a socket's path: its port could be given to the server of another test, which the client would ask.
    let (first, second) = (Service::start(setup.unix()).unwrap(), Service::start(setup.config()).unwrap());
    let urls = [first.urls(), second.urls()].concat();
    let loader = connect(&urls, &config, options()).unwrap();
    let mut stream = loader.stream(0);
    let mut got = take(&mut stream, 10);
    drop(first);
    got.extend(take(&mut stream, 30));
    assert_eq!(got, expected);
    wait_until("the other server has one client", || second.num_clients() == 1);
}

#[test]
fn steps_of_a_server_that_hangs_come_from_the_other() {
    let setup = Setup::new();
    let config = small();
    let expected = setup.digests(&config, VoxelForm::Quantized, (0, 1), 0, 20);
    let (first, second) = (Service::start(setup.unix()).unwrap(), Service::start(setup.config()).unwrap());
    // Two jobs that last as long as the test take all threads of the first server, which still opens streams.
    let (release, held) = flume::bounded::<()>(1);
    let account = schedule::Account::new(&first.hub.schedule, 1);
    for _ in 0..2 {
        let held = held.clone();
        let job = schedule::Job {
            bytes: 0,
            visits: 1000,
            is_cancelled: Box::new(|| false),
            work: Box::new(move |_reservation| {
                // An error means that the test has ended.
                let _ = held.recv();
            }),
        };
        first.hub.schedule.submit(&account, job).unwrap();
    }
    wait_until("both jobs are in progress", || first.hub.schedule.in_work(Instant::now()).0 == 2);
    let urls = [first.urls(), second.urls()].concat();
    let options = RemoteOptions { patience: Duration::from_secs(1), ..options() };
    let loader = connect(&urls, &config, options).unwrap();
    assert_eq!(take(&mut loader.stream(0), 20), expected);
    drop(release);
}

#[test]
fn a_stream_continues_at_its_step_when_the_only_server_is_started_again() {
    let setup = Setup::new();
    let config = small();
    let expected = setup.digests(&config, VoxelForm::Quantized, (0, 1), 2, 60);
    let service = Service::start(setup.unix()).unwrap();
    let loader = connect(service.urls(), &config, options()).unwrap();
    let mut stream = loader.stream(2);
    let mut got = take(&mut stream, 3);
    drop(service);
    let service = Service::start(setup.unix()).unwrap();
    got.extend(take(&mut stream, 57));
    assert_eq!(got, expected);
    wait_until("the new server has one client", || service.num_clients() == 1);
}

#[test]
fn a_server_with_other_cases_is_named() {
    let setup = Setup::new();
    let other_dir = tempfile::tempdir().unwrap();
    let other = write_cache(other_dir.path(), 5, 100);
    let first = Service::start(setup.config()).unwrap();
    let second = Service::start(ServiceConfig { caches: vec![(other, 1)], ..setup.config() }).unwrap();
    let urls = [first.urls(), second.urls()].concat();
    let error = connect(&urls, &small(), options()).err().unwrap();
    assert!(
        matches!(&error, RemoteError::Differs { key: "digest", url, other, .. } if urls.contains(url) && urls.contains(other)),
        "{error}"
    );
}

#[test]
fn a_server_with_other_classes_or_preprocessing_is_named() {
    let setup = Setup::new();
    let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let caches = [("liver", 250.0), ("spleen", 250.0), ("liver", 200.0)];
    let services = [0, 1, 2].map(|at: usize| {
        let (class, high) = caches[at];
        let dir = dirs[at].path();
        write_cache(dir, 5, 0);
        let mut manifest = Manifest::read(dir).unwrap();
        let labels = BTreeMap::from([(0, "background".to_owned()), (1, class.to_owned())]);
        manifest.datasets.insert("Dataset001_Test".to_owned(), DatasetInfo { labels, ..DatasetInfo::default() });
        let preprocess = PreprocessConfig { window: [-175.0, high], ..PreprocessConfig::default() };
        manifest.preprocess = serde_json::to_value(preprocess).unwrap();
        manifest.write(dir).unwrap();
        let cache = Arc::new(Cache::open(dir).unwrap());
        Service::start(ServiceConfig { caches: vec![(cache, 1)], ..setup.config() }).unwrap()
    });
    let urls = |number: usize| [services[0].urls(), services[number].urls()].concat();
    let labelled = stream_config(Chain::recipe(), true);
    let error = connect(&urls(1), &labelled, options()).err().unwrap();
    let text = error.to_string();
    assert!(matches!(&error, RemoteError::OtherClasses { dataset, .. } if dataset == "Dataset001_Test"), "{text}");
    assert!(urls(1).iter().all(|url| text.contains(url)), "{text}");
    assert!(text.contains("\"liver\"") && text.contains("\"spleen\""), "{text}");
    // Without labels, their names do not count.
    assert!(connect(&urls(1), &small(), options()).is_ok());
    let error = connect(&urls(2), &small(), options()).err().unwrap();
    assert!(matches!(&error, RemoteError::Differs { key: "preprocessing", .. }), "{error}");
}

#[test]
fn a_server_with_another_label_to_ignore_is_named() {
    let setup = Setup::new();
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let services = [0, 1].map(|at: usize| {
        let dir = dirs[at].path();
        write_cache(dir, 5, 0);
        let mut manifest = Manifest::read(dir).unwrap();
        let info = DatasetInfo { ignore: [None, Some(2)][at], ..DatasetInfo::default() };
        manifest.datasets.insert("Dataset001_Test".to_owned(), info);
        manifest.write(dir).unwrap();
        let cache = Arc::new(Cache::open(dir).unwrap());
        Service::start(ServiceConfig { caches: vec![(cache, 1)], ..setup.config() }).unwrap()
    });
    let urls = [services[0].urls(), services[1].urls()].concat();
    let labelled = stream_config(Chain::recipe(), true);
    let error = connect(&urls, &labelled, options()).err().unwrap();
    let text = error.to_string();
    assert!(matches!(&error, RemoteError::OtherClasses { .. }) && text.contains("the ignore label"), "{text}");
    // A state of the one does not fit the other.
    let digest = |at: usize| connect(services[at].urls(), &labelled, options()).unwrap().digest();
    assert_ne!(digest(0), digest(1));
    // Without labels, the streams are equal.
    assert!(connect(&urls, &small(), options()).is_ok());
}

#[test]
fn classes_that_no_label_map_has_are_reported_to_clients() {
    let setup = Setup::new();
    let dir = tempfile::tempdir().unwrap();
    write_cache(dir.path(), 5, 0);
    let mut manifest = Manifest::read(dir.path()).unwrap();
    let labels = ["background", "liver", "spleen", "aorta", "ignore"].map(str::to_owned);
    let info = DatasetInfo { labels: (0..).zip(labels).collect(), ignore: Some(4), ..DatasetInfo::default() };
    manifest.datasets.insert("Dataset001_Test".to_owned(), info);
    manifest.write(dir.path()).unwrap();
    let cache = Arc::new(Cache::open(dir.path()).unwrap());
    let service = Service::start(ServiceConfig { caches: vec![(cache, 1)], ..setup.config() }).unwrap();
    let unseen = |config: &StreamConfig| connect(service.urls(), config, options()).unwrap().unseen_labels().clone();
    assert_eq!(unseen(&stream_config(Chain::recipe(), true)), [3].into());
    assert!(unseen(&small()).is_empty());
}

#[test]
fn names_to_exclude_that_match_nothing_are_told_to_clients() {
    let setup = Setup::new();
    let service = Service::start(setup.unix()).unwrap();
    let remarks = |exclude: &[&str]| {
        let config = StreamConfig { exclude: exclude.iter().map(|&name| name.to_owned()).collect(), ..small() };
        connect(service.urls(), &config, options()).unwrap().remarks().to_vec()
    };
    assert!(remarks(&[]).is_empty());
    let told = "exclude: no dataset matches \"Tset\", which excludes nothing; did you mean \"Dataset001_Test\"?";
    // Of a stream that is open already, too.
    for _ in 0..2 {
        assert_eq!(remarks(&["Tset"]), [told]);
    }
}

#[test]
fn unlabelled_cases_that_a_stream_leaves_out_are_told_to_clients() {
    let setup = Setup::new();
    let dir = tempfile::tempdir().unwrap();
    let mut writer = ShardWriter::create(dir.path(), 1, 0).unwrap();
    let len: usize = SHAPE.iter().product();
    let (image, label) = (vec![100_u16; len], vec![1_u8; len]);
    for (case_id, label) in [("a", Some(&label)), ("b", None)] {
        let mut case = NewCase::new("Dataset001_Test", case_id, SHAPE, &image);
        case.image_bits = 9;
        case.image_offset = -175.0;
        case.label = label.map(Vec::as_slice);
        writer.push(encode(&case, [8; 3], CodecPreset::Fast).unwrap()).unwrap();
    }
    writer.finish().unwrap();
    let preprocess = serde_json::to_value(PreprocessConfig::default()).unwrap();
    Manifest { preprocess, ..Manifest::default() }.write(dir.path()).unwrap();
    let cache = Arc::new(Cache::open(dir.path()).unwrap());
    let service = Service::start(ServiceConfig { caches: vec![(cache, 1)], ..setup.config() }).unwrap();
    let open = |labels: bool| connect(service.urls(), &stream_config(Chain::recipe(), labels), options()).unwrap();
    assert_eq!(open(true).num_cases(), 1);
    assert_eq!(open(true).remarks(), ["labels: 1 of 2 cases has labels; the others are left out"]);
    assert!(open(false).remarks().is_empty());
}

#[test]
fn without_a_server_the_client_gives_up_and_says_why() {
    let setup = Setup::new();
    let url = format!("unix://{}", setup.socket().display());
    let none = RemoteOptions { retry: Duration::ZERO, ..options() };
    let error = connect(std::slice::from_ref(&url), &small(), none.clone()).err().unwrap();
    assert!(matches!(&error, RemoteError::Unreachable { url: last, .. } if *last == url), "{error}");
    // The request to stop ends a client that waits.
    let stopped = options();
    stopped.stop.request();
    assert!(matches!(connect(&[url], &small(), stopped), Err(RemoteError::Stopped)));
    // A stream whose only server went away for good.
    let service = Service::start(setup.unix()).unwrap();
    let loader = connect(service.urls(), &small(), none).unwrap();
    let mut stream = loader.stream(0);
    assert!(stream.next().unwrap().is_ok());
    drop(service);
    let error = stream.find_map(Result::err).unwrap();
    assert!(matches!(&error, RemoteError::Unreachable { .. }), "{error}");
    assert!(stream.next().is_none());
    assert!(matches!(connect(&[], &small(), options()), Err(RemoteError::NoServer)));
}

#[test]
fn servers_that_answer_without_ever_giving_a_batch_are_given_up() {
    let setup = Setup::new();
    let services = [Service::start(setup.config()).unwrap(), Service::start(setup.unix()).unwrap()];
    let urls = services.each_ref().map(|service| service.urls()[0].clone());
    let short = RemoteOptions { retry: Duration::from_millis(500), ..options() };
    let loader = connect(&urls, &small(), short).unwrap();
    // Streams are opened as before, and each batch is refused.
    for service in &services {
        service.hub.schedule.stop();
    }
    let error = loader.stream(0).next().unwrap().err().unwrap();
    assert!(matches!(&error, RemoteError::Unreachable { url, .. } if urls.contains(url)), "{error}");
    let stopped = options();
    let loader = connect(&urls, &small(), stopped.clone()).unwrap();
    stopped.stop.request();
    assert!(matches!(loader.stream(0).next(), Some(Err(RemoteError::Stopped))));
}

#[test]
fn a_request_to_stop_ends_the_waiting_for_a_server_that_accepts_connections_and_is_silent() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let stopped = options();
    stopped.stop.request();
    assert!(matches!(connect(&[url], &small(), stopped), Err(RemoteError::Stopped)));
}

#[test]
fn several_servers_do_not_skip_each_its_own_cases() {
    let urls = ["http://127.0.0.1:9".to_owned(), "http://127.0.0.1:10".to_owned()];
    let config = StreamConfig { on_corrupt: OnCorrupt::Skip, ..small() };
    let refused = connect(&urls, &config, options()).err().unwrap();
    assert!(matches!(refused, RemoteError::SkipOfSeveral), "{refused}");
}

#[test]
fn batches_that_a_server_cannot_read_come_from_the_other() {
    let setup = Setup::new();
    let sound = Service::start(setup.config()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    drop(write_cache(dir.path(), 5, 0));
    let cache = Cache::open(dir.path()).unwrap();
    let (span, shard) = (cache.cases()[0].record().span, cache.cases()[0].shard().path().to_owned());
    drop(cache);
    let mut bytes = std::fs::read(&shard).unwrap();
    let start = usize::try_from(span.offset).unwrap();
    bytes[start..][..usize::try_from(span.data_len).unwrap()].iter_mut().for_each(|byte| *byte ^= 0x55);
    std::fs::write(&shard, bytes).unwrap();
    let cache = Arc::new(Cache::open(dir.path()).unwrap());
    let corrupt = Service::start(ServiceConfig { caches: vec![(cache, 1)], ..setup.config() }).unwrap();
    let alone = connect(corrupt.urls(), &small(), options()).unwrap();
    let error = alone.stream(0).find_map(Result::err).unwrap();
    assert!(matches!(&error, RemoteError::Refused { reason, .. } if reason.contains("case0")), "{error}");
    let both = connect(&[corrupt.urls(), sound.urls()].concat(), &small(), options()).unwrap();
    assert_eq!(take(&mut both.stream(0), 12), setup.digests(&small(), VoxelForm::Quantized, (0, 1), 0, 12));
}

#[test]
fn servers_of_another_protocol_are_refused_at_once() {
    use std::io::{Read as _, Write as _};

    let setup = Setup::new();
    // A server without TLS, asked with TLS.
    let service = Service::start(setup.config()).unwrap();
    let (ca, _) = certificate();
    let path = setup.dir.path().join("ca.pem");
    std::fs::write(&path, ca).unwrap();
    let url = service.urls()[0].replace("http://", "https://");
    let error = connect(&[url], &small(), RemoteOptions { ca: Some(path), ..options() }).err().unwrap();
    assert!(matches!(&error, RemoteError::Refused { reason, .. } if reason.contains("begins with http://")), "{error}");
    // A web server, which answers in text and keeps the connection open.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for mut socket in listener.incoming().flatten() {
            // Errors are those of a client that has gone.
            let _ = socket.read_exact(&mut [0; 24]);
            let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
            open.push(socket);
        }
    });
    let error = connect(&[url], &small(), options()).err().unwrap();
    assert!(matches!(&error, RemoteError::Refused { reason, .. } if reason.contains("https://")), "{error}");
}

#[test]
fn a_server_that_comes_back_with_another_token_ends_the_stream() {
    let setup = Setup::new();
    let service = Service::start(setup.unix()).unwrap();
    let loader = connect(service.urls(), &small(), options()).unwrap();
    let mut stream = loader.stream(0);
    assert_eq!(take(&mut stream, 2).len(), 2);
    drop(service);
    let _other = Service::start(ServiceConfig { token: Some("secret".into()), ..setup.unix() }).unwrap();
    // Not after the time for which a server that is away is asked again.
    let error = stream.find_map(Result::err).unwrap();
    assert!(error.to_string().contains("token is required"), "{error}");
    assert!(loader.stream(9).next().unwrap().is_err(), "the server is not asked again");
}
