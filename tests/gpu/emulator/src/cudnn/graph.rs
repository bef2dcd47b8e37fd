//! Operations of a graph, computed one by one in f32.

use std::collections::HashMap;
use std::ffi::c_int;

use half::{bf16, f16};

use super::{
    Descriptor, KIND_DATA, KIND_FILTER, KIND_FORWARD, KIND_MATMUL, KIND_POINTWISE, KIND_REDUCTION, KIND_RESHAPE,
    convolution,
};
use crate::memory;

/// A tensor as its descriptor says.
pub(super) struct Tensor {
    uid: i64,
    dtype: c_int,
    pub(super) dims: Vec<usize>,
    strides: Vec<usize>,
    is_virtual: bool,
    is_on_host: bool,
    alignment: u64,
}

impl Tensor {
    pub(super) fn of(descriptor: &Descriptor) -> Result<Self, String> {
        let lengths = |attribute| descriptor.numbers(attribute).into_iter().map(|n| n as usize).collect::<Vec<_>>();
        let (uid, dims, strides) = (descriptor.number(906)?, lengths(902), lengths(903));
        if dims.is_empty() || dims.contains(&0) || dims.len() != strides.len() {
            return Err(format!("tensor {uid} of {dims:?} with strides {strides:?}"));
        }
        Ok(Self {
            uid,
            dtype: descriptor.code(901)?,
            dims,
            strides,
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
        if !address.is_multiple_of(self.alignment.max(self.bytes() as u64)) {
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
            Ok(match self.dtype {
                0 => (address as *const f32).add(at).read(),
                2 => (address as *const f16).add(at).read().to_f32(),
                4 => (address as *const i32).add(at).read() as f32,
                9 => (address as *const bf16).add(at).read().to_f32(),
                other => return Err(format!("a source of the type {other}")),
            })
        };
        self.positions().into_iter().map(value).collect()
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
pub(super) struct Run {
    pub(super) pointers: HashMap<i64, u64>,
    pub(super) values: HashMap<i64, Vec<f32>>,
}

impl Run {
    pub(super) unsafe fn get(&mut self, tensor: &Tensor) -> Result<Vec<f32>, String> {
        if tensor.is_virtual {
            return self.values.get(&tensor.uid).cloned().ok_or_else(|| format!("no value of tensor {}", tensor.uid));
        }
        let address = *self.pointers.get(&tensor.uid).ok_or_else(|| format!("no memory for tensor {}", tensor.uid))?;
        unsafe { tensor.read(address) }
    }

    pub(super) unsafe fn put(&mut self, tensor: &Tensor, values: &[f32]) -> Result<(), String> {
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

    /// Computes an operation of the graph.
    pub(super) unsafe fn operation(&mut self, operation: &Descriptor) -> Result<(), String> {
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
                KIND_FORWARD | KIND_FILTER | KIND_DATA => convolution::run(self, operation),
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
                    if axis >= y.dims.len() {
                        return Err(format!("indices along axis {axis} of {:?}", y.dims));
                    }
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

/// Multiplies matrices, the last two axes of tensors.
fn matmul(a: &Tensor, left: &[f32], b: &Tensor, right: &[f32], y: &Tensor) -> Result<Vec<f32>, String> {
    let refused = || format!("a product of {:?} and {:?} to {:?}", a.dims, b.dims, y.dims);
    let sides = |tensor: &Tensor| match &tensor.dims[..] {
        [batch @ .., rows, columns] => Ok((*rows, *columns, batch.to_vec())),
        _ => Err(refused()),
    };
    let ((rows, inner, batch), (inner_b, columns, batch_b)) = (sides(a)?, sides(b)?);
    if inner != inner_b || batch != batch_b || sides(y)? != (rows, columns, batch.clone()) {
        return Err(refused());
    }
    let count: usize = batch.iter().product();
    let mut values = vec![0f32; count * rows * columns];
    for (index, out) in values.chunks_exact_mut(columns).enumerate() {
        let right = &right[index / rows * inner * columns..];
        for (factor, right) in left[index * inner..][..inner].iter().zip(right.chunks_exact(columns)) {
            out.iter_mut().zip(right).for_each(|(out, value)| *out += factor * value);
        }
    }
    Ok(values)
}
