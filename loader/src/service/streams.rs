//! Open streams. They hold no position, so closing one loses nothing; its client opens it again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::pipeline::Loader;
use crate::plural::count;
use crate::wire::StreamFacts;

/// An open stream.
pub(super) struct OpenStream {
    pub(super) loader: Loader,
    pub(super) facts: StreamFacts,
}

/// Open streams by their ids.
#[derive(Default)]
pub(super) struct Streams {
    most: usize,
    open: Mutex<HashMap<String, Entry>>,
}

struct Entry {
    stream: Arc<OpenStream>,
    last_used: Instant,
}

/// Error of a stream beyond the limit on open streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the limit of {} is reached; streams close when they are idle", count(.0, "open stream"))]
pub(super) struct Full(usize);

impl Streams {
    /// Creates an empty set with room for `most` streams.
    pub(super) fn new(most: usize) -> Self {
        Self { most, open: Mutex::default() }
    }

    /// Finds a stream and records its use.
    pub(super) fn get(&self, id: &str, now: Instant) -> Option<Arc<OpenStream>> {
        let mut open = self.lock();
        let entry = open.get_mut(id)?;
        entry.last_used = now;
        Some(Arc::clone(&entry.stream))
    }

    /// Adds a stream. If another request has opened it meanwhile, that one is kept instead.
    ///
    /// # Errors
    /// If there is no room.
    pub(super) fn insert(&self, stream: OpenStream, now: Instant) -> Result<Arc<OpenStream>, Full> {
        let mut open = self.lock();
        let id = stream.facts.stream_id.clone();
        if !open.contains_key(&id) && open.len() >= self.most {
            return Err(Full(open.len()));
        }
        let entry = open.entry(id).or_insert_with(|| Entry { stream: Arc::new(stream), last_used: now });
        entry.last_used = now;
        Ok(Arc::clone(&entry.stream))
    }

    /// Checks that another stream fits.
    pub(super) fn has_room(&self) -> Result<(), Full> {
        let open = self.lock().len();
        if open < self.most { Ok(()) } else { Err(Full(open)) }
    }

    /// Closes streams that are not in use and were not used for `idle`; returns their number.
    pub(super) fn close_idle(&self, now: Instant, idle: Duration) -> usize {
        let mut open = self.lock();
        let before = open.len();
        open.retain(|_, entry| {
            Arc::strong_count(&entry.stream) > 1 || now.saturating_duration_since(entry.last_used) < idle
        });
        before - open.len()
    }

    /// Number of open streams.
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
