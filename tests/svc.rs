//! Layers inside one encoding, through a whole shard: a subscriber that asks for fewer frames gets fewer, and what it
//! gets can be decoded, picture by picture, with numbers that go on.

#[path = "support/layered.rs"]
#[allow(dead_code, reason = "this test uses its part")]
mod layered;
#[path = "support/shard_world.rs"]
mod support;

use std::time::Duration;

use shardcast::base::ids::{PayloadType, RtpTime, SeqNo16, Ssrc, TrackKey};
use shardcast::control::layers::{LayerChange, Preference, Preferences};
use shardcast::control::{Command, Event, LayerReason, TrackConfig};
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
    /// The publisher makes no keyframe, whoever asks.
    is_deaf: bool,
    /// The first packets of keyframes are lost.
    loses_structures: bool,
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
            is_deaf: false,
            loses_structures: false,
        }
    }

    fn picture(&mut self) {
        let asked = self.world.clients[0].take_rtcp();
        self.keyframe_wanted |= asked
            .iter()
            .any(|packet| matches!(packet, RtcpPacket::Pli { .. }));
        let is_key = !self.is_deaf && std::mem::take(&mut self.keyframe_wanted);
        for packet in self.encoder.picture(is_key) {
            let is_first = packet.frame.is_key && packet.frame.spatial == 0 && packet.ends.0;
            if !(is_first && self.loses_structures) {
                self.world.send_rtp(0, &bytes(&packet));
            }
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
        self.prefer_of(Preference {
            max_framerate,
            ..Preference::default()
        });
    }

    fn prefer_of(&mut self, preference: Preference) {
        let tracks: Vec<(TrackKey, Preference)> = vec![(self.track.key, preference)];
        let peer = self.world.clients[1].key;
        let preferences = Preferences {
            tracks,
            last_n: None,
        };
        self.world.command(Command::Prefer { peer, preferences });
    }

    /// The highest temporal layer of what came last.
    fn temporal_top(&self, count: usize) -> u8 {
        let last = self.got.iter().rev().take(count);
        last.map(|(_, frame, _)| frame.temporal).max().unwrap()
    }

    /// The highest spatial layer of what came last.
    fn spatial_top(&self, count: usize) -> u8 {
        let last = self.got.iter().rev().take(count);
        last.map(|(_, frame, _)| frame.spatial).max().unwrap()
    }

    /// What the subscriber gets, as the server says.
    fn told(&self) -> LayerChange {
        let peer = self.world.clients[1].key;
        let described = self.world.shard.describe(self.world.now, peer);
        described.expect("it is there").subscriptions[0].change
    }

    /// What the subscriber was told since the last time: spatial layers and reasons.
    fn events(&mut self) -> Vec<(u8, LayerReason)> {
        let events = std::mem::take(&mut self.world.events);
        let of = |event| match event {
            Event::Layer(_, change) => Some((change.layer?.spatial, change.reason)),
            _ => None,
        };
        events
            .into_iter()
            .filter_map(|(_, event)| of(event))
            .collect()
    }

    fn reason(&self) -> LayerReason {
        self.told().reason
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
        assert_eq!(stage.temporal_top(20), 0, "{mode:?}");
        assert_eq!(
            stage.spatial_top(20),
            mode.spatial_layers() - 1,
            "no smaller: {mode:?}"
        );
        assert_eq!(stage.reason(), LayerReason::Wanted, "{mode:?}");
        assert!(stage.world.count("forward_layer_left_out") > left_out + 50);
        // Half of 30 a second: the middle layer.
        stage.prefer(Some(20));
        stage.pictures(60);
        assert_eq!(stage.temporal_top(20), 1, "{mode:?}");
        stage.prefer(None);
        stage.pictures(150);
        assert_eq!(stage.temporal_top(60), 2, "{mode:?}");
        assert_eq!(stage.reason(), LayerReason::Best, "{mode:?}");
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
fn a_wanted_size_picks_the_spatial_layer() {
    for mode in Mode::ALL {
        let mut stage = Stage::new(mode);
        stage.pictures(90);
        let top = mode.spatial_layers() - 1;
        // Sizes are not told: they are guessed from a 720p camera's.
        for (width, spatial) in [(320, 0), (640, 1), (300, 0), (1280, 2)] {
            stage.prefer_of(Preference {
                width: Some(width),
                max_framerate: Some(15),
                ..Preference::default()
            });
            stage.pictures(90);
            let expected = (spatial.min(top), 1);
            assert_eq!(
                (stage.spatial_top(20), stage.temporal_top(20)),
                expected,
                "{mode:?} {width}"
            );
            let told = stage.told();
            let layer = told.layer.expect("something is sent");
            assert_eq!(
                (layer.spatial, layer.temporal),
                expected,
                "{mode:?} {told:?}"
            );
            assert_eq!(told.reason, LayerReason::Wanted);
        }
        assert!(stage.decoder.broken.is_empty(), "{mode:?}");
    }
}

/// What is told is what goes out, not what was chosen.
#[test]
fn who_waits_for_a_keyframe_is_told_so() {
    for mode in Mode::ALL.into_iter().filter(|m| m.spatial_layers() > 1) {
        let mut stage = Stage::new(mode);
        stage.pictures(90);
        stage.prefer_of(Preference {
            width: Some(320),
            ..Preference::default()
        });
        stage.pictures(60);
        stage.events();
        stage.is_deaf = true;
        stage.prefer(None);
        stage.pictures(60);
        assert_eq!(stage.spatial_top(20), 0, "{mode:?}");
        let told = stage.told();
        assert_eq!(told.layer.map(|layer| layer.spatial), Some(0), "{told:?}");
        assert_eq!(told.reason, LayerReason::NoKeyframeYet, "{mode:?}");
        assert!(
            told.bitrate.0 > 0 && told.next > Some(told.bitrate),
            "{told:?}"
        );
        assert_eq!(
            stage.events(),
            [(0, LayerReason::NoKeyframeYet)],
            "{mode:?}"
        );
        stage.is_deaf = false;
        stage.pictures(30);
        let best = (2, LayerReason::Best);
        assert_eq!(stage.events(), [best], "{mode:?}");
        let told = stage.told();
        assert_eq!((told.layer.unwrap().spatial, told.reason), best);
    }
}

/// A new structure is lost on its way to the server: what comes after it cannot be read, so that who gets only a part gets
/// nothing. A keyframe is asked for at once.
#[test]
fn a_lost_structure_is_asked_for() {
    for mode in [Mode::Av1L3T3, Mode::Av1L3T3Key] {
        let mut stage = Stage::new(mode);
        stage.pictures(90);
        stage.prefer(Some(10));
        stage.pictures(60);
        let (got, asked) = (stage.got.len(), stage.world.count("keyframe_requests_sent"));
        stage.encoder.template_offset = 20;
        stage.keyframe_wanted = true;
        stage.loses_structures = true;
        stage.picture();
        stage.loses_structures = false;
        assert_eq!(stage.world.count("keyframe_requests_sent"), asked + 1);
        assert_eq!(stage.got.len(), got, "nothing can be read");
        stage.pictures(30);
        assert!(stage.got.len() > got + 10, "{mode:?}");
        assert_eq!(stage.world.count("keyframe_requests_sent"), asked + 1);
        assert!(stage.decoder.broken.is_empty(), "{mode:?}");
        // The same structure again: that it is lost is no harm to anybody but that keyframe.
        stage.keyframe_wanted = true;
        stage.loses_structures = true;
        stage.picture();
        assert_eq!(stage.world.count("keyframe_requests_sent"), asked + 1);
    }
}

#[test]
fn what_is_asked_for_again_is_the_same_or_nothing() {
    for mode in Mode::ALL {
        let mut stage = Stage::new(mode);
        stage.pictures(90);
        stage.prefer(Some(10));
        stage.pictures(40);
        // The last half second: what is waited for longer is sent twice.
        let last = stage.got.len() - 5;
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

/// One encoding, switched off and on again: what came meanwhile is missing, and the numbers do not tell. So it goes on with
/// a keyframe, which is asked for until it comes, also where its first packets are lost.
#[test]
fn who_paused_goes_on_with_a_keyframe() {
    for mode in Mode::ALL {
        for max_framerate in [None, Some(20)] {
            let mut stage = Stage::new(mode);
            stage.pictures(90);
            stage.prefer(max_framerate);
            stage.pictures(60);
            for _ in 0..2 {
                stage.prefer_of(Preference {
                    is_paused: true,
                    ..Preference::default()
                });
                stage.pictures(30);
                let got = stage.got.len();
                stage.pictures(10);
                assert_eq!(stage.got.len(), got, "{mode:?}: it is paused");
                // Its publisher takes its time.
                stage.is_deaf = true;
                stage.keyframe_wanted = false;
                stage.prefer(max_framerate);
                stage.pictures(5);
                assert!(stage.keyframe_wanted, "{mode:?}: asked for");
                stage.is_deaf = false;
                stage.pictures(30);
                assert!(stage.got.len() > got + 10, "{mode:?}: it goes on");
            }
            assert!(stage.decoder.broken.is_empty(), "{mode:?}");
            let seqs: Vec<u16> = stage.got.iter().map(|got| got.0).collect();
            let is_next = |pair: &[u16]| pair[1] == pair[0].wrapping_add(1);
            assert!(seqs.windows(2).all(is_next), "{mode:?}: {seqs:?}");
        }
    }
}
