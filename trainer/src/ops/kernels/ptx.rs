//! Compiles the kernels for an H200 on a machine without one, checks the instructions that result, and prints how long each
//! took and all so far: a first step on a GPU waits for the kernels of its model.
//!
//! `cargo test --release -p hiend-trainer --features ptx --lib ptx -- --nocapture --test-threads 1`, with `CUDA_PATH`
//! naming a folder with `nvvm/libdevice` and, for registers and spills, `bin/ptxas` (`PyPI`'s `nvidia-cuda-nvcc-cu12` holds
//! both). `HIEND_PTX_DIR` names a folder for the compiled text.

#![allow(clippy::print_stdout, clippy::too_many_lines, reason = "a test that lists every kernel, with what it takes")]

use std::ffi::CStr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cubecl::Compiler as _;
use cubecl::ir::ElemType;
use cubecl::ir::features::Features;
use cubecl::ir::nvidia::SmArch;
use cubecl::ir::{AddressType, DeviceIdentity, FloatKind, HardwareProperties, MemoryDeviceProperties};
use cubecl::prelude::{ComptimeOptionCompilationArg as Optional, *};
use cubecl_llvm::nvptx::ptx_version::PtxVersion;
use cubecl_llvm::{LlvmTarget, PlironArtifact, PlironCompiler, PlironOptions};

use super::instance_norm::groups::GroupsCompilationArg;
use super::*;

fn device() -> Arc<DeviceProperties> {
    let hardware = HardwareProperties {
        load_width: 128,
        vector_register_count: None,
        plane_size_min: 32,
        plane_size_max: 32,
        max_bindings: 32,
        max_shared_memory_size: 65_536,
        max_cube_count: (u32::MAX, u32::from(u16::MAX), u32::from(u16::MAX)),
        max_units_per_cube: 1024,
        max_cube_dim: (1024, 1024, 1024),
        num_streaming_multiprocessors: None,
        num_tensor_cores: None,
        min_tensor_cores_dim: None,
        num_cpu_cores: None,
        last_level_cache_size: None,
        max_vector_size: VectorSize::MAX,
        cube_mma_reserved_shared_memory: 0,
    };
    Arc::new(DeviceProperties::new(
        Features::default(),
        MemoryDeviceProperties::new(u64::MAX, 256),
        hardware,
        cubecl::profile::TimingMethod::Device,
        DeviceIdentity { name: "offline".into(), fingerprint: "offline".into(), physical: None },
    ))
}

fn settings(dim: CubeDim) -> KernelSettings {
    KernelSettings::new(*dim, ExecutionMode::Unchecked, AddressType::U32)
}

/// Settings of a launch of one plane per row.
fn rows() -> KernelSettings {
    settings(CubeDim::new_2d(32, 8))
}

/// Settings of a launch of one unit per vector.
fn values() -> KernelSettings {
    settings(CubeDim::new_1d(256))
}

fn target() -> Arc<TargetProperties> {
    Arc::new(TargetProperties::default())
}

/// A buffer among a kernel's arguments; scalars are `()`.
fn b() -> BufferCompilationArg {
    BufferCompilationArg { inplace: None }
}

/// Scalar arguments of an instance norm's kernel.
fn groups() -> GroupsCompilationArg {
    GroupsCompilationArg { cases: (), voxels: (), channels: (), size: (), count: () }
}

/// Compiles a kernel with its settings and arguments, and checks that the compiled text contains each of the given
/// parts.
macro_rules! compiles {
    ($name:expr, $settings:expr, $($kernel:ident)::+, [$($arg:expr),* $(,)?], $parts:expr) => {
        check(&$name, &$($kernel)::+::new($settings, device(), target(), $($arg),*), &$parts)
    };
}

fn check(name: &str, kernel: &dyn CubeKernel, parts: &[&str]) {
    let mut compiler = PlironCompiler { target: LlvmTarget::Nvptx };
    let options = PlironOptions {
        sm_arch: Some(SmArch::new(90, true)),
        ptx_version: PtxVersion::for_driver(13_000),
        ..Default::default()
    };
    let start = Instant::now();
    let Ok(PlironArtifact::NvptxCode(module)) = compiler.compile(kernel.define(), &options) else {
        panic!("{name} does not compile");
    };
    let to_text = start.elapsed();
    // SAFETY: the module's text ends with a zero.
    let text = unsafe { CStr::from_ptr(module.ptx.as_ptr()) }.to_string_lossy().into_owned();
    for part in parts {
        assert!(text.contains(part), "{name} has no {part}:\n{text}");
    }
    let dir = tempfile::tempdir().unwrap();
    let file =
        std::env::var_os("HIEND_PTX_DIR").map_or(dir.path().to_owned(), PathBuf::from).join(format!("{name}.ptx"));
    std::fs::write(&file, &text).unwrap();
    let ptxas = PathBuf::from(std::env::var_os("CUDA_PATH").unwrap_or_default()).join("bin/ptxas");
    let start = Instant::now();
    let ran = Command::new(ptxas).args(["-arch=sm_90a", "-v", "-o", "/dev/null"]).arg(&file).output();
    report(name, [to_text, if ran.is_ok() { start.elapsed() } else { Duration::ZERO }]);
    if let Ok(ran) = ran {
        let said = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{name}: {said}");
        assert!(
            !said.contains(" bytes spill") || said.contains("0 bytes spill stores, 0 bytes spill loads"),
            "{name}: {said}"
        );
        for line in said.lines().filter(|line| line.contains("registers") || line.contains("spill")) {
            println!("{name}: {}", line.trim());
        }
    }
}

