//! Claims: pieces of work that processes divide among themselves one by one, on any file system or object store.
//!
//! ```text
//!   .leases/claim.WORKER     sign of life of a worker, see `lease`
//!   .claims/PIECE.N          claim N on a piece of work; its content is the worker
//!   .claims/PIECE.end        the piece is over and left no result
//! ```
//! A claim is created only where there is none of this number, so that one worker gets it. The claim of the largest number
//! counts. It is over when its worker is: another worker then creates the next number. Results are not recorded here;
//! a process that divides work looks for them where they belong.
//!
//! Files of earlier runs mean nothing to a later one: a worker that joins and finds no other alive removes them, and a
//! piece is over only for workers that saw the author of its `.end` file alive.
//!
//! A worker that was suspended for longer than the lifetime of its lease continues with pieces that others have taken
//! over, so a piece may be done twice, and must have the same result.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::lease::Lease;
use crate::location::Location;
use crate::place::Place;

/// Folder of the claims in a location.
const FOLDER: &str = ".claims";
/// Kind of the workers' leases.
const KIND: &str = "claim";
/// Suffix that marks a piece as over.
const END: &str = "end";
/// Number of listings of the claims per lifetime: a listing is reused for this fraction of a lifetime.
const LISTINGS_IN_A_LIFETIME: u32 = 12;

/// One of the workers that divide the work of a location.
#[derive(Debug)]
pub struct Claims {
    lease: Lease,
    place: Place,
    lifetime: Duration,
    listed: Option<Listed>,
    /// Other workers that were alive at some time since this one joined.
    met: HashSet<String>,
    /// Worker of each claim that was read.
    workers: HashMap<String, String>,
}

/// Claims and live workers, as of one listing.
#[derive(Debug)]
struct Listed {
    at: Instant,
    /// Largest number of a claim, by piece.
    claims: BTreeMap<String, u32>,
    over: HashSet<String>,
    live: HashSet<String>,
}

/// Answer to a worker that asks for a piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The piece now belongs to this worker.
    Ours,
    /// Another worker holds the piece; ask again later.
    Theirs,
    /// The piece is over and left no result.
    Over,
}

impl Claims {
    /// Joins the workers of a location. A worker that shows no sign of life for `lifetime` is taken for dead.
    ///
    /// # Errors
    /// If the location cannot be written.
    pub fn join(at: impl Into<Location>, note: &str, lifetime: Duration) -> Result<Self> {
        let location = at.into();
        let place = Place::of(&location)?;
        place.create_folder(FOLDER)?;
        // Listed before the lease is taken: a worker that joins later sees the lease, and its claims are not removed.
        let leftovers = place.list(FOLDER)?;
        let lease = Lease::take(&location, KIND, note, lifetime)?;
        let met: HashSet<String> = lease.others(KIND)?.into_iter().collect();
        if met.is_empty() {
            for file in leftovers {
                place.remove(&format!("{FOLDER}/{}", file.name))?;
            }
        }
        Ok(Self { lease, place, lifetime, listed: None, met, workers: HashMap::new() })
    }

    /// Identity of this worker.
    #[must_use]
    pub fn worker(&self) -> &str {
        self.lease.id()
    }

    /// Suggested pause before asking again for pieces that other workers hold.
    #[must_use]
    pub fn pause(&self) -> Duration {
        self.lifetime / LISTINGS_IN_A_LIFETIME
    }

    /// Claims the piece of work named `key`, unless another live worker holds it.
    ///
    /// # Errors
    /// If the location cannot be read or written.
    pub fn take(&mut self, key: &str) -> Result<Claim> {
        let piece = piece_of(key);
        if self.listed()?.over.contains(&piece) && self.is_ended_now(&piece)? {
            return Ok(Claim::Over);
        }
        let number = match self.listed()?.claims.get(&piece).copied() {
            None => 0,
            Some(number) => match self.worker_of(&piece, number)? {
                Some(worker) if worker == self.worker() => return Ok(Claim::Ours),
                Some(worker) if self.listed()?.live.contains(&worker) => return Ok(Claim::Theirs),
                // The worker of that claim is dead, or has cleaned up in the meantime.
                _ => number + 1,
            },
        };
        let is_ours = self.place.create(&format!("{FOLDER}/{piece}.{number}"), self.worker().as_bytes())?;
        Ok(if is_ours { Claim::Ours } else { Claim::Theirs })
    }

