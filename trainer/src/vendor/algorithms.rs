//! Algorithms that cuBLASLt chose for products, as a run records them in `products.json`.

use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use super::choices::{Choices, Recorded};
use super::problem::Problem;

/// Largest scratch memory of a product, in bytes: twice what cuBLASLt recommends for Hopper.
pub const MAX_WORKSPACE: u64 = 64 << 20;

/// An algorithm in a library's serialised form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Algorithm {
    /// Opaque description of the algorithm.
    #[serde(with = "hex")]
    pub words: [u64; 8],
    /// Scratch memory needed, in bytes.
    pub workspace_bytes: u64,
}

/// Algorithms by library, device and product.
pub type Algorithms = Choices<Algorithm>;

impl Recorded for Algorithm {
    type Problem = Problem;

    const FILE: &'static str = "products.json";

    fn table() -> &'static Mutex<Algorithms> {
        static TABLE: Mutex<Algorithms> = Mutex::new(Algorithms::new());
        &TABLE
    }

    fn check(&self) -> Result<(), String> {
        match self.workspace_bytes {
            0..=MAX_WORKSPACE => Ok(()),
            bytes => Err(format!("workspace_bytes {bytes}; expected at most {MAX_WORKSPACE}")),
        }
    }

    #[cfg(all(feature = "cuda", any(test, feature = "device-tests")))]
    fn spoil(&mut self) {
        self.words = [u64::MAX; 8];
    }
}

/// Conversion of eight words to 128 hexadecimal digits, because many JSON readers limit numbers to 53 bits.
mod hex {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(words: &[u64; 8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&words.map(|word| format!("{word:016x}")).concat())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u64; 8], D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.len() != 128 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(D::Error::custom("expected 128 hexadecimal digits"));
        }
        let mut words = [0; 8];
        for (number, word) in words.iter_mut().enumerate() {
            *word = u64::from_str_radix(&text[16 * number..16 * (number + 1)], 16).map_err(D::Error::custom)?;
        }
        Ok(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vendor::choices::Owner;
    use crate::vendor::layout::Matrix;
    use crate::vendor::problem::{Epilogue, Number, Operand, Placed};
    use proptest::prelude::*;

    fn problem(rows: usize, offset: u64) -> Problem {
        let of = |shape: [usize; 2]| Placed { matrix: Matrix::of_rows(&shape, &[shape[1], 1]).unwrap(), offset };
        Problem::new(of([rows, 4]), of([4, 8]), of([rows, 8]), Number::Bf16, Number::F32, false).unwrap()
    }

    fn owner(library: &str) -> Owner {
        Owner { library: library.to_owned(), device: "NVIDIA H100 80GB HBM3, 132 SMs".to_owned() }
    }

    proptest! {
        #[test]
        fn recorded_algorithms_are_read_back_as_they_were(
            choices in prop::collection::vec((1usize..1000, any::<[u64; 8]>(), 0..=MAX_WORKSPACE, any::<bool>()), 0..20),
        ) {
            let mut written = Algorithms::default();
            for (rows, words, workspace_bytes, bias) in choices {
                let epilogue = if bias { Epilogue::BiasGradient } else { Epilogue::Plain };
                let algorithm = Algorithm { words, workspace_bytes };
                written.insert(owner("cublasLt 130100"), problem(rows, 0).with(epilogue), algorithm);
            }
            let text = written.to_json();
            let read = Algorithms::from_json(&text).unwrap();
            prop_assert_eq!(&read, &written);
            prop_assert_eq!(read.to_json(), text);
        }
    }

    #[test]
    fn an_algorithm_belongs_to_its_library_and_alignment() {
        let mut choices = Algorithms::default();
        let algorithm = Algorithm { words: [7; 8], workspace_bytes: 1 << 20 };
        choices.insert(owner("cublasLt 130100"), problem(3, 0), algorithm);
        assert_eq!(choices.get(&owner("cublasLt 130100"), &problem(3, 0)), Some(algorithm));
        assert_eq!(choices.get(&owner("cublasLt 130200"), &problem(3, 0)), None);
        assert_eq!(choices.get(&owner("cublasLt 130100"), &problem(3, 16)), None);
    }

    #[test]
    fn damaged_algorithms_are_refused() {
        let mut choices = Algorithms::default();
        choices.insert(owner("cublasLt 130100"), problem(3, 0), Algorithm { words: [7; 8], workspace_bytes: 0 });
        let text = choices.to_json();
        for (from, to) in [("0000000000000007", "7"), ("\"words\"", "\"word\""), ("\"bf16\"", "\"f8\"")] {
            assert!(text.contains(from), "{from}");
            assert!(Algorithms::from_json(&text.replacen(from, to, 1)).is_err(), "{from}");
        }
        let greedy = text.replacen("\"workspace_bytes\": 0", "\"workspace_bytes\": 67108865", 1);
        let error = Algorithms::from_json(&greedy).unwrap_err().to_string();
        assert_eq!(error, "workspace_bytes 67108865; expected at most 67108864");
    }

    /// Runs wrote such files while only products were recorded.
    #[test]
    fn a_record_of_an_earlier_version_is_read() {
        let text = r#"[
  {
    "owner": {
      "library": "cublasLt 130100",
      "device": "NVIDIA H100 80GB HBM3, 132 SMs"
    },
    "problem": {
      "rows": 3,
      "columns": 8,
      "inner": 4,
      "batch": 1,
      "left": {
        "pitch": 4,
        "transposed": false,
        "batch_stride": 12,
        "alignment": 256
      },
      "right": {
        "pitch": 8,
        "transposed": true,
        "batch_stride": 0,
        "alignment": 16
      },
      "out": {
        "pitch": 8,
        "transposed": false,
        "batch_stride": 24,
        "alignment": 256
      },
      "factors": "bf16",
      "result": "f32",
      "tf32": false,
      "epilogue": "bias_gradient"
    },
    "algorithm": {
      "words": "00000000000000010000000000000002000000000000000300000000000000040000000000000005000000000000000600000000000000070000ffffffffffff",
      "workspace_bytes": 33554432
    }
  }
]
"#;
        let operand =
            |pitch, transposed, batch_stride, alignment| Operand { pitch, transposed, batch_stride, alignment };
        let problem = Problem {
            rows: 3,
            columns: 8,
            inner: 4,
            batch: 1,
            left: operand(4, false, 12, 256),
            right: operand(8, true, 0, 16),
            out: operand(8, false, 24, 256),
            factors: Number::Bf16,
            result: Number::F32,
            tf32: false,
            epilogue: Epilogue::BiasGradient,
        };
        let algorithm = Algorithm { words: [1, 2, 3, 4, 5, 6, 7, u64::MAX >> 16], workspace_bytes: 32 << 20 };
        let read = Algorithms::from_json(text).unwrap();
        assert_eq!(read.get(&owner("cublasLt 130100"), &problem), Some(algorithm));
        assert_eq!(read.len(), 1);
        assert_eq!(read.to_json(), text.replace("\"algorithm\"", "\"choice\""));
    }
}
