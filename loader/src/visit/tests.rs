use hiend_cache::{Cache, CodecPreset, Geometry, Manifest, NewCase, ShardWriter, SourceFiles, encode};

use super::*;
use crate::batch::VoxelForm;
use crate::preprocess::normalize::Units;
use crate::preprocess::window::Scale;
use crate::sampler::{CentrePick, Kind, SampleBy};
use crate::transform::{
    Chain, CropMut, CropRef, MirrorParams, RecipeParams, Rest, Rotate90Params, SampledParams, ScaleIntensityParams,
    Scratch, ShiftIntensityParams,
};

const WINDOW: [f64; 2] = [-175.0, 250.0];

#[expect(clippy::cast_possible_truncation, reason = "remainders fit")]
fn cache_of(shape: [usize; 3], chunk: usize) -> (tempfile::TempDir, Cache) {
    let num_voxels: usize = shape.iter().product();
    let image: Vec<u16> = (0..num_voxels).map(|i| (i * 7919 % 426) as u16).collect();
    let label: Vec<u8> = (0..num_voxels).map(|i| (i * 31 % 251) as u8).collect();
    let case = NewCase {
        dataset: "Dataset001_Test".into(),
        case_id: "a".into(),
        shape,
        image: &image,
        image_bits: 9,
        image_offset: WINDOW[0],
        image_scale: 1.0,
        foreground_above: 0,
        label: Some(&label),
        geometry: Geometry::identity(shape),
        source: SourceFiles::default(),
        parameters: String::new(),
    };
    let dir = tempfile::tempdir().unwrap();
    let mut writer = ShardWriter::create(dir.path(), 1, 0).unwrap();
    writer.push(encode(&case, [chunk; 3], CodecPreset::Fast).unwrap()).unwrap();
    writer.finish().unwrap();
    Manifest::default().write(dir.path()).unwrap();
    let cache = Cache::open(dir.path()).unwrap();
    (dir, cache)
}

/// Plan of a visit with this many crops.
fn plan(num_crops: usize, augment: Chain) -> VisitPlan {
    VisitPlan {
        crop_size: [24, 24, 21],
        num_crops,
        foreground_rate: 0.75,
        sample_by: SampleBy::Intensity,
        augment,
        units: Units::Window(WINDOW),
        seed: 3,
    }
}

/// Cuts one crop in the form `F` and finishes it; returns the slot's images and labels.
fn cut<F: CutForm>(
    case: &Case,
    crop_size: [usize; 3],
    origin: [i64; 3],
    params: SampledParams,
) -> (Vec<F::Voxel>, Vec<u8>, CropBox) {
    let mut visitor = Visitor::default();
    let index = visitor.reader.index(case).unwrap();
    let crop = CropPlan { params, origin, box_start: origin, box_shape: params.source_box(crop_size) };
    let cuts = Cut::all::<F>(vec![crop], Scale::new(1.0, WINDOW[0], WINDOW), index.grid.shape(), crop_size);
    let num_voxels = F::FORM.held_shape(&params, crop_size).iter().product();
    let (mut images, mut labels) = (vec![F::Voxel::default(); num_voxels], vec![9u8; num_voxels]);
    let mut slot = VisitSlot::<F> { images: &mut images, labels: Some(&mut labels) };
    visitor.copy_columns(case, &index, &cuts, &mut slot).unwrap();
    visitor.cutter.finish(&cuts, &mut slot);
    (images, labels, cuts[0].crop_box())
}

/// Cuts one crop of the recipe in each form and by [`RecipeParams::apply`] from the whole volume.
fn check(case: &Case, crop_size: [usize; 3], origin: [i64; 3], recipe: RecipeParams) {
    let params = SampledParams::Recipe(recipe);
    let box_shape = params.source_box(crop_size);
    let (floats, labels, crop) = cut::<Floats>(case, crop_size, origin, params);
    let dequantize = crop.dequantize();
    let (quantized, quantized_labels, _) = cut::<Quantized>(case, crop_size, origin, params);
    let dequantized: Vec<f32> = quantized.iter().map(|&value| dequantize.apply(value)).collect();
    let (boxed, boxed_labels, _) = cut::<Boxes>(case, crop_size, origin, params);

    let volume = case.read_whole(&mut VolumeReader::new()).unwrap();
    let (mut image, mut image_labels) = (Vec::new(), Vec::new());
    for i in 0..box_shape.iter().product() {
        let [_, ny, nz] = box_shape;
        let within = [i / (ny * nz), i / nz % ny, i % nz];
        let at: [Option<usize>; 3] = std::array::from_fn(|axis| {
            let at = usize::try_from(origin[axis] + i64::try_from(within[axis]).unwrap()).ok();
            at.filter(|at| *at < volume.shape[axis])
        });
        let at = if let [Some(x), Some(y), Some(z)] = at {
            Some((x * volume.shape[1] + y) * volume.shape[2] + z)
        } else {
            None
        };
        image.push(at.map_or(0, |at| volume.image[at]));
        image_labels.push(at.map_or(0, |at| volume.label.as_ref().unwrap()[at]));
    }
    assert!(boxed == image && boxed_labels == image_labels, "boxes, {crop_size:?} at {origin:?}");

    let source: Vec<f32> = image.iter().map(|&value| crop.scale.apply(value)).collect();
    let num_voxels = crop_size.iter().product();
    let (mut expected, mut expected_labels) = (vec![8f32; num_voxels], vec![8u8; num_voxels]);
    let source = CropRef { image: &source, labels: Some(&image_labels), shape: box_shape };
    let mut to = CropMut { image: &mut expected, labels: Some(&mut expected_labels), shape: crop_size };
    recipe.apply(source, &mut to);
    let bits = |voxels: &[f32]| voxels.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    assert!(bits(&floats) == bits(&expected), "floats, {crop_size:?} at {origin:?}: {recipe:?}");
    assert!(bits(&dequantized) == bits(&expected), "quantized, {crop_size:?} at {origin:?}: {recipe:?}");
    assert!(labels == expected_labels, "labels, {crop_size:?} at {origin:?}: {recipe:?}");
    assert!(quantized_labels == expected_labels, "quantized labels, {crop_size:?} at {origin:?}: {recipe:?}");
}

