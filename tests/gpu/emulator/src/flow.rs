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
        let block_of = blocks(code);
        let graph = Graph::of(code, &block_of);
        let count = graph.next.len();
        let reaches: Vec<Vec<bool>> = (0..count).map(|block| graph.reached_from(block, None)).collect();
        let mut forward = Graph { next: graph.next.clone() };
        let mut depth = vec![0; count];
        for header in (0..count).filter(|&block| reaches[block][block]) {
            let Some((inside, ends_of_turns)) = graph.natural_loop(header) else { continue };
            for end in ends_of_turns {
                forward.next[end].retain(|&to| to != header);
            }
            for (depth, is_inside) in depth.iter_mut().zip(inside) {
                *depth += usize::from(is_inside);
            }
        }
        let in_this_turn = (0..count).map(|block| forward.reached_from(block, None)).collect();
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

/// The instruction that a branch names.
fn target(instruction: &Instruction) -> Option<usize> {
    match (instruction.opcode.base, instruction.operands.first()) {
        (Base::Bra, Some(Operand::Target(target))) => Some(*target),
        _ => None,
    }
}

fn ends(instruction: &Instruction) -> bool {
    matches!(instruction.opcode.base, Base::Ret | Base::Exit | Base::Trap)
}

/// The block of each instruction: blocks begin where branches lead, and after them.
fn blocks(code: &[Instruction]) -> Vec<usize> {
    let mut is_first = vec![false; code.len() + 1];
    is_first[0] = true;
    for (at, instruction) in code.iter().enumerate() {
        if let Some(target) = target(instruction) {
            is_first[target] = true;
        }
        is_first[at + 1] |= target(instruction).is_some() || ends(instruction);
    }
    let numbers = is_first[..code.len()].iter().scan(0, |count, &first| {
        *count += usize::from(first);
        Some(*count - 1)
    });
    numbers.collect()
}

/// The blocks that follow each block.
struct Graph {
    next: Vec<Vec<usize>>,
}

impl Graph {
    fn of(code: &[Instruction], block_of: &[usize]) -> Self {
        let mut next = vec![Vec::new(); block_of.last().map_or(0, |last| last + 1)];
        for (at, instruction) in code.iter().enumerate() {
            let following = block_of.get(at + 1);
            if following == Some(&block_of[at]) {
                continue;
            }
            let own = &mut next[block_of[at]];
            own.extend(target(instruction).map(|target| block_of[target]));
            if instruction.guard.is_some() || target(instruction).is_none() && !ends(instruction) {
                own.extend(following);
            }
        }
        Self { next }
    }

    /// True for each block that is reached from another by one step or more, not passing through the block `without`.
    fn reached_from(&self, start: usize, without: Option<usize>) -> Vec<bool> {
        let mut seen = vec![false; self.next.len()];
        let mut left = if Some(start) == without { vec![] } else { self.next[start].clone() };
        while let Some(block) = left.pop() {
            if Some(block) != without && !std::mem::replace(&mut seen[block], true) {
                left.extend(&self.next[block]);
            }
        }
        seen
    }

    /// The loop that a block begins: for each block whether it is inside, and the blocks that lead to another turn.
    /// `None` if no loop begins there.
    fn natural_loop(&self, header: usize) -> Option<(Vec<bool>, Vec<usize>)> {
        let blocks = 0..self.next.len();
        // A block dominates those that are not reached from the first without it.
        let without = self.reached_from(0, Some(header));
        let is_dominated = |block: usize| block == header || header == 0 || block != 0 && !without[block];
        let leads_back = |block: usize| self.next[block].contains(&header) && is_dominated(block);
        let ends_of_turns: Vec<usize> = blocks.clone().filter(|&block| leads_back(block)).collect();
        let is_inside = |block: usize| {
            let reaches_end = || {
                let seen = self.reached_from(block, Some(header));
                ends_of_turns.iter().any(|&end| seen[end])
            };
            block == header || ends_of_turns.contains(&block) || is_dominated(block) && reaches_end()
        };
        (!ends_of_turns.is_empty()).then(|| (blocks.map(is_inside).collect(), ends_of_turns.clone()))
    }
}
