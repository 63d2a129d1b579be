//! Ports for servers that are to come back on the same one.

use std::{
    collections::{BTreeSet, hash_map::RandomState},
    fs,
    hash::{BuildHasher, Hasher},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::{Mutex, PoisonError},
};

/// Below this are the ports of well-known servers.
const LOWEST: u16 = 10_240;
const TRIES: usize = 1000;

/// A free loopback port, not given before in this process, that the system gives to no outgoing connection. One that it does give away may be taken while its server is down;
/// and a client that tries to connect to such a port again and again in the end is connected to itself.
pub(crate) fn free() -> u16 {
    // Before its server has bound it, or while that is down, a port looks free.
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let end = first_for_outgoing().max(LOWEST + 1);
    (0..TRIES)
        .map(|_| LOWEST + u16::try_from(random() % u64::from(end - LOWEST)).expect("less than a port"))
        .find(|port| TcpListener::bind(local(*port)).is_ok() && given.insert(*port))
        .expect("a free loopback port")
}

/// The address of a port of this machine.
pub(crate) fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Where the system's own choice begins; 32768 unless it is set to another.
fn first_for_outgoing() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    range
        .split_whitespace()
        .next()
        .and_then(|first| first.parse().ok())
        .unwrap_or(32_768)
}

/// The standard library's hasher has random keys, which is all the chance that a port needs.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_free_and_none_of_those_for_outgoing_connections() {
        let port = free();
        assert!(port < first_for_outgoing().max(LOWEST + 1));
        TcpListener::bind(local(port)).expect("free");
    }
}
