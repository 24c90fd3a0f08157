//! Synthetic media: packets whose payload says who sent them, when and in what order, and a receiver
//! that checks all of it on what arrives.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rtc_rtcp::packet::Packet;
use rtc_rtcp::reception_report::ReceptionReport;
use rtc_rtcp::sender_report::SenderReport;
use rtc_rtcp::source_description::{
    SdesType, SourceDescription, SourceDescriptionChunk, SourceDescriptionItem,
};
use rtc_rtcp::transport_feedbacks::transport_layer_nack::{
    TransportLayerNack, nack_pairs_from_sequence_numbers,
};

pub const TRANSPORT_CC_URI: &str =
    "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";
pub const MID_URI: &str = "urn:ietf:params:rtp-hdrext:sdes:mid";
pub const LEVEL_URI: &str = "urn:ietf:params:rtp-hdrext:ssrc-audio-level";

const MAGIC: [u8; 4] = *b"SCpl";
/// Magic, tag, counter, timestamp, capture time, marker and keyframe flags.
const STAMP_BYTES: usize = 4 + 8 + 8 + 4 + 8 + 1;
const SENT_CACHE_PACKETS: usize = 1024;
/// How far back a receiver still asks for what is missing.
const NACK_WINDOW: u64 = 300;
const NACK_TRIES_MAX: u8 = 12;
const NACK_AGAIN: Duration = Duration::from_millis(60);

/// Names a track in a payload: FNV-1a over peer and track id.
pub fn tag(peer: &str, track: &str) -> u64 {
    let text = format!("{peer}/{track}");
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The part of an RTP packet that tests look at.
#[derive(Debug, Clone)]
pub struct RtpView<'a> {
    pub marker: bool,
    pub payload_type: u8,
    pub sequence: u16,
    pub timestamp: u32,
    pub ssrc: u32,
    /// Header extensions by id.
    pub extensions: Vec<(u8, &'a [u8])>,
    pub payload: &'a [u8],
}

impl<'a> RtpView<'a> {
    /// Reads RFC 3550 §5.1 with RFC 8285 extensions.
    pub fn parse(packet: &'a [u8]) -> Option<Self> {
        if packet.len() < 12 || packet[0] >> 6 != 2 {
            return None;
        }
        let csrcs = usize::from(packet[0] & 0x0f);
        let mut at = 12 + 4 * csrcs;
        let mut extensions = Vec::new();
        if packet[0] & 0x10 != 0 {
            let profile = be16(packet.get(at..at + 2)?);
            let bytes = usize::from(be16(packet.get(at + 2..at + 4)?)) * 4;
            let body = packet.get(at + 4..at + 4 + bytes)?;
            extensions = parse_extensions(profile, body)?;
            at += 4 + bytes;
        }
        let mut payload = packet.get(at..)?;
        if packet[0] & 0x20 != 0 {
            let padding = usize::from(*payload.last()?);
            payload = payload.get(..payload.len().checked_sub(padding)?)?;
        }
        Some(Self {
            marker: packet[1] & 0x80 != 0,
            payload_type: packet[1] & 0x7f,
            sequence: be16(&packet[2..4]),
            timestamp: be32(&packet[4..8]),
            ssrc: be32(&packet[8..12]),
            extensions,
            payload,
        })
    }
}

fn parse_extensions(profile: u16, body: &[u8]) -> Option<Vec<(u8, &[u8])>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < body.len() {
        if body[at] == 0 {
            at += 1;
            continue;
        }
        let (id, length, head) = if profile == 0xbede {
            (body[at] >> 4, usize::from(body[at] & 0x0f) + 1, 1)
        } else {
            (body[at], usize::from(*body.get(at + 1)?), 2)
        };
        found.push((id, body.get(at + head..at + head + length)?));
        at += head + length;
    }
    Some(found)
}

fn be16(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[0], bytes[1]])
}

fn be32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().expect("four bytes"))
}

fn be64(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes[..8].try_into().expect("eight bytes"))
}

/// What a sender stamps into each payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub tag: u64,
    /// Counts the packets of the track.
    pub counter: u64,
    pub timestamp: u32,
    /// When it was captured, in µs since the clock's zero.
    pub capture_us: u64,
    pub marker: bool,
    pub keyframe: bool,
}

