//! Simulcast from publisher to subscriber, on one shard and on two: whatever happens, a subscriber gets one stream.

#[path = "support/relay_mesh.rs"]
mod relay_mesh;
#[path = "support/simulcast.rs"]
mod simulcast;
#[path = "support/shard_world.rs"]
mod support;

use std::time::Duration;

use bytes::BytesMut;
use proptest::prelude::*;
use shardcast::base::ids::{Bitrate, SeqNo16, ShardId, Ssrc};
use shardcast::control::layers::{Preference, Preferences};
use shardcast::control::{Command, EncodingConfig, SubscriptionConfig};
use shardcast::wire::bandwidth::Remb;
use shardcast::wire::codec::Codec;
use shardcast::wire::rtcp::{RtcpPacket, write_nack, write_pli, write_sender_report};

use crate::relay_mesh::Mesh;
use crate::simulcast::{Checker, Made, Naming, Simulcast};
use crate::support::{World, codec, subscription};

const MS: Duration = Duration::from_millis(1);

/// A publisher on the first shard, and a subscriber on each.
struct Stage {
    worlds: Vec<World>,
    mesh: Mesh,
    publisher: Simulcast,
    viewers: Vec<Viewer>,
    /// Packets that are kept back, to come later.
    held: Vec<Made>,
}

/// A subscriber: client 1 of the first shard, client 0 of the others.
struct Viewer {
    shard: usize,
    at: usize,
    config: SubscriptionConfig,
    checker: Checker,
}

impl Stage {
    fn new(shards: u16, encodings: usize, naming: Naming) -> Self {
        let mut worlds: Vec<World> = (0..shards)
            .map(|shard| World::of_shard(ShardId(shard), usize::from(shard) * 100))
            .collect();
        let start = worlds[0].now;
        worlds.iter_mut().for_each(|world| world.now = start);
        let publisher = worlds[0].join("room");
        let publisher = Simulcast::new(&worlds[0], publisher, 0, encodings, naming);
        worlds[0].configure(0, std::slice::from_ref(&publisher.config), &[]);
        let mut stage = Self {
            worlds,
            mesh: Mesh::new(3, 3 * MS),
            publisher,
            viewers: Vec::new(),
            held: Vec::new(),
        };
        for shard in 0..usize::from(shards) {
            let at = stage.worlds[shard].join("room");
            let config = subscription(0, &stage.publisher.config, &[codec(102, Codec::Vp8)]);
            stage.viewers.push(Viewer {
                shard,
                at,
                config,
                checker: Checker::new(start),
            });
            stage.configure(shard);
        }
        stage.run_for(10 * MS);
        stage
    }

    fn configure(&mut self, viewer: usize) {
        let viewer = &self.viewers[viewer];
        let configs = std::slice::from_ref(&viewer.config);
        self.worlds[viewer.shard].configure(viewer.at, &[], configs);
        self.pump();
    }

    fn mute(&mut self, viewer: usize, is_muted: bool) {
        self.viewers[viewer].config.active = !is_muted;
        self.viewers[viewer].checker.on_pause();
        self.configure(viewer);
    }

    /// A subscriber wants no more than so wide a picture; 0 is none.
    fn want(&mut self, viewer: usize, width: Option<u16>) {
        let viewer = &self.viewers[viewer];
        let preference = Preference {
            width,
            is_paused: width == Some(0),
            ..Preference::default()
        };
        let peer = self.worlds[viewer.shard].clients[viewer.at].key;
        let preferences = Preferences {
            tracks: vec![(viewer.config.source, preference)],
            last_n: None,
        };
        self.worlds[viewer.shard].command(Command::Prefer { peer, preferences });
        self.pump();
    }

    /// Packets arrive together.
    fn send(&mut self, packets: &[Made]) {
        let world = &mut self.worlds[0];
        let client = &mut world.clients[0];
        let from = client.address;
        let sealed: Vec<(_, BytesMut)> = packets
            .iter()
            .map(|packet| (from, client.seal_rtp(&packet.bytes)))
            .collect();
        world.shard.handle_batch(world.now, sealed);
        world.settle();
        self.pump();
    }

