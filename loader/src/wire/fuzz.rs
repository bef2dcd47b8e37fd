//! Tests with damaged and hostile messages: each is rejected or decoded, without a panic.

use proptest::prelude::*;
use prost::Message as _;

use super::spec::Stream;
use super::{BatchHeader, Crop, CropBox, Dequantize, StreamSpec, hostile};
use crate::batch::VoxelForm;
use crate::pipeline::StreamConfig;
use crate::split::{FoldRule, FoldSplit, Part as SplitPart, Split};
use crate::transform::Chain;

/// Changes some of the bytes, and cuts out a part.
fn damaged(whole: &[u8], edits: &[(prop::sample::Index, u8)], cut: Option<(prop::sample::Index, usize)>) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    for (at, value) in edits {
        let at = at.index(bytes.len());
        bytes[at] = *value;
    }
    if let Some((from, len)) = cut {
        let from = from.index(bytes.len());
        let end = (from + len).min(bytes.len());
        bytes.drain(from..end);
    }
    bytes
}

fn edits() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    prop::collection::vec(any::<(prop::sample::Index, u8)>(), 0..4)
}

fn cut() -> impl Strategy<Value = Option<(prop::sample::Index, usize)>> {
    prop::option::of((any::<prop::sample::Index>(), 1usize..40))
}

fn spec(augment: Chain) -> StreamSpec {
    let part = SplitPart::Validation;
    let split = Split::Fold(FoldSplit { fold: 2, of: 5, part, seed: 9, rule: FoldRule::Dealt });
    let config = StreamConfig { include: vec!["A*".into()], split, augment, labels: true, ..StreamConfig::default() };
    Stream { config, seed: 7, rank: (1, 2), form: VoxelForm::Boxes }.to_spec().unwrap()
}

fn header() -> BatchHeader {
    let dequantize = Dequantize { gain: 1.0, bias: 0.5, factor: 1.0, shift: 0.0, range: None };
    let crop = |number: u64| Crop {
        case_key: format!("D/{number}"),
        dequantize: Some(dequantize),
        r#box: Some(CropBox { start: 8 * number, shape: vec![2; 3], params_json: "{}".into(), ..CropBox::default() }),
        ..Crop::default()
    };
    BatchHeader { step: 3, voxel_bytes: 32, crops: vec![crop(0), crop(1)], ..BatchHeader::default() }
}

#[test]
fn inputs_of_the_corpus_are_understood_or_refused() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fuzz/corpus/service");
    for entry in std::fs::read_dir(folder).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        hostile::request(&bytes);
        hostile::header(&bytes);
        hostile::frames(&bytes, 7);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_request_is_understood_or_refused(edits in edits(), cut in cut(), nnunet: bool, noise: Vec<u8>) {
        let spec = spec(if nnunet { Chain::nnunet() } else { Chain::recipe() });
        for bytes in [damaged(&spec.encode_to_vec(), &edits, cut), noise] {
            hostile::request(&bytes);
        }
    }

    #[test]
    fn any_header_is_checked_before_its_batch_is_received(edits in edits(), cut in cut()) {
        hostile::header(&damaged(&header().encode_to_vec(), &edits, cut));
    }

    #[test]
    fn any_stream_of_frames_ends(edits in edits(), cut in cut(), noise: Vec<u8>, chunk in 1usize..50) {
        let frame = super::Frame { part: Some(super::frame::Part::Header(header())) }.encode_to_vec();
        let mut framed = vec![0];
        framed.extend(u32::try_from(frame.len()).unwrap().to_be_bytes());
        framed.extend(frame);
        for bytes in [damaged(&framed, &edits, cut), noise] {
            hostile::frames(&bytes, chunk);
        }
    }
}
