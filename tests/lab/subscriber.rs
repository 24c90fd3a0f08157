//! A receiver as a browser is one: it says when each packet arrived (transport-cc), asks for what is missing, takes
//! retransmissions and redundant sound, decodes what it can decode, and asks for a keyframe when it cannot.
//!
//! What of this follows libwebrtc is said at the constants.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rtc_rtcp::packet::Packet;
use rtc_rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtc_rtcp::receiver_report::ReceiverReport;
use rtc_rtcp::reception_report::ReceptionReport;
use rtc_rtcp::transport_feedbacks::transport_layer_nack::{
    TransportLayerNack, nack_pairs_from_sequence_numbers,
};
use shardcast::wire::codec::Codec;
use shardcast::wire::rtcp::RtcpPacket;
use shardcast::wire::rtp::RtpHeader;

use crate::layered_pictures::{self, Pictures};
use crate::publisher::{OPUS, RED, Stamp, VP8, VP8_RTX};
use crate::twcc::Recorder;

/// The receiver's own SSRC.
const OWN_SSRC: u32 = 1;
/// libwebrtc's default interval at such rates.
const FEEDBACK_EVERY: Duration = Duration::from_millis(100);
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// libwebrtc's NackRequester looks that often for what to ask for again.
const NACK_EVERY: Duration = Duration::from_millis(20);
/// libwebrtc: `kMaxNackRetries`.
const NACK_TRIES_MAX: u8 = 10;
/// libwebrtc: `kMaxNackPackets`.
const NACK_MAX: usize = 1000;
/// How long libwebrtc's VideoReceiveStream2 waits for a keyframe, and for any frame, before it asks.
const WAIT_FOR_KEYFRAME: Duration = Duration::from_millis(200);
const WAIT_FOR_FRAME: Duration = Duration::from_secs(3);
/// What comes later is of no use for hearing: NetEq stretches at most about that far.
pub const PLAYOUT_LATEST: Duration = Duration::from_millis(500);

/// One subscription's end.
pub struct Reception {
    pub ssrc: u32,
    pub rtx_ssrc: u32,
    pub is_video: bool,
    coding: Option<Codec>,
    transport_id: u8,
    newest: Option<u64>,
    first: Option<u64>,
    received: u64,
    reported: (u64, u64),
    missing: BTreeMap<u64, (u8, Option<Instant>)>,
    last_sr: Option<(u32, Instant)>,
    /// Sound: when each packet of the publisher was there first (µs since zero), and when it was captured.
    pub heard: BTreeMap<u32, (u64, u64)>,
    pub video: Video,
    pub repaired: u64,
    /// Packets of redundant sound.
    pub redundant: u64,
    /// What was wrong, as text.
    pub faults: Vec<String>,
}

/// What could be decoded.
#[derive(Default)]
pub struct Video {
    frames: BTreeMap<(u64, u8, u32), Frame>,
    layered: Pictures,
    decoded: BTreeSet<(u8, u32)>,
    /// The timestamp of the last picture decoded, extended.
    newest_decoded: Option<u64>,
    newest_timestamp: Option<u64>,
    /// Where the last picture decoded begins.
    decoded_seq: u64,
    has_begun: bool,
    waits_since: Option<Instant>,
    is_keyframe_wanted: bool,
    /// When, and of which encoding and temporal layer.
    pub shown: Vec<(Instant, u8, u8)>,
    pub keyframe_requests: u64,
    places: BTreeMap<u64, Place>,
}

struct Frame {
    parts: BTreeSet<u16>,
    first_seq: u64,
    stamp: Stamp,
}

/// What a packet's descriptor says, to see that it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    picture: u16,
    tl0: u8,
    temporal: u8,
    timestamp: u32,
    frame: (u8, u32),
}

pub struct Subscriber {
    zero: Instant,
    pub receptions: Vec<Reception>,
    transport: Recorder,
    /// How long it takes until what is asked for comes.
    rtt: Duration,
    next_feedback: Instant,
    /// How often it says what arrived.
    pub feedback_every: Duration,
    next_report: Instant,
    next_nack: Instant,
}

