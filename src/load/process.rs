//! What Linux tells of a process: CPU time of it and its threads, memory, and datagrams dropped by
//! sockets that were not read in time. Text of `/proc` to values; elsewhere there is none of it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// CPU time used so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuTime {
    /// In the program itself.
    pub user: Duration,
    /// In the kernel for it.
    pub system: Duration,
}

impl CpuTime {
    /// Both together.
    #[must_use]
    pub fn total(self) -> Duration {
        self.user + self.system
    }

    /// What was used since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            user: self.user.saturating_sub(earlier.user),
            system: self.system.saturating_sub(earlier.system),
        }
    }
}

/// One thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thread {
    /// Its number.
    pub id: u32,
    /// Its name, at most 15 bytes of it.
    pub name: String,
    /// What it has used.
    pub cpu: CpuTime,
}

/// A process at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// All threads, those that have ended included.
    pub cpu: CpuTime,
    /// Each live thread.
    pub threads: Vec<Thread>,
    /// Resident memory in KiB.
    pub rss_kib: u64,
    /// The most it ever was, in KiB.
    pub rss_max_kib: u64,
}

impl Snapshot {
    /// Reads `/proc/PID`. `None` where there is no such process, or no such file system.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let folder = Path::new("/proc").join(pid.to_string());
        let read = |path: &Path| fs::read_to_string(path).ok();
        let ticks = rustix::param::clock_ticks_per_second();
        let (_, cpu) = parse_stat(&read(&folder.join("stat"))?, ticks)?;
        let status = read(&folder.join("status"))?;
        let mut threads = Vec::new();
        for entry in fs::read_dir(folder.join("task")).ok()?.flatten() {
            // A thread may end between the listing and the reading.
            let id = entry.file_name().to_str().and_then(|id| id.parse().ok());
            let stat = read(&entry.path().join("stat"));
            if let (Some(id), Some(stat)) = (id, stat)
                && let Some((name, cpu)) = parse_stat(&stat, ticks)
            {
                threads.push(Thread { id, name, cpu });
            }
        }
        Some(Self {
            cpu,
            threads,
            rss_kib: parse_status(&status, "VmRSS")?,
            rss_max_kib: parse_status(&status, "VmHWM")?,
        })
    }

    /// The CPU time since `earlier` of threads that live now, those of one name together, busiest
    /// first.
    #[must_use]
    pub fn threads_since(&self, earlier: &Self) -> Vec<(String, CpuTime)> {
        let mut groups: Vec<(String, CpuTime)> = Vec::new();
        for thread in &self.threads {
            let before = earlier.threads.iter().find(|t| t.id == thread.id);
            let used = thread.cpu.since(before.map(|t| t.cpu).unwrap_or_default());
            match groups.iter_mut().find(|(name, _)| *name == thread.name) {
                Some((_, sum)) => {
                    sum.user += used.user;
                    sum.system += used.system;
                }
                None => groups.push((thread.name.clone(), used)),
            }
        }
        groups.sort_by_key(|(_, cpu)| std::cmp::Reverse(cpu.total()));
        groups
    }
}

