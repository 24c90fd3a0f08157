//! What a hostile client may send, while the others' media must go on as if nothing were.

use std::net::SocketAddr;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::network::Conditions;
use crate::support::client::Style;
use crate::support::flavor::Flavor;
use crate::support::media::Rate;
use crate::world::World;

/// Two peers whose media flows, and a third seat for the attacker.
fn stage(seed: u64) -> (World, usize) {
    let mut world = World::new(seed, Conditions::PERFECT);
    world.join("room", "ann", Flavor::Chromium, Rate::FULL);
    world.join("room", "bob", Flavor::Firefox, Rate::FULL);
    world.settle("room");
    let seat = world.connect("room", "eve", Flavor::Chromium, Style::Modern, Rate::FULL);
    (world, seat)
}

fn assert_untouched(world: &mut World) {
    let from = world.mark();
    world.run_for(Duration::from_secs(2));
    let to = world.mark();
    world.run_for(Duration::from_millis(500));
    for (seat, other) in [(0, "bob"), (1, "ann")] {
        let client = world.client(seat);
        assert!(client.errors.is_empty(), "{:?}", client.errors);
        let mut tracks = 0;
        for track in client.negotiation.remote_tracks() {
            if track.peer != other {
                continue;
            }
            tracks += 1;
            let name = (track.peer.clone(), track.track.clone());
            let received = client.reception(&track.peer, &track.track).expect("SSRC");
            let counters = received.packets.values().map(|r| r.stamp.counter);
            let arrived = counters
                .filter(|c| (from[&name]..to[&name]).contains(c))
                .count() as u64;
            assert_eq!(arrived, to[&name] - from[&name], "{name:?}");
            assert!(received.inconsistencies().is_empty());
        }
        assert_eq!(tracks, 2, "{} receives {other}", client.id());
        assert!(client.faults.is_empty(), "{:?}", client.faults);
    }
    assert!(world.faults.is_empty(), "{:?}", world.faults);
}

