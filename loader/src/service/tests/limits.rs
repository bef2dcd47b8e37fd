//! Limits of a service: tokens, hostile requests, memory, and shutdown.

use super::*;

#[test]
fn tokens_are_not_shown() {
    let config = ServiceConfig { token: Some("secret".into()), ..ServiceConfig::default() };
    let options = RemoteOptions { token: Some("secret".into()), ..RemoteOptions::default() };
    for text in [format!("{config:?}"), format!("{options:?}")] {
        assert!(text.contains("token: Some(\"hidden\")") && !text.contains("secret"), "{text}");
    }
}

#[test]
fn records_of_crops_take_less_memory_than_is_reserved() {
    let setup = Setup::new();
    let options = LoaderOptions { threads: 1, memory_bytes: 64 << 20, rank: (0, 1), form: VoxelForm::Boxes };
    let config = stream_config(Chain::nnunet(), true);
    let loader = Loader::open(Arc::clone(&setup.cache), config, SEED, &options).unwrap();
    for batch in loader.stream(0).take(10) {
        let header = wire::batch::SentBatch::of(batch.unwrap(), None, 0.0).unwrap().header;
        for crop in &header.crops {
            // The crop exists as a value, as a message and as encoded bytes at the same time.
            assert!(3 * crop.encoded_len() < crate::pipeline::RECORD_BYTES, "{}", crop.encoded_len());
        }
    }
}

#[test]
fn tokens_and_certificates_are_checked() {
    let setup = Setup::new();
    let (cert, key) = certificate();
    let (other, _) = certificate();
    let (ca, other_ca) = (setup.dir.path().join("ca.pem"), setup.dir.path().join("other.pem"));
    std::fs::write(&ca, &cert).unwrap();
    std::fs::write(&other_ca, other).unwrap();
    let tls = Tls { cert_pem: cert.into(), key_pem: key.into() };
    let config = ServiceConfig { tls: Some(tls), token: Some("secret".into()), ..setup.config() };
    let service = Service::start(config).unwrap();
    let with = |token: Option<&str>, ca: &Path| RemoteOptions {
        token: token.map(str::to_owned),
        ca: Some(ca.to_owned()),
        ..options()
    };
    // Refused at once, although the client would try again for minutes.
    for token in [None, Some("secre"), Some("secret2"), Some("")] {
        let error = connect(service.urls(), &small(), with(token, &ca)).err().unwrap().to_string();
        assert!(error.contains("token"), "{token:?}: {error}");
    }
    let error = connect(service.urls(), &small(), with(Some("secret"), &other_ca)).err().unwrap();
    assert!(matches!(&error, RemoteError::Refused { reason, .. } if reason.contains("certificate")), "{error}");
    assert_eq!((service.num_clients(), service.num_streams()), (0, 0));
    connect(service.urls(), &small(), with(Some("secret"), &ca)).unwrap();
}

