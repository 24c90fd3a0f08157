//! One shard with peers in memory: what they send, what the others get.

#[path = "support/shard_world.rs"]
mod support;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use proptest::prelude::*;
use shardcast::base::ids::{MediaKind, PayloadType, PeerKey, RtpTime, SeqNo16, ShardId, Ssrc};
use shardcast::control::{Command, IceCredentials, SubscriptionConfig, TrackConfig};
use shardcast::shard::strays::{Claim, ClaimKind, Sorted};
use shardcast::wire::codec::Codec;
use shardcast::wire::extension::{Extension, ExtensionId};
use shardcast::wire::rtcp::{
    NtpTime, RtcpPacket, SenderReport, write_bye, write_fir, write_nack, write_pli,
    write_receiver_report, write_sender_report,
};
use shardcast::wire::rtp::RtpHeader;
use support::{Rtp, World, codec, extensions, subscription, track};

/// A publisher and subscribers of its VP8 track in one room, everybody connected.
struct Stage {
    world: World,
    publisher: usize,
    subscribers: Vec<usize>,
    track: TrackConfig,
    seq: u16,
}

impl Stage {
    fn new(subscribers: usize) -> Self {
        let mut world = World::new();
        let publisher = world.join("room");
        let track = track(&world, publisher, 0, &[codec(96, Codec::Vp8)]);
        world.configure(publisher, std::slice::from_ref(&track), &[]);
        let subscribers: Vec<usize> = (0..subscribers).map(|_| world.join("room")).collect();
        for &at in &subscribers {
            let wanted = subscription(0, &track, &[codec(120, Codec::Vp8)]);
            world.configure(at, &[], &[wanted]);
        }
        Self {
            world,
            publisher,
            subscribers,
            track,
            seq: 65_000,
        }
    }

    fn wanted(&self) -> SubscriptionConfig {
        subscription(0, &self.track, &[codec(120, Codec::Vp8)])
    }

    /// Sends the next packet of the track.
    fn publish(&mut self, payload: &[u8]) {
        self.publish_seq(self.seq, payload);
        self.seq = self.seq.wrapping_add(1);
    }

    fn publish_seq(&mut self, seq: u16, payload: &[u8]) {
        let packet = Rtp {
            ssrc: 1000,
            seq,
            timestamp: 3000 * u32::from(seq),
            payload_type: 96,
            extensions: &[],
            payload,
        };
        self.world.send_rtp(self.publisher, &packet.bytes());
    }

    fn received(&mut self, subscriber: usize) -> Vec<(RtpHeader, Vec<u8>)> {
        self.world.clients[self.subscribers[subscriber]].take_rtp()
    }

    fn upstream(&mut self) -> Vec<RtcpPacket> {
        self.world.clients[self.publisher].take_rtcp()
    }

    fn plis(&mut self) -> usize {
        let is_pli = |packet: &RtcpPacket| *packet == RtcpPacket::Pli { media: Ssrc(1000) };
        self.upstream().into_iter().filter(is_pli).count()
    }

    fn nack(&mut self, subscriber: usize, seqs: &[SeqNo16]) {
        let at = self.subscribers[subscriber];
        self.world.send_rtcp(at, |out| {
            write_nack(out, Ssrc(1), Ssrc(0x5000_0000), seqs);
        });
    }
}

const MS: Duration = Duration::from_millis(1);
/// Of VP8 the start of a keyframe (RFC 7741 §4.2).
const KEYFRAME: &[u8] = &[0x10, 0];

#[test]
fn one_packet_reaches_both_others_with_their_own_numbers() {
    let mut stage = Stage::new(2);
    for payload in [b"one", b"two"] {
        stage.publish(payload);
    }
    let mut firsts = Vec::new();
    for subscriber in 0..2 {
        let packets = stage.received(subscriber);
        let payloads: Vec<&[u8]> = packets.iter().map(|(_, p)| p.as_slice()).collect();
        assert_eq!(payloads, [b"one", b"two"]);
        let (a, b) = (packets[0].0, packets[1].0);
        assert_eq!(a.payload_type, PayloadType(120));
        assert_eq!(a.ssrc, Ssrc(0x5000_0000));
        assert_eq!(b.seq.0, a.seq.0 + 1);
        assert!(a.seq.0 < 1 << 15);
        assert_eq!(b.timestamp.0.wrapping_sub(a.timestamp.0), 3000);
        firsts.push((a.seq, a.timestamp));
    }
    assert_ne!(firsts[0], firsts[1], "numbered apart");
    assert!(stage.world.clients[stage.publisher].rtp.is_empty());
}

#[test]
fn payload_types_and_extensions_are_mapped() {
    let mut world = World::new();
    let (publisher, subscriber) = (world.join("room"), world.join("room"));
    let mut opus = track(&world, publisher, 0, &[codec(111, Codec::Opus)]);
    // Ids: mid 4, audio level 1, and one the subscriber does not know.
    opus.extensions = extensions(&[
        (Extension::Mid, 4),
        (Extension::AudioLevel, 1),
        (Extension::PlayoutDelay, 2),
    ]);
    let wanted = subscription(3, &opus, &[codec(109, Codec::Opus)]);
    // Who subscribes first waits for the track.
    world.configure(subscriber, &[], &[wanted]);
    world.configure(publisher, std::slice::from_ref(&opus), &[]);
    let packet = Rtp {
        ssrc: 1000,
        seq: 1,
        timestamp: 5,
        payload_type: 111,
        extensions: &[(4, b"0"), (1, &[0x85]), (2, &[1, 2, 3]), (7, b"?")],
        payload: b"opus",
    };
    world.send_rtp(publisher, &packet.bytes());
    let raw = world.clients[subscriber].rtp[0].clone();
    let header = RtpHeader::parse(&raw).unwrap();
    assert_eq!(header.payload_type, PayloadType(109));
    let id = |id| ExtensionId::new(id).unwrap();
    let got: Vec<_> = header.extensions(&raw).collect();
    assert_eq!(got, [(id(9), b"s3".as_slice()), (id(6), &[0x85])]);
}

