//! Streams of caches with a corrupt case.

use hiend_loader::pipeline::OnCorrupt;

use super::*;

/// Changes one byte in the middle of a case's chunks; returns the case's key.
fn damage(cache: &Cache, case: usize) -> String {
    let case = &cache.cases()[case];
    let path = case.shard().path();
    let mut bytes = std::fs::read(path).unwrap();
    let span = &case.record().span;
    bytes[usize::try_from(span.offset + span.data_len / 2).unwrap()] ^= 0x10;
    let mut permissions = std::fs::metadata(path).unwrap().permissions();
    #[expect(clippy::permissions_set_readonly_false, reason = "a shard in a folder of the test's own")]
    permissions.set_readonly(false);
    std::fs::set_permissions(path, permissions).unwrap();
    std::fs::write(path, bytes).unwrap();
    case.key().to_owned()
}

#[test]
fn corrupt_chunk_ends_the_stream_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let cache = write_cache(dir.path(), "D", &some_cases(5));
    let config = config(SampleBy::Intensity, Chain::plain());
    let clean = digests(&batches(&cache, &config, &options(2, (0, 1)), 0, 30));
    let key = damage(&cache, 2);
    let mut messages = BTreeSet::new();
    for threads in [1, 2, 7] {
        let loader = Loader::open(Arc::clone(&cache), config.clone(), 5, &options(threads, (0, 1))).unwrap();
        let mut stream = loader.stream(0);
        let sound: Vec<Batch> = stream.by_ref().take(30).take_while(Result::is_ok).map(own).collect();
        // Batches before the first that meets the chunk are unchanged.
        assert!(sound.len() < 30);
        assert_eq!(digests(&sound), clean[..sound.len()]);
        let error = loader.stream(sound.len() as u64).next().unwrap().unwrap_err();
        assert!(matches!(&error, Error::Read(hiend_cache::Error::CorruptChunk { case, .. }) if *case == key));
        assert!(stream.next().is_none());
        messages.insert(error.to_string());
    }
    assert_eq!(messages.len(), 1, "{messages:?}");
    let message = messages.first().unwrap();
    let shard = cache.cases()[2].shard().path().display().to_string();
    assert!(message.contains(&shard) && message.contains(&key) && message.contains(" chunk "), "{message}");
}

#[test]
fn corrupt_case_is_skipped_and_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let cache = write_cache(dir.path(), "D", &some_cases(5));
    let forms = [(Chain::recipe(), VoxelForm::Floats), (Chain::nnunet(), VoxelForm::Boxes)].map(|(chain, form)| {
        let config = StreamConfig { on_corrupt: OnCorrupt::Skip, ..config(SampleBy::Intensity, chain) };
        let clean = batches(&cache, &config, &options(2, (0, 1)), 0, 20);
        (config, form, clean)
    });
    let key = damage(&cache, 2);
    for (config, form, clean) in forms {
        let mut all = BTreeSet::new();
        for threads in [1, 2, 7] {
            let options = LoaderOptions { form, ..options(threads, (0, 1)) };
            let loader = Loader::open(Arc::clone(&cache), config.clone(), 5, &options).unwrap();
            let skipping: Vec<Batch> = loader.stream(0).take(20).map(own).collect();
            let mut missing = 0;
            for (clean, batch) in clean.iter().zip(&skipping) {
                assert_eq!(batch.shape[0], batch.crops.len());
                assert_eq!(batch.labels.as_ref().unwrap().len(), batch.images.len());
                let (kept, all) = (batch.to_floats(), clean.to_floats());
                let len = all.len() / clean.shape[0];
                let mut left = batch.crops.iter().zip(kept.chunks_exact(len)).peekable();
                for (crop, image) in clean.crops.iter().zip(all.chunks_exact(len)) {
                    if left.next_if(|(kept, values)| *kept == crop && *values == image).is_none() {
                        assert_eq!(crop.case, key);
                        missing += 1;
                    }
                }
                assert!(left.next().is_none(), "a crop is not in the clean batch");
            }
            assert!(missing > 0 && missing % 3 == 0);
            assert!(loader.progress().skipped_visits >= missing / 3);
            all.insert(digests(&skipping));
        }
        assert_eq!(all.len(), 1);
    }
}
