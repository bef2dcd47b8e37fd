//! Sockets of all addresses that a service listens on.

use std::io;

use super::listen::{Bound, Listen, SocketPath, bind_unix};
use super::serving::Listener;
use super::{ServiceError, pass};

/// Bound sockets. Dropping them removes the files of Unix sockets before these close.
pub(super) struct Sockets {
    /// Addresses for clients, in the order in which they were given.
    pub(super) urls: Vec<String>,
    /// Files of Unix sockets. Declared before the listeners, because they are dropped first.
    pub(super) paths: Vec<SocketPath>,
    pub(super) listeners: Vec<Listener>,
}

impl Sockets {
    /// Binds all addresses; with `shares_memory`, each Unix socket has another one next to it, which passes files.
    ///
    /// # Errors
    /// The first address that cannot be bound.
    pub(super) fn bind(addresses: &[Listen], tls: bool, shares_memory: bool) -> Result<Self, ServiceError> {
        let mut sockets = Self { urls: Vec::new(), paths: Vec::new(), listeners: Vec::new() };
        for listen in addresses {
            let bind = |source| ServiceError::Bind { listen: listen.clone(), source };
            let (bound, url) = Bound::new(listen, tls).map_err(bind)?;
            sockets.urls.push(url);
            let files = match listen {
                Listen::Unix(path) if shares_memory => {
                    let path = pass::path(path);
                    let named = |err: io::Error| {
                        io::Error::new(err.kind(), format!("{} (for shared memory): {err}", path.display()))
                    };
                    let (socket_path, listener) = bind_unix(&path).map_err(|err| bind(named(err)))?;
                    sockets.paths.push(socket_path);
                    Some(listener)
                }
                _ => None,
            };
            sockets.listeners.push(match bound {
                Bound::Tcp(listener) => Listener::Tcp(listener),
                Bound::Unix(socket_path, listener) => {
                    sockets.paths.push(socket_path);
                    Listener::Unix(listener, files)
                }
            });
        }
        Ok(sockets)
    }
}
