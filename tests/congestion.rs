//! One shard with peers in memory: what is numbered, reported, paced and probed. What follows from the numbers is tested
//! beside `media::congestion`.

#[path = "support/shard_world.rs"]
mod support;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use shardcast::base::ids::{Bitrate, SeqNo16, Ssrc};
use shardcast::control::layers::{Preference, Preferences};
use shardcast::control::{Command, EncodingConfig, TrackConfig};
use shardcast::media::congestion::recorder::ArrivalRecorder;
use shardcast::wire::bandwidth::Remb;
use shardcast::wire::codec::{Codec, CodecMapping};
use shardcast::wire::extension::Extension;
use shardcast::wire::rtcp::{RtcpPacket, write_nack};
use shardcast::wire::rtp::RtpHeader;
use support::{Rtp, World, codec, extensions, subscription, track};

const NUMBER: u8 = 3;
const MEDIA: Ssrc = Ssrc(0x5000_0000);
const RTX: Ssrc = Ssrc(0x6000_0000);

fn numbered(payload_type: u8, codec_: Codec) -> CodecMapping {
    CodecMapping {
        transport_cc: true,
        ..codec(payload_type, codec_)
    }
}

/// A publisher of a VP8 track, and a subscriber, both with transport-wide numbers.
struct Stage {
    world: World,
    publisher: usize,
    subscriber: usize,
    seq: u16,
    /// What the subscriber's feedback is made of.
    recorder: ArrivalRecorder,
    /// Each packet it got: SSRC, number, transport-wide number, bytes, when.
    received: Vec<Received>,
    /// Of each of these SSRCs the next packet is lost.
    lose: Vec<Ssrc>,
}

/// SSRC, number, transport-wide number, bytes, when.
type Received = (Ssrc, SeqNo16, Option<u16>, Vec<u8>, Instant);

impl Stage {
    fn new(has_rtx: bool) -> Self {
        let mut world = World::new();
        let publisher = world.join("room");
        let source = TrackConfig {
            extensions: extensions(&[(Extension::Mid, 4), (Extension::TransportSequenceNumber, 5)]),
            ..track(&world, publisher, 0, &[numbered(96, Codec::Vp8)])
        };
        world.configure(publisher, std::slice::from_ref(&source), &[]);
        let subscriber = world.join("room");
        let mut wanted = subscription(0, &source, &[numbered(120, Codec::Vp8)]);
        wanted.extensions = extensions(&[
            (Extension::Mid, 9),
            (Extension::TransportSequenceNumber, NUMBER),
        ]);
        wanted.rtx_ssrc = has_rtx.then_some(RTX);
        world.configure(subscriber, &[], &[wanted]);
        Self {
            world,
            publisher,
            subscriber,
            seq: 100,
            recorder: ArrivalRecorder::default(),
            received: Vec::new(),
            lose: Vec::new(),
        }
    }

    fn publish(&mut self, bytes: usize) {
        let number = self.seq.to_be_bytes();
        let packet = Rtp {
            ssrc: 1000 * self.world.clients[self.publisher].key.0 as u32,
            seq: self.seq,
            timestamp: 3000 * u32::from(self.seq),
            payload_type: 96,
            extensions: &[(5, &number)],
            payload: &vec![0x10; bytes],
        };
        self.seq += 1;
        self.world.send_rtp(self.publisher, &packet.bytes());
        self.collect();
    }

    fn collect(&mut self) {
        let now = self.world.now;
        for packet in std::mem::take(&mut self.world.clients[self.subscriber].rtp) {
            let header = RtpHeader::parse(&packet).unwrap();
            let is_padding = header.payload(&packet).is_none_or(<[u8]>::is_empty);
            let lost = self.lose.iter().position(|ssrc| *ssrc == header.ssrc);
            if let Some(at) = lost.filter(|_| !is_padding) {
                self.lose.swap_remove(at);
                continue;
            }
            let number = header
                .extensions(&packet)
                .find(|(id, _)| id.value() == NUMBER)
                .map(|(_, value)| u16::from_be_bytes([value[0], value[1]]));
            if let Some(number) = number {
                self.recorder.on_packet(now, SeqNo16(number), header.ssrc);
            }
            let entry = (header.ssrc, header.seq, number, packet.to_vec(), now);
            self.received.push(entry);
        }
    }

