//! Layer selection against simulated encoders and a decoder that believes nothing but what it sees: whatever is
//! asked for, lost, reordered or switched, every frame that goes out has what it builds on, and the numbers that
//! the decoder follows have no seam.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use shardcast::base::ids::{RtpTime, SeqNo};
use shardcast::media::layers::munger::{DESCRIPTOR_MAX, Edit};
use shardcast::media::layers::reader::{LayerPacket, LayerReader, RUNS_MAX};
use shardcast::media::layers::selector::Selector;
use shardcast::media::layers::structures::Limit;
use shardcast::wire::codec::Codec;
use shardcast::wire::payload::dependency::DependencyDescriptor;
use support::layered::{Decoder, Encoder, Mode, Numbers, Packet, Received, content, numbers};

fn codec(mode: Mode) -> Codec {
    match mode {
        Mode::Vp8L1T3 => Codec::Vp8,
        Mode::Vp9L3T3 | Mode::Vp9L3T3Flexible | Mode::Vp9L3T3Key => Codec::Vp9 { profile: 0 },
        Mode::Av1L3T3 | Mode::Av1L3T3Key => Codec::Av1 { profile: 0 },
    }
}

fn limit(spatial: u8, temporal: u8) -> Limit {
    Limit { spatial, temporal }
}

fn view<'p>(mode: Mode, packet: &'p Packet) -> LayerPacket<'p> {
    LayerPacket {
        codec: codec(mode),
        seq: SeqNo(packet.seq),
        timestamp: RtpTime(packet.timestamp),
        marker: packet.marker,
        payload: &packet.payload,
        descriptor: packet.descriptor.as_deref(),
    }
}

/// What a subscriber gets of a packet.
fn received(packet: &Packet, edit: &Edit) -> Received {
    let mut payload = packet.payload.clone();
    edit.apply(&mut payload);
    let mut buffer = [0; DESCRIPTOR_MAX];
    let descriptor = packet.descriptor.as_ref();
    let descriptor = descriptor.filter(|_| !edit.leaves_out_descriptor());
    Received {
        timestamp: packet.timestamp,
        marker: packet.marker || edit.ends_picture,
        payload,
        descriptor: descriptor.map(|source| edit.descriptor(source, &mut buffer).unwrap().to_vec()),
    }
}

/// One subscription and what it got.
struct World {
    mode: Mode,
    encoders: [Encoder; 2],
    readers: [LayerReader; 2],
    selector: Selector,
    /// Which encoding goes out.
    encoding: usize,
    /// The subscription's number of the next packet.
    next: SeqNo,
    got: Vec<(Packet, Received, usize)>,
}

impl World {
    fn new(mode: Mode, wish: Limit) -> Self {
        let readers = [LayerReader::new(0), LayerReader::new(RUNS_MAX)];
        let selector = Selector::new(wish, &readers[0].position());
        Self {
            mode,
            encoders: [Encoder::new(mode, 0x7ff0), Encoder::new(mode, 0x1234)],
            readers,
            selector,
            encoding: 0,
            next: SeqNo(5),
            got: Vec::new(),
        }
    }

    /// A picture of the present encoding, without loss.
    fn picture(&mut self, is_key: bool) {
        for packet in self.encoders[self.encoding].picture(is_key) {
            self.packet(packet);
        }
    }

    fn pictures(&mut self, count: usize) {
        (0..count).for_each(|_| self.picture(false));
    }

    fn packet(&mut self, packet: Packet) {
        let reader = &mut self.readers[self.encoding];
        let info = reader.read(&view(self.mode, &packet));
        if let Some(edit) = self.selector.handle(&info, reader) {
            self.selector.on_sent(self.next, &edit, true);
            self.next = SeqNo(self.next.0 + 1);
            let received = received(&packet, &edit);
            self.check_again(&packet, &received);
            self.got.push((packet, received, self.encoding));
        }
    }

