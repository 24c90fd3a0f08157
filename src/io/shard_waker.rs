//! What wakes a shard's thread: commands, relays, and what crosses from shards on the same port all ring it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mio::Waker;

/// Wakes one shard's thread, at most once until it looks.
#[derive(Debug, Clone)]
pub struct ShardWaker {
    waker: Arc<Waker>,
    woken: Arc<AtomicBool>,
}

impl ShardWaker {
    /// Wakes by `waker`, which is registered with the poll of the shard's thread.
    #[must_use]
    pub fn new(waker: Waker) -> Self {
        Self {
            waker: Arc::new(waker),
            woken: Arc::default(),
        }
    }

    /// Something was put where the thread will find it.
    pub fn wake(&self) {
        // Sequentially consistent with `rearm`: either the thread sees what was put there after it has
        // cleared the flag, or it is woken again.
        if !self.woken.swap(true, Ordering::SeqCst)
            && let Err(error) = self.waker.wake()
        {
            self.woken.store(false, Ordering::SeqCst);
            tracing::error!(%error, "cannot wake a shard");
        }
    }

    /// To be called by the thread before it looks: what comes from then on wakes again.
    pub fn rearm(&self) {
        self.woken.swap(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mio::{Events, Poll, Token};

    use super::*;

    fn is_woken(poll: &mut Poll) -> bool {
        let mut events = Events::with_capacity(4);
        poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        !events.is_empty()
    }

    #[test]
    fn a_shard_is_woken_once_until_it_looks() {
        let poll = Poll::new().unwrap();
        let waker = ShardWaker::new(Waker::new(poll.registry(), Token(0)).unwrap());
        let mut poll = poll;
        waker.wake();
        waker.wake();
        assert!(is_woken(&mut poll));
        waker.wake();
        assert!(!is_woken(&mut poll), "it has not looked yet");
        waker.rearm();
        waker.wake();
        assert!(is_woken(&mut poll));
    }
}