#[test]
fn every_form_equals_the_unfused_recipe_bit_for_bit() {
    let volumes = [
        // Larger than the crop, smaller, and larger along one axis only.
        ([40, 37, 50], [24, 24, 21], [3, 5, 7]),
        ([20, 19, 10], [24, 24, 21], [-2, -3, -5]),
        ([50, 11, 12], [24, 24, 6], [20, -6, 5]),
    ];
    for (shape, crop_size, origin) in volumes {
        let (_dir, cache) = cache_of(shape, 16);
        for code in 0..32u8 {
            let axes = [code & 1 != 0, code & 2 != 0, code & 4 != 0];
            for shifted in [false, true] {
                let recipe = RecipeParams {
                    flip: axes.contains(&true).then_some(MirrorParams { axes }),
                    rotate90: (code >> 3 != 0).then_some(Rotate90Params { turns: code >> 3 }),
                    scale_intensity: shifted.then_some(ScaleIntensityParams { factor: 1.07 }),
                    shift_intensity: shifted.then_some(ShiftIntensityParams { shift: -0.031 }),
                };
                check(&cache.cases()[0], crop_size, origin, recipe);
            }
        }
    }
}

/// In a whole visit, times add up, records and boxes name the crops, and a chunk shared by crops is decoded once.
#[test]
fn visit_reports_its_crops_and_its_work() {
    let (_dir, cache) = cache_of([40, 37, 50], 16);
    let case = &cache.cases()[0];
    let plan = plan(6, Chain::nnunet());
    let id = DrawId { seed: 3, epoch: 2, case: case_key(case.key()), crop: 0 };
    let held = plan.held_voxels(&id, VoxelForm::Boxes);
    let (mut images, mut labels) = (vec![0; held], vec![0; held]);
    let mut visitor = Visitor::default();
    assert_eq!(visitor.buffer_bytes(), 0);
    let mut slot = VisitSlot::<Boxes> { images: &mut images, labels: Some(&mut labels) };
    let visit = visitor.visit((case, None), 2, &plan, &mut slot).unwrap();
    assert!(visitor.buffer_bytes() > 0);
    let mut end = 0;
    for (number, (record, crop)) in (0..).zip(visit.records.iter().zip(&visit.crops)) {
        let params = plan.augment.sample_params(&DrawId { crop: number, ..id });
        assert_eq!((record.crop, record.epoch, record.case.as_str()), (number, 2, case.key()));
        assert_eq!(record.augmentation, params.describe());
        assert_eq!((crop.start, crop.shape, crop.params), (end, params.source_box(plan.crop_size), params));
        end = crop.range().end;
    }
    assert_eq!((end, visit.records.len()), (held, 6));

    // The work, counted chunk by chunk from the boxes.
    let index = visitor.reader.index(case).unwrap();
    let mut uses = vec![0u64; index.grid.num_chunks()];
    for (record, crop) in visit.records.iter().zip(&visit.crops) {
        let meets = |chunk: &usize| {
            let chunk = index.grid.chunk_box(*chunk);
            (0..3).all(|axis| {
                let signed = |n: usize| i64::try_from(n).unwrap();
                // A box has the centre of its crop.
                let more = signed(crop.shape[axis]) - signed(plan.crop_size[axis]);
                let start = record.origin[axis] - more.div_euclid(2);
                start < signed(chunk.end[axis]) && signed(chunk.start[axis]) < start + signed(crop.shape[axis])
            })
        };
        (0..uses.len()).filter(meets).for_each(|chunk| uses[chunk] += 1);
    }
    let times = visit.times;
    let chunks = 2 * uses.iter().filter(|&&n| n > 0).count() as u64;
    assert_eq!((times.chunks, times.chunk_hits), (chunks, 2 * uses.iter().sum::<u64>() - chunks));
    assert!(times.coded_bytes > 0 && times.decode_secs >= 0.0 && times.augment_secs >= 0.0);
}

