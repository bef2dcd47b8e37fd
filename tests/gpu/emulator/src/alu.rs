//! Arithmetic: what instructions compute for the 32 threads of a warp.
//!
//! Approximate instructions are computed exactly, and denormal numbers are kept.

use half::{bf16, f16};

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

/// A value as the number that it is.
fn float(ty: Type, bits: u64) -> f64 {
    match ty {
        Type::F16 => f16::from_bits(bits as u16).to_f64(),
        Type::Bf16 => bf16::from_bits(bits as u16).to_f64(),
        Type::F32 => f64::from(f32::from_bits(bits as u32)),
        _ => f64::from_bits(bits),
    }
}

/// The bits of a number, rounded to its type.
fn bits_of(ty: Type, value: f64) -> u64 {
    match ty {
        Type::F16 => f16::from_f64(value).to_bits().into(),
        Type::Bf16 => bf16::from_f64(value).to_bits().into(),
        Type::F32 => (value as f32).to_bits().into(),
        _ => value.to_bits(),
    }
}

fn unsupported<T>(opcode: &Opcode) -> Result<T, String> {
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
        _ if ty.is_float() && !is_of_bits(opcode.base) => compute_float(opcode, ty, sources),
        _ => compute_integer(opcode, ty, sources),
    }
}

/// True for instructions that move bits, whatever type they are said to have.
fn is_of_bits(base: Base) -> bool {
    matches!(base, Base::Mov | Base::Selp | Base::Slct | Base::Cvta | Base::Set)
}

fn each(sources: &[Lanes], f: impl Fn([u64; 4]) -> u64) -> Lanes {
    let get = |index: usize, lane: usize| sources.get(index).map_or(0, |source| source[lane]);
    std::array::from_fn(|lane| f([get(0, lane), get(1, lane), get(2, lane), get(3, lane)]))
}

/// Direction in which a result is rounded.
#[derive(Clone, Copy, PartialEq)]
enum Direction {
    Nearest,
    Zero,
    Down,
    Up,
}

impl Direction {
    fn of(opcode: &Opcode) -> Self {
        if opcode.has("rz") {
            Self::Zero
        } else if opcode.has("rm") {
            Self::Down
        } else if opcode.has("rp") {
            Self::Up
        } else {
            Self::Nearest
        }
    }

    /// Rounds to `f32`.
    fn rounded(self, value: f64) -> f32 {
        let nearest = value as f32;
        let is_above = f64::from(nearest) > value;
        let is_below = f64::from(nearest) < value;
        match self {
            Self::Down | Self::Zero if is_above && (self == Self::Down || value > 0.0) => nearest.next_down(),
            Self::Up | Self::Zero if is_below && (self == Self::Up || value < 0.0) => nearest.next_up(),
            _ => nearest,
        }
    }
}

