//! Kernels in the form that the machine runs.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use crate::flow::Flow;
use crate::memory;

/// Kernels of one loaded module.
pub(crate) struct Module {
    pub(crate) kernels: HashMap<String, Arc<Kernel>>,
    /// Memory of the module's variables, which instructions address.
    pub(crate) _globals: Globals,
}

/// Allocations of a module's variables, by their first bytes; freed with the module.
#[derive(Default)]
pub(crate) struct Globals(pub(crate) Vec<u64>);

impl Drop for Globals {
    fn drop(&mut self) {
        for &start in &self.0 {
            memory::free(start);
        }
    }
}

/// A kernel.
pub(crate) struct Kernel {
    pub(crate) name: String,
    /// Offset and bytes of each parameter.
    pub(crate) params: Vec<(usize, usize)>,
    pub(crate) num_registers: usize,
    pub(crate) code: Vec<Instruction>,
    pub(crate) flow: Flow,
    /// Bytes of shared memory with a size that the text states; dynamic memory follows.
    pub(crate) shared_bytes: usize,
    /// Bytes of local memory of each thread.
    pub(crate) local_bytes: usize,
    /// Threads of a cube that the text allows.
    pub(crate) max_threads: u64,
    /// Bytes of dynamic shared memory that the program has asked for; without, static and dynamic share 48 KiB.
    pub(crate) dynamic_limit: AtomicUsize,
}

/// An instruction.
#[derive(Debug)]
pub(crate) struct Instruction {
    /// Predicate register, and the value with which the instruction runs.
    pub(crate) guard: Option<(u32, bool)>,
    /// Parts of the opcode, such as `ld`, `global`, `v4`, `b32`.
    pub(crate) opcode: Opcode,
    pub(crate) operands: Vec<Operand>,
    /// Text of the opcode, for messages.
    pub(crate) text: String,
    /// Reason that the machine does not run the instruction.
    pub(crate) refusal: Option<String>,
}

/// An operand.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operand {
    Register(u32),
    /// The complement of a predicate.
    Not(u32),
    Immediate(u64),
    Special(Special),
    /// `[base + offset]`.
    Address(Box<Operand>, i64),
    /// `{a, b, …}`.
    Vector(Vec<Operand>),
    /// `a|b`, a second result.
    Pair(Box<Operand>, Box<Operand>),
    /// Position of the instruction that a label names.
    Target(usize),
    /// `_`.
    Sink,
}

/// A special register.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Special {
    Tid(usize),
    Ntid(usize),
    Ctaid(usize),
    Nctaid(usize),
    Lane,
    Warp,
    Warps,
    MaskEq,
    MaskLt,
    MaskLe,
    MaskGt,
    MaskGe,
    Clock,
    DynamicShared,
    Zero,
    One,
}

/// A type of values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Type {
    Pred,
    /// Bits, or an unsigned integer, of so many bits.
    Unsigned(u32),
    Signed(u32),
    F16,
    Bf16,
    F32,
    F64,
    F16x2,
    Bf16x2,
}

impl Type {
    pub(crate) fn of(name: &str) -> Option<Self> {
        Some(match name {
            "pred" => Self::Pred,
            "b8" | "u8" => Self::Unsigned(8),
            "b16" | "u16" => Self::Unsigned(16),
            "b32" | "u32" => Self::Unsigned(32),
            "b64" | "u64" => Self::Unsigned(64),
            "s8" => Self::Signed(8),
            "s16" => Self::Signed(16),
            "s32" => Self::Signed(32),
            "s64" => Self::Signed(64),
            "f16" => Self::F16,
            "bf16" => Self::Bf16,
            "f32" => Self::F32,
            "f64" => Self::F64,
            "f16x2" => Self::F16x2,
            "bf16x2" => Self::Bf16x2,
            _ => return None,
        })
    }

    pub(crate) fn bits(self) -> u32 {
        match self {
            Self::Pred => 1,
            Self::Unsigned(bits) | Self::Signed(bits) => bits,
            Self::F16 | Self::Bf16 => 16,
            Self::F32 | Self::F16x2 | Self::Bf16x2 => 32,
            Self::F64 => 64,
        }
    }

