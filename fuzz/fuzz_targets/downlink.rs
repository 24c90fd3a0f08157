//! One shard while media flows, and subscribers that say anything of it: requests, feedback on arrivals, estimates and
//! reports, true and made up, in any order and at any time. Whatever they say, the shard holds no more memory than it may,
//! sends no packet again within a round trip nor more often than it may, puts no two packets under one number, and has
//! nothing left when they are gone.
//!
//! The first byte says what is negotiated, each operation after it is a byte and what that needs (`Stage::step`).
#![no_main]

#[path = "../../tests/support/shard_world.rs"]
mod support;
#[path = "../../tests/support/weighing.rs"]
mod weighing;

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use shardcast::base::ids::{Bitrate, RtpTime, SeqNo16, Ssrc};
use shardcast::control::{EncodingConfig, SubscriptionConfig, TrackConfig};
use shardcast::media::rtt::Rtt;
use shardcast::wire::bandwidth::{Remb, TransportFeedback};
use shardcast::wire::codec::Codec;
use shardcast::wire::extension::Extension;
use shardcast::wire::rtcp::{
    self, NtpTime, ReportBlock, RtcpPacket, SenderReport, write_bye, write_nack, write_pli,
    write_receiver_report, write_sender_report,
};
use shardcast::wire::rtp::RtpHeader;
use shardcast::wire::xr::{ReferenceReply, write_reference_replies, write_reference_time};
use support::{Rtp, World, codec, extensions, subscription, track};

const MS: Duration = Duration::from_millis(1);
const TICK: Duration = Duration::from_millis(5);
const PUBLISHER: usize = 0;
const VIDEO: Ssrc = Ssrc(0x5000_0000);
const SOUND: Ssrc = Ssrc(0x5000_0001);
const RTX: Ssrc = Ssrc(0x6000_0000);
const NUMBER: u8 = 3;

/// An input is at most so long in virtual time and in operations.
const LASTS_MAX: Duration = Duration::from_secs(20);
const STEPS_MAX: usize = 600;
/// What the shard, the clients and this target's own books may hold beyond what they did before anything was sent: the
/// packet caches of three encodings (2 MiB each at most, of two seconds, so that far less is reached) are most of it.
const GROWTH_BYTES_MAX: i64 = 8 << 20;
/// The same when everybody has gone: what is kept for the next ones, and the books.
const LEFT_BYTES_MAX: i64 = 2 << 20;
/// As `media::resend` has it: copies of one packet, the shortest time between two of them, bytes that are free, and the
/// part of what was sent that may be sent again.
const AGAIN_MAX: usize = 8;
const SPACING_MIN: Duration = Duration::from_millis(15);
const BYTES_FREE: u64 = 128 * 1024;
/// How much a link lets wait.
const QUEUE_MAX: Duration = Duration::from_millis(200);
/// What one message of a subscriber may make the shard send at once, in bytes.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

fuzz_target!(|input: &[u8]| {
    let Some((flags, input)) = input.split_first() else {
        return;
    };
    let before = weighing::live_bytes();
    let mut stage = Stage::new(*flags);
    stage.base = weighing::live_bytes();
    let mut input = Input(input);
    for _ in 0..STEPS_MAX {
        let lasted = stage.world.now - stage.zero;
        let Some(operation) = input.next().filter(|_| lasted < LASTS_MAX) else {
            break;
        };
        stage.step(operation, &mut input);
    }
    stage.end(before);
});

/// What is left of the input; zeros when nothing is.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn byte(&mut self) -> u8 {
        self.next().unwrap_or(0)
    }

    fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        bytes
    }
}

struct Stage {
    world: World,
    zero: Instant,
    base: i64,
    tracks: Vec<TrackConfig>,
    subscribers: Vec<Subscriber>,
    /// Packets of each encoding in each tick, in eighths, and how long they are.
    eighths: u64,
    len: usize,
    ticks: u64,
    seqs: [u16; 3],
    /// The large encoding is sent.
    is_large: bool,
    links: Links,
}

