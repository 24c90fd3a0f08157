//! `subscribe`, `layer-changed` and what the REST interface says of both.

use std::net::SocketAddr;
use std::time::Instant;

use serde_json::{Value, json};

use crate::live::{Live, drive};
use crate::support::flavor::Flavor;
use crate::{LONG, server, socket};

/// What the server says of a path below `/api/`: the status line and the JSON.
fn ask(server: SocketAddr, path: &str) -> (String, Value) {
    let answer = socket::get(server, path);
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.contains("Content-Type: application/json"), "{head}");
    let status = head.lines().next().expect("a status line").to_owned();
    (status, serde_json::from_str(body).expect("JSON"))
}

/// The reasons `live` was last told of each publisher's picture.
fn reason(live: &Live, publisher: &str) -> Option<String> {
    let told = live.client.events.iter().rev();
    let mut told =
        told.filter(|(event, data)| event == "layer-changed" && data["peer_id"] == publisher);
    Some(told.next()?.1["reason"].as_str()?.to_owned())
}

#[test]
fn a_client_that_pauses_a_picture_gets_none_and_both_are_told() {
    let server = server();
    let http = server.http_addr();
    let zero = Instant::now();
    let mut ann = Live::join(http, "two rooms/a", "ann", Flavor::Chromium, zero);
    let mut bob = Live::join(http, "two rooms/a", "bob", Flavor::Chromium, zero);
    drive(
        &mut [&mut ann, &mut bob],
        LONG,
        "they hear each other",
        |live| {
            live.iter().all(|live| {
                let packets = live.packets();
                packets.len() == 2 && packets[0] >= 20
            })
        },
    );
    drive(
        &mut [&mut ann, &mut bob],
        LONG,
        "bob is told of ann's picture",
        |live| reason(live[1], "ann").as_deref() == Some("best"),
    );
    let path = "/api/v1/rooms/two%20rooms%2Fa/peers/bob/subscriptions";
    let video = |told: &Value| -> Value {
        let all = told["subscriptions"].as_array().expect("a list");
        assert_eq!(all.len(), 2, "{told}");
        let one = all.iter().find(|one| one["kind"] == "video");
        one.expect("a picture").clone()
    };
    let (status, told) = ask(http, path);
    assert!(status.contains(" 200 "), "{status}");
    assert_eq!(told["peer_id"], "bob");
    let picture = video(&told);
    assert_eq!(
        (&picture["peer_id"], &picture["reason"]),
        (&json!("ann"), &json!("best"))
    );
    assert_eq!(picture["layer"]["encoding"], 0);
    assert!(
        picture["layer_bps"].as_u64().expect("a rate") > 10_000,
        "{picture}"
    );
    let track = picture["track_id"].as_str().expect("an id").to_owned();

    // An unknown track is no error, and the pause takes hold.
    let wishes = json!({"subscriptions": [
        {"peer_id": "nobody", "track_id": "x", "priority": 100},
        {"peer_id": "ann", "track_id": track, "width": 320, "height": 180.5, "paused": true},
    ]});
    bob.client.send("subscribe", wishes);
    drive(
        &mut [&mut ann, &mut bob],
        LONG,
        "bob is told of the pause",
        |live| reason(live[1], "ann").as_deref() == Some("paused"),
    );
    let picture = video(&ask(http, path).1);
    assert_eq!(
        (&picture["layer"], &picture["reason"]),
        (&Value::Null, &json!("paused"))
    );
    assert_eq!(
        (&picture["wanted"]["width"], &picture["wanted"]["height"]),
        (&json!(320), &json!(181))
    );
    let count = |bob: &Live| {
        bob.client
            .reception("ann", &track)
            .expect("known")
            .packets
            .len()
    };
    // What was under way has come.
    let soon = Instant::now() + std::time::Duration::from_millis(300);
    drive(&mut [&mut ann, &mut bob], LONG, "a moment", |_| {
        Instant::now() > soon
    });
    let before = count(&bob);
    let soon = Instant::now() + std::time::Duration::from_millis(500);
    drive(&mut [&mut ann, &mut bob], LONG, "a moment", |_| {
        Instant::now() > soon
    });
    assert_eq!(count(&bob), before, "nothing is sent");

    // Once nobody wants it for a while, its publisher hears of it.
    drive(&mut [&mut ann, &mut bob], LONG, "ann is told", |live| {
        let told = live[0].client.events.iter().rev();
        let mut told = told.filter(|(event, _)| event == "layers-wanted");
        told.next()
            .is_some_and(|(_, data)| data["encodings"][0]["wanted"] == false)
    });
    let wishes = json!({"subscriptions": [{"peer_id": "ann", "track_id": track}]});
    bob.client.send("subscribe", wishes);
    drive(&mut [&mut ann, &mut bob], LONG, "it flows again", |live| {
        count(live[1]) > before + 20 && reason(live[1], "ann").as_deref() == Some("best")
    });
    let told = ann
        .client
        .events
        .iter()
        .rev()
        .find(|(event, _)| event == "layers-wanted");
    assert_eq!(told.expect("was told").1["encodings"][0]["wanted"], true);
    assert_eq!(
        (&ann.client.errors[..], &bob.client.errors[..]),
        (&[][..], &[][..])
    );

    for (path, code) in [
        (
            "/api/v1/rooms/two%20rooms%2Fa/peers/cid/subscriptions",
            "not-found",
        ),
        (
            "/api/v1/rooms/elsewhere/peers/bob/subscriptions",
            "not-found",
        ),
        ("/api/v1/rooms", "not-found"),
    ] {
        let (status, told) = ask(http, path);
        assert!(status.contains(" 404 "), "{path}: {status}");
        assert_eq!(told["error"]["code"], code);
    }
    let metrics = socket::get(http, "/metrics");
    assert!(metrics.contains("shardcast_layer_switches_total{shard=\"0\",reason=\"paused\"}"));
    server.shutdown();
}
