//! Choice of the number of crops computed at a time for `train.micro_batch = "auto"`.

use anyhow::Context as _;
use bytesize::ByteSize;
use hiend_cache::lease::host_name;
use serde::{Deserialize, Serialize};

use super::ranks::Rank;
use super::running::Place;
use crate::cli::RunArgs;
use crate::config::{MicroBatch, RunConfig as _};
use crate::distributed::JoinError;
use crate::training::{Resume, Task, saved_config};

/// Facts of a rank on which the choice depends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Facts {
    /// The run has begun, or the rank's configuration states a number: that number, absent for the whole batch. The
    /// number of rank 0 is used.
    Recorded(Option<MicroBatch>),
    /// The run has begun, and the rank's configuration leaves the number to rank 0.
    LeftToFirst,
    /// The run is new: free memory.
    Free {
        /// Free memory of the device, in bytes.
        bytes: u64,
        /// Name of the host whose ranks share this memory; absent for a device that a rank does not share.
        host: Option<String>,
        /// Bytes that the loader's buffers of this rank take from its share of the memory.
        loader_bytes: u64,
    },
}

/// Basis of the choice on which all ranks agree.
#[derive(Debug, PartialEq, Eq)]
enum Agreed {
    /// Number recorded by rank 0.
    Recorded(Option<MicroBatch>),
    /// Bytes of free memory that every rank has at least.
    Free(u64),
}