/// The ways to the subscribers: as feedback has it, if it is true.
struct Links {
    /// In bytes a second; none has no end.
    capacity: Option<u64>,
    /// Both have one way.
    is_shared: bool,
    /// When what waits has gone.
    free: [Instant; 2],
}

impl Links {
    /// When a datagram that goes out now comes, if it does.
    fn pass(&mut self, now: Instant, who: usize, bytes: usize) -> Option<Instant> {
        let Some(capacity) = self.capacity else {
            return Some(now);
        };
        let free = &mut self.free[if self.is_shared { 0 } else { who }];
        let begins = now.max(*free);
        if begins - now > QUEUE_MAX {
            return None;
        }
        *free = begins + Duration::from_micros(bytes as u64 * 1_000_000 / capacity);
        Some(*free)
    }
}

/// What one subscriber takes, and what it knows.
struct Subscriber {
    at: usize,
    wanted: Vec<SubscriptionConfig>,
    /// What came under each number, as a hash of the datagram.
    sealed: HashMap<(Ssrc, u16), u64>,
    /// When each picture packet came: at first, and again.
    copies: HashMap<u16, Vec<Instant>>,
    newest: u16,
    first_bytes: u64,
    again_bytes: u64,
    /// Transport-wide numbers that were not told of, and when they come; `None` if they do not.
    untold: VecDeque<(u16, Option<Instant>)>,
    last_number: Option<u16>,
    /// The last sender report of the pictures, and when it came.
    last_sr: Option<(u32, Instant)>,
    /// What the server knows of the round trip; `None` once anything was said of it that is not true.
    rtt: Option<Rtt>,
}

impl Subscriber {
    fn new(world: &mut World, tracks: &[TrackConfig], flags: u8) -> Self {
        let at = world.join("room");
        let mut pictures = codec(120, Codec::Vp8);
        pictures.transport_cc = flags & 1 == 0;
        pictures.remb = flags & 8 != 0;
        let mut video = subscription(0, &tracks[0], &[pictures]);
        video.rtx_ssrc = (flags & 2 == 0).then_some(RTX);
        let mut opus = codec(109, Codec::Opus);
        opus.transport_cc = pictures.transport_cc;
        let mut sound = subscription(1, &tracks[1], &[opus, codec(63, Codec::Red)]);
        for wanted in [&mut video, &mut sound] {
            wanted.extensions = extensions(&[
                (Extension::Mid, 9),
                (Extension::TransportSequenceNumber, NUMBER),
            ]);
        }
        let wanted = vec![video, sound];
        world.configure(at, &[], &wanted);
        Self {
            at,
            wanted,
            sealed: HashMap::new(),
            copies: HashMap::new(),
            newest: 0,
            first_bytes: 0,
            again_bytes: 0,
            untold: VecDeque::new(),
            last_number: None,
            last_sr: None,
            rtt: Some(Rtt::default()),
        }
    }

    /// Looks at what came. Returns how many bytes of media that is.
    fn collect(&mut self, world: &mut World, links: &mut Links) -> usize {
        let now = world.now;
        let client = &mut world.clients[self.at];
        let sealed = std::mem::take(&mut client.sealed_rtp);
        let opened = std::mem::take(&mut client.rtp);
        let mut bytes = 0;
        for (datagram, packet) in sealed.iter().zip(&opened) {
            bytes += datagram.len();
            self.take(now, datagram, packet, links);
        }
        for packet in client.take_rtcp() {
            if let RtcpPacket::SenderReport(report) = packet
                && report.ssrc == VIDEO
            {
                self.last_sr = Some((report.ntp.middle(), now));
            }
        }
        bytes
    }

