//! One shard with peers in memory: whatever is lost, asked for, told and made up, no two copies of a packet go to one
//! subscriber within the round trip that is known then, and not more of them than may be.

#[path = "support/shard_world.rs"]
mod support;
#[path = "support/twcc.rs"]
mod twcc;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use shardcast::base::ids::{RtpTime, SeqNo16, Ssrc};
use shardcast::media::rtt::Rtt;
use shardcast::wire::codec::Codec;
use shardcast::wire::extension::Extension;
use shardcast::wire::rtcp::{
    NtpTime, ReportBlock, RtcpPacket, SenderReport, write_nack, write_receiver_report,
    write_sender_report,
};
use shardcast::wire::rtp::RtpHeader;
use support::{Rtp, World, codec, extensions, subscription, track};
use twcc::Recorder;

const MS: Duration = Duration::from_millis(1);
const MEDIA: Ssrc = Ssrc(0x5000_0000);
const RTX: Ssrc = Ssrc(0x6000_0000);
const NUMBER: u8 = 3;
const PAYLOAD: usize = 100;
const LASTS: Duration = Duration::from_secs(12);

/// What a subscriber takes.
#[derive(Debug, Clone, Copy)]
struct Subscriber {
    has_feedback: bool,
    has_rtx: bool,
}

/// A message of the subscriber that is on its way.
enum Message {
    Nack(Vec<SeqNo16>),
    Feedback(Vec<u8>),
    Report { last_sr: u32, sent: Instant },
}

struct Stage {
    world: World,
    rng: StdRng,
    publisher: usize,
    subscriber: usize,
    takes: Subscriber,
    loss: f64,
    published: u16,
    /// When each packet went out, by the number it first had.
    copies: BTreeMap<u16, Vec<Instant>>,
    again: usize,
    recorder: Recorder,
    /// What is on its way down: number, and transport-wide number.
    down: VecDeque<(Instant, u16, Option<u16>)>,
    up: VecDeque<(Instant, Message)>,
    /// What the subscriber has.
    has: BTreeSet<u16>,
    /// What it misses, and when it asks again.
    misses: BTreeMap<u16, Instant>,
    /// What the server knows of the round trip.
    rtt: Rtt,
    one_way: Duration,
    /// How likely the way becomes another one in a turn.
    moves: f64,
}

