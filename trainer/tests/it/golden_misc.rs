//! Tests of loss, metric and sliding window against the reference (`misc*`).

use burn::tensor::{Device, Int, Tensor, TensorData};
use hiend_trainer::label_space::LabelSpace;
use hiend_trainer::loss::class_map::ClassMap;
use hiend_trainer::loss::dice_ce::dice_ce;
use hiend_trainer::metric::LabelMap;
use hiend_trainer::metric::dice::{dice_per_class, mean_dice};
use hiend_trainer::sliding_window::{InputVolume, SlidingWindow, SlidingWindowError};

use crate::golden::{Case, Comparisons, Golden, cases, relative_error};

fn compare(case: &Case, what: &str, got: &[f32], want: &Golden, tolerance: f64) {
    let mut comparison = Comparisons::default();
    comparison.check(case, what, relative_error(got, want), tolerance);
    comparison.finish();
}

fn dims5(shape: &[usize]) -> [usize; 5] {
    shape.try_into().expect("five axes")
}

fn labels(case: &Case) -> Vec<i64> {
    case.tensor("dice_ce/labels").values.iter().map(|&value| value as i64).collect()
}

#[test]
fn golden_dice_ce() {
    for case in cases("misc") {
        let device = Device::flex().autodiff();
        let logits = case.tensor("dice_ce/logits");
        let logits =
            Tensor::<5>::from_data(TensorData::new(logits.f32(), dims5(&logits.shape)), &device).require_grad();
        let shape = dims5(&case.tensor("dice_ce/labels").shape);
        let labels = Tensor::<5, Int>::from_data(TensorData::new(labels(&case), shape), &Device::flex());
        let labels = ClassMap::from_tensor(labels, LabelSpace::new(logits.dims()[1])).expect("labels are classes");
        let loss = dice_ce(logits.clone(), &labels).total();
        let value = loss.clone().into_scalar::<f32>();
        compare(&case, "dice_ce loss", &[value], case.tensor("dice_ce/loss"), 1e-6);
        let gradients = loss.backward();
        let gradient = logits.grad(&gradients).expect("a gradient").into_data().try_to_vec::<f32>().expect("f32");
        compare(&case, "dice_ce gradient", &gradient, case.tensor("dice_ce/grad_logits"), 1e-5);
    }
}

#[test]
fn golden_dice_metric() {
    for case in cases("misc") {
        let [num_cases, num_classes, x, y, z] = dims5(&case.tensor("dice_ce/logits").shape);
        let len = x * y * z;
        let logits = case.tensor("dice_ce/logits").f32();
        let labels: Vec<u8> = case.tensor("dice_ce/labels").values.iter().map(|&v| v as u8).collect();
        let per_case: Vec<Vec<f64>> = (0..num_cases)
            .map(|n| {
                let logits = &logits[n * num_classes * len..][..num_classes * len];
                let pred: Vec<u8> = (0..len)
                    .map(|i| {
                        (1..num_classes)
                            .fold(0, |best, c| if logits[c * len + i] > logits[best * len + i] { c } else { best })
                            as u8
                    })
                    .collect();
                let label = LabelMap::new(&labels[n * len..][..len], [x, y, z], [1.0; 3]).expect("label");
                let pred = LabelMap::new(&pred, [x, y, z], [1.0; 3]).expect("prediction");
                dice_per_class(&label, &pred, LabelSpace::new(num_classes)).expect("dice")
            })
            .collect();
        let want = &case.tensor("dice_metric/per_case_class").values;
        let got: Vec<f64> = per_case.iter().flatten().copied().collect();
        assert!(got.iter().zip(want).all(|(got, want)| got.is_nan() == want.is_nan()), "{}: absent classes", case.name);
        let present = |values: &[f64]| values.iter().copied().filter(|v| !v.is_nan()).collect::<Vec<_>>();
        let got: Vec<f32> = present(&got).iter().map(|&v| v as f32).collect();
        compare(&case, "dice per case and class", &got, &Golden { shape: vec![], values: present(want) }, 1e-6);
        compare(&case, "mean dice", &[mean_dice(&per_case) as f32], case.tensor("dice_metric/mean"), 1e-6);
    }
}

/// Returns `num` evenly spaced values from `from` to `to`, both included.
fn line(from: f64, to: f64, num: usize) -> Vec<f64> {
    (0..num).map(|i| from + (to - from) * i as f64 / (num - 1) as f64).collect()
}

#[test]
fn golden_sliding_window() {
    for case in cases("misc") {
        let settings = &case.settings["sliding"];
        let roi = usize::try_from(settings["roi"].as_u64().expect("a ROI")).expect("a size");
        let overlap = settings["overlap"].as_f64().expect("an overlap");
        let [along_x, along_y, along_z] = [line(0.5, 1.5, roi), line(2.0, 1.0, roi), line(0.0, 1.0, roi)];
        let mut ramp = Vec::new();
        for a in &along_x {
            for b in &along_y {
                ramp.extend(along_z.iter().map(|c| (a * b + 0.3 * c) as f32));
            }
        }
        let volume = case.tensor("sliding/volume");
        let [_, _, x, y, z] = dims5(&volume.shape);
        let values = volume.f32();
        for sw_batch_size in [1, 4] {
            let sliding = SlidingWindow::new([roi; 3], overlap, sw_batch_size).expect("windows");
            let got = sliding.collect(InputVolume::new(&values, 1, [x, y, z]).expect("volume"), |windows, _| {
                let two = windows.chunks_exact(ramp.len()).flat_map(|w| {
                    let product = w.iter().zip(&ramp).map(|(w, r)| w * r);
                    product.chain(w.iter().zip(&ramp).map(|(w, r)| w + r))
                });
                Ok::<_, SlidingWindowError>(two.collect())
            });
            let what = format!("sliding window, batch of {sw_batch_size}");
            compare(&case, &what, &got.expect("prediction"), case.tensor("sliding/output"), 1e-6);
        }
    }
}
