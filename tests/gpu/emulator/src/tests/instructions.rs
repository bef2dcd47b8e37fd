//! Results of single instructions, compared with Rust's operations or values worked out by hand.

use half::bf16;

use crate::alu;
use crate::kernel::Opcode;

/// Computes an instruction for one thread.
fn computed(text: &str, sources: &[u64]) -> u64 {
    let lanes: Vec<alu::Lanes> = sources.iter().map(|&source| [source; 32]).collect();
    alu::compute(&Opcode::parse(text).unwrap(), &lanes).unwrap()[0]
}

fn of_f32(text: &str, sources: &[f32]) -> f32 {
    let bits: Vec<u64> = sources.iter().map(|source| source.to_bits().into()).collect();
    f32::from_bits(computed(text, &bits) as u32)
}

fn converted(text: &str, source: f32) -> u64 {
    computed(text, &[source.to_bits().into()])
}

const WORDS: [u32; 9] = [0, 1, 2, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 0xFFFF_FFF9, 1234, 0xDEAD_BEEF];

#[test]
fn integers_of_32_bits_are_those_of_rust() {
    for (a, b) in WORDS.into_iter().flat_map(|a| WORDS.map(|b| (a, b))) {
        let (x, y) = (a as i32, b as i32);
        // Bits above a register's width have no meaning.
        let sources = [u64::from(a) | 0xABCD << 32, u64::from(b) | 0x1234 << 32, 77];
        let check = |text: &str, expected: u32| {
            let sources = if text.starts_with("mad") { &sources[..] } else { &sources[..2] };
            assert_eq!(computed(text, sources), expected.into(), "{text} {a:#x} {b:#x}");
        };
        check("add.u32", a.wrapping_add(b));
        check("sub.s32", a.wrapping_sub(b));
        check("add.sat.s32", x.saturating_add(y) as u32);
        check("sub.sat.s32", x.saturating_sub(y) as u32);
        check("mul.lo.s32", a.wrapping_mul(b));
        check("mul.hi.u32", ((u64::from(a) * u64::from(b)) >> 32) as u32);
        check("mul.hi.s32", ((i64::from(x) * i64::from(y)) >> 32) as u32);
        check("mad.hi.s32", (((i64::from(x) * i64::from(y)) >> 32) as u32).wrapping_add(77));
        check("mad.lo.u32", a.wrapping_mul(b).wrapping_add(77));
        check("min.s32", x.min(y) as u32);
        check("max.u32", a.max(b));
        check("max.relu.s32", x.max(y).max(0) as u32);
        check("min.relu.s32", x.min(y).max(0) as u32);
        check("xor.b32", a ^ b);
        check("shl.b32", a.checked_shl(b).unwrap_or(0));
        check("shr.u32", a.checked_shr(b).unwrap_or(0));
        check("shr.s32", (x >> b.min(31)) as u32);
        if b != 0 {
            check("div.s32", x.wrapping_div(y) as u32);
            check("rem.s32", x.wrapping_rem(y) as u32);
            check("div.u32", a.div_euclid(b));
            check("rem.u32", a.rem_euclid(b));
        }
        let [wide, wide_signed] = [u64::from(a) * u64::from(b), (i64::from(x) * i64::from(y)) as u64];
        assert_eq!(computed("mul.wide.u32", &sources[..2]), wide);
        assert_eq!(computed("mad.wide.s32", &sources), wide_signed.wrapping_add(77));
    }
}

#[test]
fn products_of_64_bits_have_their_upper_half() {
    let values = [0, 1, u64::MAX, 1 << 63, 0x0123_4567_89AB_CDEF];
    for (a, b) in values.into_iter().flat_map(|a| values.map(|b| (a, b))) {
        let unsigned = ((u128::from(a) * u128::from(b)) >> 64) as u64;
        let signed = ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64;
        assert_eq!(computed("mul.hi.u64", &[a, b]), unsigned);
        assert_eq!(computed("mul.hi.s64", &[a, b]), signed);
        assert_eq!(computed("mad.lo.s64", &[a, b, 5]), a.wrapping_mul(b).wrapping_add(5));
    }
}

