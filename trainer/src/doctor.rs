//! State of the machine for computing: driver, devices, libraries, small products checked against their definition, and,
//! where cuDNN is used, a convolution and an attention.
//!
//! Works in every build: a build without CUDA still names the GPUs and libraries that are there, because they show what
//! a build with CUDA would gain.

mod by_cudnn;
mod machine;

use std::fmt;

use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use hiend_loader::plural::count;

use crate::device::{Compute, DeviceChoice, DeviceError};
use crate::ops::product::{Factors, affine};
use crate::vendor::algorithms::Algorithms;

pub use machine::Machine;

/// Results of all checks.
#[derive(Debug)]
pub struct Report {
    machine: Machine,
    /// The requested device, with the products computed there.
    device: Result<Examined, DeviceError>,
}

/// An opened device, and the accuracy of its products.
#[derive(Debug)]
struct Examined {
    device: String,
    /// Library or kernels that computed the products; empty on the CPU.
    by: String,
    products: Vec<ProductCheck>,
    /// Computations by cuDNN; empty where it is not used.
    cudnn: Vec<by_cudnn::Check>,
}

/// Largest error of a product and of its gradients, relative to the norm of the result in 64 bits.
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
    /// Examines this machine, and computes products on the device of `choice`.
    #[must_use]
    pub fn of(choice: DeviceChoice) -> Self {
        let examined = |compute: Compute| {
            // A library's choice of algorithm is recorded when it computes.
            let before = if compute.is_cpu() { 0 } else { Algorithms::of_process().len() };
            let products = check_products(compute.raw());
            let by = if compute.is_cpu() {
                String::new()
            } else {
                computed_by(Algorithms::of_process().len().saturating_sub(before), PRODUCTS * products.len())
            };
            Examined { device: compute.to_string(), by, products, cudnn: by_cudnn::checks(&compute) }
        };
        let device = Compute::open(examined_choice(choice, cfg!(feature = "cuda"))).map(examined);
        Self { machine: Machine::of_process(), device }
    }

    /// Returns true if the device was opened, its products match the definition, and what cuDNN computes the CPU.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.device.as_ref().is_ok_and(|device| {
            device.products.iter().all(ProductCheck::is_close) && device.cudnn.iter().all(by_cudnn::Check::is_close)
        })
    }
}

/// Device to examine. By default the first GPU in a build with CUDA, where the CPU would hide that none is found.
fn examined_choice(choice: DeviceChoice, has_cuda: bool) -> DeviceChoice {
    if choice == DeviceChoice::Auto && has_cuda { DeviceChoice::Cuda(0) } else { choice }
}

/// Products of one check: the value, and the gradients of both factors.
const PRODUCTS: usize = 3;

/// Describes what computed the products; a library recorded `recorded` of them.
fn computed_by(recorded: usize, asked: usize) -> String {
    match recorded {
        0 => " by built-in kernels".to_owned(),
        _ if recorded >= asked => " by cuBLASLt".to_owned(),
        _ => format!(" by cuBLASLt ({recorded} of {asked}) and built-in kernels"),
    }
}

/// Sizes of the product: rows (two axes), inner length, columns. None is a multiple of a tile.
const SIZES: [usize; 4] = [3, 43, 132, 76];

/// Computes one small product and its gradients for every type of factors that the device supports.
fn check_products(device: &Device) -> Vec<ProductCheck> {
    // Errors that the rounding of factors explains: 2^-11 each for TF32, 2^-9 for bf16; the CPU rounds only sums.
    let forms = [(Factors::F32, 1e-3), (Factors::Tf32, 1e-3), (Factors::Bf16, 1e-2)];
    let has = |(factors, _): &(Factors, f64)| factors.dtype().is_none_or(|dtype| device.supports_dtype(dtype));
    let check = |(factors, tolerance)| ProductCheck { factors, error: product_error(device, factors), tolerance };
    forms.into_iter().filter(has).map(check).collect()
}

/// Numbers from -1 to 1 without a pattern.
fn wave(len: usize, frequency: f32) -> Vec<f32> {
    (0..len).map(|i| ((i as f32 * frequency).sin() * 43_758.547).fract()).collect()
}