    /// Lets time pass, with the subscriber's feedback.
    fn advance(&mut self, by: Duration) {
        let end = self.world.now + by;
        while self.world.now < end {
            self.world.advance(Duration::from_millis(1));
            self.collect();
            let mut feedback = Vec::new();
            if self
                .recorder
                .write_due(self.world.now, Ssrc(9), &mut feedback)
            {
                let at = self.subscriber;
                self.world
                    .send_rtcp(at, |out| out.extend_from_slice(&feedback));
            }
        }
    }

    /// The subscriber's own estimate.
    fn remb(&mut self, bitrate: u64) {
        let remb = Remb {
            sender: Ssrc(9),
            bitrate: Bitrate(bitrate),
            ssrcs: vec![Ssrc(0x5000_0000)],
        };
        let at = self.subscriber;
        self.world.send_rtcp(at, |out| remb.write(out));
    }

    /// What came for the first time has each number once, in order, and is all that was counted as sent.
    fn assert_no_gap(&self) {
        let media = self.received.iter().filter(|r| r.0 != RTX);
        let seqs: Vec<u16> = media.map(|r| r.1.0).collect();
        let is_next = |pair: &[u16]| pair[1] == pair[0].wrapping_add(1);
        assert!(seqs.windows(2).all(is_next), "{seqs:?}");
        assert_eq!(self.world.count("rtp_forwarded"), seqs.len() as u64);
    }

    fn estimate(&self) -> Option<Bitrate> {
        let key = self.world.clients[self.subscriber].key;
        self.world.shard.estimate(key)
    }
}

#[test]
fn what_feedback_calls_missing_is_sent_again_unasked() {
    let mut stage = Stage::new(true);
    for n in 0..60 {
        // The second copy is lost too.
        if n == 5 {
            stage.lose = vec![MEDIA, RTX];
        }
        stage.publish(500);
        stage.advance(Duration::from_millis(10));
    }
    let (_, first, ..) = stage.received[0];
    let missing = first.0.wrapping_add(5).to_be_bytes();
    // Without the padding of probes.
    let payload = |packet: &Received| {
        let header = RtpHeader::parse(&packet.3).unwrap();
        header.payload(&packet.3).unwrap().to_vec()
    };
    let again = stage.received.iter().filter(|packet| packet.0 == RTX);
    let mut again: Vec<Vec<u8>> = again.map(payload).collect();
    again.retain(|payload| !payload.is_empty());
    assert_eq!(again.len(), 1);
    assert_eq!(again[0][..2], missing);
    assert_eq!(stage.world.count("feedback_repaired"), 2);
    assert_eq!(stage.world.count("rtp_retransmitted_rtx"), 2);
}

#[test]
fn publishers_are_told_when_their_packets_arrived() {
    let mut stage = Stage::new(true);
    for n in 0..10 {
        // Every fifth is lost on the way.
        if n % 5 == 4 {
            stage.seq += 1;
        } else {
            stage.publish(500);
        }
        stage.advance(Duration::from_millis(10));
    }
    stage.advance(Duration::from_millis(100));
    let told = stage.world.clients[stage.publisher].take_rtcp();
    let mut arrived = HashMap::new();
    for packet in told {
        if let RtcpPacket::TransportFeedback(feedback) = packet {
            for (seq, arrival) in (feedback.base.0..).zip(feedback.arrivals) {
                arrived.insert(seq, arrival.is_some());
            }
        }
    }
    for seq in 100..109 {
        assert_eq!(arrived.get(&seq), Some(&(seq % 5 != 4)), "{seq}");
    }
}

