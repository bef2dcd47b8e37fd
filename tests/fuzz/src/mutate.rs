//! Mutations of bytes, determined by a seed.

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;

/// Values at the limits of integers and floats.
const INTERESTING: [u64; 14] = [
    0,
    1,
    2,
    0x7f,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    u64::MAX,
    // Infinity and NaN as f32; 2^40.
    0x7f80_0000,
    0x7fc0_0000,
    1 << 40,
];
/// Largest part that is inserted or repeated, in bytes.
const MOST_INSERTED: usize = 256;

/// Bytes with one to four mutations. Headers lie at the start and directories at the end, so half of all mutations are
/// within 512 bytes of either.
#[must_use]
pub fn mutated(whole: &[u8], corpus: &[Vec<u8>], seed: u64) -> Vec<u8> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut bytes = whole.to_vec();
    for _ in 0..rng.random_range(1..=4) {
        if bytes.is_empty() {
            break;
        }
        mutate(&mut bytes, corpus, &mut rng);
    }
    bytes
}

fn place(len: usize, rng: &mut ChaCha8Rng) -> usize {
    let near = len.min(512);
    match rng.random_range(0..4u8) {
        0 => rng.random_range(0..near),
        1 => len - 1 - rng.random_range(0..near),
        _ => rng.random_range(0..len),
    }
}

fn mutate(bytes: &mut Vec<u8>, corpus: &[Vec<u8>], rng: &mut ChaCha8Rng) {
    let at = place(bytes.len(), rng);
    let end = (at + rng.random_range(1..=MOST_INSERTED)).min(bytes.len());
    match rng.random_range(0..9u8) {
        0 | 1 => bytes[at] ^= 1 << rng.random_range(0..8u8),
        2 => bytes[at] = rng.random(),
        3 | 4 => {
            let value = INTERESTING[rng.random_range(0..INTERESTING.len())];
            let len = [2, 4, 8][rng.random_range(0..3usize)].min(bytes.len() - at);
            let field = if rng.random() {
                value.to_le_bytes()[..len].to_vec()
            } else {
                value.to_be_bytes()[8 - len..].to_vec()
            };
            bytes[at..at + len].copy_from_slice(&field);
        }
        5 => bytes.truncate(at),
        6 => drop(bytes.drain(at..end)),
        7 => {
            let part = bytes[at..end].to_vec();
            let to = place(bytes.len(), rng);
            bytes.splice(to..to, part);
        }
        _ => {
            let other = &corpus[rng.random_range(0..corpus.len())];
            let from = place(other.len(), rng);
            let len = (end - at).min(other.len() - from);
            bytes[at..at + len].copy_from_slice(&other[from..from + len]);
        }
    }
}
