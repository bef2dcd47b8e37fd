use super::*;
use crate::vendor::cudnn::session::Session;

/// Description of an H100 in cuDNN's format.
const H100: &str = include_str!("h100.json");

const MODELS: [(Sizes, usize); 16] = [
    // vit-l-p12: encoder, decoder, and the decoder's attention to the encoder's tokens; width without padding.
    (Sizes { sequences: 192, heads: 16, queries: 129, keys: 129, width: 96 }, 96),
    (Sizes { sequences: 192, heads: 16, queries: 513, keys: 513, width: 40 }, 33),
    (Sizes { sequences: 192, heads: 16, queries: 513, keys: 129, width: 40 }, 33),
    // The same for vit-b-p16.
    (Sizes { sequences: 192, heads: 12, queries: 55, keys: 55, width: 64 }, 64),
    (Sizes { sequences: 192, heads: 12, queries: 217, keys: 217, width: 32 }, 32),
    (Sizes { sequences: 192, heads: 12, queries: 217, keys: 55, width: 32 }, 32),
    // UNETR, whose encoder sees every patch and has no class token: vit-l-p12, vit-l-p16 and vit-b-p16, with the crops of a
    // step, and with one and with most windows of a prediction.
    (Sizes { sequences: 4, heads: 16, queries: 512, keys: 512, width: 96 }, 96),
    (Sizes { sequences: 1, heads: 16, queries: 512, keys: 512, width: 96 }, 96),
    (Sizes { sequences: 16, heads: 16, queries: 512, keys: 512, width: 96 }, 96),
    (Sizes { sequences: 4, heads: 16, queries: 216, keys: 216, width: 96 }, 96),
    (Sizes { sequences: 1, heads: 16, queries: 216, keys: 216, width: 96 }, 96),
    (Sizes { sequences: 16, heads: 16, queries: 216, keys: 216, width: 96 }, 96),
    (Sizes { sequences: 4, heads: 12, queries: 216, keys: 216, width: 64 }, 64),
    (Sizes { sequences: 1, heads: 12, queries: 216, keys: 216, width: 64 }, 64),
    (Sizes { sequences: 16, heads: 12, queries: 216, keys: 216, width: 64 }, 64),
    // Taken from the operation's own tests.
    (Sizes { sequences: 2, heads: 3, queries: 66, keys: 129, width: 40 }, 33),
];

fn attention(sizes: Sizes, width: usize, number: Number) -> Attention {
    let dim = sizes.heads * width;
    let in_tokens = sizes.width == width;
    let layout = |parts| if in_tokens { Layout::Tokens(parts * dim) } else { Layout::Heads };
    let gradients = if sizes.queries == sizes.keys { [layout(3), layout(3)] } else { [layout(1), layout(2)] };
    let scale = 1.0 / (width as f32).sqrt();
    Attention { sizes, number, scale, sources: [Layout::Heads; 2], result: layout(1), gradients }
}

/// Both passes of every attention in the models get a plan for an H100 on a machine without one: the graphs have forms
/// that the library's fused engines support, its heuristic names an engine, and the engine's kernel compiles. Repeating
/// the same choice gives the same plan.
///
/// The library's engines link against the driver's; on a machine without a driver, an empty `libcuda.so.1` with the
/// symbols suffices.
#[test]
#[ignore = "needs cuDNN 9.11 and NVRTC, and a libcuda.so.1; no device"]
fn every_attention_of_the_models_has_a_plan_on_an_h100() {
    let described = || Session::on(Target::described(H100).unwrap(), "an H100, described".to_owned()).unwrap();
    let mut session = described();
    for (sizes, width) in MODELS {
        let attentions = [Number::Bf16, Number::F16].map(|number| attention(sizes, width, number));
        // Split, and read as tokens.
        for attention in
            attentions.into_iter().flat_map(|split| [split, Attention { sources: split.gradients, ..split }])
        {
            let forward = session.prepare(&Forward(attention)).unwrap_or_else(|error| panic!("{attention}: {error}"));
            for masked in [false, true] {
                let backward = Backward { attention, masked };
                let bytes = session.prepare(&backward).unwrap_or_else(|error| panic!("{backward}: {error}"));
                println!("{attention}: scratch memory {forward} forward, {bytes} backward");
                assert_eq!(described().prepare(&backward).unwrap(), bytes, "the recorded engine is another");
            }
        }
    }
}

#[test]
fn a_key_distinguishes_everything_but_the_scale() {
    let (sizes, width) = MODELS[0];
    let first = attention(sizes, width, Number::Bf16);
    let others = [
        Attention { sizes: Sizes { keys: 130, ..sizes }, ..first },
        Attention { number: Number::F16, ..first },
        Attention { sources: [Layout::Tokens(4608); 2], ..first },
        Attention { result: Layout::Heads, ..first },
        Attention { gradients: [Layout::Tokens(1536), Layout::Tokens(3072)], ..first },
    ];
    for other in others {
        assert_ne!(Forward(first).key(), Forward(other).key());
    }
    // The scale is a value given to the plan.
    assert_eq!(Forward(first).key(), Forward(Attention { scale: 2.0, ..first }).key());
    let backward = |masked| Backward { attention: first, masked }.key();
    assert!(backward(true) != backward(false) && backward(false) != Forward(first).key());
    assert_eq!(Forward(first).to_string(), "attention 192x16x129x129x96 bf16");
}

#[test]
fn heads_lie_one_after_another_or_side_by_side() {
    assert_eq!(Layout::Heads.strides(16, 513, 40), [16 * 513 * 40, 513 * 40, 40, 1]);
    assert_eq!(Layout::Tokens(4608).strides(16, 129, 96), [129 * 4608, 96, 4608, 1]);
}
