//! Whole rooms on a virtual clock: the real sessions, coordinator and shard, with no socket and no
//! thread, behind a seeded network that loses, delays, doubles and reorders.
//!
//! What every scenario asserts (`World::settle`, `World::flows`, `World::check`): everybody gets
//! everybody else's tracks and nobody else's, nothing goes to who left, and what arrives is what was
//! sent, in its order, on its clock, under the numbers that were negotiated.

#[path = "../support/mod.rs"]
mod support;

mod hostile;
mod loss;
mod network;
mod relay;
#[path = "../support/relay_mesh.rs"]
mod relay_mesh;
mod speakers;
mod world;

use std::net::SocketAddr;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;

use crate::network::Conditions;
use crate::support::client::Style;
use crate::support::flavor::Flavor;
use crate::support::media::Rate;
use crate::world::World;

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// A settled room of `peers` publishing clients of all flavors, in turn.
fn room_of(peers: usize, seed: u64, conditions: Conditions, rate: Rate) -> World {
    let mut world = World::new(seed, conditions);
    for index in 0..peers {
        let flavor = Flavor::ALL[index % Flavor::ALL.len()];
        world.join("room", &format!("peer{index}"), flavor, rate);
        world.run_for(Duration::from_millis(70));
    }
    world.settle("room");
    world
}

#[test]
fn everybody_gets_everybody_else() {
    for (peers, rate, duration) in [
        (2, Rate::FULL, 5),
        (3, Rate::FULL, 4),
        (5, Rate::THIN, 5),
        (10, Rate::THIN, 4),
    ] {
        let mut world = room_of(peers, 1, Conditions::PERFECT, rate);
        world.flows("room", seconds(duration), 1.0);
        world.check_lip_sync("room");
        for seat in world.present("room") {
            let client = world.client(seat);
            for received in client.received.values() {
                assert_eq!(client.transport.replays, 0, "{}", client.id());
                assert_eq!(received.gaps(), 0, "{}", client.id());
                assert!(
                    !received.video || received.keyframes() > 0,
                    "{}",
                    client.id()
                );
            }
        }
    }
}

#[test]
fn rooms_do_not_hear_each_other() {
    let mut world = World::new(2, Conditions::PERFECT);
    for (room, id) in [("a", "ann"), ("a", "bob"), ("b", "ann"), ("b", "bob")] {
        world.join(room, id, Flavor::Chromium, Rate::THIN);
    }
    world.settle("a");
    world.settle("b");
    world.flows("a", seconds(2), 1.0);
    world.flows("b", seconds(2), 1.0);
}

#[test]
fn reordering_and_duplication_change_nothing() {
    for seed in 0..3 {
        let mut world = room_of(3, seed, Conditions::REORDERING, Rate::FULL);
        world.flows("room", seconds(4), 0.995);
    }
}

#[test]
fn five_percent_loss_leaves_order_and_content_intact() {
    for seed in 10..13 {
        let mut world = room_of(3, seed, Conditions::LOSSY, Rate::FULL);
        // Sound is not asked for again: a path up and one down lose 5 % each.
        world.flows("room", seconds(5), 0.85);
        world.check_lip_sync("room");
    }
}

#[test]
fn peers_connect_through_heavy_loss() {
    // ICE, DTLS (with its fragments) and the descriptions all have to get through a fifth of loss each way.
    let conditions = Conditions {
        loss_up: 0.2,
        loss_down: 0.2,
        ..Conditions::REORDERING
    };
    for seed in 100..110 {
        let mut world = room_of(4, seed, conditions, Rate::THIN);
        world.check();
        world.run_for(seconds(2));
    }
}

#[test]
fn video_lost_on_the_way_down_is_sent_again() {
    let conditions = Conditions {
        loss_down: 0.05,
        ..Conditions::PERFECT
    };
    let mut world = room_of(3, 20, conditions, Rate::FULL);
    let from = world.mark();
    world.run_for(seconds(5));
    let to = world.mark();
    world.run_for(seconds(1));
    for seat in world.present("room") {
        for track in world.client(seat).negotiation.remote_tracks() {
            if !track.track.starts_with("video") {
                continue;
            }
            let name = (track.peer.clone(), track.track.clone());
            let sent = to[&name] - from[&name];
            let received = world.client(seat).reception(&track.peer, &track.track);
            let received = received.expect("settled");
            let arrived = received
                .packets
                .values()
                .filter(|r| (from[&name]..to[&name]).contains(&r.stamp.counter))
                .count() as u64;
            assert!(arrived * 1000 >= sent * 998, "{arrived} of {sent}");
        }
    }
    world.check();
}