#[test]
fn bits_are_counted_and_moved() {
    for word in WORDS {
        let a = u64::from(word) | 0xFF << 32;
        assert_eq!(computed("popc.b32", &[a]), word.count_ones().into());
        assert_eq!(computed("clz.b32", &[a]), word.leading_zeros().into());
        assert_eq!(computed("brev.b32", &[a]), word.reverse_bits().into());
        assert_eq!(computed("not.b32", &[a]), (!word).into());
    }
    let check = |text: &str, sources: &[u64], expected: u64| assert_eq!(computed(text, sources), expected, "{text}");
    check("clz.b64", &[1], 63);
    check("bfind.u32", &[0], 0xFFFF_FFFF);
    check("bfind.u32", &[0x100], 8);
    check("bfind.shiftamt.u32", &[0x100], 23);
    check("bfind.s32", &[0xFFFF_FFF7], 3);
    check("bfe.u32", &[0xABCD_1234, 8, 8], 0x12);
    check("bfe.s32", &[0x0000_F000, 12, 4], 0xFFFF_FFFF);
    check("bfe.u32", &[0xABCD_1234, 28, 8], 0xA);
    check("bfe.s32", &[0xABCD_1234, 28, 8], 0xFFFF_FFFA);
    check("bfe.s32", &[0x8000_0000, 40, 4], 0xFFFF_FFFF);
    check("bfe.u32", &[0xFFFF_FFFF, 3, 0], 0);
    check("bfe.s64", &[0x8000_0000_0000_0000, 60, 4], 0xFFFF_FFFF_FFFF_FFF8);
    check("bfi.b32", &[0xFF, 0, 4, 8], 0xFF0);
    check("bfi.b32", &[0xFF, 0x1111_1111, 28, 8], 0xF111_1111);
    check("bfi.b32", &[0xFF, 0x1111_1111, 32, 8], 0x1111_1111);
    check("bfi.b32", &[0xFF, 0x1111_1111, 0, 0], 0x1111_1111);
    check("prmt.b32", &[0x3322_1100, 0x7766_5544, 0x7531], 0x7755_3311);
    check("prmt.b32", &[0x0000_80FF, 0, 0xB098], 0x00FF_FFFF);
    check("lop3.b32", &[0b1100, 0b1010, 0b0110, 0x96], 0);
    check("lop3.b32", &[0xF0F0, 0xCCCC, 0xAAAA, 0xE8], 0xE8E8);
    check("shf.l.wrap.b32", &[0x8000_0001, 0x1, 33], 0x3);
    check("shf.l.clamp.b32", &[0x8000_0001, 0x1, 33], 0x8000_0001);
    check("shf.r.wrap.b32", &[0x8000_0001, 0x1, 1], 0xC000_0000);
    check("shf.r.clamp.b32", &[0x8000_0001, 0x7, 40], 0x7);
    check("sad.s32", &[5, 0xFFFF_FFFE, 10], 17);
    check("dp4a.s32.s32", &[0xFF02_0304, 0x0101_01FF, 100], 100 - 1 + 2 + 3 - 4);
    check("dp4a.u32.u32", &[0xFF02_0304, 0x0101_0102, 0], 255 + 2 + 3 + 8);
    check("selp.b32", &[1, 2, 0], 2);
    check("slct.b32.s32", &[1, 2, 0xFFFF_FFFF], 2);
    let [negative_zero, nan] = [-0f32, f32::NAN].map(|value| value.to_bits().into());
    check("slct.b32.f32", &[1, 2, negative_zero], 1);
    check("slct.b32.f32", &[1, 2, nan], 2);
    check("set.gt.u32.s32", &[1, 0xFFFF_FFFF], 0xFFFF_FFFF);
    check("set.lt.f32.f32", &[negative_zero, 1f32.to_bits().into()], 1f32.to_bits().into());
}

