//! RTCP as the RFCs name it, between a shard and its peers: source descriptions (SDES) and BYE both ways, and reduced-size
//! RTCP (RFC 5506), which is read from everybody and sent to nobody. That each datagram of the server is a whole compound with
//! its sender's canonical name is asserted for every datagram that any test's client receives: `support::assert_whole`.

#[path = "support/shard_world.rs"]
mod support;

use std::time::Duration;

use shardcast::base::ids::{Bitrate, MediaKind, Mid, Rid, RtpTime, SeqNo16, Ssrc};
use shardcast::control::{EncodingConfig, TrackConfig, cname};
use shardcast::wire::bandwidth::{Remb, TransportFeedback};
use shardcast::wire::codec::{Codec, CodecMapping};
use shardcast::wire::extension::Extension;
use shardcast::wire::rtcp::{
    NtpTime, RtcpPacket, SenderReport, write_bye, write_fir, write_nack, write_pli,
    write_receiver_report, write_sender_report,
};
use shardcast::wire::sdes::SourceDescription;
use shardcast::wire::xr::write_reference_time;
use support::{Rtp, World, codec, extensions, subscription, track};

const MS: Duration = Duration::from_millis(1);
/// What the publisher sends under, and the subscriber receives under.
const PUBLISHED: Ssrc = Ssrc(1000);
const RECEIVED: Ssrc = Ssrc(0x5000_0000);
/// Of VP8 the start of a keyframe (RFC 7741 §4.2).
const KEYFRAME: &[u8] = &[0x10, 0];
const TRANSPORT_NUMBER: u8 = 5;

