//! Ranks that are connected from the start.

use std::sync::Arc;

use super::group::Timeouts;
use super::group_core::Core;
use super::link::{Link, Peer};
use super::token::Token;
use super::world::World;

/// Error of a world that lacks connections of a rank.
#[derive(Debug, thiserror::Error)]
#[error("{found} connections of {expected}")]
pub struct JoinError {
    found: usize,
    expected: usize,
}

pub(super) fn own_name() -> String {
    "host".into()
}

pub(super) fn accept_all(
    world: &World,
    _: &Token,
    _: Timeouts,
    _: Option<&str>,
    _: &str,
    core: &Arc<Core>,
    links: &mut Vec<Link>,
) -> Result<(), JoinError> {
    let (found, expected) = (world.wires.len(), world.num_ranks - 1);
    if found != expected {
        return Err(JoinError { found, expected });
    }
    for (index, wire) in world.wires.iter().enumerate() {
        let peer = Peer { rank: index + 1, name: own_name(), index };
        links.push(Link::start(wire.clone(), peer, core));
    }
    Ok(())
}

pub(super) fn connect(world: &World, _: &Token, _: Timeouts, _: &str, core: &Arc<Core>) -> Result<Link, JoinError> {
    let [wire] = world.wires.as_slice() else { return Err(JoinError { found: world.wires.len(), expected: 1 }) };
    Ok(Link::start(wire.clone(), Peer { rank: 0, name: own_name(), index: 0 }, core))
}
