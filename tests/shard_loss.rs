//! One shard with peers in memory: what is lost, asked for and sent again.

#[path = "support/shard_world.rs"]
mod support;

use std::time::Duration;

use shardcast::base::ids::{PayloadType, RtpTime, SeqNo16, Ssrc};
use shardcast::control::{SubscriptionConfig, TrackConfig};
use shardcast::wire::codec::Codec;
use shardcast::wire::extension::Extension;
use shardcast::wire::rtcp::{
    NtpTime, ReportBlock, RtcpPacket, SenderReport, write_nack, write_receiver_report,
    write_sender_report,
};
use shardcast::wire::rtp::RtpHeader;
use shardcast::wire::xr::{ReferenceReply, write_reference_time};
use support::{Rtp, World, codec, extensions, subscription, track};

const MS: Duration = Duration::from_millis(1);
const MEDIA: Ssrc = Ssrc(0x5000_0000);

/// A publisher and one subscriber of its track, connected.
struct Stage {
    world: World,
    publisher: usize,
    subscriber: usize,
}

impl Stage {
    fn new(
        source: Codec,
        sink: &[(u8, Codec)],
        describe: impl FnOnce(&mut TrackConfig, &mut SubscriptionConfig),
    ) -> Self {
        let mut world = World::new();
        let (publisher, subscriber) = (world.join("room"), world.join("room"));
        let mut published = track(&world, publisher, 0, &[codec(96, source)]);
        let sink: Vec<_> = sink.iter().map(|(pt, sink)| codec(*pt, *sink)).collect();
        let mut wanted = subscription(0, &published, &sink);
        describe(&mut published, &mut wanted);
        world.configure(publisher, &[published], &[]);
        world.configure(subscriber, &[], &[wanted]);
        Self {
            world,
            publisher,
            subscriber,
        }
    }

    fn publish(&mut self, ssrc: u32, payload_type: u8, seq: u16, payload: &[u8]) {
        self.publish_with(ssrc, payload_type, seq, &[], payload);
    }

    fn publish_with(
        &mut self,
        ssrc: u32,
        payload_type: u8,
        seq: u16,
        extensions: &[(u8, &[u8])],
        payload: &[u8],
    ) {
        let packet = Rtp {
            ssrc,
            seq,
            timestamp: 960 * u32::from(seq),
            payload_type,
            extensions,
            payload,
        };
        self.world.send_rtp(self.publisher, &packet.bytes());
    }

    fn received(&mut self) -> Vec<(RtpHeader, Vec<u8>)> {
        self.world.clients[self.subscriber].take_rtp()
    }

    fn asked(&mut self) -> Vec<u16> {
        let rtcp = self.world.clients[self.publisher].take_rtcp();
        let nacks = rtcp.into_iter().filter_map(|packet| match packet {
            RtcpPacket::Nack { media, seqs, .. } => {
                assert_eq!(media, Ssrc(1000));
                Some(seqs)
            }
            _ => None,
        });
        nacks.flatten().map(|seq| seq.0).collect()
    }

    /// The subscriber says what it received, up to a number, and lost since the last report, in 1/256.
    fn report(&mut self, highest_seq: u32, fraction_lost: u8) {
        let block = ReportBlock {
            ssrc: MEDIA,
            fraction_lost,
            total_lost: 0,
            highest_seq,
            jitter_ticks: 0,
            last_sr: 0,
            delay_since_last_sr: 0,
        };
        self.world.send_rtcp(self.subscriber, |out| {
            write_receiver_report(out, Ssrc(1), &[block], "c");
        });
    }

