//! Conversions between types for the 32 threads of a warp.

use crate::alu::{Lanes, each, extended, integer, low, unsupported};
use crate::float::{Direction, clamped, float};
use crate::kernel::{Opcode, Type};

/// Converts values of one type to another.
pub(crate) fn convert(opcode: &Opcode, sources: &[Lanes]) -> Result<Lanes, String> {
    let [to, from] = opcode.types[..] else { return unsupported(opcode) };
    let direction = Direction::of(opcode);
    let (saturates, relu) = (opcode.has("sat"), opcode.has("relu"));
    if direction != Direction::Nearest && (to, from) != (Type::F32, Type::F64) {
        return unsupported(opcode);
    }
    if let (Type::F16x2 | Type::Bf16x2, Type::F32) = (to, from) {
        let half = if to == Type::F16x2 { Type::F16 } else { Type::Bf16 };
        let value = |bits| direction.bits_of(half, clamped(float(from, bits), saturates, relu));
        // cvt d, a, b: the first source is the upper half.
        return Ok(each(sources, |[a, b, ..]| value(a) << 16 | value(b)));
    }
    if sources.len() != 1 || is_pair(to) || is_pair(from) {
        return unsupported(opcode);
    }
    match (from.is_float(), to.is_float()) {
        (true, true) => {
            Ok(each(sources, |[a, ..]| direction.bits_of(to, clamped(whole(opcode, float(from, a)), saturates, relu))))
        }
        (true, false) => Ok(each(sources, |[a, ..]| in_register(to, to_integer(opcode, [to, from], a)))),
        (false, true) if saturates => unsupported(opcode),
        (false, true) => Ok(each(sources, |[a, ..]| from_integer(to, integer(from, a)))),
        (false, false) => Ok(each(sources, |[a, ..]| {
            let value = integer(from, a);
            in_register(to, if saturates { value.clamp(least(to), most(to)) } else { value })
        })),
    }
}

fn is_pair(ty: Type) -> bool {
    matches!(ty, Type::F16x2 | Type::Bf16x2)
}

/// Rounds to an integer in the direction of the instruction, if it has one.
fn whole(opcode: &Opcode, value: f64) -> f64 {
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
}

/// An integer from a number: the nearest of the type's range. What is not a number becomes 0, or the integer with only
/// the highest bit set where source or result have 64 bits.
fn to_integer(opcode: &Opcode, [to, from]: [Type; 2], bits: u64) -> i128 {
    let value = float(from, bits);
    if value.is_nan() {
        return if from == Type::F64 || to.bits() == 64 { 1 << (to.bits() - 1) } else { 0 };
    }
    (whole(opcode, value) as i128).clamp(least(to), most(to))
}

/// A number from an integer, rounded once.
fn from_integer(to: Type, value: i128) -> u64 {
    let nearest = value as f64;
    match to {
        Type::F64 => nearest.to_bits(),
        Type::F32 => (value as f32).to_bits().into(),
        // An odd last bit stands for the bits that f64 does not hold.
        _ if nearest as i128 == value || nearest.to_bits() & 1 == 1 => Direction::Nearest.bits_of(to, nearest),
        _ if (nearest as i128) < value => Direction::Nearest.bits_of(to, nearest.next_up()),
        _ => Direction::Nearest.bits_of(to, nearest.next_down()),
    }
}

fn least(ty: Type) -> i128 {
    if let Type::Signed(bits) = ty { -(1 << (bits - 1)) } else { 0 }
}

fn most(ty: Type) -> i128 {
    if let Type::Signed(bits) = ty { (1 << (bits - 1)) - 1 } else { (1 << ty.bits()) - 1 }
}

/// An integer in its register, which for fewer than 32 bits is wider than the type and holds its sign or zeros.
fn in_register(ty: Type, value: i128) -> u64 {
    match ty {
        Type::Signed(bits) => low(extended(value as u64, bits), bits.max(32)),
        _ => low(value as u64, ty.bits()),
    }
}
