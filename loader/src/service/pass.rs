//! Socket that passes the files of shared memory to clients that present a ticket.

use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Weak;
use std::time::Duration;

use super::ACCEPT_PAUSE;
use super::hub::Hub;
use crate::shared_memory::pass;
use crate::wire::{FD_SUFFIX, TICKET_LEN};

/// Time for a client to send its ticket: the ticket's lifetime.
const PATIENCE: Duration = super::hub::TICKET_LIFE;

/// Path of the socket for files, next to the service's socket.
pub(super) fn path(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(FD_SUFFIX);
    path.into()
}

/// Answers tickets until the task is aborted or the service is gone.
pub(super) async fn serve(listener: tokio::net::UnixListener, hub: Weak<Hub>) {
    loop {
        let socket = listener.accept().await;
        if hub.strong_count() == 0 {
            return;
        }
        match socket {
            Ok((socket, _)) => {
                let hub = Weak::clone(&hub);
                tokio::spawn(async move {
                    if let Err(err) = answer(socket, &hub).await {
                        tracing::debug!("no shared memory for a client: {err}");
                    }
                });
            }
            Err(err) => {
                tracing::warn!("cannot accept a connection: {err}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Waits for a ticket without blocking a thread, and sends the ticket's file.
async fn answer(socket: tokio::net::UnixStream, hub: &Weak<Hub>) -> io::Result<()> {
    let ticket = tokio::time::timeout(PATIENCE, read_ticket(&socket)).await??;
    let file = hub.upgrade().and_then(|hub| hub.redeem(ticket));
    let file = file.ok_or_else(|| io::Error::new(io::ErrorKind::PermissionDenied, "unknown ticket"))?;
    let socket = socket.into_std()?;
    let send = move || {
        socket.set_nonblocking(false)?;
        pass::send(socket.as_fd(), file.as_fd())
    };
    tokio::task::spawn_blocking(send).await.map_err(io::Error::other)?
}

/// Reads a ticket.
async fn read_ticket(socket: &tokio::net::UnixStream) -> io::Result<[u8; TICKET_LEN]> {
    let mut ticket = [0; TICKET_LEN];
    let mut filled = 0;
    while filled < TICKET_LEN {
        socket.readable().await?;
        match socket.try_read(&mut ticket[filled..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(len) => filled += len,
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => {}
            Err(err) => return Err(err),
        }
    }
    Ok(ticket)
}
