//! Who speaks, as clients are told over their sessions.

use std::time::Duration;

use serde_json::{Value, json};

use crate::network::Conditions;
use crate::support::flavor::Flavor;
use crate::support::media::Rate;
use crate::world::World;

/// A settled room on so many shards.
fn room(shards: u16, peers: usize, conditions: Conditions) -> World {
    let mut world = World::with_shards(77, conditions, shards, 1);
    for index in 0..peers {
        let flavor = Flavor::ALL[index % Flavor::ALL.len()];
        world.join("room", &format!("peer{index}"), flavor, Rate::FULL);
    }
    speak(&mut world, None);
    world.settle("room");
    world
}

/// Only this one speaks from now on.
fn speak(world: &mut World, speaker: Option<usize>) {
    for seat in 0..world.seats.len() {
        for sender in world.seats[seat].client.senders.values_mut() {
            sender.level = Some(if Some(seat) == speaker { 35 } else { 127 });
        }
    }
}

fn latest(world: &World, seat: usize) -> Option<&Value> {
    let mut events = world.client(seat).events.iter().rev();
    let found = events.find(|(event, _)| event == "active-speakers");
    found.map(|(_, data)| data)
}

fn count(world: &World, seat: usize) -> usize {
    let events = world.client(seat).events.iter();
    events
        .filter(|(event, _)| event == "active-speakers")
        .count()
}

#[test]
fn clients_are_told_who_speaks_whatever_the_network_does() {
    let rough = Conditions {
        loss_up: 0.05,
        loss_down: 0.05,
        ..Conditions::PERFECT
    };
    for (shards, conditions) in [
        (1, Conditions::PERFECT),
        (2, rough),
        (3, Conditions::PERFECT),
    ] {
        let mut world = room(shards, 4, conditions);
        // Before the levels were set anybody may have spoken.
        world.run_for(Duration::from_secs(4));
        for speaker in [2, 0, 3] {
            speak(&mut world, Some(speaker));
            world.run_for(Duration::from_millis(2600));
            let name = format!("peer{speaker}");
            for seat in 0..4 {
                let told = latest(&world, seat).expect("is told");
                assert_eq!(told["dominant"], json!(name), "{seat} on {shards} shards");
                assert_eq!(told["speakers"][0]["peer_id"], json!(name));
                let level = told["speakers"][0]["level"].as_u64().unwrap();
                // The first tick holds the silence before, too.
                assert!((35..45).contains(&level), "{level}");
                assert_eq!(told["speakers"].as_array().unwrap().len(), 1);
            }
        }
        let before = count(&world, 1);
        world.run_for(Duration::from_secs(5));
        assert_eq!(
            count(&world, 1),
            before,
            "nothing new is told of one who goes on"
        );
        speak(&mut world, None);
        world.run_for(Duration::from_secs(3));
        for seat in 0..4 {
            let told = json!({"dominant": "peer3", "speakers": []});
            assert_eq!(latest(&world, seat), Some(&told));
        }
    }
}
