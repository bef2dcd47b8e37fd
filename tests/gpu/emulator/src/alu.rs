//! Arithmetic of instructions for the 32 threads of a warp: dispatch by type, integers, bits and comparisons.
//!
//! Approximate instructions are computed exactly, and denormal numbers are kept.

use crate::convert::convert;
use crate::float::{self, float};
use crate::kernel::{Base, Opcode, Type};

/// A value per thread of a warp.
pub(crate) type Lanes = [u64; 32];

/// The lowest `bits` of a value.
pub(crate) fn low(value: u64, bits: u32) -> u64 {
    if bits >= 64 { value } else { value & ((1 << bits) - 1) }
}

/// A value of `bits`, extended by its sign.
pub(crate) fn extended(value: u64, bits: u32) -> u64 {
    signed(value, bits) as u64
}

fn signed(value: u64, bits: u32) -> i64 {
    if bits >= 64 { value as i64 } else { ((value << (64 - bits)) as i64) >> (64 - bits) }
}

/// An integer of a type.
pub(crate) fn integer(ty: Type, value: u64) -> i128 {
    match ty {
        Type::Signed(bits) => signed(value, bits).into(),
        _ => low(value, ty.bits()).into(),
    }
}

pub(crate) fn unsupported<T>(opcode: &Opcode) -> Result<T, String> {
    Err(format!("{:?} of {:?} with {:?} is not supported", opcode.base, opcode.types, opcode.words))
}

/// Computes an instruction without effects on memory or control.
pub(crate) fn compute(opcode: &Opcode, sources: &[Lanes]) -> Result<Lanes, String> {
    if let Base::Cvt = opcode.base {
        return convert(opcode, sources);
    }
    let ty = opcode.ty();
    match ty {
        Type::F16x2 | Type::Bf16x2 => {
            let half = if ty == Type::F16x2 { Type::F16 } else { Type::Bf16 };
            let single = Opcode { types: vec![half], ..opcode.clone() };
            let part = |shift: u32| -> Vec<Lanes> {
                sources.iter().map(|source| source.map(|value| low(value >> shift, 16))).collect()
            };
            let (below, above) = (compute(&single, &part(0))?, compute(&single, &part(16))?);
            Ok(std::array::from_fn(|lane| below[lane] | above[lane] << 16))
        }
        _ if ty.is_float() && !is_of_bits(opcode.base) => float::compute(opcode, ty, sources),
        _ => compute_integer(opcode, ty, sources),
    }
}

/// True for instructions that move bits, whatever type they are said to have.
fn is_of_bits(base: Base) -> bool {
    matches!(base, Base::Mov | Base::Selp | Base::Slct | Base::Cvta | Base::Set)
}

/// Applies a function to up to four sources of each thread; absent ones are 0.
pub(crate) fn each(sources: &[Lanes], f: impl Fn([u64; 4]) -> u64) -> Lanes {
    let get = |index: usize, lane: usize| sources.get(index).map_or(0, |source| source[lane]);
    std::array::from_fn(|lane| f([get(0, lane), get(1, lane), get(2, lane), get(3, lane)]))
}