#[test]
fn numbers_of_32_bits_are_those_of_rust() {
    let values =
        [0.0, -0.0, 1.0, -1.5, f32::from_bits(2), 1.0e-38, f32::MAX, f32::INFINITY, 0.1, 16_777_216.0, -7.0e20];
    for (a, b) in values.into_iter().flat_map(|a| values.map(|b| (a, b))) {
        let check = |text: &str, sources: &[f32], expected: f32| {
            let result = of_f32(text, sources);
            let is_same = result.to_bits() == expected.to_bits() || result.is_nan() && expected.is_nan();
            assert!(is_same, "{text} {sources:?}: {result:?}, expected {expected:?}");
        };
        check("add.rn.f32", &[a, b], a + b);
        check("sub.f32", &[a, b], a - b);
        check("mul.f32", &[a, b], a * b);
        check("div.rn.f32", &[a, b], a / b);
        check("sqrt.rn.f32", &[a], a.sqrt());
        check("fma.rn.f32", &[a, b, 0.3], a.mul_add(b, 0.3));
        check("fma.rn.f32", &[a, 1.1, b], a.mul_add(1.1, b));
        check("abs.f32", &[a], a.abs());
        check("neg.f32", &[a], -a);
        check("copysign.f32", &[a, b], b.copysign(a));
    }
}

#[test]
fn sums_are_rounded_once() {
    // The tie of the product is broken by a third value that f64 does not hold next to it.
    let bits = |value: f32| u64::from(bf16::from_f32(value).to_bits());
    let (tie, tiny) = (1.0 + 1.0 / 16.0, 2f32.powi(-100));
    let product = bits(tie);
    let expected = bf16::from_f32((tie * tie).next_up()).to_bits();
    assert_eq!(computed("fma.rn.bf16", &[product, product, bits(tiny)]), expected.into());
    assert_eq!(of_f32("add.rp.f32", &[1.0, tiny]).to_bits(), 1f32.next_up().to_bits());
    assert_eq!(of_f32("add.rm.f32", &[1.0, tiny]).to_bits(), 1f32.to_bits());
    assert_eq!(of_f32("add.rm.f32", &[1.0, -tiny]).to_bits(), 1f32.next_down().to_bits());
    assert_eq!(of_f32("fma.rz.f32", &[1.0, -1.0, tiny]).to_bits(), (-1f32).next_up().to_bits());
    assert_eq!(of_f32("mul.rz.f32", &[f32::MAX, 2.0]).to_bits(), f32::MAX.to_bits());
    // A little more than the middle of two numbers of 16 bits.
    let above = (1.0 + 2f64.powi(-11) + 2f64.powi(-50)).to_bits();
    assert_eq!(computed("cvt.rn.f16.f64", &[above]), 0x3C01);
    let above = (1.0 + 2f64.powi(-8) + 2f64.powi(-50)).to_bits();
    assert_eq!(computed("cvt.rn.bf16.f64", &[above]), 0x3F81);
    assert_eq!(computed("cvt.rn.bf16.u64", &[0x8080_0000_0000_0001]), 0x5F01);
}