#[test]
fn what_is_sent_is_numbered_without_gaps_and_no_nonce_stands_for_two() {
    let mut stage = Stage::new(true);
    for _ in 0..200 {
        stage.publish(700);
        stage.advance(Duration::from_millis(5));
        if let Some((_, seq, ..)) = stage.received.iter().find(|r| r.0 != RTX) {
            let (seq, media) = (*seq, Ssrc(0x5000_0000));
            let at = stage.subscriber;
            let asked = [seq, SeqNo16(seq.0.wrapping_add(150))];
            stage
                .world
                .send_rtcp(at, |out| write_nack(out, Ssrc(9), media, &asked));
            stage.collect();
        }
    }
    let numbers: Vec<u16> = stage.received.iter().filter_map(|r| r.2).collect();
    assert_eq!(numbers.len(), stage.received.len(), "all are numbered");
    assert!(
        numbers
            .windows(2)
            .all(|pair| pair[1] == pair[0].wrapping_add(1))
    );
    let mut seen = HashMap::new();
    for (ssrc, seq, _, bytes, _) in &stage.received {
        let known = seen.insert((*ssrc, *seq), bytes.clone());
        assert!(known.is_none_or(|known| known == *bytes), "{ssrc} {seq:?}");
    }
    // The allocator pauses the picture until the estimate has found that it fits.
    let media = stage.received.iter().filter(|r| r.0 != RTX).count();
    assert!(media > 100, "{media}");
    assert_eq!(
        seen.len(),
        stage.received.len(),
        "each once under its own number"
    );
    assert!(stage.world.count("rtp_retransmitted") > 0);
    assert!(stage.world.count("padding_packets_sent") > 0);
    // From 300 kbit/s: probes found more.
    let estimate = stage.estimate().unwrap();
    assert!(estimate > Bitrate(1_100_000), "{estimate}");
}

#[test]
fn without_rtx_nothing_is_numbered_and_what_is_sent_again_is_identical() {
    let mut stage = Stage::new(false);
    for _ in 0..20 {
        stage.publish(700);
    }
    let (_, seq, number, first, _) = stage.received[10].clone();
    assert_eq!(number, None);
    let at = stage.subscriber;
    stage.world.send_rtcp(at, |out| {
        write_nack(out, Ssrc(9), Ssrc(0x5000_0000), &[seq])
    });
    stage.collect();
    assert_eq!(stage.received.len(), 21);
    assert_eq!(stage.received[20].3, first);
    assert_eq!(
        stage.estimate(),
        None,
        "nothing is known, nothing is limited"
    );
}

#[test]
fn a_burst_beyond_the_estimate_is_spread_and_nothing_of_it_is_lost() {
    let mut stage = Stage::new(false);
    stage.remb(1_000_000);
    assert_eq!(stage.estimate(), Some(Bitrate(1_000_000)));
    let from = stage.world.now;
    // A keyframe: 40 kB.
    for _ in 0..40 {
        stage.publish(1000);
    }
    let at_once = stage.received.len();
    assert!((1..12).contains(&at_once), "{at_once}");
    stage.advance(Duration::from_millis(400));
    assert_eq!(stage.received.len(), 40);
    let lasted = stage.received[39].4 - from;
    assert!(lasted > Duration::from_millis(80), "{lasted:?}");
    stage.assert_no_gap();
    assert_eq!(stage.world.count("paced_dropped"), 0);
    assert!(stage.world.count("paced") > 20);
}

#[test]
fn what_finds_no_room_or_waits_for_too_long_goes_as_a_whole_and_a_keyframe_is_asked_for() {
    for (bitrate, packets, stalled_ms) in [(1_000_000, 600, 0), (100_000, 100, 1200)] {
        let mut stage = Stage::new(false);
        stage.publish(1000);
        stage.remb(bitrate);
        for _ in 0..packets {
            stage.publish(1000);
        }
        // The thread is late.
        stage.world.now += Duration::from_millis(stalled_ms);
        for _ in 0..3000 {
            stage.advance(Duration::from_millis(1));
        }
        assert_eq!(
            stage.world.count("subscription_interrupted"),
            1,
            "{bitrate}"
        );
        let dropped = stage.world.count("paced_dropped");
        assert!(dropped > 50, "{bitrate}: {dropped}");
        let told = stage.world.clients[stage.publisher].take_rtcp();
        let asked = stage.world.count("keyframe_requests_sent");
        assert!(asked > 0 && told.iter().any(|p| matches!(p, RtcpPacket::Pli { .. })));
        // As soon as the allocator has seen that it takes less now.
        let before = stage.received.len();
        let goes_on = (0..1000).any(|_| {
            stage.publish(100);
            stage.advance(Duration::from_millis(20));
            stage.received.len() > before
        });
        assert!(goes_on, "{bitrate}");
        stage.assert_no_gap();
    }
}

