//! What is known of the way to a peer: its round trip, and what it loses.

use std::time::{Duration, Instant};

use crate::base::ids::Ssrc;
use crate::media::rtt::{Loss, ReferenceClock, Rtt};
use crate::room::doubling::{Doubling, LossWatch};
use crate::wire::bandwidth::TransportFeedback;
use crate::wire::xr::{ReferenceReply, write_reference_time};

/// What a peer's reports tell of the way to it.
#[derive(Debug, Default)]
pub struct Path {
    /// The round trip.
    pub rtt: Rtt,
    /// What it loses.
    losses: LossWatch,
    /// When it last said what arrived.
    feedback_at: Option<Instant>,
    /// When it was last answered its own reference time.
    replied_at: Option<Instant>,
    /// Made with the first reference time that is sent.
    clock: Option<ReferenceClock>,
}

/// How well a peer is connected, for those who ask.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Link {
    /// The round trip, averaged; `None` until a report told.
    pub rtt: Option<Duration>,
    /// What was lost on the way to it, retransmissions apart.
    pub loss_down: Loss,
    /// What was lost on the way from it, in its last report interval.
    pub loss_up: Loss,
}

impl Path {
    /// Its feedback tells which packets arrived. What a full queue loses is no reason to send more. Returns what is to be repeated for it from now on, if that changes.
    pub fn on_feedback(
        &mut self,
        now: Instant,
        feedback: &TransportFeedback,
        is_congested: bool,
    ) -> Option<Doubling> {
        self.feedback_at = Some(now);
        if is_congested {
            return None;
        }
        let packets = feedback.arrivals.len();
        let lost = packets - feedback.arrivals.iter().flatten().count();
        self.losses.on_packets(now, packets as u32, lost as u32)
    }

    /// The same by its receiver reports, which count while it gives no feedback.
    pub fn on_reported(&mut self, now: Instant, packets: u32, lost: u32) -> Option<Doubling> {
        let is_better_known = self
            .feedback_at
            .is_some_and(|at| now.saturating_duration_since(at) < FEEDBACK_AGE_MAX);
        if is_better_known {
            return None;
        }
        self.losses.on_packets(now, packets, lost)
    }

    /// Whether its own reference time is answered now: not more often than anybody needs.
    pub fn takes_reply(&mut self, now: Instant) -> bool {
        let is_soon = self
            .replied_at
            .is_some_and(|at| now.saturating_duration_since(at) < REPLY_INTERVAL_MIN);
        if !is_soon {
            self.replied_at = Some(now);
        }
        !is_soon
    }

    /// Appends a reference time, so that the peer tells the round trip (RFC 3611 §4.4).
    pub fn write_reference_time(&mut self, now: Instant, sender: Ssrc, out: &mut Vec<u8>) {
        let clock = self.clock.get_or_insert_with(|| ReferenceClock::new(now));
        write_reference_time(out, sender, clock.at(now));
    }

    /// One of them is answered.
    pub fn on_reply(&mut self, now: Instant, reply: &ReferenceReply) {
        let clock = self.clock.as_ref();
        if let Some(rtt) = clock.and_then(|clock| clock.rtt(now, reply)) {
            self.rtt.on_sample(rtt);
        }
    }
}

/// Feedback that is older than this says nothing any more: libwebrtc's comes every 250 ms at least.
const FEEDBACK_AGE_MAX: Duration = Duration::from_secs(5);
/// Reference times come once a second from libwebrtc; more than these are a flood.
const REPLY_INTERVAL_MIN: Duration = Duration::from_millis(50);
