//! cuDNN's graph interface, as the trainer calls it: graphs of products, elementwise functions, reductions, reshapes and
//! convolutions, computed operation by operation in f32. Each graph has one engine.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{c_char, c_int, c_void};
use std::sync::{Mutex, PoisonError};

use crate::memory;
use crate::settings;

mod convolution;
mod graph;

use graph::Run;

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

fn bytes_of(ty: c_int) -> Option<usize> {
    TYPE_BYTES.iter().find(|(number, _)| *number == ty).map(|(_, bytes)| *bytes)
}

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
    let Some(room) = len.checked_sub(1) else { return };
    let count = last.len().min(room);
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
    let Some(bytes) = bytes_of(ty) else { return refuse(BAD_PARAM, format!("values of the type {ty}")) };
    let own = unsafe { &mut *descriptor };
    if own.is_final {
        return refuse(BAD_PARAM, "an attribute of a final descriptor".to_owned());
    }
    let Ok(count) = usize::try_from(count) else { return refuse(BAD_PARAM, format!("{count} values")) };
    let mut copy = vec![0; bytes * count];
    if count > 0 {
        unsafe { copy.as_mut_ptr().copy_from(values.cast::<u8>(), bytes * count) };
    }
    own.values.insert(attribute, copy);
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
    ty: c_int,
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
            let Some(graph) = own.values.get(&201).cloned() else { return refuse(BAD_PARAM, own.lacks(201)) };
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
        _ => match (own.values.get(&attribute), bytes_of(ty), usize::try_from(most)) {
            (Some(held), Some(bytes), Ok(most)) => unsafe {
                if most > 0 {
                    values.cast::<u8>().copy_from(held.as_ptr(), held.len().min(most * bytes));
                }
                count.write((held.len() / bytes) as i64);
                SUCCESS
            },
            (None, ..) => refuse(BAD_PARAM, own.lacks(attribute)),
            _ => refuse(BAD_PARAM, format!("{most} values of the type {ty}")),
        },
    }
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
            if settings::skips() {
                return Ok(());
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