#[test]
fn a_refused_request_spends_nothing() {
    let mut stage = Stage::new(true);
    for _ in 0..60 {
        stage.publish(1000);
        stage.advance(Duration::from_millis(10));
    }
    let seqs: Vec<SeqNo16> = stage.received.iter().rev().take(40).map(|r| r.1).collect();
    let at = stage.subscriber;
    let mut repaired = 0;
    // Each packet is asked for ten times at once, as by who has no patience: it comes once.
    for seq in seqs {
        let media = Ssrc(0x5000_0000);
        let before = stage.world.count("rtp_retransmitted");
        for _ in 0..10 {
            stage
                .world
                .send_rtcp(at, |out| write_nack(out, Ssrc(9), media, &[seq]));
        }
        repaired += stage.world.count("rtp_retransmitted") - before;
        // A kilobyte each 50 ms, of an estimate of at least 300 kbit/s.
        stage.advance(Duration::from_millis(50));
    }
    assert!(
        repaired >= 40,
        "{repaired}: what has been waited for long comes twice"
    );
    assert_eq!(stage.world.count("nack_over_budget"), 0);
}

#[test]
fn what_a_fan_out_has_due_is_known_when_its_datagrams_are() {
    let mut stage = Stage::new(false);
    stage.remb(500_000);
    stage.publish(100);
    stage.advance(Duration::from_millis(20));
    let publisher = stage.publisher;
    let World {
        shard,
        now,
        clients,
        ..
    } = &mut stage.world;
    let burst: Vec<_> = (0..20)
        .map(|_| {
            let packet = Rtp {
                ssrc: 1000 * clients[publisher].key.0 as u32,
                seq: stage.seq,
                timestamp: 3000,
                payload_type: 96,
                extensions: &[],
                payload: &[0x10; 1000],
            };
            stage.seq += 1;
            let sealed = clients[publisher].seal_rtp(&packet.bytes());
            (clients[publisher].address, sealed)
        })
        .collect();
    shard.handle_batch(*now, burst);
    while let Some(outbox) = shard.poll_outbox(*now) {
        outbox.clear();
    }
    assert!(shard.counters().paced > 0);
    let due = shard.poll_timeout().expect("packets wait");
    // The pacer's first step: 1500 bytes of debt at most, at 750 kbit/s.
    let wait = due.saturating_duration_since(*now);
    assert!(wait <= Duration::from_millis(20), "{wait:?}");
}

#[test]
fn one_peer_cannot_make_the_shard_work_without_end() {
    let mut stage = Stage::new(true);
    for _ in 0..60 {
        stage.publish(1000);
        stage.advance(Duration::from_millis(10));
    }
    let at = stage.subscriber;
    let refused = |stage: &Stage| {
        [
            "rtp_retransmitted",
            "nack_not_held",
            "nack_under_way",
            "nack_over_budget",
        ]
        .map(|name| stage.world.count(name))
        .iter()
        .sum::<u64>()
    };
    let before = refused(&stage);
    // A hundred datagrams in no time, each with 2000 numbers.
    for _ in 0..100 {
        let numbers: Vec<SeqNo16> = (0..2000).map(SeqNo16).collect();
        stage.world.send_rtcp(at, |out| {
            write_nack(out, Ssrc(9), Ssrc(0x5000_0000), &numbers)
        });
    }
    let looked_up = refused(&stage) - before;
    assert!((500..4000).contains(&looked_up), "{looked_up}");
    assert!(stage.world.count("rtcp_over_budget") > 90);
    // And soon it is heard again.
    stage.advance(Duration::from_millis(300));
    let before = stage.world.count("rtp_retransmitted");
    let (_, last, ..) = stage.received.iter().rfind(|r| r.0 != RTX).unwrap().clone();
    stage.world.send_rtcp(at, |out| {
        write_nack(out, Ssrc(9), Ssrc(0x5000_0000), &[last])
    });
    assert_eq!(stage.world.count("rtp_retransmitted"), before + 1);
}

/// 5 Mbit/s of which 30 % are lost, both of packets and of what is sent again: all is repaired in the end, as a Chromium
/// asks and reports.
#[test]
fn who_loses_much_is_still_repaired() {
    let mut stage = Stage::new(false);
    let at = stage.subscriber;
    let media = Ssrc(0x5000_0000);
    let mut missing: Vec<(SeqNo16, Instant)> = Vec::new();
    let (mut noise, mut seen) = (7_u32, 0);
    let mut lost = || {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        noise >> 16 < 65_536 * 3 / 10
    };
    for ms in 0..6000_u32 {
        if ms < 5000 && ms % 2 == 0 {
            stage.publish(1200);
        }
        stage.advance(Duration::from_millis(1));
        for packet in &stage.received[seen..] {
            let now = stage.world.now;
            let is_lost = lost();
            missing.retain(|(seq, _)| *seq != packet.1);
            if is_lost {
                missing.push((packet.1, now));
            }
        }
        seen = stage.received.len();
        if ms % 20 == 0 && !missing.is_empty() {
            let numbers: Vec<SeqNo16> = missing.iter().map(|(seq, _)| *seq).collect();
            stage
                .world
                .send_rtcp(at, |out| write_nack(out, Ssrc(9), media, &numbers));
            stage.collect();
        }
    }
    assert_eq!(stage.world.count("rtcp_over_budget"), 0);
    assert!(stage.world.count("rtp_retransmitted") > 900);
    assert_eq!(missing.len(), 0, "{:?}", &missing[..missing.len().min(9)]);
}

