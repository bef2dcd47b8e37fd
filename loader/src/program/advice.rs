//! Advice on errors of caches: the libraries state the error, the programs add the command to run or the flag to set.

use std::error::Error as StdError;

use hiend_cache::{DiskCacheError, Error, FileError};

use crate::convert::ConvertError;
use crate::pipeline;
use crate::scan::ScanError;

/// Returns the command or flag that helps against an error; `None` if the error does not come from a cache or has no
/// remedy.
pub(super) fn on(error: &anyhow::Error) -> Option<String> {
    advice(error.chain().find_map(cache_error)?)
}

/// Finds the cache's error in a link of an error chain. Errors that wrap it transparently do not report it as their
/// source.
fn cache_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Error> {
    let wrapped = || match error.downcast_ref()? {
        pipeline::Error::Read(error) => Some(error),
        _ => None,
    };
    let converting = || match error.downcast_ref()? {
        ConvertError::Cache(error) => Some(error),
        _ => None,
    };
    let scanning = || match error.downcast_ref()? {
        ScanError::Cache(error) => Some(error),
        _ => None,
    };
    error.downcast_ref().or_else(wrapped).or_else(converting).or_else(scanning)
}

fn advice(error: &Error) -> Option<String> {
    match error {
        Error::NoCache { path } => Some(format!("make one with `hiend-shard DATA --out {}`", path.display())),
        Error::BadManifest { .. } => {
            Some("restore it, or remove it and run hiend-shard again, which writes it again from the shards".to_owned())
        }
        Error::MissingShard { .. } | Error::BadShard { .. } => {
            Some("restore it, or run hiend-shard again, which converts its cases again".to_owned())
        }
        Error::CorruptChunk { path, .. } => {
            let dir = path.parent().unwrap_or(path);
            Some(format!("`hiend-shard verify {}` lists all damage", dir.display()))
        }
        Error::DiskCache(error) => on_disk_cache(error),
        Error::File(FileError { action: "map into memory", .. }) => {
            Some("--access pread reads without memory maps".to_owned())
        }
        _ => None,
    }
}

fn on_disk_cache(error: &DiskCacheError) -> Option<String> {
    match error {
        DiskCacheError::NotOurs { .. } => Some("choose one with --disk-cache".to_owned()),
        DiskCacheError::Version { .. } => {
            Some("remove this folder, or choose another one with --disk-cache".to_owned())
        }
        DiskCacheError::NoFolder => Some("set --disk-cache, or one of these variables".to_owned()),
        DiskCacheError::TooSmall { needed, .. } => Some(format!("set --disk-cache-size to {needed} or more")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn errors_of_caches_are_found_beneath_context_and_wrappers() {
        let missing = || Error::MissingShard { path: "cache/a.shard".into() };
        let expected = advice(&missing());
        assert!(expected.is_some());
        assert_eq!(on(&anyhow::Error::new(missing()).context("opening")), expected);
        assert_eq!(on(&anyhow::Error::new(pipeline::Error::Read(missing()))), expected);
        let converting: Result<(), _> = Err(ConvertError::Cache(missing()));
        assert_eq!(on(&converting.context("converting").unwrap_err()), expected);
        assert_eq!(on(&anyhow::Error::new(ScanError::Cache(missing()))), expected);
        assert_eq!(on(&anyhow::anyhow!("another error")), None);
    }

    #[test]
    fn a_shard_that_cannot_be_mapped_is_followed_by_the_flag_to_set() {
        let fault = FileError::at("g0001-w000-0000.shard", "map into memory")(std::io::Error::from_raw_os_error(19));
        let advice = on(&anyhow::Error::new(Error::from(fault)));
        assert_eq!(advice.as_deref(), Some("--access pread reads without memory maps"));
    }

    #[test]
    fn errors_of_disk_caches_are_followed_by_the_flag_to_set() {
        let too_small = || DiskCacheError::TooSmall { dir: "blocks".into(), bytes: 1000, needed: 2000, users: 1 };
        let expected = Some("set --disk-cache-size to 2000 or more".to_owned());
        assert_eq!(on(&anyhow::Error::new(Error::from(too_small()))), expected);
        assert_eq!(on(&anyhow::Error::new(pipeline::Error::Read(too_small().into()))), expected);
        let version = DiskCacheError::Version { dir: "blocks".into() };
        for error in
            [DiskCacheError::NotOurs { dir: "blocks".into(), marker: "mark" }, version, DiskCacheError::NoFolder]
        {
            let advice = on_disk_cache(&error);
            assert!(advice.is_some_and(|advice| advice.contains("--disk-cache")), "{error}");
        }
    }
}