    /// The subscriber answers a sender report after so long.
    fn tell_round_trip(&mut self, rtt: Duration, highest: SeqNo16) {
        self.world.send_rtcp(self.publisher, |out| {
            let report = SenderReport {
                ssrc: Ssrc(1000),
                ntp: NtpTime(7 << 32),
                rtp_time: RtpTime(960 * 12),
                packets: 2,
                octets: 2,
            };
            write_sender_report(out, &report, "c");
        });
        let rtcp = self.world.clients[self.subscriber].take_rtcp();
        let last_sr = rtcp.iter().find_map(|packet| match packet {
            RtcpPacket::SenderReport(report) => Some(report.ntp.middle()),
            _ => None,
        });
        self.world.advance(rtt);
        let block = ReportBlock {
            ssrc: MEDIA,
            fraction_lost: 0,
            total_lost: 0,
            highest_seq: u32::from(highest.0),
            jitter_ticks: 0,
            last_sr: last_sr.unwrap(),
            delay_since_last_sr: 0,
        };
        self.world.send_rtcp(self.subscriber, |out| {
            write_receiver_report(out, Ssrc(1), &[block], "c");
        });
    }

    fn nack(&mut self, seqs: &[SeqNo16]) {
        self.world.send_rtcp(self.subscriber, |out| {
            write_nack(out, Ssrc(1), MEDIA, seqs);
        });
    }
}

fn vp8(describe: impl FnOnce(&mut TrackConfig, &mut SubscriptionConfig)) -> Stage {
    Stage::new(Codec::Vp8, &[(120, Codec::Vp8)], describe)
}

#[test]
fn a_gap_is_asked_for_and_closed_by_the_retransmission_stream() {
    let mut stage = vp8(|track, _| track.encodings[0].rtx_ssrc = Some(Ssrc(1001)));
    for seq in [65_534, 65_535, 1] {
        stage.publish(1000, 96, seq, &[seq as u8]);
    }
    stage.world.advance(9 * MS);
    assert_eq!(stage.asked(), [] as [u16; 0], "it may only be late");
    stage.world.advance(2 * MS);
    assert_eq!(stage.asked(), [0]);
    stage.world.advance(100 * MS);
    assert_eq!(stage.asked(), [0]);

    let before = stage.received();
    stage.publish(1001, 97, 7, &[0, 0, 42]);
    let got = stage.received();
    assert_eq!(got.len(), 1);
    let (header, payload) = &got[0];
    assert_eq!(payload, &[42]);
    assert_eq!(header.seq.0, before[1].0.seq.0 + 1, "the gap is closed");
    assert_eq!(
        (header.ssrc, header.payload_type),
        (MEDIA, PayloadType(120))
    );
    assert_eq!(stage.world.count("rtx_recovered"), 1);

    // What is there already, probes, and rubbish.
    stage.publish(1001, 97, 8, &[0, 0, 42]);
    stage.publish(1001, 97, 9, &[0, 1, 42]);
    stage.publish(1001, 97, 10, &[]);
    stage.publish(1001, 97, 11, &[1]);
    assert!(stage.received().is_empty());
    assert_eq!(stage.world.count("rtx_unneeded"), 2);
    assert_eq!(stage.world.count("rtx_padding"), 1);
    assert_eq!(stage.world.count("rtp_malformed"), 1);
    stage.world.advance(300 * MS);
    assert!(stage.asked().is_empty());

    // The report speaks of the way, not of the repair; and asks how long it is.
    stage.world.advance(1000 * MS);
    let rtcp = stage.world.clients[stage.publisher].take_rtcp();
    let lost = rtcp.iter().find_map(|packet| match packet {
        RtcpPacket::Reports { blocks, .. } => Some((blocks[0].fraction_lost, blocks[0].total_lost)),
        _ => None,
    });
    assert_eq!(lost, Some((64, 1)));
    let is_time = |packet: &RtcpPacket| matches!(packet, RtcpPacket::ReferenceTime { .. });
    assert!(rtcp.iter().any(is_time));
}

#[test]
fn a_retransmission_stream_that_no_description_names_is_found() {
    let mid: (u8, &[u8]) = (4, b"0");
    let mut stage = vp8(|track, _| track.encodings[0].ssrc = None);
    for seq in [10, 12] {
        stage.publish_with(1000, 96, seq, &[mid], &[seq as u8]);
    }
    stage.publish_with(77, 97, 500, &[mid], &[0, 11, 42]);
    let got: Vec<u8> = stage.received().iter().map(|(_, p)| p[0]).collect();
    assert_eq!(got, [10, 12, 42]);
}

