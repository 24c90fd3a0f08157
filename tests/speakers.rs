//! Who speaks, over whole shards: sealed packets with audio levels go in; events, sound and pictures come out.

#[path = "support/relay_mesh.rs"]
mod relay_mesh;
#[path = "support/shard_world.rs"]
mod support;

use std::collections::HashSet;
use std::time::Duration;

use shardcast::base::ids::{MediaKind, PeerKey, ShardId, Ssrc};
use shardcast::control::{ActiveSpeakers, Event, RoomOptions, SubscriptionConfig, TrackConfig};
use shardcast::wire::codec::Codec;
use shardcast::wire::rtcp::RtcpPacket;

use crate::relay_mesh::Mesh;
use crate::support::{Rtp, World, codec, subscription, track};

const MS: Duration = Duration::from_millis(1);
/// How often sound is sent.
const PACKET: Duration = Duration::from_millis(20);
const SILENT: u8 = 127;

/// One room over some shards: everybody publishes sound and pictures, and has subscribed to everybody else.
struct Meeting {
    worlds: Vec<World>,
    mesh: Mesh,
    people: Vec<Person>,
    packets: u32,
    /// Every how many-th picture is a keyframe.
    keyframe_every: u32,
}

struct Person {
    shard: usize,
    /// Which of the shard's clients it is.
    at: usize,
    key: PeerKey,
    audio: TrackConfig,
    video: TrackConfig,
    /// What it says, in -dBov; `None`: nothing at all, as with DTX.
    level: Option<u8>,
    /// Whether its packets say how loud they are.
    says_level: bool,
    sent: u16,
    told: Vec<ActiveSpeakers>,
}

impl Meeting {
    /// A meeting of so many people, dealt to the shards in turn.
    fn new(shards: usize, people: usize, options: RoomOptions) -> Self {
        let world = |shard: usize| World::of_shard(ShardId(shard as u16), 100 * shard);
        let mut worlds: Vec<World> = (0..shards).map(world).collect();
        let start = worlds[0].now;
        for world in &mut worlds {
            world.now = start;
            world.shard.set_room_options(options);
        }
        let mut meeting = Self {
            worlds,
            mesh: Mesh::new(5, MS),
            people: Vec::new(),
            packets: 0,
            keyframe_every: 1,
        };
        for number in 0..people {
            let shard = number % shards;
            let world = &mut meeting.worlds[shard];
            let at = world.join("room");
            let audio = track(world, at, 0, &[codec(111, Codec::Opus)]);
            let video = track(world, at, 1, &[codec(96, Codec::Vp8)]);
            world.configure(at, &[audio.clone(), video.clone()], &[]);
            meeting.people.push(Person {
                shard,
                at,
                key: audio.key.peer,
                audio,
                video,
                level: Some(SILENT),
                says_level: true,
                sent: 100,
                told: Vec::new(),
            });
        }
        for who in 0..people {
            let wanted = meeting.wanted(who);
            let person = &meeting.people[who];
            let tracks = [person.audio.clone(), person.video.clone()];
            meeting.worlds[person.shard].configure(person.at, &tracks, &wanted);
        }
        meeting.exchange();
        meeting
    }

    /// Everything of everybody else: sound of the person n is subscription 2n, pictures 2n + 1.
    fn wanted(&self, who: usize) -> Vec<SubscriptionConfig> {
        let others = self.people.iter().enumerate().filter(|(n, _)| *n != who);
        let both = others.flat_map(|(n, person)| {
            let shard = ShardId(person.shard as u16);
            [
                (0, &person.audio, 111, Codec::Opus),
                (1, &person.video, 96, Codec::Vp8),
            ]
            .map(|(odd, track, payload_type, c)| SubscriptionConfig {
                source_shard: shard,
                ..subscription(2 * n as u32 + odd, track, &[codec(payload_type, c)])
            })
        });
        both.collect()
    }

    /// Everybody sends for so long.
    fn run(&mut self, duration: Duration) {
        let end = self.worlds[0].now + duration;
        while self.worlds[0].now < end {
            for who in 0..self.people.len() {
                self.send(who);
            }
            self.packets += 1;
            for world in &mut self.worlds {
                world.advance(PACKET);
            }
            self.exchange();
        }
    }

