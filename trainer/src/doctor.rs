//! State of the machine as far as computing goes: driver, devices, libraries, and one product checked against its definition.
//!
//! Works in every build: a build without CUDA still names the GPUs and libraries that are there, since they say what a
//! build with CUDA would be worth.

use std::fmt;
use std::path::PathBuf;

use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use bytesize::ByteSize;
use hiend_loader::plural::count;
use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

use crate::device::{Compute, DeviceChoice, DeviceError};
use crate::ops::product::{Factors, affine};
use crate::vendor::algorithms;
use crate::vendor::library::{self, Found, Libdevice, Library, LibraryError, Places};

/// Everything that was found.
#[derive(Debug)]
pub struct Report {
    places: Places,
    driver: Result<Driver, DriverError>,
    libraries: Vec<(Library, Result<Found, LibraryError>)>,
    libdevice: Libdevice,
    /// The device that was asked for, with the products computed there.
    device: Result<Examined, DeviceError>,
}

/// The NVIDIA driver and its devices.
#[derive(Debug)]
struct Driver {
    version: String,
    /// Newest CUDA version that the driver runs, `(major, minor)`.
    cuda: (i32, i32),
    devices: Vec<Gpu>,
}

/// Reasons why the driver says nothing.
#[derive(Debug, thiserror::Error)]
enum DriverError {
    /// A machine without driver.
    #[error("not installed: {}", Library::Driver.how_to_get())]
    Missing,
    /// The driver cannot be used.
    #[error("does not answer ({0}): {remedy}", remedy = Library::Driver.how_to_get())]
    Unusable(NvmlError),
    /// The driver answered some questions only.
    #[error("does not answer: {0}")]
    Silent(NvmlError),
}

/// One NVIDIA device.
#[derive(Debug)]
struct Gpu {
    name: String,
    capability: (i32, i32),
    free: u64,
    total: u64,
}

/// A device that was opened, and how well it multiplies.
#[derive(Debug)]
struct Examined {
    device: String,
    /// Library or kernels that the products were computed by; nothing to tell on the CPU.
    by: &'static str,
    products: Vec<ProductCheck>,
}

/// Largest error of a product and of its gradients, relative to the norm of the definition in 64 bits.
#[derive(Clone, Copy, Debug)]
struct ProductCheck {
    factors: Factors,
    error: f64,
    tolerance: f64,
}

impl ProductCheck {
    fn is_close(&self) -> bool {
        self.error <= self.tolerance
    }
}

impl Report {
    /// Looks at this machine, and multiplies on the device of `choice`.
    #[must_use]
    pub fn of(choice: DeviceChoice) -> Self {
        let places = Places::of_process();
        let examined = |compute: Compute| {
            let products = check_products(compute.raw());
            let by = match compute.is_cpu() {
                true => "",
                // A library's choice of algorithm is recorded when it computes.
                false if !algorithms::table().is_empty() => " by cuBLASLt",
                false => " by built-in kernels",
            };
            Examined { device: compute.to_string(), by, products }
        };
        Self {
            driver: driver(),
            libraries: Library::ALL.into_iter().map(|library| (library, library::open(library, &places))).collect(),
            libdevice: places.libdevice(),
            device: Compute::open(choice).map(examined),
            places,
        }
    }

