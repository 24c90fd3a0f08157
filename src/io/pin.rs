//! Keeps a thread on one core.

use std::io;

/// Binds the calling thread to the core that is `index`-th of those the process may use, counted around. Says
/// which core that is.
///
/// # Errors
/// What the system says; elsewhere than on Linux, that it cannot.
#[cfg(target_os = "linux")]
pub(in crate::io) fn to_core(index: usize) -> io::Result<usize> {
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
pub(in crate::io) fn to_core(_: usize) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    #[cfg(target_os = "linux")]
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn threads_go_around_the_cores_that_are_allowed() {
        let on = |index| std::thread::spawn(move || (to_core(index).unwrap(), to_core(0).unwrap()));
        let cores: Vec<_> = (0..3).map(|n| on(n).join().unwrap()).collect();
        // Once bound, a thread may use that core alone.
        assert!(cores.iter().all(|(first, again)| first == again));
        let all = std::thread::available_parallelism().unwrap().get();
        assert_eq!(cores[0].0 == cores[1].0, all == 1);
    }
}