    fn send(&mut self, who: usize) {
        let person = &mut self.people[who];
        let world = &mut self.worlds[person.shard];
        if let Some(level) = person.level {
            person.sent += 1;
            let value = [0x80 | level];
            let packet = Rtp {
                ssrc: person.audio.encodings[0].ssrc.unwrap().0,
                seq: person.sent,
                timestamp: 960 * self.packets,
                payload_type: 111,
                extensions: if person.says_level {
                    &[(1, &value)]
                } else {
                    &[]
                },
                payload: &self.packets.to_be_bytes(),
            };
            world.send_rtp(person.at, &packet.bytes());
        }
        let packet = Rtp {
            ssrc: person.video.encodings[0].ssrc.unwrap().0,
            seq: self.packets as u16,
            timestamp: 1800 * self.packets,
            payload_type: 96,
            extensions: &[],
            // P is 0 in a keyframe (RFC 7741 §4.3).
            payload: match self.packets % self.keyframe_every {
                0 => &[0x10, 0, 0, 0, 0x9d, 0x01, 0x2a, 16, 0, 16, 0],
                _ => &[0x10, 1, 0, 0],
            },
        };
        world.send_rtp(person.at, &packet.bytes());
    }

    /// Carries what the shards say to each other, and takes what they say to sessions.
    fn exchange(&mut self) {
        loop {
            let now = self.worlds[0].now;
            for (shard, world) in self.worlds.iter_mut().enumerate() {
                while let Some((to, message)) = world.shard.poll_relay() {
                    self.mesh.push(now, ShardId(shard as u16), to, message);
                }
            }
            // All of it: a packet's time is longer than the way.
            let Some((to, from, message)) = self.mesh.poll(now + MS) else {
                break;
            };
            let world = &mut self.worlds[usize::from(to.0)];
            world.shard.handle_relay(now, from, message);
            world.settle();
        }
        for world in &mut self.worlds {
            for (peer, event) in world.events.drain(..) {
                if let Event::Speakers(stay, told) = event {
                    assert_eq!(stay, peer);
                    let person = self.people.iter_mut().find(|p| p.key == peer);
                    person.unwrap().told.push(ActiveSpeakers::clone(&told));
                }
            }
        }
    }

    /// Only these speak from now on, at this level.
    fn speak(&mut self, who: &[usize]) {
        for (n, person) in self.people.iter_mut().enumerate() {
            person.level = Some(if who.contains(&n) { 30 } else { SILENT });
        }
    }

    /// Whom a person was told to be dominant, each change once; and forgets that.
    fn dominants(&mut self, who: usize) -> Vec<usize> {
        let told = std::mem::take(&mut self.people[who].told);
        let mut dominants: Vec<usize> = told
            .iter()
            .filter_map(|told| told.dominant)
            .map(|key| self.people.iter().position(|p| p.key == key).unwrap())
            .collect();
        dominants.dedup();
        dominants
    }

    /// Whose sound or pictures came to a person since it was last asked.
    fn sources(&mut self, who: usize, kind: MediaKind) -> Vec<usize> {
        let odd = u32::from(kind == MediaKind::Video);
        let packets = self.received(who);
        let came = packets.iter().map(|(number, _)| *number);
        let came: HashSet<u32> = came.filter(|number| number % 2 == odd).collect();
        let mut came: Vec<usize> = came.into_iter().map(|n| n as usize / 2).collect();
        came.sort_unstable();
        came
    }

    /// Every packet a person got since it was last asked: which subscription, which number.
    fn received(&mut self, who: usize) -> Vec<(u32, u16)> {
        let person = &self.people[who];
        let packets = self.worlds[person.shard].clients[person.at].take_rtp();
        let number = |ssrc: Ssrc| ssrc.0 - 0x5000_0000;
        packets
            .iter()
            .map(|(header, _)| (number(header.ssrc), header.seq.0))
            .collect()
    }

    fn forget(&mut self) {
        for who in 0..self.people.len() {
            self.received(who);
        }
    }

