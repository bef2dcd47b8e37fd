//! cuDNN's graph interface, as the trainer calls it: graphs of products, elementwise functions, reductions, reshapes and
//! convolutions, computed operation by operation in f32. Each graph has one engine.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{c_char, c_int, c_void};
use std::sync::{Mutex, PoisonError};

use half::{bf16, f16};

use crate::memory;

type Status = c_int;
const SUCCESS: Status = 0;
const BAD_PARAM: Status = 2000;
const NOT_SUPPORTED: Status = 3000;

/// Bytes of scratch memory that a plan asks for, and fills.
const WORKSPACE: i64 = 2048;
/// The engine's index, and its only knob with its value.
const ENGINE: i64 = 7;
const KNOB: (i32, i64) = (13, 42);

// cudnnBackendDescriptorType_t.
const KIND_ENGINE: c_int = 2;
const KIND_CONFIG: c_int = 3;
const KIND_KNOB: c_int = 7;
const KIND_FORWARD: c_int = 10;
const KIND_FILTER: c_int = 11;
const KIND_DATA: c_int = 12;
const KIND_POINTWISE: c_int = 13;
const KIND_MATMUL: c_int = 19;
const KIND_REDUCTION: c_int = 22;
const KIND_RESHAPE: c_int = 31;

// cudnnBackendAttributeType_t with the bytes of a value.
const TYPE_BYTES: [(c_int, usize); 15] = [
    (0, 8),
    (1, 4),
    (2, 1),
    (3, 8),
    (4, 4),
    (5, 8),
    (6, 8),
    (7, 4),
    (8, 4),
    (9, 4),
    (11, 4),
    (14, 4),
    (15, 8),
    (18, 4),
    (23, 4),
];

/// A descriptor: its attributes, each with its values' bytes.
#[derive(Clone)]
pub(crate) struct Descriptor {
    kind: c_int,
    values: BTreeMap<c_int, Vec<u8>>,
    is_final: bool,
}

impl Descriptor {
    fn list<const BYTES: usize, T>(&self, attribute: c_int, of: fn([u8; BYTES]) -> T) -> Vec<T> {
        let bytes = self.values.get(&attribute).map_or(&[][..], Vec::as_slice);
        bytes.chunks_exact(BYTES).map(|chunk| of(chunk.try_into().expect("as many bytes"))).collect()
    }

    fn numbers(&self, attribute: c_int) -> Vec<i64> {
        self.list(attribute, i64::from_le_bytes)
    }

    fn number(&self, attribute: c_int) -> Result<i64, String> {
        self.numbers(attribute).first().copied().ok_or_else(|| self.lacks(attribute))
    }

    fn code(&self, attribute: c_int) -> Result<c_int, String> {
        self.list(attribute, c_int::from_le_bytes).first().copied().ok_or_else(|| self.lacks(attribute))
    }

    fn float(&self, attribute: c_int) -> Result<f32, String> {
        self.list(attribute, f32::from_le_bytes).first().copied().ok_or_else(|| self.lacks(attribute))
    }

    fn flag(&self, attribute: c_int) -> bool {
        self.values.get(&attribute).is_some_and(|bytes| bytes == &[1])
    }

    fn lacks(&self, attribute: c_int) -> String {
        format!("a descriptor of kind {} without the attribute {attribute}", self.kind)
    }

    /// Descriptors that an attribute refers to, which the caller keeps alive.
    unsafe fn others(&self, attribute: c_int) -> Vec<&Descriptor> {
        self.numbers(attribute).into_iter().map(|address| unsafe { &*(address as *const Descriptor) }).collect()
    }

    unsafe fn other(&self, attribute: c_int) -> Result<&Descriptor, String> {
        unsafe { self.others(attribute) }.first().copied().ok_or_else(|| self.lacks(attribute))
    }
}

static LAST: Mutex<String> = Mutex::new(String::new());