#[test]
fn unsafe_and_senseless_configurations_are_refused() {
    let setup = Setup::new();
    let changed = |change: &dyn Fn(&mut ServiceConfig)| {
        let mut config = setup.config();
        change(&mut config);
        config
    };
    // Without starting: a test opens no address beyond this host.
    let check = |change: &dyn Fn(&mut ServiceConfig)| {
        changed(change).check(0).err().map(|err| err.to_string()).unwrap_or_default()
    };
    let start = |change: &dyn Fn(&mut ServiceConfig)| {
        Service::start(changed(change)).err().map(|err| err.to_string()).unwrap_or_default()
    };
    let everywhere: Vec<Listen> = vec!["0.0.0.0:0".parse().unwrap()];
    let (cert, key) = certificate();
    let tls = Tls { cert_pem: cert.into(), key_pem: key.into() };
    assert!(check(&|c| c.listen = everywhere.clone()).contains("--insecure"));
    assert!(check(&|c| (c.listen, c.token) = (everywhere.clone(), Some("t".into()))).contains("--tls-cert"));
    assert!(check(&|c| (c.listen, c.tls) = (everywhere.clone(), Some(tls.clone()))).contains("--token-file"));
    assert_eq!(check(&|c| (c.listen, c.tls, c.token) = (everywhere.clone(), Some(tls.clone()), Some("t".into()))), "");
    assert_eq!(check(&|c| (c.listen, c.insecure) = (everywhere.clone(), true)), "");
    assert!(start(&|c| c.caches.clear()).contains("no cache"));
    assert!(start(&|c| c.listen.clear()).contains("no address"));
    assert!(start(&|c| c.token = Some(" ".into())).contains("token"));
    assert!(start(&|c| c.memory_bytes = c.client_memory_bytes).contains("--memory"));
    assert!(start(&|c| c.client_memory_bytes = 0).starts_with("--client-memory is 0"));
    let error = check(&|c| (c.memory_bytes, c.client_memory_bytes) = (2 << 30, 2 << 30));
    assert!(error.contains("expected at least 4294967296 bytes (4.0 GiB): twice --client-memory"), "{error}");
    assert!(start(&|c| c.tls = Some(Tls { cert_pem: b"x".to_vec(), key_pem: b"y".to_vec() })).contains("certificate"));
    let taken = Service::start(setup.unix()).unwrap();
    assert!(start(&|c| c.listen = vec![Listen::Unix(setup.socket())]).contains("cannot listen"));
    drop(taken);
}

/// A raw connection, for requests that this crate's client never makes.
struct Raw {
    runtime: tokio::runtime::Runtime,
    channel: tonic::transport::Channel,
}

impl Raw {
    fn new(url: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        // Windows as small as HTTP/2 has them, so that the transport cannot take a batch that is not read.
        let endpoint = tonic::transport::Endpoint::from_shared(url.to_owned())
            .unwrap()
            .initial_stream_window_size(65_535)
            .initial_connection_window_size(65_535);
        let channel = runtime.block_on(endpoint.connect()).unwrap();
        Self { runtime, channel }
    }

    /// Sends bytes to a method; returns the body of the response, unread.
    fn send(&self, path: &'static str, message: &impl prost::Message) -> Result<tonic::body::Body, tonic::Status> {
        use tonic::codegen::Service as _;
        let mut request = http::Request::new(tonic::body::Body::new(wire::framing::Pieces::request(message)));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = http::Uri::from_static(path);
        let headers = request.headers_mut();
        headers.insert("content-type", http::HeaderValue::from_static("application/grpc"));
        let mut channel = self.channel.clone();
        self.runtime.block_on(async {
            std::future::poll_fn(|cx| channel.poll_ready(cx)).await.unwrap();
            let response = channel.call(request).await.unwrap();
            match tonic::Status::from_header_map(response.headers()) {
                Some(status) if status.code() != tonic::Code::Ok => Err(status),
                _ => Ok(response.into_body()),
            }
        })
    }

    fn refused(&self, path: &'static str, message: &impl prost::Message) -> tonic::Status {
        self.send(path, message).map(|_| ()).unwrap_err()
    }
}

fn spec() -> StreamSpec {
    let stream = wire::spec::Stream { config: small(), seed: SEED, rank: (0, 1), form: VoxelForm::Quantized };
    stream.to_spec().unwrap()
}