impl Stage {
    fn new(seed: u64, takes: Subscriber) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut world = World::new();
        let publisher = world.join("room");
        let source = track(&world, publisher, 0, &[codec(96, Codec::Vp8)]);
        world.configure(publisher, std::slice::from_ref(&source), &[]);
        let subscriber = world.join("room");
        let mut mapping = codec(120, Codec::Vp8);
        mapping.transport_cc = takes.has_feedback;
        let mut wanted = subscription(0, &source, &[mapping]);
        wanted.extensions = extensions(&[
            (Extension::Mid, 9),
            (Extension::TransportSequenceNumber, NUMBER),
        ]);
        wanted.rtx_ssrc = takes.has_rtx.then_some(RTX);
        world.configure(subscriber, &[], &[wanted]);
        let now = world.now;
        Self {
            loss: [0.0, 0.1, 0.3, 0.6][seed as usize % 4],
            one_way: [10, 50, 100, 160][rng.random_range(0..4)] * MS,
            world,
            rng,
            publisher,
            subscriber,
            takes,
            published: 0,
            copies: BTreeMap::new(),
            again: 0,
            recorder: Recorder::new(now),
            down: VecDeque::new(),
            up: VecDeque::new(),
            has: BTreeSet::new(),
            misses: BTreeMap::new(),
            rtt: Rtt::default(),
            moves: 0.002,
        }
    }

    fn publish(&mut self) {
        let number = self.published;
        self.published += 1;
        let ssrc = 1000 * self.world.clients[self.publisher].key.0 as u32;
        let packet = Rtp {
            ssrc,
            seq: number,
            timestamp: 3000 * u32::from(number),
            payload_type: 96,
            extensions: &[],
            payload: &[0x10; PAYLOAD],
        };
        self.world.send_rtp(self.publisher, &packet.bytes());
        if number.is_multiple_of(40) {
            let report = SenderReport {
                ssrc: Ssrc(ssrc),
                ntp: NtpTime(u64::from(number + 1) << 32),
                rtp_time: RtpTime(3000 * u32::from(number)),
                packets: u32::from(number),
                octets: 0,
            };
            self.world
                .send_rtcp(self.publisher, |out| write_sender_report(out, &report, "c"));
        }
    }

    /// One picture of many packets, all at once.
    fn publish_picture(&mut self, packets: u16) {
        let (first, ssrc) = (self.published, self.world.clients[self.publisher].key.0);
        self.published += packets;
        for number in first..self.published {
            let mut payload = [0x01; 20];
            // No keyframe; the first packet begins a partition (RFC 7741 §4.2).
            payload[0] = if number == first { 0x10 } else { 0 };
            let packet = Rtp {
                ssrc: 1000 * ssrc as u32,
                seq: number,
                timestamp: 3000 * u32::from(first),
                payload_type: 96,
                extensions: &[],
                payload: &payload,
            };
            self.world.send_rtp(self.publisher, &packet.bytes());
        }
    }

    /// What the server has sent goes onto the way; here it is seen whether it may have.
    fn collect(&mut self) {
        let now = self.world.now;
        for packet in std::mem::take(&mut self.world.clients[self.subscriber].rtp) {
            let header = RtpHeader::parse(&packet).unwrap();
            let payload = header.payload(&packet).unwrap_or_default();
            let own_number = header.extensions(&packet);
            let number = own_number
                .into_iter()
                .find(|(id, _)| id.value() == NUMBER)
                .map(|(_, value)| u16::from_be_bytes(value.try_into().unwrap()));
            let seq = match header.ssrc {
                RTX if payload.is_empty() => continue,
                RTX => u16::from_be_bytes(payload[..2].try_into().unwrap()),
                _ => header.seq.0,
            };
            let former = self.copies.entry(seq).or_default();
            if let Some(last) = former.last() {
                let spacing = self.rtt.lowest().unwrap_or_default();
                let since = now - *last;
                assert!(since >= spacing, "{seq}: {since:?} of {spacing:?}");
                self.again += 1;
            }
            former.push(now);
            assert!(former.len() <= 9, "{seq}");
            if !self.rng.random_bool(self.loss) {
                let at = now + self.one_way + self.rng.random_range(0..8) * MS;
                self.down.push_back((at, seq, number));
            }
        }
        for packet in self.world.clients[self.subscriber].take_rtcp() {
            if let RtcpPacket::SenderReport(report) = packet {
                let (last_sr, sent) = (report.ntp.middle(), now);
                self.send(self.one_way, Message::Report { last_sr, sent });
            }
        }
    }

    /// The subscriber sends something, `after` a time.
    fn send(&mut self, after: Duration, message: Message) {
        if !self.rng.random_bool(self.loss) {
            let at = self.world.now + after + self.one_way + self.rng.random_range(0..8) * MS;
            self.up.push_back((at, message));
        }
    }

    fn arrive(&mut self) {
        let now = self.world.now;
        let (come, down): (Vec<_>, Vec<_>) = self.down.drain(..).partition(|(at, ..)| *at <= now);
        self.down = down.into();
        for (_, seq, number) in come {
            self.has.insert(seq);
            self.misses.remove(&seq);
            if let Some(number) = number {
                self.recorder.on_packet(now, number);
            }
            // Numbers begin below 2^15 and do not come round here.
            let newest = *self.has.last().expect("one came");
            let known = newest.saturating_sub(50)..newest;
            let missing =
                known.filter(|seq| !self.has.contains(seq) && self.copies.contains_key(seq));
            for seq in missing.collect::<Vec<_>>() {
                self.misses.entry(seq).or_insert(now);
            }
        }
        let (come, up): (Vec<_>, Vec<_>) = self.up.drain(..).partition(|(at, _)| *at <= now);
        self.up = up.into();
        for (_, message) in come {
            let at = self.subscriber;
            match message {
                Message::Nack(seqs) => self
                    .world
                    .send_rtcp(at, |out| write_nack(out, Ssrc(1), MEDIA, &seqs)),
                Message::Feedback(bytes) => self
                    .world
                    .send_rtcp(at, |out| out.extend_from_slice(&bytes)),
                Message::Report { last_sr, sent } => self.report(last_sr, now - sent),
            }
            self.collect();
        }
    }

    /// A report comes: the round trip is what it took.
    fn report(&mut self, last_sr: u32, rtt: Duration) {
        let block = ReportBlock {
            ssrc: MEDIA,
            fraction_lost: 0,
            total_lost: 0,
            highest_seq: 0,
            jitter_ticks: 0,
            last_sr,
            delay_since_last_sr: 0,
        };
        self.world.send_rtcp(self.subscriber, |out| {
            write_receiver_report(out, Ssrc(1), &[block], "c");
        });
        // Report blocks count in 1/65536 s.
        let ticks = (rtt.as_nanos() << 16) / 1_000_000_000;
        let told = (ticks as u64 * 1_000_000_000) >> 16;
        self.rtt
            .on_sample(Duration::from_nanos(told.saturating_sub(16_000)));
    }

    /// Asks for what is missing, and for what it makes up.
    fn ask(&mut self) {
        let now = self.world.now;
        let again = now + 2 * self.one_way;
        let due = self.misses.iter_mut().filter(|(_, at)| **at <= now);
        let mut wanted: Vec<SeqNo16> = due
            .map(|(seq, at)| {
                *at = again;
                SeqNo16(*seq)
            })
            .collect();
        if self.rng.random_bool(0.3)
            && let Some(newest) = self.copies.keys().last()
        {
            let made_up = self.rng.random_range(0..30);
            wanted.push(SeqNo16(newest.saturating_sub(made_up)));
        }
        if !wanted.is_empty() {
            self.send(Duration::ZERO, Message::Nack(wanted));
        }
    }

    fn tell(&mut self) {
        if self.takes.has_feedback {
            // Not everything that came is told of.
            if self.rng.random_bool(0.1) {
                self.recorder = Recorder::new(self.world.now - Duration::from_secs(60));
            }
            if let Some(feedback) = self.recorder.poll(1, MEDIA.0) {
                self.send(Duration::ZERO, Message::Feedback(feedback));
            }
        }
    }

    /// Lets 5 ms pass, and sees each packet when it goes out.
    fn pass(&mut self) {
        let step = self.world.now + 5 * MS;
        while let Some(due) = self.world.shard.poll_timeout().filter(|due| *due < step) {
            self.world
                .advance(due.saturating_duration_since(self.world.now));
            self.collect();
        }
        self.world.advance(step - self.world.now);
        self.collect();
    }

    fn run(&mut self) {
        let end = self.world.now + LASTS;
        let mut turn = 0;
        while self.world.now < end {
            self.pass();
            turn += 1;
            if turn % 4 == 0 {
                self.publish();
                self.collect();
            }
            self.arrive();
            if turn % 4 == 1 {
                self.ask();
            }
            if turn % 20 == 3 {
                self.tell();
            }
            if self.rng.random_bool(self.moves) {
                self.one_way = [10, 50, 100, 160][self.rng.random_range(0..4)] * MS;
            }
        }
    }
}