#[test]
fn red_is_passed_on_renamed_or_stripped() {
    let mut world = World::new();
    let [publisher, with_red, without] = [(); 3].map(|()| world.join("room"));
    let audio = track(
        &world,
        publisher,
        0,
        &[codec(63, Codec::Red), codec(111, Codec::Opus)],
    );
    world.configure(publisher, std::slice::from_ref(&audio), &[]);
    let red = [codec(50, Codec::Red), codec(109, Codec::Opus)];
    world.configure(with_red, &[], &[subscription(0, &audio, &red)]);
    world.configure(without, &[], &[subscription(0, &audio, &red[1..])]);
    let payload = [0x80 | 111, 0, 0, 2, 111, 1, 1, 2, 2, 2];
    let mut packet = Rtp {
        ssrc: 1000,
        seq: 1,
        timestamp: 5,
        payload_type: 63,
        extensions: &[],
        payload: &payload,
    };
    world.send_rtp(publisher, &packet.bytes());
    packet.payload = &[0x80 | 111, 0, 0x03, 0xff, 111, 1];
    packet.seq = 2;
    world.send_rtp(publisher, &packet.bytes());
    let got = |world: &mut World, at: usize| {
        let packets = world.clients[at].take_rtp();
        let got = packets.into_iter().map(|(h, p)| (h.payload_type.0, p));
        got.collect::<Vec<_>>()
    };
    let renamed = vec![0x80 | 109, 0, 0, 2, 109, 1, 1, 2, 2, 2];
    assert_eq!(got(&mut world, with_red), [(50, renamed)]);
    assert_eq!(got(&mut world, without), [(109, vec![2, 2, 2])]);
    assert_eq!(world.count("forward_malformed_red"), 2);
}

#[test]
fn a_nack_is_answered_with_the_identical_datagram() {
    let mut stage = Stage::new(1);
    for payload in [b"a", b"b", b"c"] {
        stage.publish(payload);
    }
    let at = stage.subscribers[0];
    let client = &stage.world.clients[at];
    let sent = client.sealed_rtp.clone();
    let seqs: Vec<SeqNo16> = sent
        .iter()
        .map(|d| RtpHeader::parse(d).unwrap().seq)
        .collect();
    let unknown = SeqNo16(seqs[2].0.wrapping_add(1));
    stage.nack(0, &[seqs[0], seqs[2], unknown]);
    let again = stage.world.clients[at].sealed_rtp[3..].to_vec();
    assert_eq!(again, [sent[0].clone(), sent[2].clone()]);
    assert_eq!(stage.world.count("nack_not_held"), 1);

    // Not twice within a round trip, and not without end.
    for _ in 0..50 {
        stage.nack(0, &[seqs[1]]);
        stage.nack(0, &[seqs[1]]);
        stage.world.advance(20 * MS);
    }
    assert_eq!(stage.world.clients[at].sealed_rtp.len(), 5 + 8);
    assert_eq!(stage.world.count("nack_under_way"), 8);
    assert_eq!(stage.world.count("nack_over_budget"), 84);

    // After a change of what packets look like, nothing from before.
    let mut wanted = stage.wanted();
    wanted.codecs = [codec(100, Codec::Vp8)].into();
    stage.world.configure(at, &[], &[wanted]);
    stage.nack(0, &seqs);
    assert_eq!(stage.world.clients[at].sealed_rtp.len(), 13);
    stage.publish(b"d");
    let last = RtpHeader::parse(stage.world.clients[at].sealed_rtp.last().unwrap()).unwrap();
    assert_eq!(last.payload_type, PayloadType(100));
    assert_eq!(last.seq.0, seqs[2].0 + 1, "the numbering goes on");
}

#[test]
fn keyframe_requests_are_merged_and_spaced() {
    let mut stage = Stage::new(2);
    stage.publish(b"k");
    stage.world.advance(600 * MS);
    stage.upstream();
    let media = Ssrc(0x5000_0000);
    for &at in &stage.subscribers.clone() {
        stage
            .world
            .send_rtcp(at, |out| write_pli(out, Ssrc(1), media));
        stage
            .world
            .send_rtcp(at, |out| write_fir(out, Ssrc(1), media, 1));
    }
    assert_eq!(stage.plis(), 1, "the first at once");
    stage.world.advance(499 * MS);
    assert_eq!(stage.plis(), 0);
    stage.world.advance(MS);
    assert_eq!(stage.plis(), 1, "the others together");
    stage.world.advance(5000 * MS);
    assert_eq!(stage.plis(), 0);
    // About a stream that nobody sends.
    let at = stage.subscribers[0];
    stage
        .world
        .send_rtcp(at, |out| write_pli(out, Ssrc(1), Ssrc(77)));
    assert_eq!(stage.world.count("rtcp_unknown_stream"), 1);
}