    /// A packet that goes out again looks the same.
    fn check_again(&self, packet: &Packet, expected: &Received) {
        let reader = &self.readers[self.encoding];
        if let Some(info) = reader.read_again(&view(self.mode, packet))
            && let Some(edit) = self.selector.edit_of(&info, reader)
        {
            assert_eq!(&received(packet, &edit), expected, "{packet:?}");
        }
    }

    /// The frames that arrived and can be decoded, by layer.
    fn decoded(&self, from: usize) -> BTreeMap<(u8, u8), usize> {
        let mut decoder = Decoder::default();
        let mut layers = BTreeMap::new();
        for (at, (packet, received, _)) in self.got.iter().enumerate() {
            assert_eq!(content(&received.payload), packet.frame.number);
            let before = decoder.decoded.len();
            decoder.take(&packet.frame);
            if at >= from && decoder.decoded.len() > before {
                let layer = (packet.frame.spatial, packet.frame.temporal);
                *layers.entry(layer).or_default() += 1;
            }
        }
        assert_eq!(decoder.broken, Vec::<u32>::new(), "{:?}", self.mode);
        layers
    }

    fn top(&self, from: usize) -> (u8, u8) {
        let layers = self.decoded(from);
        let spatial = layers.keys().map(|layer| layer.0).max().unwrap();
        (spatial, layers.keys().map(|layer| layer.1).max().unwrap())
    }

    /// Each picture ends with the marker, and with nothing else.
    fn check_markers(&self) {
        for pair in self.got.windows(2) {
            let [(_, a, _), (_, b, _)] = pair else {
                unreachable!("windows of two");
            };
            assert_eq!(a.marker, a.timestamp != b.timestamp, "{:?}", self.mode);
        }
    }

    /// The numbers have no seam: where nothing was lost, VP8's count the frames that came, the others' the frames
    /// that were.
    fn check_numbers(&self) {
        let firsts = self.got.iter().filter(|(packet, ..)| packet.ends.0);
        let mut last: Option<(&Packet, Numbers, usize)> = None;
        for (packet, received, encoding) in firsts {
            let now = numbers(self.mode, received);
            if let Some((before, was, old_encoding)) = last {
                let expected = if old_encoding != *encoding {
                    1
                } else {
                    match self.mode {
                        Mode::Vp8L1T3 => 1,
                        Mode::Av1L3T3 | Mode::Av1L3T3Key => {
                            packet.frame.number - before.frame.number
                        }
                        _ => packet.frame.picture - before.frame.picture,
                    }
                };
                let bits = if codec(self.mode) == (Codec::Av1 { profile: 0 }) {
                    u16::MAX
                } else {
                    0x7fff
                };
                let step = now.id.wrapping_sub(was.id) & bits;
                assert_eq!(u32::from(step), expected, "{:?} {packet:?}", self.mode);
                if let (Some(now), Some(was)) = (now.tl0_pic_idx, was.tl0_pic_idx) {
                    let is_new_base = packet.frame.temporal == 0 && packet.frame.spatial == 0;
                    assert_eq!(now.wrapping_sub(was), u8::from(is_new_base), "{packet:?}");
                }
            }
            last = Some((packet, now, *encoding));
        }
    }

    /// Whatever decode target is active, all its frames came: those inside of the targets that the mask names.
    fn check_masks(&self, sent: &[Packet]) {
        if codec(self.mode) != (Codec::Av1 { profile: 0 }) {
            return;
        }
        let got: BTreeSet<u32> = self.got.iter().map(|(p, ..)| p.frame.number).collect();
        let masks: BTreeMap<u64, u32> = self
            .got
            .iter()
            .filter_map(|(p, r, _)| Some((p.seq, numbers(self.mode, r).active?)))
            .collect();
        let seqs: BTreeSet<u64> = self.got.iter().map(|(p, ..)| p.seq).collect();
        for packet in sent {
            let frame = &packet.frame;
            // Of a change, the next packet that goes out tells.
            let next = *seqs.range(packet.seq..).next().unwrap_or(&packet.seq);
            let told_by = |seq: u64| masks.range(..=seq).next_back().map(|(_, mask)| *mask);
            let Some(mask) = told_by(packet.seq).zip(told_by(next)).map(|(a, b)| a & b) else {
                continue;
            };
            let is_key_only = self.mode == Mode::Av1L3T3Key && !frame.is_key;
            let contains = |target: u8| {
                let (spatial, temporal) = (target / 3, target % 3);
                let own = frame.spatial == spatial || (!is_key_only && frame.spatial < spatial);
                own && frame.temporal <= temporal
            };
            if (0..9).any(|target| mask >> target & 1 == 1 && contains(target)) {
                assert!(got.contains(&frame.number), "{mask:b} {packet:?}");
            }
        }
    }
}

