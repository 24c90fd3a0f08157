//! Protection against replay (RFC 3711 §3.3.2) and the rollover count's estimate (§3.3.1), for each
//! SSRC that sends to us.
//!
//! Nothing here is remembered of a packet before it was authenticated.

/// Which of the last [`WINDOW_LEN`] packet indices of one sender have been accepted.
#[derive(Debug, Clone)]
pub(crate) struct ReplayWindow {
    highest: u64,
    /// One bit for each index, at its remainder by [`WINDOW_LEN`]; only those in the window count.
    seen: [u64; WORDS],
}

impl ReplayWindow {
    /// A window whose first accepted packet has `index`.
    pub(crate) fn starting_with(index: u64) -> Self {
        let mut window = Self {
            highest: index,
            seen: [0; WORDS],
        };
        window.set(index, true);
        window
    }

    /// The highest index accepted.
    pub(crate) fn highest(&self) -> u64 {
        self.highest
    }

    /// Whether `index` is neither older than the window nor accepted before.
    pub(crate) fn is_fresh(&self, index: u64) -> bool {
        if index > self.highest {
            return true;
        }
        self.highest - index < WINDOW_LEN && !self.get(index)
    }

    /// Records that `index`, which was fresh, belongs to an authentic packet.
    pub(crate) fn accept(&mut self, index: u64) {
        if index > self.highest {
            if index - self.highest >= WINDOW_LEN {
                self.seen = [0; WORDS];
            } else {
                for skipped in self.highest + 1..index {
                    self.set(skipped, false);
                }
            }
            self.highest = index;
        }
        self.set(index, true);
    }

    fn get(&self, index: u64) -> bool {
        let bit = index % WINDOW_LEN;
        self.seen[(bit / 64) as usize] >> (bit % 64) & 1 == 1
    }

    fn set(&mut self, index: u64, seen: bool) {
        let bit = index % WINDOW_LEN;
        let (word, mask) = (&mut self.seen[(bit / 64) as usize], 1 << (bit % 64));
        if seen {
            *word |= mask;
        } else {
            *word &= !mask;
        }
    }
}

/// The most likely index of a packet with sequence number `seq`, after `highest` was the highest
/// index received (RFC 3711 §3.3.1). `None` where it would lie before the first or after the last
/// index there can be.
pub(crate) fn estimate_index(highest: u64, seq: u16) -> Option<u64> {
    let (roc, last) = (highest >> 16, (highest & 0xffff) as i32);
    let seq_number = i32::from(seq);
    let roc = if last < 0x8000 {
        if seq_number - last > 0x8000 {
            roc.checked_sub(1)?
        } else {
            roc
        }
    } else if last - 0x8000 > seq_number {
        roc + 1
    } else {
        roc
    };
    (roc <= u64::from(u32::MAX)).then_some(roc << 16 | u64::from(seq))
}

/// The windows of all senders that reach us under one key.
#[derive(Debug, Default)]
pub(crate) struct ReplayWindows {
    /// Sorted; `windows` has the same order.
    ssrcs: Vec<u32>,
    windows: Vec<ReplayWindow>,
}

impl ReplayWindows {
    /// The place of `ssrc`: known, or where it would be put.
    pub(crate) fn find(&self, ssrc: u32) -> Place {
        match self.ssrcs.binary_search(&ssrc) {
            Ok(at) => Place::Known(at),
            Err(_) if self.ssrcs.len() >= SENDERS_MAX => Place::Full,
            Err(at) => Place::New(at),
        }
    }

    /// The window of a known sender, by its place.
    pub(crate) fn window(&self, at: usize) -> &ReplayWindow {
        &self.windows[at]
    }

    /// Records an authentic packet of `ssrc`, at the place just found.
    pub(crate) fn accept(&mut self, place: Place, ssrc: u32, index: u64) {
        match place {
            Place::Known(at) => self.windows[at].accept(index),
            Place::New(at) => {
                self.ssrcs.insert(at, ssrc);
                self.windows.insert(at, ReplayWindow::starting_with(index));
            }
            Place::Full => debug_assert!(false, "a packet of one sender too many was opened"),
        }
    }
}

