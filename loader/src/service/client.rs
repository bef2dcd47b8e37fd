//! A client: one connection, with its memory. Everything that it holds is freed when the connection closes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::schedule::{Account, Reservation, Schedule};
use crate::plural::count;
use crate::shared_memory::Slots;

/// Connections and clients of a service.
#[derive(Debug)]
pub(super) struct Clients {
    /// Largest number of clients served at a time.
    most: usize,
    /// Memory of each client, in bytes.
    memory_bytes: u64,
    schedule: Arc<Schedule>,
    /// Accounts of the connections that are open; closed ones are removed when the next one opens.
    accounts: Mutex<Vec<std::sync::Weak<Account>>>,
    connections: AtomicUsize,
    admitted: AtomicUsize,
    next_memory: AtomicU64,
}

/// A client's connection and its state in the service.
#[derive(Debug)]
pub(super) struct Client {
    clients: Arc<Clients>,
    pub(super) account: Arc<Account>,
    /// True for a connection over a Unix socket that has a second socket for file descriptors next to it.
    pub(super) shares_memory: bool,
    /// True once a request with a valid token has arrived.
    admitted: AtomicBool,
    memories: Mutex<HashMap<u64, Arc<Memory>>>,
}

/// Memory shared with a client.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) slots: Arc<Slots>,
    _reservation: Reservation,
}

/// Error of one client too many for the memory of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the limit of {} is reached; raise --memory or lower --client-memory of the service",
    count(most, "connected client")
)]
pub(super) struct Crowded {
    most: usize,
}

impl Clients {
    /// Creates the state of a service for at most `most` clients of `memory_bytes` each.
    pub(super) fn new(most: usize, memory_bytes: u64, schedule: &Arc<Schedule>) -> Arc<Self> {
        Arc::new(Self {
            most,
            memory_bytes,
            schedule: Arc::clone(schedule),
            accounts: Mutex::default(),
            connections: AtomicUsize::new(0),
            admitted: AtomicUsize::new(0),
            next_memory: AtomicU64::new(1),
        })
    }

    /// Registers a connection; `None` if the number of open ones would exceed twice the number of clients plus 64.
    pub(super) fn connect(self: &Arc<Self>, shares_memory: bool) -> Option<Arc<Client>> {
        let limit = 2 * self.most + 64;
        let more = |open: usize| (open < limit).then_some(open + 1);
        self.connections.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        let account = Account::new(&self.schedule, self.memory_bytes);
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        accounts.retain(|account| account.strong_count() > 0);
        accounts.push(Arc::downgrade(&account));
        drop(accounts);
        Some(Arc::new(Client {
            clients: Arc::clone(self),
            account,
            shares_memory,
            admitted: AtomicBool::new(false),
            memories: Mutex::default(),
        }))
    }

    /// Largest number of clients that are served at a time.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// Number of clients currently served.
    pub(super) fn len(&self) -> usize {
        self.admitted.load(Ordering::Relaxed)
    }

    /// Bytes that all clients hold: batches being made or sent, and shared memory.
    pub(super) fn held_bytes(&self) -> u64 {
        let accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        accounts.iter().filter_map(std::sync::Weak::upgrade).map(|account| account.held()).sum()
    }
}

impl Client {
    /// Counts the connection as a client, on its first valid request.
    ///
    /// # Errors
    /// If the service has no memory for another client.
    pub(super) fn admit(&self) -> Result<(), Crowded> {
        let _guard = self.memories();
        if self.admitted.load(Ordering::Relaxed) {
            return Ok(());
        }
        let most = self.clients.most;
        let more = |admitted: usize| (admitted < most).then_some(admitted + 1);
        let counted = self.clients.admitted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        self.admitted.store(counted.is_ok(), Ordering::Relaxed);
        counted.ok().map(|_| ()).ok_or(Crowded { most })
    }

    /// Returns true once a request with a valid token has arrived and there was room.
    pub(super) fn is_admitted(&self) -> bool {
        self.admitted.load(Ordering::Relaxed)
    }

    /// Keeps shared slots for the client; returns their id.
    pub(super) fn keep(&self, slots: Slots, reservation: Reservation) -> u64 {
        let id = self.clients.next_memory.fetch_add(1, Ordering::Relaxed);
        self.memories().insert(id, Arc::new(Memory { slots: Arc::new(slots), _reservation: reservation }));
        id
    }

    /// Finds slots by their id.
    pub(super) fn memory(&self, id: u64) -> Option<Arc<Memory>> {
        self.memories().get(&id).cloned()
    }

    fn memories(&self) -> MutexGuard<'_, HashMap<u64, Arc<Memory>>> {
        self.memories.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.clients.connections.fetch_sub(1, Ordering::Relaxed);
        if self.admitted.load(Ordering::Relaxed) {
            self.clients.admitted.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients(most: usize) -> Arc<Clients> {
        Clients::new(most, 10_000, &Schedule::new(1, 4))
    }

    #[test]
    fn clients_are_admitted_up_to_the_limit_and_leave_room_when_they_go() {
        let clients = clients(2);
        let [a, b, c] = [(); 3].map(|()| clients.connect(false).unwrap());
        a.admit().unwrap();
        a.admit().unwrap();
        b.admit().unwrap();
        assert_eq!(c.admit(), Err(Crowded { most: 2 }));
        assert_eq!(clients.len(), 2);
        drop(a);
        c.admit().unwrap();
        drop((b, c));
        assert_eq!(clients.len(), 0);
    }

    #[test]
    fn connections_without_a_request_are_bounded() {
        let clients = clients(2);
        let open: Vec<_> = std::iter::from_fn(|| clients.connect(false)).collect();
        assert_eq!(open.len(), 68);
        drop(open);
        assert!(clients.connect(false).is_some());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_client_that_goes_frees_its_memory() {
        let clients = clients(2);
        let client = clients.connect(true).unwrap();
        let (slots, _file) = Slots::create(2, 4096).unwrap();
        let reservation = client.account.pin(8192).unwrap();
        let id = client.keep(slots, reservation);
        assert_eq!(clients.held_bytes(), 8192);
        let slots = Arc::downgrade(&client.memory(id).unwrap().slots);
        assert!(client.memory(id + 1).is_none());
        drop(client);
        assert_eq!(clients.held_bytes(), 0);
        assert!(slots.upgrade().is_none());
    }
}