/// A kind of message, by its name.
type Kind = (&'static str, fn(&RtcpPacket) -> bool);

/// A publisher of VP8 and one who watches, connected.
struct Stage {
    world: World,
    publisher: usize,
    subscriber: usize,
    track: TrackConfig,
}

impl Stage {
    fn new() -> Self {
        Self::of(|_| {})
    }

    /// The publisher's description is changed by `change`.
    fn of(change: impl FnOnce(&mut TrackConfig)) -> Self {
        let mut world = World::new();
        let publisher = world.join("room");
        let mut track = track(&world, publisher, 0, &[codec(96, Codec::Vp8)]);
        change(&mut track);
        world.configure(publisher, std::slice::from_ref(&track), &[]);
        let subscriber = world.join("room");
        let wanted = subscription(0, &track, &[codec(120, Codec::Vp8)]);
        world.configure(subscriber, &[], &[wanted]);
        Self {
            world,
            publisher,
            subscriber,
            track,
        }
    }

    fn publish(&mut self, ssrc: Ssrc, seq: u16, extensions: &[(u8, &[u8])]) {
        let packet = Rtp {
            ssrc: ssrc.0,
            seq,
            timestamp: 3000 * u32::from(seq),
            payload_type: 96,
            extensions,
            payload: KEYFRAME,
        };
        self.world.send_rtp(self.publisher, &packet.bytes());
    }

    fn received(&mut self) -> usize {
        self.world.clients[self.subscriber].take_rtp().len()
    }

    /// What the publisher, or the subscriber, is sent.
    fn upstream(&mut self) -> Vec<RtcpPacket> {
        self.world.clients[self.publisher].take_rtcp()
    }

    fn downstream(&mut self) -> Vec<RtcpPacket> {
        self.world.clients[self.subscriber].take_rtcp()
    }

    fn publisher_says(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.world.send_rtcp(self.publisher, write);
    }

    fn subscriber_says(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.world.send_rtcp(self.subscriber, write);
    }
}

fn report(rtp_time: u32) -> SenderReport {
    SenderReport {
        ssrc: PUBLISHED,
        ntp: NtpTime(10 << 32),
        rtp_time: RtpTime(rtp_time),
        packets: 1,
        octets: 2,
    }
}

fn names(packets: &[RtcpPacket]) -> Vec<(Ssrc, String)> {
    let name = |packet: &RtcpPacket| match packet {
        RtcpPacket::Description(SourceDescription {
            source,
            cname: Some(name),
            ..
        }) => Some((*source, String::from_utf8(name.to_vec()).unwrap())),
        _ => None,
    };
    packets.iter().filter_map(name).collect()
}

/// A source description with one item (RFC 3550 §6.5).
fn write_item(out: &mut Vec<u8>, source: Ssrc, kind: u8, text: &[u8]) {
    let mut chunk = source.0.to_be_bytes().to_vec();
    chunk.extend([kind, text.len() as u8]);
    chunk.extend_from_slice(text);
    chunk.push(0);
    chunk.resize(chunk.len().next_multiple_of(4), 0);
    out.extend([0x81, 202, 0, (chunk.len() / 4) as u8]);
    out.extend(chunk);
}

/// SDES items by the IANA registry.
const CNAME: u8 = 1;
const TOOL: u8 = 6;
const RTP_STREAM_ID: u8 = 12;
const MID: u8 = 15;

#[test]
fn sdes_of_sender_reports_names_the_publisher_as_its_description_does() {
    let mut stage = Stage::new();
    stage.publish(PUBLISHED, 1, &[]);
    stage.publisher_says(|out| write_sender_report(out, &report(3000), "its own name"));
    // `signaling` describes the stream with the same name: negotiation::sections.
    let publisher = stage.track.key.peer;
    let packets = stage.downstream();
    assert_eq!(names(&packets), [(RECEIVED, cname(publisher))]);
    // Another stream of the same publisher has the same name, which is how a client knows what to play together.
    let mut sound = track(&stage.world, stage.publisher, 1, &[codec(111, Codec::Opus)]);
    sound.mid = Mid::new("1").unwrap();
    let tracks = [stage.track.clone(), sound.clone()];
    stage.world.configure(stage.publisher, &tracks, &[]);
    let wanted = [
        subscription(0, &stage.track, &[codec(120, Codec::Vp8)]),
        subscription(1, &sound, &[codec(109, Codec::Opus)]),
    ];
    stage.world.configure(stage.subscriber, &[], &wanted);
    let packet = Rtp {
        ssrc: 1001,
        seq: 1,
        timestamp: 960,
        payload_type: 111,
        extensions: &[],
        payload: b"opus",
    };
    stage.world.send_rtp(stage.publisher, &packet.bytes());
    let of_sound = SenderReport {
        ssrc: Ssrc(1001),
        ..report(960)
    };
    stage.publisher_says(|out| write_sender_report(out, &of_sound, "another name"));
    let packets = stage.downstream();
    let expected = (Ssrc(RECEIVED.0 + 1), cname(publisher));
    assert!(names(&packets).contains(&expected), "{packets:?}");
}

#[test]
fn sdes_of_receiver_reports_names_this_server() {
    let mut stage = Stage::new();
    stage.publish(PUBLISHED, 1, &[]);
    stage.world.advance(1100 * MS);
    let packets = stage.upstream();
    let reporter = packets.iter().find_map(|packet| match packet {
        RtcpPacket::Reports { sender, blocks } if blocks[0].ssrc == PUBLISHED => Some(*sender),
        _ => None,
    });
    let name = (reporter.expect("a report"), "shardcast".to_owned());
    assert!(names(&packets).contains(&name), "{packets:?}");
}

#[test]
fn sdes_of_clients_is_read_and_its_names_go_to_nobody() {
    let mut stage = Stage::new();
    stage.publish(PUBLISHED, 1, &[]);
    stage.publisher_says(|out| {
        write_receiver_report(out, PUBLISHED, &[], "ann@198.51.100.7");
        write_item(out, PUBLISHED, TOOL, b"GStreamer");
        write_item(out, PUBLISHED, CNAME, b"another@198.51.100.7");
        write_item(out, Ssrc(99), CNAME, &[0xff; 255]);
    });
    stage.publisher_says(|out| write_sender_report(out, &report(3000), "ann@198.51.100.7"));
    assert_eq!(stage.world.count("rtcp_malformed"), 0);
    let publisher = stage.track.key.peer;
    let packets = stage.downstream();
    assert_eq!(names(&packets), [(RECEIVED, cname(publisher))]);
    // One that is cut short costs only itself.
    stage.publisher_says(|out| {
        out.extend([0x82, 202, 0, 1, 0, 0, 0, 1]);
        write_nack(out, PUBLISHED, Ssrc(12), &[SeqNo16(1)]);
    });
    assert_eq!(stage.world.count("rtcp_malformed"), 1);
    assert_eq!(stage.world.count("rtcp_unknown_stream"), 1, "the NACK");
}

/// RFC 9143 §9.2 and RFC 8852 §3: who does not put `mid` and `rtp-stream-id` into header extensions may say them in RTCP.
#[test]
fn sdes_says_which_section_and_encoding_a_stream_is() {
    let rid = |name| EncodingConfig {
        rid: Rid::new(name),
        ..EncodingConfig::default()
    };
    let mut stage = Stage::of(|track| track.encodings = vec![rid("q"), rid("h")]);
    stage.publish(Ssrc(77), 1, &[]);
    assert_eq!(stage.received(), 0, "nobody knows what it is");
    stage.publisher_says(|out| {
        write_item(out, Ssrc(77), MID, b"0");
        write_item(out, Ssrc(77), RTP_STREAM_ID, b"q");
    });
    stage.publish(Ssrc(77), 2, &[]);
    assert_eq!(stage.received(), 1);
}

#[test]
fn bye_of_the_server_ends_what_a_client_receives() {
    let mut stage = Stage::new();
    stage.publish(PUBLISHED, 1, &[]);
    stage.downstream();
    stage.world.configure(stage.publisher, &[], &[]);
    let sources = vec![RECEIVED];
    assert_eq!(
        stage.downstream().last(),
        Some(&RtcpPacket::Bye { sources })
    );
}

#[test]
fn bye_of_a_client_frees_what_was_learned_of_its_stream() {
    let mid: &[(u8, &[u8])] = &[(4, b"0")];
    let mut stage = Stage::of(|track| track.encodings = vec![EncodingConfig::default()]);
    // No description names its SSRCs, and more come than are kept: each says BYE before the next one.
    for ssrc in (0..100).map(Ssrc) {
        stage.publish(ssrc, 1, mid);
        assert_eq!(stage.received(), 1, "{ssrc:?}");
        stage.publisher_says(|out| {
            write_receiver_report(out, ssrc, &[], "x");
            write_bye(out, ssrc);
        });
    }
    assert_eq!(stage.world.count("rtp_sources_full"), 0);
    // Nothing is missing of a stream that has ended.
    stage.publish(Ssrc(200), 1, mid);
    stage.publish(Ssrc(200), 5, mid);
    stage.publisher_says(|out| write_bye(out, Ssrc(200)));
    stage.upstream();
    stage.world.advance(500 * MS);
    let is_nack = |packet: &RtcpPacket| matches!(packet, RtcpPacket::Nack { .. });
    assert!(!stage.upstream().iter().any(is_nack));
}

#[test]
fn reduced_size_rtcp_is_acted_upon() {
    let mut stage = Stage::new();
    for seq in 1..=3 {
        stage.publish(PUBLISHED, seq, &[]);
    }
    let first = stage.world.clients[stage.subscriber].take_rtp()[0].0.seq;
    stage.world.advance(2000 * MS);
    // Each alone in its datagram, without a report or a name before it.
    let plis = |stage: &mut Stage| {
        let pli = RtcpPacket::Pli { media: PUBLISHED };
        stage.upstream().iter().filter(|p| **p == pli).count()
    };
    plis(&mut stage);
    stage.subscriber_says(|out| write_pli(out, Ssrc(1), RECEIVED));
    assert_eq!(plis(&mut stage), 1);
    stage.world.advance(2000 * MS);
    stage.subscriber_says(|out| write_fir(out, Ssrc(1), RECEIVED, 1));
    assert_eq!(plis(&mut stage), 1);
    stage.publish(PUBLISHED, 4, &[]);
    let fourth = stage.world.clients[stage.subscriber].take_rtp()[0].0.seq;
    assert_eq!(fourth.0, first.0 + 3);
    stage.subscriber_says(|out| write_nack(out, Ssrc(1), RECEIVED, &[fourth]));
    assert_eq!(stage.received(), 1);
    stage.subscriber_says(|out| write_reference_time(out, Ssrc(1), NtpTime(1 << 32)));
    let replies = stage.downstream();
    let is_reply = |p: &RtcpPacket| matches!(p, RtcpPacket::ReferenceReplies(r) if !r.is_empty());
    assert!(replies.iter().any(is_reply), "{replies:?}");
    assert_eq!(stage.world.count("rtcp_malformed"), 0);
}

#[test]
fn reduced_size_feedback_of_the_estimators_is_read() {
    let mut stage = Stage::new();
    stage.subscriber_says(|out| {
        let remb = Remb {
            sender: Ssrc(1),
            bitrate: Bitrate(700_000),
            ssrcs: vec![RECEIVED],
        };
        remb.write(out);
    });
    stage.subscriber_says(|out| {
        let feedback = TransportFeedback {
            sender: Ssrc(1),
            media: RECEIVED,
            base: SeqNo16(0),
            reference: 0,
            count: 0,
            arrivals: vec![Some(0)],
        };
        feedback.write(out);
    });
    assert_eq!(stage.world.count("rtcp_malformed"), 0);
    assert_eq!(stage.world.count("remb_received"), 1);
    assert_eq!(stage.world.count("transport_feedback_received"), 1);
}

/// Everything the server has to say, to clients of which it does not know whether they negotiated reduced-size RTCP:
/// [`support`] asserts of each datagram that it is a whole compound. Here that each kind came at all.
#[test]
fn whatever_is_sent_is_a_whole_compound() {
    let told = |transport_cc, remb| CodecMapping {
        transport_cc,
        remb,
        ..codec(96, Codec::Vp8)
    };
    let ids = extensions(&[
        (Extension::Mid, 4),
        (Extension::TransportSequenceNumber, TRANSPORT_NUMBER),
    ]);
    let mut stage = Stage::of(|track| {
        track.codecs = vec![told(true, false)];
        track.extensions = ids;
        assert_eq!(track.kind, MediaKind::Video);
    });
    for seq in (1..40_u16).filter(|seq| *seq != 10) {
        let number = seq.to_be_bytes();
        stage.publish(PUBLISHED, seq, &[(TRANSPORT_NUMBER, &number)]);
        stage.world.advance(20 * MS);
    }
    stage.publisher_says(|out| write_sender_report(out, &report(39 * 3000), "x"));
    stage.world.advance(1000 * MS);
    stage.publisher_says(|out| write_reference_time(out, Ssrc(1), NtpTime(1 << 32)));
    stage.subscriber_says(|out| write_pli(out, Ssrc(1), RECEIVED));
    let mut got = stage.upstream();
    // The other kind of feedback, as other publishers take it.
    let remb = TrackConfig {
        codecs: vec![told(false, true)],
        ..stage.track.clone()
    };
    stage.world.configure(stage.publisher, &[remb], &[]);
    for seq in 40..200 {
        stage.publish(PUBLISHED, seq, &[]);
        stage.world.advance(20 * MS);
    }
    got.extend(stage.upstream());
    stage.world.configure(stage.publisher, &[], &[]);
    got.extend(stage.downstream());
    let kinds: &[Kind] = &[
        ("SR", |p| matches!(p, RtcpPacket::SenderReport(_))),
        ("RR", |p| matches!(p, RtcpPacket::Reports { .. })),
        ("NACK", |p| matches!(p, RtcpPacket::Nack { .. })),
        ("PLI", |p| matches!(p, RtcpPacket::Pli { .. })),
        ("transport-cc", |p| {
            matches!(p, RtcpPacket::TransportFeedback(_))
        }),
        ("REMB", |p| matches!(p, RtcpPacket::Remb(_))),
        ("RRTR", |p| matches!(p, RtcpPacket::ReferenceTime { .. })),
        (
            "DLRR",
            |p| matches!(p, RtcpPacket::ReferenceReplies(r) if !r.is_empty()),
        ),
        ("BYE", |p| matches!(p, RtcpPacket::Bye { .. })),
    ];
    for (kind, is_of) in kinds {
        assert!(got.iter().any(is_of), "no {kind}");
    }
}