    /// Records that a piece claimed by this worker is over and left no result, so that other workers skip it.
    ///
    /// # Errors
    /// If the location cannot be written.
    pub fn end(&self, key: &str) -> Result<()> {
        Ok(self.place.write(&format!("{FOLDER}/{}.{END}", piece_of(key)), self.worker().as_bytes())?)
    }

    /// Withdraws this worker. The last worker to leave removes the claims if all work is over.
    ///
    /// # Errors
    /// If the location cannot be read or written.
    pub fn leave(self, all_over: bool) -> Result<()> {
        // A worker that joins from now on reads the results after that, and finds all of them.
        if all_over && self.lease.others(KIND)?.is_empty() {
            for claim in self.place.list(FOLDER)? {
                self.place.remove(&format!("{FOLDER}/{}", claim.name))?;
            }
        }
        Ok(())
    }

    /// Claims and live workers, listed again if the last listing is too old.
    fn listed(&mut self) -> Result<&Listed> {
        let pause = self.pause();
        match &mut self.listed {
            Some(listed) if listed.at.elapsed() < pause => {}
            listed => {
                let at = Instant::now();
                let mut claims = BTreeMap::new();
                let mut over = HashSet::new();
                for file in self.place.list(FOLDER)? {
                    let Some((piece, number)) = file.name.split_once('.') else { continue };
                    if number == END {
                        over.insert(piece.to_owned());
                    } else if let Ok(number) = number.parse::<u32>() {
                        let largest = claims.entry(piece.to_owned()).or_insert(number);
                        *largest = number.max(*largest);
                    }
                }
                // After the claims, so that the worker of each is known to be alive or dead.
                let live: HashSet<String> = self.lease.others(KIND)?.into_iter().collect();
                self.met.extend(live.iter().cloned());
                *listed = Some(Listed { at, claims, over, live });
            }
        }
        Ok(self.listed.as_ref().expect("just listed"))
    }

    /// Returns `true` if a piece was ended by this worker or by one that was alive at the same time.
    fn is_ended_now(&self, piece: &str) -> Result<bool> {
        // Read each time: a worker may replace the file of a dead one.
        let Some(content) = self.place.read(&format!("{FOLDER}/{piece}.{END}"))? else { return Ok(false) };
        let author = String::from_utf8_lossy(&content);
        Ok(author == self.worker() || self.met.contains(author.as_ref()))
    }

    /// Worker that made a claim; `None` if the claim is gone.
    fn worker_of(&mut self, piece: &str, number: u32) -> Result<Option<String>> {
        let name = format!("{FOLDER}/{piece}.{number}");
        if let Some(worker) = self.workers.get(&name) {
            return Ok(Some(worker.clone()));
        }
        let Some(content) = self.place.read(&name)? else { return Ok(None) };
        let worker = String::from_utf8_lossy(&content).into_owned();
        self.workers.insert(name, worker.clone());
        Ok(Some(worker))
    }
}

