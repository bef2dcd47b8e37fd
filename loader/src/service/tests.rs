use std::path::{Path, PathBuf};
use std::sync::Arc;

use hiend_cache::{Cache, CodecPreset, Geometry, Manifest, NewCase, ShardWriter, SourceFiles, encode};
use prost::Message as _;

use super::*;
use crate::batch::VoxelForm;
use crate::pipeline::{Loader, LoaderOptions, OnCorrupt, StreamConfig};
use crate::preprocess::PreprocessConfig;
use crate::remote::{RemoteError, RemoteLoader, RemoteOptions, RemoteStream};
use crate::sampler::SampleBy;
use crate::split::{CaseSplit, Split};
use crate::transform::Chain;
use crate::wire::{self, FetchRequest, OpenRequest, ShareRequest, StreamSpec};

const SHAPE: [usize; 3] = [20, 18, 22];
const SEED: u64 = 5;

#[test]
fn coded_chunks_are_refused_without_asking_a_server() {
    let options = RemoteOptions { form: VoxelForm::Chunks, ..RemoteOptions::default() };
    let urls = ["http://127.0.0.1:9".to_owned()];
    let refused = RemoteLoader::connect(&urls, StreamConfig::default(), 0, options);
    assert!(matches!(refused.err(), Some(RemoteError::Chunks)));
}

/// Cache of labelled cases; `offset` makes the voxels of one cache differ from those of another.
fn write_cache(dir: &Path, cases: usize, offset: usize) -> Arc<Cache> {
    let mut writer = ShardWriter::create(dir, 1, 0).unwrap();
    let len: usize = SHAPE.iter().product();
    for number in 0..cases {
        let image: Vec<u16> =
            (0..len).map(|at| u16::try_from((at * 7 + number * 13 + offset) % 426).unwrap()).collect();
        let label: Vec<u8> = (0..len).map(|at| u8::try_from(at * 3 / len).unwrap()).collect();
        let case_id = format!("case{number}");
        let mut case = NewCase::new("Dataset001_Test", &case_id, SHAPE, &image);
        case.image_bits = 9;
        case.image_offset = -175.0;
        case.label = Some(&label);
        case.geometry = Geometry::identity(SHAPE);
        case.source = SourceFiles { image_blake3: format!("{offset}-{number}"), ..SourceFiles::default() };
        writer.push(encode(&case, [8; 3], CodecPreset::Fast).unwrap()).unwrap();
    }
    writer.finish().unwrap();
    let preprocess = serde_json::to_value(PreprocessConfig::default()).unwrap();
    Manifest { preprocess, ..Manifest::default() }.write(dir).unwrap();
    Arc::new(Cache::open(dir).unwrap())
}

/// A folder with a cache, and room for sockets.
struct Setup {
    dir: tempfile::TempDir,
    cache: Arc<Cache>,
}

impl Setup {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("cache")).unwrap();
        let cache = write_cache(&dir.path().join("cache"), 5, 0);
        Self { dir, cache }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    fn config(&self) -> ServiceConfig {
        ServiceConfig {
            caches: vec![(Arc::clone(&self.cache), 1)],
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            threads: 2,
            memory_bytes: 64 << 20,
            client_memory_bytes: 4 << 20,
            ..ServiceConfig::default()
        }
    }

    fn unix(&self) -> ServiceConfig {
        ServiceConfig { listen: vec![Listen::Unix(self.socket())], ..self.config() }
    }

    /// Digests of the batches that a loader in this process gives.
    fn digests(
        &self,
        config: &StreamConfig,
        form: VoxelForm,
        rank: (usize, usize),
        start: u64,
        n: usize,
    ) -> Vec<String> {
        let options = LoaderOptions { threads: 2, memory_bytes: 64 << 20, rank, form };
        let loader = Loader::open(Arc::clone(&self.cache), config.clone(), SEED, &options).unwrap();
        loader.stream(start).take(n).map(|batch| batch.unwrap().digest()).collect()
    }
}

fn stream_config(augment: Chain, labels: bool) -> StreamConfig {
    StreamConfig {
        crop_size: [12, 12, 10],
        crops_per_visit: 3,
        visits_per_batch: 4,
        sample_by: if labels { SampleBy::Class } else { SampleBy::Intensity },
        labels,
        augment,
        ..StreamConfig::default()
    }
}

fn small() -> StreamConfig {
    stream_config(Chain::recipe(), false)
}

fn options() -> RemoteOptions {
    RemoteOptions { memory_bytes: 64 << 20, ..RemoteOptions::default() }
}

fn connect(urls: &[String], config: &StreamConfig, options: RemoteOptions) -> Result<RemoteLoader, RemoteError> {
    RemoteLoader::connect(urls, config.clone(), SEED, options)
}

fn take(stream: &mut RemoteStream, n: usize) -> Vec<String> {
    stream.take(n).map(|batch| batch.unwrap().digest()).collect()
}