/// Prints the times in which a kernel became PTX, and machine code by `ptxas`, and those of all kernels so far. On a device
/// the driver takes the place of `ptxas`.
fn report(name: &str, times: [Duration; 2]) {
    static SO_FAR: Mutex<[Duration; 2]> = Mutex::new([Duration::ZERO; 2]);
    let mut so_far = SO_FAR.lock().unwrap();
    *so_far = [so_far[0] + times[0], so_far[1] + times[1]];
    let [[ptx, machine], [all_ptx, all_machine]] = [times, *so_far].map(|times| times.map(|time| time.as_secs_f64()));
    println!("{name}: PTX in {ptx:.2} s, machine code in {machine:.2} s; so far {all_ptx:.1} s and {all_machine:.1} s");
}

/// Instructions that load and store 16 bytes at once.
const WIDE: &str = ".v4.b";
const LOAD: &str = "ld.global";
const SHUFFLE: &str = "shfl.sync";

#[test]
fn kernels_compile_for_hopper() {
    // Lengths of the paper's model: 513 keys, heads of 33 and 96 values, tokens of 528 and 1536.
    for (dtype, kind, vector) in [("f32", FloatKind::F32, 4), ("bf16", FloatKind::BF16, 8)] {
        let elem = ElemType::Float(kind);
        let name = |kernel: &str| format!("{kernel}-{dtype}");
        let pitch = 513u32.div_ceil(vector as u32);
        compiles!(
            name("softmax"),
            rows(),
            softmax::softmax_rows::SoftmaxRows,
            [b(), (), (), vector, 513, pitch, 32, elem],
            [SHUFFLE, WIDE]
        );
        compiles!(
            name("softmax-backward"),
            rows(),
            softmax::softmax_rows_backward::SoftmaxRowsBackward,
            [b(), b(), (), (), vector, pitch, 32, elem],
            [SHUFFLE, WIDE]
        );
        for (width, of_token) in [(33, 1), (96, vector)] {
            let columns = u32::next_multiple_of(width, 48);
            let lengths = heads::Lengths {
                tokens: 513,
                rows: 520,
                heads: 16,
                width,
                vectors: columns / vector as u32,
                first: 16,
            };
            compiles!(
                name(&format!("split-{width}")),
                values(),
                heads::split_rows::SplitRows,
                [b(), Optional::Some(b()), b(), (), (), vector, of_token, lengths, elem],
                [LOAD, WIDE]
            );
            compiles!(
                name(&format!("join-{width}")),
                values(),
                heads::join_rows::JoinRows,
                [b(), b(), (), (), (), vector, of_token, lengths, elem],
                [LOAD, WIDE]
            );
        }
        compiles!(
            name("gelu"),
            values(),
            gelu::gelu_values::GeluValues,
            [b(), b(), b(), (), (), 4, 1536, elem],
            [LOAD, WIDE]
        );
        compiles!(
            name("gelu-backward"),
            values(),
            gelu::gelu_values_backward::GeluValuesBackward,
            [b(), b(), b(), b(), b(), (), (), (), (), 4, 1536, elem],
            [LOAD, WIDE]
        );
        compiles!(
            name("residual"),
            values(),
            residual::add_values::AddValues,
            [b(), b(), b(), b(), (), (), (), 4, 384, elem],
            [LOAD, WIDE]
        );
        compiles!(
            name("residual-backward"),
            values(),
            residual::add_values_backward::AddValuesBackward,
            [b(), b(), b(), (), (), (), 4, 384, elem],
            [LOAD, WIDE]
        );
        compiles!(
            name("columns"),
            values(),
            columns::sum_groups::SumGroups,
            [b(), b(), (), (), (), 4, 1152, elem],
            [LOAD, WIDE]
        );
        compiles!(
            name("norm"),
            rows(),
            layer_norm::norm_rows::NormRows,
            [b(), b(), b(), b(), (), (), (), 4, 384, 32, elem],
            [SHUFFLE, WIDE]
        );
        for width in [384, 132] {
            let units = layer_norm::units_of(width, 1024);
            compiles!(
                name(&format!("norm-backward-{width}")),
                settings(CubeDim::new_1d(units)),
                layer_norm::norm_groups_backward::NormGroupsBackward,
                [b(), b(), b(), Optional::Some(b()), b(), b(), b(), (), (), (), (), (), 4, width, units, elem],
                ["bar.sync", WIDE]
            );
        }
    }
    compiles!(
        "column-totals",
        settings(CubeDim::new_2d(4, 64)),
        columns::sum_totals::SumTotals,
        [b(), b(), (), 4, 132, 64],
        ["bar.sync", WIDE]
    );
    // Patches of 12 and of 16 voxels per side.
    for width in [1728, 4096] {
        compiles!(
            format!("patch-errors-{width}"),
            rows(),
            patch_loss::errors_of_rows::ErrorsOfRows,
            [b(), b(), b(), (), (), (), (), 4, width / 4, 32],
            [SHUFFLE, WIDE]
        );
        compiles!(
            format!("patch-gradients-{width}"),
            rows(),
            patch_loss::gradients_of_rows::GradientsOfRows,
            [b(), b(), b(), b(), (), (), (), (), (), 4, width / 4, 32],
            [SHUFFLE, WIDE]
        );
    }
    compiles!("dequantize", values(), dequantize::dequantize_values::DequantizeValues, [b(), b(), b(), (), ()], [LOAD]);
    compiles!("decode", values(), decode::decode_crops::DecodeCrops, [b(), b(), b(), b()], [LOAD]);
    compiles!("noise", values(), noise::add_normals::AddNormals, [b(), b(), (), (), (), ()], ["sqrt"]);
    for (name, copy) in [("adamw", Optional::None), ("adamw-copy", Optional::Some(b()))] {
        compiles!(
            name,
            values(),
            adamw::adamw_values::AdamwValues,
            [b(), b(), b(), b(), copy, (), (), (), (), (), (), (), (), 4, ElemType::Float(FloatKind::BF16)],
            ["sqrt", WIDE]
        );
    }
}