    /// A picture in all its encodings, and time for the next one.
    fn picture(&mut self) {
        let made = self.publisher.picture(self.worlds[0].now);
        self.send(&made);
        self.run_for(33 * MS);
    }

    /// Pictures of one encoding, faster than they are shown.
    fn burst(&mut self, count: usize, of: usize) {
        for _ in 0..count {
            let mut made = self.publisher.picture(self.worlds[0].now);
            made.retain(|made| made.encoding == of);
            self.send(&made);
            self.run_for(MS);
        }
    }

    fn pictures(&mut self, count: usize) {
        (0..count).for_each(|_| self.picture());
    }

    fn report(&mut self, at: usize) {
        let report = self.publisher.report(self.worlds[0].now, at);
        self.worlds[0].send_rtcp(0, |out| write_sender_report(out, &report, "cname"));
        self.pump();
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.worlds[0].now + time;
        loop {
            let due = self.worlds.iter().filter_map(|w| w.shard.poll_timeout());
            let due = due.chain(self.mesh.next_at()).min();
            let now = due.unwrap_or(end).clamp(self.worlds[0].now, end);
            for world in &mut self.worlds {
                let by = now.saturating_duration_since(world.now);
                world.advance(by);
            }
            while let Some((to, from, message)) = self.mesh.poll(now) {
                let world = &mut self.worlds[usize::from(to.0)];
                world.shard.handle_relay(now, from, message);
                world.settle();
            }
            self.pump();
            if due.is_none_or(|due| due > end) {
                return;
            }
        }
    }

    /// Carries what shards say to each other, and hands out what came.
    fn pump(&mut self) {
        for (shard, world) in self.worlds.iter_mut().enumerate() {
            world.settle();
            while let Some((to, message)) = world.shard.poll_relay() {
                self.mesh
                    .push(world.now, ShardId(shard as u16), to, message);
            }
        }
        for packet in self.worlds[0].clients[0].take_rtcp() {
            if let RtcpPacket::Pli { media } = packet {
                self.publisher.request_keyframe(media);
            }
        }
        for viewer in &mut self.viewers {
            let now = self.worlds[viewer.shard].now;
            let client = &mut self.worlds[viewer.shard].clients[viewer.at];
            for (packet, sealed) in client.rtp.iter().zip(&client.sealed_rtp) {
                viewer.checker.take(now, packet, sealed);
            }
            client.take_rtp();
        }
    }

    fn present(&self) -> Vec<Option<usize>> {
        self.viewers.iter().map(|v| v.checker.present()).collect()
    }

    fn requests(&self) -> Vec<usize> {
        self.publisher.layers.iter().map(|l| l.requests).collect()
    }

    fn ssrc(&self, viewer: usize) -> Ssrc {
        self.viewers[viewer].config.ssrc
    }

    fn relayed(&self) -> u64 {
        self.worlds[0].count("relay_packets_sent")
    }
}

#[test]
fn the_best_encoding_that_flows_is_got_from_the_first_keyframe_on() {
    for naming in [Naming::Rid, Naming::Ssrc] {
        let mut stage = Stage::new(2, 3, naming);
        stage.pictures(4);
        assert_eq!(stage.present(), [Some(2), Some(2)], "{naming:?}");
        // On the publisher's shard what begins with a keyframe is taken from that; the other asks.
        assert_eq!(stage.requests()[0], 0, "{naming:?}");
        assert!(stage.requests()[2] <= 1, "{:?}", stage.requests());
    }
}

#[test]
fn when_the_encoding_stops_the_next_lower_one_takes_over_at_a_keyframe() {
    let mut stage = Stage::new(2, 3, Naming::Rid);
    stage.pictures(10);
    for at in 0..3 {
        stage.report(at);
    }
    stage.publisher.set_active(2, false);
    stage.pictures(40);
    assert_eq!(stage.present(), [Some(1), Some(1)]);
    let silence = stage.viewers.iter().map(|v| v.checker.silence_max);
    assert!(silence.max().unwrap() < 700 * MS, "half a second to notice");
    stage.publisher.set_active(1, false);
    stage.pictures(40);
    assert_eq!(stage.present(), [Some(0), Some(0)]);
    // Back up; what to give is divided anew twice a second.
    stage.publisher.set_active(2, true);
    stage.pictures(60);
    assert_eq!(stage.present(), [Some(2), Some(2)]);
}

