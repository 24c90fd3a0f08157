//! What subscribers get of simulcast video, and why: one shard with peers in memory.

#[path = "support/shard_world.rs"]
mod support;

use std::time::Duration;

use shardcast::base::ids::{Bitrate, EncodingIndex, Rid, Ssrc, TrackKey};
use shardcast::control::layers::{
    LayerChange, LayersWanted, PeerDescription, Preference, Preferences,
};
use shardcast::control::{Command, EncodingConfig, Event, LayerReason, TrackConfig};
use shardcast::wire::bandwidth::Remb;
use shardcast::wire::codec::Codec;
use shardcast::wire::rtcp::RtcpPacket;
use support::{Rtp, World, codec, subscription, track};

/// Bits a second of each encoding.
const RATES: [u64; 3] = [150_000, 500_000, 1_500_000];
/// Milliseconds between pictures.
const FRAME_MS: u64 = 40;
/// Bytes of a packet at most.
const PACKET: usize = 1_000;

/// Publishers of simulcast VP8 and one subscriber of all.
struct Stage {
    world: World,
    publishers: Vec<Publisher>,
    subscriber: usize,
    /// What the subscriber says that it takes, every second.
    remb: Option<u64>,
    /// What the subscriber was told of the first publisher's track.
    told: Vec<LayerChange>,
}

struct Publisher {
    at: usize,
    track: TrackConfig,
    /// Whether it sends each encoding.
    sends: [bool; 3],
    needs_keyframe: [bool; 3],
    seq: [u16; 3],
    frame: u32,
    wanted: Option<LayersWanted>,
}

impl Publisher {
    fn new(world: &mut World) -> Self {
        let at = world.join("room");
        let mut track = track(world, at, 0, &[codec(96, Codec::Vp8)]);
        let encoding = |index: u32| EncodingConfig {
            rid: Rid::new(["l", "m", "h"][index as usize]),
            ssrc: Some(Ssrc(10_000 * (at as u32 + 1) + index)),
            rtx_ssrc: None,
        };
        track.encodings = (0..3).map(encoding).collect();
        world.configure(at, std::slice::from_ref(&track), &[]);
        Self {
            at,
            track,
            sends: [true; 3],
            needs_keyframe: [true; 3],
            seq: [1; 3],
            frame: 0,
            wanted: None,
        }
    }

    /// One picture in each encoding that is sent.
    fn send(&mut self, world: &mut World) {
        for packet in world.clients[self.at].take_rtcp() {
            if let RtcpPacket::Pli { media } = packet {
                let of = |e: &EncodingConfig| e.ssrc == Some(media);
                let at = self.track.encodings.iter().position(of);
                self.needs_keyframe[at.expect("an encoding of the track")] = true;
            }
        }
        self.frame += 1;
        for (at, rate) in RATES.iter().enumerate().filter(|(at, _)| self.sends[*at]) {
            let mut left = (rate * FRAME_MS / 8_000) as usize;
            let mut is_first = true;
            while left > 0 {
                let len = left.min(PACKET);
                left -= len;
                let is_key = is_first && std::mem::take(&mut self.needs_keyframe[at]);
                let mut payload = vec![0xaa; len.max(12)];
                // RFC 7741 §4.2 and §4.3: the start of a partition; a keyframe's header with its size.
                payload[0] = if is_first { 0x10 } else { 0 };
                payload[1] = u8::from(!is_key);
                if is_key {
                    let (width, height) = (320_u16 << at, 180_u16 << at);
                    payload[4..7].copy_from_slice(&[0x9d, 0x01, 0x2a]);
                    payload[7..9].copy_from_slice(&width.to_le_bytes());
                    payload[9..11].copy_from_slice(&height.to_le_bytes());
                }
                let packet = Rtp {
                    ssrc: self.track.encodings[at].ssrc.unwrap().0,
                    seq: self.seq[at],
                    timestamp: self.frame * 90 * FRAME_MS as u32,
                    payload_type: 96,
                    extensions: &[],
                    payload: &payload,
                };
                self.seq[at] = self.seq[at].wrapping_add(1);
                world.send_rtp(self.at, &packet.bytes());
                is_first = false;
            }
        }
    }
}

