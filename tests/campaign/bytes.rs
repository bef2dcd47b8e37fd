//! Attacks every file reader with damaged and hostile bytes.
//!
//! Whole files are mutated by a seed: bits and fields changed, parts cut out, repeated, inserted and swapped. Readers
//! answer with a value or an error in one line; they never panic, and where a checksum covers the bytes they never
//! return content other than that written.

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use hiend_cache::Manifest;
use hiend_fuzz::mutate::mutated;
use hiend_loader::convert::ConvertOptions;
use hiend_loader::volume::{read_info, read_labels, read_volume};
use hiend_trainer::config::RunConfig as _;
use hiend_trainer::config::finetune::FinetuneConfig;
use hiend_trainer::config::pretrain::PretrainConfig;
use hiend_trainer::weights::{StateDict, safetensors, torch};

use crate::conversion::{convert, error_chain, faults, volumes};
use crate::effort::seeds;
use crate::scans::{SHAPE, nifti, write_case};

const NUM_VOXELS: usize = SHAPE[0] * SHAPE[1] * SHAPE[2];

/// Feeds mutations of a corpus to a reader. A panic, or an error that `read` returns, ends the test with its seed.
fn attack(corpus: &[Vec<u8>], num_tries: u64, mut read: impl FnMut(&[u8], &[u8]) -> Result<(), String>) {
    for seed in seeds(num_tries) {
        let whole = &corpus[usize::try_from(seed).unwrap() % corpus.len()];
        let bytes = mutated(whole, corpus, seed);
        let read = catch_unwind(AssertUnwindSafe(|| read(whole, &bytes)));
        let read = read.unwrap_or_else(|_| Err(format!("the reader panicked on {} bytes", bytes.len())));
        if let Err(fault) = read {
            panic!("HIEND_CAMPAIGN_SEED={seed}: {fault}");
        }
    }
}

/// Checks that an error is one line.
fn check_one_line(err: &dyn std::error::Error) -> Result<(), String> {
    let text = error_chain(err);
    if text.contains('\n') { Err(format!("an error in several lines: {text}")) } else { Ok(()) }
}

fn written(path: &Path, bytes: &[u8]) -> PathBuf {
    std::fs::write(path, bytes).unwrap();
    path.to_owned()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A header extension of 32 bytes before the voxels.
fn with_extension(file: &[u8]) -> Vec<u8> {
    let mut bytes = file[..348].to_vec();
    bytes[108..112].copy_from_slice(&384f32.to_le_bytes());
    bytes.extend([1, 0, 0, 0, 32, 0, 0, 0, 6, 0, 0, 0]);
    bytes.extend([b'x'; 24]);
    bytes.extend(&file[352..]);
    bytes
}

/// Reverses the bytes of every header field and voxel.
fn big_endian(file: &[u8], bytes_per_voxel: usize) -> Vec<u8> {
    let mut bytes = file.to_vec();
    let mut reverse = |from: usize, to: usize, len: usize| {
        bytes[from..to].chunks_exact_mut(len).for_each(<[u8]>::reverse);
    };
    reverse(0, 4, 4);
    reverse(32, 36, 4);
    reverse(36, 38, 2);
    reverse(40, 56, 2);
    reverse(56, 68, 4);
    reverse(68, 76, 2);
    reverse(76, 120, 4);
    reverse(120, 122, 2);
    reverse(124, 148, 4);
    reverse(252, 256, 2);
    reverse(256, 328, 4);
    let end = file.len();
    reverse(352, end, bytes_per_voxel);
    bytes
}

/// Scans with every data type, plain, compressed, big-endian and with an extension.
fn scans() -> Vec<Vec<u8>> {
    let types =
        [(2i16, 8i16), (256, 8), (4, 16), (512, 16), (8, 32), (768, 32), (1024, 64), (1280, 64), (16, 32), (64, 64)];
    let mut corpus = Vec::new();
    for (datatype, bits) in types {
        let len = usize::try_from(bits / 8).unwrap();
        let plain = nifti(datatype, bits, &vec![0; NUM_VOXELS * len]);
        corpus.extend([gzip(&plain), big_endian(&plain, len), with_extension(&plain)]);
        corpus.push(plain);
    }
    corpus
}

#[test]
fn mutated_scans_are_read_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = scans();
    for (number, whole) in corpus.iter().enumerate() {
        let volume = read_volume(&written(&dir.path().join("whole.nii"), whole));
        let volume = volume.unwrap_or_else(|err| panic!("scan {number}: {err}"));
        assert_eq!(volume.info.shape, SHAPE, "scan {number}");
    }
    attack(&corpus, 4000, |_, bytes| {
        let path = written(&dir.path().join("scan.nii"), bytes);
        if let Err(err) = read_info(&path) {
            check_one_line(&err)?;
        }
        match read_volume(&path) {
            Ok(volume) => {
                let mut sum = 0.0;
                volume.for_each_row(|row| sum += row.iter().sum::<f32>());
                if volume.info.shape.contains(&0) {
                    return Err(format!("a volume of shape {:?}", volume.info.shape));
                }
            }
            Err(err) => check_one_line(&err)?,
        }
        read_labels(&path).map_or_else(|err| check_one_line(&err), |_| Ok(()))
    });
}