/// Computes an instruction for integers, or for bits of any type.
fn compute_integer(opcode: &Opcode, ty: Type, sources: &[Lanes]) -> Result<Lanes, String> {
    let bits = ty.bits();
    let cut = |value: i128| low(value as u64, bits);
    let int = |value: u64| integer(ty, value);
    Ok(match opcode.base {
        Base::Mov | Base::Cvta => each(sources, |[a, ..]| low(a, bits)),
        Base::Selp => each(sources, |[a, b, c, _]| low(if c & 1 == 1 { a } else { b }, bits)),
        Base::Slct => {
            let of_result = opcode.types[0].bits();
            each(sources, |[a, b, c, _]| {
                let is_first = if ty == Type::F32 { float(ty, c) >= 0.0 } else { int(c) >= 0 };
                low(if is_first { a } else { b }, of_result)
            })
        }
        Base::Set => set(opcode, sources)?,
        Base::Add | Base::Sub => {
            let (saturates, subtracts) = (opcode.has("sat"), opcode.base == Base::Sub);
            let (least, most) = (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1);
            each(sources, |[a, b, ..]| {
                let value = if subtracts { int(a) - int(b) } else { int(a) + int(b) };
                cut(if saturates { value.clamp(least, most) } else { value })
            })
        }
        Base::Mul | Base::Mad if !opcode.has("sat") => {
            let (wide, high) = (opcode.has("wide"), opcode.has("hi"));
            let out_bits = if wide { bits * 2 } else { bits };
            each(sources, |[a, b, c, _]| {
                // The bits of 64 by 64 are those of 128, whatever the sign of i128 is.
                let product = int(a).wrapping_mul(int(b));
                let product = if high { product >> bits } else { product };
                low((product as u64).wrapping_add(c), out_bits)
            })
        }
        // Devices leave the result of a division by zero undefined.
        Base::Div => each(sources, |[a, b, ..]| cut(if int(b) == 0 { -1 } else { int(a) / int(b) })),
        Base::Rem => each(sources, |[a, b, ..]| cut(if int(b) == 0 { -1 } else { int(a) % int(b) })),
        Base::Abs => each(sources, |[a, ..]| cut(int(a).abs())),
        Base::Neg => each(sources, |[a, ..]| cut(-int(a))),
        Base::Min | Base::Max => {
            let (is_min, relu) = (opcode.base == Base::Min, opcode.has("relu"));
            each(sources, |[a, b, ..]| {
                let value = if is_min { int(a).min(int(b)) } else { int(a).max(int(b)) };
                cut(if relu { value.max(0) } else { value })
            })
        }
        Base::Sad => each(sources, |[a, b, c, _]| cut((int(a) - int(b)).abs() + int(c))),
        Base::Dp4a => each(sources, |[a, b, c, _]| {
            let byte_of = |index: usize| {
                if opcode.types[index] == Type::Signed(32) { Type::Signed(8) } else { Type::Unsigned(8) }
            };
            let [of_a, of_b] = [0, 1].map(byte_of);
            let sum: i128 = (0..4).map(|index| integer(of_a, a >> (8 * index)) * integer(of_b, b >> (8 * index))).sum();
            low((i128::from(c) + sum) as u64, 32)
        }),
        _ => compute_bits(opcode, ty, sources)?,
    })
}

/// Computes an instruction for single bits.
fn compute_bits(opcode: &Opcode, ty: Type, sources: &[Lanes]) -> Result<Lanes, String> {
    let bits = ty.bits();
    let is_signed = matches!(ty, Type::Signed(_));
    let int = |value: u64| integer(ty, value);
    // An amount beyond the width moves all bits out.
    let amount = |value: u64| (value as u32).min(bits);
    Ok(match opcode.base {
        Base::And => each(sources, |[a, b, ..]| low(a & b, bits)),
        Base::Or => each(sources, |[a, b, ..]| low(a | b, bits)),
        Base::Xor => each(sources, |[a, b, ..]| low(a ^ b, bits)),
        Base::Not => each(sources, |[a, ..]| low(!a, bits)),
        Base::Cnot => each(sources, |[a, ..]| u64::from(low(a, bits) == 0)),
        Base::Shl => each(sources, |[a, b, ..]| if amount(b) >= bits { 0 } else { low(a << amount(b), bits) }),
        Base::Shr => each(sources, |[a, b, ..]| low((int(a) >> amount(b)) as u64, bits)),
        Base::Shf => {
            let (to_left, clamps) = (opcode.has("l"), opcode.has("clamp"));
            each(sources, |[a, b, c, _]| {
                let both = low(b, 32) << 32 | low(a, 32);
                let by = if clamps { (c as u32).min(32) } else { c as u32 & 31 };
                low(if to_left { (both << by) >> 32 } else { both >> by }, 32)
            })
        }
        Base::Lop3 => each(sources, |[a, b, c, table]| {
            (0..bits).fold(0, |sum, bit| {
                let index = (a >> bit & 1) << 2 | (b >> bit & 1) << 1 | (c >> bit & 1);
                sum | (table >> index & 1) << bit
            })
        }),
        Base::Prmt => each(sources, |[a, b, c, _]| permuted(low(b, 32) << 32 | low(a, 32), c)),
        Base::Bfe => each(sources, |[a, start, len, _]| {
            let (start, len) = (start as u32 & 0xFF, (len as u32 & 0xFF).min(64));
            // The sign, or zeros, follow the highest bit.
            let field = (int(a) >> start.min(127)) as u64;
            match len {
                0 => 0,
                _ if is_signed => low(extended(field, len), bits),
                _ => low(field, len.min(bits)),
            }
        }),
        Base::Bfi => each(sources, |[a, b, start, len]| {
            let (start, len) = (start as u32 & 0xFF, len as u32 & 0xFF);
            if start >= bits {
                return low(b, bits);
            }
            let mask = low(low(u64::MAX, len) << start, bits);
            (low(b, bits) & !mask) | (a << start & mask)
        }),
        Base::Brev => each(sources, |[a, ..]| low(a, bits).reverse_bits() >> (64 - bits)),
        Base::Clz => each(sources, |[a, ..]| u64::from(low(a, bits).leading_zeros() - (64 - bits))),
        Base::Popc => each(sources, |[a, ..]| low(a, bits).count_ones().into()),
        Base::Bfind => each(sources, |[a, ..]| {
            // The highest bit that differs from the sign.
            let value = if int(a) < 0 { low(!a, bits) } else { low(a, bits) };
            let Some(highest) = value.checked_ilog2() else { return u32::MAX.into() };
            u64::from(if opcode.has("shiftamt") { bits - 1 - highest } else { highest })
        }),
        _ => return unsupported(opcode),
    })
}

