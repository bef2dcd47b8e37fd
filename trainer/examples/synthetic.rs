//! Times the trainer alone: trains a preset on synthetic batches, without shards or loader, and prints the time of each
//! stage.
//!
//!     cargo run --release -p hiend-trainer --example synthetic -- tiny 20
//!
//! The run's folder is temporary. The remaining wait for data is the time to compute the waves, not the loader's.

use hiend_trainer::config::pretrain::PretrainPreset;
use hiend_trainer::device::{Compute, DeviceChoice, settle_default};
use hiend_trainer::pretrain::pretrain;
use hiend_trainer::report::console::Console;
use hiend_trainer::testing::SyntheticStream;
use hiend_trainer::training::TrainOptions;

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_else(|| "tiny".into());
    let steps = args.next().map_or(Ok(20), |text| text.parse())?;
    let Some(preset) = PretrainPreset::ALL.into_iter().find(|preset| preset.name() == name) else {
        anyhow::bail!("no preset {name}");
    };
    let compute = Compute::open(DeviceChoice::Auto)?;
    settle_default(&compute)?;
    let config = preset.config();
    let stream = SyntheticStream {
        seed: config.train.seed,
        crop_size: config.stream.crop_size,
        crops: config.stream.crops_per_visit * config.stream.visits_per_batch,
        steps_per_epoch: 100,
    };
    let run_dir = std::env::temp_dir().join(format!("hiend-synthetic-{}", std::process::id()));
    let options = TrainOptions { max_steps: Some(steps), ..TrainOptions::new(&run_dir) };
    let mut console = Console::new(std::io::stdout(), 5);
    let run = pretrain(&config, stream.stream(), &compute, &options, &mut |event| console.event(event));
    std::fs::remove_dir_all(&run_dir)?;
    run?;
    Ok(())
}
