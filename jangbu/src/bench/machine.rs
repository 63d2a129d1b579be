//! What the machine is and does: cores, CPU time of a process, and how long its disk takes to make something durable.

use std::{
    fs,
    io::Write as _,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context as _;

/// How often the disk is asked.
const FSYNCS: usize = 200;
const BLOCK: [u8; 4096] = [0x5a; 4096];

/// CPU time of a process, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Cpu {
    pub(super) total: f64,
    /// User and system, where they are known apart.
    pub(super) parts: Option<(f64, f64)>,
}

impl Cpu {
    pub(super) const fn total(total: f64) -> Self {
        Self { total, parts: None }
    }

    /// Of this process so far. None where there is no `/proc`.
    pub(super) fn own() -> Option<Self> {
        Self::read(Path::new("/proc/self/stat"))
    }

    /// Of another process so far.
    pub(super) fn of(pid: u32) -> Option<Self> {
        Self::read(Path::new(&format!("/proc/{pid}/stat")))
    }

    /// Between two readings.
    pub(super) fn since(before: Option<Self>, after: Option<Self>) -> Option<Self> {
        let (before, after) = (before?, after?);
        let parts = before
            .parts
            .zip(after.parts)
            .map(|((user, system), (user_after, system_after))| (user_after - user, system_after - system));
        Some(Self {
            total: after.total - before.total,
            parts,
        })
    }

    fn read(stat: &Path) -> Option<Self> {
        #[expect(clippy::cast_precision_loss, reason = "a hundred a second")]
        Self::parse(&fs::read_to_string(stat).ok()?, rustix::param::clock_ticks_per_second() as f64)
    }

    /// Fields 14 and 15 of `/proc/PID/stat`, counted from behind the program's name, which may hold anything.
    fn parse(stat: &str, ticks_per_second: f64) -> Option<Self> {
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
        let user = fields.next()?.parse::<f64>().ok()? / ticks_per_second;
        let system = fields.next()?.parse::<f64>().ok()? / ticks_per_second;
        Some(Self {
            total: user + system,
            parts: Some((user, system)),
        })
    }
}

/// The most memory that a process has had at any time, in bytes.
pub(super) fn peak_memory(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_ascii_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// What a process has had written to the disk so far, in bytes.
pub(super) fn written(pid: u32) -> Option<u64> {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    io.lines().find_map(|line| line.strip_prefix("write_bytes: "))?.trim().parse().ok()
}

/// How many cores this process may use.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The median time that appending 4 KiB and making them durable takes in this folder.
pub(super) fn fsync_p50(folder: &Path) -> anyhow::Result<Duration> {
    let path = folder.join("fsync-probe");
    let result = probe(&path).with_context(|| format!("measuring the fsync of {}", folder.display()));
    // What was not written cannot be removed, and the error above says more.
    let _ = fs::remove_file(&path);
    result
}

fn probe(path: &Path) -> std::io::Result<Duration> {
    let mut file = fs::File::create_new(path)?;
    let mut times = Vec::with_capacity(FSYNCS);
    for _ in 0..FSYNCS {
        let begun = Instant::now();
        file.write_all(&BLOCK)?;
        file.sync_data()?;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    Ok(times[FSYNCS / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_name() {
        let stat = "42 (a b) c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 1 0 100";
        assert_eq!(
            Cpu::parse(stat, 100.0),
            Some(Cpu {
                total: 3.0,
                parts: Some((2.5, 0.5))
            })
        );
        assert_eq!(Cpu::parse("42 (a", 100.0), None);
        assert_eq!(Cpu::parse("", 100.0), None);
    }

    #[test]
    fn the_time_between_two_readings() {
        let reading = |user, system| {
            Some(Cpu {
                total: user + system,
                parts: Some((user, system)),
            })
        };
        assert_eq!(
            Cpu::since(reading(1.0, 0.5), reading(3.0, 1.0)),
            Some(Cpu {
                total: 2.5,
                parts: Some((2.0, 0.5))
            })
        );
        assert_eq!(Cpu::since(Some(Cpu::total(1.0)), reading(3.0, 1.0)), Some(Cpu::total(3.0)));
        assert_eq!(Cpu::since(None, reading(3.0, 1.0)), None);
    }

    #[test]
    fn the_probe_leaves_nothing_behind() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(fsync_p50(folder.path()).expect("measured") > Duration::ZERO);
        assert_eq!(fs::read_dir(folder.path()).expect("readable").count(), 0);
        assert!(fsync_p50(&folder.path().join("nowhere")).is_err());
    }
}