/// Four of eight bytes, each named by four bits of the selector, of which the highest repeats the byte's sign.
fn permuted(both: u64, selector: u64) -> u64 {
    (0..4).fold(0, |sum, index| {
        let nibble = selector >> (4 * index);
        let byte = both >> (8 * (nibble & 7)) & 0xFF;
        let byte = if nibble & 8 == 0 { byte } else { (byte >> 7) * 0xFF };
        sum | byte << (8 * index)
    })
}

/// Compares; where it holds, 1.0 or an integer with all bits set.
fn set(opcode: &Opcode, sources: &[Lanes]) -> Result<Lanes, String> {
    let [to, from] = opcode.types[..] else { return unsupported(opcode) };
    let one = match to {
        Type::F32 => 1f32.to_bits().into(),
        Type::Unsigned(bits) | Type::Signed(bits) => low(u64::MAX, bits),
        _ => return unsupported(opcode),
    };
    let holds = compare(&Opcode { types: vec![from], ..opcode.clone() }, &sources[0], &sources[1])?;
    Ok(holds.map(|holds| holds * one))
}

/// Compares; 1 where it holds.
pub(crate) fn compare(opcode: &Opcode, a: &Lanes, b: &Lanes) -> Result<Lanes, String> {
    let ty = opcode.ty();
    let Some(name) = opcode.words.first() else { return unsupported(opcode) };
    let holds = |order: Option<std::cmp::Ordering>| -> Option<bool> {
        use std::cmp::Ordering::{Equal, Greater, Less};
        Some(match &name[..] {
            "eq" => order == Some(Equal),
            "ne" => order.is_some_and(|order| order != Equal),
            "lt" | "lo" => order == Some(Less),
            "le" | "ls" => matches!(order, Some(Less | Equal)),
            "gt" | "hi" => order == Some(Greater),
            "ge" | "hs" => matches!(order, Some(Greater | Equal)),
            "equ" => matches!(order, None | Some(Equal)),
            "neu" => order != Some(Equal),
            "ltu" => matches!(order, None | Some(Less)),
            "leu" => order != Some(Greater),
            "gtu" => matches!(order, None | Some(Greater)),
            "geu" => order != Some(Less),
            "num" => order.is_some(),
            "nan" => order.is_none(),
            _ => return None,
        })
    };
    if holds(None).is_none() {
        return unsupported(opcode);
    }
    Ok(std::array::from_fn(|lane| {
        let order = match ty {
            _ if ty.is_float() => float(ty, a[lane]).partial_cmp(&float(ty, b[lane])),
            _ => Some(integer(ty, a[lane]).cmp(&integer(ty, b[lane]))),
        };
        u64::from(holds(order) == Some(true))
    }))
}

/// The value that an atomic instruction leaves.
pub(crate) fn changed(opcode: &Opcode, before: u64, sources: &[u64]) -> Result<u64, String> {
    let bits = opcode.ty().bits();
    let sources: Vec<u64> = sources.iter().map(|&source| low(source, bits)).collect();
    let lanes: Vec<Lanes> = std::iter::once(before).chain(sources.iter().copied()).map(|value| [value; 32]).collect();
    let by = |base: Base| Ok(compute(&Opcode { base, words: vec![], ..opcode.clone() }, &lanes)?[0]);
    for word in &opcode.words {
        return match &word[..] {
            "add" => by(Base::Add),
            "min" => by(Base::Min),
            "max" => by(Base::Max),
            "and" => by(Base::And),
            "or" => by(Base::Or),
            "xor" => by(Base::Xor),
            "exch" => Ok(sources[0]),
            "cas" => Ok(if before == sources[0] { sources[1] } else { before }),
            "inc" => Ok(if before >= sources[0] { 0 } else { before + 1 }),
            "dec" => Ok(if before == 0 || before > sources[0] { sources[0] } else { before - 1 }),
            _ => continue,
        };
    }
    unsupported(opcode)
}
