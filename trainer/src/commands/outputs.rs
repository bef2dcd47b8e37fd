//! Checks of the places for results. A command runs them first, so that no computed result is lost because its folder
//! is missing.

use std::path::Path;

use hiend_cache::durable::{self, NewFile};
use hiend_cache::lookup;
use hiend_loader::program::{check_output_file, check_output_folder};

/// Checks that a file with this name can be written, by creating a temporary file in its folder.
///
/// # Errors
/// If the path is a folder or another thing that is not a file, or its folder is missing or takes no files.
pub(super) fn check_file(path: &Path) -> anyhow::Result<()> {
    check_output_file(path)?;
    drop(NewFile::create(path)?);
    Ok(())
}

/// Checks that results can be written into a folder, which may not exist yet, by creating a temporary file in it or in
/// the nearest existing folder above. Does not create the folder.
///
/// # Errors
/// If the path leads to something other than a folder, or the nearest folder that exists takes no files.
pub(super) fn check_folder(path: &Path) -> anyhow::Result<()> {
    check_output_folder(path)?;
    for place in path.ancestors() {
        let place = if place.as_os_str().is_empty() { Path::new(".") } else { place };
        if lookup::exists(place)? {
            durable::probe(place, 1)?;
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_that_take_results_are_left_as_they_were() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), b"before").unwrap();
        check_file(&at("file")).unwrap();
        check_file(&at("new")).unwrap();
        check_folder(dir.path()).unwrap();
        check_folder(&at("new/folder")).unwrap();
        let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["file"]);
        assert_eq!(std::fs::read(at("file")).unwrap(), b"before");
    }

    #[test]
    fn places_that_take_no_results_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), b"").unwrap();
        for path in [at("none/file"), at("file/below"), dir.path().to_owned()] {
            assert!(check_file(&path).is_err(), "{}", path.display());
        }
        for path in [at("file"), at("file/below/more")] {
            assert!(check_folder(&path).is_err(), "{}", path.display());
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn folders_that_nobody_can_write_to_are_refused() {
        // A folder in which no user, root included, can make a file.
        let folder = Path::new("/proc/self/fdinfo");
        assert!(check_file(&folder.join("file")).is_err());
        assert!(check_folder(folder).is_err());
        assert!(check_folder(&folder.join("new")).is_err());
        assert!(check_file(Path::new("/dev/null")).is_err(), "a rename would replace the device");
    }
}