#[test]
fn who_wants_a_small_picture_gets_another_encoding_than_who_wants_a_large_one() {
    let mut stage = Stage::new(2, 3, Naming::Rid);
    stage.pictures(60);
    assert_eq!(stage.present(), [Some(2), Some(2)]);
    stage.want(1, Some(320));
    stage.pictures(60);
    assert_eq!(stage.present(), [Some(2), Some(0)]);
    let silence = stage.viewers.iter().map(|v| v.checker.silence_max);
    assert!(
        silence.max().unwrap() <= 70 * MS,
        "it goes on until the keyframe"
    );
    let before = stage.relayed();
    stage.pictures(10);
    assert_eq!(stage.relayed() - before, 10 * 2, "of the lowest only");
    stage.want(0, Some(640));
    stage.want(1, Some(0));
    stage.pictures(60);
    assert_eq!(stage.present()[0], Some(1));
    let before = stage.relayed();
    stage.pictures(10);
    assert_eq!(stage.relayed(), before);
    stage.want(1, None);
    stage.pictures(60);
    assert_eq!(stage.present(), [Some(1), Some(2)]);
}

#[test]
fn a_publisher_that_pauses_everything_changes_nothing() {
    let mut stage = Stage::new(1, 3, Naming::Ssrc);
    stage.pictures(10);
    stage.run_for(5000 * MS);
    stage.pictures(30);
    assert_eq!(stage.present(), [Some(2)]);
    let switched = stage.worlds[0].count("subscription_switched");
    assert_eq!(switched, 1, "only at the start");
    assert_eq!(stage.requests(), [0, 0, 0]);
}

#[test]
fn when_the_description_has_only_one_left_that_is_begun_with_a_keyframe() {
    let mut stage = Stage::new(2, 3, Naming::Rid);
    stage.pictures(10);
    stage.apply(&Op::Describe(1));
    stage.pictures(40);
    assert_eq!(stage.present(), [Some(0), Some(0)]);
    stage.apply(&Op::Describe(3));
    stage.pictures(40);
    assert_eq!(stage.present(), [Some(2), Some(2)]);
}

#[test]
fn who_left_an_encoding_that_ended_gets_what_comes_under_its_name() {
    let mut stage = Stage::new(1, 3, Naming::Rid);
    stage.pictures(200);
    assert_eq!(stage.present(), [Some(2)]);
    stage.want(0, Some(0));
    stage.pictures(20);
    stage.want(0, Some(320));
    stage.pictures(40);
    assert_eq!(stage.present(), [Some(0)]);
    stage.apply(&Op::Describe(1));
    stage.pictures(10);
    stage.apply(&Op::Describe(3));
    stage.want(0, None);
    // Its packets have lower numbers than those of before.
    stage.pictures(60);
    assert_eq!(stage.present(), [Some(2)]);
}

#[test]
fn only_encodings_that_are_needed_cross_between_shards() {
    let mut stage = Stage::new(2, 3, Naming::Rid);
    stage.pictures(20);
    let before = stage.relayed();
    stage.pictures(10);
    assert_eq!(
        stage.relayed() - before,
        10 * 4,
        "of the highest, four packets a picture"
    );
    stage.mute(1, true);
    stage.run_for(20 * MS);
    let before = stage.relayed();
    stage.pictures(10);
    assert_eq!(stage.relayed(), before);
    stage.mute(1, false);
    stage.pictures(30);
    assert_eq!(stage.present()[1], Some(2));
    let count = |stage: &Stage| stage.viewers[1].checker.packets;
    let before = count(&stage);
    stage.pictures(2);
    assert!(count(&stage) > before);
}

#[test]
fn packets_of_an_encoding_that_is_not_named_are_refused() {
    let mut stage = Stage::new(1, 3, Naming::Ssrc);
    let mut made = stage.publisher.picture(stage.worlds[0].now);
    for packet in &mut made {
        // Another SSRC, whose RID no section knows.
        packet.bytes[8..12].copy_from_slice(&77_u32.to_be_bytes());
    }
    let count = made.len() as u64;
    stage.send(&made);
    assert_eq!(stage.worlds[0].count("rtp_unknown_encoding"), count);
    assert_eq!(stage.worlds[0].count("rtp_forwarded"), 0);
}

