//! Checks of instructions: forms that the machine does not run are refused when they run, never taken for others.

use crate::kernel::{Base, Opcode, Operand, Type};

const COMPARISONS: &str = "eq ne lt le gt ge lo ls hi hs equ neu ltu leu gtu geu num nan";
/// Order and scope of accesses to memory, which all have the strongest here.
const ORDERS: &str = "weak volatile relaxed acquire release acq_rel sc cta cluster gpu sys";

/// The reason that the machine does not run an instruction, if it does not.
pub(crate) fn refusal(opcode: &Opcode, operands: &[Operand]) -> Option<String> {
    let Some((counts, qualifiers)) = form(opcode.base) else { return Some("not supported".to_owned()) };
    let is_known = |word: &str| {
        let is_of_cache = matches!(opcode.base, Base::Ld | Base::Ldu | Base::St | Base::Prefetch)
            && (word.starts_with("L1") || word.starts_with("L2"));
        is_of_cache || qualifiers.iter().any(|list| list.split(' ').any(|known| known == word))
    };
    if let Some(word) = opcode.words.iter().find(|word| !is_known(word)) {
        return Some(format!(".{word} is not supported"));
    }
    if !counts.contains(&operands.len()) {
        return Some(format!("{} operands are not supported", operands.len()));
    }
    if matches!(opcode.base, Base::Shfl | Base::Vote) && !opcode.has("sync") {
        return Some("only the form with .sync is supported".to_owned());
    }
    let pairs = [Type::F16x2, Type::Bf16x2];
    if opcode.types.iter().any(|ty| pairs.contains(ty)) && !takes_pairs(opcode.base) {
        return Some(format!("{:?} is not supported", opcode.types));
    }
    if operands.len() > 1 && operands.iter().all(|operand| matches!(operand, Operand::Vector(_))) {
        return Some("two vectors are not supported".to_owned());
    }
    let unfit = operands.iter().enumerate().find(|(index, operand)| !fits(opcode, *index, operand))?;
    Some(format!("operand {} is not supported: {:?}", unfit.0, unfit.1))
}

/// Numbers of operands, and lists of qualifiers that are obeyed or have no effect here; `None` for all others.
fn form(base: Base) -> Option<(&'static [usize], &'static [&'static str])> {
    Some(match base {
        Base::Add | Base::Sub => (&[3], &["rn rz rm rp ftz sat"]),
        Base::Mul => (&[3], &["rn rz rm rp ftz sat lo hi wide"]),
        Base::Mad => (&[4], &["rn rz rm rp ftz sat lo hi wide"]),
        Base::Fma => (&[4], &["rn rz rm rp ftz sat relu"]),
        Base::Div => (&[3], &["rn rz rm rp ftz approx full"]),
        Base::Min | Base::Max => (&[3], &["ftz NaN relu"]),
        Base::Sqrt | Base::Rsqrt | Base::Rcp => (&[2], &["rn rz rm rp ftz approx"]),
        Base::Abs | Base::Neg => (&[2], &["ftz"]),
        Base::Sin | Base::Cos | Base::Tanh | Base::Ex2 | Base::Lg2 => (&[2], &["approx ftz"]),
        Base::Testp => (&[2], &["finite infinite number notanumber normal subnormal"]),
        Base::Rem | Base::Copysign | Base::And | Base::Or | Base::Xor | Base::Shl | Base::Shr => (&[3], &[]),
        Base::Not | Base::Cnot | Base::Brev | Base::Clz | Base::Popc | Base::Mov | Base::Isspacep => (&[2], &[]),
        Base::Bfind => (&[2], &["shiftamt"]),
        Base::Shf => (&[4], &["l r clamp wrap"]),
        Base::Prmt | Base::Bfe | Base::Selp | Base::Sad | Base::Dp4a => (&[4], &[]),
        Base::Lop3 | Base::Bfi => (&[5], &[]),
        Base::Slct => (&[4], &["ftz"]),
        Base::Setp => (&[3, 4], &[COMPARISONS, "and or xor ftz"]),
        Base::Set => (&[3], &[COMPARISONS, "ftz"]),
        Base::Cvt => (&[2, 3], &["rn rz rm rp rni rzi rmi rpi ftz sat relu"]),
        Base::Cvta => (&[2], &["to"]),
        Base::Ld | Base::Ldu => (&[2], &[ORDERS, "ca cg cs lu cv nc"]),
        Base::St => (&[2], &[ORDERS, "wb cg cs wt"]),
        Base::Atom => (&[3, 4], &[ORDERS, "add min max and or xor exch cas inc dec noftz"]),
        Base::Red => (&[2], &[ORDERS, "add min max and or xor inc dec noftz"]),
        Base::Prefetch | Base::Activemask | Base::Nanosleep => (&[1], &[]),
        // The target of a branch is added later.
        Base::Bra | Base::Ret => (&[0], &["uni"]),
        Base::Exit | Base::Trap => (&[0], &[]),
        Base::Bar | Base::Barrier => (&[1], &["sync cta warp aligned"]),
        Base::Membar | Base::Fence => (&[0], &[ORDERS, "gl"]),
        Base::Shfl => (&[5], &["sync up down bfly idx"]),
        Base::Vote => (&[3], &["sync ballot any all uni"]),
        Base::Elect => (&[2], &["sync"]),
        _ => return None,
    })
}

fn takes_pairs(base: Base) -> bool {
    matches!(
        base,
        Base::Add
            | Base::Sub
            | Base::Mul
            | Base::Fma
            | Base::Min
            | Base::Max
            | Base::Abs
            | Base::Neg
            | Base::Tanh
            | Base::Ex2
            | Base::Cvt
            | Base::Atom
            | Base::Red
    )
}

/// True if an operand is of a kind that the instruction takes in its place.
fn fits(opcode: &Opcode, index: usize, operand: &Operand) -> bool {
    let is_access = matches!(opcode.base, Base::Ld | Base::Ldu | Base::St);
    let addressed = match opcode.base {
        Base::Ld | Base::Ldu | Base::Atom => Some(1),
        Base::St | Base::Red | Base::Prefetch => Some(0),
        _ => None,
    };
    let is_target = index == 0 && !matches!(opcode.base, Base::St | Base::Bar | Base::Barrier | Base::Nanosleep);
    match operand {
        Operand::Address(base, _) => {
            addressed == Some(index) && matches!(**base, Operand::Register(_) | Operand::Immediate(_))
        }
        _ if addressed == Some(index) => false,
        Operand::Vector(parts) => {
            let is_simple = |part: &Operand| match part {
                Operand::Sink => is_target,
                part => matches!(part, Operand::Register(_)) || !is_target && matches!(part, Operand::Immediate(_)),
            };
            let has_place = is_access && parts.len() == opcode.width || opcode.base == Base::Mov && parts.len() > 1;
            has_place && parts.iter().all(is_simple)
        }
        _ if is_access && opcode.width > 1 => false,
        Operand::Pair(first, second) => {
            let is_simple = |part: &Operand| matches!(part, Operand::Register(_) | Operand::Sink);
            index == 0
                && matches!(opcode.base, Base::Setp | Base::Shfl | Base::Elect)
                && is_simple(first)
                && is_simple(second)
        }
        Operand::Not(_) => matches!((opcode.base, index), (Base::Setp, 3) | (Base::Vote, 1)),
        Operand::Register(_) => opcode.base != Base::Elect || index > 0,
        Operand::Sink => is_target,
        Operand::Immediate(_) | Operand::Special(_) => !is_target,
        Operand::Target(_) => false,
    }
}