fn compute_float(opcode: &Opcode, ty: Type, sources: &[Lanes]) -> Result<Lanes, String> {
    let direction = Direction::of(opcode);
    if direction != Direction::Nearest && ty != Type::F32 {
        return unsupported(opcode);
    }
    let saturates = opcode.has("sat");
    let relu = opcode.has("relu");
    let keeps_nan = opcode.has("NaN");
    let out = |value: f64| {
        let value = if saturates { if value > 0.0 { value.min(1.0) } else { 0.0 } } else { value };
        let value = if relu && value < 0.0 { 0.0 } else { value };
        if direction == Direction::Nearest { bits_of(ty, value) } else { direction.rounded(value).to_bits().into() }
    };
    // Operations of f32 are rounded once, as they are computed in f64 and rounded to f32: exact for sums, products, quotients
    // and roots, whose results need more than twice the bits of f32 to be rounded otherwise.
    let unary = |f: fn(f64) -> f64| Ok(each(sources, |[a, ..]| out(f(float(ty, a)))));
    let binary = |f: fn(f64, f64) -> f64| Ok(each(sources, |[a, b, ..]| out(f(float(ty, a), float(ty, b)))));
    let sign = 1u64 << (ty.bits() - 1);
    match opcode.base {
        Base::Add => binary(|a, b| a + b),
        Base::Sub => binary(|a, b| a - b),
        Base::Mul => binary(|a, b| a * b),
        Base::Div => binary(|a, b| a / b),
        Base::Min | Base::Max => {
            let is_min = opcode.base == Base::Min;
            Ok(each(sources, |[a, b, ..]| {
                let (x, y) = (float(ty, a), float(ty, b));
                let value = if x.is_nan() || y.is_nan() {
                    if keeps_nan || x.is_nan() && y.is_nan() {
                        f64::NAN
                    } else if x.is_nan() {
                        y
                    } else {
                        x
                    }
                } else if x.total_cmp(&y).is_lt() == is_min {
                    x
                } else {
                    y
                };
                out(value)
            }))
        }
        Base::Fma | Base::Mad => Ok(each(sources, |[a, b, c, _]| match ty {
            Type::F32 if !saturates && !relu && direction == Direction::Nearest => {
                let [a, b, c] = [a, b, c].map(|bits| f32::from_bits(bits as u32));
                a.mul_add(b, c).to_bits().into()
            }
            _ => out(float(ty, a).mul_add(float(ty, b), float(ty, c))),
        })),
        Base::Abs => Ok(each(sources, |[a, ..]| low(a, ty.bits()) & !sign)),
        Base::Neg => Ok(each(sources, |[a, ..]| low(a, ty.bits()) ^ sign)),
        // copysign d, a, b: the sign of a with the magnitude of b.
        Base::Copysign => Ok(each(sources, |[a, b, ..]| (a & sign) | (low(b, ty.bits()) & !sign))),
        Base::Sqrt => unary(f64::sqrt),
        Base::Rsqrt => unary(|a| 1.0 / a.sqrt()),
        Base::Rcp => unary(|a| 1.0 / a),
        Base::Sin => unary(f64::sin),
        Base::Cos => unary(f64::cos),
        Base::Tanh => unary(f64::tanh),
        Base::Ex2 => unary(f64::exp2),
        Base::Lg2 => unary(f64::log2),
        Base::Testp => Ok(each(sources, |[a, ..]| {
            let value = float(ty, a);
            u64::from(match &opcode.words[0][..] {
                "finite" => value.is_finite(),
                "infinite" => value.is_infinite(),
                "number" => !value.is_nan(),
                _ => value.is_nan(),
            })
        })),
        _ => unsupported(opcode),
    }
}