impl Stamp {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&self.tag.to_be_bytes());
        out.extend_from_slice(&self.counter.to_be_bytes());
        out.extend_from_slice(&self.timestamp.to_be_bytes());
        out.extend_from_slice(&self.capture_us.to_be_bytes());
        out.push(u8::from(self.marker) | u8::from(self.keyframe) << 1);
    }

    /// Finds the stamp and checks the filler behind it.
    fn read(payload: &[u8], video: bool) -> Option<Self> {
        // Video has its VP8 descriptor (and, at a frame's start, payload header) in front.
        let skip = match (video, payload.first()?) {
            (true, first) if first & 0x10 != 0 => 2,
            (true, _) => 1,
            (false, _) => 0,
        };
        let body = payload.get(skip..)?;
        if body.len() < STAMP_BYTES || body[..4] != MAGIC {
            return None;
        }
        let stamp = Self {
            tag: be64(&body[4..]),
            counter: be64(&body[12..]),
            timestamp: be32(&body[20..]),
            capture_us: be64(&body[24..]),
            marker: body[32] & 1 != 0,
            keyframe: body[32] & 2 != 0,
        };
        let intact = body[STAMP_BYTES..]
            .iter()
            .enumerate()
            .all(|(at, byte)| *byte == filler(stamp.counter, at));
        intact.then_some(stamp)
    }
}

fn filler(counter: u64, at: usize) -> u8 {
    (counter as u8).wrapping_mul(31).wrapping_add(at as u8)
}

/// How much a sender sends.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// Audio packets a second (20 ms is 50).
    pub audio_per_s: u32,
    /// Video frames a second.
    pub frames_per_s: u32,
    /// Packets of a frame; a keyframe has three times as many.
    pub frame_packets: u32,
}

impl Rate {
    pub const FULL: Self = Self {
        audio_per_s: 50,
        frames_per_s: 30,
        frame_packets: 4,
    };
    /// For many peers or long times.
    pub const THIN: Self = Self {
        audio_per_s: 10,
        frames_per_s: 5,
        frame_packets: 2,
    };
}

/// What the description settled for a sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendFormat {
    pub mid: String,
    pub payload_type: u8,
    pub rtx_payload_type: Option<u8>,
    pub mid_extension: Option<u8>,
    pub level_extension: Option<u8>,
}

/// A packet that was sent, opened and sealed.
struct Sent {
    packet: Vec<u8>,
    sealed: Vec<u8>,
}

/// What answers a NACK.
pub enum Again {
    /// Still to be sealed.
    Rtx(Vec<u8>),
    /// The identical datagram.
    Sealed(Vec<u8>),
}

/// Makes one track's packets.
pub struct Sender {
    tag: u64,
    video: bool,
    pub ssrc: u32,
    pub rtx_ssrc: Option<u32>,
    cname: String,
    zero: Instant,
    timestamp_base: u32,
    next_sequence: u16,
    counter: u64,
    octets: u32,
    next_at: Option<Instant>,
    next_report_at: Option<Instant>,
    keyframe_due: bool,
    /// How loud it is, in -dBov; `None`: anything in turn.
    pub level: Option<u8>,
    pub format: Option<SendFormat>,
    /// Packets by sequence number, to be sent again when asked for.
    sent: VecDeque<(u16, Sent)>,
    next_rtx_sequence: u16,
    pub nacks_answered: u64,
    pub keyframe_requests: Vec<Instant>,
}

impl Sender {
    pub fn new(
        tag: u64,
        video: bool,
        ssrcs: (u32, Option<u32>),
        cname: &str,
        zero: Instant,
    ) -> Self {
        Self {
            tag,
            video,
            ssrc: ssrcs.0,
            rtx_ssrc: ssrcs.1,
            cname: cname.to_owned(),
            zero,
            timestamp_base: (tag >> 16) as u32,
            // Near the end, so that it wraps within every test.
            next_sequence: 65_400u16.wrapping_add(tag as u16 % 100),
            counter: 0,
            octets: 0,
            next_at: None,
            next_report_at: None,
            keyframe_due: true,
            level: None,
            format: None,
            sent: VecDeque::new(),
            next_rtx_sequence: 65_500,
            nacks_answered: 0,
            keyframe_requests: Vec::new(),
        }
    }

    /// How many packets it has made.
    pub fn packets_made(&self) -> u64 {
        self.counter
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next_at.into_iter().chain(self.next_report_at).min()
    }