    /// True if the device was opened and its products are those of the definition.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.device.as_ref().is_ok_and(|device| device.products.iter().all(ProductCheck::is_close))
    }

    /// Changes that would make this machine or this build faster, most effective first.
    fn advice(&self) -> Vec<String> {
        let mut advice = Vec::new();
        let has_gpu = self.driver.as_ref().is_ok_and(|driver| !driver.devices.is_empty());
        let missing = |wanted| self.libraries.iter().any(|(library, found)| *library == wanted && found.is_err());
        if !has_gpu {
            return advice;
        }
        if !cfg!(feature = "cuda") {
            advice.push("a build with CUDA would use the GPU: cargo build --release --features cuda".to_owned());
        }
        if !cfg!(feature = "cuda-nvrtc") {
            match &self.libdevice {
                Libdevice::Usable(_) => {}
                Libdevice::Elsewhere(root) => {
                    advice.push(format!(
                        "CUDA_PATH={} lets kernels find libdevice; without it none runs",
                        root.display()
                    ));
                }
                Libdevice::Missing => {
                    advice.push(format!("libdevice lets kernels run at all: {}", Library::Libdevice.how_to_get()));
                }
            }
        }
        if missing(Library::CublasLt) {
            advice.push(format!(
                "cuBLASLt multiplies at 416 to 804 TFLOP/s on an H100 where the built-in kernels make 30 to 146: {}",
                Library::CublasLt.how_to_get()
            ));
        }
        if missing(Library::Cudnn) {
            advice.push(format!(
                "cuDNN convolves; without it fine-tuning and prediction wait for minutes while convolutions are tuned: {}",
                Library::Cudnn.how_to_get()
            ));
        }
        let several = self.driver.as_ref().is_ok_and(|driver| driver.devices.len() > 1);
        if several && !library::loads_by_name("libnccl.so") {
            advice.push(format!("NCCL lets several GPUs train one model: {}", Library::Nccl.how_to_get()));
        }
        advice
    }
}

/// Asks NVML, which comes with the driver and takes no memory on the devices.
fn driver() -> Result<Driver, DriverError> {
    let nvml = Nvml::init().map_err(|error| match error {
        NvmlError::LibloadingError(_) => DriverError::Missing,
        error => DriverError::Unusable(error),
    })?;
    let read = || -> Result<Driver, NvmlError> {
        let cuda = nvml.sys_cuda_driver_version()?;
        let device = |index| -> Result<Gpu, NvmlError> {
            let device = nvml.device_by_index(index)?;
            let (memory, capability) = (device.memory_info()?, device.cuda_compute_capability()?);
            Ok(Gpu {
                name: device.name()?,
                capability: (capability.major, capability.minor),
                free: memory.free,
                total: memory.total,
            })
        };
        Ok(Driver {
            version: nvml.sys_driver_version()?,
            cuda: (cuda / 1000, cuda % 1000 / 10),
            devices: (0..nvml.device_count()?).map(device).collect::<Result<_, _>>()?,
        })
    };
    read().map_err(DriverError::Silent)
}

/// Remark on the libraries in a build that uses none of them.
const UNUSED: &str = " (of no use to this build, which has no CUDA: cargo install --path trainer --features cuda)";

/// Sizes of the product: rows, inner length, columns. None is a multiple of a tile, and rows are folded from two axes.
const SIZES: [usize; 4] = [3, 43, 132, 76];

/// Takes one small product and its gradients in every form of factors that the device has.
fn check_products(device: &Device) -> Vec<ProductCheck> {
    // Errors that rounding the factors explains: of TF32 2^-11 each, of bf16 2^-9; the CPU rounds sums alone.
    let forms = [(Factors::F32, 1e-3), (Factors::Tf32, 1e-3), (Factors::Bf16, 1e-2)];
    let has = |(factors, _): &(Factors, f64)| factors.dtype().is_none_or(|dtype| device.supports_dtype(dtype));
    let check = |(factors, tolerance)| ProductCheck { factors, error: product_error(device, factors), tolerance };
    forms.into_iter().filter(has).map(check).collect()
}

/// Numbers from -1 to 1 without a pattern.
fn wave(len: usize, frequency: f32) -> Vec<f32> {
    (0..len).map(|i| ((i as f32 * frequency).sin() * 43_758.547).fract()).collect()
}

