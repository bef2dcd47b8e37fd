//! Targets that read the files of a cache.

use std::path::Path;
use std::sync::Arc;

use hiend_cache::seen::Seen;
use hiend_cache::shard::open_named;
use hiend_cache::verify::{survey, verify_case};
use hiend_cache::{Box3, Cache, Manifest, VolumeReader};
use serde_json::Value;

use crate::{check_error, check_line, write};

const SHARD: &str = "g0001-w000-0000.shard";
/// Length of a shard's header, and of its footer.
const FRAME: usize = 32;
/// Length of an entry of the chunk index.
const ENTRY: usize = 16;
/// Number of cases of a shard that are read.
const MOST_CASES: usize = 4;
/// Longest side in voxels of the box that is read from each case.
const MOST_VOXELS: usize = 40;

/// Reads a shard after correcting its checksums, so that the data they protect is read.
pub(crate) fn shard(scratch: &Path, bytes: &[u8]) {
    let dir = scratch.join("cache");
    if !dir.exists() {
        std::fs::create_dir(&dir).expect("the scratch folder is writable");
        let manifest =
            r#"{"format":"hiend-cache","version":1,"created_by":"","preprocess":null,"datasets":{},"shards":[]}"#;
        write(&dir.join("manifest.json"), manifest.as_bytes());
    }
    write(&dir.join(SHARD), &sealed(bytes));
    let mut reader = VolumeReader::new();
    match open_named(dir.as_path(), SHARD) {
        Ok(shard) => {
            let shard = Arc::new(shard);
            for idx in 0..shard.cases().len().min(MOST_CASES) {
                for fault in verify_case(&shard, idx, &mut reader) {
                    check_line(&fault.to_string());
                }
            }
        }
        Err(err) => check_error(&err),
    }
    match Cache::open(dir.as_path()) {
        Ok(cache) => {
            for case in cache.cases().iter().take(MOST_CASES) {
                let end = case.record().shape.map(|length| length.min(MOST_VOXELS));
                if let Err(err) = case.read_box(&Box3 { start: [0; 3], end }, &mut reader) {
                    check_error(&err);
                }
            }
        }
        Err(err) => check_error(&err),
    }
}

/// Opens and checks a cache whose manifest has these bytes.
pub(crate) fn manifest(scratch: &Path, bytes: &[u8]) {
    let dir = scratch.join("manifest");
    std::fs::create_dir_all(&dir).expect("the scratch folder is writable");
    write(&dir.join("manifest.json"), bytes);
    if let Err(err) = Manifest::read(dir.as_path()) {
        check_error(&err);
    }
    match survey(dir.as_path()) {
        Ok(survey) => survey.faults.iter().for_each(|fault| check_line(&fault.to_string())),
        Err(err) => check_error(&err),
    }
}

/// Reads the times of source files that are noted in a cache.
pub(crate) fn seen(scratch: &Path, bytes: &[u8]) {
    let dir = scratch.join("seen");
    std::fs::create_dir_all(&dir).expect("the scratch folder is writable");
    write(&dir.join(".seen.json"), bytes);
    if let Err(err) = Seen::read(dir.as_path()) {
        check_error(&err);
    }
}

/// Corrects the checksums of a shard's header, directory, indices and chunks, as far as they can be found.
fn sealed(bytes: &[u8]) -> Vec<u8> {
    if bytes.len() < 2 * FRAME {
        return bytes.to_vec();
    }
    let mut shard = bytes.to_vec();
    let header = crc32c::crc32c(&shard[..28]);
    shard[28..FRAME].copy_from_slice(&header.to_le_bytes());
    let footer = shard.split_off(shard.len() - FRAME);
    let number = |at: usize| footer[at..at + 8].try_into().map(u64::from_le_bytes).ok().map(usize::try_from);
    let (Some(Ok(at)), Some(Ok(len))) = (number(0), number(8)) else { return [shard, footer].concat() };
    if at < FRAME || at.checked_add(len) != Some(shard.len()) {
        return [shard, footer].concat();
    }
    let mut directory = shard.split_off(at);
    if let Ok(mut json) = serde_json::from_slice::<Value>(&directory) {
        seal_cases(&mut shard, &mut json);
        directory = serde_json::to_vec(&json).expect("JSON was read from bytes");
    }
    let mut sealed = footer;
    sealed[8..16].copy_from_slice(&(directory.len() as u64).to_le_bytes());
    sealed[16..20].copy_from_slice(&crc32c::crc32c(&directory).to_le_bytes());
    [shard, directory, sealed].concat()
}

/// Corrects the checksums of all chunks in their indices, and those of the indices in the directory.
fn seal_cases(shard: &mut [u8], directory: &mut Value) {
    let chunk = directory["chunk"].clone();
    let Some(cases) = directory["cases"].as_array_mut() else { return };
    for case in cases {
        seal_case(shard, &chunk, case);
    }
}

/// Corrects the checksums of one case; `None` if its index is not in the file.
fn seal_case(shard: &mut [u8], chunk: &Value, case: &mut Value) -> Option<()> {
    let length = |value: &Value| value.as_u64().and_then(|length| usize::try_from(length).ok());
    let span = |key: &str| length(&case["span"][key]);
    let from = span("offset")?.checked_add(span("data_len")?)?;
    let end = from.checked_add(span("index_len")?)?;
    shard.get(from..end)?;
    let mut num_chunks = 1usize;
    for axis in 0..3 {
        let (shape, chunk) = (length(&case["shape"][axis])?, length(&chunk[axis])?);
        num_chunks = num_chunks.checked_mul(shape.div_ceil(chunk.max(1)))?;
    }
    let num_entries = num_chunks.saturating_mul(if case["label"].is_null() { 1 } else { 2 });
    for entry in (from..end).step_by(ENTRY).take(num_entries).take_while(|entry| entry + ENTRY <= end) {
        let offset = u64::from_le_bytes(shard[entry..entry + 8].try_into().ok()?);
        let len = u32::from_le_bytes(shard[entry + 8..entry + 12].try_into().ok()?);
        let bytes =
            usize::try_from(offset).ok().and_then(|offset| shard.get(offset..offset.checked_add(len as usize)?));
        if let Some(bytes) = bytes.filter(|bytes| !bytes.is_empty()) {
            let crc = crc32c::crc32c(bytes);
            shard[entry + 12..entry + ENTRY].copy_from_slice(&crc.to_le_bytes());
        }
    }
    case["span"]["index_crc32c"] = crc32c::crc32c(&shard[from..end]).into();
    Some(())
}
