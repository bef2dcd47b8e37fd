//! Compilation of the kernels for an H200, on a machine without one: that they compile, and to which instructions.
//!
//! `cargo test --release -p hiend-trainer --features ptx --lib ptx -- --nocapture`, with `CUDA_PATH` naming a folder with
//! `nvvm/libdevice` and, for registers and spills, `bin/ptxas` (PyPI's `nvidia-cuda-nvcc-cu12` holds both). `HIEND_PTX_DIR`
//! names a folder for the compiled text.

use std::ffi::CStr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use cubecl::Compiler as _;
use cubecl::ir::ElemType;
use cubecl::ir::features::Features;
use cubecl::ir::nvidia::SmArch;
use cubecl::ir::{AddressType, DeviceIdentity, FloatKind, HardwareProperties, MemoryDeviceProperties};
use cubecl::prelude::*;
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

fn check(name: &str, kernel: &dyn CubeKernel, parts: &[&str]) {
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
        assert!(
            !said.contains(" bytes spill") || said.contains("0 bytes spill stores, 0 bytes spill loads"),
            "{name}: {said}"
        );
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
    let (d, t, b) = (device, target, buffer);

    // Lengths of the paper's model: 513 keys, heads of 33 and 96 values, tokens of 528 and 1536.
    for (dtype, kind, vector) in [("f32", FloatKind::F32, 4), ("bf16", FloatKind::BF16, 8)] {
        let elem = || ElemType::Float(kind);
        let check = |name: &str, kernel: &dyn CubeKernel, part: &str| {
            check(&format!("{name}-{dtype}"), kernel, &[part, ".v4.b"])
        };
        let pitch = 513u32.div_ceil(vector as u32);
        let kernel =
            softmax::softmax_rows::SoftmaxRows::new(rows(), d(), t(), b(), (), (), vector, 513, pitch, 32, elem());
        check("softmax", &kernel, "shfl.sync");
        let kernel = softmax::softmax_rows_backward::SoftmaxRowsBackward::new(
            rows(),
            d(),
            t(),
            b(),
            b(),
            (),
            (),
            vector,
            pitch,
            32,
            elem(),
        );
        check("softmax-backward", &kernel, "shfl.sync");
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
            let bias = || ComptimeOptionCompilationArg::Some(b());
            let kernel = heads::split_rows::SplitRows::new(
                values(),
                d(),
                t(),
                b(),
                bias(),
                b(),
                (),
                (),
                vector,
                of_token,
                lengths,
                elem(),
            );
            check(&format!("split-{width}"), &kernel, "ld.global");
            let kernel = heads::join_rows::JoinRows::new(
                values(),
                d(),
                t(),
                b(),
                b(),
                (),
                (),
                (),
                vector,
                of_token,
                lengths,
                elem(),
            );
            check(&format!("join-{width}"), &kernel, "ld.global");
        }
        let kernel = gelu::gelu_values::GeluValues::new(values(), d(), t(), b(), b(), b(), (), (), 4, 1536, elem());
        check("gelu", &kernel, "ld.global");
        let kernel = gelu::gelu_values_backward::GeluValuesBackward::new(
            values(),
            d(),
            t(),
            b(),
            b(),
            b(),
            b(),
            b(),
            (),
            (),
            (),
            (),
            4,
            1536,
            elem(),
        );
        check("gelu-backward", &kernel, "ld.global");
        let kernel =
            residual::add_values::AddValues::new(values(), d(), t(), b(), b(), b(), b(), (), (), (), 4, 384, elem());
        check("residual", &kernel, "ld.global");
        let kernel = residual::add_values_backward::AddValuesBackward::new(
            values(),
            d(),
            t(),
            b(),
            b(),
            b(),
            (),
            (),
            (),
            4,
            384,
            elem(),
        );
        check("residual-backward", &kernel, "ld.global");
        let kernel = columns::sum_groups::SumGroups::new(values(), d(), t(), b(), b(), (), (), (), 4, 1152, elem());
        check("columns", &kernel, "ld.global");
        let kernel =
            layer_norm::norm_rows::NormRows::new(rows(), d(), t(), b(), b(), b(), b(), (), (), (), 4, 384, 32, elem());
        check("norm", &kernel, "shfl.sync");
        let kernel = layer_norm::norm_rows_backward::NormRowsBackward::new(
            rows(),
            d(),
            t(),
            b(),
            b(),
            b(),
            ComptimeOptionCompilationArg::Some(b()),
            b(),
            b(),
            (),
            (),
            (),
            (),
            (),
            4,
            384,
            32,
            elem(),
        );
        check("norm-backward", &kernel, "shfl.sync");
        let kernel = layer_norm::norm_columns_backward::NormColumnsBackward::new(
            values(),
            d(),
            t(),
            b(),
            b(),
            b(),
            b(),
            b(),
            (),
            (),
            (),
            (),
            4,
            384,
            elem(),
        );
        check("norm-columns", &kernel, "ld.global");
    }
    let kernel =
        columns::sum_totals::SumTotals::new(settings(CubeDim::new_2d(4, 64)), d(), t(), b(), b(), (), 4, 132, 64);
    check("column-totals", &kernel, &["bar.sync", ".v4.b"]);
    let kernel = dequantize::dequantize_values::DequantizeValues::new(values(), d(), t(), b(), b(), b(), (), ());
    check("dequantize", &kernel, &["ld.global"]);
    let kernel = noise::add_normals::AddNormals::new(values(), d(), t(), b(), b(), (), (), (), ());
    check("noise", &kernel, &["sqrt"]);
    for (name, copy) in
        [("adamw", ComptimeOptionCompilationArg::None), ("adamw-copy", ComptimeOptionCompilationArg::Some(b()))]
    {
        let kernel = adamw::adamw_values::AdamwValues::new(
            values(),
            d(),
            t(),
            b(),
            b(),
            b(),
            b(),
            copy,
            (),
            (),
            (),
            (),
            (),
            (),
            (),
            (),
            4,
            ElemType::Float(FloatKind::BF16),
        );
        check(name, &kernel, &["sqrt", ".v4.b"]);
    }
}

