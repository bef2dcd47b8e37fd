//! `hiend-shard replay`: one batch of a stream made again, with the origin and augmentation of its crops.

use std::process::ExitCode;

use anyhow::Context as _;

use super::stream;
use super::table::Table;
use crate::case::shown;
use crate::cli;
use crate::program::{check_extension, check_output_file, note, print};
use crate::replay::{Replay, contact_sheet};

pub(super) fn run(args: &cli::Replay) -> anyhow::Result<ExitCode> {
    if let Some(path) = &args.png {
        check_extension(path, "png")?;
        check_output_file(path)?;
    }
    let loader = stream::open(std::slice::from_ref(&args.cache), &[], &args.options)?;
    let batch = loader.stream(args.step).next().context("the stream has no such step")??;
    let replay = Replay::of(&batch);
    if args.json {
        print(serde_json::to_string(&replay)?)?;
        for crop in replay.crops {
            print(serde_json::to_string(crop)?)?;
        }
    } else {
        let mut table = Table::bordered().with_header(["", "case", "epoch", "crop", "origin", "augmentation"]);
        for (number, crop) in replay.crops.iter().enumerate() {
            let [x, y, z] = crop.origin;
            table.row([
                number.to_string(),
                crop.case.clone(),
                crop.epoch.to_string(),
                crop.crop.to_string(),
                format!("{x}, {y}, {z}"),
                crop.augmentation.join("; "),
            ]);
        }
        print(table.align_right([0, 2, 3]).in_two_lines([4]))?;
        print(format_args!("step {}, digest {}, shape {:?}", replay.step, replay.digest, replay.shape))?;
    }
    if let Some(path) = &args.png {
        let failed = || format!("{}: cannot write the picture", shown(path));
        contact_sheet(&batch, loader.units()).write_png(path).with_context(failed)?;
        note(format_args!("picture: {}", shown(path)));
    }
    Ok(ExitCode::SUCCESS)
}