impl Stage {
    fn new(publishers: usize) -> Self {
        let mut world = World::new();
        let publishers: Vec<_> = (0..publishers)
            .map(|_| Publisher::new(&mut world))
            .collect();
        let subscriber = world.join("room");
        let wanted: Vec<_> = (0..)
            .zip(&publishers)
            .map(|(number, p)| subscription(number, &p.track, &[codec(120, Codec::Vp8)]))
            .collect();
        world.configure(subscriber, &[], &wanted);
        Self {
            world,
            publishers,
            subscriber,
            remb: None,
            told: Vec::new(),
        }
    }

    fn run(&mut self, seconds: f64) {
        let frames = (seconds * 1000.0) as u64 / FRAME_MS;
        let first = self.publishers[0].track.key;
        for frame in 0..frames {
            if (frame * FRAME_MS).is_multiple_of(1000) {
                self.repeat_remb();
            }
            for publisher in &mut self.publishers {
                publisher.send(&mut self.world);
            }
            self.world.clients[self.subscriber].take_rtp();
            self.world.advance(Duration::from_millis(FRAME_MS));
            for (_, event) in std::mem::take(&mut self.world.events) {
                match event {
                    Event::Layer(_, change) if change.track == first => self.told.push(change),
                    Event::LayersWanted(_, wanted) => {
                        let mut publishers = self.publishers.iter_mut();
                        let of = publishers.find(|p| p.track.key == wanted.track);
                        of.expect("a publisher").wanted = Some(wanted);
                    }
                    _ => {}
                }
            }
        }
    }

    /// The subscriber says from now on that it takes so much.
    fn squeeze(&mut self, bitrate: u64) {
        self.remb = Some(bitrate);
        self.repeat_remb();
    }

    /// As receivers do: what is not repeated is forgotten.
    fn repeat_remb(&mut self) {
        let Some(bitrate) = self.remb else {
            return;
        };
        let remb = Remb {
            sender: Ssrc(1),
            bitrate: Bitrate(bitrate),
            ssrcs: Vec::new(),
        };
        self.world.send_rtcp(self.subscriber, |out| remb.write(out));
    }

    fn prefer(&mut self, tracks: Vec<(TrackKey, Preference)>) {
        let preferences = Preferences {
            tracks,
            last_n: None,
        };
        let peer = self.world.clients[self.subscriber].key;
        self.world.command(Command::Prefer { peer, preferences });
    }

    fn describe(&self) -> PeerDescription {
        let peer = self.world.clients[self.subscriber].key;
        let described = self.world.shard.describe(self.world.now, peer);
        described.expect("the subscriber is there")
    }

    /// What each subscription gets (-1: nothing), and why.
    fn given(&self) -> Vec<(i8, LayerReason)> {
        let subscriptions = self.describe().subscriptions;
        let given = subscriptions.iter().map(|one| {
            let layer = one.change.layer;
            (
                layer.map_or(-1, |layer| layer.encoding.0 as i8),
                one.change.reason,
            )
        });
        given.collect()
    }

    /// What was told since the last time: encodings and reasons.
    fn told(&mut self) -> Vec<(i8, LayerReason)> {
        let told = std::mem::take(&mut self.told);
        let of = |c: LayerChange| (c.layer.map_or(-1, |l| l.encoding.0 as i8), c.reason);
        told.into_iter().map(of).collect()
    }
}