    /// Starts now, or goes on where it was.
    pub fn resume(&mut self, now: Instant, format: SendFormat) {
        self.format = Some(format);
        if self.next_at.is_none() {
            self.next_at = Some(now);
            self.next_report_at = Some(now + Duration::from_millis(300));
            self.keyframe_due = true;
        }
    }

    pub fn pause(&mut self) {
        self.next_at = None;
        self.next_report_at = None;
    }

    pub fn request_keyframe(&mut self, now: Instant) {
        self.keyframe_due = true;
        self.keyframe_requests.push(now);
    }

    /// The packets that are due at `now`.
    pub fn poll_packets(&mut self, now: Instant, rate: Rate) -> Vec<Vec<u8>> {
        if self.next_at.is_none_or(|at| at > now) {
            return Vec::new();
        }
        let per_s = if self.video {
            rate.frames_per_s
        } else {
            rate.audio_per_s
        };
        self.next_at = Some(now + Duration::from_secs(1) / per_s);
        if !self.video {
            return vec![self.packet(now, 0, true, false)];
        }
        let keyframe = std::mem::take(&mut self.keyframe_due);
        let packets = rate.frame_packets * if keyframe { 3 } else { 1 };
        (0..packets)
            .map(|at| self.packet(now, at, at + 1 == packets, keyframe))
            .collect()
    }

    fn clock_rate(&self) -> u64 {
        if self.video { 90_000 } else { 48_000 }
    }

    fn timestamp(&self, now: Instant) -> u32 {
        let us = now.saturating_duration_since(self.zero).as_micros() as u64;
        let ticks = us * self.clock_rate() / 1_000_000;
        self.timestamp_base.wrapping_add(ticks as u32)
    }

    fn packet(&mut self, now: Instant, at: u32, last: bool, keyframe: bool) -> Vec<u8> {
        let format = self.format.clone().expect("resumed with a format");
        let marker = self.video && last;
        let stamp = Stamp {
            tag: self.tag,
            counter: self.counter,
            timestamp: self.timestamp(now),
            capture_us: now.saturating_duration_since(self.zero).as_micros() as u64,
            marker,
            keyframe,
        };
        let mut packet = vec![0x90, format.payload_type | u8::from(marker) << 7];
        packet.extend_from_slice(&self.next_sequence.to_be_bytes());
        packet.extend_from_slice(&stamp.timestamp.to_be_bytes());
        packet.extend_from_slice(&self.ssrc.to_be_bytes());
        self.write_extensions(&format, &mut packet);
        if self.video {
            // RFC 7741 §4.2: no extension, S only where a partition starts; §4.3: P is 0 in a keyframe.
            packet.push(if at == 0 { 0x10 } else { 0x00 });
            if at == 0 {
                packet.push(u8::from(!keyframe));
            }
        }
        stamp.write(&mut packet);
        let bytes = if self.video { 300 } else { 60 } + (self.counter % 50) as usize;
        packet.extend((0..bytes).map(|at| filler(stamp.counter, at)));
        self.next_sequence = self.next_sequence.wrapping_add(1);
        self.counter += 1;
        self.octets = self.octets.wrapping_add(bytes as u32);
        packet
    }

    fn write_extensions(&self, format: &SendFormat, packet: &mut Vec<u8>) {
        let mut body = Vec::new();
        if let Some(id) = format.mid_extension {
            body.push(id << 4 | (format.mid.len() - 1) as u8);
            body.extend_from_slice(format.mid.as_bytes());
        }
        if let Some(id) = format.level_extension {
            let level = self.level.unwrap_or((self.counter % 127) as u8);
            body.extend_from_slice(&[id << 4, 0x80 | level]);
        }
        body.resize(body.len().next_multiple_of(4), 0);
        packet.extend_from_slice(&[0xbe, 0xde]);
        packet.extend_from_slice(&((body.len() / 4) as u16).to_be_bytes());
        packet.extend_from_slice(&body);
    }

    /// Keeps what went onto the wire under its sequence number.
    pub fn remember(&mut self, packet: Vec<u8>, sealed: Vec<u8>) {
        let number = be16(&packet[2..4]);
        self.sent.push_back((number, Sent { packet, sealed }));
        if self.sent.len() > SENT_CACHE_PACKETS {
            self.sent.pop_front();
        }
    }