/// A picked voxel is the one of its kind with that number in its chunk, z fastest.
#[test]
fn picked_voxels_are_counted_within_their_chunk() {
    const CLASS: u8 = 7;
    let (_dir, cache) = cache_of([20, 19, 21], 8);
    let case = &cache.cases()[0];
    let mut reader = VolumeReader::new();
    let index = reader.index(case).unwrap();
    let volume = case.read_whole(&mut VolumeReader::new()).unwrap();
    let labels = volume.label.unwrap();
    let mut num_found = 0;
    for chunk in 0..index.grid.num_chunks() {
        let region = index.grid.chunk_box(chunk);
        let mut nth = 0;
        for x in region.start[0]..region.end[0] {
            for y in region.start[1]..region.end[1] {
                for z in region.start[2]..region.end[2] {
                    if labels[(x * volume.shape[1] + y) * volume.shape[2] + z] == CLASS {
                        let pick = CentrePick { kind: Kind::Class(CLASS.into()), chunk, nth };
                        let located = Locator::default().locate(&mut reader, case, &index, &pick).unwrap();
                        assert_eq!(located, [x, y, z]);
                        nth += 1;
                    }
                }
            }
        }
        num_found += nth;
    }
    assert!(num_found > 20, "{num_found} voxels");
}

/// Crops of floats are the boxes of the same visit with the whole chain of nnU-Net applied, whether it resamples or not.
#[test]
fn crops_of_floats_are_boxes_after_the_chain() {
    let (_dir, cache) = cache_of([40, 37, 50], 16);
    let case = &cache.cases()[0];
    let plan = plan(12, Chain::nnunet());
    let id = DrawId { seed: 3, epoch: 2, case: case_key(case.key()), crop: 0 };
    let held = plan.held_voxels(&id, VoxelForm::Boxes);
    let (mut boxed, mut boxed_labels) = (vec![0; held], vec![0; held]);
    let mut visitor = Visitor::default();
    let mut slot = VisitSlot::<Boxes> { images: &mut boxed, labels: Some(&mut boxed_labels) };
    let visit = visitor.visit((case, None), 2, &plan, &mut slot).unwrap();

    let num_voxels: usize = plan.crop_size.iter().product();
    let (mut images, mut labels) = (vec![9f32; 12 * num_voxels], vec![9u8; 12 * num_voxels]);
    let buffers_before = visitor.buffer_bytes();
    let mut slot = VisitSlot::<Floats> { images: &mut images, labels: Some(&mut labels) };
    visitor.visit((case, None), 2, &plan, &mut slot).unwrap();
    assert!(visitor.buffer_bytes() >= buffers_before + plan.staged_bytes(&id, VoxelForm::Floats, true));

    let mut num_resampled = 0;
    for (number, crop) in visit.crops.iter().enumerate() {
        let SampledParams::Nnunet(params) = crop.params else { panic!("{:?}", crop.params) };
        let source: Vec<f32> = boxed[crop.range()].iter().map(|&value| crop.scale.apply(value)).collect();
        let source = CropRef { image: &source, labels: Some(&boxed_labels[crop.range()]), shape: crop.shape };
        let (mut expected, mut expected_labels) = (vec![8f32; num_voxels], vec![8u8; num_voxels]);
        let mut to = CropMut { image: &mut expected, labels: Some(&mut expected_labels), shape: plan.crop_size };
        params.apply(source, &mut to, &mut Scratch::new());
        let own = number * num_voxels..(number + 1) * num_voxels;
        let is_equal = images[own.clone()].iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(is_equal && labels[own] == expected_labels[..], "crop {number}: {params:?}");
        num_resampled += usize::from(matches!(crop.params.rest(), Rest::Resampled(_)));
    }
    assert!((1..12).contains(&num_resampled), "{num_resampled} of 12 are resampled");
}

#[test]
fn staged_bytes_are_those_of_resampled_crops_of_floats() {
    let id = DrawId { seed: 3, epoch: 0, case: 1, crop: 0 };
    let nnunet = plan(12, Chain::nnunet());
    let mut voxels = 0;
    for crop in 0..12 {
        let params = nnunet.augment.sample_params(&DrawId { crop, ..id });
        if let Rest::Resampled(_) = params.rest() {
            voxels += params.source_box([24, 24, 21]).iter().product::<usize>() as u64;
        }
    }
    assert!(voxels > 0);
    assert_eq!(nnunet.staged_bytes(&id, VoxelForm::Floats, false), 4 * voxels);
    assert_eq!(nnunet.staged_bytes(&id, VoxelForm::Floats, true), 5 * voxels);
    assert_eq!(nnunet.staged_bytes(&id, VoxelForm::Boxes, true), 0);
    assert_eq!(plan(12, Chain::recipe()).staged_bytes(&id, VoxelForm::Floats, true), 0);
    assert_eq!(nnunet.held_voxels(&id, VoxelForm::Floats), 12 * 24 * 24 * 21);
    assert_ne!(nnunet.held_voxels(&id, VoxelForm::Boxes), 12 * 24 * 24 * 21);
}
