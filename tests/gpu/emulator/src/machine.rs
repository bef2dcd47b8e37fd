//! Runs kernels: cubes of warps of 32 threads, in lock step where they do not diverge.

mod access;
mod exchange;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::alu::{self, Lanes};
use crate::kernel::{Base, Instruction, Kernel, Operand, Space, Special};
use crate::memory::{LOCAL, Ranges, SHARED};

/// A launch.
pub(crate) struct Launch<'a> {
    pub(crate) kernel: &'a Kernel,
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) dynamic_bytes: usize,
    pub(crate) params: &'a [u8],
    pub(crate) ranges: Ranges,
}

/// Runs a launch to its end.
///
/// # Errors
/// The first fault of a thread: kernel, instruction, thread, address.
pub(crate) fn run(launch: &Launch) -> Result<(), String> {
    let cubes = launch.grid.iter().map(|&n| u64::from(n)).product::<u64>();
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let fault = Mutex::new(None);
    let work = || {
        let mut cube = Cube::new(launch);
        while !stop.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= cubes {
                break;
            }
            if let Err(reason) = cube.run(index) {
                stop.store(true, Ordering::Relaxed);
                fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64).min(cubes.div_ceil(4));
    if threads <= 1 {
        work();
    } else {
        std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(work);
            }
            work();
        });
    }
    let reason = fault.into_inner().unwrap_or_else(PoisonError::into_inner);
    reason.map_or(Ok(()), |reason| Err(format!("{}: {reason}", launch.kernel.name)))
}

/// Threads of a warp.
const WARP: usize = 32;

/// The threads that run in lock step, and their registers.
struct Warp {
    registers: Vec<Lanes>,
    /// Local memory of the threads, one after the other.
    local: Vec<u64>,
    pc: [u32; WARP],
    /// Threads that have not ended.
    alive: u32,
    /// Threads that wait for the cube.
    waiting: u32,
    /// Threads that wait for others of the warp, at an instruction that these have not reached.
    parked: u32,
    number: u32,
    /// Range of the last access to global memory.
    cached: (u64, u64),
}

/// The threads that share memory and barriers, one cube of the grid after the other.
struct Cube<'a> {
    launch: &'a Launch<'a>,
    warps: Vec<Warp>,
    /// Shared memory of the size that the launch states, and that of the kernel's own variables.
    dynamic: Vec<u64>,
    fixed: Vec<u64>,
    /// Position in the grid.
    at: [u32; 3],
}

/// The place of threads after an instruction that they ran.
enum Next {
    Step,
    Jump(u32),
    End,
    /// A barrier of the cube.
    Wait,
    /// An instruction that waits for other threads of the warp.
    Park,
}

impl Warp {
    fn jump(&mut self, lanes: u32, to: u32) {
        lanes_of(lanes).for_each(|lane| self.pc[lane] = to);
    }

    /// The instruction that follows for all threads `mask`; `None` if some part, end or wait, and are put in their places.
    fn goes_on(&mut self, next: &Next, pc: u32, mask: u32, runs: u32) -> Option<u32> {
        match *next {
            Next::Step => return Some(pc + 1),
            Next::Jump(to) if runs == mask => return Some(to),
            Next::Jump(to) => {
                self.jump(mask, pc + 1);
                self.jump(runs, to);
            }
            Next::End => {
                self.alive &= !runs;
                // Threads that waited for the ended ones check again whether all others are there.
                self.parked = 0;
                self.jump(mask & !runs, pc + 1);
            }
            Next::Wait => {
                self.waiting |= runs;
                self.jump(mask, pc + 1);
            }
            Next::Park => {
                self.parked |= runs;
                self.jump(mask, pc + 1);
                self.jump(runs, pc);
            }
        }
        None
    }
}