fn compute_integer(opcode: &Opcode, ty: Type, sources: &[Lanes]) -> Result<Lanes, String> {
    let bits = ty.bits();
    let is_signed = matches!(ty, Type::Signed(_));
    let int =
        |value: u64| -> i128 { if is_signed { i128::from(signed(value, bits)) } else { i128::from(low(value, bits)) } };
    let cut = |value: i128| low(value as u64, bits);
    let amount = |value: u64| (value as u32).min(bits);
    let product = |a: u64, b: u64| -> Result<i128, String> {
        let product = int(a) * int(b);
        Ok(if opcode.has("wide") {
            product
        } else if opcode.has("hi") {
            product >> bits
        } else {
            i128::from(cut(product))
        })
    };
    let out_bits = if opcode.has("wide") { bits * 2 } else { bits };
    Ok(match opcode.base {
        Base::Add => each(sources, |[a, b, ..]| cut(int(a) + int(b))),
        Base::Sub => each(sources, |[a, b, ..]| cut(int(a) - int(b))),
        Base::Mul => each(sources, |[a, b, ..]| low(product(a, b).unwrap_or(0) as u64, out_bits)),
        Base::Mad => each(sources, |[a, b, c, _]| low((product(a, b).unwrap_or(0) as u64).wrapping_add(c), out_bits)),
        // The result of a division by zero is not defined.
        Base::Div => each(sources, |[a, b, ..]| if int(b) == 0 { u64::MAX } else { cut(int(a) / int(b)) }),
        Base::Rem => each(sources, |[a, b, ..]| if int(b) == 0 { u64::MAX } else { cut(int(a) % int(b)) }),
        Base::Abs => each(sources, |[a, ..]| cut(int(a).abs())),
        Base::Neg => each(sources, |[a, ..]| cut(-int(a))),
        Base::Min => each(sources, |[a, b, ..]| cut(int(a).min(int(b)))),
        Base::Max => each(sources, |[a, b, ..]| {
            let value = int(a).max(int(b));
            cut(if opcode.has("relu") { value.max(0) } else { value })
        }),
        Base::And => each(sources, |[a, b, ..]| a & b),
        Base::Or => each(sources, |[a, b, ..]| a | b),
        Base::Xor => each(sources, |[a, b, ..]| a ^ b),
        Base::Not if ty == Type::Pred => each(sources, |[a, ..]| a ^ 1),
        Base::Not => each(sources, |[a, ..]| low(!a, bits)),
        Base::Cnot => each(sources, |[a, ..]| u64::from(low(a, bits) == 0)),
        Base::Shl => each(sources, |[a, b, ..]| if amount(b) >= bits { 0 } else { low(a << amount(b), bits) }),
        Base::Shr => each(sources, |[a, b, ..]| cut(int(a) >> amount(b))),
        Base::Shf => each(sources, |[a, b, c, _]| {
            let both = low(b, 32) << 32 | low(a, 32);
            let by = if opcode.has("clamp") { (c as u32).min(32) } else { c as u32 & 31 };
            if opcode.has("l") { low((both << by) >> 32, 32) } else { low(both >> by, 32) }
        }),
        Base::Lop3 => each(sources, |[a, b, c, table]| {
            (0..bits).fold(0, |sum, bit| {
                let index = (a >> bit & 1) << 2 | (b >> bit & 1) << 1 | (c >> bit & 1);
                sum | (table >> index & 1) << bit
            })
        }),
        Base::Prmt => {
            if !opcode.words.is_empty() {
                return unsupported(opcode);
            }
            each(sources, |[a, b, c, _]| {
                let both = low(b, 32) << 32 | low(a, 32);
                (0..4).fold(0, |sum, index| {
                    let selector = c >> (4 * index);
                    let byte = both >> (8 * (selector & 7)) & 0xFF;
                    let byte = if selector & 8 == 0 {
                        byte
                    } else if byte & 0x80 == 0 {
                        0
                    } else {
                        0xFF
                    };
                    sum | byte << (8 * index)
                })
            })
        }
        Base::Bfe => each(sources, |[a, start, len, _]| {
            let (start, len) = (start as u32 & 0xFF, len as u32 & 0xFF);
            if len == 0 {
                return 0;
            }
            let value = (int(a) >> start.min(127)) as u64;
            let value =
                if is_signed { extended(low(value, len.min(64)), len.min(64)) } else { low(value, len.min(64)) };
            low(value, bits)
        }),
        Base::Bfi => each(sources, |[a, b, start, len]| {
            let (start, len) = (start as u32 & 0xFF, len as u32 & 0xFF);
            if start >= bits || len == 0 {
                return b;
            }
            let mask = low(low(u64::MAX, len) << start, bits);
            (b & !mask) | (a << start & mask)
        }),
        Base::Brev => each(sources, |[a, ..]| low(a, bits).reverse_bits() >> (64 - bits)),
        Base::Clz => each(sources, |[a, ..]| u64::from(low(a, bits).leading_zeros() - (64 - bits))),
        Base::Popc => each(sources, |[a, ..]| low(a, bits).count_ones().into()),
        Base::Bfind => each(sources, |[a, ..]| {
            let value = if is_signed && signed(a, bits) < 0 { low(!a, bits) } else { low(a, bits) };
            if value == 0 {
                return u32::MAX.into();
            }
            let highest = value.ilog2();
            u64::from(if opcode.has("shiftamt") { bits - 1 - highest } else { highest })
        }),
        Base::Selp => each(sources, |[a, b, c, _]| low(if c & 1 == 1 { a } else { b }, bits)),
        Base::Slct => each(sources, |[a, b, c, _]| if signed(c, 32) >= 0 { a } else { b }),
        Base::Mov | Base::Cvta => each(sources, |[a, ..]| low(a, bits)),
        Base::Sad => each(sources, |[a, b, c, _]| cut((int(a) - int(b)).abs() + int(c))),
        Base::Dp4a => each(sources, |[a, b, c, _]| {
            let byte = |value: u64, index: u32, is_signed: bool| {
                let byte = value >> (8 * index);
                if is_signed { signed(byte, 8) } else { low(byte, 8) as i64 }
            };
            let signs = [0, 1].map(|index| matches!(opcode.types.get(index), Some(Type::Signed(_))));
            let sum: i64 = (0..4).map(|index| byte(a, index, signs[0]) * byte(b, index, signs[1])).sum();
            low((signed(c, 32) + sum) as u64, 32)
        }),
        Base::Set => {
            let result = compare(&Opcode { types: vec![ty], ..opcode.clone() }, &sources[0], &sources[1])?;
            let one = if opcode.types[0] == Type::F32 {
                1.0f32.to_bits().into()
            } else {
                low(u64::MAX, opcode.types[0].bits())
            };
            result.map(|value| value * one)
        }
        _ => return unsupported(opcode),
    })
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
            Type::Signed(bits) => Some(signed(a[lane], bits).cmp(&signed(b[lane], bits))),
            _ => Some(low(a[lane], ty.bits()).cmp(&low(b[lane], ty.bits()))),
        };
        u64::from(holds(order) == Some(true))
    }))
}