/// Replaces `"auto"` in `train.micro_batch` by a number and returns it. A run that has begun keeps its number. All
/// ranks use the same number, which fits into the memory of each.
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
    let given = config.train().micro_batch;
    let is_auto = given == Some(MicroBatch::Auto);
    let own = if is_auto { facts::<T>(rank, args, place)? } else { Facts::Recorded(given) };
    // Ranks with a number of their own take part, too: one that differs is named when configurations are compared.
    let all = match &rank.group {
        Some(group) => group.gather(&own).map_err(JoinError::from)?.values,
        None => vec![own],
    };
    if !is_auto {
        if let Some(line) = disagreement_line(given, &all) {
            rank.note(format_args!("warning: {line}"));
        }
        return Ok(given);
    }
    let free = match agreed(&all) {
        Agreed::Recorded(recorded) => return Ok(recorded),
        Agreed::Free(free) => free,
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

/// Facts of a rank whose configuration says `"auto"`.
fn facts<T: Task>(rank: &Rank, args: &RunArgs, place: &Place) -> anyhow::Result<Facts> {
    if place.resume == Resume::Begin {
        return free_memory(rank, args);
    }
    if !rank.is_first() {
        return Ok(Facts::LeftToFirst);
    }
    let saved = saved_config::<T::Config>(&place.run_dir, T::KIND, place.resume)?;
    Ok(Facts::Recorded(saved.train().micro_batch))
}

/// One line on ranks whose configuration says `"auto"` where that of rank 0 has the number `given`, which they take.
fn disagreement_line(given: Option<MicroBatch>, all: &[Facts]) -> Option<String> {
    let is_auto = |(_, facts): &(usize, &Facts)| !matches!(facts, Facts::Recorded(_));
    let ranks: Vec<String> = all.iter().enumerate().filter(is_auto).map(|(rank, _)| rank.to_string()).collect();
    let (noun, verb) = match ranks.len() {
        0 => return None,
        1 => ("rank", "takes"),
        _ => ("ranks", "take"),
    };
    let given =
        given.and_then(MicroBatch::crops).map_or_else(|| "the whole batch".to_owned(), |crops| crops.to_string());
    Some(format!(
        "train.micro_batch: \"auto\" on {noun} {}, which {verb} that of rank 0: {given}; give all ranks the same configuration",
        ranks.join(", ")
    ))
}

/// Combines the facts of all ranks: the number recorded by rank 0, or the smallest free memory of any rank.
fn agreed(all: &[Facts]) -> Agreed {
    match &all[0] {
        Facts::Recorded(recorded) => Agreed::Recorded(*recorded),
        // Rank 0 has no other rank to leave the number to.
        Facts::LeftToFirst => Agreed::Recorded(None),
        Facts::Free { .. } => Agreed::Free(all.iter().filter_map(|own| share(own, all)).min().unwrap_or(0)),
    }
}

/// Bytes of free memory that the rank with the facts `own` may fill: an equal part of the memory shared by `all` ranks
/// of its host.
fn share(own: &Facts, all: &[Facts]) -> Option<u64> {
    let Facts::Free { bytes, host, loader_bytes } = own else { return None };
    let is_sharing =
        |other: &&Facts| matches!(other, Facts::Free { host: Some(theirs), .. } if Some(theirs) == host.as_ref());
    let num_sharing = all.iter().filter(is_sharing).count().max(1);
    Some((bytes / num_sharing as u64).saturating_sub(*loader_bytes))
}

/// Free memory of this rank's device. On a CPU all ranks of the host share it, however they were started, because the
/// system and a job's control group count memory per host. The loader's buffers are taken from it.
fn free_memory(rank: &Rank, args: &RunArgs) -> anyhow::Result<Facts> {
    let bytes = rank.compute.free_memory().with_context(|| {
        format!(
            "train.micro_batch: \"auto\" needs the free memory of {}, which is not known; give a number of crops, or leave \
             it out for the whole batch",
            rank.compute
        )
    })?;
    Ok(if rank.compute.is_cpu() {
        Facts::Free { bytes, host: Some(host_name()), loader_bytes: rank.memory_bytes(args.memory.as_u64()) }
    } else {
        Facts::Free { bytes, host: None, loader_bytes: 0 }
    })
}

/// Message with the choice and its reason, in one line.
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

    fn free(bytes: u64, host: Option<&str>) -> Facts {
        Facts::Free { bytes, host: host.map(str::to_owned), loader_bytes: 0 }
    }

    #[test]
    fn ranks_agree_on_the_record_of_the_first_or_on_the_least_memory() {
        assert_eq!(agreed(&[free(7, None)]), Agreed::Free(7));
        assert_eq!(agreed(&[free(7, None), free(3, None), Facts::Recorded(None)]), Agreed::Free(3));
        let recorded = Some(MicroBatch::Crops(2));
        let all = [Facts::Recorded(recorded), Facts::LeftToFirst, free(3, None)];
        assert_eq!(agreed(&all), Agreed::Recorded(recorded));
    }

    #[test]
    fn ranks_that_take_the_number_of_the_first_in_place_of_auto_are_told() {
        let number = Some(MicroBatch::Crops(2));
        let line = |given, others: &[Facts]| {
            let all: Vec<Facts> = std::iter::once(Facts::Recorded(given)).chain(others.iter().cloned()).collect();
            disagreement_line(given, &all)
        };
        let expected = "train.micro_batch: \"auto\" on rank 2, which takes that of rank 0: 2; give all ranks the same configuration";
        assert_eq!(line(number, &[Facts::Recorded(number), free(3, None)]).as_deref(), Some(expected));
        let expected = "train.micro_batch: \"auto\" on ranks 1, 2, which take that of rank 0: the whole batch; give all ranks the \
                        same configuration";
        assert_eq!(line(None, &[Facts::LeftToFirst, free(3, None)]).as_deref(), Some(expected));
        assert_eq!(line(number, &[Facts::Recorded(number)]), None);
    }

    #[test]
    fn ranks_of_a_host_share_its_memory() {
        let all = [free(12, Some("a")), free(10, Some("b")), free(15, Some("a")), free(12, Some("a"))];
        let shares: Vec<_> = all.iter().map(|own| share(own, &all)).collect();
        assert_eq!(shares, [Some(4), Some(10), Some(5), Some(4)]);
        assert_eq!(agreed(&all), Agreed::Free(4));
        // Buffers of the loader are a rank's own.
        let rank = Facts::Free { bytes: 12, host: Some("a".into()), loader_bytes: 2 };
        assert_eq!(agreed(&[rank.clone(), rank]), Agreed::Free(4));
    }

    #[test]
    fn choice_names_its_reason() {
        assert_eq!(
            choice_line(48, 192, 21_300_000_000, 39_000_000_000),
            "train.micro_batch = 48 (auto): 48 of 192 crops at a time are expected to take 21.3 GB of 39.0 GB that are free"
        );
    }
}
