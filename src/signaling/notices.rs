//! What a client is told of layers: not more often than it can use. Of each track only the latest is kept.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::base::ids::TrackKey;
use crate::control::layers::{LayerChange, LayersWanted};

/// How often a client is told at most. People read it; what they see changes with the picture.
pub const NOTICE_INTERVAL: Duration = Duration::from_millis(250);
/// Tracks of which something waits to be told at most; the change of one more is not told. A peer has fewer.
pub const NOTICES_MAX: usize = 1024;

/// Something to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// What a subscription gets has changed.
    Layer(LayerChange),
    /// Other encodings of a track of the client's own are wanted.
    Wanted(LayersWanted),
}

/// What waits to be told.
#[derive(Debug, Default)]
pub struct Notices {
    /// Subscriptions and tracks of the client's own differ in their publisher.
    pending: BTreeMap<TrackKey, Notice>,
    /// Nothing is told before.
    next_at: Option<Instant>,
}

impl Notices {
    /// Something changed.
    pub fn push(&mut self, notice: Notice) {
        let track = match &notice {
            Notice::Layer(change) => change.track,
            Notice::Wanted(wanted) => wanted.track,
        };
        if self.pending.len() < NOTICES_MAX || self.pending.contains_key(&track) {
            self.pending.insert(track, notice);
        }
    }

    /// A track has ended: there is nothing to tell of it any more.
    pub fn forget(&mut self, track: TrackKey) {
        self.pending.remove(&track);
    }

    /// What is to be told now, if it is time.
    pub fn take_due(&mut self, now: Instant) -> Vec<Notice> {
        if self.pending.is_empty() || self.next_at.is_some_and(|at| now < at) {
            return Vec::new();
        }
        self.next_at = Some(now + NOTICE_INTERVAL);
        std::mem::take(&mut self.pending).into_values().collect()
    }

    /// When something is to be told.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next_at.filter(|_| !self.pending.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{Bitrate, PeerKey, SubscriptionKey};
    use crate::base::layer_reason::LayerReason;

    fn change(index: u32, reason: LayerReason) -> Notice {
        Notice::Layer(LayerChange {
            subscription: SubscriptionKey(1),
            track: TrackKey {
                peer: PeerKey(9),
                index,
            },
            layer: None,
            rid: None,
            reason,
            available: None,
            bitrate: Bitrate(0),
            next: None,
            size: None,
        })
    }

    #[test]
    fn the_first_is_told_at_once_and_of_many_the_last_of_each() {
        let t0 = Instant::now();
        let mut notices = Notices::default();
        assert_eq!(
            (notices.take_due(t0), notices.poll_timeout()),
            (vec![], None)
        );
        notices.push(change(0, LayerReason::Paused));
        assert_eq!(notices.take_due(t0).len(), 1);
        for _ in 0..100 {
            notices.push(change(0, LayerReason::Paused));
            notices.push(change(1, LayerReason::Cpu));
            notices.push(change(0, LayerReason::Best));
        }
        assert_eq!(notices.take_due(t0), []);
        let due = notices.poll_timeout().unwrap();
        assert_eq!(due, t0 + NOTICE_INTERVAL);
        let told = [change(0, LayerReason::Best), change(1, LayerReason::Cpu)];
        assert_eq!(notices.take_due(due), told);
        assert_eq!(notices.poll_timeout(), None);
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut notices = Notices::default();
        for index in 0..5_000 {
            notices.push(change(index, LayerReason::Best));
        }
        assert_eq!(notices.pending.len(), NOTICES_MAX);
    }
}