#[test]
fn more_encodings_than_four_are_not_taken() {
    let mut stage = Stage::new(1, 4, Naming::Ssrc);
    let fifth = stage.publisher.config.encodings[0];
    let mut config = stage.publisher.config.clone();
    config.encodings.push(EncodingConfig {
        ssrc: Some(Ssrc(9)),
        ..fifth
    });
    stage.worlds[0].configure(0, &[config], &[]);
    stage.pictures(3);
    assert_eq!(stage.present(), [Some(3)]);
}

#[test]
fn a_nack_over_a_switch_is_answered_with_the_same_packets() {
    let mut stage = Stage::new(1, 2, Naming::Ssrc);
    stage.pictures(5);
    stage.publisher.set_active(1, false);
    stage.pictures(17);
    assert_eq!(stage.present(), [Some(0)]);
    let sent = stage.worlds[0].count("rtp_forwarded") as u16;
    let last = stage.viewers[0].checker.last_number().unwrap();
    let all: Vec<_> = (0..sent)
        .map(|back| SeqNo16(last.wrapping_sub(back)))
        .collect();
    let before = stage.worlds[0].count("rtp_retransmitted");
    stage.feedback(0, |out, ssrc| write_nack(out, Ssrc(1), ssrc, &all));
    // The checker compares what comes again. What the decoder's numbers were in the former encoding need not be
    // known any more.
    let again = stage.worlds[0].count("rtp_retransmitted") - before;
    let since_switch = u64::from(stage.viewers[0].checker.since_switch());
    assert!((since_switch..=u64::from(sent)).contains(&again), "{again}");
    assert!(since_switch >= 4);
}

#[test]
fn a_switch_down_waits_for_nothing_that_it_replaces() {
    let mut stage = Stage::new(1, 3, Naming::Rid);
    stage.pictures(60);
    assert_eq!(stage.present(), [Some(2)]);
    // From here on all that waits goes out at this rate.
    stage.remb(0, 250);
    stage.burst(10, 2);
    assert!(stage.worlds[0].count("paced") >= 20);
    assert_eq!(stage.present(), [Some(2)], "nobody has asked yet");
    // 25 kB of it would take half a second. The checker fails at a gap in the numbers.
    stage.publisher.layers[0].keyframe_due = true;
    let from = stage.worlds[0].now;
    let made = stage.publisher.picture(from);
    stage.send(&made);
    while stage.present() != [Some(0)] {
        stage.run_for(MS);
        let waited = stage.worlds[0].now - from;
        assert!(waited <= 60 * MS, "{waited:?}");
    }
    let dropped = stage.worlds[0].count("paced_dropped");
    assert!(dropped >= 20, "{dropped}");
    let sent = stage.viewers[0].checker.packets;
    stage.run_for(1000 * MS);
    let forwarded = stage.worlds[0].count("rtp_forwarded");
    assert!(stage.viewers[0].checker.packets > sent);
    assert_eq!(forwarded, stage.viewers[0].checker.packets, "sent is sent");
}

#[test]
fn who_stops_and_begins_while_packets_wait_sees_no_gap() {
    let mut stage = Stage::new(1, 2, Naming::Rid);
    stage.pictures(60);
    stage.remb(0, 300);
    for round in 0..3 {
        stage.burst(20, 1);
        match round {
            0 | 1 => {
                stage.mute(0, true);
                stage.run_for(30 * MS);
                stage.mute(0, false);
            }
            _ => {
                stage.want(0, Some(0));
                stage.run_for(30 * MS);
                stage.want(0, None);
            }
        }
        stage.pictures(30);
    }
    assert!(stage.worlds[0].count("paced_dropped") > 20);
    let forwarded = stage.worlds[0].count("rtp_forwarded");
    assert_eq!(forwarded, stage.viewers[0].checker.packets, "sent is sent");
}