    /// What answers a NACK, if the packet is still kept: a retransmission on its own stream where that was
    /// negotiated (RFC 4588), else the sealed packet as it was.
    pub fn answer_nack(&mut self, sequence: u16) -> Option<Again> {
        let (_, sent) = self.sent.iter().find(|(kept, _)| *kept == sequence)?;
        self.nacks_answered += 1;
        let rtx_payload_type = self.format.as_ref().and_then(|f| f.rtx_payload_type);
        let (Some(payload_type), Some(ssrc)) = (rtx_payload_type, self.rtx_ssrc) else {
            return Some(Again::Sealed(sent.sealed.clone()));
        };
        let view = RtpView::parse(&sent.packet).expect("it was made here");
        let header_len = sent.packet.len() - view.payload.len();
        let mut packet = sent.packet[..header_len].to_vec();
        packet[1] = packet[1] & 0x80 | payload_type;
        packet[2..4].copy_from_slice(&self.next_rtx_sequence.to_be_bytes());
        packet[8..12].copy_from_slice(&ssrc.to_be_bytes());
        packet.extend_from_slice(&sequence.to_be_bytes());
        packet.extend_from_slice(view.payload);
        self.next_rtx_sequence = self.next_rtx_sequence.wrapping_add(1);
        Some(Again::Rtx(packet))
    }

    /// A sender report with its source description, when it is due.
    pub fn poll_report(&mut self, now: Instant) -> Option<Vec<Box<dyn Packet>>> {
        if self.next_report_at.is_none_or(|at| at > now) || self.counter == 0 {
            return None;
        }
        self.next_report_at = Some(now + Duration::from_secs(1));
        let report = SenderReport {
            ssrc: self.ssrc,
            ntp_time: ntp(now.saturating_duration_since(self.zero)),
            rtp_time: self.timestamp(now),
            packet_count: self.counter as u32,
            octet_count: self.octets,
            ..SenderReport::default()
        };
        let description = SourceDescription {
            chunks: vec![SourceDescriptionChunk {
                source: self.ssrc,
                items: vec![SourceDescriptionItem {
                    sdes_type: SdesType::SdesCname,
                    text: Bytes::from(self.cname.clone()),
                }],
            }],
        };
        Some(vec![Box::new(report), Box::new(description)])
    }
}

/// The publishers' wall clock: 2026-11-22 plus the time since the clock's zero, as NTP.
fn ntp(since_zero: Duration) -> u64 {
    const ZERO_S: u64 = 3_988_000_000;
    let seconds = ZERO_S + since_zero.as_secs();
    (seconds << 32) | ((u64::from(since_zero.subsec_nanos()) << 32) / 1_000_000_000)
}

/// One packet as it was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    pub timestamp: u32,
    pub payload_type: u8,
    /// For pictures: whether a frame begins here.
    pub starts_frame: bool,
    pub stamp: Stamp,
}

/// Checks one received track.
#[derive(Debug)]
pub struct Received {
    pub peer: String,
    pub track: String,
    pub ssrc: u32,
    pub video: bool,
    /// By extended sequence number.
    pub packets: BTreeMap<u64, Record>,
    /// When each of them first came.
    pub arrivals: BTreeMap<u64, Instant>,
    missing: BTreeMap<u64, (u8, Option<Instant>)>,
    /// How long it waits before it asks for a packet again: a round trip.
    pub nack_again: Duration,
    pub duplicates: u64,
    /// Counters of frames that came as redundant blocks (RFC 2198).
    pub redundant: BTreeSet<u64>,
    /// Packets of the stream itself, retransmissions apart.
    pub originals: u64,
    /// Retransmissions of their own stream.
    pub retransmitted: u64,
    reported: (u64, u64),
    pub last_report: Option<(u64, u32)>,
    pub last_report_at: Option<Instant>,
    pub reports: u64,
    pub cname: Option<String>,
    pub bye: bool,
    pub first_at: Option<Instant>,
    pub last_at: Option<Instant>,
    /// What was wrong, as text.
    pub faults: Vec<String>,
}