#[test]
fn what_nobody_receives_or_agreed_to_is_not_asked_for() {
    let mut unwanted = vp8(|_, wanted| wanted.active = false);
    let mut refused = vp8(|track, _| track.codecs[0].nack = false);
    for stage in [&mut unwanted, &mut refused] {
        for seq in [10, 12] {
            stage.publish(1000, 96, seq, b"x");
        }
        stage.world.advance(500 * MS);
        assert!(stage.asked().is_empty());
    }
}

#[test]
fn a_gap_that_stays_costs_one_keyframe() {
    let mut stage = vp8(|_, _| ());
    for seq in [10, 31] {
        stage.publish(1000, 96, seq, b"x");
    }
    stage.world.clients[stage.publisher].take_rtcp();
    let mut plis = 0;
    for _ in 0..400 {
        stage.world.advance(10 * MS);
        let rtcp = stage.world.clients[stage.publisher].take_rtcp();
        let is_pli = |packet: &&RtcpPacket| matches!(packet, RtcpPacket::Pli { .. });
        plis += rtcp.iter().filter(is_pli).count();
    }
    assert_eq!(plis, 1);
    assert_eq!(stage.world.count("nack_given_up"), 20);
}

#[test]
fn a_nack_is_answered_on_the_retransmission_stream() {
    let mut stage = vp8(|_, wanted| wanted.rtx_ssrc = Some(Ssrc(0x6000_0000)));
    for seq in [10, 11] {
        stage.publish(1000, 96, seq, &[seq as u8]);
    }
    let sent = stage.received();
    let mut numbers = Vec::new();
    for _ in 0..3 {
        stage.nack(&[sent[1].0.seq]);
        stage.nack(&[sent[1].0.seq]);
        let again = stage.received();
        assert_eq!(again.len(), 1, "not twice within a round trip");
        let (header, payload) = &again[0];
        let osn = sent[1].0.seq.0.to_be_bytes();
        assert_eq!(payload, &[&osn[..], &[11]].concat());
        assert_eq!(header.ssrc, Ssrc(0x6000_0000));
        assert_eq!(header.payload_type, PayloadType(121));
        assert_eq!(header.timestamp, sent[1].0.timestamp);
        numbers.push(header.seq.0);
        stage.world.advance(20 * MS);
    }
    let first = numbers[0];
    assert_eq!(numbers, [first, first + 1, first + 2]);
    assert_eq!(stage.world.count("rtp_retransmitted_rtx"), 3);
}

#[test]
fn what_was_waited_for_too_long_costs_one_keyframe() {
    let mut stage = vp8(|_, wanted| wanted.rtx_ssrc = Some(Ssrc(0x6000_0000)));
    for seq in [10, 11, 12] {
        stage.publish(1000, 96, seq, &[seq as u8]);
    }
    let sent = stage.received();
    stage.world.clients[stage.publisher].take_rtcp();
    let mut plis = Vec::new();
    for at_ms in (0..).step_by(210).take(9) {
        stage.nack(&[sent[1].0.seq]);
        let copies = stage.received().len();
        assert_eq!(copies, usize::from(at_ms < 8 * 210), "eight in all");
        let rtcp = stage.world.clients[stage.publisher].take_rtcp();
        let is_pli = |packet: &RtcpPacket| matches!(packet, RtcpPacket::Pli { .. });
        if rtcp.iter().any(is_pli) {
            plis.push(at_ms);
        }
        stage.world.advance(210 * MS);
    }
    assert_eq!(plis, [840]);
    // Another one, later, is another reason.
    stage.publish(1000, 96, 13, &[13]);
    let next = stage.received().pop().unwrap();
    stage.world.advance(900 * MS);
    stage.nack(&[next.0.seq]);
    assert_eq!(stage.world.count("stuck_keyframes_wanted"), 2);
}