#[derive(Debug, Clone)]
enum Op {
    /// A picture; of its packets some are lost, doubled or come later.
    Picture {
        lost: u32,
        doubled: u32,
        late: u32,
        gap_ms: u64,
    },
    /// What was kept back comes.
    Release,
    /// An encoding starts or stops.
    Toggle(usize),
    Report(usize),
    Mute(usize, bool),
    /// The subscriber wants no more than so wide a picture; 0 is none.
    Want(usize, Option<u16>),
    /// The subscriber asks for a keyframe.
    Pli(usize),
    Nack(usize, u16),
    /// The subscriber's network carries so much, in kbit/s: beyond it packets wait.
    Remb(usize, u64),
    /// The publisher's description has fewer or other encodings.
    Describe(usize),
    Pause(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let sparse =
        || prop_oneof![5 => Just(0_u32), 1 => any::<u32>(), 2 => (0_u32..20).prop_map(|b| 1 << b)];
    prop_oneof![
        30 => (sparse(), sparse(), sparse(), 5_u64..70).prop_map(|(lost, doubled, late, gap_ms)| {
            Op::Picture { lost, doubled, late, gap_ms }
        }),
        6 => Just(Op::Release),
        2 => (0_usize..3).prop_map(Op::Toggle),
        4 => (0_usize..3).prop_map(Op::Report),
        1 => (0_usize..2, any::<bool>()).prop_map(|(viewer, muted)| Op::Mute(viewer, muted)),
        2 => (0_usize..2, prop_oneof![
            Just(None), Just(Some(0)), Just(Some(320)), Just(Some(640)), Just(Some(1280)),
        ]).prop_map(|(viewer, width)| Op::Want(viewer, width)),
        1 => (0_usize..2).prop_map(Op::Pli),
        3 => (0_usize..2, 0_u16..60).prop_map(|(viewer, back)| Op::Nack(viewer, back)),
        1 => (2_usize..4).prop_map(Op::Describe),
        1 => (0_u64..2000).prop_map(Op::Pause),
    ]
}

/// As [`op`], with networks that carry less than the pictures take.
fn squeezed_op() -> impl Strategy<Value = Op> {
    let remb = (0_usize..2, 50_u64..2000).prop_map(|(viewer, kbps)| Op::Remb(viewer, kbps));
    prop_oneof![12 => op(), 1 => remb]
}

impl Stage {
    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Picture {
                lost,
                doubled,
                late,
                gap_ms,
            } => {
                let made = self.publisher.picture(self.worlds[0].now);
                let mut arriving = Vec::new();
                for (at, packet) in made.into_iter().enumerate() {
                    let is = |bits: u32| bits & (1 << (at % 32)) != 0;
                    if is(lost) {
                        continue;
                    }
                    if is(doubled) {
                        arriving.push(packet.clone());
                    }
                    match is(late) && self.held.len() < 20 {
                        true => self.held.push(packet),
                        false => arriving.push(packet),
                    }
                }
                self.send(&arriving);
                self.run_for(gap_ms as u32 * MS);
            }
            Op::Release => {
                let held = std::mem::take(&mut self.held);
                self.send(&held);
            }
            Op::Toggle(at) => {
                let is_active = !self.publisher.layers[at].is_active;
                self.publisher.set_active(at, is_active);
            }
            Op::Report(at) => self.report(at),
            Op::Mute(viewer, is_muted) => self.mute(viewer, is_muted),
            Op::Want(viewer, width) => self.want(viewer, width),
            Op::Pli(viewer) => self.feedback(viewer, |out, ssrc| write_pli(out, Ssrc(1), ssrc)),
            Op::Nack(viewer, back) => {
                let Some(last) = self.viewers[viewer].checker.last_number() else {
                    return;
                };
                let seqs: Vec<_> = (0..6)
                    .map(|at| SeqNo16(last.wrapping_sub(back + at)))
                    .collect();
                self.feedback(viewer, |out, ssrc| write_nack(out, Ssrc(1), ssrc, &seqs));
            }
            Op::Remb(viewer, kbps) => self.remb(viewer, kbps),
            Op::Describe(count) => {
                let mut config = self.publisher.config.clone();
                config.encodings.truncate(count);
                self.worlds[0].configure(0, &[config], &[]);
                self.pump();
            }
            Op::Pause(ms) => self.run_for(ms as u32 * MS),
        }
    }

    fn remb(&mut self, viewer: usize, kbps: u64) {
        self.feedback(viewer, |out, ssrc| {
            let remb = Remb {
                sender: Ssrc(1),
                bitrate: Bitrate(1000 * kbps),
                ssrcs: vec![ssrc],
            };
            remb.write(out);
        });
    }

    fn feedback(&mut self, viewer: usize, write: impl FnOnce(&mut Vec<u8>, Ssrc)) {
        let ssrc = self.ssrc(viewer);
        let (shard, at) = (self.viewers[viewer].shard, self.viewers[viewer].at);
        self.worlds[shard].send_rtcp(at, |out| write(out, ssrc));
        self.pump();
    }
}

