//! Who gets redundant audio (RFC 2198) made of plain: those who lose packets. It doubles what sound takes, and where nothing
//! is lost it is of no use.
//!
//! What a peer loses, its transport-wide feedback tells, or else its receiver reports. A payload type may change with any
//! packet, so that nothing is negotiated for it.

use std::time::{Duration, Instant};

use crate::base::ids::SeqNo;

/// How often frames are repeated for a peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doubling {
    /// Not at all.
    #[default]
    Off,
    /// In the next packet.
    Once,
    /// In the next two.
    Twice,
}

/// Watches what one peer loses.
#[derive(Debug, Default)]
pub struct LossWatch {
    packets: u32,
    lost: u32,
    level: Doubling,
    /// When the level was last set, or confirmed.
    set_at: Option<Instant>,
    /// When much was last lost.
    bad_at: Option<Instant>,
}

impl LossWatch {
    /// So many packets were sent, of which `lost` did not arrive. Returns the level if that is to be set: it has changed,
    /// or has stood for long.
    pub fn on_packets(&mut self, now: Instant, packets: u32, lost: u32) -> Option<Doubling> {
        self.packets = self.packets.saturating_add(packets);
        self.lost = self.lost.saturating_add(lost.min(packets));
        let wanted = self.wanted();
        while self.packets > WINDOW {
            self.packets /= 2;
            self.lost /= 2;
        }
        let since_set = self.set_at.map(|at| now.saturating_duration_since(at));
        if self.is_above(KEEP_PERCENT) {
            self.bad_at = Some(now);
        }
        let is_calm = self
            .bad_at
            .is_none_or(|at| now.saturating_duration_since(at) >= CALM);
        let next = if wanted > self.level {
            // What was made before is not sent again by other rules within this time.
            let too_soon = self.level == Doubling::Off && since_set.is_some_and(|t| t < PAUSE);
            (!too_soon).then_some(wanted)
        } else if self.level == Doubling::Off {
            None
        } else if is_calm {
            Some(Doubling::Off)
        } else {
            (since_set >= Some(CONFIRM)).then_some(self.level)
        };
        if let Some(level) = next {
            self.level = level;
            self.set_at = Some(now);
        }
        next
    }

    fn wanted(&self) -> Doubling {
        if self.lost < LOST_MIN {
            Doubling::Off
        } else if self.is_above(TWICE_PERCENT) {
            Doubling::Twice
        } else if self.is_above(ONCE_PERCENT) {
            Doubling::Once
        } else {
            Doubling::Off
        }
    }

    fn is_above(&self, percent: u32) -> bool {
        let (lost, packets) = (u64::from(self.lost), u64::from(self.packets));
        packets > 0 && lost * 100 >= packets * u64::from(percent)
    }
}

/// Since when a subscription gets redundant audio, or does not.
#[derive(Debug, Clone, Copy)]
pub struct Doubled {
    is_on: bool,
    /// The first packet of its track for which that holds.
    since: SeqNo,
}

impl Default for Doubled {
    fn default() -> Self {
        Self {
            is_on: false,
            since: SeqNo(0),
        }
    }
}

impl Doubled {
    /// Whether a packet is repeated. The same for every copy of it: changes are farther apart than packets are kept.
    #[inline]
    pub fn holds_for(self, seq: SeqNo) -> bool {
        (seq >= self.since) == self.is_on
    }

    /// Whether it holds for packets to come.
    pub fn is_on(self) -> bool {
        self.is_on
    }

    /// Holds, or does not, from the packet `since` on.
    pub fn set(&mut self, is_on: bool, since: SeqNo) {
        if self.is_on != is_on {
            (self.is_on, self.since) = (is_on, since);
        }
    }
}

/// Losses are counted over the last packets, at most so many.
const WINDOW: u32 = 256;
/// One packet is no loss rate.
const LOST_MIN: u32 = 3;
/// Opus conceals a lost frame in a hundred well; WebRTC applications that do this use 2 to 5 %.
const ONCE_PERCENT: u32 = 2;
/// Two in a row are lost often enough then.
const TWICE_PERCENT: u32 = 4;
/// As long as so many are lost, it goes on.
const KEEP_PERCENT: u32 = 1;
/// And so long after that.
const CALM: Duration = Duration::from_secs(20);
/// It does not begin again so soon: packets are kept for two seconds.
const PAUSE: Duration = Duration::from_secs(4);
/// Tracks are told that it goes on.
pub const CONFIRM: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_soon_where_much_is_lost_and_ends_late() {
        let t0 = Instant::now();
        let mut watch = LossWatch::default();
        // (seconds, packets, lost) -> what is to be set
        let steps = [
            (0, 200, 0, None),
            (1, 50, 2, None),
            (2, 50, 4, Some(Doubling::Once)),
            (3, 50, 10, Some(Doubling::Twice)),
            (4, 50, 10, None),
            (9, 50, 3, Some(Doubling::Twice)),
        ];
        for (at, packets, lost, expected) in steps {
            let now = t0 + Duration::from_secs(at);
            assert_eq!(watch.on_packets(now, packets, lost), expected, "{at} s");
        }
        let mut clean = (10..60).filter_map(|at| {
            let set = watch.on_packets(t0 + Duration::from_secs(at), 250, 0);
            set.filter(|level| *level == Doubling::Off).map(|_| at)
        });
        let ended = clean.next().unwrap();
        assert!((29..35).contains(&ended), "{ended} s");
        let after = |seconds: u64| t0 + Duration::from_secs(ended + seconds);
        assert_eq!(watch.on_packets(after(1), 250, 100), None, "too soon");
        let again = watch.on_packets(after(5), 50, 20);
        assert_eq!(again, Some(Doubling::Twice));
    }

    #[test]
    fn single_losses_and_lies_do_nothing() {
        let t0 = Instant::now();
        let mut watch = LossWatch::default();
        for at in 0..1000 {
            let now = t0 + Duration::from_secs(at);
            assert_eq!(watch.on_packets(now, 200, u32::from(at % 2 == 0)), None);
        }
        watch.on_packets(t0, u32::MAX, u32::MAX);
        watch.on_packets(t0, u32::MAX, u32::MAX);
        assert!(watch.packets <= WINDOW && watch.lost <= WINDOW);
    }

    #[test]
    fn a_packet_has_one_answer() {
        let mut doubled = Doubled::default();
        assert!(!doubled.holds_for(SeqNo(0)) && !doubled.holds_for(SeqNo(100)));
        doubled.set(true, SeqNo(100));
        doubled.set(true, SeqNo(200));
        assert!(!doubled.holds_for(SeqNo(99)) && doubled.holds_for(SeqNo(100)));
        doubled.set(false, SeqNo(300));
        assert!(doubled.holds_for(SeqNo(299)) && !doubled.holds_for(SeqNo(300)));
    }
}
