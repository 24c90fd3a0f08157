//! How much one subscription may be sent again.

use crate::base::ids::SeqNo;
use crate::media::rewrite::SENT_WINDOW;

/// Bounds retransmissions of one subscription, for each packet and in all: a NACK must not be a
/// lever for traffic.
#[derive(Debug, Default)]
pub struct ResendBudget {
    /// How often each of the last numbers was sent again; made with the first NACK.
    counts: Option<Box<[Resent; SENT_WINDOW as usize]>>,
    bytes: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Resent {
    /// Which turn of the ring the count belongs to.
    turn: u32,
    times: u8,
}

impl ResendBudget {
    /// Whether the packet `seq` of `bytes` may be sent again, after `sent_bytes` were sent in all;
    /// if so, it is taken for sent.
    pub fn take(&mut self, seq: SeqNo, bytes: usize, sent_bytes: u64) -> bool {
        let counts = self
            .counts
            .get_or_insert_with(|| Box::new([Resent::default(); SENT_WINDOW as usize]));
        let entry = &mut counts[(seq.0 % SENT_WINDOW) as usize];
        let turn = (seq.0 / SENT_WINDOW) as u32;
        if entry.turn != turn {
            *entry = Resent { turn, times: 0 };
        }
        let after = self.bytes + bytes as u64;
        if entry.times >= TIMES_MAX || after > BYTES_FREE + sent_bytes / SHARE {
            return false;
        }
        entry.times += 1;
        self.bytes = after;
        true
    }
}

/// libwebrtc's receivers ask up to ten times for one packet; what eight copies do not bring across,
/// a keyframe must.
const TIMES_MAX: u8 = 8;
/// Retransmissions are at most one in so many bytes sent: what is left of media at a loss of one third.
const SHARE: u64 = 2;
/// What may be sent again from the start, in bytes: one keyframe.
const BYTES_FREE: u64 = 128 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_packet_is_sent_again_a_few_times() {
        let mut budget = ResendBudget::default();
        let taken = (0..20).filter(|_| budget.take(SeqNo(5), 1, 0)).count();
        assert_eq!(taken, usize::from(TIMES_MAX));
        assert!(budget.take(SeqNo(6), 1, 0));
        assert!(
            budget.take(SeqNo(5 + SENT_WINDOW), 1, 0),
            "the ring's next turn"
        );
    }

    #[test]
    fn all_together_stay_below_their_share_of_what_was_sent() {
        let mut budget = ResendBudget::default();
        let take_all = |budget: &mut ResendBudget, sent| {
            (0..1000)
                .filter(|seq| budget.take(SeqNo(*seq), 1024, sent))
                .count()
        };
        assert_eq!(take_all(&mut budget, 0), 128);
        assert_eq!(take_all(&mut budget, 20 * 1024), 10);
        assert_eq!(take_all(&mut budget, 20 * 1024), 0);
    }
}