/// When copies go out, in ms since the packets did, with a round trip of 200 ms: each is asked for at these times.
fn copies_at(asked_ms: &[u64]) -> Vec<u64> {
    let mut stage = vp8(|_, wanted| wanted.rtx_ssrc = Some(Ssrc(0x6000_0000)));
    stage.publish(1000, 96, 9, &[9]);
    let first = stage.received();
    stage.tell_round_trip(200 * MS, first[0].0.seq);
    for seq in [10, 11, 12] {
        stage.publish(1000, 96, seq, &[seq as u8]);
    }
    let sent = stage.received();
    let mut copies = Vec::new();
    for at_ms in 0..2000 {
        if asked_ms.contains(&at_ms) {
            stage.nack(&[sent[1].0.seq]);
        }
        copies.extend(stage.received().iter().map(|_| at_ms));
        stage.world.advance(MS);
        copies.extend(stage.received().iter().map(|_| at_ms + 1));
    }
    copies
}

#[test]
fn late_pictures_are_followed_up_one_round_trip_after_the_other() {
    let cases: [(&[u64], &[u64]); 9] = [
        (&[], &[]),
        // The first request and the first answer are in time.
        (&[200], &[200]),
        (&[230], &[230]),
        // A request was lost, or an answer: from now on nobody need ask.
        (&[300], &[300, 500, 700, 900]),
        (&[200, 405], &[200, 405, 605, 805, 1005]),
        // Who asks makes it last, but never denser.
        (&[300, 510, 720], &[300, 500, 700, 900]),
        (&[300, 890], &[300, 500, 700, 900, 1100, 1300, 1500]),
        // What comes a little too early is held back; what comes far too early is from before the last copy came.
        (&[200, 380], &[200, 400, 600, 800, 1000]),
        (&[100, 200, 374], &[200]),
    ];
    for (asked, expected) in cases {
        assert_eq!(copies_at(asked), expected, "{asked:?}");
    }
}

#[test]
fn what_came_late_and_has_just_gone_out_is_not_sent_again_at_once() {
    let mut stage = vp8(|_, _| ());
    for seq in [10, 12] {
        stage.publish(1000, 96, seq, &[seq as u8]);
    }
    let sent = stage.received();
    stage.tell_round_trip(200 * MS, sent[1].0.seq);
    let late = SeqNo16(sent[0].0.seq.0.wrapping_add(1));
    stage.publish(1000, 96, 11, &[11]);
    assert_eq!(stage.received()[0].0.seq, late);
    for (after_ms, copies) in [(100, 0), (74, 0), (26, 1)] {
        stage.world.advance(after_ms * MS);
        stage.nack(&[late]);
        assert_eq!(stage.received().len(), copies, "{after_ms}");
    }
}