/// Error of `y = x · w + b` and of its gradients on `device`; infinite if a value is missing or not a number.
fn product_error(device: &Device, factors: Factors) -> f64 {
    let [n, l, k, columns] = SIZES;
    let rows = n * l;
    let (x, w, b, dy) = (wave(rows * k, 0.7), wave(k * columns, 0.3), wave(columns, 0.9), wave(rows * columns, 1.3));
    let autodiff = device.clone().autodiff();
    let tensors = || {
        let x_in = Tensor::<3>::from_data(TensorData::new(x.clone(), [n, l, k]), &autodiff).require_grad();
        let w_in = Tensor::<2>::from_data(TensorData::new(w.clone(), [k, columns]), &autodiff).require_grad();
        let b_in = Tensor::<1>::from_data(TensorData::new(b.clone(), [columns]), &autodiff).require_grad();
        let y = affine(x_in.clone(), w_in.clone(), b_in.clone(), factors).cast(FloatDType::F32);
        let weights = Tensor::<3>::from_data(TensorData::new(dy.clone(), [n, l, columns]), &autodiff);
        let grads = (y.clone() * weights).sum().backward();
        let host = |data: TensorData| data.try_to_vec::<f32>().ok();
        Some([
            host(y.inner().try_into_data().ok()?)?,
            host(x_in.grad(&grads)?.try_into_data().ok()?)?,
            host(w_in.grad(&grads)?.try_into_data().ok()?)?,
            host(b_in.grad(&grads)?.try_into_data().ok()?)?,
        ])
    };
    let Some(ours) = tensors() else { return f64::INFINITY };
    let at = |values: &[f32], width: usize, row: usize, column: usize| f64::from(values[row * width + column]);
    let matrix = |rows: usize, columns: usize, value: &dyn Fn(usize, usize) -> f64| -> Vec<f64> {
        (0..rows * columns).map(|i| value(i / columns, i % columns)).collect()
    };
    let reference = [
        matrix(rows, columns, &|r, c| {
            f64::from(b[c]) + (0..k).map(|i| at(&x, k, r, i) * at(&w, columns, i, c)).sum::<f64>()
        }),
        matrix(rows, k, &|r, c| (0..columns).map(|i| at(&dy, columns, r, i) * at(&w, columns, c, i)).sum()),
        matrix(k, columns, &|r, c| (0..rows).map(|i| at(&x, k, i, r) * at(&dy, columns, i, c)).sum()),
        matrix(1, columns, &|_, c| (0..rows).map(|i| at(&dy, columns, i, c)).sum()),
    ];
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let error = |(ours, reference): (&Vec<f32>, &Vec<f64>)| {
        let difference = norm(&mut ours.iter().zip(reference).map(|(a, b)| f64::from(*a) - b));
        let error = difference / norm(&mut reference.iter().copied());
        if ours.len() == reference.len() && error.is_finite() { error } else { f64::INFINITY }
    };
    ours.iter().zip(&reference).map(error).fold(0.0, f64::max)
}

/// Kinds of devices that this build has.
fn built_in() -> String {
    let kinds = [
        (true, "cpu"),
        (cfg!(feature = "cuda"), "cuda"),
        (cfg!(feature = "cuda-nvrtc"), "cuda-nvrtc"),
        (cfg!(feature = "vulkan"), "vulkan"),
    ];
    kinds.into_iter().filter(|(built, _)| *built).map(|(_, name)| name).collect::<Vec<_>>().join(", ")
}

