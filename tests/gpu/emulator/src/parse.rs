//! Reads modules of PTX text.

use std::collections::HashMap;
use std::sync::Arc;

use crate::flow::Flow;
use crate::kernel::{Base, Instruction, Kernel, Module, Opcode, Operand, Space, Special, Type};
use crate::memory::{LOCAL, SHARED, STATIC};
use crate::token::{Token, tokens};

/// Reads a module.
///
/// # Errors
/// Text that is not PTX, and everything of PTX that the machine does not run, in one line.
pub(crate) fn module(text: &str) -> Result<Module, String> {
    let mut reader =
        Reader { tokens: tokens(text)?, at: 0, variables: HashMap::new(), shared_bytes: 0, globals: vec![] };
    let mut kernels = HashMap::new();
    while let Some(token) = reader.next() {
        let Token::Word(word) = token else { continue };
        match word.as_str() {
            ".version" | ".target" | ".address_size" => reader.skip_directive(&word),
            ".visible" | ".extern" | ".weak" | ".common" => {}
            ".global" | ".const" | ".shared" => reader.variable(&word, None)?,
            ".entry" => {
                let kernel = reader.entry()?;
                kernels.insert(kernel.name.clone(), Arc::new(kernel));
            }
            // Code generators inline functions; a call is an instruction that is not supported.
            ".func" => reader.skip_function(),
            ".pragma" | ".file" => reader.skip_to(';'),
            _ => return Err(format!("unexpected {word}")),
        }
    }
    Ok(Module { kernels, _globals: reader.globals })
}

struct Reader {
    tokens: Vec<Token>,
    at: usize,
    /// Address of each variable, in its space's window.
    variables: HashMap<String, u64>,
    shared_bytes: usize,
    globals: Vec<Box<[u64]>>,
}

/// State of the kernel that is read.
#[derive(Default)]
struct Body {
    registers: HashMap<String, u32>,
    params: HashMap<String, u64>,
    labels: HashMap<String, usize>,
    /// Instruction and label of each branch.
    branches: Vec<(usize, String)>,
    code: Vec<Instruction>,
    local_bytes: usize,
}

impl Reader {
    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn peek_is(&self, mark: char) -> bool {
        self.peek().is_some_and(|token| token.is(mark))
    }

    /// Takes the next token if it is this mark.
    fn takes(&mut self, mark: char) -> bool {
        let found = self.peek_is(mark);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, mark: char) -> Result<(), String> {
        let at = self.at;
        if self.takes(mark) { Ok(()) } else { Err(format!("{:?} in place of {mark:?}", self.tokens.get(at))) }
    }

    fn word(&mut self) -> Result<String, String> {
        match self.next() {
            Some(Token::Word(word)) => Ok(word),
            other => Err(format!("{other:?} in place of a word")),
        }
    }

    fn number(&mut self) -> Result<u64, String> {
        match self.next() {
            Some(Token::Number(number)) => Ok(number),
            other => Err(format!("{other:?} in place of a number")),
        }
    }

    fn skip_to(&mut self, mark: char) {
        while self.next().is_some_and(|token| !token.is(mark)) {}
    }

    /// Skips the rest of a function, or of its declaration.
    fn skip_function(&mut self) {
        let mut depth = 0;
        while let Some(token) = self.next() {
            match token {
                Token::Mark('{') => depth += 1,
                Token::Mark('}') => depth -= 1,
                Token::Mark(';') if depth == 0 => return,
                _ => continue,
            }
            if depth == 0 {
                return;
            }
        }
    }

    /// Skips what follows a directive of the module's head, which ends with its line: as many tokens as it has.
    fn skip_directive(&mut self, directive: &str) {
        self.at += match directive {
            // A version is a number, a dot and a number: two tokens.
            ".version" => 2,
            _ => 1,
        };
        while self.takes(',') {
            self.at += 1;
        }
    }

