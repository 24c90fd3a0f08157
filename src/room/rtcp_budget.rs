//! How much work a peer's RTCP may make: what one peer sends must not cost the others on its shard.

use std::time::{Duration, Instant};

use crate::wire::rtcp::{Compound, RtcpPacket};

/// The work that one peer's RTCP may make, and has made of late. Counts in units of some tens of nanoseconds.
#[derive(Debug, Default)]
pub struct RtcpBudget {
    since: Option<Instant>,
    spent: u32,
}

impl RtcpBudget {
    /// Whether a datagram of the peer is to be read at all.
    pub fn admits(&mut self, now: Instant) -> bool {
        let is_over = |since| now.saturating_duration_since(since) >= WINDOW;
        if self.since.is_none_or(is_over) {
            (self.since, self.spent) = (Some(now), 0);
        }
        self.spent < SPENT_MAX
    }

    /// A datagram was read. What it makes to do is bounded by what is read of it, so it is done.
    pub fn charge(&mut self, compound: &Compound) {
        self.spent += compound.packets.iter().map(cost).sum::<u32>() + compound.dropped;
    }
}

fn cost(packet: &RtcpPacket) -> u32 {
    let more = match packet {
        RtcpPacket::Nack { seqs, .. } => EACH_NACKED * seqs.len(),
        // The estimator is brought up to date with each.
        RtcpPacket::TransportFeedback(feedback) => ESTIMATE + feedback.arrivals.len(),
        RtcpPacket::Remb(_) => ESTIMATE,
        RtcpPacket::Reports { blocks, .. } => EACH_REPORT * blocks.len(),
        RtcpPacket::Fir { entries } => EACH_REPORT * entries.len(),
        _ => 0,
    };
    EACH_MESSAGE + more as u32
}

/// What a peer may spend in a [`WINDOW`]. A receiver of 20 Mbit/s of 50 videos that misses a third of it, asks three times for
/// each packet and answers every 50 ms spends half of it; who spends it all costs the shard 1 % of its time at most.
const SPENT_MAX: u32 = 16_000;
const WINDOW: Duration = Duration::from_millis(250);
/// A number that is looked up, and perhaps refused; what is sent again has a budget of its own.
const EACH_NACKED: usize = 8;
const EACH_REPORT: usize = 8;
const EACH_MESSAGE: u32 = 8;
const ESTIMATE: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{SeqNo16, Ssrc};

    fn nack(numbers: u16) -> Compound {
        Compound {
            packets: vec![RtcpPacket::Nack {
                sender: Ssrc(1),
                media: Ssrc(2),
                seqs: (0..numbers).map(SeqNo16).collect(),
            }],
            dropped: 0,
        }
    }

    #[test]
    fn who_asks_too_much_waits_for_the_next_window() {
        let t0 = Instant::now();
        let mut budget = RtcpBudget::default();
        let mut taken = 0;
        while budget.admits(t0) {
            budget.charge(&nack(512));
            taken += 1;
        }
        assert_eq!(taken, 4);
        assert!(!budget.admits(t0 + WINDOW - Duration::from_millis(1)));
        assert!(budget.admits(t0 + WINDOW));
        // A third of 500 packets a second, each asked for three times, in messages every 20 ms.
        for ms in (250..2000).step_by(20) {
            assert!(budget.admits(t0 + Duration::from_millis(ms)), "{ms}");
            budget.charge(&nack(10));
        }
    }
}