#[test]
fn a_keyframe_is_asked_for_when_pictures_start_to_flow() {
    let mut stage = Stage::new(1);
    stage.publish(b"k");
    stage.upstream();
    let pause = |stage: &mut Stage, active| {
        let mut wanted = stage.wanted();
        wanted.active = active;
        let at = stage.subscribers[0];
        stage.world.configure(at, &[], &[wanted]);
    };
    pause(&mut stage, false);
    stage.world.advance(600 * MS);
    assert_eq!(stage.plis(), 0);
    stage.publish(b"unseen");
    pause(&mut stage, true);
    assert_eq!(stage.plis(), 1, "it became active");
    stage.publish(b"of no use");
    assert_eq!(stage.world.count("forward_awaits_keyframe"), 1);
    stage.world.advance(500 * MS);
    assert_eq!(stage.plis(), 1, "it did not come");
    stage.publish(KEYFRAME);
    stage.world.advance(5000 * MS);
    assert_eq!(stage.plis(), 0);
    let packets = stage.received(0);
    assert_eq!(packets.len(), 2);
    let seqs = [packets[0].0.seq.0, packets[1].0.seq.0];
    assert_eq!(seqs[1], seqs[0] + 1, "a pause leaves no gap");

    // One that configures first and connects later.
    stage.world.advance(600 * MS);
    let late = stage.world.add("room");
    let wanted = stage.wanted();
    stage.world.configure(late, &[], &[wanted]);
    assert_eq!(stage.plis(), 0);
    stage.world.connect(late);
    assert_eq!(stage.plis(), 1, "it connected");
}

#[test]
fn media_that_comes_before_its_description_costs_a_keyframe_request() {
    let mut stage = Stage::new(1);
    let (publisher, track) = (stage.publisher, stage.track.clone());
    stage.world.configure(publisher, &[], &[]);
    stage.publish(b"the keyframe");
    assert_eq!(stage.world.count("rtp_unknown_track"), 1);
    stage.world.configure(publisher, &[track], &[]);
    assert_eq!(stage.plis(), 0);
    stage.publish(b"a");
    assert_eq!(stage.plis(), 1);
    stage.publish(b"b");
    assert_eq!(stage.received(0).len(), 2);
}

#[test]
fn sender_reports_are_translated_and_receivers_reported() {
    let mut stage = Stage::new(1);
    let report = |rtp_time| SenderReport {
        ssrc: Ssrc(1000),
        ntp: NtpTime(10 << 32),
        rtp_time: RtpTime(rtp_time),
        packets: 99,
        octets: 9999,
    };
    stage.publish(b"one");
    let at = stage.subscribers[0];
    let reports = |stage: &mut Stage, at: usize| {
        let packets = stage.world.clients[at].take_rtcp();
        let reports = packets.into_iter().filter_map(|packet| match packet {
            RtcpPacket::SenderReport(report) => Some(report),
            _ => None,
        });
        reports.collect::<Vec<_>>()
    };
    let first = stage.received(0)[0].0;
    let published = 3000 * 65_000_u32;
    let publisher = stage.publisher;
    stage.world.send_rtcp(publisher, |out| {
        write_sender_report(out, &report(published + 450), "x");
    });
    let expected = SenderReport {
        ssrc: Ssrc(0x5000_0000),
        ntp: NtpTime(10 << 32),
        rtp_time: RtpTime(first.timestamp.0.wrapping_add(450)),
        packets: 1,
        octets: 3,
    };
    assert_eq!(reports(&mut stage, at), [expected]);

    // Who comes half a second later gets one with its first packet, as of then.
    stage.world.advance(500 * MS);
    let late = stage.world.join("room");
    let wanted = stage.wanted();
    stage.world.configure(late, &[], &[wanted]);
    stage.publish(b"two");
    let first = stage.world.clients[late].take_rtp()[0].0;
    let got = reports(&mut stage, late);
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].ntp, NtpTime((10 << 32) + (1 << 31)));
    // 450 ticks after the first packet and half a second on; the second packet is 3000 after it.
    let expected = first.timestamp.0.wrapping_add(450 + 45_000 - 3000);
    assert_eq!(got[0].rtp_time, RtpTime(expected));
    assert!(reports(&mut stage, at).is_empty());

    stage.world.advance(600 * MS);
    let blocks: Vec<_> = stage
        .upstream()
        .into_iter()
        .filter_map(|packet| match packet {
            RtcpPacket::Reports { blocks, .. } => Some(blocks),
            _ => None,
        })
        .collect();
    assert_eq!(blocks.len(), 1, "one report a second");
    let block = blocks[0][0];
    assert_eq!((block.ssrc, block.total_lost), (Ssrc(1000), 0));
    assert_eq!(block.last_sr, 10 << 16);
    assert_eq!(block.delay_since_last_sr, 65_536);
}

