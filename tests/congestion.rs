//! One shard with peers in memory: what is numbered, reported, paced and probed. What follows from the numbers is tested
//! beside `media::congestion`.

#[path = "support/shard_world.rs"]
mod support;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use shardcast::base::ids::{Bitrate, SeqNo16, Ssrc};
use shardcast::control::TrackConfig;
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
    // From 300 kbit/s: probes found more, up to the least ceiling while what the track takes is hardly measured.
    let estimate = stage.estimate().unwrap();
    assert!(estimate > Bitrate(900_000), "{estimate}");
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
    let remb = Remb {
        sender: Ssrc(9),
        bitrate: Bitrate(1_000_000),
        ssrcs: vec![Ssrc(0x5000_0000)],
    };
    let at = stage.subscriber;
    stage.world.send_rtcp(at, |out| remb.write(out));
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
    let seqs: Vec<u16> = stage.received.iter().map(|r| r.1.0).collect();
    assert!(
        seqs.windows(2)
            .all(|pair| pair[1] == pair[0].wrapping_add(1))
    );
    assert_eq!(stage.world.count("paced_dropped"), 0);
    assert!(stage.world.count("paced") > 20);
}
