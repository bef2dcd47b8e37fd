//! Engines that cuDNN chose for graphs, as a run records them in `plans.json`.

use std::sync::Mutex;

use super::plan::Choice;
use crate::vendor::choices::{Choices, Recorded};

/// Engines by library, device and key of the graph.
pub type Engines = Choices<Choice>;

impl Recorded for Choice {
    type Problem = String;

    const FILE: &'static str = "plans.json";

    fn table() -> &'static Mutex<Engines> {
        static TABLE: Mutex<Engines> = Mutex::new(Engines::new());
        &TABLE
    }

    #[cfg(all(feature = "cuda", any(test, feature = "device-tests")))]
    fn spoil(&mut self) {
        self.engine = -1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vendor::choices::Owner;

    #[test]
    fn engines_are_written_as_in_earlier_versions() {
        let text = r#"[
  {
    "owner": {
      "library": "cudnn 91400",
      "device": "NVIDIA H100 80GB HBM3, 132 SMs"
    },
    "problem": "attention 2x4x9x9x8 Bf16",
    "choice": {
      "engine": 2,
      "knobs": [
        [
          24,
          9223372036854775807
        ],
        [
          38,
          -1
        ]
      ]
    }
  },
  {
    "owner": {
      "library": "cudnn 91400",
      "device": "NVIDIA H100 80GB HBM3, 132 SMs"
    },
    "problem": "conv forward 1x32",
    "choice": {
      "engine": 1,
      "knobs": []
    }
  }
]
"#;
        let owner = Owner { library: "cudnn 91400".to_owned(), device: "NVIDIA H100 80GB HBM3, 132 SMs".to_owned() };
        let mut engines = Engines::new();
        let of_conv = Choice { engine: 1, knobs: vec![] };
        engines.insert(owner.clone(), "conv forward 1x32".to_owned(), of_conv);
        let of_attention = Choice { engine: 2, knobs: vec![(24, i64::MAX), (38, -1)] };
        engines.insert(owner, "attention 2x4x9x9x8 Bf16".to_owned(), of_attention);
        assert_eq!(Engines::from_json(text).unwrap(), engines);
        assert_eq!(engines.to_json(), text);
        assert!(Engines::from_json(&text.replacen("\"engine\"", "\"machine\"", 1)).is_err());
    }
}