#[test]
fn a_track_is_found_by_mid_by_payload_type_or_not_at_all() {
    let mut world = World::new();
    let (publisher, subscriber) = (world.join("room"), world.join("room"));
    let mut tracks = [
        track(&world, publisher, 0, &[codec(96, Codec::Vp8)]),
        track(&world, publisher, 1, &[codec(96, Codec::Vp8)]),
        track(&world, publisher, 2, &[codec(111, Codec::Opus)]),
    ];
    for track in &mut tracks {
        track.encodings[0].ssrc = None;
    }
    let wanted: Vec<_> = (0..3)
        .map(|i| subscription(i, &tracks[i as usize], &tracks[i as usize].codecs))
        .collect();
    world.configure(publisher, &tracks, &[]);
    world.configure(subscriber, &[], &wanted);
    // (ssrc, payload type, mid) -> the subscription it comes on
    let mid_0: &[(u8, &[u8])] = &[(4, b"0")];
    let mid_1: &[(u8, &[u8])] = &[(4, b"1")];
    let mid_9: &[(u8, &[u8])] = &[(4, b"9")];
    let cases = [
        (50, 96, mid_1, Some(1)),
        (50, 96, &[], Some(1)),
        (51, 96, &[], None),
        (51, 96, mid_0, Some(0)),
        (52, 111, &[], Some(2)),
        (53, 96, mid_9, None),
        (54, 100, mid_1, None),
        (55, 97, mid_1, None),
    ];
    for (i, (ssrc, payload_type, extensions, expected)) in cases.into_iter().enumerate() {
        let packet = Rtp {
            ssrc,
            seq: 10 + i as u16,
            timestamp: 0,
            payload_type,
            extensions,
            payload: b"x",
        };
        world.send_rtp(publisher, &packet.bytes());
        let got = world.clients[subscriber].take_rtp();
        let ssrcs: Vec<u32> = got.iter().map(|(h, _)| h.ssrc.0).collect();
        let expected: Vec<u32> = expected.iter().map(|i| 0x5000_0000 + i).collect();
        assert_eq!(ssrcs, expected, "case {i}");
    }
    assert_eq!(world.count("rtp_unknown_track"), 2);
    assert_eq!(world.count("rtp_unknown_payload_type"), 1);
    assert_eq!(world.count("rtp_rtx"), 1);
}

#[test]
fn sources_are_bounded() {
    let mut world = World::new();
    let publisher = world.join("room");
    let tracks = [track(&world, publisher, 0, &[codec(96, Codec::Vp8)])];
    world.configure(publisher, &tracks, &[]);
    for ssrc in 1..60 {
        let packet = Rtp {
            ssrc,
            seq: 1,
            timestamp: 0,
            payload_type: 96,
            extensions: &[(4, b"0")],
            payload: b"x",
        };
        world.send_rtp(publisher, &packet.bytes());
    }
    assert!(world.count("rtp_sources_full") > 0);
    assert!(world.count("rtp_sources_full") + world.count("rtp_not_opened") >= 59 - 32);
}

#[test]
fn a_publisher_that_changes_its_ssrc_is_seen_as_one_stream() {
    let mut stage = Stage::new(1);
    stage.publish(b"a");
    stage.world.advance(10 * MS);
    let other = Rtp {
        ssrc: 4242,
        seq: 7,
        timestamp: 1,
        payload_type: 96,
        extensions: &[(4, b"0")],
        payload: b"b",
    };
    stage.world.send_rtp(stage.publisher, &other.bytes());
    let packets = stage.received(0);
    let (a, b) = (packets[0].0, packets[1].0);
    assert_eq!((b.ssrc, b.seq.0), (a.ssrc, a.seq.0 + 1));
    assert_eq!(b.timestamp.0.wrapping_sub(a.timestamp.0), 900);
    let pli = RtcpPacket::Pli { media: Ssrc(4242) };
    assert!(stage.upstream().contains(&pli));
    stage.publish(b"late");
    assert_eq!(stage.world.count("rtp_former_ssrc"), 1);
}

#[test]
fn rooms_are_apart() {
    let mut stage = Stage::new(0);
    let stranger = stage.world.join("another room");
    let wanted = stage.wanted();
    stage.world.configure(stranger, &[], &[wanted]);
    stage.publish(b"secret");
    assert!(stage.world.clients[stranger].rtp.is_empty());
    assert_eq!(stage.world.count("subscription_refused"), 1);
    assert_eq!(stage.world.shard.rooms_len(), 2);
    stage.world.remove(stranger);
    assert_eq!(stage.world.shard.rooms_len(), 1);
}

#[test]
fn who_leaves_is_gone_for_all_and_told_so() {
    let mut stage = Stage::new(2);
    stage.publish(b"a");
    let bye = RtcpPacket::Bye {
        sources: vec![Ssrc(0x5000_0000)],
    };
    let gone = stage.subscribers[1];
    stage.world.remove(gone);
    assert!(stage.world.clients[gone].is_closed);
    stage.publish(b"b");
    assert_eq!(stage.received(0).len(), 2);
    assert_eq!(stage.received(1).len(), 1);
    assert_eq!(stage.world.count("rtp_forwarded"), 3);

    let publisher = stage.publisher;
    let at = stage.subscribers[0];
    stage.world.clients[at].take_rtcp();
    stage.world.remove(publisher);
    assert!(stage.world.clients[publisher].is_closed);
    assert!(stage.world.clients[at].take_rtcp().contains(&bye));
    let before = stage.world.count("datagrams_unvalidated_source");
    stage.publish(b"from the grave");
    assert!(stage.received(0).is_empty());
    let after = stage.world.count("datagrams_unvalidated_source");
    assert_eq!(after - before, 1);
    // What it received under is free for another track.
    let again = stage.world.join("room");
    let track = track(&stage.world, again, 0, &[codec(96, Codec::Vp8)]);
    stage
        .world
        .configure(again, std::slice::from_ref(&track), &[]);
    let mut moved = stage.wanted();
    moved.source = track.key;
    stage.world.configure(at, &[], &[moved]);
    let packet = Rtp {
        ssrc: track.encodings[0].ssrc.unwrap().0,
        seq: 1,
        timestamp: 0,
        payload_type: 96,
        extensions: &[],
        payload: KEYFRAME,
    };
    stage.world.send_rtp(again, &packet.bytes());
    assert_eq!(stage.received(0).len(), 1);
    for at in [again, at] {
        stage.world.remove(at);
    }
    assert_eq!(
        (stage.world.shard.peers_len(), stage.world.shard.rooms_len()),
        (0, 0)
    );
    stage.world.advance(60_000 * MS);
    assert_eq!(stage.world.shard.poll_timeout(), None, "no timer is left");
}