fn convert(opcode: &Opcode, sources: &[Lanes]) -> Result<Lanes, String> {
    let [to, from] = opcode.types[..] else { return unsupported(opcode) };
    if let Type::F16x2 | Type::Bf16x2 = to {
        // d, a, b: the first source is the upper half.
        let half = if to == Type::F16x2 { Type::F16 } else { Type::Bf16 };
        let relu = opcode.has("relu");
        let value = |bits| {
            let value = float(from, bits);
            bits_of(half, if relu && value < 0.0 { 0.0 } else { value })
        };
        return Ok(each(sources, |[a, b, ..]| value(a) << 16 | value(b)));
    }
    let whole = |value: f64| {
        if opcode.has("rni") {
            value.round_ties_even()
        } else if opcode.has("rmi") {
            value.floor()
        } else if opcode.has("rpi") {
            value.ceil()
        } else if opcode.has("rzi") {
            value.trunc()
        } else {
            value
        }
    };
    // Values beyond the range of the type become its nearest.
    let clamped = |value: f64| -> u64 {
        let value = if value.is_nan() { 0.0 } else { whole(value) };
        match to {
            Type::Signed(bits) => {
                let most = (1i128 << (bits - 1)) - 1;
                (value as i128).clamp(-most - 1, most) as u64
            }
            _ => (value as i128).clamp(0, (1i128 << to.bits()) - 1) as u64,
        }
    };
    if opcode.words.iter().any(|word| matches!(&word[..], "rz" | "rm" | "rp" | "rna" | "rs" | "satfinite")) {
        return unsupported(opcode);
    }
    let saturates = opcode.has("sat");
    Ok(each(sources, |[a, ..]| match (from.is_float(), to.is_float()) {
        (true, true) => {
            let value = whole(float(from, a));
            bits_of(to, if saturates { if value > 0.0 { value.min(1.0) } else { 0.0 } } else { value })
        }
        (true, false) => low(clamped(float(from, a)), register_bits(to)),
        (false, true) => {
            let value = match from {
                Type::Signed(bits) => i128::from(signed(a, bits)),
                _ => i128::from(low(a, from.bits())),
            };
            // Straight from the integer, so that it is rounded once.
            match to {
                Type::F32 => (value as f32).to_bits().into(),
                _ => bits_of(to, value as f64),
            }
        }
        (false, false) => {
            let value = match from {
                Type::Signed(bits) => i128::from(signed(a, bits)),
                _ => i128::from(low(a, from.bits())),
            };
            let value = if saturates {
                match to {
                    Type::Signed(bits) => value.clamp(-(1 << (bits - 1)), (1 << (bits - 1)) - 1),
                    _ => value.clamp(0, (1 << to.bits()) - 1),
                }
            } else {
                value
            };
            let value = low(value as u64, to.bits());
            match to {
                Type::Signed(bits) => low(extended(value, bits), register_bits(to)),
                _ => value,
            }
        }
    }))
}

/// Bits of the register that holds a type: 8-bit integers have registers of 16 bits or more.
fn register_bits(ty: Type) -> u32 {
    ty.bits().max(32)
}

/// The value that an atomic instruction leaves.
pub(crate) fn changed(opcode: &Opcode, before: u64, sources: &[u64]) -> Result<u64, String> {
    let ty = opcode.ty();
    let bits = ty.bits();
    let lanes: Vec<Lanes> = std::iter::once(before).chain(sources.iter().copied()).map(|value| [value; 32]).collect();
    let by = |base: Base| {
        let words = opcode.words.iter().filter(|word| *word == "NaN").cloned().collect();
        Ok(compute(&Opcode { base, words, ..opcode.clone() }, &lanes)?[0])
    };
    for word in &opcode.words {
        return match &word[..] {
            "add" => by(Base::Add),
            "min" => by(Base::Min),
            "max" => by(Base::Max),
            "and" => by(Base::And),
            "or" => by(Base::Or),
            "xor" => by(Base::Xor),
            "exch" => Ok(sources[0]),
            "cas" => Ok(if low(before, bits) == low(sources[0], bits) { sources[1] } else { before }),
            "inc" => Ok(if before >= sources[0] { 0 } else { before + 1 }),
            "dec" => Ok(if before == 0 || before > sources[0] { sources[0] } else { before - 1 }),
            _ => continue,
        };
    }
    unsupported(opcode)
}