impl Received {
    pub fn new(peer: &str, track: &str, ssrc: u32, video: bool) -> Self {
        Self {
            peer: peer.to_owned(),
            track: track.to_owned(),
            ssrc,
            video,
            packets: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            missing: BTreeMap::new(),
            nack_again: NACK_AGAIN,
            duplicates: 0,
            redundant: BTreeSet::new(),
            originals: 0,
            retransmitted: 0,
            reported: (0, 0),
            last_report: None,
            last_report_at: None,
            reports: 0,
            cname: None,
            bye: false,
            first_at: None,
            last_at: None,
            faults: Vec::new(),
        }
    }

    fn fault(&mut self, text: String) {
        if self.faults.len() < 10 {
            self.faults.push(text);
        }
    }

    /// Takes a packet whose payload type and `mid` the client has already checked.
    pub fn take(&mut self, now: Instant, view: &RtpView<'_>) {
        let Some(stamp) = Stamp::read(view.payload, self.video) else {
            return self.fault(format!("seq {}: the payload is broken", view.sequence));
        };
        let name = format!("{}/{}", self.peer, self.track);
        if stamp.tag != tag(&self.peer, &self.track) {
            return self.fault(format!("seq {}: not a packet of {name}", view.sequence));
        }
        if self.video && view.marker != stamp.marker {
            self.fault(format!("seq {}: the marker changed", view.sequence));
        }
        let sequence = self.extend(view.sequence);
        let record = Record {
            timestamp: view.timestamp,
            payload_type: view.payload_type,
            starts_frame: self.video && view.payload[0] & 0x10 != 0,
            stamp,
        };
        self.first_at.get_or_insert(now);
        self.arrivals.entry(sequence).or_insert(now);
        self.last_at = Some(now);
        let newest = self.packets.last_key_value().map(|(seq, _)| *seq);
        if let Some(known) = self.packets.insert(sequence, record) {
            self.duplicates += 1;
            if known != record {
                self.fault(format!("seq {sequence}: two packets under one number"));
            }
        }
        self.missing.remove(&sequence);
        if let Some(newest) = newest
            && sequence > newest + 1
        {
            let from = (newest + 1).max(sequence.saturating_sub(NACK_WINDOW));
            self.missing
                .extend((from..sequence).map(|seq| (seq, (0, None))));
        }
    }