    fn take(&mut self, now: Instant, datagram: &[u8], packet: &[u8], links: &mut Links) {
        let header = RtpHeader::parse(packet).expect("the server writes RTP");
        let mut hasher = DefaultHasher::new();
        datagram.hash(&mut hasher);
        let hash = hasher.finish();
        let known = self.sealed.insert((header.ssrc, header.seq.0), hash);
        assert!(
            known.is_none_or(|known| known == hash),
            "one nonce, two packets"
        );
        let number = header
            .extensions(packet)
            .find(|(id, _)| id.value() == NUMBER)
            .map(|(_, value)| u16::from_be_bytes(value.try_into().expect("two bytes")));
        if let Some(number) = number {
            let last = self.last_number.replace(number);
            assert!(
                last.is_none_or(|last| last.wrapping_add(1) == number),
                "{last:?}, {number}"
            );
            let comes = links.pass(now, self.at & 1, datagram.len());
            self.untold.push_back((number, comes));
            if self.untold.len() > rtcp::ENTRIES_MAX {
                self.untold.pop_front();
            }
        }
        let payload = header.payload(packet).unwrap_or_default();
        let seq = match header.ssrc {
            RTX if payload.is_empty() => return,
            RTX => u16::from_be_bytes([payload[0], payload[1]]),
            VIDEO => header.seq.0,
            SOUND => return,
            other => panic!("{other:?} is nobody's"),
        };
        let copies = self.copies.entry(seq).or_default();
        let rtt = self.rtt.and_then(|rtt| rtt.lowest()).unwrap_or_default();
        match copies[..] {
            [] => {
                self.newest = seq;
                self.first_bytes += payload.len() as u64;
            }
            [.., last] => {
                let least = if copies.len() > 1 {
                    rtt.max(SPACING_MIN)
                } else {
                    rtt
                };
                assert!(now - last >= least, "{seq}: {:?} of {least:?}", now - last);
                self.again_bytes += payload.len() as u64;
            }
        }
        copies.push(now);
        assert!(copies.len() <= 1 + AGAIN_MAX, "{seq}");
        // What an RTX packet names is two bytes.
        let may = BYTES_FREE + (self.first_bytes + self.again_bytes) / 2 + 2 * 1000;
        assert!(self.again_bytes <= may, "{} of {may}", self.again_bytes);
    }
}

impl Stage {
    fn new(flags: u8) -> Self {
        let mut world = World::new();
        let publisher = world.join("room");
        let mut pictures = track(&world, publisher, 0, &[codec(96, Codec::Vp8)]);
        let large = EncodingConfig {
            ssrc: Some(Ssrc(1002)),
            ..EncodingConfig::default()
        };
        pictures.encodings.push(large);
        let sound = track(&world, publisher, 1, &[codec(111, Codec::Opus)]);
        let tracks = vec![pictures, sound];
        world.configure(publisher, &tracks, &[]);
        let mut subscribers = vec![Subscriber::new(&mut world, &tracks, flags)];
        if flags & 4 != 0 {
            subscribers.push(Subscriber::new(&mut world, &tracks, 0));
        }
        Self {
            zero: world.now,
            base: 0,
            world,
            tracks,
            subscribers,
            eighths: [1, 4, 8, 16][usize::from(flags >> 4 & 3)],
            len: [1100, 100, 600, 1200][usize::from(flags >> 6)],
            ticks: 0,
            seqs: [0; 3],
            is_large: true,
            links: Links {
                capacity: None,
                is_shared: true,
                free: [Instant::now(); 2],
            },
        }
    }