/// A picture of one of two encodings of a track: whole, and a keyframe or not.
fn picture(world: &mut World, encoding: u16, seq: u16, is_key: bool) {
    let mut payload = vec![0xaa; 400 << encoding];
    // RFC 7741 §4.2: the start of a frame; RFC 6386 §9.1: an inter frame, or a keyframe with its size.
    payload[..2].copy_from_slice(&[0x10, u8::from(!is_key)]);
    payload[4..7].copy_from_slice(&[0x9d, 0x01, 0x2a]);
    payload[7..9].copy_from_slice(&(320_u16 << encoding).to_le_bytes());
    payload[9..11].copy_from_slice(&(180_u16 << encoding).to_le_bytes());
    let packet = Rtp {
        ssrc: 70 + u32::from(encoding),
        seq,
        timestamp: 3000 * u32::from(seq),
        payload_type: 96,
        extensions: &[],
        payload: &payload,
    };
    world.send_rtp(0, &packet.bytes());
}

/// Another video of the subscriber fills the pacer to the last place, so that the keyframe with which it changes over finds no
/// room. It has changed over all the same: what it left is not forwarded to it any more.
#[test]
fn a_switch_that_finds_no_room_leaves_the_former_encoding() {
    let mut world = World::new();
    let publisher = world.join("room");
    let crowd = track(&world, publisher, 0, &[codec(96, Codec::Vp8)]);
    let mut cast = track(&world, publisher, 1, &[codec(96, Codec::Vp8)]);
    cast.encodings = [70, 71]
        .map(|ssrc| EncodingConfig {
            ssrc: Some(Ssrc(ssrc)),
            ..EncodingConfig::default()
        })
        .into();
    world.configure(publisher, &[crowd.clone(), cast.clone()], &[]);
    let subscriber = world.join("room");
    let wanted = [(0, &crowd), (1, &cast)]
        .map(|(number, track)| subscription(number, track, &[codec(120, Codec::Vp8)]));
    world.configure(subscriber, &[], &wanted);
    let mut seq = 0;
    let mut pictures = |world: &mut World, count: u16, is_key: bool| {
        for _ in 0..count {
            seq += 1;
            picture(world, 0, seq, is_key);
            picture(world, 1, seq, is_key);
            world.advance(Duration::from_millis(40));
        }
    };
    pictures(&mut world, 50, true);
    let small = Preference {
        width: Some(320),
        ..Preference::default()
    };
    world.command(Command::Prefer {
        peer: world.clients[subscriber].key,
        preferences: Preferences {
            tracks: vec![(cast.key, small)],
            last_n: None,
        },
    });
    pictures(&mut world, 10, false);
    let remb = Remb {
        sender: Ssrc(9),
        bitrate: Bitrate(100_000),
        ssrcs: vec![Ssrc(0x5000_0000)],
    };
    world.send_rtcp(subscriber, |out| remb.write(out));
    for seq in 0.. {
        if world.count("paced") == 1024 {
            break;
        }
        let packet = Rtp {
            ssrc: crowd.encodings[0].ssrc.unwrap().0,
            seq,
            timestamp: 3000,
            payload_type: 96,
            extensions: &[],
            payload: &[0x10; 100],
        };
        world.send_rtp(publisher, &packet.bytes());
    }
    assert_eq!(world.count("subscription_interrupted"), 0);
    picture(&mut world, 0, 61, true);
    assert_eq!(world.count("subscription_interrupted"), 1);
    let other = world.count("forward_other_encoding");
    picture(&mut world, 1, 61, false);
    assert_eq!(world.count("forward_other_encoding"), other);
}
