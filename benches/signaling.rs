//! What signaling costs: reading a frame, reading a description, and a whole offer answered.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use serde_json::json;

use rand::SeedableRng;
use rand::rngs::StdRng;
use shardcast::base::ids::{PeerKey, ShardId};
use shardcast::control::{Fingerprint, FingerprintAlgorithm, Joined, Roster};
use shardcast::signaling::message;
use shardcast::signaling::session::{Session, SessionConfig};
use shardcast::wire::sdp::Description;

const CHROMIUM: &str = include_str!("../fuzz/seeds/sdp/chromium-sendrecv.sdp");
const JOIN: &str = r#"{"event":"joinRoom","data":{"self_id":"a","room_id":"room"}}"#;
const CANDIDATE: &str = r#"{"event":"ice-candidate","data":{"self_id":"a","room_id":"room","candidate":{"candidate":"candidate:1 1 udp 2113937151 192.0.2.7 54021 typ host generation 0 ufrag OIkc network-cost 999","sdpMid":"0","sdpMLineIndex":0,"usernameFragment":"OIkc"}}}"#;

fn in_room() -> (Session, Instant) {
    let now = Instant::now();
    let config = Arc::new(SessionConfig {
        fingerprint: Fingerprint {
            algorithm: FingerprintAlgorithm::Sha256,
            digest: vec![0xab; 32],
        },
        ice_servers: Arc::from([]),
    });
    let mut session = Session::new(now, config, StdRng::seed_from_u64(1));
    session.handle_text(now, JOIN);
    let joined = Joined {
        key: PeerKey(1),
        shard: ShardId(0),
        addresses: Arc::from(["192.0.2.1:40000".parse().expect("an address")]),
        roster: Roster::default(),
    };
    session.handle_joined(now, Ok(joined));
    while session.poll_output().is_some() {}
    (session, now)
}

fn signaling(c: &mut Criterion) {
    let offer = json!({"event": "offer", "data": {
        "self_id": "a", "room_id": "room", "offer": {"type": "offer", "sdp": CHROMIUM}}})
    .to_string();
    let mut group = c.benchmark_group("signaling");
    group.bench_function("parse candidate frame", |b| {
        b.iter(|| message::parse(black_box(CANDIDATE)));
    });
    group.bench_function("parse offer frame", |b| {
        b.iter(|| message::parse(black_box(&offer)));
    });
    group.bench_function("parse description", |b| {
        b.iter(|| Description::parse(black_box(CHROMIUM)));
    });
    group.bench_function("answer an offer", |b| {
        b.iter_batched_ref(
            in_room,
            |(session, now)| {
                session.handle_text(*now, black_box(&offer));
                while session.poll_output().is_some() {}
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, signaling);
criterion_main!(benches);