fn shown(path: Option<&PathBuf>) -> String {
    path.map_or_else(|| "unset".to_owned(), |path| path.display().to_string())
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        writeln!(f, "program      hiend-train {}, built for {}", env!("CARGO_PKG_VERSION"), built_in())?;
        writeln!(f, "processor    {}", count(cores, "core"))?;
        match &self.driver {
            Ok(Driver { version, cuda, devices }) => {
                writeln!(f, "driver       {version}, for CUDA up to {}.{}", cuda.0, cuda.1)?;
                for (index, gpu) in devices.iter().enumerate() {
                    let Gpu { name, capability, free, total } = gpu;
                    let (free, total) = (ByteSize::b(*free).display().iec(), ByteSize::b(*total).display().iec());
                    let (major, minor) = capability;
                    writeln!(f, "  gpu {index:<7}{name}, compute capability {major}.{minor}, {free} of {total} free")?;
                }
                if devices.is_empty() {
                    writeln!(f, "  no devices")?;
                }
            }
            Err(reason) => writeln!(f, "driver       {reason}")?,
        }
        writeln!(f, "libraries{}", if cfg!(feature = "cuda") { "" } else { UNUSED })?;
        for (library, found) in &self.libraries {
            let name = library.to_string();
            match found {
                Ok(Found { path, version: Some(version) }) => {
                    writeln!(f, "  {name:<11}{version}, {}", path.display())?;
                }
                Ok(Found { path, version: None }) => writeln!(f, "  {name:<11}{}", path.display())?,
                // Told above.
                Err(LibraryError::Missing { .. }) if *library == Library::Driver && self.driver.is_err() => {}
                Err(LibraryError::Missing { .. }) => writeln!(f, "  {name:<11}missing: {}", library.how_to_get())?,
                Err(error) => writeln!(f, "  {name:<11}{error}")?,
            }
        }
        let Places { library_path, cuda_path, environments, .. } = &self.places;
        let list = |paths: &[PathBuf]| {
            let all = paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
            if all.is_empty() { "none".to_owned() } else { all }
        };
        writeln!(f, "  searched: the system's folders, CUDA_PATH ({}),", shown(cuda_path.as_ref()))?;
        writeln!(
            f,
            "    LD_LIBRARY_PATH ({}), the active Python environment ({})",
            list(library_path),
            list(environments)
        )?;
        match &self.device {
            Ok(Examined { device, by, products }) => {
                writeln!(f, "products on {device}{by}, with gradients, against the definition in 64 bits")?;
                for check in products {
                    let ProductCheck { factors, error, tolerance } = check;
                    let name = format!("{factors:?}").to_lowercase();
                    let verdict = if check.is_close() { "ok" } else { "WRONG" };
                    writeln!(f, "  {name:<11}{verdict}: relative error {error:.1e}, at most {tolerance:.0e} expected")?;
                }
            }
            Err(error) => writeln!(f, "device       {error}")?,
        }
        let advice = self.advice();
        if !advice.is_empty() {
            writeln!(f, "faster with")?;
            for line in advice {
                writeln!(f, "  {line}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_the_cpu_are_those_of_the_definition() {
        for check in check_products(&Device::flex()) {
            assert!(check.is_close(), "{check:?}");
            // 32-bit sums of a few hundred terms: far below what TF32 or bf16 would leave.
            assert!(check.factors == Factors::Bf16 || check.error < 1e-5, "{check:?}");
        }
    }

    #[test]
    fn wrong_products_are_unhealthy() {
        let check = |error| ProductCheck { factors: Factors::F32, error, tolerance: 1e-3 };
        assert!(check(1e-4).is_close());
        assert!(!check(1e-2).is_close());
        assert!(!check(f64::INFINITY).is_close() && !check(f64::NAN).is_close());
    }

    #[test]
    fn the_report_names_every_library_and_what_was_multiplied() {
        let report = Report::of(DeviceChoice::Cpu);
        assert!(report.is_healthy());
        let text = report.to_string();
        for library in Library::ALL.into_iter().filter(|library| *library != Library::Driver) {
            assert!(text.contains(&format!("  {library} ")), "{library}: {text}");
        }
        assert!(text.contains("products on cpu"), "{text}");
        assert_eq!(text.contains("of no use to this build"), !cfg!(feature = "cuda"), "{text}");
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_device_that_cannot_be_opened_is_unhealthy() {
        let report = Report::of(DeviceChoice::Cuda(0));
        assert!(!report.is_healthy());
        assert!(report.to_string().contains("device       this build has no CUDA"));
    }
}