#[test]
fn redundant_audio_is_made_for_who_takes_it_and_sent_again_as_it_was() {
    let mut stage = Stage::new(
        Codec::Opus,
        &[(111, Codec::Opus), (63, Codec::Red)],
        |_, _| (),
    );
    // Of 200 packets five.
    stage.report(0, 0);
    stage.report(200, 6);
    for seq in [10, 11, 13, 14] {
        stage.publish(1000, 96, seq, &[seq as u8; 3]);
    }
    let red = |age: u16, old: u8, new: u8| {
        let age = age << 2;
        let mut payload = vec![0x80 | 111, (age >> 8) as u8, age as u8, 3, 111];
        payload.extend([[old; 3], [new; 3]].concat());
        payload
    };
    let mut sealed = stage.world.clients[stage.subscriber].sealed_rtp.clone();
    let got = stage.received();
    let got: Vec<(u8, &[u8])> = got
        .iter()
        .map(|(h, p)| (h.payload_type.0, &p[..]))
        .collect();
    let plain = |byte: u8| vec![byte; 3];
    // Of what is missing when a packet goes out, it goes out without.
    let expected = [
        (111, plain(10)),
        (63, red(960, 10, 11)),
        (111, plain(13)),
        (63, red(960, 13, 14)),
    ];
    let expected: Vec<(u8, &[u8])> = expected.iter().map(|(pt, p)| (*pt, &p[..])).collect();
    assert_eq!(got, expected);

    // The missing one comes late: what repeats nothing must not repeat it when it is sent again.
    stage.publish(1000, 96, 12, &[12; 3]);
    stage.publish(1000, 96, 15, &[15; 3]);
    sealed.extend(stage.world.clients[stage.subscriber].sealed_rtp.clone());
    let late = stage.received();
    let mut both = vec![
        0x80 | 111,
        ((960_u16 * 3) >> 6) as u8,
        ((960_u16 * 3) << 2) as u8,
        3,
    ];
    both.extend([0x80 | 111, 0x0f, 0x00, 3, 111]);
    both.extend([[12; 3], [14; 3], [15; 3]].concat());
    assert_eq!(late[1].1, both, "the late one is repeated once");
    let seqs: Vec<SeqNo16> = sealed
        .iter()
        .map(|d| RtpHeader::parse(d).unwrap().seq)
        .collect();
    stage.nack(&seqs);
    // The number of a sealed packet stands in its third and fourth byte.
    sealed.sort_unstable_by_key(|datagram| [datagram[2], datagram[3]]);
    assert_eq!(stage.world.clients[stage.subscriber].sealed_rtp, sealed);
}

#[test]
fn redundant_audio_is_made_while_much_is_lost() {
    let sink = [(111, Codec::Opus), (63, Codec::Red)];
    let mut stage = Stage::new(Codec::Opus, &sink, |_, _| ());
    let mut seq = 0;
    // How long a frame is says whether it is repeated.
    let mut lens = |stage: &mut Stage| {
        for _ in 0..3 {
            stage.publish(1000, 96, seq, &[1; 10]);
            seq += 1;
        }
        let got = stage.received();
        got.iter().map(|(_, p)| p.len()).collect::<Vec<_>>()
    };
    assert_eq!(lens(&mut stage), [10, 10, 10]);
    stage.report(0, 0);
    stage.report(1000, 2);
    assert_eq!(lens(&mut stage), [10, 10, 10], "less than one in a hundred");
    stage.report(1200, 13);
    assert_eq!(lens(&mut stage), [25, 25, 25]);
    stage.report(1400, 26);
    assert_eq!(lens(&mut stage), [39, 39, 39]);
    for second in 0..25 {
        stage.report(1600 + 200 * second, 0);
        stage.world.advance(1000 * MS);
    }
    assert_eq!(lens(&mut stage), [10, 10, 10], "nothing is lost any more");
}

