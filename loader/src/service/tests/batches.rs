//! Batches of servers are equal to those of a loader in this process, whatever the transport.

use super::*;

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
    // Batches in slots take no further memory except for their records.
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
