//! What is known of the way to a peer: its round trip, and what it loses.

use std::time::{Duration, Instant};

use crate::base::ids::Ssrc;
use crate::media::rtt::{Loss, ReferenceClock, Rtt};
use crate::wire::xr::{ReferenceReply, write_reference_time};

/// What a peer's reports tell of the way to it.
#[derive(Debug, Default)]
pub struct Path {
    /// The round trip.
    pub rtt: Rtt,
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
    /// Appends a reference time, so that the peer tells the round trip (RFC 3611 §4.4). Sent whether the description
    /// has `a=rtcp-xr` or not (§5.1 leaves that open): libwebrtc's senders always answer, others step over it.
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