    pub(crate) fn bytes(self) -> usize {
        self.bits().div_ceil(8) as usize
    }

    pub(crate) fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::Bf16 | Self::F32 | Self::F64 | Self::F16x2 | Self::Bf16x2)
    }
}

/// An opcode: its first word, its types in their order, and the qualifiers between.
#[derive(Clone, Debug)]
pub(crate) struct Opcode {
    pub(crate) base: Base,
    pub(crate) types: Vec<Type>,
    pub(crate) words: Vec<String>,
    /// Values of a vector (`.v2`, `.v4`, `.v8`), otherwise 1.
    pub(crate) width: usize,
    pub(crate) space: Space,
}

impl Opcode {
    /// Reads an opcode, such as `ld.global.v4.b32`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = text.split('.');
        let first = parts.next().unwrap_or_default();
        let base = Base::of(first).ok_or_else(|| format!("{text} is not supported"))?;
        let mut opcode = Self { base, types: vec![], words: vec![], width: 1, space: Space::Generic };
        for part in parts {
            match part {
                "global" | "const" => opcode.space = Space::Global,
                "shared" | "shared::cta" => opcode.space = Space::Shared,
                "local" => opcode.space = Space::Local,
                "param" | "param::entry" => opcode.space = Space::Param,
                "v2" => opcode.width = 2,
                "v4" => opcode.width = 4,
                "v8" => opcode.width = 8,
                _ => match Type::of(part) {
                    Some(ty) => opcode.types.push(ty),
                    None => opcode.words.push(part.to_owned()),
                },
            }
        }
        Ok(opcode)
    }

    pub(crate) fn has(&self, word: &str) -> bool {
        self.words.iter().any(|own| own == word)
    }

    /// The last type, that of the result of most instructions.
    pub(crate) fn ty(&self) -> Type {
        *self.types.last().unwrap_or(&Type::Unsigned(32))
    }
}

/// A space of memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Space {
    Generic,
    Global,
    Shared,
    Local,
    Param,
}

macro_rules! bases {
    ($($name:ident = $text:literal),* $(,)?) => {
        /// The first word of an opcode.
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub(crate) enum Base { $($name),* }

        impl Base {
            pub(crate) fn of(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$name),)* _ => None }
            }
        }
    };
}

bases! {
    Add = "add", Sub = "sub", Mul = "mul", Mul24 = "mul24", Mad = "mad", Mad24 = "mad24", Fma = "fma", Div = "div", Rem = "rem",
    Addc = "addc", Subc = "subc", Madc = "madc",
    Abs = "abs", Neg = "neg", Min = "min", Max = "max", Sqrt = "sqrt", Rsqrt = "rsqrt", Rcp = "rcp", Sin = "sin",
    Cos = "cos", Tanh = "tanh", Ex2 = "ex2", Lg2 = "lg2", Copysign = "copysign", Testp = "testp",
    And = "and", Or = "or", Xor = "xor", Not = "not", Cnot = "cnot", Shl = "shl", Shr = "shr", Shf = "shf", Lop3 = "lop3",
    Prmt = "prmt", Bfe = "bfe", Bfi = "bfi", Brev = "brev", Clz = "clz", Popc = "popc", Bfind = "bfind",
    Setp = "setp", Set = "set", Selp = "selp", Slct = "slct", Mov = "mov", Cvt = "cvt", Cvta = "cvta",
    Ld = "ld", St = "st", Ldu = "ldu", Atom = "atom", Red = "red", Prefetch = "prefetch",
    Bra = "bra", Ret = "ret", Exit = "exit", Trap = "trap", Bar = "bar", Barrier = "barrier", Membar = "membar",
    Fence = "fence", Shfl = "shfl", Vote = "vote", Activemask = "activemask", Elect = "elect", Nanosleep = "nanosleep",
    Isspacep = "isspacep", Sad = "sad", Dp4a = "dp4a", Mma = "mma", Ldmatrix = "ldmatrix", Stmatrix = "stmatrix",
    CpAsync = "cp", Movmatrix = "movmatrix", Match = "match",
}