impl Subscriber {
    pub fn new(zero: Instant, rtt: Duration) -> Self {
        Self {
            zero,
            receptions: Vec::new(),
            transport: Recorder::new(zero),
            rtt,
            next_feedback: zero + FEEDBACK_EVERY,
            feedback_every: FEEDBACK_EVERY,
            next_report: zero + REPORT_EVERY,
            next_nack: zero + NACK_EVERY,
        }
    }

    /// `coding`: of pictures.
    pub fn add(&mut self, ssrc: u32, rtx_ssrc: u32, coding: Option<Codec>, transport_id: u8) {
        self.receptions.push(Reception {
            coding,
            ssrc,
            rtx_ssrc,
            is_video: coding.is_some(),
            transport_id,
            newest: None,
            first: None,
            received: 0,
            reported: (0, 0),
            missing: BTreeMap::new(),
            last_sr: None,
            heard: BTreeMap::new(),
            video: Video::default(),
            repaired: 0,
            redundant: 0,
            faults: Vec::new(),
        });
    }

    pub fn poll_timeout(&self) -> Instant {
        self.next_feedback.min(self.next_report).min(self.next_nack)
    }

    /// Takes an opened packet; returns messages to send at once.
    pub fn handle_rtp(&mut self, now: Instant, packet: &[u8]) -> Vec<Vec<u8>> {
        let Some(header) = RtpHeader::parse(packet) else {
            return Vec::new();
        };
        let ssrc = header.ssrc.0;
        let found = self.receptions.iter_mut();
        let Some(reception) = found
            .into_iter()
            .find(|r| r.ssrc == ssrc || r.rtx_ssrc == ssrc)
        else {
            return Vec::new();
        };
        let transport = header
            .extensions(packet)
            .find(|(id, _)| id.value() == reception.transport_id)
            .and_then(|(_, value)| value.try_into().ok().map(u16::from_be_bytes));
        if let Some(number) = transport {
            self.transport.on_packet(now, number);
        }
        let payload = header.payload(packet).unwrap_or_default();
        let at_us = (now - self.zero).as_micros() as u64;
        if ssrc == reception.rtx_ssrc {
            // RFC 4588 §4; padding that probes has no payload.
            let Some((number, payload)) = payload.split_first_chunk::<2>() else {
                return Vec::new();
            };
            assert_eq!(header.payload_type.0, VP8_RTX, "of a retransmission");
            let seq = u16::from_be_bytes(*number);
            reception.repaired += 1;
            return reception.take(now, at_us, seq, VP8, &header, payload, true);
        }
        let (seq, payload_type) = (header.seq.0, header.payload_type.0);
        reception.take(now, at_us, seq, payload_type, &header, payload, false)
    }

    pub fn handle_rtcp(&mut self, now: Instant, packet: &RtcpPacket) {
        if let RtcpPacket::SenderReport(report) = packet
            && let Some(reception) = self.receptions.iter_mut().find(|r| r.ssrc == report.ssrc.0)
        {
            reception.last_sr = Some((report.ntp.middle(), now));
        }
    }

    pub fn poll(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        if self.next_feedback <= now {
            self.next_feedback += self.feedback_every;
            let media = self.receptions.first().map_or(0, |r| r.ssrc);
            out.extend(self.transport.poll(OWN_SSRC, media));
        }
        if self.next_nack <= now {
            self.next_nack += NACK_EVERY;
            for reception in &mut self.receptions {
                out.extend(reception.nack(now, self.rtt));
                out.extend(reception.ask_for_keyframe(now));
            }
        }
        if self.next_report <= now {
            self.next_report += REPORT_EVERY;
            let reports: Vec<_> = self
                .receptions
                .iter_mut()
                .filter_map(|r| r.report(now))
                .collect();
            if !reports.is_empty() {
                let report = ReceiverReport {
                    ssrc: OWN_SSRC,
                    reports,
                    ..ReceiverReport::default()
                };
                out.push(bytes(&report));
            }
        }
        out
    }
}