#[test]
fn a_squeezed_subscriber_steps_down_and_up_and_is_told_why() {
    let mut stage = Stage::new(1);
    stage.run(3.0);
    assert_eq!(stage.given(), [(2, LayerReason::Best)]);
    let change = stage.told.last().copied().expect("was told");
    assert_eq!(
        (change.layer.map(|l| l.encoding), change.rid),
        (Some(EncodingIndex(2)), Rid::new("h"))
    );
    assert_eq!((change.available, change.next), (None, None));
    assert!(
        change.bitrate.0.abs_diff(RATES[2]) < RATES[2] / 8,
        "{change:?}"
    );
    stage.run(9.0);
    stage.told();

    stage.squeeze(300_000);
    stage.run(2.0);
    assert_eq!(stage.given(), [(0, LayerReason::Bandwidth)]);
    let change = stage.told.last().copied().expect("was told");
    assert_eq!(change.available, Some(Bitrate(300_000)));
    assert!(
        change.bitrate.0.abs_diff(RATES[0]) < RATES[0] / 8,
        "{change:?}"
    );
    let next = change.next.expect("there is a better one").0;
    assert!(next.abs_diff(RATES[1]) < RATES[1] / 8, "{change:?}");
    // On the way down nothing else was told than the limit.
    let told = stage.told();
    assert!(
        told.iter()
            .all(|(_, reason)| *reason == LayerReason::Bandwidth),
        "{told:?}"
    );

    stage.squeeze(2_500_000);
    stage.run(6.0);
    assert_eq!(stage.given(), [(2, LayerReason::Best)]);
    let told = stage.told();
    let expected = [(0, LayerReason::NoKeyframeYet), (2, LayerReason::Best)];
    assert!(told.ends_with(&expected), "{told:?}");

    // Not even the lowest fits: it pauses, and says so.
    stage.squeeze(100_000);
    stage.run(2.0);
    assert_eq!(stage.given(), [(-1, LayerReason::Bandwidth)]);
    assert_eq!(stage.told().last(), Some(&(-1, LayerReason::Bandwidth)));
    let count = |stage: &Stage, reason: LayerReason| {
        stage.world.shard.layer_census().switches[reason.index()]
    };
    assert!(count(&stage, LayerReason::Bandwidth) >= 2);
    assert!(count(&stage, LayerReason::Best) >= 1);
}

#[test]
fn the_client_s_wishes_decide_who_gets_what() {
    let mut stage = Stage::new(3);
    stage.squeeze(1_100_000);
    stage.run(4.0);
    // 450 for all; nobody is preferred, and the first to have it keeps it.
    assert_eq!(
        stage
            .given()
            .iter()
            .filter(|(layer, _)| *layer == 1)
            .count(),
        1
    );
    let keys: Vec<TrackKey> = stage.publishers.iter().map(|p| p.track.key).collect();
    let priority = |priority| Preference {
        priority,
        ..Preference::default()
    };
    stage.prefer(vec![(keys[2], priority(100))]);
    stage.run(4.0);
    let layers: Vec<i8> = stage.given().iter().map(|(layer, _)| *layer).collect();
    assert_eq!(layers, [0, 0, 1]);
    let paused = Preference {
        is_paused: true,
        ..Preference::default()
    };
    let small = Preference {
        width: Some(320),
        height: Some(180),
        ..Preference::default()
    };
    stage.prefer(vec![(keys[2], paused), (keys[0], small)]);
    stage.run(4.0);
    let expected = [
        (0, LayerReason::Wanted),
        (1, LayerReason::Bandwidth),
        (-1, LayerReason::Paused),
    ];
    assert_eq!(stage.given(), expected);
    // What is taken back holds no more.
    stage.prefer(vec![]);
    stage.run(4.0);
    assert!(stage.given().iter().all(|(layer, _)| *layer >= 0));
}

#[test]
fn a_publisher_hears_what_nobody_wants_and_may_stop_it() {
    let mut stage = Stage::new(1);
    let track = stage.publishers[0].track.key;
    let wanted = |stage: &Stage| -> Option<Vec<bool>> {
        let wanted = stage.publishers[0].wanted.as_ref()?;
        Some(wanted.encodings.iter().map(|e| e.is_wanted).collect())
    };
    stage.run(3.0);
    let small = Preference {
        width: Some(320),
        ..Preference::default()
    };
    stage.prefer(vec![(track, small)]);
    stage.run(4.0);
    assert_eq!(wanted(&stage), None, "not at once");
    stage.run(2.0);
    assert_eq!(wanted(&stage), Some(vec![true, false, false]));
    stage.publishers[0].sends = [true, false, false];
    stage.run(4.0);
    assert_eq!(stage.given(), [(0, LayerReason::Wanted)]);

    // Wanted again: it is asked for at once, and used when it comes.
    stage.prefer(vec![]);
    stage.run(0.4);
    assert_eq!(wanted(&stage), Some(vec![true, true, true]));
    assert_eq!(stage.given(), [(0, LayerReason::NotSent)]);
    stage.publishers[0].sends = [true; 3];
    stage.run(3.0);
    assert_eq!(stage.given(), [(2, LayerReason::Best)]);
}