/// Datagrams that the kernel dropped since boot because a socket on one of these local ports was
/// full. Several sockets on one port are taken together.
#[must_use]
pub fn socket_drops(ports: &BTreeSet<u16>) -> u64 {
    ["/proc/self/net/udp", "/proc/self/net/udp6"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .map(|table| parse_drops(&table, ports))
        .sum()
}

/// Name and CPU time of a `stat` file (proc(5)): `pid (name) state …`, with `utime` and `stime` as
/// fields 14 and 15. The name may hold spaces and parentheses.
fn parse_stat(text: &str, ticks_per_second: u64) -> Option<(String, CpuTime)> {
    let (head, rest) = text.rsplit_once(')')?;
    let (_, name) = head.split_once('(')?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut time = || -> Option<Duration> {
        let ticks: u64 = fields.next()?.parse().ok()?;
        let ns = u128::from(ticks) * 1_000_000_000 / u128::from(ticks_per_second.max(1));
        Some(Duration::from_nanos(u64::try_from(ns).ok()?))
    };
    let (user, system) = (time()?, time()?);
    Some((name.to_owned(), CpuTime { user, system }))
}

/// A field of a `status` file in KiB.
fn parse_status(text: &str, field: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// The sum of the last column of `/proc/net/udp` over the lines of these ports.
fn parse_drops(table: &str, ports: &BTreeSet<u16>) -> u64 {
    let drops = table.lines().skip(1).filter_map(|line| {
        let mut words = line.split_whitespace();
        let (_, port) = words.nth(1)?.rsplit_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        ports
            .contains(&port)
            .then(|| words.next_back()?.parse::<u64>().ok())?
    });
    drops.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_has_a_name_with_anything_in_it() {
        let line = "4242 (a) b (c) S 1 2 3 4 -1 5 6 7 8 9 1234 567 0 0 20 0 9 0 111 222 333\n";
        let (name, cpu) = parse_stat(line, 100).unwrap();
        assert_eq!(name, "a) b (c");
        assert_eq!(cpu.user, Duration::from_millis(12_340));
        assert_eq!(cpu.system, Duration::from_millis(5_670));
        assert_eq!(cpu.total(), Duration::from_millis(18_010));
        for broken in [
            "",
            "1 (x",
            "1 (x) S 1 2 3",
            "1 (x) S 1 2 3 4 5 6 7 8 9 10 u s",
        ] {
            assert_eq!(parse_stat(broken, 100), None, "{broken}");
        }
        assert!(parse_stat(line, 0).is_some());
    }

    #[test]
    fn status_fields_are_found_by_their_whole_name() {
        let text = "Name:\tx\nVmPeak:\t  900 kB\nVmHWM:\t   345 kB\nVmRSS:\t   123 kB\n";
        assert_eq!(parse_status(text, "VmRSS"), Some(123));
        assert_eq!(parse_status(text, "VmHWM"), Some(345));
        assert_eq!(parse_status(text, "Vm"), None);
        assert_eq!(parse_status("VmRSS: many kB", "VmRSS"), None);
    }

    #[test]
    fn drops_are_summed_over_the_ports_asked_for() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
            40: 0100007F:9C40 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 5 2 0000 17\n\
            41: 0100007F:9C41 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 6 2 0000 4\n\
            42: 00000000000000000000000000000000:9C40 0:0000 07 0:0 00:0 0 0 0 7 2 0000 100\n\
            broken line\n";
        assert_eq!(parse_drops(table, &BTreeSet::from([40_000])), 117);
        assert_eq!(parse_drops(table, &BTreeSet::from([40_001, 1])), 4);
        assert_eq!(parse_drops("", &BTreeSet::from([1])), 0);
    }

    #[test]
    fn threads_are_grouped_by_name() {
        let thread = |id, name: &str, ms| Thread {
            id,
            name: name.to_owned(),
            cpu: CpuTime {
                user: Duration::from_millis(ms),
                system: Duration::from_millis(1),
            },
        };
        let before = Snapshot {
            threads: vec![thread(1, "a", 10), thread(2, "b", 10)],
            ..Snapshot::default()
        };
        let after = Snapshot {
            threads: vec![thread(1, "a", 11), thread(2, "b", 40), thread(3, "b", 5)],
            ..Snapshot::default()
        };
        let ms: Vec<_> = after
            .threads_since(&before)
            .into_iter()
            .map(|(name, cpu)| (name, cpu.total().as_millis()))
            .collect();
        assert_eq!(ms, [("b".to_owned(), 36), ("a".to_owned(), 1)]);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_can_be_read() {
        let own = Snapshot::of(std::process::id()).unwrap();
        assert!(own.rss_kib > 0 && own.rss_max_kib >= own.rss_kib);
        assert!(!own.threads.is_empty());
        assert!(Snapshot::of(u32::MAX).is_none());
    }
}