#[test]
fn all_that_is_taken_is_what_was_sent() {
    for mode in Mode::ALL {
        let mut world = World::new(mode, Limit::ALL);
        let mut sent = Vec::new();
        for at in 0..40 {
            for packet in world.encoders[0].picture(at == 20) {
                sent.push(packet.clone());
                world.packet(packet);
            }
        }
        assert_eq!(world.got.len(), sent.len());
        for (packet, received, _) in &world.got {
            assert_eq!(packet.payload, received.payload, "{mode:?}");
            assert_eq!(packet.descriptor, received.descriptor, "{mode:?}");
        }
        world.check_markers();
        world.check_numbers();
    }
}

#[test]
fn goes_down_at_the_next_picture_and_loses_nothing_it_needs() {
    for mode in Mode::ALL {
        for (spatial, temporal) in [(0, 0), (0, 2), (1, 1), (2, 0), (2, 1)] {
            for after in 1..10 {
                let mut world = World::new(mode, Limit::ALL);
                world.pictures(after);
                world.selector.set_wish(limit(spatial, temporal));
                let from = world.got.len();
                world.pictures(40);
                let expected = (spatial.min(mode.spatial_layers() - 1), temporal);
                assert_eq!(world.top(from), expected, "{mode:?}");
                // No freeze: every picture of the wanted frame rate is there, from the first on.
                let base: usize = world
                    .decoded(from)
                    .iter()
                    .filter(|((s, _), _)| *s == expected.0)
                    .map(|(_, count)| count)
                    .sum();
                let whole = [10, 20, 40][usize::from(temporal)];
                assert!(base.abs_diff(whole) <= 1, "{mode:?} {base} of {whole}");
                world.check_markers();
                world.check_numbers();
            }
        }
    }
}

#[test]
fn goes_up_in_time_without_a_keyframe() {
    for mode in Mode::ALL {
        for after in 1..10 {
            let mut world = World::new(mode, limit(2, 0));
            world.pictures(after);
            world.selector.set_wish(limit(2, 2));
            world.pictures(17);
            assert_eq!(world.selector.current(), limit(2, 2), "{mode:?} {after}");
            assert_eq!(world.top(0).1, 2);
            world.check_markers();
            world.check_numbers();
        }
    }
}

#[test]
fn goes_up_in_space_with_a_keyframe() {
    for mode in Mode::ALL.into_iter().skip(1) {
        let mut world = World::new(mode, limit(0, 2));
        world.pictures(10);
        world.selector.set_wish(limit(2, 2));
        assert!(world.selector.needs_keyframe(2) && !world.selector.needs_keyframe(0));
        let from = world.got.len();
        world.pictures(10);
        assert_eq!(world.top(from), (0, 2), "{mode:?} waits");
        world.picture(true);
        world.pictures(10);
        assert!(!world.selector.needs_keyframe(2));
        assert_eq!(world.top(from), (2, 2), "{mode:?}");
        world.check_markers();
        world.check_numbers();
    }
}