    fn count(&self, name: &str) -> u64 {
        self.worlds.iter().map(|world| world.count(name)).sum()
    }
}

#[test]
fn everybody_is_told_who_speaks() {
    for shards in 1..=3 {
        let mut meeting = Meeting::new(shards, 4, RoomOptions::default());
        meeting.run(2000 * MS);
        for who in 0..4 {
            assert_eq!(meeting.people[who].told, [], "nobody spoke");
        }
        let mut former = None;
        for speaker in [0, 1, 3, 0] {
            meeting.speak(&[speaker]);
            // Who spoke before is no longer named after two seconds.
            meeting.run(2500 * MS);
            for who in 0..4 {
                let mut told = meeting.dominants(who);
                // That somebody begins may be told just before that he has the floor.
                told.retain(|who| Some(*who) != former);
                assert_eq!(told, [speaker], "{who} on {shards} shards");
            }
            former = Some(speaker);
        }
        let switches: u64 = meeting.count("speaker_switches");
        assert_eq!(switches, 4 * shards as u64);
    }
}

#[test]
fn a_cough_is_not_told_of_and_silence_ends_the_talk() {
    let mut meeting = Meeting::new(2, 3, RoomOptions::default());
    meeting.speak(&[0]);
    meeting.run(3000 * MS);
    meeting.dominants(2);
    meeting.speak(&[0, 1]);
    meeting.run(300 * MS);
    meeting.speak(&[]);
    meeting.run(900 * MS);
    meeting.speak(&[1]);
    meeting.run(400 * MS);
    assert_eq!(meeting.people[2].told, []);
    meeting.speak(&[]);
    meeting.run(4000 * MS);
    let last = meeting.people[2].told.last().unwrap();
    assert_eq!(
        (last.dominant, last.speakers.len()),
        (Some(meeting.people[0].key), 0)
    );
}

#[test]
fn talking_at_once_tells_of_both_and_does_not_flap() {
    let mut meeting = Meeting::new(2, 4, RoomOptions::default());
    meeting.speak(&[0, 1]);
    meeting.run(20_000 * MS);
    for who in 0..4 {
        let told = &meeting.people[who].told;
        assert!(told.len() <= 3, "{told:?}");
        let last = told.last().unwrap();
        assert_eq!(last.speakers.len(), 2);
        assert_eq!(last.speakers[0].peer, last.dominant.unwrap());
        assert!(last.speakers.iter().all(|speaker| speaker.level == 30));
        assert_eq!(
            last.dominant,
            meeting.people[0].told.last().unwrap().dominant
        );
    }
}

#[test]
fn who_comes_later_is_told_and_who_leaves_is_forgotten() {
    let mut meeting = Meeting::new(1, 3, RoomOptions::default());
    meeting.speak(&[1]);
    meeting.run(1500 * MS);
    let world = &mut meeting.worlds[0];
    let late = world.join("room");
    let key = world.clients[late].key;
    let is_told = |(peer, event): &(PeerKey, Event)| {
        *peer == key
            && matches!(event, Event::Speakers(_, told) if told.dominant == Some(meeting.people[1].key))
    };
    assert!(world.events.iter().any(is_told));
    world.events.clear();
    world.remove(meeting.people[1].at);
    world.advance(1000 * MS);
    let told = world.events.iter().filter_map(|(_, event)| match event {
        Event::Speakers(_, told) => Some(told.dominant),
        _ => None,
    });
    assert_eq!(told.collect::<Vec<_>>(), [None; 3]);
}

#[test]
fn a_room_that_falls_silent_costs_nothing() {
    let mut meeting = Meeting::new(1, 2, RoomOptions::default());
    meeting.speak(&[0]);
    meeting.run(1000 * MS);
    let world = &mut meeting.worlds[0];
    world.advance(10_000 * MS);
    let mut turns = 0;
    let end = world.now + 5000 * MS;
    while let Some(due) = world.shard.poll_timeout().filter(|due| *due <= end) {
        world.now = world.now.max(due);
        world.shard.handle_timeout(world.now);
        world.settle();
        turns += 1;
    }
    assert!(turns < 30, "{turns} turns in 5 s");
}