    /// Takes redundant audio apart (RFC 2198): the blocks before the primary one are noted, and that becomes the
    /// view's payload.
    pub fn take_red<'a>(&mut self, view: &mut RtpView<'a>, opus: u8) {
        let mut rest = view.payload;
        let mut lens = Vec::new();
        while let [first, _, b, c, after @ ..] = rest
            && first & 0x80 != 0
        {
            assert_eq!(first & 0x7f, opus, "a block of Opus");
            lens.push(usize::from(b & 3) << 8 | usize::from(*c));
            rest = after;
        }
        assert_eq!(rest[0], opus, "the primary block is Opus");
        rest = &rest[1..];
        for len in lens {
            let block = &rest[..len];
            rest = &rest[len..];
            match Stamp::read(block, false) {
                Some(stamp) if stamp.tag == tag(&self.peer, &self.track) => {
                    self.redundant.insert(stamp.counter);
                }
                _ => self.fault(format!("seq {}: a broken block", view.sequence)),
            }
        }
        (view.payload, view.payload_type) = (rest, opus);
    }

    /// How it is received, since the last time it was asked.
    pub fn report(&mut self, now: Instant) -> Option<ReceptionReport> {
        let (first, newest) = (
            *self.packets.first_key_value()?.0,
            *self.packets.last_key_value()?.0,
        );
        let expected = newest + 1 - first;
        let before = std::mem::replace(&mut self.reported, (expected, self.originals));
        let lost = (expected - before.0).saturating_sub(self.originals - before.1);
        let fraction = (lost * 256).checked_div(expected - before.0).unwrap_or(0);
        let held = self
            .last_report_at
            .map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        Some(ReceptionReport {
            ssrc: self.ssrc,
            fraction_lost: fraction.min(255) as u8,
            total_lost: expected.saturating_sub(self.originals) as u32,
            last_sequence_number: newest as u32,
            last_sender_report: self.last_report.map_or(0, |(ntp, _)| (ntp >> 16) as u32),
            delay: (held.as_micros() * 65_536 / 1_000_000) as u32,
            ..ReceptionReport::default()
        })
    }

    fn extend(&self, sequence: u16) -> u64 {
        const FIRST: u64 = 1 << 20;
        let Some((newest, _)) = self.packets.last_key_value() else {
            return FIRST + u64::from(sequence);
        };
        let ahead = sequence.wrapping_sub(*newest as u16) as i16;
        newest.wrapping_add_signed(i64::from(ahead))
    }

    /// Asks for what is missing and due.
    pub fn poll_nack(&mut self, now: Instant) -> Option<TransportLayerNack> {
        let mut wanted = Vec::new();
        self.missing.retain(|_, (tries, _)| *tries < NACK_TRIES_MAX);
        for (sequence, (tries, last)) in &mut self.missing {
            let due = last.is_none_or(|at| now.saturating_duration_since(at) >= self.nack_again);
            if due {
                *tries += 1;
                *last = Some(now);
                wanted.push(*sequence as u16);
            }
        }
        if wanted.is_empty() {
            return None;
        }
        Some(TransportLayerNack {
            sender_ssrc: 1,
            media_ssrc: self.ssrc,
            nacks: nack_pairs_from_sequence_numbers(&wanted),
        })
    }

    /// Numbers between the first and the last that never came.
    pub fn gaps(&self) -> u64 {
        let (Some((first, _)), Some((last, _))) = (
            self.packets.first_key_value(),
            self.packets.last_key_value(),
        ) else {
            return 0;
        };
        last - first + 1 - self.packets.len() as u64
    }

    /// What does not fit together in all that came.
    pub fn inconsistencies(&self) -> Vec<String> {
        let mut found = self.faults.clone();
        let name = format!("{}/{}", self.peer, self.track);
        for ((seq_a, a), (seq_b, b)) in self.packets.iter().zip(self.packets.iter().skip(1)) {
            let (by_number, by_counter) =
                (seq_b - seq_a, b.stamp.counter.wrapping_sub(a.stamp.counter));
            if b.stamp.counter <= a.stamp.counter {
                found.push(format!("{name}: seq {seq_b} is older than seq {seq_a}"));
            } else if by_number > by_counter {
                found.push(format!(
                    "{name}: {by_number} numbers for {by_counter} packets at seq {seq_b}"
                ));
            }
            let ticks_out = b.timestamp.wrapping_sub(a.timestamp);
            let ticks_in = b.stamp.timestamp.wrapping_sub(a.stamp.timestamp);
            if ticks_out != ticks_in {
                found.push(format!(
                    "{name}: {ticks_out} ticks for {ticks_in} at seq {seq_b}"
                ));
            }
        }
        found.truncate(20);
        found
    }

    /// The longest time without a new picture that could be shown: a frame is shown when all of it is there, and all
    /// before it or it is a keyframe.
    pub fn longest_freeze(&self, from: Instant) -> Duration {
        let (mut longest, mut shown) = (Duration::ZERO, from);
        // When all up to here could be decoded; `None` after a gap, until a keyframe.
        let (mut ready, mut next_seq) = (None::<Instant>, None);
        for (seq, record) in &self.packets {
            let arrived = self.arrivals[seq];
            let follows = next_seq == Some(*seq);
            next_seq = Some(seq + 1);
            ready = match ready.filter(|_| follows) {
                Some(ready) => Some(ready.max(arrived)),
                None => (record.starts_frame && record.stamp.keyframe).then_some(arrived),
            };
            if let Some(at) = ready.filter(|at| record.stamp.marker && *at > shown) {
                longest = longest.max(at - shown);
                shown = at;
            }
        }
        longest
    }

    pub fn keyframes(&self) -> u64 {
        let packets = self.packets.values();
        packets
            .filter(|p| p.stamp.keyframe && p.stamp.marker)
            .count() as u64
    }

    /// The publisher's wall clock at capture, by the last sender report, minus the capture time: in
    /// ms, the same for all tracks of one publisher when lips are in sync.
    pub fn clock_offset_ms(&self) -> Option<f64> {
        let (ntp, rtp) = self.last_report?;
        let (_, record) = self.packets.last_key_value()?;
        let rate = if self.video { 90.0 } else { 48.0 };
        let ticks = f64::from(record.timestamp.wrapping_sub(rtp) as i32);
        let ntp_ms = (ntp >> 32) as f64 * 1000.0 + (ntp as u32) as f64 * 1000.0 / 4_294_967_296.0;
        Some(ntp_ms + ticks / rate - record.stamp.capture_us as f64 / 1000.0)
    }
}
