//! Pickles of plain values and tensors, as `torch.save` writes them (protocol 2).
//!
//! Contains only what `torch.load(weights_only=True)` accepts: no class except `collections.OrderedDict`, and no
//! function except the one that rebuilds a tensor.

/// A value of a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `None`.
    None,
    /// A signed 64-bit integer.
    Int(i64),
    /// A floating point number.
    Float(f64),
    /// A text string.
    Text(String),
    /// A list of values.
    List(Vec<Value>),
    /// A dictionary with strings as keys, in the given order.
    Dict(Vec<(String, Value)>),
    /// A contiguous tensor of 32-bit floats with its own storage.
    Tensor {
        /// Number of the storage, which is the name of its file in the archive.
        storage: usize,
        /// Size of each axis.
        shape: Vec<usize>,
    },
}

impl Value {
    /// Dictionary from pairs of keys and values.
    #[must_use]
    pub fn dict<const N: usize>(pairs: [(&str, Self); N]) -> Self {
        Self::Dict(pairs.map(|(key, value)| (key.to_owned(), value)).into())
    }

    /// List of integers.
    ///
    /// # Panics
    /// If a number is above `i64::MAX`, which no size of a model is.
    #[must_use]
    pub fn sizes(sizes: &[usize]) -> Self {
        Self::List(sizes.iter().map(|&size| size.into()).collect())
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Self::Int(i64::try_from(number).expect("sizes are below 2^63"))
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Float(number)
    }
}

// Opcodes, by their names in Python's pickletools.
const PROTO: u8 = 0x80;
const STOP: u8 = b'.';
const MARK: u8 = b'(';
const NONE: u8 = b'N';
const NEWFALSE: u8 = 0x89;
const BININT: u8 = b'J';
const LONG1: u8 = 0x8a;
const BINFLOAT: u8 = b'G';
const BINUNICODE: u8 = b'X';
const EMPTY_LIST: u8 = b']';
const APPENDS: u8 = b'e';
const EMPTY_DICT: u8 = b'}';
const SETITEMS: u8 = b'u';
const EMPTY_TUPLE: u8 = b')';
const TUPLE: u8 = b't';
const GLOBAL: u8 = b'c';
const REDUCE: u8 = b'R';
const BINPERSID: u8 = b'Q';

/// Bytes of the pickle of a value.
///
/// # Panics
/// If a string is longer than 4 GiB.
#[must_use]
pub fn pickle(value: &Value) -> Vec<u8> {
    let mut bytes = vec![PROTO, 2];
    put(&mut bytes, value);
    bytes.push(STOP);
    bytes
}

fn put(bytes: &mut Vec<u8>, value: &Value) {
    match value {
        Value::None => bytes.push(NONE),
        Value::Int(number) => put_int(bytes, *number),
        Value::Float(number) => {
            bytes.push(BINFLOAT);
            bytes.extend(number.to_be_bytes());
        }
        Value::Text(text) => put_text(bytes, text),
        Value::List(values) => {
            bytes.extend([EMPTY_LIST, MARK]);
            for value in values {
                put(bytes, value);
            }
            bytes.push(APPENDS);
        }
        Value::Dict(pairs) => {
            bytes.extend([EMPTY_DICT, MARK]);
            for (key, value) in pairs {
                put_text(bytes, key);
                put(bytes, value);
            }
            bytes.push(SETITEMS);
        }
        Value::Tensor { storage, shape } => put_tensor(bytes, *storage, shape),
    }
}

/// Writes the call `_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)`.
fn put_tensor(bytes: &mut Vec<u8>, storage: usize, shape: &[usize]) {
    put_global(bytes, "torch._utils", "_rebuild_tensor_v2");
    bytes.push(MARK);
    // The storage by a persistent name: ('storage', type, file, device, number of values).
    bytes.push(MARK);
    put_text(bytes, "storage");
    put_global(bytes, "torch", "FloatStorage");
    put_text(bytes, &storage.to_string());
    put_text(bytes, "cpu");
    put(bytes, &shape.iter().product::<usize>().into());
    bytes.extend([TUPLE, BINPERSID]);
    put_int(bytes, 0);
    put_tuple(bytes, shape);
    let strides: Vec<usize> = (0..shape.len()).map(|axis| shape[axis + 1..].iter().product()).collect();
    put_tuple(bytes, &strides);
    bytes.push(NEWFALSE);
    put_global(bytes, "collections", "OrderedDict");
    bytes.extend([EMPTY_TUPLE, REDUCE, TUPLE, REDUCE]);
}

fn put_tuple(bytes: &mut Vec<u8>, sizes: &[usize]) {
    bytes.push(MARK);
    for &size in sizes {
        put(bytes, &size.into());
    }
    bytes.push(TUPLE);
}

fn put_int(bytes: &mut Vec<u8>, number: i64) {
    if let Ok(number) = i32::try_from(number) {
        bytes.push(BININT);
        bytes.extend(number.to_le_bytes());
    } else {
        bytes.extend([LONG1, 8]);
        bytes.extend(number.to_le_bytes());
    }
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.push(BINUNICODE);
    bytes.extend(u32::try_from(text.len()).expect("strings of a checkpoint are short").to_le_bytes());
    bytes.extend(text.as_bytes());
}

fn put_global(bytes: &mut Vec<u8>, module: &str, name: &str) {
    bytes.push(GLOBAL);
    bytes.extend(format!("{module}\n{name}\n").into_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_bytes_that_pythons_pickle_reads() {
        let value = Value::dict([("a", Value::List(vec![1_usize.into(), 0.5.into(), Value::None])), ("b", "x".into())]);
        let expected = b"\x80\x02}(X\x01\0\0\0a](J\x01\0\0\0G\x3f\xe0\0\0\0\0\0\0NeX\x01\0\0\0bX\x01\0\0\0xu.";
        assert_eq!(pickle(&value), expected);
        assert_eq!(pickle(&Value::Int(1 << 40)), b"\x80\x02\x8a\x08\0\0\0\0\0\x01\0\0.");
    }
}