#[test]
fn what_its_publisher_stops_is_stepped_down_from() {
    let mut stage = Stage::new(1);
    stage.run(3.0);
    stage.publishers[0].sends = [true, true, false];
    stage.run(2.5);
    assert_eq!(stage.given(), [(1, LayerReason::NotSent)]);
    stage.publishers[0].sends = [false; 3];
    stage.run(5.0);
    assert_eq!(
        stage.given().last().map(|(_, r)| *r),
        Some(LayerReason::PublisherMuted)
    );
    stage.publishers[0].sends = [true; 3];
    stage.publishers[0].needs_keyframe = [true; 3];
    stage.run(4.0);
    assert_eq!(stage.given(), [(2, LayerReason::Best)]);
}

/// libvpx leaves pictures of the smallest size out for a while after a large keyframe. Who has no room for a better one keeps
/// it, and it is given up only when a keyframe that was asked for does not come.
#[test]
fn the_lowest_is_not_given_up_while_it_is_expected_back() {
    let mut stage = Stage::new(1);
    stage.run(3.0);
    stage.squeeze(300_000);
    stage.run(3.0);
    let low = [(0, LayerReason::Bandwidth)];
    assert_eq!(stage.given(), low);
    stage.told();
    for silent in [0.6, 1.2, 1.9] {
        stage.publishers[0].needs_keyframe[0] = false;
        stage.publishers[0].sends = [false, true, true];
        stage.run(silent);
        assert_eq!(stage.given(), low, "{silent} s");
        assert!(!stage.publishers[0].needs_keyframe[0], "{silent} s");
        stage.publishers[0].sends = [true; 3];
        let before = stage.world.count("rtp_forwarded");
        stage.run(1.0);
        assert!(stage.world.count("rtp_forwarded") > before + 20, "goes on");
    }
    assert_eq!(stage.told(), [], "nothing has changed");
    // It was stopped indeed: asked for once, and given up.
    stage.publishers[0].sends = [false, true, true];
    stage.run(3.2);
    assert!(stage.publishers[0].needs_keyframe[0], "asked for");
    assert_eq!(stage.given(), low);
    stage.run(2.0);
    assert_eq!(stage.given(), [(-1, LayerReason::Bandwidth)]);
    stage.publishers[0].sends = [true; 3];
    stage.run(3.0);
    assert_eq!(stage.given(), low);
}

#[test]
fn of_speakers_fewer_can_be_asked_for_but_not_of_what_is_pinned() {
    let mut stage = Stage::new(3);
    stage.run(2.0);
    let peer = stage.world.clients[stage.subscriber].key;
    let last_n = |stage: &mut Stage, tracks, last_n| {
        let preferences = Preferences { tracks, last_n };
        stage.world.command(Command::Prefer { peer, preferences });
        stage.run(3.0);
        let reasons = stage.given();
        reasons
            .into_iter()
            .map(|(_, reason)| reason)
            .collect::<Vec<_>>()
    };
    let (best, outside) = (LayerReason::Best, LayerReason::LastN);
    assert_eq!(
        last_n(&mut stage, vec![], Some(1)),
        [best, outside, outside]
    );
    let pinned = Preference {
        priority: 100,
        ..Preference::default()
    };
    let third = stage.publishers[2].track.key;
    let given = last_n(&mut stage, vec![(third, pinned)], Some(1));
    assert_eq!(given, [best, outside, best]);
    assert_eq!(last_n(&mut stage, vec![], None), [best; 3]);
}
