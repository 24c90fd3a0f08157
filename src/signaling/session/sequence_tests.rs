//! Any inputs in any order.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::tests::{JOIN, change, drain, joined, roster, subscribe};
use super::*;
use crate::control::{LayerReason, SrtpProfile};
use crate::signaling::fake_client::{CHROMIUM, Client};
use crate::signaling::harness::config;

#[derive(Debug, Clone)]
enum Op {
    Text(String),
    Binary,
    Joined(bool),
    Changes(u8),
    Event(Event),
    Pass(u16),
    AnswerLast,
    Closed,
    Oversized,
}

fn op() -> impl Strategy<Value = Op> {
    let failure = |f| Event::Transport(PeerKey(1), TransportEvent::Failed(f));
    let profile = SrtpProfile::AeadAes128Gcm;
    prop_oneof![
        8 => prop::sample::select(frames()).prop_map(Op::Text),
        1 => "\\PC{0,60}".prop_map(Op::Text),
        1 => Just(Op::Binary),
        6 => any::<bool>().prop_map(Op::Joined),
        4 => (0u8..5).prop_map(Op::Changes),
        6 => prop::sample::select(vec![
            Event::RoomChanged,
            Event::Replaced(PeerKey(1)),
            Event::Layer(PeerKey(1), change(PeerKey(2), LayerReason::Best)),
            Event::Shutdown,
            Event::Transport(PeerKey(1), TransportEvent::Connected { profile }),
            Event::Transport(PeerKey(1), TransportEvent::ConsentLost),
            Event::Transport(PeerKey(1), TransportEvent::ConsentRegained),
            Event::Speakers(PeerKey(1), Arc::default()),
            failure(TransportFailure::DtlsClosed),
            failure(TransportFailure::DtlsHandshake),
        ]).prop_map(Op::Event),
        4 => (0u16..40_000).prop_map(Op::Pass),
        4 => Just(Op::AnswerLast),
        1 => Just(Op::Closed),
        1 => Just(Op::Oversized),
    ]
}

fn frames() -> Vec<String> {
    let offer = |sdp: &str| json!({"event": "offer", "data": {"offer": {"sdp": sdp}}}).to_string();
    let receiving = include_str!("../../../fuzz/seeds/sdp/chromium-recvonly.sdp");
    vec![
        JOIN.to_owned(),
        JOIN.replace("\"a\"", "\"a\",\"offerer\":\"server\""),
        r#"{"event":"leaveRoom"}"#.to_owned(),
        r#"{"event":"ice-candidate","data":{"candidate":null}}"#.to_owned(),
        offer(CHROMIUM),
        offer(receiving),
        offer(&CHROMIUM.replace("m=video 9", "m=video 0")),
        offer(&CHROMIUM.replace("a=sendrecv", "a=inactive")),
        offer(&CHROMIUM.replace("OIkc", "OIkd")),
        offer(CHROMIUM).replace("offer", "answer"),
        subscribe("p2", json!({"width": 320, "priority": 70})),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Any inputs in any order: no panic, nothing after Close, no SSRC for two subscriptions.
    #[test]
    fn any_sequence_of_inputs_is_survived(ops in prop::collection::vec(op(), 1..60)) {
        let mut now = Instant::now();
        let mut session = Session::new(now, config(), StdRng::seed_from_u64(3));
        let (mut closed, mut last_offer) = (false, None::<String>);
        let mut client = Client::new(CHROMIUM);
        let mut ssrcs = std::collections::HashMap::new();
        for op in ops {
            match op {
                Op::Text(text) => session.handle_text(now, &text),
                Op::Binary => session.handle_binary(now),
                Op::Joined(true) => {
                    let mut joined = joined(1);
                    joined.roster = roster(2);
                    session.handle_joined(now, Ok(joined));
                }
                Op::Joined(false) => session.handle_joined(now, Err(JoinRefused::RoomFull)),
                Op::Changes(n) => {
                    session.handle_changes(now, Some(Changes::Snapshot(roster(n))));
                }
                Op::Event(event) => session.handle_event(now, event),
                Op::Pass(ms) => {
                    now += Duration::from_millis(u64::from(ms));
                    session.handle_timeout(now);
                }
                Op::AnswerLast => if let Some(sdp) = last_offer.take() {
                    client.sections.clear();
                    let sdp = client.answer(&sdp);
                    let frame = json!({"event": "answer", "data": {"answer": {"sdp": sdp}}});
                    session.handle_text(now, &frame.to_string());
                },
                Op::Closed => session.handle_closed(now),
                Op::Oversized => session.handle_oversized(now),
            }
            for output in drain(&mut session) {
                // Only a join that was answered too late has anything to say after the end.
                prop_assert!(!closed || matches!(output, Output::Leave), "{output:?}");
                match output {
                    Output::Close(_) => closed = true,
                    Output::Send(text) => {
                        let frame: Value = serde_json::from_str(&text).unwrap();
                        if frame["event"] == "offer" {
                            let held = frame["data"].as_str().unwrap();
                            let held: Value = serde_json::from_str(held).unwrap();
                            last_offer = held["sdp"].as_str().map(str::to_owned);
                        }
                    }
                    Output::Shard(Command::AddPeer { .. }) => {
                        ssrcs.clear();
                        client = Client::new(CHROMIUM);
                    }
                    Output::Shard(Command::Configure { subscriptions, .. }) => {
                        for subscription in subscriptions {
                            for ssrc in [Some(subscription.ssrc), subscription.rtx_ssrc] {
                                let Some(ssrc) = ssrc else { continue };
                                let first = *ssrcs.entry(ssrc).or_insert(subscription.key);
                                prop_assert_eq!(first, subscription.key);
                            }
                        }
                    }
                    _ => {}
                }
            }
            prop_assert_eq!(
                session.poll_timeout().is_none(),
                matches!(session.state, State::Closed)
            );
        }
    }
}