impl<'a> Cube<'a> {
    fn new(launch: &'a Launch) -> Self {
        let threads = launch.block.iter().product::<u32>() as usize;
        let kernel = launch.kernel;
        let warps = (0..threads.div_ceil(WARP))
            .map(|number| Warp {
                registers: vec![[0; WARP]; kernel.num_registers],
                local: vec![0; kernel.local_bytes.div_ceil(8) * WARP],
                pc: [0; WARP],
                alive: 0,
                waiting: 0,
                parked: 0,
                number: number as u32,
                cached: (1, 0),
            })
            .collect();
        let words = |bytes: usize| vec![u64::MAX; bytes.div_ceil(8)];
        Self { launch, warps, dynamic: words(launch.dynamic_bytes), fixed: words(kernel.shared_bytes), at: [0; 3] }
    }

    fn run(&mut self, index: u64) -> Result<(), String> {
        let [x, y, _] = self.launch.grid.map(u64::from);
        self.at = [(index % x) as u32, (index / x % y) as u32, (index / x / y) as u32];
        let threads = self.launch.block.iter().product::<u32>();
        self.dynamic.fill(u64::MAX);
        self.fixed.fill(u64::MAX);
        for warp in &mut self.warps {
            let lanes = (threads - warp.number * WARP as u32).min(WARP as u32);
            warp.alive = u32::MAX >> (WARP as u32 - lanes);
            (warp.waiting, warp.parked) = (0, 0);
            warp.pc = [0; WARP];
            warp.registers.fill([u64::MAX; WARP]);
            warp.local.fill(u64::MAX);
        }
        loop {
            for warp in 0..self.warps.len() {
                self.run_warp(warp)?;
            }
            if self.warps.iter().all(|warp| warp.alive == 0) {
                return Ok(());
            }
            if let Some(warp) = self.warps.iter().find(|warp| warp.alive & !warp.waiting != 0) {
                return Err(format!(
                    "threads {:#x} of warp {} of cube {:?} wait for threads of their warp that never come",
                    warp.alive & !warp.waiting,
                    warp.number,
                    self.at
                ));
            }
            self.release()?;
        }
    }

    /// Lets all threads go on that wait for the cube, which they must do at the same barrier.
    fn release(&mut self) -> Result<(), String> {
        let mut places = self.warps.iter().flat_map(|warp| lanes_of(warp.waiting).map(|lane| warp.pc[lane] - 1));
        let first = places.next().unwrap_or_default();
        if let Some(other) = places.find(|&place| place != first) {
            let at = self.at;
            return Err(format!("threads of cube {at:?} wait at different barriers, instructions {first} and {other}"));
        }
        self.warps.iter_mut().for_each(|warp| warp.waiting = 0);
        Ok(())
    }

    /// Runs a warp until its threads end or wait for the cube.
    fn run_warp(&mut self, number: usize) -> Result<(), String> {
        while let Some((pc, mask)) = self.next_group(number) {
            self.run_group(number, pc, mask)?;
        }
        Ok(())
    }

    /// The instruction that a warp runs next, and the threads that are there.
    fn next_group(&mut self, number: usize) -> Option<(u32, u32)> {
        let flow = &self.launch.kernel.flow;
        let warp = &mut self.warps[number];
        let pc = lanes_of(warp.alive & !warp.waiting & !warp.parked)
            .map(|lane| warp.pc[lane])
            .reduce(|best, pc| if pc != best && flow.is_before(pc, best) { pc } else { best })?;
        let mask = mask_of(warp.alive & !warp.waiting, |lane| warp.pc[lane] == pc);
        warp.parked &= !mask;
        Some((pc, mask))
    }

    /// Runs threads that are at the same instruction until they part, end or wait, or others may run first.
    fn run_group(&mut self, number: usize, mut pc: u32, mask: u32) -> Result<(), String> {
        let Kernel { code, flow, .. } = self.launch.kernel;
        let warp = &self.warps[number];
        let others = warp.alive & !warp.waiting & !warp.parked & !mask;
        loop {
            let instruction = &code[pc as usize];
            let runs = match instruction.guard {
                None => mask,
                Some((predicate, with)) => {
                    let values = &self.warps[number].registers[predicate as usize];
                    mask_of(mask, |lane| (values[lane] & 1 == 1) == with)
                }
            };
            let next = if runs == 0 {
                Next::Step
            } else {
                self.execute(number, instruction, runs).map_err(|reason| {
                    format!("{} at instruction {pc}, warp {number} of cube {:?}: {reason}", instruction.text, self.at)
                })?
            };
            let warp = &mut self.warps[number];
            match warp.goes_on(&next, pc, mask, runs) {
                // Others may run first, or join, where a block begins.
                Some(to) if others != 0 && flow.is_first(to) => {
                    warp.jump(mask, to);
                    return Ok(());
                }
                Some(to) => pc = to,
                None => return Ok(()),
            }
        }
    }