#[test]
fn the_lesser_and_greater_of_numbers_skip_nan_unless_it_is_kept() {
    let nan = f32::NAN;
    assert_eq!(of_f32("min.f32", &[nan, 2.0]).to_bits(), 2f32.to_bits());
    assert_eq!(of_f32("max.f32", &[2.0, nan]).to_bits(), 2f32.to_bits());
    for text in ["min.NaN.f32", "max.NaN.f32"] {
        assert_eq!(of_f32(text, &[nan, 2.0]).to_bits(), 0x7FFF_FFFF);
    }
    assert_eq!(of_f32("max.f32", &[nan, nan]).to_bits(), 0x7FFF_FFFF);
    assert_eq!(of_f32("min.f32", &[0.0, -0.0]).to_bits(), (-0f32).to_bits());
    assert_eq!(of_f32("max.f32", &[-0.0, 0.0]).to_bits(), 0);
    assert_eq!(computed("max.bf16x2", &[0x3F80_BF80, 0x4000_7FFF]), 0x4000_BF80);
    assert_eq!(computed("fma.rn.relu.f16x2", &[0xBC00_3C00, 0x3C00_3C00, 0]), 0x0000_3C00);
    assert_eq!(of_f32("add.sat.f32", &[nan, 1.0]).to_bits(), 0);
    assert_eq!(of_f32("add.sat.f32", &[2.0, 1.0]).to_bits(), 1f32.to_bits());
}

#[test]
fn comparisons_tell_ordered_from_unordered() {
    let holds = |text: &str, a: f32, b: f32| {
        let [a, b] = [a, b].map(|value| [u64::from(value.to_bits()); 32]);
        alu::compare(&Opcode::parse(text).unwrap(), &a, &b).unwrap()[0] == 1
    };
    let names = ["eq", "ne", "lt", "le", "gt", "ge", "num"];
    let (less, equal, greater) = ([0, 1, 1, 1, 0, 0, 1], [1, 0, 0, 1, 0, 1, 1], [0, 1, 0, 0, 1, 1, 1]);
    for ((a, b), expected) in [((1.0, 2.0), less), ((-0.0, 0.0), equal), ((2.0, -1.0), greater)] {
        for (name, expected) in names.iter().zip(expected) {
            assert_eq!(holds(&format!("setp.{name}.f32"), a, b), expected == 1, "{a} {name} {b}");
            if *name != "num" {
                assert_eq!(holds(&format!("setp.{name}u.f32"), a, b), expected == 1, "{a} {name}u {b}");
            }
        }
    }
    for name in &names[..6] {
        assert!(!holds(&format!("setp.{name}.f32"), f32::NAN, 1.0), "{name}");
        assert!(holds(&format!("setp.{name}u.f32"), f32::NAN, 1.0), "{name}u");
    }
    assert!(holds("setp.nan.f32", 1.0, f32::NAN));
    let integers = |text: &str| alu::compare(&Opcode::parse(text).unwrap(), &[0xFFFF_FFFF; 32], &[1; 32]).unwrap()[0];
    assert_eq!([integers("setp.lt.s32"), integers("setp.lt.u32"), integers("setp.hi.u32")], [1, 0, 1]);
    for (name, value) in
        [("subnormal", 1.0e-40f32), ("normal", 1.0), ("notanumber", f32::NAN), ("infinite", -1.0 / 0.0)]
    {
        assert_eq!(converted(&format!("testp.{name}.f32"), value), 1, "{name}");
        assert_eq!(converted(&format!("testp.{name}.f32"), 0.0), 0, "{name}");
    }
}

