//! How shards reach each other: bounded queues without locks, and one wake-up for all that a turn has to say.
//!
//! Each shard has one inbox, which all others push to. Media has its own queues there, sound apart from pictures;
//! when one is full, its oldest packet makes room and is counted. What is not media is never dropped: it is
//! held back at the sender while the receiver's queue is full. Should even that grow beyond all reason, both
//! sides forget what they had with each other and begin anew ([`RelayMessage::Reset`]). Reports and keyframe requests
//! are not held back, because the next one makes up for them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crossbeam_queue::ArrayQueue;

use crate::base::ids::ShardId;
use crate::control::relay::{RelayClass, RelayMessage};
use crate::io::shard_waker::ShardWaker;
use crate::shard::batches::PACKETS_MAX;

/// What waits for one shard, and whom it is from.
#[derive(Debug)]
struct Inbox {
    control: ArrayQueue<(ShardId, RelayMessage)>,
    audio: ArrayQueue<(ShardId, RelayMessage)>,
    video: ArrayQueue<(ShardId, RelayMessage)>,
    dropped_audio: AtomicU64,
    dropped_video: AtomicU64,
    waker: OnceLock<ShardWaker>,
}

/// One shard's end of all relays: its own inbox, and the way to the others'.
#[derive(Debug)]
pub struct RelayLinks {
    own: ShardId,
    inboxes: Arc<[Inbox]>,
    outgoing: Vec<Outgoing>,
    dropped_feedback: u64,
    overflows: u64,
}

/// What is on its way to one shard.
#[derive(Debug, Default)]
struct Outgoing {
    /// Oldest first, at most [`HELD_MAX`].
    held: VecDeque<RelayMessage>,
    is_touched: bool,
    is_overflown: bool,
}

impl RelayLinks {
    /// Links `shards` shards to each other; each takes its own.
    #[must_use]
    pub fn mesh(shards: u16) -> Vec<Self> {
        let inboxes: Arc<[Inbox]> = (0..shards).map(|_| Inbox::new()).collect();
        let links = |own| Self {
            own: ShardId(own),
            inboxes: Arc::clone(&inboxes),
            outgoing: (0..shards).map(|_| Outgoing::default()).collect(),
            dropped_feedback: 0,
            overflows: 0,
        };
        (0..shards).map(links).collect()
    }

    /// Tells the others how this shard is woken.
    pub fn connect(&self, waker: ShardWaker) {
        // A second one would be a second thread for one shard.
        let first = self.inbox().waker.set(waker);
        debug_assert!(first.is_ok(), "one thread per shard");
    }