/// A certificate for 127.0.0.1, and its key.
fn certificate() -> (String, String) {
    let certified = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).unwrap();
    (certified.cert.pem(), certified.signing_key.serialize_pem())
}

#[test]
fn digests_are_equal_in_every_form_and_on_every_way() {
    let setup = Setup::new();
    let (cert, key) = certificate();
    let ca = setup.dir.path().join("ca.pem");
    std::fs::write(&ca, &cert).unwrap();
    let tls = Tls { cert_pem: cert.into(), key_pem: key.into() };
    let plain = Service::start(ServiceConfig {
        listen: vec!["127.0.0.1:0".parse().unwrap(), Listen::Unix(setup.socket())],
        ..setup.config()
    })
    .unwrap();
    let secured = ServiceConfig { tls: Some(tls), token: Some("secret".into()), ..setup.config() };
    let secured = Service::start(secured).unwrap();
    assert!(secured.urls()[0].starts_with("https://127.0.0.1:"));
    let with_token = RemoteOptions { token: Some("secret".into()), ca: Some(ca), ..options() };
    let ways = [
        (&plain.urls()[0], options()),
        (&plain.urls()[1], options()),
        (&plain.urls()[1], RemoteOptions { shared_memory: false, ..options() }),
        (&secured.urls()[0], with_token),
    ];
    let cases = [
        (Chain::recipe(), VoxelForm::Floats),
        (Chain::recipe(), VoxelForm::Quantized),
        (Chain::recipe(), VoxelForm::Boxes),
        (Chain::nnunet(), VoxelForm::Floats),
        (Chain::nnunet(), VoxelForm::Boxes),
        (Chain::plain(), VoxelForm::Quantized),
    ];
    for (chain, form) in cases {
        for (labels, rank) in [(false, (0, 1)), (true, (1, 2))] {
            let config = stream_config(chain, labels);
            let expected = setup.digests(&config, form, rank, 3, 7);
            for (url, options) in &ways {
                let options = RemoteOptions { rank, form, ..options.clone() };
                let loader = connect(&[(*url).clone()], &config, options).unwrap();
                assert_eq!(take(&mut loader.stream(3), 7), expected, "{url} {form:?} {chain:?} labels: {labels}");
            }
        }
    }
}