/// Error of `y = x · w + b` and its gradients on `device`; infinite if a value is missing or not a number.
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
    largest_error(&ours, &reference)
}

/// Largest error of tensors, each relative to the norm of its reference; infinite if a value is missing or not a number.
fn largest_error(ours: &[Vec<f32>], reference: &[Vec<f64>]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let error = |(ours, reference): (&Vec<f32>, &Vec<f64>)| {
        let difference = norm(&mut ours.iter().zip(reference).map(|(a, b)| f64::from(*a) - b));
        let error = difference / norm(&mut reference.iter().copied());
        if ours.len() == reference.len() && error.is_finite() { error } else { f64::INFINITY }
    };
    ours.iter().zip(reference).map(error).fold(0.0, f64::max)
}

/// Kinds of devices that this build supports.
fn built_in() -> String {
    let kinds = [
        (true, "cpu"),
        (cfg!(feature = "cuda"), "cuda"),
        (cfg!(feature = "cuda-nvrtc"), "cuda-nvrtc"),
        (cfg!(feature = "vulkan"), "vulkan"),
    ];
    kinds.into_iter().filter(|(built, _)| *built).map(|(_, name)| name).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        writeln!(f, "program      hiend-train {}, built for {}", env!("CARGO_PKG_VERSION"), built_in())?;
        writeln!(f, "processor    {}", count(cores, "core"))?;
        write!(f, "{}", self.machine)?;
        match &self.device {
            Ok(Examined { device, by, products, cudnn }) => {
                writeln!(f, "products on {device}{by}, with gradients, against the definition in 64 bits")?;
                for check in products {
                    let ProductCheck { factors, error, tolerance } = check;
                    let name = format!("{factors:?}").to_lowercase();
                    let verdict = if check.is_close() { "ok" } else { "WRONG" };
                    writeln!(f, "  {name:<11}{verdict}: relative error {error:.1e}, at most {tolerance:.0e} expected")?;
                }
                if !cudnn.is_empty() {
                    writeln!(f, "cuDNN on {device}, bf16 with gradients, against the CPU in f32")?;
                }
                for check in cudnn {
                    writeln!(f, "  {check}")?;
                }
            }
            Err(error) => writeln!(f, "device       {error}")?,
        }
        let advice = self.machine.advice();
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
    use crate::vendor::library::Library;

    #[test]
    fn products_of_the_cpu_are_those_of_the_definition() {
        for check in check_products(&Device::flex()) {
            assert!(check.is_close(), "{check:?}");
            // 32-bit sums of a few hundred terms: far below what TF32 or bf16 would leave.
            assert!(check.factors == Factors::Bf16 || check.error < 1e-5, "{check:?}");
        }
    }

    #[test]
    fn products_of_a_library_are_named_only_if_it_computed_all() {
        let check = |recorded, expected: &str| assert_eq!(computed_by(recorded, 9), expected);
        check(0, " by built-in kernels");
        check(1, " by cuBLASLt (1 of 9) and built-in kernels");
        check(9, " by cuBLASLt");
    }

    #[test]
    fn a_build_for_gpus_examines_one_unless_the_cpu_is_asked_for() {
        use DeviceChoice::{Auto, Cpu, Cuda};
        assert_eq!(examined_choice(Auto, true), Cuda(0));
        assert_eq!(examined_choice(Auto, false), Auto);
        for choice in [Cpu, Cuda(1)] {
            assert_eq!(examined_choice(choice, true), choice);
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
    fn the_report_names_every_library_and_every_product() {
        let report = Report::of(DeviceChoice::Cpu);
        assert!(report.is_healthy());
        let text = report.to_string();
        for library in Library::ALL.into_iter().filter(|library| *library != Library::Driver) {
            assert!(text.contains(&format!("  {library} ")), "{library}: {text}");
        }
        assert!(text.contains("products on cpu"), "{text}");
        assert_eq!(text.contains("no effect in this build"), !cfg!(feature = "cuda"), "{text}");
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_device_that_cannot_be_opened_is_unhealthy() {
        let report = Report::of(DeviceChoice::Cuda(0));
        assert!(!report.is_healthy());
        assert!(report.to_string().contains("device       this build has no CUDA"));
    }
}