/// Creates a cache of three cases in two shards.
fn cache(dir: &Path) -> PathBuf {
    let (data, cache) = (dir.join("data"), dir.join("cache"));
    for (name, seed) in [("a", 1), ("b", 2), ("c", 3)] {
        write_case(&data.join("Dataset001_Scans"), name, seed, name != "c");
    }
    convert(&data, &cache, ConvertOptions { jobs: 1, shard_bytes: 9000, ..ConvertOptions::default() }).unwrap();
    cache
}

#[test]
fn mutated_shards_give_their_own_voxels_or_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path());
    let shards = hiend_cache::list_shards(cache.as_path()).unwrap();
    let corpus: Vec<Vec<u8>> = shards.iter().map(|path| std::fs::read(path).unwrap()).collect();
    let intact = volumes(&cache).unwrap();
    attack(&corpus, 1500, |whole, bytes| {
        let at = corpus.iter().position(|other| other == whole).unwrap();
        std::fs::write(&shards[at], bytes).unwrap();
        let (found, faults) = (volumes(&cache), faults(&cache));
        std::fs::write(&shards[at], whole).unwrap();
        if let Some(fault) = faults.iter().find(|fault| fault.contains('\n')) {
            return Err(format!("a fault in several lines: {fault}"));
        }
        let is_other_shard = corpus.iter().any(|other| other == bytes);
        if faults.is_empty() && !is_other_shard {
            return Err("verification finds nothing".into());
        }
        for (key, volume) in found.unwrap_or_default() {
            if intact.get(&key) != Some(&volume) {
                return Err(format!("{key} has other voxels"));
            }
        }
        Ok(())
    });
}

#[test]
fn mutated_manifests_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path());
    let path = cache.join("manifest.json");
    let corpus = vec![std::fs::read(&path).unwrap()];
    attack(&corpus, 4000, |whole, bytes| {
        std::fs::write(&path, bytes).unwrap();
        match Manifest::read(cache.as_path()) {
            Ok(_) if bytes != whole => Err("a changed manifest is accepted".into()),
            Ok(_) => Ok(()),
            Err(err) => check_one_line(&err),
        }
    });
}

#[test]
fn mutated_configurations_are_parsed_or_refused() {
    let texts = [
        include_str!("../../configs/smoke.toml"),
        include_str!("../../configs/pretrain/vit-l-p12.toml"),
        include_str!("../../configs/finetune/btcv.toml"),
    ];
    let corpus: Vec<Vec<u8>> = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    attack(&corpus, 3000, |_, bytes| {
        let text = String::from_utf8_lossy(bytes);
        let pretrain = PretrainConfig::parse(&text, "config.toml").map(drop);
        let finetune = FinetuneConfig::parse(&text, "config.toml").map(drop);
        [pretrain, finetune].into_iter().filter_map(Result::err).try_for_each(|err| check_one_line(&err))
    });
}

/// Feeds mutations of a weight file to a reader.
fn attack_weights(
    file: &str,
    num_tries: u64,
    read: fn(&Path) -> Result<StateDict, hiend_trainer::weights::WeightsError>,
) {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(file);
    let corpus = vec![std::fs::read(golden).unwrap()];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(file);
    read(&written(&path, &corpus[0])).unwrap();
    attack(&corpus, num_tries, |_, bytes| {
        read(&written(&path, bytes)).map_or_else(|err| check_one_line(&err), |_| Ok(()))
    });
}

#[test]
fn mutated_safetensors_are_read_or_refused() {
    attack_weights("pth_tiny.safetensors", 800, safetensors::read);
}

#[test]
fn mutated_pytorch_files_are_read_or_refused() {
    attack_weights("pth_tiny.pth", 800, torch::read);
}
