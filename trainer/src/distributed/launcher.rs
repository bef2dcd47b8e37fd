//! Launcher of ranks as child processes on one machine, for `--devices` with several devices.
//!
//! Each child runs this program with the same arguments; the environment determines its rank. The parent computes
//! nothing: it passes on signals, shows the ranks' messages, names a child that was killed, ends the others if they do
//! not end themselves, and starts all of them again after a loss if restarts are left and the run had begun. Children
//! end with their parent.

mod errors;

use std::io::{self, BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use flume::RecvTimeoutError;
use hiend_cache::durable;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use self::errors::Errors;
use super::rendezvous::announcement;
use super::token::{Token, TokenError, VARIABLE};
use super::world::RENDEZVOUS;
use crate::signals::{STOPPING, Signals};

/// Environment variable with the id of the process that a child belongs to.
const PARENT: &str = "HIEND_LAUNCHER_PID";
/// Environment variable with the number of the restart, from 1; absent in the first attempt.
const RESTART: &str = "HIEND_RESTART";
/// Time for the other ranks to end if rank 0 has nothing to save: it has ended or hangs, or no run has begun.
const PARTING: Duration = Duration::from_secs(10);
/// Time to wait for equal errors of other ranks before an error is shown.
const MERGING: Duration = Duration::from_secs(2);
/// Maximum number of lines of output that are held back.
const MAX_HELD: usize = 1000;

/// Error from starting the ranks of this machine.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The path of this program is unknown.
    #[error("the path of this program is unknown")]
    Program(#[source] io::Error),
    /// A child cannot be started.
    #[error("cannot start rank {rank}")]
    Spawn {
        /// Number of the rank, from 0.
        rank: usize,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The folder of the rendezvous cannot be created.
    #[error("cannot make the temporary folder of the rendezvous")]
    Folder(#[source] io::Error),
    /// The shared secret of the ranks cannot be created.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The system refused signal handlers or threads.
    #[error("cannot watch the ranks")]
    Watch(#[source] io::Error),
}

/// Settings of the ranks that this process starts.
#[derive(Clone, Copy, Debug)]
pub struct Children {
    /// Number of ranks.
    pub num_ranks: usize,
    /// Maximum number of restarts after a rank was lost.
    pub restarts: usize,
    /// Time for the other ranks to save and end after one has failed.
    pub grace: Duration,
    /// Exit code of a run that SIGINT or SIGHUP stopped.
    pub interrupted_code: u8,
    /// Exit code of a run that a batch system's signal stopped.
    pub requeue_code: u8,
    /// Exit code after the loss of a rank: the other ranks end with it, so that the lost rank's own code is more
    /// informative. Only this code leads to a restart.
    pub lost_code: u8,
    /// True to hold back lines of ranks other than 0 until rank 0, which draws on the terminal, has ended.
    pub holds_lines: bool,
}

impl Children {
    /// Returns true for the exit code of a run that was asked to stop.
    fn is_stop(&self, code: u8) -> bool {
        [self.interrupted_code, self.requeue_code].contains(&code)
    }

    /// Exit code that says more of the run's end: `earlier`, of the ranks that have ended before, or `code`, of the next one.
    /// `is_expected` is true if the launcher passed on a signal or killed ranks.
    fn telling(&self, earlier: u8, code: u8, is_expected: bool) -> u8 {
        // A stop or an error of its own says more than the loss of another rank. An error says more than the stop of the other
        // ranks, which it has caused.
        let is_cause = code != self.lost_code && !self.is_stop(code) && !is_expected;
        let says_less = earlier == self.lost_code || (self.is_stop(earlier) && is_cause);
        if earlier == 0 || (says_less && code != 0) { code } else { earlier }
    }
}

/// Event of a child, or a signal.
enum News {
    /// A line that a rank wrote to standard error, for ranks other than 0.
    Line(usize, String),
    Ended(usize, io::Result<ExitStatus>),
    Signal(Signal),
}

/// Runs the ranks of this machine until all have ended; `tell` shows a line to the user. Returns the exit code.
///
/// # Errors
/// If the ranks cannot be started or watched.
pub fn own_children(children: &Children, tell: &dyn Fn(&str)) -> Result<u8, LaunchError> {
    // Children inherit the mask, unblock the signals when they start, and block them again to receive them.
    let signals = Signals::block().map_err(LaunchError::Watch)?;
    let (sender, news) = flume::bounded(children.num_ranks + STOPPING.len());
    let to_main = sender.clone();
    let watch = move || {
        while let Ok(arrived) = signals.next() {
            if to_main.send(News::Signal(arrived.signal)).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(watch).map_err(LaunchError::Watch)?;
    let token = Token::random()?;
    for attempt in 0.. {
        let folder = tempfile::Builder::new().prefix("hiend-ranks-").tempdir().map_err(LaunchError::Folder)?;
        let started = Attempt::start(children, attempt, &announcement(folder.path()), &token, &sender)?;
        let ended = started.watch(&news, tell);
        // An error of a rank's own would occur again.
        let is_lost = ended.code == children.lost_code && ended.begun && !ended.finished;
        if !is_lost || ended.stopped || attempt == children.restarts {
            return Ok(ended.code);
        }
        tell(&format!(
            "restart {} of {}: all ranks begin again from the newest checkpoint",
            attempt + 1,
            children.restarts
        ));
    }
    unreachable!("the loop returns")
}

/// State of the ranks in one attempt.
struct Attempt<'a> {
    children: &'a Children,
    /// File in which rank 0 announces its address; the files that ranks write for the launcher are next to it.
    announcement: PathBuf,
    /// Process id of each rank that has not ended.
    pids: Vec<Option<Pid>>,
    /// True once a signal requested the end.
    stopped: bool,
    /// True once rank 0 ended without an error.
    finished: bool,
    /// True once this process killed the remaining ranks.
    killed: bool,
    errors: Errors,
    /// Loss of rank 0, as noticed by another rank, because rank 0 cannot report it itself.
    loss: Option<String>,
    /// Lines held back, and number of further lines that were dropped.
    held: (Vec<String>, usize),
}

/// Outcome of an attempt.
struct Ended {
    code: u8,
    /// True if a signal requested the end.
    stopped: bool,
    /// True if the run had begun.
    begun: bool,
    /// True if rank 0 ended without an error, so that the run is complete.
    finished: bool,
}

impl<'a> Attempt<'a> {
    fn start(
        children: &'a Children,
        attempt: usize,
        announcement: &Path,
        token: &Token,
        sender: &flume::Sender<News>,
    ) -> Result<Self, LaunchError> {
        let program = std::env::current_exe().map_err(LaunchError::Program)?;
        let mut started = Self {
            children,
            announcement: announcement.to_owned(),
            pids: vec![],
            stopped: false,
            finished: false,
            killed: false,
            errors: Errors::default(),
            loss: None,
            held: (vec![], 0),
        };
        for rank in 0..children.num_ranks {
            let mut command = Command::new(&program);
            command
                .args(std::env::args_os().skip(1))
                .env(RENDEZVOUS, announcement)
                .env(VARIABLE, token.text())
                .env(PARENT, std::process::id().to_string())
                .env("RANK", rank.to_string())
                .env("LOCAL_RANK", rank.to_string())
                .env("WORLD_SIZE", children.num_ranks.to_string())
                .env("LOCAL_WORLD_SIZE", children.num_ranks.to_string());
            if attempt > 0 {
                command.env(RESTART, attempt.to_string());
            }
            if rank > 0 {
                // Rank 0 shows the run, and has the terminal for itself.
                command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
            }
            let spawned = command.spawn().and_then(|child| {
                let pid = Pid::from_raw(child.id().cast_signed());
                let sender = sender.clone();
                let report = move || report(rank, child, &sender);
                std::thread::Builder::new().name(format!("rank-{rank}")).spawn(report).map(|_| pid)
            });
            match spawned {
                Ok(pid) => started.pids.push(Some(pid)),
                Err(source) => {
                    started.signal_all(Signal::SIGKILL);
                    return Err(LaunchError::Spawn { rank, source });
                }
            }
        }
        Ok(started)
    }

    /// Sends a signal to the ranks that have not ended.
    fn signal_all(&self, signal: Signal) {
        for pid in self.pids.iter().flatten() {
            // A rank that ends at this moment needs no signal.
            let _ = kill(*pid, signal);
        }
    }

    /// Returns true once the ranks have agreed to begin the run.
    fn has_begun(&self) -> bool {
        begun(&self.announcement).is_file()
    }

    fn watch(mut self, news: &flume::Receiver<News>, tell: &dyn Fn(&str)) -> Ended {
        let mut exit_code = 0;
        let mut kill_at: Option<Instant> = None;
        let mut show_at: Option<Instant> = None;
        while self.pids.iter().any(Option::is_some) {
            let next = match kill_at.into_iter().chain(show_at).min() {
                Some(deadline) => news.recv_deadline(deadline),
                None => news.recv().map_err(|flume::RecvError::Disconnected| RecvTimeoutError::Disconnected),
            };
            match next {
                Ok(News::Line(rank, line)) => self.line(format!("rank {rank}: {line}"), tell),
                Ok(News::Signal(signal)) => {
                    self.stopped = true;
                    self.signal_all(signal);
                }
                Ok(News::Ended(rank, status)) => {
                    let pid = self.pids[rank].take();
                    let code = self.code(rank, pid, status, tell);
                    if let Ok(error) = std::fs::read_to_string(error_file(&self.announcement, rank)) {
                        self.errors.add(rank, error);
                        show_at.get_or_insert_with(|| Instant::now() + MERGING);
                    }
                    exit_code = self.children.telling(exit_code, code, self.stopped || self.killed);
                    if let Ok(loss) = std::fs::read_to_string(loss_file(&self.announcement)) {
                        self.loss = Some(loss);
                    }
                    if code != 0 && !self.children.is_stop(code) {
                        let nothing_to_save = !self.has_begun() || self.loss.is_some();
                        let grace = if nothing_to_save { PARTING } else { self.children.grace };
                        let at = Instant::now() + grace;
                        kill_at = Some(kill_at.map_or(at, |earlier| earlier.min(at)));
                    }
                    // Rank 0 saves what can be saved; when it has ended, there is nothing to wait for.
                    if rank == 0 {
                        self.finished = code == 0;
                        let at = Instant::now() + if code == 0 { self.children.grace } else { PARTING };
                        kill_at = Some(kill_at.map_or(at, |earlier| earlier.min(at)));
                        self.show_held(tell);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    let now = Instant::now();
                    if show_at.is_some_and(|at| at <= now) {
                        show_at = None;
                        self.show_errors(tell);
                    }
                    if kill_at.is_some_and(|at| at <= now) {
                        kill_at = None;
                        if let Some(loss) = self.loss.take().filter(|_| self.pids[0].is_some()) {
                            tell(&format!("error: {loss}"));
                        }
                        let left: Vec<_> = (0..self.pids.len()).filter(|&rank| self.pids[rank].is_some()).collect();
                        tell(&format!("killing ranks {left:?}: they did not end after another rank had ended"));
                        self.killed = true;
                        self.signal_all(Signal::SIGKILL);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.show_errors(tell);
        // Rank 0 writes everything: once it has ended without an error, the run is complete, whatever became of the others.
        let exit_code = if self.finished { 0 } else { exit_code };
        Ended { code: exit_code, stopped: self.stopped, begun: self.has_begun(), finished: self.finished }
    }

    /// Shows a line, or holds it back while rank 0 draws on the terminal.
    fn line(&mut self, line: String, tell: &dyn Fn(&str)) {
        if !self.children.holds_lines || self.pids[0].is_none() {
            tell(&line);
        } else if self.held.0.len() < MAX_HELD {
            self.held.0.push(line);
        } else {
            self.held.1 += 1;
        }
    }

    fn show_held(&mut self, tell: &dyn Fn(&str)) {
        let (lines, dropped) = std::mem::take(&mut self.held);
        for line in &lines {
            tell(line);
        }
        if dropped > 0 {
            tell(&format!("{dropped} further lines of ranks other than 0 were dropped"));
        }
    }

    fn show_errors(&mut self, tell: &dyn Fn(&str)) {
        self.errors.take().iter().for_each(|line| tell(line));
    }

    /// Exit code of a rank. Reports a rank that was killed, unless the launcher killed it.
    fn code(&self, rank: usize, pid: Option<Pid>, status: io::Result<ExitStatus>, tell: &dyn Fn(&str)) -> u8 {
        let pid = pid.map(|pid| pid.to_string()).unwrap_or_default();
        match status {
            Ok(status) => match (status.code(), status.signal().map(Signal::try_from)) {
                (Some(code), _) => u8::try_from(code).unwrap_or(u8::MAX),
                // A signal that was passed on before the rank handled it.
                (None, Some(Ok(Signal::SIGTERM | Signal::SIGUSR1))) if self.stopped => self.children.requeue_code,
                (None, Some(Ok(Signal::SIGINT | Signal::SIGHUP))) if self.stopped => self.children.interrupted_code,
                (None, Some(Ok(Signal::SIGKILL))) if self.killed => self.children.lost_code,
                (None, signal) => {
                    let name = signal.and_then(Result::ok).map_or("a signal", Signal::as_str);
                    tell(&format!("error: rank {rank} (process {pid}) was killed by {name}"));
                    self.children.lost_code
                }
            },
            Err(error) => {
                tell(&format!("error: rank {rank} (process {pid}) cannot be waited for: {error}"));
                1
            }
        }
    }
}

/// Sends the lines that a rank writes to standard error, and then its exit.
fn report(rank: usize, mut child: Child, sender: &flume::Sender<News>) {
    if let Some(stderr) = child.stderr.take() {
        let mut stderr = BufReader::new(stderr);
        let mut line = Vec::new();
        // Ranks start no processes of their own: this ends with the rank.
        while stderr.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
            if sender.send(News::Line(rank, text)).is_err() {
                return;
            }
            line.clear();
        }
    }
    let _ = sender.send(News::Ended(rank, child.wait()));
}

/// Asks the system to end this process when its launcher ends. Has no effect in processes without a launcher.
pub fn die_with_launcher() {
    let Some(parent) = std::env::var(PARENT).ok().and_then(|pid| pid.parse::<i32>().ok()) else { return };
    #[cfg(target_os = "linux")]
    {
        let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGTERM);
    }
    // The launcher may have ended before that.
    if nix::unistd::getppid().as_raw() != parent {
        let _ = nix::sys::signal::raise(Signal::SIGTERM);
    }
}

/// True in ranks that were restarted after a failure, which continue the run of the first attempt.
#[must_use]
pub fn is_restart() -> bool {
    std::env::var_os(RENDEZVOUS).is_some() && std::env::var_os(RESTART).is_some()
}

/// Reports to the launcher, if there is one, that the run has begun, so that its ranks may be restarted after a
/// failure.
///
/// # Errors
/// If the mark cannot be written.
pub fn mark_begun() -> Result<(), hiend_cache::FileError> {
    match std::env::var_os(RENDEZVOUS) {
        Some(path) => durable::write(&begun(Path::new(&path)), b""),
        None => Ok(()),
    }
}

/// Passes the error of a rank to its launcher, which shows an error shared by several ranks once. Returns false if
/// there is no launcher, or the error cannot be written.
#[must_use]
pub fn leave_error(rank: usize, error: &str) -> bool {
    let Some(path) = std::env::var_os(RENDEZVOUS) else { return false };
    durable::write(&error_file(Path::new(&path), rank), error.as_bytes()).is_ok()
}

/// Passes the loss of rank 0 to the launcher, which reports it if it has to kill rank 0.
pub fn leave_loss(loss: &str) {
    if let Some(path) = std::env::var_os(RENDEZVOUS) {
        // Without the file, the launcher waits longer and names the rank that it kills by its number only.
        let _ = durable::write(&loss_file(Path::new(&path)), loss.as_bytes());
    }
}

/// Path of the file that marks the begin of a run, next to the announcement.
fn begun(announcement: &Path) -> PathBuf {
    announcement.with_extension("begun")
}

/// Path of the file with the error that ended a rank, next to the announcement.
fn error_file(announcement: &Path, rank: usize) -> PathBuf {
    announcement.with_extension(format!("error-{rank}"))
}

/// Path of the file with the loss of rank 0, next to the announcement.
fn loss_file(announcement: &Path) -> PathBuf {
    announcement.with_extension("loss")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_that_of_the_cause() {
        const LOST: u8 = 69;
        const REQUEUE: u8 = 75;
        const INTERRUPTED: u8 = 130;
        let children = Children {
            num_ranks: 2,
            restarts: 0,
            grace: Duration::ZERO,
            interrupted_code: INTERRUPTED,
            requeue_code: REQUEUE,
            lost_code: LOST,
            holds_lines: false,
        };
        let check = |codes: &[u8], is_expected: bool, cause: u8| {
            let code = codes.iter().fold(0, |earlier, &code| children.telling(earlier, code, is_expected));
            assert_eq!(code, cause, "{codes:?}");
        };
        for is_expected in [false, true] {
            check(&[0, 0], is_expected, 0);
            check(&[LOST, 1], is_expected, 1);
            check(&[1, LOST], is_expected, 1);
            check(&[LOST, INTERRUPTED], is_expected, INTERRUPTED);
            check(&[INTERRUPTED, LOST], is_expected, INTERRUPTED);
            check(&[1, INTERRUPTED], is_expected, 1);
            // A rank that received the batch system's signal stops the others, which exit as after Ctrl-C.
            check(&[REQUEUE, INTERRUPTED], is_expected, REQUEUE);
        }
        // A rank with a panic ends after the others, which it has stopped.
        check(&[INTERRUPTED, 1], false, 1);
        // After a signal, a rank that ends otherwise changes nothing.
        check(&[REQUEUE, 1], true, REQUEUE);
    }
}