/// File name of a piece of work.
fn piece_of(key: &str) -> String {
    blake3::hash(key.as_bytes()).to_hex()[..32].to_owned()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Joins a worker whose lease never expires during a test.
    fn join(dir: &Path) -> Claims {
        Claims::join(dir, "test", Duration::from_mins(1)).unwrap()
    }

    fn take(claims: &mut Claims, key: &str) -> Claim {
        claims.listed = None;
        claims.take(key).unwrap()
    }

    #[test]
    fn piece_belongs_to_one_worker() {
        let dir = tempfile::tempdir().unwrap();
        let (mut a, mut b) = (join(dir.path()), join(dir.path()));
        assert_eq!(take(&mut a, "D/1"), Claim::Ours);
        assert_eq!(take(&mut b, "D/1"), Claim::Theirs);
        assert_eq!(take(&mut b, "D/2"), Claim::Ours);
        assert_eq!(take(&mut a, "D/2"), Claim::Theirs);
        assert_eq!(take(&mut a, "D/1"), Claim::Ours, "asked for again");
    }

    #[test]
    fn claim_made_after_the_last_listing_is_respected() {
        let dir = tempfile::tempdir().unwrap();
        let (mut a, mut b) = (join(dir.path()), join(dir.path()));
        assert_eq!(b.take("D/0").unwrap(), Claim::Ours);
        assert_eq!(a.take("D/1").unwrap(), Claim::Ours);
        assert_eq!(b.take("D/1").unwrap(), Claim::Theirs);
    }

    #[test]
    fn pieces_of_a_dead_worker_are_taken_over_by_one_other() {
        let dir = tempfile::tempdir().unwrap();
        let (mut a, mut b) = (join(dir.path()), join(dir.path()));
        std::fs::write(dir.path().join(FOLDER).join(format!("{}.0", piece_of("D/1"))), "a dead worker").unwrap();
        assert_eq!(take(&mut a, "D/1"), Claim::Ours);
        assert_eq!(take(&mut b, "D/1"), Claim::Theirs);
        // The one that took over dies as well.
        drop(a);
        assert_eq!(take(&mut b, "D/1"), Claim::Ours);
        let names: Vec<_> =
            std::fs::read_dir(dir.path().join(FOLDER)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 3, "{names:?}");
    }

    #[test]
    fn piece_without_a_result_is_over_for_all() {
        let dir = tempfile::tempdir().unwrap();
        let (mut a, mut b) = (join(dir.path()), join(dir.path()));
        assert_eq!(take(&mut a, "D/1"), Claim::Ours);
        a.end("D/1").unwrap();
        assert_eq!(take(&mut b, "D/1"), Claim::Over);
    }

    #[test]
    fn worker_that_joins_alone_removes_remainders_of_dead_runs() {
        let dir = tempfile::tempdir().unwrap();
        let mut dead = join(dir.path());
        assert_eq!((take(&mut dead, "D/1"), take(&mut dead, "D/2")), (Claim::Ours, Claim::Ours));
        dead.end("D/1").unwrap();
        drop(dead);
        let mut next = join(dir.path());
        assert_eq!(std::fs::read_dir(dir.path().join(FOLDER)).unwrap().count(), 0);
        assert_eq!(take(&mut next, "D/1"), Claim::Ours);
    }

    #[test]
    fn piece_ended_before_a_worker_joined_is_not_over_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let (mut dead, mut live) = (join(dir.path()), join(dir.path()));
        assert_eq!(take(&mut dead, "D/1"), Claim::Ours);
        dead.end("D/1").unwrap();
        drop(dead);
        let mut next = join(dir.path());
        assert_eq!(take(&mut next, "D/1"), Claim::Ours);
        next.end("D/1").unwrap();
        assert_eq!(take(&mut live, "D/1"), Claim::Over);
    }

    #[test]
    fn last_worker_to_leave_removes_the_claims() {
        let dir = tempfile::tempdir().unwrap();
        let (mut a, mut b) = (join(dir.path()), join(dir.path()));
        assert_eq!((take(&mut a, "D/1"), take(&mut b, "D/2")), (Claim::Ours, Claim::Ours));
        let count = || std::fs::read_dir(dir.path().join(FOLDER)).unwrap().count();
        a.leave(true).unwrap();
        assert_eq!(count(), 2);
        b.leave(true).unwrap();
        assert_eq!(count(), 0);
    }
}