#[test]
fn hostile_requests_get_a_status_and_cost_nothing() {
    use tonic::Code::{FailedPrecondition, InvalidArgument, NotFound, Unimplemented};

    let setup = Setup::new();
    let service = Service::start(setup.config()).unwrap();
    let raw = Raw::new(&service.urls()[0]);
    let open = |change: &dyn Fn(&mut StreamSpec)| {
        let mut spec = spec();
        change(&mut spec);
        let status = raw.refused(wire::path::OPEN, &OpenRequest { spec: Some(spec) });
        assert_eq!(status.code(), InvalidArgument, "{}", status.message());
        status.message().to_owned()
    };
    for (expected, change) in [
        ("crop_size", &(|s: &mut StreamSpec| s.crop_size = vec![10_000; 3]) as &dyn Fn(&mut StreamSpec)),
        ("crop_size", &|s| s.crop_size = vec![0, 4, 4]),
        ("crop_size", &|s| s.crop_size = vec![u32::MAX; 3]),
        ("crop_size", &|s| s.crop_size.clear()),
        // -1 of a client without unsigned numbers.
        ("visits_per_batch", &|s| s.visits_per_batch = u32::MAX),
        ("visits_per_batch", &|s| s.visits_per_batch = 0),
        ("crops_per_visit", &|s| s.crops_per_visit = 0),
        ("4294967296 crops", &|s| {
            (s.crop_size, s.visits_per_batch, s.crops_per_visit) = (vec![1; 3], 65_536, 65_536);
        }),
        ("65792 crops", &|s| (s.crop_size, s.visits_per_batch, s.crops_per_visit) = (vec![1; 3], 257, 256)),
        // The voxels have room; the records of the crops do not.
        ("--client-memory", &|s| (s.crop_size, s.visits_per_batch, s.crops_per_visit) = (vec![1; 3], 1, 65_536)),
        ("--client-memory", &|s| s.crop_size = vec![1024; 3]),
        ("foreground_rate", &|s| s.foreground_rate = f64::NAN),
        ("window", &|s| s.window = Some(wire::Window { low: f64::NAN, high: f64::INFINITY })),
        ("rank 1 below 1", &|s| s.rank = 1),
        ("ranks", &|s| s.ranks = 0),
        ("ranks", &|s| s.ranks = 3),
        ("no dataset matches", &|s| s.include = vec!["Dataset999".into()]),
        ("no case is named", &|s| {
            s.split = Some(wire::stream_spec::Split::Cases(wire::CaseList { names: vec!["missing".into()] }));
        }),
        ("none of its", &|s| s.exclude = vec!["*".into()]),
        ("augment", &|s| s.augment_json = "[".repeat(100_000)),
        ("linear", &|s| s.augment_json = r#"{"chain":"nnunet"}"#.into()),
    ] {
        let message = open(change);
        assert!(message.contains(expected), "{expected}: {message}");
    }
    let code = |path, message: &FetchRequest| raw.refused(path, message).code();
    assert_eq!(raw.refused(wire::path::OPEN, &OpenRequest { spec: None }).code(), InvalidArgument);
    assert_eq!(service.num_streams(), 0);
    assert_eq!(service.held_bytes(), 0);

    let missing = FetchRequest { stream_id: "0".repeat(32), step: 0, slot: None };
    assert_eq!(code(wire::path::FETCH, &missing), NotFound);
    raw.send(wire::path::OPEN, &OpenRequest { spec: Some(spec()) }).unwrap();
    let stream_id = wire::spec::stream_id(&spec());
    for step in [crate::pipeline::STEPS, u64::MAX] {
        assert_eq!(
            code(wire::path::FETCH, &FetchRequest { step, stream_id: stream_id.clone(), slot: None }),
            InvalidArgument
        );
    }
    let slot = Some(wire::Slot { memory_id: 1, number: 0 });
    assert_eq!(code(wire::path::FETCH, &FetchRequest { slot, stream_id: stream_id.clone(), step: 0 }), NotFound);
    // Shared memory is for Unix sockets.
    let share = ShareRequest { stream_id, slots: 4 };
    assert_eq!(raw.refused(wire::path::SHARE, &share).code(), FailedPrecondition);
    assert_eq!(raw.refused("/hiend.loader.v1.Loader/Delete", &share).code(), Unimplemented);
    // Bytes that are not a message.
    assert!(raw.send(wire::path::FETCH, &OpenRequest { spec: Some(spec()) }).is_err());
    assert_eq!(service.held_bytes(), 0);
    // The service is as well as before.
    let loader = connect(service.urls(), &small(), options()).unwrap();
    assert_eq!(take(&mut loader.stream(0), 2), setup.digests(&small(), VoxelForm::Quantized, (0, 1), 0, 2));
}

#[test]
fn specifications_that_are_too_large_are_refused() {
    let setup = Setup::new();
    let service = Service::start(setup.config()).unwrap();
    let raw = Raw::new(&service.urls()[0]);
    let mut large = spec();
    large.exclude = vec!["x".repeat(1000); 5000];
    assert!(large.encoded_len() > 4 << 20);
    assert_eq!(raw.refused(wire::path::OPEN, &OpenRequest { spec: Some(large) }).code(), tonic::Code::OutOfRange);
}

#[test]
fn clients_that_do_not_read_stall_no_other_and_hold_their_own_memory_only() {
    const CLIENTS: usize = 32;
    let setup = Setup::new();
    // Larger than the window of a connection, so that the transport cannot take a whole batch.
    let config = StreamConfig { crop_size: [20, 20, 20], crops_per_visit: 6, ..small() };
    let batch_bytes = 20u64.pow(3) * 24 * 2;
    let record_bytes = (24 * crate::pipeline::RECORD_BYTES) as u64;
    let client_memory_bytes = 3 * (batch_bytes + record_bytes);
    let memory_bytes = (CLIENTS as u64 + 2) * client_memory_bytes;
    let service = Service::start(ServiceConfig { memory_bytes, client_memory_bytes, ..setup.config() }).unwrap();
    let expected = setup.digests(&config, VoxelForm::Quantized, (0, 1), 0, 6);
    let stream = wire::spec::Stream { config: config.clone(), seed: SEED, rank: (0, 1), form: VoxelForm::Quantized };
    let spec = stream.to_spec().unwrap();
    let stream_id = wire::spec::stream_id(&spec);
    let deaf: Vec<(Raw, Vec<tonic::body::Body>)> = (0..CLIENTS / 2)
        .map(|_| {
            let raw = Raw::new(&service.urls()[0]);
            raw.send(wire::path::OPEN, &OpenRequest { spec: Some(spec.clone()) }).unwrap();
            let fetch = |step| {
                let request = FetchRequest { stream_id: stream_id.clone(), step, slot: None };
                raw.send(wire::path::FETCH, &request).unwrap()
            };
            // Three batches fill the client's memory; a fourth would wait forever.
            let bodies = (0..3).map(fetch).collect();
            (raw, bodies)
        })
        .collect();
    assert_eq!(service.hub.clients.held_bytes(), CLIENTS as u64 / 2 * client_memory_bytes);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS / 2 {
            scope.spawn(|| {
                let loader = connect(service.urls(), &config, options()).unwrap();
                for (batch, expected) in loader.stream(0).zip(&expected) {
                    assert_eq!(batch.unwrap().digest(), *expected);
                    assert!(service.held_bytes() <= memory_bytes);
                }
            });
        }
    });
    assert!(service.hub.clients.held_bytes() >= CLIENTS as u64 / 2 * client_memory_bytes);
    drop(deaf);
    wait_until("no client is left", || service.num_clients() == 0 && service.hub.clients.held_bytes() == 0);
}