#[test]
fn joins_and_leaves_over_minutes() {
    let mut world = World::new(30, Conditions::REORDERING);
    let mut seats = Vec::new();
    for round in 0..12 {
        let flavor = Flavor::ALL[round % Flavor::ALL.len()];
        seats.push(world.join("room", &format!("peer{round}"), flavor, Rate::THIN));
        world.settle("room");
        world.run_for(seconds(7));
        if round % 3 == 2 {
            let leaver = seats.remove(round % seats.len());
            if round % 2 == 0 {
                world.leave(leaver);
            } else {
                world.vanish(leaver);
            }
            world.settle("room");
        }
    }
    assert!(world.elapsed() > seconds(80));
    world.flows("room", seconds(3), 0.99);
}

#[test]
fn who_leaves_gets_nothing_more_and_others_are_told() {
    let mut world = room_of(3, 31, Conditions::PERFECT, Rate::FULL);
    world.flows("room", seconds(1), 1.0);
    world.leave(1);
    world.run_for(Duration::from_millis(200));
    let packets = |world: &World| -> usize {
        let received = world.client(1).received.values();
        received.map(|r| r.packets.len()).sum()
    };
    let before = packets(&world);
    world.settle("room");
    world.flows("room", seconds(2), 1.0);
    assert_eq!(packets(&world), before);
    for seat in [0, 2] {
        let client = world.client(seat);
        let byes = client.received.values().filter(|r| r.bye).count();
        assert_eq!(byes, 2, "{} got BYE for both tracks", client.id());
    }
    // The same client comes back.
    world.start(1);
}

#[test]
fn a_room_of_one_goes_and_comes_back() {
    let mut world = World::new(32, Conditions::PERFECT);
    for round in 0..3 {
        let seat = world.join(
            "room",
            &format!("peer{round}"),
            Flavor::Chromium,
            Rate::THIN,
        );
        world.settle("room");
        world.leave(seat);
        world.run_for(seconds(1));
        assert!(world.present("room").is_empty());
    }
    world.check();
}

#[test]
fn media_follows_a_changed_address() {
    for seed in 40..43 {
        let mut world = room_of(3, seed, Conditions::PERFECT, Rate::FULL);
        // A NAT forgets its binding: the next check comes from another port, unannounced.
        let moved: SocketAddr = "10.9.9.9:1234".parse().expect("an address");
        world.move_address(0, moved);
        // Consent checks come every 2.5 s.
        world.run_for(seconds(4));
        world.flows("room", seconds(2), 1.0);
        // A phone changes networks: it checks the new path at once.
        let moved: SocketAddr = "[2001:db8::7]:4321".parse().expect("an address");
        world.move_address(1, moved);
        world.act(1, |client, now| client.transport.check_now(now));
        world.run_for(Duration::from_millis(300));
        world.flows("room", seconds(2), 1.0);
        // And back to where it was.
        let back: SocketAddr = "10.0.1.1:5000".parse().expect("an address");
        world.move_address(1, back);
        world.act(1, |client, now| client.transport.check_now(now));
        world.run_for(Duration::from_millis(300));
        world.flows("room", seconds(2), 1.0);
    }
}

#[test]
fn an_address_given_up_may_serve_another_peer() {
    let mut world = room_of(3, 44, Conditions::PERFECT, Rate::FULL);
    let given_up = world.seats[0].address;
    world.move_address(0, "10.7.7.7:7".parse().expect("an address"));
    world.act(0, |client, now| client.transport.check_now(now));
    world.run_for(Duration::from_millis(100));
    world.move_address(1, given_up);
    world.act(1, |client, now| client.transport.check_now(now));
    world.run_for(Duration::from_millis(100));
    world.flows("room", seconds(2), 1.0);
}

