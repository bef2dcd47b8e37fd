//! Terminal modes for the dashboard, and their restoration.
//!
//! Line editing and echo are off, but Ctrl-C remains a signal that requests a stop. There is one terminal, so its
//! former modes are in a static variable, which the end of a run, the signal handler and the panic hook can all reach.

use std::io::{self, IsTerminal as _, Read, Stdin, Write, stdin, stdout};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use nix::libc::_POSIX_VDISABLE;
use nix::sys::termios::{
    InputFlags, LocalFlags, SetArg, SpecialCharacterIndices as Key, Termios, tcgetattr, tcsetattr,
};
use nix::unistd::{getpgrp, tcgetpgrp};
use ratatui::termion::clear::All as ClearAll;
use ratatui::termion::cursor::{Hide, Show};
use ratatui::termion::screen::{ToAlternateScreen, ToMainScreen};

use crate::device::is_on_device_thread;

/// Maximum number of log lines that wait for the dashboard; later ones are dropped.
const MAX_WAITING: usize = 100;

static SHOWN: AtomicBool = AtomicBool::new(false);
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);
static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());
static HOOK: Once = Once::new();

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns whether a dashboard can be shown: standard output is a capable terminal and this process is in its
/// foreground. The system stops a background process that changes the terminal.
#[must_use]
pub fn is_ours() -> bool {
    let capable = std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb");
    stdout().is_terminal() && capable && tcgetpgrp(stdout()).is_ok_and(|group| group == getpgrp())
}

/// Returns whether the dashboard is using the terminal.
#[must_use]
pub fn is_shown() -> bool {
    SHOWN.load(Ordering::Relaxed)
}

pub(super) fn enter() -> io::Result<()> {
    HOOK.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !is_on_device_thread() {
                restore();
            }
            hook(panic);
        }));
    });
    if reads_keys() {
        let before = tcgetattr(stdin())?;
        let mut modes = before.clone();
        modes.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO);
        // Ctrl-S would block drawing; Ctrl-Z and Ctrl-\ would leave the alternate screen on.
        modes.input_flags.remove(InputFlags::IXON);
        for key in [Key::VSUSP, Key::VQUIT] {
            modes.control_chars[key as usize] = _POSIX_VDISABLE;
        }
        // A read returns after 0.2 s, with or without a key.
        modes.control_chars[Key::VMIN as usize] = 0;
        modes.control_chars[Key::VTIME as usize] = 2;
        *lock(&BEFORE) = Some(before);
        tcsetattr(stdin(), SetArg::TCSANOW, &modes)?;
    }
    SHOWN.store(true, Ordering::Relaxed);
    let mut out = stdout().lock();
    // A program that was killed may have left its text there.
    write!(out, "{ToAlternateScreen}{ClearAll}{Hide}").and_then(|()| out.flush()).inspect_err(|_| restore())
}

/// Restores the terminal. Does nothing if it was restored already; may be called from any thread.
pub fn restore() {
    if !SHOWN.swap(false, Ordering::Relaxed) {
        return;
    }
    // Drawing checks `SHOWN` under the reentrant lock of standard output: nothing is drawn after this.
    let mut out = stdout().lock();
    let _ = write!(out, "{Show}{ToMainScreen}").and_then(|()| out.flush());
    if let Some(before) = lock(&BEFORE).take() {
        let _ = tcsetattr(stdin(), SetArg::TCSANOW, &before);
    }
}

pub(super) fn reads_keys() -> bool {
    stdin().is_terminal()
}

/// Waits up to 0.2 s for a key.
pub(super) fn read_key(keys: &mut Stdin) -> Option<u8> {
    let mut key = [0];
    keys.read(&mut key).is_ok_and(|len| len == 1).then_some(key[0])
}

/// Writer of whole frames; writes nothing after the terminal was restored.
#[derive(Debug, Default)]
pub(super) struct Screen {
    frame: Vec<u8>,
}

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.frame.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut out = stdout().lock();
        if is_shown() {
            out.write_all(&self.frame)?;
            out.flush()?;
        }
        self.frame.clear();
        Ok(())
    }
}

/// Writer of the program's log: to standard error, or into the dashboard while it is shown.
#[derive(Debug)]
pub struct LogWriter;

/// Makes a [`LogWriter`] for `tracing_subscriber`.
#[must_use]
pub fn log_writer() -> LogWriter {
    LogWriter
}

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !is_shown() {
            return io::stderr().write(bytes);
        }
        let mut log = lock(&LOG);
        if log.len() < MAX_WAITING {
            log.extend(String::from_utf8_lossy(bytes).lines().map(str::to_owned));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

pub(super) fn take_log() -> Vec<String> {
    std::mem::take(&mut *lock(&LOG))
}
