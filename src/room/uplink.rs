//! What a publisher is told of the way from it: when its packets arrived, where it takes feedback on each
//! (draft-holmer-rmcat-transport-wide-cc-extensions-01), and elsewhere what it may send (REMB,
//! draft-alvestrand-rmcat-remb-03). Which of the two is as its description has it: see `signaling`.

use std::time::{Duration, Instant};

use crate::base::ids::{MediaKind, PayloadType, SeqNo16, Ssrc};
use crate::base::time::earliest;
use crate::control::TrackConfig;
use crate::media::congestion::receive_side::{Arrived, ReceiveSide};
use crate::media::congestion::recorder::ArrivalRecorder;
use crate::wire::bandwidth::Remb;
use crate::wire::extension::{Extension, ExtensionId};
use crate::wire::rtp::RtpHeader;

/// What arrives from one peer.
#[derive(Debug, Default)]
pub struct Uplink {
    /// Under which id its packets have transport-wide numbers, if they are to be reported.
    number_id: Option<ExtensionId>,
    arrivals: ArrivalRecorder,
    /// It takes an estimate of what it may send.
    estimator: Option<Box<Estimator>>,
}

#[derive(Debug, Default)]
struct Estimator {
    side: ReceiveSide,
    /// Under which id packets say when they were sent.
    time_id: Option<ExtensionId>,
    /// What its pictures come as, a bit for each payload type: their timestamps say when they were captured.
    pictures: u128,
}

impl Uplink {
    /// What the peer publishes has changed.
    pub fn set_publishing<'a>(&mut self, tracks: impl Iterator<Item = &'a TrackConfig> + Clone) {
        let id = |track: &TrackConfig, extension| track.extensions.id(extension);
        let is_told = |track: &&TrackConfig| track.codecs.iter().any(|codec| codec.transport_cc);
        self.number_id = tracks
            .clone()
            .filter(is_told)
            .find_map(|track| id(track, Extension::TransportSequenceNumber));
        let takes_remb = |track: &TrackConfig| track.codecs.iter().any(|codec| codec.remb);
        if !tracks
            .clone()
            .any(|track| takes_remb(track) && !is_told(&track))
        {
            self.estimator = None;
            return;
        }
        let estimator = self.estimator.get_or_insert_default();
        estimator.time_id = tracks
            .clone()
            .find_map(|track| id(track, Extension::AbsSendTime));
        estimator.pictures = tracks
            .filter(|track| track.kind == MediaKind::Video)
            .flat_map(|track| &track.codecs)
            .fold(0, |types, codec| types | bit(codec.payload_type));
    }

    /// A packet of the peer arrived. True if the peer's deadline has come nearer by that.
    #[inline]
    pub fn on_arrival(&mut self, now: Instant, header: &RtpHeader, packet: &[u8]) -> bool {
        let mut wakes = false;
        if let Some(id) = self.number_id
            && let Some(number) = element(header, packet, id)
        {
            let was_due = self.arrivals.poll_timeout().is_some();
            let seq = SeqNo16(u16::from_be_bytes(number));
            self.arrivals.on_packet(now, seq, header.ssrc);
            wakes = !was_due;
        }
        match &mut self.estimator {
            Some(estimator) => estimator.on_arrival(now, header, packet) || wakes,
            None => wakes,
        }
    }

    /// When something is next due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let estimator = self.estimator.as_ref();
        let remb = estimator.and_then(|estimator| estimator.side.poll_timeout());
        earliest(self.arrivals.poll_timeout(), remb)
    }

    /// Whether feedback is to be written.
    pub fn is_feedback_due(&self, now: Instant) -> bool {
        (self.arrivals.poll_timeout()).is_some_and(|at| at <= now)
    }

    /// Appends the feedback that is due, if it is, from this server's `sender`. True if it did.
    pub fn write_feedback(&mut self, now: Instant, sender: Ssrc, out: &mut Vec<u8>) -> bool {
        self.arrivals.write_due(now, sender, out)
    }

    /// The estimate that is to be told by this server's `sender`, if one is due. `rtt` is the round trip, if it is known.
    pub fn remb_due(&mut self, now: Instant, sender: Ssrc, rtt: Option<Duration>) -> Option<Remb> {
        let side = &mut self.estimator.as_mut()?.side;
        let bitrate = side.handle_timeout(now, rtt)?;
        Some(Remb {
            sender,
            bitrate,
            ssrcs: side.streams().collect(),
        })
    }
}

impl Estimator {
    fn on_arrival(&mut self, now: Instant, header: &RtpHeader, packet: &[u8]) -> bool {
        let is_picture = self.pictures & bit(header.payload_type) != 0;
        let send_time = self.time_id.and_then(|id| element(header, packet, id));
        let arrived = Arrived {
            ssrc: header.ssrc,
            seq: header.seq,
            picture: is_picture.then_some(header.timestamp),
            send_time,
            bytes: packet.len(),
        };
        self.side.on_packet(now, &arrived)
    }
}

/// The value of a header extension, if the packet has it and it is as long as it is to be.
fn element<const LEN: usize>(
    header: &RtpHeader,
    packet: &[u8],
    id: ExtensionId,
) -> Option<[u8; LEN]> {
    let (_, value) = header.extensions(packet).find(|(other, _)| *other == id)?;
    value.try_into().ok()
}

/// The bit of a payload type, of which there are 128.
fn bit(payload_type: PayloadType) -> u128 {
    1 << (payload_type.0 & 127)
}