#[test]
fn consent_runs_out_and_comes_back() {
    let mut world = room_of(3, 50, Conditions::PERFECT, Rate::THIN);
    world.act(0, |client, _| client.transport.checks = false);
    world.run_for(seconds(34));
    let packets = |world: &World| -> usize {
        let received = world.client(0).received.values();
        received.map(|r| r.packets.len()).sum()
    };
    let before = packets(&world);
    world.run_for(seconds(3));
    assert_eq!(packets(&world), before, "nothing is sent without consent");
    world.act(0, |client, now| {
        client.transport.checks = true;
        client.transport.check_now(now);
    });
    world.run_for(seconds(1));
    assert!(packets(&world) > before, "consent came back");
    world.settle("room");
    world.flows("room", seconds(2), 1.0);
}

#[test]
fn a_dead_path_costs_others_nothing() {
    let mut world = room_of(3, 51, Conditions::PERFECT, Rate::THIN);
    world.seats[0].plugged = false;
    world.run_for(seconds(40));
    let from = world.mark();
    world.run_for(seconds(2));
    let to = world.mark();
    for (seat, peer) in [(1, "peer2"), (2, "peer1")] {
        for track in world.client(seat).negotiation.remote_tracks() {
            let name = (track.peer.clone(), track.track.clone());
            let received = world.client(seat).reception(&track.peer, &track.track);
            let newest = received.and_then(|r| r.packets.last_key_value());
            let counter = newest.map_or(0, |(_, record)| record.stamp.counter);
            assert_eq!(
                counter + 20 > to[&name],
                track.peer == peer,
                "{name:?} from {from:?}"
            );
        }
    }
    world.seats[0].plugged = true;
    world.run_for(seconds(1));
    world.settle("room");
    world.flows("room", seconds(2), 0.99);
}

#[test]
fn a_second_connection_of_the_same_id_takes_over() {
    let mut world = room_of(3, 60, Conditions::PERFECT, Rate::FULL);
    let again = world.join("room", "peer1", Flavor::Firefox, Rate::FULL);
    world.settle("room");
    assert_eq!(world.present("room"), [0, 2, again]);
    let former = world.client(1);
    assert!(former.errors.iter().any(|e| e["code"] == "replaced"));
    assert!(world.seats[1].closed.is_some());
    world.flows("room", seconds(2), 1.0);
    for seat in [0, 2] {
        let told = &world.client(seat).events;
        let left = told.iter().filter(|(name, _)| name == "peer-left").count();
        assert_eq!(left, 1, "the former was said to have left");
    }
}

#[test]
fn a_viewer_is_offered_the_room() {
    for style in [Style::Viewer, Style::Silent] {
        let mut world = room_of(2, 70, Conditions::PERFECT, Rate::FULL);
        let viewer = world.connect("room", "viewer", Flavor::Chromium, style, Rate::FULL);
        world.start(viewer);
        world.settle("room");
        world.flows("room", seconds(2), 1.0);
        assert_eq!(world.client(viewer).receiving().len(), 4);
        assert_eq!(world.client(viewer).negotiation.offers_made, 0);
        assert_eq!(
            world.client(viewer).negotiation.offers_taken,
            1,
            "what a joiner is to receive comes in one offer"
        );
        let publisher = world.join("room", "late", Flavor::Firefox, Rate::FULL);
        world.settle("room");
        world.leave(publisher);
        world.settle("room");
        world.flows("room", seconds(1), 1.0);
    }
}

#[test]
fn a_viewer_that_waits_in_an_empty_room() {
    let mut world = World::new(71, Conditions::PERFECT);
    let viewer = world.connect("room", "viewer", Flavor::Firefox, Style::Viewer, Rate::THIN);
    world.start(viewer);
    world.run_for(seconds(5));
    world.join("room", "ann", Flavor::Chromium, Rate::THIN);
    world.settle("room");
    world.flows("room", seconds(2), 1.0);
}

#[test]
fn the_predecessors_client_works_unchanged() {
    let mut world = World::new(72, Conditions::PERFECT);
    for (id, style) in [
        ("old1", Style::Legacy),
        ("new", Style::Modern),
        ("old2", Style::Legacy),
    ] {
        let seat = world.connect("room", id, Flavor::Chromium, style, Rate::FULL);
        world.seats[seat].client.publish(false);
        world.seats[seat].client.publish(true);
        world.start(seat);
        world.run_for(Duration::from_millis(300));
    }
    world.settle("room");
    world.flows("room", seconds(2), 1.0);
}

