//! How the system runs a thread: on which core, and before which others.

use std::io;

use thread_priority::{
    Error as PriorityError, RealtimeThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};

use crate::base::ids::ShardId;

/// What is asked of the system for a shard's thread.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scheduling {
    /// Whether it stays on one core.
    pub is_pinned: bool,
    /// Whether it goes before every thread of ordinary priority, see [`before_ordinary_threads`].
    pub is_real_time: bool,
}

impl Scheduling {
    /// Asks for it for the calling thread. What is refused is logged and gone without.
    pub(in crate::io) fn apply(self, shard: ShardId) {
        if self.is_pinned {
            match to_core(usize::from(shard.0)) {
                Ok(core) => tracing::info!(%shard, core, "the shard stays on one core"),
                Err(error) => tracing::warn!(%shard, %error, "cannot keep the shard on one core"),
            }
        }
        if self.is_real_time {
            match before_ordinary_threads() {
                Ok(()) => tracing::info!(%shard, "the shard goes before ordinary threads"),
                Err(error) => tracing::warn!(
                    %shard, %error,
                    "the shard has ordinary priority: real time needs CAP_SYS_NICE or RLIMIT_RTPRIO"
                ),
            }
        }
    }
}

/// Lets the calling thread go before all threads of ordinary priority: the lowest priority of `SCHED_RR` (POSIX.1, sched(7)).
/// Threads of that priority that share a core take turns. Linux leaves a twentieth of each core to the others.
///
/// # Errors
/// What the system says, in most cases that the process may not: Linux wants `CAP_SYS_NICE`, or `RLIMIT_RTPRIO` above 0.
pub fn before_ordinary_threads() -> io::Result<()> {
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::RoundRobin);
    let set = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, policy);
    set.map_err(|error| match error {
        PriorityError::OS(code) => io::Error::from_raw_os_error(code),
        other => io::Error::other(format!("{other:?}")),
    })
}

/// Binds the calling thread to the core that is `index`-th of those the process may use, counted around. Says
/// which core that is.
///
/// # Errors
/// What the system says; elsewhere than on Linux, that it cannot.
#[cfg(target_os = "linux")]
fn to_core(index: usize) -> io::Result<usize> {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    let allowed = sched_getaffinity(None)?;
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU)
        .filter(|core| allowed.is_set(*core))
        .collect();
    let core = *cores
        .get(index % cores.len().max(1))
        .ok_or(io::ErrorKind::NotFound)?;
    let mut only = CpuSet::new();
    only.set(core);
    sched_setaffinity(None, &only)?;
    Ok(core)
}

/// See above.
#[cfg(not(target_os = "linux"))]
fn to_core(_: usize) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(target_os = "linux")]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_go_around_the_cores_that_are_allowed() {
        let on = |index| std::thread::spawn(move || (to_core(index).unwrap(), to_core(0).unwrap()));
        let cores: Vec<_> = (0..3).map(|n| on(n).join().unwrap()).collect();
        // Once bound, a thread may use that core alone.
        assert!(cores.iter().all(|(first, again)| first == again));
        let all = std::thread::available_parallelism().unwrap().get();
        assert_eq!(cores[0].0 == cores[1].0, all == 1);
    }

    /// The policy and the priority of the calling thread, as the kernel has them: fields 41 and 40 of proc_pid_stat(5).
    fn policy_and_priority() -> (u32, u32) {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let after_name = stat.rsplit_once(')').unwrap().1;
        let field = |n: usize| after_name.split_whitespace().nth(n - 3).unwrap().parse();
        (field(41).unwrap(), field(40).unwrap())
    }

    #[test]
    fn real_time_is_the_lowest_there_is_or_is_refused() {
        const SCHED_RR: u32 = 2;
        let (set, after) =
            std::thread::spawn(|| (before_ordinary_threads(), policy_and_priority()))
                .join()
                .unwrap();
        match set {
            Ok(()) => assert_eq!(after, (SCHED_RR, 1)),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
                assert_eq!(after, (0, 0));
            }
        }
    }

    #[test]
    fn nothing_is_changed_that_was_not_asked_for() {
        let after = std::thread::spawn(|| {
            Scheduling::default().apply(ShardId(0));
            policy_and_priority()
        });
        assert_eq!(after.join().unwrap(), (0, 0));
    }
}
