//! A name server that knows one thing: where the processes are, whatever is asked for.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use crate::process::Process;

/// Type and class of a question for an address.
const ADDRESS: [u8; 4] = [0, 1, 0, 1];
/// The length of what stands before a question.
const HEADER: usize = 12;

/// A name server on a port of its own.
pub(crate) struct Names {
    address: SocketAddr,
    known: Arc<Mutex<Vec<Ipv4Addr>>>,
}

impl Names {
    /// Every name has the addresses of these processes.
    pub(crate) fn serve(processes: &[&Process]) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let names = Self {
            address: socket.local_addr().expect("it has one"),
            known: Arc::default(),
        };
        names.are(processes);
        let known = Arc::clone(&names.known);
        thread::spawn(move || {
            let mut packet = [0; 1024];
            while let Ok((length, asker)) = socket.recv_from(&mut packet) {
                let known = known.lock().unwrap_or_else(PoisonError::into_inner).clone();
                if let Some(answer) = answer(&packet[..length], &known) {
                    // Whoever is gone needs no answer.
                    let _ = socket.send_to(&answer, asker);
                }
            }
        });
        names
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on these are the processes.
    pub(crate) fn are(&self, processes: &[&Process]) {
        let addresses = processes.iter().filter_map(|process| match process.address().ip() {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        });
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = addresses.collect();
    }
}

/// The addresses, when they are asked for; nothing else is known of a name (RFC 1035).
fn answer(packet: &[u8], known: &[Ipv4Addr]) -> Option<Vec<u8>> {
    let name_ends = HEADER + packet.get(HEADER..)?.iter().position(|byte| *byte == 0)? + 1;
    let question = packet.get(HEADER..name_ends + ADDRESS.len())?;
    let known = if question.ends_with(&ADDRESS) { known } else { &[] };
    let count = u8::try_from(known.len()).ok()?;
    // An answer, by one who knows, to one question.
    let mut answer = [packet.get(..2)?, &[0x84, 0, 0, 1, 0, count, 0, 0, 0, 0], question].concat();
    for address in known {
        // The name of the question, an address, for a second, in four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}