/// What is under way of an encoding that is far too much would be in the way of the lesser one's keyframe.
#[test]
fn nothing_goes_out_of_what_is_too_much_once_the_network_falls() {
    let mut stage = Stage::new(1, 3, Naming::Rid);
    stage.remb(0, 10_000);
    stage.pictures(60);
    assert_eq!(stage.present(), [Some(2)]);
    let silenced = |stage: &Stage| stage.worlds[0].count("subscription_silenced");
    let flows = |stage: &mut Stage| {
        let before = stage.viewers[0].checker.packets;
        for _ in 0..5 {
            // Its keyframe does not come yet.
            let layers = &mut stage.publisher.layers;
            layers
                .iter_mut()
                .for_each(|layer| layer.keyframe_due = false);
            stage.picture();
        }
        stage.viewers[0].checker.packets > before
    };
    // Not half of it is gone.
    stage.remb(0, 6_000);
    assert!(flows(&mut stage) && silenced(&stage) == 0);
    stage.remb(0, 45);
    assert!(!flows(&mut stage) && silenced(&stage) == 1);
    assert_eq!(stage.worlds[0].count("paced_dropped"), 0);
    stage.pictures(40);
    assert_eq!(stage.present(), [Some(0)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever is lost, late, doubled, stopped, muted, described anew or asked for again: numbers are unique and close
    /// up, timestamps rise with time, an encoding begins with a keyframe, and no nonce is used twice. In the end
    /// everybody gets the best encoding there is.
    #[test]
    fn a_subscriber_gets_one_stream_whatever_happens(
        naming in prop_oneof![Just(Naming::Rid), Just(Naming::Ssrc)],
        ops in proptest::collection::vec(op(), 1..120),
    ) {
        let mut stage = Stage::new(2, 3, naming);
        for op in &ops {
            stage.apply(op);
        }
        stage.apply(&Op::Describe(3));
        stage.held.clear();
        for viewer in 0..2 {
            stage.mute(viewer, false);
            stage.want(viewer, None);
        }
        for at in 0..3 {
            stage.publisher.set_active(at, true);
        }
        stage.pictures(150);
        prop_assert_eq!(stage.present(), [Some(2), Some(2)]);
        let before: Vec<_> = stage.viewers.iter().map(|v| v.checker.packets).collect();
        stage.pictures(1);
        for (viewer, before) in stage.viewers.iter().zip(before) {
            prop_assert!(viewer.checker.packets > before, "pictures flow");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The same while packets have to wait for their turn, and are replaced while they do: what does not go out leaves
    /// no gap. In the end the best encoding is got as soon as the allocator dares.
    #[test]
    fn a_subscriber_gets_one_stream_also_where_packets_wait(
        ops in proptest::collection::vec(squeezed_op(), 1..160),
    ) {
        let mut stage = Stage::new(2, 3, Naming::Rid);
        for viewer in 0..2 {
            stage.remb(viewer, 400);
        }
        for op in &ops {
            stage.apply(op);
        }
        stage.apply(&Op::Describe(3));
        stage.held.clear();
        for viewer in 0..2 {
            stage.mute(viewer, false);
            stage.want(viewer, None);
            stage.remb(viewer, 10_000);
        }
        for at in 0..3 {
            stage.publisher.set_active(at, true);
        }
        let mut tries = 0;
        while stage.present() != [Some(2), Some(2)] {
            stage.pictures(30);
            tries += 1;
            prop_assert!(tries < 30, "{:?}", stage.present());
        }
    }
}
