//! Runs kernels: cubes of warps of 32 threads, in lock step where they do not diverge.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::alu::{self, Lanes};
use crate::kernel::{Base, Instruction, Kernel, Operand, Space, Special, Type};
use crate::memory::{LOCAL, Ranges, SHARED, STATIC, range_of};

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

const WARP: usize = 32;

struct Warp {
    registers: Vec<Lanes>,
    local: Vec<u8>,
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

struct Cube<'a> {
    launch: &'a Launch<'a>,
    warps: Vec<Warp>,
    dynamic: Vec<u64>,
    fixed: Vec<u64>,
    at: [u32; 3],
}

/// How the execution of an instruction ends.
enum Next {
    Step,
    /// Lanes that jump, and where to.
    Jump(u32, u32),
    /// Lanes that end.
    End(u32),
    /// Lanes that wait for the cube.
    Wait(u32),
    /// Lanes that wait for others of their warp.
    Park,
}

impl<'a> Cube<'a> {
    fn new(launch: &'a Launch) -> Self {
        let threads = launch.block.iter().product::<u32>() as usize;
        let kernel = launch.kernel;
        let warps = (0..threads.div_ceil(WARP))
            .map(|number| Warp {
                registers: vec![[0; WARP]; kernel.num_registers],
                local: vec![0; kernel.local_bytes * WARP],
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
            self.warps.iter_mut().for_each(|warp| warp.waiting = 0);
        }
    }

    /// Runs a warp until its threads end or wait for the cube.
    fn run_warp(&mut self, number: usize) -> Result<(), String> {
        let Kernel { code, flow, .. } = self.launch.kernel;
        loop {
            let warp = &mut self.warps[number];
            let runnable = warp.alive & !warp.waiting & !warp.parked;
            let Some(mut pc) = lanes_of(runnable)
                .map(|lane| warp.pc[lane])
                .reduce(|best, pc| if pc != best && flow.is_before(pc, best) { pc } else { best })
            else {
                return Ok(());
            };
            let mask = lanes_of(warp.alive & !warp.waiting)
                .filter(|&lane| warp.pc[lane] == pc)
                .fold(0u32, |mask, lane| mask | 1 << lane);
            warp.parked &= !mask;
            let others = warp.alive & !warp.waiting & !warp.parked & !mask;
            loop {
                let instruction = &code[pc as usize];
                let runs = match instruction.guard {
                    None => mask,
                    Some((predicate, with)) => {
                        let values = &self.warps[number].registers[predicate as usize];
                        lanes_of(mask).filter(|&lane| (values[lane] & 1 == 1) == with).fold(0, |m, lane| m | 1 << lane)
                    }
                };
                let next = if runs == 0 {
                    Next::Step
                } else {
                    self.execute(number, instruction, runs).map_err(|reason| {
                        format!(
                            "{} at instruction {pc}, warp {number} of cube {:?}: {reason}",
                            instruction.text, self.at
                        )
                    })?
                };
                let warp = &mut self.warps[number];
                let set = |warp: &mut Warp, lanes: u32, to: u32| lanes_of(lanes).for_each(|lane| warp.pc[lane] = to);
                let goes_on = match next {
                    Next::Step => Some(pc + 1),
                    Next::Jump(lanes, to) if lanes == mask => Some(to),
                    Next::Jump(lanes, to) => {
                        set(warp, mask & !lanes, pc + 1);
                        set(warp, lanes, to);
                        None
                    }
                    Next::End(lanes) => {
                        warp.alive &= !lanes;
                        set(warp, mask & !lanes, pc + 1);
                        None
                    }
                    Next::Wait(lanes) => {
                        warp.waiting |= lanes;
                        set(warp, mask, pc + 1);
                        None
                    }
                    Next::Park => {
                        warp.parked |= runs;
                        set(warp, runs, pc);
                        set(warp, mask & !runs, pc + 1);
                        None
                    }
                };
                match goes_on {
                    // Others may run first, or join, where a block begins.
                    Some(to) if others != 0 && flow.is_first(to) => set(warp, mask, to),
                    Some(to) => {
                        pc = to;
                        continue;
                    }
                    None => {}
                }
                break;
            }
        }
    }

    /// Runs an instruction for the threads `mask`.
    fn execute(&mut self, number: usize, instruction: &Instruction, mask: u32) -> Result<Next, String> {
        let operands = &instruction.operands;
        let opcode = &instruction.opcode;
        match opcode.base {
            Base::Bra => {
                let Operand::Target(target) = operands[0] else { unreachable!("resolved by the reader") };
                return Ok(Next::Jump(mask, target as u32));
            }
            Base::Ret | Base::Exit => return Ok(Next::End(mask)),
            Base::Trap => return Err("a trap".to_owned()),
            Base::Bar | Base::Barrier => {
                if opcode.has("warp") {
                    return self.together(number, operands, 0, mask, |_, _| Ok(()));
                }
                if operands.len() > 1 || opcode.has("red") || opcode.has("arrive") {
                    return Err("only barriers of all threads are supported".to_owned());
                }
                return Ok(Next::Wait(mask));
            }
            Base::Membar | Base::Fence | Base::Prefetch | Base::Nanosleep => {
                std::sync::atomic::fence(Ordering::SeqCst);
            }
            Base::Ld | Base::Ldu => self.load(number, instruction, mask)?,
            Base::St => self.store(number, instruction, mask)?,
            Base::Atom | Base::Red => self.atomic(number, instruction, mask)?,
            Base::Shfl => {
                return self.together(number, operands, operands.len() - 1, mask, |cube, mask| {
                    cube.shuffle(number, instruction, mask)
                });
            }
            Base::Vote => {
                return self.together(number, operands, operands.len() - 1, mask, |cube, mask| {
                    cube.vote(number, instruction, mask);
                    Ok(())
                });
            }
            Base::Elect => {
                return self.together(number, operands, 1, mask, |cube, mask| {
                    let leader = mask.trailing_zeros();
                    let Operand::Pair(lane, predicate) = &operands[0] else {
                        return Err("elect without a predicate".into());
                    };
                    cube.put(number, lane, &[u64::from(leader); WARP], mask);
                    cube.put(number, predicate, &std::array::from_fn(|lane| u64::from(lane as u32 == leader)), mask);
                    Ok(())
                });
            }
            Base::Activemask => self.put(number, &operands[0], &[u64::from(mask); WARP], mask),
            Base::Mov if matches!(operands[0], Operand::Vector(_)) || matches!(operands[1], Operand::Vector(_)) => {
                self.repack(number, instruction, mask)?;
            }
            Base::Setp => {
                let [a, b] = [1, 2].map(|index| self.get(number, &operands[index]));
                let mut result = alu::compare(opcode, &a, &b)?;
                let mut other: Lanes = result.map(|value| value ^ 1);
                if let Some(third) = operands.get(3) {
                    let c = self.get(number, third);
                    for lane in 0..WARP {
                        let combine = |value: u64| match &opcode.words[1][..] {
                            "and" => value & c[lane],
                            "or" => value | c[lane],
                            _ => value ^ c[lane],
                        } & 1;
                        (result[lane], other[lane]) = (combine(result[lane]), combine(other[lane]));
                    }
                }
                if let Operand::Pair(first, second) = &operands[0] {
                    self.put(number, first, &result, mask);
                    self.put(number, second, &other, mask);
                } else {
                    self.put(number, &operands[0], &result, mask);
                }
            }
            Base::Isspacep => {
                let a = self.get(number, &operands[1]);
                let inside = |value: u64| match opcode.space {
                    Space::Shared => value & SHARED != 0,
                    Space::Local => value & LOCAL != 0,
                    _ => value & (SHARED | LOCAL) == 0,
                };
                self.put(number, &operands[0], &a.map(|value| u64::from(inside(value))), mask);
            }
            Base::Mma | Base::Ldmatrix | Base::Stmatrix | Base::CpAsync | Base::Movmatrix | Base::Match => {
                return Err("not supported".to_owned());
            }
            _ => {
                let sources: Vec<Lanes> = operands[1..].iter().map(|operand| self.get(number, operand)).collect();
                let result = alu::compute(opcode, &sources)?;
                self.put(number, &operands[0], &result, mask);
            }
        }
        Ok(Next::Step)
    }

    /// Runs an instruction once all threads that the operand `at` lists have reached it.
    fn together(
        &mut self,
        number: usize,
        operands: &[Operand],
        at: usize,
        mask: u32,
        action: impl FnOnce(&mut Self, u32) -> Result<(), String>,
    ) -> Result<Next, String> {
        let members = self.get(number, &operands[at])[mask.trailing_zeros() as usize] as u32;
        let expected = members & self.warps[number].alive;
        if expected & !mask != 0 {
            return Ok(Next::Park);
        }
        action(self, mask)?;
        Ok(Next::Step)
    }

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

    fn put(&mut self, number: usize, operand: &Operand, values: &Lanes, mask: u32) {
        let Operand::Register(register) = operand else { return };
        let own = &mut self.warps[number].registers[*register as usize];
        if mask == u32::MAX {
            *own = *values;
        } else {
            lanes_of(mask).for_each(|lane| own[lane] = values[lane]);
        }
    }

    /// Host address of `len` bytes that a thread reads or writes.
    fn place(&mut self, number: usize, lane: usize, space: Space, address: u64, len: usize) -> Result<*mut u8, String> {
        let warp = &mut self.warps[number];
        if space != Space::Param && len > 0 && !address.is_multiple_of(len as u64) {
            return Err(format!("thread {lane} of the warp: the address {address:#x} is not aligned to {len} bytes"));
        }
        let beyond = |offset: u64, size: usize| {
            format!("thread {lane} of the warp: {len} bytes at offset {offset} of {size} bytes of {space:?} memory")
        };
        let within = |memory: *mut u8, size: usize, offset: u64| {
            if offset as usize + len <= size {
                // SAFETY: within the memory, as just compared.
                Ok(unsafe { memory.add(offset as usize) })
            } else {
                Err(beyond(offset, size))
            }
        };
        let is_shared = space == Space::Shared || space == Space::Generic && address & SHARED != 0;
        let is_local = space == Space::Local || space == Space::Generic && address & LOCAL != 0;
        if is_shared {
            let offset = address & (2 * STATIC - 1);
            if offset < STATIC {
                return within(self.dynamic.as_mut_ptr().cast(), self.launch.dynamic_bytes, offset);
            }
            return within(self.fixed.as_mut_ptr().cast(), self.launch.kernel.shared_bytes, offset - STATIC);
        }
        if is_local {
            let size = self.launch.kernel.local_bytes;
            // SAFETY: each thread has `size` bytes.
            let own = unsafe { warp.local.as_mut_ptr().add(lane * size) };
            return within(own, size, address & !LOCAL);
        }
        let end = address.wrapping_add(len as u64);
        if !(warp.cached.0 <= address && end <= warp.cached.1) {
            warp.cached = range_of(&self.launch.ranges, address, len as u64).ok_or_else(|| {
                format!("thread {lane} of the warp: {len} bytes at {address:#x} are in no allocation of the device")
            })?;
        }
        Ok(address as *mut u8)
    }

    fn load(&mut self, number: usize, instruction: &Instruction, mask: u32) -> Result<(), String> {
        let (opcode, operands) = (&instruction.opcode, &instruction.operands);
        let ty = opcode.ty();
        let bytes = ty.bytes();
        let addresses = self.get(number, &operands[1]);
        let targets = match &operands[0] {
            Operand::Vector(targets) => targets.clone(),
            other => vec![other.clone()],
        };
        let mut values = vec![[0u64; WARP]; targets.len()];
        for lane in lanes_of(mask) {
            if opcode.space == Space::Param {
                for (index, values) in values.iter_mut().enumerate() {
                    let start = addresses[lane] as usize + index * bytes;
                    let range = start..start + bytes;
                    let bytes = self.launch.params.get(range).ok_or("beyond the parameters")?;
                    values[lane] = read(bytes.as_ptr(), bytes.len());
                }
                continue;
            }
            let place = self.place(number, lane, opcode.space, addresses[lane], bytes * targets.len())?;
            for (index, values) in values.iter_mut().enumerate() {
                // SAFETY: `place` checked as many bytes as all values have.
                values[lane] = read(unsafe { place.add(index * bytes) }, bytes);
            }
        }
        for (target, values) in targets.iter().zip(&values) {
            let values = match ty {
                Type::Signed(bits) => values.map(|value| alu::extended(value, bits)),
                _ => *values,
            };
            self.put(number, target, &values, mask);
        }
        Ok(())
    }

    fn store(&mut self, number: usize, instruction: &Instruction, mask: u32) -> Result<(), String> {
        let (opcode, operands) = (&instruction.opcode, &instruction.operands);
        let bytes = opcode.ty().bytes();
        let addresses = self.get(number, &operands[0]);
        let values: Vec<Lanes> = match &operands[1] {
            Operand::Vector(sources) => sources.iter().map(|source| self.get(number, source)).collect(),
            other => vec![self.get(number, other)],
        };
        for lane in lanes_of(mask) {
            let place = self.place(number, lane, opcode.space, addresses[lane], bytes * values.len())?;
            for (index, values) in values.iter().enumerate() {
                // SAFETY: `place` checked as many bytes as all values have.
                write(unsafe { place.add(index * bytes) }, bytes, values[lane]);
            }
        }
        Ok(())
    }

    fn atomic(&mut self, number: usize, instruction: &Instruction, mask: u32) -> Result<(), String> {
        static LOCK: Mutex<()> = Mutex::new(());
        let (opcode, operands) = (&instruction.opcode, &instruction.operands);
        let has_result = opcode.base == Base::Atom;
        let first = usize::from(has_result);
        let addresses = self.get(number, &operands[first]);
        let sources: Vec<Lanes> = operands[first + 1..].iter().map(|operand| self.get(number, operand)).collect();
        let bytes = opcode.ty().bytes();
        let mut before = [0u64; WARP];
        // Threads of other cubes may run at the same time.
        let _guard = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
        for lane in lanes_of(mask) {
            let place = self.place(number, lane, opcode.space, addresses[lane], bytes)?;
            before[lane] = read(place, bytes);
            let after = alu::changed(opcode, before[lane], &sources.iter().map(|s| s[lane]).collect::<Vec<_>>())?;
            write(place, bytes, after);
        }
        if has_result {
            self.put(number, &operands[0], &before, mask);
        }
        Ok(())
    }

    fn shuffle(&mut self, number: usize, instruction: &Instruction, mask: u32) -> Result<(), String> {
        let (opcode, operands) = (&instruction.opcode, &instruction.operands);
        let [values, offsets, clamps] = [1, 2, 3].map(|index| self.get(number, &operands[index]));
        let mut result = values;
        let mut valid = [0u64; WARP];
        for lane in lanes_of(mask) {
            let (offset, clamp) = (offsets[lane] as usize & 31, clamps[lane] as usize);
            let (clamp, segment) = (clamp & 31, clamp >> 8 & 31);
            let most = (lane & segment) | (clamp & !segment);
            let least = lane & segment;
            let (source, is_valid) = if opcode.has("up") {
                (lane.wrapping_sub(offset), lane >= offset + most)
            } else if opcode.has("down") {
                (lane + offset, lane + offset <= most)
            } else if opcode.has("bfly") {
                (lane ^ offset, lane ^ offset <= most)
            } else {
                let source = least | (offset & !segment);
                (source, source <= most)
            };
            let source = if is_valid { source } else { lane };
            if mask >> source & 1 == 0 {
                return Err(format!("thread {lane} reads thread {source}, which does not take part"));
            }
            result[lane] = values[source];
            valid[lane] = u64::from(is_valid);
        }
        match &operands[0] {
            Operand::Pair(target, predicate) => {
                self.put(number, target, &result, mask);
                self.put(number, predicate, &valid, mask);
            }
            target => self.put(number, target, &result, mask),
        }
        Ok(())
    }

    fn vote(&mut self, number: usize, instruction: &Instruction, mask: u32) {
        let (opcode, operands) = (&instruction.opcode, &instruction.operands);
        let values = self.get(number, &operands[1]);
        let set = lanes_of(mask).filter(|&lane| values[lane] & 1 == 1).fold(0u32, |m, lane| m | 1 << lane);
        let result = if opcode.has("ballot") {
            u64::from(set)
        } else if opcode.has("any") {
            u64::from(set != 0)
        } else if opcode.has("all") {
            u64::from(set == mask)
        } else {
            u64::from(set == 0 || set == mask)
        };
        self.put(number, &operands[0], &[result; WARP], mask);
    }

    /// Moves between one register and the parts of a vector.
    fn repack(&mut self, number: usize, instruction: &Instruction, mask: u32) -> Result<(), String> {
        let operands = &instruction.operands;
        let bits = instruction.opcode.ty().bits();
        if bits > 64 {
            return Err("registers of 128 bits are not supported".to_owned());
        }
        match (&operands[0], &operands[1]) {
            (Operand::Vector(parts), source) => {
                let values = self.get(number, source);
                let part = bits / parts.len() as u32;
                for (index, target) in parts.iter().enumerate() {
                    let low = values.map(|value| alu::low(value >> (index as u32 * part), part));
                    self.put(number, target, &low, mask);
                }
            }
            (target, Operand::Vector(parts)) => {
                let part = bits / parts.len() as u32;
                let mut result = [0u64; WARP];
                for (index, source) in parts.iter().enumerate() {
                    let values = self.get(number, source);
                    for lane in 0..WARP {
                        result[lane] |= alu::low(values[lane], part) << (index as u32 * part);
                    }
                }
                self.put(number, target, &result, mask);
            }
            _ => unreachable!("one side is a vector"),
        }
        Ok(())
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

fn read(from: *const u8, bytes: usize) -> u64 {
    let mut value = [0; 8];
    // SAFETY: the caller has checked the place, of at most eight bytes.
    unsafe { from.copy_to(value.as_mut_ptr(), bytes.min(8)) };
    u64::from_le_bytes(value)
}

fn write(to: *mut u8, bytes: usize, value: u64) {
    // SAFETY: the caller has checked the place, of at most eight bytes.
    unsafe { to.copy_from(value.to_le_bytes().as_ptr(), bytes.min(8)) };
}