impl Reception {
    #[allow(clippy::too_many_arguments, reason = "the parts of one packet")]
    fn take(
        &mut self,
        now: Instant,
        at_us: u64,
        seq: u16,
        payload_type: u8,
        header: &RtpHeader,
        payload: &[u8],
        is_repair: bool,
    ) -> Vec<Vec<u8>> {
        let newest = self.newest.unwrap_or((1 << 20) + u64::from(seq));
        let ahead = seq.wrapping_sub(newest as u16) as i16;
        let extended = newest.wrapping_add_signed(i64::from(ahead));
        self.first.get_or_insert(extended);
        if !is_repair {
            self.received += 1;
        }
        self.missing.remove(&extended);
        if extended > newest {
            self.missing
                .extend((newest + 1..extended).map(|seq| (seq, (0, None))));
            self.newest = Some(extended);
        }
        self.newest.get_or_insert(extended);
        if self.missing.len() > NACK_MAX {
            self.missing.clear();
            self.video.is_keyframe_wanted = true;
        }
        if self.is_video {
            self.take_picture(now, extended, header, payload);
            // libwebrtc asks as soon as it sees a gap.
            return self.nack(now, Duration::MAX).into_iter().collect();
        }
        self.take_sound(at_us, payload_type, payload);
        Vec::new()
    }

    fn take_sound(&mut self, at_us: u64, payload_type: u8, payload: &[u8]) {
        let blocks = match payload_type {
            OPUS => vec![payload],
            RED => {
                self.redundant += 1;
                red_blocks(payload)
            }
            // Padding of a probe.
            _ if payload.is_empty() => return,
            other => return self.fault(format!("sound under payload type {other}")),
        };
        for block in blocks {
            match Stamp::read(block) {
                Some(stamp) => {
                    let known = self.heard.entry(stamp.frame);
                    known.or_insert((at_us, stamp.capture_us));
                }
                None if block.is_empty() => {}
                None => self.fault("broken sound".to_owned()),
            }
        }
    }

    fn take_picture(&mut self, now: Instant, seq: u64, header: &RtpHeader, payload: &[u8]) {
        if payload.is_empty() {
            return;
        }
        let timestamp = header.timestamp.0;
        let layered = self
            .coding
            .filter(|c| matches!(c, Codec::Vp9 { .. } | Codec::Av1 { .. }));
        let read = match self.coding {
            Some(Codec::Vp8) => read_picture(payload, timestamp),
            _ if layered.is_some() => read_layered(layered, payload, timestamp),
            _ => read_fragment(payload).map(|stamp| (None, stamp)),
        };
        let Some((place, stamp)) = read else {
            return self.fault(format!("seq {seq}: a broken picture"));
        };
        self.video.places.extend(place.map(|place| (seq, place)));
        if layered.is_some() {
            self.video.take_layered(now, seq, header, stamp);
            self.missing = self.missing.split_off(&self.video.decoded_seq);
            return;
        }
        let key = (
            self.video.extend_timestamp(timestamp),
            stamp.encoding,
            stamp.frame,
        );
        if self.video.decoded.contains(&(stamp.encoding, stamp.frame)) {
            return;
        }
        let frame = self.video.frames.entry(key).or_insert_with(|| Frame {
            parts: BTreeSet::new(),
            first_seq: seq,
            stamp,
        });
        frame.parts.insert(stamp.part);
        frame.first_seq = frame.first_seq.min(seq);
        self.video.decode(now);
        // As libwebrtc does: what is older than what was decoded is of no use.
        self.missing = self.missing.split_off(&self.video.decoded_seq);
        if let Some(oldest) = self.video.frames.len().checked_sub(600) {
            for _ in 0..oldest {
                self.video.frames.pop_first();
            }
        }
    }

    fn fault(&mut self, text: String) {
        if self.faults.len() < 10 {
            self.faults.push(text);
        }
    }

    /// Asks for what is missing and was not asked for within `again`.
    fn nack(&mut self, now: Instant, again: Duration) -> Option<Vec<u8>> {
        if !self.is_video {
            return None;
        }
        self.missing.retain(|_, (tries, _)| *tries < NACK_TRIES_MAX);
        let mut wanted = Vec::new();
        for (seq, (tries, last)) in &mut self.missing {
            if last.is_none_or(|at| now.saturating_duration_since(at) >= again) {
                *tries += 1;
                *last = Some(now);
                wanted.push(*seq as u16);
            }
        }
        if wanted.is_empty() {
            return None;
        }
        Some(bytes(&TransportLayerNack {
            sender_ssrc: OWN_SSRC,
            media_ssrc: self.ssrc,
            nacks: nack_pairs_from_sequence_numbers(&wanted),
        }))
    }