#[test]
fn conversions_round_clamp_and_extend() {
    for value in [0.5, 1.5, -0.5, -2.5, 3.7, -3.7] {
        let check =
            |text, expected: f32| assert_eq!(converted(text, value) as u32 as i32, expected as i32, "{text} {value}");
        check("cvt.rni.s32.f32", value.round_ties_even());
        check("cvt.rzi.s32.f32", value.trunc());
        check("cvt.rmi.s32.f32", value.floor());
        check("cvt.rpi.s32.f32", value.ceil());
        assert_eq!(converted("cvt.rmi.f32.f32", value), value.floor().to_bits().into());
    }
    assert_eq!(converted("cvt.rzi.s32.f32", 3.0e9), 0x7FFF_FFFF);
    assert_eq!(converted("cvt.rzi.u32.f32", -3.0), 0);
    assert_eq!(converted("cvt.rzi.s8.f32", -300.0), 0xFFFF_FF80);
    assert_eq!(converted("cvt.rzi.u8.f32", 300.0), 255);
    assert_eq!(converted("cvt.rzi.s32.f32", f32::NAN), 0);
    assert_eq!(converted("cvt.rzi.s64.f32", f32::NAN), 1 << 63);
    assert_eq!(converted("cvt.rzi.u64.f32", f32::INFINITY), u64::MAX);
    assert_eq!(converted("cvt.sat.f32.f32", f32::NAN), 0);
    assert_eq!(converted("cvt.rn.relu.f16.f32", -1.0), 0);
    assert_eq!(converted("cvt.rn.f16.f32", 65_520.0), 0x7C00);
    // Integers: cut, extended by the sign of the source, or clamped.
    assert_eq!(computed("cvt.s8.s32", &[0x1FF]), 0xFFFF_FFFF);
    assert_eq!(computed("cvt.u8.s32", &[0x1FF]), 0xFF);
    assert_eq!(computed("cvt.u64.s32", &[0xFFFF_FFFF]), u64::MAX);
    assert_eq!(computed("cvt.s64.u32", &[0xFFFF_FFFF]), 0xFFFF_FFFF);
    assert_eq!(computed("cvt.sat.u8.s32", &[0xFFFF_FFFF]), 0);
    assert_eq!(computed("cvt.sat.s16.u32", &[0xFFFF_FFFF]), 0x7FFF);
    assert_eq!(computed("cvt.rn.f32.s32", &[0xFFFF_FFFF]), (-1f32).to_bits().into());
    assert_eq!(computed("cvt.rn.f32.u64", &[u64::MAX]), (u64::MAX as f32).to_bits().into());
    assert_eq!(computed("cvt.rz.f32.f64", &[(1.0 - 2f64.powi(-40)).to_bits()]), 1f32.next_down().to_bits().into());
    let [one, two] = [1f32, 2.0].map(|value| u64::from(value.to_bits()));
    assert_eq!(computed("cvt.rn.f16x2.f32", &[one, two]), 0x3C00_4000);
    for text in ["cvt.rz.f16x2.f32", "cvt.rz.f16.f32", "cvt.sat.f32.s32"] {
        let sources = vec![[one; 32]; 1 + usize::from(text.contains("x2"))];
        assert!(alu::compute(&Opcode::parse(text).unwrap(), &sources).is_err(), "{text}");
    }
}

#[test]
fn atomic_instructions_look_at_the_width_of_their_type() {
    let changed = |text: &str, before: u64, sources: &[u64]| {
        alu::changed(&Opcode::parse(text).unwrap(), before, sources).unwrap() & 0xFFFF_FFFF
    };
    let upper = 0xAAAA << 32;
    assert_eq!(changed("atom.global.add.u32", 0xFFFF_FFFF, &[upper | 2]), 1);
    assert_eq!(changed("atom.global.inc.u32", 5, &[upper | 5]), 0);
    assert_eq!(changed("atom.global.inc.u32", 4, &[upper | 5]), 5);
    assert_eq!(changed("atom.global.dec.u32", 0, &[upper | 5]), 5);
    assert_eq!(changed("atom.global.cas.b32", 7, &[upper | 7, 9]), 9);
    assert_eq!(changed("atom.global.cas.b32", 8, &[upper | 7, 9]), 8);
    assert_eq!(changed("atom.relaxed.gpu.global.exch.b32", 8, &[3]), 3);
    assert_eq!(changed("atom.global.min.s32", 1, &[0xFFFF_FFFF]), 0xFFFF_FFFF);
    let [one, two] = [1f32, 2.0].map(|value| u64::from(value.to_bits()));
    assert_eq!(changed("red.global.add.f32", one, &[one]), two);
    assert_eq!(changed("atom.global.add.noftz.f16x2", 0x3C00_3C00, &[0x3C00_0000]), 0x4000_3C00);
}
