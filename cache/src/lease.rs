//! Leases: signs of life of processes that work on one location, for places without locks between machines.
//!
//! A lease is a small file `.leases/KIND.ID` that a thread rewrites every quarter of its lifetime. It ends when it is
//! dropped, or when it has not been rewritten for a lifetime because its process is dead or cut off. Ages are
//! differences between times of change, which the file server or object store stamps on all leases with one clock; the
//! clocks of the machines do not matter.
//!
//! Work that leases divide must stay correct if two processes do it: a process that was suspended for longer than a
//! lifetime does not know that its lease is over.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::error::{FileError, Result};
use crate::location::Location;
use crate::place::{Named, Place};

/// Usual lifetime of a lease.
pub const LIFETIME: Duration = Duration::from_mins(1);

/// Folder of the leases in a location.
const FOLDER: &str = ".leases";
/// Number of renewals per lifetime.
const RENEWALS: u32 = 4;

/// A lease held by this process. Dropping it ends it.
#[derive(Debug)]
pub struct Lease {
    shared: Arc<Shared>,
    kind: String,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    place: Place,
    id: String,
    name: String,
    content: Vec<u8>,
    lifetime: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    renewed: Instant,
    is_over: bool,
}

impl Lease {
    /// Takes a lease of a kind, next to any others of that kind. `note` names the holding process in messages.
    ///
    /// # Errors
    /// If its file cannot be written.
    pub fn take(at: impl Into<Location>, kind: &str, note: &str, lifetime: Duration) -> Result<Self> {
        let place = Place::of(&at.into())?;
        place.create_folder(FOLDER)?;
        let id = unique_id();
        let name = format!("{FOLDER}/{kind}.{id}");
        let content = format!("{note}\n").into_bytes();
        place.write(&name, &content)?;
        let state = Mutex::new(State { renewed: Instant::now(), is_over: false });
        let shared = Arc::new(Shared { place, id, name, content, lifetime, state, changed: Condvar::new() });
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("lease".into()).spawn(move || for_thread.renew());
        let thread = match thread {
            Ok(thread) => thread,
            Err(err) => {
                // A lease file that stays would expire by itself.
                let _ = shared.place.remove(&shared.name);
                return Err(FileError::at(PathBuf::from(&shared.name), "start a thread for")(err).into());
            }
        };
        Ok(Self { shared, kind: kind.to_owned(), thread: Some(thread) })
    }

    /// Takes a lease of a kind if no other process holds one; `None` if one does.
    ///
    /// At most one of several processes that try at the same time succeeds; possibly none does.
    ///
    /// # Errors
    /// If its file cannot be written, or the others cannot be listed.
    pub fn take_alone(at: impl Into<Location>, kind: &str, note: &str, lifetime: Duration) -> Result<Option<Self>> {
        let lease = Self::take(at, kind, note, lifetime)?;
        let is_alone = lease.others(kind)?.is_empty();
        Ok(is_alone.then_some(lease))
    }

    /// Identity of the holder, different for each lease.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.shared.id
    }

    /// Returns `true` if the lease was renewed within its lifetime, so that no other process considers its holder dead.
    pub(crate) fn is_fresh(&self) -> bool {
        self.shared.lock().renewed.elapsed() < self.shared.lifetime
    }

    /// Identities of the other live leases of a kind. Removes leases that ended long ago.
    ///
    /// # Errors
    /// If the leases cannot be listed.
    pub fn others(&self, kind: &str) -> Result<Vec<String>> {
        let shared = &*self.shared;
        let leases = shared.place.list(FOLDER)?;
        let (kind_prefix, own) = (format!("{kind}."), format!("{}.{}", self.kind, shared.id));
        let renewed = shared.lock().renewed;
        let now = if let Some(lease) = leases.iter().find(|lease| lease.name == own) {
            // The server's time now: the time of the last renewal plus the time since then.
            lease.modified + renewed.elapsed()
        } else {
            // Another process took this one for dead and removed the lease; once written again, its time is known.
            shared.place.write(&shared.name, &shared.content)?;
            SystemTime::now()
        };
        self.others_of(&leases, &kind_prefix, &own, now)
    }

    fn others_of(&self, leases: &[Named], kind: &str, own: &str, now: SystemTime) -> Result<Vec<String>> {
        let shared = &*self.shared;
        let mut live = Vec::new();
        for Named { name, modified } in leases.iter().filter(|lease| lease.name != own) {
            let Some(id) = name.strip_prefix(kind) else { continue };
            let age = now.duration_since(*modified).unwrap_or_default();
            if age <= shared.lifetime {
                live.push(id.to_owned());
            } else if age > 10 * shared.lifetime {
                shared.place.remove(&format!("{FOLDER}/{name}"))?;
            }
        }
        Ok(live)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.shared.lock().is_over = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been reported; the lease ends in any case.
            let _ = thread.join();
        }
        // If this fails, the lease ends after its lifetime.
        let _ = self.shared.place.remove(&self.shared.name);
    }
}

