//! Simulated disk below real programs, which tracks the synced data and can lose everything else.
//!
//! [`Recorder`] observes every operation below a folder ([`hiend_cache::durable::operation`]). Before each one it reads
//! the whole folder, so that it sees every change, announced or not; what was synced it knows from the announcements
//! alone. A sync that is not announced did not happen. From the two, [`Image::leave`] builds a state in which a power
//! cut could leave the folder:
//!
//! - Each file holds its synced content, its current content, or any mixture of blocks of the two and of zeros, at any
//!   length in between.
//! - Each change of a folder's names since its last sync has happened or not, independently of every other one. A rename
//!   is one change: file systems keep journals of names. Nothing else is assumed; a file's name is not durable because
//!   its content is.
//!
//! A kill is the same without losses ([`Loss::Nothing`]), because the page cache survives it.

mod image;
mod recorder;

pub(crate) use image::{Image, Loss};
pub(crate) use recorder::{Fault, Plan, Recorder, Selection};
