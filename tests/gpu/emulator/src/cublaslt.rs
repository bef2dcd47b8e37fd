//! cuBLASLt's functions, as the trainer calls them: products of column-major matrices, by their definition.

use std::ffi::{c_int, c_void};

use half::{bf16, f16};

use crate::memory;
use crate::settings;

type Status = c_int;
const SUCCESS: Status = 0;
const INVALID_VALUE: Status = 7;
const NOT_SUPPORTED: Status = 15;

/// Content of every algorithm that the emulator gives out.
const ALGORITHM: [u64; 8] = [0x0048_4945_4E44, 1, 2, 3, 4, 5, 6, 7];
/// Bytes of scratch memory that an algorithm asks for, and fills.
const WORKSPACE: usize = 4096;

/// Attributes of a layout, a description or a preference, by their numbers.
#[derive(Default)]
pub(crate) struct Attributes(std::collections::BTreeMap<c_int, u64>);

impl Attributes {
    fn get(&self, attribute: c_int, default: u64) -> u64 {
        self.0.get(&attribute).copied().unwrap_or(default)
    }
}

unsafe fn make(to: *mut *mut Attributes, values: &[(c_int, u64)]) -> Status {
    unsafe { to.write(Box::into_raw(Box::new(Attributes(values.iter().copied().collect())))) };
    SUCCESS
}

unsafe fn destroy(attributes: *mut Attributes) -> Status {
    drop(unsafe { Box::from_raw(attributes) });
    SUCCESS
}

