//! Control flow of a kernel: which of two groups of diverged threads runs first, so that they meet again.
//!
//! A device lets diverged threads meet where their paths join again. Here the group that can still reach the other's place in
//! the same turn of all loops runs first, or in any turn; of two that reach each other, the one within the inner loop.

use crate::kernel::{Base, Instruction, Operand};

/// Blocks of instructions without jumps, and how they follow each other.
#[derive(Default)]
pub(crate) struct Flow {
    /// The block of each instruction.
    block_of: Vec<usize>,
    /// True for each block that can be reached from a block, by both; then without beginning another turn of a loop.
    reaches: [Vec<Vec<bool>>; 2],
    /// Number of loops around each block.
    depth: Vec<usize>,
}

impl Flow {
    pub(crate) fn of(code: &[Instruction]) -> Self {
        let mut is_first = vec![false; code.len() + 1];
        is_first[0] = true;
        let target = |instruction: &Instruction| match (instruction.opcode.base, instruction.operands.first()) {
            (Base::Bra, Some(Operand::Target(target))) => Some(*target),
            _ => None,
        };
        let ends = |instruction: &Instruction| matches!(instruction.opcode.base, Base::Ret | Base::Exit | Base::Trap);
        for (at, instruction) in code.iter().enumerate() {
            if let Some(target) = target(instruction) {
                is_first[target] = true;
            }
            if target(instruction).is_some() || ends(instruction) {
                is_first[at + 1] = true;
            }
        }
        let block_of: Vec<usize> = is_first[..code.len()]
            .iter()
            .scan(0, |count, &first| {
                *count += usize::from(first);
                Some(*count - 1)
            })
            .collect();
        let num_blocks = block_of.last().map_or(0, |last| last + 1);
        let mut next = vec![Vec::new(); num_blocks];
        for (at, instruction) in code.iter().enumerate() {
            if at + 1 < code.len() && !is_first[at + 1] {
                continue;
            }
            let own = &mut next[block_of[at]];
            own.extend(target(instruction).map(|target| block_of[target]));
            let goes_on = instruction.guard.is_some() || target(instruction).is_none() && !ends(instruction);
            if goes_on && at + 1 < code.len() {
                own.push(block_of[at + 1]);
            }
        }
        let from = |next: &[Vec<usize>], start: usize, without: Option<usize>| {
            let mut seen = vec![false; num_blocks];
            let mut left: Vec<usize> = if Some(start) == without { vec![] } else { next[start].clone() };
            while let Some(block) = left.pop() {
                if Some(block) != without && !std::mem::replace(&mut seen[block], true) {
                    left.extend(&next[block]);
                }
            }
            seen
        };
        let reaches: Vec<Vec<bool>> = (0..num_blocks).map(|block| from(&next, block, None)).collect();
        let mut forward = next.clone();
        // A block dominates those that are not reached from the first without it.
        let mut depth = vec![0; num_blocks];
        for header in (0..num_blocks).filter(|&block| reaches[block][block]) {
            let without = from(&next, 0, Some(header));
            let is_dominated = |block: usize| block == header || header == 0 || block != 0 && !without[block];
            let ends_of_turns: Vec<usize> =
                (0..num_blocks).filter(|&block| next[block].contains(&header) && is_dominated(block)).collect();
            if ends_of_turns.is_empty() {
                continue;
            }
            ends_of_turns.iter().for_each(|&end| forward[end].retain(|&to| to != header));
            for (block, depth) in depth.iter_mut().enumerate() {
                let is_inside = block == header || ends_of_turns.contains(&block) || {
                    let seen = from(&next, block, Some(header));
                    is_dominated(block) && ends_of_turns.iter().any(|&end| seen[end])
                };
                *depth += usize::from(is_inside);
            }
        }
        let in_this_turn = (0..num_blocks).map(|block| from(&forward, block, None)).collect();
        Self { block_of, reaches: [reaches, in_this_turn], depth }
    }

    /// True if threads at one instruction run before those at another.
    pub(crate) fn is_before(&self, one: u32, other: u32) -> bool {
        let [a, b] = [one, other].map(|at| self.block_of[at as usize]);
        let [in_any_turn, in_this_turn] = [0, 1].map(|kind| (self.reaches[kind][a][b], self.reaches[kind][b][a]));
        if in_this_turn.0 != in_this_turn.1 {
            in_this_turn.0
        } else if in_any_turn.0 != in_any_turn.1 {
            in_any_turn.0
        } else if self.depth[a] != self.depth[b] {
            self.depth[a] > self.depth[b]
        } else {
            one < other
        }
    }

    /// True if an instruction is the first of its block.
    pub(crate) fn is_first(&self, at: u32) -> bool {
        at == 0 || self.block_of[at as usize] != self.block_of[at as usize - 1]
    }
}
