//! Choice of the number of crops at a time for `train.micro_batch = "auto"`.

use anyhow::Context as _;
use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::ranks::Rank;
use super::running::Place;
use crate::cli::RunArgs;
use crate::config::{MicroBatch, RunConfig as _};
use crate::distributed::JoinError;
use crate::training::{Resume, Task, saved_config};

/// Facts of a rank that the choice depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Facts {
    /// The run has begun: the number in its configuration, absent for the whole batch. That of rank 0 counts.
    Recorded(Option<MicroBatch>),
    /// The run begins: bytes of memory that are free.
    Free(u64),
}

/// Returns `train.micro_batch` with `"auto"` replaced by a number. A run that has begun keeps the number that it began
/// with. All ranks take the same one, which fits into the memory of each.
///
/// # Errors
/// If the free memory of the device is not known, the configuration of the run cannot be read, or a rank failed.
pub(super) fn settle<T: Task>(
    task: &T,
    rank: &Rank,
    args: &RunArgs,
    place: &Place,
) -> anyhow::Result<Option<MicroBatch>> {
    let config = task.config();
    if config.train().micro_batch != Some(MicroBatch::Auto) {
        return Ok(config.train().micro_batch);
    }
    let own = if place.resume == Resume::Begin {
        Facts::Free(free_memory(rank, args)?)
    } else if rank.is_first() {
        let saved = saved_config::<T::Config>(&place.run_dir, T::KIND, place.resume)?;
        Facts::Recorded(saved.train().micro_batch)
    } else {
        Facts::Recorded(None)
    };
    let all = match &rank.group {
        Some(group) => group.gather(&own).map_err(JoinError::from)?.values,
        None => vec![own],
    };
    let free = match agreed(&all) {
        Facts::Recorded(recorded) => return Ok(recorded),
        Facts::Free(free) => free,
    };
    // A batch that ranks cannot share evenly is refused later.
    let crops = (config.stream().crops_per_batch() / rank.share().1).max(1);
    let (kept, precision) = (task.kept_values(args.gradient_checkpointing), config.train().precision);
    let fitting = kept.fitting(crops, precision, free);
    let chosen = fitting.unwrap_or(1);
    let expected = kept.expected_bytes(chosen, precision);
    let line = choice_line(chosen, crops, expected, free);
    if fitting.is_some() {
        rank.print(line)?;
    } else {
        rank.note(format_args!("warning: {line}, nine tenths of which may be filled: memory may run out"));
    }
    Ok(Some(MicroBatch::Crops(chosen)))
}

/// Facts of all ranks together: the number that rank 0 has recorded, or the memory that each of them has at least.
fn agreed(all: &[Facts]) -> Facts {
    let free = |facts: &Facts| if let Facts::Free(free) = facts { Some(*free) } else { None };
    match all[0] {
        Facts::Recorded(recorded) => Facts::Recorded(recorded),
        Facts::Free(own) => Facts::Free(all.iter().filter_map(free).min().unwrap_or(own)),
    }
}

/// Free memory of this rank's device, in bytes. On a CPU, the loader's buffers take theirs from it.
fn free_memory(rank: &Rank, args: &RunArgs) -> anyhow::Result<u64> {
    let free = rank.free_memory().with_context(|| {
        format!(
            "train.micro_batch: \"auto\" needs the free memory of {}, which is not known; give a number of crops, or leave \
             it out for the whole batch",
            rank.compute
        )
    })?;
    let loader = if rank.compute.is_cpu() { rank.memory_bytes(args.memory.as_u64()) } else { 0 };
    Ok(free.saturating_sub(loader))
}

/// One line that names the choice and its reason.
fn choice_line(chosen: usize, crops: usize, expected: u64, free: u64) -> String {
    let size = |bytes: u64| ByteSize(bytes).display().si();
    format!(
        "train.micro_batch = {chosen} (auto): {chosen} of {crops} crops at a time are expected to take {} of {} that are free",
        size(expected),
        size(free)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_agree_on_the_record_of_the_first_or_on_the_least_memory() {
        assert_eq!(agreed(&[Facts::Free(7)]), Facts::Free(7));
        assert_eq!(agreed(&[Facts::Free(7), Facts::Free(3), Facts::Recorded(None)]), Facts::Free(3));
        let recorded = Facts::Recorded(Some(MicroBatch::Crops(2)));
        assert_eq!(agreed(&[recorded, Facts::Recorded(None), Facts::Free(3)]), recorded);
    }

    #[test]
    fn choice_names_its_reason() {
        assert_eq!(
            choice_line(48, 192, 21_300_000_000, 39_000_000_000),
            "train.micro_batch = 48 (auto): 48 of 192 crops at a time are expected to take 21.3 GB of 39.0 GB that are free"
        );
    }
}