    /// Reads the rest of a variable: alignment, type, name, size and values.
    fn variable(&mut self, space: &str, body: Option<&mut Body>) -> Result<(), String> {
        let mut align = 1;
        let mut ty = Type::Unsigned(8);
        let name = loop {
            let word = self.word()?;
            if word == ".align" {
                align = self.number()? as usize;
            } else if let Some(found) = word.strip_prefix('.') {
                // Attributes such as `.visible` have no type's name.
                ty = Type::of(found).unwrap_or(ty);
            } else {
                break word;
            }
        };
        let mut count = 1;
        let mut is_open = false;
        while self.takes('[') {
            if self.takes(']') {
                is_open = true;
            } else {
                count *= self.number()? as usize;
                self.expect(']')?;
            }
        }
        let mut values = Vec::new();
        if self.takes('=') {
            if self.takes('{') {
                while !self.takes('}') {
                    values.push(self.value()?);
                    self.takes(',');
                }
            } else {
                values.push(self.value()?);
            }
        }
        self.expect(';')?;
        let bytes = if is_open { 0 } else { count * ty.bytes() };
        let address = match (space, body) {
            (".shared", _) => {
                let start = self.shared_bytes.next_multiple_of(align.max(16));
                if is_open {
                    // Dynamic memory begins the window.
                    self.variables.insert(name, SHARED);
                    return Ok(());
                }
                self.shared_bytes = start + bytes;
                SHARED + STATIC + start as u64
            }
            (".local", Some(body)) => {
                let start = body.local_bytes.next_multiple_of(align.max(16));
                body.local_bytes = start + bytes;
                LOCAL + start as u64
            }
            (".global" | ".const", _) => {
                let mut memory = vec![0u64; bytes.div_ceil(8) + 2].into_boxed_slice();
                let start = memory.as_mut_ptr().cast::<u8>();
                for (index, value) in values.iter().enumerate() {
                    let bytes = value.to_le_bytes();
                    // SAFETY: the memory has room for `count` values, and 16 bytes more.
                    unsafe { start.add(index * ty.bytes()).copy_from(bytes.as_ptr(), ty.bytes()) };
                }
                self.globals.push(memory);
                start as u64
            }
            _ => return Err(format!("a variable in {space}")),
        };
        self.variables.insert(name, address);
        Ok(())
    }

    fn value(&mut self) -> Result<u64, String> {
        let negative = self.takes('-');
        let value = self.number()?;
        Ok(if negative { value.wrapping_neg() } else { value })
    }

    fn entry(&mut self) -> Result<Kernel, String> {
        let name = self.word()?;
        let mut body = Body::default();
        let mut params = Vec::new();
        let mut end = 0usize;
        if self.takes('(') {
            while !self.takes(')') {
                let (mut align, mut ty) = (None, Type::Unsigned(8));
                let param = loop {
                    let word = self.word()?;
                    match word.as_str() {
                        ".align" => align = Some(self.number()? as usize),
                        ".param" | ".ptr" | ".global" | ".shared" | ".const" => {}
                        _ => match word.strip_prefix('.') {
                            // `.ptr .global .align 16` describes what a pointer points to.
                            Some(found) => ty = Type::of(found).ok_or_else(|| format!("a parameter's {word}"))?,
                            None => break word,
                        },
                    }
                };
                let mut count = 1;
                if self.takes('[') {
                    count = self.number()? as usize;
                    self.expect(']')?;
                } else {
                    align = None;
                }
                let start = end.next_multiple_of(align.unwrap_or(ty.bytes()));
                end = start + count * ty.bytes();
                params.push((start, count * ty.bytes()));
                body.params.insert(param, start as u64);
                self.takes(',');
            }
        }
        // `.maxntid` and the like, up to the body.
        while !self.peek_is('{') {
            self.next().ok_or("a kernel without a body")?;
        }
        self.expect('{')?;
        let mut depth = 1;
        while depth > 0 {
            match self.next().ok_or("a body without an end")? {
                Token::Mark('{') => depth += 1,
                Token::Mark('}') => depth -= 1,
                Token::Mark('@') => {
                    let runs_with = !self.takes('!');
                    let predicate = self.word()?;
                    let guard = Some((body.register(&predicate), runs_with));
                    let opcode = self.word()?;
                    self.instruction(&mut body, guard, &opcode)?;
                }
                Token::Mark(';') => {}
                Token::Word(word) => match word.as_str() {
                    ".reg" | ".pragma" => self.skip_to(';'),
                    ".shared" | ".local" => self.variable(&word, Some(&mut body))?,
                    ".loc" => self.at += 3,
                    _ if self.takes(':') => {
                        body.labels.insert(word, body.code.len());
                    }
                    _ => self.instruction(&mut body, None, &word)?,
                },
                other => return Err(format!("{name}: unexpected {other:?}")),
            }
        }
        for (at, label) in &body.branches {
            let target = *body.labels.get(label).ok_or_else(|| format!("{name}: no label {label}"))?;
            body.code[*at].operands = vec![Operand::Target(target)];
        }
        // A kernel may end without `ret`.
        let ret = Opcode { base: Base::Ret, types: vec![], words: vec![], width: 1, space: Space::Generic };
        body.code.push(Instruction { guard: None, opcode: ret, operands: vec![], text: "ret".to_owned() });
        Ok(Kernel {
            name,
            params,
            num_registers: body.registers.len(),
            flow: Flow::of(&body.code),
            code: body.code,
            shared_bytes: self.shared_bytes,
            local_bytes: body.local_bytes,
        })
    }