#[test]
fn a_receiving_section_that_a_client_offers_carries_a_waiting_track() {
    let mut world = room_of(2, 73, Conditions::PERFECT, Rate::THIN);
    let seat = world.connect(
        "room",
        "viewer",
        Flavor::Chromium,
        Style::Modern,
        Rate::THIN,
    );
    for video in [false, true, false, true] {
        world.seats[seat].client.negotiation.add_receiver(video);
    }
    world.start(seat);
    world.settle("room");
    let negotiation = &world.client(seat).negotiation;
    assert_eq!(negotiation.sections, 4, "no further section was needed");
    assert_eq!(negotiation.offers_taken, 0, "the answer carried them");
    world.flows("room", seconds(2), 1.0);
}

#[test]
fn tracks_come_and_go() {
    let mut world = room_of(3, 80, Conditions::PERFECT, Rate::FULL);
    let screen = world.act(0, |client, now| {
        let screen = client.publish(true);
        client.offer_if_needed(now);
        screen
    });
    world.settle("room");
    world.flows("room", seconds(1), 1.0);
    world.act(0, |client, now| {
        client.unpublish(&screen);
        client.offer_if_needed(now);
    });
    world.settle("room");
    assert_eq!(world.published("room").len(), 6);
    world.flows("room", seconds(1), 1.0);
    // Many at once, by two peers at once: offers from both sides meet.
    for seat in [0, 1] {
        world.act(seat, |client, now| {
            for _ in 0..3 {
                client.publish(true);
            }
            client.publish(false);
            client.offer_if_needed(now);
        });
    }
    world.settle("room");
    assert_eq!(world.published("room").len(), 14);
    world.flows("room", seconds(1), 1.0);
    world.check_lip_sync("room");
}

#[test]
fn one_section_carries_two_unrelated_tracks() {
    // A viewer receives two tracks, then publishes: `addTrack` takes the sections it receives on.
    let mut world = room_of(1, 81, Conditions::PERFECT, Rate::FULL);
    let viewer = world.connect(
        "room",
        "viewer",
        Flavor::Chromium,
        Style::Viewer,
        Rate::FULL,
    );
    world.start(viewer);
    world.settle("room");
    let sections = world.client(viewer).negotiation.sections;
    world.act(viewer, |client, now| {
        client.publish(false);
        client.publish(true);
        client.offer_if_needed(now);
    });
    world.settle("room");
    assert_eq!(world.client(viewer).negotiation.sections, sections);
    world.flows("room", seconds(2), 1.0);
}

#[test]
fn offers_that_meet_are_sorted_out() {
    for seed in 82..90 {
        let mut world = room_of(3, seed, Conditions::PERFECT, Rate::THIN);
        for round in 0..5u64 {
            let seat = (round % 3) as usize;
            world.act(seat, |client, now| {
                client.publish(round % 2 == 0);
                client.offer_if_needed(now);
            });
            world.run_for(Duration::from_millis((seed + round) * 7 % 40));
        }
        world.settle("room");
        world.flows("room", seconds(1), 1.0);
    }
}

#[test]
fn an_ice_restart_keeps_media() {
    let mut world = room_of(2, 90, Conditions::PERFECT, Rate::FULL);
    for seat in [0, 1] {
        world.act(seat, |client, now| {
            client.restart_ice();
            client.offer_if_needed(now);
        });
        world.settle("room");
        world.flows("room", seconds(2), 1.0);
    }
}

#[test]
fn descriptions_do_not_grow_with_joins_and_leaves() {
    let mut world = room_of(2, 91, Conditions::PERFECT, Rate::THIN);
    let most = 2 + 2 * 3;
    let mut guests = std::collections::VecDeque::new();
    for round in 0..50 {
        let flavor = Flavor::ALL[round % Flavor::ALL.len()];
        guests.push_back(world.join("room", &format!("guest{round}"), flavor, Rate::THIN));
        if guests.len() > 2 {
            let leaver = guests.pop_front().expect("three are there");
            world.leave(leaver);
        }
        world.settle("room");
        for seat in [0, 1] {
            let sections = world.client(seat).negotiation.sections;
            assert!(sections <= most, "{sections} sections after {round} rounds");
        }
    }
    world.flows("room", seconds(2), 1.0);
}