fn refuse(status: Status, reason: String) -> Status {
    *LAST.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    status
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cudnnGetVersion() -> usize {
    92_801
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cudnnGetErrorString(_status: c_int) -> *const c_char {
    c"a status of the emulator".as_ptr()
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cudnnGetLastErrorString(text: *mut c_char, len: usize) {
    let last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    let count = last.len().min(len - 1);
    unsafe {
        text.cast::<u8>().copy_from(last.as_ptr(), count);
        text.add(count).write(0);
    }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cudnnCreate(handle: *mut usize) -> Status {
    unsafe { handle.write(1) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cudnnSetStream(_handle: usize, _stream: usize) -> Status {
    SUCCESS
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cudnnBackendCreateDescriptor(kind: c_int, descriptor: *mut *mut Descriptor) -> Status {
    let made = Descriptor { kind, values: BTreeMap::new(), is_final: false };
    unsafe { descriptor.write(Box::into_raw(Box::new(made))) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cudnnBackendDestroyDescriptor(descriptor: *mut Descriptor) -> Status {
    drop(unsafe { Box::from_raw(descriptor) });
    SUCCESS
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cudnnBackendSetAttribute(
    descriptor: *mut Descriptor,
    attribute: c_int,
    ty: c_int,
    count: i64,
    values: *const c_void,
) -> Status {
    let Some(&(_, bytes)) = TYPE_BYTES.iter().find(|(number, _)| *number == ty) else {
        return refuse(BAD_PARAM, format!("values of the type {ty}"));
    };
    let own = unsafe { &mut *descriptor };
    if own.is_final {
        return refuse(BAD_PARAM, "an attribute of a final descriptor".to_owned());
    }
    let values = unsafe { std::slice::from_raw_parts(values.cast::<u8>(), bytes * count as usize) };
    own.values.insert(attribute, values.to_vec());
    SUCCESS
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cudnnBackendFinalize(descriptor: *mut Descriptor) -> Status {
    let own = unsafe { &mut *descriptor };
    let is_known = match own.kind {
        KIND_ENGINE => own.number(1301) == Ok(ENGINE),
        KIND_KNOB => (own.code(600), own.number(601)) == (Ok(KNOB.0), Ok(KNOB.1)),
        _ => true,
    };
    if !is_known {
        return refuse(NOT_SUPPORTED, "an engine or a knob that does not exist".to_owned());
    }
    own.is_final = true;
    SUCCESS
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cudnnBackendGetAttribute(
    descriptor: *const Descriptor,
    attribute: c_int,
    _ty: c_int,
    most: i64,
    count: *mut i64,
    values: *mut c_void,
) -> Status {
    let own = unsafe { &*descriptor };
    // Descriptors that are asked for are the caller's, and are filled.
    let fill = |with: Descriptor| unsafe {
        count.write(1);
        if most > 0 {
            *(*values.cast::<*mut Descriptor>()) = with;
        }
        SUCCESS
    };
    let made = |kind, values: &[(c_int, Vec<u8>)]| Descriptor {
        kind,
        values: values.iter().cloned().collect(),
        is_final: true,
    };
    match attribute {
        // EngineHeurResults: a configuration of the engine for this graph.
        202 => {
            let graph = own.values[&201].clone();
            let engine = made(KIND_ENGINE, &[(1300, graph), (1301, ENGINE.to_le_bytes().to_vec())]);
            let engine = Box::into_raw(Box::new(engine)) as u64;
            let knob = made(KIND_KNOB, &[(600, KNOB.0.to_le_bytes().to_vec()), (601, KNOB.1.to_le_bytes().to_vec())]);
            let knob = Box::into_raw(Box::new(knob)) as u64;
            fill(made(KIND_CONFIG, &[(300, engine.to_le_bytes().to_vec()), (302, knob.to_le_bytes().to_vec())]))
        }
        300 | 302 => match unsafe { own.other(attribute) } {
            Ok(other) => fill(other.clone()),
            Err(reason) => refuse(BAD_PARAM, reason),
        },
        // EngineNumericalNote.
        1303 => unsafe {
            count.write(0);
            SUCCESS
        },
        // ExecutionPlanWorkspaceSize.
        402 => unsafe {
            values.cast::<i64>().write(WORKSPACE);
            count.write(1);
            SUCCESS
        },
        _ => match own.values.get(&attribute) {
            Some(bytes) => unsafe {
                values.cast::<u8>().copy_from(bytes.as_ptr(), bytes.len());
                count.write(1);
                SUCCESS
            },
            None => refuse(BAD_PARAM, own.lacks(attribute)),
        },
    }
}

/// A tensor as its descriptor says.
struct Tensor {
    uid: i64,
    dtype: c_int,
    dims: Vec<usize>,
    strides: Vec<usize>,
    is_virtual: bool,
    is_on_host: bool,
    alignment: u64,
}

impl Tensor {
    fn of(descriptor: &Descriptor) -> Result<Self, String> {
        let lengths = |attribute| descriptor.numbers(attribute).into_iter().map(|n| n as usize).collect::<Vec<_>>();
        Ok(Self {
            uid: descriptor.number(906)?,
            dtype: descriptor.code(901)?,
            dims: lengths(902),
            strides: lengths(903),
            is_virtual: descriptor.flag(907),
            is_on_host: descriptor.flag(908),
            alignment: descriptor.number(900)? as u64,
        })
    }

    fn bytes(&self) -> usize {
        match self.dtype {
            11 => 1,
            2 | 9 => 2,
            10 => 8,
            _ => 4,
        }
    }

    /// Positions of all values in memory, with the last axis fastest.
    fn positions(&self) -> Vec<usize> {
        let mut all = vec![0];
        for (&len, &stride) in self.dims.iter().zip(&self.strides) {
            all = all.iter().flat_map(|at| (0..len).map(move |i| at + i * stride)).collect();
        }
        all
    }

    fn rounded(&self, value: f32) -> f32 {
        match self.dtype {
            2 => f16::from_f32(value).to_f32(),
            9 => bf16::from_f32(value).to_f32(),
            _ => value,
        }
    }

    /// Checks that all values are in memory that the tensor may use.
    fn check(&self, address: u64) -> Result<(), String> {
        if !address.is_multiple_of(self.alignment.max(1)) {
            return Err(format!("tensor {} at {address:#x} is not aligned to {} bytes", self.uid, self.alignment));
        }
        let most: usize = self.dims.iter().zip(&self.strides).map(|(len, stride)| (len - 1) * stride).sum();
        let bytes = ((most + 1) * self.bytes()) as u64;
        if !self.is_on_host && memory::range_of(&memory::ranges(), address, bytes).is_none() {
            return Err(format!("tensor {} is not within an allocation of the device", self.uid));
        }
        Ok(())
    }

    unsafe fn read(&self, address: u64) -> Result<Vec<f32>, String> {
        self.check(address)?;
        let value = |at: usize| unsafe {
            match self.dtype {
                0 => (address as *const f32).add(at).read(),
                2 => (address as *const f16).add(at).read().to_f32(),
                4 => (address as *const i32).add(at).read() as f32,
                _ => (address as *const bf16).add(at).read().to_f32(),
            }
        };
        Ok(self.positions().into_iter().map(value).collect())
    }

    unsafe fn write(&self, address: u64, values: &[f32]) -> Result<(), String> {
        self.check(address)?;
        for (at, &value) in self.positions().into_iter().zip(values) {
            unsafe {
                match self.dtype {
                    0 => (address as *mut f32).add(at).write(value),
                    2 => (address as *mut f16).add(at).write(f16::from_f32(value)),
                    9 => (address as *mut bf16).add(at).write(bf16::from_f32(value)),
                    other => return Err(format!("a result of the type {other}")),
                }
            }
        }
        Ok(())
    }
}

/// Values of the graph's tensors, by identifier.
struct Run {
    pointers: HashMap<i64, u64>,
    values: HashMap<i64, Vec<f32>>,
}

impl Run {
    unsafe fn get(&mut self, tensor: &Tensor) -> Result<Vec<f32>, String> {
        if tensor.is_virtual {
            return self.values.get(&tensor.uid).cloned().ok_or_else(|| format!("no value of tensor {}", tensor.uid));
        }
        let address = *self.pointers.get(&tensor.uid).ok_or_else(|| format!("no memory for tensor {}", tensor.uid))?;
        unsafe { tensor.read(address) }
    }

    unsafe fn put(&mut self, tensor: &Tensor, values: &[f32]) -> Result<(), String> {
        let expected: usize = tensor.dims.iter().product();
        if values.len() != expected {
            return Err(format!("{} values for tensor {} of {:?}", values.len(), tensor.uid, tensor.dims));
        }
        let values: Vec<f32> = values.iter().map(|&value| tensor.rounded(value)).collect();
        if tensor.is_virtual {
            self.values.insert(tensor.uid, values);
            return Ok(());
        }
        let address = *self.pointers.get(&tensor.uid).ok_or_else(|| format!("no memory for tensor {}", tensor.uid))?;
        unsafe { tensor.write(address, &values) }
    }

    unsafe fn operation(&mut self, operation: &Descriptor) -> Result<(), String> {
        let tensor = |attribute| unsafe { operation.other(attribute) }.and_then(Tensor::of);
        unsafe {
            match operation.kind {
                KIND_MATMUL => {
                    let [a, b, y] = [tensor(1520)?, tensor(1521)?, tensor(1522)?];
                    let values = matmul(&a, &self.get(&a)?, &b, &self.get(&b)?, &y)?;
                    self.put(&y, &values)
                }
                KIND_POINTWISE => self.pointwise(operation),
                KIND_REDUCTION => {
                    let [x, y] = [tensor(1610)?, tensor(1611)?];
                    let mode = operation.other(1612)?.code(1600)?;
                    let (start, f): (f32, fn(f32, f32) -> f32) = match mode {
                        0 => (0.0, |a, b| a + b),
                        3 => (f32::NEG_INFINITY, f32::max),
                        _ => return Err(format!("a reduction {mode}")),
                    };
                    let mut sums = vec![start; y.dims.iter().product()];
                    for (value, at) in self.get(&x)?.into_iter().zip(spread(&y.dims, &x.dims)?) {
                        sums[at] = f(sums[at], value);
                    }
                    self.put(&y, &sums)
                }
                KIND_RESHAPE => {
                    let [x, y] = [tensor(2200)?, tensor(2201)?];
                    let places = x.positions();
                    let mut memory = vec![f32::NAN; places.iter().max().unwrap_or(&0) + 1];
                    for (at, value) in places.into_iter().zip(self.get(&x)?) {
                        memory[at] = value;
                    }
                    let values: Option<Vec<f32>> =
                        y.positions().into_iter().map(|at| memory.get(at).copied()).collect();
                    self.put(&y, &values.ok_or("a reshape beyond the tensor")?)
                }
                KIND_FORWARD | KIND_FILTER | KIND_DATA => self.convolution(operation),
                kind => Err(format!("an operation of kind {kind}")),
            }
        }
    }

    unsafe fn pointwise(&mut self, operation: &Descriptor) -> Result<(), String> {
        let tensor = |attribute| unsafe { operation.other(attribute) }.and_then(Tensor::of);
        unsafe {
            let settings = operation.other(750)?;
            let mode = settings.code(0)?;
            let [x, y] = [tensor(751)?, tensor(753)?];
            let spread_of = |run: &mut Self, tensor: &Tensor| -> Result<Vec<f32>, String> {
                let values = run.get(tensor)?;
                Ok(spread(&tensor.dims, &y.dims)?.into_iter().map(|at| values[at]).collect())
            };
            let a = if mode == 501 { vec![] } else { spread_of(self, &x)? };
            let b = if operation.values.contains_key(&752) { spread_of(self, &tensor(752)?)? } else { vec![] };
            let both = |f: fn(f32, f32) -> f32| a.iter().zip(&b).map(|(&a, &b)| f(a, b)).collect::<Vec<f32>>();
            let one = |f: fn(f32) -> f32| a.iter().map(|&a| f(a)).collect::<Vec<f32>>();
            let values = match mode {
                0 => both(|a, b| a + b),
                1 => both(|a, b| a * b),
                6 => both(|a, b| a / b),
                9 => both(|a, b| a - b),
                13 => one(f32::exp),
                15 => one(f32::ln),
                21 => one(|a| a),
                304 => both(|a, b| f32::from(u8::from(a < b))),
                400 => both(|a, b| f32::from(u8::from(a != 0.0 && b != 0.0))),
                501 => {
                    let axis = settings.number(9)? as usize;
                    let inner: usize = y.dims[axis + 1..].iter().product();
                    (0..y.dims.iter().product()).map(|at: usize| (at / inner % y.dims[axis]) as f32).collect()
                }
                601 => {
                    let mask = spread_of(self, &tensor(758)?)?;
                    mask.iter().zip(a.iter().zip(&b)).map(|(&m, (&a, &b))| if m == 0.0 { b } else { a }).collect()
                }
                _ => return Err(format!("an elementwise function {mode}")),
            };
            self.put(&y, &values)
        }
    }

    unsafe fn convolution(&mut self, operation: &Descriptor) -> Result<(), String> {
        // Settings, image, filter, result, alpha and beta.
        let [settings, x, w, y, alpha, beta] = match operation.kind {
            KIND_FORWARD => [702, 704, 703, 705, 700, 701],
            KIND_DATA => [708, 710, 709, 711, 706, 707],
            _ => [714, 716, 715, 717, 712, 713],
        };
        unsafe {
            let tensor = |attribute| operation.other(attribute).and_then(Tensor::of);
            let [image, filter, result] = [tensor(x)?, tensor(w)?, tensor(y)?];
            if [operation.float(alpha)?, operation.float(beta)?].map(f32::to_bits) != [1f32, 0.0].map(f32::to_bits) {
                return Err("factors of a convolution".to_owned());
            }
            let settings = operation.other(settings)?;
            let all_ones = |attribute| settings.numbers(attribute) == [1, 1, 1];
            if settings.code(101)? != 1 || ![102, 103, 104, 105].into_iter().all(all_ones) {
                return Err("a convolution other than a cross-correlation with a border of one voxel".to_owned());
            }
            let [n, c, sx, sy, sz] = image.dims[..] else { return Err("a volume that is not 3-D".to_owned()) };
            let [o, ci, 3, 3, 3] = filter.dims[..] else { return Err("a filter other than of 3³ voxels".to_owned()) };
            if ci != c || result.dims != [n, o, sx, sy, sz] {
                return Err(format!("{:?} by {:?} to {:?}", image.dims, filter.dims, result.dims));
            }
            // With the channels last, and filters as one matrix [inputs, outputs] per tap.
            let voxels = sx * sy * sz;
            let last = |values: &[f32], channels: usize| -> Vec<f32> {
                let at = |i: usize| (i / channels / voxels * channels + i % channels) * voxels + i / channels % voxels;
                (0..values.len()).map(|i| values[at(i)]).collect()
            };
            let first = |values: &[f32], channels: usize| -> Vec<f32> {
                let at = |i: usize| (i / voxels / channels * voxels + i % voxels) * channels + i / voxels % channels;
                (0..values.len()).map(|i| values[at(i)]).collect()
            };
            let taps =
                |w: &[f32]| -> Vec<f32> { (0..w.len()).map(|i| w[(i % o * c + i / o % c) * 27 + i / o / c]).collect() };
            // Calls f with a tap, and the numbers of the voxels of image and result that it joins.
            let each = |f: &mut dyn FnMut(usize, usize, usize)| {
                for (case, tap) in (0..n).flat_map(|case| (0..27).map(move |tap| (case, tap))) {
                    for voxel in 0..voxels {
                        let own = [voxel / sz / sy, voxel / sz % sy, voxel % sz];
                        let [x, y, z] =
                            [0, 1, 2].map(|axis| (own[axis] + [tap / 9, tap / 3 % 3, tap % 3][axis]).wrapping_sub(1));
                        if x < sx && y < sy && z < sz {
                            f(tap, case * voxels + (x * sy + y) * sz + z, case * voxels + voxel);
                        }
                    }
                }
            };
            match operation.kind {
                KIND_FORWARD => {
                    let (x, w) = (last(&self.get(&image)?, c), taps(&self.get(&filter)?));
                    let mut y = vec![0f32; n * voxels * o];
                    each(&mut |tap, from, to| {
                        for (&x, w) in x[from * c..][..c].iter().zip(w[tap * c * o..].chunks_exact(o)) {
                            y[to * o..][..o].iter_mut().zip(w).for_each(|(y, w)| *y += x * w);
                        }
                    });
                    self.put(&result, &first(&y, o))
                }
                KIND_DATA => {
                    let (w, dy) = (taps(&self.get(&filter)?), last(&self.get(&result)?, o));
                    let mut dx = vec![0f32; n * voxels * c];
                    each(&mut |tap, to, from| {
                        let dy = &dy[from * o..][..o];
                        for (dx, w) in dx[to * c..][..c].iter_mut().zip(w[tap * c * o..].chunks_exact(o)) {
                            *dx += dy.iter().zip(w).map(|(dy, w)| dy * w).sum::<f32>();
                        }
                    });
                    self.put(&image, &first(&dx, c))
                }
                _ => {
                    let (x, dy) = (last(&self.get(&image)?, c), last(&self.get(&result)?, o));
                    let mut dw = vec![0f32; 27 * c * o];
                    each(&mut |tap, of_x, of_dy| {
                        let dy = &dy[of_dy * o..][..o];
                        for (&x, dw) in x[of_x * c..][..c].iter().zip(dw[tap * c * o..].chunks_exact_mut(o)) {
                            dw.iter_mut().zip(dy).for_each(|(dw, dy)| *dw += x * dy);
                        }
                    });
                    let of_filter = |i: usize| dw[(i % 27 * c + i / 27 % c) * o + i / 27 / c];
                    self.put(&filter, &(0..27 * c * o).map(of_filter).collect::<Vec<_>>())
                }
            }
        }
    }
}

/// For each value of `to`, the position in a tensor of dimensions `from`, whose axes of length 1 repeat.
fn spread(from: &[usize], to: &[usize]) -> Result<Vec<usize>, String> {
    if from.len() != to.len() || from.iter().zip(to).any(|(&from, &to)| from != to && from != 1) {
        return Err(format!("{from:?} where {to:?} is expected"));
    }
    let mut positions = vec![0];
    for axis in 0..to.len() {
        let inner: usize = from[axis + 1..].iter().product();
        let step = if from[axis] == 1 { 0 } else { inner };
        positions = positions.iter().flat_map(|at| (0..to[axis]).map(move |i| at + i * step)).collect();
    }
    Ok(positions)
}

fn matmul(a: &Tensor, x: &[f32], b: &Tensor, w: &[f32], y: &Tensor) -> Result<Vec<f32>, String> {
    let sides = |t: &Tensor| (t.dims[t.dims.len() - 2], t.dims[t.dims.len() - 1], t.dims[..t.dims.len() - 2].to_vec());
    let ((rows, inner, batch), (inner_b, columns, batch_b)) = (sides(a), sides(b));
    if inner != inner_b || batch != batch_b || sides(y) != (rows, columns, batch.clone()) {
        return Err(format!("a product of {:?} and {:?} to {:?}", a.dims, b.dims, y.dims));
    }
    let count: usize = batch.iter().product();
    let mut values = vec![0f32; count * rows * columns];
    for matrix in 0..count {
        let (x, w) = (&x[matrix * rows * inner..], &w[matrix * inner * columns..]);
        for row in 0..rows {
            let out = &mut values[(matrix * rows + row) * columns..][..columns];
            for k in 0..inner {
                let factor = x[row * inner + k];
                for (out, w) in out.iter_mut().zip(&w[k * columns..][..columns]) {
                    *out += factor * w;
                }
            }
        }
    }
    Ok(values)
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cudnnBackendExecute(
    _handle: usize,
    plan: *const Descriptor,
    pack: *const Descriptor,
) -> Status {
    let result = || -> Result<(), String> {
        unsafe {
            let (plan, pack) = (&*plan, &*pack);
            let config = plan.other(401)?;
            let engine = config.other(300)?;
            let graph = engine.other(1300)?;
            let workspace = pack.number(1003)? as u64;
            if memory::range_of(&memory::ranges(), workspace, WORKSPACE as u64).is_none() {
                return Err("scratch memory that is not within an allocation of the device".to_owned());
            }
            (workspace as *mut u8).write_bytes(0xFF, WORKSPACE as usize);
            let pointers = pack.numbers(1000).into_iter().zip(pack.numbers(1001).into_iter().map(|p| p as u64));
            let mut run = Run { pointers: pointers.collect(), values: HashMap::new() };
            for operation in graph.others(801) {
                run.operation(operation)?;
            }
            Ok(())
        }
    };
    match result() {
        Ok(()) => SUCCESS,
        Err(reason) => {
            eprintln!("cuDNN emulator: {reason}");
            refuse(NOT_SUPPORTED, reason)
        }
    }
}