#[test]
fn numbers_go_on_across_encodings_and_pauses() {
    for mode in Mode::ALL {
        let mut world = World::new(mode, limit(2, 1));
        world.pictures(9);
        world.encoding = 1;
        world.picture(true);
        world.pictures(13);
        world.encoding = 0;
        // What the first encoding made in the meantime did not go out.
        (0..5).for_each(|_| drop(world.encoders[0].picture(false)));
        let (readers, encoders) = (&mut world.readers, &mut world.encoders);
        readers[0].restart(SeqNo(0));
        drop(encoders[0].picture(false));
        world.picture(true);
        world.pictures(13);
        world.check_numbers();
        world.check_markers();
        world.decoded(0);
    }
}

#[test]
fn the_active_decode_targets_are_told() {
    for mode in [Mode::Av1L3T3, Mode::Av1L3T3Key] {
        let mut world = World::new(mode, Limit::ALL);
        let mut sent = Vec::new();
        let steps = [(2, 2), (0, 1), (2, 0), (2, 2), (1, 1), (1, 2)];
        for (at, step) in (0..120).zip(steps.iter().flat_map(|step| [step; 20])) {
            world.selector.set_wish(limit(step.0, step.1));
            for packet in world.encoders[0].picture(at % 50 == 49) {
                sent.push(packet.clone());
                world.packet(packet);
            }
        }
        let told = |(_, received, _): &&(Packet, Received, usize)| {
            numbers(mode, received)
                .active
                .is_some_and(|mask| mask != 0x1ff)
        };
        assert!(world.got.iter().filter(told).count() > 5);
        world.check_masks(&sent);
        world.check_numbers();
        world.decoded(0);
    }
}

/// What is told once may be lost: it is repeated until a report says that it has come.
#[test]
fn the_active_decode_targets_are_repeated_until_they_are_known() {
    for mode in [Mode::Av1L3T3, Mode::Av1L3T3Key] {
        let mut world = World::new(mode, Limit::ALL);
        world.pictures(10);
        let tells = |world: &World, from: usize| -> Vec<bool> {
            let got = world.got[from..].iter();
            got.map(|(_, received, _)| numbers(mode, received).active.is_some())
                .collect()
        };
        let all = |told: Vec<bool>| told.iter().all(|told| *told);
        let none = |told: Vec<bool>| told.iter().all(|told| !*told);
        for (spatial, temporal) in [(2, 0), (0, 0)] {
            let before = world.next;
            world.selector.set_wish(limit(spatial, temporal));
            let from = world.got.len();
            world.pictures(40);
            assert!(all(tells(&world, from)), "{mode:?}");
            // A report of what came before the change tells nothing.
            world.selector.on_received(SeqNo(before.0 - 1));
            let from = world.got.len();
            world.pictures(10);
            assert!(all(tells(&world, from)), "{mode:?}");
            world.selector.on_received(SeqNo(world.next.0 - 1));
            let from = world.got.len();
            world.pictures(40);
            assert!(none(tells(&world, from)), "{mode:?}");
        }
        world.check_numbers();
        world.decoded(0);
    }
}

/// What waits to be sent while layers change again tells of the change before: that it came says nothing of the last one.
#[test]
fn a_late_packet_does_not_end_what_the_next_change_repeats() {
    let mode = Mode::Av1L3T3;
    let mut world = World::new(mode, Limit::ALL);
    world.pictures(10);
    let decide = |world: &mut World, (spatial, temporal)| -> Vec<Edit> {
        world.selector.set_wish(limit(spatial, temporal));
        let packets = world.encoders[0].picture(false).into_iter();
        let edits = packets.filter_map(|packet| {
            let info = world.readers[0].read(&view(mode, &packet));
            world.selector.handle(&info, &world.readers[0])
        });
        edits.collect()
    };
    let send = |world: &mut World, edits: &[Edit]| {
        for edit in edits {
            world.selector.on_sent(world.next, edit, true);
            world.next = SeqNo(world.next.0 + 1);
        }
        SeqNo(world.next.0 - 1)
    };
    let waiting = decide(&mut world, (1, 2));
    let later = decide(&mut world, (0, 2));
    assert!(waiting.iter().chain(&later).all(Edit::tells_targets));
    let first = send(&mut world, &waiting);
    let second = send(&mut world, &later);
    world.selector.on_received(first);
    assert!(decide(&mut world, (0, 2)).iter().all(Edit::tells_targets));
    world.selector.on_received(second);
    assert!(!decide(&mut world, (0, 2)).iter().any(Edit::tells_targets));
}