/// RED with the frames before, the latest first, each with its age in frames: all bytes are its number.
fn red(seq: u8, before: &[(u16, u8)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (age, _) in before.iter().rev() {
        let fields = ((u32::from(*age) * 960) << 10) | 3;
        payload.push(0x80 | 96);
        payload.extend(&fields.to_be_bytes()[1..]);
    }
    payload.push(96);
    for (_, frame) in before.iter().rev() {
        payload.extend([*frame; 3]);
    }
    payload.extend([seq; 3]);
    payload
}

#[test]
fn what_is_lost_comes_again_out_of_redundant_audio() {
    let mut stage = Stage::new(Codec::Opus, &[(111, Codec::Opus)], |track, _| {
        track.codecs = vec![codec(63, Codec::Red), codec(96, Codec::Opus)];
    });
    let level = [0x80 | 20];
    let mut sealed = Vec::new();
    let mut publish = |stage: &mut Stage, seq: u8, before: &[(u16, u8)]| {
        let payload = red(seq, before);
        stage.publish_with(1000, 63, seq.into(), &[(1, &level)], &payload);
        sealed.extend(stage.world.clients[stage.subscriber].sealed_rtp.clone());
        let got = stage.received();
        got.iter()
            .map(|(header, payload)| {
                assert_eq!(header.payload_type, PayloadType(111));
                assert_eq!(payload.len(), 3);
                (header.seq.0, header.timestamp.0, payload[0])
            })
            .collect::<Vec<_>>()
    };
    let first = publish(&mut stage, 10, &[])[0];
    let expected = |seqs: &[u8]| -> Vec<(u16, u32, u8)> {
        let at = |seq: &u8| {
            let ahead = u16::from(*seq) - 10;
            let timestamp = first.1.wrapping_add(960 * u32::from(ahead));
            (first.0.wrapping_add(ahead), timestamp, *seq)
        };
        seqs.iter().map(at).collect()
    };
    assert_eq!(publish(&mut stage, 12, &[(1, 11)]), expected(&[11, 12]));
    assert_eq!(publish(&mut stage, 11, &[(1, 10)]), [], "it comes itself");
    assert_eq!(stage.world.count("red_superseded"), 1);
    let both = [(1, 14), (2, 13)];
    assert_eq!(publish(&mut stage, 15, &both), expected(&[13, 14, 15]));
    assert_eq!(publish(&mut stage, 17, &[(1, 16)]), expected(&[16, 17]));
    // What was there already, and what does not fit to any number.
    assert_eq!(
        publish(&mut stage, 18, &[(1, 17), (2, 16)]),
        expected(&[18])
    );
    assert_eq!(publish(&mut stage, 22, &[(2, 20)]), expected(&[22]));
    // What was missing and did not come so, may still come.
    assert_eq!(publish(&mut stage, 20, &[]), expected(&[20]));
    assert_eq!(stage.world.count("red_recovered"), 4);
    // Sent again it is what it was.
    let wanted = expected(&[11])[0].0;
    stage.nack(&[SeqNo16(wanted)]);
    let again = &stage.world.clients[stage.subscriber].sealed_rtp;
    assert_eq!(again.len(), 1);
    assert!(sealed.contains(&again[0]));
}

#[test]
fn reference_times_go_to_who_has_agreed() {
    for agreed in [true, false] {
        let mut stage = vp8(|track, _| track.reference_times = agreed);
        stage.publish(1000, 96, 10, b"x");
        stage.world.clients[stage.publisher].take_rtcp();
        stage.world.advance(1500 * MS);
        let rtcp = stage.world.clients[stage.publisher].take_rtcp();
        let is_report = |packet: &RtcpPacket| matches!(packet, RtcpPacket::Reports { .. });
        let is_time = |packet: &RtcpPacket| matches!(packet, RtcpPacket::ReferenceTime { .. });
        assert!(rtcp.iter().any(is_report));
        assert_eq!(rtcp.iter().any(is_time), agreed);
    }
}

#[test]
fn a_reference_time_is_answered_at_once() {
    let mut stage = vp8(|track, _| track.extensions = extensions(&[(Extension::Mid, 4)]));
    let ntp = NtpTime(0x0102_0304_0506_0708);
    stage.world.send_rtcp(stage.subscriber, |out| {
        write_reference_time(out, Ssrc(5), ntp);
        write_reference_time(out, Ssrc(6), ntp);
    });
    let rtcp = stage.world.clients[stage.subscriber].take_rtcp();
    let reply = |ssrc| ReferenceReply {
        ssrc: Ssrc(ssrc),
        last_rr: 0x0304_0506,
        delay: 0,
    };
    let expected = RtcpPacket::ReferenceReplies(vec![reply(5), reply(6)]);
    assert!(rtcp.contains(&expected), "{rtcp:?}");
    // A flood is not.
    for _ in 0..10 {
        stage.world.send_rtcp(stage.subscriber, |out| {
            write_reference_time(out, Ssrc(5), ntp);
        });
        stage.world.advance(10 * MS);
    }
    let rtcp = stage.world.clients[stage.subscriber].take_rtcp();
    let is_reply = |packet: &&RtcpPacket| matches!(packet, RtcpPacket::ReferenceReplies(_));
    assert_eq!(rtcp.iter().filter(is_reply).count(), 1);
}
