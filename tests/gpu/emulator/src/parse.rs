//! Reads modules of PTX text.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use crate::check::refusal;
use crate::flow::Flow;
use crate::kernel::{Base, Globals, Instruction, Kernel, Module, Opcode, Operand, Space, Special, Type};
use crate::memory::{self, LOCAL, SHARED, STATIC};
use crate::token::{Token, tokens};

/// Reads a module.
///
/// # Errors
/// Text that is not PTX, and everything of PTX that the machine does not run, in one line.
pub(crate) fn module(text: &str) -> Result<Module, String> {
    let mut reader = Reader {
        tokens: tokens(text)?,
        at: 0,
        variables: HashMap::new(),
        shared_bytes: 0,
        globals: Globals::default(),
    };
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
            ".pragma" => reader.skip_to(';'),
            // A number and a name, then time and size.
            ".file" => reader.skip(2),
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
    globals: Globals,
}

/// State of the kernel that is read.
#[derive(Default)]
struct Body {
    /// Names of the registers in use, and their places.
    registers: HashMap<String, u32>,
    /// Declared names; with a number, they are followed by an index below it.
    declared: HashMap<String, Option<u64>>,
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
        // A version is a number, a dot and a number: two tokens.
        self.skip(if directive == ".version" { 2 } else { 1 });
    }

    /// Skips so many tokens, and those that follow them after commas.
    fn skip(&mut self, count: usize) {
        self.at += count;
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
                ty = Type::of(found).ok_or_else(|| format!("a variable's {word}"))?;
            } else {
                break word;
            }
        };
        let mut count = Some(1);
        while self.takes('[') {
            if self.takes(']') {
                count = None;
            } else {
                let length = self.number()? as usize;
                count = count.and_then(|count: usize| count.checked_mul(length));
                self.expect(']')?;
            }
        }
        let values = self.values()?;
        self.expect(';')?;
        let bytes = count.map(|count| count * ty.bytes());
        let address = match (space, body, bytes) {
            // Dynamic memory begins the window.
            (".shared", _, None) => SHARED,
            (".shared", _, Some(bytes)) => {
                let start = self.shared_bytes.next_multiple_of(align.max(16));
                self.shared_bytes = start + bytes;
                SHARED + STATIC + start as u64
            }
            (".local", Some(body), Some(bytes)) => {
                let start = body.local_bytes.next_multiple_of(align.max(16));
                body.local_bytes = start + bytes;
                LOCAL + start as u64
            }
            (".global" | ".const", _, Some(bytes)) if values.len() * ty.bytes() <= bytes => {
                self.global(bytes, &values, ty)?
            }
            _ => return Err(format!("the variable {name} in {space}")),
        };
        self.variables.insert(name, address);
        Ok(())
    }

    /// Values that a variable begins with.
    fn values(&mut self) -> Result<Vec<u64>, String> {
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
        Ok(values)
    }

    /// Allocates a variable of the module, with zeros after its values.
    fn global(&mut self, bytes: usize, values: &[u64], ty: Type) -> Result<u64, String> {
        let start = memory::allocate(bytes, u64::MAX / 2).ok_or("no memory for a variable")?;
        self.globals.0.push(start);
        let mut initial: Vec<u8> =
            values.iter().flat_map(|value| value.to_le_bytes().into_iter().take(ty.bytes())).collect();
        initial.resize(bytes, 0);
        // SAFETY: the allocation has `bytes` bytes, and nothing else knows of it yet.
        unsafe { (start as *mut u8).copy_from(initial.as_ptr(), bytes) };
        Ok(start)
    }

    fn value(&mut self) -> Result<u64, String> {
        let negative = self.takes('-');
        let value = self.number()?;
        Ok(if negative { value.wrapping_neg() } else { value })
    }

    /// Reads the parameters of a kernel: offset and bytes of each.
    fn params(&mut self, body: &mut Body) -> Result<Vec<(usize, usize)>, String> {
        let mut params = Vec::new();
        let mut end = 0usize;
        if !self.takes('(') {
            return Ok(params);
        }
        while !self.takes(')') {
            let (mut align, mut ty, mut is_pointer) = (None, Type::Unsigned(8), false);
            let name = loop {
                let word = self.word()?;
                match word.as_str() {
                    // `.ptr .global .align 16` describes what a pointer points to.
                    ".ptr" => is_pointer = true,
                    ".align" => {
                        let own = self.number()? as usize;
                        align = if is_pointer { align } else { Some(own) };
                    }
                    ".param" | ".global" | ".shared" | ".const" | ".local" => {}
                    _ => match word.strip_prefix('.') {
                        Some(found) => ty = Type::of(found).ok_or_else(|| format!("a parameter's {word}"))?,
                        None => break word,
                    },
                }
            };
            let mut count = 1;
            if self.takes('[') {
                count = self.number()? as usize;
                self.expect(']')?;
            }
            let start = end.next_multiple_of(align.unwrap_or(ty.bytes()).max(1));
            let bytes = count.checked_mul(ty.bytes()).ok_or_else(|| format!("the size of {name}"))?;
            end = start + bytes;
            params.push((start, bytes));
            body.params.insert(name, start as u64);
            self.takes(',');
        }
        Ok(params)
    }

    /// Skips directives up to the body of a kernel; returns the number of threads that they allow.
    fn max_threads(&mut self) -> Result<u64, String> {
        let mut most = 1024;
        while !self.peek_is('{') {
            let directive = self.next().ok_or("a kernel without a body")?;
            if matches!(&directive, Token::Word(word) if word == ".maxntid" || word == ".reqntid") {
                most = self.number()?;
                while self.takes(',') {
                    most = most.saturating_mul(self.number()?);
                }
            }
        }
        Ok(most)
    }

    fn entry(&mut self) -> Result<Kernel, String> {
        let name = self.word()?;
        let mut body = Body::default();
        let params = self.params(&mut body)?;
        let max_threads = self.max_threads()?;
        self.expect('{')?;
        self.body(&mut body).map_err(|reason| format!("{name}: {reason}"))?;
        Ok(Kernel {
            name,
            params,
            num_registers: body.registers.len(),
            flow: Flow::of(&body.code),
            code: body.code,
            shared_bytes: self.shared_bytes,
            local_bytes: body.local_bytes,
            max_threads,
            dynamic_limit: AtomicUsize::new(0),
        })
    }

    /// Reads the rest of a declaration of registers: type, and names with or without a count.
    fn declaration(&mut self, body: &mut Body) -> Result<(), String> {
        while !self.takes(';') {
            let name = self.word()?;
            let mut count = None;
            if self.takes('<') {
                count = Some(self.number()?);
                self.expect('>')?;
            }
            body.declared.insert(name, count);
            self.takes(',');
        }
        Ok(())
    }

    /// Reads the rest of a kernel, and finds the targets of its branches.
    fn body(&mut self, body: &mut Body) -> Result<(), String> {
        let mut depth = 1;
        while depth > 0 {
            match self.next().ok_or("a body without an end")? {
                Token::Mark('{') => depth += 1,
                Token::Mark('}') => depth -= 1,
                Token::Mark('@') => {
                    let runs_with = !self.takes('!');
                    let predicate = self.word()?;
                    let guard = Some((body.register(&predicate)?, runs_with));
                    let opcode = self.word()?;
                    self.instruction(body, guard, &opcode)?;
                }
                Token::Mark(';') => {}
                Token::Word(word) => match word.as_str() {
                    ".pragma" => self.skip_to(';'),
                    ".reg" => self.declaration(body)?,
                    ".shared" | ".local" => self.variable(&word, Some(body))?,
                    ".loc" => self.at += 3,
                    _ if self.takes(':') => {
                        body.labels.insert(word, body.code.len());
                    }
                    _ => self.instruction(body, None, &word)?,
                },
                other => return Err(format!("unexpected {other:?}")),
            }
        }
        for (at, label) in &body.branches {
            let target = *body.labels.get(label).ok_or_else(|| format!("no label {label}"))?;
            body.code[*at].operands = vec![Operand::Target(target)];
        }
        // A kernel may end without `ret`.
        let ret = Opcode { base: Base::Ret, types: vec![], words: vec![], width: 1, space: Space::Generic };
        body.code.push(Instruction {
            guard: None,
            opcode: ret,
            operands: vec![],
            text: "ret".to_owned(),
            refusal: None,
        });
        Ok(())
    }

    fn instruction(&mut self, body: &mut Body, guard: Option<(u32, bool)>, text: &str) -> Result<(), String> {
        let opcode = Opcode::parse(text)?;
        let mut operands = Vec::new();
        if opcode.base == Base::Bra {
            let label = self.word()?;
            body.branches.push((body.code.len(), label));
        }
        while !self.takes(';') {
            operands.push(self.operand(body, opcode.space == Space::Param)?);
            self.takes(',');
        }
        let refusal = refusal(&opcode, &operands);
        body.code.push(Instruction { guard, opcode, operands, text: text.to_owned(), refusal });
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
                    offset = offset.wrapping_add(if negative { value.wrapping_neg() } else { value });
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
                _ => return Ok(Operand::Register(body.register(word)?)),
            };
            return Ok(Operand::Special(special));
        }
        if body.declared.contains_key(word) {
            return Ok(Operand::Register(body.register(word)?));
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
    /// The place of a register, which must have been declared.
    fn register(&mut self, name: &str) -> Result<u32, String> {
        let next = self.registers.len() as u32;
        if let Some(&place) = self.registers.get(name) {
            return Ok(place);
        }
        let prefix = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let index = name[prefix.len()..].parse::<u64>();
        let is_declared = self.declared.contains_key(name)
            || matches!((self.declared.get(prefix), index), (Some(Some(count)), Ok(index)) if index < *count);
        if !is_declared {
            return Err(format!("an unknown register, {name}"));
        }
        self.registers.insert(name.to_owned(), next);
        Ok(next)
    }
}