    /// Runs an instruction for the threads `mask`.
    fn execute(&mut self, number: usize, instruction: &Instruction, mask: u32) -> Result<Next, String> {
        if let Some(reason) = &instruction.refusal {
            return Err(reason.clone());
        }
        let operands = &instruction.operands;
        let opcode = &instruction.opcode;
        match opcode.base {
            Base::Bra => {
                let Operand::Target(target) = operands[0] else { unreachable!("resolved by the reader") };
                return Ok(Next::Jump(target as u32));
            }
            Base::Ret | Base::Exit => return Ok(Next::End),
            Base::Trap => return Err("a trap".to_owned()),
            Base::Bar | Base::Barrier if !opcode.has("warp") => return Ok(Next::Wait),
            Base::Bar | Base::Barrier | Base::Shfl | Base::Vote | Base::Elect => {
                return self.exchange(number, instruction, mask);
            }
            Base::Membar | Base::Fence => std::sync::atomic::fence(Ordering::SeqCst),
            Base::Prefetch | Base::Nanosleep => {}
            Base::Ld | Base::Ldu => self.load(number, instruction, mask)?,
            Base::St => self.store(number, instruction, mask)?,
            Base::Atom | Base::Red => self.atomic(number, instruction, mask)?,
            Base::Activemask => self.put(number, &operands[0], &[u64::from(mask); WARP], mask),
            Base::Mov if operands.iter().any(|operand| matches!(operand, Operand::Vector(_))) => {
                self.repack(number, instruction, mask);
            }
            Base::Setp => self.set_predicates(number, instruction, mask)?,
            Base::Isspacep => {
                let a = self.get(number, &operands[1]);
                let inside = |value: u64| match opcode.space {
                    Space::Shared => value & SHARED != 0,
                    Space::Local => value & LOCAL != 0,
                    _ => value & (SHARED | LOCAL) == 0,
                };
                self.put(number, &operands[0], &a.map(|value| u64::from(inside(value))), mask);
            }
            _ => {
                let sources: Vec<Lanes> = operands[1..].iter().map(|operand| self.get(number, operand)).collect();
                let result = alu::compute(opcode, &sources)?;
                self.put(number, &operands[0], &result, mask);
            }
        }
        Ok(Next::Step)
    }

    /// Compares, and combines the result and its complement with a third source if there is one.
    fn set_predicates(&mut self, number: usize, instruction: &Instruction, mask: u32) -> Result<(), String> {
        let Instruction { opcode, operands, .. } = instruction;
        let [a, b] = [1, 2].map(|index| self.get(number, &operands[index]));
        let mut result = alu::compare(opcode, &a, &b)?;
        let mut other: Lanes = result.map(|value| value ^ 1);
        if let Some(third) = operands.get(3) {
            let c = self.get(number, third);
            let combine = |values: Lanes| -> Lanes {
                std::array::from_fn(|lane| {
                    let (value, c) = (values[lane], c[lane] & 1);
                    match opcode.words.get(1).map(String::as_str) {
                        Some("and") => value & c,
                        Some("or") => value | c,
                        _ => value ^ c,
                    }
                })
            };
            (result, other) = (combine(result), combine(other));
        }
        if let Operand::Pair(first, second) = &operands[0] {
            self.put(number, first, &result, mask);
            self.put(number, second, &other, mask);
        } else {
            self.put(number, &operands[0], &result, mask);
        }
        Ok(())
    }

