//! Our kernels compiled for an H200 on a machine without one: that they lower, and to what.
//!
//! `cargo test --release -p hiend-trainer --features ptx --lib ptx -- --nocapture`, with `CUDA_PATH` at a folder that
//! holds `nvvm/libdevice` and, for registers and spills, `bin/ptxas` (PyPI's `nvidia-cuda-nvcc-cu12` holds both). The
//! kernels' text goes to the folder that `HIEND_PTX_DIR` names, if it names one.

use std::ffi::CStr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use cubecl::Compiler as _;
use cubecl::ir::features::Features;
use cubecl::ir::nvidia::SmArch;
use cubecl::ir::{AddressType, DeviceIdentity, FloatKind, HardwareProperties, MemoryDeviceProperties};
use cubecl_llvm::nvptx::ptx_version::PtxVersion;
use cubecl_llvm::{LlvmTarget, PlironArtifact, PlironCompiler, PlironOptions};

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

fn check(name: &str, kernel: &impl CubeKernel, parts: &[&str]) {
    let mut compiler = PlironCompiler { target: LlvmTarget::Nvptx };
    let options = PlironOptions {
        sm_arch: Some(SmArch::new(90, true)),
        ptx_version: PtxVersion::for_driver(13_000),
        ..Default::default()
    };
    let Ok(PlironArtifact::NvptxCode(module)) = compiler.compile(kernel.define(), &options) else {
        panic!("{name} does not compile");
    };
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
    if let Ok(ran) = Command::new(ptxas).args(["-arch=sm_90a", "-v", "-o", "/dev/null"]).arg(&file).output() {
        let said = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{name}: {said}");
        for line in said.lines().filter(|line| line.contains("registers") || line.contains("spill")) {
            println!("{name}: {}", line.trim());
        }
    }
}

#[test]
fn kernels_compile_for_hopper() {
    let rows = || settings(CubeDim::new_2d(32, 8));
    let values = || settings(CubeDim::new_1d(256));
    let target = || Arc::new(TargetProperties::default());
    let buffer = || BufferCompilationArg { inplace: None };

    for (dtype, kind) in [("f32", FloatKind::F32), ("bf16", FloatKind::BF16)] {
        let elem = || ElemType::Float(kind);
        let kernel =
            softmax::softmax_rows::SoftmaxRows::new(rows(), device(), target(), buffer(), (), (), 513, 520, 32, elem());
        check(&format!("softmax-{dtype}"), &kernel, &["shfl.sync"]);
        let kernel = softmax::softmax_rows_backward::SoftmaxRowsBackward::new(
            rows(),
            device(),
            target(),
            buffer(),
            buffer(),
            (),
            (),
            513,
            520,
            32,
            elem(),
        );
        check(&format!("softmax-backward-{dtype}"), &kernel, &["shfl.sync"]);
        let kernel = heads::split_rows::SplitRows::new(
            values(),
            device(),
            target(),
            buffer(),
            buffer(),
            (),
            (),
            (),
            (),
            (),
            (),
            33,
            48,
            elem(),
        );
        check(&format!("split-{dtype}"), &kernel, &["ld.global"]);
        let kernel = heads::join_rows::JoinRows::new(
            values(),
            device(),
            target(),
            buffer(),
            buffer(),
            (),
            (),
            (),
            (),
            (),
            (),
            (),
            33,
            elem(),
        );
        check(&format!("join-{dtype}"), &kernel, &["ld.global"]);
        let kernel = layer_norm::norm_rows::NormRows::new(
            rows(),
            device(),
            target(),
            buffer(),
            buffer(),
            buffer(),
            buffer(),
            (),
            (),
            (),
            1536,
            32,
            elem(),
        );
        check(&format!("norm-{dtype}"), &kernel, &["shfl.sync"]);
        let kernel = layer_norm::norm_rows_backward::NormRowsBackward::new(
            rows(),
            device(),
            target(),
            buffer(),
            buffer(),
            buffer(),
            buffer(),
            buffer(),
            (),
            (),
            (),
            (),
            1536,
            32,
            elem(),
        );
        check(&format!("norm-backward-{dtype}"), &kernel, &["shfl.sync"]);
        let kernel = layer_norm::norm_columns_backward::NormColumnsBackward::new(
            values(),
            device(),
            target(),
            buffer(),
            buffer(),
            buffer(),
            buffer(),
            buffer(),
            (),
            (),
            (),
            (),
            1536,
            elem(),
        );
        check(&format!("norm-columns-{dtype}"), &kernel, &["ld.global"]);
    }
    let kernel =
        window::floats_of_steps::FloatsOfSteps::new(values(), device(), target(), buffer(), buffer(), buffer(), (), ());
    check("window", &kernel, &["ld.global"]);
    let kernel = noise::add_normals::AddNormals::new(values(), device(), target(), buffer(), buffer(), (), (), (), ());
    check("noise", &kernel, &["lg2"]);
    let kernel = adamw::adamw_values::AdamwValues::new(
        values(),
        device(),
        target(),
        buffer(),
        buffer(),
        buffer(),
        buffer(),
        (),
        (),
        (),
        (),
        (),
        (),
        (),
        (),
    );
    check("adamw", &kernel, &["sqrt"]);
}