#[test]
fn of_many_audio_streams_the_loudest_go_on() {
    for shards in 1..=2 {
        let options = RoomOptions {
            audio_streams_max: Some(2),
            ..RoomOptions::default()
        };
        let mut meeting = Meeting::new(shards, 6, options);
        meeting.speak(&[4]);
        meeting.run(2000 * MS);
        meeting.speak(&[4, 5]);
        meeting.run(500 * MS);
        meeting.forget();
        meeting.run(3000 * MS);
        let heard = meeting.sources(0, MediaKind::Audio);
        assert_eq!(heard, [4, 5], "on {shards} shards");
        assert_eq!(meeting.sources(4, MediaKind::Audio), [5]);
        assert!(meeting.count("audio_held_back") > 4 * 150);
        // One stops, another begins: it is heard after a moment.
        meeting.speak(&[4]);
        meeting.run(1500 * MS);
        meeting.speak(&[4, 1]);
        meeting.run(200 * MS);
        meeting.forget();
        meeting.run(200 * MS);
        for who in [0, 2, 3, 5] {
            assert_eq!(
                meeting.sources(who, MediaKind::Audio),
                [1, 4],
                "{who} on {shards} shards"
            );
        }
    }
}

#[test]
fn a_stream_that_comes_and_goes_has_no_gap() {
    for shards in 1..=2 {
        let options = RoomOptions {
            audio_streams_max: Some(1),
            ..RoomOptions::default()
        };
        let mut meeting = Meeting::new(shards, 3, options);
        let mut numbers: Vec<(u32, u16)> = Vec::new();
        let mut clocks: HashSet<(Ssrc, u32)> = HashSet::new();
        for turn in 0..6 {
            meeting.speak(&[turn % 2]);
            meeting.run(3000 * MS);
            let person = &meeting.people[2];
            let packets = meeting.worlds[person.shard].clients[person.at].take_rtp();
            for (header, payload) in packets {
                let number = header.ssrc.0 - 0x5000_0000;
                numbers.push((number, header.seq.0));
                if number % 2 == 0 {
                    let sent = u32::from_be_bytes(payload[..4].try_into().unwrap());
                    let offset = header.timestamp.0.wrapping_sub(960 * sent);
                    clocks.insert((header.ssrc, offset));
                }
            }
        }
        assert_eq!(clocks.len(), 2, "each goes on by its own clock: {clocks:?}");
        for speaker in [0, 1] {
            let of: Vec<u16> = numbers
                .iter()
                .filter(|(number, _)| *number == 2 * speaker)
                .map(|(_, seq)| *seq)
                .collect();
            assert!((300..700).contains(&of.len()), "{} packets", of.len());
            let gaps = of
                .windows(2)
                .filter(|w| w[1] != w[0].wrapping_add(1))
                .count();
            assert_eq!(gaps, 0, "{speaker} on {shards} shards");
        }
    }
}

#[test]
fn a_stream_that_does_not_say_how_loud_it_is_goes_on() {
    let options = RoomOptions {
        audio_streams_max: Some(1),
        ..RoomOptions::default()
    };
    let mut meeting = Meeting::new(1, 4, options);
    meeting.people[3].says_level = false;
    meeting.speak(&[1]);
    meeting.run(2000 * MS);
    meeting.forget();
    meeting.run(1000 * MS);
    assert_eq!(meeting.sources(0, MediaKind::Audio), [1, 3]);
    assert_eq!(meeting.sources(1, MediaKind::Audio), [3]);
}

fn last_n(n: usize) -> RoomOptions {
    RoomOptions {
        last_n: Some(n),
        ..RoomOptions::default()
    }
}