    /// Values of an operand for all threads of a warp.
    fn get(&self, number: usize, operand: &Operand) -> Lanes {
        let warp = &self.warps[number];
        match operand {
            Operand::Register(register) => warp.registers[*register as usize],
            Operand::Not(register) => warp.registers[*register as usize].map(|value| value ^ 1),
            Operand::Immediate(value) => [*value; WARP],
            Operand::Special(special) => self.special(warp, *special),
            Operand::Address(base, offset) => self.get(number, base).map(|value| value.wrapping_add_signed(*offset)),
            Operand::Vector(_) | Operand::Pair(..) | Operand::Target(_) | Operand::Sink => [0; WARP],
        }
    }

    fn special(&self, warp: &Warp, special: Special) -> Lanes {
        let [x, y, _] = self.launch.block;
        let all = |value: u32| [u64::from(value); WARP];
        let each = |value: &dyn Fn(u32) -> u32| std::array::from_fn(|lane| u64::from(value(lane as u32)));
        match special {
            Special::Tid(axis) => each(&|lane| {
                let thread = warp.number * WARP as u32 + lane;
                [thread % x, thread / x % y, thread / x / y][axis]
            }),
            Special::Ntid(axis) => all(self.launch.block[axis]),
            Special::Ctaid(axis) => all(self.at[axis]),
            Special::Nctaid(axis) => all(self.launch.grid[axis]),
            Special::Lane => each(&|lane| lane),
            Special::Warp => all(warp.number),
            Special::Warps => all(self.warps.len() as u32),
            Special::MaskEq => each(&|lane| 1 << lane),
            Special::MaskLt => each(&|lane| (1 << lane) - 1),
            Special::MaskLe => each(&|lane| u32::MAX >> (31 - lane)),
            Special::MaskGt => each(&|lane| u32::MAX << lane << 1),
            Special::MaskGe => each(&|lane| u32::MAX << lane),
            Special::Clock | Special::Zero => all(0),
            Special::One => all(1),
            Special::DynamicShared => all(self.launch.dynamic_bytes as u32),
        }
    }

    /// Writes a register for the threads `mask`; nothing for `_`.
    fn put(&mut self, number: usize, operand: &Operand, values: &Lanes, mask: u32) {
        let Operand::Register(register) = operand else { return };
        let own = &mut self.warps[number].registers[*register as usize];
        if mask == u32::MAX {
            *own = *values;
        } else {
            lanes_of(mask).for_each(|lane| own[lane] = values[lane]);
        }
    }

    /// Moves between one register and the parts of a vector, of which the first is the lowest.
    fn repack(&mut self, number: usize, instruction: &Instruction, mask: u32) {
        let bits = instruction.opcode.ty().bits();
        match &instruction.operands[..] {
            [Operand::Vector(parts), source] => {
                let values = self.get(number, source);
                let part = bits / parts.len() as u32;
                for (index, target) in (0..).zip(parts) {
                    self.put(number, target, &values.map(|value| alu::low(value >> (index * part), part)), mask);
                }
            }
            [target, Operand::Vector(parts)] => {
                let part = bits / parts.len() as u32;
                let mut result = [0u64; WARP];
                for (index, source) in (0..).zip(parts) {
                    let values = self.get(number, source);
                    for (result, value) in result.iter_mut().zip(values) {
                        *result |= alu::low(value, part) << (index * part);
                    }
                }
                self.put(number, target, &result, mask);
            }
            _ => unreachable!("checked by the reader: one side is a vector"),
        }
    }
}

/// Lanes of a mask.
fn lanes_of(mask: u32) -> impl Iterator<Item = usize> {
    let mut left = mask;
    std::iter::from_fn(move || {
        (left != 0).then(|| {
            let lane = left.trailing_zeros() as usize;
            left &= left - 1;
            lane
        })
    })
}

/// Lanes of a mask for which a condition holds.
fn mask_of(mask: u32, holds: impl Fn(usize) -> bool) -> u32 {
    lanes_of(mask).filter(|&lane| holds(lane)).fold(0, |mask, lane| mask | 1 << lane)
}
