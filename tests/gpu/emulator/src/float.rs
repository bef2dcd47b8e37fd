//! Floating-point arithmetic for the 32 threads of a warp.
//!
//! Values of 16 and 32 bits are computed in `f64` and rounded once: products, quotients and roots have enough bits there,
//! sums get an odd last bit where they are inexact. Results that are not numbers have the bits that devices give them.

use std::cmp::Ordering;

use half::{bf16, f16};

use crate::alu::{Lanes, each, low, unsupported};
use crate::kernel::{Base, Opcode, Type};

/// A value as the number that it is.
pub(crate) fn float(ty: Type, bits: u64) -> f64 {
    match ty {
        Type::F16 => f16::from_bits(bits as u16).to_f64(),
        Type::Bf16 => bf16::from_bits(bits as u16).to_f64(),
        Type::F32 => f64::from(f32::from_bits(bits as u32)),
        _ => f64::from_bits(bits),
    }
}

/// Direction in which a result is rounded.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Direction {
    Nearest,
    Zero,
    Down,
    Up,
}

impl Direction {
    pub(crate) fn of(opcode: &Opcode) -> Self {
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

    /// Bits of a number, rounded to its type; types other than `f32` are rounded to the nearest.
    pub(crate) fn bits_of(self, ty: Type, value: f64) -> u64 {
        match ty {
            Type::F16 | Type::Bf16 if value.is_nan() => 0x7FFF,
            Type::F32 if value.is_nan() => 0x7FFF_FFFF,
            // The conversions of `half` from f64 lose the lower bits before they round.
            Type::F16 => f16::from_f32(to_odd(value)).to_bits().into(),
            Type::Bf16 => bf16::from_f32(to_odd(value)).to_bits().into(),
            Type::F32 => self.rounded(value).to_bits().into(),
            _ => value.to_bits(),
        }
    }
}

/// Rounds to `f32`, with an odd last bit if that is inexact: rounding the result to 16 bits is then the same as rounding
/// the value.
fn to_odd(value: f64) -> f32 {
    let nearest = value as f32;
    match f64::from(nearest).partial_cmp(&value) {
        Some(Ordering::Less) if nearest.to_bits() & 1 == 0 => nearest.next_up(),
        Some(Ordering::Greater) if nearest.to_bits() & 1 == 0 => nearest.next_down(),
        _ => nearest,
    }
}

/// Adds in `f64`, with an odd last bit if that is inexact: rounding the sum to 32 bits or fewer is then the same as
/// rounding the exact sum.
fn sum_to_odd(x: f64, y: f64) -> f64 {
    let sum = x + y;
    let of_y = sum - x;
    let error = (x - (sum - of_y)) + (y - of_y);
    if !sum.is_finite() || error == 0.0 || sum.to_bits() & 1 == 1 {
        sum
    } else if error > 0.0 {
        sum.next_up()
    } else {
        sum.next_down()
    }
}

/// Computes an instruction for values of one floating-point type.
pub(crate) fn compute(opcode: &Opcode, ty: Type, sources: &[Lanes]) -> Result<Lanes, String> {
    let direction = Direction::of(opcode);
    if direction != Direction::Nearest && ty != Type::F32 {
        return unsupported(opcode);
    }
    let (saturates, relu) = (opcode.has("sat"), opcode.has("relu"));
    let out = |value: f64| direction.bits_of(ty, clamped(value, saturates, relu));
    let unary = |f: fn(f64) -> f64| Ok(each(sources, |[a, ..]| out(f(float(ty, a)))));
    let binary = |f: &dyn Fn(f64, f64) -> f64| Ok(each(sources, |[a, b, ..]| out(f(float(ty, a), float(ty, b)))));
    let add: fn(f64, f64) -> f64 = if ty == Type::F64 { |x, y| x + y } else { sum_to_odd };
    let sign = 1u64 << (ty.bits() - 1);
    match opcode.base {
        Base::Add => binary(&add),
        Base::Sub => binary(&|a, b| add(a, -b)),
        Base::Mul => binary(&|a, b| a * b),
        Base::Div => binary(&|a, b| a / b),
        Base::Min => binary(&|a, b| lesser(a, b, opcode.has("NaN"))),
        Base::Max => binary(&|a, b| -lesser(-a, -b, opcode.has("NaN"))),
        Base::Fma | Base::Mad => Ok(each(sources, |[a, b, c, _]| {
            let [a, b, c] = [a, b, c].map(|bits| float(ty, bits));
            // The product of two values of 32 bits is exact.
            out(if ty == Type::F64 { a.mul_add(b, c) } else { sum_to_odd(a * b, c) })
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
        Base::Testp => test(opcode, ty, sources),
        _ => unsupported(opcode),
    }
}

/// Clamps a value to [0, 1] for `.sat`, with NaN as 0, and to 0 and above for `.relu`.
pub(crate) fn clamped(value: f64, saturates: bool, relu: bool) -> f64 {
    if saturates {
        if value > 0.0 { value.min(1.0) } else { 0.0 }
    } else if relu && value < 0.0 {
        0.0
    } else {
        value
    }
}

/// Returns the lesser of two values, with −0 below 0; if one is NaN, the other, unless `keeps_nan`.
fn lesser(x: f64, y: f64, keeps_nan: bool) -> f64 {
    match (x.is_nan(), y.is_nan()) {
        (false, false) if x.total_cmp(&y).is_lt() => x,
        (false, false) => y,
        (true, false) if !keeps_nan => y,
        (false, true) if !keeps_nan => x,
        _ => f64::NAN,
    }
}

/// Tests a property of values; 1 where it holds.
fn test(opcode: &Opcode, ty: Type, sources: &[Lanes]) -> Result<Lanes, String> {
    use std::num::FpCategory::{Infinite, Nan, Normal, Subnormal, Zero};
    let category = |bits: u64| match ty {
        Type::F32 => f32::from_bits(bits as u32).classify(),
        _ => f64::from_bits(bits).classify(),
    };
    let has: &[_] = match opcode.words.first().map(String::as_str) {
        Some("finite") => &[Normal, Subnormal, Zero],
        Some("infinite") => &[Infinite],
        Some("number") => &[Normal, Subnormal, Zero, Infinite],
        Some("notanumber") => &[Nan],
        Some("normal") => &[Normal],
        Some("subnormal") => &[Subnormal],
        _ => return unsupported(opcode),
    };
    Ok(each(sources, |[a, ..]| u64::from(has.contains(&category(a)))))
}