    fn ask_for_keyframe(&mut self, now: Instant) -> Option<Vec<u8>> {
        if !self.is_video {
            return None;
        }
        let video = &mut self.video;
        let since = video.waits_since?;
        let patience = if video.has_begun && !video.is_keyframe_wanted {
            WAIT_FOR_FRAME
        } else {
            WAIT_FOR_KEYFRAME
        };
        if now.saturating_duration_since(since) < patience {
            return None;
        }
        video.waits_since = Some(now);
        video.keyframe_requests += 1;
        Some(bytes(&PictureLossIndication {
            sender_ssrc: OWN_SSRC,
            media_ssrc: self.ssrc,
        }))
    }

    /// RFC 3550 §6.4.2 and appendix A.3.
    fn report(&mut self, now: Instant) -> Option<ReceptionReport> {
        let (first, newest) = (self.first?, self.newest?);
        let expected = newest - first + 1;
        let lost = expected.saturating_sub(self.received);
        let (expected_before, received_before) =
            std::mem::replace(&mut self.reported, (expected, self.received));
        let expected_now = expected - expected_before;
        let lost_now = expected_now.saturating_sub(self.received - received_before);
        let (last_sender_report, delay) = self.last_sr.map_or((0, 0), |(middle, at)| {
            let since = now.saturating_duration_since(at).as_micros() as u64;
            (middle, (since * 65_536 / 1_000_000) as u32)
        });
        Some(ReceptionReport {
            ssrc: self.ssrc,
            fraction_lost: (lost_now * 256)
                .checked_div(expected_now)
                .unwrap_or(0)
                .min(255) as u8,
            total_lost: lost as u32,
            last_sequence_number: newest as u32,
            jitter: 0,
            last_sender_report,
            delay,
        })
    }

    /// What does not go on as a decoder needs it: picture numbers, base layer numbers and timestamps between packets
    /// that follow each other.
    pub fn discontinuities(&self) -> Vec<String> {
        let mut found = self.faults.clone();
        // VP9 counts references by pictures: those of temporal layers that are left out keep their numbers.
        let gap = match self.coding {
            Some(Codec::Vp9 { .. }) => 4,
            _ => 1,
        };
        let places = &self.video.places;
        for ((seq_a, a), (seq_b, b)) in places.iter().zip(places.iter().skip(1)) {
            if *seq_b != seq_a + 1 {
                continue;
            }
            let is_same_frame = a.frame == b.frame;
            let pictures = b.picture.wrapping_sub(a.picture) & 0x7fff;
            let bases = b.tl0.wrapping_sub(a.tl0);
            let ticks = b.timestamp.wrapping_sub(a.timestamp) as i32;
            let goes_on = if is_same_frame {
                pictures == 0 && bases == 0 && ticks == 0
            } else {
                (1..=gap).contains(&pictures)
                    && bases == u8::from(b.temporal == 0)
                    && ticks > 0
                    && ticks < 90_000 * 60
            };
            if !goes_on {
                found.push(format!("seq {seq_b}: {a:?} is followed by {b:?}"));
            }
        }
        found.truncate(10);
        found
    }
}

impl Video {
    fn extend_timestamp(&mut self, timestamp: u32) -> u64 {
        let newest = self
            .newest_timestamp
            .unwrap_or((1 << 40) + u64::from(timestamp));
        let ahead = timestamp.wrapping_sub(newest as u32) as i32;
        let extended = newest.wrapping_add_signed(i64::from(ahead));
        self.newest_timestamp = Some(newest.max(extended));
        extended
    }

    /// Decodes whatever is complete and has what it depends on, oldest first; never back in time.
    fn decode(&mut self, now: Instant) {
        loop {
            let newest = self.newest_decoded;
            let ready = self.frames.iter().find(|((timestamp, ..), frame)| {
                let stamp = &frame.stamp;
                let is_complete = frame.parts.len() == usize::from(stamp.parts);
                let is_known =
                    stamp.is_keyframe || self.decoded.contains(&(stamp.encoding, stamp.depends_on));
                is_complete && is_known && newest.is_none_or(|newest| *timestamp > newest)
            });
            let Some((key, _)) = ready else { break };
            let key = *key;
            let frame = self.frames.remove(&key).expect("it was found");
            let stamp = frame.stamp;
            self.decoded.insert((stamp.encoding, stamp.frame));
            self.newest_decoded = Some(key.0);
            self.show(now, frame.first_seq, stamp.encoding, stamp.temporal);
            // What is older is too late.
            self.frames = self.frames.split_off(&key);
        }
        self.wait(now, !self.frames.is_empty());
    }