#[test]
fn keyframe_requests_are_merged_and_throttled() {
    let mut world = room_of(5, 92, Conditions::PERFECT, Rate::THIN);
    world.run_for(seconds(2));
    let requests = |world: &World| -> usize {
        let senders = world.client(0).senders.values();
        senders.map(|s| s.keyframe_requests.len()).sum()
    };
    let before = requests(&world);
    // Four viewers ask twenty times within two seconds, by both kinds of request.
    for round in 0..20 {
        for seat in 1..5 {
            world.act(seat, |client, _| client.ask_for_keyframes(round % 2 == 0));
        }
        world.run_for(Duration::from_millis(100));
    }
    let asked = requests(&world) - before;
    assert!((3..=6).contains(&asked), "{asked} requests in 2 s");
    for sender in world.client(0).senders.values() {
        for pair in sender.keyframe_requests.windows(2) {
            let apart = pair[1] - pair[0];
            assert!(apart >= Duration::from_millis(499), "{apart:?} apart");
        }
    }
    world.check();
}

#[test]
fn a_new_subscription_asks_for_a_keyframe() {
    let mut world = room_of(2, 95, Conditions::PERFECT, Rate::FULL);
    world.run_for(seconds(3));
    let requests = |world: &World, seat: usize| -> usize {
        let senders = world.client(seat).senders.values();
        senders.map(|s| s.keyframe_requests.len()).sum()
    };
    let before = [requests(&world, 0), requests(&world, 1)];
    let viewer = world.connect("room", "viewer", Flavor::Firefox, Style::Viewer, Rate::FULL);
    world.start(viewer);
    world.settle("room");
    world.run_for(Duration::from_millis(300));
    for (seat, before) in before.into_iter().enumerate() {
        assert!(requests(&world, seat) > before, "peer{seat} was asked");
    }
    for received in world.client(viewer).received.values() {
        assert_eq!(received.keyframes() > 0, received.video);
    }
}

#[test]
fn a_receiver_may_pause_and_go_on() {
    let mut world = room_of(2, 96, Conditions::PERFECT, Rate::FULL);
    let wants = |world: &mut World, wanted: bool| {
        world.act(1, |client, now| {
            for transceiver in &mut client.negotiation.transceivers {
                transceiver.wants_recv = wanted;
            }
            client.negotiation.needed = true;
            client.offer_if_needed(now);
        });
        world.run_for(Duration::from_millis(100));
    };
    let packets = |world: &World| -> usize {
        let received = world.client(1).received.values();
        received.map(|r| r.packets.len()).sum()
    };
    for _ in 0..3 {
        world.flows("room", seconds(1), 1.0);
        wants(&mut world, false);
        let before = packets(&world);
        world.run_for(seconds(2));
        assert_eq!(
            packets(&world),
            before,
            "nothing comes while it is not wanted"
        );
        wants(&mut world, true);
        world.settle("room");
    }
    world.flows("room", seconds(1), 1.0);
    world.check_lip_sync("room");
}

#[test]
fn the_server_may_have_to_say_hello_first() {
    for flavor in Flavor::ALL {
        let mut world = room_of(1, 97, Conditions::REORDERING, Rate::THIN);
        let seat = world.connect("room", "passive", flavor, Style::Modern, Rate::THIN);
        world.seats[seat].client.negotiation.offer_setup = "passive";
        world.seats[seat].client.publish(false);
        world.start(seat);
        world.settle("room");
        // Here the client's handshake ends before the server's.
        world.run_for(Duration::from_millis(200));
        world.flows("room", seconds(2), 0.99);
    }
}

#[test]
fn candidates_may_come_at_any_time() {
    let mut world = room_of(1, 98, Conditions::PERFECT, Rate::THIN);
    let candidate = |line: &str| {
        let init = json!({"candidate": line, "sdpMid": "0", "sdpMLineIndex": 0});
        json!({"event": "ice-candidate", "data": {"candidate": init}}).to_string()
    };
    let line = "candidate:1 1 udp 2130706431 10.0.1.1 5000 typ host generation 0 ufrag abcd";
    let mdns =
        "candidate:2 1 udp 2113937151 0aa05a3c-4b3f-4a31-8a9f-1d1b2c3d4e5f.local 5000 typ host";
    let seat = world.connect("room", "eager", Flavor::Chromium, Style::Modern, Rate::THIN);
    world.seats[seat].client.publish(true);
    world.start(seat);
    for line in [line, mdns, ""] {
        world.send_frame(seat, &candidate(line));
    }
    world.settle("room");
    world.send_frame(seat, &candidate(line));
    world.flows("room", seconds(1), 1.0);
    assert!(
        world.client(seat).errors.is_empty(),
        "{:?}",
        world.client(seat).errors
    );
}