#[test]
fn instance_norms_compile_for_hopper() {
    let rows = || settings(CubeDim::new_2d(32, 8));
    let values = || settings(CubeDim::new_1d(256));
    let (d, t, b) = (device, || Arc::new(TargetProperties::default()), || BufferCompilationArg { inplace: None });
    let [short, long] = [FloatKind::BF16, FloatKind::F32].map(ElemType::Float);
    // 32 channels, whose convolutions are bf16.
    let kernel = instance_norm::moments_of_groups::MomentsOfGroups::new(
        values(),
        d(),
        t(),
        b(),
        b(),
        b(),
        (),
        (),
        (),
        (),
        4,
        8,
        short,
    );
    check("moments-of-groups", &kernel, &["ld.global", ".v4.b"]);
    let kernel = instance_norm::moments_of_cases::MomentsOfCases::new(
        rows(),
        d(),
        t(),
        b(),
        b(),
        b(),
        (),
        (),
        (),
        (),
        (),
        32,
        32,
    );
    check("moments-of-cases", &kernel, &["shfl.sync", "sqrt"]);
    let kernel = instance_norm::bend_values::BendValues::new(
        values(),
        d(),
        t(),
        b(),
        b(),
        ComptimeOptionCompilationArg::Some(b()),
        b(),
        b(),
        (),
        (),
        (),
        (),
        4,
        8,
        true,
        [short, short, long],
    );
    check("bend", &kernel, &["ld.global", ".v4.b"]);
    let kernel = instance_norm::gradients_of_groups::GradientsOfGroups::new(
        values(),
        d(),
        t(),
        b(),
        b(),
        ComptimeOptionCompilationArg::Some(b()),
        b(),
        b(),
        b(),
        (),
        (),
        (),
        (),
        (),
        (),
        4,
        8,
        true,
        [short, short, long],
    );
    check("bend-gradients", &kernel, &["ld.global", ".v4.b"]);
    let kernel = instance_norm::means_of_cases::MeansOfCases::new(rows(), d(), t(), b(), b(), (), (), (), 32, 32);
    check("means-of-cases", &kernel, &["shfl.sync"]);
    let kernel = instance_norm::bend_values_backward::BendValuesBackward::new(
        values(),
        d(),
        t(),
        b(),
        b(),
        ComptimeOptionCompilationArg::Some(b()),
        b(),
        b(),
        b(),
        b(),
        ComptimeOptionCompilationArg::Some(b()),
        (),
        (),
        (),
        (),
        4,
        8,
        true,
        [short, short, long],
    );
    check("bend-backward", &kernel, &["ld.global", ".v4.b"]);
}