impl Shared {
    /// Renews the lease until it is dropped.
    fn renew(&self) {
        let mut state = self.lock();
        loop {
            // Asks before it waits: the lease may have ended before this thread began.
            let waited = self.changed.wait_timeout_while(state, self.lifetime / RENEWALS, |state| !state.is_over);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if state.is_over {
                return;
            }
            drop(state);
            let before = Instant::now();
            // A failure is tried again a quarter later; `is_fresh` returns whether all failed.
            let is_renewed = self.place.write(&self.name, &self.content).is_ok();
            state = self.lock();
            if is_renewed {
                state.renewed = before;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Name that no other lease has: the number of the process, followed by a hash of this number and the time with random keys.
pub(crate) fn unique_id() -> String {
    use std::hash::{BuildHasher as _, RandomState};
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
    let random = RandomState::new().hash_one((std::process::id(), nanos));
    format!("{:08x}{random:016x}", std::process::id())
}

/// Name of this host, for notes and messages; `unknown host` if the system reports none.
#[must_use]
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "unknown host".to_owned() } else { name.trim().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn the_name_of_the_host_is_that_of_the_system() {
        let uname = std::process::Command::new("uname").arg("-n").output().unwrap();
        assert_eq!(host_name(), String::from_utf8(uname.stdout).unwrap().trim());
    }

    fn take(dir: &std::path::Path, kind: &str) -> Lease {
        Lease::take(dir, kind, "test", LIFETIME).unwrap()
    }

    fn age(dir: &std::path::Path, lease: &str, secs: u64) {
        let path = dir.join(FOLDER).join(lease);
        std::fs::write(&path, b"another process\n").unwrap();
        let file = std::fs::File::options().append(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(secs)).unwrap();
    }

    #[test]
    fn leases_see_each_other_until_they_are_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b, other) = (take(dir.path(), "run"), take(dir.path(), "run"), take(dir.path(), "prune"));
        assert_eq!(a.others("run").unwrap(), [b.id()]);
        assert_eq!(b.others("prune").unwrap(), [other.id()]);
        assert_eq!(other.others("prune").unwrap(), Vec::<String>::new());
        assert!(a.is_fresh());
        drop(b);
        assert_eq!(a.others("run").unwrap(), Vec::<String>::new());
    }

    #[test]
    fn lease_of_a_dead_process_ends() {
        let dir = tempfile::tempdir().unwrap();
        let lease = take(dir.path(), "run");
        // Far from the ends of a lifetime and of ten: this test may be interrupted for half a minute.
        age(dir.path(), "run.live", 10);
        age(dir.path(), "run.dead", 300);
        age(dir.path(), "run.long-dead", 3600);
        assert_eq!(lease.others("run").unwrap(), ["live"]);
        assert!(dir.path().join(".leases/run.dead").exists());
        assert!(!dir.path().join(".leases/run.long-dead").exists());
    }

    #[test]
    fn one_process_at_a_time_holds_a_lease_alone() {
        let dir = tempfile::tempdir().unwrap();
        let alone = Lease::take_alone(dir.path(), "share", "test", LIFETIME).unwrap();
        assert!(alone.is_some());
        assert!(Lease::take_alone(dir.path(), "share", "test", LIFETIME).unwrap().is_none());
        assert!(Lease::take_alone(dir.path(), "share-2", "test", LIFETIME).unwrap().is_some());
        drop(alone);
        assert!(Lease::take_alone(dir.path(), "share", "test", LIFETIME).unwrap().is_some());
    }
}