    fn instruction(&mut self, body: &mut Body, guard: Option<(u32, bool)>, text: &str) -> Result<(), String> {
        let opcode = opcode(text)?;
        let mut operands = Vec::new();
        if opcode.base == Base::Bra {
            let label = self.word()?;
            body.branches.push((body.code.len(), label));
        }
        while !self.takes(';') {
            operands.push(self.operand(body, opcode.space == Space::Param)?);
            self.takes(',');
        }
        body.code.push(Instruction { guard, opcode, operands, text: text.to_owned() });
        Ok(())
    }

    fn operand(&mut self, body: &mut Body, is_param: bool) -> Result<Operand, String> {
        let first = match self.next().ok_or("an instruction without an end")? {
            Token::Mark('{') => {
                let mut parts = Vec::new();
                while !self.takes('}') {
                    parts.push(self.operand(body, is_param)?);
                    self.takes(',');
                }
                Operand::Vector(parts)
            }
            Token::Mark('[') => {
                let base = self.operand(body, is_param)?;
                let mut offset = 0i64;
                while !self.takes(']') {
                    self.takes('+');
                    let negative = self.takes('-');
                    let value = self.number()? as i64;
                    offset += if negative { -value } else { value };
                }
                return Ok(Operand::Address(Box::new(base), offset));
            }
            Token::Mark('-') => Operand::Immediate(self.number()?.wrapping_neg()),
            Token::Mark('!') => match self.operand(body, is_param)? {
                Operand::Register(register) => Operand::Not(register),
                other => return Err(format!("the complement of {other:?}")),
            },
            Token::Number(number) => Operand::Immediate(number),
            Token::Word(word) => self.named(body, &word, is_param)?,
            other => return Err(format!("unexpected {other:?}")),
        };
        if self.takes('|') {
            let second = self.operand(body, is_param)?;
            return Ok(Operand::Pair(Box::new(first), Box::new(second)));
        }
        Ok(first)
    }

    fn named(&self, body: &mut Body, word: &str, is_param: bool) -> Result<Operand, String> {
        if word == "_" {
            return Ok(Operand::Sink);
        }
        if let Some(name) = word.strip_prefix('%') {
            let axis = |suffix: &str| "xyz".find(suffix).filter(|_| suffix.len() == 1);
            let (base, suffix) = name.split_once('.').unwrap_or((name, ""));
            let special = match (base, axis(suffix)) {
                ("tid", Some(axis)) => Special::Tid(axis),
                ("ntid", Some(axis)) => Special::Ntid(axis),
                ("ctaid", Some(axis)) => Special::Ctaid(axis),
                ("nctaid", Some(axis)) => Special::Nctaid(axis),
                ("laneid", _) => Special::Lane,
                ("warpid", _) => Special::Warp,
                ("nwarpid", _) => Special::Warps,
                ("lanemask_eq", _) => Special::MaskEq,
                ("lanemask_lt", _) => Special::MaskLt,
                ("lanemask_le", _) => Special::MaskLe,
                ("lanemask_gt", _) => Special::MaskGt,
                ("lanemask_ge", _) => Special::MaskGe,
                ("clock" | "clock64" | "globaltimer", _) => Special::Clock,
                ("dynamic_smem_size", _) => Special::DynamicShared,
                ("clusterid" | "cluster_ctaid" | "cluster_ctarank" | "smid" | "gridid", _) => Special::Zero,
                ("nclusterid" | "cluster_nctaid" | "cluster_nctarank" | "nsmid", _) => Special::One,
                _ => return Ok(Operand::Register(body.register(word))),
            };
            return Ok(Operand::Special(special));
        }
        if is_param && let Some(&offset) = body.params.get(word) {
            return Ok(Operand::Immediate(offset));
        }
        if word == "WARP_SZ" {
            return Ok(Operand::Immediate(32));
        }
        match self.variables.get(word) {
            Some(&address) => Ok(Operand::Immediate(address)),
            None => Err(format!("an unknown name, {word}")),
        }
    }
}

impl Body {
    fn register(&mut self, name: &str) -> u32 {
        let next = self.registers.len() as u32;
        *self.registers.entry(name.to_owned()).or_insert(next)
    }
}

fn opcode(text: &str) -> Result<Opcode, String> {
    let mut parts = text.split('.');
    let first = parts.next().unwrap_or_default();
    let base = Base::of(first).ok_or_else(|| format!("{text} is not supported"))?;
    let mut opcode = Opcode { base, types: vec![], words: vec![], width: 1, space: Space::Generic };
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