    /// The same for pictures with spatial layers.
    fn take_layered(&mut self, now: Instant, seq: u64, header: &RtpHeader, stamp: Stamp) {
        let timestamp = self.extend_timestamp(header.timestamp.0);
        if self.newest_decoded.is_none_or(|newest| timestamp > newest) {
            self.layered.take(timestamp, seq, header.marker, stamp);
        }
        while let Some(picture) = self.layered.decode() {
            self.newest_decoded = Some(picture.timestamp);
            self.show(now, picture.first_seq, picture.spatial, picture.temporal);
        }
        self.wait(now, !self.layered.is_empty());
    }

    fn show(&mut self, now: Instant, first_seq: u64, encoding: u8, temporal: u8) {
        self.decoded_seq = first_seq;
        self.has_begun = true;
        self.is_keyframe_wanted = false;
        self.shown.push((now, encoding, temporal));
    }

    /// It waits while something is there that it cannot decode.
    fn wait(&mut self, now: Instant, is_stuck: bool) {
        self.waits_since = match (!is_stuck, self.waits_since) {
            (true, _) => None,
            (false, None) => Some(now),
            (false, since) => match self.shown.last() {
                Some((at, ..)) if *at == now => Some(now),
                _ => since,
            },
        };
    }
}

/// As the publisher wrote it: one NAL unit, or an FU-A.
fn read_fragment(payload: &[u8]) -> Option<Stamp> {
    let header = if payload.first()? & 0x1f == 28 { 2 } else { 1 };
    Stamp::read(payload.get(header..)?)
}

fn read_picture(payload: &[u8], timestamp: u32) -> Option<(Option<Place>, Stamp)> {
    // The descriptor that the publisher wrote: X, then I, L and T, a picture number of 15 bits.
    if payload.len() < 7 || payload[0] & 0x80 == 0 || payload[1] != 0xe0 || payload[2] & 0x80 == 0 {
        return None;
    }
    let is_start = payload[0] & 0x10 != 0;
    let header = match (is_start, payload[6] & 1) {
        (false, _) => 0,
        (true, 0) => 10,
        (true, _) => 3,
    };
    let stamp = Stamp::read(payload.get(6 + header..)?)?;
    let place = Place {
        picture: u16::from_be_bytes([payload[2] & 0x7f, payload[3]]),
        tl0: payload[4],
        temporal: payload[5] >> 6,
        timestamp,
        frame: (stamp.encoding, stamp.frame),
    };
    (place.temporal == stamp.temporal).then_some((Some(place), stamp))
}

/// As the encoder wrote it: VP9 with I, and T and S in front of the number of the last base layer (RFC 9628 §4.2).
fn read_layered(
    coding: Option<Codec>,
    payload: &[u8],
    timestamp: u32,
) -> Option<(Option<Place>, Stamp)> {
    let stamp = Stamp::read(payload.get(layered_pictures::header_len(coding?)..)?)?;
    let place = matches!(coding?, Codec::Vp9 { .. }).then(|| Place {
        picture: u16::from_be_bytes([payload[1] & 0x7f, payload[2]]),
        tl0: payload[4],
        temporal: payload[3] >> 5,
        timestamp,
        frame: (0, timestamp),
    });
    Some((place, stamp))
}

/// RFC 2198 §3.
fn red_blocks(payload: &[u8]) -> Vec<&[u8]> {
    let (mut lengths, mut at) = (Vec::new(), 0);
    while payload.get(at).is_some_and(|first| first & 0x80 != 0) && payload.len() > at + 4 {
        lengths.push(usize::from(
            u16::from_be_bytes([payload[at + 2], payload[at + 3]]) & 0x3ff,
        ));
        at += 4;
    }
    at += 1;
    let mut blocks = Vec::new();
    for length in lengths {
        blocks.extend(payload.get(at..at + length));
        at += length;
    }
    blocks.extend(payload.get(at..));
    blocks
}

fn bytes(packet: &dyn Packet) -> Vec<u8> {
    packet.marshal().expect("it can be written").to_vec()
}
