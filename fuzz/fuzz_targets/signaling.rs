//! Bytes to frames to the session state machine. The input is cut at bytes 0x1e (record separator): a
//! record that begins with one of the control characters below is an event or time, any other a text
//! frame.
#![no_main]

use std::sync::Arc;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use rand::SeedableRng;
use rand::rngs::StdRng;
use shardcast::base::ids::{
    Bitrate, MediaKind, PeerId, PeerKey, ShardId, SubscriptionKey, TrackId, TrackKey,
};
use shardcast::base::layer_reason::LayerReason;
use shardcast::control::layers::LayerChange;
use shardcast::control::{
    ActiveSpeakers, Changes, Event, Fingerprint, FingerprintAlgorithm, JoinRefused, Joined,
    PeerInfo, Revision, Roster, Speaker, SrtpProfile, TrackInfo, TransportEvent, TransportFailure,
};
use shardcast::signaling::session::{Output, Session, SessionConfig};

fn roster(peers: u64) -> Roster {
    let mut roster = Roster {
        revision: Revision(peers),
        ..Roster::default()
    };
    for peer in 2..2 + peers {
        let Ok(id) = PeerId::new(&format!("p{peer}")) else {
            continue;
        };
        let info = PeerInfo {
            id: id.clone(),
            name: None,
            metadata: None,
        };
        roster.peers.push((PeerKey(peer), Arc::new(info)));
        for (index, kind) in [(0, MediaKind::Audio), (1, MediaKind::Video)] {
            let Ok(track) = TrackId::new(kind.as_str()) else {
                continue;
            };
            let track = TrackInfo {
                key: TrackKey {
                    peer: PeerKey(peer),
                    index,
                },
                peer: id.clone(),
                id: track,
                kind,
                shard: ShardId(0),
            };
            roster.tracks.push(Arc::new(track));
        }
    }
    roster
}

fuzz_target!(|data: &[u8]| {
    let mut now = Instant::now();
    let config = Arc::new(SessionConfig {
        fingerprint: Fingerprint {
            algorithm: FingerprintAlgorithm::Sha256,
            digest: vec![1; 32],
        },
        ice_servers: Arc::from([]),
    });
    let mut session = Session::new(now, config, StdRng::seed_from_u64(7));
    let (mut key, mut peers, mut closed) = (1, 2, false);
    for record in data.split(|byte| *byte == 0x1e) {
        let transport = |event| Event::Transport(PeerKey(1000 + key), event);
        match record {
            [1, ms, ..] => {
                now += Duration::from_millis(u64::from(*ms) * 200);
                session.handle_timeout(now);
            }
            [2, ..] => session.handle_event(now, Event::RoomChanged),
            [3, n, ..] => {
                peers = u64::from(*n % 8);
                session.handle_event(now, Event::RoomChanged);
            }
            [4, ..] => {
                let profile = SrtpProfile::AeadAes128Gcm;
                session.handle_event(now, transport(TransportEvent::Connected { profile }));
            }
            [5, ..] => session.handle_event(now, transport(TransportEvent::ConsentLost)),
            [6, ..] => session.handle_event(now, transport(TransportEvent::ConsentRegained)),
            [7, ..] => {
                let failure = TransportFailure::DtlsClosed;
                session.handle_event(now, transport(TransportEvent::Failed(failure)));
            }
            [9, n, ..] => {
                let change = LayerChange {
                    subscription: SubscriptionKey(1),
                    track: TrackKey {
                        peer: PeerKey(u64::from(*n % 8)),
                        index: 1,
                    },
                    layer: None,
                    rid: None,
                    reason: LayerReason::ALL[usize::from(*n) % LayerReason::COUNT],
                    available: None,
                    bitrate: Bitrate(u64::from(*n)),
                    next: None,
                    size: None,
                };
                session.handle_event(now, Event::Layer(PeerKey(1000 + key), change));
            }
            [8, ..] => session.handle_event(now, Event::Replaced(PeerKey(1000 + key))),
            [16, n, ..] => {
                let speakers = (0..u64::from(*n % 12)).map(|peer| Speaker {
                    peer: PeerKey(peer),
                    level: *n,
                });
                let news = ActiveSpeakers {
                    dominant: (*n > 127).then_some(PeerKey(u64::from(*n % 8))),
                    speakers: speakers.collect(),
                };
                let event = Event::Speakers(PeerKey(1000 + key), Arc::new(news));
                session.handle_event(now, event);
            }
            [11, ..] => session.handle_event(now, Event::Shutdown),
            [12, ..] => session.handle_binary(now),
            [14, ..] => session.handle_closed(now),
            [15, ..] => session.handle_joined(now, Err(JoinRefused::RoomFull)),
            text => {
                if let Ok(text) = std::str::from_utf8(text) {
                    session.handle_text(now, text);
                }
            }
        }
        while let Some(output) = session.poll_output() {
            assert!(!closed, "{output:?} after Close");
            match output {
                Output::Join(_) => {
                    key += 1;
                    let joined = Joined {
                        key: PeerKey(1000 + key),
                        shard: ShardId(0),
                        addresses: Arc::from([std::net::SocketAddr::from(([192, 0, 2, 1], 4))]),
                        roster: roster(peers),
                    };
                    session.handle_joined(now, Ok(joined));
                }
                Output::PullChanges(_) => {
                    session.handle_changes(now, Some(Changes::Snapshot(roster(peers))));
                }
                Output::Close(_) => closed = true,
                _ => {}
            }
        }
    }
});
