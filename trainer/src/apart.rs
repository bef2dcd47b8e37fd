//! Work on another thread that may not return, because a file system or storage does not answer.

use std::io;
use std::panic::resume_unwind;
use std::time::Duration;

use flume::RecvTimeoutError;

/// Interval at which a wait looks for a reason to give up.
const LOOK: Duration = Duration::from_millis(100);

/// Calls `work` on a thread called `name` and waits for its result, or until `ended` returns a reason to wait no longer. The
/// thread is then left behind: it ends once `work` returns, or with the process.
///
/// Passes a panic of `work` on, unless there is such a reason.
///
/// # Errors
/// If the system refuses the thread.
pub(crate) fn unless<T: Send + 'static, R>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
    ended: impl Fn() -> Option<R>,
) -> io::Result<Result<T, R>> {
    let (sender, result) = flume::bounded(1);
    let send = move || {
        // Received unless the wait has ended.
        let _ = sender.send(work());
    };
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(send)?;
    loop {
        let error = match result.recv_timeout(LOOK) {
            Ok(value) => return Ok(Ok(value)),
            Err(error) => error,
        };
        if let Some(reason) = ended() {
            return Ok(Err(reason));
        }
        if error == RecvTimeoutError::Disconnected {
            resume_unwind(thread.join().expect_err("a thread that sent no result has panicked"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;
    use std::time::Instant;

    use super::*;

    #[test]
    fn work_that_does_not_return_is_left_behind_for_a_reason() {
        assert_eq!(unless("test", || 3, || None::<&str>).unwrap(), Ok(3));
        // The thread waits for this value until the end of the test.
        let (sender, receiver) = flume::bounded::<()>(0);
        let start = Instant::now();
        let ended = || (start.elapsed() > Duration::from_millis(20)).then_some("a reason");
        assert_eq!(unless("test", move || receiver.recv(), ended).unwrap(), Err("a reason"));
        assert_eq!(sender.receiver_count(), 1, "the thread is still there");
    }

    #[test]
    fn panic_of_the_work_is_passed_on_unless_the_wait_has_ended() {
        let panics = || -> u8 { resume_unwind(Box::new("a bug")) };
        let panic = catch_unwind(|| unless("test", panics, || None::<()>)).unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"a bug"));
        assert_eq!(unless("test", panics, || Some("a reason")).unwrap(), Err("a reason"));
    }
}