    /// Whether something waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let inbox = self.inbox();
        inbox.control.is_empty() && inbox.audio.is_empty() && inbox.video.is_empty()
    }

    /// Whether something is held back for another shard, whose queue was full: to be tried again soon.
    #[must_use]
    pub fn is_holding(&self) -> bool {
        self.outgoing.iter().any(|to| !to.held.is_empty())
    }

    /// What came that is not media, bounded.
    pub fn take_control(&mut self, mut each: impl FnMut(ShardId, RelayMessage)) {
        let control = &self.inbox().control;
        let messages = std::iter::from_fn(|| control.pop());
        for (from, message) in messages.take(CONTROL_PER_TURN) {
            each(from, message);
        }
    }

    /// The media that came, bounded: sound before pictures.
    pub fn take_media(&mut self, mut each: impl FnMut(ShardId, RelayMessage)) {
        let inbox = self.inbox();
        let packets = std::iter::from_fn(|| inbox.audio.pop().or_else(|| inbox.video.pop()));
        for (from, message) in packets.take(MEDIA_PER_TURN) {
            each(from, message);
        }
    }

    /// Leaves a message for another shard, which [`RelayLinks::ring`] wakes.
    pub fn push(&mut self, to: ShardId, message: RelayMessage) {
        let index = usize::from(to.0);
        let (Some(inbox), Some(outgoing)) = (self.inboxes.get(index), self.outgoing.get_mut(index))
        else {
            debug_assert!(false, "no shard {to}");
            return;
        };
        outgoing.is_touched = true;
        let class = message.class();
        let parcel = (self.own, message);
        match class {
            RelayClass::Audio => count(&inbox.dropped_audio, inbox.audio.force_push(parcel)),
            RelayClass::Video => count(&inbox.dropped_video, inbox.video.force_push(parcel)),
            RelayClass::Feedback if !outgoing.held.is_empty() => self.dropped_feedback += 1,
            RelayClass::Feedback => {
                self.dropped_feedback += u64::from(inbox.control.push(parcel).is_err());
            }
            RelayClass::Control => {
                outgoing.held.push_back(parcel.1);
                if outgoing.held.len() > HELD_MAX {
                    outgoing.held.clear();
                    outgoing.held.push_back(RelayMessage::Reset);
                    outgoing.is_overflown = true;
                    self.overflows += 1;
                }
                outgoing.flush(self.own, inbox);
            }
        }
    }

    /// A shard that could not be told everything: both sides begin anew, this one with [`RelayMessage::Reset`] from it.
    pub fn poll_overflow(&mut self) -> Option<ShardId> {
        let index = self.outgoing.iter().position(|to| to.is_overflown)?;
        self.outgoing[index].is_overflown = false;
        Some(ShardId(index as u16))
    }

    /// Pushes what was held back and wakes every shard that was left something, once. To be called once a turn.
    pub fn ring(&mut self) {
        for (inbox, outgoing) in self.inboxes.iter().zip(&mut self.outgoing) {
            outgoing.flush(self.own, inbox);
            if std::mem::take(&mut outgoing.is_touched) {
                inbox.ring();
            }
        }
    }

    /// This shard has begun anew: the others are to forget what they had with it.
    pub fn reset(&mut self) {
        for to in 0..self.outgoing.len() as u16 {
            if to != self.own.0 {
                self.outgoing[usize::from(to)].held.clear();
                self.push(ShardId(to), RelayMessage::Reset);
            }
        }
        self.ring();
    }

    /// What was dropped and held on the way to this shard, and feedback on the way from it.
    #[must_use]
    pub fn counters(&self) -> [(&'static str, u64); 4] {
        let inbox = self.inbox();
        [
            (
                "relay_dropped_audio",
                inbox.dropped_audio.load(Ordering::Relaxed),
            ),
            (
                "relay_dropped_video",
                inbox.dropped_video.load(Ordering::Relaxed),
            ),
            ("relay_dropped_feedback", self.dropped_feedback),
            ("relay_overflows", self.overflows),
        ]
    }

    fn inbox(&self) -> &Inbox {
        &self.inboxes[usize::from(self.own.0)]
    }
}

impl Outgoing {
    /// Hands over what is held back, as far as there is room.
    fn flush(&mut self, own: ShardId, inbox: &Inbox) {
        while let Some(message) = self.held.pop_front() {
            self.is_touched = true;
            if let Err((_, message)) = inbox.control.push((own, message)) {
                self.held.push_front(message);
                return;
            }
        }
    }
}

impl Inbox {
    fn new() -> Self {
        Self {
            control: ArrayQueue::new(CONTROL_MAX),
            audio: ArrayQueue::new(AUDIO_MAX),
            video: ArrayQueue::new(VIDEO_MAX),
            dropped_audio: AtomicU64::new(0),
            dropped_video: AtomicU64::new(0),
            waker: OnceLock::new(),
        }
    }

    fn ring(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake();
        }
    }
}

fn count<T>(dropped: &AtomicU64, displaced: Option<T>) {
    if displaced.is_some() {
        dropped.fetch_add(1, Ordering::Relaxed);
    }
}