#[test]
fn never_twice_within_a_round_trip_whatever_is_asked_and_told() {
    let names = [
        "paced",
        "feedback_repaired",
        "repeated_unasked",
        "rtp_retransmitted",
    ];
    let mut all = [0; 4];
    for seed in 0..24 {
        let takes = Subscriber {
            has_feedback: seed % 3 != 0,
            has_rtx: seed % 3 != 0 || seed % 2 == 0,
        };
        let mut stage = Stage::new(seed, takes);
        stage.run();
        let counts = names.map(|name| stage.world.count(name));
        assert_eq!(counts[3], stage.again as u64, "seed {seed}");
        for (sum, count) in all.iter_mut().zip(counts) {
            *sum += count;
        }
    }
    // All of it was put to the test.
    let enough = [1000, 100, 1000, 5000];
    let is_enough = all.iter().zip(enough).all(|(sum, least)| *sum >= least);
    assert!(is_enough, "{names:?}: {all:?}");
}

/// The pacer holds back what a slow path cannot take at once, however many packets a picture has.
#[test]
fn a_picture_of_many_small_packets_waits_for_its_round_trip_too() {
    const PACKETS: u16 = 400;
    let takes = Subscriber {
        has_feedback: true,
        has_rtx: true,
    };
    // Nothing is lost.
    let mut stage = Stage::new(4, takes);
    (stage.one_way, stage.moves) = (160 * MS, 0.0);
    stage.run();
    let rtt = stage.rtt.lowest().expect("reports told it");
    assert!(rtt > 300 * MS, "{rtt:?}");
    let (before, first) = (stage.world.count("paced"), stage.published);
    stage.publish_picture(PACKETS);
    stage.collect();
    let (begin, mut asked) = (stage.world.now, 0);
    while stage.world.now < begin + 600 * MS {
        stage.pass();
        // What came is asked for again at once, then what came before: not all that is asked for may be sent again.
        let newest = *stage.copies.keys().last().expect("packets came");
        let seqs: Vec<SeqNo16> = (newest.saturating_sub(PACKETS)..=newest)
            .rev()
            .map(SeqNo16)
            .collect();
        asked += seqs.len();
        stage.world.send_rtcp(stage.subscriber, |out| {
            write_nack(out, Ssrc(1), MEDIA, &seqs);
        });
        stage.collect();
    }
    assert_eq!(stage.published, first + PACKETS);
    let paced = stage.world.count("paced") - before;
    assert!(paced > 300 && asked > 10_000, "{paced} of {PACKETS} waited");
}
