//! The marker that makes a folder a disk cache. Nothing is removed in a folder without it.

use std::path::Path;

use super::{DiskCacheError, space};
use crate::durable;
use crate::error::FileError;
use crate::regular;

/// Name of the marker.
pub(super) const NAME: &str = "hiend-disk-cache";
/// Beginning of the marker's first line, before the number of the folder's layout.
const TITLE: &str = "hiend disk cache, layout ";
/// Content of the marker.
const TEXT: &str = "hiend disk cache, layout 1\n\
    This folder holds copies of parts of objects. It may be removed while no program uses it.\n";

/// Marks an empty folder as a disk cache, or checks that it is one. Writes a damaged marker again if the folder holds
/// nothing else than a disk cache does.
pub(super) fn claim(dir: &Path) -> Result<(), DiskCacheError> {
    let path = dir.join(NAME);
    match regular::read(&path) {
        Ok(content) if first_line(&content) == first_line(TEXT.as_bytes()) => {}
        Ok(content) if names_a_layout(&content) => return Err(DiskCacheError::Version { dir: dir.to_owned() }),
        Ok(_) => mark(dir, &[space::BLOCKS, space::TMP, space::USERS, space::USAGE])?,
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => mark(dir, &[])?,
        Err(err) => return Err(FileError::at(path, "read")(err).into()),
    }
    for folder in [space::BLOCKS, space::TMP, space::USERS] {
        durable::create_dir_all(&dir.join(folder))?;
    }
    Ok(())
}

/// Writes the marker of a folder in which everything has one of the names `own`.
fn mark(dir: &Path, own: &[&str]) -> Result<(), DiskCacheError> {
    for entry in std::fs::read_dir(dir).map_err(FileError::at(dir, "list"))? {
        let name = entry.map_err(FileError::at(dir, "list"))?.file_name();
        // Another process may be writing the marker at this moment.
        let is_marker = name == NAME || durable::is_temporary(&name);
        if !is_marker && !own.iter().any(|own| name == **own) {
            return Err(DiskCacheError::NotOurs { dir: dir.to_owned(), marker: NAME });
        }
    }
    Ok(durable::write(&dir.join(NAME), TEXT.as_bytes())?)
}

/// Returns `true` if the first line names the layout of a folder.
fn names_a_layout(content: &[u8]) -> bool {
    let line = std::str::from_utf8(first_line(content)).unwrap_or_default();
    line.strip_prefix(TITLE).is_some_and(|layout| layout.parse::<u32>().is_ok())
}

fn first_line(content: &[u8]) -> &[u8] {
    content.split(|&byte| byte == b'\n').next().unwrap_or_default()
}