#[test]
fn sums_of_the_fine_tuning_loss_compile_for_hopper() {
    // 14 classes, of which four sums each are taken.
    for (dtype, kind) in [("f32", FloatKind::F32), ("bf16", FloatKind::BF16)] {
        let elem = ElemType::Float(kind);
        compiles!(
            format!("sums-of-groups-{dtype}"),
            rows(),
            class_sums::sums_of_groups::SumsOfGroups,
            [b(), b(), b(), (), (), (), (), (), 14, 32, elem],
            [SHUFFLE, LOAD]
        );
        compiles!(
            format!("gradients-of-logits-{dtype}"),
            values(),
            class_sums::gradients_of_logits::GradientsOfLogits,
            [b(), b(), b(), b(), (), (), (), 14, elem],
            [LOAD]
        );
    }
    compiles!("sums-of-cases", rows(), class_sums::sums_of_cases::SumsOfCases, [b(), b(), (), (), 56, 32], [SHUFFLE]);
}

#[test]
fn instance_norms_compile_for_hopper() {
    use instance_norm::device as kernels;
    let [short, long] = [FloatKind::BF16, FloatKind::F32].map(ElemType::Float);
    // 32 channels, whose convolutions are bf16.
    compiles!(
        "moments-of-groups",
        values(),
        kernels::moments_of_groups::MomentsOfGroups,
        [b(), b(), b(), (), groups(), 4, 8, short],
        [LOAD, WIDE]
    );
    compiles!(
        "moments-of-cases",
        rows(),
        kernels::moments_of_cases::MomentsOfCases,
        [b(), b(), b(), (), groups(), (), 32, 32],
        [SHUFFLE, "sqrt"]
    );
    compiles!(
        "bend",
        values(),
        kernels::bend_values::BendValues,
        [b(), b(), Optional::Some(b()), b(), b(), (), groups(), (), 4, 8, true, [short, short, long]],
        [LOAD, WIDE]
    );
    compiles!(
        "bend-gradients",
        values(),
        kernels::gradients_of_groups::GradientsOfGroups,
        [b(), b(), Optional::Some(b()), b(), b(), b(), (), groups(), (), 4, 8, true, [short, short, long]],
        [LOAD, WIDE]
    );
    compiles!(
        "means-of-cases",
        rows(),
        kernels::means_of_cases::MeansOfCases,
        [b(), b(), (), groups(), 32, 32],
        [SHUFFLE]
    );
    compiles!(
        "bend-backward",
        values(),
        kernels::bend_values_backward::BendValuesBackward,
        [
            b(),
            b(),
            Optional::Some(b()),
            b(),
            b(),
            b(),
            b(),
            Optional::Some(b()),
            (),
            groups(),
            (),
            4,
            8,
            true,
            [short, short, long]
        ],
        [LOAD, WIDE]
    );
}
