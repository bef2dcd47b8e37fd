//! `manifest.json`: parameters and label names of a cache, and the list of its shards.
//!
//! The records of the cases are in the shards (see [`crate::shard`]). The manifest adds what shards do not know: how the
//! volumes were made, the datasets' label names, and the shards at the end of the last run, so that a lost file is
//! noticed. It is JSON to be read by people. A checksum finds damage anywhere in it; to edit it by hand, delete the line
//! `"checksum"` and the comma before it.
//!
//! Manifests without a checksum, which earlier versions wrote, remain readable; those versions reject one that has it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::ser::{SerializeMap as _, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::damage::{JsonError, ManifestError, escaped};
use crate::durable;
use crate::error::{Error, FileError, Result};
use crate::location::Location;
use crate::lock::FileLock;
use crate::place::Place;
use crate::shard::{VERSION, list_shards};

/// Name of the manifest in a cache folder.
pub const FILE_NAME: &str = "manifest.json";

/// Value of [`Manifest::format`].
const FORMAT: &str = "hiend-cache";

/// Number of hex digits of the checksum.
const CHECKSUM_LEN: usize = 32;

/// Parameters that are written first, in this order; all others follow by name.
///
/// Without an order of our own, that of a file would depend on the build: some crates make `serde_json` keep the order of
/// keys (its feature `preserve_order`), for every crate of a build that they are part of.
const FIRST_PARAMETERS: [&str; 4] = ["spacing", "window", "store", "normalize"];

/// Prefix of the temporary files of earlier versions; [`durable`] names those of this one.
const FORMER_TEMPORARY_PREFIX: &str = ".manifest-";

/// Content of `manifest.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Format name, always `hiend-cache`.
    pub format: String,
    /// Version of the shard format.
    pub version: u32,
    /// Program and version that wrote the manifest.
    pub created_by: String,
    /// Preprocessing parameters of the volumes; opaque to this crate except for the order in which they are written.
    #[serde(serialize_with = "in_order")]
    pub preprocess: Value,
    /// Datasets by name.
    pub datasets: BTreeMap<String, DatasetInfo>,
    /// File names of the shards, sorted.
    pub shards: Vec<String>,
    /// Keys of the cases in each shard at the end of the last run, by the shard's file name, so that the cases of a lost
    /// file can be named. Shards of earlier versions are not listed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub cases: BTreeMap<String, Vec<String>>,
    /// BLAKE3 hash of the file's bytes with zeros in place of these 32 hex digits. Set by [`Manifest::write`]; `None` in
    /// manifests of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
}

/// Description of a dataset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetInfo {
    /// Class names by label value, background (0) included; empty for a dataset without labels.
    pub labels: BTreeMap<u8, String>,
    /// Label values that each region unites, by the region's name; empty for a dataset without regions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub regions: BTreeMap<String, Vec<u8>>,
    /// Label value of voxels without annotation, if the dataset has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ignore: Option<u8>,
}

impl Default for Manifest {
    fn default() -> Self {
        Self {
            format: FORMAT.into(),
            version: VERSION,
            created_by: concat!("hiend-cache ", env!("CARGO_PKG_VERSION")).into(),
            preprocess: Value::Null,
            datasets: BTreeMap::new(),
            shards: Vec::new(),
            cases: BTreeMap::new(),
            checksum: None,
        }
    }
}

impl Manifest {
    /// Reads the manifest of a cache.
    ///
    /// # Errors
    /// If there is none, it is damaged, or it is of another format or version.
    pub fn read(at: impl Into<Location>) -> Result<Self> {
        let location = at.into();
        Self::read_in(&Place::of(&location)?, &location)
    }

    /// Returns `true` if there is a manifest, readable or not.
    ///
    /// # Errors
    /// If it cannot be looked up.
    pub fn exists(at: impl Into<Location>) -> Result<bool> {
        Ok(Place::of(&at.into())?.exists(FILE_NAME)?)
    }

    /// Reads a manifest as [`Self::read`] does, from a place that is open.
    pub(crate) fn read_in(place: &Place, location: &Location) -> Result<Self> {
        let Some(bytes) = place.read(FILE_NAME)? else {
            return Err(Error::NoCache { path: location.as_path().to_owned() });
        };
        Self::parse(&bytes, location)
    }

    fn parse(bytes: &[u8], location: &Location) -> Result<Self> {
        Self::from_bytes(bytes).map_err(|reason| Error::BadManifest { path: location.join(FILE_NAME), reason })
    }

