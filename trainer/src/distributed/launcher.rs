//! Ranks of one machine as child processes of this one, for `--devices` with several devices.
//!
//! Each child runs this program with the same arguments; the environment says which rank it is. The parent computes
//! nothing: it passes signals on, names a child that was killed, ends the others if they do not end themselves, and
//! starts all of them again if restarts are left and the run had begun. Children end with their parent.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use flume::RecvTimeoutError;
use hiend_cache::durable;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::unistd::Pid;

use super::rendezvous::announcement;
use super::token::{Token, TokenError, VARIABLE};
use super::world::RENDEZVOUS;

/// Process that a child belongs to.
const PARENT: &str = "HIEND_LAUNCHER_PID";
/// Number of the restart, from 1; absent in the first attempt.
const RESTART: &str = "HIEND_RESTART";
/// Time that the other ranks have to end after rank 0 has ended.
const PARTING: Duration = Duration::from_secs(5);
/// Signals that are passed on to the ranks.
const SIGNALS: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGUSR1];

/// A failure to start the ranks of this machine.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// This program's own file is unknown.
    #[error("the path of this program is unknown")]
    Program(#[source] io::Error),
    /// A child cannot be started.
    #[error("cannot start rank {rank}")]
    Spawn {
        /// The rank.
        rank: usize,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The folder of the rendezvous cannot be made.
    #[error("temporary folder of the rendezvous")]
    Folder(#[source] io::Error),
    /// No secret for the ranks.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// Signals or threads are refused.
    #[error("cannot watch the ranks")]
    Watch(#[source] io::Error),
}

/// Settings of the ranks that this process starts.
#[derive(Clone, Copy, Debug)]
pub struct Children {
    /// Number of ranks.
    pub num_ranks: usize,
    /// Restarts left after failures.
    pub restarts: usize,
    /// Time that the other ranks have to end after one has failed.
    pub grace: Duration,
    /// Exit codes of a stop on request: the ranks are not started again.
    pub stopped_codes: [u8; 2],
    /// Exit code if a rank was lost: the other ranks end with it, so that the code of the lost rank says more.
    pub lost_code: u8,
}

/// Event of a child or a signal.
enum News {
    Ended(usize, io::Result<ExitStatus>),
    /// A signal; true if a process sent it, and not the terminal, which sends it to the children as well.
    Signal(Signal, bool),
}

/// Runs the ranks of this machine until all have ended. `tell` shows a line to the user. Returns the exit code.
///
/// # Errors
/// If the ranks cannot be started or watched.
pub fn own_children(children: &Children, tell: &dyn Fn(&str)) -> Result<u8, LaunchError> {
    let signals: SigSet = SIGNALS.into_iter().collect();
    let errno = |error: nix::errno::Errno| LaunchError::Watch(error.into());
    // Children start with no signal blocked.
    signals.thread_block().map_err(errno)?;
    let signals = SignalFd::new(&signals).map_err(errno)?;
    let (sender, news) = flume::bounded(children.num_ranks + SIGNALS.len());
    let to_main = sender.clone();
    let watch = move || {
        while let Ok(Some(info)) = signals.read_signal() {
            let Ok(signal) = Signal::try_from(info.ssi_signo.cast_signed()) else { continue };
            // SI_KERNEL marks the terminal's own signals.
            if to_main.send(News::Signal(signal, info.ssi_code <= 0)).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(watch).map_err(LaunchError::Watch)?;
    let token = Token::random()?;
    for attempt in 0.. {
        let folder = tempfile::Builder::new().prefix("hiend-ranks-").tempdir().map_err(LaunchError::Folder)?;
        let ended = Attempt::start(children, attempt, folder.path(), &token, &sender)?.watch(&news, tell);
        let begun = begun(&announcement(folder.path())).is_file();
        if !ended.is_failure(children) || ended.stopped || !begun || attempt == children.restarts {
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

/// The ranks of one attempt.
struct Attempt<'a> {
    children: &'a Children,
    /// Process of each rank that has not ended.
    pids: Vec<Option<Pid>>,
}

/// The end of an attempt.
struct Ended {
    code: u8,
    /// A signal asked for the end.
    stopped: bool,
}

impl Ended {
    fn is_failure(&self, children: &Children) -> bool {
        self.code != 0 && !children.stopped_codes.contains(&self.code)
    }
}

impl<'a> Attempt<'a> {
    fn start(
        children: &'a Children,
        attempt: usize,
        folder: &Path,
        token: &Token,
        sender: &flume::Sender<News>,
    ) -> Result<Self, LaunchError> {
        let program = std::env::current_exe().map_err(LaunchError::Program)?;
        let mut started = Self { children, pids: vec![] };
        for rank in 0..children.num_ranks {
            let mut command = Command::new(&program);
            command
                .args(std::env::args_os().skip(1))
                .env(RENDEZVOUS, announcement(folder))
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
                command.stdin(Stdio::null()).stdout(Stdio::null());
            }
            let spawned = command.spawn().and_then(|mut child| {
                let pid = Pid::from_raw(child.id().cast_signed());
                let sender = sender.clone();
                let wait = move || {
                    let _ = sender.send(News::Ended(rank, child.wait()));
                };
                std::thread::Builder::new().name(format!("wait-{rank}")).spawn(wait).map(|_| pid)
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

    fn watch(mut self, news: &flume::Receiver<News>, tell: &dyn Fn(&str)) -> Ended {
        let mut ended = Ended { code: 0, stopped: false };
        let mut deadline: Option<Instant> = None;
        while self.pids.iter().any(Option::is_some) {
            let next = match deadline {
                Some(deadline) => news.recv_deadline(deadline),
                None => news.recv().map_err(|flume::RecvError::Disconnected| RecvTimeoutError::Disconnected),
            };
            match next {
                Ok(News::Signal(signal, sent_here)) => {
                    ended.stopped = true;
                    if sent_here || signal != Signal::SIGINT {
                        self.signal_all(signal);
                    }
                }
                Ok(News::Ended(rank, status)) => {
                    let pid = self.pids[rank].take();
                    let code = self.code(rank, pid, status, tell);
                    // A signal or an error of its own says more than the loss of another rank.
                    if ended.code == 0 || (ended.code == self.children.lost_code && code != 0) {
                        ended.code = code;
                    }
                    if code != 0 && !self.children.stopped_codes.contains(&code) {
                        deadline.get_or_insert_with(|| Instant::now() + self.children.grace);
                    }
                    // Rank 0 saves what can be saved; when it has ended, there is nothing to wait for.
                    if rank == 0 && code != 0 {
                        deadline = Some(Instant::now() + PARTING);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    let left: Vec<_> = (0..self.pids.len()).filter(|&rank| self.pids[rank].is_some()).collect();
                    tell(&format!("killing ranks {left:?}: they did not end after another rank had failed"));
                    self.signal_all(Signal::SIGKILL);
                    deadline = None;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        ended
    }

    /// Exit code of a rank; names one that was killed.
    fn code(&self, rank: usize, pid: Option<Pid>, status: io::Result<ExitStatus>, tell: &dyn Fn(&str)) -> u8 {
        let pid = pid.map(|pid| pid.to_string()).unwrap_or_default();
        match status {
            Ok(status) => match (status.code(), status.signal()) {
                (Some(code), _) => u8::try_from(code).unwrap_or(u8::MAX),
                (None, signal) => {
                    let name =
                        signal.and_then(|signal| Signal::try_from(signal).ok()).map_or("a signal", Signal::as_str);
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

/// Asks the system to stop this process when its launcher ends. Has no effect in other processes.
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

/// True in the ranks of an attempt after a failure, which continue the run that the first attempt began.
#[must_use]
pub fn is_restart() -> bool {
    std::env::var_os(RENDEZVOUS).is_some() && std::env::var_os(RESTART).is_some()
}

/// Tells the launcher, if there is one, that the run has begun: its ranks may be started again after a failure.
///
/// # Errors
/// If the mark cannot be written.
pub fn mark_begun() -> Result<(), hiend_cache::FileError> {
    match std::env::var_os(RENDEZVOUS) {
        Some(path) => durable::write(&begun(Path::new(&path)), b""),
        None => Ok(()),
    }
}

/// File that marks a run that has begun, next to the announcement.
fn begun(announcement: &Path) -> PathBuf {
    announcement.with_extension("begun")
}