/// Where a sender's window is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// There.
    Known(usize),
    /// Nowhere yet, but there is room.
    New(usize),
    /// Nowhere, and there are [`SENDERS_MAX`] others.
    Full,
}

/// In packets, as libwebrtc has it: a retransmission on the same SSRC, half a second late in a
/// stream of 2000 packets/s, is still taken.
pub(crate) const WINDOW_LEN: u64 = 1024;
const WORDS: usize = (WINDOW_LEN / 64) as usize;

/// The most senders (SSRCs) remembered for one peer and key. A known one is never forgotten, since
/// its old packets could then be replayed; one too many is refused. A peer that shares its screen
/// with three simulcast layers and their retransmissions needs six a time. At most 144 KiB.
pub(crate) const SENDERS_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn estimates_follow_rfc_3711() {
        let cases = [
            (0, 0, Some(0)),
            (0, 0x8000, Some(0x8000)),
            (0, 0x8001, None),
            (5, 3, Some(3)),
            (0xfffe, 1, Some(0x1_0001)),
            (0x8001, 0, Some(0x1_0000)),
            (0x8000, 0, Some(0)),
            (0x1_0001, 0xfffe, Some(0xfffe)),
            (0x1_0001, 0x10, Some(0x1_0010)),
            (0xffff_ffff_fffe, 1, None),
            (0xffff_ffff_fffe, 0xffff, Some(0xffff_ffff_ffff)),
        ];
        for (highest, seq, expected) in cases {
            assert_eq!(
                estimate_index(highest, seq),
                expected,
                "{highest:#x} {seq:#x}"
            );
        }
    }

    #[test]
    fn window_takes_each_index_once_and_nothing_older() {
        let mut window = ReplayWindow::starting_with(5000);
        let cases = [
            (5000, false),
            (4999, true),
            (4999, false),
            (5000 - WINDOW_LEN + 1, true),
            (5000 - WINDOW_LEN, false),
            (6000, true),
            (5000, false),
            (4999, false),
            (5001, true),
            (6000 + 3 * WINDOW_LEN, true),
            (6000 + 2 * WINDOW_LEN, false),
            (6001 + 2 * WINDOW_LEN, true),
        ];
        for (index, fresh) in cases {
            assert_eq!(window.is_fresh(index), fresh, "{index}");
            if fresh {
                window.accept(index);
            }
        }
        assert_eq!(window.highest(), 6000 + 3 * WINDOW_LEN);
    }

    #[test]
    fn senders_are_bounded() {
        let mut windows = ReplayWindows::default();
        for ssrc in (0..SENDERS_MAX as u32).rev() {
            let place = windows.find(ssrc);
            assert!(matches!(place, Place::New(_)));
            windows.accept(place, ssrc, u64::from(ssrc));
        }
        assert_eq!(windows.find(u32::MAX), Place::Full);
        let Place::Known(at) = windows.find(77) else {
            panic!("forgotten")
        };
        assert_eq!(windows.window(at).highest(), 77);
    }

    proptest! {
        #[test]
        fn window_agrees_with_a_set(
            steps in proptest::collection::vec(-1500i64..1500, 1..300),
        ) {
            let mut at = 1_000_000i64;
            let mut window = ReplayWindow::starting_with(at as u64);
            let mut accepted = BTreeSet::from([at as u64]);
            for step in steps {
                at += step;
                let index = at as u64;
                let highest = *accepted.last().unwrap();
                let fresh = index > highest
                    || (highest - index < WINDOW_LEN && !accepted.contains(&index));
                prop_assert_eq!(window.is_fresh(index), fresh);
                if fresh {
                    window.accept(index);
                    accepted.insert(index);
                }
            }
        }
    }
}
