//! Replacement for MPI in a build without it.

use super::MpiError;
use crate::distributed::token::Token;
use crate::distributed::world::World;

/// MPI in this process; cannot be started without the feature `mpi`.
#[derive(Debug)]
pub struct Mpi(());

impl Mpi {
    /// Starts MPI.
    ///
    /// # Errors
    /// Always.
    pub fn start() -> Result<Self, MpiError> {
        Err(MpiError::NotBuilt)
    }

    /// Finds the place of this process.
    ///
    /// # Errors
    /// Always.
    pub fn world(&self, _listen: Option<&str>) -> Result<(World, Token), MpiError> {
        Err(MpiError::NotBuilt)
    }

    /// Ends MPI.
    pub fn end(self) {}
}