    /// One operation. Its high bit says which of two subscribers it is about.
    fn step(&mut self, operation: u8, input: &mut Input<'_>) {
        let who = usize::from(operation >> 7) % self.subscribers.len();
        match operation & 0x0f {
            0 | 1 => self.pass(u32::from(input.byte()) + 1),
            2 => self.feedback(who, input.byte(), input.byte()),
            3 => self.nack(who, input),
            4 => self.made_up_feedback(who, input),
            5 => {
                let bitrate = u64::from(input.word()) << (input.byte() & 0x1f);
                let remb = Remb {
                    sender: Ssrc(1),
                    bitrate: Bitrate(bitrate),
                    ssrcs: vec![VIDEO],
                };
                self.say(who, |out| remb.write(out));
            }
            6 => self.report(who),
            7 => self.made_up_report(who, input),
            8 => self.made_up_times(who, input),
            9 => self.raw(who, input),
            10 => {
                // What is subscribed to changes, and starts anew or goes on.
                let bits = input.byte();
                let Subscriber { at, wanted, .. } = &mut self.subscribers[who];
                wanted[0].active = bits & 1 == 0;
                wanted[1].active = bits & 2 == 0;
                let (at, wanted) = (*at, wanted.clone());
                self.world.configure(at, &[], &wanted);
                self.collect();
            }
            11 => {
                // What is sent changes, and what the ways carry: in bits a second, none, 600 000, 1.3 and 2.5 million.
                let bits = input.byte();
                self.is_large = bits & 1 == 0;
                self.links.is_shared = bits & 2 == 0;
                let capacity = [0, 75_000, 162_500, 312_500][usize::from(bits >> 2 & 3)];
                self.links.capacity = Some(capacity).filter(|capacity| *capacity > 0);
            }
            12 => self.say(who, |out| write_pli(out, Ssrc(1), VIDEO)),
            13 => {
                let ssrc = [VIDEO, RTX, SOUND][usize::from(input.byte()) % 3];
                self.say(who, |out| write_bye(out, ssrc));
            }
            // A long time without a word, and with media.
            14 => self.pass(400),
            _ => self.clock(),
        }
        let grown = weighing::live_bytes() - self.base;
        assert!(grown <= GROWTH_BYTES_MAX, "{grown} bytes");
        for subscriber in &self.subscribers {
            let estimate = self
                .world
                .shard
                .estimate(self.world.clients[subscriber.at].key);
            assert!(estimate.is_none_or(|estimate| estimate.0 > 0 && estimate.0 <= 1_000_000_000));
        }
    }

    /// Media flows for so many ticks.
    fn pass(&mut self, ticks: u32) {
        for _ in 0..ticks {
            let end = self.world.now + TICK;
            while let Some(due) = self.world.shard.poll_timeout().filter(|due| *due < end) {
                let wait = due.saturating_duration_since(self.world.now);
                self.world.advance(wait);
                self.collect();
            }
            self.world.advance(end - self.world.now);
            self.collect();
            self.ticks += 1;
            let packets = self.ticks * self.eighths / 8 - (self.ticks - 1) * self.eighths / 8;
            for _ in 0..packets {
                self.publish(0, 1000, 96, self.len / 4);
                if self.is_large {
                    self.publish(1, 1002, 96, self.len);
                }
            }
            if self.ticks.is_multiple_of(4) {
                self.publish(2, 1001, 111, 80);
            }
            if self.ticks.is_multiple_of(200) {
                self.clock();
            }
            if self.world.now - self.zero >= 2 * LASTS_MAX {
                return;
            }
        }
    }

    fn publish(&mut self, stream: usize, ssrc: u32, payload_type: u8, len: usize) {
        let seq = self.seqs[stream];
        self.seqs[stream] += 1;
        let mut payload = vec![0x55; len];
        // VP8, the start of a frame; every fiftieth is a keyframe (RFC 7741 §4.2, §4.3).
        payload[0] = 0x10;
        payload[1] = u8::from(!seq.is_multiple_of(50));
        let packet = Rtp {
            ssrc,
            seq,
            timestamp: 450 * self.ticks as u32,
            payload_type,
            extensions: &[],
            payload: &payload,
        };
        self.world.send_rtp(PUBLISHER, &packet.bytes());
        self.collect();
    }

    /// The publisher says what time it is.
    fn clock(&mut self) {
        let since = self.world.now - self.zero;
        let report = SenderReport {
            ssrc: Ssrc(1000),
            ntp: NtpTime(((since.as_millis() as u64 + 1) << 32) / 1000),
            rtp_time: RtpTime(450 * self.ticks as u32),
            packets: 1,
            octets: 1,
        };
        self.world
            .send_rtcp(PUBLISHER, |out| write_sender_report(out, &report, "c"));
        self.collect();
    }