/// What is not media: some for each track that starts, ends or is reported on.
const CONTROL_MAX: usize = 4096;
/// Sound is small and the last to be missed: two seconds of twenty voices.
const AUDIO_MAX: usize = 2048;
/// A shard that is further behind than this (a quarter of a second of 150 Mbit/s) has to skip.
const VIDEO_MAX: usize = 4096;
/// Messages that a sender holds back for one shard; more than every track of a full server needs.
const HELD_MAX: usize = 65_536;
/// Taken in one turn, so that a storm of joins does not hold up media for long.
const CONTROL_PER_TURN: usize = 256;
/// Packets taken in one turn: one batch, as each may be sent to hundreds.
const MEDIA_PER_TURN: usize = PACKETS_MAX;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    use bytes::Bytes;
    use mio::{Events, Poll, Token, Waker};

    use crate::base::ids::{
        EncodingIndex, MediaKind, PeerKey, RoomId, RtpTime, SeqNo, TrackKey, WantKey,
    };
    use crate::control::relay::{RelayedPacket, Selection};
    use crate::wire::rtp::RtpHeader;

    fn packet(kind: MediaKind, seq: u64) -> RelayMessage {
        let bytes = [0x80, 96, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        RelayMessage::Packet(RelayedPacket {
            want: WantKey(1),
            encoding: EncodingIndex::LOWEST,
            kind,
            version: 0,
            run: 0,
            seq: SeqNo(seq),
            timestamp: RtpTime(0),
            arrived: Instant::now(),
            header: RtpHeader::parse(&bytes).unwrap(),
            packet: Bytes::copy_from_slice(&bytes),
        })
    }

    fn want(number: u64) -> RelayMessage {
        RelayMessage::Want {
            want: WantKey(number),
            room: RoomId::new("room").unwrap(),
            track: TrackKey {
                peer: PeerKey(number),
                index: 0,
            },
            selection: Selection::default(),
        }
    }

    fn pair() -> [RelayLinks; 2] {
        RelayLinks::mesh(2).try_into().unwrap()
    }

    /// Takes everything, as (kind, number).
    fn drain(links: &mut RelayLinks) -> Vec<(char, u64)> {
        let mut all = Vec::new();
        while !links.is_empty() {
            let mut note = |from, message| {
                assert_eq!(from, ShardId(0));
                all.push(match message {
                    RelayMessage::Packet(packet) if packet.kind == MediaKind::Audio => {
                        ('a', packet.seq.0)
                    }
                    RelayMessage::Packet(packet) => ('v', packet.seq.0),
                    RelayMessage::Want { want, .. } => ('w', want.0),
                    RelayMessage::KeyframeWanted { want, .. } => ('k', want.0),
                    RelayMessage::Reset => ('r', 0),
                    other => panic!("{other:?}"),
                });
            };
            links.take_control(&mut note);
            links.take_media(note);
        }
        all
    }

    #[test]
    fn under_overload_the_oldest_media_goes_and_nothing_else() {
        let [mut a, mut b] = pair();
        for seq in 0..VIDEO_MAX as u64 + 10 {
            a.push(ShardId(1), packet(MediaKind::Video, seq));
        }
        a.push(ShardId(1), packet(MediaKind::Audio, 7));
        a.push(ShardId(1), want(1));
        let taken = drain(&mut b);
        assert_eq!(taken[..3], [('w', 1), ('a', 7), ('v', 10)]);
        assert_eq!(taken.len(), VIDEO_MAX + 2);
        assert_eq!(b.counters()[1], ("relay_dropped_video", 10));
        assert_eq!(b.counters()[0], ("relay_dropped_audio", 0));
    }

    #[test]
    fn what_is_not_media_waits_and_keeps_its_order() {
        let [mut a, mut b] = pair();
        let total = CONTROL_MAX as u64 + 500;
        for number in 0..total {
            a.push(ShardId(1), want(number));
        }
        assert!(a.is_holding());
        let keyframe = RelayMessage::KeyframeWanted {
            want: WantKey(0),
            encoding: EncodingIndex::LOWEST,
        };
        a.push(ShardId(1), keyframe);
        assert_eq!(a.counters()[2], ("relay_dropped_feedback", 1));
        let mut taken = drain(&mut b);
        a.ring();
        taken.extend(drain(&mut b));
        let expected: Vec<_> = (0..total).map(|number| ('w', number)).collect();
        assert_eq!(taken, expected);
        assert!(!a.is_holding());
    }

    #[test]
    fn beyond_all_reason_both_sides_begin_anew() {
        let [mut a, mut b] = pair();
        for number in 0..=(CONTROL_MAX + HELD_MAX) as u64 {
            a.push(ShardId(1), want(number));
        }
        assert_eq!(a.poll_overflow(), Some(ShardId(1)));
        assert_eq!(a.poll_overflow(), None);
        drain(&mut b);
        a.ring();
        assert_eq!(drain(&mut b), [('r', 0)]);
    }

    #[test]
    fn a_turn_wakes_once_and_a_look_arms_again() {
        let mut poll = Poll::new().unwrap();
        let [mut a, mut b] = pair();
        let waker = ShardWaker::new(Waker::new(poll.registry(), Token(0)).unwrap());
        b.connect(waker.clone());
        let mut is_woken = || {
            let mut events = Events::with_capacity(4);
            poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
            !events.is_empty()
        };
        a.push(ShardId(1), packet(MediaKind::Audio, 1));
        assert!(!is_woken(), "not before the end of the turn");
        a.ring();
        assert!(is_woken());
        a.push(ShardId(1), packet(MediaKind::Audio, 2));
        a.ring();
        assert!(!is_woken(), "it has not looked yet");
        waker.rearm();
        drain(&mut b);
        a.ring();
        assert!(!is_woken(), "there is nothing");
        a.push(ShardId(1), packet(MediaKind::Audio, 3));
        a.ring();
        assert!(is_woken());
    }
}
