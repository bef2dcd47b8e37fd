//! The reliability campaign in its short form: power cuts, failing disks, random operations and damaged bytes.
//!
//! Every test takes its random choices from seeds and names the seed of a failure. `HIEND_CAMPAIGN=FACTOR` multiplies
//! the number of tries, and `HIEND_CAMPAIGN_SEED=SEED` repeats a single one. `tests/CAMPAIGN.md` lists the attacks.

mod bytes;
mod checkpoints;
mod conversion;
mod disk_cache;
mod effort;
mod finetuning;
mod operations;
mod results;
mod scans;
mod simulator;
mod web_server;
