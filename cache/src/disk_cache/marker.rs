//! The marker that makes a folder a disk cache. Nothing is removed in a folder without it.

use std::path::Path;

use super::{DiskCacheError, space};
use crate::durable;
use crate::error::FileError;

/// Name of the marker.
pub(super) const NAME: &str = "hiend-disk-cache";
/// Content of the marker; its first line names the layout of the folder.
const TEXT: &str = "hiend disk cache, layout 1\n\
    This folder holds copies of parts of objects. It may be removed while no program uses it.\n";

/// Marks an empty folder as a disk cache, or checks that it is one.
pub(super) fn claim(dir: &Path) -> Result<(), DiskCacheError> {
    let path = dir.join(NAME);
    match std::fs::read(&path) {
        Ok(content) if first_line(&content) == first_line(TEXT.as_bytes()) => {}
        Ok(_) => return Err(DiskCacheError::Version { dir: dir.to_owned() }),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => {
            for entry in std::fs::read_dir(dir).map_err(FileError::at(dir, "list"))? {
                let name = entry.map_err(FileError::at(dir, "list"))?.file_name();
                // Another process may be writing the marker at this moment.
                if name != NAME && !durable::is_temporary(&name) {
                    return Err(DiskCacheError::NotOurs { dir: dir.to_owned(), marker: NAME });
                }
            }
            durable::write(&path, TEXT.as_bytes())?;
        }
        Err(err) => return Err(FileError::at(path, "read")(err).into()),
    }
    for folder in [space::BLOCKS, space::TMP, space::USERS] {
        durable::create_dir_all(&dir.join(folder))?;
    }
    Ok(())
}

fn first_line(content: &[u8]) -> &[u8] {
    content.split(|&byte| byte == b'\n').next().unwrap_or_default()
}