#[test]
fn frames_of_noise() {
    let (mut world, eve) = stage(1000);
    let mut rng = StdRng::seed_from_u64(1);
    let valid =
        json!({"event": "joinRoom", "data": {"self_id": "eve", "room_id": "room"}}).to_string();
    for _ in 0..200 {
        let mut bytes = valid.clone().into_bytes();
        for _ in 0..rng.random_range(1..6) {
            let at = rng.random_range(0..bytes.len());
            match rng.random_range(0..3) {
                0 => bytes[at] = rng.random_range(32..127),
                1 => bytes.truncate(at.max(1)),
                _ => bytes.insert(at, rng.random_range(32..127)),
            }
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        world.send_frame(eve, &text);
        world.run_for(Duration::from_millis(5));
        // Who makes too many mistakes is put out; another takes its place.
        if world.seats[eve].closed.is_some() {
            break;
        }
    }
    assert_untouched(&mut world);
}

/// A valid offer of a browser-like client, for mutation.
fn an_offer(world: &World) -> String {
    let frames = &world.client(1).events;
    let offer = frames
        .iter()
        .find(|(name, _)| name == "offer" || name == "answer");
    let data = offer
        .expect("negotiated")
        .1
        .as_str()
        .expect("a string")
        .to_owned();
    let inner: Value = serde_json::from_str(&data).expect("JSON");
    inner["sdp"].as_str().expect("sdp").to_owned()
}

#[test]
fn descriptions_of_noise() {
    for seed in 0..12u64 {
        let (mut world, _) = stage(1100 + seed);
        let base = an_offer(&world);
        let mut rng = StdRng::seed_from_u64(seed);
        for round in 0..12 {
            let id = format!("eve{round}");
            let eve = world.connect("room", &id, Flavor::Chromium, Style::Silent, Rate::THIN);
            let join = json!({"event": "joinRoom", "data": {"self_id": id, "room_id": "room"}});
            world.send_frame(eve, &join.to_string());
            for _ in 0..3 {
                let sdp = mutate(&base, &mut rng);
                let kind = if rng.random_bool(0.8) {
                    "offer"
                } else {
                    "answer"
                };
                let frame = json!({"event": kind, "data": {kind: {"type": kind, "sdp": sdp}}});
                world.send_frame(eve, &frame.to_string());
            }
            world.run_for(Duration::from_millis(60));
            world.vanish(eve);
        }
        world.run_for(Duration::from_secs(1));
        assert_untouched(&mut world);
    }
}

/// Doubles, drops, swaps and garbles lines.
fn mutate(sdp: &str, rng: &mut StdRng) -> String {
    let mut lines: Vec<String> = sdp.split("\r\n").map(str::to_owned).collect();
    for _ in 0..rng.random_range(1..10) {
        let at = rng.random_range(0..lines.len());
        let other = rng.random_range(0..lines.len());
        match rng.random_range(0..6) {
            0 => {
                lines.remove(at);
            }
            1 => lines.insert(other, lines[at].clone()),
            2 => lines.swap(at, other),
            3 => {
                let cut = rng.random_range(0..=lines[at].len());
                if lines[at].is_char_boundary(cut) {
                    lines[at].truncate(cut);
                }
            }
            4 => lines[at] = lines[at].replace(|c: char| c.is_ascii_digit(), "9"),
            _ => lines[at].push_str(" 4294967296 -1 \u{1F480}"),
        }
        if lines.is_empty() {
            break;
        }
    }
    lines.join("\r\n")
}

#[test]
fn datagrams_of_noise() {
    let (mut world, _) = stage(1200);
    let mut rng = StdRng::seed_from_u64(12);
    let stranger: SocketAddr = "203.0.113.66:6666".parse().expect("an address");
    let trusted = world.seats[1].address;
    for round in 0..3000 {
        let length = rng.random_range(0..600);
        let mut bytes: Vec<u8> = (0..length).map(|_| rng.random()).collect();
        if let Some(first) = bytes.first_mut() {
            // Each class of RFC 7983, and what is none.
            *first = [0, 1, 20, 22, 23, 63, 64, 127, 128, 144, 191, 192, 255][round % 13];
        }
        let from = if round % 3 == 0 { trusted } else { stranger };
        world.send_datagram(from, &bytes);
        if round % 20 == 0 {
            world.run_for(Duration::from_millis(10));
        }
    }
    world.run_for(Duration::from_secs(1));
    assert_untouched(&mut world);
}

#[test]
fn broken_packets_inside_the_encryption() {
    let (mut world, eve) = stage(1300);
    world.seats[eve].client.publish(true);
    world.start(eve);
    world.settle("room");
    let mut rng = StdRng::seed_from_u64(13);
    for round in 0..1500 {
        let length = rng.random_range(12..300);
        let mut bytes: Vec<u8> = (0..length).map(|_| rng.random()).collect();
        bytes[0] = [0x80, 0x90, 0xbf, 0xa0, 0x8f][round % 5];
        if round % 2 == 0 {
            // RTCP of every type, with a length that may or may not fit.
            bytes[1] = 192 + (round / 2 % 32) as u8;
            if round % 4 == 0 {
                let words = (bytes.len() / 4 - 1) as u16;
                bytes.truncate((usize::from(words) + 1) * 4);
                bytes[2..4].copy_from_slice(&words.to_be_bytes());
            }
            world.act(eve, |client, _| client.transport.send_rtcp(&bytes));
        } else {
            bytes[1] &= 0x7f;
            // What the SRTP library itself would not seal must not count.
            bytes[0] &= 0x8f;
            bytes[0] &= 0xf0;
            world.act(eve, |client, _| client.transport.send_rtp(&bytes));
        }
        if round % 20 == 0 {
            world.run_for(Duration::from_millis(10));
        }
    }
    world.run_for(Duration::from_secs(1));
    assert_untouched(&mut world);
}

#[test]
fn a_wrong_fingerprint_gets_no_media() {
    let (mut world, eve) = stage(1400);
    world.seats[eve].client.publish(false);
    let other = "00:".repeat(31) + "00";
    world.seats[eve].client.transport.claimed_fingerprint = Some(other);
    world.start(eve);
    world.run_for(Duration::from_secs(5));
    let client = world.client(eve);
    let told = client
        .errors
        .iter()
        .any(|e| e["code"] == "fingerprint-mismatch");
    assert!(told, "{:?}", client.errors);
    let packets: usize = client.received.values().map(|r| r.packets.len()).sum();
    assert_eq!(packets, 0);
    assert_untouched(&mut world);
}

#[test]
fn checks_with_a_wrong_password_move_nobody() {
    let (mut world, _) = stage(1500);
    let thief: SocketAddr = "203.0.113.99:9999".parse().expect("an address");
    for seat in [0, 1] {
        let transport = &world.client(seat).transport;
        let mut remote = transport.remote.clone().expect("negotiated");
        remote.pwd = "x".repeat(24);
        let ufrag = transport.local.ufrag.clone();
        let request = transport.request(&ufrag, &remote, true);
        world.send_datagram(thief, &request);
    }
    world.run_for(Duration::from_millis(200));
    // `World` itself reports anything but a short refusal to where nobody is.
    assert_untouched(&mut world);
}

#[test]
fn a_forged_source_takes_nobodys_address() {
    let (mut world, eve) = stage(1600);
    world.seats[eve].client.publish(false);
    world.start(eve);
    world.settle("room");
    // A valid check of eve's own, as if from where bob is.
    let transport = &world.client(eve).transport;
    let remote = transport.remote.clone().expect("negotiated");
    let ufrag = transport.local.ufrag.clone();
    let request = transport.request(&ufrag, &remote, true);
    let bob = world.seats[1].address;
    world.send_datagram(bob, &request);
    world.run_for(Duration::from_millis(200));
    assert_untouched(&mut world);
}