/// Chromium sends dependency descriptors with VP8 and VP9, too, and believes them rather than the payload.
#[test]
fn descriptors_beside_a_payload_that_tells_stay_true() {
    for mode in Mode::ALL {
        let mut world = World::new(mode, Limit::ALL);
        world
            .encoders
            .iter_mut()
            .for_each(|e| e.is_described = true);
        let wishes = [(2, 2), (0, 0), (2, 1), (1, 2), (0, 1), (2, 2)];
        for (at, wish) in wishes.into_iter().cycle().take(18).enumerate() {
            world.selector.set_wish(limit(wish.0, wish.1));
            world.pictures(7);
            if at % 4 == 3 {
                world.encoding = 1 - world.encoding;
                world.picture(true);
            }
        }
        let mut known = None;
        // The subscriber's numbers, and which frames of which encoding they are.
        let mut seen: BTreeMap<u16, (usize, u32)> = BTreeMap::new();
        for (packet, received, encoding) in &world.got {
            let bytes = received.descriptor.as_ref().expect("it is told");
            let (read, new) = DependencyDescriptor::parse(bytes, known.as_ref())
                .unwrap_or_else(|| panic!("{mode:?} cannot be read: {packet:?}"));
            known = new.or(known);
            let frame = &packet.frame;
            assert_eq!(
                (read.spatial, read.temporal),
                (frame.spatial, frame.temporal)
            );
            for (difference, reference) in read.differences().iter().zip(&frame.references) {
                let number = read.frame_number.wrapping_sub(*difference);
                assert_eq!(
                    seen.get(&number),
                    Some(&(*encoding, *reference)),
                    "{mode:?} {frame:?}"
                );
            }
            if packet.ends.1 {
                let former = seen.insert(read.frame_number, (*encoding, frame.number));
                assert_eq!(former, None, "{mode:?}: one number for one frame");
            }
        }
        world.check_markers();
        world.decoded(0);
    }
}

#[test]
fn descriptors_that_cannot_be_true_are_left_out() {
    let described = |mode, change: fn(&mut Encoder)| {
        let mut world = World::new(mode, limit(2, 1));
        for encoder in &mut world.encoders {
            encoder.is_described = true;
        }
        change(&mut world.encoders[0]);
        world.pictures(20);
        world
    };
    let count = |world: &World, from: usize| {
        let got = world.got[from..].iter();
        got.filter(|(_, received, _)| received.descriptor.is_some())
            .count()
    };
    for mode in Mode::ALL.into_iter().take(4) {
        // Another temporal layer than the payload says; but where it is the same.
        let world = described(mode, |encoder| encoder.is_lying = true);
        for (packet, received, _) in &world.got {
            assert_eq!(
                received.descriptor.is_some(),
                packet.frame.temporal == 1,
                "{packet:?}"
            );
        }
        // Another encoding, whose keyframes bring no structure: that of the former says something else.
        let mut world = described(mode, |_| ());
        assert_eq!(count(&world, 0), world.got.len());
        let from = world.got.len();
        world.encoding = 1;
        world.encoders[1].is_terse = true;
        world.picture(true);
        world.pictures(10);
        assert_eq!(count(&world, from), 0, "{mode:?}");
        let from = world.got.len();
        world.encoders[1].is_terse = false;
        world.picture(true);
        world.pictures(10);
        assert_eq!(count(&world, from), world.got.len() - from, "{mode:?}");
        world.decoded(0);
    }
}

