//! Checkpoints: the state from which a run continues as if it had never stopped.
//!
//! `RUN_DIR/checkpoints/step-00001234/` holds `model.bpk`, `optimizer.bpk`, `state.json`, and `ema.bpk` if weights are
//! averaged. A checkpoint is written under a temporary name, synced and renamed, so a folder with its final name is
//! complete. Old checkpoints are removed only after that: neither a full disk nor a kill loses the previous one. Every
//! state names the best checkpoint of the run, so there is no link that could dangle.
//!
//! `state.json` lists the length and BLAKE3 digest of every other file, and its last line is the digest of all bytes
//! before it. Each file is compared with its digest before it is loaded. Checkpoints of earlier versions have no
//! digests; they are loaded with a warning.
//!
//! Records are read back from the device while they are written, on the caller's thread and before its next step:
//! Burn's readback is lazy, and a later step would change the values.

mod check;
mod digest;
mod error;
mod folder;
mod load;
mod state;

pub use check::{Integrity, check};
pub use digest::FileDigest;
pub use error::{CheckpointError, Damage, MomentMismatch};
pub use folder::{Checkpoints, all, best, latest, lost_best, newest_whole};
pub use load::{load_averaged, load_ema, load_model, load_optimizer};
pub use state::{Best, Head, Kind, State, Versions, is_checkpoint, read_head, read_state, state_digest};

const MODEL: &str = "model.bpk";
const EMA: &str = "ema.bpk";
const OPTIMIZER: &str = "optimizer.bpk";
const STATE: &str = "state.json";

#[cfg(test)]
mod testing;
