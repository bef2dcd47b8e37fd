//! Instructions by which the threads of a warp exchange values.

use super::{Cube, Next, WARP, lanes_of, mask_of};
use crate::kernel::{Base, Instruction, Operand};

impl Cube<'_> {
    /// Runs an instruction once all threads that its mask of members lists have reached it, but for those that ended.
    pub(super) fn exchange(&mut self, number: usize, instruction: &Instruction, mask: u32) -> Result<Next, String> {
        let Some(operand) = instruction.operands.last() else { return Err("no mask of members".to_owned()) };
        let masks = self.get(number, operand);
        let first = mask.trailing_zeros() as usize;
        let members = masks[first] as u32;
        if let Some(other) = lanes_of(mask).find(|&lane| masks[lane] as u32 != members) {
            return Err(format!(
                "threads {first} and {other} of the warp with different members, {members:#x} and {:#x}, are not supported",
                masks[other] as u32
            ));
        }
        if mask & !members != 0 {
            return Err(format!("threads {:#x} of the warp are not among the members {members:#x}", mask & !members));
        }
        if members & self.warps[number].alive & !mask != 0 {
            return Ok(Next::Park);
        }
        match instruction.opcode.base {
            Base::Shfl => self.shuffle(number, instruction, mask)?,
            Base::Vote => self.vote(number, instruction, mask),
            Base::Elect => {
                let leader = mask.trailing_zeros();
                let is_leader = std::array::from_fn(|lane| u64::from(lane as u32 == leader));
                if let Operand::Pair(lane, predicate) = &instruction.operands[0] {
                    self.put(number, lane, &[u64::from(leader); WARP], mask);
                    self.put(number, predicate, &is_leader, mask);
                }
            }
            // A barrier of the warp.
            _ => {}
        }
        Ok(Next::Step)
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
        let set = mask_of(mask, |lane| values[lane] & 1 == 1);
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
}
