//! What one peer's congestion control is made of: what may be sent to it and what waits for that, what packets tell of
//! their sending. `congestion` does with it what inputs and deadlines ask for.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::base::ids::{Bitrate, EncodingIndex, MediaKind, SeqNo, SeqNo16};
use crate::base::time::earliest;
use crate::control::SubscriptionConfig;
use crate::media::congestion::pacer::{Budget, Pace, PacingQueue, STEP};
use crate::media::congestion::send_side::SendSide;
use crate::media::rewrite::Stay;
use crate::room::incoming::Incoming;
use crate::room::retransmissions::Retransmissions;
use crate::room::sent_names::{SentName, SentNames};
use crate::room::slots::SubscriptionSlot;
use crate::transport::RtpSealer;
use crate::wire::extension::{Extension, ExtensionId};

/// Congestion control of one peer.
#[derive(Debug, Default)]
pub struct Congestion {
    /// What may be sent to it.
    pub sender: SendSide,
    /// What was sent under which number.
    pub sent: SentNames,
    /// What of that was sent again of late.
    pub retransmissions: Retransmissions,
    /// How much may go out at once.
    pub budget: Budget,
    /// What of that is its own, where others share the way to it.
    pub share: Option<OwnShare>,
    /// What of that may be sent again.
    pub repairs: Budget,
    /// Pictures that are to go out when that allows.
    pub waiting: PacingQueue<Waiting>,
    /// When that is.
    pub drain_at: Option<Instant>,
    /// How many of them were thrown away and are not counted yet.
    discarded: usize,
    /// Something is due earlier than before.
    wakes: bool,
}

/// A packet that waits to be sent. It has no number there yet, and the pacer takes nothing for it, so that it can be
/// thrown away without a trace.
#[derive(Debug, Clone, Copy)]
pub struct Waiting {
    /// Whose it is.
    pub subscription: SubscriptionSlot,
    /// While this lasts it may go out.
    pub stay: Stay,
    /// The encoding it is of.
    pub encoding: EncodingIndex,
    /// The encoding's number for it.
    pub seq: SeqNo,
}

/// Which header extensions the packets of a subscription tell their sending with.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stamping {
    number: Option<ExtensionId>,
    time: Option<ExtensionId>,
    /// Its packets are sent again where they are lost.
    is_repaired: bool,
}

impl Stamping {
    /// What was negotiated, as far as it can be used: without a retransmission stream, a packet that is asked for
    /// again is sent again as the identical datagram, so that it can tell nothing of when it is sent.
    pub fn new(config: &SubscriptionConfig) -> Self {
        let is_repeated = config.rtx_ssrc.is_none() && config.codecs.iter().any(|c| c.nack);
        if is_repeated {
            return Self::default();
        }
        let extensions = &config.extensions;
        let has_feedback = config.codecs.iter().any(|codec| codec.transport_cc);
        let number = extensions.id(Extension::TransportSequenceNumber);
        let number = number.filter(|_| has_feedback);
        let time = extensions.id(Extension::AbsSendTime);
        Self {
            // Who gets numbers has no use for times.
            time: time.filter(|_| number.is_none()),
            is_repaired: config.codecs.iter().any(|codec| codec.nack),
            number,
        }
    }

    /// Whether packets tell nothing.
    pub fn is_none(&self) -> bool {
        self.number.is_none() && self.time.is_none()
    }

    /// Whether packets have transport-wide numbers.
    pub fn is_numbered(&self) -> bool {
        self.number.is_some()
    }
}

/// The way to a subscriber for packets of one moment, and what keeps account of them.
pub struct Way<'a> {
    /// Where it is.
    pub to: SocketAddr,
    /// What protects the packets.
    pub sealer: &'a RtpSealer,
    now: Instant,
    sender: &'a mut SendSide,
    names: &'a mut SentNames,
    subscription: SubscriptionSlot,
}

/// What one packet tells of its sending.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    number: Option<(ExtensionId, [u8; 2])>,
    time: Option<(ExtensionId, [u8; 3])>,
    is_repaired: bool,
}

impl<'a> Way<'a> {
    /// The way of packets of a subscription that go out now.
    #[inline]
    pub fn new(
        now: Instant,
        (to, sealer): (SocketAddr, &'a RtpSealer),
        (sender, names): (&'a mut SendSide, &'a mut SentNames),
        subscription: SubscriptionSlot,
    ) -> Self {
        Self {
            to,
            sealer,
            now,
            sender,
            names,
            subscription,
        }
    }

    /// What the next packet tells.
    #[inline]
    pub fn stamp(&mut self, stamping: &Stamping) -> Stamp {
        let number = stamping.number;
        Stamp {
            number: number.map(|id| (id, self.sender.next_number().0.to_be_bytes())),
            time: stamping
                .time
                .map(|id| (id, self.sender.send_time(self.now))),
            is_repaired: stamping.is_repaired,
        }
    }

    /// It goes out, as a datagram of `bytes`; `seq` is the number of its subscription's packet that it brings.
    #[inline]
    pub fn on_sent(&mut self, stamp: &Stamp, bytes: usize, seq: Option<SeqNo16>) {
        let Some((_, number)) = stamp.number else {
            return;
        };
        self.sender.on_sent(self.now, bytes + PATH_OVERHEAD);
        if let Some(seq) = seq.filter(|_| stamp.is_repaired) {
            let subscription = self.subscription;
            let number = SeqNo16(u16::from_be_bytes(number));
            self.names.note(number, SentName { subscription, seq });
        }
    }
}

impl Stamp {
    /// The header extensions.
    #[inline]
    pub fn extensions(&self) -> impl Iterator<Item = (ExtensionId, &[u8])> {
        let number = self.number.iter().map(|(id, value)| (*id, &value[..]));
        let time = self.time.iter().map(|(id, value)| (*id, &value[..]));
        number.chain(time)
    }
}

/// What one may use of what several share.
#[derive(Debug, Clone, Copy)]
pub struct OwnShare {
    /// A fair part.
    pub fair: Bitrate,
    /// What it gets.
    pub used: Bitrate,
}

impl OwnShare {
    /// What it may use.
    pub fn limit(self) -> Bitrate {
        self.fair.max(self.used)
    }

