//! Signals to a server's processes, and what the system says of them.

use std::{
    fs,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// How long a signal may take to show on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often it is looked whether something has happened.
pub(crate) const LOOKED_EVERY: Duration = Duration::from_millis(5);

/// Sends a signal; to one that is gone already, it is none.
pub(crate) fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // The process has ended: then there is nobody to tell.
        let _ = kill_process(pid, signal);
    }
}

/// Stops a process and its children where they stand. When it returns, none of them runs.
pub(crate) fn freeze(pid: u32) {
    // Once the parent stands still, there come no more.
    assert!(stop(pid), "{pid} does not stop");
    for child in children(pid) {
        assert!(stop(child), "{child}, a child of {pid}, does not stop");
    }
}

/// Lets a process and its children go on.
pub(crate) fn thaw(pid: u32) {
    for child in children(pid) {
        signal(child, Signal::CONT);
    }
    signal(pid, Signal::CONT);
}

/// Kills a process and its children without a word. Whoever started the process has to wait for it; the children are gone on return.
pub(crate) fn kill(pid: u32) {
    // One that stands still makes no child that nobody has seen.
    stop(pid);
    let children = children(pid);
    for child in &children {
        signal(*child, Signal::KILL);
    }
    signal(pid, Signal::KILL);
    eventually(PATIENCE, || children.iter().all(|child| !alive(*child)));
}

/// Whether it is there, and more than an exit code that nobody has asked for.
pub(crate) fn alive(pid: u32) -> bool {
    state(pid).is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// Looks again and again until it is so, or the time is over.
pub(crate) fn eventually(patience: Duration, mut so: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if so() {
            return true;
        }
        if start.elapsed() > patience {
            return false;
        }
        std::thread::sleep(LOOKED_EVERY);
    }
}

/// Whether it stands still, or is gone.
fn stop(pid: u32) -> bool {
    signal(pid, Signal::STOP);
    eventually(PATIENCE, || state(pid).is_none_or(|state| matches!(state, 'T' | 't' | 'Z' | 'X')))
}

fn children(parent: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    processes.filter(|pid| stat(*pid).is_some_and(|(_, of)| of == parent)).collect()
}

fn state(pid: u32) -> Option<char> {
    Some(stat(pid)?.0)
}

/// The state of a process, and its parent.
fn stat(pid: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // A name stands in brackets and may hold anything, brackets too.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}