#[test]
fn gcm_is_chosen_wherever_it_is_offered() {
    let world = room_of(4, 93, Conditions::PERFECT, Rate::THIN);
    let chosen: Vec<String> = (0..4)
        .map(|seat| format!("{:?}", world.client(seat).transport.profile))
        .collect();
    assert_eq!(
        chosen,
        [
            "Some(AeadAes128Gcm)",
            "Some(AeadAes128Gcm)",
            "Some(Aes128CmHmacSha1_80)",
            "Some(AeadAes256Gcm)",
        ]
    );
}

#[test]
fn a_closed_peer_connection_is_noticed() {
    let mut world = room_of(3, 94, Conditions::PERFECT, Rate::THIN);
    world.act(0, |client, now| client.transport.close(now));
    world.seats[0].wants_in = false;
    world.run_for(seconds(2));
    assert_eq!(world.present("room"), [1, 2]);
    world.settle("room");
    world.flows("room", seconds(1), 1.0);
}

#[test]
fn random_walks() {
    for seed in 0..WALKS {
        // Shown where it fails.
        eprintln!("walk {seed}");
        walk(seed);
    }
}

/// How many walks a test run takes: as many as fit into some seconds.
const WALKS: u64 = 24;

/// Anything a room may see, in any order, with pauses too short to settle in between.
fn walk(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let (conditions, part) = [
        (Conditions::PERFECT, 1.0),
        (Conditions::REORDERING, 0.97),
        (Conditions::LOSSY, 0.4),
    ][seed as usize % 3];
    let mut world = room_of(2, seed, conditions, Rate::THIN);
    for step in 0..40 {
        let present = world.present("room");
        if present.is_empty() {
            let id = format!("first{step}");
            world.join("room", &id, Flavor::Chromium, Rate::THIN);
            world.settle("room");
            continue;
        }
        let seat = present[rng.random_range(0..present.len())];
        match rng.random_range(0..10) {
            0 | 1 if present.len() < 5 => {
                let flavor = Flavor::ALL[rng.random_range(0..Flavor::ALL.len())];
                let style = [Style::Modern, Style::Legacy, Style::Viewer, Style::Silent]
                    [rng.random_range(0..4)];
                let id = format!("walker{step}");
                let seat = world.connect("room", &id, flavor, style, Rate::THIN);
                if matches!(style, Style::Modern | Style::Legacy) {
                    world.seats[seat].client.publish(rng.random_bool(0.5));
                }
                world.start(seat);
            }
            2 if present.len() > 1 => world.leave(seat),
            3 if present.len() > 1 => world.vanish(seat),
            4 | 5 if world.client(seat).senders.len() < 8 => {
                let video = rng.random_bool(0.5);
                world.act(seat, |client, now| {
                    client.publish(video);
                    client.offer_if_needed(now);
                });
            }
            6 | 7 => {
                let local = world.client(seat).negotiation.transceivers.iter();
                let ids: Vec<String> = local
                    .filter_map(|t| t.local.as_ref().map(|l| l.id.clone()))
                    .collect();
                if let Some(id) = ids.get(rng.random_range(0..ids.len().max(1))) {
                    world.act(seat, |client, now| {
                        client.unpublish(id);
                        client.offer_if_needed(now);
                    });
                }
            }
            8 => world.act(seat, |client, now| {
                client.restart_ice();
                client.offer_if_needed(now);
            }),
            _ => {
                let address = SocketAddr::from(([10, 200, seat as u8, step], 6000));
                world.move_address(seat, address);
                world.act(seat, |client, now| client.transport.check_now(now));
            }
        }
        world.run_for(Duration::from_millis(rng.random_range(0..400)));
        world.check();
    }
    world.settle("room");
    // The last of the moved addresses is known by now.
    world.run_for(seconds(3));
    world.flows("room", seconds(1), part);
}