    /// A subscriber sends something, if it is as long as SRTCP takes.
    fn say(&mut self, who: usize, write: impl FnOnce(&mut Vec<u8>)) {
        let at = self.subscribers[who].at;
        let mut compound = Vec::new();
        write(&mut compound);
        if compound.len() < 8 {
            return;
        }
        self.world.send_rtcp(at, |out| *out = compound);
        let bytes = self.collect();
        assert!(bytes <= ANSWER_BYTES_MAX, "{bytes} bytes for one message");
    }

    fn collect(&mut self) -> usize {
        self.world.clients[PUBLISHER].rtcp.clear();
        self.world.events.clear();
        let subscribers = self.subscribers.iter_mut();
        let links = &mut self.links;
        subscribers
            .map(|one| one.collect(&mut self.world, links))
            .sum()
    }

    /// What came since the last time is told: all, but for what `lost` has a bit for, and with a queue that grows by `queue`
    /// ticks of 250 µs in four packets.
    fn feedback(&mut self, who: usize, lost: u8, queue: u8) {
        let (now, zero) = (self.world.now, self.zero);
        let untold = &mut self.subscribers[who].untold;
        // What did not come is known when something later did.
        let has_come = |(_, at): &(u16, Option<Instant>)| at.is_some_and(|at| at <= now);
        let come = untold.iter().rposition(has_come).map_or(0, |last| last + 1);
        let told: Vec<_> = untold.drain(..come).collect();
        let Some(first) = told.iter().find_map(|(_, at)| *at) else {
            return;
        };
        let ticks = |at: Instant| (at - zero).as_micros() as i64 / 250;
        let reference = ticks(first) / 256;
        let arrivals = told.iter().enumerate().map(|(index, (_, at))| {
            let late = i64::from(queue) * index as i64 / 4;
            let is_lost = lost >> (index % 8) & 1 != 0;
            let at = at.filter(|_| !is_lost)?;
            Some((ticks(at) + late - 256 * reference) as i32)
        });
        let base = told[0].0;
        let feedback = TransportFeedback {
            sender: Ssrc(1),
            media: VIDEO,
            base: SeqNo16(base),
            reference: reference as i32,
            count: 0,
            arrivals: arrivals.collect(),
        };
        self.say(who, |out| _ = feedback.write(out));
    }

    fn made_up_feedback(&mut self, who: usize, input: &mut Input<'_>) {
        let last = self.subscribers[who].last_number.unwrap_or(0);
        let base = match input.byte() {
            // Near what is true, or anywhere.
            near if near < 0xf0 => last.wrapping_sub(u16::from(near)),
            _ => input.word(),
        };
        let (reference, count) = (input.word(), input.byte());
        let pattern = input.bytes(usize::from(count >> 4));
        let arrivals = (0..usize::from(count & 0x0f) * 64 + 1).map(|index| {
            let how = *pattern.get(index % pattern.len().max(1))?;
            (how & 0x80 == 0).then_some(i32::from(how) * index as i32)
        });
        let feedback = TransportFeedback {
            sender: Ssrc(1),
            media: VIDEO,
            base: SeqNo16(base),
            reference: i32::from(reference),
            count,
            arrivals: arrivals.collect(),
        };
        self.say(who, |out| _ = feedback.write(out));
    }

    fn nack(&mut self, who: usize, input: &mut Input<'_>) {
        let how = input.byte();
        let newest = self.subscribers[who].newest;
        let back = u16::from(input.byte());
        let seqs: Vec<SeqNo16> = match how & 3 {
            // A run, single ones, and anything.
            0 | 1 => (0..u16::from(how >> 2))
                .map(|n| SeqNo16(newest.wrapping_sub(back).wrapping_add(n)))
                .collect(),
            2 => input
                .bytes(usize::from(how >> 2))
                .iter()
                .map(|back| SeqNo16(newest.wrapping_sub(u16::from(*back))))
                .collect(),
            _ => (0..how >> 2).map(|_| SeqNo16(input.word())).collect(),
        };
        let media = if back == 0xff { RTX } else { VIDEO };
        self.say(who, |out| write_nack(out, Ssrc(1), media, &seqs));
    }

