//! CUDA version that NVIDIA's driver supports: it decides whether this build runs, and which libraries fit.

use std::fmt;
use std::sync::OnceLock;

use super::library::{self, Library, Places};

/// A CUDA version, such as 12.8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cuda {
    /// Major version.
    pub major: u32,
    /// Minor version.
    pub minor: u32,
}

impl Cuda {
    /// Reads the first two numbers of a version; `None` if it does not begin with two.
    #[must_use]
    pub fn parse(version: &str) -> Option<Self> {
        let mut numbers = version.split('.').map(str::parse::<u32>);
        Some(Self { major: numbers.next()?.ok()?, minor: numbers.next()?.ok()? })
    }
}

impl fmt::Display for Cuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// CUDA version of the driver's bindings in this build, in CUDA's format. Without `nvcc` on the machine that builds, as for
/// release archives, it is the newest that the bindings know.
#[cfg(feature = "cuda")]
const BINDINGS: u32 = cudarc::driver::sys::CUDA_VERSION;
#[cfg(not(feature = "cuda"))]
const BINDINGS: u32 = 13_000;

/// Oldest CUDA version of a driver on which this build runs. The bindings of CUDA 13 measure time by
/// `cuEventElapsedTime_v2`, which drivers have since 12.8; without it the device's thread panics.
pub const OLDEST: Cuda = Cuda { major: 12, minor: if BINDINGS < 13_000 { 0 } else { 8 } };

/// A driver that is too old for this build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "NVIDIA's driver supports CUDA up to {0}, and this build needs {oldest}: update the driver (release 570 has CUDA 12.8)",
    oldest = OLDEST
)]
pub struct TooOld(Cuda);

/// Checks the driver's version; an unknown one passes.
///
/// # Errors
/// [`TooOld`] names both versions.
pub fn check(driver: Option<Cuda>) -> Result<(), TooOld> {
    driver.filter(|driver| *driver < OLDEST).map_or(Ok(()), |driver| Err(TooOld(driver)))
}

/// Newest CUDA version that the driver supports; `None` without a driver. Loads the driver's library, once per process.
#[must_use]
pub fn supported() -> Option<Cuda> {
    static SUPPORTED: OnceLock<Option<Cuda>> = OnceLock::new();
    *SUPPORTED.get_or_init(|| {
        let version = library::open(Library::Driver, &Places::of_process()).ok()?.version?;
        Cuda::parse(version.strip_prefix("CUDA ")?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        let parsed = |text| Cuda::parse(text).unwrap();
        assert!(parsed("12.10") > parsed("12.8.1") && parsed("13.0.2") > parsed("12.10"));
        assert_eq!(parsed("13.1.0").to_string(), "13.1");
        assert_eq!((Cuda::parse("13"), Cuda::parse("of no kind")), (None, None));
    }

    #[test]
    fn an_old_driver_is_refused_with_both_versions() {
        assert_eq!((check(None), check(Some(OLDEST)), check(Cuda::parse("13.4"))), (Ok(()), Ok(()), Ok(())));
        let error = check(Cuda::parse("11.8")).unwrap_err().to_string();
        let expected = format!("NVIDIA's driver supports CUDA up to 11.8, and this build needs {OLDEST}: update");
        assert!(error.starts_with(&expected), "{error}");
    }
}
