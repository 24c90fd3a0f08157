//! The system's limit on open files, which most systems set too low for a server.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How many descriptors one connection holds: its socket, its poll and its waker.
pub const FILES_PER_CONNECTION: u64 = 3;

/// Raises this process's soft limit on open files to `wanted`, or as near to it as the hard limit
/// allows; never lowers it. Says what the limit is afterwards.
///
/// # Errors
/// What the system says if it refuses.
pub fn raise(wanted: u64) -> io::Result<u64> {
    // No limit is told as none.
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let current = current.unwrap_or(u64::MAX);
    let target = wanted.min(maximum.unwrap_or(u64::MAX));
    if target <= current {
        return Ok(current);
    }
    let raised = Rlimit {
        current: Some(target),
        maximum,
    };
    setrlimit(Resource::Nofile, raised)?;
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_up_to_the_hard_one_and_never_lowered() {
        let before = getrlimit(Resource::Nofile);
        let (current, maximum) = (before.current.unwrap(), before.maximum.unwrap());
        assert_eq!(raise(1).unwrap(), current);
        assert_eq!(raise(current + 1).unwrap(), (current + 1).min(maximum));
        assert_eq!(raise(u64::MAX).unwrap(), maximum);
        assert_eq!(getrlimit(Resource::Nofile).current, Some(maximum));
    }
}