#[derive(Debug, Clone)]
enum Op {
    Picture { is_key: bool, loss: u64, order: u64 },
    Wish(u8, u8),
    Switch,
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    let mask = || prop_oneof![3 => Just(0_u64), 1 => any::<u64>()];
    let picture = (prop::bool::weighted(0.05), mask(), mask(), any::<u64>());
    prop_oneof![
        30 => picture.prop_map(|(is_key, loss, order, thin)| Op::Picture { is_key, loss: loss & thin, order }),
        4 => (0_u8..4, 0_u8..4).prop_map(|(spatial, temporal)| Op::Wish(spatial, temporal)),
        1 => Just(Op::Switch),
        1 => Just(Op::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// What arrives is decodable but for what was lost on the way to the server, and what goes out twice looks the same.
    #[test]
    fn survives_loss_reordering_and_switches(
        mode in prop::sample::select(Mode::ALL.to_vec()),
        ops in proptest::collection::vec(op(), 1..150),
    ) {
        let mut world = World::new(mode, Limit::ALL);
        let mut lost = BTreeSet::new();
        let mut late: Vec<Packet> = Vec::new();
        let mut must_be_key = true;
        for op in ops {
            match op {
                Op::Wish(spatial, temporal) => world.selector.set_wish(limit(spatial, temporal)),
                Op::Switch => {
                    give_up(&mut late, &mut lost, world.encoding);
                    world.encoding = 1 - world.encoding;
                    must_be_key = true;
                }
                Op::Restart => {
                    let next = SeqNo(world.encoders[world.encoding].next_seq());
                    world.readers[world.encoding].restart(next);
                    give_up(&mut late, &mut lost, world.encoding);
                    must_be_key = true;
                }
                Op::Picture { is_key, loss, order } => {
                    let packets = world.encoders[world.encoding].picture(is_key || must_be_key);
                    let mut now = std::mem::take(&mut late);
                    for (at, packet) in packets.into_iter().enumerate() {
                        // The keyframe of a switch arrives: that is what the switch waits for.
                        if !must_be_key && loss >> at & 1 == 1 {
                            lost.insert((world.encoding, packet.frame.number));
                        } else if !must_be_key && order >> at & 1 == 1 {
                            late.push(packet);
                        } else {
                            now.push(packet);
                        }
                    }
                    // Those of the last picture come after those of this one.
let newest = now.last().map(|packet| packet.timestamp);
                    now.sort_by_key(|packet| Some(packet.timestamp) != newest);
                    must_be_key = false;
                    now.into_iter().for_each(|packet| world.packet(packet));
                }
            }
        }
        let mut whole: [BTreeMap<u32, usize>; 2] = Default::default();
        for (packet, received, encoding) in &world.got {
            prop_assert_eq!(content(&received.payload), packet.frame.number);
            *whole[*encoding].entry(packet.frame.number).or_default() += 1;
        }
        for (packet, _, encoding) in &world.got {
            // In whole or not at all, but for what was lost.
            let frame = &packet.frame;
            let is_lost = |number: u32| lost.contains(&(*encoding, number));
            prop_assert!(whole[*encoding][&frame.number] <= frame.packets);
            for reference in &frame.references {
                let is_there = whole[*encoding].contains_key(reference) || is_lost(*reference);
                prop_assert!(is_there || late.iter().any(|p| p.frame.number == *reference), "{:?} without {}", frame, reference);
            }
        }
        check_offsets(&world);
    }
}

/// What was on its way is lost.
fn give_up(late: &mut Vec<Packet>, lost: &mut BTreeSet<(usize, u32)>, encoding: usize) {
    lost.extend(late.drain(..).map(|packet| (encoding, packet.frame.number)));
}

/// Whatever was lost: VP9's and AV1's numbers keep their distances within a run, and VP8's only rise.
fn check_offsets(world: &World) {
    let mut seen: BTreeMap<(usize, u32), u16> = BTreeMap::new();
    for (packet, received, encoding) in &world.got {
        let id = numbers(world.mode, received).id;
        let known = *seen.entry((*encoding, packet.frame.number)).or_insert(id);
        assert_eq!(known, id, "one number for one frame");
    }
}
