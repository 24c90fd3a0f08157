//! Whole rooms over several shards: what holds for one must hold for them together.

use std::collections::BTreeSet;
use std::time::Duration;

use shardcast::base::ids::ShardId;

use crate::network::Conditions;
use crate::seconds;
use crate::support::client::Style;
use crate::support::flavor::Flavor;
use crate::support::media::Rate;
use crate::world::World;

/// A settled room that has spilled onto every shard.
fn spread_room(shards: u16, peers: usize, seed: u64, conditions: Conditions, rate: Rate) -> World {
    let mut world = World::with_shards(seed, conditions, shards, 1);
    for index in 0..peers {
        let flavor = Flavor::ALL[index % Flavor::ALL.len()];
        world.join("room", &format!("peer{index}"), flavor, rate);
        world.run_for(Duration::from_millis(70));
    }
    world.settle("room");
    let used: BTreeSet<ShardId> = world.seats.iter().map(|seat| seat.shard).collect();
    assert_eq!(used.len(), usize::from(shards), "every shard has some");
    world
}

/// Everybody leaves, and nothing is left anywhere.
fn empty(mut world: World) {
    for seat in 0..world.seats.len() {
        if world.seats[seat].wants_in {
            world.leave(seat);
        }
    }
    world.run_for(seconds(1));
    for shard in &world.shards {
        assert_eq!(
            (shard.peers_len(), shard.rooms_len(), shard.wants_len()),
            (0, 0, 0),
            "shard {}",
            shard.id()
        );
    }
    world.check();
}

#[test]
fn a_room_over_several_shards_is_one_room() {
    for (shards, peers, rate, duration) in [
        (2, 2, Rate::FULL, 5),
        (2, 5, Rate::THIN, 4),
        (3, 3, Rate::FULL, 4),
        (3, 7, Rate::THIN, 4),
    ] {
        let mut world = spread_room(shards, peers, 1, Conditions::PERFECT, rate);
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
        empty(world);
    }
}

#[test]
fn rooms_stay_apart_on_every_shard() {
    let mut world = World::with_shards(2, Conditions::PERFECT, 2, 1);
    for (room, id) in [
        ("a", "ann"),
        ("b", "ann"),
        ("a", "bob"),
        ("b", "bob"),
        ("a", "cid"),
    ] {
        world.join(room, id, Flavor::Chromium, Rate::THIN);
    }
    world.settle("a");
    world.settle("b");
    world.flows("a", seconds(2), 1.0);
    world.flows("b", seconds(2), 1.0);
    empty(world);
}

#[test]
fn loss_and_reordering_are_mended_across_shards() {
    for seed in 10..12 {
        let mut world = spread_room(2, 3, seed, Conditions::LOSSY, Rate::FULL);
        // Sound is not asked for again: a path up and one down lose 5 % each.
        world.flows("room", seconds(5), 0.85);
        world.check_lip_sync("room");
        empty(world);
    }
}

#[test]
fn video_lost_on_the_way_down_is_sent_again_by_the_subscribers_shard() {
    let conditions = Conditions {
        loss_down: 0.05,
        ..Conditions::PERFECT
    };
    let mut world = spread_room(3, 3, 20, conditions, Rate::FULL);
    world.flows("room", seconds(4), 0.90);
    let count = |world: &World, name: &str| -> u64 {
        let counters = world.shards.iter().flat_map(|s| s.counters().iter());
        counters.filter(|(n, _)| *n == name).map(|(_, n)| n).sum()
    };
    assert!(count(&world, "rtp_retransmitted") > 50);
    // All crossed once for each other shard, whatever was sent again.
    let sent = count(&world, "relay_packets_sent");
    assert_eq!(count(&world, "relay_packets_received"), sent);
    empty(world);
}

#[test]
fn an_overloaded_relay_loses_media_and_nothing_else() {
    let mut world = spread_room(2, 4, 21, Conditions::PERFECT, Rate::FULL);
    world.mesh.media_loss = 0.2;
    world.flows("room", seconds(3), 0.7);
    world.mesh.media_loss = 0.0;
    world.run_for(seconds(1));
    world.flows("room", seconds(2), 1.0);
    assert!(world.mesh.lost > 100);
    empty(world);
}

#[test]
fn joins_and_leaves_over_minutes_on_three_shards() {
    let mut world = World::with_shards(30, Conditions::REORDERING, 3, 2);
    let mut seats = Vec::new();
    for round in 0..12 {
        let flavor = Flavor::ALL[round % Flavor::ALL.len()];
        seats.push(world.join("room", &format!("peer{round}"), flavor, Rate::THIN));
        world.settle("room");
        world.run_for(seconds(3));
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
    world.flows("room", seconds(3), 0.99);
    empty(world);
}

#[test]
fn who_leaves_ends_on_every_shard() {
    let mut world = spread_room(3, 3, 31, Conditions::PERFECT, Rate::FULL);
    world.flows("room", seconds(1), 1.0);
    world.leave(1);
    world.settle("room");
    world.flows("room", seconds(2), 1.0);
    for seat in [0, 2] {
        let client = world.client(seat);
        let byes = client.received.values().filter(|r| r.bye).count();
        assert_eq!(byes, 2, "{} got BYE for both tracks", client.id());
    }
    let again = world.join("room", "peer1", Flavor::Firefox, Rate::FULL);
    world.settle("room");
    world.flows("room", seconds(2), 1.0);
    assert_eq!(world.seats[again].shard, world.seats[1].shard);
    empty(world);
}

#[test]
fn viewers_on_another_shard_get_one_copy_between_them() {
    let mut world = World::with_shards(70, Conditions::PERFECT, 2, 1);
    world.join("room", "ann", Flavor::Chromium, Rate::FULL);
    for index in 0..5 {
        let id = format!("viewer{index}");
        let viewer = world.connect("room", &id, Flavor::Chromium, Style::Viewer, Rate::FULL);
        world.start(viewer);
    }
    world.settle("room");
    let elsewhere = world.seats[1..].iter();
    let elsewhere = elsewhere.filter(|seat| seat.shard != world.seats[0].shard);
    assert!(elsewhere.count() >= 3);
    world.flows("room", seconds(3), 1.0);
    let count = |world: &World, name: &str| {
        let mut counters = world.shards[0].counters().iter();
        counters.find(|(n, _)| *n == name).expect("a counter").1
    };
    assert!(count(&world, "relay_packets_sent") <= count(&world, "rtp_received"));
    empty(world);
}