#[test]
fn silent_connections_for_files_of_shared_memory_delay_no_client() {
    use std::io::{self, Read as _};
    use std::os::unix::net::UnixStream;

    let setup = Setup::new();
    let service = Service::start(setup.unix()).unwrap();
    // More than the service has threads for work that blocks, which opening a stream needs.
    let path = pass::path(&setup.socket());
    let silent: Vec<UnixStream> = (0..20).map(|_| UnixStream::connect(&path).unwrap()).collect();
    let loader = connect(service.urls(), &small(), options()).unwrap();
    let expected = setup.digests(&small(), VoxelForm::Quantized, (0, 1), 0, 2);
    assert_eq!(take(&mut loader.stream(0), 2), expected);
    for mut socket in silent {
        socket.set_nonblocking(true).unwrap();
        // They are still open: the test did not wait for the end of their time, 30 seconds.
        let error = socket.read(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}

#[test]
fn more_clients_than_the_memory_has_room_for_are_refused() {
    let setup = Setup::new();
    let service = Service::start(ServiceConfig { memory_bytes: 8 << 20, ..setup.config() }).unwrap();
    assert_eq!(service.max_clients(), 1);
    let first = connect(service.urls(), &small(), options()).unwrap();
    let second = RemoteOptions { retry: Duration::ZERO, ..options() };
    let error = connect(service.urls(), &small(), second).err().unwrap();
    assert!(error.to_string().contains("the limit of 1 connected client is reached"), "{error}");
    drop(first);
    // Tried again until the server has seen the first client go.
    connect(service.urls(), &small(), options()).unwrap();
}

#[test]
fn a_service_that_shuts_down_sends_what_it_began() {
    let setup = Setup::new();
    let listen = vec!["127.0.0.1:0".parse().unwrap(), Listen::Unix(setup.socket())];
    let service = Service::start(ServiceConfig { drain: Duration::from_mins(1), listen, ..setup.config() }).unwrap();
    let url = service.urls()[0].clone();
    let raw = Raw::new(&url);
    raw.send(wire::path::OPEN, &OpenRequest { spec: Some(spec()) }).unwrap();
    let request = FetchRequest { stream_id: wire::spec::stream_id(&spec()), step: 0, slot: None };
    let body = raw.send(wire::path::FETCH, &request).unwrap();
    let shutdown = std::thread::spawn(move || service.shutdown());
    let received = raw.runtime.block_on(async {
        use http_body::Body as _;
        let mut body = std::pin::pin!(body);
        let mut bytes = 0;
        let mut status = None;
        while let Some(frame) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            match frame.unwrap().into_data() {
                Ok(data) => bytes += data.len(),
                Err(frame) => status = tonic::Status::from_header_map(&frame.into_trailers().unwrap()),
            }
        }
        (bytes, status.map(|status| status.code()))
    });
    assert!(received.0 > 12 * 12 * 10 * 12 * 2, "the whole batch arrives");
    assert_eq!(received.1, Some(tonic::Code::Ok));
    drop(raw);
    assert!(shutdown.join().unwrap(), "nothing is left when the client has gone");
    // Another test may have got the port by now, but not the path.
    assert!(std::os::unix::net::UnixStream::connect(setup.socket()).is_err());
}

#[test]
fn a_server_that_drains_leaves_its_sockets_to_a_successor() {
    let setup = Setup::new();
    let listen = vec!["127.0.0.1:0".parse().unwrap(), Listen::Unix(setup.socket())];
    let service = Service::start(ServiceConfig { drain: Duration::from_mins(5), listen, ..setup.config() }).unwrap();
    let raw = Raw::new(&service.urls()[0]);
    // More than the windows of a connection hold, and not read: the service waits until the client goes.
    let config = StreamConfig { visits_per_batch: 16, ..small() };
    let stream = wire::spec::Stream { config, seed: SEED, rank: (0, 1), form: VoxelForm::Quantized };
    let spec = stream.to_spec().unwrap();
    let request = FetchRequest { stream_id: wire::spec::stream_id(&spec), step: 0, slot: None };
    raw.send(wire::path::OPEN, &OpenRequest { spec: Some(spec) }).unwrap();
    let body = raw.send(wire::path::FETCH, &request).unwrap();
    let shutdown = std::thread::spawn(move || service.shutdown());
    wait_until("the path of the socket is free", || !setup.socket().exists());
    let successor = Service::start(setup.unix()).unwrap();
    assert!(!shutdown.is_finished());
    drop(body);
    drop(raw);
    assert!(shutdown.join().unwrap());
    // The successor's sockets have outlived the first service.
    let loader = connect(successor.urls(), &small(), options()).unwrap();
    assert_eq!(take(&mut loader.stream(0), 2), setup.digests(&small(), VoxelForm::Quantized, (0, 1), 0, 2));
}

#[test]
fn a_server_without_shared_memory_says_so() {
    let setup = Setup::new();
    let service = Service::start(ServiceConfig { shared_memory: false, ..setup.config() }).unwrap();
    let raw = Raw::new(&service.urls()[0]);
    raw.send(wire::path::OPEN, &OpenRequest { spec: Some(spec()) }).unwrap();
    let status = raw.refused(wire::path::SHARE, &ShareRequest { stream_id: wire::spec::stream_id(&spec()), slots: 4 });
    assert!(status.message().contains("--no-shared-memory"), "{}", status.message());
}
