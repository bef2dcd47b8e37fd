//! Steps and predictions of `tiny`'s UNETR.

use burn::optim::GradientsParams;
use burn::tensor::{Tensor, TensorData};
use hiend_trainer::config::RunConfig as _;
use hiend_trainer::config::finetune::{FinetuneConfig, FinetunePreset};
use hiend_trainer::device::Compute;
use hiend_trainer::inference::predict_windows;
use hiend_trainer::label_space::LabelSpace;
use hiend_trainer::loss::class_map::ClassMap;
use hiend_trainer::loss::dice_ce::dice_ce;
use hiend_trainer::model::init::WeightInit;

use super::peer::{Measured, Peer};
use super::{Cli, least, lesser};

const NUM_CLASSES: usize = 14;

fn config() -> anyhow::Result<FinetuneConfig> {
    let mut config = FinetunePreset::Tiny.config();
    config.classes = (0..NUM_CLASSES).map(|class| class.to_string()).collect();
    config.validate("tiny")?;
    Ok(config)
}

fn image(size: [usize; 3]) -> Vec<f32> {
    (0..size.iter().product::<usize>()).map(|at| (at as f32 * 0.37).sin()).collect()
}

/// Steps with one crop that stays in memory, loss and optimizer included.
pub(super) fn finetune(cli: &Cli, peer: Option<&Peer>) -> anyhow::Result<()> {
    let config = config()?;
    let unetr = config.unetr();
    let compute = Compute::cpu();
    let mut model = Some(unetr.init(&mut WeightInit::new(0, &compute.autodiff())));
    let mut optimizer = config.optim.init(model.as_ref().expect("just made"));
    let [x, y, z] = unetr.crop_size;
    let images = Tensor::<5>::from_data(TensorData::new(image(unetr.crop_size), [1, 1, x, y, z]), compute.raw());
    let labels: Vec<u8> = (0..x * y * z).map(|at| (at / 50 % NUM_CLASSES) as u8).collect();
    let labels = ClassMap::upload(&labels, 1, unetr.crop_size, LabelSpace::new(NUM_CLASSES), compute.raw())?;
    let mut step = || {
        let before = model.take().expect("put back below");
        let loss = dice_ce(before.forward(images.clone()), &labels).total();
        let grads = GradientsParams::from_grads(loss.backward(), &before);
        model = Some(optimizer.step(config.optim.lr, before, grads));
    };
    compare(&of_unetr("step of tiny's UNETR, one crop of 96³", "finetune", cli), cli, peer, &mut step)
}

/// Predictions of one window, from host memory to host memory.
pub(super) fn predict(cli: &Cli, peer: Option<&Peer>) -> anyhow::Result<()> {
    let unetr = config()?.unetr();
    let compute = Compute::cpu();
    let model = unetr.init(&mut WeightInit::new(0, compute.raw()));
    let window = image(unetr.crop_size);
    let mut failure = None;
    let mut predict = || {
        if let Err(error) = predict_windows(&model, compute.raw(), unetr.crop_size, &window, 1) {
            failure = Some(error);
        }
    };
    compare(&of_unetr("prediction of one window of 96³", "predict", cli), cli, peer, &mut predict)?;
    failure.map_or(Ok(()), |error| Err(error.into()))
}

/// A measured piece of work, with the script that measures the peer.
pub(super) struct Pair<'a> {
    pub(super) what: &'a str,
    /// Name in `benches/peers`.
    pub(super) script: &'a str,
    pub(super) arguments: Vec<String>,
    /// The peer's model, in words.
    pub(super) name: &'a str,
}

/// Describes a case of UNETR.
fn of_unetr<'a>(what: &'a str, case: &str, cli: &Cli) -> Pair<'a> {
    let arguments = std::iter::once(case).chain(cli.monai.then_some("--monai")).map(str::to_owned).collect();
    let name = if cli.monai { "MONAI's UNETR" } else { "the same network" };
    Pair { what, script: "torch_unetr.py", arguments, name }
}

/// Measures this project before and after the peer, and prints one line.
pub(super) fn compare(
    pair: &Pair<'_>,
    cli: &Cli,
    peer: Option<&Peer>,
    function: &mut dyn FnMut(),
) -> anyhow::Result<()> {
    let Pair { what, script, arguments, name } = pair;
    let half = cli.rounds.div_ceil(2);
    let before = least(half, &mut *function);
    let theirs: Option<Measured<[f64; 2]>> = peer.map(|peer| peer.measure(script, arguments)).transpose()?;
    let ours = lesser(before, least(half, &mut *function));
    let mib = peak_bytes()? >> 20;
    print!("{what}: {:.2} s ({:.2} s of CPU), at most {mib} MiB so far", ours.wall_secs, ours.cpu_secs);
    if let Some(theirs) = theirs {
        let ([wall, cpu], mib) = (theirs.secs, theirs.peak_bytes >> 20);
        print!(
            "; {name} in PyTorch {}: {wall:.2} s ({cpu:.2} s of CPU), {mib} MiB; ratio {:.2} ({:.2})",
            theirs.torch,
            ours.wall_secs / wall,
            ours.cpu_secs / cpu
        );
    }
    println!();
    Ok(())
}

/// Peak of this process's resident memory.
fn peak_bytes() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kib.ok_or_else(|| anyhow::anyhow!("/proc/self/status has no VmHWM"))?.trim().parse::<u64>()? * 1024)
}
