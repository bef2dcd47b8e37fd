//! `--mlflow URL`: a run's steps and validations on an MLflow server, through its REST API.
//!
//! The journal is the source of everything that is sent. A separate thread follows it, so that training only signals
//! new entries, and an absent server costs no more than a warning: missed entries are sent from the journal when it
//! answers again, by a later session, or by `hiend-train track`. `RUN_DIR/mlflow.json` names the MLflow run, which
//! resumed sessions continue. The server is asked for its position, because only it knows what it has received: nothing
//! is sent twice after a lost answer, and nothing is missing after a server was restored from an older copy.
//!
//! A resumed run repeats the steps since its last checkpoint with the same losses. The server keeps the first record of
//! a step, because MLflow can neither replace nor remove one. This also happens if a run goes back to an earlier
//! checkpoint; a warning then names the steps.
//!
//! Seven methods of the API are needed; `reqwest`, which downloads weights as well, sends the requests.

mod client;
mod error;
mod link;
mod params;
mod points;
mod sender;
mod server;
#[cfg(test)]
mod testing;
mod tracker;

pub use client::{Client, Status};
pub use error::MlflowError;
pub use link::{LINK, Link};
pub use sender::{Description, Sender};
pub use server::{Credentials, ServerUrl};
pub use tracker::{Pace, Tracker, Unfinished};