unsafe fn set(attributes: *mut Attributes, attribute: c_int, value: *const c_void, bytes: usize) -> Status {
    if bytes != 4 && bytes != 8 {
        return INVALID_VALUE;
    }
    let mut word = [0u8; 8];
    unsafe { value.cast::<u8>().copy_to(word.as_mut_ptr(), bytes) };
    unsafe { &mut *attributes }.0.insert(attribute, u64::from_le_bytes(word));
    SUCCESS
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cublasLtCreate(handle: *mut usize) -> Status {
    unsafe { handle.write(1) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cublasLtDestroy(_handle: usize) -> Status {
    SUCCESS
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cublasLtGetVersion() -> usize {
    130_000
}

// cublasLtMatrixLayoutAttribute_t: TYPE 0, ORDER 1, ROWS 2, COLS 3, LD 4, BATCH_COUNT 5, STRIDED_BATCH_OFFSET 6.

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cublasLtMatrixLayoutCreate(
    layout: *mut *mut Attributes,
    ty: c_int,
    rows: u64,
    columns: u64,
    pitch: i64,
) -> Status {
    unsafe { make(layout, &[(0, ty as u64), (2, rows), (3, columns), (4, pitch as u64)]) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cublasLtMatrixLayoutDestroy(layout: *mut Attributes) -> Status {
    unsafe { destroy(layout) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cublasLtMatrixLayoutSetAttribute(
    layout: *mut Attributes,
    attribute: c_int,
    value: *const c_void,
    bytes: usize,
) -> Status {
    unsafe { set(layout, attribute, value, bytes) }
}

// cublasLtMatmulDescAttributes_t: COMPUTE_TYPE 0, SCALE_TYPE 1, TRANSA 3, TRANSB 4, EPILOGUE 7, BIAS_POINTER 8.

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cublasLtMatmulDescCreate(
    description: *mut *mut Attributes,
    compute: c_int,
    scale: c_int,
) -> Status {
    unsafe { make(description, &[(0, compute as u64), (1, scale as u64)]) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cublasLtMatmulDescDestroy(description: *mut Attributes) -> Status {
    unsafe { destroy(description) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cublasLtMatmulDescSetAttribute(
    description: *mut Attributes,
    attribute: c_int,
    value: *const c_void,
    bytes: usize,
) -> Status {
    unsafe { set(description, attribute, value, bytes) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cublasLtMatmulPreferenceCreate(preference: *mut *mut Attributes) -> Status {
    unsafe { make(preference, &[]) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cublasLtMatmulPreferenceDestroy(preference: *mut Attributes) -> Status {
    unsafe { destroy(preference) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cublasLtMatmulPreferenceSetAttribute(
    preference: *mut Attributes,
    attribute: c_int,
    value: *const c_void,
    bytes: usize,
) -> Status {
    unsafe { set(preference, attribute, value, bytes) }
}

/// `cublasLtMatmulHeuristicResult_t`.
#[repr(C)]
pub(crate) struct Found {
    algorithm: [u64; 8],
    workspace: usize,
    state: c_int,
    waves: f32,
    reserved: [c_int; 4],
}

/// Writes the algorithm for the product of a description and the layouts of A, B and D.
unsafe fn plan([description, a, b, d]: [*const Attributes; 4], result: *mut Found) -> Status {
    if let Err(status) = unsafe { Product::of(&*description, &*a, &*b, &*d) } {
        return status;
    }
    let found = Found { algorithm: ALGORITHM, workspace: WORKSPACE, state: SUCCESS, waves: 1.0, reserved: [0; 4] };
    unsafe { result.write(found) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cublasLtMatmulAlgoGetHeuristic(
    _handle: usize,
    description: *const Attributes,
    a: *const Attributes,
    b: *const Attributes,
    _c: *const Attributes,
    d: *const Attributes,
    _preference: *const Attributes,
    _requested: c_int,
    results: *mut Found,
    count: *mut c_int,
) -> Status {
    let status = unsafe { plan([description, a, b, d], results) };
    if status == SUCCESS {
        unsafe { count.write(1) };
    }
    status
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cublasLtMatmulAlgoCheck(
    _handle: usize,
    description: *const Attributes,
    a: *const Attributes,
    b: *const Attributes,
    _c: *const Attributes,
    d: *const Attributes,
    algorithm: *const [u64; 8],
    result: *mut Found,
) -> Status {
    if unsafe { *algorithm } != ALGORITHM {
        return INVALID_VALUE;
    }
    unsafe { plan([description, a, b, d], result) }
}

#[derive(Clone, Copy)]
struct Layout {
    ty: u64,
    rows: usize,
    columns: usize,
    pitch: usize,
    batch: usize,
    stride: usize,
}

impl Layout {
    fn of(attributes: &Attributes) -> Result<Self, Status> {
        let get = |attribute, default| attributes.get(attribute, default) as usize;
        let layout = Self {
            ty: attributes.get(0, 0),
            rows: get(2, 0),
            columns: get(3, 0),
            pitch: get(4, 0),
            batch: get(5, 1),
            stride: get(6, 0),
        };
        let is_known = matches!(layout.ty, 0 | 2 | 14) && get(1, 0) == 0;
        let has_values = layout.rows > 0 && layout.columns > 0 && layout.batch > 0;
        if is_known && has_values && layout.pitch >= layout.rows { Ok(layout) } else { Err(INVALID_VALUE) }
    }

    fn value_bytes(self) -> usize {
        if self.ty == 0 { 4 } else { 2 }
    }

    fn position(self, matrix: usize, row: usize, column: usize) -> usize {
        matrix * self.stride + column * self.pitch + row
    }

    /// True if all values are in an allocation of the device.
    fn is_within(self, start: u64) -> bool {
        self.holds(start, self.position(self.batch - 1, self.rows - 1, self.columns - 1) + 1)
    }

    /// True if so many values of this type are in an allocation of the device, and aligned.
    fn holds(self, start: u64, count: usize) -> bool {
        let bytes = self.value_bytes();
        start.is_multiple_of(bytes as u64)
            && memory::range_of(&memory::ranges(), start, (count * bytes) as u64).is_some()
    }

    unsafe fn read(self, start: u64, position: usize) -> f32 {
        unsafe { read(self.ty, start, position) }
    }
}

unsafe fn read(ty: u64, start: u64, position: usize) -> f32 {
    unsafe {
        match ty {
            0 => (start as *const f32).add(position).read(),
            2 => (start as *const f16).add(position).read().to_f32(),
            _ => (start as *const bf16).add(position).read().to_f32(),
        }
    }
}

unsafe fn write(ty: u64, start: u64, position: usize, value: f32) {
    unsafe {
        match ty {
            0 => (start as *mut f32).add(position).write(value),
            2 => (start as *mut f16).add(position).write(f16::from_f32(value)),
            _ => (start as *mut bf16).add(position).write(bf16::from_f32(value)),
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Epilogue {
    Plain,
    Bias,
    GradientOfA,
    GradientOfB,
}

struct Product {
    a: Layout,
    b: Layout,
    d: Layout,
    transposed: [bool; 2],
    inner: usize,
    epilogue: Epilogue,
    vector: u64,
}

impl Product {
    fn of(description: &Attributes, a: &Attributes, b: &Attributes, d: &Attributes) -> Result<Self, Status> {
        let [a, b, d] = [Layout::of(a)?, Layout::of(b)?, Layout::of(d)?];
        let transposed = [3, 4].map(|attribute| description.get(attribute, 0) == 1);
        let sides = |layout: Layout, transposed| {
            if transposed { (layout.columns, layout.rows) } else { (layout.rows, layout.columns) }
        };
        let ((rows, inner), (inner_b, columns)) = (sides(a, transposed[0]), sides(b, transposed[1]));
        if inner != inner_b || (rows, columns) != (d.rows, d.columns) || a.ty != b.ty {
            return Err(INVALID_VALUE);
        }
        if a.batch != d.batch || b.batch != d.batch {
            return Err(INVALID_VALUE);
        }
        let epilogue = match description.get(7, 1) {
            1 => Epilogue::Plain,
            4 => Epilogue::Bias,
            256 => Epilogue::GradientOfA,
            512 => Epilogue::GradientOfB,
            _ => return Err(NOT_SUPPORTED),
        };
        if d.batch > 1 && matches!(epilogue, Epilogue::GradientOfA | Epilogue::GradientOfB) {
            return Err(NOT_SUPPORTED);
        }
        Ok(Self { a, b, d, transposed, inner, epilogue, vector: description.get(8, 0) })
    }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cublasLtMatmul(
    _handle: usize,
    description: *const Attributes,
    alpha: *const f32,
    a: u64,
    a_layout: *const Attributes,
    b: u64,
    b_layout: *const Attributes,
    beta: *const f32,
    _c: u64,
    _c_layout: *const Attributes,
    d: u64,
    d_layout: *const Attributes,
    algorithm: *const [u64; 8],
    workspace: u64,
    workspace_bytes: usize,
    _stream: usize,
) -> Status {
    let product = match unsafe { Product::of(&*description, &*a_layout, &*b_layout, &*d_layout) } {
        Ok(product) => product,
        Err(status) => return status,
    };
    let (alpha, beta) = unsafe { (*alpha, *beta) };
    let scratch = memory::range_of(&memory::ranges(), workspace, WORKSPACE as u64);
    if unsafe { *algorithm } != ALGORITHM || workspace_bytes < WORKSPACE || scratch.is_none() || beta != 0.0 {
        eprintln!(
            "cuBLASLt emulator: another algorithm, no scratch memory ({workspace_bytes} bytes), or a factor of the result"
        );
        return INVALID_VALUE;
    }
    if settings::skips() {
        return SUCCESS;
    }
    unsafe { (workspace as *mut u8).write_bytes(0xFF, WORKSPACE) };
    let Product { a: of_a, b: of_b, d: of_d, transposed, inner, epilogue, vector } = product;
    if !of_a.is_within(a) || !of_b.is_within(b) || !of_d.is_within(d) {
        eprintln!("cuBLASLt emulator: a matrix is not within an allocation of the device");
        return INVALID_VALUE;
    }
    let vector_values = match epilogue {
        Epilogue::Plain => 0,
        Epilogue::Bias | Epilogue::GradientOfA => of_d.rows,
        Epilogue::GradientOfB => of_d.columns,
    };
    if vector_values > 0 && !of_d.holds(vector, vector_values) {
        eprintln!("cuBLASLt emulator: a bias or its gradient is not within an allocation of the device");
        return INVALID_VALUE;
    }
    for matrix in 0..of_d.batch {
        // Both factors by rows and columns of the inner dimension, as floats.
        let unpack = |start: u64, layout: Layout, outer: usize, by_rows: bool| -> Vec<f32> {
            let mut values = vec![0f32; outer * inner];
            for index in 0..outer {
                for k in 0..inner {
                    let (row, column) = if by_rows { (index, k) } else { (k, index) };
                    values[index * inner + k] = unsafe { layout.read(start, layout.position(matrix, row, column)) };
                }
            }
            values
        };
        let left = unpack(a, of_a, of_d.rows, !transposed[0]);
        let right = unpack(b, of_b, of_d.columns, transposed[1]);
        let dot = |x: &[f32], y: &[f32]| -> f32 {
            let mut sums = [0f32; 16];
            let (xs, ys) = (x.chunks_exact(16), y.chunks_exact(16));
            let rest: f32 = xs.remainder().iter().zip(ys.remainder()).map(|(x, y)| x * y).sum();
            for (x, y) in xs.zip(ys) {
                for lane in 0..16 {
                    sums[lane] += x[lane] * y[lane];
                }
            }
            sums.iter().sum::<f32>() + rest
        };
        for column in 0..of_d.columns {
            let y = &right[column * inner..(column + 1) * inner];
            for row in 0..of_d.rows {
                let mut value = alpha * dot(&left[row * inner..(row + 1) * inner], y);
                if epilogue == Epilogue::Bias {
                    value += unsafe { read(of_d.ty, vector, row) };
                }
                unsafe { write(of_d.ty, d, of_d.position(matrix, row, column), value) };
            }
        }
        let sums = match epilogue {
            Epilogue::GradientOfA => Some((&left, of_d.rows)),
            Epilogue::GradientOfB => Some((&right, of_d.columns)),
            _ => None,
        };
        if let Some((values, count)) = sums {
            for index in 0..count {
                let sum: f32 = values[index * inner..(index + 1) * inner].iter().sum();
                unsafe { write(of_d.ty, vector, index, sum) };
            }
        }
    }
    SUCCESS
}