#[test]
fn of_many_pictures_those_of_the_last_speakers_come() {
    for shards in 1..=3 {
        let mut meeting = Meeting::new(shards, 5, last_n(2));
        meeting.run(500 * MS);
        let mut spoke: Vec<usize> = Vec::new();
        for speaker in [None, Some(3), Some(2), Some(3), Some(4), Some(0)] {
            if let Some(speaker) = speaker {
                meeting.speak(&[speaker]);
                spoke.retain(|who| *who != speaker);
                spoke.insert(0, speaker);
            }
            meeting.run(1300 * MS);
            meeting.forget();
            meeting.run(500 * MS);
            for who in 0..5 {
                // Those who spoke last, then those who joined first, oneself apart.
                let mut expected: Vec<usize> = (0..5).filter(|other| *other != who).collect();
                let rank = |who: &usize| spoke.iter().position(|other| other == who);
                let key = |who: &usize| meeting.people[*who].key;
                expected.sort_by_key(|who| (rank(who).unwrap_or(usize::MAX), key(who)));
                expected.truncate(2);
                expected.sort_unstable();
                let came = meeting.sources(who, MediaKind::Video);
                assert_eq!(came, expected, "{who} after {speaker:?} on {shards} shards");
            }
        }
        assert!(meeting.count("last_n_stopped") > 0);
        // Sound of everybody, whoever is seen.
        meeting.run(100 * MS);
        assert_eq!(meeting.sources(1, MediaKind::Audio), [0, 2, 3, 4]);
    }
}

#[test]
fn a_picture_that_comes_asks_for_a_keyframe_and_has_no_gap() {
    for shards in 1..=2 {
        let mut meeting = Meeting::new(shards, 4, last_n(1));
        meeting.run(1000 * MS);
        let mut numbers: Vec<(u32, u16)> = Vec::new();
        for turn in 0..6 {
            let speaker = turn % 2;
            let person = &meeting.people[speaker];
            let (shard, at) = (person.shard, person.at);
            meeting.worlds[shard].clients[at].take_rtcp();
            meeting.speak(&[speaker]);
            meeting.run(2000 * MS);
            numbers.extend(meeting.received(3));
            let asked = meeting.worlds[shard].clients[at].take_rtcp();
            let media = meeting.people[speaker].video.encodings[0].ssrc.unwrap();
            // In the first turn the speaker is seen already, as the one who joined first.
            let is_asked = asked.contains(&RtcpPacket::Pli { media });
            assert!(is_asked || turn == 0, "turn {turn}");
        }
        for speaker in [0, 1] {
            let of: Vec<u16> = numbers
                .iter()
                .filter(|(number, _)| *number == 2 * speaker + 1)
                .map(|(_, seq)| *seq)
                .collect();
            assert!((200..500).contains(&of.len()), "{} packets", of.len());
            let gaps = of.windows(2).filter(|w| w[1] != w[0].wrapping_add(1));
            assert_eq!(gaps.count(), 0, "{speaker} on {shards} shards");
        }
    }
}

#[test]
fn a_picture_that_comes_back_begins_with_a_keyframe() {
    for shards in 1..=2 {
        let mut meeting = Meeting::new(shards, 3, last_n(1));
        meeting.keyframe_every = 100;
        for turn in 0..5 {
            meeting.speak(&[turn % 2]);
            meeting.run(500 * MS);
            let person = &meeting.people[2];
            meeting.worlds[person.shard].clients[person.at].take_rtp();
            meeting.run(3000 * MS);
            let person = &meeting.people[2];
            let packets = meeting.worlds[person.shard].clients[person.at].take_rtp();
            let speaker = Ssrc(0x5000_0000 + 2 * (turn as u32 % 2) + 1);
            let mut of = packets.iter().filter(|(header, _)| header.ssrc == speaker);
            let (_, first) = of.next().expect("it came");
            // Whom one sees from the beginning is seen already.
            assert!(
                turn == 0 || first.len() > 4,
                "turn {turn} on {shards} shards"
            );
        }
        assert!(meeting.count("forward_awaits_keyframe") > 0);
    }
}

#[test]
fn without_the_option_everybody_is_seen() {
    let mut meeting = Meeting::new(2, 5, RoomOptions::default());
    meeting.speak(&[1]);
    meeting.run(2000 * MS);
    meeting.forget();
    meeting.run(100 * MS);
    assert_eq!(meeting.sources(0, MediaKind::Video), [1, 2, 3, 4]);
    assert_eq!(meeting.count("last_n_stopped"), 0);
}
