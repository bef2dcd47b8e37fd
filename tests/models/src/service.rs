//! Models of the schedule of the loader service.

#[path = "../../../loader/src/service/schedule.rs"]
mod schedule;

use std::sync::Arc;

use shuttle::thread;

use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::channel::{Sender, bounded};
use schedule::{Account, Job, Refused, Reservation, Schedule};

/// Creates a job that is never cancelled and passes on its reservation.
fn job(bytes: u64, sent: Sender<Reservation>) -> Job {
    let work = Box::new(move |reservation| sent.send(reservation).expect("the client reads"));
    Job { bytes, visits: 1, is_cancelled: Box::new(|| false), work }
}

/// Starts threads that run jobs.
fn workers(schedule: &Arc<Schedule>, number: usize) -> Vec<thread::JoinHandle<()>> {
    let worker = |_| {
        let schedule = Arc::clone(schedule);
        thread::spawn(move || schedule.run())
    };
    (0..number).map(worker).collect()
}

fn join(threads: Vec<thread::JoinHandle<()>>) {
    for thread in threads {
        thread.join().expect("no thread panics");
    }
}

/// Two clients submit and read their batches, served by two workers. A client's memory holds one or two of its batches.
///
/// # Panics
/// If a client holds more than its memory, or something at the end.
pub fn two_clients_read_their_batches() {
    let schedule = Schedule::new(2, 4);
    let workers = workers(&schedule, 2);
    let client = |bytes: u64, batches: usize| {
        let schedule = Arc::clone(&schedule);
        thread::spawn(move || {
            let account = Account::new(&schedule, 10);
            let (sender, receiver) = bounded(batches);
            for _ in 0..batches {
                schedule.submit(&account, job(bytes, sender.clone())).expect("there is room");
            }
            for _ in 0..batches {
                let reservation = receiver.recv().expect("every job is done");
                assert!((bytes..=10).contains(&account.held()), "{} bytes held", account.held());
                drop(reservation);
            }
            assert_eq!(account.held(), 0);
        })
    };
    join(vec![client(5, 3), client(10, 2)]);
    schedule.stop();
    join(workers);
}

/// The request of a client that waits for memory is cancelled; its job must be removed although the memory stays in
/// use.
pub fn a_waiting_job_is_cancelled() {
    let schedule = Schedule::new(1, 4);
    let workers = workers(&schedule, 1);
    let account = Account::new(&schedule, 10);
    let held = account.reserve(10).expect("nothing is in use");
    let cancelled = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&cancelled);
    let (sender, receiver) = bounded(1);
    let waiting = Job { is_cancelled: Box::new(move || flag.load(Ordering::SeqCst)), ..job(5, sender) };
    schedule.submit(&account, waiting).expect("there is room");
    cancelled.store(true, Ordering::SeqCst);
    schedule.nudge();
    // Waits until the job, which owns the sender, is dropped.
    assert!(receiver.recv().is_err(), "a cancelled job was done");
    drop(held);
    schedule.stop();
    join(workers);
    assert_eq!(account.held(), 0);
}

/// The server stops while jobs wait and others are submitted.
///
/// # Panics
/// If a job is accepted after the stop, or memory is still held at the end.
pub fn the_server_stops() {
    let schedule = Schedule::new(1, 8);
    let workers = workers(&schedule, 2);
    let account = Account::new(&schedule, 10);
    let (sender, receiver) = bounded(8);
    let client = {
        let (schedule, account, sender) = (Arc::clone(&schedule), Arc::clone(&account), sender.clone());
        thread::spawn(move || {
            for _ in 0..2 {
                if let Err(refused) = schedule.submit(&account, job(6, sender.clone())) {
                    assert_eq!(refused, Refused::Stopped);
                }
            }
        })
    };
    schedule.stop();
    join(vec![client]);
    assert_eq!(schedule.submit(&account, job(6, sender)), Err(Refused::Stopped));
    join(workers);
    drop(receiver);
    assert_eq!((account.held(), schedule.waiting()), (0, 0));
}
