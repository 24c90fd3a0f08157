//! Layers inside one encoding, through a whole shard: a subscriber that asks for fewer frames gets fewer, and what it
//! gets can be decoded, picture by picture, with numbers that go on.

#[path = "support/layered.rs"]
#[allow(dead_code, reason = "this test uses its part")]
mod layered;
#[path = "support/shard_world.rs"]
mod support;

use std::time::Duration;

use shardcast::base::ids::{PayloadType, RtpTime, SeqNo16, Ssrc, TrackKey};
use shardcast::control::layers::{Preference, Preferences};
use shardcast::control::{Command, TrackConfig};
use shardcast::wire::codec::Codec;
use shardcast::wire::extension::{Extension, ExtensionId};
use shardcast::wire::rtcp::{RtcpPacket, write_nack};
use shardcast::wire::rtp::{OutgoingHeader, write_header};

use crate::layered::{Decoder, Encoder, Frame, Mode, Packet, content};
use crate::support::{World, codec, extensions, subscription, track};

const DESCRIPTOR_ID: u8 = 7;
const FRAME: Duration = Duration::from_millis(33);
/// Bytes that fill each packet, so that rates are like those of pictures.
const FILLING: usize = 800;

/// A publisher with layers, and a subscriber.
struct Stage {
    world: World,
    encoder: Encoder,
    track: TrackConfig,
    made: Vec<Frame>,
    decoder: Decoder,
    /// What came: the number in the header, the frame, and whether it ended a picture.
    got: Vec<(u16, Frame, bool)>,
    keyframe_wanted: bool,
}

fn codec_of(mode: Mode) -> Codec {
    match mode {
        Mode::Vp8L1T3 => Codec::Vp8,
        Mode::Av1L3T3 | Mode::Av1L3T3Key => Codec::Av1 { profile: 0 },
        _ => Codec::Vp9 { profile: 0 },
    }
}

impl Stage {
    fn new(mode: Mode) -> Self {
        let mut world = World::new();
        let publisher = world.join("room");
        let mut track = track(&world, publisher, 0, &[codec(96, codec_of(mode))]);
        track.extensions = extensions(&[(Extension::DependencyDescriptor, DESCRIPTOR_ID)]);
        track.encodings[0].ssrc = Some(Ssrc(77));
        world.configure(publisher, std::slice::from_ref(&track), &[]);
        let subscriber = world.join("room");
        let mut wanted = subscription(0, &track, &[codec(120, codec_of(mode))]);
        wanted.extensions = extensions(&[(Extension::DependencyDescriptor, 3)]);
        world.configure(subscriber, &[], &[wanted]);
        Self {
            world,
            encoder: Encoder::new(mode, 0x7ff0),
            track,
            made: Vec::new(),
            decoder: Decoder::default(),
            got: Vec::new(),
            keyframe_wanted: true,
        }
    }

    fn picture(&mut self) {
        let asked = self.world.clients[0].take_rtcp();
        self.keyframe_wanted |= asked
            .iter()
            .any(|packet| matches!(packet, RtcpPacket::Pli { .. }));
        let is_key = std::mem::take(&mut self.keyframe_wanted);
        for packet in self.encoder.picture(is_key) {
            self.world.send_rtp(0, &bytes(&packet));
            if packet.ends.0 {
                self.made.push(packet.frame);
            }
        }
        self.world.advance(FRAME);
        self.receive();
    }

    fn receive(&mut self) {
        for (header, packet) in self.world.clients[1].take_rtp() {
            let payload = header.payload(&packet).expect("it was made so");
            let number = content(payload);
            let frame = self.made.iter().find(|frame| frame.number == number);
            let frame = frame.expect("it was sent").clone();
            self.decoder.take(&frame);
            self.got.push((header.seq.0, frame, header.marker));
        }
    }

    fn pictures(&mut self, count: usize) {
        (0..count).for_each(|_| self.picture());
    }

    fn prefer(&mut self, max_framerate: Option<u16>) {
        let preference = Preference {
            max_framerate,
            ..Preference::default()
        };
        let tracks: Vec<(TrackKey, Preference)> = vec![(self.track.key, preference)];
        let peer = self.world.clients[1].key;
        let preferences = Preferences {
            tracks,
            last_n: None,
        };
        self.world.command(Command::Prefer { peer, preferences });
    }

    /// The temporal layers of what came last.
    fn temporal_top(&self, count: usize) -> u8 {
        let last = self.got.iter().rev().take(count);
        last.map(|(_, frame, _)| frame.temporal).max().unwrap()
    }
}

fn bytes(packet: &Packet) -> Vec<u8> {
    let header = OutgoingHeader {
        payload_type: PayloadType(96),
        marker: packet.marker,
        seq: SeqNo16(packet.seq as u16),
        timestamp: RtpTime(packet.timestamp),
        ssrc: Ssrc(77),
        padding: false,
    };
    let id = ExtensionId::new(DESCRIPTOR_ID).unwrap();
    let descriptor = packet.descriptor.as_deref().map(|value| (id, value));
    let mut bytes = Vec::new();
    write_header(&mut bytes, &header, descriptor.into_iter());
    let (head, tail) = packet.payload.split_at(packet.payload.len() - 4);
    bytes.extend(head);
    bytes.extend([0; FILLING]);
    bytes.extend(tail);
    bytes
}

#[test]
fn fewer_frames_are_sent_to_whom_they_are_enough() {
    for mode in Mode::ALL {
        let mut stage = Stage::new(mode);
        stage.pictures(90);
        assert_eq!(stage.temporal_top(60), 2, "{mode:?}");
        let left_out = stage.world.count("forward_layer_left_out");
        stage.prefer(Some(10));
        stage.pictures(60);
        // The allocator offers no step that costs less than a lower one: with spatial layers it may be the second.
        let most = u8::from(mode.spatial_layers() > 1);
        assert!(stage.temporal_top(20) <= most, "{mode:?}");
        assert!(stage.world.count("forward_layer_left_out") > left_out + 50);
        stage.prefer(None);
        stage.pictures(150);
        assert_eq!(stage.temporal_top(60), 2, "{mode:?}");
        // No seam: the numbers close up, every picture ends, and all that came can be decoded.
        for pair in stage.got.windows(2) {
            let [(a, first, ends), (b, second, _)] = pair else {
                unreachable!("windows of two");
            };
            assert_eq!(b.wrapping_sub(*a), 1, "{mode:?}");
            assert_eq!(*ends, first.picture != second.picture, "{mode:?} {first:?}");
        }
        assert!(stage.decoder.broken.is_empty(), "{mode:?}");
    }
}

#[test]
fn what_is_asked_for_again_is_the_same_or_nothing() {
    for mode in Mode::ALL {
        let mut stage = Stage::new(mode);
        stage.pictures(90);
        stage.prefer(Some(10));
        stage.pictures(40);
        let last = stage.got.len() - 10;
        let asked: Vec<SeqNo16> = stage.got[last..].iter().map(|got| SeqNo16(got.0)).collect();
        let before = stage.world.count("rtp_retransmitted");
        let ssrc = Ssrc(0x5000_0000);
        // A receiver refuses a repeated packet: the count tells, and the sealed bytes are compared by `shard`'s tests.
        stage
            .world
            .send_rtcp(1, |out| write_nack(out, Ssrc(1), ssrc, &asked));
        assert_eq!(
            stage.world.count("rtp_retransmitted") - before,
            asked.len() as u64,
            "{mode:?}"
        );
    }
}