    /// A true report: the answer to the last sender report comes as late as the way is long.
    fn report(&mut self, who: usize) {
        let now = self.world.now;
        let subscriber = &mut self.subscribers[who];
        let Some((last_sr, sent)) = subscriber.last_sr else {
            return;
        };
        let block = ReportBlock {
            ssrc: VIDEO,
            fraction_lost: 0,
            total_lost: 0,
            highest_seq: u32::from(subscriber.newest),
            jitter_ticks: 0,
            last_sr,
            delay_since_last_sr: 0,
        };
        if let Some(rtt) = &mut subscriber.rtt {
            // Reports count in 1/65536 s, and the server's clock may have been a unit further.
            rtt.on_sample((now - sent).saturating_sub(Duration::from_micros(31)));
        }
        self.say(who, |out| {
            write_receiver_report(out, Ssrc(1), &[block], "c")
        });
    }

    fn made_up_report(&mut self, who: usize, input: &mut Input<'_>) {
        let subscriber = &mut self.subscribers[who];
        subscriber.rtt = None;
        let how = input.byte();
        let last_sr = subscriber.last_sr.map_or(0, |(middle, _)| middle);
        let block = |ssrc, input: &mut Input<'_>| ReportBlock {
            ssrc,
            fraction_lost: input.byte(),
            total_lost: i32::from(input.word() as i16) << 4,
            highest_seq: u32::from(input.word()) << (how & 0x10),
            jitter_ticks: u32::from(input.word()),
            last_sr: if how & 1 == 0 {
                last_sr
            } else {
                u32::from(input.word()) << 8
            },
            delay_since_last_sr: u32::from(input.word()) << (how >> 4),
        };
        let ssrcs = [VIDEO, SOUND, RTX, Ssrc(7)];
        let blocks: Vec<ReportBlock> = (0..=usize::from(how >> 1 & 7))
            .map(|index| block(ssrcs[index % 4], input))
            .collect();
        self.say(who, |out| write_receiver_report(out, Ssrc(1), &blocks, "c"));
    }

    fn made_up_times(&mut self, who: usize, input: &mut Input<'_>) {
        self.subscribers[who].rtt = None;
        let how = input.byte();
        let replies: Vec<ReferenceReply> = (0..how & 0x0f)
            .map(|_| ReferenceReply {
                ssrc: Ssrc(u32::from(input.word())),
                last_rr: u32::from(input.word()) << 8,
                delay: u32::from(input.word()),
            })
            .collect();
        let time = NtpTime(u64::from(input.word()) << 32);
        self.say(who, |out| {
            write_reference_time(out, Ssrc(1), time);
            write_reference_replies(out, Ssrc(1), &replies);
        });
    }

    /// Any bytes.
    fn raw(&mut self, who: usize, input: &mut Input<'_>) {
        let len = usize::from(input.byte());
        let mut bytes = input.bytes(4 * len).to_vec();
        // SRTCP takes no other version.
        if let Some(first) = bytes.first_mut() {
            *first = *first & 0x3f | 0x80;
        }
        let tells_times = |packet: &RtcpPacket| {
            matches!(
                packet,
                RtcpPacket::Reports { .. } | RtcpPacket::ReferenceReplies(_)
            )
        };
        if rtcp::parse(&bytes).packets.iter().any(tells_times) {
            self.subscribers[who].rtt = None;
        }
        self.say(who, |out| out.extend_from_slice(&bytes));
    }

    /// Everybody goes.
    fn end(mut self, before: i64) {
        for subscriber in std::mem::take(&mut self.subscribers) {
            self.world.remove(subscriber.at);
        }
        self.tracks.clear();
        self.world.remove(PUBLISHER);
        let world = &mut self.world;
        assert_eq!((world.shard.peers_len(), world.shard.rooms_len()), (0, 0));
        world.advance(60_000 * MS);
        assert_eq!(world.shard.poll_timeout(), None, "no timer is left");
        world.clients.clear();
        world.events.clear();
        let left = weighing::live_bytes() - before;
        assert!(left <= LEFT_BYTES_MAX, "{left} bytes are left");
    }
}