#[test]
fn an_ended_track_says_bye_and_its_bye_from_the_publisher_does_not() {
    let mut stage = Stage::new(1);
    stage.publish(b"a");
    let (publisher, at) = (stage.publisher, stage.subscribers[0]);
    let byes = |stage: &mut Stage| {
        let packets = stage.world.clients[at].take_rtcp();
        let is_bye = |packet: &RtcpPacket| matches!(packet, RtcpPacket::Bye { .. });
        packets.into_iter().filter(is_bye).count()
    };
    stage.world.send_rtcp(publisher, |out| {
        write_receiver_report(out, Ssrc(1000), &[], "x");
        write_bye(out, Ssrc(1000));
    });
    assert_eq!(byes(&mut stage), 0);
    stage.world.configure(publisher, &[], &[]);
    assert_eq!(byes(&mut stage), 1);
    stage.publish(b"b");
    assert_eq!(stage.received(0).len(), 1);
}

#[test]
fn checks_decide_who_is_listened_to() {
    let mut world = World::new();
    let at = world.add("room");
    let address = world.clients[at].address;
    // Nothing but STUN before a check.
    world.datagram(address, &[22, 254, 255, 0, 0]);
    world.datagram(address, &[0x80, 96, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(world.count("datagrams_unvalidated_source"), 2);
    world.datagram(address, &[]);
    world.datagram(address, &[70; 40]);
    assert_eq!(world.count("datagrams_unknown_kind"), 2);
    world.datagram(address, &[0, 1, 0, 0, 1]);
    assert_eq!(world.count("stun_malformed"), 1);

    let mut unknown = world.clients[at].ice.clone();
    unknown.ufrag = "nobody".into();
    let check = with_credentials(&mut world, at, unknown);
    world.datagram(address, &check);
    assert_eq!(world.count("stun_unknown_ufrag"), 1);
    let mut wrong = world.clients[at].ice.clone();
    wrong.pwd = "another-password-of-22-chars".into();
    let check = with_credentials(&mut world, at, wrong);
    world.datagram(address, &check);
    assert_eq!(world.count("stun_refused"), 1);
    world.clients[at].stun_answers = 0;

    world.check(at);
    assert_eq!(world.clients[at].stun_answers, 1);
    world.datagram(address, &[0x80, 96, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(world.count("rtp_not_opened"), 1);

    // Another peer cannot take the address that a connected one is sent to by a forged source.
    world.connect(at);
    let other = world.add("room");
    let check = world.clients[other].check();
    world.datagram(address, &check);
    assert_eq!(world.count("stun_address_taken"), 1);
}

#[test]
fn shards_of_one_port_claim_what_their_peers_use_and_respect_each_other() {
    let mut world = World::new();
    world.shard.share_port(3);
    let claims = |world: &mut World| -> Vec<Claim> {
        std::iter::from_fn(|| world.shard.poll_claim()).collect()
    };
    let at = world.join("room");
    let (address, peer, owner) = (world.clients[at].address, world.clients[at].key, ShardId(0));
    let claim = |kind| Claim {
        address,
        owner,
        peer,
        kind,
    };
    assert_eq!(claims(&mut world), [claim(ClaimKind::Taken)]);
    world.check(at);
    assert_eq!(claims(&mut world), [claim(ClaimKind::Kept)]);

    // Nobody is taken an address from while he is sent to there: not by a check that names another shard ...
    let now = world.now;
    let mut elsewhere = world.clients[at].ice.clone();
    elsewhere.ufrag = "Cufrag".into();
    let check = with_credentials(&mut world, at, elsewhere);
    assert_eq!(world.shard.sort(now, address, &check), Sorted::AddressTaken);
    // ... and not by another shard's word.
    let theirs = |address| Claim {
        address,
        owner: ShardId(2),
        peer: PeerKey(99),
        kind: ClaimKind::Taken,
    };
    world.shard.handle_claim(now, &theirs(address));
    assert_eq!(world.count("stray_claims_refused"), 1);
    let media = [0x80, 96, 0, 1];
    assert_eq!(world.shard.sort(now, address, &media), Sorted::Mine);

    // Nor does this shard take one from a peer of another, though the check was handed over to it.
    let newcomer = world.add("room");
    let taken = world.clients[newcomer].address;
    world.shard.handle_claim(now, &theirs(taken));
    assert_eq!(world.shard.sort(now, taken, &media), Sorted::Of(ShardId(2)));
    world.check(newcomer);
    assert_eq!(world.count("stun_address_taken"), 2);
    assert_eq!(claims(&mut world), []);

    world.remove(at);
    assert_eq!(claims(&mut world), [claim(ClaimKind::GivenUp)]);
}

/// A check of the client as if it had other credentials.
fn with_credentials(world: &mut World, at: usize, ice: IceCredentials) -> Vec<u8> {
    let own = std::mem::replace(&mut world.clients[at].ice, ice);
    let check = world.clients[at].check();
    world.clients[at].ice = own;
    check
}

#[test]
fn a_peer_moves_and_restarts() {
    let mut stage = Stage::new(1);
    let at = stage.subscribers[0];
    stage.world.clients[at].address = "[::ffff:10.9.9.9]:77".parse().unwrap();
    // The world finds clients by plain addresses.
    let check = stage.world.clients[at].check();
    let mapped = stage.world.clients[at].address;
    stage.world.clients[at].address = "10.9.9.9:77".parse().unwrap();
    stage.world.datagram(mapped, &check);
    stage.publish(b"a");
    assert_eq!(stage.received(0).len(), 1, "media follows the nomination");

    let ice = IceCredentials {
        ufrag: "second".into(),
        pwd: "second-password-of-22-chars".into(),
    };
    let peer = stage.world.clients[at].key;
    stage.world.command(Command::RestartIce {
        peer,
        ice: ice.clone(),
    });
    let answers = |stage: &Stage| stage.world.clients[at].stun_answers;
    let before = answers(&stage);
    stage.world.check(at);
    assert_eq!(
        answers(&stage),
        before + 1,
        "the former credentials still hold"
    );
    let old = stage.world.clients[at].check();
    stage.world.clients[at].ice = ice;
    stage.world.check(at);
    assert_eq!(answers(&stage), before + 2);
    let address = stage.world.clients[at].address;
    stage.world.datagram(address, &old);
    assert_eq!(
        answers(&stage),
        before + 2,
        "and end with the first new check"
    );
    assert_eq!(stage.world.count("stun_unknown_ufrag"), 1);
}

#[test]
fn consent_that_runs_out_stops_media_until_it_is_back() {
    let mut stage = Stage::new(1);
    let (publisher, at) = (stage.publisher, stage.subscribers[0]);
    stage.publish(b"a");
    for _ in 0..7 {
        stage.world.advance(5000 * MS);
        stage.world.check(publisher);
    }
    stage.publish(b"unseen");
    assert_eq!(stage.world.count("subscription_unreachable"), 1);
    stage.upstream();
    stage.world.check(at);
    assert_eq!(stage.plis(), 1, "pictures start anew");
    stage.publish(KEYFRAME);
    let packets = stage.received(0);
    assert_eq!(packets.len(), 2);
    assert_eq!(packets[1].0.seq.0, packets[0].0.seq.0 + 1);
}

#[test]
fn commands_for_unknown_peers_are_counted() {
    let mut stage = Stage::new(0);
    let gone = stage.world.add("room");
    let (peer, ice) = (
        stage.world.clients[gone].key,
        stage.world.clients[gone].ice.clone(),
    );
    let room = shardcast::base::ids::RoomId::new("room").unwrap();
    stage.world.command(Command::AddPeer {
        peer,
        room,
        ice: ice.clone(),
    });
    assert_eq!(stage.world.count("command_unknown_peer"), 1);
    stage.world.remove(gone);
    stage.world.remove(gone);
    stage.world.configure(gone, &[], &[]);
    stage.world.command(Command::RestartIce { peer, ice });
    assert_eq!(stage.world.count("command_unknown_peer"), 4);
}

#[test]
fn refused_configurations_leave_the_rest() {
    let mut stage = Stage::new(1);
    let at = stage.subscribers[0];
    let wanted = stage.wanted();
    let mut same_ssrc = subscription(1, &stage.track, &wanted.codecs);
    same_ssrc.ssrc = wanted.ssrc;
    let same_key = wanted.clone();
    stage
        .world
        .configure(at, &[], &[wanted, same_ssrc, same_key]);
    assert_eq!(stage.world.count("subscription_refused"), 2);
    // A track under another peer's key.
    let foreign = stage.track.clone();
    let wanted = stage.wanted();
    stage.world.configure(at, &[foreign], &[wanted]);
    assert_eq!(stage.world.count("track_refused"), 1);
    stage.publish(b"a");
    assert_eq!(stage.received(0).len(), 1);
}

#[test]
fn hostile_datagrams_leave_the_others_media_running() {
    let mut stage = Stage::new(2);
    let (publisher, attacker) = (stage.publisher, stage.subscribers[1]);
    let addresses = [
        stage.world.clients[publisher].address,
        stage.world.clients[attacker].address,
        "203.0.113.9:9".parse().unwrap(),
    ];
    let mut random = proptest::test_runner::TestRng::deterministic_rng(Default::default());
    for round in 0..2000_u32 {
        let len = random.random_range(0..200);
        let mut datagram: Vec<u8> = (0..len).map(|_| random.random()).collect();
        // Every kind of datagram, from everywhere.
        if let Some(first) = datagram.first_mut() {
            *first = [0, 22, 0x80, 0x90, 0xb1, *first][round as usize % 6];
        }
        stage
            .world
            .datagram(addresses[round as usize % 3], &datagram);
    }
    // Authenticated nonsense.
    for round in 0..500_u32 {
        let len = random.random_range(8..80);
        let mut body: Vec<u8> = (0..len).map(|_| random.random()).collect();
        body[0] = 0x80 | (body[0] & 0x1f);
        let mut packet = Rtp {
            ssrc: 1000 * (attacker as u32 + 1),
            seq: round as u16,
            timestamp: 0,
            payload_type: 96,
            extensions: &[],
            payload: &body,
        }
        .bytes();
        packet[0] = [0x80, 0x90, 0xa0, 0xbf][round as usize % 4];
        if RtpHeader::parse(&packet).is_some() {
            stage.world.send_rtp(attacker, &packet);
        }
        body[1] = 200 + (round % 8) as u8;
        body.resize(body.len().next_multiple_of(4), 0);
        let words = (body.len() / 4 - 1) as u16;
        body[2..4].copy_from_slice(&words.to_be_bytes());
        stage.world.send_rtcp(attacker, |out| out.extend(body));
    }
    stage.received(0);
    stage.publish(b"still here");
    let packets = stage.received(0);
    assert_eq!(packets.len(), 1);
    assert_eq!(packets[0].1, b"still here");
}

/// The parts of a frame, of these lengths, in one batch with what else `others` are.
fn send_frame(stage: &mut Stage, lens: &[usize], others: &[(SocketAddr, BytesMut)]) {
    let mut batch = others.to_vec();
    for len in lens {
        let packet = Rtp {
            ssrc: 1000,
            seq: stage.seq,
            timestamp: 1,
            payload_type: 96,
            extensions: &[(4, b"0")],
            payload: &vec![*len as u8; *len],
        };
        stage.seq = stage.seq.wrapping_add(1);
        let client = &mut stage.world.clients[stage.publisher];
        batch.push((client.address, client.seal_rtp(&packet.bytes())));
    }
    stage.world.shard.handle_batch(stage.world.now, batch);
}

/// The messages that wait: to which subscriber, how many datagrams.
fn messages(stage: &mut Stage) -> Vec<(usize, usize)> {
    let Stage {
        world, subscribers, ..
    } = stage;
    let outbox = world.shard.poll_outbox(world.now).expect("something");
    let to = |to| {
        subscribers
            .iter()
            .position(|at| world.clients[*at].address == to)
    };
    let messages = outbox.messages();
    messages
        .filter_map(|message| Some((to(message.to)?, message.datagrams_len())))
        .collect()
}

#[test]
fn a_frames_parts_share_a_message_for_each_subscriber() {
    let mut stage = Stage::new(2);
    stage.publish(b"before");
    send_frame(&mut stage, &[1000, 1001, 1001, 990], &[]);
    assert_eq!(messages(&mut stage), [(0, 4), (1, 4)]);
    stage.world.settle();
    for subscriber in 0..2 {
        let received = stage.received(subscriber);
        let lens: Vec<usize> = received.iter().map(|(_, payload)| payload.len()).collect();
        assert_eq!(lens, [6, 1000, 1001, 1001, 990]);
        let padded: Vec<bool> = received.iter().map(|(header, _)| header.padding).collect();
        assert_eq!(padded, [false, true, false, false, false]);
        let seqs: Vec<u16> = received.iter().map(|(header, _)| header.seq.0).collect();
        assert!(
            seqs.windows(2)
                .all(|pair| pair[1] == pair[0].wrapping_add(1))
        );
    }
    assert_eq!(stage.world.count("rtp_padding_bytes"), 2);

    // Where the socket cannot, nothing is padded.
    stage.world.shard.outbox().set_segmentation(false);
    send_frame(&mut stage, &[1000, 1001], &[]);
    assert_eq!(messages(&mut stage), [(0, 1), (0, 1), (1, 1), (1, 1)]);
    stage.world.settle();
    assert_eq!(stage.world.count("rtp_padding_bytes"), 2);
}

#[test]
fn a_padded_packet_is_sent_again_as_it_was() {
    let mut stage = Stage::new(1);
    send_frame(&mut stage, &[1000, 1007, 1003], &[]);
    stage.world.settle();
    let at = stage.subscribers[0];
    let sealed = stage.world.clients[at].sealed_rtp.clone();
    let seqs: Vec<SeqNo16> = sealed
        .iter()
        .map(|datagram| RtpHeader::parse(datagram).unwrap().seq)
        .collect();
    stage.nack(0, &seqs);
    let again = &stage.world.clients[at].sealed_rtp[3..];
    assert_eq!(again, sealed);
}

#[test]
fn packets_that_come_in_disorder_go_out_in_order() {
    let mut stage = Stage::new(1);
    stage.publish(b"first");
    let client = &mut stage.world.clients[stage.publisher];
    let batch: Vec<_> = [1, 0]
        .map(|ahead| {
            let packet = Rtp {
                ssrc: 1000,
                seq: stage.seq.wrapping_add(ahead),
                timestamp: 1,
                payload_type: 96,
                extensions: &[],
                payload: b"x",
            };
            (client.address, client.seal_rtp(&packet.bytes()))
        })
        .into();
    stage.world.shard.handle_batch(stage.world.now, batch);
    stage.world.settle();
    let received = stage.received(0);
    let seqs: Vec<u16> = received.iter().map(|(header, _)| header.seq.0).collect();
    assert!(
        seqs.windows(2)
            .all(|pair| pair[1] == pair[0].wrapping_add(1))
    );
    assert_eq!(seqs.len(), 3);
}

#[test]
fn a_large_fan_out_is_made_in_portions() {
    let mut stage = Stage::new(12);
    send_frame(&mut stage, &[1100; 30], &[]);
    let mut portions = Vec::new();
    while let Some(outbox) = stage.world.shard.poll_outbox(stage.world.now) {
        portions.push(outbox.bytes_len());
        outbox.clear();
    }
    assert_eq!(portions.len(), 2, "{portions:?}");
    assert_eq!(stage.world.count("rtp_forwarded"), 360);
    // Whatever else happens first finds all of it in the outbox.
    send_frame(&mut stage, &[1100; 30], &[]);
    let at = stage.subscribers[11];
    stage.world.remove(at);
    assert_eq!(stage.world.count("rtp_forwarded"), 720);
}

#[test]
fn what_else_is_in_a_batch_takes_effect_in_it() {
    let mut stage = Stage::new(2);
    stage.publish(b"before");
    let at = stage.subscribers[0];
    // It moves to another address; what came before its check in the batch goes there too.
    let elsewhere = SocketAddr::from(([10, 9, 9, 9], 9));
    let check = stage.world.clients[at].check();
    send_frame(
        &mut stage,
        &[100, 100],
        &[(elsewhere, BytesMut::from(&check[..]))],
    );
    let outbox = stage.world.shard.poll_outbox(stage.world.now).unwrap();
    let to: Vec<SocketAddr> = outbox.iter().map(|(to, _)| to).collect();
    let other = stage.world.clients[stage.subscribers[1]].address;
    assert_eq!(to, [elsewhere, elsewhere, elsewhere, other, other]);
    outbox.clear();
}

#[test]
fn paused_subscriptions_get_nothing_and_go_on_without_a_gap() {
    let mut stage = Stage::new(1);
    stage.publish(b"a");
    let at = stage.subscribers[0];
    for active in [false, true] {
        let wanted = SubscriptionConfig {
            active,
            ..stage.wanted()
        };
        stage.world.configure(at, &[], &[wanted]);
        stage.publish(b"b");
        stage.publish(KEYFRAME);
    }
    let received = stage.received(0);
    assert_eq!(received.len(), 2);
    assert_eq!(received[1].0.seq.0, received[0].0.seq.0.wrapping_add(1));
    assert_eq!(stage.world.count("subscription_unreachable"), 0);
}

#[derive(Debug, Clone)]
enum Op {
    /// Packets of these lengths in one batch.
    Frame(Vec<usize>),
    Segmentation(bool),
    Publish(i16),
    OtherSsrc(u16),
    Nack(u16),
    Reconfigure(u8),
    Republish(u8),
    Active(bool),
    Wait(u16),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => (-3_i16..4).prop_map(Op::Publish),
        8 => proptest::collection::vec(180_usize..200, 1..5).prop_map(Op::Frame),
        1 => any::<bool>().prop_map(Op::Segmentation),
        2 => (0_u16..50).prop_map(Op::OtherSsrc),
        1 => Just(Op::Publish(4000)),
        8 => (0_u16..8).prop_map(Op::Nack),
        2 => (0_u8..4).prop_map(Op::Reconfigure),
        1 => (0_u8..2).prop_map(Op::Republish),
        1 => any::<bool>().prop_map(Op::Active),
        1 => (0_u16..700).prop_map(Op::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Never two different datagrams under one key, SSRC, rollover count and number.
    #[test]
    fn no_nonce_is_used_twice(ops in proptest::collection::vec(op(), 1..120)) {
        let mut stage = Stage::new(1);
        let (publisher, at) = (stage.publisher, stage.subscribers[0]);
        let mut wanted = stage.wanted();
        let mut ssrc = 1000;
        let mut content = 0_u32;
        for op in ops {
            match op {
                Op::Publish(step) => {
                    stage.seq = stage.seq.wrapping_add_signed(step);
                    content += 1;
                    let packet = Rtp {
                        ssrc,
                        seq: stage.seq,
                        timestamp: content,
                        payload_type: 96,
                        extensions: &[(4, b"0"), (1, &[content as u8])],
                        payload: &content.to_be_bytes(),
                    };
                    stage.world.send_rtp(publisher, &packet.bytes());
                }
                Op::Frame(lens) => {
                    let client = &mut stage.world.clients[publisher];
                    let batch: Vec<_> = lens
                        .iter()
                        .map(|len| {
                            stage.seq = stage.seq.wrapping_add(1);
                            content += 1;
                            let packet = Rtp {
                                ssrc,
                                seq: stage.seq,
                                timestamp: content,
                                payload_type: 96,
                                extensions: &[(4, b"0"), (1, &[content as u8])],
                                payload: &vec![content as u8; *len],
                            };
                            (client.address, client.seal_rtp(&packet.bytes()))
                        })
                        .collect();
                    stage.world.shard.handle_batch(stage.world.now, batch);
                    stage.world.settle();
                }
                Op::Segmentation(on) => stage.world.shard.outbox().set_segmentation(on),
                Op::OtherSsrc(other) => ssrc = 1000 + u32::from(other) % 3,
                Op::Nack(back) => {
                    let last = stage.world.clients[at].sealed_rtp.last();
                    if let Some(last) = last.and_then(|d| RtpHeader::parse(d)) {
                        let seq = last.seq.0.wrapping_sub(back);
                        stage.nack(0, &[SeqNo16(seq), SeqNo16(seq.wrapping_add(1))]);
                    }
                }
                Op::Reconfigure(shape) => {
                    wanted.mid = shardcast::base::ids::Mid::new(&format!("m{shape}")).unwrap();
                    wanted.codecs = [codec(100 + 2 * (shape % 2), Codec::Vp8)].into();
                    stage.world.configure(at, &[], std::slice::from_ref(&wanted));
                }
                Op::Republish(level) => {
                    let mut track = stage.track.clone();
                    track.extensions = extensions(&[(Extension::Mid, 4), (Extension::AudioLevel, 1 + level)]);
                    stage.world.configure(publisher, &[track], &[]);
                }
                Op::Active(active) => {
                    wanted.active = active;
                    stage.world.configure(at, &[], std::slice::from_ref(&wanted));
                }
                Op::Wait(ms) => stage.world.advance(u32::from(ms) * MS),
            }
        }
        // Far fewer packets than 2^15, from below 2^15: the rollover count is 0 throughout.
        let mut seen: HashMap<(u32, u16), &Vec<u8>> = HashMap::new();
        for datagram in &stage.world.clients[at].sealed_rtp {
            let header = RtpHeader::parse(datagram).unwrap();
            let known = seen.entry((header.ssrc.0, header.seq.0)).or_insert(datagram);
            prop_assert_eq!(*known, datagram);
        }
        prop_assert_eq!(stage.track.kind, MediaKind::Video);
    }
}
