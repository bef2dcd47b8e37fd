//! Access to the state of a running service.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Instant;

use super::hub::Hub;
use super::status::Status;

/// Access to the state of a service while it runs.
#[derive(Clone)]
pub struct Monitor {
    hub: Weak<Hub>,
}

impl fmt::Debug for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Monitor").finish_non_exhaustive()
    }
}

impl Monitor {
    pub(super) fn new(hub: &Arc<Hub>) -> Self {
        Self { hub: Arc::downgrade(hub) }
    }

    /// Current state; `None` once the service has ended.
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        Some(self.hub.upgrade()?.status(Instant::now()))
    }
}
