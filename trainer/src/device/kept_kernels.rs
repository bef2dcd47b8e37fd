//! Folder in which compiled kernels and tuning results are kept for later runs of this program.

use std::path::Path;

#[cfg(any(feature = "cuda", test))]
use hiend_cache::durable;

#[cfg(feature = "cuda")]
pub(super) use cuda::report;

/// Keeps compiled kernels and tuning results for later runs of this program in `dir`, by default in the folder that a
/// `cubecl.toml` names, or else in `hiend/kernels` of the user's cache. Called once, before a device is opened; why nothing
/// is kept is reported when a CUDA device is opened. Has no effect in a build without CUDA.
pub fn keep_kernels(dir: Option<&Path>) {
    #[cfg(feature = "cuda")]
    cuda::keep(dir);
    let _ = dir;
}

/// Creates a folder unless it exists, and checks that it takes files.
///
/// # Errors
/// The folder, and the system's reason.
#[cfg(any(feature = "cuda", test))]
fn check(dir: &Path) -> Result<(), String> {
    let checked = durable::create_dir_all(dir).and_then(|()| durable::probe(dir, 1));
    checked.map_err(|error| format!("{error}: {}", error.source))
}

#[cfg(feature = "cuda")]
mod cuda {
    use std::path::{Path, PathBuf};
    use std::sync::{Mutex, PoisonError};

    use cubecl::config::cache::CacheConfig;
    use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig as _};
    use hiend_cache::user_cache;

    /// Folder that keeps kernels, or the reason why none does; taken when it is reported.
    static KEPT: Mutex<Option<Result<PathBuf, String>>> = Mutex::new(None);

    pub(super) fn keep(dir: Option<&Path>) {
        let kept = configure(dir);
        *KEPT.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
    }

    /// Warns once if kernels are not kept.
    pub(in crate::device) fn report() {
        let kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Err(reason)) = kept.map(|kept| kept.and_then(|dir| super::check(&dir))) {
            tracing::warn!("kernels are not kept, and later runs compile them again: {reason}");
        }
    }

    fn configure(dir: Option<&Path>) -> Result<PathBuf, String> {
        // A kept kernel is found by its name and by this ID, and not by its code: without an ID, those of another build
        // would be taken.
        if buildid::build_id().is_none() {
            return Err("this program has no build ID (linker option --build-id)".to_owned());
        }
        let mut config = CubeClRuntimeConfig::from_current_dir().override_from_env();
        let dir = match (dir, &config.environment.path) {
            (Some(dir), _) => dir.to_owned(),
            // CubeCL's default.
            (None, CacheConfig::Target) => {
                user_cache::folder("kernels").ok_or("neither XDG_CACHE_HOME nor HOME is set")?
            }
            (None, named) => named.root(),
        };
        config.compilation.cache = true;
        config.environment.path = CacheConfig::Directory(dir.clone());
        let is_first = CubeClRuntimeConfig::try_set(config);
        is_first.then_some(dir).ok_or_else(|| "a device was used before the folder was chosen".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn a_folder_that_keeps_no_kernels_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("hiend/kernels");
        assert_eq!(check(&folder), Ok(()));
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
        let file = dir.path().join("file");
        std::fs::write(&file, b"").unwrap();
        // A folder in which no user, root included, can make a file.
        let closed = Path::new("/proc/self/fdinfo");
        for (folder, named) in [(file.join("below"), &*file), (file.clone(), &*file), (closed.to_owned(), closed)] {
            let reason = check(&folder).unwrap_err();
            assert!(reason.contains(&named.display().to_string()), "{reason}");
        }
    }
}