    /// How fast packets may go out. Nobody knows when the others have a keyframe to send, and what several estimates say together
    /// is too much by up to a sixth (lab, 2026-11-23): at this rate all at once make no queue.
    fn paced(self) -> Bitrate {
        let part = self.fair.0 * SHARE_PERCENT / 100;
        Bitrate(part.max(self.used.0 * USED_PERCENT / 100))
    }
}

impl Congestion {
    /// Reads what the next packet needs, so that the cache has it then. What comes back is of no use.
    #[inline]
    #[must_use]
    pub fn touch(&self) -> u64 {
        let waiting = u64::from(self.waiting.is_empty()) ^ u64::from(self.budget.is_spent());
        waiting ^ self.sender.touch() ^ self.sent.touch(self.sender.next_number())
    }

    /// What keeps account of what is sent.
    #[inline]
    pub fn account(&mut self) -> (&mut SendSide, &mut SentNames) {
        (&mut self.sender, &mut self.sent)
    }

    /// Packets of one moment will be sent.
    #[inline]
    pub fn begin(&mut self, now: Instant) {
        self.budget.fill(now);
    }

    /// Whether a packet has to wait. Sound never does.
    #[inline]
    pub fn delays(&self, packet: &Incoming) -> bool {
        packet.kind == MediaKind::Video && (!self.waiting.is_empty() || self.budget.is_spent())
    }

    /// A packet goes out.
    #[inline]
    pub fn charge(&mut self, packet: &Incoming) {
        if !self.budget.is_unlimited() {
            self.budget.charge(packet.packet().len() + PATH_OVERHEAD);
        }
    }

    /// Whether anything may be sent again now.
    pub fn admits_repair(&mut self, now: Instant) -> bool {
        self.repairs.fill(now);
        !self.repairs.is_spent()
    }

    /// A packet of `bytes` is sent again.
    pub fn charge_repair(&mut self, now: Instant, bytes: usize) {
        self.repairs.charge(bytes + PATH_OVERHEAD);
        self.budget.fill(now);
        self.budget.charge(bytes + PATH_OVERHEAD);
    }

    /// Whether a queue stands on the path: what is lost, it has lost, and more packets would make it longer.
    pub fn is_congested(&self) -> bool {
        let is_long = |delay| delay > QUEUE_MAX;
        self.sender.pace() == Pace::Draining || self.sender.queue_delay().is_some_and(is_long)
    }

    /// A packet waits. False if there is no room for it.
    #[cold]
    #[must_use]
    pub fn delay(&mut self, now: Instant, packet: &Incoming, waiting: Waiting) -> bool {
        if self.drain_at.is_none() {
            self.drain_at = Some(now + self.budget.wait().max(STEP));
            self.wakes = true;
        }
        let bytes = packet.packet().len() + PATH_OVERHEAD;
        self.waiting.push(now, bytes, waiting)
    }

    /// What waits of a subscription does not go out.
    #[cold]
    pub fn discard(&mut self, of: SubscriptionSlot) {
        self.discarded += self.waiting.retain(|waiting| waiting.subscription != of);
    }

    /// The oldest of what waits does not go out.
    pub fn discard_oldest(&mut self) {
        self.discarded += usize::from(self.waiting.pop().is_some());
    }

    /// How many packets were discarded since this was last asked. While any are not counted, `drain_at` is set.
    pub fn take_discarded(&mut self) -> usize {
        std::mem::take(&mut self.discarded)
    }

    /// Whether the peer's deadline may have come nearer since this was last asked.
    #[inline]
    pub fn take_wake(&mut self) -> bool {
        std::mem::take(&mut self.wakes) | self.sender.take_wake()
    }

    /// When something is next due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let sends = earliest(self.sender.poll_timeout(), self.drain_at);
        earliest(sends, self.retransmissions.poll_timeout())
    }

    /// The estimate may have changed.
    pub fn refresh(&mut self) {
        let rate = self.sender.present_rate().map(|bitrate| bitrate.0 as f64);
        self.repairs.set_repair_rate(rate);
        let pace = self.sender.pace();
        let share = self.share.map(|share| (share.used, share.paced()));
        match share.filter(|(_, paced)| rate.is_some_and(|rate| (paced.0 as f64) < rate)) {
            Some((used, paced)) if pace != Pace::Draining => {
                // With room to spare, usual frames need not be spread.
                let is_roomy = used.0 * 100 < paced.0 * ROOMY_PERCENT;
                let pace = if is_roomy { Pace::Loose } else { Pace::Shared };
                self.budget.set_rate(Some(paced.0 as f64), pace);
            }
            _ => self.budget.set_rate(rate, pace),
        }
    }
}

/// A queue longer than this is being driven down (`media::congestion`), and loses packets if that fails.
const QUEUE_MAX: Duration = Duration::from_millis(50);
/// What IPv4 and UDP add to a datagram: it passes the bottleneck, too.
pub const PATH_OVERHEAD: usize = 28;
const SHARE_PERCENT: u64 = 85;
/// Below that part of what may go out (`media::congestion::send_side` has the same for who is alone).
const ROOMY_PERCENT: u64 = 85;
/// As the pacer gives who is alone.
const USED_PERCENT: u64 = 110;
