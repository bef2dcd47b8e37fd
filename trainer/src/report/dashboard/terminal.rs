//! The terminal while the dashboard has it, and its way back.
//!
//! Lines are no longer edited and echoed, but Ctrl-C still is a signal: it asks the run to stop, as without a
//! dashboard. There is one terminal, so what it was before is kept in a static that whoever ends the program finds:
//! the end of a run, the handler of signals, the hook of panics.

use std::io::{self, IsTerminal as _, Read, Stdin, Write, stdin, stdout};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use nix::libc::_POSIX_VDISABLE;
use nix::sys::termios::{
    InputFlags, LocalFlags, SetArg, SpecialCharacterIndices as Key, Termios, tcgetattr, tcsetattr,
};
use nix::unistd::{getpgrp, tcgetpgrp};
use ratatui::termion::cursor::{Hide, Show};
use ratatui::termion::screen::{ToAlternateScreen, ToMainScreen};

/// Lines of the program's log that wait for the dashboard; later ones go.
const MAX_WAITING: usize = 100;

static SHOWN: AtomicBool = AtomicBool::new(false);
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);
static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());
static HOOK: Once = Once::new();

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a dashboard can be shown: standard output is a terminal that can do more than lines, and it is ours. A
/// program in the background would be stopped for touching it.
#[must_use]
pub fn is_ours() -> bool {
    let capable = std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb");
    stdout().is_terminal() && capable && tcgetpgrp(stdout()).is_ok_and(|group| group == getpgrp())
}

/// Whether the dashboard has the terminal.
#[must_use]
pub fn is_shown() -> bool {
    SHOWN.load(Ordering::Relaxed)
}

pub(super) fn enter() -> io::Result<()> {
    HOOK.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            hook(panic);
        }));
    });
    if reads_keys() {
        let before = tcgetattr(stdin())?;
        let mut modes = before.clone();
        modes.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO);
        // Ctrl-S would hold the drawing up, Ctrl-Z and Ctrl-\ leave the screen as it is.
        modes.input_flags.remove(InputFlags::IXON);
        for key in [Key::VSUSP, Key::VQUIT] {
            modes.control_chars[key as usize] = _POSIX_VDISABLE;
        }
        // A read waits a fifth of a second and returns, with or without a key.
        modes.control_chars[Key::VMIN as usize] = 0;
        modes.control_chars[Key::VTIME as usize] = 2;
        *lock(&BEFORE) = Some(before);
        tcsetattr(stdin(), SetArg::TCSANOW, &modes)?;
    }
    SHOWN.store(true, Ordering::Relaxed);
    let mut out = stdout().lock();
    write!(out, "{ToAlternateScreen}{Hide}").and_then(|()| out.flush()).inspect_err(|_| restore())
}

/// Gives the terminal back as it was. Does nothing if it was given back already; may be called from anywhere.
pub fn restore() {
    if !SHOWN.swap(false, Ordering::Relaxed) {
        return;
    }
    // The lock of standard output is reentrant, and drawing looks at `SHOWN` under it: nothing is drawn after this.
    let mut out = stdout().lock();
    let _ = write!(out, "{Show}{ToMainScreen}").and_then(|()| out.flush());
    if let Some(before) = lock(&BEFORE).take() {
        let _ = tcsetattr(stdin(), SetArg::TCSANOW, &before);
    }
}

pub(super) fn reads_keys() -> bool {
    stdin().is_terminal()
}

/// Waits a fifth of a second for a key.
pub(super) fn read_key(keys: &mut Stdin) -> Option<u8> {
    let mut key = [0];
    keys.read(&mut key).is_ok_and(|len| len == 1).then_some(key[0])
}

/// What is drawn: a whole frame at a time, and nothing after the terminal was given back.
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

/// Where the program's log goes: to standard error, or into the dashboard while there is one.
#[derive(Debug)]
pub struct LogWriter;

/// A [`LogWriter`], for `tracing_subscriber`.
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
