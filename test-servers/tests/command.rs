//! The command `test-servers`, and what is left when it is killed: nothing.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

const PATIENCE: Duration = Duration::from_secs(30);

fn test_servers(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_test-servers"));
    command.args(arguments);
    command
}

fn with_redis(script: &str) -> (ExitStatus, String) {
    let output = test_servers(&["with", "redis", "--", "sh", "-c", script])
        .output()
        .expect("it runs");
    (output.status, String::from_utf8(output.stdout).expect("text"))
}

/// Servers that are held, and the scratch directory of each.
struct Held {
    holder: Child,
    scratch: Vec<PathBuf>,
}

/// The holder knows the scratch directories by the names of its children's watchdogs; the system tells them.
fn hold(servers: &[&str]) -> Held {
    let mut holder = test_servers(&["hold"])
        .args(servers)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let lines = BufReader::new(holder.stdout.take().expect("piped")).lines().take(servers.len());
    let names = lines.map(|line| line.expect("text")).collect::<Vec<_>>();
    for (server, line) in servers.iter().zip(&names) {
        assert!(
            line.starts_with(&format!("export JANGBU_TEST_{}=", server.to_uppercase())),
            "{line}"
        );
    }
    let scratch = watched_by(holder.id());
    assert_eq!(scratch.len(), servers.len());
    Held { holder, scratch }
}

/// The scratch directories in the command lines of a process's watchdogs.
fn watched_by(holder: u32) -> Vec<PathBuf> {
    let processes = fs::read_dir("/proc").expect("Linux has it").flatten().map(|process| process.path());
    let children = processes.filter(|process| status(process, "PPid:").is_some_and(|parent| parent == holder.to_string()));
    let command_lines = children.filter_map(|child| fs::read_to_string(child.join("cmdline")).ok());
    command_lines
        .filter_map(|line| {
            let mut arguments = line.split('\0').skip_while(|argument| *argument != "watchdog").skip(1);
            arguments.next().map(PathBuf::from)
        })
        .collect()
}

fn status(process: &Path, field: &str) -> Option<String> {
    let status = fs::read_to_string(process.join("status")).ok()?;
    Some(status.lines().find_map(|line| line.strip_prefix(field))?.trim().to_owned())
}

fn pid(scratch: &Path) -> u32 {
    fs::read_to_string(scratch.join("pid"))
        .expect("it runs")
        .trim()
        .parse()
        .expect("a process id")
}

fn send(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a process id")).expect("not zero");
    kill_process(pid, signal).expect("a process of this test");
}

fn eventually(what: &str, so: impl Fn() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn runs(pid: u32) -> bool {
    status(Path::new(&format!("/proc/{pid}")), "State:").is_some_and(|state| !state.starts_with(['Z', 'X']))
}

#[test]
fn a_command_is_given_the_servers_and_its_end_is_the_end() {
    let (status, output) = with_redis("echo $JANGBU_TEST_REDIS; exit 7");
    assert_eq!(status.code(), Some(7));
    assert!(output.starts_with("redis://127.0.0.1:"), "{output}");
    let (status, _) = with_redis("kill -TERM $$");
    assert_eq!(status.signal(), Some(15));
    let missing = test_servers(&["with", "redis", "--", "/no/such/command"])
        .stderr(Stdio::null())
        .status()
        .expect("it runs");
    assert!([126, 127].contains(&missing.code().expect("a code")));
}

#[test]
fn what_it_does_not_understand_starts_nothing() {
    for arguments in [
        &[][..],
        &["with", "redis"],
        &["with", "--", "true"],
        &["with", "redis", "--"],
        &["hold"],
        &["hold", "mysql"],
    ] {
        let output = test_servers(arguments).stdin(Stdio::null()).output().expect("it runs");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stderr.starts_with(b"usage: "), "{arguments:?}");
    }
}

#[test]
fn held_servers_end_with_the_input() {
    let mut held = hold(&["redis"]);
    let redis = pid(&held.scratch[0]);
    drop(held.holder.stdin.take());
    assert!(held.holder.wait().expect("it ends").success());
    assert!(!runs(redis));
    assert!(!held.scratch[0].exists());
}

#[test]
fn nothing_is_left_when_the_holder_is_killed() {
    let mut held = hold(&["postgres", "redis"]);
    let servers = held.scratch.iter().map(|scratch| pid(scratch)).collect::<Vec<_>>();
    // One that stands still must go all the same.
    send(servers[1], Signal::STOP);
    held.holder.kill().expect("it runs");
    held.holder.wait().expect("it is dead");
    for (scratch, server) in held.scratch.iter().zip(servers) {
        eventually("the scratch directory is removed", || !scratch.exists());
        assert!(!runs(server));
    }
}

#[test]
fn a_command_ends_with_the_one_that_was_to_wait_for_it() {
    let mut with = test_servers(&["with", "redis", "--", "sleep", "3600"]).spawn().expect("it runs");
    eventually("redis and the command are watched", || watched_by(with.id()).len() == 2);
    let scratch = watched_by(with.id());
    eventually("both run", || {
        scratch
            .iter()
            .all(|scratch| fs::read_to_string(scratch.join("pid")).is_ok_and(|pid| pid.ends_with('\n')))
    });
    let running = scratch.iter().map(|scratch| pid(scratch)).collect::<Vec<_>>();
    send(with.id(), Signal::TERM);
    assert_eq!(with.wait().expect("it ends").signal(), Some(15));
    for (scratch, process) in scratch.iter().zip(running) {
        eventually("the scratch directory is removed", || !scratch.exists());
        assert!(!runs(process));
    }
}