#[test]
fn batches_and_facts_are_those_of_a_loader_in_this_process() {
    let setup = Setup::new();
    let service = Service::start(setup.unix()).unwrap();
    let config = stream_config(Chain::nnunet(), true);
    let options = RemoteOptions { form: VoxelForm::Boxes, rank: (1, 2), ..options() };
    let remote = connect(service.urls(), &config, options).unwrap();
    let local = LoaderOptions { threads: 1, memory_bytes: 64 << 20, rank: (1, 2), form: VoxelForm::Boxes };
    let local = Loader::open(Arc::clone(&setup.cache), config, SEED, &local).unwrap();
    assert_eq!(remote.digest(), local.digest());
    assert_eq!(remote.num_cases(), 5);
    assert_eq!(remote.steps_per_epoch(), local.steps_per_epoch());
    assert_eq!(remote.crops_per_batch(), local.crops_per_batch());
    assert_eq!(remote.manifest().preprocess, setup.cache.manifest().preprocess);
    for (here, there) in local.stream(0).zip(remote.stream(0)).take(5) {
        let (here, there) = (here.unwrap(), there.unwrap());
        assert_eq!((here.step, here.shape), (there.step, there.shape));
        assert_eq!(here.crops, there.crops);
        assert_eq!(here.labels.as_deref(), there.labels.as_deref());
        let (crate::Images::Boxes(a, boxes_a), crate::Images::Boxes(b, boxes_b)) = (&here.images, &there.images) else {
            panic!("boxes were asked for")
        };
        assert_eq!(**a, **b);
        assert_eq!(boxes_a, boxes_b);
    }
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
fn an_idle_stream_is_closed_and_opened_again() {
    let setup = Setup::new();
    let config = small();
    let service = Service::start(setup.config()).unwrap();
    let loader = connect(service.urls(), &config, options()).unwrap();
    assert_eq!(service.num_streams(), 1);
    service.hub.tidy(Instant::now(), Duration::from_mins(1));
    assert_eq!(service.num_streams(), 1);
    service.hub.tidy(Instant::now() + Duration::from_secs(61), Duration::from_mins(1));
    assert_eq!(service.num_streams(), 0);
    assert_eq!(take(&mut loader.stream(0), 5), setup.digests(&config, VoxelForm::Quantized, (0, 1), 0, 5));
    assert_eq!(service.num_streams(), 1);
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
fn without_a_server_the_client_gives_up_and_says_why() {
    let setup = Setup::new();
    let url = format!("unix://{}", setup.socket().display());
    let none = RemoteOptions { retry: Duration::ZERO, ..options() };
    let error = connect(std::slice::from_ref(&url), &small(), none.clone()).err().unwrap();
    assert!(matches!(&error, RemoteError::Unreachable { url: last, .. } if *last == url), "{error}");
    // One that waits is ended by the request to stop.
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
fn tokens_are_not_shown() {
    let config = ServiceConfig { token: Some("secret".into()), ..ServiceConfig::default() };
    let options = RemoteOptions { token: Some("secret".into()), ..RemoteOptions::default() };
    for text in [format!("{config:?}"), format!("{options:?}")] {
        assert!(text.contains("token: Some(\"hidden\")") && !text.contains("secret"), "{text}");
    }
}

#[test]
fn records_of_crops_take_less_than_what_is_reserved_for_them() {
    let setup = Setup::new();
    let options = LoaderOptions { threads: 1, memory_bytes: 64 << 20, rank: (0, 1), form: VoxelForm::Boxes };
    let config = stream_config(Chain::nnunet(), true);
    let loader = Loader::open(Arc::clone(&setup.cache), config, SEED, &options).unwrap();
    for batch in loader.stream(0).take(10) {
        let header = wire::batch::header(&batch.unwrap(), false, 0, 0.0);
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
        super::check(&changed(change)).err().map(|err| err.to_string()).unwrap_or_default()
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
    assert!(start(&|c| c.client_memory_bytes = 0).contains("--memory"));
    assert!(start(&|c| c.tls = Some(Tls { cert_pem: b"x".to_vec(), key_pem: b"y".to_vec() })).contains("certificate"));
    let taken = Service::start(setup.unix()).unwrap();
    assert!(start(&|c| c.listen = vec![Listen::Unix(setup.socket())]).contains("cannot listen"));
    drop(taken);
}

/// A raw connection, for requests that the client of this crate never makes.
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
    for step in [wire::STEPS, u64::MAX] {
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
    // Bytes that are no message.
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
            // Three batches fill the client's memory; a fourth would wait for ever.
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

/// Waits until another thread has made `condition` true.
fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_mins(2), "waited two minutes until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn more_clients_than_the_memory_has_room_for_are_refused() {
    let setup = Setup::new();
    let service = Service::start(ServiceConfig { memory_bytes: 8 << 20, ..setup.config() }).unwrap();
    let first = connect(service.urls(), &small(), options()).unwrap();
    let second = RemoteOptions { retry: Duration::ZERO, ..options() };
    let error = connect(service.urls(), &small(), second).err().unwrap();
    assert!(error.to_string().contains("the limit of 1 connected client is reached"), "{error}");
    drop(first);
    // Tried again until the server has seen the first client go.
    connect(service.urls(), &small(), options()).unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn voxels_come_through_shared_memory_and_slots_are_freed() {
    let setup = Setup::new();
    let service = Service::start(setup.unix()).unwrap();
    let loader = connect(service.urls(), &small(), options()).unwrap();
    let held = service.hub.clients.held_bytes();
    assert!(held > 0, "slots are allocated");
    let expected = setup.digests(&small(), VoxelForm::Quantized, (0, 1), 0, 40);
    // Batches that the consumer keeps do not change while the stream continues.
    let mut stream = loader.stream(0);
    let kept: Vec<_> = stream.by_ref().take(2).map(Result::unwrap).collect();
    assert_eq!(take(&mut stream, 38), expected[2..]);
    assert_eq!(kept.iter().map(crate::Batch::digest).collect::<Vec<_>>(), expected[..2]);
    // Batches in slots take no further memory but for their records.
    drop(stream);
    wait_until("only slots are held", || service.hub.clients.held_bytes() == held);
    assert_eq!(service.hub.blocks.free_bytes(), 0);
    drop(loader);
    wait_until("the slots are freed", || service.hub.clients.held_bytes() == 0);
    // The consumer's batches outlive connection and server.
    drop(service);
    assert_eq!(kept.iter().map(crate::Batch::digest).collect::<Vec<_>>(), expected[..2]);
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
fn lists_of_cases_travel_by_name() {
    let setup = Setup::new();
    let service = Service::start(setup.config()).unwrap();
    let list = setup.dir.path().join("list.txt");
    std::fs::write(&list, "case1\ncase3\n").unwrap();
    let by_file = StreamConfig { split: Split::List(crate::split::ListSplit { list }), ..small() };
    let by_name =
        StreamConfig { split: Split::Cases(CaseSplit { cases: vec!["case1".into(), "case3".into()] }), ..small() };
    let loader = connect(service.urls(), &by_file, options()).unwrap();
    assert_eq!(loader.num_cases(), 2);
    assert_eq!(take(&mut loader.stream(0), 3), setup.digests(&by_name, VoxelForm::Quantized, (0, 1), 0, 3));
}
