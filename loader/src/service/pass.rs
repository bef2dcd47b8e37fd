//! Socket that passes the files of shared memory to clients that present a ticket.

use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::hub::Hub;
use super::serving::ACCEPT_PAUSE;
use crate::shared_memory::pass;
use crate::wire::{FD_SUFFIX, TICKET_LEN};

/// Time for a client to send its ticket, as long as the ticket is valid.
const PATIENCE: Duration = super::hub::TICKET_LIFE;

/// Path of the socket for files, next to the service's socket.
pub(super) fn path(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(FD_SUFFIX);
    path.into()
}

/// Answers tickets until the task is ended, at the latest when the service is gone.
pub(super) async fn serve(listener: tokio::net::UnixListener, hub: Weak<Hub>) {
    loop {
        let socket = listener.accept().await;
        let Some(hub) = hub.upgrade() else { return };
        match socket {
            Ok((socket, _)) => drop(tokio::task::spawn_blocking(move || {
                if let Err(err) = answer(socket, &hub) {
                    tracing::debug!("no shared memory for a client: {err}");
                }
            })),
            Err(err) => {
                tracing::warn!("cannot accept a connection: {err}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn answer(socket: tokio::net::UnixStream, hub: &Arc<Hub>) -> io::Result<()> {
    let mut socket = socket.into_std()?;
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut ticket = [0; TICKET_LEN];
    socket.read_exact(&mut ticket)?;
    let file = hub.redeem(ticket).ok_or_else(|| io::Error::new(io::ErrorKind::PermissionDenied, "unknown ticket"))?;
    pass::send(socket.as_fd(), file.as_fd())
}