    /// Changes the manifest of a cache, or creates one, and updates its list of shards.
    ///
    /// Runs that end at the same time wait for each other, so that neither loses the other's changes. Where the file
    /// system has no locks, the last one to write wins; it lists all shards that it sees, and a shard in the folder that
    /// is not in the list still counts. In object storage the manifest is replaced only if it still is the one that was
    /// read; otherwise `change` is applied again, to the new one.
    ///
    /// # Errors
    /// If the old manifest is not readable, or the new one cannot be written.
    pub fn update(at: impl Into<Location>, change: impl Fn(&mut Self)) -> Result<()> {
        let location = at.into();
        match Place::of(&location)? {
            Place::Folder(dir) => Self::update_folder(&dir, change),
            #[cfg(feature = "object-store")]
            Place::Bucket(bucket) => Self::update_bucket(&bucket, change),
        }
    }

    fn update_folder(dir: &Path, change: impl Fn(&mut Self)) -> Result<()> {
        let lock = FileLock::exclusive(&dir.join(".manifest.lock"))?;
        if lock.is_effective() {
            durable::remove_stale(dir)?;
            remove_former_temporaries(dir)?;
        }
        let mut manifest = match Self::read(dir) {
            Ok(manifest) => manifest,
            Err(Error::NoCache { .. }) => Self::default(),
            Err(err) => return Err(err),
        };
        manifest.shards = names(list_shards(dir)?);
        change(&mut manifest);
        manifest.write(dir)
    }

    #[cfg(feature = "object-store")]
    fn update_bucket(bucket: &crate::object::Bucket, change: impl Fn(&mut Self)) -> Result<()> {
        let location = bucket.location();
        let mut refused = None;
        loop {
            let old = bucket.read(FILE_NAME)?;
            if old.is_some() && old == refused {
                let reason = "the store refuses to replace the very version that it gives; it must support If-Match";
                return Err(FileError::at(location.join(FILE_NAME), "replace")(std::io::Error::other(reason)).into());
            }
            let mut manifest = match &old {
                Some((bytes, _)) => Self::parse(bytes, location)?,
                None => Self::default(),
            };
            manifest.shards = names(list_shards(location)?);
            change(&mut manifest);
            let bytes = manifest.serialize(&location.join(FILE_NAME))?;
            let is_written = match &old {
                Some((old, _)) if *old == bytes => true,
                Some((_, version)) => bucket.replace(FILE_NAME, &bytes, version)?,
                None => bucket.create(FILE_NAME, &bytes)?,
            };
            // Each failure is another run's success, so the loop ends.
            if is_written {
                return Ok(());
            }
            refused = old;
        }
    }

    /// Writes the manifest of a cache with a new checksum, durably.
    ///
    /// # Errors
    /// If it cannot be written; the previous one is then untouched.
    pub fn write(&self, at: impl Into<Location>) -> Result<()> {
        let location = at.into();
        let bytes = self.serialize(&location.join(FILE_NAME))?;
        Ok(Place::of(&location)?.write(FILE_NAME, &bytes)?)
    }

    fn serialize(&self, path: &Path) -> Result<Vec<u8>> {
        Ok(self.to_bytes().map_err(|err| FileError::at(path, "serialize")(err.into()))?)
    }

    fn to_bytes(&self) -> serde_json::Result<Vec<u8>> {
        let blank = Self { checksum: Some("0".repeat(CHECKSUM_LEN)), ..self.clone() };
        let mut bytes = serde_json::to_vec_pretty(&blank)?;
        bytes.push(b'\n');
        let checksum = checksum(&bytes);
        let digits = last_position(&bytes, &[b'0'; CHECKSUM_LEN]).expect("the checksum is the last field");
        bytes[digits..digits + CHECKSUM_LEN].copy_from_slice(checksum.as_bytes());
        Ok(bytes)
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, ManifestError> {
        let manifest: Self = serde_json::from_slice(bytes).map_err(JsonError::from)?;
        if manifest.format != FORMAT || manifest.version != VERSION {
            let (format, version) = (escaped(&manifest.format), manifest.version);
            return Err(ManifestError::Format { format, version, expected: VERSION });
        }
        if let Some(stated) = &manifest.checksum {
            let mut blank = bytes.to_vec();
            let digits = last_position(&blank, stated.as_bytes()).ok_or(ManifestError::Checksum)?;
            blank[digits..digits + stated.len()].fill(b'0');
            if checksum(&blank) != *stated {
                return Err(ManifestError::Checksum);
            }
        }
        Ok(manifest)
    }
}

/// Writes a JSON value with the keys of its objects in the order of [`FIRST_PARAMETERS`].
fn in_order<S: Serializer>(value: &Value, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Value::Object(entries) => {
            let rank = |key: &str| FIRST_PARAMETERS.iter().position(|first| *first == key).unwrap_or(usize::MAX);
            let mut entries: Vec<(&String, &Value)> = entries.iter().collect();
            entries.sort_by(|(a, _), (b, _)| rank(a).cmp(&rank(b)).then_with(|| a.cmp(b)));
            let mut map = serializer.serialize_map(Some(entries.len()))?;
            for (key, value) in entries {
                map.serialize_entry(key, &InOrder(value))?;
            }
            map.end()
        }
        Value::Array(values) => serializer.collect_seq(values.iter().map(InOrder)),
        other => other.serialize(serializer),
    }
}

/// A JSON value that is written by [`in_order`].
struct InOrder<'a>(&'a Value);

impl Serialize for InOrder<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        in_order(self.0, serializer)
    }
}

/// Returns the file names of shard paths.
fn names(paths: Vec<PathBuf>) -> Vec<String> {
    let name = |path: PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
    paths.into_iter().filter_map(name).collect()
}

/// Checksum of a manifest's bytes in which the checksum's own digits are replaced by zeros.
fn checksum(blank: &[u8]) -> String {
    blake3::hash(blank).to_hex()[..CHECKSUM_LEN].to_owned()
}

/// Position of the last occurrence of `part`; `None` if there is none or `part` is empty.
fn last_position(bytes: &[u8], part: &[u8]) -> Option<usize> {
    if part.is_empty() {
        return None;
    }
    bytes.windows(part.len()).rposition(|window| window == part)
}

/// Removes temporary files that earlier versions left. The caller holds the lock.
fn remove_former_temporaries(dir: &Path) -> Result<()> {
    for entry in std::fs::read_dir(dir).map_err(FileError::at(dir, "list"))? {
        let entry = entry.map_err(FileError::at(dir, "list"))?;
        if entry.file_name().to_string_lossy().starts_with(FORMER_TEMPORARY_PREFIX) {
            std::fs::remove_file(entry.path()).map_err(FileError::at(entry.path(), "remove"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let labels = BTreeMap::from([(0, "background".to_owned()), (1, "Leber \u{e4}".to_owned())]);
        Manifest {
            preprocess: serde_json::json!({"window": [-175.0, 250.0], "spacing": 1.5, "tiny": 1e-30}),
            datasets: BTreeMap::from([(
                "Dataset001_Test".to_owned(),
                DatasetInfo { labels, ..DatasetInfo::default() },
            )]),
            shards: vec!["g0001-w000-0000.shard".to_owned()],
            cases: BTreeMap::from([("g0001-w000-0000.shard".to_owned(), vec!["Dataset001_Test/a".to_owned()])]),
            ..Manifest::default()
        }
    }

    #[test]
    fn manifest_round_trips() {
        let dir = tempfile::tempdir().unwrap();
        manifest().write(dir.path()).unwrap();
        let read = Manifest::read(dir.path()).unwrap();
        assert_eq!(read.checksum.as_ref().map(String::len), Some(CHECKSUM_LEN));
        assert_eq!(Manifest { checksum: None, ..read.clone() }, manifest());
        // Written again, the bytes are the same.
        let bytes = std::fs::read(dir.path().join(FILE_NAME)).unwrap();
        read.write(dir.path()).unwrap();
        assert_eq!(std::fs::read(dir.path().join(FILE_NAME)).unwrap(), bytes);
    }

    #[test]
    fn parameters_are_written_in_one_order_whatever_the_build() {
        // Two maps with their keys inserted in different orders, which a build may keep or not.
        let parameters =
            [("store", "x"), ("zebra", "x"), ("window", "x"), ("spacing", "x"), ("ant", "x"), ("normalize", "x")];
        let forwards: serde_json::Map<String, Value> =
            parameters.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect();
        let backwards: serde_json::Map<String, Value> =
            parameters.iter().rev().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect();
        let written = |map: serde_json::Map<String, Value>| {
            let preprocess = Value::Array(vec![Value::Object(map)]);
            let bytes = Manifest { preprocess, ..Manifest::default() }.to_bytes().unwrap();
            String::from_utf8(bytes).unwrap()
        };
        let text = written(forwards);
        assert_eq!(text, written(backwards));
        let place = |key: &str| text.find(&format!("\"{key}\"")).unwrap();
        let places = ["spacing", "window", "store", "normalize", "ant", "zebra"].map(place);
        assert!(places.is_sorted(), "{text}");
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_an_error() {
        let whole = manifest().to_bytes().unwrap();
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                assert!(Manifest::from_bytes(&bytes).is_err(), "bit {bit} of byte {at}");
            }
            assert!(Manifest::from_bytes(&whole[..at]).is_err(), "cut to {at} bytes");
        }
        assert!(Manifest::from_bytes(&[whole.as_slice(), b" "].concat()).is_err(), "a blank at the end");
    }

    #[test]
    fn manifest_without_checksum_is_read() {
        let text = String::from_utf8(manifest().to_bytes().unwrap()).unwrap();
        let (before, _) = text.split_once(",\n  \"checksum\"").unwrap();
        let read = Manifest::from_bytes(format!("{before}\n}}\n").as_bytes()).unwrap();
        assert_eq!(read, manifest());
        // A manifest of an earlier version, without a checksum, may have been edited by hand: here a class was renamed.
        let edited = before.replace("background", "air");
        assert!(Manifest::from_bytes(format!("{edited}\n}}\n").as_bytes()).is_ok());
    }

    #[test]
    fn label_that_looks_like_a_checksum_is_no_obstacle() {
        let mut manifest = manifest();
        manifest.created_by = "0".repeat(CHECKSUM_LEN);
        let bytes = manifest.to_bytes().unwrap();
        let read = Manifest::from_bytes(&bytes).unwrap();
        assert_eq!(read.created_by, manifest.created_by);
    }

    #[test]
    fn other_format_or_version_is_rejected() {
        for other in [Manifest { format: "zarr".into(), ..manifest() }, Manifest { version: VERSION + 1, ..manifest() }]
        {
            let error = Manifest::from_bytes(&other.to_bytes().unwrap()).unwrap_err();
            assert!(matches!(error, ManifestError::Format { expected: VERSION, .. }), "{error}");
        }
        for checksum in ["", "0", "00000000000000000000000000000000"] {
            let mut bytes = serde_json::to_vec(&Manifest { checksum: Some(checksum.into()), ..manifest() }).unwrap();
            bytes.push(b'\n');
            assert!(matches!(Manifest::from_bytes(&bytes), Err(ManifestError::Checksum)), "{checksum:?}");
        }
    }

    #[test]
    fn update_lists_shards_and_removes_remainders_of_killed_runs() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.shard", "a.shard", ".name-c.shard", "notes.txt", ".manifest-x", ".hiend-x.tmp"] {
            std::fs::write(dir.path().join(name), b"").unwrap();
        }
        Manifest::update(dir.path(), |manifest| manifest.created_by = "me".into()).unwrap();
        Manifest::update(dir.path(), |manifest| manifest.preprocess = 5.into()).unwrap();
        let read = Manifest::read(dir.path()).unwrap();
        assert_eq!((read.created_by.as_str(), read.preprocess), ("me", 5.into()));
        assert_eq!(read.shards, ["a.shard", "b.shard"]);
        let mut names: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        // The reservation of a name belongs to another run.
        assert_eq!(names, [".manifest.lock", ".name-c.shard", "a.shard", "b.shard", FILE_NAME, "notes.txt"]);
    }

    #[test]
    fn missing_manifest_is_no_cache_and_a_damaged_one_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Manifest::read(dir.path()), Err(Error::NoCache { path }) if path == dir.path()));
        std::fs::write(dir.path().join(FILE_NAME), b"{").unwrap();
        assert!(matches!(Manifest::update(dir.path(), |_| {}), Err(Error::BadManifest { .. })));
        assert_eq!(std::fs::read(dir.path().join(FILE_NAME)).unwrap(), b"{");
        std::fs::remove_file(dir.path().join(FILE_NAME)).unwrap();
        std::fs::create_dir(dir.path().join(FILE_NAME)).unwrap();
        assert!(matches!(Manifest::read(dir.path()), Err(Error::File(FileError { action: "read", .. }))));
    }

    #[test]
    fn errors_are_one_line_whatever_the_file_holds() {
        let other = serde_json::to_vec(&Manifest { format: "other\nformat".into(), ..manifest() }).unwrap();
        for (bytes, expected) in
            [(&br#"{ "versio\n": 1 }"#[..], r"unknown field `versio\n`"), (&other, r"format other\nformat")]
        {
            let error = Manifest::from_bytes(bytes).unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains('\n'), "{error}");
        }
    }
}
